//! Tests what a real API server stores when agents are created. etcd, kube-apiserver and
//! controllers are real, SSM is moto, and Helm renders the configuration from the chart.

use std::{collections::HashMap, fs, time::Duration};

use fab_session_injector::{
    admission,
    config::Config,
    namespaces::{self, Namespace, Namespaces},
    roles::{Roles, Source},
};
use harness::{
    case::{self, Case},
    control_plane::ControlPlane,
    foreign, helm,
    process::{self, wait_until},
    world::{
        CANARY, Created, OPERATOR, World, agent, assert_same, parameter, restricted, role, variable,
    },
};
use serde_json::{Value, json};

use crate::WORLD;

fn is_injected(created: &Created) -> bool {
    created.names("initContainers").first() == Some(&"fab-session-credentials")
}

/// Creates each golden on the API server. The stored pod must equal the stored golden output, and
/// a refusal must have the golden's message.
fn goldens_hold(world: &World, belongs: impl Fn(&Case) -> bool, prefix: &str) -> (usize, usize) {
    let cases: Vec<Golden> =
        Case::all().into_iter().filter(belongs).map(|case| Golden::read(case, prefix)).collect();
    world.create_homes(&cases.iter().flat_map(Golden::homes).collect::<Vec<_>>());
    let (mut stored, mut refused) = (0, 0);
    for golden in &cases {
        let Golden { case, own, plain, was, pod, .. } = golden;
        let creation = world.create(&inside(pod.clone(), own), case.creator.as_deref());
        if case.path("refused.txt").exists() {
            let want = fs::read_to_string(case.path("refused.txt")).unwrap();
            // The webhook's response has the first refusal.
            let first = want.lines().next().unwrap();
            let sentence = first.split_once(": ").unwrap().1.replace(was, own);
            // The one message with the source of roles, which is a file offline.
            let want =
                if case.name == "refuse-unpublished-role" { "[role-missing]" } else { &sentence };
            let said = creation.err().unwrap_or_else(|| panic!("{}: let in", case.name));
            assert!(said.contains(want), "{}:\n{said}\nwant {want}", case.name);
            refused += 1;
            continue;
        }
        let creation = creation.unwrap_or_else(|said| panic!("{}: {said}", case.name));
        let injected = case::objects(&format!("{}.injected.yaml", case.name)).pop().unwrap();
        let by_hand = world
            .create(&inside(injected, plain), case.creator.as_deref())
            .unwrap_or_else(|said| panic!("{}, injected by hand: {said}", case.name));
        assert_same(&creation.pod, &by_hand.pod, &case.name);
        let text = fs::read_to_string(case.path("injected.yaml")).unwrap();
        for warning in text.lines().filter_map(|line| line.strip_prefix("# warning: ")) {
            let warning = warning.split_once(": ").unwrap().1;
            assert!(
                creation.warnings.contains(warning),
                "{}: {warning}\n{}",
                case.name,
                creation.warnings
            );
        }
        stored += 1;
    }
    (stored, refused)
}

/// A golden with its own two namespaces: one like the golden's, one that did not opt in.
struct Golden {
    case: Case,
    pod: Value,
    was: String,
    own: String,
    plain: String,
}

impl Golden {
    fn read(case: Case, prefix: &str) -> Self {
        let objects = case::objects(&format!("{}.yaml", case.name));
        let [namespace, pod] = <[Value; 2]>::try_from(objects).unwrap();
        let was = namespace["metadata"]["name"].as_str().unwrap().to_owned();
        let own = format!("{prefix}-{}", case.name);
        let plain = format!("plain-{own}");
        Self { case, pod, was, own, plain }
    }

    fn homes(&self) -> Vec<Value> {
        let mut plain = self.case.home(&self.plain);
        let labels = plain[0]["metadata"]["labels"].as_object_mut().unwrap();
        labels.shift_remove("fab.nanohype.dev/session-injection");
        [self.case.home(&self.own), plain].concat()
    }
}

fn inside(mut pod: Value, namespace: &str) -> Value {
    pod["metadata"]["namespace"] = namespace.into();
    pod
}

#[test]
fn goldens_are_the_same_on_the_api_server() {
    WORLD.publish("aaaaaaaaaaaaaaaaaaaaaa", &role("long"));
    let (stored, refused) = goldens_hold(&WORLD, |case| case.config.is_none(), "g");
    assert!(stored > 20 && refused > 20, "{stored} stored, {refused} refused");
}

#[test]
fn goldens_of_another_config_are_the_same_too() {
    let text = fs::read_to_string(case::directory().join("custom.config.yaml")).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    let values = process::own_directory();
    let file = values.path().join("values.yaml");
    fs::write(&file, json!({"config": config}).to_string()).unwrap();
    let mut world = World::start(&[], Some(&file));
    world.publish("acme", &role("acme"));
    let (stored, refused) = goldens_hold(&world, |case| case.config.is_some(), "c");
    assert!(stored >= 3 && refused >= 1, "{stored} stored, {refused} refused");
    is_sent_what_we_judge(&world, &Config::parse(&text).unwrap());

    world.publish("foreign", "arn:aws:iam::999999999999:role/eks-agent-platform/tenants/foreign");
    world.namespace("tenants-foreign", "enabled", "foreign", &[]);
    let said = world.create(&agent("tenants-foreign", "a"), None).unwrap_err();
    assert!(
        said.contains(
            "names a role that roles.allow.accounts in the config does not allow [role-not-allowed]"
        ),
        "{said}"
    );

    // Pods of an unknown tenant are refused; those of known tenants are admitted.
    world.stop_moto();
    world.namespace("tenants-late", "enabled", "late", &[]);
    let said = world.create(&agent("tenants-late", "a"), None).unwrap_err();
    assert!(said.contains("[role-unavailable]"), "{said}");
    world.namespace("tenants-known", "enabled", "acme", &[]);
    assert!(is_injected(&world.create(&agent("tenants-known", "a"), None).unwrap()));
}

#[test]
fn an_agentsandbox_session_is_named_by_the_operator_only() {
    WORLD.namespace("tenants-named", "enabled", "acme", &[]);
    let session = |name: &str| {
        let mut pod = agent("tenants-named", name);
        pod["metadata"]["labels"] = json!({
            "app.kubernetes.io/component": "agent-sandbox",
            "agents.nanohype.dev/agentsandbox": "fab-coder-x7k2p",
        });
        pod
    };
    let created = WORLD.create(&session("session-a"), Some(OPERATOR)).unwrap();
    assert!(is_injected(&created));
    let agent = created.container("agent");
    assert_eq!(variable(agent, "FAB_SESSION_ROLE_ARN"), Some(&json!(role("acme"))));
    assert_eq!(variable(agent, "FAB_SESSION_IDENTITY"), Some(&json!("agent.acme.fab-coder-x7k2p")));
    assert_eq!(
        created.annotation("fab.nanohype.dev/source-identity"),
        Some("agent.acme.fab-coder-x7k2p")
    );

    let control = WORLD.create(&session("session-b"), None).unwrap();
    let sidecar = control.container("fab-session-credentials");
    assert_eq!(
        variable(sidecar, "FAB_SESSION_IDENTITY"),
        Some(&json!("agent.acme.$(FAB_SESSION_ID)"))
    );
    let uid = json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}});
    assert_eq!(variable(sidecar, "FAB_SESSION_ID"), Some(&uid));
}

#[test]
fn pods_of_controllers_are_injected_under_a_quota() {
    WORLD.namespace("fab-quota", "enabled", "acme", &[("agents.nanohype.dev/platform", "acme")]);
    WORLD.service_account("fab-quota", "fab");
    WORLD.apply(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tenant-default", "namespace": "fab-quota"},
        "spec": {"hard": {"requests.cpu": "4", "requests.memory": "16Gi", "limits.cpu": "8", "limits.memory": "32Gi"}},
    }));
    let template = |account: &str, restart: &str| {
        let mut container = restricted("agent");
        container["resources"] = json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        json!({"metadata": {"labels": {"app": account}}, "spec": {
            "serviceAccountName": account, "restartPolicy": restart, "containers": [container],
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        }})
    };
    WORLD.apply(&json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fab-feature-build", "namespace": "fab-quota"},
        "spec": {"backoffLimit": 0, "template": template("fab", "Never")},
    }));
    WORLD.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "proxy", "namespace": "fab-quota"},
        "spec": {"selector": {"matchLabels": {"app": "tenant-runtime"}}, "template": template("tenant-runtime", "Always")},
    }));
    for (label, component) in [("app=fab", "dispatcher"), ("app=tenant-runtime", "runtime")] {
        let pods = wait_until("the controller has made its pod", Duration::from_secs(30), || {
            let pods = WORLD
                .cluster
                .kubectl(&["get", "pods", "--namespace=fab-quota", "--selector", label])
                .json();
            (!pods["items"].as_array().unwrap().is_empty()).then_some(pods)
        });
        let created = Created { pod: pods["items"][0].clone(), warnings: String::new() };
        assert!(is_injected(&created), "{label}");
        assert_eq!(created.annotation("fab.nanohype.dev/component"), Some(component));
    }
    // Without the sidecar's four quantities the quota would refuse the pods.
    let used = wait_until("the quota counts both pods", Duration::from_secs(10), || {
        let quota = WORLD
            .cluster
            .kubectl(&["get", "resourcequota", "tenant-default", "--namespace=fab-quota"])
            .json();
        (quota["status"]["used"]["limits.cpu"] == "2200m").then_some(quota)
    });
    assert_eq!(used["status"]["used"]["requests.cpu"], "220m");
}

/// Takes the quota from docs/operations.md.
#[test]
fn a_quota_refuses_pods_that_outrank_the_webhook() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let mut blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = blocks.find(|block| block.contains("kind: ResourceQuota")).unwrap();
    let mut quota: Value = serde_saphyr::from_str(block).unwrap();
    for namespace in ["tenants-ranked", "tenants-unranked"] {
        WORLD.namespace(namespace, "enabled", "acme", &[]);
    }
    quota["metadata"]["namespace"] = "tenants-ranked".into();
    WORLD.apply(&quota);
    let of_class = |namespace: &str, name: &str, class: &str| {
        let mut pod = agent(namespace, name);
        pod["spec"]["priorityClassName"] = class.into();
        WORLD.create(&pod, None)
    };
    for class in ["system-cluster-critical", "system-node-critical"] {
        wait_until("the quota is counted", Duration::from_secs(30), || {
            let said = of_class("tenants-ranked", class, class).unwrap_err();
            said.contains("exceeded quota: no-system-priority").then_some(())
        });
        // The control: without the quota a tenant's pod has at least the webhook's priority.
        let created = of_class("tenants-unranked", class, class).unwrap();
        assert!(created.pod["spec"]["priority"].as_i64() >= Some(2_000_000_000), "{class}");
    }
    assert!(is_injected(&WORLD.create(&agent("tenants-ranked", "unranked"), None).unwrap()));
}

#[test]
fn the_sidecar_keeps_what_a_limit_range_adds() {
    WORLD.namespace("tenants-ranged", "enabled", "acme", &[("test.example/foreign", "late")]);
    WORLD.apply(&json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "tenant-default", "namespace": "tenants-ranged"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, "defaultRequest": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "1Gi"}}]},
    }));
    // The second webhook causes a second admission round, with the sidecar in the pod.
    let _late = foreign::Webhook::start(&WORLD, "zz-late-ranged", "late", foreign::add_a_container);
    let created = WORLD.create(&agent("tenants-ranged", "a"), None).unwrap();
    let resources = &created.container("fab-session-credentials")["resources"];
    assert_eq!(resources["limits"]["cpu"], "100m");
    assert_eq!(resources["requests"]["memory"], "32Mi");
    assert_eq!(resources["limits"]["ephemeral-storage"], "1Gi");

    // The service account admission plugin also ran again. It adds no token of the Kubernetes API
    // to the sidecar; the agent has one.
    let mounts = |name: &str| -> Vec<String> {
        let mounts = created.container(name)["volumeMounts"].as_array().unwrap();
        let names = mounts.iter().map(|mount| mount["name"].as_str().unwrap().to_owned());
        names
            .map(|name| {
                if name.starts_with("kube-api-access-") {
                    "kube-api-access".to_owned()
                } else {
                    name
                }
            })
            .collect()
    };
    assert_eq!(
        mounts("fab-session-credentials"),
        ["fab-session-token", "fab-session-base", "fab-session-empty"]
    );
    assert_eq!(mounts("agent"), ["kube-api-access", "fab-session-token"]);
    assert_eq!(mounts("late"), ["kube-api-access", "fab-session-token"]);
}

#[test]
fn a_label_change_takes_effect_at_run_time() {
    WORLD.namespace("tenants-switch", "", "acme", &[]);
    let label = |value: &str| {
        WORLD
            .cluster
            .kubectl(&["label", "namespace", "tenants-switch", "--overwrite", value])
            .json();
    };
    let injected = || {
        let mut pod = agent("tenants-switch", "");
        pod["metadata"] = json!({"namespace": "tenants-switch", "generateName": "a-"});
        is_injected(&WORLD.create(&pod, None).unwrap())
    };
    let until = |what: &str, want: bool| {
        wait_until(what, Duration::from_secs(10), || (injected() == want).then_some(()))
    };
    assert!(!injected());
    label("fab.nanohype.dev/session-injection=enabled");
    until("opted in", true);
    label("fab.nanohype.dev/session-injection-");
    until("opted out", false);
}

#[test]
fn the_first_pod_of_a_new_namespace_is_injected() {
    for round in 0..5 {
        let namespace = format!("tenants-fresh-{round}");
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {
                "fab.nanohype.dev/session-injection": "enabled", "fab.nanohype.dev/tenant": "acme",
                "pod-security.kubernetes.io/enforce": "restricted"}}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant-runtime", "namespace": namespace}},
            agent(&namespace, "first"),
        ]});
        let outcome = WORLD
            .cluster
            .kubectl(&["create", "--filename=-", "--output=json"])
            .stdin(&objects.to_string())
            .run();
        assert!(outcome.ok, "{}", outcome.stderr);
        let pod = WORLD.cluster.kubectl(&["get", "pod", "first", "--namespace", &namespace]).json();
        assert!(is_injected(&Created { pod, warnings: String::new() }));
    }
}

#[test]
fn a_changed_parameter_takes_effect() {
    WORLD.namespace("tenants-moving", "enabled", "moving", &[]);
    let outcome = || {
        let mut pod = agent("tenants-moving", "");
        pod["metadata"] = json!({"namespace": "tenants-moving", "generateName": "a-"});
        match WORLD.create(&pod, None) {
            Ok(created) => variable(created.container("agent"), "FAB_SESSION_ROLE_ARN")
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned(),
            Err(said) => said,
        }
    };
    let until = |want: &str| {
        wait_until(&format!("the answer says {want}"), Duration::from_secs(15), || {
            outcome().contains(want).then_some(())
        });
    };
    let name = parameter("moving");
    until(&format!("there is no SSM parameter {name} [role-missing]"));
    WORLD.publish("moving", &role("one"));
    until(&role("one"));
    WORLD.publish("moving", &role("two"));
    until(&role("two"));
    WORLD.publish("moving", &format!("{CANARY}-in-a-parameter"));
    until("[role-malformed]");
    WORLD.moto().delete_parameter(&name);
    WORLD.moto().put_parameter(&name, &role("secret"), "SecureString");
    until("[role-secure-string]");
    WORLD.moto().delete_parameter(&name);
    WORLD.moto().put_parameter(&name, &role("list"), "StringList");
    until("[role-wrong-type]");
    WORLD.moto().delete_parameter(&name);
    until("[role-missing]");
    WORLD.publish("moving", &role("three"));
    until(&role("three"));
}

#[test]
fn a_dry_run_returns_the_same_and_stores_nothing() {
    WORLD.namespace("tenants-dry", "enabled", "acme", &[]);
    let pod = agent("tenants-dry", "a");
    let dry = WORLD
        .cluster
        .kubectl(&["create", "--dry-run=server", "--filename=-"])
        .stdin(&pod.to_string())
        .json();
    let pods = WORLD.cluster.kubectl(&["get", "pods", "--namespace=tenants-dry"]).json();
    assert_eq!(pods["items"], json!([]));
    let stored = WORLD.create(&pod, None).unwrap();
    assert!(is_injected(&stored));
    assert_same(&dry, &stored.pod, "dry run");
}

#[test]
fn the_audit_log_shows_the_session_of_a_pod() {
    WORLD.namespace(
        "tenants-audited",
        "enabled",
        "acme",
        &[("test.example/foreign", "late-audited")],
    );
    let mut session = agent("tenants-audited", "session-a");
    session["metadata"]["labels"] = json!({"agents.nanohype.dev/agentsandbox": "coder-1"});
    WORLD.create(&session, Some(OPERATOR)).unwrap();
    let annotations = WORLD.audit_annotations("tenants-audited", "session-a");
    for (key, value) in [
        ("decision", "inject"),
        ("component", "runtime"),
        ("session-id", "coder-1"),
        ("source-identity", "agent.acme.coder-1"),
        ("role-arn", &role("acme")),
    ] {
        assert_eq!(annotations.get(key).map(String::as_str), Some(value), "{key}");
    }

    let mut refused = agent("tenants-audited", "refused");
    refused["spec"]["hostPID"] = true.into();
    WORLD.create(&refused, None).unwrap_err();
    let annotations = WORLD.audit_annotations("tenants-audited", "refused");
    assert_eq!(annotations["decision"], "refuse/host-namespace");

    // In the second round the API server keeps the first value of a key, and logs a different
    // second value.
    let _late = foreign::Webhook::start(
        &WORLD,
        "zz-late-audited",
        "late-audited",
        foreign::add_a_container,
    );
    session["metadata"]["name"] = "session-b".into();
    let created = WORLD.create(&session, Some(OPERATOR)).unwrap();
    assert_eq!(created.names("containers"), ["agent", "late"]);
    assert!(
        variable(created.container("late"), "FAB_SESSION_IDENTITY").is_some(),
        "not called again"
    );
    let again = WORLD.audit_annotations("tenants-audited", "session-b");
    assert_eq!(again["source-identity"], "agent.acme.coder-1");
    assert_eq!(again["decision"], "inject");
    let log = WORLD.cluster.api_server_log();
    assert!(!log.contains("Failed to set admission audit annotation"), "the rounds differ");
}

#[test]
fn changes_by_another_webhook_are_corrected() {
    // Each is called after the injector's webhook and causes a second round.
    let cases: [(&str, &str, foreign::Effect); 2] = [
        ("zz-adds", "adds", foreign::add_a_container),
        ("zz-rewrites", "rewrites", foreign::rewrite_from_old_types),
    ];
    for (configuration, label, effect) in cases {
        let namespace = format!("tenants-{label}");
        WORLD.namespace(&namespace, "enabled", "acme", &[("test.example/foreign", label)]);
        let foreign = foreign::Webhook::start(&WORLD, configuration, label, effect);
        let mut pod = agent(&namespace, "a");
        pod["spec"]["initContainers"] = json!([restricted("first")]);
        let created = WORLD.create(&pod, None).unwrap();
        assert!(foreign.calls() > 0, "{label} was not called");
        assert!(is_injected(&created), "{label}");
        let sidecar = created.container("fab-session-credentials");
        assert_eq!(sidecar["restartPolicy"], "Always", "{label}");
        for name in created.names("containers") {
            assert!(
                variable(created.container(name), "FAB_SESSION_IDENTITY").is_some(),
                "{label}: {name}"
            );
        }
        let names = [created.names("initContainers"), created.names("containers")].concat();
        let skipped = created.annotation("eks.amazonaws.com/skip-containers").unwrap();
        assert!(
            names.iter().all(|name| skipped.split(',').any(|skipped| skipped == *name)),
            "{skipped}"
        );
    }
}

/// Four other webhooks, each before or after the injector's, in a different order each time.
#[test]
fn a_pod_converges_in_any_order_of_webhooks() {
    WORLD.namespace("tenants-order", "enabled", "acme", &[("test.example/foreign", "order")]);
    let start = |others: usize, round: usize| {
        let side = if others >> round & 1 == 0 { "aa" } else { "zz" };
        let name = format!("{side}-{}-order", (round + others) % 4);
        match round {
            0 => foreign::Webhook::start_pod_identity(
                &WORLD,
                &name,
                "order",
                !others.is_multiple_of(3),
            ),
            1 => foreign::Webhook::start(&WORLD, &name, "order", foreign::linkerd),
            2 => foreign::Webhook::start(&WORLD, &name, "order", foreign::istio),
            _ => foreign::Webhook::start(&WORLD, &name, "order", foreign::rewrite_from_old_types),
        }
    };
    for others in 0..16 {
        let webhooks: Vec<foreign::Webhook<'_>> =
            (0..4).map(|round| start(others, round)).collect();
        let mut pod = agent("tenants-order", &format!("a-{others}"));
        pod["spec"]["initContainers"] = json!([restricted("first")]);
        let created = WORLD.create(&pod, None).unwrap_or_else(|said| panic!("{others}: {said}"));
        for webhook in &webhooks[1..] {
            assert!(webhook.calls() > 0, "{others}: {webhook:?} was not called");
        }
        let first = created.names("initContainers");
        assert_eq!(first.last(), Some(&"first"), "{others}");
        assert_eq!(first.len(), 3, "{others}: {first:?}");
        let names = [first, created.names("containers")].concat();
        assert_eq!(names.len(), 5, "{others}: {names:?}");
        for name in names {
            let container = created.container(name);
            let uri = variable(container, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
            let mounts: Vec<&str> = container["volumeMounts"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|mount| mount["name"].as_str().unwrap())
                .collect();
            assert!(!mounts.contains(&"eks-pod-identity-token"), "{others}: {name}");
            let want = match name {
                "fab-session-credentials" => {
                    assert_eq!(container["restartPolicy"], "Always", "{others}");
                    Some(json!("http://169.254.170.23/v1/credentials"))
                }
                "istio-proxy" | "linkerd-proxy" => None,
                _ => {
                    assert!(mounts.contains(&"fab-session-token"), "{others}: {name}");
                    assert!(variable(container, "FAB_SESSION_IDENTITY").is_some());
                    Some(json!("http://127.0.0.1:7413/v1/credentials"))
                }
            };
            assert_eq!(uri, want.as_ref(), "{others}: {name}");
            let skipped = created.annotation("eks.amazonaws.com/skip-containers").unwrap();
            assert!(skipped.split(',').any(|skipped| skipped == name), "{others}: {skipped}");
        }
    }
}

#[test]
fn only_the_sidecar_gets_base_credentials() {
    // By name: before the injector's webhook, after it, and after it without the object selector.
    let cases = [
        ("a-pod-identity-webhook", "eks-before", true),
        ("pod-identity-webhook", "eks-after", true),
        ("pod-identity-webhook-unlabelled", "eks-unlabelled", false),
    ];
    for (configuration, label, honours_label) in cases {
        let namespace = format!("tenants-{label}");
        WORLD.namespace(&namespace, "enabled", "acme", &[("test.example/foreign", label)]);
        let foreign =
            foreign::Webhook::start_pod_identity(&WORLD, configuration, label, honours_label);
        let mut pod = agent(&namespace, "a");
        pod["spec"]["initContainers"] = json!([restricted("first")]);
        pod["metadata"]["annotations"] =
            json!({"eks.amazonaws.com/skip-containers": "x\"y, agent"});
        let created = WORLD.create(&pod, None).unwrap();
        assert_eq!(foreign.calls() > 0, label != "eks-after", "{label}");
        for name in ["agent", "first"] {
            let container = created.container(name);
            assert_eq!(
                variable(container, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
                Some(&json!("http://127.0.0.1:7413/v1/credentials")),
                "{label}"
            );
            let mounts = container["volumeMounts"].as_array().unwrap();
            let foreign = mounts.iter().any(|mount| {
                mount["name"] == "eks-pod-identity-token" || mount["name"] == "fab-session-base"
            });
            assert!(!foreign, "{label}: {mounts:?}");
        }
        let sidecar = created.container("fab-session-credentials");
        assert_eq!(
            variable(sidecar, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            Some(&json!("http://169.254.170.23/v1/credentials"))
        );
        assert!(
            sidecar["volumeMounts"]
                .as_array()
                .unwrap()
                .iter()
                .all(|mount| mount["name"] != "eks-pod-identity-token")
        );
    }
    // The control: without the injector the same webhook gives the agent base credentials.
    WORLD.namespace("tenants-eks-control", "", "acme", &[("test.example/foreign", "eks-control")]);
    let _foreign = foreign::Webhook::start_pod_identity(
        &WORLD,
        "pod-identity-webhook-control",
        "eks-control",
        true,
    );
    let created = WORLD.create(&agent("tenants-eks-control", "a"), None).unwrap();
    let uri = variable(created.container("agent"), "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    assert_eq!(uri, Some(&json!("http://169.254.170.23/v1/credentials")));
}

#[test]
fn the_api_server_sends_the_matching_pods() {
    is_sent_what_we_judge(&WORLD, &Config::default());
}

/// Compares the API server's matchConditions with the webhook's own matching, for the same pods.
fn is_sent_what_we_judge(world: &World, config: &Config) {
    const NAMESPACE: &str = "tenants-matched";
    world.namespace(
        NAMESPACE,
        "enabled",
        "acme",
        &[("pod-security.kubernetes.io/enforce", "privileged")],
    );
    let accounts = [
        "default",
        "tenant-runtime",
        "fab",
        "tenant-runtime-x-a",
        "tenant-runtimes",
        "not-fab",
        "exempted",
        "legacy",
    ];
    for account in &accounts[2..] {
        world.service_account(NAMESPACE, account);
    }
    let labels = [
        json!(null),
        json!({}),
        json!({"fab.nanohype.dev/component": "dispatcher"}),
        json!({"fab.nanohype.dev/component": "runtime"}),
        json!({"fab.nanohype.dev/component": "other"}),
        json!({"fab.nanohype.dev/component": ""}),
        json!({"agents.nanohype.dev/agent": ""}),
        json!({"agents.nanohype.dev/agentsandbox": "a"}),
        json!({"agents.x-k8s.io/sandbox-name-hash": "a"}),
        json!({"team": "a"}),
        json!({"team": "a", "tier": "agents"}),
        json!({"app.kubernetes.io/component": "agent-sandbox"}),
        json!({"app.kubernetes.io/component": "sandbox-worker"}),
        json!({"app.kubernetes.io/component": "agent-sandbox", "agents.nanohype.dev/agent": "a"}),
    ];
    let label = |key: &str| (key == namespaces::OPT_IN_LABEL).then_some("enabled");
    let snapshot = Namespaces::default().with(Namespace::read(NAMESPACE, label, &config.tenant));
    let nowhere = Roles::new(Source::None, HashMap::new());
    let (mut sent, mut kept) = (0, 0);
    // The last is an account of the pods' namespace, which never matches.
    let creators = [
        "admin",
        "system:serviceaccount:batch:runner",
        "system:serviceaccount:tenants-matched:runner",
    ];
    for (round, creator) in creators.into_iter().enumerate() {
        let mut pods = Vec::new();
        for (row, labels) in labels.iter().enumerate() {
            for account in accounts {
                let mut pod = agent(NAMESPACE, &format!("pod-{round}-{row}-{account}"));
                pod["metadata"]["labels"] = labels.clone();
                pod["spec"]["serviceAccountName"] = account.into();
                pods.push(pod);
            }
        }
        world.allow(creator);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": pods});
        let create = ["create", "--dry-run=server", "--filename=-", "--as", creator];
        world.cluster.kubectl(&create).stdin(&list.to_string()).run();
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            let called = !world.audit_annotations(NAMESPACE, &name).is_empty();
            let (decision, _, _) =
                admission::decide(&pod, creator, NAMESPACE, &snapshot, &nowhere, config);
            assert_eq!(
                called,
                !matches!(decision, admission::Decision::Pass(_)),
                "{name}: {decision:?}"
            );
            if called { sent += 1 } else { kept += 1 }
        }
    }
    assert!(sent > 30 && kept > 5, "{sent} sent, {kept} kept");
}

#[test]
fn the_chart_uninstalls_without_a_trace() {
    let cluster = ControlPlane::start();
    cluster.create_namespace("injector", &[]);
    helm::install(
        &helm::chart(),
        "pilot",
        "injector",
        &cluster.kubeconfig(),
        &[("config.cluster", "prod")],
    )
    .unwrap();
    let configuration = || {
        cluster.kubectl(&["get", "mutatingwebhookconfiguration", "fab-session-injector"]).run().ok
    };
    assert!(configuration());
    let deployments = cluster.kubectl(&["get", "deployments", "--namespace=injector"]).json();
    assert_eq!(deployments["items"][0]["spec"]["replicas"], 2);
    // The injector has no node, and no namespace opted in: pods are still created.
    cluster.create_namespace("plain", &[]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "plain", "labels": {"fab.nanohype.dev/component": "runtime"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.kubectl(&["create", "--filename=-"]).stdin(&pod.to_string()).json();
    helm::uninstall("pilot", "injector", &cluster.kubeconfig()).unwrap();
    assert!(!configuration());
}

#[test]
fn namespaces_without_the_label_see_no_change() {
    let mut world = World::without_configuration(&[], None);
    world.publish("acme", &role("acme"));
    let pods = |namespace: &str| {
        let mut labelled = agent(namespace, "labelled");
        labelled["metadata"]["labels"] = json!({"fab.nanohype.dev/component": "runtime"});
        let mut refused = agent(namespace, "to-be-refused");
        refused["spec"]["containers"][0]["env"] = json!([{"name": "AWS_PROFILE", "value": "own"}]);
        [agent(namespace, "agent"), labelled, refused]
    };
    for namespace in ["before", "plain"] {
        world.namespace(namespace, "", "acme", &[]);
    }
    world.namespace("audit", "audit", "acme", &[]);
    world.namespace("tenants-enabled", "enabled", "acme", &[]);
    let store = |world: &World, namespace: &str| {
        pods(namespace).map(|pod| world.create(&pod, None).unwrap())
    };
    let before = store(&world, "before");

    world.start_webhook();
    world.configure();
    for namespace in ["plain", "audit"] {
        let stored = store(&world, namespace);
        for (stored, before) in stored.iter().zip(&before) {
            assert_same(&stored.pod, &before.pod, namespace);
            assert_eq!(stored.warnings, "", "{namespace}");
        }
    }
    assert_eq!(world.audit_annotations("audit", "agent")["decision"], "inject");
    assert_eq!(
        world.audit_annotations("audit", "to-be-refused")["decision"],
        "refuse/static-credentials"
    );
    assert!(world.audit_annotations("plain", "agent").is_empty());
    assert!(is_injected(&world.create(&agent("tenants-enabled", "control"), None).unwrap()));

    world.kill_webhook();
    let mut late = agent("audit", "late");
    assert!(world.create(&late, None).is_ok());
    late["metadata"]["namespace"] = "plain".into();
    assert!(world.create(&late, None).is_ok());
    late["metadata"]["namespace"] = "tenants-enabled".into();
    let said = world.create(&late, None).unwrap_err();
    assert!(said.contains("failed calling webhook \"enabled.session.fab.nanohype.dev\""), "{said}");
    // The API server does not call the webhook for a pod that is not an agent.
    late["spec"]["serviceAccountName"] = "default".into();
    assert!(world.create(&late, None).is_ok());
}

#[test]
fn no_secret_is_in_log_or_metrics() {
    WORLD.publish("canary", CANARY);
    WORLD.namespace("tenants-canary", "enabled", "canary", &[]);
    let mut pod = agent("tenants-canary", "a");
    pod["spec"]["containers"][0]["env"] = json!([{"name": "OWN_SECRET", "value": CANARY}]);
    let said = WORLD.create(&pod, None).unwrap_err();
    assert!(said.contains("[role-malformed]") && !said.contains(CANARY), "{said}");
    pod["spec"]["containers"][0]["env"][0]["name"] = "AWS_SECRET_ACCESS_KEY".into();
    let said = WORLD.create(&pod, None).unwrap_err();
    assert!(said.contains("[static-credentials]") && !said.contains(CANARY), "{said}");
    WORLD.publish("canary", &role("canary"));
    pod["spec"]["containers"][0]["env"][0]["name"] = "OWN_SECRET".into();
    wait_until("the pod is let in", Duration::from_secs(15), || WORLD.create(&pod, None).ok());

    let metrics = WORLD.health("/metrics");
    assert!(metrics.contains("fab_session_injector_reviews_total"), "{metrics}");
    let log = WORLD.webhook.as_ref().unwrap().log();
    assert!(log.contains("\"message\":\"review\""), "{log}");
    for (what, text) in [("metrics", &metrics), ("log", &log)] {
        assert!(!text.contains(CANARY), "a secret is in the {what}");
        assert!(!text.contains("\"panic\"") && !text.contains("panicked"), "{text}");
    }
}
