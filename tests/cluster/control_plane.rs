//! A real Kubernetes control plane on 127.0.0.1, without nodes: pods are
//! admitted and stored as in any cluster, and then nobody runs them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Process, free_port, own_directory, program, wait_until};

/// Any number of them may run at once. It ends when dropped, or with the test
/// process.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    /// Held for their end, which must come before that of the directory: etcd,
    /// the API server and the controllers.
    processes: [Process; 3],
    directory: TempDir,
    /// Of the API server and of etcd.
    ports: (u16, u16),
}

impl ControlPlane {
    /// Returns once a pod may be created in the namespace "default".
    pub(crate) fn start() -> Self {
        let directory = own_directory();
        let [etcd_port, etcd_peer_port, api_port, controller_manager_port] =
            std::array::from_fn(|_| free_port());
        make_keys(directory.path(), api_port);
        let etcd = start_etcd(directory.path(), etcd_port, etcd_peer_port);
        let mut api_server = start_api_server(directory.path(), api_port, etcd_port);
        let kubectl = |arguments: &[&str]| kubectl(directory.path(), arguments).run().ok;
        api_server.wait_until("the API server is ready", START, || {
            kubectl(&["get", "--raw", "/readyz"]).then_some(())
        });
        // It gives up when the API server does not know its role yet.
        let mut controller_manager =
            start_controller_manager(directory.path(), controller_manager_port);
        controller_manager.wait_until("the default service account exists", START, || {
            kubectl(&["get", "serviceaccount", "default"]).then_some(())
        });
        Self {
            processes: [etcd, api_server, controller_manager],
            directory,
            ports: (api_port, etcd_port),
        }
    }

    /// As a node's failure would, and what comes in its place.
    #[allow(dead_code, reason = "not every test crate does")]
    pub(crate) fn restart_api_server(&mut self) {
        self.processes[1].kill();
        let (port, etcd_port) = self.ports;
        self.processes[1] = start_api_server(self.directory.path(), port, etcd_port);
        wait_until("the API server is ready again", START, || {
            self.kubectl(&["get", "--raw", "/readyz"]).run().ok.then_some(())
        });
    }

    /// The file that makes its reader the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Kubectl {
        kubectl(self.directory.path(), arguments)
    }

    /// Creates a namespace and returns once a pod may be created in it.
    pub(crate) fn create_namespace(&self, name: &str, labels: &[(&str, &str)]) {
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

    /// Returns once a pod may be created that runs as `account`.
    pub(crate) fn await_service_account(&self, namespace: &str, account: &str) {
        wait_until(&format!("namespace {namespace} has account {account}"), START, || {
            let account = ["get", "serviceaccount", account, "--namespace", namespace];
            self.kubectl(&account).run().ok.then_some(())
        });
    }

    /// What the API server has printed so far.
    pub(crate) fn api_server_log(&self) -> String {
        self.processes[1].log()
    }

    /// The audit event of each attempt to create a pod, oldest first. The event
    /// of an answer may be written just after the answer: wait for it.
    pub(crate) fn audit_events(&self) -> Vec<Value> {
        self.audit_log("create")
    }

    /// The same of each part of a release that somebody deleted.
    #[allow(dead_code, reason = "not every test crate deletes one")]
    pub(crate) fn deletions(&self) -> Vec<Value> {
        self.audit_log("delete")
    }

    fn audit_log(&self, verb: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(audit_log(self.directory.path())).unwrap_or_default();
        log.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| event["verb"] == verb)
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

/// One call of kubectl, as the administrator unless its arguments say `--as`.
#[derive(Debug)]
pub(crate) struct Kubectl {
    command: Command,
    stdin: String,
}

impl Kubectl {
    /// For `--filename=-`.
    pub(crate) fn stdin(mut self, text: &str) -> Self {
        text.clone_into(&mut self.stdin);
        self
    }

    pub(crate) fn run(mut self) -> Outcome {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A kubectl that has refused its arguments does not read: no matter.
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Outcome {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What kubectl prints with `--output=json`.
    pub(crate) fn json(mut self) -> Value {
        self.command.arg("--output=json");
        let shown = format!("{:?}", self.command);
        let Outcome { ok, stdout, stderr } = self.run();
        assert!(ok, "{shown}\n{stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{shown}: {error}\n{stdout}"))
    }
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn make_keys(directory: &Path, api_port: u16) {
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/pki"))
        .arg(directory)
        .arg(api_port.to_string())
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
        // What it stores need not outlive the machine's next crash.
        .args(["--unsafe-no-fsync", "--log-level=warn", "--name=test"])
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .arg(format!("--initial-cluster=test={peer_url}"));
    Process::start("etcd", directory, &command)
}

fn start_api_server(directory: &Path, port: u16, etcd_port: u16) -> Process {
    let key =
        |flag: &str, file: &str| format!("--{flag}={}", directory.join("pki").join(file).display());
    let mut command = Command::new(program("kube-apiserver"));
    command
        .arg(format!("--etcd-servers={}", etcd_url(etcd_port)))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={port}"))
        // 127.0.0.1 is no address that an endpoint may have.
        .arg("--endpoint-reconciler-type=none")
        .args(["--authorization-mode=RBAC", "--allow-privileged=true", "--profiling=false"])
        .arg("--service-cluster-ip-range=10.0.0.0/24")
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(key("client-ca-file", "ca.crt"))
        .arg(key("tls-cert-file", "apiserver.crt"))
        .arg(key("tls-private-key-file", "apiserver.key"))
        .arg(key("service-account-key-file", "service-accounts.pub"))
        .arg(key("service-account-signing-key-file", "service-accounts.key"))
        .arg(concat!(
            "--audit-policy-file=",
            env!("CARGO_MANIFEST_DIR"),
            "/tests/cluster/audit-policy.yaml"
        ))
        .arg(format!("--audit-log-path={}", audit_log(directory).display()))
        .arg("--audit-log-mode=blocking");
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
        // The default of 20 a second makes a new namespace wait for its
        // service account for seconds.
        .args(["--kube-api-qps=300", "--kube-api-burst=500", "--profiling=false"]);
    Process::start("kube-controller-manager", directory, &command)
}

/// As the user of the `admin.kubeconfig` in the directory.
pub(crate) fn kubectl(directory: &Path, arguments: &[&str]) -> Kubectl {
    let mut command = Command::new(program("kubectl"));
    command
        .arg("--kubeconfig")
        .arg(directory.join("admin.kubeconfig"))
        // What one API server offers must not be remembered for the next one
        // on the same port.
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

/// Those that make namespaces usable, templates into pods, and policies checked.
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

/// Ten times what it takes on two idle cores.
const START: Duration = Duration::from_secs(60);
