//! Webhooks of other vendors, with the effect of the real ones.

pub mod pod_identity;
pub mod server;

use std::time::Duration;

use serde_json::{Value, json};

pub use self::server::Effect;
use self::{pod_identity::pod_identity, server::Server};
use crate::{
    process::{address, wait_until},
    world::World,
};

/// A webhook for pods of namespaces with the label `test.example/foreign=<label>`.
#[derive(Debug)]
pub struct Webhook<'w> {
    world: &'w World,
    configuration: String,
    server: Server,
    /// Calls until the configuration took effect.
    calls_before: usize,
}

impl<'w> Webhook<'w> {
    /// Starts a webhook. The API server calls webhooks in the order of their configuration names.
    pub fn start(world: &'w World, configuration: &str, label: &str, effect: Effect) -> Self {
        Self::start_with(world, configuration, label, effect, &json!({}))
    }

    /// Starts a policy engine that registers as Kyverno does: it is called again if a later webhook
    /// changed the pod.
    pub fn start_engine(
        world: &'w World,
        configuration: &str,
        label: &str,
        effect: Effect,
    ) -> Self {
        let settings = json!({"reinvocationPolicy": "IfNeeded"});
        Self::start_with(world, configuration, label, effect, &settings)
    }

    /// Starts the EKS Pod Identity webhook. `honours_label`: whether it has the object selector of
    /// EKS.
    pub fn start_pod_identity(
        world: &'w World,
        configuration: &str,
        label: &str,
        honours_label: bool,
    ) -> Self {
        let skip = json!({"matchExpressions": [{"key": "eks.amazonaws.com/skip-pod-identity-webhook", "operator": "DoesNotExist"}]});
        let selector = if honours_label { skip } else { json!({}) };
        let settings = json!({"objectSelector": selector});
        Self::start_with(world, configuration, label, pod_identity, &settings)
    }

    fn start_with(
        world: &'w World,
        configuration: &str,
        label: &str,
        effect: Effect,
        settings: &Value,
    ) -> Self {
        let server = Server::start(address(), effect);
        world.apply(&server.configuration(configuration, label, settings));
        let configuration = configuration.to_owned();
        let mut webhook = Self { world, configuration, server, calls_before: 0 };
        webhook.wait_until_called(label);
        webhook
    }

    /// Returns the number of calls for pods of the test.
    pub fn calls(&self) -> usize {
        self.server.calls() - self.calls_before
    }

    /// Waits until it is called for a pod that is not an agent.
    fn wait_until_called(&mut self, label: &str) {
        let namespaces = self
            .world
            .cluster
            .kubectl(&["get", "namespaces", "--selector", &format!("test.example/foreign={label}")])
            .json();
        let namespace = &namespaces["items"][0]["metadata"]["name"];
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": namespace},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        wait_until("the API server calls the other webhook", Duration::from_secs(20), || {
            self.world
                .cluster
                .kubectl(&["create", "--dry-run=server", "--filename=-"])
                .stdin(&pod.to_string())
                .run();
            (self.server.calls() > 0).then_some(())
        });
        self.calls_before = self.server.calls();
    }
}

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "mutatingwebhookconfiguration", &self.configuration];
        self.world.cluster.kubectl(&delete).run();
    }
}

/// Adds the sidecar of another injector, once.
pub fn add_a_container(pod: &Value) -> Vec<Value> {
    let present = pod["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .any(|container| container["name"] == "late");
    if present {
        return Vec::new();
    }
    vec![
        json!({"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "late:1", "securityContext": restricted()}}),
    ]
}

/// A webhook that was built before native sidecars: it rewrites both lists from types without
/// `restartPolicy`, which drops the field.
pub fn rewrite_from_old_types(pod: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    for list in ["containers", "initContainers"] {
        let Some(containers) = pod["spec"][list].as_array() else { continue };
        let mut rewritten = containers.clone();
        for container in &mut rewritten {
            container.as_object_mut().unwrap().shift_remove("restartPolicy");
        }
        operations
            .push(json!({"op": "replace", "path": format!("/spec/{list}"), "value": rewritten}));
    }
    operations
}

/// The effect of Linkerd's proxy injector with its CNI plugin. Its proxy is the first container,
/// so that it starts first, and has its own token and volume.
pub fn linkerd(pod: &Value) -> Vec<Value> {
    if pod["metadata"]["annotations"]["linkerd.io/proxy-version"].is_string() {
        return Vec::new();
    }
    let token = json!({"audience": "identity.l5d.io", "expirationSeconds": 86400, "path": "linkerd-identity-token"});
    let volumes = [
        json!({"name": "linkerd-identity-end-entity", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "linkerd-identity-token", "projected": {"sources": [{"serviceAccountToken": token}]}}),
    ];
    let proxy = json!({
        "name": "linkerd-proxy", "image": "proxy:1", "securityContext": restricted(),
        "env": [{"name": "_pod_name", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "linkerd-identity-end-entity", "mountPath": "/var/run/linkerd/identity/end-entity"}],
    });
    let mut operations = added_volumes(pod, &volumes);
    operations.push(annotated(pod, "linkerd.io/proxy-version", "edge"));
    operations.push(json!({"op": "add", "path": "/spec/containers/0", "value": proxy}));
    operations
}

/// The effect of Istio's injector with its CNI plugin and native sidecars. Its proxy is the first
/// init container, and it rewrites the lists from its own merge.
pub fn istio(pod: &Value) -> Vec<Value> {
    if pod["metadata"]["annotations"]["sidecar.istio.io/status"].is_string() {
        return Vec::new();
    }
    let token = json!({"audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token"});
    let volumes = [
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}}),
    ];
    let proxy = json!({
        "name": "istio-proxy", "image": "proxyv2:1", "restartPolicy": "Always", "securityContext": restricted(),
        "args": ["proxy", "sidecar"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "istio-envoy", "mountPath": "/etc/istio/proxy"}],
    });
    let mut first = vec![proxy];
    first.extend(pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default());
    let mut operations = added_volumes(pod, &volumes);
    operations.push(annotated(pod, "sidecar.istio.io/status", "{\"revision\":\"default\"}"));
    operations.push(json!({"op": "add", "path": "/spec/initContainers", "value": first}));
    operations.push(
        json!({"op": "replace", "path": "/spec/containers", "value": pod["spec"]["containers"]}),
    );
    operations
}

fn added_volumes(pod: &Value, volumes: &[Value]) -> Vec<Value> {
    let mut all = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    all.extend_from_slice(volumes);
    vec![json!({"op": "add", "path": "/spec/volumes", "value": all})]
}

fn annotated(pod: &Value, key: &str, value: &str) -> Value {
    let mut annotations = pod["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.insert(key.to_owned(), value.into());
    json!({"op": "add", "path": "/metadata/annotations", "value": annotations})
}

fn restricted() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}
