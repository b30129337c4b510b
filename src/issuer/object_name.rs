use std::{fmt, str::FromStr};

/// The name of a pod or of a service account: a DNS subdomain (RFC 1123).
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectName(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a valid name: expected 1 to 253 characters of a-z, 0-9, '-' and '.'")]
pub struct NotAnObjectName;

impl ObjectName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ObjectName {
    type Err = NotAnObjectName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let is_label = |label: &str| {
            !label.is_empty()
                && label.chars().all(allowed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if s.len() > 253 || !s.split('.').all(is_label) {
            return Err(NotAnObjectName);
        }
        Ok(Self(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_name_is_a_dns_subdomain() {
        for text in ["a", "session-1.x", &"a".repeat(253)] {
            assert_eq!(text.parse::<ObjectName>().unwrap().as_str(), text);
        }
        for text in ["", ".", "a.", "-a", "a-.b", "A", "a_b", "a/b", "é", &"a".repeat(254)] {
            assert_eq!(text.parse::<ObjectName>(), Err(NotAnObjectName), "{text:?}");
        }
    }
}
