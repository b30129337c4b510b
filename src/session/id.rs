use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use super::{
    TenantName,
    source_identity::{ALLOWED, allowed},
    tenant::WITH_SESSION,
};

/// A session's name, or the field of the pod that is the name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionId {
    /// A trusted creator named it.
    Known(SessionName),
    /// The pod's name, which the kubelet fills in.
    PodName,
    /// The pod's UID, which the kubelet fills in.
    PodUid,
    /// The UID of the SandboxClaim that gets the pod's Sandbox, which the session issuer reads.
    SandboxClaim,
}

/// A session's name as a trusted creator gave it: 1 to 253 characters, all valid in a
/// SourceIdentity.
#[derive(Clone, Debug, Eq, PartialEq, PartialOrd, Ord)]
pub struct SessionName(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotASessionName {
    #[error("has {found:?} at byte {at}; STS allows {ALLOWED} in a SourceIdentity")]
    Character { found: char, at: usize },
    #[error("has {0} characters; a session's name has 1 to {MAX}")]
    Length(usize),
}

impl SessionId {
    /// Returns the minimum of [`TenantName::remaining_length`] for this kind of name, in characters.
    ///
    /// A known name is cut to the available length: three characters of it, '-' and 8 hex digits
    /// are the minimum that still distinguishes sessions. A UID has 36 characters (RFC 9562). The
    /// length of a pod's name is checked at admission.
    pub fn least_length(&self) -> usize {
        match self {
            Self::Known(_) => 12,
            Self::PodName => 1,
            Self::PodUid | Self::SandboxClaim => 36,
        }
    }

    /// Returns the maximum length of a tenant with such a session.
    pub fn longest_tenant(&self) -> usize {
        WITH_SESSION - self.least_length()
    }

    pub fn fits(&self, tenant: &TenantName) -> bool {
        self.least_length() <= tenant.remaining_length()
    }
}

/// The placeholders have characters that no session's name can have, so that they cannot be mistaken
/// for a name.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known(name) => name.as_str(),
            Self::PodName => "<pod name>",
            Self::PodUid => "<pod uid>",
            Self::SandboxClaim => "<sandbox claim>",
        })
    }
}

impl SessionName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns '-' and 8 hex digits of the name's SHA-256. It distinguishes a changed name from
    /// others that become equal by the change.
    pub(super) fn tail(&self) -> String {
        let hash = Sha256::digest(&self.0);
        format!("-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
    }
}

impl FromStr for SessionName {
    type Err = NotASessionName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some((at, found)) = s.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(NotASessionName::Character { found, at });
        }
        if s.is_empty() || s.len() > MAX {
            return Err(NotASessionName::Length(s.len()));
        }
        Ok(Self(s.to_owned()))
    }
}

/// Maximum length of a Kubernetes object's name (a DNS subdomain, RFC 1123).
const MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_name_is_valid_for_sts() {
        let long = "a".repeat(254);
        let cases = [
            ("fab-coder-x7k2p", Ok(())),
            ("a", Ok(())),
            ("A_b.c,d+e=f@g-h", Ok(())),
            ("", Err(NotASessionName::Length(0))),
            (&long, Err(NotASessionName::Length(254))),
            ("a:b", Err(NotASessionName::Character { found: ':', at: 1 })),
            ("$(HOSTNAME)", Err(NotASessionName::Character { found: '$', at: 0 })),
            ("<pod uid>", Err(NotASessionName::Character { found: '<', at: 0 })),
            ("<sandbox claim>", Err(NotASessionName::Character { found: '<', at: 0 })),
            ("ä", Err(NotASessionName::Character { found: 'ä', at: 0 })),
            ("a\nb", Err(NotASessionName::Character { found: '\n', at: 1 })),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<SessionName>().map(drop), want, "{input:?}");
        }
    }

    #[test]
    fn a_session_id_fits_by_its_kind() {
        let known = SessionId::Known("s".parse().unwrap());
        for (length, known_fits, uid_fits) in
            [(21, true, true), (22, true, false), (45, true, false), (46, false, false)]
        {
            let tenant: TenantName = "t".repeat(length).parse().unwrap();
            assert_eq!(known.fits(&tenant), known_fits, "{length}");
            assert_eq!(SessionId::PodUid.fits(&tenant), uid_fits, "{length}");
            assert_eq!(SessionId::SandboxClaim.fits(&tenant), uid_fits, "{length}");
        }
    }
}
