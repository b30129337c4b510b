//! cert-manager's own controllers and cainjector with the chart's objects: they issue the serving
//! certificate, inject its CA, and renew both. The real webhook serves it, and the API server
//! verifies it by the Service's host name.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    process::Command,
    time::{Duration, Instant},
};

use harness::{
    api_server::{self, ApiServer},
    control_plane::ControlPlane,
    helm::{self, chart},
    process::{Process, free_port, get, own_directory, program, wait_until},
    stream::{Stream, Tally},
};
use serde_json::{Value, json};
use tempfile::TempDir;

#[test]
fn check_follows_cert_manager_and_its_cainjector() {
    let installation = Installation::start();
    let secret = installation.secret(SECRET);
    for key in ["ca.crt", "tls.crt", "tls.key"] {
        assert!(secret[key].is_string(), "{key}: {secret}");
    }
    installation.roll_out();
    installation.finds(&[]);

    // The control: with its annotation, a removed `caBundle` comes back.
    installation.patch(&BUNDLES.map(remove));
    installation.await_bundle(&[&secret]);
    installation.finds(&[]);

    // Without it, nothing is wrong yet with the certificate, and only `check` tells.
    installation.patch(&[remove(ANNOTATION)]);
    let message = installation.finds(&["error webhook-edited"]);
    let named = "annotation cert-manager.io/inject-ca-from is null instead of";
    assert!(message.contains(named), "{message}");
    installation.patch(&BUNDLES.map(remove));
    installation.finds(&["error ca-bundle", "error webhook-edited"]);

    // The remedy of both findings.
    installation.upgrade();
    installation.await_bundle(&[&secret]);
    installation.finds(&[]);
}

/// Pods are created all the time. The webhook serves the last certificate until the kubelet has
/// updated its mounted Secret, up to two minutes after the renewal.
#[test]
fn renewals_by_cert_manager_refuse_no_pod() {
    let mut installation = Installation::start();
    let first = installation.secret(SECRET);
    installation.serve();
    let api_server = ApiServer::of(&installation.cluster.kubeconfig()).dry();
    let pods = Stream::to(api_server, api_server::agent(TENANT), Duration::from_millis(100));
    let all_injected = |when: &str| {
        let mut injected = 0;
        wait_until("ten more pods are injected", PATIENCE, || {
            let Tally { injected: more, bare, refused, said, .. } = pods.take();
            assert!(bare == 0 && refused.is_empty(), "{when}: {bare} bare, {refused:?}: {said:?}");
            injected += more;
            (injected >= 10).then_some(())
        });
    };
    all_injected("with the first certificate");

    // As `cmctl renew` does.
    installation.renew(CERTIFICATE);
    let second = installation.await_other(SECRET, &first);
    assert_ne!(first["tls.key"], second["tls.key"], "a new key with each renewal");
    all_injected("while the webhook serves the certificate before");
    installation.mount();
    all_injected("with the renewed certificate");

    let delete = ["delete", "secret", SECRET, "--namespace", NAMESPACE];
    assert!(installation.cluster.kubectl(&delete).run().ok);
    let third = installation.await_other(SECRET, &second);
    all_injected("after the Secret was deleted");
    installation.mount();
    all_injected("with the certificate of the new Secret");

    // The CA, with the same key. `caBundle` gets it with the next certificate.
    let authority = installation.secret(AUTHORITY_SECRET);
    installation.renew(AUTHORITY);
    let renewed = installation.await_other(AUTHORITY_SECRET, &authority);
    assert_eq!(authority["tls.key"], renewed["tls.key"], "the CA keeps its key");
    installation.renew(CERTIFICATE);
    let fourth = installation.await_other(SECRET, &third);
    assert_eq!(fourth["ca.crt"], renewed["tls.crt"]);
    installation.await_bundle(&[&third, &fourth]);
    all_injected("with the renewed CA and a certificate of the CA before");
    installation.mount();
    all_injected("with a certificate of the renewed CA");

    // Another CA, with another key. The CAs before stay in `caBundle`.
    let delete = ["delete", "secret", AUTHORITY_SECRET, "--namespace", NAMESPACE];
    assert!(installation.cluster.kubectl(&delete).run().ok);
    installation.await_other(AUTHORITY_SECRET, &renewed);
    installation.renew(CERTIFICATE);
    let fifth = installation.await_other(SECRET, &fourth);
    installation.await_bundle(&[&third, &fourth, &fifth]);
    all_injected("with another CA and a certificate of the CA before");

    // The control: without the CAs before, the API server trusts the webhook only after the mounted
    // Secret is updated.
    installation.patch(&BUNDLES.map(remove));
    installation.await_bundle(&[&fifth]);
    wait_until("pods are refused", PATIENCE, || pods.take().refused.get("webhook").copied());
    installation.mount();
    wait_until("pods are injected again", PATIENCE, || {
        let tally = pods.take();
        assert_eq!(tally.bare, 0);
        (tally.injected > 0 && tally.refused.is_empty()).then_some(())
    });
}

/// A cluster with cert-manager and the chart.
struct Installation {
    /// With the address of its health port.
    webhook: Option<(Process, SocketAddr)>,
    _cert_manager: Process,
    cluster: ControlPlane,
    directory: TempDir,
}

impl Installation {
    /// Returns when the certificate is issued and its CA injected.
    fn start() -> Self {
        let cluster = ControlPlane::start();
        let types = program("cert-manager-crds.yaml");
        let types = ["--filename", types.to_str().unwrap()];
        for words in [
            &["apply", "--server-side"][..],
            &["wait", "--for=condition=Established", "--timeout=60s"],
        ] {
            let ran = cluster.kubectl(&[words, &types[..]].concat()).run();
            assert!(ran.ok, "{}", ran.stderr);
        }
        cluster.create_namespace(NAMESPACE, &[]);
        let labels = [
            ("fab.nanohype.dev/session-injection", "enabled"),
            ("fab.nanohype.dev/tenant", "acme"),
            ("pod-security.kubernetes.io/enforce", "restricted"),
        ];
        cluster.create_namespace(TENANT, &labels);
        let account = ["create", "serviceaccount", "tenant-runtime", "--namespace", TENANT];
        cluster.kubectl(&account).json();
        let directory = own_directory();
        let mut command = Command::new(program("cert-manager"));
        command.arg(cluster.kubeconfig());
        let cert_manager = Process::start("cert-manager", directory.path(), &command);
        helm::install(&chart(), "pilot", NAMESPACE, &cluster.kubeconfig(), &VALUES).unwrap();
        let installation = Self { webhook: None, _cert_manager: cert_manager, cluster, directory };
        installation.await_other(SECRET, &Value::Null);
        installation.await_bundle(&[&installation.secret(SECRET)]);
        installation
    }

    fn upgrade(&self) {
        let kubeconfig = self.cluster.kubeconfig();
        let flags = ["--server-side=true", "--force-conflicts"];
        helm::upgrade(&chart(), "pilot", NAMESPACE, &kubeconfig, &VALUES, &flags).unwrap();
    }

    /// Does what kubelets and the controller of EndpointSlices do with the Deployment.
    fn roll_out(&self) {
        self.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "webhook", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
            "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
        }));
        let status = json!({"status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let status = ["--subresource=status", "--patch", &status.to_string()];
        wait_until("the release is rolled out", PATIENCE, || {
            let pods = self.cluster.kubectl(&["get", "pods", "--namespace", NAMESPACE]).json();
            for pod in pods["items"].as_array().unwrap() {
                let name = pod["metadata"]["name"].as_str().unwrap();
                let patch = ["patch", "pod", name, "--namespace", NAMESPACE];
                self.cluster.kubectl(&[&patch[..], &status].concat()).run();
            }
            let rollout = ["rollout", "status", "deployment", "--namespace", NAMESPACE];
            self.cluster.kubectl(&[&rollout[..], &["--timeout=1s"]].concat()).run().ok.then_some(())
        });
    }

    /// Starts the webhook with the mounted Secret, and leads the API server to it. A Service of this
    /// type needs no network of pods, and the certificate is still verified by the Service's name.
    fn serve(&mut self) {
        self.mount();
        let directory = self.directory.path();
        let config = self.cluster.kubectl(&["get", "configmap", NAME, "--namespace", NAMESPACE]);
        let config = config.json()["data"].clone();
        let file = |name: &str, text: &str| {
            fs::write(directory.join(name), text).unwrap();
            directory.join(name)
        };
        let roles = file("roles.yaml", config["roles.yaml"].as_str().unwrap());
        let mut parsed: Value =
            serde_saphyr::from_str(config["config.yaml"].as_str().unwrap()).unwrap();
        parsed["roles"]["file"] = roles.to_str().into();
        let [address, health] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .args(["webhook", "--shutdown-delay=0", "--config"])
            .arg(file("config.yaml", &parsed.to_string()))
            .arg(format!("--listen={address}"))
            .arg(format!("--health-listen={health}"))
            .arg("--tls-certificate")
            .arg(directory.join("tls/tls.crt"))
            .arg("--tls-key")
            .arg(directory.join("tls/tls.key"))
            .env("KUBECONFIG", self.cluster.kubeconfig_of(NAMESPACE, NAME))
            .env("AWS_EC2_METADATA_DISABLED", "true");
        let mut webhook = Process::start("webhook", directory, &command);
        webhook.wait_until("the webhook is ready", PATIENCE, || {
            get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        self.webhook = Some((webhook, health));

        let elsewhere = json!({"spec": {"type": "ExternalName", "externalName": "localhost"}});
        let patch = ["patch", "service", NAME, "--namespace", NAMESPACE, "--patch"];
        self.cluster.kubectl(&[&patch[..], &[&elsewhere.to_string()]].concat()).json();
        let ports = [0, 1].map(|index| {
            let path = format!("/webhooks/{index}/clientConfig/service/port");
            json!({"op": "replace", "path": path, "value": address.port()})
        });
        self.patch(&ports);
        wait_until("the API server calls the webhook", PATIENCE, || {
            let create = ["create", "--dry-run=server", "--output=yaml", "--filename=-"];
            let pod = api_server::agent(TENANT).to_string();
            let created = self.cluster.kubectl(&create).stdin(&pod).run();
            created.stdout.contains("fab-session-credentials").then_some(())
        });
    }

    /// Updates the mounted Secret, as the kubelet does; returns when the webhook has loaded it.
    fn mount(&self) {
        let before = self.reloads();
        let secret = self.secret(SECRET);
        let directory = self.directory.path().join("tls");
        fs::create_dir_all(&directory).unwrap();
        let version = format!("..{}", fs::read_dir(&directory).unwrap().count());
        fs::create_dir(directory.join(&version)).unwrap();
        for key in ["tls.crt", "tls.key"] {
            let bytes: k8s_openapi::ByteString =
                serde_json::from_value(secret[key].clone()).unwrap();
            fs::write(directory.join(&version).join(key), bytes.0).unwrap();
            if !directory.join(key).is_symlink() {
                symlink(format!("..data/{key}"), directory.join(key)).unwrap();
            }
        }
        symlink(&version, directory.join("..new")).unwrap();
        fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
        if self.webhook.is_some() {
            wait_until("the webhook has loaded it", PATIENCE, || {
                (self.reloads() != before).then_some(())
            });
        }
    }

    /// Returns the webhook's metric of loaded certificates.
    fn reloads(&self) -> Option<String> {
        let (_, health) = self.webhook.as_ref()?;
        let metrics = get(*health, "/metrics");
        let mut lines = metrics.lines().filter(|line| line.contains("certificate_reloads_total{"));
        Some(lines.find(|line| line.contains("loaded")).unwrap().to_owned())
    }

    /// Waits for exactly these findings that are not ok; returns their messages.
    fn finds(&self, wanted: &[&str]) -> String {
        let wanted: BTreeSet<String> = wanted.iter().map(|&it| it.to_owned()).collect();
        let mut found = (BTreeSet::new(), String::new());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            found = self.check();
            if found.0 == wanted {
                break;
            }
        }
        assert_eq!(found.0, wanted, "{}", found.1);
        found.1
    }

    fn check(&self) -> (BTreeSet<String>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(["check", "--skip-aws", "--output=json"])
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .output()
            .unwrap();
        let findings: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let findings = findings["findings"].as_array().unwrap().iter();
        // The values of these tests restrict no roles.
        let wrong = findings
            .filter(|finding| finding["level"] != "ok" && finding["check"] != "role-allow-list");
        wrong
            .map(|finding| {
                let text = |key: &str| finding[key].as_str().unwrap();
                (format!("{} {}", text("level"), text("check")), format!("{finding}\n"))
            })
            .unzip()
    }

    fn secret(&self, name: &str) -> Value {
        let get = ["get", "secret", name, "--namespace", NAMESPACE];
        self.cluster.kubectl(&get).json()["data"].clone()
    }

    /// Waits for a certificate in this Secret which is not the one of `before`; returns its data.
    fn await_other(&self, name: &str, before: &Value) -> Value {
        wait_until(&format!("{name} has another certificate"), PATIENCE, || {
            let get = ["get", "secret", name, "--namespace", NAMESPACE, "--output=json"];
            let secret: Value =
                serde_json::from_str(&self.cluster.kubectl(&get).run().stdout).ok()?;
            let data = &secret["data"];
            let is_other = data["tls.crt"].is_string() && data["tls.crt"] != before["tls.crt"];
            is_other.then(|| data.clone())
        })
    }

    /// Waits until both webhooks trust exactly the CAs of these Secrets.
    fn await_bundle(&self, secrets: &[&Value]) {
        let certificates = |field: &Value| -> BTreeSet<String> {
            let bytes: k8s_openapi::ByteString =
                serde_json::from_value(field.clone()).unwrap_or_default();
            let text = String::from_utf8(bytes.0).unwrap();
            text.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect()
        };
        let wanted: BTreeSet<String> =
            secrets.iter().flat_map(|secret| certificates(&secret["ca.crt"])).collect();
        assert_eq!(wanted.len(), secrets.len());
        wait_until("cainjector has set caBundle", PATIENCE, || {
            let get = ["get", "mutatingwebhookconfiguration", CONFIGURATION];
            let configuration = self.cluster.kubectl(&get).json();
            let mut webhooks = configuration["webhooks"].as_array().unwrap().iter();
            let is_set = |it: &Value| certificates(&it["clientConfig"]["caBundle"]) == wanted;
            webhooks.all(is_set).then_some(())
        });
    }

    /// Sets the condition that `cmctl renew` sets.
    fn renew(&self, certificate: &str) {
        let condition = json!({
            "type": "Issuing", "status": "True",
            "reason": "ManuallyTriggered", "message": "Certificate re-issuance manually triggered",
        });
        let add = json!([{"op": "add", "path": "/status/conditions/-", "value": condition}]);
        let patch = ["patch", "certificate", certificate, "--namespace", NAMESPACE];
        let status = ["--subresource=status", "--type=json", "--patch", &add.to_string()];
        self.cluster.kubectl(&[&patch[..], &status].concat()).json();
    }

    /// Patches the webhook configuration.
    fn patch(&self, operations: &[Value]) {
        let patch = ["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json"];
        let operations = json!(operations).to_string();
        self.cluster.kubectl(&[&patch[..], &["--patch", &operations]].concat()).json();
    }

    fn apply(&self, object: &Value) {
        self.cluster.kubectl(&["apply", "--filename=-"]).stdin(&object.to_string()).json();
    }
}

fn remove(path: &str) -> Value {
    json!({"op": "remove", "path": path})
}

const NAMESPACE: &str = "injector";
const TENANT: &str = "tenants-acme";
const CONFIGURATION: &str = "fab-session-injector";
/// The Service, the ConfigMap and the service account.
const NAME: &str = "pilot-fab-session-injector";
const CERTIFICATE: &str = NAME;
const SECRET: &str = "pilot-fab-session-injector-cert-manager";
const AUTHORITY: &str = "pilot-fab-session-injector-ca";
const AUTHORITY_SECRET: &str = "pilot-fab-session-injector-cert-manager-ca";
const VALUES: [(&str, &str); 3] = [
    ("certificates.mode", "certManager"),
    ("config.region", "eu-west-1"),
    ("staticRoles.acme", "arn:aws:iam::111122223333:role/prod-acme-broker"),
];
const BUNDLES: [&str; 2] =
    ["/webhooks/0/clientConfig/caBundle", "/webhooks/1/clientConfig/caBundle"];
const ANNOTATION: &str = "/metadata/annotations/cert-manager.io~1inject-ca-from";
/// Ten times what a renewal takes beside other tests.
const PATIENCE: Duration = Duration::from_secs(60);
