//! A stream of claims of a warm pool, while the issuer is killed and the controller of agent-sandbox
//! is away: each claim gets credentials with its own name, and each pod has one session.
//!
//! `FAB_CLAIM_SECONDS` sets the duration of the stream in seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, scope, sleep, spawn},
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
use tokio::runtime::{Builder, Runtime};

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

/// The sidecars of a node, by the names of their pods.
#[derive(Default)]
struct Node(Mutex<BTreeMap<String, Arc<Sidecar>>>);

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
    /// When it was last seen without this owner, if its sidecar ran by then.
    warm_since: Option<Instant>,
    /// When its sidecar served credentials.
    served: Option<Instant>,
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
                let path = format!("{EXTENSIONS}/namespaces/{NAMESPACE}/sandboxclaims");
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
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn sidecar(&self, pod: &str) -> Option<Arc<Sidecar>> {
        self.0.lock().unwrap().get(pod).cloned()
    }

    /// Starts the sidecars of new pods.
    fn run(&self, release: &Installation, pods: &[Value]) {
        for stored in pods.iter().filter(|it| it["metadata"]["deletionTimestamp"].is_null()) {
            let text = |key: &str| stored["metadata"][key].as_str().unwrap().to_owned();
            if self.sidecar(&text("name")).is_none() {
                let pod = release.pod(stored);
                let process = pod.start();
                let sidecar = Sidecar { uid: text("uid"), pod, _process: process };
                self.0.lock().unwrap().insert(text("name"), Arc::new(sidecar));
            }
        }
    }
}

/// A client of the API server, for lists and creations.
struct Client {
    client: ApiServer,
    runtime: Runtime,
}

impl Client {
    fn of(release: &Installation) -> Self {
        let client = ApiServer::of(&release.world.cluster.kubeconfig());
        Self { client, runtime: Builder::new_current_thread().enable_all().build().unwrap() }
    }

    fn send(&self, method: Method, path: &str, body: String) -> Value {
        let answer = self.runtime.block_on(self.client.send(method, path, body)).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    fn list(&self, api: &str, plural: &str) -> Vec<Value> {
        let path = format!("{api}/namespaces/{NAMESPACE}/{plural}");
        let list = self.send(Method::GET, &path, String::new());
        list["items"].as_array().unwrap_or_else(|| panic!("{path}: {list}")).clone()
    }

    fn create(&self, plural: &str, object: &Value) {
        let path = format!("{EXTENSIONS}/namespaces/{NAMESPACE}/{plural}");
        let stored = self.send(Method::POST, &path, object.to_string());
        assert!(stored["metadata"]["uid"].is_string(), "{stored}");
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
    let release = Installation::start(&keys, LIFE);
    let guarded = Instant::now();
    release.world.allow(TENANT);
    let mut controller = AgentSandbox::start(&release.world.cluster);
    let client = Client::of(&release);
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
    client.create("sandboxtemplates", &object("SandboxTemplate", "template", &template));
    let pool = json!({"replicas": WARM, "sandboxTemplateRef": {"name": "template"}});
    client.create("sandboxwarmpools", &object("SandboxWarmPool", "pool", &pool));
    let node = Node::default();
    let is_over = AtomicBool::new(false);
    let mut claimed = BTreeMap::<String, Claimed>::new();
    let begun = Instant::now();
    let all = scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // The API server closes a connection that is idle while sidecars start.
                let client = Client::of(&release);
                node.run(&release, &client.list("/api/v1", "pods"));
                sleep(INTERVAL);
            }
        });
        let mut claims = None;
        let mut faults = [
            (count / 4, "the issuer is killed"),
            (count / 2, "the controller is killed"),
            (count * 3 / 4, "the controller is started"),
        ]
        .into_iter()
        .peekable();
        let mut last = Instant::now();
        while (claimed.values().filter(|it| it.served.is_some()).count() as u64) < count {
            assert!(
                begun.elapsed() < PATIENCE + Duration::from_secs(seconds * 10),
                "{} sidecars run, and {} of {count} claims have a Sandbox",
                node.count(),
                claimed.len(),
            );
            sleep(INTERVAL);
            let Some(claims) = &claims else {
                // The pool is full before the first claim.
                if node.count() as u64 == WARM {
                    let kubeconfig = release.world.cluster.kubeconfig();
                    claims = Some(Claims::create(kubeconfig, count));
                }
                continue;
            };
            if let Some((_, fault)) = faults.next_if(|(at, _)| claims.count() >= *at) {
                println!("{fault} after {} claims", claims.count());
                match fault {
                    "the issuer is killed" => release.restart_issuer(),
                    "the controller is killed" => controller.kill(),
                    _ => controller.restart(),
                }
            }
            let now = Instant::now();
            for sandbox in client.list("/apis/agents.x-k8s.io/v1beta1", "sandboxes") {
                let owner = &sandbox["metadata"]["ownerReferences"][0];
                if owner["kind"] != "SandboxClaim" {
                    continue;
                }
                let claim = owner["uid"].as_str().unwrap().to_owned();
                let name = sandbox["metadata"]["name"].as_str().unwrap().to_owned();
                let runs = node.sidecar(&name).is_some();
                let known = claimed.entry(name.clone()).or_insert_with(|| Claimed {
                    claim: claim.clone(),
                    warm_since: runs.then_some(last),
                    served: None,
                });
                assert_eq!(known.claim, claim, "{name} has another claim");
            }
            last = now;
            for (name, waiting) in claimed.iter_mut().filter(|(_, it)| it.served.is_none()) {
                let Some(sidecar) = node.sidecar(name) else { continue };
                if sidecar.pod.get("/v1/credentials").0 == 200 {
                    waiting.served = Some(Instant::now());
                    let session = sidecar.pod.get("/v1/session").1;
                    assert_eq!(session["sessionId"], *waiting.claim, "{name}: {session}");
                }
            }
        }
        assert!(faults.next().is_none(), "each fault occurred");
        claims.unwrap().all()
    });

    let served: BTreeSet<String> = claimed.values().map(|it| it.claim.clone()).collect();
    assert_eq!(served, all, "each claim has one Sandbox");
    // The other pods of the pool have no session.
    let sidecars = node.0.into_inner().unwrap();
    for (name, sidecar) in sidecars.iter().filter(|(name, _)| !claimed.contains_key(*name)) {
        assert_eq!(sidecar.pod.get("/v1/credentials").1["code"], "not-bound", "{name}");
    }
    let pods: BTreeMap<&str, &str> =
        claimed.iter().map(|(name, it)| (&*sidecars[name].uid, &*it.claim)).collect();
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
    let took = claimed.values().filter_map(|it| Some(it.served? - it.warm_since?));
    let mut took: Vec<Duration> = took.collect();
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!(
        "{count} claims in {:.0} s; {} of running sidecars: credentials after {:.1} s in the median, {:.1} s at most",
        begun.elapsed().as_secs_f64(),
        took.len(),
        median.as_secs_f64(),
        took[took.len() - 1].as_secs_f64(),
    );
    assert!(median < Duration::from_secs(2), "{median:?}");
}

/// Ends the node, also after a failure.
struct End<'b>(&'b AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

const EXTENSIONS: &str = "/apis/extensions.agents.x-k8s.io/v1beta1";
const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);
