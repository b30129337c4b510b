//! The guard of the references by which a pod gets the session of its SandboxClaim.

use super::{CheckId, Findings, ReleaseFacts, issuer::rule_since};
use crate::{config::Config, issuer::GuardRule};

/// Checks whether the guard's rules about Sandboxes are bound.
pub(super) fn check_guards(release: &ReleaseFacts, config: &Config) -> Findings {
    let mut found = Findings::default();
    let ReleaseFacts::Installed { guard, .. } = release else { return found };
    if config.late_components().next().is_none() {
        return found;
    }
    let subject = "ValidatingAdmissionPolicyBindings of Sandboxes";
    let Some(objects) = guard.objects.or_report(CheckId::IssuerGuard, subject, &mut found) else {
        return found;
    };
    for rule in GuardRule::of_sandboxes() {
        let subject = format!("ValidatingAdmissionPolicyBinding {}", rule.binding);
        match rule_since(&rule, objects) {
            Some(since) => found.ok(CheckId::IssuerGuard, subject, format!("denies since {since}")),
            None => found.error(
                CheckId::IssuerGuard,
                subject,
                "does not exist, or does not deny in all namespaces: pods of a warm pool get no session",
            ),
        }
    }
    found
}
