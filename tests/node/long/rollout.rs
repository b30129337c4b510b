//! A steady stream of agent pods on a real node during rollouts, crashes, rotations, upgrades and
//! an outage of STS. No pod is admitted without its sidecar. In each phase a new session starts
//! and calls AWS with its name, and an earlier session still does.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    api_server::ApiServer,
    helm::{self, chart},
    image::{Image, ROOTS},
    node::Node,
    platform::{Platform, SYSTEM, TENANT},
    process::wait_until,
    stream::{Stream, Tally},
    webhook::client::{Protocol, shake_hands_with},
};
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A release and a stream of pods.
struct Rollout {
    stream: Stream,
    sessions: usize,
    /// A session that runs from the beginning to the end.
    steady: String,
    platform: Platform,
}

impl Rollout {
    fn start() -> Self {
        let platform = Platform::start();
        let steady = platform.create_session("fab-steady");
        platform.node.await_ready(TENANT, &steady);
        let api_server = ApiServer::of(&platform.node.kubeconfig()).dry();
        let stream = Stream::to(api_server, agent(), Duration::from_millis(50));
        Self { stream, sessions: 0, steady, platform }
    }

    fn node(&self) -> &Node {
        &self.platform.node
    }

    /// Returns the results of the stream during `happens` and for a while after it.
    fn during(&mut self, name: &str, happens: impl FnOnce(&mut Self)) -> Tally {
        sleep(Duration::from_millis(500));
        self.stream.take();
        let begun = Instant::now();
        happens(self);
        sleep(Duration::from_secs(2));
        let tally = self.stream.take();
        println!(
            "{name}: in {} s {} injected, {} bare, refused {:?}, slowest {} ms",
            begun.elapsed().as_secs(),
            tally.injected,
            tally.bare,
            tally.refused,
            tally.slowest.as_millis()
        );
        tally
    }

    /// Checks that no pod was admitted without its sidecar, and that sessions work.
    fn held(&mut self, name: &str, happens: impl FnOnce(&mut Self)) -> Tally {
        let tally = self.during(name, |rollout| {
            happens(rollout);
            rollout.session_works();
        });
        assert_eq!(tally.bare, 0, "{name}: let in without the sidecar");
        assert!(tally.injected > 10, "{name}: {tally:?}");
        tally
    }

    /// Checks in addition that no pod was refused.
    fn unnoticed(&mut self, name: &str, happens: impl FnOnce(&mut Self)) {
        let tally = self.held(name, happens);
        assert!(tally.refused.is_empty(), "{name}: {tally:?}");
    }

    /// Checks that a new session and the first session have credentials.
    fn session_works(&mut self) {
        self.sessions += 1;
        let sandbox = format!("fab-phase-{}", self.sessions);
        let pod = self.platform.create_session(&sandbox);
        self.node().await_ready(TENANT, &pod);
        self.calls_aws(&pod);
        self.calls_aws(&self.steady);
        self.delete(&pod);
    }

    fn calls_aws(&self, pod: &str) {
        let client = self.node().exec(TENANT, pod, "session", &["/client-go"]).stdin("call\n");
        let called = client.run();
        let caller: Value = serde_json::from_str(called.stdout.trim())
            .unwrap_or_else(|error| panic!("{pod}: {error}: {} {}", called.stdout, called.stderr));
        let broker = "arn:aws:sts::111122223333:assumed-role/prod-acme-broker/";
        assert!(caller["arn"].as_str().unwrap_or("").starts_with(broker), "{pod}: {caller}");
    }

    fn delete(&self, pod: &str) {
        self.kubectl(&["delete", "pod", pod, "--namespace", TENANT, "--wait=false"]);
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let ran = self.node().kubectl(arguments).run();
        assert!(ran.ok, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    fn webhooks(&self) -> Vec<Value> {
        let of_the_webhook = "--selector=app.kubernetes.io/component=webhook";
        let listed = self.node().kubectl(&["get", "pods", "--namespace", SYSTEM, of_the_webhook]);
        listed.json()["items"].as_array().unwrap().clone()
    }

    /// Waits until the other webhook pods have exited, so that their shutdown is tested too.
    fn await_webhooks(&self, count: usize) {
        wait_until(&format!("there are {count} replicas, all ready"), ROLLOUT, || {
            let webhooks = self.webhooks();
            let ready = |pod: &&Value| {
                let status = &pod["status"]["containerStatuses"][0];
                status["ready"] == true && pod["metadata"]["deletionTimestamp"].is_null()
            };
            (webhooks.len() == count && webhooks.iter().filter(ready).count() == count)
                .then_some(())
        });
    }

    fn restart_webhooks(&self, count: usize) {
        let before: Vec<Value> = self.webhooks();
        self.kubectl(&["rollout", "restart", WEBHOOK, "--namespace", SYSTEM]);
        self.kubectl(&["rollout", "status", WEBHOOK, "--namespace", SYSTEM, "--timeout=120s"]);
        self.await_webhooks(count);
        let uids = |pods: &[Value]| -> BTreeSet<String> {
            pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
        };
        assert!(uids(&before).is_disjoint(&uids(&self.webhooks())), "all are new");
    }

    fn scale(&self, deployment: &str, replicas: usize) {
        let replicas = format!("--replicas={replicas}");
        self.kubectl(&["scale", deployment, "--namespace", SYSTEM, &replicas]);
        self.kubectl(&["rollout", "status", deployment, "--namespace", SYSTEM, "--timeout=120s"]);
    }

    /// Upgrades with these values in addition to the initial ones.
    fn upgrade(&self, values: &[(&str, &str)]) {
        let file = self.node().state().join("values.json");
        let flags = ["--wait", "--timeout=120s", "--values", file.to_str().unwrap()];
        helm::upgrade(&chart(), RELEASE, SYSTEM, &self.node().kubeconfig(), values, &flags)
            .unwrap();
    }

    fn remove_from_secret(&self, key: &str) {
        let removal = json!([{"op": "remove", "path": format!("/data/{key}")}]).to_string();
        let secret = ["secret/fab-session-injector-tls", "--namespace", SYSTEM];
        self.kubectl(&[&["patch"][..], &secret, &["--type=json", "--patch", &removal]].concat());
    }

    /// Returns the CA certificates that the API server trusts, newest first.
    fn authorities(&self) -> Vec<String> {
        let configuration = ["get", "mutatingwebhookconfigurations", "fab-session-injector"];
        let configuration = self.node().kubectl(&configuration).json();
        let bundle = &configuration["webhooks"][0]["clientConfig"]["caBundle"];
        let bundle = STANDARD.decode(bundle.as_str().unwrap_or_default()).unwrap();
        String::from_utf8(bundle)
            .unwrap()
            .split_inclusive("-----END CERTIFICATE-----\n")
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Returns the certificates of the replicas, verified with these CA certificates.
    fn leaves(&self, authorities: &[String]) -> Result<BTreeSet<Vec<u8>>, String> {
        let bundle = authorities.concat();
        let shown = self.webhooks().into_iter().map(|pod| {
            let address: IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
            let stream = Runtime::new().unwrap().block_on(shake_hands_with(
                "fab-session-injector.fab-system.svc",
                SocketAddr::new(address, 8443),
                bundle.as_bytes(),
                Protocol::Http2,
                &[&TLS13],
            ));
            let stream = stream.map_err(|error| error.to_string())?;
            Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
        });
        shown.collect()
    }

    /// Waits until all replicas serve a new certificate.
    fn await_other_leaf(&self, before: &BTreeSet<Vec<u8>>) {
        wait_until("another certificate is served by all", KUBELET_BRINGS_A_SECRET, || {
            let leaves = self.leaves(&self.authorities()).ok()?;
            (leaves.len() == 1 && leaves.is_disjoint(before)).then_some(())
        });
    }
}

/// Returns an agent pod: its service account is fenced. It has small resources, since the stream
/// creates thousands under a quota.
fn agent() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "a-", "namespace": TENANT},
        "spec": {
            "serviceAccountName": "tenant-runtime",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent",
                "image": "node.test/agent:1",
                "resources": {
                    "requests": {"cpu": "1m", "memory": "1Mi"},
                    "limits": {"cpu": "10m", "memory": "10Mi"},
                },
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

#[test]
fn a_stream_of_pods_survives_changes_of_the_installation() {
    let mut rollout = Rollout::start();
    rollout.unnoticed("nothing happens", |_| {});

    rollout.unnoticed("the webhook is restarted", |rollout| rollout.restart_webhooks(2));

    // The API server is connected to one of the two. Only its requests in progress may be lost.
    let killed = rollout.held("one replica after the other is killed", |rollout| {
        for replica in rollout.webhooks() {
            let name = replica["metadata"]["name"].as_str().unwrap();
            let kill = ["delete", "pod", name, "--namespace", SYSTEM];
            rollout.kubectl(&[&kill[..], &["--force", "--grace-period=0"]].concat());
            rollout.await_webhooks(2);
        }
    });
    let lost = killed.refused.get("webhook").copied().unwrap_or_default();
    assert!(killed.refused.values().sum::<usize>() == lost && lost <= 2, "{killed:?}");

    rollout.unnoticed("the kubelet is restarted", |rollout| {
        rollout.node().restart("kubelet", 2);
        sleep(Duration::from_secs(10));
        rollout.await_webhooks(2);
    });

    let restarted = rollout.held("the API server is restarted", |rollout| {
        rollout.node().restart("kube-apiserver", 2);
        wait_until("it is ready again", ROLLOUT, || {
            rollout.node().kubectl(&["get", "--raw", "/readyz"]).run().ok.then_some(())
        });
        rollout.await_webhooks(2);
    });
    let away = restarted.refused.get("api-server").copied().unwrap_or_default();
    assert!(away > 0 && restarted.refused.len() == 1, "{restarted:?}");

    rollout.unnoticed("the certificate is taken away", |rollout| {
        let before = rollout.leaves(&rollout.authorities()).unwrap();
        assert_eq!(before.len(), 1);
        rollout.remove_from_secret("tls.crt");
        rollout.await_other_leaf(&before);
    });

    rollout.unnoticed("the authority's key is taken away", |rollout| {
        let before = rollout.authorities();
        let leaves = rollout.leaves(&before).unwrap();
        rollout.remove_from_secret("ca.key");
        let now = wait_until("another authority is published", ROLLOUT, || {
            let now = rollout.authorities();
            (now.first() != before.first()).then_some(now)
        });
        // The new CA signs only when all API servers trust it, ten minutes later. Meanwhile:
        assert_eq!(now[1..], before, "the former one is believed as well");
        assert_eq!(rollout.leaves(&now).as_ref(), Ok(&leaves), "and what it signed is served");
        rollout.leaves(&now[..1]).expect_err("which the new one did not sign");
        // Except if the served certificate is lost too.
        rollout.remove_from_secret("tls.crt");
        rollout.await_other_leaf(&leaves);
        rollout.leaves(&now[..1]).expect("the new one signed it");
    });

    rollout.unnoticed("certs is stopped while replicas change", |rollout| {
        rollout.scale(CERTS, 0);
        rollout.restart_webhooks(2);
        rollout.scale(CERTS, 1);
    });

    rollout.unnoticed("the chart is upgraded to three replicas and another config", |rollout| {
        let partitions = ("config.roles.allow.partitions[0]", "aws");
        rollout.upgrade(&[("replicaCount", "3"), partitions]);
        rollout.await_webhooks(3);
    });

    rollout.make_sidecar_image("node.test/sidecar:2");
    rollout.unnoticed("the sidecar's image is changed", |rollout| {
        rollout.upgrade(&[("config.sidecar.image", "node.test/sidecar:2")]);
        rollout.await_webhooks(2);
        assert_eq!(rollout.sidecar_image(), "node.test/sidecar:2");
    });

    // The control: the guard does not accept the installed image.
    let unnamed = rollout.held("the image is changed back without that", |rollout| {
        rollout.upgrade(&[
            ("config.sidecar.image", "node.test/sidecar:1"),
            ("guard.acceptInstalledImage", "false"),
        ]);
        rollout.await_webhooks(2);
    });
    assert!(unnamed.refused.keys().all(|code| code.starts_with("guard-")), "{unnamed:?}");
    assert!(unnamed.refused.values().sum::<usize>() > 0, "{unnamed:?}");

    let mut waits = String::new();
    rollout.unnoticed("AssumeRole fails for ten seconds", |rollout| {
        rollout.platform.cloud.fail_assume_role();
        waits = rollout.platform.create_session("fab-waits");
        sleep(Duration::from_secs(10));
        rollout.calls_aws(&rollout.steady);
        let pod = rollout.node().kubectl(&["get", "pod", &waits, "--namespace", TENANT]).json();
        assert_eq!(pod["status"]["phase"], "Pending", "{}", pod["status"]);
        assert!(rollout.platform.cloud.heal() > 0, "no AssumeRole call failed");
        rollout.node().await_ready(TENANT, &waits);
        rollout.calls_aws(&waits);
    });
    rollout.delete(&waits);

    // The controls: the results of the stream without the webhook, without its configuration, and
    // without the guard.
    let stopped = rollout.during("the webhook is scaled to nothing", |rollout| {
        rollout.scale(WEBHOOK, 0);
        rollout.await_webhooks(0);
        rollout.stream.take();
        sleep(Duration::from_secs(2));
    });
    assert!(stopped.injected == 0 && stopped.bare == 0, "{stopped:?}");
    assert!(stopped.refused["webhook"] > 10 && stopped.refused.len() == 1, "{stopped:?}");

    let unconfigured = rollout.during("its configuration is deleted", |rollout| {
        rollout.kubectl(&["delete", "mutatingwebhookconfigurations", "fab-session-injector"]);
        sleep(Duration::from_secs(2));
        rollout.stream.take();
        sleep(Duration::from_secs(2));
    });
    assert!(unconfigured.injected == 0 && unconfigured.bare == 0, "{unconfigured:?}");
    assert!(unconfigured.refused.keys().all(|code| code.starts_with("guard-")), "{unconfigured:?}");
    assert!(unconfigured.refused.values().sum::<usize>() > 10, "{unconfigured:?}");

    let unguarded = rollout.during("the guard is unbound as well", |rollout| {
        let binding = "validatingadmissionpolicybinding/fab-session-injector-pods";
        rollout.kubectl(&["delete", binding]);
        sleep(Duration::from_secs(2));
        rollout.stream.take();
        sleep(Duration::from_secs(2));
    });
    assert!(unguarded.bare > 10 && unguarded.injected == 0, "{unguarded:?}");
    assert!(unguarded.refused.is_empty(), "{unguarded:?}");

    rollout.upgrade(&[]);
    rollout.scale(WEBHOOK, 2);
    rollout.await_webhooks(2);
    wait_until("the authority is published again", ROLLOUT, || {
        (!rollout.authorities().is_empty()).then_some(())
    });
    rollout.unnoticed("all of it is brought back", |_| {});

    // The webhook runs until its configuration is removed. The guard is removed last.
    let uninstalled = rollout.during("the release is uninstalled", |rollout| {
        helm::uninstall(RELEASE, SYSTEM, &rollout.node().kubeconfig()).unwrap();
        wait_until("its pods are gone", ROLLOUT, || rollout.webhooks().is_empty().then_some(()));
    });
    assert!(uninstalled.injected > 0 && uninstalled.bare > 10, "{uninstalled:?}");
    assert!(uninstalled.refused.keys().all(|code| code == "guard-sidecar"), "{uninstalled:?}");
}

impl Rollout {
    /// Makes an image of the same program with another name.
    fn make_sidecar_image(&self, name: &str) {
        let program = Image::unpack();
        let program = program.at("/fab-session-injector");
        let files = [
            format!("{}:/fab-session-injector:755", program.display()),
            format!("{}:{ROOTS}:644", self.platform.cloud.authority().display()),
        ];
        self.node().make_image(name, "/fab-session-injector", &files);
    }

    /// Returns the sidecar image of a new pod.
    fn sidecar_image(&self) -> String {
        let create = ["create", "--filename=-", "--dry-run=server"];
        let pod = self.node().kubectl(&create).stdin(&agent().to_string()).json();
        pod["spec"]["initContainers"][0]["image"].as_str().unwrap().to_owned()
    }
}

const RELEASE: &str = "fab-session-injector";
const WEBHOOK: &str = "deployment/fab-session-injector";
const CERTS: &str = "deployment/fab-session-injector-certs";

/// Ten times the time of a rollout on two idle cores.
const ROLLOUT: Duration = Duration::from_secs(120);

/// The webhook checks the files every ten seconds, and the kubelet updates them with a delay.
const KUBELET_BRINGS_A_SECRET: Duration = Duration::from_secs(120);
