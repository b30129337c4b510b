//! Other people's webhooks, with the effect that the real ones have.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::{Json, Router, routing::post};
use fab_session_injector::serve::{
    Limits, Transport, serve,
    tls::{Certificate, Files},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::process::{own_directory, wait_until};
use super::world::World;

/// What a webhook does to a pod: the operations of its JSON patch.
pub(crate) type Effect = fn(&Value) -> Vec<Value>;

/// Called for pods of namespaces with the label `test.example/foreign=<label>`.
#[derive(Debug)]
pub(crate) struct Webhook<'w> {
    world: &'w World,
    configuration: String,
    calls: Arc<AtomicUsize>,
    /// Ends the server.
    _runtime: tokio::runtime::Runtime,
    _directory: TempDir,
}

impl<'w> Webhook<'w> {
    /// The API server calls webhooks in the order of their configurations' names.
    pub(crate) fn start(
        world: &'w World,
        configuration: &str,
        label: &str,
        effect: Effect,
    ) -> Self {
        Self::start_with(world, configuration, label, effect, json!({}))
    }

    /// The EKS Pod Identity webhook. `honours_label`: with the object selector that EKS
    /// gives it.
    pub(crate) fn start_pod_identity(
        world: &'w World,
        configuration: &str,
        label: &str,
        honours_label: bool,
    ) -> Self {
        let skip = json!({"matchExpressions": [{"key": "eks.amazonaws.com/skip-pod-identity-webhook", "operator": "DoesNotExist"}]});
        let selector = if honours_label { skip } else { json!({}) };
        Self::start_with(world, configuration, label, pod_identity, selector)
    }

    fn start_with(
        world: &'w World,
        configuration: &str,
        label: &str,
        effect: Effect,
        object_selector: Value,
    ) -> Self {
        let directory = own_directory();
        let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make"))
            .arg(directory.path())
            .status();
        assert!(made.unwrap().success());
        let calls = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let port = runtime.block_on(listen(directory.path(), effect, Arc::clone(&calls)));
        let authority = std::fs::read(directory.path().join("ca.crt")).unwrap();
        let manifest = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": configuration},
            "webhooks": [{
                "name": "foreign.test.example",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://127.0.0.1:{port}/mutate"), "caBundle": super::world::base64(&authority)},
                "failurePolicy": "Fail",
                "namespaceSelector": {"matchLabels": {"test.example/foreign": label}},
                "objectSelector": object_selector,
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "sideEffects": "None",
            }],
        });
        world.apply(&manifest);
        let webhook = Self {
            world,
            configuration: configuration.to_owned(),
            calls,
            _runtime: runtime,
            _directory: directory,
        };
        webhook.wait_until_called(label);
        webhook
    }

    /// How often it was called for a pod of the test's.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Until a pod that is no agent's, and so none of ours, reaches it.
    fn wait_until_called(&self, label: &str) {
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
            (self.calls() > 0).then_some(())
        });
        self.calls.store(0, Ordering::Relaxed);
    }
}

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "mutatingwebhookconfiguration", &self.configuration];
        self.world.cluster.kubectl(&delete).run();
    }
}

/// A sidecar that another injector adds, once.
pub(crate) fn add_a_container(pod: &Value) -> Vec<Value> {
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

/// A webhook that was built before native sidecars: it writes both lists anew from types
/// that have no `restartPolicy`, and so drops it.
pub(crate) fn rewrite_from_old_types(pod: &Value) -> Vec<Value> {
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

/// What linkerd's proxy injector does, with its CNI plugin: its proxy stands first, so that it is
/// up before the others, with a token and a volume of its own.
pub(crate) fn linkerd(pod: &Value) -> Vec<Value> {
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

/// What istio's injector does, with its CNI plugin and native sidecars: its proxy stands first in
/// the init containers, and it writes the lists anew from its own merge.
pub(crate) fn istio(pod: &Value) -> Vec<Value> {
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

/// What amazon-eks-pod-identity-webhook does for a service account with an association:
/// region and endpoint variables, the credential variables unless one is there, the token's
/// mount in either case, all in lists that are written anew; `skip-containers` is split at
/// ',' and not trimmed.
fn pod_identity(pod: &Value) -> Vec<Value> {
    const VOLUME: &str = "eks-pod-identity-token";
    const DIRECTORY: &str = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount";
    let skipped = pod["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"]
        .as_str()
        .unwrap_or_default();
    // It reads the value as CSV, and a stray quote makes it skip nobody.
    let skipped: Vec<&str> =
        if skipped.contains('"') { Vec::new() } else { skipped.split(',').collect() };
    let mut operations = Vec::new();
    for list in ["containers", "initContainers"] {
        let Some(containers) = pod["spec"][list].as_array() else { continue };
        let mut rewritten = containers.clone();
        for container in rewritten
            .iter_mut()
            .filter(|container| !skipped.contains(&container["name"].as_str().unwrap()))
        {
            let mut env = container["env"].as_array().cloned().unwrap_or_default();
            let has = |env: &[Value], name: &str| env.iter().any(|entry| entry["name"] == name);
            for (name, value) in [
                ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
                ("AWS_DEFAULT_REGION", "eu-west-1"),
                ("AWS_REGION", "eu-west-1"),
            ] {
                if !has(&env, name) {
                    env.push(json!({"name": name, "value": value}));
                }
            }
            let credentials = [
                (
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                    "http://169.254.170.23/v1/credentials".to_owned(),
                ),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", format!("{DIRECTORY}/{VOLUME}")),
            ];
            if !credentials.iter().any(|(name, _)| has(&env, name)) {
                env.extend(credentials.map(|(name, value)| json!({"name": name, "value": value})));
            }
            container["env"] = env.into();
            let mut mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if !has(&mounts, VOLUME) {
                mounts.push(json!({"name": VOLUME, "mountPath": DIRECTORY, "readOnly": true}));
            }
            container["volumeMounts"] = mounts.into();
        }
        operations
            .push(json!({"op": "replace", "path": format!("/spec/{list}"), "value": rewritten}));
    }
    let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    if !volumes.iter().any(|volume| volume["name"] == VOLUME) {
        let token = json!({"audience": "pods.eks.amazonaws.com", "expirationSeconds": 86400, "path": VOLUME});
        volumes.push(
            json!({"name": VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}),
        );
        operations.push(json!({"op": "add", "path": "/spec/volumes", "value": volumes}));
    }
    operations
}

async fn listen(directory: &std::path::Path, effect: Effect, calls: Arc<AtomicUsize>) -> u16 {
    let files = Files { certificate: directory.join("tls.crt"), key: directory.join("tls.key") };
    let tls = Certificate::load(files).unwrap().server_config().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = move |Json(review): Json<Value>| async move {
        calls.fetch_add(1, Ordering::Relaxed);
        let operations = effect(&review["request"]["object"]);
        let patch = serde_json::to_vec(&operations).unwrap();
        Json(json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": super::world::base64(&patch)},
        }))
    };
    let router = Router::new().route("/mutate", post(handler));
    let transport = Transport::Tls(TlsAcceptor::from(Arc::new(tls)));
    tokio::spawn(serve(
        listener,
        transport,
        Limits::default(),
        router,
        std::future::pending(),
        Duration::ZERO,
    ));
    port
}
