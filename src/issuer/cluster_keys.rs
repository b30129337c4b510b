//! The keys with which the API server signs the tokens of service accounts.

use std::{fmt, ops::RangeInclusive};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::value::RawValue;

use crate::json::Json;

/// The keys of the API server's `/openid/v1/jwks`.
/// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery>
#[derive(Clone)]
pub struct ClusterKeys(Vec<ClusterKey>);

#[derive(Clone)]
pub(super) struct ClusterKey {
    id: String,
    algorithm: TokenAlgorithm,
    verifier: ParsedPublicKey,
}

/// The algorithms of the API server's tokens. The key determines its algorithm, so a token cannot
/// choose another one.
/// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#external-serviceaccount-token-signing-and-key-management>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenAlgorithm {
    Es256,
    Es384,
    Es512,
    Rs256,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotClusterKeys {
    #[error("no key of it is an RSA key of 2048 to 8192 bits, or of P-256, P-384 or P-521")]
    Absent,
    #[error("it is not a JSON object with a list of keys")]
    Json,
    #[error("it has {0} bytes; at most {MOST_BYTES} are read")]
    Length(usize),
}

impl ClusterKeys {
    /// Reads the response of the API server. Keys of other kinds are ignored: their tokens are of an
    /// unknown key.
    pub fn parse(text: &[u8]) -> Result<Self, NotClusterKeys> {
        if text.len() > MOST_BYTES {
            return Err(NotClusterKeys::Length(text.len()));
        }
        let json: &RawValue = serde_json::from_slice(text).map_err(|_| NotClusterKeys::Json)?;
        let keys = Json::from(json).at("keys");
        if !keys.is_list() {
            return Err(NotClusterKeys::Json);
        }
        let keys: Vec<ClusterKey> = keys.items().filter_map(ClusterKey::of).collect();
        if keys.is_empty() { Err(NotClusterKeys::Absent) } else { Ok(Self(keys)) }
    }

    /// Returns the keys with this `kid`.
    pub(super) fn with_id(&self, id: &str) -> impl Iterator<Item = &ClusterKey> {
        self.0.iter().filter(move |key| key.id == id)
    }
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl ClusterKey {
    fn of(jwk: Json<'_>) -> Option<Self> {
        let bytes = |member| URL_SAFE_NO_PAD.decode(&*jwk.at(member).string()?).ok();
        let key_type = jwk.at("kty").string()?;
        let curve = jwk.at("crv").string();
        let (algorithm, verifier) = match (&*key_type, curve.as_deref()) {
            ("RSA", _) => {
                let modulus = bytes("n").filter(|it| RSA_BYTES.contains(&it.len()))?;
                let key = RsaPublicKeyComponents { n: modulus, e: bytes("e")? };
                let key = key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?;
                (TokenAlgorithm::Rs256, key)
            }
            ("EC", Some(curve)) => {
                let (algorithm, verification) = TokenAlgorithm::of_curve(curve)?;
                let point = [vec![UNCOMPRESSED], bytes("x")?, bytes("y")?].concat();
                (algorithm, ParsedPublicKey::new(verification, point).ok()?)
            }
            _ => return None,
        };
        Some(Self { id: jwk.at("kid").string()?.into_owned(), algorithm, verifier })
    }

    pub(super) fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifier.verify_sig(message, signature).is_ok()
    }
}

impl TokenAlgorithm {
    /// Returns the algorithm of this name in a token's header.
    /// <https://www.rfc-editor.org/rfc/rfc7518#section-3.1>
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "RS256" => Self::Rs256,
            _ => return None,
        })
    }

    fn of_curve(curve: &str) -> Option<(Self, &'static dyn VerificationAlgorithm)> {
        Some(match curve {
            "P-256" => (Self::Es256, &ECDSA_P256_SHA256_FIXED),
            "P-384" => (Self::Es384, &ECDSA_P384_SHA384_FIXED),
            "P-521" => (Self::Es512, &ECDSA_P521_SHA512_FIXED),
            _ => return None,
        })
    }
}

/// Length of an RSA modulus: 2048 to 8192 bits.
const RSA_BYTES: RangeInclusive<usize> = 256..=1024;
/// First byte of an uncompressed point.
const UNCOMPRESSED: u8 = 4;
/// An RSA key of 8192 bits has 1.5 KiB as a JWK, so these are forty of the longest keys.
const MOST_BYTES: usize = 64 * 1024;
