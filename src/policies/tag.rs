//! Tags of an IAM role.

use std::{fmt, str::FromStr};

/// A tag of the session role, `KEY=VALUE`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tag {
    pub key: TagKey,
    pub value: String,
}

/// The key of a tag. IAM compares keys case-insensitively.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags.html#id_tags_rules>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TagKey(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotATag {
    #[error("expected KEY=VALUE")]
    Shape,
    #[error("its key {0}")]
    Key(NotATagKey),
    #[error("its value has {0:?}; IAM allows {ALLOWED}")]
    Character(char),
    #[error("its value has {0} characters; IAM allows at most 256")]
    Length(usize),
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotATagKey {
    #[error("has {0:?}; IAM allows {ALLOWED}")]
    Character(char),
    #[error("has {0} characters; IAM allows 1 to 128")]
    Length(usize),
    #[error("starts with aws:, which is reserved for AWS")]
    Reserved,
}

impl TagKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_the_same(&self, other: &Self) -> bool {
        self.0.to_lowercase() == other.0.to_lowercase()
    }
}

impl fmt::Display for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TagKey {
    type Err = NotATagKey;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some(found) = s.chars().find(|&c| !is_allowed(c)) {
            return Err(NotATagKey::Character(found));
        }
        let length = s.chars().count();
        if !(1..=128).contains(&length) {
            return Err(NotATagKey::Length(length));
        }
        if s.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return Err(NotATagKey::Reserved);
        }
        Ok(Self(s.to_owned()))
    }
}

impl FromStr for Tag {
    type Err = NotATag;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (key, value) = s.split_once('=').ok_or(NotATag::Shape)?;
        let key = key.parse().map_err(NotATag::Key)?;
        if let Some(found) = value.chars().find(|&c| !is_allowed(c)) {
            return Err(NotATag::Character(found));
        }
        let length = value.chars().count();
        if length > 256 {
            return Err(NotATag::Length(length));
        }
        Ok(Self { key, value: value.to_owned() })
    }
}

/// IAM's pattern is `[\p{L}\p{Z}\p{N}_.:/=+\-@]*`. Only the space is accepted here of the
/// separators (`\p{Z}`).
fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || " _.:/=+-@".contains(c)
}

const ALLOWED: &str = "letters, digits, spaces and _.:/=+-@";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_the_characters_and_lengths_of_iam() {
        let long = format!("{}=v", "k".repeat(129));
        let value = format!("k={}", "v".repeat(257));
        let cases = [
            ("PlatformId=prod-acme", Ok(())),
            ("platform.nanohype.dev/team=a b", Ok(())),
            ("k=", Ok(())),
            ("k=a=b", Ok(())),
            ("k", Err(NotATag::Shape)),
            ("=v", Err(NotATag::Key(NotATagKey::Length(0)))),
            ("AWS:k=v", Err(NotATag::Key(NotATagKey::Reserved))),
            ("a${b=v", Err(NotATag::Key(NotATagKey::Character('$')))),
            ("k=a*", Err(NotATag::Character('*'))),
            (&long, Err(NotATag::Key(NotATagKey::Length(129)))),
            (&value, Err(NotATag::Length(257))),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<Tag>().map(drop), want, "{input:?}");
        }
    }
}
