//! Runs the real binary with TLS, namespace manifests and a static role file.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{
    process::{Process, free_port, get, own_directory},
    program, root,
};

/// A running webhook.
#[derive(Debug)]
pub struct Server {
    /// The process of the webhook.
    pub process: Process,
    /// Address of the port for reviews.
    pub address: SocketAddr,
    /// Address of the health port.
    pub health: SocketAddr,
    /// Contains the log and the certificate.
    pub directory: TempDir,
}

impl Server {
    /// Starts the webhook with a new certificate; returns when it is ready.
    pub fn start() -> Self {
        let directory = own_directory();
        let tls = directory.path().join("tls");
        make_certificate(&tls, &[]);
        Self::start_with(directory, &tls, &["--shutdown-delay=0"])
    }

    /// `tls` is the path at which the kubelet would mount the Secret.
    pub fn start_with(directory: TempDir, tls: &Path, arguments: &[&str]) -> Self {
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, health) = (local(free_port()), local(free_port()));
        let mut process = Process::start(
            "webhook",
            directory.path(),
            &command(directory.path(), tls, address, health, arguments),
        );
        process.wait_until("the webhook is ready", Duration::from_secs(30), || {
            get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        Self { process, address, health, directory }
    }

    /// Returns a memory line of the process's status, in KiB.
    pub fn memory(&self, key: &str) -> usize {
        let port = self.address.port().to_string();
        let program = program().display().to_string();
        let webhook = fs::read_dir("/proc").unwrap().flatten().find(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            // Not the shell of its leash.
            line.starts_with(&program) && line.contains(&port)
        });
        let status = fs::read_to_string(webhook.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns the CA certificate.
    pub fn authority(&self) -> Vec<u8> {
        fs::read(self.directory.path().join("tls/ca.crt")).unwrap()
    }
}

/// Returns the command of a webhook with the files of the demo.
pub fn command(
    directory: &Path,
    tls: &Path,
    address: SocketAddr,
    health: SocketAddr,
    arguments: &[&str],
) -> Command {
    let example = |name: &str| root().join("examples/demo").join(name);
    let mut command = Command::new(program());
    command
        .arg("webhook")
        .arg(format!("--listen={address}"))
        .arg(format!("--health-listen={health}"))
        .arg("--tls-certificate")
        .arg(tls.join("tls.crt"))
        .arg("--tls-key")
        .arg(tls.join("tls.key"))
        .args(arguments)
        .current_dir(directory)
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    if !arguments.contains(&"--namespaces") {
        command.arg("--namespaces").arg(example("namespaces.yaml"));
    }
    if !arguments.contains(&"--config") {
        command.arg("--roles").arg(example("roles.yaml"));
    }
    command
}

/// Creates a certificate and its CA. `arguments` select a fault.
pub fn make_certificate(directory: &Path, arguments: &[&str]) {
    let make = root().join("certs/make");
    let made = Command::new(make).args(arguments).arg(directory).status().unwrap();
    assert!(made.success());
}

/// Returns a recorded review.
pub fn review(name: &str) -> Vec<u8> {
    fs::read(root().join(format!("tests/reviews/{name}.json"))).unwrap()
}
