use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The tenant that a namespace belongs to: a DNS label (RFC 1123). It has no dot, so
/// `agent.<tenant>.*` matches one tenant only.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TenantName(Arc<str>);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotATenant {
    #[error("has {found:?} at byte {at}; a tenant is a DNS label of a-z, 0-9 and '-'")]
    Character { found: char, at: usize },
    #[error("starts or ends with '-'; a DNS label does not")]
    Edge,
    #[error("has {0} characters; a DNS label has 1 to 63")]
    Length(usize),
}

impl TenantName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the remaining length of a SourceIdentity (at most 64 characters) for the session
    /// after `agent.<tenant>.`: 64 - 6 - 1 - the tenant's length.
    pub fn remaining_length(&self) -> usize {
        WITH_SESSION.saturating_sub(self.0.len())
    }
}

/// Allows lookups in maps by text, without a copy.
impl Borrow<str> for TenantName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TenantName {
    type Err = NotATenant;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some((at, found)) = s.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(NotATenant::Character { found, at });
        }
        if s.is_empty() || s.len() > 63 {
            return Err(NotATenant::Length(s.len()));
        }
        if s.starts_with('-') || s.ends_with('-') {
            return Err(NotATenant::Edge);
        }
        Ok(Self(s.into()))
    }
}

/// Reports whether this is a valid name of a namespace in Kubernetes.
pub(crate) fn is_dns_label(name: &str) -> bool {
    name.parse::<TenantName>().is_ok()
}

fn allowed(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '-')
}

/// Number of characters of a SourceIdentity that tenant and session share.
pub(super) const WITH_SESSION: usize = 64 - "agent.".len() - ".".len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_name_is_a_dns_label() {
        let long = "a".repeat(64);
        let cases = [
            ("acme", Ok(())),
            ("0-a", Ok(())),
            ("", Err(NotATenant::Length(0))),
            (&long, Err(NotATenant::Length(64))),
            ("-a", Err(NotATenant::Edge)),
            ("a-", Err(NotATenant::Edge)),
            ("a.b", Err(NotATenant::Character { found: '.', at: 1 })),
            ("Acme", Err(NotATenant::Character { found: 'A', at: 0 })),
            ("$(X)", Err(NotATenant::Character { found: '$', at: 0 })),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<TenantName>().map(drop), want, "{input:?}");
        }
    }

    #[test]
    fn a_session_gets_the_remaining_length() {
        let cases =
            [("a", 56), (&*"a".repeat(21), 36), (&*"a".repeat(45), 12), (&*"a".repeat(63), 0)];
        for (tenant, room) in cases {
            assert_eq!(
                tenant.parse::<TenantName>().unwrap().remaining_length(),
                room,
                "{tenant:?}"
            );
        }
    }
}
