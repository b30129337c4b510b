//! Review bytes in, review bytes out. Nothing here does I/O, and the same review, namespaces
//! and roles always give the same answer.

mod claim;
mod decide;
mod demands;
mod eks;
mod env;
mod list;
mod mesh;
mod names;
mod patch;
mod pod;
mod refusal;
mod review;
mod same;
mod sidecar;
mod standing;
mod user;

use std::panic::{AssertUnwindSafe, catch_unwind};

use json_patch::PatchOperation;
use serde_json::Value;

pub use self::{
    claim::NamedBy,
    decide::{
        Decision, Explained, Gives, Injection, Missing, Passed, insecure, unpublished, unworkable,
    },
    demands::STATIC_CREDENTIALS,
    eks::VARIABLES as BASE_CREDENTIALS,
    mesh::{AMBIENT_LABEL, NOT_AMBIENT, OWN_NETWORK},
    patch::ROLE_ARN_ANNOTATION,
    refusal::Refusal,
    review::NotAReview,
    sidecar::CONTAINER_NAME,
    standing::{Compared, Standing, sidecar, standing},
};
use self::{
    decide::Outcome,
    review::{Object, Request, Resource, Scalar, UserInfo},
};
use crate::{
    config::Config,
    directory::Directory,
    namespaces::{Mode, Namespaces},
};

/// A review that can be answered: from here on, there is always an answer with its uid.
pub struct Review<'a>(Request<'a>);

/// An answer, and what log and metrics say of it.
#[derive(Debug)]
pub struct Answer {
    pub body: Vec<u8>,
    /// `inject`, `env`, `keep`, `withhold`, `pass` or `refuse`.
    pub decision: &'static str,
    /// The refusal's code, or nothing.
    pub code: &'static str,
    pub component: Option<String>,
    /// What the snapshots lacked.
    pub missing: Option<Missing>,
}

impl<'a> Review<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, NotAReview> {
        review::parse(body).map(Self)
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

    /// `mode` is the webhook that was called: an audit changes and blocks nothing.
    pub fn answer(
        &self,
        mode: Mode,
        namespaces: &Namespaces,
        directory: &Directory,
        config: &Config,
    ) -> Answer {
        let respond = |(outcome, missing): (Outcome<'_>, Option<Missing>)| {
            let (decision, code) = match outcome.decision() {
                Decision::Inject(injection) => (injection.gives.as_str(), ""),
                Decision::Pass(_) => ("pass", ""),
                Decision::Refuse(refusal) => ("refuse", refusal.code()),
            };
            let body = review::respond(&self.0.uid, &outcome, mode == Mode::Enabled);
            Answer {
                body,
                decision,
                code,
                component: outcome.component().map(str::to_owned),
                missing,
            }
        };
        let answer = || respond(decide::outcome(&self.0, namespaces, directory, config));
        guarded(answer).unwrap_or_else(|| respond((Outcome::failure(), None)))
    }
}

/// A pod that trips a bug of ours is refused like any that we cannot judge. None: it did.
fn guarded<T>(decide: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(decide)).ok()
}

impl std::fmt::Debug for Review<'_> {
    /// The pod's text is the tenant's: it is not for our log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Review")
            .field("uid", &self.uid())
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

/// What the webhook would do to `pod` if `creator` created it in `namespace`: the operations,
/// and the warnings that its creator would see.
pub fn decide(
    pod: &Value,
    creator: &str,
    namespace: &str,
    namespaces: &Namespaces,
    directory: &Directory,
    config: &Config,
) -> (Decision, Vec<PatchOperation>, Vec<String>) {
    let Explained { decision, matched: _, operations, warnings, missing: _ } =
        explain(pod, creator, namespace, namespaces, directory, config);
    (decision, operations, warnings)
}

/// The same, and what the decision came from.
pub fn explain<'c>(
    pod: &Value,
    creator: &str,
    namespace: &str,
    namespaces: &Namespaces,
    directory: &Directory,
    config: &'c Config,
) -> Explained<'c> {
    let text = pod.to_string();
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
        object: serde_json::from_str(&text).ok(),
    };
    let (outcome, missing) = decide::outcome(&request, namespaces, directory, config);
    outcome.explained(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_refusal() {
        assert!(guarded(|| panic!("a bug")).is_none());
        let outcome = Outcome::failure();
        assert_eq!(outcome.refusal(), Some(&Refusal::Internal));
        let answer: Value = serde_json::from_slice(&review::respond("u", &outcome, true)).unwrap();
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["status"]["code"], 503);
    }
}
