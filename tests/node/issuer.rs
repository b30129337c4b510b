//! The session issuer on a real node: the kubelet projects the token that a sidecar sends, and no
//! service account has a role in AWS.

use std::{fs, path::Path, process::Command, time::Duration};

use harness::{
    cloud::REGION,
    file_server,
    platform::{OPERATOR, Platform, SIDECAR_IMAGE, SYSTEM, TENANT, session},
    process::{own_directory, wait_until},
    program,
};
use serde_json::{Value, json};
use strict_aws::{Provider, Role};

use crate::agents::call_in;

#[test]
fn a_service_account_without_a_role_has_sessions_of_the_issuer() {
    let directory = own_directory();
    let path = directory.path();
    let key = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let made = Command::new("openssl").args(key).arg("-out").arg(path.join("key.pem")).output();
    assert!(made.unwrap().status.success());
    let config = path.join("config.yaml");
    fs::write(&config, settings(&path.join("key.pem").display().to_string(), true).to_string())
        .unwrap();
    let config = config.to_str().unwrap();
    run(&["issuer", "export", "--config", config, "--out", path.join("out").to_str().unwrap()]);
    let trust = run(&[
        "iam",
        "--transport=web-identity",
        "--tenant=acme",
        "--only=session-role-trust",
        "--config",
        config,
        "--session-role",
        ISSUED,
    ]);
    let trust = serde_json::from_str(&trust).unwrap();
    let platform = Platform::bring_up(|world| {
        world.provider(Provider::new(URL, [CLIENT_ID])).role(Role::new(ISSUED).trust(trust))
    });
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(path.join("out").join(name)).unwrap()).unwrap()
    };
    platform.cloud.publish(URL, read(".well-known/openid-configuration"), read("keys.json"));
    let files = file_server::serve(platform.node.host_address().into(), path.join("out"));
    install(&platform, path, files.port(), &format!("http://{files}"));
    platform.admit_tenant();
    admit(&platform);
    let installed = std::time::Instant::now();

    let pod = "session-first";
    platform.node.create(&[of_bare_account("first")]);
    let started = platform.node.await_ready(TENANT, pod);
    let identity = format!("agent.acme.{}", started["metadata"]["uid"].as_str().unwrap());
    let caller = call_in(&platform.node, TENANT, pod, "session");
    assert!(caller["arn"].as_str().unwrap().contains("/prod-acme-issued/"), "{caller}");
    let calls = platform.cloud.events("GetCallerIdentity");
    let by_session = |event: &&Value| {
        event["userIdentity"]["sessionContext"]["sourceIdentity"] == json!(identity)
    };
    assert!(calls.iter().any(|event| by_session(&event)), "{calls:?}");
    assert_eq!(platform.cloud.events("AssumeRole"), Vec::<Value>::new());

    // A trusted creator names a session, once the guard is a minute old.
    std::thread::sleep(Duration::from_secs(65).saturating_sub(installed.elapsed()));
    platform.create_as(OPERATOR, &of_bare_account("fab-coder-x7k2p"));
    platform.node.await_ready(TENANT, "session-fab-coder-x7k2p");
    let assumed = platform.cloud.events("AssumeRoleWithWebIdentity");
    let names = |event: &&Value| {
        event["requestParameters"]["sourceIdentity"] == "agent.acme.fab-coder-x7k2p"
    };
    assert_eq!(assumed.iter().filter(names).count(), 1, "{assumed:?}");

    // The control: without the issuer such a pod gets no credentials, and says why. One that runs
    // keeps those that it has.
    let scale = ["scale", "deployment", "fab-session-injector-issuer", "--replicas=0"];
    let scaled = platform.node.kubectl(&[&scale[..], &["--namespace", SYSTEM]].concat()).run();
    assert!(scaled.ok, "{}", scaled.stderr);
    wait_until("the issuer is away", PATIENCE, || {
        let selector = ["--selector=app.kubernetes.io/component=issuer", "--namespace", SYSTEM];
        let pods = platform.node.kubectl(&[&["get", "pods"][..], &selector].concat()).json();
        pods["items"].as_array().unwrap().is_empty().then_some(())
    });
    platform.node.create(&[of_bare_account("second")]);
    wait_until("the pod's events name the issuer", PATIENCE, || {
        let events = platform.node.kubectl(&["get", "events", "--namespace", TENANT]).run().stdout;
        events.contains("[issuer-unavailable]").then_some(())
    });
    let caller = call_in(&platform.node, TENANT, pod, "session");
    assert!(caller["arn"].as_str().unwrap().contains("/prod-acme-issued/"), "{caller}");
}

/// Installs the chart with the issuer, whose key is in a Secret.
fn install(platform: &Platform, directory: &Path, port: u16, published_at: &str) {
    let key = fs::read_to_string(directory.join("key.pem")).unwrap();
    platform.node.create(&[json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "issuer-keys", "namespace": SYSTEM},
        "stringData": {"key.pem": key},
    })]);
    let mut config = settings("/etc/fab-session-injector/issuer-keys/key.pem", false);
    config["sidecar"] = json!({"image": SIDECAR_IMAGE});
    config["region"] = json!(REGION);
    let values = json!({
        "config": config,
        "issuer": {"enabled": true, "keySecret": "issuer-keys", "publishedAt": published_at},
        "networkPolicy": {"apiServerPorts": [443, 6443, port]},
        "staticRoles": {"acme": ISSUED},
    });
    if let Err(said) = platform.helm("install", &values, &[]) {
        let pods = platform.node.kubectl(&["describe", "pods", "--namespace", SYSTEM]).run();
        panic!("{said}\n{}", pods.stdout);
    }
}

/// Creates a service account without an association, and lets agents reach the issuer.
fn admit(platform: &Platform) {
    platform.node.create(&[
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "bare", "namespace": TENANT},
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "session-issuer", "namespace": TENANT},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
                "to": [{
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SYSTEM}},
                    "podSelector": {"matchLabels": {"app.kubernetes.io/component": "issuer"}},
                }],
                "ports": [{"port": 8443}],
            }]},
        }),
    ]);
    platform.node.await_service_account(TENANT, "bare");
}

/// Returns the pod of a session whose service account has no role in AWS.
fn of_bare_account(sandbox: &str) -> Value {
    let mut pod = session(TENANT, sandbox, &["sleep"]);
    pod["spec"]["serviceAccountName"] = json!("bare");
    pod
}

/// Returns the config with an issuer. The chart knows endpoint and CA itself.
fn settings(key: &str, is_complete: bool) -> Value {
    let mut settings = json!({
        "cluster": "prod",
        "transport": "webIdentity",
        "roles": {"allow": {"accounts": ["111122223333"]}},
        "issuer": {"url": URL, "keys": [{"file": key, "state": "signing"}]},
    });
    if is_complete {
        settings["issuer"]["endpoint"] = json!("https://issuer.test/v1/token");
        settings["issuer"]["caFile"] = json!("ca.crt");
    }
    settings
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new(program()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const URL: &str = "https://issuer.example.com/prod";
const CLIENT_ID: &str = "fab-session/prod";
/// Session role that trusts the issuer alone.
const ISSUED: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-issued";
const PATIENCE: Duration = Duration::from_secs(120);
