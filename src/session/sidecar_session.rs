use std::sync::OnceLock;

use super::{
    KnownSession, RoleArn, SessionDuration, SessionId, SessionName, SourceIdentity, TenantName,
};

/// A session whose name the sidecar gets from the session issuer, as the environment has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnboundSession {
    pub tenant: TenantName,
    pub role: RoleArn,
    pub duration: SessionDuration,
}

/// The session of a sidecar. Its name is known at the start, or bound once and never changed.
#[derive(Debug)]
pub struct SidecarSession {
    tenant: TenantName,
    role: RoleArn,
    bound: OnceLock<BoundSession>,
}

/// The name of a session, and its SourceIdentity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BoundSession {
    pub name: SessionName,
    pub identity: SourceIdentity,
}

impl SidecarSession {
    pub fn known(session: KnownSession) -> Self {
        let identity = session.source_identity();
        let KnownSession { tenant, name, role, duration: _ } = session;
        Self { tenant, role, bound: BoundSession { name, identity }.into() }
    }

    pub fn unbound(session: UnboundSession) -> Self {
        let UnboundSession { tenant, role, duration: _ } = session;
        Self { tenant, role, bound: OnceLock::new() }
    }

    pub fn role(&self) -> &RoleArn {
        &self.role
    }

    /// Returns the session's name. None: it is not bound yet.
    pub fn bound(&self) -> Option<&BoundSession> {
        self.bound.get()
    }

    /// Accepts a SourceIdentity that the session issuer names: the first one of the tenant, and then
    /// only the same. None: it is another one.
    pub fn accept(&self, found: &str) -> Option<&SourceIdentity> {
        let identity: SourceIdentity = found.parse().ok()?;
        let name = identity.session_of(&self.tenant);
        let bound = match (self.bound.get(), name) {
            (Some(bound), _) => bound,
            (None, Some(name)) => {
                let bound = BoundSession { name, identity: identity.clone() };
                self.bound.get_or_init(|| bound)
            }
            (None, None) => return None,
        };
        (bound.identity == identity).then_some(&bound.identity)
    }

    /// Returns the SourceIdentity for display. Before it is bound, a placeholder has its place.
    pub fn identity_for_people(&self) -> String {
        match self.bound() {
            Some(bound) => bound.identity.to_string(),
            None => SourceIdentity::text(&self.tenant, &SessionId::SandboxClaim.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";

    fn unbound() -> SidecarSession {
        SidecarSession::unbound(UnboundSession {
            tenant: "acme".parse().unwrap(),
            role: "arn:aws:iam::111122223333:role/r".parse().unwrap(),
            duration: "900".parse().unwrap(),
        })
    }

    #[test]
    fn an_unbound_session_is_bound_once_and_to_its_tenant() {
        let session = unbound();
        assert_eq!(session.identity_for_people(), "agent.acme.<sandbox claim>");
        for other in ["agent.acme2.x", "agent.acme.", "agent.acme", "ada", "agent.acme.<x>", ""] {
            assert_eq!(session.accept(other), None, "{other}");
            assert_eq!(session.bound(), None, "{other}");
        }
        let identity = format!("agent.acme.{UID}");
        for _ in 0..2 {
            assert_eq!(session.accept(&identity).map(SourceIdentity::as_str), Some(&*identity));
        }
        assert_eq!(session.accept("agent.acme.other"), None);
        assert_eq!(session.bound().map(|bound| bound.name.as_str()), Some(UID));
        assert_eq!(session.identity_for_people(), identity);
    }

    #[test]
    fn a_known_session_accepts_only_its_own_identity() {
        let UnboundSession { tenant, role, duration } = UnboundSession {
            tenant: "acme".parse().unwrap(),
            role: unbound().role,
            duration: "900".parse().unwrap(),
        };
        let name: SessionName = "a".repeat(70).parse().unwrap();
        let session = KnownSession { tenant, name, role, duration };
        let identity = session.source_identity();
        let session = SidecarSession::known(session);
        assert_eq!(session.accept(identity.as_str()), Some(&identity));
        assert_eq!(session.accept("agent.acme.other"), None);
        assert_eq!(session.bound().unwrap().name.as_str().len(), 70);
    }
}
