//! Projected service account tokens: issued as the API server does, validated as AWS does.

mod issuer;
mod key_set;

use std::time::SystemTime;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

pub(crate) use self::key_set::KeySet;
pub use self::{
    issuer::{Algorithm, Issuer, NoKey, Pod},
    key_set::NotAKeySet,
};
use crate::moment;

/// Claims of a valid token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Claims {
    pub(crate) audience: String,
    pub(crate) subject: String,
    pub(crate) kubernetes: Option<Kubernetes>,
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
    Expired { at: u64, now: u64 },
    Issuer(String),
    NotAToken,
    NotYet,
    Signature,
    UnknownKey,
}

/// Returns the claims of a token, if `issuer` signed it for `audience` and it is valid at `now`.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>
pub(crate) fn believe(
    token: &str,
    issuer: &str,
    keys: &KeySet,
    audience: &str,
    now: SystemTime,
) -> Result<Claims, Disbelief> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Disbelief::NotAToken)?;
    let (header, claims) = signed.split_once('.').ok_or(Disbelief::NotAToken)?;
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
    let parse = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).ok();
    let (Some(header), Some(claims), Some(signature)) =
        (parse(header), parse(claims), decode(signature))
    else {
        return Err(Disbelief::NotAToken);
    };
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    // The issuer is checked before the signature, since it selects the keys.
    let found = text(&claims, "iss").ok_or(Disbelief::NotAToken)?;
    if found != issuer {
        return Err(Disbelief::Issuer(found));
    }
    let (Some(key), Some(algorithm)) = (text(&header, "kid"), text(&header, "alg")) else {
        return Err(Disbelief::NotAToken);
    };
    keys.verify(&key, &algorithm, signed.as_bytes(), &signature)?;

    let now = moment::seconds(now);
    let seconds = |name: &str| claims.get(name).and_then(Value::as_u64);
    let at = seconds("exp").ok_or(Disbelief::NotAToken)?;
    if at <= now {
        return Err(Disbelief::Expired { at, now });
    }
    if seconds("nbf").is_some_and(|not_before| not_before > now) {
        return Err(Disbelief::NotYet);
    }
    let holds = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(list)) => list.iter().any(|one| one == audience),
        _ => false,
    };
    if !holds {
        return Err(Disbelief::Audience);
    }
    Ok(Claims {
        audience: audience.to_owned(),
        subject: text(&claims, "sub").ok_or(Disbelief::NotAToken)?,
        kubernetes: kubernetes(&claims),
    })
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
            let believe = |token: &str, issuer, keys, audience, now| {
                believe(token, issuer, keys, audience, now).map(|claims| claims.kubernetes)
            };
            let ask = |issuer, keys, audience, now| believe(&token, issuer, keys, audience, now);
            let (url, audience) = ("https://oidc.test/id", "sts.amazonaws.com");

            let believed = ask(url, &keys, audience, soon).unwrap().unwrap();
            assert_eq!((&*believed.namespace, &*believed.pod), ("tenants-acme", "agent-0"));
            let expired = 1_800_003_600;
            let cases = [
                (
                    ask("https://oidc.test/other", &keys, audience, soon),
                    Disbelief::Issuer(url.to_owned()),
                ),
                (ask(url, &keys, "pods.eks.amazonaws.com", soon), Disbelief::Audience),
                (ask(url, &keys, "STS.amazonaws.com", soon), Disbelief::Audience),
                (ask(url, &keys, audience, late), Disbelief::Expired { at: expired, now: expired }),
                (ask(url, &keys, audience, now - HOUR), Disbelief::NotYet),
                (ask(url, &strange_keys, audience, soon), Disbelief::UnknownKey),
                (believe("a.b", url, &keys, audience, soon), Disbelief::NotAToken),
                (believe(&spoiled(&token), url, &keys, audience, soon), Disbelief::Signature),
            ];
            for (found, want) in cases {
                assert_eq!(found, Err(want), "{algorithm:?}");
            }
        }
    }

    /// Returns the token without its last claim.
    fn spoiled(token: &str) -> String {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims = String::from_utf8(claims).unwrap().replace("tenants-acme", "tenants-evil");
        format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    const HOUR: Duration = Duration::from_secs(3600);
}
