//! The part of an issuer: a signing key, the files that it publishes, and tokens. It is the API
//! server, whose tokens the kubelet projects into pods, or another OIDC provider of IAM.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    rsa::{self, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::moment;

/// An issuer of tokens, with one key.
pub struct Issuer {
    url: String,
    key: Key,
}

/// Signing algorithm. The default of API servers is RSA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    Es256,
    Rs256,
}

/// The pod of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    pub namespace: String,
    pub service_account: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot create a key")]
pub struct NoKey;

enum Key {
    Es256(EcdsaKeyPair),
    Rs256(rsa::KeyPair),
}

impl Issuer {
    /// Returns an issuer with a P-256 key, which is fast to create.
    pub fn new(url: impl Into<String>) -> Result<Self, NoKey> {
        Self::with(url, Algorithm::Es256)
    }

    pub fn with(url: impl Into<String>, algorithm: Algorithm) -> Result<Self, NoKey> {
        let key = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(Key::Es256)
            }
            Algorithm::Rs256 => rsa::KeyPair::generate(KeySize::Rsa2048).map(Key::Rs256),
        };
        Ok(Self { url: url.into(), key: key.map_err(|_| NoKey)? })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the key ID: the header `kid` of its tokens.
    pub fn key_id(&self) -> String {
        self.key.id()
    }

    /// Returns the discovery document, with all fields that IAM requires.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>
    pub fn discovery(&self) -> Value {
        let url = &self.url;
        json!({
            "issuer": url,
            "jwks_uri": format!("{}/{JWKS_PATH}", url.trim_end_matches('/')),
            "claims_supported": ["aud", "exp", "iat", "iss", "sub"],
            "id_token_signing_alg_values_supported": [self.key.algorithm()],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
        })
    }

    /// Returns the key set: the response of `/openid/v1/jwks`, or the file that the discovery
    /// document names.
    pub fn jwks(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let public = self.key.public();
        let kid = self.key.id();
        let key = match &self.key {
            Key::Es256(_) => {
                let (x, y) = public.get(1..).unwrap_or_default().split_at(32);
                json!({
                    "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
                    "x": encode(x), "y": encode(y),
                })
            }
            Key::Rs256(_) => {
                let (modulus, exponent) = rsa_components(public).unwrap_or_default();
                json!({
                    "kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid,
                    "n": encode(modulus), "e": encode(exponent),
                })
            }
        };
        json!({"keys": [key]})
    }

    /// Returns a token as the kubelet projects it.
    /// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>
    pub fn mint(&self, pod: &Pod, audience: &str, now: SystemTime, lifetime: Duration) -> String {
        let Pod { namespace, service_account, name, uid } = pod;
        let issued = moment::seconds(now);
        self.sign(&json!({
            "aud": [audience],
            "exp": issued + lifetime.as_secs(),
            "iat": issued,
            "iss": self.url,
            "jti": uid,
            "kubernetes.io": {
                "namespace": namespace,
                "node": {"name": "node-0", "uid": "0b7c9c3c-3c55-4a7f-8a4c-2f1f2b9c1a10"},
                "pod": {"name": name, "uid": uid},
                "serviceaccount": {
                    "name": service_account,
                    "uid": "6d1f4c52-0f6b-4a55-9a8e-0d6a0c4b7e21",
                },
            },
            "nbf": issued,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
        }))
    }

    /// Returns the claims that STS requires of every token. A test adds, changes or removes claims
    /// before it signs them.
    pub fn claims(
        &self,
        subject: &str,
        audience: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Value {
        let issued = moment::seconds(now);
        json!({
            "aud": audience,
            "exp": issued + lifetime.as_secs(),
            "iat": issued,
            "iss": self.url,
            "sub": subject,
        })
    }

    /// Returns a token with the given claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }

    /// Returns the header of its tokens.
    pub fn header(&self) -> Value {
        json!({"alg": self.key.algorithm(), "kid": self.key.id()})
    }

    /// Returns a token with the given header and claims.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        // If the library fails, the signature is empty and therefore invalid.
        let signature = self.key.sign(signed.as_bytes()).unwrap_or_default();
        format!("{signed}.{}", encode(&signature))
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Pod {
    /// Returns a pod whose uid depends on its names.
    pub fn new(
        namespace: impl Into<String>,
        service_account: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        let (namespace, name) = (namespace.into(), name.into());
        let hash = digest::digest(&digest::SHA256, format!("{namespace}/{name}").as_bytes());
        let hex: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        let uid = format!(
            "{}-{}-{}-{}-{}",
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32)
        );
        Self { namespace, service_account: service_account.into(), name, uid }
    }
}

impl Key {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
        }
    }

    /// Returns a key ID that depends on the public key.
    fn id(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.public()))
    }

    fn public(&self) -> &[u8] {
        match self {
            Self::Es256(pair) => pair.public_key().as_ref(),
            Self::Rs256(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(pair) => {
                pair.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec())
            }
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

/// Returns modulus and exponent of a PKCS #1 `RSAPublicKey`, a DER sequence of two integers.
fn rsa_components(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = der_element(0x30, der)?;
    let (modulus, rest) = der_element(0x02, sequence)?;
    let (exponent, _) = der_element(0x02, rest)?;
    // DER adds a zero byte if the first bit is set.
    Some((modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent))
}

/// Returns the content of the first DER element, and the rest.
fn der_element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
    };
    rest.split_at_checked(length).filter(|_| found == tag)
}

/// Path of the key set below the URL of the issuer.
const JWKS_PATH: &str = ".well-known/jwks.json";
