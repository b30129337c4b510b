//! Measures on a real node how much time webhook and guard add to the creation of a pod, and the
//! sidecar to the start of a session's pod. One run compares each, interleaved, with a cluster
//! without the injector, and with a part that does nothing.
//!
//! Run it as root with `make bench-node`. The argument is the program of benches/floor.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints its results")]

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    api_server::ApiServer,
    foreign::{pod_identity::pod_identity, server::Server},
    node::Node,
    platform::{Platform, SYSTEM, TENANT, session},
    process::{self, Process, own_directory, wait_until},
};
use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let floor = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let floor = floor.expect("the program of benches/floor.rs: run `make bench-node`");
    let platform = Platform::start();
    let parts = Parts::start(&platform.node, &floor);
    for containers in SIZES {
        creations(&platform.node, containers).await;
    }
    drop(parts);
    starts(&platform).await;
}

/// Numbers of containers of the pods. Of three, one is an init container; of ten, two.
const SIZES: [usize; 3] = [1, 3, 10];

/// A namespace that did not opt in. The others below differ from it only as described.
const OFF: &str = "bench-off";
/// Not opted in, but its pods are created with the sidecar, as any injector would change them.
const SHAPED: &str = "bench-shaped";
/// With the floor as webhook, which changes nothing.
const FLOOR: &str = "bench-floor";
/// With the floor as webhook, which returns the injector's patch.
const PATCHED: &str = "bench-patched";
/// With a webhook that has the effect of the EKS Pod Identity webhook.
const EKS: &str = "bench-eks";
/// Opted in, but excluded from the guard.
const UNGUARDED: &str = "bench-unguarded";
/// Opted in.
const GUARDED: &str = "bench-guarded";
const MODES: [&str; 7] = [OFF, SHAPED, FLOOR, PATCHED, EKS, UNGUARDED, GUARDED];

/// The namespaces, and the webhooks with which the injector is compared.
struct Parts {
    _floors: Vec<Process>,
    _eks: Server,
    _directory: TempDir,
}

impl Parts {
    fn start(node: &Node, floor: &str) -> Self {
        let directory = own_directory();
        let host = node.host_address();
        let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make"))
            .arg(directory.path())
            .arg(host.to_string())
            .status();
        assert!(made.unwrap().success());
        let authority = STANDARD.encode(fs::read(directory.path().join("ca.crt")).unwrap());

        for mode in MODES {
            let mut labels = json!({
                "agents.nanohype.dev/platform": "acme",
                "pod-security.kubernetes.io/enforce": "restricted",
                "test.example/foreign": mode,
            });
            if [UNGUARDED, GUARDED].contains(&mode) {
                labels["fab.nanohype.dev/session-injection"] = "enabled".into();
            }
            create_namespace(node, mode, &labels);
        }
        let except = json!([{
            "op": "add",
            "path": "/spec/matchResources/namespaceSelector/matchExpressions/-",
            "value": {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [UNGUARDED]},
        }]);
        let patch = ["patch", "validatingadmissionpolicybinding/fab-session-injector-pods"];
        let patched = node
            .kubectl(&[&patch[..], &["--type=json", "--patch", &except.to_string()]].concat())
            .run();
        assert!(patched.ok, "{}", patched.stderr);

        // A floor returns the same patch for each pod, so each size has one.
        let patches = SIZES.map(|containers| {
            let patch = directory.path().join(format!("patch-{containers}.json"));
            fs::write(&patch, our_patch(node, containers).to_string()).unwrap();
            (PATCHED, Some(containers), Some(patch))
        });
        let mut floors = Vec::new();
        for (namespace, containers, patch) in patches.into_iter().chain([(FLOOR, None, None)]) {
            // A port that no client uses as its source port.
            let address = SocketAddr::new(host.into(), process::free_port());
            let mut command = Command::new(floor);
            command.arg(address.to_string()).arg(directory.path()).args(patch);
            let name = format!("{namespace}-{}", containers.unwrap_or_default());
            floors.push(Process::start(&name, directory.path(), &command));
            node.create(&[webhook(&name, namespace, containers, address, &authority)]);
        }
        let eks = Server::start(host, pod_identity);
        node.create(&[eks.configuration(EKS, EKS, &json!({}))]);
        Self { _floors: floors, _eks: eks, _directory: directory }
    }
}

async fn creations(node: &Node, containers: usize) {
    let api_server = ApiServer::of(&node.kubeconfig());
    let original = sized(session(TENANT, "bench", &["sleep"]), containers);
    let shaped = injected(node, &original, SHAPED);
    let reviews_before = reviews(node);
    let mut took = MODES.map(|_| Vec::new());
    // The first rounds open connections and compile expressions.
    for round in 0..WARM_UP + CREATIONS {
        for turn in 0..MODES.len() {
            let mode = (round + turn) % MODES.len();
            let namespace = MODES[mode];
            let mut pod = if namespace == SHAPED { shaped.clone() } else { original.clone() };
            pod["metadata"]["namespace"] = namespace.into();
            let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
            let body = pod.to_string();
            let begun = Instant::now();
            let answer = api_server.send(Method::POST, &path, body).await.unwrap();
            let elapsed = begun.elapsed();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["kind"], "Pod", "{namespace}: {answer}");
            let is_injected = answer["spec"]["initContainers"][0]["name"] == SIDECAR;
            assert_eq!(is_injected, ![OFF, FLOOR, EKS].contains(&namespace), "{answer}");
            let mounts = &answer["spec"]["containers"][0]["volumeMounts"];
            let has_token = mounts.to_string().contains("eks-pod-identity-token");
            assert_eq!(has_token, namespace == EKS, "{answer}");
            if round >= WARM_UP {
                took[mode].push(elapsed);
            }
        }
    }
    let asked = reviews(node) - reviews_before;
    let off = median(&mut took[0]);
    let eks = MODES.iter().position(|mode| *mode == EKS).unwrap();
    let eks = milliseconds(median(&mut took[eks])) - milliseconds(off);
    println!(
        "creation of a pod of {containers} containers at the API server (dry-run), {CREATIONS} each, interleaved"
    );
    println!(
        "                 median ms  added ms  ratio to bench-eks  10th and 90th percentile ms"
    );
    for (mode, took) in MODES.iter().zip(&mut took) {
        let middle = milliseconds(median(took));
        let [early, late] = [1, 9].map(|tenths| milliseconds(took[took.len() * tenths / 10]));
        let added = middle - milliseconds(off);
        let ratio = added / eks;
        println!("{mode:16} {middle:8.2} {added:9.2} {ratio:19.2} {early:8.2} {late:8.2}");
    }
    let creations = 2 * (WARM_UP + CREATIONS);
    println!("reviews for one creation: {:.2}", f64::from(asked) / creations as f64);
}

/// Returns the pod with this many containers, the first of them init containers.
fn sized(mut pod: Value, containers: usize) -> Value {
    let container = pod["spec"]["containers"][0].clone();
    let mut all: Vec<Value> = (0..containers)
        .map(|index| {
            let mut container = container.clone();
            container["name"] = format!("c{index}").into();
            container
        })
        .collect();
    let regular = all.split_off((containers + 2) / 5);
    pod["spec"]["containers"] = regular.into();
    if !all.is_empty() {
        pod["spec"]["initContainers"] = all.into();
    }
    pod["metadata"]["labels"]["containers"] = containers.to_string().into();
    pod
}

/// Returns the webhook configuration of a floor, for the pods of one namespace, and of one size.
fn webhook(
    name: &str,
    namespace: &str,
    containers: Option<usize>,
    address: SocketAddr,
    authority: &str,
) -> Value {
    let selector = match containers {
        Some(containers) => json!({"matchLabels": {"containers": containers.to_string()}}),
        None => json!({}),
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": "floor.node.test",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://{address}/enabled"), "caBundle": authority},
            "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "objectSelector": selector,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            "sideEffects": "None",
        }],
    })
}

/// Returns the patch of the injector for a pod of this benchmark.
fn our_patch(node: &Node, containers: usize) -> Value {
    let [plain, injected] = [OFF, UNGUARDED].map(|namespace| {
        let pod = sized(session(namespace, "bench", &["sleep"]), containers);
        let mut pod = injected(node, &pod, "");
        let metadata = pod["metadata"].as_object_mut().unwrap();
        metadata.retain(|_, value| !value.is_null());
        pod
    });
    json!(json_patch::diff(&plain, &injected))
}

async fn starts(platform: &Platform) {
    let node = &platform.node;
    const PLAIN: &str = "bench-plain";
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    create_namespace(node, PLAIN, &labels);
    // Copies from the tenant's namespace, so that admission takes the same time.
    for kind in ["limitranges", "networkpolicies", "resourcequotas"] {
        let listed = node.kubectl(&["get", kind, "--namespace", TENANT]).json();
        let copies: Vec<Value> = listed["items"].as_array().unwrap().iter().map(copy).collect();
        assert!(!copies.is_empty());
        node.create(&copies);
    }
    fn copy(object: &Value) -> Value {
        json!({
            "apiVersion": object["apiVersion"], "kind": object["kind"], "spec": object["spec"],
            "metadata": {"name": object["metadata"]["name"], "namespace": PLAIN},
        })
    }

    let api_server = ApiServer::of(&node.kubeconfig());
    let mut pairs = Vec::new();
    for pair in 0..=PAIRS {
        let ours = session(TENANT, &format!("bench-{pair}"), &["sleep"]);
        let idle = with_an_idle_sidecar(node, &ours, PLAIN);
        // The order alternates, because the first start changes the state of the machine.
        let (ours, idle) = if pair % 2 == 0 {
            let ours = start(&api_server, &ours).await;
            (ours, start(&api_server, &idle).await)
        } else {
            let idle = start(&api_server, &idle).await;
            (start(&api_server, &ours).await, idle)
        };
        // The first pair unpacks images.
        if pair > 0 {
            pairs.push((milliseconds(ours), milliseconds(idle)));
        }
    }
    println!("creation of a session's pod until it is ready, {PAIRS} pairs, interleaved");
    println!("injected ms  idle ms  difference ms");
    for (ours, idle) in &pairs {
        println!("{ours:11.0} {idle:8.0} {:8.0}", ours - idle);
    }
    let median_of = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "medians: injected {:.0}, idle {:.0}, difference {:.0}",
        median_of(|pair| pair.0),
        median_of(|pair| pair.1),
        median_of(|pair| pair.0 - pair.1)
    );
}

/// Returns the injected pod with a sidecar that only waits. Its startup probe has the same times
/// and lists a directory.
fn with_an_idle_sidecar(node: &Node, pod: &Value, namespace: &str) -> Value {
    let mut idle = injected(node, pod, namespace);
    let image = idle["spec"]["containers"][0]["image"].clone();
    let sidecar = &mut idle["spec"]["initContainers"][0];
    assert_eq!(sidecar["name"], SIDECAR);
    sidecar["image"] = image;
    sidecar["args"] = json!(["sleep"]);
    sidecar["startupProbe"]["exec"]["command"] = json!(["/box", "list", "/"]);
    idle
}

/// Returns the pod as the injector changes it in the tenant's namespace, for another namespace.
fn injected(node: &Node, pod: &Value, namespace: &str) -> Value {
    let create = ["create", "--filename=-", "--dry-run=server"];
    let injected = node.kubectl(&create).stdin(&pod.to_string()).json();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod["metadata"]["name"], "namespace": namespace,
            "labels": injected["metadata"]["labels"],
            "annotations": injected["metadata"]["annotations"],
        },
        "spec": injected["spec"],
    })
}

/// Returns how many reviews all replicas have answered.
fn reviews(node: &Node) -> u32 {
    let of_the_webhook = "--selector=app.kubernetes.io/component=webhook";
    let webhooks = node.kubectl(&["get", "pods", "--namespace", SYSTEM, of_the_webhook]).json();
    let names = webhooks["items"].as_array().unwrap().iter();
    names
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:8081/proxy/metrics");
            let metrics = node.kubectl(&["get", "--raw", &path]).run();
            assert!(metrics.ok, "{}", metrics.stderr);
            let counts = metrics.stdout.lines().filter_map(|line| {
                let of_a_review = line.strip_prefix("fab_session_injector_reviews_total")?;
                of_a_review.rsplit_once(' ')?.1.parse::<u32>().ok()
            });
            counts.sum::<u32>()
        })
        .sum()
}

/// Creates the pod, returns the time until it is ready, and deletes it.
async fn start(api_server: &ApiServer, pod: &Value) -> Duration {
    let metadata = &pod["metadata"];
    let pods = format!("/api/v1/namespaces/{}/pods", metadata["namespace"].as_str().unwrap());
    let path = format!("{pods}/{}", metadata["name"].as_str().unwrap());
    let begun = Instant::now();
    let created = api_server.send(Method::POST, &pods, pod.to_string()).await.unwrap();
    let created: Value = serde_json::from_slice(&created).unwrap();
    assert_eq!(created["kind"], "Pod", "{created}");
    let took = loop {
        let shown = api_server.send(Method::GET, &path, String::new()).await.unwrap();
        let shown: Value = serde_json::from_slice(&shown).unwrap();
        let is_ready = shown["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True")
        });
        if is_ready {
            break begun.elapsed();
        }
        assert!(begun.elapsed() < LONGEST_START, "{}", shown["status"]);
        sleep(LOOK_AGAIN).await;
    };
    loop {
        let gone = json!({"gracePeriodSeconds": 1}).to_string();
        let shown = api_server.send(Method::DELETE, &path, gone).await.unwrap();
        if serde_json::from_slice::<Value>(&shown).unwrap()["kind"] == "Status" {
            break;
        }
        assert!(begun.elapsed() < 2 * LONGEST_START, "the pod is not deleted");
        sleep(Duration::from_millis(200)).await;
    }
    sleep(QUIET).await;
    took
}

fn create_namespace(node: &Node, name: &str, labels: &Value) {
    node.create(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "tenant-runtime", "namespace": name},
        }),
    ]);
    wait_until("the service account exists", Duration::from_secs(30), || {
        let account = ["get", "serviceaccount", "tenant-runtime", "--namespace", name];
        node.kubectl(&account).run().ok.then_some(())
    });
}

/// Returns the median, and sorts the durations.
fn median(durations: &mut [Duration]) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

const SIDECAR: &str = "fab-session-credentials";
const WARM_UP: usize = 50;
const CREATIONS: usize = 1000;
const PAIRS: usize = 15;

/// Polling interval: a few percent of the measured time.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Pause for the clean-up after a deleted pod.
const QUIET: Duration = Duration::from_secs(1);

const LONGEST_START: Duration = Duration::from_secs(60);
