use std::{fmt, str::FromStr};

/// Lifetime of session credentials, in seconds.
///
/// At least 900 s, the minimum of AssumeRole. At most 3600 s, the maximum for role chaining.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionDuration(u16);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not a valid session duration: expected an integer from {MIN} to {MAX} seconds; AWS limits role chaining to one hour"
)]
pub struct NotASessionDuration;

impl SessionDuration {
    pub fn seconds(self) -> u16 {
        self.0
    }
}

impl Default for SessionDuration {
    fn default() -> Self {
        Self(MAX)
    }
}

impl fmt::Display for SessionDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SessionDuration {
    type Err = NotASessionDuration;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.parse() {
            Ok(seconds @ MIN..=MAX) => Ok(Self(seconds)),
            _ => Err(NotASessionDuration),
        }
    }
}

const MIN: u16 = 900;
const MAX: u16 = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_valid_for_role_chaining() {
        let cases = [
            ("900", true),
            ("3600", true),
            ("899", false),
            ("3601", false),
            ("43200", false),
            ("", false),
            ("1h", false),
            ("-900", false),
        ];
        for (input, accepted) in cases {
            assert_eq!(input.parse::<SessionDuration>().is_ok(), accepted, "{input:?}");
        }
    }
}
