//! Two network namespaces: of a pod, and of the node with its Pod Identity agent's address.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use harness::process::{Process, own_directory};

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) pod: String,
    node: String,
    directory: TempDir,
}

/// A listener at an address, and the requests that it got.
#[derive(Debug)]
pub(crate) struct Listener {
    file: std::path::PathBuf,
    _process: Process,
}

impl Network {
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let (pod, node) = (format!("fab-mesh-{id}-pod"), format!("fab-mesh-{id}-node"));
        let network = Self { pod, node, directory: own_directory() };
        let Self { pod, node, .. } = &network;
        for words in [
            format!("netns add {pod}"),
            format!("netns add {node}"),
            format!("-n {pod} link add eth0 type veth peer name pod netns {node}"),
            format!("-n {pod} address add 10.77.0.2/24 dev eth0"),
            format!("-n {node} address add 10.77.0.1/24 dev pod"),
            format!("-n {node} address add {AGENT}/32 dev lo"),
            format!("-n {pod} link set lo up"),
            format!("-n {pod} link set eth0 up"),
            format!("-n {node} link set lo up"),
            format!("-n {node} link set pod up"),
            format!("-n {pod} route add default via 10.77.0.1"),
        ] {
            run(Command::new("ip").args(words.split(' ')), "");
        }
        network
    }

    /// Starts a listener on the node, at the address of the Pod Identity agent.
    pub(crate) fn agent(&self) -> Listener {
        self.listen(&self.node, AGENT, 80)
    }

    /// Starts a listener of the tenant's container on this port.
    pub(crate) fn tenant(&self, port: u16) -> Listener {
        self.listen(&self.pod, "0.0.0.0", port)
    }

    pub(crate) fn restore(&self, rules: &str) {
        let words = ["netns", "exec", &self.pod, "iptables-restore", "--noflush"];
        run(Command::new("ip").args(words), rules);
    }

    pub(crate) fn add_address(&self, address: &str) {
        let words = ["-n", &self.pod, "address", "add", address, "dev", "lo"];
        run(Command::new("ip").args(words), "");
    }

    fn listen(&self, namespace: &str, address: &str, port: u16) -> Listener {
        let name = format!("{namespace}-{port}");
        let file = self.directory.path().join(format!("{name}.requests"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/mesh/listener");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, script, address, &port.to_string()]).arg(&file);
        let mut process = Process::start(&name, self.directory.path(), &command);
        process.wait_until("it listens", Duration::from_secs(20), || {
            fs::read_to_string(&file).ok().filter(|text| text.starts_with("listening\n"))
        });
        Listener { file, _process: process }
    }
}

impl Listener {
    pub(crate) fn requests(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.file).unwrap();
        text.lines().skip(1).map(str::to_owned).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.node] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// Creates the directories of the sidecar's volumes, with this base token.
pub(crate) fn volumes(directory: &Path, token: &str) {
    for volume in ["token", "base"] {
        fs::create_dir(directory.join(volume)).unwrap();
    }
    fs::write(directory.join("base/token"), token).unwrap();
    run(Command::new("chmod").arg("0777").arg(directory.join("token")), "");
}

fn run(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (it takes root):\n{said}\n{input}");
}

/// The address of the agent in EKS, as `eks::POD_IDENTITY_HOST`.
const AGENT: &str = "169.254.170.23";
