//! JSON Web Tokens: issued as issuers do, validated as services of AWS do.

mod issuer;
mod key_set;
mod web_identity;

use std::time::SystemTime;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

pub use self::{
    issuer::{Algorithm, Issuer, NoKey, Pod},
    key_set::NotAKeySet,
};
pub(crate) use self::{key_set::KeySet, web_identity::Claims};
use crate::moment;

/// A token, whose signature is not verified yet.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    header: Value,
    claims: Value,
    /// Header and claims, as they are signed.
    signed: &'t str,
    signature: Vec<u8>,
}

/// The claim `kubernetes.io`. A token that is bound to a pod names it.
/// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
    pub(crate) service_account: String,
}

/// The reason why a token is invalid. Each service has its own message for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Disbelief {
    Audience,
    /// A claim that is empty, and must not be.
    Empty(&'static str),
    Expired {
        at: u64,
        now: u64,
    },
    /// Issued later than now.
    Future(u64),
    Issuer(String),
    /// A required claim that is missing.
    Missing(&'static str),
    /// The claim about roles names no role.
    NoRole,
    NotAToken,
    NotYet {
        at: u64,
        now: u64,
    },
    /// The claim about roles names other roles.
    OtherRole,
    /// Tags whose values are not arrays of one string.
    PrincipalTags,
    /// The claim about roles is neither a list nor a string.
    Roles,
    /// More than one audience, without the claim `azp`.
    SecondAudience,
    Signature,
    SourceIdentity,
    /// The claim about tags is not an object with lists.
    Tags,
    /// Tags in the form that has one claim for each tag.
    TagsInClaims,
    /// A time that is not an integer.
    Timestamp,
    UnknownKey,
}

impl<'t> Token<'t> {
    pub(crate) fn read(text: &'t str) -> Result<Self, Disbelief> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Disbelief::NotAToken)?;
        let (header, claims) = signed.split_once('.').ok_or(Disbelief::NotAToken)?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let parse = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).ok();
        match (parse(header), parse(claims), decode(signature)) {
            (Some(header), Some(claims), Some(signature)) => {
                Ok(Self { header, claims, signed, signature })
            }
            _ => Err(Disbelief::NotAToken),
        }
    }

    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    fn algorithm(&self) -> Option<&str> {
        self.header.get("alg")?.as_str()
    }

    fn verify(&self, keys: &KeySet) -> Result<(), Disbelief> {
        let algorithm = self.algorithm().ok_or(Disbelief::NotAToken)?;
        // STS also accepts a token without a key ID, if there is only one key.
        let key = self.header.get("kid").and_then(Value::as_str).ok_or(Disbelief::UnknownKey)?;
        keys.verify(key, algorithm, self.signed.as_bytes(), &self.signature)
    }
}

/// Returns the pod of a token, if `issuer` signed it for `audience` and it is valid at `now`. EKS
/// Auth validates tokens of a cluster.
pub(crate) fn believe(
    token: &str,
    issuer: &str,
    keys: &KeySet,
    audience: &str,
    now: SystemTime,
) -> Result<Option<Kubernetes>, Disbelief> {
    let token = Token::read(token)?;
    // The issuer is checked before the signature, since it selects the keys.
    let found = token.issuer().ok_or(Disbelief::NotAToken)?;
    if found != issuer {
        return Err(Disbelief::Issuer(found.to_owned()));
    }
    token.verify(keys)?;

    let Token { header: _, claims, signed: _, signature: _ } = token;
    let now = moment::seconds(now);
    let seconds = |name: &str| claims.get(name).and_then(Value::as_u64);
    let at = seconds("exp").ok_or(Disbelief::NotAToken)?;
    if at <= now {
        return Err(Disbelief::Expired { at, now });
    }
    if let Some(at) = seconds("nbf").filter(|at| *at > now) {
        return Err(Disbelief::NotYet { at, now });
    }
    let holds = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(list)) => list.iter().any(|one| one == audience),
        _ => false,
    };
    if !holds {
        return Err(Disbelief::Audience);
    }
    Ok(kubernetes(&claims))
}

fn kubernetes(claims: &Value) -> Option<Kubernetes> {
    let text = |pointer| claims.pointer(pointer)?.as_str().map(str::to_owned);
    Some(Kubernetes {
        namespace: text("/kubernetes.io/namespace")?,
        pod: text("/kubernetes.io/pod/name")?,
        pod_uid: text("/kubernetes.io/pod/uid")?,
        service_account: text("/kubernetes.io/serviceaccount/name")?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_token_is_valid_only_for_issuer_audience_and_time() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (soon, late) = (now + Duration::from_secs(3599), now + Duration::from_secs(3600));
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let issuer = Issuer::with("https://oidc.test/id", algorithm).unwrap();
            let stranger = Issuer::with("https://oidc.test/id", algorithm).unwrap();
            let keys = KeySet::read(&issuer.jwks()).unwrap();
            let strange_keys = KeySet::read(&stranger.jwks()).unwrap();
            let pod = Pod::new("tenants-acme", "tenant-runtime", "agent-0");
            let token = issuer.mint(&pod, "sts.amazonaws.com", now, HOUR);
            let ask = |issuer, keys, audience, now| believe(&token, issuer, keys, audience, now);
            let (url, audience) = ("https://oidc.test/id", "sts.amazonaws.com");

            let believed = ask(url, &keys, audience, soon).unwrap().unwrap();
            assert_eq!((&*believed.namespace, &*believed.pod), ("tenants-acme", "agent-0"));
            let (issued, expired) = (1_800_000_000, 1_800_003_600);
            let early = issued - 3600;
            let cases = [
                (
                    ask("https://oidc.test/other", &keys, audience, soon),
                    Disbelief::Issuer(url.to_owned()),
                ),
                (ask(url, &keys, "pods.eks.amazonaws.com", soon), Disbelief::Audience),
                (ask(url, &keys, "STS.amazonaws.com", soon), Disbelief::Audience),
                (ask(url, &keys, audience, late), Disbelief::Expired { at: expired, now: expired }),
                (
                    ask(url, &keys, audience, now - HOUR),
                    Disbelief::NotYet { at: issued, now: early },
                ),
                (ask(url, &strange_keys, audience, soon), Disbelief::UnknownKey),
                (believe("a.b", url, &keys, audience, soon), Disbelief::NotAToken),
                (believe(&spoiled(&token), url, &keys, audience, soon), Disbelief::Signature),
            ];
            for (found, want) in cases {
                assert_eq!(found, Err(want), "{algorithm:?}");
            }
        }
    }

    /// Returns the token with another namespace.
    fn spoiled(token: &str) -> String {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims = String::from_utf8(claims).unwrap().replace("tenants-acme", "tenants-evil");
        format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    const HOUR: Duration = Duration::from_secs(3600);
}
