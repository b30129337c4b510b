//! The session of an agent pod: tenant, session name, and the role that it assumes.
//!
//! Every value of these types is valid. Nothing here does I/O.

pub mod base_credentials;
mod ca_bundle;
mod client_id;
mod duration;
pub mod env;
mod id;
mod issuer_endpoint;
mod issuer_url;
mod on_behalf_of;
mod pod_uid;
mod role_arn;
mod role_session_name;
mod sidecar_session;
mod source_identity;
mod start_gate;
mod tenant;

pub(crate) use self::tenant::is_dns_label;
pub use self::{
    ca_bundle::{CaBundle, NotACaBundle, check_ca_certificates},
    client_id::{ClientId, NotAClientId},
    duration::{NotASessionDuration, SessionDuration},
    id::{NotASessionName, SessionId, SessionName},
    issuer_endpoint::{IssuerEndpoint, NotAnIssuerEndpoint},
    issuer_url::{DISCOVERY_FILE, IssuerUrl, KEYS_FILE, NotAnIssuerUrl},
    on_behalf_of::{NotOnBehalfOf, OnBehalfOf},
    pod_uid::{NotAPodUid, PodUid},
    role_arn::{NotARoleArn, RoleArn, is_account_id},
    role_session_name::RoleSessionName,
    sidecar_session::{BoundSession, SidecarSession, UnboundSession},
    source_identity::{NotASourceIdentity, SourceIdentity},
    start_gate::{NotAStartGate, StartGate},
    tenant::{NotATenant, TenantName},
};

/// One agent session, which the webhook writes into a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    pub tenant: TenantName,
    pub id: SessionId,
    pub role: RoleArn,
    pub duration: SessionDuration,
    /// Only for a session of the session issuer.
    pub on_behalf_of: Option<OnBehalfOf>,
}

/// A session as the sidecar reads it: the kubelet has filled in a pod name or UID.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownSession {
    pub tenant: TenantName,
    pub name: SessionName,
    pub role: RoleArn,
    pub duration: SessionDuration,
}

impl KnownSession {
    pub fn source_identity(&self) -> SourceIdentity {
        SourceIdentity::of(&self.tenant, &self.name)
    }

    pub fn role_session_name(&self) -> RoleSessionName {
        RoleSessionName::of(&self.name)
    }
}

impl Session {
    /// Returns the SourceIdentity for display. A pod name or UID is not known at admission; it is
    /// replaced by a placeholder that no SourceIdentity can contain.
    pub fn identity_for_people(&self) -> String {
        match &self.id {
            SessionId::Known(name) => SourceIdentity::of(&self.tenant, name).to_string(),
            SessionId::PodName | SessionId::PodUid | SessionId::SandboxClaim => {
                format!("agent.{}.{}", self.tenant, self.id)
            }
        }
    }
}
