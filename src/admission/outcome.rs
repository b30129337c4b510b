//! A decision with its patch, and what log, metrics and the audit log show of it.

use std::borrow::Cow;

use json_patch::PatchOperation;
use serde::Serialize;

use super::{
    decision::{Decision, Missing},
    operations::Patch,
    refusal::Refusal,
};
use crate::{config::Matched, session::Session};

/// A decision and its patch.
#[derive(Debug)]
pub(super) struct Outcome<'c> {
    pub(super) decision: Decision,
    /// The refusals after the first one, if all are wanted.
    pub(super) further: Vec<Refusal>,
    pub(super) matched: Option<Matched<'c>>,
    pub(super) patch: Patch,
    /// The pod's name, or the name to which the API server will add a suffix. `None` if the pod
    /// cannot be read.
    pub(super) pod: Option<String>,
}

/// A decision, with the rule and the data that it results from.
#[derive(Debug)]
pub struct Explained<'c> {
    pub decision: Decision,
    /// The refusals after the one in `decision`.
    pub further: Vec<Refusal>,
    /// The component that matched, if any.
    pub matched: Option<Matched<'c>>,
    /// The changes of the pod.
    pub operations: Vec<PatchOperation>,
    /// The warnings to the requesting user.
    pub warnings: Vec<String>,
}

impl Explained<'_> {
    /// Returns all refusals, in the order of the rules.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        let first = match &self.decision {
            Decision::Refuse(refusal) => Some(refusal),
            Decision::Inject(_) | Decision::Pass(_) => None,
        };
        first.into_iter().chain(&self.further)
    }

    /// Returns what the snapshots lack, if a refusal may go away once it is looked up.
    pub fn missing(&self) -> Option<Missing> {
        self.refusals().find_map(Refusal::missing)
    }
}

/// The audit annotations, with keys without prefix. The API server puts the webhook's name and a
/// '/' in front of each, and drops a key that already has a '/'.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct AuditAnnotations<'a> {
    pub(super) decision: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) component: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source_identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role_arn: Option<&'a str>,
}

impl<'c> Outcome<'c> {
    /// Returns the refusal of a pod on which the webhook fails by a bug.
    pub(super) fn failure() -> Self {
        Self::refused(vec![Refusal::Internal], None, None)
    }

    /// Returns the refusal of a pod by at least one rule.
    pub(super) fn refused(
        refusals: Vec<Refusal>,
        matched: Option<Matched<'c>>,
        pod: Option<String>,
    ) -> Self {
        let mut refusals = refusals.into_iter();
        let decision = Decision::Refuse(refusals.next().unwrap_or(Refusal::Internal));
        Self { decision, further: refusals.collect(), matched, patch: Patch::default(), pod }
    }

    /// Returns the outcome with its operations in the types of the JSON Patch library.
    pub(super) fn explained(self) -> Explained<'c> {
        let Self { decision, further, matched, patch, pod: _ } = self;
        match serde_json::from_slice::<json_patch::Patch>(&patch.json()) {
            Ok(json_patch::Patch(operations)) => {
                Explained { decision, further, matched, operations, warnings: patch.warnings }
            }
            Err(_) => Self::failure().explained(),
        }
    }

    pub(super) fn component(&self) -> Option<&str> {
        self.matched.map(|matched| &*matched.component.name)
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.decision {
            Decision::Refuse(refusal) => Some(refusal),
            Decision::Inject(_) | Decision::Pass(_) => None,
        }
    }

    /// Returns the JSON Patch, or `None` if the pod stays unchanged.
    pub(super) fn patch(&self) -> Option<Vec<u8>> {
        (matches!(self.decision, Decision::Inject(_)) && !self.patch.is_empty())
            .then(|| self.patch.json())
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.patch.warnings
    }

    /// Returns the audit annotations. They derive from the decision and not from the patch, so a
    /// reinvocation, whose patch is empty, gets the same ones.
    pub(super) fn audit_annotations(&self) -> AuditAnnotations<'_> {
        let component = self.component();
        match &self.decision {
            Decision::Pass(_) => AuditAnnotations {
                decision: "pass".into(),
                component,
                ..AuditAnnotations::default()
            },
            Decision::Refuse(refusal) => AuditAnnotations {
                decision: Cow::Owned(format!("refuse/{}", refusal.code())),
                component,
                ..AuditAnnotations::default()
            },
            Decision::Inject(injection) => {
                let session = injection.gives.session();
                AuditAnnotations {
                    decision: injection.gives.as_str().into(),
                    component,
                    session_id: session.map(|session| session.id.to_string()),
                    source_identity: session.map(Session::identity_for_people),
                    role_arn: session.map(|session| session.role.as_str()),
                }
            }
        }
    }
}
