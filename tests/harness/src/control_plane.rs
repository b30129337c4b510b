//! A real Kubernetes control plane on 127.0.0.1 or on ::1, without nodes: pods are admitted and
//! stored as in any cluster, but never run.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{Process, free_port, own_directory, program, variable, wait_until},
    root,
};

/// A control plane. Several can run at once. It stops when dropped, or when the test process
/// exits.
#[derive(Debug)]
pub struct ControlPlane {
    /// Its programs. They must be dropped before the directory. None: it is a cluster that the
    /// tests did not start.
    programs: Option<Programs>,
    directory: TempDir,
    /// N of the API server's version 1.N.
    minor: OnceLock<u32>,
}

/// What an API server has in addition to the defaults of the tests.
#[derive(Clone, Debug, Default)]
pub struct Additions {
    /// Its `AuthenticationConfiguration`.
    pub authentication: Option<Value>,
    /// Its variable `HTTPS_PROXY`.
    pub proxy: Option<String>,
}

#[derive(Debug)]
struct Programs {
    api_server: Process,
    _controller_manager: Process,
    _etcd: Process,
    /// Address of the API server, and port of etcd.
    addresses: (SocketAddr, u16),
    additions: Additions,
}

impl ControlPlane {
    /// Returns the cluster of `FAB_TEST_KUBECONFIG`. Without that variable, starts a control plane.
    pub fn shared() -> Self {
        let Some(kubeconfig) = variable(FOREIGN) else { return Self::start() };
        let directory = own_directory();
        let view = Command::new(program("kubectl"))
            .args(["config", "view", "--minify", "--flatten", "--kubeconfig"])
            .arg(kubeconfig)
            .output()
            .unwrap();
        assert!(view.status.success(), "{}", String::from_utf8_lossy(&view.stderr));
        fs::write(directory.path().join("admin.kubeconfig"), view.stdout).unwrap();
        Self { programs: None, directory, minor: OnceLock::new() }
    }

    /// Returns when a pod can be created in the namespace "default".
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into())
    }

    /// The same, with this address of the API server, and with Services of its IP family.
    pub fn start_on(ip: IpAddr) -> Self {
        Self::start_as(ip, Additions::default())
    }

    /// Returns when a pod can be created in the namespace "default".
    pub fn start_with(additions: Additions) -> Self {
        Self::start_as(Ipv4Addr::LOCALHOST.into(), additions)
    }

    fn start_as(ip: IpAddr, additions: Additions) -> Self {
        require_own();
        let directory = own_directory();
        let [etcd_port, etcd_peer_port, api_port, controller_manager_port] =
            std::array::from_fn(|_| free_port());
        let api = SocketAddr::new(ip, api_port);
        make_keys(directory.path(), api);
        let etcd = start_etcd(directory.path(), etcd_port, etcd_peer_port);
        let mut api_server = start_api_server(directory.path(), api, etcd_port, &additions);
        let kubectl = |arguments: &[&str]| kubectl(directory.path(), arguments).run().ok;
        api_server.wait_until("the API server is ready", START, || {
            kubectl(&["get", "--raw", "/readyz"]).then_some(())
        });
        // It exits if the API server does not have its role yet.
        let mut controller_manager =
            start_controller_manager(directory.path(), controller_manager_port);
        controller_manager.wait_until("the default service account exists", START, || {
            kubectl(&["get", "serviceaccount", "default"]).then_some(())
        });
        let programs = Programs {
            api_server,
            _controller_manager: controller_manager,
            _etcd: etcd,
            addresses: (api, etcd_port),
            additions,
        };
        Self { programs: Some(programs), directory, minor: OnceLock::new() }
    }

    /// Kills the API server, as a node failure does, and starts a new one.
    pub fn restart_api_server(&mut self) {
        self.stop_api_server();
        self.start_api_server();
    }

    /// Kills the API server, as a node failure does.
    pub fn stop_api_server(&mut self) {
        self.programs.as_mut().expect(NOT_OWN).api_server.kill();
    }

    /// Starts the API server after [`Self::stop_api_server`]; returns when it is ready.
    pub fn start_api_server(&mut self) {
        let programs = self.programs.as_mut().expect(NOT_OWN);
        let (api, etcd_port) = programs.addresses;
        programs.api_server =
            start_api_server(self.directory.path(), api, etcd_port, &programs.additions);
        wait_until("the API server is ready again", START, || {
            self.kubectl(&["get", "--raw", "/readyz"]).run().ok.then_some(())
        });
    }

    /// Signs further tokens of service accounts with a new key. Those of the old key stay valid.
    pub fn rotate_token_key(&mut self) {
        let pki = self.directory.path().join("pki");
        let [key, public] = ["service-accounts.key", "service-accounts.pub"];
        let openssl = |arguments: &[&str]| {
            let made = Command::new("openssl").args(arguments).current_dir(&pki).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            made.stdout
        };
        openssl(&["genrsa", "-out", key, "2048"]);
        let new = openssl(&["rsa", "-in", key, "-pubout"]);
        let old = fs::read(pki.join(public)).unwrap();
        fs::write(pki.join(public), [new, old].concat()).unwrap();
        self.restart_api_server();
    }

    /// Returns the key (PKCS #8 in PEM) with which the API server signs tokens of service accounts.
    pub fn token_key(&self) -> PathBuf {
        self.directory.path().join("pki/service-accounts.key")
    }

    /// Returns whether the API server is of version 1.`since` or later. Prints what is left out on an
    /// older one.
    pub fn has(&self, what: &str, since: u32) -> bool {
        let minor = *self.minor.get_or_init(|| {
            let version = self.kubectl(&["version"]).json();
            let minor = version["serverVersion"]["minor"].as_str().unwrap().to_owned();
            // Managed clusters add a plus sign.
            minor.trim_end_matches('+').parse().unwrap()
        });
        if minor < since {
            eprintln!("left out on Kubernetes 1.{minor}: {what}, which came with 1.{since}");
        }
        minor >= since
    }

    /// Returns the kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    /// Returns a kubeconfig with a token of the service account.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.kubectl(&["create", "token", account, "--namespace", namespace]).run();
        assert!(token.ok, "{}", token.stderr);
        let admin = fs::read_to_string(self.kubeconfig()).unwrap();
        let mut config: Value = serde_saphyr::from_str(&admin).unwrap();
        config["users"][0]["user"] = json!({"token": token.stdout.trim()});
        let path = self.kubeconfig().with_file_name(format!("{account}.kubeconfig"));
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Returns a call of kubectl as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Kubectl {
        kubectl(self.directory.path(), arguments)
    }

    /// Creates a namespace; returns when a pod can be created in it.
    pub fn create_namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let namespace = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        });
        self.kubectl(&["create", "--filename=-"]).stdin(&namespace.to_string()).json();
        self.await_service_account(name, "default");
    }

    /// Returns when a pod that runs as `account` can be created.
    pub fn await_service_account(&self, namespace: &str, account: &str) {
        wait_until(&format!("namespace {namespace} has account {account}"), START, || {
            let account = ["get", "serviceaccount", account, "--namespace", namespace];
            self.kubectl(&account).run().ok.then_some(())
        });
    }

    /// Sets the status of the namespace's pods to running and ready, as a kubelet does.
    pub fn run_pods(&self, namespace: &str) {
        let pods = self.kubectl(&["get", "pods", "--namespace", namespace]).json();
        for pod in pods["items"].as_array().unwrap() {
            if pod["status"]["phase"] == "Running" {
                continue;
            }
            let name = pod["metadata"]["name"].as_str().unwrap();
            let status = json!({"status": {
                "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            }});
            let patch = ["patch", "pod", name, "--namespace", namespace, "--subresource=status"];
            // The pod may be deleted by now.
            self.kubectl(&[&patch[..], &["--patch", &status.to_string()]].concat()).run();
        }
    }

    /// Returns the current log of the API server.
    pub fn api_server_log(&self) -> String {
        self.programs.as_ref().expect(NOT_OWN).api_server.log()
    }

    /// Returns the audit event of each attempt to create a pod, oldest first. An event may be
    /// written just after the response: wait for it.
    pub fn audit_events(&self) -> Vec<Value> {
        self.audit_log(|event| {
            event["verb"] == "create" && event["objectRef"]["resource"] == "pods"
        })
    }

    /// Returns the audit event of each deletion of a part of a release.
    pub fn deletions(&self) -> Vec<Value> {
        self.audit_log(|event| event["verb"] == "delete" && event["level"] == "Metadata")
    }

    /// Returns the audit event of each change of a Sandbox, and of each change of a pod by the
    /// controller of Sandboxes or by the garbage collector, oldest first.
    pub fn changes_of_sandboxes(&self) -> Vec<Value> {
        self.audit_log(|event| event["level"] == "Request")
    }

    fn audit_log(&self, is_wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        require_own();
        let log = std::fs::read_to_string(audit_log(self.directory.path())).unwrap_or_default();
        log.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| is_wanted(event))
            .collect()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("the logs of the control plane are in {}", self.directory.path().display());
        }
    }
}

/// Fails in a cluster that the tests did not start. `tests/run` counts a test that fails by this
/// message as skipped.
pub fn require_own() {
    assert!(variable(FOREIGN).is_none(), "{NOT_OWN}");
}

/// One call of kubectl, as the administrator unless its arguments have `--as`.
#[derive(Debug)]
pub struct Kubectl {
    command: Command,
    stdin: String,
}

impl Kubectl {
    /// Sets the input for `--filename=-`.
    pub fn stdin(mut self, text: &str) -> Self {
        text.clone_into(&mut self.stdin);
        self
    }

    /// Runs kubectl.
    pub fn run(mut self) -> Outcome {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // kubectl does not read its input if its arguments are invalid; this is no error.
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Outcome {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns the output of kubectl with `--output=json`.
    pub fn json(mut self) -> Value {
        self.command.arg("--output=json");
        let shown = format!("{:?}", self.command);
        let Outcome { ok, stdout, stderr } = self.run();
        assert!(ok, "{shown}\n{stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{shown}: {error}\n{stdout}"))
    }
}

/// The result of a call.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the exit status is 0.
    pub ok: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

fn make_keys(directory: &Path, api: SocketAddr) {
    let made = Command::new(root().join("tests/harness/pki"))
        .arg(directory)
        .arg(api.to_string())
        .output()
        .unwrap();
    assert!(made.status.success(), "no keys: {}", String::from_utf8_lossy(&made.stderr));
}

fn start_etcd(directory: &Path, port: u16, peer_port: u16) -> Process {
    let (url, peer_url) = (etcd_url(port), etcd_url(peer_port));
    let mut command = Command::new(program("etcd"));
    command
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        // The data need not survive a crash of the machine.
        .args(["--unsafe-no-fsync", "--log-level=warn", "--name=test"])
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .arg(format!("--initial-cluster=test={peer_url}"));
    Process::start("etcd", directory, &command)
}

fn start_api_server(
    directory: &Path,
    api: SocketAddr,
    etcd_port: u16,
    additions: &Additions,
) -> Process {
    let key =
        |flag: &str, file: &str| format!("--{flag}={}", directory.join("pki").join(file).display());
    let services = if api.is_ipv4() { "10.0.0.0/24" } else { "fd00:10::/112" };
    let mut command = Command::new(program("kube-apiserver"));
    command
        .arg(format!("--etcd-servers={}", etcd_url(etcd_port)))
        .arg(format!("--bind-address={}", api.ip()))
        .arg(format!("--advertise-address={}", api.ip()))
        .arg(format!("--secure-port={}", api.port()))
        // An endpoint cannot have the address 127.0.0.1.
        .arg("--endpoint-reconciler-type=none")
        .args(["--authorization-mode=RBAC", "--allow-privileged=true", "--profiling=false"])
        .arg(format!("--service-cluster-ip-range={services}"))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(key("client-ca-file", "ca.crt"))
        .arg(key("tls-cert-file", "apiserver.crt"))
        .arg(key("tls-private-key-file", "apiserver.key"))
        .arg(key("service-account-key-file", "service-accounts.pub"))
        .arg(key("service-account-signing-key-file", "service-accounts.key"))
        .arg(format!(
            "--audit-policy-file={}",
            root().join("tests/harness/audit-policy.yaml").display()
        ))
        .arg(format!("--audit-log-path={}", audit_log(directory).display()))
        .arg("--audit-log-mode=blocking");
    let Additions { authentication, proxy } = additions;
    if let Some(authentication) = authentication {
        let file = directory.join("authentication.json");
        fs::write(&file, authentication.to_string()).unwrap();
        command.arg(format!("--authentication-config={}", file.display()));
    }
    if let Some(proxy) = proxy {
        command.env("HTTPS_PROXY", proxy);
    }
    Process::start("kube-apiserver", directory, &command)
}

fn start_controller_manager(directory: &Path, port: u16) -> Process {
    let kubeconfig = directory.join("controller-manager.kubeconfig");
    let mut command = Command::new(program("kube-controller-manager"));
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", kubeconfig.display()));
    }
    command
        .arg("--bind-address=127.0.0.1")
        .arg(format!("--secure-port={port}"))
        .args(["--leader-elect=false", "--use-service-account-credentials=true"])
        .arg(format!("--controllers={}", CONTROLLERS.join(",")))
        .arg(format!("--root-ca-file={}", directory.join("pki/ca.crt").display()))
        .arg(format!(
            "--service-account-private-key-file={}",
            directory.join("pki/service-accounts.key").display()
        ))
        .arg(format!("--flex-volume-plugin-dir={}", directory.join("flexvolume").display()))
        // With the default of 20 per second a new namespace waits seconds for its service account.
        .args(["--kube-api-qps=300", "--kube-api-burst=500", "--profiling=false"]);
    Process::start("kube-controller-manager", directory, &command)
}

/// Returns a call of kubectl as the user of `admin.kubeconfig` in the directory.
pub fn kubectl(directory: &Path, arguments: &[&str]) -> Kubectl {
    let mut command = Command::new(program("kubectl"));
    command
        .arg("--kubeconfig")
        .arg(directory.join("admin.kubeconfig"))
        // The discovery cache of one API server must not be used for the next one on its port.
        .arg("--cache-dir")
        .arg(directory.join("kubectl-cache"))
        .args(arguments);
    Kubectl { command, stdin: String::new() }
}

fn etcd_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn audit_log(directory: &Path) -> PathBuf {
    directory.join("audit.log")
}

/// Names the kubeconfig of a cluster that the tests did not start.
const FOREIGN: &str = "FAB_TEST_KUBECONFIG";
const NOT_OWN: &str = "this test needs a control plane of its own";

/// Controllers for namespaces, for workloads and for the type check of policies.
const CONTROLLERS: [&str; 10] = [
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Thirty times the start time on two idle cores, since other tests may load them.
const START: Duration = Duration::from_secs(180);
