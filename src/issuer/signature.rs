use std::fmt;

/// An ECDSA signature of P-256 as a JWT has it: r and s, each in 32 bytes.
/// <https://www.rfc-editor.org/rfc/rfc7518#section-3.4>
#[derive(Clone, Eq, PartialEq)]
pub struct Signature([u8; 64]);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotASignature {
    #[error("it is not a DER-encoded ECDSA signature: a SEQUENCE of two INTEGERs")]
    Der,
    #[error("its integer {0} is zero, negative, not minimal or longer than 256 bits")]
    Integer(char),
    #[error("it has {0} bytes; r and s of P-256 have 64")]
    Length(usize),
}

impl Signature {
    /// Reads r and s, each in 32 bytes.
    pub fn from_fixed(bytes: &[u8]) -> Result<Self, NotASignature> {
        bytes.try_into().map(Self).map_err(|_| NotASignature::Length(bytes.len()))
    }

    /// Reads a DER-encoded signature, as Sign of KMS returns it: `SEQUENCE {r INTEGER, s INTEGER}`.
    /// <https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html>,
    /// <https://www.rfc-editor.org/rfc/rfc3279#section-2.2.3>
    pub fn from_der(der: &[u8]) -> Result<Self, NotASignature> {
        // Both integers have at most 33 bytes, so each length is one byte.
        let [SEQUENCE, length, rest @ ..] = der else {
            return Err(NotASignature::Der);
        };
        if usize::from(*length) != rest.len() {
            return Err(NotASignature::Der);
        }
        let mut signature = [0; 64];
        let (r, s) = signature.split_at_mut(32);
        let rest = integer(rest, r, 'r')?;
        let rest = integer(rest, s, 's')?;
        if rest.is_empty() { Ok(Self(signature)) } else { Err(NotASignature::Der) }
    }

    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

/// A signature makes a JWT valid, so no log has one.
impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<signature>")
    }
}

/// Writes an INTEGER with leading zeros; returns the bytes after it.
fn integer<'d>(der: &'d [u8], to: &mut [u8], name: char) -> Result<&'d [u8], NotASignature> {
    let [INTEGER, length, rest @ ..] = der else {
        return Err(NotASignature::Der);
    };
    let (value, rest) = rest.split_at_checked(usize::from(*length)).ok_or(NotASignature::Der)?;
    let magnitude = match value {
        // A first bit of 1 would make the number negative, so a zero is before it.
        [0, magnitude @ ..] if magnitude.first().is_some_and(|first| *first >= 0x80) => magnitude,
        [1..=0x7f, ..] => value,
        _ => return Err(NotASignature::Integer(name)),
    };
    let start = to.len().checked_sub(magnitude.len()).ok_or(NotASignature::Integer(name))?;
    to[start..].copy_from_slice(magnitude);
    Ok(rest)
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::issuer::PublicKey;

    fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
        let integer = |it: &[u8]| [&[2, u8::try_from(it.len()).unwrap()], it].concat();
        let content = [integer(r), integer(s)].concat();
        [&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat()
    }

    #[test]
    fn a_der_signature_becomes_r_and_s() {
        let high = [&[0, 0x80][..], &[7; 31]].concat();
        for (integer, want) in [
            (&[1][..], [&[0; 31][..], &[1]].concat()),
            (&[0x7f, 0xff], [&[0; 30][..], &[0x7f, 0xff]].concat()),
            (&[0, 0x80], [&[0; 31][..], &[0x80]].concat()),
            (&high, high[1..].to_vec()),
            (&[0x7f; 32], vec![0x7f; 32]),
        ] {
            let signature = Signature::from_der(&der(integer, &[3])).unwrap();
            assert_eq!(signature.as_bytes()[..32], want, "{integer:?}");
            let signature = Signature::from_der(&der(&[3], integer)).unwrap();
            assert_eq!(signature.as_bytes()[32..], want, "{integer:?}");
        }
    }

    #[test]
    fn a_malformed_signature_is_refused() {
        let wrong: [&[u8]; 7] = [
            &[],
            &[0],
            &[0x80],
            &[0xff; 32],
            &[0, 1],
            &[0, 0, 0x80],
            &[[0, 0x80].as_slice(), &[7; 32]].concat(),
        ];
        for integer in wrong {
            let r = Signature::from_der(&der(integer, &[3]));
            assert_eq!(r, Err(NotASignature::Integer('r')), "{integer:?}");
            let s = Signature::from_der(&der(&[3], integer));
            assert_eq!(s, Err(NotASignature::Integer('s')), "{integer:?}");
        }
        let good = der(&[1], &[2]);
        let mut long_form = good.clone();
        long_form.splice(1..2, [0x81, 6]);
        let mut set = good.clone();
        set[0] = 0x31;
        let mut octets = good.clone();
        octets[2] = 4;
        let mut beyond = good.clone();
        beyond[6] = 9;
        let mut three = der(&[1], &[2]);
        three.extend([2, 1, 3]);
        three[1] = 9;
        let cases = [&good[..7], b"", &[0x30], &long_form, &set, &octets, &beyond, &three];
        for bytes in cases {
            assert_eq!(Signature::from_der(bytes), Err(NotASignature::Der), "{bytes:?}");
        }
        let trailing = [&good[..], &[0]].concat();
        assert_eq!(Signature::from_der(&trailing), Err(NotASignature::Der));
        assert_eq!(Signature::from_fixed(&[1; 63]), Err(NotASignature::Length(63)));
    }

    #[test]
    fn a_converted_signature_is_verified() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let key = PublicKey::of_private_key(pair.to_pkcs8v1().unwrap().as_ref()).unwrap();
        // One in 128 signatures has an integer with a leading zero.
        for message in 0..1000_u32 {
            let message = message.to_be_bytes();
            let der = pair.sign(&SystemRandom::new(), &message).unwrap();
            let signature = Signature::from_der(der.as_ref()).unwrap();
            assert!(key.verifies(&message, &signature), "{:?}", der.as_ref());
        }
    }

    proptest! {
        /// There is one encoding for each signature.
        #[test]
        fn foreign_bytes_are_a_signature_in_one_encoding(mut bytes: Vec<u8>, shaped: bool) {
            if shaped && bytes.len() > 1 && bytes.len() < 100 {
                bytes[0] = 0x30;
                bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
            }
            if let Ok(signature) = Signature::from_der(&bytes) {
                let minimal = |number: &[u8]| {
                    let start = number.iter().position(|byte| *byte != 0).unwrap();
                    let zero: &[u8] = if number[start] >= 0x80 { &[0] } else { &[] };
                    [zero, &number[start..]].concat()
                };
                let (r, s) = signature.as_bytes().split_at(32);
                prop_assert_eq!(der(&minimal(r), &minimal(s)), bytes);
            }
        }
    }
}
