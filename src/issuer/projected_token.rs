//! A filter for projected tokens: it keeps garbage away from TokenReview, which alone decides.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::value::RawValue;

use super::{
    cluster_keys::{ClusterKeys, TokenAlgorithm},
    object_name::ObjectName,
};
use crate::{json::Json, namespaces::NamespaceName, session::PodUid};

/// What a projected token is, by the keys that are known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenCheck {
    Refused(NotAProjectedToken),
    /// Its key may be new: read the keys again. The token may also be garbage.
    UnknownKey,
    Valid(Box<TokenFacts>),
}

/// The pod for which the API server signed the token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenFacts {
    pub namespace: NamespaceName,
    pub service_account: ObjectName,
    pub pod_name: ObjectName,
    pub pod_uid: PodUid,
    /// The token's id as the API server's audit log has it, `JTI=<uuid>`.
    /// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#additional-metadata-in-pod-bound-tokens>
    pub credential_id: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAProjectedToken {
    #[error("its algorithm is not that of its key")]
    Algorithm,
    #[error("it has another audience than the issuer's, or more than this one")]
    Audience,
    #[error("it has expired")]
    Expired,
    #[error("it is not a JWT")]
    Form,
    #[error("its header names no key")]
    KeyId,
    #[error("it has {0} bytes; at most {MOST_BYTES} are read")]
    Length(usize),
    #[error("it is valid for more than {LONGEST_LIFE} seconds, and the sidecar's is not")]
    Life,
    #[error("its claims do not name a pod and the pod's service account")]
    Pod,
    #[error("its signature is not that of its key")]
    Signature,
}

impl TokenCheck {
    /// Checks a token, which is untrusted text. `audience` is the issuer's.
    pub fn of(token: &str, audience: &str, keys: &ClusterKeys, now: SystemTime) -> Self {
        match check(token, audience, keys, now) {
            Ok(Some(facts)) => Self::Valid(Box::new(facts)),
            Ok(None) => Self::UnknownKey,
            Err(why) => Self::Refused(why),
        }
    }
}

/// Returns None for an unknown key.
fn check(
    token: &str,
    audience: &str,
    keys: &ClusterKeys,
    now: SystemTime,
) -> Result<Option<TokenFacts>, NotAProjectedToken> {
    if token.len() > MOST_BYTES {
        return Err(NotAProjectedToken::Length(token.len()));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(NotAProjectedToken::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(NotAProjectedToken::Form)?;
    let (header, claims) = (decode(header)?, decode(claims)?);
    let signature = decode(signature)?;

    let header = object(&header)?;
    // RFC 7515, 4.1.11: an extension that is not understood makes the token invalid.
    if header.at("crit").text() != "null" {
        return Err(NotAProjectedToken::Form);
    }
    let id = header.at("kid").string().ok_or(NotAProjectedToken::KeyId)?;
    let algorithm = header.at("alg").string().ok_or(NotAProjectedToken::Form)?;
    let algorithm = TokenAlgorithm::of_name(&algorithm).ok_or(NotAProjectedToken::Algorithm)?;
    // Before the signature: claims that are wrong anyway cause no read of the keys.
    let facts = facts(object(&claims)?, audience, now)?;

    let mut keys = keys.with_id(&id).peekable();
    if keys.peek().is_none() {
        return Ok(None);
    }
    let mut keys = keys.filter(|key| key.algorithm() == algorithm).peekable();
    if keys.peek().is_none() {
        return Err(NotAProjectedToken::Algorithm);
    }
    if !keys.any(|key| key.verifies(signed.as_bytes(), &signature)) {
        return Err(NotAProjectedToken::Signature);
    }
    Ok(Some(facts))
}

/// Reads the claims of the API server.
/// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>
fn facts(
    claims: Json<'_>,
    audience: &str,
    now: SystemTime,
) -> Result<TokenFacts, NotAProjectedToken> {
    let audiences = claims.at("aud");
    // RFC 7519, 4.1.3: one audience may be without a list.
    let is_ours = match audiences.is_list() {
        true => {
            let mut audiences = audiences.items().map(Json::string);
            audiences.next().flatten().is_some_and(|it| it == audience)
                && audiences.next().is_none()
        }
        false => audiences.string().is_some_and(|it| it == audience),
    };
    if !is_ours {
        return Err(NotAProjectedToken::Audience);
    }
    let expires: u64 = claims.at("exp").text().parse().map_err(|_| NotAProjectedToken::Form)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if now >= Duration::from_secs(expires).saturating_add(LEEWAY) {
        return Err(NotAProjectedToken::Expired);
    }
    let issued: u64 = claims.at("iat").text().parse().map_err(|_| NotAProjectedToken::Form)?;
    if expires.saturating_sub(issued) > LONGEST_LIFE {
        return Err(NotAProjectedToken::Life);
    }
    pod(claims).ok_or(NotAProjectedToken::Pod)
}

fn pod(claims: Json<'_>) -> Option<TokenFacts> {
    let of_kubernetes = claims.at("kubernetes.io");
    let (pod, account) = (of_kubernetes.at("pod"), of_kubernetes.at("serviceaccount"));
    let facts = TokenFacts {
        namespace: of_kubernetes.at("namespace").string()?.parse().ok()?,
        service_account: account.at("name").string()?.parse().ok()?,
        pod_name: pod.at("name").string()?.parse().ok()?,
        pod_uid: pod.at("uid").string()?.parse().ok()?,
        credential_id: claims.at("jti").string().map(|id| format!("JTI={id}")),
    };
    let TokenFacts { namespace, service_account, .. } = &facts;
    let subject = format!("system:serviceaccount:{}:{service_account}", namespace.as_str());
    (claims.at("sub").string()? == subject).then_some(facts)
}

fn decode(part: &str) -> Result<Vec<u8>, NotAProjectedToken> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| NotAProjectedToken::Form)
}

fn object(text: &[u8]) -> Result<Json<'_>, NotAProjectedToken> {
    let json: &RawValue = serde_json::from_slice(text).map_err(|_| NotAProjectedToken::Form)?;
    let json = Json::from(json);
    if json.is_object() { Ok(json) } else { Err(NotAProjectedToken::Form) }
}

/// Maximum length of a token, in bytes: claims with the longest names (63 for the namespace, 253
/// for service account, pod and node), a `kid` of 1024 characters, which is the API server's limit
/// for external signers, and an RSA signature of 8192 bits have 5 KiB as base64.
const MOST_BYTES: usize = 8 * 1024;

/// Maximum lifetime of a token, in seconds. The sidecar's volume requests 3600. A token that lives for
/// longer was not projected by that volume, and would outlive the rules under which it was requested.
const LONGEST_LIFE: u64 = 3700;
/// The API server accepts a token for this time after its expiry. A filter that is stricter would
/// refuse what TokenReview accepts.
/// <https://pkg.go.dev/github.com/go-jose/go-jose/v4/jwt#pkg-constants>
const LEEWAY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::KeySize,
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
            ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
            RSA_PKCS1_SHA256, RsaKeyPair,
        },
    };
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::issuer::NotClusterKeys;

    const AUDIENCE: &str = "fab-session-issuer.prod";
    const NOW: u64 = 1_796_000_000;

    enum TestSigner {
        Ecdsa(&'static str, EcdsaKeyPair),
        Rsa(RsaKeyPair),
    }

    impl TestSigner {
        fn rsa() -> Self {
            Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
        }

        fn ecdsa(name: &'static str) -> Self {
            let algorithm: &EcdsaSigningAlgorithm = match name {
                "ES256" => &ECDSA_P256_SHA256_FIXED_SIGNING,
                "ES384" => &ECDSA_P384_SHA384_FIXED_SIGNING,
                _ => &ECDSA_P521_SHA512_FIXED_SIGNING,
            };
            Self::Ecdsa(name, EcdsaKeyPair::generate(algorithm).unwrap())
        }

        fn algorithm(&self) -> &'static str {
            match self {
                Self::Ecdsa(name, _) => name,
                Self::Rsa(_) => "RS256",
            }
        }

        fn jwk(&self, id: &str) -> Value {
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            match self {
                Self::Ecdsa(name, pair) => {
                    let point = &pair.public_key().as_ref()[1..];
                    let (x, y) = point.split_at(point.len() / 2);
                    let curve = match *name {
                        "ES256" => "P-256",
                        "ES384" => "P-384",
                        _ => "P-521",
                    };
                    json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": name, "x": text(x), "y": text(y)})
                }
                Self::Rsa(pair) => {
                    // DER of RFC 8017: 9 bytes before the modulus, of which the last is 0.
                    let der = pair.public_key().as_ref();
                    assert_eq!((der.len(), &der[265..]), (270, &[2, 3, 1, 0, 1][..]));
                    let modulus = text(&der[9..265]);
                    json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": modulus, "e": "AQAB"})
                }
            }
        }

        fn keys(&self, id: &str) -> ClusterKeys {
            keys(&json!({"keys": [self.jwk(id)]}))
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let random = SystemRandom::new();
            let signature = match self {
                Self::Ecdsa(_, pair) => {
                    pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec()
                }
                Self::Rsa(pair) => {
                    let mut signature = vec![0; pair.public_modulus_len()];
                    pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)
                        .unwrap();
                    signature
                }
            };
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        fn header(&self, id: &str) -> Value {
            json!({"alg": self.algorithm(), "kid": id})
        }
    }

    fn keys(jwks: &Value) -> ClusterKeys {
        ClusterKeys::parse(jwks.to_string().as_bytes()).unwrap()
    }

    /// The claims of a token of Kubernetes 1.36, with other names.
    fn claims() -> Value {
        json!({
            "aud": [AUDIENCE],
            "exp": NOW + 3607,
            "iat": NOW,
            "iss": "https://kubernetes.default.svc.cluster.local",
            "jti": "f04ab4f7-1a1e-4f8e-a9ca-5ba1a2b2f9dd",
            "kubernetes.io": {
                "namespace": "tenants-acme",
                "node": {"name": "node-1", "uid": "3ab3a1a0-2a0a-4a3e-9c5c-6e0f5e3f1c55"},
                "pod": {"name": "session-a", "uid": "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e"},
                "serviceaccount": {"name": "tenant-runtime", "uid": "7a6b1c52-4f55-4ac1-8b22-2a1d2c3b4a5f"},
                "warnafter": NOW + 3607,
            },
            "nbf": NOW,
            "sub": "system:serviceaccount:tenants-acme:tenant-runtime",
        })
    }

    fn check(token: &str, keys: &ClusterKeys) -> TokenCheck {
        TokenCheck::of(token, AUDIENCE, keys, UNIX_EPOCH + Duration::from_secs(NOW))
    }

    fn refused(why: NotAProjectedToken) -> TokenCheck {
        TokenCheck::Refused(why)
    }

    fn facts() -> TokenCheck {
        TokenCheck::Valid(Box::new(TokenFacts {
            namespace: "tenants-acme".parse().unwrap(),
            service_account: "tenant-runtime".parse().unwrap(),
            pod_name: "session-a".parse().unwrap(),
            pod_uid: "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e".parse().unwrap(),
            credential_id: Some("JTI=f04ab4f7-1a1e-4f8e-a9ca-5ba1a2b2f9dd".to_owned()),
        }))
    }

    #[test]
    fn a_token_of_each_algorithm_names_its_pod() {
        let signers = ["ES256", "ES384", "ES512"].map(TestSigner::ecdsa);
        for signer in signers.into_iter().chain([TestSigner::rsa()]) {
            let token = signer.token(&signer.header("1"), &claims());
            assert_eq!(check(&token, &signer.keys("1")), facts(), "{}", signer.algorithm());
            assert_eq!(check(&token, &signer.keys("2")), TokenCheck::UnknownKey);
            let mut changed = token.clone();
            let at = token.rfind('.').unwrap() + 5;
            changed.replace_range(at..=at, if &token[at..=at] == "A" { "B" } else { "A" });
            assert_eq!(check(&changed, &signer.keys("1")), refused(NotAProjectedToken::Signature));
        }
    }

    #[test]
    fn a_token_is_valid_only_with_the_key_of_its_kid() {
        let (signer, other) = (TestSigner::ecdsa("ES256"), TestSigner::ecdsa("ES256"));
        let rsa = TestSigner::rsa();
        let token = signer.token(&signer.header("1"), &claims());
        assert_eq!(check(&token, &other.keys("1")), refused(NotAProjectedToken::Signature));
        assert_eq!(check(&token, &rsa.keys("1")), refused(NotAProjectedToken::Algorithm));
        let both = keys(&json!({"keys": [other.jwk("1"), signer.jwk("1"), rsa.jwk("2")]}));
        assert_eq!(check(&token, &both), facts());
        let parts: Vec<&str> = token.split('.').collect();
        let mut foreign = claims();
        foreign["kubernetes.io"]["pod"]["name"] = "session-b".into();
        let foreign = URL_SAFE_NO_PAD.encode(foreign.to_string());
        let changed = format!("{}.{foreign}.{}", parts[0], parts[2]);
        assert_eq!(check(&changed, &both), refused(NotAProjectedToken::Signature));
    }

    #[test]
    fn a_header_cannot_choose_how_it_is_verified() {
        let signer = TestSigner::ecdsa("ES256");
        let keys = signer.keys("1");
        for (header, want) in [
            (json!({"alg": "none", "kid": "1"}), NotAProjectedToken::Algorithm),
            (json!({"alg": "HS256", "kid": "1"}), NotAProjectedToken::Algorithm),
            (json!({"alg": "ES384", "kid": "1"}), NotAProjectedToken::Algorithm),
            (json!({"alg": "RS256", "kid": "1"}), NotAProjectedToken::Algorithm),
            (json!({"alg": "ES256"}), NotAProjectedToken::KeyId),
            (json!({"alg": "ES256", "kid": 1}), NotAProjectedToken::KeyId),
            (json!({"kid": "1"}), NotAProjectedToken::Form),
            (
                json!({"alg": "ES256", "kid": "1", "crit": ["b64"], "b64": false}),
                NotAProjectedToken::Form,
            ),
            (json!([]), NotAProjectedToken::Form),
        ] {
            assert_eq!(check(&signer.token(&header, &claims()), &keys), refused(want), "{header}");
        }
        // The public key as a shared secret, and no signature at all.
        let token = signer.token(&json!({"alg": "none", "kid": "1"}), &claims());
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(check(&unsigned, &keys), refused(NotAProjectedToken::Algorithm));
        let token = signer.token(&signer.header("1"), &claims());
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(check(&unsigned, &keys), refused(NotAProjectedToken::Signature));
    }

    #[test]
    fn claims_must_be_those_of_a_pod_for_the_issuer_alone() {
        let signer = TestSigner::ecdsa("ES256");
        let keys = signer.keys("1");
        let other_uid = json!("0E1C7C2B-8A52-4C4F-9D0E-6F2A3B4C5D6E");
        for (at, value, want) in [
            ("/aud", json!(AUDIENCE), None),
            ("/aud", json!([AUDIENCE, "sts.amazonaws.com"]), Some(NotAProjectedToken::Audience)),
            ("/aud", json!([AUDIENCE, AUDIENCE]), Some(NotAProjectedToken::Audience)),
            ("/aud", json!([AUDIENCE, 1]), Some(NotAProjectedToken::Audience)),
            ("/aud", json!(["https://kubernetes.default.svc"]), Some(NotAProjectedToken::Audience)),
            ("/aud", json!([]), Some(NotAProjectedToken::Audience)),
            ("/aud", json!(null), Some(NotAProjectedToken::Audience)),
            ("/aud", json!({AUDIENCE: AUDIENCE}), Some(NotAProjectedToken::Audience)),
            ("/exp", json!(NOW - 59), None),
            ("/exp", json!(NOW - 60), Some(NotAProjectedToken::Expired)),
            ("/exp", json!(0), Some(NotAProjectedToken::Expired)),
            ("/exp", json!(NOW + 3700), None),
            ("/exp", json!(NOW + 3701), Some(NotAProjectedToken::Life)),
            ("/iat", json!(NOW - 100), Some(NotAProjectedToken::Life)),
            ("/exp", json!(u64::MAX), Some(NotAProjectedToken::Life)),
            ("/exp", json!(-1), Some(NotAProjectedToken::Form)),
            ("/exp", json!(1.5), Some(NotAProjectedToken::Form)),
            ("/exp", json!("1796000001"), Some(NotAProjectedToken::Form)),
            ("/exp", json!(null), Some(NotAProjectedToken::Form)),
            (
                "/sub",
                json!("system:serviceaccount:tenants-acme:default"),
                Some(NotAProjectedToken::Pod),
            ),
            ("/sub", json!(null), Some(NotAProjectedToken::Pod)),
            ("/kubernetes.io", json!(null), Some(NotAProjectedToken::Pod)),
            ("/kubernetes.io/pod", json!(null), Some(NotAProjectedToken::Pod)),
            ("/kubernetes.io/pod/name", json!("Session A"), Some(NotAProjectedToken::Pod)),
            ("/kubernetes.io/pod/uid", other_uid, Some(NotAProjectedToken::Pod)),
            ("/kubernetes.io/namespace", json!("a/b"), Some(NotAProjectedToken::Pod)),
        ] {
            let mut claims = claims();
            *claims.pointer_mut(at).unwrap() = value.clone();
            let want = want.map_or_else(facts, refused);
            assert_eq!(
                check(&signer.token(&signer.header("1"), &claims), &keys),
                want,
                "{at}: {value}"
            );
            // Of a key that is not known, only a token that may be valid causes a read of the keys.
            let unknown = check(&signer.token(&signer.header("2"), &claims), &keys);
            let want = if want == facts() { TokenCheck::UnknownKey } else { want };
            assert_eq!(unknown, want, "{at}: {value}");
        }
    }

    #[test]
    fn garbage_is_not_a_token() {
        let signer = TestSigner::ecdsa("ES256");
        let keys = signer.keys("1");
        let token = signer.token(&signer.header("1"), &claims());
        for garbage in [
            "",
            ".",
            "..",
            "...",
            "a.b.c",
            &token[1..],
            &format!("{token}="),
            &format!("{token}.x"),
            &format!("x.{token}"),
            &format!(" {token}"),
            "é.é.é",
        ] {
            assert_eq!(check(garbage, &keys), refused(NotAProjectedToken::Form), "{garbage:?}");
        }
        let long = "a".repeat(8193);
        assert_eq!(check(&long, &keys), refused(NotAProjectedToken::Length(8193)));
        let deep = URL_SAFE_NO_PAD.encode("[".repeat(6000));
        assert_eq!(check(&format!("{deep}.e30.e30"), &keys), refused(NotAProjectedToken::Form));
    }

    #[test]
    fn keys_that_cannot_be_used_are_ignored() {
        let signer = TestSigner::ecdsa("ES256");
        let jwk = signer.jwk("1");
        let mut off_the_curve = jwk.clone();
        off_the_curve["x"] = jwk["y"].clone();
        let others = [
            json!({}),
            json!(1),
            json!({"kty": "OKP", "kid": "1", "crv": "Ed25519", "x": "AA"}),
            off_the_curve,
            json!({"kty": "RSA", "kid": "1", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "1", "n": "AA", "e": ""}),
        ];
        for other in others {
            let keys = keys(&json!({"keys": [other, jwk]}));
            assert_eq!(
                check(&signer.token(&signer.header("1"), &claims()), &keys),
                facts(),
                "{other}"
            );
            let alone = json!({"keys": [other]}).to_string();
            assert_eq!(ClusterKeys::parse(alone.as_bytes()).unwrap_err(), NotClusterKeys::Absent);
        }
        for text in ["", "[]", "{}", "x"] {
            assert_eq!(ClusterKeys::parse(text.as_bytes()).unwrap_err(), NotClusterKeys::Json);
        }
        let long = " ".repeat(65_537);
        assert_eq!(
            ClusterKeys::parse(long.as_bytes()).unwrap_err(),
            NotClusterKeys::Length(65_537)
        );
    }

    proptest! {
        #[test]
        fn a_foreign_token_is_refused_without_a_panic(text: String, header: String, claims: String, at in 0..700_usize, byte in "[A-Za-z0-9_.-]") {
            let signer = TestSigner::ecdsa("ES256");
            let keys = signer.keys("1");
            prop_assert!(!matches!(check(&text, &keys), TokenCheck::Valid(_)));
            let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
            let unsigned = format!("{header}.{claims}.");
            prop_assert!(!matches!(check(&unsigned, &keys), TokenCheck::Valid(_)));
            // One character of a valid token is another.
            let token = signer.token(&signer.header("1"), &self::claims());
            let mut changed = token.clone();
            let at = at % token.len();
            changed.replace_range(at..=at, &byte);
            if changed != token {
                prop_assert!(!matches!(check(&changed, &keys), TokenCheck::Valid(_)), "{at} {byte}");
            }
            let _ = ClusterKeys::parse(text.as_bytes());
        }
    }
}
