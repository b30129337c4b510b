//! Tokens of an IAM OIDC provider, validated as STS does.
//!
//! AWS documents some of the rules. Others are as radkawar/stackd measured them on AWS in 2026, with
//! 186 calls that its folder `internal/services/sts/testdata/oidc` records.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>

use std::time::SystemTime;

use serde_json::Value;

use super::{Disbelief, KeySet, Token};
use crate::{arn::RoleArn, moment};

/// Claims of a valid token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Claims {
    /// The claim `azp`, or the only audience.
    pub(crate) audience: String,
    /// The claim `amr`.
    pub(crate) methods: Vec<String>,
    /// Roles that the token may assume; None if it may assume any.
    pub(crate) roles: Option<Vec<String>>,
    pub(crate) source_identity: Option<String>,
    pub(crate) subject: String,
    /// Keys and values of tags.
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) transitive_tag_keys: Vec<String>,
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
        let audience = audience(&token.claims, client_ids)?;
        let subject = token.claims.get("sub").and_then(Value::as_str);
        let (tags, transitive_tag_keys) = tags(&token.claims)?;
        Ok(Self {
            audience,
            methods: token.claims.get("amr").and_then(texts).unwrap_or_default(),
            roles: roles(&token.claims)?,
            source_identity: source_identity(&token.claims)?,
            subject: subject.ok_or(Disbelief::Signature)?.to_owned(),
            tags,
            transitive_tag_keys,
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
    let audiences = claims.get("aud").and_then(texts).ok_or(Disbelief::Audience)?;
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

/// Returns the roles that the token may assume: exact ARNs, in a list or in a string with
/// semicolons. Other entries are ignored.
fn roles(claims: &Value) -> Result<Option<Vec<String>>, Disbelief> {
    let entries: Vec<&str> = match claims.get(ROLES) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.split(';').collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err(Disbelief::Roles),
    };
    let entries = entries.into_iter().map(str::trim);
    let arns: Vec<String> =
        entries.filter(|entry| entry.parse::<RoleArn>().is_ok()).map(str::to_owned).collect();
    if arns.is_empty() {
        return Err(Disbelief::NoRole);
    }
    Ok(Some(arns))
}

/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html#id_credentials_temp_control-access_monitor-assume-role-web-id>
fn source_identity(claims: &Value) -> Result<Option<String>, Disbelief> {
    let Some(claim) = claims.get(SOURCE_IDENTITY) else { return Ok(None) };
    claim.as_str().map(|text| Some(text.to_owned())).ok_or(Disbelief::SourceIdentity)
}

/// Returns the tags, whose values are arrays of one string, and the keys of transitive tags.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html#id_session-tags_adding-assume-role-idp>
#[allow(clippy::type_complexity)] // Two lists, as the claim has them.
fn tags(claims: &Value) -> Result<(Vec<(String, String)>, Vec<String>), Disbelief> {
    let names = claims.as_object().into_iter().flat_map(|claims| claims.keys());
    if names.into_iter().any(|name| name.starts_with(&format!("{TAGS}/"))) {
        return Err(Disbelief::TagsInClaims);
    }
    let Some(claim) = claims.get(TAGS) else { return Ok(Default::default()) };
    let claim = claim.as_object().ok_or(Disbelief::Tags)?;
    let mut tags = Vec::new();
    if let Some(pairs) = claim.get("principal_tags") {
        for (key, values) in pairs.as_object().ok_or(Disbelief::PrincipalTags)? {
            match values.as_array().map(Vec::as_slice) {
                Some([Value::String(value)]) => tags.push((key.clone(), value.clone())),
                _ => return Err(Disbelief::PrincipalTags),
            }
        }
    }
    let transitive = match claim.get("transitive_tag_keys") {
        None => Vec::new(),
        Some(keys @ Value::Array(_)) => texts(keys).ok_or(Disbelief::Tags)?,
        Some(_) => return Err(Disbelief::Tags),
    };
    Ok((tags, transitive))
}

/// Returns the items of one string or of a list of strings.
fn texts(claim: &Value) -> Option<Vec<String>> {
    match claim {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>
const REQUIRED: [&str; 5] = ["iss", "sub", "aud", "iat", "exp"];

const ROLES: &str = "https://aws.amazon.com/roles";

const SOURCE_IDENTITY: &str = "https://aws.amazon.com/source_identity";

const TAGS: &str = "https://aws.amazon.com/tags";

/// Seconds by which the clocks of STS and of the issuer may differ; measured by radkawar/stackd.
const TOLERANCE: u64 = 300;
