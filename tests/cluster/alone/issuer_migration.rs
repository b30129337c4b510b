//! A tenant that changes from the transport `roleChain` to `webIdentity` and back, with a stream of
//! new pods and with sessions that run: no pod is refused, no session ends, and each has its name.

use std::{thread::sleep, time::Duration};

use harness::{api_server::agent, process::wait_until, stream::Stream};
use serde_json::{Value, json};

use super::{
    installation::{Installation, NAMESPACE},
    sessions::Sessions,
};

const TRANSPORT: &str = "fab.nanohype.dev/session-transport";
/// Lifetime of the credentials, in seconds. Each session renews its credentials during the migration.
const LIFE: u64 = 40;

/// A release, and a stream of pods of its tenant.
struct Migration {
    release: Installation,
    stream: Stream,
}

impl Migration {
    fn start() -> Self {
        let release = Installation::start(&json!({}), LIFE);
        let every = Duration::from_millis(250);
        let kubeconfig = release.world.cluster.kubeconfig();
        let stream = Stream::start(&kubeconfig, agent(NAMESPACE), every);
        Self { release, stream }
    }

    /// Creates a pod and runs its sidecar. Its transport is this one.
    fn session(&self, sessions: &mut Sessions, name: &str, transport: &str) {
        let mut pod = agent(NAMESPACE);
        pod["metadata"] = json!({"name": name, "namespace": NAMESPACE});
        let stored = self.release.world.create(&pod, None).unwrap();
        let has_issuer = stored.container("fab-session-credentials")["env"]
            .as_array()
            .unwrap()
            .iter()
            .any(|variable| variable["name"] == "FAB_SESSION_ISSUER");
        assert_eq!(has_issuer, transport == "web-identity", "{name}");
        let uid = stored.pod["metadata"]["uid"].as_str().unwrap();
        let pod = self.release.pod(&stored.pod);
        sessions.start(name, uid, pod);
    }

    /// Sets the namespace's transport, or removes the label. Returns when new pods have it.
    fn set_transport(&self, label: Option<&str>) {
        let value = label.map_or(format!("{TRANSPORT}-"), |label| format!("{TRANSPORT}={label}"));
        let label_it = ["label", "--overwrite", "namespace", NAMESPACE, &value];
        assert!(self.release.world.cluster.kubectl(&label_it).run().ok);
        let wanted = label == Some("web-identity");
        let probe = agent(NAMESPACE);
        let create = ["create", "--dry-run=server", "--output=json", "--filename=-"];
        wait_until("the webhook has the label", Duration::from_secs(20), || {
            let made = self.release.world.cluster.kubectl(&create).stdin(&probe.to_string()).run();
            assert!(made.ok, "{}", made.stderr);
            (made.stdout.contains("FAB_SESSION_ISSUER") == wanted).then_some(())
        });
    }

    fn no_pod_was_refused(&self, when: &str) {
        // On a fast machine a step is over before many pods are created.
        wait_until("the stream goes on", Duration::from_secs(60), || {
            (self.stream.count() > 10).then_some(())
        });
        let tally = self.stream.take();
        println!("{when}: {} pods, slowest {} ms", tally.injected, tally.slowest.as_millis());
        assert!(tally.injected > 10 && tally.bare == 0, "{when}: {tally:?}");
        assert!(tally.refused.is_empty(), "{when}: {tally:?}");
    }
}

#[test]
fn a_tenant_changes_its_transport_and_back_unnoticed() {
    let migration = Migration::start();
    let mut sessions = Sessions::default();
    for name in ["chained-1", "chained-2"] {
        migration.session(&mut sessions, name, "role-chain");
    }
    sessions.await_all();
    migration.no_pod_was_refused("before");

    migration.set_transport(Some("web-identity"));
    for name in ["web-1", "web-2", "web-3"] {
        migration.session(&mut sessions, name, "web-identity");
    }
    sessions.await_all();
    migration.no_pod_was_refused("to webIdentity");
    // Those of both transports renew while the label says webIdentity.
    sessions.await_renewals();
    sessions.are_unbroken("with webIdentity");

    migration.set_transport(Some("role-chain"));
    for name in ["chained-3", "chained-4"] {
        migration.session(&mut sessions, name, "role-chain");
    }
    sessions.await_all();
    migration.no_pod_was_refused("back to roleChain");
    migration.set_transport(None);
    migration.session(&mut sessions, "chained-5", "role-chain");
    sessions.await_all();
    // And while it says roleChain, or nothing.
    sessions.await_renewals();
    sleep(Duration::from_secs(LIFE));
    migration.no_pod_was_refused("without the label");
    sessions.are_unbroken("at the end");
    let (count, credentials, failures) = sessions.counts();
    println!("{count} sessions, {credentials} credentials, {failures} failed attempts");

    let named = |event: &Value| event["responseElements"]["sourceIdentity"].is_string();
    let events: Vec<Value> = migration.release.aws.events().into_iter().filter(named).collect();
    sessions.have_their_names(&events);
    for name in ["AssumeRole", "AssumeRoleWithWebIdentity"] {
        assert!(events.iter().any(|event| event["eventName"] == name), "no {name}");
    }
}
