//! The part of a kubelet that the alerts about sidecars depend on, because no kubelet runs in this
//! tier: it runs the sidecar of a pod of the API server, with its startup probe, and writes the
//! pod's status.

use std::time::Duration;

use harness::{
    process::{Process, wait_until},
    sidecar::{
        account::Account,
        pod::{Pod, Template},
    },
    world::{OPERATOR, World, agent},
};
use serde_json::{Value, json};

/// A pod of the API server, whose sidecar runs as a process.
#[derive(Debug)]
pub(crate) struct AgentPod {
    name: String,
    namespace: &'static str,
    /// AWS of this pod.
    pub(crate) account: Account,
    pod: Pod,
    sidecar: Process,
    restarts: u32,
    /// How its previous container ended.
    last_state: Value,
    is_ready: bool,
}

impl AgentPod {
    /// Creates the pod in the API server, whose webhook injects it, and starts its sidecar.
    pub(crate) fn create(
        world: &World,
        name: &str,
        account: Account,
        change: impl FnOnce(&mut Template),
    ) -> Self {
        let namespace = "tenants-acme";
        let mut template = account.template();
        template.name = name.to_owned();
        change(&mut template);
        let mut object = agent(namespace, name);
        object["metadata"]["labels"] = template.labels.clone();
        let created = world.create(&object, Some(OPERATOR)).unwrap();
        assert_eq!(created.container(SIDECAR)["restartPolicy"], "Always", "it is a native sidecar");
        let pod = account.pod_of(&template);
        let sidecar = pod.start();
        let (name, last_state) = (name.to_owned(), json!({}));
        Self { name, namespace, account, pod, sidecar, restarts: 0, last_state, is_ready: false }
    }

    /// Runs the startup probe, and writes its result into the pod's status. Returns whether the
    /// sidecar is ready.
    pub(crate) fn probe(&mut self, world: &World) -> bool {
        // The kubelet runs no startup probe after its first success.
        self.is_ready |= self.pod.probe().status.success();
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        self.report(world, &running);
        self.is_ready
    }

    /// Writes the first status when the sidecar is ready.
    pub(crate) fn await_ready(&mut self, world: &World) {
        wait_until("the sidecar is ready", Duration::from_secs(60), || {
            self.pod.probe().status.success().then_some(())
        });
        assert!(self.probe(world), "{}", self.name);
    }

    /// Kills the sidecar, and writes that it waits for its restart.
    pub(crate) fn kill(&mut self, world: &World) {
        self.sidecar.kill();
        (self.restarts, self.is_ready) = (self.restarts + 1, false);
        self.last_state = json!({"terminated": {
            "exitCode": 137, "reason": "Error", "containerID": "",
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z",
        }});
        self.report(world, &json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    }

    /// Starts the sidecar again.
    pub(crate) fn restart(&mut self, world: &World) {
        self.sidecar = self.pod.start();
        self.await_ready(world);
    }

    /// Writes that the pod completed, as that of a Job does.
    pub(crate) fn complete(&mut self, world: &World) {
        self.sidecar.kill();
        self.is_ready = false;
        let ended =
            json!({"terminated": {"exitCode": 0, "reason": "Completed", "containerID": ""}});
        self.write(world, "Succeeded", &ended);
    }

    pub(crate) fn delete(self, world: &World) {
        let delete = ["delete", "pod", &self.name, "--namespace", self.namespace];
        let delete = [&delete[..], &["--grace-period=0", "--force"]].concat();
        assert!(world.cluster.kubectl(&delete).run().ok);
    }

    /// Returns the sidecar's log.
    pub(crate) fn log(&self) -> String {
        self.sidecar.log()
    }

    fn report(&self, world: &World, state: &Value) {
        // The agent's container starts when the sidecar is ready for the first time.
        let phase = if self.is_ready || self.restarts > 0 { "Running" } else { "Pending" };
        self.write(world, phase, state);
    }

    fn write(&self, world: &World, phase: &str, state: &Value) {
        let status = json!({"status": {"phase": phase, "initContainerStatuses": [{
            "name": SIDECAR, "image": "i", "imageID": "i", "ready": self.is_ready,
            "started": self.is_ready, "restartCount": self.restarts, "state": state,
            "lastState": self.last_state,
        }]}})
        .to_string();
        let patch = ["patch", "pod", &self.name, "--namespace", self.namespace];
        let patch = [&patch[..], &["--subresource=status", "--type=merge", "--patch"]].concat();
        let patch = [&patch[..], &[&*status]].concat();
        world.cluster.kubectl(&patch).json();
    }
}

const SIDECAR: &str = "fab-session-credentials";
