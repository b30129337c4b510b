//! Whether the pods that run are what the webhook would make of them today.

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
    // An audit gives nobody a sidecar, and without a tenant nobody gets one.
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
            let says = "its sidecar runs and has no credentials yet; if that stays, kubectl describe pod says why";
            found.note(Link::AssumeRole, subject, says);
        }
        let Some((link, says)) = told(&compared, pod, &facts.config) else { continue };
        wrong += 1;
        let subject = format!("pod {}/{}", namespace.name, name(pod));
        match (says, excused) {
            (Says::Refusal(refusal), None) => found.refused(link, subject, refusal),
            (Says::Text(text), None) => found.broken(link, subject, text),
            (_, Some(creators)) => {
                let says = format!(
                    "nobody knows whether {creators} created it, whose pods are left alone"
                );
                found.unseen(link, subject, says);
            }
        }
    }
    if wrong == 0 {
        let says = format!("{running} running pods are what they would be today");
        found.ok(Link::PodWithoutSidecar, subject, says);
    }
}

/// Whether the sidecar runs and its probe says that the agent may not start, by a pod's status: only
/// the kubelet writes this, and anybody an event.
pub fn waits(status: &Value) -> bool {
    let mut sidecar =
        items(status, "initContainerStatuses").filter(|it| it["name"] == CONTAINER_NAME);
    sidecar.any(|it| it["state"]["running"].is_object() && it["started"] != true)
}

enum Says<'c> {
    Refusal(&'c Refusal),
    Text(String),
}

/// What is wrong with it, if anything is.
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
            format!("its sidecar runs {image}, and would run {wanted} today")
        }
        _ => format!("would be changed today at {}", places.join(", ")),
    }
}
