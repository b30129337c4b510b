//! Sandboxes, whose pods get the session of a SandboxClaim, and the guard of their references.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::{
    CheckId, Findings, Objects, ReleaseFacts, Seen, issuer::rule_since, namespace, objects::name,
};
use crate::{
    config::Config,
    issuer::{GuardRule, TokenRefusal, created, is_evaluated, youngest},
    json::Json,
    namespaces::{Mode, Namespace},
};

/// Checks the guard's rules about Sandboxes, and the Sandboxes of enabled namespaces.
pub(super) fn check_sandboxes(
    release: &ReleaseFacts,
    sandboxes: &Seen<Objects>,
    namespaces: &Seen<Objects>,
    config: &Config,
) -> Findings {
    let (since, rules) = check_guards(release, config);
    Findings::of([rules, check_ages(sandboxes, since, namespaces, config)])
}

/// Checks whether the guard's rules about Sandboxes are bound. Returns since when all of them are.
fn check_guards(release: &ReleaseFacts, config: &Config) -> (Option<Timestamp>, Findings) {
    let mut found = Findings::default();
    let ReleaseFacts::Installed { guard, .. } = release else { return (None, found) };
    if config.claim_components().next().is_none() {
        return (None, found);
    }
    let subject = "ValidatingAdmissionPolicyBindings of Sandboxes";
    let Some(objects) = guard.objects.or_report(CheckId::IssuerGuard, subject, &mut found) else {
        return (None, found);
    };
    let mut sinces = Vec::new();
    for rule in GuardRule::of_sandboxes() {
        let subject = format!("ValidatingAdmissionPolicyBinding {}", rule.binding);
        let since = rule_since(&rule, objects);
        sinces.push(since);
        match since {
            Some(since) => found.ok(CheckId::IssuerGuard, subject, format!("denies since {since}")),
            None => found.error(
                CheckId::IssuerGuard,
                subject,
                "does not exist, or does not deny in all namespaces: pods of a warm pool get no session",
            ),
        }
    }
    (youngest(sinces), found)
}

/// Checks whether Sandboxes of enabled namespaces are older than the guard's rules about them.
/// `since`: since when these deny.
fn check_ages(
    sandboxes: &Seen<Objects>,
    since: Option<Timestamp>,
    namespaces: &Seen<Objects>,
    config: &Config,
) -> Findings {
    let mut found = Findings::default();
    let id = CheckId::PodPredatesGuard;
    let Some(sandboxes) = sandboxes.or_report(id, "Sandboxes", &mut found) else { return found };
    let Some(since) = since else { return found };
    let mut all_old: BTreeMap<Cow<'_, str>, Vec<Json<'_>>> = BTreeMap::new();
    for sandbox in sandboxes.iter().filter(|it| !is_evaluated(created(it.at("metadata")), since)) {
        all_old.entry(namespace_of(sandbox)).or_default().push(sandbox);
    }
    let is_enabled = |namespace: &Namespace| namespace.mode == Some(Mode::Enabled);
    for namespace in namespace::opted_in(namespaces, config).filter(is_enabled) {
        let mut old = Findings::default();
        for sandbox in all_old.get(&*namespace.name).into_iter().flatten() {
            let sandbox = name(*sandbox);
            let subject = format!("Sandbox {}/{sandbox}", namespace.name);
            let refusal = TokenRefusal::SandboxPredatesGuard { pod: sandbox.into_owned() };
            old.denied(id, subject, &refusal);
        }
        found.extend(old.shortened(&namespace::subject(&namespace)));
    }
    found
}

/// Returns the namespaces that have Sandboxes.
pub(super) fn homes(sandboxes: &Seen<Objects>) -> BTreeSet<String> {
    sandboxes.iter().map(|it| namespace_of(it).into_owned()).collect()
}

fn namespace_of(object: Json<'_>) -> Cow<'_, str> {
    object.at("metadata").at("namespace").string().unwrap_or_default()
}
