use std::str::FromStr;

/// A pod's name: a DNS subdomain (RFC 1123). Parsing accepts the prefix `pod/`, which kubectl
/// prints.
#[derive(Clone, Debug)]
pub struct PodName(String);

#[derive(Clone, Debug, thiserror::Error)]
#[error("not a valid name: expected 1 to 253 characters of a-z, 0-9, '-' and '.'")]
pub struct NotAPodName;

impl PodName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodName {
    type Err = NotAPodName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let name = s.strip_prefix("pod/").unwrap_or(s);
        let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.');
        if !(1..=253).contains(&name.len()) || !name.chars().all(plain) || name.starts_with('.') {
            return Err(NotAPodName);
        }
        Ok(Self(name.to_owned()))
    }
}
