//! A running session issuer, its API server, its published files, and the AWS that trusts it.

use std::{
    cell::RefCell,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use fab_session_injector::issuer::GuardRule;
use harness::{
    api_proxy::ApiProxy,
    control_plane::{ControlPlane, Kubectl},
    file_server, issuer,
    kms::Kms,
    process::{Process, free_port, own_directory, wait_until},
    program, root, schema,
    sidecar::{
        account::BROKER,
        pod::{CONTROLLER, Pod, SANDBOX_CLAIM, Template, claim_components},
    },
    world::OPERATOR,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use strict_aws::{Aws, Fault, Outage, Provider, Role, Server, Target, Times, World};
use tempfile::TempDir;

/// An issuer with one tenant, `acme`, in the namespace `tenants-acme`.
pub(crate) struct IssuerProcess {
    process: RefCell<Option<Process>>,
    cluster: RefCell<ControlPlane>,
    /// In front of the API server, if the settings want it.
    pub(crate) proxy: Option<ApiProxy>,
    aws: Arc<Aws>,
    server: Server,
    directory: TempDir,
    address: SocketAddr,
    health: SocketAddr,
    command: Command,
}

/// What an issuer has in addition to the defaults.
#[derive(Default)]
pub(crate) struct Settings<'k> {
    /// The signing key is in KMS, not in a file.
    pub(crate) kms: Option<&'k Kms>,
    /// It calls the API server through a proxy.
    pub(crate) is_proxied: bool,
    /// Lifetime of all session credentials.
    pub(crate) session_seconds: Option<u64>,
    /// The components of the config.
    pub(crate) components: Option<Value>,
    pub(crate) on_behalf_of: bool,
}

/// A pod of the tenant, as the API server stores it, with its tokens.
pub(crate) struct Projected<'i> {
    pub(crate) uid: String,
    name: String,
    has_claim: bool,
    issuer: &'i IssuerProcess,
}

impl IssuerProcess {
    /// Starts with a key in a file; returns when the issuer gives tokens.
    pub(crate) fn start() -> Self {
        Self::start_with(Settings::default())
    }

    /// Starts with components whose sessions are those of SandboxClaims.
    pub(super) fn start_with_claims() -> Self {
        Self::start_with(Settings { components: Some(claim_components()), ..Settings::default() })
    }

    /// Starts with a key in KMS.
    pub(crate) fn start_with_key_in(kms: &Kms) -> Self {
        Self::start_with(Settings { kms: Some(kms), ..Settings::default() })
    }

    /// Starts with `onBehalfOf` in the config, which the trust policy of the role allows too.
    pub(super) fn start_with_on_behalf_of() -> Self {
        Self::start_with(Settings { on_behalf_of: true, ..Settings::default() })
    }

    pub(crate) fn start_with(settings: Settings<'_>) -> Self {
        let Settings { kms, is_proxied, session_seconds, components, on_behalf_of } = settings;
        let cluster = ControlPlane::start();
        let labels = [
            ("fab.nanohype.dev/session-injection", "enabled"),
            ("fab.nanohype.dev/tenant", "acme"),
        ];
        cluster.create_namespace("tenants-acme", &labels);
        cluster.create_namespace("fab-system", &[]);
        let made = cluster.kubectl(&["create", "--filename=-"]).stdin(&rights().to_string()).run();
        assert!(made.ok, "{}", made.stderr);
        let kubeconfig = cluster.kubeconfig_of("fab-system", "issuer");
        let proxy = is_proxied.then(|| ApiProxy::before(&kubeconfig));
        let kubeconfig = proxy.as_ref().map_or(kubeconfig.clone(), |it| it.kubeconfig(&kubeconfig));

        let directory = own_directory();
        let path = directory.path();
        let [address, health] =
            std::array::from_fn(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        make_certificates(path);
        let key = match kms {
            Some(kms) => json!({"kms": kms.create_key(), "state": "signing"}),
            None => json!({"file": make_key(path), "state": "signing"}),
        };
        let roles = json!({"roles": {"acme": BROKER}});
        fs::write(path.join("roles.yaml"), roles.to_string()).unwrap();
        let mut own = section(path, address);
        own["keys"] = json!([key]);
        own["onBehalfOf"] = on_behalf_of.into();
        let config = json!({
            "cluster": "prod",
            "transport": "webIdentity",
            "roles": {"allow": {"accounts": ["111122223333"]}, "file": path.join("roles.yaml")},
            "components": components,
            "issuer": own,
        });
        fs::write(path.join("config.yaml"), config.to_string()).unwrap();
        let environment = kms.map(of_kms).into_iter().flatten();
        fs::create_dir(path.join("published")).unwrap();
        let published_at = file_server::serve(Ipv4Addr::LOCALHOST.into(), path.join("published"));

        let mut world = world(&path.join("config.yaml"));
        if let Some(seconds) = session_seconds {
            world = world.session_seconds(seconds);
        }
        let aws = Arc::new(Aws::new(world).unwrap());
        let server = Server::start(Arc::clone(&aws)).unwrap();
        let mut command = Command::new(program());
        let config = path.join("config.yaml");
        command
            .args(issuer::arguments(&config, path, address, health, published_at))
            .envs(environment)
            .env("KUBECONFIG", kubeconfig);
        let issuer = Self {
            process: RefCell::new(None),
            cluster: RefCell::new(cluster),
            proxy,
            aws,
            server,
            directory,
            address,
            health,
            command,
        };
        issuer.export();
        issuer.publish();
        issuer.start_again();
        issuer.await_metric("key_published", |published| published == 1.0);
        issuer
    }

    /// Starts the issuer after [`Self::stop`]; returns when it is ready.
    pub(crate) fn start_again(&self) {
        let mut process = Process::start("issuer", self.directory.path(), &self.command);
        process.wait_until("the issuer is ready", PATIENCE, || {
            get(self.health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        *self.process.borrow_mut() = Some(process);
    }

    /// Starts the issuer, which ends at once. Returns its output.
    pub(super) fn fails_to_start(&self) -> String {
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap());
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Returns the certificate of the CA that the issuer has had since its start.
    pub(super) fn ca(&self) -> String {
        ca(self.directory.path())
    }

    /// Replaces the serving certificate by that of the directory.
    pub(super) fn serve_certificate_of(&self, directory: &Path) {
        for file in ["tls.crt", "tls.key"] {
            fs::copy(directory.join(file), self.directory.path().join(file)).unwrap();
        }
    }

    /// Sets the keys of the config, which the issuer reads at its next start.
    pub(crate) fn set_keys(&self, keys: &Value) {
        let path = self.directory.path().join("config.yaml");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["issuer"]["keys"] = keys.clone();
        fs::write(path, config.to_string()).unwrap();
    }

    /// Sets the role of the tenant, which the issuer reads at its next start.
    pub(super) fn set_role(&self, role: Option<&str>) {
        let roles = json!({"roles": role.map_or(json!({}), |role| json!({"acme": role}))});
        fs::write(self.directory.path().join("roles.yaml"), roles.to_string()).unwrap();
    }

    /// Writes the public files of the config's keys, as `issuer export` does.
    pub(crate) fn export(&self) {
        let path = self.directory.path();
        let environment = self.command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let exported = Command::new(program())
            .envs(environment)
            .args(["issuer", "export", "--config"])
            .arg(path.join("config.yaml"))
            .arg("--out")
            .arg(self.published())
            .output()
            .unwrap();
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    }

    /// Kills the API server.
    pub(crate) fn stop_api_server(&self) {
        self.cluster.borrow_mut().stop_api_server();
    }

    /// Starts the API server; returns when it is ready.
    pub(crate) fn start_api_server(&self) {
        self.cluster.borrow_mut().start_api_server();
    }

    /// Has the API server sign with a new key, and restarts it.
    pub(crate) fn rotate_token_key(&self) {
        self.cluster.borrow_mut().rotate_token_key();
    }

    /// Returns the key (PEM) with which the API server signs tokens.
    pub(crate) fn token_key(&self) -> Vec<u8> {
        fs::read(self.cluster.borrow().token_key()).unwrap()
    }

    /// Makes all calls of AssumeRoleWithWebIdentity fail, or ends that.
    pub(crate) fn fail_sts(&self, fault: Option<Fault>) {
        match fault {
            Some(fault) => {
                self.aws.inject(Target::AssumeRoleWithWebIdentity, fault, Times::UntilCleared);
            }
            None => self.aws.clear_faults(),
        }
    }

    /// Returns the endpoint of STS.
    pub(crate) fn sts(&self) -> String {
        self.server.endpoint()
    }

    /// Returns the address of the issuer's port, and the CA certificate of the issuer.
    pub(crate) fn port(&self) -> (SocketAddr, Vec<u8>) {
        (self.address, fs::read(self.directory.path().join("ca.crt")).unwrap())
    }

    /// Returns a memory line of the issuer's status, in KiB.
    pub(crate) fn memory(&self, key: &str) -> usize {
        self.process.borrow().as_ref().expect("it runs").memory(key)
    }

    /// Stops the issuer.
    pub(crate) fn stop(&self) -> Option<Process> {
        self.process.borrow_mut().take()
    }

    /// Creates an injected pod of the tenant, after a change of it.
    pub(crate) fn pod(&self, name: &str, change: fn(&mut Value)) -> Projected<'_> {
        self.injected("", name, None, change)
    }

    /// Creates an injected pod of this user. Empty: of the test's.
    pub(super) fn pod_of(
        &self,
        creator: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Projected<'_> {
        self.injected(creator, name, None, change)
    }

    /// Creates an injected pod. A trusted creator says on whose behalf its session runs.
    pub(super) fn pod_for(
        &self,
        name: &str,
        on_behalf_of: Option<&str>,
        change: impl FnOnce(&mut Value),
    ) -> Projected<'_> {
        self.injected("", name, on_behalf_of, change)
    }

    fn injected(
        &self,
        creator: &str,
        name: &str,
        on_behalf_of: Option<&str>,
        change: impl FnOnce(&mut Value),
    ) -> Projected<'_> {
        let path = self.directory.path();
        let mut manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "tenants-acme",
                "labels": {"fab.nanohype.dev/component": "runtime"},
            },
            "spec": {
                "serviceAccountName": "default",
                "automountServiceAccountToken": false,
                "containers": [{"name": "session", "image": "agent"}],
            },
        });
        let mut by = creator;
        if let Some(value) = on_behalf_of {
            manifest["metadata"]["annotations"] = json!({"fab.nanohype.dev/on-behalf-of": value});
            by = OPERATOR;
        }
        let file = path.join(format!("{name}.json"));
        fs::write(&file, manifest.to_string()).unwrap();
        let injected = Command::new(program())
            .args(["inject", "--as", by])
            .arg("-f")
            .arg(&file)
            .arg("--roles")
            .arg(path.join("roles.yaml"))
            .arg("--config")
            .arg(path.join("config.yaml"))
            .args(["--region", "eu-west-1"])
            .output()
            .unwrap();
        assert!(injected.status.success(), "{}", String::from_utf8_lossy(&injected.stderr));
        let mut pod: Value = serde_saphyr::from_slice(&injected.stdout).unwrap();
        change(&mut pod);
        let created = self.create(creator, &pod).unwrap();
        let uid = created["metadata"]["uid"].as_str().unwrap().to_owned();
        Projected { uid, name: name.to_owned(), has_claim: creator == CONTROLLER, issuer: self }
    }

    /// Creates an object as a user. Empty: as the test's.
    pub(super) fn create(&self, user: &str, object: &Value) -> Result<Value, String> {
        self.run(user, &["create", "--filename=-", "--output=json"], &object.to_string())
            .map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Runs kubectl as a user. Empty: as the test's.
    pub(super) fn run(&self, user: &str, words: &[&str], stdin: &str) -> Result<String, String> {
        let run = self.kubectl_as(user, words).stdin(stdin).run();
        if run.ok { Ok(run.stdout) } else { Err(run.stderr) }
    }

    pub(super) fn kubectl_as(&self, user: &str, words: &[&str]) -> Kubectl {
        let mut words = words.to_vec();
        if !user.is_empty() {
            words.extend(["--as", user]);
        }
        self.cluster.borrow().kubectl(&words)
    }

    /// Adds an ephemeral container with these mounts, as `kubectl debug` does.
    pub(crate) fn debug(&self, pod: &Projected<'_>, mounts: &Value) {
        let cluster = self.cluster.borrow();
        let get = ["get", "pod", &pod.name, "--namespace", "tenants-acme"];
        let mut stored = cluster.kubectl(&get).json();
        let debugger = json!({"name": "debugger", "image": "debugger:1", "volumeMounts": mounts});
        stored["spec"]["ephemeralContainers"] = json!([debugger]);
        let path = format!("/api/v1/namespaces/tenants-acme/pods/{}/ephemeralcontainers", pod.name);
        let replace = ["replace", "--raw", &path, "--filename=-"];
        let replaced = cluster.kubectl(&replace).stdin(&stored.to_string()).run();
        assert!(replaced.ok, "{}", replaced.stderr);
    }

    /// Returns a token of the service account, as the kubelet requests it for the pod.
    pub(crate) fn token_of(&self, arguments: &[&str], pod: Option<&Projected<'_>>) -> String {
        let account = ["create", "token", "default", "--namespace", "tenants-acme"];
        let bound = pod.map(|pod| {
            let of = ["--bound-object-kind", "Pod", "--bound-object-name", &pod.name];
            [&of[..], &["--bound-object-uid", &pod.uid]].concat()
        });
        let all = [&account[..], arguments, &bound.unwrap_or_default()].concat();
        let token = self.cluster.borrow().kubectl(&all).run();
        assert!(token.ok, "{}", token.stderr);
        token.stdout.trim().to_owned()
    }

    /// Sends the pod's token to the issuer, as soon as its rate limit allows one more.
    pub(crate) fn ask_for(&self, pod: &Projected<'_>) -> (u16, Value) {
        let token = pod.token(AUDIENCE);
        wait_until("the rate limit allows a token", PATIENCE, || {
            Some(self.ask(&token)).filter(|(_, answer)| answer["code"] != "busy")
        })
    }

    /// Sends a token to the issuer; returns status and body of the response.
    pub(crate) fn ask(&self, token: &str) -> (u16, Value) {
        let authority = fs::read(self.directory.path().join("ca.crt")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut stream = StreamOwned::new(client, stream);
        write!(
            stream,
            "POST /v1/token HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        (status.unwrap_or(0), serde_json::from_str(body).unwrap_or_default())
    }

    /// Returns the issuer's answer to the pod by `explain`.
    pub(crate) fn explained(&self, pod: &Projected<'_>) -> Value {
        let path = self.directory.path();
        let output = Command::new(program())
            .args(["explain", &pod.name, "--namespace=tenants-acme", "--output=json", "--config"])
            .arg(path.join("config.yaml"))
            .arg("--roles")
            .arg(path.join("roles.yaml"))
            .env("KUBECONFIG", self.cluster.borrow().kubeconfig())
            .output()
            .unwrap();
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        schema::check(&said);
        said["issuer"].clone()
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) {
        let run = self.cluster.borrow().kubectl(arguments).run();
        assert!(run.ok, "{}", run.stderr);
    }

    /// Sets a label of the tenant's namespace.
    pub(crate) fn label(&self, label: &str) {
        self.kubectl(&["label", "--overwrite", "namespace", "tenants-acme", label]);
    }

    /// Binds the guard's rule about the issuer's tokens, with these actions.
    pub(crate) fn bind_guard(&self, actions: &[&str]) {
        let GuardRule { policy: name, binding } = GuardRule::of_audience(AUDIENCE);
        let delete = ["delete", "validatingadmissionpolicybinding", &binding, "--ignore-not-found"];
        self.cluster.borrow().kubectl(&delete).run();
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["pods"],
                }]},
                "validations": [{"expression": "true"}],
            },
        });
        // It may be there already.
        self.cluster.borrow().kubectl(&["create", "--filename=-"]).stdin(&policy.to_string()).run();
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": binding},
            "spec": {"policyName": name, "validationActions": actions},
        });
        self.cluster
            .borrow()
            .kubectl(&["create", "--filename=-"])
            .stdin(&binding.to_string())
            .json();
    }

    pub(crate) fn published(&self) -> PathBuf {
        self.directory.path().join("published")
    }

    /// Gives STS the files that the issuer exported.
    pub(crate) fn publish(&self) {
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(self.published().join(name)).unwrap()).unwrap()
        };
        let discovery = read(".well-known/openid-configuration");
        assert!(self.aws.publish(URL, discovery, read("keys.json")));
    }

    /// Makes STS fail to read the files.
    pub(crate) fn interrupt(&self, outage: Outage) {
        assert!(self.aws.interrupt(URL, outage));
    }

    /// Returns the CloudTrail events with this name.
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        let events = self.aws.events();
        events.into_iter().filter(|event| event["eventName"] == name).collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("issuer.log")).unwrap()
    }

    /// Returns the key ID of the last JWT.
    pub(crate) fn signing_key(&self) -> String {
        wait_until("a token is in the log", PATIENCE, || {
            let log = self.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let last = lines.rfind(|line| line["message"] == "token")?;
            Some(last["kid"].as_str().unwrap().to_owned())
        })
    }

    /// Returns the log line with this message about a pod.
    pub(crate) fn log_line(&self, message: &str, uid: &str) -> Value {
        wait_until("the line is written", PATIENCE, || {
            let log = self.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["message"] == message && line["pod_uid"] == uid)
        })
    }

    /// Returns the value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let line = format!("fab_session_injector_issuer_{name} ");
        let rendered = get(self.health, "/metrics");
        let value = rendered.lines().find_map(|found| found.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("no {name} in\n{rendered}")).parse().unwrap()
    }

    /// Returns the value of a metric with these labels; 0 without one.
    pub(super) fn labelled(&self, name: &str) -> f64 {
        let line = format!("fab_session_injector_issuer_{name} ");
        let rendered = get(self.health, "/metrics");
        let value = rendered.lines().find_map(|found| found.strip_prefix(&line));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    pub(crate) fn await_metric(&self, name: &str, holds: impl Fn(f64) -> bool) {
        wait_until(&format!("{name} has the value"), LONG_PATIENCE, || {
            holds(self.metric(name)).then_some(())
        });
    }
}

impl Projected<'_> {
    /// Returns a token for the audience.
    pub(crate) fn token(&self, audience: &str) -> String {
        self.issuer.token_of(&["--audience", audience], Some(self))
    }

    /// Returns the pod's sidecar, with the pod's token.
    pub(crate) fn sidecar(&self) -> Pod {
        self.sidecar_with(self.issuer.address, None)
    }

    /// The same, with another address of the issuer, and with another CA for it.
    pub(crate) fn sidecar_with(&self, address: SocketAddr, ca: Option<String>) -> Pod {
        let IssuerProcess { server, directory, .. } = self.issuer;
        let mut template = Template::new(&server.endpoint(), BROKER);
        let mut settings = section(directory.path(), address);
        if let Some(ca) = ca {
            settings["caBundle"] = json!(ca);
        }
        template.issuer = Some(settings);
        template.uid.clone_from(&self.uid);
        template.name.clone_from(&self.name);
        template.account = "default";
        template.named = None;
        if self.has_claim {
            template.session = SANDBOX_CLAIM;
        }
        let pod = Pod::inject(&template);
        pod.project(&self.token(AUDIENCE));
        pod
    }
}

/// Creates a CA and a serving certificate of the issuer in the directory.
pub(super) fn make_certificates(directory: &Path) {
    let made = Command::new(root().join("certs/make")).arg(directory).arg("localhost").status();
    assert!(made.unwrap().success());
}

/// Returns the certificate of the CA in the directory.
pub(super) fn ca(directory: &Path) -> String {
    fs::read_to_string(directory.join("ca.crt")).unwrap()
}

/// Creates a signing key in the directory; returns its path.
pub(crate) fn make_key(directory: &Path) -> PathBuf {
    let path = directory.join("key.pem");
    let key = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let made = Command::new("openssl").args(key).arg("-out").arg(&path).output();
    assert!(made.unwrap().status.success());
    path
}

/// Returns the config's section `issuer` for the webhook, which uses no key.
fn section(directory: &Path, address: SocketAddr) -> Value {
    json!({
        "url": URL,
        "endpoint": format!("https://localhost:{}/v1/token", address.port()),
        "caBundle": ca(directory),
        "keys": [{"file": directory.join("key.pem"), "state": "signing"}],
    })
}

/// Returns the variables with which the program finds KMS.
fn of_kms(kms: &Kms) -> [(&'static str, String); 4] {
    [
        ("AWS_ENDPOINT_URL_KMS", kms.endpoint()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
}

/// Returns the service account of the issuer with its rights, which are those of the chart.
fn rights() -> Value {
    let subject = json!({"kind": "ServiceAccount", "name": "issuer", "namespace": "fab-system"});
    let audience = GuardRule::of_audience(AUDIENCE);
    let rules = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
        {"nonResourceURLs": ["/openid/v1/jwks"], "verbs": ["get"]},
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
            "resourceNames": [
                audience.policy,
                audience.binding,
                "fab-session-injector-sandbox-pods",
                "fab-session-injector-sandboxes",
            ],
            "verbs": ["get"],
        },
        {
            "apiGroups": ["agents.x-k8s.io"],
            "resources": ["sandboxes"],
            "verbs": ["get", "list", "watch"],
        },
        {
            "apiGroups": ["extensions.agents.x-k8s.io"],
            "resources": ["sandboxclaims"],
            "verbs": ["get"],
        },
    ]);
    let role = "fab-session-injector-issuer";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "issuer", "namespace": "fab-system"},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        },
    ]})
}

/// Returns the account: the session role trusts the issuer alone, as `iam` prints it.
fn world(config: &Path) -> World {
    let printed = Command::new(program())
        .args(["iam", "--transport", "web-identity", "--tenant", "acme"])
        .args(["--session-role", BROKER, "--only", "session-role-trust", "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let trust = serde_json::from_slice(&printed.stdout).unwrap();
    World::new("111122223333", "eu-west-1")
        .provider(Provider::new(URL, [CLIENT_ID]))
        .role(Role::new(BROKER).trust(trust))
}

/// Returns the response of the health port; empty without one.
fn get(address: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

const URL: &str = "https://issuer.example.com/prod";
const CLIENT_ID: &str = "fab-session/prod";
/// The audience of the tokens that pods send to the issuer.
pub(crate) const AUDIENCE: &str = "fab-session-issuer.prod";
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Twice the interval between two reads of the published keys.
const LONG_PATIENCE: Duration = Duration::from_secs(150);
