//! The session of a pod that runs a Sandbox of agent-sandbox: it comes with a SandboxClaim.
//!
//! The pod's controller is a Sandbox, and the Sandbox's controller is a SandboxWarmPool until a
//! SandboxClaim gets it. The guard lets only the controller of agent-sandbox write these references,
//! and never a second claim. So what they say now is the session, without a store of what they said.
//! <https://github.com/kubernetes-sigs/agent-sandbox>

use std::borrow::Cow;

use jiff::Timestamp;

use super::{ObjectName, TokenFacts, guard::created, refusal::TokenRefusal};
use crate::{
    json::Json,
    session::{PodUid, SessionName},
};

/// The controller reference of an object to one of agent-sandbox.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SandboxReference {
    pub name: ObjectName,
    uid: PodUid,
}

/// The pod's Sandbox: its owner, and when it was created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnedSandbox {
    pub owner: SandboxOwner,
    created: Option<Timestamp>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SandboxOwner {
    Claim(SandboxReference),
    /// No pool and no claim: the Sandbox was created by itself, and the pod is the session.
    NoOwner,
}

/// The session of a pod that runs a Sandbox, and what its age is compared with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SandboxSession {
    pub(super) name: SessionName,
    pub(super) sandbox_created: Option<Timestamp>,
    pub(super) guard_since: Option<Timestamp>,
}

impl SandboxReference {
    /// Returns the Sandbox that the pod's controller reference names: it has the pod's name.
    pub fn of_pod(caller: &TokenFacts, pod: Json<'_>) -> Result<Self, TokenRefusal> {
        let gone = |why| TokenRefusal::SandboxGone { why };
        let (kind, reference) = controller(pod.at("metadata"), SANDBOX_GROUP)?
            .ok_or_else(|| gone("the pod has no Sandbox as its controller"))?;
        if kind != "Sandbox" {
            return Err(gone("the pod has no Sandbox as its controller"));
        }
        if reference.name != caller.pod_name {
            return Err(gone("it has another name than the pod"));
        }
        Ok(reference)
    }

    /// Reports whether the object is there and is not being deleted.
    fn is(&self, object: Json<'_>) -> bool {
        let metadata = object.at("metadata");
        let is_deleted = metadata.at("deletionTimestamp").string().is_some();
        let uid = metadata.at("uid").string();
        !is_deleted && uid.is_some_and(|uid| uid == self.uid.as_str())
    }
}

impl OwnedSandbox {
    /// Returns the owner of the pod's Sandbox. `sandbox`: the stored one of the reference's name.
    pub fn of(
        caller: &TokenFacts,
        reference: &SandboxReference,
        sandbox: Option<Json<'_>>,
    ) -> Result<Self, TokenRefusal> {
        let gone = |why| TokenRefusal::SandboxGone { why };
        let sandbox = sandbox.ok_or_else(|| gone("it is deleted"))?;
        if !reference.is(sandbox) {
            return Err(gone("it is deleted"));
        }
        let metadata = sandbox.at("metadata");
        let pod = || caller.pod_name.to_string();
        let owner = match controller(metadata, CLAIM_GROUP)? {
            Some((kind, claim)) if kind == "SandboxClaim" => SandboxOwner::Claim(claim),
            Some((kind, _)) if kind == "SandboxWarmPool" => {
                return Err(TokenRefusal::Unbound { pod: pod() });
            }
            Some(_) => return Err(gone("its controller is of an unknown kind")),
            // A Sandbox that had a claim has no other session afterwards.
            None if metadata.at("labels").at(CLAIM_LABEL).string().is_some() => {
                return Err(TokenRefusal::ClaimGone { pod: pod() });
            }
            None => SandboxOwner::NoOwner,
        };
        Ok(Self { owner, created: created(metadata) })
    }

    /// Returns the session. `claim`: the stored SandboxClaim of the owner's name, if a claim is the
    /// owner. `guard_since`: since when the guard protects all of these references.
    pub fn session(
        &self,
        caller: &TokenFacts,
        claim: Option<Json<'_>>,
        guard_since: Option<Timestamp>,
    ) -> Result<SandboxSession, TokenRefusal> {
        let uid = match &self.owner {
            SandboxOwner::NoOwner => &caller.pod_uid,
            SandboxOwner::Claim(reference) => {
                if !claim.is_some_and(|claim| reference.is(claim)) {
                    return Err(TokenRefusal::ClaimGone { pod: caller.pod_name.to_string() });
                }
                &reference.uid
            }
        };
        let name = uid.as_str().parse().map_err(|_| TokenRefusal::NoSession {
            why: "the UID of its claim is not a valid session name",
        })?;
        Ok(SandboxSession { name, sandbox_created: self.created, guard_since })
    }
}

/// Reports whether the Sandbox may still be in a pool. A request that waits does so only as long.
pub fn is_in_pool(sandbox: Json<'_>) -> bool {
    let owner = controller(sandbox.at("metadata"), CLAIM_GROUP);
    matches!(owner, Ok(Some((kind, _))) if kind == "SandboxWarmPool")
}

/// Returns kind and reference of the object's controller, if it is of the API group. A reference keeps
/// the API version with which it was written.
fn controller<'a>(
    metadata: Json<'a>,
    group: &str,
) -> Result<Option<(Cow<'a, str>, SandboxReference)>, TokenRefusal> {
    let is_controller = |owner: &Json<'_>| owner.at("controller").text() == "true";
    let Some(owner) = metadata.at("ownerReferences").items().find(is_controller) else {
        return Ok(None);
    };
    let version = owner.at("apiVersion").string().unwrap_or_default();
    if version.split_once('/').is_none_or(|(found, _)| found != group) {
        return Ok(None);
    }
    let reference = || {
        let name = owner.at("name").string()?.parse().ok()?;
        let uid = owner.at("uid").string()?.parse().ok()?;
        Some((owner.at("kind").string()?, SandboxReference { name, uid }))
    };
    let invalid = TokenRefusal::SandboxGone { why: "a reference to its controller is invalid" };
    reference().ok_or(invalid).map(Some)
}

/// Path of the API of Sandboxes.
pub const SANDBOX_API: &str = "/apis/agents.x-k8s.io/v1beta1";
/// Path of the API of SandboxClaims.
pub const CLAIM_API: &str = "/apis/extensions.agents.x-k8s.io/v1beta1";
const SANDBOX_GROUP: &str = "agents.x-k8s.io";
/// API group of SandboxClaims and SandboxWarmPools.
pub const CLAIM_GROUP: &str = "extensions.agents.x-k8s.io";
/// The label that the controller writes on a claimed Sandbox. The guard keeps it.
const CLAIM_LABEL: &str = "agents.x-k8s.io/claim-uid";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    const POD: &str = "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
    const SANDBOX: &str = "1e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
    const CLAIM: &str = "2e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";

    fn caller() -> TokenFacts {
        TokenFacts {
            namespace: "tenants-acme".parse().unwrap(),
            service_account: "tenant-runtime".parse().unwrap(),
            pod_name: "pool-x1".parse().unwrap(),
            pod_uid: POD.parse().unwrap(),
            credential_id: None,
        }
    }

    fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true})
    }

    fn object(uid: &str, owners: &[Value]) -> Value {
        json!({"metadata": {"uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": owners}})
    }

    fn of_pod(owners: &[Value]) -> Result<SandboxReference, &'static str> {
        let pod = to_raw_value(&object(POD, owners)).unwrap();
        SandboxReference::of_pod(&caller(), Json::from(&*pod)).map_err(|refusal| refusal.code())
    }

    /// Returns the session of the pod, for its stored Sandbox and claim.
    fn session(sandbox: Option<Value>, claim: Option<Value>) -> Result<String, &'static str> {
        let [sandbox, claim] =
            [sandbox, claim].map(|object| object.map(|object| to_raw_value(&object).unwrap()));
        let reference =
            of_pod(&[owner("agents.x-k8s.io/v1beta1", "Sandbox", "pool-x1", SANDBOX)]).unwrap();
        let sandbox = OwnedSandbox::of(&caller(), &reference, sandbox.as_deref().map(Json::from));
        let session = sandbox
            .and_then(|sandbox| sandbox.session(&caller(), claim.as_deref().map(Json::from), None));
        session.map(|found| found.name.as_str().to_owned()).map_err(|refusal| refusal.code())
    }

    #[test]
    fn a_pods_sandbox_is_its_controller_with_its_name() {
        let group = "agents.x-k8s.io/v1beta1";
        assert!(of_pod(&[owner(group, "Sandbox", "pool-x1", SANDBOX)]).is_ok());
        assert!(
            of_pod(&[owner("agents.x-k8s.io/v1alpha1", "Sandbox", "pool-x1", SANDBOX)]).is_ok()
        );
        let mut no_controller = owner(group, "Sandbox", "pool-x1", SANDBOX);
        no_controller["controller"] = json!(false);
        let job = owner("batch/v1", "Job", "pool-x1", SANDBOX);
        let cases = [
            vec![],
            vec![no_controller],
            vec![job.clone(), owner(group, "Sandbox", "pool-x1", SANDBOX)],
            vec![job],
            vec![owner("agents.x-k8s.io.evil/v1", "Sandbox", "pool-x1", SANDBOX)],
            vec![owner("agents.x-k8s.io", "Sandbox", "pool-x1", SANDBOX)],
            vec![owner(group, "SandboxClaim", "pool-x1", SANDBOX)],
            vec![owner(group, "Sandbox", "pool-x2", SANDBOX)],
            vec![owner(group, "Sandbox", "pool-x1", "")],
        ];
        for owners in cases {
            assert_eq!(of_pod(&owners), Err("sandbox-gone"), "{owners:?}");
        }
    }

    #[test]
    fn the_claim_of_the_sandbox_is_the_session() {
        let group = "extensions.agents.x-k8s.io/v1beta1";
        let pool = || object(SANDBOX, &[owner(group, "SandboxWarmPool", "pool", POD)]);
        let claimed = || object(SANDBOX, &[owner(group, "SandboxClaim", "claim", CLAIM)]);
        let claim = || Some(object(CLAIM, &[]));
        let mut deleted = object(CLAIM, &[]);
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut deleted_sandbox = claimed();
        deleted_sandbox["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut orphaned = object(SANDBOX, &[]);
        orphaned["metadata"]["labels"] = json!({"agents.x-k8s.io/claim-uid": CLAIM});
        let cases = [
            (Some(claimed()), claim(), Ok(CLAIM)),
            (Some(pool()), None, Err("unbound")),
            (Some(object(SANDBOX, &[])), None, Ok(POD)),
            (Some(object(SANDBOX, &[owner("apps/v1", "Deployment", "d", CLAIM)])), None, Ok(POD)),
            // A claim of the same name is another session.
            (Some(claimed()), Some(object(POD, &[])), Err("claim-gone")),
            (Some(claimed()), Some(deleted), Err("claim-gone")),
            (Some(claimed()), None, Err("claim-gone")),
            (Some(orphaned), None, Err("claim-gone")),
            (Some(object(POD, &[])), None, Err("sandbox-gone")),
            (Some(deleted_sandbox), claim(), Err("sandbox-gone")),
            (None, None, Err("sandbox-gone")),
            (
                Some(object(SANDBOX, &[owner(group, "SandboxTemplate", "t", CLAIM)])),
                None,
                Err("sandbox-gone"),
            ),
        ];
        for (sandbox, claim, want) in cases {
            let found = session(sandbox.clone(), claim.clone());
            assert_eq!(found, want.map(str::to_owned), "{sandbox:?} {claim:?}");
        }
    }
}
