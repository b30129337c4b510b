//! `check --pre`, before the chart is installed.

use std::{collections::BTreeSet, path::Path, process::Command};

use harness::control_plane::ControlPlane;
use serde_json::{Value, json};

#[test]
fn check_before_the_installation_finds_each_fault() {
    let cluster = ControlPlane::shared();
    cluster.create_namespace("fab-system", &[]);
    cluster
        .create_namespace("tenants-acme", &[("pod-security.kubernetes.io/enforce", "restricted")]);
    cluster.create_namespace("tenants-beta", &[]);
    create(
        &cluster,
        &json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "tenant-runtime", "namespace": "tenants-acme"},
        }),
    );
    let admin = cluster.kubeconfig();
    // The default config accepts roles of every account.
    let intact = ["unknown webhook-reachable", "warning role-allow-list"];
    let intact = BTreeSet::from(intact.map(ToOwned::to_owned));
    let namespace = ["--namespace", "tenants-acme"];
    assert_eq!(found(&admin, &[]), (intact.clone(), Some(0)));
    assert_eq!(found(&admin, &namespace), (intact.clone(), Some(0)));

    let made = |object: &Value, arguments: &[&str], want: &str, code: i32| {
        create(&cluster, object);
        let mut wanted = intact.clone();
        wanted.insert(want.to_owned());
        assert_eq!(found(&admin, arguments), (wanted, Some(code)), "{object}");
        let delete = ["delete", "--filename=-", "--wait"];
        assert!(cluster.kubectl(&delete).stdin(&object.to_string()).run().ok);
        assert_eq!(found(&admin, arguments), (intact.clone(), Some(0)), "without {object}");
    };
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": "fab-system"},
        "spec": {"hard": {"limits.cpu": "10"}},
    });
    made(&quota, &[], "warning install-quota", 0);
    let mut small = quota.clone();
    small["metadata"]["namespace"] = "tenants-acme".into();
    small["spec"]["hard"] = json!({"limits.memory": "1Mi"});
    made(&small, &namespace, "error quota", 1);
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "old"},
        "status": {"nodeInfo": {"kubeletVersion": "v1.33.5"}},
    });
    made(&node, &[], "warning kubernetes-version", 0);
    let plugin = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "istio-cni-node", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"app": "istio-cni-node"}},
            "template": {
                "metadata": {"labels": {"app": "istio-cni-node"}},
                "spec": {"containers": [{"name": "install", "image": "registry.example/plugin:1"}]},
            },
        },
    });
    made(&plugin, &[], "warning network-plugin", 0);
    let installed = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "fab-session-injector"},
    });
    made(&installed, &[], "warning webhook-missing", 0);

    // A namespace that would not work.
    let (beta, code) = found(&admin, &["--namespace", "tenants-beta"]);
    assert_eq!(code, Some(1));
    for wanted in ["error pod-security", "warning service-account"] {
        assert!(beta.contains(wanted), "{beta:?}");
    }

    // A user who may not install: what it may not is named.
    create(
        &cluster,
        &json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "viewer", "namespace": "fab-system"},
        }),
    );
    let viewer = cluster.kubeconfig_of("fab-system", "viewer");
    let findings = run(&viewer, &[]).0;
    let refused = findings.iter().find(|finding| finding["check"] == "install-rights").unwrap();
    assert_eq!(refused["level"], "error");
    let message = refused["message"].as_str().unwrap();
    for wanted in ["create secrets", "create validatingadmissionpolicies"] {
        assert!(message.contains(wanted), "{message}");
    }
}

fn create(cluster: &ControlPlane, object: &Value) {
    let created = cluster.kubectl(&["create", "--filename=-"]).stdin(&object.to_string()).run();
    assert!(created.ok, "{}", created.stderr);
}

/// Returns level and check of each finding but `ok`, and the exit code.
fn found(kubeconfig: &Path, arguments: &[&str]) -> (BTreeSet<String>, Option<i32>) {
    let (findings, code) = run(kubeconfig, arguments);
    let shown = findings.iter().map(|finding| {
        format!("{} {}", finding["level"].as_str().unwrap(), finding["check"].as_str().unwrap())
    });
    (shown.filter(|finding| !finding.starts_with("ok ")).collect(), code)
}

fn run(kubeconfig: &Path, arguments: &[&str]) -> (Vec<Value>, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
    command.args(["check", "--pre", "--skip-aws", "--output=json"]).args(arguments);
    let output = command.env("KUBECONFIG", kubeconfig).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (report["findings"].as_array().unwrap().clone(), output.status.code())
}
