use std::{fmt, str::FromStr};

/// A client id of the OIDC provider in IAM, which is the audience of the issuer's JWTs.
///
/// IAM accepts any 1 to 255 characters. Here they are visible characters of ASCII, so that a
/// policy and a command line need no escapes.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientId(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAClientId {
    #[error("has {found:?} at byte {at}; allowed are A-Z, a-z, 0-9 and _.:/-")]
    Character { found: char, at: usize },
    #[error("has {0} characters; a client id in IAM has 1 to 255")]
    Length(usize),
    #[error("is the audience of all tokens for STS; set an own one, such as fab-session/prod")]
    Shared,
}

impl ClientId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ClientId {
    type Err = NotAClientId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:/-".contains(c);
        if let Some((at, found)) = s.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(NotAClientId::Character { found, at });
        }
        if !(1..=255).contains(&s.len()) {
            return Err(NotAClientId::Length(s.len()));
        }
        if s == "sts.amazonaws.com" || s == "sts.amazonaws.com.cn" {
            return Err(NotAClientId::Shared);
        }
        Ok(Self(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_not_shared_with_other_tokens() {
        let long = "a".repeat(256);
        let cases = [
            ("fab-session/prod", Ok(())),
            ("urn:example:prod_1.x", Ok(())),
            ("", Err(NotAClientId::Length(0))),
            (&long, Err(NotAClientId::Length(256))),
            ("sts.amazonaws.com", Err(NotAClientId::Shared)),
            ("sts.amazonaws.com.cn", Err(NotAClientId::Shared)),
            ("fab session", Err(NotAClientId::Character { found: ' ', at: 3 })),
            ("fab*", Err(NotAClientId::Character { found: '*', at: 3 })),
            ("${aws:x}", Err(NotAClientId::Character { found: '$', at: 0 })),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<ClientId>().map(drop), want, "{input:?}");
        }
    }
}
