//! Turns the bytes of an AdmissionReview into the bytes of its response.
//!
//! The module does no I/O. The same review, path, namespaces, roles and config always give the same
//! response.

mod bounded;
mod component;
mod decide;
mod decision;
mod drift;
mod eks;
mod env;
mod items;
mod list_edit;
mod mesh;
mod names;
mod operations;
mod outcome;
mod patch;
mod pod;
mod pod_fields;
mod refusal;
mod refusals;
mod response;
mod review;
mod run_as_user;
mod same;
mod sidecar;
mod violations;

use std::{
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use json_patch::PatchOperation;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

pub use self::{
    component::NamedBy,
    decide::{namespace_refusal, pod_security_refusal, role_refusal},
    decision::{Decision, Gives, Injection, Missing, Passed},
    drift::{Drift, DriftStatus, drift, has_ended, sidecar, sidecar_variable},
    eks::{VARIABLES as BASE_CREDENTIALS, pod_identity_host},
    mesh::{AMBIENT_LABEL, NOT_AMBIENT, OWN_NETWORK},
    names::{BASE_VOLUME, CONTAINER_NAME, JAVA_OPTIONS, JAVA_PROPERTIES, STATIC_CREDENTIALS},
    outcome::Explained,
    patch::ROLE_ARN_ANNOTATION,
    refusal::Refusal,
    review::NotAReview,
};
use self::{
    outcome::Outcome,
    pod_fields::PodJson,
    refusals::WantedRefusals,
    review::{Request, Resource, UserInfo},
};
use crate::{
    config::Config,
    json::{Object, Scalar},
    namespaces::{Mode, Namespaces},
    roles::Roles,
};

/// A valid review. Its response always carries its uid.
///
/// It has a parsed pod, which may take more memory than its text. So it is not `Send`: the
/// webhook's futures cannot hold it while they wait.
pub struct Review<'a>(Request<'a>, PhantomData<Rc<()>>);

/// The response to a review, and its fields for log and metrics.
#[derive(Debug)]
pub struct Answer {
    pub body: Vec<u8>,
    /// `inject`, `env`, `keep`, `withhold`, `pass` or `refuse`.
    pub decision: &'static str,
    /// The code of the refusal, or an empty string.
    pub code: &'static str,
    pub component: Option<String>,
    /// The pod's name, or its `generateName`; at most 253 characters of it.
    pub pod: Option<String>,
    /// The namespace or role that the snapshots lack.
    pub missing: Option<Missing>,
}

impl<'a> Review<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, NotAReview> {
        review::parse(body).map(|request| Self(request, PhantomData))
    }

    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    pub fn is_dry_run(&self) -> bool {
        self.0.dry_run.0
    }

    /// Returns the response of the webhook for `mode`. In `audit` it changes and refuses nothing.
    pub fn answer(
        &self,
        mode: Mode,
        namespaces: &Namespaces,
        roles: &Roles,
        config: &Config,
    ) -> Answer {
        let respond = |outcome: Outcome<'_>| {
            let (decision, code) = match &outcome.decision {
                Decision::Inject(injection) => (injection.gives.as_str(), ""),
                Decision::Pass(_) => ("pass", ""),
                Decision::Refuse(refusal) => ("refuse", refusal.code()),
            };
            let body = response::respond(&self.0.uid, &outcome, mode == Mode::Enabled);
            Answer {
                body,
                decision,
                code,
                component: outcome.component().map(str::to_owned),
                missing: outcome.decision.missing(),
                pod: outcome.pod,
            }
        };
        let answer =
            || respond(decide::outcome(&self.0, namespaces, roles, config, WantedRefusals::First));
        guarded(answer).unwrap_or_else(|| respond(Outcome::failure()))
    }
}

/// Returns the result of `decide`, or `None` if it panics. The caller then refuses the pod.
fn guarded<T>(decide: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(decide)).ok()
}

impl std::fmt::Debug for Review<'_> {
    /// Omits the pod: its text comes from the tenant and does not belong in the log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Review")
            .field("uid", &self.uid())
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

/// Returns what the webhook does to `pod` if `creator` creates it in `namespace`: the decision, the
/// operations, and the warnings to the requesting user.
pub fn decide(
    pod: &Value,
    creator: &str,
    namespace: &str,
    namespaces: &Namespaces,
    roles: &Roles,
    config: &Config,
) -> (Decision, Vec<PatchOperation>, Vec<String>) {
    let pod = to_raw_value(pod).ok();
    let (pod, wanted) = (pod.as_deref(), WantedRefusals::First);
    let Explained { decision, further: _, matched: _, operations, warnings } =
        explain_text(pod, creator, namespace, namespaces, roles, config, wanted);
    (decision, operations, warnings)
}

/// Returns the decision as [`decide()`] does, with the rule and the data that it results from, and
/// with all refusals.
pub fn explain<'c>(
    pod: &Value,
    creator: &str,
    namespace: &str,
    namespaces: &Namespaces,
    roles: &Roles,
    config: &'c Config,
) -> Explained<'c> {
    let pod = to_raw_value(pod).ok();
    let (pod, wanted) = (pod.as_deref(), WantedRefusals::All);
    explain_text(pod, creator, namespace, namespaces, roles, config, wanted)
}

fn explain_text<'c>(
    pod: Option<&RawValue>,
    creator: &str,
    namespace: &str,
    namespaces: &Namespaces,
    roles: &Roles,
    config: &'c Config,
    wanted: WantedRefusals,
) -> Explained<'c> {
    let request = Request {
        uid: "offline".into(),
        operation: "CREATE".into(),
        namespace: namespace.into(),
        resource: Object(Resource {
            group: "".into(),
            version: "v1".into(),
            resource: "pods".into(),
        }),
        sub_resource: "".into(),
        dry_run: Scalar(false),
        user_info: Object(UserInfo { username: creator.into() }),
        object: pod.map(PodJson::of),
    };
    decide::outcome(&request, namespaces, roles, config, wanted).explained()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_refusal() {
        assert!(guarded(|| panic!("a bug")).is_none());
        let outcome = Outcome::failure();
        assert_eq!(outcome.refusal(), Some(&Refusal::Internal));
        let answer: Value =
            serde_json::from_slice(&response::respond("u", &outcome, true)).unwrap();
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["status"]["code"], 503);
    }
}
