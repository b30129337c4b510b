use std::{fmt, str::FromStr};

use super::{SessionName, TenantName};

/// The STS SourceIdentity of an agent session, `agent.<tenant>.<session>`.
///
/// STS allows 2 to 64 characters of `[A-Za-z0-9_.,+=@-]` and reserves the prefix `aws:`.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SourceIdentity(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotASourceIdentity {
    #[error("has {found:?} at byte {at}; STS allows {ALLOWED}")]
    Character { found: char, at: usize },
    #[error("has {0} characters; STS allows 2 to 64")]
    Length(usize),
}

impl SourceIdentity {
    /// Returns the SourceIdentity of a session.
    ///
    /// A session's name that is longer than the remaining length is cut, and 8 hex digits of its
    /// SHA-256 distinguish it from others with the same beginning. The caller has checked
    /// [`SessionId::fits`](super::SessionId::fits).
    pub fn of(tenant: &TenantName, session: &SessionName) -> Self {
        let name = session.as_str();
        if name.len() <= tenant.remaining_length() {
            return Self(Self::text(tenant, name));
        }
        let tail = session.tail();
        let kept = tenant.remaining_length().saturating_sub(tail.len());
        Self(Self::text(tenant, &format!("{}{tail}", &name[..kept])))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tenant. None: it is not the SourceIdentity of an agent session.
    pub fn tenant(&self) -> Option<TenantName> {
        let (tenant, session) = self.0.strip_prefix("agent.")?.split_once('.')?;
        tenant.parse().ok().filter(|_| !session.is_empty())
    }

    /// Returns the session's name, if the SourceIdentity is one of this tenant's sessions.
    pub fn session_of(&self, tenant: &TenantName) -> Option<SessionName> {
        self.0.strip_prefix(&Self::text(tenant, ""))?.parse().ok()
    }

    /// Returns the session's name; `None` if this is no SourceIdentity of a session.
    pub fn session(&self) -> Option<SessionName> {
        self.session_of(&self.tenant()?)
    }

    /// Returns the text of a SourceIdentity. `session` may be a pattern or a variable of a policy.
    pub(crate) fn text(tenant: &TenantName, session: &str) -> String {
        format!("agent.{tenant}.{session}")
    }
}

impl fmt::Display for SourceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SourceIdentity {
    type Err = NotASourceIdentity;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some((at, found)) = s.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(NotASourceIdentity::Character { found, at });
        }
        if !(2..=64).contains(&s.len()) {
            return Err(NotASourceIdentity::Length(s.len()));
        }
        Ok(Self(s.to_owned()))
    }
}

pub(super) fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.,+=@-".contains(c)
}

pub(super) const ALLOWED: &str = "A-Z, a-z, 0-9 and _.,+=@-";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn of(tenant: &str, session: &str) -> String {
        SourceIdentity::of(&tenant.parse().unwrap(), &session.parse().unwrap()).to_string()
    }

    #[test]
    fn a_source_identity_names_tenant_and_session() {
        assert_eq!(of("acme", "fab-coder-x7k2p"), "agent.acme.fab-coder-x7k2p");
    }

    #[test]
    fn only_long_names_are_cut_and_they_remain_distinct() {
        let fits = "s".repeat(53);
        assert_eq!(of("acme", &fits), format!("agent.acme.{fits}"));
        let (one, two) = (format!("{fits}1"), format!("{fits}2"));
        // printf 'sss…1' | sha256sum
        assert_eq!(
            of("acme", &one),
            format!("agent.acme.{}-{}", "s".repeat(44), &sha256(&one)[..8])
        );
        assert_ne!(of("acme", &one), of("acme", &two));
        for tenant in [1, 4, 21, 45] {
            let identity = of(&"t".repeat(tenant), &"s".repeat(253));
            assert_eq!(identity.len(), 64, "{identity}");
            assert!(identity.parse::<SourceIdentity>().is_ok(), "{identity}");
        }
    }

    #[test]
    fn a_source_identity_is_parsed_by_the_rules_of_sts() {
        let long = "a".repeat(65);
        let cases = [
            ("ab", Ok(())),
            ("a", Err(NotASourceIdentity::Length(1))),
            (&long, Err(NotASourceIdentity::Length(65))),
            ("agent:acme:s", Err(NotASourceIdentity::Character { found: ':', at: 5 })),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<SourceIdentity>().map(drop), want, "{input:?}");
        }
    }

    #[test]
    fn only_the_source_identity_of_a_session_has_a_tenant() {
        let cases = [
            ("agent.acme.s", Some("acme")),
            ("agent.acme.a.b", Some("acme")),
            ("agent.acme.", None),
            ("agent.acme", None),
            ("agent..s", None),
            ("agent.Acme.s", None),
            ("ada@example.com", None),
        ];
        for (text, want) in cases {
            let tenant = text.parse::<SourceIdentity>().unwrap().tenant();
            assert_eq!(tenant.as_ref().map(TenantName::as_str), want, "{text}");
            let acme = "acme".parse().unwrap();
            let session = text.parse::<SourceIdentity>().unwrap().session_of(&acme);
            assert_eq!(session.is_some(), want.is_some(), "{text}");
        }
    }

    fn sha256(text: &str) -> String {
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
