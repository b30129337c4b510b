//! Compares running pods with what the webhook would inject now.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    Facts, Findings, Link, Tenancy, items, name,
    tenancy::{self, subject},
};
use crate::{
    admission::{self, CONTAINER_NAME, Compared, Refusal, Standing},
    config::Config,
    directory::{Directory, Source},
    namespaces::{Mode, Namespace},
};

pub(super) fn judge(namespace: &Namespace, tenancy: &Tenancy, facts: &Facts, found: &mut Findings) {
    let subject = subject(namespace);
    let Some(pods) = tenancy.pods.or_tell(Link::PodWithoutSidecar, &subject, found) else {
        return;
    };
    // The webhook injects no sidecar in mode audit, and none without a tenant.
    if namespace.mode != Some(Mode::Enabled)
        || tenancy::without_tenant(namespace, &facts.config).is_some()
    {
        return;
    }
    let unknown = Directory::new(Source::Nowhere, HashMap::new());
    let directory = facts.directory.as_ref().unwrap_or(&unknown);
    let mut running = 0;
    let mut wrong = 0;
    for pod in pods {
        let Standing { compared, excused, .. } =
            admission::standing(pod, None, namespace, directory, &facts.config);
        running += usize::from(compared != Compared::Ended);
        if compared != Compared::Ended && waits(&pod["status"]) {
            let subject = format!("pod {}/{}", namespace.name, name(pod));
            let message = "its sidecar has no credentials yet; if this persists, run kubectl describe pod for the reason";
            found.warning(Link::AssumeRole, subject, message);
        }
        let Some((link, says)) = told(&compared, pod, &facts.config) else { continue };
        wrong += 1;
        let subject = format!("pod {}/{}", namespace.name, name(pod));
        match (says, excused) {
            (Says::Refusal(refusal), None) => found.refused(link, subject, refusal),
            (Says::Text(text), None) => found.error(link, subject, text),
            (_, Some(creators)) => {
                let message = format!(
                    "cannot decide: {creators} may have created the pod, and the webhook leaves pods of this user unchanged"
                );
                found.unknown(link, subject, message);
            }
        }
    }
    if wrong == 0 {
        let message = format!("{running} running pods are up to date");
        found.ok(Link::PodWithoutSidecar, subject, message);
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
fn told<'c>(compared: &'c Compared, pod: &Value, config: &Config) -> Option<(Link, Says<'c>)> {
    match compared {
        Compared::AsMade | Compared::Ended | Compared::LeftOver => None,
        Compared::Differs(places) => {
            Some((Link::PodOutdated, Says::Text(outdated(places, pod, config))))
        }
        Compared::NoSidecar => {
            Some((Link::PodWithoutSidecar, Says::Text("has no sidecar".to_owned())))
        }
        Compared::Refused(refusal) => Some((Link::PodRefused, Says::Refusal(refusal))),
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
