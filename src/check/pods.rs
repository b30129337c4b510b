//! Compares running pods with what the webhook would inject now.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    CheckId, Facts, Findings, NamespaceContents, items, name,
    namespace::{self, subject},
};
use crate::{
    admission::{self, CONTAINER_NAME, Drift, DriftStatus, Refusal},
    config::Config,
    namespaces::{Mode, Namespace},
    roles::{Roles, Source},
};

pub(super) fn check_pods(
    namespace: &Namespace,
    contents: &NamespaceContents,
    facts: &Facts,
    found: &mut Findings,
) {
    let subject = subject(namespace);
    let Some(pods) = contents.pods.or_report(CheckId::PodWithoutSidecar, &subject, found) else {
        return;
    };
    // The webhook injects no sidecar in mode audit, and none without a tenant.
    if namespace.mode != Some(Mode::Enabled)
        || namespace::without_tenant(namespace, &facts.config).is_some()
    {
        return;
    }
    let unknown = Roles::new(Source::None, HashMap::new());
    let roles = facts.roles.as_ref().unwrap_or(&unknown);
    let mut running = 0;
    let mut wrong = 0;
    for pod in pods {
        let Drift { status, possible_exemption, .. } =
            admission::drift(pod, None, namespace, roles, &facts.config);
        running += usize::from(status != DriftStatus::Ended);
        if status != DriftStatus::Ended && waits(&pod["status"]) {
            let subject = format!("pod {}/{}", namespace.name, name(pod));
            let message = "its sidecar has no credentials yet; if this persists, run kubectl describe pod for the reason";
            found.warning(CheckId::AssumeRole, subject, message);
        }
        let Some((check, says)) = told(&status, pod, &facts.config) else { continue };
        wrong += 1;
        let subject = format!("pod {}/{}", namespace.name, name(pod));
        match (says, possible_exemption) {
            (Says::Refusal(refusal), None) => found.refused(check, subject, refusal),
            (Says::Text(text), None) => found.error(check, subject, text),
            (_, Some(creators)) => {
                let message = format!(
                    "cannot decide: {creators} may have created the pod, and the webhook leaves pods of this user unchanged"
                );
                found.unknown(check, subject, message);
            }
        }
    }
    if wrong == 0 {
        let message = format!("{running} running pods are up to date");
        found.ok(CheckId::PodWithoutSidecar, subject, message);
    }
}

/// Returns whether the sidecar runs and its startup probe has not succeeded yet. The source is the
/// status of the pod, which only the kubelet writes; any user with RBAC for events can write
/// events.
pub fn waits(status: &Value) -> bool {
    let mut sidecar =
        items(status, "initContainerStatuses").filter(|it| it["name"] == CONTAINER_NAME);
    sidecar.any(|it| it["state"]["running"].is_object() && it["started"] != true)
}

enum Says<'c> {
    Refusal(&'c Refusal),
    Text(String),
}

/// Returns the check that the pod fails, and the message. None if the pod is up to date.
fn told<'c>(status: &'c DriftStatus, pod: &Value, config: &Config) -> Option<(CheckId, Says<'c>)> {
    match status {
        DriftStatus::UpToDate | DriftStatus::Ended | DriftStatus::Orphaned => None,
        DriftStatus::Changed(places) => {
            Some((CheckId::PodOutdated, Says::Text(outdated(places, pod, config))))
        }
        DriftStatus::NotInjected => {
            Some((CheckId::PodWithoutSidecar, Says::Text("has no sidecar".to_owned())))
        }
        DriftStatus::WouldBeRefused(refusal) => Some((CheckId::PodRefused, Says::Refusal(refusal))),
    }
}

fn outdated(places: &[String], pod: &Value, config: &Config) -> String {
    let wanted = &config.sidecar.image;
    match admission::sidecar(pod).and_then(|sidecar| sidecar["image"].as_str()) {
        Some(image) if image != wanted => {
            format!("its sidecar runs {image} instead of {wanted}")
        }
        _ => format!("differs from current injection at {}", places.join(", ")),
    }
}
