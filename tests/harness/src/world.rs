//! A cluster with the chart's webhook: a real API server calls the real binary over TLS. The
//! webhook configuration and the RBAC rules are those of the chart.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control_plane::ControlPlane;
use crate::moto::{Moto, REGION};
use crate::process::{Process, address, free_port, get, own_directory, wait_until};
use crate::{helm, program, root};

/// A cluster, the webhook and its parameter store.
#[derive(Debug)]
pub struct World {
    /// The webhook, if it runs.
    pub webhook: Option<Process>,
    /// The control plane.
    pub cluster: ControlPlane,
    /// The parameter store, if it runs.
    pub moto: Option<Moto>,
    manifests: Vec<Value>,
    /// Users that are already allowed to create pods.
    allowed: Mutex<HashSet<String>>,
    /// Address at which the API server calls the webhook.
    ip: IpAddr,
    port: u16,
    health_port: u16,
    directory: TempDir,
    /// Further environment variables of the webhook.
    pub environment: Vec<(&'static str, OsString)>,
}

impl World {
    /// Starts a cluster in which the API server calls the webhook. `values` are chart values.
    pub fn start(values: &[(&str, &str)], values_file: Option<&Path>) -> Self {
        let mut world = Self::without_configuration(values, values_file);
        world.start_webhook();
        world.configure();
        world
    }

    /// The same with default values, in the cluster of `FAB_TEST_KUBECONFIG` if that is set.
    pub fn shared() -> Self {
        let mut world = Self::on(ControlPlane::shared(), address().into(), &[], None);
        world.start_webhook();
        world.configure();
        world
    }

    /// Starts a cluster without the webhook configuration.
    pub fn without_configuration(values: &[(&str, &str)], values_file: Option<&Path>) -> Self {
        Self::on(ControlPlane::start(), address().into(), values, values_file)
    }

    /// Starts a cluster of IPv6, in which the API server calls the webhook at `[::1]`.
    pub fn start_ipv6(values: &[(&str, &str)]) -> Self {
        let ip = Ipv6Addr::LOCALHOST.into();
        let mut world = Self::on(ControlPlane::start_on(ip), ip, values, None);
        world.start_webhook();
        world.configure();
        world
    }

    fn on(
        cluster: ControlPlane,
        ip: IpAddr,
        values: &[(&str, &str)],
        values_file: Option<&Path>,
    ) -> Self {
        let directory = own_directory();
        let moto = Moto::start();
        let endpoint = moto.endpoint();
        let mut all = vec![
            ("config.cluster", "prod"),
            ("config.region", REGION),
            ("config.roles.ssm.endpoint", &*endpoint),
            ("config.roles.ssm.refreshSeconds", "1"),
            ("config.roles.ssm.negativeSeconds", "1"),
        ];
        all.extend(values);
        let text = helm::render(&helm::chart(), "injector", SYSTEM, &all, values_file).unwrap();
        let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let world = Self {
            webhook: None,
            cluster,
            moto: Some(moto),
            manifests: manifests.into_iter().filter(|manifest| !manifest.is_null()).collect(),
            allowed: Mutex::default(),
            ip,
            port: free_port(),
            health_port: free_port(),
            directory,
            environment: Vec::new(),
        };
        world.cluster.create_namespace(SYSTEM, &[]);
        let rights = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"];
        for manifest in rights.iter().map(|kind| world.manifest(kind)) {
            world.apply(manifest);
        }
        world
    }

    /// Creates a certificate, and starts the webhook with it.
    pub fn start_webhook(&mut self) {
        self.make_certificate(&[]);
        self.webhook = Some(self.start_replica("webhook", (self.port, self.health_port)));
    }

    /// Creates a certificate of the same CA. `arguments` select a fault.
    pub fn make_certificate(&self, arguments: &[&str]) {
        let made = Command::new(root().join("certs/make"))
            .args(arguments)
            .arg(self.tls())
            .args([&self.ip.to_string(), "localhost"])
            .status()
            .unwrap();
        assert!(made.success());
    }

    /// Returns the address at which the API server calls the webhook.
    pub fn address(&self) -> SocketAddr {
        (self.ip, self.port).into()
    }

    /// Returns the address of the health port.
    pub fn health_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.health_port).into()
    }

    /// Returns the path at which the kubelet would mount the Secret.
    pub fn tls(&self) -> PathBuf {
        self.directory.path().join("tls")
    }

    /// Starts the binary as the chart's Deployment does, except for addresses and file paths.
    pub fn start_replica(&self, name: &str, (port, health_port): (u16, u16)) -> Process {
        let directory = self.directory.path().to_owned();
        let config = directory.join("config.yaml");
        let data = &self.manifest("ConfigMap")["data"];
        let mut text: Value =
            serde_saphyr::from_str(data["config.yaml"].as_str().unwrap()).unwrap();
        if let Some(roles) = data["roles.yaml"].as_str() {
            let file = directory.join("roles.yaml");
            fs::write(&file, roles).unwrap();
            if text["roles"]["file"].is_string() {
                text["roles"]["file"] = file.to_str().into();
            }
        }
        fs::write(&config, text.to_string()).unwrap();
        let mut command = Command::new(program());
        command
            .arg("webhook")
            .arg("--config")
            .arg(&config)
            .arg(format!("--listen={}", SocketAddr::new(self.ip, port)))
            .arg(format!("--health-listen=127.0.0.1:{health_port}"))
            .arg("--tls-certificate")
            .arg(self.tls().join("tls.crt"))
            .arg("--tls-key")
            .arg(self.tls().join("tls.key"))
            .arg(if name == "webhook" { "--shutdown-delay=0" } else { "--shutdown-delay=2" })
            .env("KUBECONFIG", self.own_kubeconfig())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", CANARY)
            .env("AWS_REGION", REGION)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut webhook = Process::start(name, &directory, &command);
        webhook.wait_until("the webhook is ready", Duration::from_secs(30), || {
            let health = ([127, 0, 0, 1], health_port).into();
            get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        webhook
    }

    /// Applies the chart's webhook configuration, with the address of the webhook under test.
    pub fn configure(&self) {
        self.configure_at(self.port);
    }

    /// Applies the configuration for a webhook on another port.
    pub fn configure_at(&self, port: u16) {
        let mut configuration = self.manifest("MutatingWebhookConfiguration").clone();
        let authority = fs::read(self.tls().join("ca.crt")).unwrap();
        for webhook in configuration["webhooks"].as_array_mut().unwrap() {
            let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
            webhook["clientConfig"] = json!({
                "url": format!("https://{}{path}", SocketAddr::new(self.ip, port)),
                "caBundle": base64(&authority),
            });
        }
        self.apply(&configuration);
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": self.guard()}));
        // A new configuration takes effect after a short delay.
        self.namespace("probe-of-the-configuration", "enabled", "probe", &[]);
        wait_until("the API server calls the webhook", Duration::from_secs(20), || {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "probe", "namespace": "probe-of-the-configuration", "labels": {"fab.nanohype.dev/component": "nobody"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            });
            let outcome = self
                .cluster
                .kubectl(&["create", "--dry-run=server", "--filename=-"])
                .stdin(&pod.to_string())
                .run();
            outcome.stderr.contains("[unknown-component]").then_some(())
        });
    }

    /// Kills the webhook, as a node failure does.
    pub fn kill_webhook(&mut self) {
        self.webhook = None;
    }

    /// Creates a namespace as the platform does; waits until API server and webhook have it.
    pub fn namespace(&self, name: &str, mode: &str, tenant: &str, labels: &[(&str, &str)]) {
        let mut all = vec![
            ("agents.nanohype.dev/platform", tenant),
            ("pod-security.kubernetes.io/enforce", "restricted"),
        ];
        if !mode.is_empty() {
            all.push(("fab.nanohype.dev/session-injection", mode));
        }
        for (key, value) in labels {
            all.retain(|(present, _)| present != key);
            all.push((key, value));
        }
        self.cluster.create_namespace(name, &all);
        self.service_account(name, "tenant-runtime");
    }

    /// Creates namespaces and service accounts; returns when pods can be created in them.
    pub fn create_homes(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let made = self.cluster.kubectl(&["create", "--filename=-"]).stdin(&list.to_string()).run();
        assert!(made.ok, "{}", made.stderr);
        for namespace in objects.iter().filter(|object| object["kind"] == "Namespace") {
            let name = namespace["metadata"]["name"].as_str().unwrap();
            self.cluster.await_service_account(name, "default");
        }
    }

    /// Creates a service account.
    pub fn service_account(&self, namespace: &str, name: &str) {
        self.cluster.kubectl(&["create", "serviceaccount", name, "--namespace", namespace]).json();
    }

    /// Publishes the role of a tenant in the parameter store.
    pub fn publish(&self, tenant: &str, arn: &str) {
        self.moto().put_parameter(&parameter(tenant), arn, "String");
    }

    /// Returns the parameter store, which must run.
    pub fn moto(&self) -> &Moto {
        self.moto.as_ref().unwrap()
    }

    /// Stops the parameter store.
    pub fn stop_moto(&mut self) {
        self.moto = None;
    }

    /// Creates a pod; returns the stored pod, or the error of kubectl.
    pub fn create(&self, pod: &Value, creator: Option<&str>) -> Result<Created, String> {
        let mut arguments = vec!["create", "--output=json", "--filename=-"];
        if let Some(creator) = creator {
            self.allow(creator);
            arguments.extend(["--as", creator]);
        }
        let outcome = self.cluster.kubectl(&arguments).stdin(&pod.to_string()).run();
        if outcome.ok {
            Ok(Created {
                pod: serde_json::from_str(&outcome.stdout).unwrap(),
                warnings: outcome.stderr,
            })
        } else {
            Err(outcome.stderr)
        }
    }

    /// Returns the audit annotations of the injector's webhooks for the creation of pod `name`,
    /// without the API server's prefix; empty if neither webhook was called.
    pub fn audit_annotations(&self, namespace: &str, name: &str) -> HashMap<String, String> {
        let event = wait_until("the audit event is written", Duration::from_secs(10), || {
            self.cluster.audit_events().into_iter().rev().find(|event| {
                event["objectRef"]["namespace"] == namespace && event["objectRef"]["name"] == name
            })
        });
        let annotations = event["annotations"].as_object().cloned().unwrap_or_default();
        let ours = annotations.iter().filter_map(|(key, value)| {
            let (webhook, key) = key.split_once('/')?;
            webhook
                .ends_with(".session.fab.nanohype.dev")
                .then(|| (key.to_owned(), value.as_str().unwrap().to_owned()))
        });
        ours.collect()
    }

    /// Returns the raw response of the health port.
    pub fn health(&self, path: &str) -> String {
        get(self.health_address(), path)
    }

    /// Applies an object as the administrator.
    pub fn apply(&self, manifest: &Value) {
        let manifest = manifest.to_string();
        let apply = || self.cluster.kubectl(&["apply", "--filename=-"]).stdin(&manifest).run();
        let mut applied = apply();
        // Another test of this world created the object at the same time.
        if applied.stderr.contains("(AlreadyExists)") {
            applied = apply();
        }
        assert!(applied.ok, "{}\n{manifest}", applied.stderr);
    }

    /// Returns the object of this kind that belongs to the webhook, not to `certs` or `issuer`.
    pub fn manifest(&self, kind: &str) -> &Value {
        let of_others = |manifest: &Value| {
            let name = manifest["metadata"]["name"].as_str();
            name.is_some_and(|name| name.ends_with("-certs") || name.ends_with("-issuer"))
        };
        let is_it = |manifest: &&Value| manifest["kind"] == kind && !of_others(manifest);
        self.manifests.iter().find(is_it).unwrap()
    }

    /// Returns the objects whose name has this ending.
    pub fn named<'w>(&'w self, ending: &'w str) -> impl Iterator<Item = &'w Value> {
        let has = move |manifest: &&Value| {
            manifest["metadata"]["name"].as_str().is_some_and(|name| name.ends_with(ending))
        };
        self.manifests.iter().filter(has)
    }

    /// Returns the policies and bindings of the guard.
    fn guard(&self) -> Vec<&Value> {
        const KINDS: [&str; 2] = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
        let all = self.manifests.iter();
        all.filter(|manifest| KINDS.iter().any(|kind| manifest["kind"] == *kind)).collect()
    }

    /// Allows a user to create pods, since tests are about the user's name, not about RBAC.
    pub fn allow(&self, username: &str) {
        if !self.allowed.lock().unwrap().insert(username.to_owned()) {
            return;
        }
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("creator-{}", username.replace(':', "-"))},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": username}],
        });
        self.apply(&binding);
    }

    /// Returns a kubeconfig with the token and the rights of the chart's service account.
    fn own_kubeconfig(&self) -> PathBuf {
        let account = self.manifest("ServiceAccount")["metadata"]["name"].as_str().unwrap();
        self.cluster.kubeconfig_of(SYSTEM, account)
    }
}

/// A stored pod, and the warnings for the requesting user.
#[derive(Debug)]
pub struct Created {
    /// The pod as stored.
    pub pod: Value,
    /// Output of kubectl for the warnings.
    pub warnings: String,
}

impl Created {
    /// Returns a container or an init container by its name.
    pub fn container(&self, name: &str) -> &Value {
        let spec = &self.pod["spec"];
        let all = ["initContainers", "containers"]
            .into_iter()
            .filter_map(|list| spec[list].as_array())
            .flatten();
        all.into_iter().find(|container| container["name"] == name).unwrap()
    }

    /// Returns the names in one of the pod's lists.
    pub fn names(&self, list: &str) -> Vec<&str> {
        let items = self.pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().map(|item| item["name"].as_str().unwrap()).collect()
    }

    /// Returns the value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.pod["metadata"]["annotations"][key].as_str()
    }
}

/// Returns the value or the reference of a container's variable.
pub fn variable<'c>(container: &'c Value, name: &str) -> Option<&'c Value> {
    let mut entries = container["env"].as_array()?.iter().filter(|entry| entry["name"] == name);
    let entry = entries.next()?;
    assert!(entries.next().is_none(), "{name} stands twice");
    entry.get("value").or_else(|| entry.get("valueFrom"))
}

/// Returns a stored pod without the parts that differ for each creation: uid, times, versions,
/// names of generated volumes, and the order of volumes and mounts, because those of the service
/// account are added before or after the others.
fn essence(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let metadata = pod["metadata"].as_object_mut().unwrap();
    for key in [
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "managedFields",
        "name",
        "namespace",
    ] {
        metadata.shift_remove(key);
    }
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.sort_keys();
    }
    pod.as_object_mut().unwrap().shift_remove("status");
    let by_name = |list: Option<&mut Value>| {
        if let Some(items) = list.and_then(Value::as_array_mut) {
            items.sort_by_key(|item| item["name"].as_str().unwrap().to_owned());
        }
    };
    by_name(pod["spec"].get_mut("volumes"));
    for list in ["containers", "initContainers"] {
        for container in
            pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
        {
            by_name(container.get_mut("volumeMounts"));
        }
    }
    let text = pod.to_string();
    let generated = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let generated =
        generated.filter_map(|volume| volume["name"].as_str()?.strip_prefix("kube-api-access-"));
    let text = generated.fold(text.clone(), |text, suffix| {
        text.replace(&format!("kube-api-access-{suffix}"), "kube-api-access")
    });
    serde_json::from_str(&text).unwrap()
}

/// Compares two stored pods, and shows the lines that differ.
pub fn assert_same(found: &Value, wanted: &Value, about: &str) {
    let [found, wanted] =
        [found, wanted].map(|pod| serde_saphyr::to_string(&essence(pod)).unwrap());
    let diff = similar::TextDiff::from_lines(&wanted, &found);
    assert!(found == wanted, "{about}:\n{}", diff.unified_diff().header("wanted", "found"));
}

/// Returns a pod of the service account with base credentials, as `restricted` requires.
pub fn agent(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccountName": "tenant-runtime",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [restricted("agent")],
        },
    })
}

/// Returns a container as `restricted` requires.
pub fn restricted(name: &str) -> Value {
    json!({"name": name, "image": "agent:1", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
}

/// Returns the name of the parameter that has a tenant's role.
pub fn parameter(tenant: &str) -> String {
    format!("/eks-agent-platform/prod/tenant-substrate/{tenant}/session_role_arn")
}

/// Returns the ARN of a role.
pub fn role(name: &str) -> String {
    format!("arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-{name}-broker")
}

/// Returns the bytes in Base64.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// User name of the operator, which may name sessions.
pub const OPERATOR: &str = "system:serviceaccount:eks-agent-platform:operator";
/// Namespace of the chart's release.
pub const SYSTEM: &str = "fab-session-injector";
/// A secret that must not appear in any output of the webhook.
pub const CANARY: &str = "canary-secret-access-key";
