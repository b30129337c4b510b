//! Since when the guard evaluates the pods that the issuer trusts.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};

use crate::json::Json;

/// A policy of the guard on which the issuer relies, and its binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuardRule {
    pub policy: &'static str,
    pub binding: String,
}

impl GuardRule {
    /// Returns the rule that reserves the issuer's audience. A policy for another audience did not
    /// evaluate the pods of this one, so the binding's name contains a hash of the audience: the
    /// chart then replaces the binding, and its age is that of the reservation.
    pub fn of_audience(audience: &str) -> Self {
        let policy = "fab-session-injector-issuer-pods";
        let hash = digest(&SHA256, audience.as_bytes());
        let hash: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self { policy, binding: format!("{policy}-{hash}") }
    }

    /// Returns the rules that protect the references of Sandboxes.
    pub fn of_sandboxes() -> [Self; 2] {
        ["fab-session-injector-sandbox-pods", "fab-session-injector-sandboxes"]
            .map(|policy| Self { policy, binding: policy.to_owned() })
    }

    /// Returns since when the policy evaluates all objects, and denies. None: it does not.
    ///
    /// A policy that was deleted and made again did not evaluate the objects in between, whatever
    /// the age of its binding is. So the younger of the two counts.
    pub fn since(&self, policy: Json<'_>, binding: Json<'_>) -> Option<Timestamp> {
        let spec = binding.at("spec");
        // A binding that only warns or audits refuses nothing.
        let mut actions = spec.at("validationActions").items();
        let denies = actions.any(|action| action.string().is_some_and(|it| it == "Deny"));
        let is_of_policy = spec.at("policyName").string().is_some_and(|name| name == self.policy);
        // With resources of its own, the binding leaves some objects out.
        let is_for_all = !spec.at("matchResources").is_object();
        let since = |object: Json<'_>| {
            let metadata = object.at("metadata");
            let is_deleted = metadata.at("deletionTimestamp").string().is_some();
            created(metadata).filter(|_| !is_deleted)
        };
        let younger = since(policy)?.max(since(binding)?);
        (denies && is_of_policy && is_for_all).then_some(younger)
    }
}

/// Returns since when all rules deny. `sinces`: since when each does.
pub fn youngest(sinces: impl IntoIterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    sinces.into_iter().try_fold(Timestamp::MIN, |youngest, since| Some(youngest.max(since?)))
}

/// Reports whether the rules evaluated an object that was created then. `since`: since when they deny.
pub fn is_evaluated(created: Option<Timestamp>, since: Timestamp) -> bool {
    created.is_some_and(|created| created.duration_since(since) >= SETTLED)
}

/// Returns when the object of this metadata was created.
pub fn created(metadata: Json<'_>) -> Option<Timestamp> {
    metadata.at("creationTimestamp").string()?.parse().ok()
}

/// Minimum time from the guard's binding to an object that may name a session. API servers take up
/// to some seconds to enforce a new binding; both times are theirs.
const SETTLED: SignedDuration = SignedDuration::from_secs(60);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    const EARLY: &str = "2026-11-01T00:00:00Z";
    const LATE: &str = "2026-11-02T00:00:00Z";

    fn rule() -> GuardRule {
        GuardRule::of_audience("fab-session-issuer.prod")
    }

    fn object(created: &str) -> Value {
        json!({
            "metadata": {"creationTimestamp": created},
            "spec": {"policyName": rule().policy, "validationActions": ["Deny"]},
        })
    }

    fn since(policy: &Value, binding: &Value) -> Option<String> {
        let [policy, binding] = [policy, binding].map(|it| to_raw_value(it).unwrap());
        rule().since((&*policy).into(), (&*binding).into()).map(|since| since.to_string())
    }

    #[test]
    fn the_younger_of_policy_and_binding_counts() {
        let (early, late) = (object(EARLY), object(LATE));
        assert_eq!(since(&early, &late).as_deref(), Some(LATE));
        assert_eq!(since(&late, &early).as_deref(), Some(LATE));
        assert_eq!(since(&early, &early).as_deref(), Some(EARLY));
        assert_eq!(since(&json!({}), &early), None);
        assert_eq!(since(&early, &json!({})), None);
    }

    #[test]
    fn a_binding_that_leaves_pods_out_does_not_count() {
        let changes = [
            ("/spec/validationActions", json!(["Warn", "Audit"])),
            ("/spec/policyName", json!("another")),
            ("/metadata/deletionTimestamp", json!(LATE)),
            ("/spec/matchResources", json!({"namespaceSelector": {}})),
        ];
        for (place, value) in changes {
            let mut binding = object(EARLY);
            let (parent, key) = place.rsplit_once('/').unwrap();
            let parent = binding.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            parent.insert(key.to_owned(), value);
            assert_eq!(since(&object(EARLY), &binding), None, "{place}");
        }
    }

    #[test]
    fn each_audience_has_a_binding_of_its_own() {
        // printf %s fab-session-issuer.prod | sha256sum
        assert_eq!(rule().binding, "fab-session-injector-issuer-pods-b90f6786");
    }
}
