//! Objects of the platform's other controllers and users: a fleet, a dispatcher that creates
//! sessions itself, and a Sandbox of kubernetes-sigs.

use harness::{
    cloud::REGION,
    node::Node,
    platform::{AGENT_IMAGE, SANDBOXES, TENANT, small},
};
use serde_json::{Value, json};

/// The namespace of the dispatcher.
pub(crate) const FAB: &str = "fab";

/// Returns the operator's Deployment for an AgentFleet.
pub(crate) fn fleet(namespace: &str) -> Value {
    let labels = json!({
        "agents.nanohype.dev/agent": "reviewer",
        "agents.nanohype.dev/fleet": "ops",
        "agents.nanohype.dev/platform": "acme",
        "app.kubernetes.io/managed-by": "eks-agent-platform",
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "ops-reviewer", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"agents.nanohype.dev/agent": "reviewer"}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [{
                        "name": "agent",
                        "image": AGENT_IMAGE,
                        "args": ["sleep"],
                        // So that only the credentials are missing for a call.
                        "env": [
                            {"name": "AGENT_NAME", "value": "reviewer"},
                            {"name": "AWS_REGION", "value": REGION},
                            {"name": "AWS_EC2_METADATA_DISABLED", "value": "true"},
                        ],
                        "resources": small(),
                        "securityContext": hardened(),
                    }],
                    "securityContext": nobody(),
                    "serviceAccountName": "tenant-runtime",
                    "terminationGracePeriodSeconds": 5,
                },
            },
        },
    })
}

/// Returns a Sandbox. Its pod has the same name.
pub(crate) fn sandbox(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": TENANT, "labels": {
            "agents.x-k8s.io/created-by": "controller",
            "agents.x-k8s.io/sandbox-name-hash": "1a2b3c4d",
        }},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "sandbox", "image": AGENT_IMAGE, "args": ["sleep"], "resources": small(),
                "securityContext": hardened(),
            }],
            "securityContext": nobody(),
            "serviceAccountName": "tenant-runtime",
            "terminationGracePeriodSeconds": 5,
        },
    })
}

/// Creates the RBAC rules of the Sandbox controller, and the network policy of its templates that
/// allows agents to reach AWS.
pub(crate) fn admit_sandboxes(node: &Node) {
    node.create(&[
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "sandboxes", "namespace": TENANT},
            "spec": {
                "podSelector": {"matchExpressions": [
                    {"key": "agents.x-k8s.io/sandbox-name-hash", "operator": "Exists"},
                ]},
                "policyTypes": ["Egress"],
                "egress": [{"ports": [{"port": 443}]}],
            },
        }),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "sandboxes", "namespace": TENANT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": SANDBOXES}],
        }),
    ]);
}

/// Creates the dispatcher's namespace and its right to create pods in the tenant's namespace. The
/// tenant is acme, and the EKS webhook is called after the injector's. `session` is the pod that
/// the dispatcher creates.
pub(crate) fn admit_dispatcher(node: &Node, session: &Value) {
    node.create(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FAB, "labels": {
            "fab.nanohype.dev/session-injection": "enabled",
            "fab.nanohype.dev/tenant": "acme",
            "pod-security.kubernetes.io/enforce": "restricted",
            "test.example/foreign": "after",
        }}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "fab", "namespace": FAB}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "dispatch", "namespace": FAB},
            "data": {"session.json": session.to_string()},
        }),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "dispatcher", "namespace": TENANT},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}],
        }),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "dispatcher", "namespace": TENANT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "dispatcher"},
            "subjects": [{"kind": "ServiceAccount", "name": "fab", "namespace": FAB}],
        }),
    ]);
    node.await_service_account(FAB, "fab");
}

/// Returns the Job of fab: it calls GetCallerIdentity, creates a session, and ends.
pub(crate) fn dispatcher() -> Value {
    let create = format!("post /api/v1/namespaces/{TENANT}/pods /dispatch/session.json");
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "fab-feature-build", "namespace": FAB},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 86400,
            "template": {"spec": {
                "containers": [{
                    "name": "fab",
                    "image": AGENT_IMAGE,
                    "args": ["each", "feed call /client-go", create],
                    "env": [{"name": "FAB_K8S_PLATFORM", "value": "acme"}],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": true,
                    },
                    "volumeMounts": [
                        {"name": "dispatch", "mountPath": "/dispatch", "readOnly": true},
                        {"name": "work", "mountPath": "/work"},
                    ],
                    "workingDir": "/work",
                }],
                "restartPolicy": "Never",
                "securityContext": nobody(),
                "serviceAccountName": "fab",
                "volumes": [
                    {"name": "dispatch", "configMap": {"name": "dispatch"}},
                    {"name": "work", "emptyDir": {}},
                ],
            }},
        },
    })
}

fn hardened() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

fn nobody() -> Value {
    json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
}
