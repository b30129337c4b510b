//! A cluster as the platform team sets it up: the chart is installed from its files, and a tenant
//! has a namespace as the platform's operator creates it.

use std::{fs, process::Command};

use serde_json::{Value, json};
use strict_aws::World;

pub use crate::world::OPERATOR;
use crate::{
    cloud::{BROKER, Cloud, REGION},
    helm::chart,
    image::{Image, ROOTS},
    node::{Node, agent_files},
    process::program,
    scratch,
};

/// Namespace of the chart's release.
pub const SYSTEM: &str = "fab-system";
/// Namespace of the tenant.
pub const TENANT: &str = "tenants-acme";
/// Image of the agents.
pub const AGENT_IMAGE: &str = "node.test/agent:1";

/// The user that creates the pods of kubernetes-sigs' Sandboxes.
pub const SANDBOXES: &str = "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";

/// The released program, with the CA certificate of the test cloud.
pub const SIDECAR_IMAGE: &str = "node.test/sidecar:1";

/// A node with the cloud and the images.
pub struct Platform {
    /// AWS for the pods.
    pub cloud: Cloud,
    // Dropped last, since the others are reached through it.
    pub node: Node,
}

impl Platform {
    /// Starts with the tenant acme.
    pub fn start() -> Self {
        Self::start_with(|world| world, &[])
    }

    /// Starts with additions to AWS, and with the roles of further tenants.
    pub fn start_with(more: impl FnOnce(World) -> World, roles: &[(&str, &str)]) -> Self {
        let platform = Self::bring_up(more);
        let mut values = json!({
            "config": {
                "region": REGION,
                "sidecar": {"image": SIDECAR_IMAGE},
                "components": components(),
            },
            "staticRoles": {"acme": BROKER},
        });
        for (tenant, role) in roles {
            values["staticRoles"][tenant] = (*role).into();
        }
        if let Err(said) = platform.helm("install", &values, &[]) {
            let pods = platform.node.kubectl(&["describe", "pods", "--namespace", SYSTEM]).run();
            panic!("{said}\n{}", pods.stdout);
        }
        platform.admit_tenant();
        platform
    }

    /// Starts node, cloud and images, without the chart and without a tenant.
    pub fn bring_up(more: impl FnOnce(World) -> World) -> Self {
        let node = Node::start();
        let cloud = Cloud::start(&node, more);
        let image = Image::unpack();
        node.import(&image.archive);
        // The released image trusts public CAs, and no CA can be added to a sidecar from outside.
        let authority = format!("{}:{ROOTS}:644", cloud.authority().display());
        let program = image.at("/fab-session-injector");
        let program = format!("{}:/fab-session-injector:755", program.display());
        node.make_image(SIDECAR_IMAGE, "/fab-session-injector", &[program, authority.clone()]);
        let mut files = agent_files();
        files.push(authority);
        node.make_image(AGENT_IMAGE, "/box", &files);
        node.create(&[json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": SYSTEM, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        })]);
        Self { cloud, node }
    }

    /// Installs or upgrades the chart; returns Helm's notes or its error.
    pub fn helm(&self, verb: &str, values: &Value, flags: &[&str]) -> Result<String, String> {
        let file = self.node.state().join("values.json");
        fs::write(&file, values.to_string()).unwrap();
        let ran = Command::new(program("helm"))
            .args([verb, "fab-session-injector"])
            .arg(chart())
            .args(["--namespace", SYSTEM, "--wait", "--timeout", "120s", "--values"])
            .arg(&file)
            .args(flags)
            .arg("--kubeconfig")
            .arg(self.node.kubeconfig())
            // Not the plugins and repositories of the user who runs the tests.
            .envs(
                ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"]
                    .map(|variable| (variable, scratch().join("helm"))),
            )
            .output()
            .unwrap();
        if ran.status.success() {
            Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&ran.stderr).into_owned())
        }
    }

    /// Creates a namespace with the labels, quota, limits and network policies of the platform's
    /// operator, and the opt-in label, which an engineer adds. Then creates the operator's rights.
    pub fn admit_tenant(&self) {
        let pod_identity = self.cloud.pod_identity();
        self.node.create(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT, "labels": {
                "agents.nanohype.dev/persona": "engineering",
                "agents.nanohype.dev/platform": "acme",
                "agents.nanohype.dev/tenant": "research",
                "app.kubernetes.io/managed-by": "eks-agent-platform",
                "app.kubernetes.io/part-of": "eks-agent-platform",
                "fab.nanohype.dev/session-injection": "enabled",
                "pod-security.kubernetes.io/audit": "restricted",
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            }}}),
            json!({"apiVersion": "v1", "kind": "ResourceQuota",
                "metadata": {"name": "tenant-default", "namespace": TENANT},
                "spec": {"hard": {
                    "requests.cpu": "4", "requests.memory": "16Gi", "limits.cpu": "8", "limits.memory": "32Gi",
                    "pods": "50", "services": "20", "secrets": "50", "configmaps": "50",
                }},
            }),
            json!({"apiVersion": "v1", "kind": "LimitRange",
                "metadata": {"name": "tenant-default", "namespace": TENANT},
                "spec": {"limits": [{
                    "type": "Container",
                    "default": {"cpu": "1", "memory": "1Gi"},
                    "defaultRequest": {"cpu": "100m", "memory": "128Mi"},
                }]},
            }),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "tenant-egress", "namespace": TENANT},
                "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                    {"to": [dns()], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]},
                    // 169.254.170.23:80, as in packets after the redirection to the stand-in.
                    {"to": [{"ipBlock": {"cidr": format!("{}/32", pod_identity.ip())}}],
                     "ports": [{"port": pod_identity.port()}]},
                ]},
            }),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "sessions", "namespace": TENANT},
                "spec": {
                    "podSelector": {"matchExpressions": [
                        {"key": "agents.nanohype.dev/agentsandbox", "operator": "Exists"},
                    ]},
                    "policyTypes": ["Ingress", "Egress"],
                    "egress": [
                        {"to": [dns()], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]},
                        {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}],
                         "ports": [{"port": 443}]},
                    ],
                },
            }),
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "tenant-runtime", "namespace": TENANT},
            }),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": "operator"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
                "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": OPERATOR}],
            }),
        ]);
        self.node.await_service_account(TENANT, "tenant-runtime");
    }

    /// Creates a namespace without a tenant, injection and network policies.
    pub fn create_other_namespace(&self, name: &str) {
        self.node.create(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "tenant-runtime", "namespace": name},
            }),
        ]);
    }

    /// Creates the pod of a session as the operator; returns its name.
    pub fn create_session(&self, sandbox: &str) -> String {
        self.create_as(OPERATOR, &session(TENANT, sandbox, &["sleep"]));
        format!("session-{sandbox}")
    }

    /// Creates an object as `user`.
    pub fn create_as(&self, user: &str, object: &Value) {
        let create = ["create", "--filename=-", "--as", user];
        let created = self.node.kubectl(&create).stdin(&object.to_string()).run();
        assert!(created.ok, "{}", created.stderr);
    }
}

/// Returns the operator's pod for an AgentSandbox, with the agent's arguments.
pub fn session(namespace: &str, sandbox: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("session-{sandbox}"), "namespace": namespace, "labels": {
            "agents.nanohype.dev/agentsandbox": sandbox,
            "agents.nanohype.dev/platform": "acme",
            "app.kubernetes.io/component": "agent-sandbox",
            "app.kubernetes.io/managed-by": "eks-agent-platform",
        }},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "session",
                "image": AGENT_IMAGE,
                "args": args,
                "resources": small(),
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
            }],
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "serviceAccountName": "tenant-runtime",
            "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "workspace", "emptyDir": {}}],
        },
    })
}

/// Returns small resources: with the defaults of the namespace, seven pods use up its quota.
pub fn small() -> Value {
    json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}})
}

/// Returns the chart's components after one for Sandboxes, whose controller names the pods.
fn components() -> Value {
    let values = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let mut components = vec![json!({
        "name": "sandbox", "creators": [SANDBOXES], "session": "pod-name",
    })];
    components.extend(values["config"]["components"].as_array().unwrap().iter().cloned());
    components.into()
}

fn dns() -> Value {
    json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    })
}
