//! CPU time of a real API server for a tenant's dry run. With the webhook's patch and the guard it
//! is at most three times the cost of the same pod in a namespace that did not opt in.

use std::{fs, time::Duration};

use harness::{
    control_plane::Outcome,
    process::wait_until,
    world::{World, role},
};
use serde_json::{Value, json};

/// Number of creations per pod before the first comparison, and the most. The API server's own work
/// and garbage collection add CPU time at random, so the medians are compared, and a median above
/// the limit fails only after the most creations.
const FEWEST: usize = 3;
const MOST: usize = 11;
const LIMIT: f64 = 3.0;
/// Cost of a hundred plain pods. A lower cost is not an attack.
const SMALL: Duration = Duration::from_millis(100);

#[test]
fn a_dry_run_has_a_bounded_cost_for_the_api_server() {
    let world = World::start(&[], None);
    world.publish("acme", &role("acme"));
    world.namespace("tenants-acme", "enabled", "acme", &[]);
    world.namespace("plain-acme", "", "acme", &[]);
    let shapes = [
        // This once took half a minute, because each item was removed separately.
        ("27,000 to take out of 87,000", Some("[too-many-items]"), repeated(1, 27_000, 60_000)),
        ("60,000 variables", Some("[too-many-items]"), repeated(1, 0, 60_000)),
        ("5,000 containers", Some("[too-many-containers]"), repeated(5_000, 0, 0)),
        ("more operations than there may be", Some("[patch-too-costly]"), repeated(120, 100, 0)),
        ("as many operations as there may be", None, repeated(200, 30, 0)),
        ("most operations on the longest lists", None, repeated(62, 125, 1_000)),
        ("as many variables as there may be", None, repeated(64, 0, 1_008)),
        ("more variables than there may be", Some("[guard-too-many]"), repeated(90, 0, 1_008)),
        ("the most containers, of 150 variables", None, repeated(256, 0, 150)),
    ];
    for (what, refused, containers) in shapes {
        compare(&world, what, refused, &containers);
    }

    // The guard alone refuses what the webhook would refuse.
    let delete = ["delete", "mutatingwebhookconfiguration", "fab-session-injector"];
    assert!(world.cluster.kubectl(&delete).run().ok);
    wait_until("the webhook is not called any more", Duration::from_secs(20), || {
        let outcome = dry_run(&world, &pod("tenants-acme", &repeated(1, 0, 1), &[]));
        outcome.stderr.contains("[guard-sidecar]").then_some(())
    });
    let by_the_guard = |what, containers: &[Value], volumes: &[Value]| {
        compare_pods(&world, what, Some("[guard-too-many]"), containers, volumes);
    };
    by_the_guard("60,000 variables, by the guard", &repeated(1, 0, 60_000), &[]);
    by_the_guard("5,000 containers, by the guard", &repeated(5_000, 0, 0), &[]);
    by_the_guard("128,000 sources, by the guard", &repeated(1, 0, 1), &projected(1_000, 128));
}

/// Compares the same pod in a namespace that opted in and in one that did not.
fn compare(world: &World, what: &str, refused: Option<&str>, containers: &[Value]) {
    compare_pods(world, what, refused, containers, &[]);
}

fn compare_pods(
    world: &World,
    what: &str,
    refused: Option<&str>,
    containers: &[Value],
    volumes: &[Value],
) {
    let namespaces = ["plain-acme", "tenants-acme"];
    let pods = namespaces.map(|namespace| pod(namespace, containers, volumes));
    assert!(pods[0].len() < 3_000_000, "{what}: {} bytes", pods[0].len());
    let mut took = [Vec::new(), Vec::new()];
    loop {
        // Alternating, so that other work of the API server affects both.
        for (index, pod) in pods.iter().enumerate() {
            let before = cpu();
            let outcome = dry_run(world, pod);
            took[index].push(cpu() - before);
            let said: String = outcome.stderr.chars().take(400).collect();
            match refused.filter(|_| index == 1) {
                Some(code) => assert!(outcome.stderr.contains(code), "{what}: {said}"),
                None => assert!(outcome.ok, "{what}: {said}"),
            }
        }
        let tries = took[0].len();
        if tries < FEWEST {
            continue;
        }
        let [plain, ours] = took.each_ref().map(|took| median(took));
        if ours <= plain.max(SMALL).mul_f64(LIMIT) {
            let ratio = ours.as_secs_f64() / plain.as_secs_f64();
            println!("{what}: {ours:?}, and {plain:?} where it did not opt in: {ratio:.1} times");
            return;
        }
        let compared = format!("{what}: {ours:?} of CPU, and {plain:?} where it did not opt in");
        assert!(tries < MOST, "{compared}, in {took:?}");
    }
}

fn median(took: &[Duration]) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn dry_run(world: &World, pod: &str) -> Outcome {
    world.cluster.kubectl(&["create", "--dry-run=server", "--filename=-"]).stdin(pod).run()
}

/// Returns containers with variables of a name that the webhook removes, and with others.
fn repeated(containers: usize, taken_out: usize, others: usize) -> Vec<Value> {
    let container = |n: usize| {
        let taken_out = (0..taken_out).map(|_| json!({"name": "AWS_ROLE_ARN"}));
        let others = (0..others).map(|n| json!({"name": format!("V{n}"), "value": "x"}));
        json!({
            "name": format!("c{n}"), "image": "agent:1",
            "env": taken_out.chain(others).collect::<Vec<_>>(),
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    (0..containers).map(container).collect()
}

/// Returns projected volumes, each with a number of sources.
fn projected(volumes: usize, sources: usize) -> Vec<Value> {
    let sources = vec![json!({"downwardAPI": {}}); sources];
    let volume = |n| json!({"name": format!("v{n}"), "projected": {"sources": &sources}});
    (0..volumes).map(volume).collect()
}

fn pod(namespace: &str, containers: &[Value], volumes: &[Value]) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "costly", "namespace": namespace},
        "spec": {
            "serviceAccountName": "tenant-runtime",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": containers,
            "volumes": volumes,
        },
    })
    .to_string()
}

/// Returns the CPU time of this test's API server.
fn cpu() -> Duration {
    let own = std::process::id();
    let of_api_server = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("kube-apiserver\0--etcd-servers")
    };
    let parent = |pid: u32| field(pid, 4).and_then(|parent| parent.parse::<u32>().ok());
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |pid: u32| {
        std::iter::successors(Some(pid), |pid| parent(*pid)).take(8).any(|pid| pid == own)
    };
    let server = pids.filter(|pid| of_api_server(*pid)).filter(|pid| ours(*pid));
    // Its leash has the same command line, and uses no CPU time.
    let ticks: u64 = server
        .map(|pid| [14, 15].map(|n| field(pid, n).map_or(0, |ticks| ticks.parse().unwrap_or(0))))
        .map(|[user, system]: [u64; 2]| user + system)
        .sum();
    assert!(ticks > 0, "no API server runs");
    TICK * u32::try_from(ticks).unwrap()
}

/// Returns a field of a process's status, by its number in proc_pid_stat(5).
fn field(pid: u32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_the_name) = stat.rsplit_once(") ")?;
    behind_the_name.split(' ').nth(number - 3).map(str::to_owned)
}

/// USER_HZ, which is the same on all supported architectures of Linux.
const TICK: Duration = Duration::from_millis(10);
