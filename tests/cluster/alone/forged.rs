//! Forged reviews at the rate of clients that reach the port. They must not overload the API server
//! and SSM, which the webhook calls.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use harness::{
    api_server::{ApiServer, agent},
    parameter_store::ParameterStore,
    webhook::client::{Client, Protocol},
    world::{World, parameter, role},
};
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, task::JoinSet};

/// All clients that send forged reviews, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    /// Number of responses, by outcome.
    answers: Arc<Mutex<BTreeMap<String, usize>>>,
    runtime: Runtime,
    senders: JoinSet<()>,
}

impl Flood {
    /// Sends one review after the other on each connection: half of them for namespaces that do not
    /// exist, the others for namespaces that did not opt in.
    fn start(world: &World, connections: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let invented = Arc::new(AtomicUsize::new(0));
        let authority = fs::read(world.tls().join("ca.crt")).unwrap();
        let mut senders = JoinSet::new();
        for _ in 0..connections {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            let (invented, authority) = (Arc::clone(&invented), authority.clone());
            let address = world.address();
            let send = async move {
                let http1 = Protocol::Http1;
                let mut client =
                    Client::connect(address, &authority, http1, &[&TLS13]).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let n = invented.fetch_add(1, Ordering::Relaxed);
                    let namespace = match n % 2 {
                        0 => format!("tenants-invented-{n}"),
                        _ => format!("tenants-plain-{}", n / 2 % PLAIN),
                    };
                    let said = ask(&mut client, &namespace).await;
                    *answers.lock().unwrap().entry(said).or_default() += 1;
                }
            };
            senders.spawn_on(send, runtime.handle());
        }
        Self { stop, answers, runtime, senders }
    }

    fn end(self) -> BTreeMap<String, usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.block_on(self.senders.join_all());
        std::mem::take(&mut *self.answers.lock().unwrap())
    }
}

/// Returns the decision on a forged review.
async fn ask(client: &mut Client, namespace: &str) -> String {
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "forged", "operation": "CREATE", "namespace": namespace,
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "nobody"}, "object": agent(namespace),
        },
    });
    let asked = client.post("/enabled?timeout=5s", "application/json", review.to_string());
    let answer = asked.await.unwrap();
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    let decision = &told["response"]["auditAnnotations"]["decision"];
    decision.as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// Returns the number of GET requests for one namespace to the API server.
fn gets_of_namespaces(world: &World) -> usize {
    let metrics = world.cluster.kubectl(&["get", "--raw", "/metrics"]).run();
    assert!(metrics.ok, "{}", metrics.stderr);
    let lines = metrics.stdout.lines().filter(|line| {
        let has = |label: &str| line.contains(label);
        has("apiserver_request_total{") && has("resource=\"namespaces\"") && has("verb=\"GET\"")
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[test]
fn forged_reviews_do_not_overload_ssm_or_the_api_server() {
    let store = ParameterStore::start(40.0);
    let endpoint = store.endpoint();
    let values = [
        ("config.roles.ssm.endpoint", &*endpoint),
        ("config.roles.ssm.refreshSeconds", "300"),
        ("config.roles.ssm.negativeSeconds", "300"),
    ];
    let world = World::start(&values, None);
    for tenant in ["acme", "fresh"] {
        store.put(&parameter(tenant), &role(tenant));
    }
    world.namespace("tenants-acme", "enabled", "acme", &[]);
    for n in 0..PLAIN {
        // Everything exists except the opt-in.
        store.put(&parameter(&format!("plain-{n}")), &role("plain"));
        world.namespace(&format!("tenants-plain-{n}"), "", &format!("plain-{n}"), &[]);
    }
    let runtime = Runtime::new().unwrap();
    let api_server = ApiServer::of(&world.cluster.kubeconfig());
    let create = |namespace: &str| {
        let begun = Instant::now();
        let pod = runtime.block_on(api_server.create(&agent(namespace))).unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "fab-session-credentials");
        begun.elapsed()
    };
    create("tenants-acme");

    let (gets, calls) = (gets_of_namespaces(&world), store.calls().len());
    let begun = Instant::now();
    let flood = Flood::start(&world, 200);
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(20) {
        slowest = slowest.max(create("tenants-acme"));
        sleep(Duration::from_millis(100));
    }
    let asked_of_ssm = store.calls().len() - calls;
    // The control: a namespace that opts in meanwhile is looked up, and its pod is admitted.
    world.namespace("tenants-fresh", "enabled", "fresh", &[]);
    let first = create("tenants-fresh");
    let answers = flood.end();
    let took = begun.elapsed();
    let asked_of_the_api_server = gets_of_namespaces(&world) - gets;
    println!(
        "{answers:?} in {:.1} s: {asked_of_the_api_server} namespaces asked for, {asked_of_ssm} calls to SSM; slowest pod {} ms, first of a namespace {} ms",
        took.as_secs_f64(),
        slowest.as_millis(),
        first.as_millis(),
    );
    let forged: usize = answers.values().sum();
    assert!(forged > 2_000, "{forged} forged reviews are no flood");
    // Ten at once and five per second, as in docs/operations.md. The lower bound shows that the
    // calls are counted.
    let most = 10 + 5 * (usize::try_from(took.as_secs()).unwrap() + 1);
    assert!((10..=most).contains(&asked_of_the_api_server), "{asked_of_the_api_server}, {most}");
    assert_eq!(asked_of_ssm, 0, "for namespaces that did not opt in");
    assert!((1..=2).contains(&(store.calls().len() - calls)), "for the one that did");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let kinds: Vec<&str> = answers.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["pass", "refuse/namespace-unknown"]);
}

const PLAIN: usize = 20;
