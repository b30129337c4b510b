//! Compares running pods with what the webhook would inject now.

use std::collections::HashMap;

use super::{
    CheckId, Findings, Objects, Seen,
    namespace::{self, subject},
    objects::name,
};
use crate::{
    admission::{self, CONTAINER_NAME, Drift, DriftStatus, Refusal},
    config::Config,
    json::Json,
    namespaces::{Mode, Namespace},
    roles::{Roles, Source},
};

pub(super) fn check_pods(
    namespace: &Namespace,
    pods: &Seen<Objects>,
    roles: Option<&Roles>,
    config: &Config,
) -> Findings {
    let mut found = Findings::default();
    let subject = subject(namespace);
    let Some(pods) = pods.or_report(CheckId::PodWithoutSidecar, &subject, &mut found) else {
        return found;
    };
    // The webhook injects no sidecar in mode audit, and none without a tenant.
    if namespace.mode != Some(Mode::Enabled)
        || namespace::without_tenant(namespace, config).is_some()
    {
        return found;
    }
    let unknown = Roles::new(Source::None, HashMap::new());
    let roles = roles.unwrap_or(&unknown);
    let mut running = 0;
    let mut wrong = 0;
    for pod in pods.iter() {
        let Drift { status, possible_exemption, .. } =
            admission::drift(pod, None, namespace, roles, config);
        running += usize::from(status != DriftStatus::Ended);
        if status != DriftStatus::Ended && waits(pod.at("status")) {
            let subject = format!("pod {}/{}", namespace.name, name(pod));
            let message = "its sidecar has no credentials yet; if this persists, run kubectl describe pod for the reason";
            found.warning(CheckId::AssumeRole, subject, message);
        }
        let Some((check, says)) = finding_of(&status, pod, config) else { continue };
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
    found
}

/// Returns whether the sidecar runs and its startup probe has not succeeded yet. The source is the
/// status of the pod, which only the kubelet writes; any user with RBAC for events can write
/// events.
pub fn waits(status: Json<'_>) -> bool {
    status.at("initContainerStatuses").items().any(|it| {
        it.at("name").string().is_some_and(|name| name == CONTAINER_NAME)
            && it.at("state").at("running").is_object()
            && it.at("started").text() != "true"
    })
}

enum Says<'c> {
    Refusal(&'c Refusal),
    Text(String),
}

/// Returns the check that the pod fails, and the message. None if the pod is up to date.
fn finding_of<'c>(
    status: &'c DriftStatus,
    pod: Json<'_>,
    config: &Config,
) -> Option<(CheckId, Says<'c>)> {
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

fn outdated(places: &[String], pod: Json<'_>, config: &Config) -> String {
    let wanted = &config.sidecar.image;
    match admission::sidecar(pod).and_then(|sidecar| sidecar.at("image").string()) {
        Some(image) if !wanted.is(&image) => {
            format!("its sidecar runs {image} instead of {}", wanted.as_str())
        }
        _ => format!("differs from current injection at {}", places.join(", ")),
    }
}
