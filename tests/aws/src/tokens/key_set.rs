//! The public keys of an issuer, as `/openid/v1/jwks` serves them.

use std::{collections::HashMap, fmt};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use super::Disbelief;

/// Keys by key ID.
#[derive(Debug)]
pub(crate) struct KeySet(HashMap<String, Key>);

enum Key {
    Es256 { point: Vec<u8> },
    Rs256 { modulus: Vec<u8>, exponent: Vec<u8> },
}

#[derive(Debug, thiserror::Error)]
pub enum NotAKeySet {
    #[error("key {0} is not RSA or EC P-256, or is not valid base64url")]
    Key(usize),
    #[error("the list `keys` is missing")]
    NoKeys,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Es256 { .. } => "Es256",
            Self::Rs256 { .. } => "Rs256",
        })
    }
}

impl KeySet {
    pub(crate) fn read(jwks: &Value) -> Result<Self, NotAKeySet> {
        let list = jwks.get("keys").and_then(Value::as_array).ok_or(NotAKeySet::NoKeys)?;
        let read = |(index, jwk)| Key::read(jwk).ok_or(NotAKeySet::Key(index));
        list.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn verify(
        &self,
        id: &str,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Disbelief> {
        let verified = match (self.0.get(id).ok_or(Disbelief::UnknownKey)?, algorithm) {
            (Key::Es256 { point }, "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Key::Rs256 { modulus, exponent }, "RS256") => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    message,
                    signature,
                )
            }
            _ => return Err(Disbelief::Signature),
        };
        verified.map_err(|_| Disbelief::Signature)
    }
}

impl Key {
    fn read(jwk: &Value) -> Option<(String, Self)> {
        let text = |name: &str| jwk.get(name)?.as_str();
        let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let key = match text("kty")? {
            "EC" if text("crv") == Some("P-256") => {
                // Uncompressed form of SEC 1.
                let point = [vec![4], bytes("x")?, bytes("y")?].concat();
                Self::Es256 { point }
            }
            "RSA" => Self::Rs256 { modulus: bytes("n")?, exponent: bytes("e")? },
            _ => return None,
        };
        Some((text("kid")?.to_owned(), key))
    }
}
