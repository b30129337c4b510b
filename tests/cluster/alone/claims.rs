//! A stream of claims of a warm pool, while the issuer is killed and the controller of agent-sandbox
//! is away: each claim gets credentials with its own name, and each pod has one session.
//!
//! `FAB_CLAIM_SECONDS` sets the duration of the stream in seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use harness::{
    agent_sandbox::AgentSandbox,
    api_server::ApiServer,
    process::{Process, variable},
    root,
    sidecar::pod::Pod,
};
use hyper::Method;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::installation::{Installation, NAMESPACE};

/// Claims a second.
const RATE: u64 = 20;
/// Duration of the stream, in seconds.
const SECONDS: u64 = 6;
/// Pods that wait for a claim.
const WARM: u64 = 20;
/// A sidecar renews its credentials when a third of this is left, in seconds.
const LIFE: u64 = 900;
const TENANT: &str = "jane";
/// The guard trusts references of objects that are a minute younger than itself.
const GUARD_AGE: Duration = Duration::from_secs(62);

/// The claims' creation.
struct Claims {
    /// Names and UIDs of those that exist.
    made: Arc<Mutex<BTreeMap<String, String>>>,
    thread: Option<JoinHandle<()>>,
}

/// The sidecars of a node.
#[derive(Default)]
struct Node(BTreeMap<String, Sidecar>);

/// A pod whose sidecar runs.
struct Sidecar {
    uid: String,
    pod: Pod,
    _process: Process,
}

/// A Sandbox that a claim owns.
struct Claimed {
    /// UID of the claim.
    claim: String,
    /// When it was last seen without this owner.
    since: Instant,
    /// From then to the first credentials.
    took: Option<Duration>,
}

impl Claims {
    fn create(kubeconfig: PathBuf, count: u64) -> Self {
        let made = Arc::<Mutex<BTreeMap<String, String>>>::default();
        let shared = Arc::clone(&made);
        let thread = spawn(move || {
            let client = ApiServer::of(&kubeconfig).impersonating(TENANT);
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let begun = Instant::now();
            for number in 0..count {
                let due = Duration::from_millis(number * 1000 / RATE);
                sleep(due.saturating_sub(begun.elapsed()));
                let name = format!("c{number}");
                let claim =
                    object("SandboxClaim", &name, &json!({"warmPoolRef": {"name": "pool"}}));
                let path = path("sandboxclaims");
                let answer = client.send(Method::POST, &path, claim.to_string());
                let answer = runtime.block_on(answer).unwrap();
                let stored: Value = serde_json::from_slice(&answer).unwrap();
                let uid = stored["metadata"]["uid"].as_str();
                let uid = uid.unwrap_or_else(|| panic!("{name}: {stored}")).to_owned();
                shared.lock().unwrap().insert(name, uid);
            }
        });
        Self { made, thread: Some(thread) }
    }

    fn count(&self) -> u64 {
        self.made.lock().unwrap().len() as u64
    }

    /// Returns the UIDs of all, after the last creation.
    fn all(&mut self) -> BTreeSet<String> {
        self.thread.take().unwrap().join().unwrap();
        self.made.lock().unwrap().values().cloned().collect()
    }
}

impl Node {
    /// Starts the sidecars of new pods.
    fn run(&mut self, release: &Installation, pods: &[Value]) {
        for stored in pods.iter().filter(|it| it["metadata"]["deletionTimestamp"].is_null()) {
            let text = |key: &str| stored["metadata"][key].as_str().unwrap().to_owned();
            if !self.0.contains_key(&text("name")) {
                let pod = release.pod(stored);
                let process = pod.start();
                let uid = text("uid");
                self.0.insert(text("name"), Sidecar { uid, pod, _process: process });
            }
        }
    }
}

#[test]
fn each_claim_gets_its_own_session_during_faults() {
    let seconds = variable("FAB_CLAIM_SECONDS");
    let seconds = seconds.map_or(SECONDS, |text| text.to_str().unwrap().parse().unwrap());
    let count = RATE * seconds;
    let values = fs::read_to_string(root().join("examples/agent-sandbox-claims.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let components = &values["config"]["components"];
    let keys = json!({"transport": "webIdentity", "components": components});
    let mut release = Installation::start(&keys, LIFE);
    let guarded = Instant::now();
    release.world.allow(TENANT);
    let mut controller = AgentSandbox::start(&release.world.cluster);
    let kubeconfig = release.world.cluster.kubeconfig();
    let client = ApiServer::of(&kubeconfig);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let list = |path: &str| -> Vec<Value> {
        let answer = runtime.block_on(client.send(Method::GET, path, String::new())).unwrap();
        let list: Value = serde_json::from_slice(&answer).unwrap();
        list["items"].as_array().unwrap_or_else(|| panic!("{path}: {list}")).clone()
    };
    let pods = || list(&format!("/api/v1/namespaces/{NAMESPACE}/pods"));
    let sandboxes =
        || list(&format!("/apis/agents.x-k8s.io/v1beta1/namespaces/{NAMESPACE}/sandboxes"));
    let create = |plural: &str, object: Value| {
        let path = path(plural);
        let answer = client.send(Method::POST, &path, object.to_string());
        let stored: Value = serde_json::from_slice(&runtime.block_on(answer).unwrap()).unwrap();
        assert!(stored["metadata"]["uid"].is_string(), "{stored}");
    };
    sleep(GUARD_AGE.saturating_sub(guarded.elapsed()));

    let template = json!({"podTemplate": {"spec": {
        "serviceAccountName": "tenant-runtime",
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "agent", "image": "agent:1",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }],
    }}});
    create("sandboxtemplates", object("SandboxTemplate", "template", &template));
    let pool = json!({"replicas": WARM, "sandboxTemplateRef": {"name": "template"}});
    create("sandboxwarmpools", object("SandboxWarmPool", "pool", &pool));
    let mut node = Node::default();
    let begun = Instant::now();
    while (node.0.len() as u64) < WARM {
        assert!(begun.elapsed() < PATIENCE, "{} warm pods", node.0.len());
        node.run(&release, &pods());
        sleep(INTERVAL);
    }

    let mut claims = Claims::create(kubeconfig, count);
    let mut claimed = BTreeMap::<String, Claimed>::new();
    let mut faults = [
        (count / 4, "the issuer is killed"),
        (count / 2, "the controller is killed"),
        (count * 3 / 4, "the controller is started"),
    ]
    .into_iter()
    .peekable();
    let begun = Instant::now();
    let mut last = begun;
    while (claimed.values().filter(|it| it.took.is_some()).count() as u64) < count {
        let without = claimed.values().filter(|it| it.took.is_none()).count();
        assert!(
            begun.elapsed() < PATIENCE + Duration::from_secs(seconds * 3),
            "{} of {count} claims have a Sandbox, {without} of these no credentials",
            claimed.len(),
        );
        if let Some((_, fault)) = faults.next_if(|(at, _)| claims.count() >= *at) {
            println!("{fault} after {} claims, {} with a Sandbox", claims.count(), claimed.len());
            match fault {
                "the issuer is killed" => release.restart_issuer(),
                "the controller is killed" => controller.kill(),
                _ => controller.restart(),
            }
        }
        node.run(&release, &pods());
        let now = Instant::now();
        for sandbox in sandboxes() {
            let owner = &sandbox["metadata"]["ownerReferences"][0];
            if owner["kind"] == "SandboxClaim" {
                let claim = owner["uid"].as_str().unwrap().to_owned();
                let name = sandbox["metadata"]["name"].as_str().unwrap().to_owned();
                let known = claimed.entry(name.clone()).or_insert(Claimed {
                    claim: claim.clone(),
                    since: last,
                    took: None,
                });
                assert_eq!(known.claim, claim, "{name} has another claim");
            }
        }
        last = now;
        for (name, waiting) in claimed.iter_mut().filter(|(_, it)| it.took.is_none()) {
            let Some(sidecar) = node.0.get(name) else { continue };
            if sidecar.pod.get("/v1/credentials").0 == 200 {
                waiting.took = Some(waiting.since.elapsed());
                let session = sidecar.pod.get("/v1/session").1;
                assert_eq!(session["sessionId"], *waiting.claim, "{name}: {session}");
            }
        }
        sleep(INTERVAL);
    }
    assert!(faults.next().is_none(), "each fault occurred");

    let all = claims.all();
    let served: BTreeSet<String> = claimed.values().map(|it| it.claim.clone()).collect();
    assert_eq!(served, all, "each claim has one Sandbox");
    // What the rest of the pool says.
    for (name, sidecar) in node.0.iter().filter(|(name, _)| !claimed.contains_key(*name)) {
        assert_eq!(sidecar.pod.get("/v1/credentials").1["code"], "not-bound", "{name}");
    }
    let pods: BTreeMap<&str, &str> =
        claimed.iter().map(|(name, it)| (&*node.0[name].uid, &*it.claim)).collect();
    let mut named = BTreeSet::new();
    for event in release.aws.events() {
        let requested = &event["requestParameters"];
        let identity = requested["sourceIdentity"].as_str().unwrap();
        let pod = requested["principalTags"]["kubernetes-pod-uid"].as_str().unwrap();
        let claim = pods.get(pod).unwrap_or_else(|| panic!("no claim has the pod of {event}"));
        assert_eq!(identity, format!("agent.acme.{claim}"), "{event}");
        named.insert(claim.to_owned());
    }
    assert_eq!(named.len() as u64, count, "each claim has an event");
    let mut took: Vec<Duration> = claimed.values().filter_map(|it| it.took).collect();
    took.sort_unstable();
    println!(
        "{count} claims in {:.0} s; from claim to credentials: median {:.1} s, longest {:.1} s",
        begun.elapsed().as_secs_f64(),
        took[took.len() / 2].as_secs_f64(),
        took[took.len() - 1].as_secs_f64(),
    );
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

fn path(plural: &str) -> String {
    format!("/apis/extensions.agents.x-k8s.io/v1beta1/namespaces/{NAMESPACE}/{plural}")
}

const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);
