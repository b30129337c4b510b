//! The controller of kubernetes-sigs/agent-sandbox with its warm pools, as the service account of its
//! release, and a kubelet that reports pods as ready.
//!
//! `FAB_AGENT_SANDBOX` names a directory with the real controller: its program
//! `agent-sandbox-controller`, and the folder `k8s` of its source. Without it, a stand-in makes the
//! objects and the changes that the real one (2fd412d5, v1beta1) was seen to make.

mod stand_in;

use std::{
    fs,
    path::{Path, PathBuf},
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

use self::stand_in::StandIn;
use crate::{
    api_server::ApiServer,
    control_plane::ControlPlane,
    process::{Process, free_port, own_directory, variable, wait_until},
};

/// A running controller, and a kubelet for all pods of the cluster.
pub struct AgentSandbox {
    controller: Option<Controller>,
    _kubelet: Repeated,
    kubeconfigs: [PathBuf; 2],
    directory: TempDir,
}

enum Controller {
    Real(Process),
    StandIn { _running: Repeated },
}

/// A thread that repeats a task until it is dropped.
struct Repeated {
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
        let objects = real().map_or_else(stand_in::objects, |real| of_release(&real.join("k8s")));
        let (types, others): (Vec<Value>, Vec<Value>) =
            objects.into_iter().partition(|it| it["kind"] == "CustomResourceDefinition");
        apply(&types);
        apply(&others);
        cluster.await_service_account(NAMESPACE, ACCOUNT);
        for kind in ["sandboxes", "sandboxclaims", "sandboxtemplates", "sandboxwarmpools"] {
            wait_until(&format!("the API server serves {kind}"), PATIENCE, || {
                cluster.kubectl(&["get", kind, "--all-namespaces"]).run().ok.then_some(())
            });
        }
        let own = cluster.kubeconfig_of(NAMESPACE, ACCOUNT);
        let admin = ApiServer::of(&cluster.kubeconfig());
        let kubelet = Repeated::start(admin, run_pods);
        let kubeconfigs = [own, cluster.kubeconfig()];
        let directory = own_directory();
        let mut started = Self { controller: None, _kubelet: kubelet, kubeconfigs, directory };
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
        let [own, admin] = &self.kubeconfigs;
        let Some(real) = real() else {
            let client = ApiServer::of(admin).impersonating(USER);
            let task = |client: &ApiServer, runtime: &Runtime| {
                runtime.block_on(StandIn.reconcile(client));
            };
            let running = Repeated::start(client, task);
            self.controller = Some(Controller::StandIn { _running: running });
            return;
        };
        let health = free_port();
        let mut command = Command::new(real.join("agent-sandbox-controller"));
        command
            .args(["--extensions", "--leader-elect=false", "--enable-webhook=false"])
            .arg(format!("--metrics-bind-address=127.0.0.1:{}", free_port()))
            .arg(format!("--health-probe-bind-address=127.0.0.1:{health}"))
            .env("KUBECONFIG", own);
        let mut process = Process::start("agent-sandbox", self.directory.path(), &command);
        process.wait_until("the controller is ready", PATIENCE, || {
            let health = ([127, 0, 0, 1], health).into();
            crate::process::get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        self.controller = Some(Controller::Real(process));
    }

    /// Returns the current output of the controller.
    pub fn log(&self) -> String {
        match &self.controller {
            Some(Controller::Real(process)) => process.log(),
            Some(Controller::StandIn { .. }) | None => String::new(),
        }
    }
}

impl std::fmt::Debug for AgentSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentSandbox")
    }
}

impl Repeated {
    fn start(client: ApiServer, task: impl Fn(&ApiServer, &Runtime) + Send + 'static) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            while !flag.load(Ordering::Relaxed) {
                task(&client, &runtime);
                thread::sleep(INTERVAL);
            }
        });
        Self { stopped, thread: Some(thread) }
    }
}

impl Drop for Repeated {
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

/// Returns the objects of a release, except the controller's own pods.
fn of_release(folder: &Path) -> Vec<Value> {
    let files = [
        "crds/agents.x-k8s.io_sandboxes.yaml",
        "crds/extensions.agents.x-k8s.io_sandboxclaims.yaml",
        "crds/extensions.agents.x-k8s.io_sandboxtemplates.yaml",
        "crds/extensions.agents.x-k8s.io_sandboxwarmpools.yaml",
        "controller.yaml",
        "rbac.generated.yaml",
        "extensions.yaml",
        "extensions-rbac.generated.yaml",
    ];
    let read = |file: &&str| fs::read_to_string(folder.join(file)).expect(file);
    let all = files.iter().map(read).flat_map(|text| {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        objects
    });
    let mut objects: Vec<Value> = all
        .filter(|it| !it.is_null() && it["kind"] != "Deployment" && it["kind"] != "Service")
        .collect();
    for types in objects.iter_mut().filter(|it| it["kind"] == "CustomResourceDefinition") {
        // Only v1beta1 is used, so no webhook converts.
        types["spec"].as_object_mut().unwrap().shift_remove("conversion");
        types["spec"]["versions"].as_array_mut().unwrap().retain(|it| it["name"] == "v1beta1");
    }
    objects
}

fn real() -> Option<PathBuf> {
    variable("FAB_AGENT_SANDBOX").map(PathBuf::from)
}

/// The user as which the controller acts.
pub const USER: &str = "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
const NAMESPACE: &str = "agent-sandbox-system";
const ACCOUNT: &str = "agent-sandbox-controller";
const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
