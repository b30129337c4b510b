use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{PublicKey, Signature};
use crate::{
    namespaces::NamespaceName,
    session::{ClientId, IssuerUrl, OnBehalfOf, PodUid, RoleArn, SourceIdentity},
};

/// What the JWT of a session says.
#[derive(Clone, Debug)]
pub struct Claims<'a> {
    pub issuer: &'a IssuerUrl,
    pub client_id: &'a ClientId,
    pub source_identity: &'a SourceIdentity,
    /// The one role for which STS accepts the JWT.
    pub role: &'a RoleArn,
    pub namespace: &'a NamespaceName,
    pub pod_uid: &'a PodUid,
    pub on_behalf_of: Option<&'a OnBehalfOf>,
    pub id: JwtId,
}

/// The claim `jti`: 128 random bits in 32 hex digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JwtId(u128);

/// A JWT without its signature.
#[derive(Clone, Debug)]
pub struct SigningInput {
    text: String,
    key: PublicKey,
}

/// A JWT with the signature of the key that its header names. STS takes it for credentials.
#[derive(Clone)]
pub struct Jwt(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the signature is not of this JWT and this key")]
pub struct WrongSignature;

impl Claims<'_> {
    /// Returns what is signed: header and claims.
    pub fn to_sign(&self, key: &PublicKey, now: SystemTime) -> SigningInput {
        let header = json!({"alg": "ES256", "kid": key.id().as_str(), "typ": "JWT"});
        let claims = self.json(now);
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        SigningInput { text: format!("{header}.{claims}"), key: key.clone() }
    }

    /// The names in `https://aws.amazon.com/` are those of
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html> and
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html>.
    fn json(&self, now: SystemTime) -> Value {
        let Self { issuer, client_id, source_identity, role, namespace, pod_uid, on_behalf_of, id } =
            self;
        // STS refuses a time with a fraction.
        let issued_at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // STS takes lists of one value.
        let mut tags = json!({
            NAMESPACE_TAG: [namespace.as_str()],
            POD_UID_TAG: [pod_uid.as_str()],
        });
        if let Some(on_behalf_of) = on_behalf_of {
            tags[OnBehalfOf::TAG] = json!([on_behalf_of.as_str()]);
        }
        json!({
            "iss": issuer.as_str(),
            "sub": source_identity.as_str(),
            "aud": client_id.as_str(),
            "iat": issued_at,
            "exp": issued_at + LIFE.as_secs(),
            "jti": id.to_string(),
            "https://aws.amazon.com/source_identity": source_identity.as_str(),
            "https://aws.amazon.com/roles": [role.as_str()],
            "https://aws.amazon.com/tags": {"principal_tags": tags, "transitive_tag_keys": []},
        })
    }
}

impl JwtId {
    pub fn of_random(bits: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bits))
    }
}

impl fmt::Display for JwtId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl SigningInput {
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Returns the SHA-256 of the text, which KMS signs.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }

    /// Returns the JWT. Err: the signature is another key's or another text's.
    pub fn signed_with(self, signature: &Signature) -> Result<Jwt, WrongSignature> {
        if !self.key.verifies(self.as_bytes(), signature) {
            return Err(WrongSignature);
        }
        Ok(Jwt(format!("{}.{}", self.text, URL_SAFE_NO_PAD.encode(signature.as_bytes()))))
    }
}

impl Jwt {
    /// Returns the text, which is as good as the role's credentials.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<jwt>")
    }
}

/// From `iat` to `exp`: the sidecar calls STS at once, and STS allows 5 minutes more.
const LIFE: Duration = Duration::from_secs(60);

/// Keys of the session tags. EKS Pod Identity has the same ones.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>
const NAMESPACE_TAG: &str = "kubernetes-namespace";
const POD_UID_TAG: &str = "kubernetes-pod-uid";

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        digest::{self, SHA256},
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };

    use super::*;

    fn pair() -> (EcdsaKeyPair, PublicKey) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = PublicKey::of_private_key(pair.to_pkcs8v1().unwrap().as_ref()).unwrap();
        (pair, key)
    }

    fn sign(pair: &EcdsaKeyPair, input: &SigningInput) -> Signature {
        let digest = digest::Digest::import_less_safe(&input.digest(), &SHA256).unwrap();
        Signature::from_fixed(pair.sign_digest(&digest).unwrap().as_ref()).unwrap()
    }

    fn input(key: &PublicKey, now: SystemTime) -> SigningInput {
        input_of(key, now, None)
    }

    fn input_of(
        key: &PublicKey,
        now: SystemTime,
        on_behalf_of: Option<&OnBehalfOf>,
    ) -> SigningInput {
        Claims {
            issuer: &"https://issuer.example.com/prod".parse().unwrap(),
            client_id: &"fab-session/prod".parse().unwrap(),
            source_identity: &"agent.acme.fab-coder-x7k2p".parse().unwrap(),
            role: &"arn:aws:iam::111122223333:role/prod-acme-broker".parse().unwrap(),
            namespace: &"tenants-acme".parse().unwrap(),
            pod_uid: &"0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e".parse().unwrap(),
            on_behalf_of,
            id: JwtId::of_random([7; 16]),
        }
        .to_sign(key, now)
    }

    #[test]
    fn a_jwt_has_exactly_these_claims() {
        let (pair, key) = pair();
        let input = input(&key, UNIX_EPOCH + Duration::from_millis(1_796_000_000_999));
        let signature = sign(&pair, &input);
        let jwt = input.signed_with(&signature).unwrap();
        let parts: Vec<&str> = jwt.expose().split('.').collect();
        let [header, claims, signed] = parts[..] else { panic!("{parts:?}") };
        let text = |part| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        assert_eq!(text(header), format!(r#"{{"alg":"ES256","kid":"{}","typ":"JWT"}}"#, key.id()));
        assert_eq!(
            text(claims),
            concat!(
                r#"{"iss":"https://issuer.example.com/prod","sub":"agent.acme.fab-coder-x7k2p","#,
                r#""aud":"fab-session/prod","iat":1796000000,"exp":1796000060,"#,
                r#""jti":"07070707070707070707070707070707","#,
                r#""https://aws.amazon.com/source_identity":"agent.acme.fab-coder-x7k2p","#,
                r#""https://aws.amazon.com/roles":["arn:aws:iam::111122223333:role/prod-acme-broker"],"#,
                r#""https://aws.amazon.com/tags":{"principal_tags":{"kubernetes-namespace":["tenants-acme"],"#,
                r#""kubernetes-pod-uid":["0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e"]},"transitive_tag_keys":[]}}"#,
            )
        );
        assert_eq!(URL_SAFE_NO_PAD.decode(signed).unwrap(), signature.as_bytes());
    }

    #[test]
    fn a_jwt_has_one_more_tag_for_whom_it_is() {
        let (_, key) = pair();
        let claims = |on_behalf_of: Option<&OnBehalfOf>| -> Value {
            let input = input_of(&key, UNIX_EPOCH, on_behalf_of);
            let claims = input.text.split('.').nth(1).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
        };
        let mut want = claims(None);
        want["https://aws.amazon.com/tags"]["principal_tags"]["on-behalf-of"] = json!(["Jane Doe"]);
        assert_eq!(claims(Some(&"Jane Doe".parse().unwrap())), want);
    }

    #[test]
    fn a_jwt_leaves_only_with_its_own_signature() {
        let ((pair, key), (other_pair, other_key)) = (self::pair(), self::pair());
        let input = |key| input(key, UNIX_EPOCH);
        let good = sign(&pair, &input(&key));
        assert!(input(&key).signed_with(&good).is_ok());
        let by_another = sign(&other_pair, &input(&key));
        assert_eq!(input(&key).signed_with(&by_another).unwrap_err(), WrongSignature);
        assert_eq!(input(&other_key).signed_with(&good).unwrap_err(), WrongSignature);
        let later = self::input(&key, UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(later.signed_with(&good).unwrap_err(), WrongSignature);
        let message = pair.sign(&SystemRandom::new(), input(&key).as_bytes()).unwrap();
        let message = Signature::from_fixed(message.as_ref()).unwrap();
        assert!(input(&key).signed_with(&message).is_ok());
    }

    #[test]
    fn debug_output_hides_the_jwt() {
        let (pair, key) = pair();
        let input = input(&key, UNIX_EPOCH);
        let signature = sign(&pair, &input);
        let jwt = input.signed_with(&signature).unwrap();
        assert_eq!(format!("{jwt:?} {signature:?}"), "<jwt> <signature>");
    }
}
