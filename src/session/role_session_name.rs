use std::fmt;

use super::SessionName;

/// The RoleSessionName under which a session assumes its role: in CloudTrail the last part of
/// `userIdentity.arn`.
///
/// STS allows 2 to 64 characters of `[A-Za-z0-9_.,+=@-]`. An '@' is replaced: the ARN of the
/// assumed role would look like an email address, which some readers of CloudTrail take for a
/// person's. A changed name gets 8 hex digits of its SHA-256, so that two sessions never share one,
/// and a session has the same name at each refresh.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoleSessionName(String);

impl RoleSessionName {
    pub fn of(session: &SessionName) -> Self {
        let name = session.as_str();
        if (2..=MAX).contains(&name.len()) && !name.contains('@') {
            return Self(name.to_owned());
        }
        let tail = session.tail();
        let kept = name.len().min(MAX - tail.len());
        Self(name[..kept].replace('@', "-") + &tail)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleSessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(session: &str) -> String {
        RoleSessionName::of(&session.parse().unwrap()).to_string()
    }

    #[test]
    fn only_invalid_or_ambiguous_names_are_changed() {
        let (fits, long) = ("s".repeat(64), "s".repeat(65));
        assert_eq!(of(&fits), fits);
        assert_eq!(of("fab-coder-x7k2p"), "fab-coder-x7k2p");
        for session in ["a", "ada@example.com", &long, &"@".repeat(253)] {
            let name = of(session);
            assert!((2..=64).contains(&name.len()) && !name.contains('@'), "{session}: {name}");
        }
        assert_ne!(of("ada@example.com"), of("ada-example.com"));
        assert_ne!(of(&format!("{long}1")), of(&format!("{long}2")));
        assert_eq!(of(&long), of(&long));
    }
}
