//! A real node, which `tests/node/run` starts and stops.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    control_plane::{self, Kubectl},
    process::{Process, own_directory, program, wait_until},
    root,
};

/// A node. It stops when dropped, or when the test process exits.
#[derive(Debug)]
pub struct Node {
    process: Process,
    directory: TempDir,
    index: u8,
}

impl Node {
    /// Starts a node; returns when it is ready for pods.
    pub fn start() -> Self {
        let directory = own_directory();
        let index = free_index();
        let mut command = Command::new(script("run"));
        command
            .env("STATE", directory.path().join("state"))
            .env("INDEX", index.to_string())
            .env("AWS_DNS", "yes")
            .env("NETPOL", "yes")
            .env("FAB_TEST_BIN", programs());
        let process = Process::start("node", directory.path(), &command);
        let mut node = Self { process, directory, index };
        let log = node.directory.path().join("node.log");
        node.process.wait_until("the node is up", START, || {
            fs::read_to_string(&log).unwrap().lines().any(|line| line == "up").then_some(())
        });
        node
    }

    /// Returns the log of the start, with the duration of each part.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns the address at which pods reach this machine.
    pub fn host_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.index, 1)
    }

    /// Returns the name of the link on this machine and of the cgroup directories.
    pub fn name(&self) -> String {
        format!("fabnode{}", self.index)
    }

    /// Returns the directory of the node.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Returns the kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("admin.kubeconfig")
    }

    /// Returns a call of kubectl as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Kubectl {
        control_plane::kubectl(&self.state(), arguments)
    }

    /// Creates objects.
    pub fn create(&self, objects: &[Value]) {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let made = self.kubectl(&["create", "--filename=-"]).stdin(&list.to_string()).run();
        assert!(made.ok, "{}", made.stderr);
    }

    /// Returns when a pod that runs as `account` can be created.
    pub fn await_service_account(&self, namespace: &str, account: &str) {
        wait_until(&format!("namespace {namespace} has account {account}"), POD, || {
            let account = ["get", "serviceaccount", account, "--namespace", namespace];
            self.kubectl(&account).run().ok.then_some(())
        });
    }

    /// Waits until all containers of the pod are ready; returns the pod.
    pub fn await_ready(&self, namespace: &str, pod: &str) -> Value {
        wait_until(&format!("pod {namespace}/{pod} is ready"), POD, || {
            let pod = self.kubectl(&["get", "pod", pod, "--namespace", namespace]).json();
            let conditions = pod["status"]["conditions"].as_array()?.clone();
            conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
                .then_some(pod)
        })
    }

    /// Runs a program in a container.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, words: &[&str]) -> Kubectl {
        let mut arguments = vec!["exec", "--stdin", "--namespace", namespace, pod];
        arguments.extend(["--container", container, "--"]);
        arguments.extend(words);
        self.kubectl(&arguments)
    }

    /// Runs a program with the node's network and mounts.
    pub fn enter(&self, words: &[&str]) -> Output {
        let entered = Command::new(script("enter"))
            .args(words)
            .env("STATE", self.state())
            .env("INDEX", self.index.to_string())
            .env("FAB_TEST_BIN", programs())
            .output()
            .unwrap();
        assert!(
            entered.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&entered.stderr)
        );
        entered
    }

    /// Kills a program of the node, and restarts it after a delay.
    pub fn restart(&self, program: &str, seconds: u32) {
        let restarted = Command::new(script("restart"))
            .args([program, &seconds.to_string()])
            .env("STATE", self.state())
            .env("INDEX", self.index.to_string())
            .env("FAB_TEST_BIN", programs())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&restarted.stderr);
        assert!(restarted.status.success(), "{program}: {said}");
    }

    /// Imports the archive of an image.
    pub fn import(&self, archive: &Path) {
        self.enter(&[script("import").to_str().unwrap(), archive.to_str().unwrap()]);
    }

    /// Builds an image of files (`SOURCE:PATH:MODE`), and imports it.
    pub fn make_image(&self, name: &str, entrypoint: &str, files: &[String]) {
        let archive = self.directory.path().join("image.tar");
        let packed = Command::new(root().join("image/pack"))
            .arg("image")
            .arg("--output")
            .arg(&archive)
            .args(["--name", name, "--entrypoint", entrypoint])
            .args(files)
            .output()
            .unwrap();
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        self.import(&archive);
    }

    /// Stops the node by its script; returns the output.
    pub fn down(&mut self) -> String {
        self.process.terminate();
        wait_until("the node is down", DOWN, || self.process.ended());
        self.process.log()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.process.ended().is_some() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.process.log());
        }
        self.down();
    }
}

/// Returns the files of the agent image: the AWS SDK for Go, and the test program.
pub fn agent_files() -> Vec<String> {
    ["box", "client-go"].map(|name| format!("{}:/{name}:755", program(name).display())).into()
}

/// Returns the path of one of the scripts in `tests/node`.
pub fn script(name: &str) -> PathBuf {
    root().join("tests/node").join(name)
}

fn programs() -> PathBuf {
    program("kubelet").parent().unwrap().to_owned()
}

/// Returns a free node index. Test processes start at different ones.
fn free_index() -> u8 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    (0..50)
        .map(|_| std::process::id().wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)))
        .map(|number| u8::try_from(number % 50).unwrap())
        .find(|index| !Path::new(&format!("/sys/class/net/fabnode{index}")).exists())
        .expect("one of fifty nodes is not running")
}

/// Ten times the start time on two idle cores.
const START: Duration = Duration::from_secs(120);

/// Twenty times the stop time on two idle cores.
const DOWN: Duration = Duration::from_secs(60);

/// Ten times the start time of a pod, which is mostly the kubelet's sync period of one second.
const POD: Duration = Duration::from_secs(90);
