//! The whole on a real node: kubelet, containerd, runc and a network run the image that
//! `make image` built, Helm installs the chart, and real AWS SDKs ask a strict AWS.
//!
//! It takes root and `make e2e`; `cargo test --workspace` leaves it out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "e2e/cloud.rs"]
mod cloud;
#[allow(dead_code, reason = "its kubectl serves any cluster")]
#[path = "cluster/control_plane.rs"]
mod control_plane;
#[path = "e2e/image.rs"]
mod image;
#[path = "e2e/node.rs"]
mod node;
#[path = "e2e/platform.rs"]
mod platform;
#[path = "cluster/process.rs"]
mod process;
#[path = "sidecar/tls.rs"]
mod tls;

use std::{fs, net::TcpListener, path::Path, process::Command, sync::LazyLock, time::Duration};

use serde_json::{Value, json};

use cloud::BROKER;
use image::{Image, ROOTS};
use node::Node;
use platform::{Platform, SYSTEM, TENANT};
use process::wait_until;

/// Shared by the tests that do not disturb each other. It is never dropped: its leash takes
/// it down, seconds after the test process has ended.
static PLATFORM: LazyLock<Platform> = LazyLock::new(Platform::start);

#[test]
fn an_agent_calls_aws_under_its_sessions_name() {
    let platform = &*PLATFORM;
    let pod = platform.create_session("fab-coder-x7k2p");
    let started = platform.node.await_ready(TENANT, &pod);
    let sidecar = &started["spec"]["initContainers"][0];
    assert_eq!(sidecar["name"], "fab-session-credentials");
    assert_eq!(started["status"]["initContainerStatuses"][0]["ready"], true);
    assert_eq!(started["status"]["containerStatuses"][0]["ready"], true);

    let caller = call(platform, &pod);
    let session_of_the_broker = "arn:aws:sts::111122223333:assumed-role/prod-acme-broker/";
    assert!(caller["arn"].as_str().unwrap_or("").starts_with(session_of_the_broker), "{caller}");

    let identity = "agent.acme.fab-coder-x7k2p";
    let assumed: Vec<Value> = platform
        .cloud
        .events("AssumeRole")
        .into_iter()
        .filter(|event| event["requestParameters"]["sourceIdentity"] == identity)
        .collect();
    assert_eq!(assumed.len(), 1, "{assumed:?}");
    assert_eq!(assumed[0]["requestParameters"]["roleArn"], BROKER);
    assert_eq!(assumed[0]["errorCode"], Value::Null, "{}", assumed[0]);
    // What an auditor asks CloudTrail: whose call was it?
    let calls = platform.cloud.events("GetCallerIdentity");
    assert!(
        calls.iter().any(|event| {
            event["userIdentity"]["sessionContext"]["sourceIdentity"] == identity
                && event["userIdentity"]["accessKeyId"] == caller["accessKeyId"]
        }),
        "{calls:?}"
    );
}

#[test]
fn an_agent_does_not_get_at_base_credentials() {
    let platform = &*PLATFORM;
    let pod = platform.create_session("fab-curious-a1b2c");
    platform.node.await_ready(TENANT, &pod);
    let try_to = |words: &[&str]| platform.node.exec(TENANT, &pod, "session", words).run();

    // It reads what is meant for it, so the others fail for another reason than the way
    // of asking.
    assert!(try_to(&["/box", "read", "/var/run/fab-session/token"]).ok);
    for path in
        ["/var/run/fab-session-base/token", "/var/run/secrets/kubernetes.io/serviceaccount/token"]
    {
        let read = try_to(&["/box", "read", path]);
        assert!(!read.ok && read.stderr.contains("no such file"), "{path}: {}", read.stderr);
    }
    // Neither is there another process to look into.
    let processes = try_to(&["/box", "list", "/proc"]);
    let others: Vec<&str> =
        processes.stdout.lines().filter(|name| name.parse().is_ok_and(|id: u32| id > 1)).collect();
    assert!(others.len() <= 1, "only the one that looks: {others:?}");
    // The agent of the node can be reached: what is missing is a token for it.
    assert!(try_to(&["/box", "dial", "169.254.170.23:80"]).ok);
}

#[test]
fn a_pod_gets_a_base_token_only_where_the_namespace_did_not_opt_in() {
    let node = &PLATFORM.node;
    PLATFORM.create_other_namespace("tenants-other");
    let create = |namespace: &str| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "thief", "namespace": namespace},
            "spec": {
                "containers": [{
                    "name": "agent",
                    "image": "node.test/agent:1",
                    "args": ["sleep"],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "loot", "mountPath": "/loot"}],
                }],
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "serviceAccountName": "tenant-runtime",
                "volumes": [{"name": "loot", "projected": {"sources": [
                    {"serviceAccountToken": {"audience": "pods.eks.amazonaws.com", "path": "token"}},
                ]}}],
            },
        });
        node.kubectl(&["create", "--filename=-"]).stdin(&pod.to_string()).run()
    };
    let refused = create(TENANT);
    assert!(!refused.ok && refused.stderr.contains("[aws-token-volume]"), "{}", refused.stderr);

    let created = create("tenants-other");
    assert!(created.ok, "{}", created.stderr);
    let pod = node.await_ready("tenants-other", "thief");
    assert_eq!(pod["spec"]["initContainers"], Value::Null, "it is left alone");
    let read = node.exec("tenants-other", "thief", "agent", &["/box", "read", "/loot/token"]).run();
    assert!(read.ok && read.stdout.starts_with("eyJ"), "{}", read.stderr);
}

#[test]
fn a_session_works_under_the_platforms_policies() {
    let platform = &*PLATFORM;
    let node = &platform.node;
    let listener = TcpListener::bind((node.host_address(), 0)).unwrap();
    let elsewhere = listener.local_addr().unwrap().to_string();
    let pod = platform.create_session("fab-policed-q9w8e");
    node.await_ready(TENANT, &pod);
    let dial = |address: &str| node.exec(TENANT, &pod, "session", &["/box", "dial", address]).run();

    // A policy is there a second after its pod.
    wait_until("the pod does not get elsewhere", Duration::from_secs(20), || {
        let dialled = dial(&elsewhere);
        dialled.stderr.contains("timeout").then_some(())
    });
    let caller = call(platform, &pod);
    assert!(caller["arn"].is_string(), "{caller}");

    // Where no policy holds, the same listener is reached.
    platform.create_other_namespace("tenants-free");
    node.create(&[json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "free", "namespace": "tenants-free"},
        "spec": {"containers": [{"name": "agent", "image": "node.test/agent:1", "args": ["sleep"]}]},
    })]);
    node.await_ready("tenants-free", "free");
    let dialled = node.exec("tenants-free", "free", "agent", &["/box", "dial", &elsewhere]).run();
    assert!(dialled.ok, "{}", dialled.stderr);
}

#[test]
fn the_image_holds_the_program_and_authorities_and_nothing_else() {
    let image = Image::unpack();
    assert_eq!(image.paths(), [ROOTS, "/fab-session-injector"]);
    assert_eq!(image.config["Entrypoint"], json!(["/fab-session-injector"]));
    assert_eq!(image.config["User"], "65532:65532");
    let labels = &image.config["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));

    // No interpreter and no library: the kernel alone can start it.
    let read = Command::new("readelf")
        .args(["--wide", "--program-headers", "--dynamic"])
        .arg(image.at("/fab-session-injector"))
        .output()
        .unwrap();
    let read = String::from_utf8(read.stdout).unwrap();
    assert!(read.contains("LOAD"), "{read}");
    assert!(!read.contains("INTERP") && !read.contains("NEEDED"), "{read}");

    // Mozilla's list has had 100 to 150 for years.
    let roots = fs::read_to_string(image.at(ROOTS)).unwrap();
    assert!((100..200).contains(&roots.matches("BEGIN CERTIFICATE").count()));
}

#[test]
fn the_image_has_no_shell() {
    let node = &PLATFORM.node;
    let of_the_webhook = "--selector=app.kubernetes.io/component=webhook";
    let webhooks = node.kubectl(&["get", "pods", "--namespace", SYSTEM, of_the_webhook]).json();
    let name = webhooks["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let exec = |words: &[&str]| node.exec(SYSTEM, &name, "webhook", words).run();
    assert!(exec(&["/fab-session-injector", "--version"]).ok);
    for shell in ["sh", "bash", "/bin/sh", "/bin/busybox"] {
        let ran = exec(&[shell]);
        let missing = ["no such file or directory", "not found in $PATH"];
        assert!(!ran.ok && missing.iter().any(|text| ran.stderr.contains(text)), "{}", ran.stderr);
    }
}

#[test]
fn a_node_leaves_nothing_behind() {
    let mut node = Node::start();
    eprintln!("{}", node.log());
    node.make_image(
        "node.test/box:1",
        "/box",
        &[format!("{}:/box:755", process::program("box").display())],
    );
    node.await_service_account("default", "default");
    node.create(&[json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "box", "namespace": "default"},
        "spec": {"containers": [{"name": "box", "image": "node.test/box:1", "args": ["sleep"]}]},
    })]);
    node.await_ready("default", "box");
    let listed = node.exec("default", "box", "box", &["/box", "list", "/"]).run();
    assert!(listed.stdout.lines().any(|name| name == "box"), "{}", listed.stderr);

    let (name, state) = (node.name(), node.state());
    let traces = || traces_of(&name, &state);
    assert_eq!(
        traces().len(),
        4,
        "what is looked for is there while the node runs: {:?}",
        traces()
    );
    node.down();
    assert!(traces().is_empty(), "{:?}", traces());
}

/// Links, cgroups, processes and files of a node on this machine. Its mounts are in a
/// namespace, which its processes hold.
fn traces_of(name: &str, state: &Path) -> Vec<String> {
    let mut traces = Vec::new();
    if Path::new("/sys/class/net").join(name).exists() {
        traces.push("a link".to_owned());
    }
    let found = Command::new("find").args(["/sys/fs/cgroup", "-name", name]).output().unwrap();
    if !found.stdout.is_empty() {
        traces.push(format!("cgroups {}", String::from_utf8_lossy(&found.stdout)));
    }
    let state_text = state.to_str().unwrap();
    let processes: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|words| String::from_utf8_lossy(&words).replace('\0', " "))
        .filter(|words| words.contains(state_text))
        .collect();
    if !processes.is_empty() {
        traces.push(format!("processes {processes:?}"));
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if mounts.contains(state_text) {
        traces.push("mounts on the machine".to_owned());
    }
    if state.exists() {
        traces.push("files".to_owned());
    }
    traces
}

/// The AWS SDK for Go in the agent's container, with what is there and nothing else.
fn call(platform: &Platform, pod: &str) -> Value {
    let client = platform.node.exec(TENANT, pod, "session", &["/client-go"]).stdin("call\n");
    let called = client.run();
    serde_json::from_str(called.stdout.trim())
        .unwrap_or_else(|error| panic!("{error}: {} {}", called.stdout, called.stderr))
}
