//! The files of `examples/`, as written, on a real API server.

use std::{fs, path::PathBuf, time::Duration};

use harness::{
    api_server::agent,
    control_plane::{ControlPlane, Outcome},
    helm::{self, chart},
    process::{program, wait_until},
    root,
    world::{World, role, variable},
};
use serde_json::{Value, json};

/// Policies with the effect of the platform's deny the chart with its default values, and admit it
/// with the example.
#[test]
fn the_platforms_policies_admit_the_example() {
    let cluster = ControlPlane::start();
    for types in ["cilium-crds.yaml", "prometheus-crds.yaml"] {
        let file = program(types);
        let apply = ["apply", "--server-side", "--filename", file.to_str().unwrap()];
        let made = cluster.kubectl(&apply).run();
        assert!(made.ok, "{}", made.stderr);
    }
    let policies = fs::read_to_string(root().join("tests/cluster/examples/platform-policies.yaml"));
    let made = apply(&cluster, &policies.unwrap());
    assert!(made.ok, "{}", made.stderr);
    let restricted = [("pod-security.kubernetes.io/enforce", "restricted")];
    for namespace in ["plain", "fab-system"] {
        cluster.create_namespace(namespace, &restricted);
    }

    let plain = render("plain", None);
    let create = |objects: &[Value]| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        cluster.kubectl(&["create", "--dry-run=server", "--filename=-"]).stdin(&list).run()
    };
    let deployments = of_kind(&plain, "Deployment");
    assert_eq!(deployments.len(), 2);
    for deployment in &deployments {
        wait_until("the policies apply", Duration::from_secs(30), || {
            let said = create(std::slice::from_ref(deployment)).stderr;
            (said.contains("required label tier") || said.contains("CPU limit is required"))
                .then_some(())
        });
    }
    // Each of the two policies denies the default values.
    let mut labelled = deployments[0].clone();
    for key in ["environment", "team"] {
        labelled["metadata"]["labels"][format!("platform.nanohype.dev/{key}")] = json!("x");
    }
    wait_until("the limits are required", Duration::from_secs(30), || {
        create(&[labelled.clone()]).stderr.contains("CPU limit is required").then_some(())
    });
    let pods = of_kind(&plain, "Pod");
    assert!(!pods.is_empty() && create(&pods).stderr.contains("CPU limit is required"));

    let example = render("fab-system", Some(&file("eks-agent-platform.yaml")));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": without_hooks(&example)});
    let made = apply(&cluster, &list.to_string());
    assert!(made.ok && !made.stderr.contains("Warning"), "{}", made.stderr);
    // ReplicaSets create the pods, which the policies admit too.
    wait_until("the replicas are created", Duration::from_secs(30), || {
        let selector = "app.kubernetes.io/component in (webhook,certs)";
        let get = ["get", "pods", "--namespace=fab-system", "--selector", selector];
        let pods = cluster.kubectl(&get).json();
        (pods["items"].as_array().unwrap().len() == 3).then_some(())
    });
    let test = of_kind(&example, "Pod");
    let outcome = create(&test);
    assert!(outcome.ok, "{}", outcome.stderr);
}

/// The gateway's Envoy has the service account of the agents. It is injected with both configs.
#[test]
fn the_model_gateway_is_injected_as_a_component() {
    let world = World::start(&[], Some(&file("model-gateway.yaml")));
    world.publish("acme", &role("acme"));
    world.namespace(NAMESPACE, "enabled", "acme", &[]);
    let created = world.create(&gateway(), None).unwrap();
    assert_eq!(created.names("initContainers"), [SIDECAR, "ai-gateway-extproc"]);
    assert_eq!(created.annotation("fab.nanohype.dev/component"), Some("model-gateway"));
    let gate = variable(created.container(SIDECAR), "FAB_SESSION_START_GATE").unwrap();
    assert_eq!(gate, "listening");
    for name in ["ai-gateway-extproc", "envoy"] {
        let uri = variable(created.container(name), "AWS_CONTAINER_CREDENTIALS_FULL_URI");
        assert_eq!(uri.unwrap(), "http://127.0.0.1:7413/v1/credentials", "{name}");
        let id = variable(created.container(name), "FAB_SESSION_ID").unwrap();
        assert_eq!(id["fieldRef"]["fieldPath"], "metadata.uid", "one name for all of its callers");
    }
    let default = &crate::WORLD;
    default.namespace("tenants-gateway", "enabled", "acme", &[]);
    let mut pod = gateway();
    pod["metadata"]["namespace"] = json!("tenants-gateway");
    let created = default.create(&pod, None).unwrap();
    assert_eq!(created.annotation("fab.nanohype.dev/component"), Some("runtime"));
}

/// The values for a platform, as written. The namespaces enforce what the file or the chart's README
/// says.
#[test]
fn the_api_server_accepts_the_values_of_each_platform() {
    let cluster = ControlPlane::start();
    let file_of_types = program("cilium-crds.yaml");
    let types = ["apply", "--server-side", "--filename", file_of_types.to_str().unwrap()];
    assert!(cluster.kubectl(&types).run().ok);
    for name in PLATFORMS {
        let namespace = name.trim_end_matches(".yaml");
        let standard = if name == "cilium-overlay.yaml" { "privileged" } else { "restricted" };
        cluster.create_namespace(namespace, &[("pod-security.kubernetes.io/enforce", standard)]);
        let manifests = render(namespace, Some(&file(name)));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": without_hooks(&manifests)});
        let made = wait_until("the types are known", Duration::from_secs(30), || {
            let made = apply(&cluster, &list.to_string());
            (!made.stderr.contains("no matches for kind")).then_some(made)
        });
        assert!(made.ok && !made.stderr.contains("Warning"), "{name}: {}", made.stderr);
        let replicas = of_kind(&manifests, "Deployment").into_iter();
        let replicas: i64 =
            replicas.map(|it| it["spec"].get("replicas").map_or(1, |n| n.as_i64().unwrap())).sum();
        wait_until(&format!("the replicas of {name} are created"), Duration::from_secs(60), || {
            let pods = cluster.kubectl(&["get", "pods", "--namespace", namespace]).json();
            let count = i64::try_from(pods["items"].as_array().unwrap().len()).unwrap();
            (count == replicas).then_some(())
        });
    }
}

/// What a platform needs is in the objects of its file.
#[test]
fn the_values_of_a_platform_have_their_effect() {
    let shown = |name: &str, kind: &str, pointer: &str| {
        let objects = of_kind(&render("fab-system", Some(&file(name))), kind);
        let found: Vec<Value> =
            objects.iter().filter_map(|object| object.pointer(pointer).cloned()).collect();
        json!(found).to_string()
    };
    let pod = "/spec/template/spec";
    let env = format!("{pod}/containers/0/env");
    let text = "/data/config.yaml";
    for (name, kind, pointer, wanted) in [
        ("eks.yaml", "NetworkPolicy", "/spec", "10.0.1.0/24"),
        ("eks-auto-mode.yaml", "NetworkPolicy", "/spec/egress", "172.20.0.10/32"),
        ("eks-auto-mode.yaml", "Deployment", pod, "\"hostUsers\":true"),
        ("irsa.yaml", "ServiceAccount", "/metadata/annotations", "role/agents/production-webhook"),
        ("irsa.yaml", "ConfigMap", text, "source: irsa"),
        ("cilium-overlay.yaml", "Deployment", pod, "\"hostNetwork\":true"),
        ("cilium-overlay.yaml", "CiliumNetworkPolicy", "/spec", "8081"),
        ("private-cluster.yaml", "NetworkPolicy", "/spec", "10.0.1.0/24"),
        ("govcloud.yaml", "Deployment", &env, "AWS_USE_FIPS_ENDPOINT"),
        ("govcloud.yaml", "ConfigMap", text, "aws-us-gov"),
        ("no-aws.yaml", "ConfigMap", text, "source: environment"),
    ] {
        let found = shown(name, kind, pointer);
        assert!(found.contains(wanted), "{name} {kind}: {found}");
    }
    assert_eq!(shown("no-aws.yaml", "NetworkPolicy", "/spec"), "[]");
    // A role of another partition or account is refused.
    let role = |arn: &str| arn.parse().unwrap();
    let of = |name: &str| config(&render("fab-system", Some(&file(name)))).roles.allowed;
    let commercial = role("arn:aws:iam::111122223333:role/agents/production-acme-session");
    let government = role("arn:aws-us-gov:iam::111122223333:role/agents/production-acme-session");
    assert_eq!(of("eks.yaml").refuses(&commercial), None);
    assert_eq!(of("eks.yaml").refuses(&government), Some("partitions"));
    assert_eq!(of("govcloud.yaml").refuses(&government), None);
    assert_eq!(of("govcloud.yaml").refuses(&commercial), Some("partitions"));
}

/// Each file of values has a test here, and sets only values that the chart has.
#[test]
fn each_example_renders() {
    let mut names: Vec<String> = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort_unstable();
    let others = [
        "agent-sandbox-claims.yaml",
        "agent-sandbox-network.yaml",
        "agent-sandbox-warm-pool.yaml",
        "agent-sandbox.yaml",
        "eks-agent-platform.yaml",
        "model-gateway.yaml",
    ];
    let mut want = [&others[..], &PLATFORMS].concat();
    want.sort_unstable();
    assert_eq!(names, want);
    // Objects of a namespace, and no values.
    let objects = ["agent-sandbox-network.yaml", "agent-sandbox-warm-pool.yaml"];
    for name in names.iter().filter(|name| !objects.contains(&&***name)) {
        assert!(!of_kind(&render("fab-system", Some(&file(name))), "Deployment").is_empty());
    }
    // The default components are repeated as they are.
    let default = render("fab-system", None);
    for (name, added) in
        [("agent-sandbox-claims.yaml", 1), ("agent-sandbox.yaml", 1), ("model-gateway.yaml", 1)]
    {
        let own = config(&render("fab-system", Some(&file(name))));
        let own = own.components.iter().skip(added).map(|it| format!("{it:?}"));
        let of_default = config(&default);
        let default = of_default.components.iter().map(|it| format!("{it:?}"));
        assert!(own.eq(default), "{name}");
    }
}

fn config(manifests: &[Value]) -> fab_session_injector::config::Config {
    let maps = of_kind(manifests, "ConfigMap");
    let text = maps.iter().find_map(|map| {
        let is_own = map["metadata"]["name"] == "fab-session-injector";
        map["data"]["config.yaml"].as_str().filter(|_| is_own)
    });
    fab_session_injector::config::Config::parse(text.unwrap()).unwrap()
}

/// Returns a pod of Envoy Gateway with the AI gateway's native sidecar (ai-gateway c217da8).
fn gateway() -> Value {
    let mut pod = agent(NAMESPACE);
    let name = "envoy-tenants-acme-model-gateway-1a2b3c4d-6f7d8c9b5d-x7k2p";
    pod["metadata"] = json!({"name": name, "namespace": NAMESPACE});
    pod["metadata"]["labels"] = json!({
        "app.kubernetes.io/name": "envoy",
        "app.kubernetes.io/component": "proxy",
        "app.kubernetes.io/managed-by": "envoy-gateway",
    });
    let mut envoy = pod["spec"]["containers"][0].clone();
    envoy["name"] = json!("envoy");
    let mut extproc = envoy.clone();
    extproc["name"] = json!("ai-gateway-extproc");
    extproc["restartPolicy"] = json!("Always");
    pod["spec"]["containers"] = json!([envoy]);
    pod["spec"]["initContainers"] = json!([extproc]);
    pod["spec"]["serviceAccountName"] = json!("tenant-runtime");
    pod
}

fn file(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

fn render(namespace: &str, values: Option<&PathBuf>) -> Vec<Value> {
    let values = values.map(PathBuf::as_path);
    let release = "fab-session-injector";
    let text = helm::render(&chart(), release, namespace, &[], values).unwrap();
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    manifests.into_iter().filter(|manifest| !manifest.is_null()).collect()
}

fn of_kind(manifests: &[Value], kind: &str) -> Vec<Value> {
    manifests.iter().filter(|manifest| manifest["kind"] == kind).cloned().collect()
}

fn without_hooks(manifests: &[Value]) -> Vec<Value> {
    let is_hook =
        |manifest: &Value| manifest["metadata"]["annotations"].get("helm.sh/hook").is_some();
    manifests.iter().filter(|manifest| !is_hook(manifest)).cloned().collect()
}

fn apply(cluster: &ControlPlane, manifests: &str) -> Outcome {
    let apply = ["apply", "--server-side", "--validate=strict", "--filename=-"];
    cluster.kubectl(&apply).stdin(manifests).run()
}

const PLATFORMS: [&str; 7] = [
    "cilium-overlay.yaml",
    "eks-auto-mode.yaml",
    "eks.yaml",
    "govcloud.yaml",
    "irsa.yaml",
    "no-aws.yaml",
    "private-cluster.yaml",
];
const NAMESPACE: &str = "tenants-acme";
const SIDECAR: &str = "fab-session-credentials";
