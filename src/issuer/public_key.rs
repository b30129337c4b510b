use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    ParsedPublicKey,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::Signature;

/// A P-256 public key for ES256: a point of the curve.
#[derive(Clone)]
pub struct PublicKey {
    /// The uncompressed point: 4, x, y.
    /// <https://www.rfc-editor.org/rfc/rfc5480#section-2.2>
    point: [u8; POINT],
    id: KeyId,
    verifier: ParsedPublicKey,
}

/// The `kid` of a key: its thumbprint in 43 characters.
/// <https://www.rfc-editor.org/rfc/rfc7638>
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KeyId(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAPublicKey {
    #[error("it is not a point of the curve P-256")]
    Point,
    #[error("it is not an unencrypted private key of the curve P-256 in PKCS#8")]
    PrivateKey,
    #[error("it is not the SubjectPublicKeyInfo of a key of the curve P-256")]
    SubjectPublicKeyInfo,
}

impl PublicKey {
    /// Reads a DER-encoded SubjectPublicKeyInfo, as GetPublicKey of KMS returns it.
    /// <https://docs.aws.amazon.com/kms/latest/APIReference/API_GetPublicKey.html>
    pub fn from_spki(der: &[u8]) -> Result<Self, NotAPublicKey> {
        // DER has one encoding of the algorithm, so all before the point is fixed.
        let point = der.strip_prefix(&SPKI).ok_or(NotAPublicKey::SubjectPublicKeyInfo)?;
        Self::from_point(point)
    }

    /// Reads the public half of a DER-encoded private key in PKCS#8.
    pub fn of_private_key(pkcs8: &[u8]) -> Result<Self, NotAPublicKey> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
        Self::from_point(pair.map_err(|_| NotAPublicKey::PrivateKey)?.public_key().as_ref())
    }

    /// Reads the coordinates of a JWK, as base64url text.
    pub(crate) fn from_coordinates(x: &str, y: &str) -> Result<Self, NotAPublicKey> {
        let mut point = vec![UNCOMPRESSED];
        for coordinate in [x, y] {
            // RFC 7518, 6.2.1.2: always the full length, with leading zeros.
            let bytes = URL_SAFE_NO_PAD.decode(coordinate).ok().filter(|it| it.len() == 32);
            point.extend(bytes.ok_or(NotAPublicKey::Point)?);
        }
        Self::from_point(&point)
    }

    fn from_point(point: &[u8]) -> Result<Self, NotAPublicKey> {
        let point: [u8; POINT] = point.try_into().map_err(|_| NotAPublicKey::Point)?;
        if point[0] != UNCOMPRESSED {
            return Err(NotAPublicKey::Point);
        }
        let verifier = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        let verifier = verifier.map_err(|_| NotAPublicKey::Point)?;
        // RFC 7638, 3.2: the required members in the order of their names, without spaces.
        let (x, y) = coordinates(&point);
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Ok(Self { point, id: KeyId(thumbprint(&text)), verifier })
    }

    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Returns x and y as a JWK has them.
    /// <https://www.rfc-editor.org/rfc/rfc7518#section-6.2.1>
    pub(super) fn coordinates(&self) -> (String, String) {
        coordinates(&self.point)
    }

    /// Returns whether this is the signature of the message by this key.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        self.verifier.verify_sig(message, signature.as_bytes()).is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.point == other.point
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.id.0).finish()
    }
}

impl KeyId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn coordinates(point: &[u8; POINT]) -> (String, String) {
    let (x, y) = point[1..].split_at(32);
    (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
}

fn thumbprint(canonical_jwk: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical_jwk))
}

/// Length of an uncompressed point: 1 byte, and two coordinates of 256 bits.
const POINT: usize = 65;
/// First byte of an uncompressed point.
const UNCOMPRESSED: u8 = 4;
/// All of a SubjectPublicKeyInfo before the point: a SEQUENCE (30) of the SEQUENCE of id-ecPublicKey
/// (1.2.840.10045.2.1) and prime256v1 (1.2.840.10045.3.1.7), and of a BIT STRING (03) of 66 bytes,
/// whose first byte says that no bit is unused.
/// <https://www.rfc-editor.org/rfc/rfc5480#section-2>
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::AsDer,
        rand::SystemRandom,
        signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaSigningAlgorithm},
    };
    use proptest::prelude::*;

    use super::*;

    fn pair(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        EcdsaKeyPair::generate(algorithm).unwrap()
    }

    #[test]
    fn a_key_is_the_same_from_each_encoding() {
        let pair = pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let spki = pair.public_key().as_der().unwrap();
        let key = PublicKey::from_spki(spki.as_ref()).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        assert_eq!(PublicKey::of_private_key(pkcs8.as_ref()), Ok(key.clone()));
        let (x, y) = key.coordinates();
        assert_eq!(PublicKey::from_coordinates(&x, &y), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), format!("PublicKey(\"{}\")", key.id()));
    }

    #[test]
    fn only_a_key_of_the_curve_p_256_is_read() {
        let other = pair(&ECDSA_P384_SHA384_FIXED_SIGNING);
        let spki = other.public_key().as_der().unwrap();
        let wrong = Err(NotAPublicKey::SubjectPublicKeyInfo);
        assert_eq!(PublicKey::from_spki(spki.as_ref()), wrong);
        assert_eq!(PublicKey::from_spki(b""), wrong);
        let pkcs8 = other.to_pkcs8v1().unwrap();
        for text in [pkcs8.as_ref(), b"", b"-----BEGIN PRIVATE KEY-----"] {
            assert_eq!(PublicKey::of_private_key(text), Err(NotAPublicKey::PrivateKey));
        }
        let spki = pair(&ECDSA_P256_SHA256_FIXED_SIGNING).public_key().as_der().unwrap();
        let spki = spki.as_ref();
        let mut off_the_curve = spki.to_vec();
        off_the_curve[90] ^= 1;
        let mut compressed = spki.to_vec();
        compressed[26] = 2;
        for der in [&off_the_curve, &compressed, &spki[..90].to_vec(), &[spki, b"\0"].concat()] {
            assert_eq!(PublicKey::from_spki(der), Err(NotAPublicKey::Point), "{der:?}");
        }
    }

    #[test]
    fn a_key_id_is_the_thumbprint_of_rfc_7638() {
        // The example of section 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        assert_eq!(
            thumbprint(&format!(r#"{{"e":"AQAB","kty":"RSA","n":"{n}"}}"#)),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
        // The key of RFC 7517, A.1; the thumbprint is that of Python's hashlib.
        let (x, y) = (
            "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        );
        let key = PublicKey::from_coordinates(x, y).unwrap();
        assert_eq!(key.id().as_str(), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
        assert_eq!(key.coordinates(), (x.to_owned(), y.to_owned()));
    }

    #[test]
    fn only_the_own_signature_of_the_message_is_verified() {
        let signer = pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = PublicKey::of_private_key(signer.to_pkcs8v1().unwrap().as_ref()).unwrap();
        let signature = signer.sign(&SystemRandom::new(), b"message").unwrap();
        let signature = Signature::from_fixed(signature.as_ref()).unwrap();
        assert!(key.verifies(b"message", &signature));
        assert!(!key.verifies(b"massage", &signature));
        let pkcs8 = pair(&ECDSA_P256_SHA256_FIXED_SIGNING).to_pkcs8v1().unwrap();
        assert!(
            !PublicKey::of_private_key(pkcs8.as_ref()).unwrap().verifies(b"message", &signature)
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_read_without_a_panic(bytes: Vec<u8>, point: [u8; 65], x: String, y: String) {
            let _ = PublicKey::from_spki(&bytes);
            let _ = PublicKey::from_spki(&[&SPKI[..], &point].concat());
            let _ = PublicKey::of_private_key(&bytes);
            let _ = PublicKey::from_coordinates(&x, &y);
        }
    }
}
