//! Temporary credentials and the session that they speak for.

use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

use crate::{keys::Keys, role::StandingRole, tags::Tags};

/// What AWS hands out. `Debug` shows the access key alone.
#[derive(Clone, Eq, PartialEq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: String,
    pub expiration: SystemTime,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("expiration", &self.expiration)
            .finish_non_exhaustive()
    }
}

/// Who makes a call: a role's session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) created: SystemTime,
    pub(crate) name: String,
    pub(crate) role: Arc<StandingRole>,
    /// Never changes, here or in any session that this one assumes.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html>
    pub(crate) source_identity: Option<String>,
    pub(crate) tags: Tags,
}

impl Session {
    pub(crate) fn arn(&self) -> String {
        self.role.arn.session(&self.name)
    }

    /// `AROA...:name`, which GetCallerIdentity calls UserId.
    pub(crate) fn principal_id(&self) -> String {
        format!("{}:{}", self.role.id, self.name)
    }
}

/// Every session that was ever given credentials, expired ones too: AWS tells expired
/// credentials from ones that it never knew.
#[derive(Debug, Default)]
pub(crate) struct Sessions(HashMap<String, (Credentials, Arc<Session>)>);

impl Sessions {
    pub(crate) fn open(
        &mut self,
        session: Session,
        expiration: SystemTime,
        keys: &mut Keys,
    ) -> Credentials {
        let credentials = keys.credentials(expiration);
        let entry = (credentials.clone(), Arc::new(session));
        self.0.insert(credentials.access_key_id.clone(), entry);
        credentials
    }

    pub(crate) fn find(&self, access_key_id: &str) -> Option<(Credentials, Arc<Session>)> {
        self.0.get(access_key_id).cloned()
    }
}
