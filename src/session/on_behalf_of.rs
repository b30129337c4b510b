use std::{fmt, str::FromStr};

/// The person or system for which a session runs, as a trusted creator says: 1 to 256 characters.
///
/// It is data for audits. No decision depends on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OnBehalfOf(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotOnBehalfOf {
    #[error("has {found:?} at byte {at}; allowed are A-Z, a-z, 0-9, spaces and _.:/=+-@")]
    Character { found: char, at: usize },
    #[error("has {0} characters; a session tag has 1 to {MAX}")]
    Length(usize),
    #[error("begins with aws:, which is reserved for AWS")]
    Reserved,
    #[error("begins or ends with a space")]
    Space,
}

impl OnBehalfOf {
    /// Key of the session tag with this value.
    pub const TAG: &str = "on-behalf-of";

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OnBehalfOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// AWS also allows the letters and digits of other scripts. They are excluded because many of them
/// look alike in a log.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_Tag.html>
impl FromStr for OnBehalfOf {
    type Err = NotOnBehalfOf;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c);
        if let Some((at, found)) = s.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(NotOnBehalfOf::Character { found, at });
        }
        if s.is_empty() || s.len() > MAX {
            return Err(NotOnBehalfOf::Length(s.len()));
        }
        if s.trim() != s {
            return Err(NotOnBehalfOf::Space);
        }
        if s.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return Err(NotOnBehalfOf::Reserved);
        }
        Ok(Self(s.to_owned()))
    }
}

/// Maximum length of the value of a session tag.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_Tag.html>
const MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_valid_as_a_session_tag() {
        let (longest, long) = ("a".repeat(256), "a".repeat(257));
        let cases = [
            ("jane.doe@example.com", Ok(())),
            ("Jane Doe", Ok(())),
            ("idp:00u1abcd/x=1+2-3_4", Ok(())),
            (&longest, Ok(())),
            ("", Err(NotOnBehalfOf::Length(0))),
            (&long, Err(NotOnBehalfOf::Length(257))),
            (" jane", Err(NotOnBehalfOf::Space)),
            ("jane ", Err(NotOnBehalfOf::Space)),
            ("AWS:jane", Err(NotOnBehalfOf::Reserved)),
            ("aws", Ok(())),
            ("jané", Err(NotOnBehalfOf::Character { found: 'é', at: 3 })),
            ("a\nb", Err(NotOnBehalfOf::Character { found: '\n', at: 1 })),
            ("$(HOSTNAME)", Err(NotOnBehalfOf::Character { found: '$', at: 0 })),
            ("a\"b", Err(NotOnBehalfOf::Character { found: '"', at: 1 })),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<OnBehalfOf>().map(drop), want, "{input:?}");
        }
    }
}
