//! Finds network plugins that redirect the connections of a pod by its labels or annotations. With
//! EKS Pod Identity, the sidecar sends the base token without TLS.

use super::{
    CheckId, Findings, Objects, Seen,
    namespace::{label, opted_in, read},
    objects::name,
    transport,
};
use crate::{
    admission::{AMBIENT_LABEL, NOT_AMBIENT},
    config::{BaseCredentials, Config, SessionTransport},
    json::Json,
    namespaces::Namespace,
};

pub(super) fn check_network(
    config: &Config,
    daemon_sets: &Seen<Objects>,
    namespaces: &Seen<Objects>,
) -> Findings {
    let mut found = Findings::default();
    if !matches!(config.base_credentials, BaseCredentials::PodIdentity(_)) {
        found.ok(CheckId::NetworkPlugin, SUBJECT, "baseCredentials.source is not podIdentity");
        return found;
    }
    let is_chain = |namespace: &Namespace| {
        transport::of_namespace(namespace, config) == SessionTransport::RoleChain
    };
    if config.transport == SessionTransport::WebIdentity
        && !opted_in(namespaces, config).any(|namespace| is_chain(&namespace))
    {
        found.ok(CheckId::NetworkPlugin, SUBJECT, "no namespace has the transport role-chain");
        return found;
    }
    captured(config, namespaces, &mut found);
    let Some(daemon_sets) = daemon_sets.or_report(CheckId::NetworkPlugin, SUBJECT, &mut found)
    else {
        return found;
    };
    for daemon_set in daemon_sets.iter() {
        let name = name(daemon_set);
        let known = KNOWN.iter().find(|(part, _)| name.contains(part));
        if let Some((_, message)) = known {
            let namespace = daemon_set.at("metadata").at("namespace").string().unwrap_or_default();
            let subject = format!("DaemonSet {namespace}/{name}");
            found.warning(CheckId::NetworkPlugin, subject, *message);
        }
    }
    if found.iter().next().is_none() {
        found.ok(
            CheckId::NetworkPlugin,
            SUBJECT,
            "no DaemonSet of a plugin known to redirect connections",
        );
    }
    found
}

/// Adds the opted-in namespaces in Istio's ambient mode.
fn captured(config: &Config, namespaces: &Seen<Objects>, found: &mut Findings) {
    let is_chain = |object: &Json<'_>| {
        let namespace = read(*object, config);
        namespace.mode.is_some()
            && transport::of_namespace(&namespace, config) == SessionTransport::RoleChain
    };
    for object in namespaces.iter().filter(is_chain) {
        let mode = label(object, AMBIENT_LABEL);
        if let Some(mode) = mode.filter(|mode| *mode != NOT_AMBIENT) {
            let message = format!(
                "{AMBIENT_LABEL}={mode}: ztunnel captures the connections of agent pods, so the guard refuses these pods; label the pods {AMBIENT_LABEL}={NOT_AMBIENT}, or set baseCredentials.source to irsa"
            );
            found.warning(CheckId::NetworkPlugin, format!("namespace {}", name(object)), message);
        }
    }
}

const SUBJECT: &str = "network plugins";
/// For each plugin, a part of the name that its chart gives the DaemonSet, and the effect on the
/// base token. Sources: docs/threat-model.md, "Connections that carry a token".
const KNOWN: [(&str, &str); 6] = [
    (
        "consul-cni",
        "redirects connections by annotations of the pod; agent pods with these annotations are refused; to admit them, set baseCredentials.source to irsa",
    ),
    (
        "istio-cni",
        "redirects connections of pods; the webhook excludes the connection that carries the base token, except in ambient mode",
    ),
    (
        "kuma-cni",
        "redirects connections by annotations of the pod; agent pods with these annotations are refused; to admit them, set baseCredentials.source to irsa",
    ),
    (
        "linkerd-cni",
        "redirects connections of pods; from plugin version 1.5.0 on, the webhook excludes the connection that carries the base token; with an older version, set baseCredentials.source to irsa",
    ),
    (
        "multus",
        "gives a pod the addresses and routes that its annotations request; agent pods with these annotations are refused; to admit them, set baseCredentials.source to irsa",
    ),
    (
        "ztunnel",
        "captures pods in Istio's ambient mode, which cannot exclude a connection; agent pods in this mode are refused; to admit them, set baseCredentials.source to irsa",
    ),
];
