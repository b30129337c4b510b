//! A real kube-state-metrics on 127.0.0.1.

use std::{net::SocketAddr, process::Command, time::Duration};

use harness::{
    process::{Process, free_port, get, own_directory, program},
    world::World,
};
use tempfile::TempDir;

/// A kube-state-metrics that ends when dropped, or with the test process.
#[derive(Debug)]
pub(crate) struct KubeStateMetrics {
    pub(crate) address: SocketAddr,
    /// Dropping it ends the process.
    _process: Process,
    /// Directory of its log.
    _directory: TempDir,
}

impl KubeStateMetrics {
    /// Starts one for the pods of the cluster.
    pub(crate) fn start(world: &World) -> Self {
        let directory = own_directory();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(program("kube-state-metrics"));
        command
            .args(["--resources=pods", "--host=127.0.0.1", "--telemetry-host=127.0.0.1"])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--telemetry-port={}", free_port()))
            .arg("--kubeconfig")
            .arg(world.cluster.kubeconfig());
        let mut process = Process::start("kube-state-metrics", directory.path(), &command);
        process.wait_until("kube-state-metrics is ready", Duration::from_secs(60), || {
            get(address, "/healthz").starts_with("HTTP/1.1 200").then_some(())
        });
        Self { address, _process: process, _directory: directory }
    }
}
