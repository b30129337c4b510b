//! Tokens of an IAM OIDC provider, validated as STS does.
//!
//! AWS documents some of the rules. Others are as radkawar/stackd measured them on AWS in 2026, with
//! 186 calls that its folder `internal/services/sts/testdata/oidc` records.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>

use std::time::SystemTime;

use serde_json::Value;

use super::{Disbelief, KeySet, Token};
use crate::moment;

/// Claims of a valid token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Claims {
    /// The claim `azp`, or the only audience.
    pub(crate) audience: String,
    pub(crate) subject: String,
}

impl Claims {
    /// Returns the claims of a token of a provider with these client IDs, if it is valid at `now`.
    /// The issuer is already known: it selects the provider. `algorithms` and `keys` are those
    /// that it publishes.
    pub(crate) fn read(
        token: &Token<'_>,
        client_ids: &[String],
        algorithms: &[String],
        keys: &KeySet,
        now: SystemTime,
    ) -> Result<Self, Disbelief> {
        // No extension of the header is known, so none that is critical can be accepted.
        if token.header.get("crit").is_some() {
            return Err(Disbelief::NotAToken);
        }
        let missing = REQUIRED.iter().find(|name| token.claims.get(**name).is_none());
        if let Some(name) = missing {
            return Err(Disbelief::Missing(name));
        }
        token.verify(keys)?;
        let is_announced = |algorithm| algorithms.iter().any(|one| one == algorithm);
        if !token.algorithm().is_some_and(is_announced) {
            return Err(Disbelief::Signature);
        }
        check_times(&token.claims, moment::seconds(now))?;
        let subject = token.claims.get("sub").and_then(Value::as_str);
        Ok(Self {
            audience: audience(&token.claims, client_ids)?,
            subject: subject.ok_or(Disbelief::Signature)?.to_owned(),
        })
    }
}

/// Compares the times with a tolerance in both directions. The messages of STS have the time that
/// it compares, not its own.
fn check_times(claims: &Value, now: u64) -> Result<(), Disbelief> {
    let (early, late) = (now.saturating_sub(TOLERANCE), now + TOLERANCE);
    let [issued, expires, begins] = ["iat", "exp", "nbf"].map(|name| timestamp(claims, name));
    let (issued, expires, begins) = (issued?, expires?, begins?);
    if let Some(at) = issued.filter(|at| *at > late) {
        return Err(Disbelief::Future(at));
    }
    if let Some(at) = expires.filter(|at| *at <= early) {
        return Err(Disbelief::Expired { at, now: early });
    }
    if let Some(at) = begins.filter(|at| *at > late) {
        return Err(Disbelief::NotYet { at, now: late });
    }
    Ok(())
}

/// Returns a time: an integer, or a string of one.
fn timestamp(claims: &Value, name: &str) -> Result<Option<u64>, Disbelief> {
    let Some(claim) = claims.get(name) else { return Ok(None) };
    let seconds = claim.as_u64().or_else(|| claim.as_str()?.parse().ok());
    seconds.map(Some).ok_or(Disbelief::Timestamp)
}

fn audience(claims: &Value, client_ids: &[String]) -> Result<String, Disbelief> {
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|one| one.as_str().ok_or(Disbelief::Audience));
            texts.collect::<Result<_, _>>()?
        }
        _ => return Err(Disbelief::Audience),
    };
    let audience = match (claims.get("azp"), &audiences[..]) {
        (_, []) => return Err(Disbelief::Empty("aud")),
        (Some(party), _) => party.as_str().ok_or(Disbelief::Audience)?,
        (None, [one]) => one,
        (None, _) => return Err(Disbelief::SecondAudience),
    };
    if !client_ids.iter().any(|id| id == audience) {
        return Err(Disbelief::Audience);
    }
    Ok(audience.to_owned())
}

/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>
const REQUIRED: [&str; 5] = ["iss", "sub", "aud", "iat", "exp"];

/// Seconds by which the clocks of STS and of the issuer may differ; measured by radkawar/stackd.
const TOLERANCE: u64 = 300;
