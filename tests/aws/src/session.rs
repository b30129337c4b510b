//! Temporary credentials and their sessions.

use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

use crate::{keys::Keys, role::StandingRole, tags::Tags};

/// Temporary credentials. `Debug` shows no secret.
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

/// A session of a role, which makes calls.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) created: SystemTime,
    /// The ARN of the OIDC provider whose token started the session. Sessions that this one
    /// assumes do not inherit it.
    pub(crate) federated: Option<String>,
    pub(crate) name: String,
    pub(crate) role: Arc<StandingRole>,
    /// Constant, in this session and in all sessions that it assumes.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html>
    pub(crate) source_identity: Option<String>,
    pub(crate) tags: Tags,
}

impl Session {
    pub(crate) fn arn(&self) -> String {
        self.role.arn.session(&self.name)
    }

    /// Returns `AROA...:name`, the `UserId` of GetCallerIdentity.
    pub(crate) fn principal_id(&self) -> String {
        format!("{}:{}", self.role.id, self.name)
    }
}

/// All sessions with credentials, including expired ones: AWS returns different errors for
/// expired and for unknown credentials.
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
