//! Whether the API server holds what the release brought, by itself.

use serde_json::Value;

use super::{Findings, Guard, Link, difference::differences, name, webhook::NOT_SAID};

pub(super) fn judge(guard: &Guard, found: &mut Findings) {
    let Some(installed) = guard.installed.or_tell(Link::GuardMissing, SUBJECT, found) else {
        return;
    };
    let Some(installed) = installed else {
        found.unseen(Link::GuardMissing, SUBJECT, NOT_SAID);
        return;
    };
    if installed.is_empty() {
        found.note(Link::GuardOff, SUBJECT, "the release has none (guard.enabled: false)");
        return;
    }
    let Some(live) = guard.objects.or_tell(Link::GuardMissing, SUBJECT, found) else { return };
    let (mut present, mut same) = (0, 0);
    for wanted in installed {
        let kind = wanted["kind"].as_str().unwrap_or_default();
        let subject = format!("{kind} {}", name(wanted));
        let is_it = |other: &&Value| other["kind"] == kind && name(other) == name(wanted);
        let Some(live) = live.iter().find(is_it) else {
            found.broken(Link::GuardMissing, subject, "is not there");
            continue;
        };
        present += 1;
        let changed = differences(&wanted["spec"], &live["spec"]);
        if changed.is_empty() {
            same += 1;
        } else {
            found.broken(Link::GuardEdited, subject, changed.join("; "));
        }
    }
    if present == installed.len() {
        found.ok(Link::GuardMissing, SUBJECT, "all policies and bindings are there");
    }
    if same == present {
        found.ok(Link::GuardEdited, SUBJECT, "what is there is as the release brought it");
    }
}

const SUBJECT: &str = "guard";
