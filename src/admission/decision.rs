//! The decision on a pod.

use super::{component::NamedBy, refusal::Refusal};
use crate::{
    config::SessionTransport,
    session::{Session, TenantName},
};

/// The decision on a pod.
#[derive(Debug)]
pub enum Decision {
    /// The pod is an agent and is changed.
    Inject(Box<Injection>),
    /// The pod is left unchanged.
    Pass(Passed),
    /// The pod is an agent of an unknown component, asks for something that agents may not have, or
    /// cannot get a session.
    Refuse(Refusal),
}

/// Why a pod is left unchanged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passed {
    /// Its component is exempt, in every namespace.
    Exempt,
    /// No component matches.
    NotAnAgent,
    /// Its namespace did not opt in.
    NotOptedIn,
}

/// The component and the session of an agent pod.
#[derive(Debug)]
pub struct Injection {
    pub component: String,
    pub gives: Gives,
    /// `None` if the pod gets no session.
    pub named_by: Option<NamedBy>,
}

/// The credentials that the pod gets.
#[derive(Debug)]
pub enum Gives {
    /// Variables with role and SourceIdentity. The pod keeps its base credentials.
    Env(Session),
    /// Nothing of the webhook's, for a pod whose component has a sidecar: the namespace keeps the old
    /// client mode. The pod's own code assumes a role that the pod brings, so its calls carry the
    /// name that this code chooses. The pod keeps its base credentials.
    Keep,
    /// No credentials: base credentials are removed.
    Nothing,
    /// Session credentials from the sidecar. Base credentials are removed from all other
    /// containers.
    Sidecar(Session, SessionTransport),
}

/// The namespace or role that the snapshots lack. The caller may look it up once and decide again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Missing {
    Namespace(String),
    Role(TenantName),
}

impl Gives {
    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::Env(session) | Self::Sidecar(session, _) => Some(session),
            Self::Keep | Self::Nothing => None,
        }
    }

    /// Returns whether the pod keeps its base credentials.
    pub(super) fn leaves_base_credentials(&self) -> bool {
        matches!(self, Self::Env(_) | Self::Keep)
    }

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Env(_) => "env",
            Self::Keep => "keep",
            Self::Nothing => "withhold",
            Self::Sidecar(..) => "inject",
        }
    }
}

impl Decision {
    /// Returns what the snapshots lack, if the decision may change once it is looked up.
    pub fn missing(&self) -> Option<Missing> {
        match self {
            Self::Refuse(refusal) => refusal.missing(),
            Self::Inject(_) | Self::Pass(_) => None,
        }
    }
}

impl Refusal {
    /// Returns what the snapshots lack, if the refusal may go away once it is looked up.
    pub(super) fn missing(&self) -> Option<Missing> {
        match self {
            Self::NamespaceUnknown { namespace } => Some(Missing::Namespace(namespace.clone())),
            Self::RoleUnavailable { tenant, place: _, cause: None } => {
                Some(Missing::Role(tenant.clone()))
            }
            _ => None,
        }
    }
}
