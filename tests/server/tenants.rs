//! Ten thousand tenants and two replicas, with an SSM that throttles at the default quota of AWS.

use std::{
    fs,
    time::{Duration, Instant},
};

use harness::{
    parameter_store::{Fault, ParameterStore},
    process::{get, own_directory, wait_until},
    webhook::{
        client::{Client, Protocol},
        server::{Server, make_certificate, review},
    },
};
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// The files and the parameter store of all replicas.
struct World {
    store: ParameterStore,
    namespaces: String,
    config: String,
}

impl World {
    fn of(tenants: usize, mode: &str, options: &Value) -> Self {
        // All programs of an account share 40 calls per second.
        let store = ParameterStore::start(40.0);
        let mut namespaces = String::new();
        for n in 0..tenants {
            store.put(&format!("/p/t{n}"), &role(n));
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("tenants-t{n}"), "labels": {
                "fab.nanohype.dev/session-injection": mode,
                "pod-security.kubernetes.io/enforce": "restricted",
            }}});
            namespaces += &format!("---\n{namespace}\n");
        }
        let mut ssm = json!({"parameter": "/p/{tenant}", "region": "eu-west-1", "endpoint": store.endpoint()});
        ssm.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let config = json!({"cluster": "prod", "roles": {"ssm": ssm}}).to_string();
        Self { store, namespaces, config }
    }

    fn replica(&self) -> Server {
        let directory = own_directory();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (tls, namespaces, config) = (path("tls"), path("namespaces"), path("config"));
        make_certificate(tls.as_ref(), &[]);
        fs::write(&namespaces, &self.namespaces).unwrap();
        fs::write(&config, &self.config).unwrap();
        let arguments = ["--shutdown-delay=0", "--namespaces", &namespaces, "--config", &config];
        Server::start_with(directory, tls.as_ref(), &arguments)
    }
}

fn known(replica: &Server) -> usize {
    let metrics = get(replica.health, "/metrics");
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("fab_session_injector_roles{state=\"known\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

async fn connect(replica: &Server) -> Client {
    let authority = replica.authority();
    Client::connect(replica.address, &authority, Protocol::Http2, &[&TLS13]).await.unwrap()
}

fn role(n: usize) -> String {
    format!("arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-t{n}-broker")
}

/// Returns a runtime pod of the tenant.
fn pod_of(n: usize) -> String {
    let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
    review["request"]["namespace"] = format!("tenants-t{n}").into();
    review.to_string()
}

/// Returns the pod's role, within the time limit of a review.
async fn role_got(client: &mut Client, n: usize) -> String {
    let asked = client.post("/enabled?timeout=5s", "application/json", pod_of(n));
    let answer = timeout(Duration::from_secs(4), asked).await.expect("in time").unwrap();
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    let message = told["response"]["status"]["message"].as_str().unwrap_or_default();
    assert_eq!(told["response"]["allowed"], true, "tenant {n}: {message}");
    told["response"]["auditAnnotations"]["role-arn"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn ten_thousand_tenants_are_cached_and_no_pod_waits_for_it() {
    const MOST: usize = 10_000;
    for tenants in [10, 100, 1000, MOST] {
        let replicas_count = if tenants == MOST { 2 } else { 1 };
        let world = World::of(tenants, "enabled", &json!({"callsPerSecond": 36 / replicas_count}));
        let begun = Instant::now();
        let replicas: Vec<Server> = (0..replicas_count).map(|_| world.replica()).collect();
        let mut clients = Vec::new();
        for replica in &replicas {
            clients.push(connect(replica).await);
        }
        // During the sweep, pods of tenants that it has not reached are created.
        let mut pods = 0;
        while replicas.iter().any(|replica| known(replica) < tenants) {
            assert!(begun.elapsed() < Duration::from_secs(300), "the sweep ends");
            if tenants == MOST {
                for client in &mut clients {
                    let n = fastrand::usize(..tenants);
                    assert_eq!(role_got(client, n).await, role(n));
                    pods += 1;
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
        let calls = world.store.calls();
        let throttled = calls.iter().filter(|(.., throttled)| *throttled).count();
        let memory = replicas.iter().map(|replica| replica.memory("RssAnon:")).max().unwrap();
        println!(
            "{tenants} tenants, {replicas_count} replicas: {} calls ({throttled} throttled) in {:.1} s, {memory} KiB, {pods} pods meanwhile",
            calls.len(),
            begun.elapsed().as_secs_f64()
        );
        // Each replica makes its own calls, and the first pods cause additional ones.
        let most = replicas_count * (tenants * 11).div_ceil(100) + pods + replicas_count;
        assert!(calls.len() <= most, "{} calls, {most} at most", calls.len());
        // At most 2 KiB more per tenant than the same namespaces without the opt-in, whose
        // manifests are read too; and the SSM client after its first call, 1.1 MiB as measured,
        // with the root certificates that it reads.
        let without = World::of(tenants, "off", &json!({}));
        let least = without.replica().memory("RssAnon:");
        assert!(memory <= least + 2 * tenants + 2048, "{least} KiB without any tenant");
        if tenants == MOST {
            assert!(pods > 20, "{pods} pods");
            outage_at_full_size(&world, &replicas, &mut clients).await;
        }
    }
}

/// A pod of a cached tenant causes no call, in any state of SSM.
async fn outage_at_full_size(world: &World, replicas: &[Server], clients: &mut [Client]) {
    world.store.fail(Some(Fault::Throttled));
    let before = world.store.calls().len();
    for n in (0..10_000).step_by(500) {
        for client in clients.iter_mut() {
            assert_eq!(role_got(client, n).await, role(n));
        }
    }
    let calls = world.store.calls().len() - before;
    // The refresh may have started; none of these calls is for a pod.
    assert!(calls < 20, "{calls} calls for forty pods");
    assert!(replicas.iter().all(|replica| known(replica) == 10_000));
}

#[tokio::test]
async fn refreshes_are_steady_and_spread() {
    let options = json!({"callsPerSecond": 20, "refreshSeconds": 20});
    let world = World::of(1000, "enabled", &options);
    let replica = world.replica();
    wait_until("all are known", Duration::from_secs(60), || {
        (known(&replica) == 1000).then_some(())
    });
    let begun = Instant::now();
    sleep(Duration::from_secs(40)).await;
    let calls: Vec<Duration> = world
        .store
        .calls()
        .iter()
        .filter_map(|(at, ..)| at.checked_duration_since(begun))
        .collect();
    // Two refreshes of a hundred full calls, each at most a fifth of the interval early.
    assert!((160..=300).contains(&calls.len()), "{} calls", calls.len());
    let mut seconds = vec![0; 41];
    for call in &calls {
        seconds[usize::try_from(call.as_secs()).unwrap().min(40)] += 1;
    }
    // Half of the rate limit, and some that fall into another second.
    assert!(seconds.iter().all(|count| *count <= 12), "{seconds:?}");
    // Spread over time, although all roles were read within seconds.
    assert!(seconds.iter().filter(|count| **count > 0).count() > 15, "{seconds:?}");
}
