//! Keys and IDs in the format of AWS. The same calls in the same order return the same keys, so
//! that a failed test can be repeated. The keys protect nothing.

use std::time::SystemTime;

use crate::session::Credentials;

#[derive(Debug, Default)]
pub(crate) struct Keys {
    counter: u64,
}

impl Keys {
    /// Returns temporary credentials; their access key ID starts with ASIA.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-prefixes>
    pub(crate) fn credentials(&mut self, expiration: SystemTime) -> Credentials {
        Credentials {
            access_key_id: format!("ASIA{}", self.text(BASE32, 16)),
            secret_access_key: self.text(BASE64, 40),
            session_token: format!("IQoJb3JpZ2luX2Vj{}", self.text(BASE64, 640)),
            expiration,
        }
    }

    /// Returns a request ID.
    pub(crate) fn uuid(&mut self) -> String {
        let hex = self.text(b"0123456789abcdef", 32);
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
    }

    fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length)
            .map(|_| {
                let index = self.next() % alphabet.len() as u64;
                alphabet.get(index as usize).map_or('0', |byte| char::from(*byte))
            })
            .collect()
    }

    /// Returns the next number: SplitMix64 of a counter.
    fn next(&mut self) -> u64 {
        self.counter += 1;
        let mut mixed = self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Returns the ID of a role: `AROA` and 17 characters that depend only on the role.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-prefixes>
pub(crate) fn role_id(arn: &str) -> String {
    // FNV-1a, since different names only need different IDs.
    let seed = arn.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("AROA{}", Keys { counter: seed >> 8 }.text(BASE32, 17))
}

const BASE32: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn keys_have_the_format_of_aws() {
        let mut keys = Keys::default();
        let (one, two) = (keys.credentials(UNIX_EPOCH), keys.credentials(UNIX_EPOCH));
        assert_ne!(one, two);
        assert!(one.access_key_id.starts_with("ASIA") && one.access_key_id.len() == 20);
        assert_eq!(one.secret_access_key.len(), 40);
        assert!(one.session_token.len() > 600);
        assert_eq!(one, Keys::default().credentials(UNIX_EPOCH), "the same each time");
        assert_eq!(keys.uuid().len(), 36);
        assert_ne!(role_id("a"), role_id("b"));
    }
}
