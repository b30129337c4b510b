//! Which components of the cluster redirect connections by what is written on a pod, while the
//! base token is sent without TLS.

use super::{Facts, Findings, Link, Seen, name, opted_in};
use crate::{
    admission::{AMBIENT_LABEL, NOT_AMBIENT},
    config::BaseCredentials,
};

pub(super) fn judge(facts: &Facts, found: &mut Findings) {
    if !matches!(facts.config.base_credentials, BaseCredentials::PodIdentity) {
        found.ok(Link::NetworkPlugin, SUBJECT, "baseCredentials.source is not podIdentity");
        return;
    }
    let before = found.iter().count();
    captured(facts, found);
    let Some(daemon_sets) = facts.daemon_sets.or_tell(Link::NetworkPlugin, SUBJECT, found) else {
        return;
    };
    for daemon_set in daemon_sets {
        let known = KNOWN.iter().find(|(part, _)| name(daemon_set).contains(part));
        if let Some((_, says)) = known {
            let namespace = daemon_set["metadata"]["namespace"].as_str().unwrap_or_default();
            let subject = format!("DaemonSet {namespace}/{}", name(daemon_set));
            found.note(Link::NetworkPlugin, subject, *says);
        }
    }
    if found.iter().count() == before {
        found.ok(Link::NetworkPlugin, SUBJECT, "no DaemonSet of a plugin known to redirect");
    }
}

/// Finds the namespaces that istio's ambient mode captures.
fn captured(facts: &Facts, found: &mut Findings) {
    let objects = match &facts.namespaces {
        Seen::Known(objects) => &objects[..],
        Seen::Hidden(_) => &[],
    };
    for namespace in opted_in(&facts.namespaces, &facts.config) {
        let object = objects.iter().find(|object| name(object) == namespace.name);
        let mode = object.and_then(|object| object["metadata"]["labels"][AMBIENT_LABEL].as_str());
        if let Some(mode) = mode.filter(|mode| *mode != NOT_AMBIENT) {
            let says = format!(
                "{AMBIENT_LABEL}={mode}: ztunnel captures its agents' connections, so the guard refuses them; label the pods {AMBIENT_LABEL}={NOT_AMBIENT}, or set baseCredentials.source to irsa"
            );
            found.note(Link::NetworkPlugin, format!("namespace {}", namespace.name), says);
        }
    }
}

const SUBJECT: &str = "network plugins";
/// Parts of the names that their charts give the DaemonSets, and what the plugin means for the
/// base token. The threat model says where each is from.
const KNOWN: [(&str, &str); 6] = [
    (
        "consul-cni",
        "redirects connections as the pod says; agents that ask for it are refused, or set baseCredentials.source to irsa",
    ),
    (
        "istio-cni",
        "redirects connections of pods; the webhook excludes the one with the base token, but in ambient mode nothing does",
    ),
    (
        "kuma-cni",
        "redirects connections as the pod says; agents that ask for it are refused, or set baseCredentials.source to irsa",
    ),
    (
        "linkerd-cni",
        "redirects connections of pods; the webhook excludes the one with the base token from version 1.5.0 of the plugin; for an older one set baseCredentials.source to irsa",
    ),
    (
        "multus",
        "gives a pod the addresses and routes that it asks for; agents that ask are refused, or set baseCredentials.source to irsa",
    ),
    (
        "ztunnel",
        "captures pods in istio's ambient mode, which excludes no connection; the guard refuses such agents, or set baseCredentials.source to irsa",
    ),
];
