//! The session of a pod that runs a Sandbox, as the session issuer reads it.

use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::guard;
use crate::{
    check::Seen,
    command::{CommandError, cluster::Cluster},
    config::Config,
    issuer::{
        CLAIM_API, CallerPod, GuardRule, OwnedSandbox, SANDBOX_API, SandboxOwner, SandboxReference,
        SandboxSession, TokenFacts, TokenRefusal, youngest,
    },
    json::Json,
};

/// Reads the session. `None`: it is not that of a Sandbox.
pub(super) async fn session(
    cluster: &Cluster,
    pod: &Value,
    config: &Config,
) -> Result<Option<Seen<Result<SandboxSession, TokenRefusal>>>, CommandError> {
    // A parsed pod can be written as JSON.
    let pod = to_raw_value(pod).unwrap_or_default();
    let pod = Json::from(&*pod);
    let (Some(issuer), Some(facts)) = (&config.issuer, TokenFacts::of_pod(pod)) else {
        return Ok(None);
    };
    if !CallerPod::of(&facts, Some(pod), issuer).is_ok_and(|it| it.has_session_of_sandbox()) {
        return Ok(None);
    }
    match SandboxReference::of_pod(&facts, pod) {
        Ok(reference) => of_sandbox(cluster, &facts, &reference).await.map(Some),
        Err(refusal) => Ok(Some(Seen::Known(Err(refusal)))),
    }
}

async fn of_sandbox(
    cluster: &Cluster,
    facts: &TokenFacts,
    reference: &SandboxReference,
) -> Result<Seen<Result<SandboxSession, TokenRefusal>>, CommandError> {
    let namespace = facts.namespace.as_str();
    let get = async |api: &str,
                     resource: &str,
                     name: &str|
           -> Result<Seen<Option<Box<RawValue>>>, CommandError> {
        cluster.get(&format!("{api}/namespaces/{namespace}/{resource}"), name).await
    };
    let sandbox = match get(SANDBOX_API, "sandboxes", reference.name.as_str()).await? {
        Seen::Known(sandbox) => sandbox,
        Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
    };
    let sandbox = match OwnedSandbox::of(facts, reference, sandbox.as_deref().map(Json::from)) {
        Ok(sandbox) => sandbox,
        Err(refusal) => return Ok(Seen::Known(Err(refusal))),
    };
    let claim = match &sandbox.owner {
        SandboxOwner::NoOwner => Seen::Known(None),
        SandboxOwner::Claim(claim) => get(CLAIM_API, "sandboxclaims", claim.name.as_str()).await?,
    };
    let mut sinces = Vec::new();
    for rule in &GuardRule::of_sandboxes() {
        match guard(cluster, rule).await? {
            Seen::Known(since) => sinces.push(since),
            Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
        }
    }
    Ok(match claim {
        Seen::Hidden(why) => Seen::Hidden(why),
        Seen::Known(claim) => {
            let since = youngest(sinces);
            Seen::Known(sandbox.session(facts, claim.as_deref().map(Json::from), since))
        }
    })
}
