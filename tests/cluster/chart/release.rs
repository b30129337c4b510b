//! The chart on a real API server: installation, drift, upgrade, and the order of deletion.
//! There are no nodes: its pods are admitted and do not run.

use std::time::Duration;

use harness::{
    control_plane::{ControlPlane, Outcome},
    helm::{self, chart},
    process::{self, program, wait_until},
};
use serde_json::{Value, json};

/// All objects, by server-side apply with strict validation: an unknown key is an error.
#[test]
fn the_api_server_accepts_every_object_and_pod() {
    let cluster = cluster();
    for types in ["cert-manager-crds.yaml", "cilium-crds.yaml", "prometheus-crds.yaml"] {
        let file = program(types);
        let create = ["apply", "--server-side", "--filename", file.to_str().unwrap()];
        let made = cluster.kubectl(&create).run();
        assert!(made.ok, "{}", made.stderr);
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "--filename"];
        let wait = [&wait[..], &[file.to_str().unwrap()]].concat();
        // kubectl fails at once for a type that has no status yet.
        wait_until("the types are served", Duration::from_secs(60), || {
            cluster.kubectl(&wait).run().ok.then_some(())
        });
    }
    // On Cilium an address never matches an API server, and the default policy uses addresses.
    let notes = helm::notes(&chart(), &[], Some(&cluster.kubeconfig()));
    assert!(notes.contains("this cluster has Cilium's network policies"), "{notes}");

    let takes = |namespace: &str, values: &[(&str, &str)], wanted: &[&str]| {
        let restricted = [("pod-security.kubernetes.io/enforce", "restricted")];
        cluster.create_namespace(namespace, &restricted);
        let manifests = render(namespace, values);
        let apply = || {
            let applied = apply(&cluster, &manifests, &SERVER_SIDE);
            assert!(applied.ok, "{values:?}: {}", applied.stderr);
            // A warning means a key without effect, or a deprecated key.
            assert!(!applied.stderr.contains("Warning"), "{values:?}: {}", applied.stderr);
        };
        apply();
        let first = versions(&cluster, &manifests);
        apply();
        assert_eq!(versions(&cluster, &manifests), first);
        for wanted in wanted {
            let (kind, count) = wanted.split_once('/').unwrap();
            let found = cluster.kubectl(&["get", kind, "--namespace", namespace]).json();
            let found = found["items"].as_array().unwrap().len();
            assert_eq!(found.to_string(), count, "{values:?}: {kind}");
        }
        let pods = if manifests.contains("--webhook-configuration") { 3 } else { 2 };
        wait_until("the replicas are created", Duration::from_secs(30), || {
            let pods_of = ["get", "pods", "--namespace", namespace, "--selector"];
            let of_release = "app.kubernetes.io/component in (webhook,certs)";
            let found = cluster.kubectl(&[&pods_of[..], &[of_release]].concat()).json();
            (found["items"].as_array().unwrap().len() == pods).then_some(())
        });
    };
    takes("way-0", &[], &["networkpolicies/2", "secrets/1", "deployments/2"]);
    takes(
        "way-1",
        &[("networkPolicy.kind", "cilium")],
        &["ciliumnetworkpolicies.cilium.io/2", "deployments/2"],
    );
    let cert_manager = ("certificates.mode", "certManager");
    takes(
        "way-2",
        &[cert_manager, ("networkPolicy.podCidrs[0]", "10.0.0.0/8")],
        &[
            "certificates.cert-manager.io/2",
            "issuers.cert-manager.io/2",
            "networkpolicies/1",
            "secrets/0",
        ],
    );
    takes(
        "way-3",
        &[
            cert_manager,
            ("certificates.certManager.issuerRef.name", "platform"),
            ("networkPolicy.kind", "cilium"),
        ],
        &["certificates.cert-manager.io/1", "ciliumnetworkpolicies.cilium.io/1"],
    );
    takes(
        "way-4",
        &[
            ("certificates.mode", "existingSecret"),
            ("certificates.existingSecret.secretName", "own"),
            ("networkPolicy.enabled", "false"),
        ],
        &["networkpolicies/0", "deployments/1", "poddisruptionbudgets/1"],
    );

    takes(
        "way-5",
        &[
            ("metrics.serviceMonitor.enabled", "true"),
            ("metrics.serviceMonitor.labels.release", "own"),
            ("metrics.prometheusRule.enabled", "true"),
            ("metrics.dashboard.enabled", "true"),
            ("config.cluster", "prod"),
        ],
        &[
            "servicemonitors.monitoring.coreos.com/2",
            "prometheusrules.monitoring.coreos.com/1",
            "services/3",
            // With the ConfigMap of the cluster's CA in the namespace.
            "configmaps/4",
        ],
    );

    // The control: validation by these CRDs is strict.
    let monitor = |key: &str| {
        json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"name": "wrong", "namespace": "way-0"},
            "spec": {"selector": {}, "endpoints": [{"port": "health", key: "30s"}]},
        })
        .to_string()
    };
    let certificate = |key: &str, value: Value| {
        let mut certificate = json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
            "metadata": {"name": "wrong", "namespace": "way-0"},
            "spec": {"secretName": "a", "issuerRef": {"name": "a"}},
        });
        certificate["spec"]["privateKey"][key] = value;
        certificate.to_string()
    };
    for (wrong, want) in [
        (certificate("rotationPolicies", "Always".into()), "rotationPolicies"),
        (certificate("rotationPolicy", "Sometimes".into()), "Unsupported value"),
        (monitor("intervals"), "intervals"),
    ] {
        let said = apply(&cluster, &wrong, &SERVER_SIDE);
        assert!(!said.ok && said.stderr.contains(want), "{}", said.stderr);
    }
    let taken = apply(&cluster, &certificate("rotationPolicy", "Always".into()), &SERVER_SIDE);
    assert!(taken.ok, "{}", taken.stderr);
}

/// The Pod Security Standard of the release's namespace decides on pods with the node's network.
#[test]
fn host_network_needs_a_privileged_namespace() {
    let cluster = cluster();
    let values = [("hostNetwork", "true"), ("ports.webhook", "9443")];
    let webhook = "app.kubernetes.io/component=webhook";
    let certs = "app.kubernetes.io/component=certs";
    let pods = |namespace: &str, selector: &str| {
        let pods = ["get", "pods", "--namespace", namespace, "--selector", selector];
        cluster.kubectl(&pods).json()["items"].as_array().unwrap().clone()
    };
    for (standard, is_admitted) in [("baseline", false), ("privileged", true)] {
        let namespace = format!("on-{standard}");
        let labels = [("pod-security.kubernetes.io/enforce", standard)];
        cluster.create_namespace(&namespace, &labels);
        let applied = apply(&cluster, &render(&namespace, &values), &SERVER_SIDE);
        assert!(applied.ok, "{}", applied.stderr);
        wait_until("the pods of certs are created", Duration::from_secs(30), || {
            (!pods(&namespace, certs).is_empty()).then_some(())
        });
        if !is_admitted {
            let get = ["get", "deployment", NAME, "--namespace", &namespace];
            let said = wait_until("the pods are refused", Duration::from_secs(30), || {
                let conditions = cluster.kubectl(&get).json()["status"]["conditions"].clone();
                let failed = conditions.as_array()?.iter();
                let mut failed = failed.filter(|it| it["type"] == "ReplicaFailure");
                Some(failed.next()?["message"].as_str()?.to_owned())
            });
            assert!(said.contains("host namespaces (hostNetwork=true)"), "{said}");
            assert!(pods(&namespace, webhook).is_empty());
            continue;
        }
        wait_until("the replicas are created", Duration::from_secs(30), || {
            (pods(&namespace, webhook).len() == 2).then_some(())
        });
        let pod = &pods(&namespace, webhook)[0]["spec"];
        assert_eq!(pod["hostNetwork"], true);
        assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet");
        // The scheduler places no two pods with the same port on a node.
        assert_eq!(pod["containers"][0]["ports"][0]["hostPort"], 9443);
        let policies = ["get", "networkpolicies", "--namespace", &namespace];
        let policies = cluster.kubectl(&policies).json()["items"].as_array().unwrap().clone();
        let names: Vec<&str> =
            policies.iter().map(|it| it["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, [format!("{NAME}-certs")]);
    }
}

/// Like a tool that applies a repository repeatedly.
#[test]
fn server_side_apply_sees_no_drift() {
    sees_no_drift(&SERVER_SIDE);
}

#[test]
fn client_side_apply_sees_no_drift() {
    sees_no_drift(&[]);
}

fn sees_no_drift(how: &[&str]) {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let manifests = render(NAMESPACE, &[]);
    let apply = || {
        let applied = apply(&cluster, &manifests, how);
        assert!(applied.ok, "{}", applied.stderr);
    };
    let versions = || versions(&cluster, &manifests);
    let diff = || {
        let diff = [&["diff", "--filename=-"], how].concat();
        let found = cluster.kubectl(&diff).stdin(&manifests).run();
        (found.ok, found.stdout + &found.stderr)
    };
    apply();
    let first = versions();
    assert!(first.len() > 14, "{first:?}");
    apply();
    assert_eq!(versions(), first);

    fill_in(&cluster);
    assert_eq!(diff(), (true, String::new()));
    let filled = versions();
    let changed: Vec<&str> = first
        .iter()
        .zip(&filled)
        .filter(|(before, after)| before != after)
        .map(|(before, _)| before.0.as_str())
        .collect();
    assert_eq!(
        changed,
        [
            "Secret pilot-fab-session-injector-tls",
            "MutatingWebhookConfiguration fab-session-injector",
        ]
    );
    apply();
    assert_eq!(versions(), filled);
    assert_eq!(filled_in(&cluster), (json!(KEYS), json!([CA, CA])));

    // The control: a change of a field of the chart is detected.
    let scale = ["scale", "deployment", "pilot-fab-session-injector", "--replicas=7"];
    cluster.kubectl(&[&scale[..], &["--namespace", NAMESPACE]].concat()).json();
    let (is_same, said) = diff();
    assert!(!is_same && said.contains("replicas"), "{said}");
}

#[test]
fn an_upgrade_keeps_the_fields_of_other_writers() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let kubeconfig = cluster.kubeconfig();
    let upgrade = |values: &[(&str, &str)], flags: &[&str]| {
        helm::upgrade(&chart(), "pilot", NAMESPACE, &kubeconfig, values, flags)
    };
    helm::install(&chart(), "pilot", NAMESPACE, &kubeconfig, &[]).unwrap();
    fill_in(&cluster);
    let replicas = || {
        let get = ["get", "deployment", "pilot-fab-session-injector", "--namespace", NAMESPACE];
        cluster.kubectl(&get).json()["spec"]["replicas"].clone()
    };
    // Helm's two ways to apply, in every order.
    for (count, side) in [("3", "true"), ("4", "false"), ("5", "false"), ("6", "true")] {
        upgrade(&[("replicaCount", count)], &[&format!("--server-side={side}")]).unwrap();
        assert_eq!(replicas().to_string(), count);
        assert_eq!(filled_in(&cluster), (json!(KEYS), json!([CA, CA])), "{side}");
    }

    // Your own CA does not silently replace the CA of another writer.
    let own = [
        ("certificates.mode", "existingSecret"),
        ("certificates.existingSecret.secretName", "own"),
        ("certificates.existingSecret.caBundle", "-----BEGIN OWN"),
    ];
    let said = upgrade(&own, &["--server-side=true"]).unwrap_err();
    assert!(said.contains("conflict") && said.contains("caBundle"), "{said}");
    upgrade(&own, &["--server-side=true", "--force-conflicts"]).unwrap();
    let (_, bundles) = filled_in(&cluster);
    assert_eq!(bundles, json!([OWN_CA, OWN_CA]));
    let deployments = cluster.kubectl(&["get", "deployments", "--namespace", NAMESPACE]).json();
    assert_eq!(deployments["items"].as_array().unwrap().len(), 1);
}

/// While replicas of the webhook still inject the previous image, the guard accepts it.
#[test]
fn an_upgrade_accepts_the_image_of_the_installed_release() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let kubeconfig = cluster.kubeconfig();
    let image = |number: u32| format!("registry.example/injector:{number}");
    let upgrade = |number: u32, further: &[(&str, &str)]| {
        let image = image(number);
        let values = [&[("config.sidecar.image", &*image)], further].concat();
        helm::upgrade(&chart(), "pilot", NAMESPACE, &kubeconfig, &values, &["--install"]).unwrap();
    };
    let freeze = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "frozen"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
                "resources": ["deployments"],
            }]},
            "validations": [{"expression": "false", "message": "deployments are frozen"}],
        },
    });
    let bind = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "frozen"},
        "spec": {"policyName": "frozen", "validationActions": ["Deny"]},
    });
    let is_frozen = || {
        let annotate = ["annotate", "deployment", "pilot-fab-session-injector", "a=b"];
        let dry = ["--overwrite", "--dry-run=server", "--namespace", NAMESPACE];
        !cluster.kubectl(&[&annotate[..], &dry[..]].concat()).run().ok
    };
    let accepted = || -> Vec<u32> {
        let policies = cluster.kubectl(&["get", "validatingadmissionpolicies"]).json().to_string();
        (1..=5).filter(|number| policies.contains(&image(*number))).collect()
    };
    let await_rollout = || {
        wait_until("the rollout is complete", Duration::from_secs(60), || {
            cluster.run_pods(NAMESPACE);
            let webhook = ["deployment", "pilot-fab-session-injector", "--namespace", NAMESPACE];
            let get = [&["get"], &webhook[..]].concat();
            let found = cluster.kubectl(&get).json();
            let is_seen = found["status"]["observedGeneration"] == found["metadata"]["generation"];
            let counts = ["updatedReplicas", "replicas"].map(|key| found["status"][key].clone());
            (is_seen && counts == [json!(2), json!(2)]).then_some(())
        });
    };
    upgrade(1, &[]);
    assert_eq!(accepted(), [1]);
    await_rollout();
    upgrade(2, &[]);
    assert_eq!(accepted(), [1, 2]);
    // This rollout has not begun when the next one comes.
    upgrade(3, &[]);
    assert_eq!(accepted(), [1, 2, 3]);
    await_rollout();
    upgrade(3, &[]);
    assert_eq!(accepted(), [3]);
    // An upgrade that fails before the Deployment changes, and the next try.
    for object in [&freeze, &bind] {
        assert!(apply(&cluster, &object.to_string(), &SERVER_SIDE).ok);
    }
    wait_until("deployments are frozen", Duration::from_secs(20), || is_frozen().then_some(()));
    let five = [("config.sidecar.image", "registry.example/injector:5")];
    let said = helm::upgrade(&chart(), "pilot", NAMESPACE, &kubeconfig, &five, &[]).unwrap_err();
    assert!(said.contains("deployments are frozen"), "{said}");
    let delete = ["delete", "validatingadmissionpolicybinding", "frozen"];
    assert!(cluster.kubectl(&delete).run().ok);
    wait_until("deployments are not frozen", Duration::from_secs(20), || {
        (!is_frozen()).then_some(())
    });
    upgrade(5, &[]);
    assert_eq!(accepted(), [3, 5]);
    await_rollout();
    upgrade(4, &[("guard.acceptInstalledImage", "false")]);
    assert_eq!(accepted(), [4]);
    await_rollout();
    // A rollback applies what was rendered then.
    helm::rollback("pilot", NAMESPACE, &kubeconfig, 4).unwrap();
    assert_eq!(accepted(), [3]);
    // Without a cluster to read from, as with Argo CD.
    let values = [
        ("config.sidecar.image", "registry.example/injector:5"),
        ("guard.previousImages[0]", "a:4"),
    ];
    let rendered = render(NAMESPACE, &values);
    assert!(rendered.contains("a:4") && !rendered.contains(&image(4)));
}

/// The chart as the dependency of a platform's own chart.
#[test]
fn an_umbrella_chart_installs_it_and_switches_it_off() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let kubeconfig = cluster.kubeconfig();
    let umbrella = helm::umbrella(&json!({}));
    let region = ("fab-session-injector.config.region", "eu-west-1");
    let on = [region, ("fab-session-injector.enabled", "true"), ("global.team", "platform")];
    helm::install(umbrella.path(), "platform", NAMESPACE, &kubeconfig, &on).unwrap();
    let configurations = || {
        let get = ["get", "mutatingwebhookconfigurations,validatingadmissionpolicies"];
        cluster.kubectl(&get).json()["items"].as_array().unwrap().len()
    };
    let installed = configurations();
    assert!(installed > 1, "{installed}");
    let off = [region, ("fab-session-injector.enabled", "false")];
    helm::upgrade(umbrella.path(), "platform", NAMESPACE, &kubeconfig, &off, &[]).unwrap();
    assert_eq!(configurations(), 0);
}

/// Otherwise agent pods would be refused between the two deletions.
#[test]
fn an_uninstall_removes_the_configuration_first() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let kubeconfig = cluster.kubeconfig();
    helm::install(&chart(), "pilot", NAMESPACE, &kubeconfig, &[]).unwrap();
    fill_in(&cluster);
    helm::uninstall("pilot", NAMESPACE, &kubeconfig).unwrap();
    let of_release = |event: &Value| {
        let name = event["objectRef"]["name"].as_str().unwrap_or_default();
        let is_ours = name.starts_with("pilot-") || name == "fab-session-injector";
        is_ours && event["responseStatus"]["code"] == 200
    };
    let deletions = wait_until("the last deletion is logged", Duration::from_secs(10), || {
        let deletions: Vec<Value> = cluster.deletions().into_iter().filter(of_release).collect();
        let is_last = |event: &Value| event["objectRef"]["resource"] == "serviceaccounts";
        (deletions.iter().filter(|event| is_last(event)).count() == 2).then_some(deletions)
    });
    let resource = |event: &Value| event["objectRef"]["resource"].as_str().unwrap().to_owned();
    let (configurations, others): (Vec<Value>, Vec<Value>) =
        deletions.into_iter().partition(|event| resource(event) == "mutatingwebhookconfigurations");
    let [configuration] = &configurations[..] else { panic!("{configurations:?}") };
    let answered = configuration["stageTimestamp"].as_str().unwrap();
    for needed in ["deployments", "services", "secrets", "serviceaccounts", "clusterroles"] {
        let mut deletions = others.iter().filter(|event| resource(event) == needed).peekable();
        assert!(deletions.peek().is_some(), "{needed}");
        for deletion in deletions {
            let asked = deletion["requestReceivedTimestamp"].as_str().unwrap();
            assert!(answered < asked, "{needed}: {asked}, but the configuration {answered}");
        }
    }
    let get = [
        "get",
        "mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings",
    ];
    let left = cluster.kubectl(&[&get[..], &["--output=name"]].concat()).run();
    assert!(left.ok && !left.stdout.contains("fab-session-injector"), "{}", left.stdout);
    let left = cluster
        .kubectl(&[
            "get",
            "secrets,serviceaccounts,configmaps,networkpolicies,poddisruptionbudgets",
        ])
        .run();
    assert!(left.ok && !left.stdout.contains("pilot"), "{}", left.stdout);
}

#[test]
fn the_webhook_writes_nothing_and_certs_only_two_objects() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    helm::install(&chart(), "pilot", NAMESPACE, &cluster.kubeconfig(), &[]).unwrap();
    for (kind, name) in [("configmap", "other"), ("secret", "other")] {
        let create: &[&str] = if kind == "secret" { &[kind, "generic"] } else { &[kind] };
        let create = [&["create"], create, &[name, "--namespace", NAMESPACE]].concat();
        cluster.kubectl(&create).json();
    }
    cluster
        .kubectl(&["create", "--filename=-"])
        .stdin(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "other"},
        }).to_string())
        .json();
    let own = "pilot-fab-session-injector-tls";
    let patch = ["--type=merge", "--patch", r#"{"metadata":{"annotations":{"a":"b"}}}"#];
    let authority = json!({"webhooks": [
        {"name": "enabled.session.fab.nanohype.dev", "clientConfig": {"caBundle": CA}},
    ]});
    let authority = ["--patch", &authority.to_string()];
    let only_own = format!("--field-selector=metadata.name={own}");
    let configuration = "mutatingwebhookconfiguration";
    // Whether it is allowed: for the webhook, for `certs`.
    let cases: [(&[&str], [bool; 2]); 15] = [
        (&["get", "namespaces"], [true, false]),
        (&["label", "namespace", NAMESPACE, "a=b"], [false, false]),
        (&["get", "secret", own], [false, true]),
        (&["get", "secrets", &only_own], [false, true]),
        (&[&["patch", "secret", own], &patch[..]].concat(), [false, true]),
        (&["get", "secrets"], [false, false]),
        (&["get", "secret", "other"], [false, false]),
        (&[&["patch", "secret", "other"], &patch[..]].concat(), [false, false]),
        (&["create", "secret", "generic", "new"], [false, false]),
        (&["delete", "secret", own], [false, false]),
        (&["get", configuration, "fab-session-injector"], [false, true]),
        (
            &[&["patch", configuration, "fab-session-injector"], &authority[..]].concat(),
            [false, true],
        ),
        (&[&["patch", configuration, "other"], &patch[..]].concat(), [false, false]),
        (&["delete", configuration, "fab-session-injector"], [false, false]),
        (&["create", "configmap", "new"], [false, false]),
    ];
    for (attempt, want) in cases {
        let accounts = ["pilot-fab-session-injector", "pilot-fab-session-injector-certs"];
        let may = accounts.map(|account| {
            let user = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
            let tried =
                cluster.kubectl(&[attempt, &["--namespace", NAMESPACE, &user]].concat()).run();
            assert!(
                tried.ok || tried.stderr.to_lowercase().contains("forbidden"),
                "{attempt:?}: {tried:?}"
            );
            tried.ok
        });
        assert_eq!(may, want, "{attempt:?}");
    }
}

/// RBAC allows `certs` to change the whole object, which would give access to the whole cluster.
#[test]
fn certs_changes_only_the_ca_bundle_of_the_configuration() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    helm::install(&chart(), "pilot", NAMESPACE, &cluster.kubeconfig(), &[]).unwrap();
    let name = "pilot-fab-session-injector-certs";
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:{name}");
    let patch = |kind: &str, patch: &Value| {
        let patch = patch.to_string();
        let arguments =
            ["patch", "mutatingwebhookconfiguration", "fab-session-injector", "--dry-run=server"];
        let kind = format!("--type={kind}");
        cluster.kubectl(&[&arguments[..], &[&user, &kind, "--patch", &patch]].concat()).run()
    };
    let enabled = |mut webhook: Value| {
        webhook["name"] = "enabled.session.fab.nanohype.dev".into();
        json!({"webhooks": [webhook]})
    };
    let one = |path: &str, value: Value| json!([{"op": "add", "path": format!("/webhooks/0/{path}"), "value": value}]);
    let everything = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"]}]);
    let elsewhere = json!({"name": "elsewhere", "namespace": "default"});
    let first = json!({
        "name": "a.example.org", "clientConfig": {"url": "https://example.org"},
        "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": everything,
    });
    let attempts = [
        ("strategic", enabled(json!({"rules": everything}))),
        ("strategic", enabled(json!({"failurePolicy": "Ignore"}))),
        ("strategic", enabled(json!({"timeoutSeconds": 1}))),
        ("strategic", enabled(json!({"clientConfig": {"service": elsewhere}}))),
        (
            "strategic",
            enabled(json!({"clientConfig": {"service": null, "url": "https://example.org"}})),
        ),
        ("strategic", enabled(json!({"objectSelector": {"matchLabels": {"a": "b"}}}))),
        ("strategic", enabled(json!({"matchPolicy": "Exact"}))),
        ("strategic", enabled(json!({"reinvocationPolicy": "Never"}))),
        ("strategic", enabled(json!({"sideEffects": "NoneOnDryRun"}))),
        ("strategic", enabled(json!({"admissionReviewVersions": ["v1", "v1beta1"]}))),
        (
            "strategic",
            enabled(json!({"matchConditions": [{"name": "never", "expression": "false"}]})),
        ),
        ("json", one("namespaceSelector", json!({}))),
        ("json", one("name", json!("a.example.org"))),
        ("json", json!([{"op": "add", "path": "/webhooks/-", "value": first}])),
        ("json", json!([{"op": "remove", "path": "/webhooks/0"}])),
        ("json", json!([{"op": "remove", "path": "/webhooks"}])),
        ("merge", json!({"metadata": {"annotations": {"cert-manager.io/inject-ca-from": "a/b"}}})),
        ("merge", json!({"metadata": {"labels": {"a": "b"}}})),
        ("merge", json!({"metadata": {"finalizers": ["example.org/a"]}})),
    ];
    wait_until("the policy is enforced", Duration::from_secs(20), || {
        (!patch(attempts[0].0, &attempts[0].1).ok).then_some(())
    });
    let authority = enabled(json!({"clientConfig": {"caBundle": CA}}));
    let taken = patch("strategic", &authority);
    assert!(taken.ok, "{}", taken.stderr);
    for (kind, attempt) in &attempts {
        let said = patch(kind, attempt);
        assert!(
            !said.ok && said.stderr.contains("may change only caBundle in the webhook"),
            "{attempt}: {}",
            said.stderr
        );
    }
    // The policy compares all fields that this API server knows.
    let types = "/openapi/v3/apis/admissionregistration.k8s.io/v1";
    let types = cluster.kubectl(&["get", "--raw", types]).run();
    let types: Value = serde_json::from_str(&types.stdout).unwrap();
    let policy = cluster.kubectl(&["get", "validatingadmissionpolicy", name]).json();
    let expression = policy["spec"]["validations"][0]["expression"].as_str().unwrap();
    for (kind, own) in [("MutatingWebhook", "clientConfig"), ("WebhookClientConfig", "caBundle")] {
        let kind = format!("io.k8s.api.admissionregistration.v1.{kind}");
        let fields = types["components"]["schemas"][kind]["properties"].as_object().unwrap();
        assert!(fields.contains_key(own));
        for field in fields.keys().filter(|field| *field != own) {
            assert!(expression.contains(&format!("{field} == old.")), "{field}");
        }
    }

    // Other users may change it, for example to upgrade.
    let values = [("config.podSecurity", "baseline"), ("config.fencedServiceAccounts[0]", "other")];
    helm::upgrade(&chart(), "pilot", NAMESPACE, &cluster.kubeconfig(), &values, &[]).unwrap();

    // The control: without the policy, the API server accepts each attempt.
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", name]).run();
    for (kind, attempt) in &attempts {
        wait_until("the attempt is accepted", Duration::from_secs(20), || {
            let said = patch(kind, attempt);
            assert!(said.ok || said.stderr.contains("only caBundle"), "{attempt}: {}", said.stderr);
            said.ok.then_some(())
        });
    }
}

/// The program itself, with the chart's arguments and permissions.
#[test]
fn certs_works_with_the_charts_rights_and_without_drift() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let manifests = render(NAMESPACE, &[]);
    let applied = apply(&cluster, &manifests, &SERVER_SIDE);
    assert!(applied.ok, "{}", applied.stderr);
    let certs = Certs::start(&cluster, &manifests);
    let data = secret(&cluster);
    let mut keys: Vec<&String> = data.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["ca.crt", "ca.key", "tls.crt", "tls.key"]);
    let (_, bundles) = filled_in(&cluster);
    assert_eq!(bundles, json!([data["ca.crt"], data["ca.crt"]]));
    for round in 0..2 {
        let diff = [&["diff", "--filename=-"], &SERVER_SIDE[..]].concat();
        let found = cluster.kubectl(&diff).stdin(&manifests).run();
        assert!(found.ok, "{round}: {}{}", found.stdout, found.stderr);
        let before = versions(&cluster, &manifests);
        assert!(apply(&cluster, &manifests, &SERVER_SIDE).ok);
        assert_eq!(versions(&cluster, &manifests), before);
    }
    assert!(!certs.process.log().contains("ERROR"), "{}", certs.process.log());
}

/// After any change of the Secret or of `caBundle`, API servers again trust the certificate that
/// the webhook serves.
#[test]
fn certs_repairs_a_damaged_secret_and_ca_bundle() {
    type Wanted = fn(before: &Value, after: &Value) -> bool;
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let manifests = render(NAMESPACE, &[]);
    assert!(apply(&cluster, &manifests, &SERVER_SIDE).ok);
    let certs = Certs::start(&cluster, &manifests);
    let of_secret = |operation: Value| (format!("secret/{SECRET}"), operation);
    let of_configuration =
        |operation| (format!("mutatingwebhookconfiguration/{CONFIGURATION}"), operation);
    let same: Wanted = |before, after| before == after;
    let new_certificate: Wanted = |before, after| {
        before["ca.crt"] == after["ca.crt"] && before["tls.crt"] != after["tls.crt"]
    };
    // By hand: a new CA. The served certificate stays for now, and stays trusted.
    let new_authority: Wanted = |before, after| {
        before["tls.crt"] == after["tls.crt"]
            && pem(&after["ca.crt"]).ends_with(&pem(&before["ca.crt"]))
    };
    let cases = [
        (
            of_configuration(json!({"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"})),
            same,
        ),
        (
            of_configuration(
                json!({"op": "replace", "path": "/webhooks/1/clientConfig/caBundle", "value": other_authority()}),
            ),
            same,
        ),
        (of_secret(json!({"op": "remove", "path": "/data/tls.key"})), new_certificate),
        (
            of_secret(json!({"op": "replace", "path": "/data/tls.crt", "value": "bm8="})),
            new_certificate,
        ),
        (of_secret(json!({"op": "remove", "path": "/data/ca.key"})), new_authority),
    ];
    for ((object, operation), want) in cases {
        let before = secret(&cluster);
        let patch = json!([operation]).to_string();
        let arguments =
            ["patch", &object, "--namespace", NAMESPACE, "--type=json", "--patch", &patch];
        let patched = cluster.kubectl(&arguments).run();
        assert!(patched.ok, "{}", patched.stderr);
        // A repair takes up to four steps, and after many changes each waits for 8 s.
        wait_until(&format!("{operation} is repaired"), Duration::from_secs(120), || {
            let after = secret(&cluster);
            let (_, bundles) = filled_in(&cluster);
            let complete = after.as_object()?.len() == 4;
            (complete
                && want(&before, &after)
                && bundles == json!([after["ca.crt"], after["ca.crt"]]))
            .then_some(())
        });
    }
    assert!(!certs.process.log().contains("ERROR"), "{}", certs.process.log());

    // `certs` cannot create the Secret again, and logs how to.
    cluster.kubectl(&["delete", "secret", SECRET, "--namespace", NAMESPACE]).run();
    wait_until("it logs what is missing", Duration::from_secs(120), || {
        certs.process.log().contains("re-run `helm upgrade`").then_some(())
    });
    let (_, trusted) = filled_in(&cluster);
    assert!(apply(&cluster, &manifests, &SERVER_SIDE).ok);
    wait_until("the certificate is valid again", Duration::from_secs(90), || {
        let after = secret(&cluster);
        let (_, bundles) = filled_in(&cluster);
        // Pods still serve a certificate that the lost CAs signed.
        let trusts = pem(&after["ca.crt"]).ends_with(&pem(&trusted[0]));
        (after.as_object()?.len() == 4 && trusts && bundles[0] == after["ca.crt"]).then_some(())
    });
    for key in ["PRIVATE KEY", "BEGIN"] {
        assert!(!certs.process.log().contains(key), "{}", certs.process.log());
    }
}

pub(super) struct Certs {
    pub(super) process: process::Process,
    _directory: tempfile::TempDir,
}

impl Certs {
    /// With the arguments of its Deployment and the permissions of its service account.
    pub(super) fn start(cluster: &ControlPlane, manifests: &str) -> Self {
        let list: Value = serde_json::from_str(manifests).unwrap();
        let name = "pilot-fab-session-injector-certs";
        let is_it = |manifest: &&Value| {
            manifest["kind"] == "Deployment" && manifest["metadata"]["name"] == name
        };
        let deployment = list["items"].as_array().unwrap().iter().find(is_it).unwrap();
        let pod = &deployment["spec"]["template"]["spec"];
        let account = pod["serviceAccountName"].as_str().unwrap();
        let token = cluster.kubectl(&["create", "token", account, "--namespace", NAMESPACE]).run();
        assert!(token.ok, "{}", token.stderr);
        let admin = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
        let mut config: Value = serde_saphyr::from_str(&admin).unwrap();
        config["users"][0]["user"] = json!({"token": token.stdout.trim()});
        let directory = process::own_directory();
        let kubeconfig = directory.path().join("certs.kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();

        let port = process::free_port();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        for argument in pod["containers"][0]["args"].as_array().unwrap() {
            let argument = argument.as_str().unwrap();
            command.arg(argument.replace("[::]:8081", &format!("127.0.0.1:{port}")));
        }
        command.env("KUBECONFIG", &kubeconfig);
        let mut process = process::Process::start("certs", directory.path(), &command);
        process.wait_until("the certificate is valid", Duration::from_secs(30), || {
            let health = ([127, 0, 0, 1], port).into();
            process::get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        Self { process, _directory: directory }
    }
}

/// The data of the Secret.
pub(super) fn secret(cluster: &ControlPlane) -> Value {
    cluster.kubectl(&["get", "secret", SECRET, "--namespace", NAMESPACE]).json()["data"].clone()
}

/// The text of a field of bytes.
fn pem(field: &Value) -> String {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(field.clone()).unwrap_or_default();
    String::from_utf8(bytes.0).unwrap()
}

/// A CA of another writer.
fn other_authority() -> Value {
    let directory = process::own_directory();
    let made = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make"))
        .arg(directory.path())
        .status()
        .unwrap();
    assert!(made.success());
    let bytes = std::fs::read(directory.path().join("ca.crt")).unwrap();
    json!(k8s_openapi::ByteString(bytes))
}

pub(super) fn cluster() -> ControlPlane {
    ControlPlane::start()
}

/// The objects of the release `pilot`, without the hooks of `helm test`.
pub(super) fn render(namespace: &str, values: &[(&str, &str)]) -> String {
    let text = helm::render(&chart(), "pilot", namespace, values, None).unwrap();
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let is_hook =
        |manifest: &Value| manifest["metadata"]["annotations"].get("helm.sh/hook").is_some();
    let manifests =
        manifests.into_iter().filter(|manifest| !manifest.is_null() && !is_hook(manifest));
    json!({"apiVersion": "v1", "kind": "List", "items": manifests.collect::<Vec<_>>()}).to_string()
}

pub(super) fn apply(cluster: &ControlPlane, manifests: &str, how: &[&str]) -> Outcome {
    let apply = [&["apply", "--validate=strict", "--filename=-"], how].concat();
    cluster.kubectl(&apply).stdin(manifests).run()
}

/// Returns kind and name, generation and version of each object of the manifests.
fn versions(cluster: &ControlPlane, manifests: &str) -> Vec<(String, Value, Value)> {
    let objects = cluster.kubectl(&["get", "--filename=-"]).stdin(manifests).json();
    let of = |object: &Value| {
        let (kind, metadata) = (object["kind"].as_str().unwrap(), &object["metadata"]);
        let name = metadata["name"].as_str().unwrap();
        // The version also changes with the status, which a controller writes.
        let version = match kind {
            "Deployment" | "PodDisruptionBudget" | "ValidatingAdmissionPolicy" => Value::Null,
            _ => metadata["resourceVersion"].clone(),
        };
        (format!("{kind} {name}"), metadata["generation"].clone(), version)
    };
    objects["items"].as_array().unwrap().iter().map(of).collect()
}

/// Writes the fields that the deployment `certs` writes.
pub(super) fn fill_in(cluster: &ControlPlane) {
    let patch = |kind: &str, name: &str, patch: Value| {
        let patch = patch.to_string();
        let arguments = ["patch", kind, name, "--namespace", NAMESPACE, "--field-manager=certs"];
        cluster.kubectl(&[&arguments[..], &["--patch", &patch]].concat()).json();
    };
    let (crt, key, ca) = KEYS;
    patch(
        "secret",
        "pilot-fab-session-injector-tls",
        json!({"data": {"tls.crt": crt, "tls.key": key, "ca.key": ca}}),
    );
    let webhooks = ["enabled", "audit"].map(|mode| {
        json!({"name": format!("{mode}.session.fab.nanohype.dev"), "clientConfig": {"caBundle": CA}})
    });
    patch("mutatingwebhookconfiguration", "fab-session-injector", json!({"webhooks": webhooks}));
}

/// Returns these fields: the keys of the Secret, and `caBundle` of both webhooks.
pub(super) fn filled_in(cluster: &ControlPlane) -> (Value, Value) {
    let get = ["get", "secret", "pilot-fab-session-injector-tls", "--namespace", NAMESPACE];
    let secret = cluster.kubectl(&[&get[..], &["--ignore-not-found", "--output=json"]].concat());
    let secret: Value = serde_json::from_str(&secret.run().stdout).unwrap_or_default();
    let data = &secret["data"];
    let get = ["get", "mutatingwebhookconfiguration", "fab-session-injector"];
    let webhooks = cluster.kubectl(&get).json()["webhooks"].clone();
    let bundles = webhooks.as_array().unwrap().iter();
    let bundles: Vec<Value> =
        bundles.map(|webhook| webhook["clientConfig"]["caBundle"].clone()).collect();
    (json!([data["tls.crt"], data["tls.key"], data["ca.key"]]), json!(bundles))
}

pub(super) const CONFIGURATION: &str = "fab-session-injector";
pub(super) const NAMESPACE: &str = "injector";
const NAME: &str = "pilot-fab-session-injector";
const SECRET: &str = "pilot-fab-session-injector-tls";
pub(super) const SERVER_SIDE: [&str; 2] = ["--server-side", "--field-manager=gitops"];
/// "-----BEGIN OWN" in base64.
const OWN_CA: &str = "LS0tLS1CRUdJTiBPV04=";
/// Data of the Secret in base64. The API server does not parse it.
const KEYS: (&str, &str, &str) = ("Y2VydGlmaWNhdGU=", "a2V5", "YXV0aG9yaXR5");
/// "-----BEGIN CERTIFICATE-----" in base64. The API server checks no more of it before it calls
/// the webhook.
const CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t";
