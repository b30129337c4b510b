//! Checks whether the policies and bindings of the guard are as rendered by the release.

use super::{CheckId, Findings, Guard, difference::differences, name, objects, webhook::NOT_SAID};

pub(super) fn check_guard(guard: &Guard) -> Findings {
    let mut found = Findings::default();
    let Some(installed) = guard.installed.or_report(CheckId::GuardMissing, SUBJECT, &mut found)
    else {
        return found;
    };
    let Some(installed) = installed else {
        found.unknown(CheckId::GuardMissing, SUBJECT, NOT_SAID);
        return found;
    };
    if installed.is_empty() {
        found.warning(
            CheckId::GuardDisabled,
            SUBJECT,
            "disabled in the release (guard.enabled: false)",
        );
        return found;
    }
    let Some(live) = guard.objects.or_report(CheckId::GuardMissing, SUBJECT, &mut found) else {
        return found;
    };
    let (mut present, mut same) = (0, 0);
    for wanted in installed {
        let kind = wanted["kind"].as_str().unwrap_or_default();
        let subject = format!("{kind} {}", name(wanted));
        let mut of_kind = live.of_kind(kind);
        let Some(live) = of_kind.find(|other| objects::name(*other) == name(wanted)) else {
            found.error(CheckId::GuardMissing, subject, "does not exist");
            continue;
        };
        present += 1;
        let changed = differences(&wanted["spec"], &live.at("spec").tree());
        if changed.is_empty() {
            same += 1;
        } else {
            found.error(CheckId::GuardEdited, subject, changed.join("; "));
        }
    }
    if present == installed.len() {
        found.ok(CheckId::GuardMissing, SUBJECT, "all policies and bindings exist");
    }
    if same == present {
        found.ok(
            CheckId::GuardEdited,
            SUBJECT,
            "existing policies and bindings are as rendered by the release",
        );
    }
    found
}

const SUBJECT: &str = "guard";
