use std::{fmt, str::FromStr};

/// The UID that the API server gave a pod: a UUID in lower case.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#uids>
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodUid(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the UID of a pod: expected a UUID in lower case")]
pub struct NotAPodUid;

impl PodUid {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PodUid {
    type Err = NotAPodUid;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let is_hyphen = |at: usize| [8, 13, 18, 23].contains(&at);
        let is_valid = |(at, b): (usize, u8)| if is_hyphen(at) { b == b'-' } else { is_digit(b) };
        if s.len() == 36 && s.bytes().enumerate().all(is_valid) {
            Ok(Self(s.to_owned()))
        } else {
            Err(NotAPodUid)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionName;

    #[test]
    fn a_pod_uid_is_a_uuid() {
        let uid = "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
        assert_eq!(uid.parse::<PodUid>().unwrap().as_str(), uid);
        assert!(uid.parse::<SessionName>().is_ok());
        for text in
            ["", &uid[1..], &uid.to_uppercase(), &uid.replace('-', "_"), "é".repeat(18).as_str()]
        {
            assert_eq!(text.parse::<PodUid>(), Err(NotAPodUid), "{text:?}");
        }
    }
}
