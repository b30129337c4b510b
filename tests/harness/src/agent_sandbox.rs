//! The controller of kubernetes-sigs/agent-sandbox with its warm pools, as the service account of its
//! release, and a kubelet that reports pods as ready.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{
    api_server::ApiServer,
    control_plane::ControlPlane,
    process::{Process, free_port, own_directory, program, wait_until},
};

/// A running controller, and a kubelet for all pods of the cluster.
pub struct AgentSandbox {
    controller: Option<Process>,
    _kubelet: Kubelet,
    kubeconfig: PathBuf,
    directory: TempDir,
}

/// Sets the status of all pods in a thread of its own, until it is dropped.
struct Kubelet {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AgentSandbox {
    /// Creates types, account and rights of the controller, and starts it.
    pub fn start(cluster: &ControlPlane) -> Self {
        let apply = |objects: &[Value]| {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
            let apply = ["apply", "--server-side", "--filename=-"];
            let made = cluster.kubectl(&apply).stdin(&list).run();
            assert!(made.ok, "{}", made.stderr);
        };
        let (types, others): (Vec<Value>, Vec<Value>) =
            of_release().into_iter().partition(|it| it["kind"] == "CustomResourceDefinition");
        apply(&types);
        apply(&others);
        cluster.await_service_account(NAMESPACE, ACCOUNT);
        for kind in ["sandboxes", "sandboxclaims", "sandboxtemplates", "sandboxwarmpools"] {
            wait_until(&format!("the API server serves {kind}"), PATIENCE, || {
                cluster.kubectl(&["get", kind, "--all-namespaces"]).run().ok.then_some(())
            });
        }
        let kubeconfig = cluster.kubeconfig_of(NAMESPACE, ACCOUNT);
        let kubelet = Kubelet::start(ApiServer::of(&cluster.kubeconfig()));
        let directory = own_directory();
        let mut started = Self { controller: None, _kubelet: kubelet, kubeconfig, directory };
        started.restart();
        started
    }

    /// Kills the controller, as a node failure does.
    pub fn kill(&mut self) {
        self.controller = None;
    }

    /// Starts the controller again.
    pub fn restart(&mut self) {
        self.kill();
        let health = free_port();
        let mut command = Command::new(program("agent-sandbox-controller"));
        command
            .args(["--extensions", "--leader-elect=false", "--enable-webhook=false"])
            .arg(format!("--metrics-bind-address=127.0.0.1:{}", free_port()))
            .arg(format!("--health-probe-bind-address=127.0.0.1:{health}"))
            .env("KUBECONFIG", &self.kubeconfig);
        let mut process = Process::start("agent-sandbox", self.directory.path(), &command);
        process.wait_until("the controller is ready", PATIENCE, || {
            let health = ([127, 0, 0, 1], health).into();
            crate::process::get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        self.controller = Some(process);
    }

    /// Returns the current output of the controller.
    pub fn log(&self) -> String {
        self.controller.as_ref().map(Process::log).unwrap_or_default()
    }
}

impl std::fmt::Debug for AgentSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentSandbox")
    }
}

impl Kubelet {
    fn start(client: ApiServer) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            while !flag.load(Ordering::Relaxed) {
                run_pods(&client, &runtime);
                thread::sleep(INTERVAL);
            }
        });
        Self { stopped, thread: Some(thread) }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Sets the status of new pods to running and ready, with an address, as a kubelet does.
fn run_pods(client: &ApiServer, runtime: &Runtime) {
    let pods = runtime.block_on(client.send(Method::GET, "/api/v1/pods", String::new()));
    let pods: Value =
        pods.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
    for pod in pods["items"].as_array().into_iter().flatten() {
        if pod["status"]["phase"] != "Pending" {
            continue;
        }
        let metadata = &pod["metadata"];
        let [namespace, name, uid] =
            ["namespace", "name", "uid"].map(|key| metadata[key].as_str().unwrap());
        // Any address that the API server accepts. That of a pod is stable.
        let [a, b] = [0, 2].map(|at| u8::from_str_radix(&uid[at..at + 2], 16).unwrap_or_default());
        let ip = format!("10.244.{a}.{b}");
        let status = json!({"status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        // The pod may be deleted by now.
        let _ = runtime.block_on(client.send(Method::PATCH, &path, status.to_string()));
    }
}

/// Returns the objects of its release, except its own pods.
fn of_release() -> Vec<Value> {
    let text = fs::read_to_string(program("agent-sandbox.yaml")).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut objects: Vec<Value> = objects
        .into_iter()
        .filter(|it| !it.is_null() && it["kind"] != "Deployment" && it["kind"] != "Service")
        .collect();
    for types in objects.iter_mut().filter(|it| it["kind"] == "CustomResourceDefinition") {
        // Only v1beta1 is used, so no webhook converts.
        types["spec"].as_object_mut().unwrap().shift_remove("conversion");
        types["spec"]["versions"].as_array_mut().unwrap().retain(|it| it["name"] == "v1beta1");
    }
    objects
}

/// The user as which the controller acts.
pub const USER: &str = "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
const NAMESPACE: &str = "agent-sandbox-system";
const ACCOUNT: &str = "agent-sandbox-controller";
const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
