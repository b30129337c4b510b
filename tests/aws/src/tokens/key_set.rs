//! The public keys of an issuer: a JSON Web Key Set.

use std::{collections::HashMap, fmt};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use super::Disbelief;

/// Keys by key ID, and the number of keys of each type, with those that cannot be used.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: HashMap<String, Key>,
    ec: usize,
    rsa: usize,
}

#[derive(Debug)]
struct Key {
    material: Material,
    /// Whether the key has the member `key_ops`.
    has_operations: bool,
}

enum Material {
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

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Es256 { .. } => "Es256",
            Self::Rs256 { .. } => "Rs256",
        })
    }
}

impl KeySet {
    /// Reads a key set in which each key is valid, as `/openid/v1/jwks` serves it.
    pub(crate) fn read(jwks: &Value) -> Result<Self, NotAKeySet> {
        let list = list_of(jwks)?;
        let read = |(index, jwk)| Key::read(jwk).ok_or(NotAKeySet::Key(index));
        Ok(Self::of(list, list.iter().enumerate().map(read).collect::<Result<_, _>>()?))
    }

    /// Reads a key set as STS does: without the keys that it cannot use. Of keys with the same ID,
    /// STS uses the last one.
    ///
    /// STS also uses a key with an `x5c` if the certificate has the same public key. The stand-in
    /// reads no certificates, and uses no such key.
    pub(crate) fn read_as_sts(jwks: &Value) -> Result<Self, NotAKeySet> {
        let list = list_of(jwks)?;
        let usable = list.iter().filter(|jwk| {
            let signs = jwk.get("use").is_none_or(|purpose| purpose == "sig");
            signs && jwk.get("x5c").is_none()
        });
        Ok(Self::of(list, usable.filter_map(Key::read).collect()))
    }

    fn of(list: &[Value], keys: HashMap<String, Key>) -> Self {
        let count = |kind: &str| list.iter().filter(|jwk| text(jwk, "kty") == Some(kind)).count();
        Self { keys, ec: count("EC"), rsa: count("RSA") }
    }

    pub(super) fn verify(
        &self,
        id: &str,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Disbelief> {
        let Key { material, has_operations } = self.keys.get(id).ok_or(Disbelief::UnknownKey)?;
        let count = match material {
            Material::Es256 { .. } => self.ec,
            Material::Rs256 { .. } => self.rsa,
        };
        if count > MOST_KEYS {
            return Err(Disbelief::UnknownKey);
        }
        if *has_operations {
            return Err(Disbelief::Signature);
        }
        let verified = match (material, algorithm) {
            (Material::Es256 { point }, "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Material::Rs256 { modulus, exponent }, "RS256") => {
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
        let bytes = |name| BASE64_URL_SAFE_NO_PAD.decode(text(jwk, name)?).ok();
        let material = match text(jwk, "kty")? {
            "EC" if text(jwk, "crv") == Some("P-256") => {
                // Uncompressed form of SEC 1.
                let point = [vec![4], bytes("x")?, bytes("y")?].concat();
                Material::Es256 { point }
            }
            "RSA" => Material::Rs256 { modulus: bytes("n")?, exponent: bytes("e")? },
            _ => return None,
        };
        let has_operations = jwk.get("key_ops").is_some();
        Some((text(jwk, "kid")?.to_owned(), Self { material, has_operations }))
    }
}

fn list_of(jwks: &Value) -> Result<&[Value], NotAKeySet> {
    jwks.get("keys").and_then(Value::as_array).map(Vec::as_slice).ok_or(NotAKeySet::NoKeys)
}

fn text<'a>(jwk: &'a Value, name: &str) -> Option<&'a str> {
    jwk.get(name)?.as_str()
}

/// Maximum number of RSA keys, and of EC keys. If there are more, no token with a key of this type
/// is valid; tokens with a key of the other type are.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>
const MOST_KEYS: usize = 100;
