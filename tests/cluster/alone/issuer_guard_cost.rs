//! What the session issuer's policy, which is bound to all namespaces, costs a pod that is not an
//! agent.

use std::time::{Duration, Instant};

use harness::{
    api_server::{ApiServer, NotCreated},
    process::wait_until,
    world::World,
};
use serde_json::{Value, json};

use crate::guard::{
    self,
    issuer::{AUDIENCE, await_issuer_guard},
};

/// Limit of the median with the policy, compared with the median without it. The cost is some
/// hundredths; the rest is what a busy machine adds.
const LIMIT: f64 = 1.25;
const ROUNDS: usize = 10;
const CREATIONS: usize = 100;

#[test]
fn a_plain_pod_costs_as_before() {
    let world = World::without_configuration(&[], None);
    world.namespace("plain", "", "acme", &[]);
    let values = guard::issuer::values();
    guard::guard(&world, &values);
    await_issuer_guard(&world);
    let get = ["get", "validatingadmissionpolicybinding", BINDING];
    let mut binding = world.cluster.kubectl(&get).json();
    for key in ["resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"] {
        binding["metadata"].as_object_mut().unwrap().shift_remove(key);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let api_server = ApiServer::of(&world.cluster.kubeconfig()).dry();
    let create = |pod: &Value| runtime.block_on(api_server.create(pod));
    let token = json!({"serviceAccountToken": {"audience": AUDIENCE, "path": "token"}});
    let probe = pod(json!([{"name": "v", "projected": {"sources": [token]}}]));
    // A pod with three volumes. The API server adds the one of its service account.
    let plain = pod(json!([
        {"name": "tmp", "emptyDir": {}},
        {"name": "settings", "configMap": {"name": "settings"}},
    ]));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let is_bound = round % 2 == 0;
        if is_bound {
            world.apply(&binding);
        } else {
            let delete = ["delete", "validatingadmissionpolicybinding", BINDING];
            assert!(world.cluster.kubectl(&delete).run().ok);
        }
        wait_until("the API server has the change", Duration::from_secs(20), || {
            (create(&probe).is_err() == is_bound).then_some(())
        });
        let took = if is_bound { &mut with } else { &mut without };
        for _ in 0..CREATIONS {
            let started = Instant::now();
            let result: Result<Value, NotCreated> = create(&plain);
            took.push(started.elapsed());
            assert!(result.is_ok(), "{result:?}");
        }
    }
    let [with, without] = [with, without].map(|mut took| {
        took.sort();
        took[took.len() / 2]
    });
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!(
        "a plain pod's dry run: {with:?} with the policy, {without:?} without: {ratio:.3} times"
    );
    assert!(ratio < LIMIT, "{with:?} with the policy, {without:?} without it");
}

fn pod(volumes: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": "plain"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [harness::world::restricted("c")],
            "volumes": volumes,
        },
    })
}

const BINDING: &str = "fab-session-injector-issuer-pods-b90f6786";
