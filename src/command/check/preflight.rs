//! Reads the facts of `check --pre`.

use serde_json::json;

use super::access;

use crate::{
    check::{Preflight, Seen},
    command::{
        CommandError,
        cluster::{ADMISSION, CORE, Cluster, all},
    },
};

pub(super) async fn read(cluster: &Cluster, namespace: &str) -> Result<Preflight, CommandError> {
    let configurations = format!("{ADMISSION}/mutatingwebhookconfigurations");
    Ok(Preflight {
        configurations: cluster.list(&configurations, all()).await?,
        namespace: namespace.to_owned(),
        quotas: cluster
            .list(&format!("{CORE}/namespaces/{namespace}/resourcequotas"), all())
            .await?,
        refused: refused(cluster, namespace).await?,
    })
}

/// Returns what the user may not create.
async fn refused(cluster: &Cluster, namespace: &str) -> Result<Seen<Vec<String>>, CommandError> {
    let mut refused = Vec::new();
    for (group, resource, is_namespaced) in OBJECTS {
        let mut attributes = json!({"verb": "create", "group": group, "resource": resource});
        if is_namespaced {
            attributes["namespace"] = namespace.into();
        }
        match access::may(cluster, attributes).await? {
            Ok(true) => {}
            Ok(false) => refused.push(format!("create {resource}")),
            Err(status) => return Ok(Seen::Hidden(status.message)),
        }
    }
    Ok(Seen::Known(refused))
}

/// API group and resource of what the chart creates, and whether it has a namespace. Only with
/// further values: Certificates, ServiceMonitors, PrometheusRules, CiliumNetworkPolicies.
const OBJECTS: [(&str, &str, bool); 14] = [
    ("", "configmaps", true),
    ("", "secrets", true),
    ("", "serviceaccounts", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("networking.k8s.io", "networkpolicies", true),
    ("policy", "poddisruptionbudgets", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", false),
];
