//! Who an agent pod becomes: a tenant's session, and the role that it assumes.
//!
//! A value of a type in this room is valid; nothing here does I/O.

mod duration;
pub mod env;
mod id;
mod role_arn;
mod source_identity;
mod tenant;

pub(crate) use self::tenant::is_dns_label;
pub use self::{
    duration::{NotASessionDuration, SessionDuration},
    id::{NotASessionName, SessionId, SessionName},
    role_arn::{NotARoleArn, RoleArn},
    source_identity::{NotASourceIdentity, SourceIdentity},
    tenant::{NotATenant, TenantName},
};

/// One agent session: what the webhook writes into a pod and what the sidecar assumes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    pub tenant: TenantName,
    pub id: SessionId,
    pub role: RoleArn,
    pub duration: SessionDuration,
}

impl Session {
    /// The SourceIdentity as far as it is known at admission: where only the kubelet
    /// knows the session, a placeholder that no identity can contain stands for it.
    pub fn identity_for_people(&self) -> String {
        match &self.id {
            SessionId::Known(name) => SourceIdentity::of(&self.tenant, name).to_string(),
            SessionId::PodName | SessionId::PodUid => {
                format!("agent.{}.{}", self.tenant, self.id)
            }
        }
    }
}
