//! The chart, rendered by the real Helm, compared with the program that it installs.

mod cert_manager;
mod gitops;
mod issuer;
mod metadata;
mod release;
mod sandboxes;

use std::path::{Path, PathBuf};
use std::process::Command as Program;

use clap::Parser;
use fab_session_injector::{
    cli::{Cli, Command},
    config::Config,
    roles,
};
use harness::{
    case,
    helm::{self, chart},
    process,
};
use serde_json::{Value, json};

fn render(values: &[(&str, &str)]) -> Result<Vec<Value>, String> {
    let text = helm::render(&chart(), "injector", "fab-session-injector", values, None)?;
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    Ok(manifests.into_iter().filter(|manifest| !manifest.is_null()).collect())
}

/// The same, with a values file.
fn render_with(values: &Value) -> Result<Vec<Value>, String> {
    let directory = process::own_directory();
    let file = directory.path().join("values.yaml");
    std::fs::write(&file, values.to_string()).unwrap();
    let text = helm::render(&chart(), "injector", "fab-session-injector", &[], Some(&file))?;
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    Ok(manifests.into_iter().filter(|manifest| !manifest.is_null()).collect())
}

/// The webhook's object of this kind, not the one of `certs`.
fn of_kind(manifests: &[Value], kind: &str) -> Value {
    named(manifests, kind, NAME)
        .or_else(|| manifests.iter().find(|manifest| manifest["kind"] == kind).cloned())
        .unwrap()
}

fn named(manifests: &[Value], kind: &str, name: &str) -> Option<Value> {
    let is_it =
        |manifest: &&Value| manifest["kind"] == kind && manifest["metadata"]["name"] == name;
    manifests.iter().find(is_it).cloned()
}

/// Every combination of certificate mode and kind of network policy.
fn all_ways() -> Vec<(String, Vec<Value>)> {
    let modes = [
        json!({"mode": "selfManaged"}),
        json!({"mode": "certManager"}),
        json!({"mode": "certManager", "certManager": {"issuerRef": {"name": "platform", "kind": "ClusterIssuer"}}}),
        json!({"mode": "existingSecret", "existingSecret": {"secretName": "own", "caBundle": CA}}),
    ];
    let policies = ["kubernetes", "cilium"];
    let ways = modes.iter().flat_map(|mode| policies.map(|kind| (mode, kind)));
    ways.map(|(mode, kind)| {
        let values = json!({"certificates": mode, "networkPolicy": {"kind": kind}});
        (values.to_string(), render_with(&values).unwrap())
    })
    .collect()
}

/// Each pod of the chart, with the name of its Deployment or Pod.
fn pods(manifests: &[Value]) -> Vec<(String, Value)> {
    let pod = |manifest: &Value| match manifest["kind"].as_str().unwrap() {
        "Deployment" => Some(manifest["spec"]["template"].clone()),
        "Pod" => Some(manifest.clone()),
        _ => None,
    };
    let named = |manifest: &Value| {
        Some((manifest["metadata"]["name"].as_str().unwrap().to_owned(), pod(manifest)?))
    };
    manifests.iter().filter_map(named).collect()
}

#[test]
fn the_program_accepts_each_argument() {
    let deployment = of_kind(&render(&[]).unwrap(), "Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container.get("command"), None, "the image's entry point is the program");
    let arguments =
        container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    let cli = Cli::try_parse_from(["fab-session-injector"].into_iter().chain(arguments)).unwrap();
    let Command::Webhook(webhook) = cli.command else { panic!("{:?}", cli.command) };
    let mounted = |path: &Path| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        mounts.iter().any(|mount| {
            path.starts_with(mount["mountPath"].as_str().unwrap()) && mount.get("subPath").is_none()
        })
    };
    for path in [webhook.config.unwrap(), webhook.tls_certificate, webhook.tls_key] {
        assert!(
            mounted(&path),
            "{} is not mounted as a directory, so changes would not arrive",
            path.display()
        );
    }
}

#[test]
fn the_default_values_are_those_of_the_program() {
    let config = of_kind(&render(&[]).unwrap(), "ConfigMap")["data"]["config.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut rendered = Config::parse(&config).unwrap();
    // Without a cluster name SSM is off: the empty static file is the only source.
    assert!(rendered.roles.ssm.is_none());
    assert_eq!(
        rendered.roles.file.take(),
        Some(PathBuf::from("/etc/fab-session-injector/roles.yaml"))
    );
    assert_eq!(format!("{rendered:#?}"), format!("{:#?}", Config::default()));

    let config = of_kind(&render(&[("config.cluster", "prod")]).unwrap(), "ConfigMap")["data"]["config.yaml"].as_str().unwrap().to_owned();
    let own = Config::parse("cluster: prod\nroles: {ssm: {}}\n").unwrap();
    assert_eq!(
        format!("{:#?}", Config::parse(&config).unwrap().roles),
        format!("{:#?}", own.roles)
    );
}

#[test]
fn unknown_and_invalid_values_are_refused() {
    let cases = [
        ("nope", "1", "additional properties 'nope' not allowed"),
        ("config.nope", "1", "additional properties 'nope' not allowed"),
        ("config.sidecar.port", "70000", "port"),
        ("config.sidecar.durationSeconds", "7200", "durationSeconds"),
        ("config.podSecurity", "loose", "podSecurity"),
        ("replicaCount", "-1", "replicaCount"),
        ("config.components[0].name", "x", "components"),
        ("config.sidecar.resources.limits.memory", "65536K", "memory"),
    ];
    for (key, value, want) in cases {
        let said = render(&[(key, value)]).expect_err(key);
        assert!(said.contains(want), "{key}={value}: {said}");
    }
}

/// `sidecar.env` must not replace a variable that the webhook writes; other variables may begin
/// with the same prefix.
#[test]
fn sidecar_env_refuses_only_variables_of_the_webhook() {
    let text = std::fs::read_to_string(case::directory().join("fab-timeouts.injected.yaml"));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text.unwrap()).unwrap();
    let sidecar = &documents.last().unwrap()["spec"]["initContainers"][0];
    let names = sidecar["env"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str());
    let names: Vec<&str> = names.filter(|name| name.starts_with("FAB_SESSION_")).collect();
    assert_eq!(names.len(), 9, "the eight variables of the webhook and one of fab: {names:?}");
    for name in names {
        let config = json!({"sidecar": {"env": {name: "x"}}});
        let is_refused = name != "FAB_SESSION_IDLE_MS";
        let rendered = render_with(&json!({"config": config}));
        assert_eq!(rendered.is_err(), is_refused, "{name}");
        assert!(rendered.err().is_none_or(|said| said.contains(name)), "{name}");
        assert_eq!(Config::parse(&config.to_string()).is_err(), is_refused, "{name}");
    }
}

/// The chart must not render a config with which the program does not start: an upgrade would
/// give the API server a rule that the webhook does not use.
#[test]
fn contradictions_fail_the_render_and_the_program() {
    let cases = [
        (json!([{"name": "runtime", "fenced": true, "credentials": "exempt"}]), "unprotected"),
        (
            json!([{"name": "runtime", "selectors": ["a=b"], "credentials": "env"}, {"name": "fence", "fenced": true}]),
            "a tenant writes labels",
        ),
        (json!([{"name": "runtime", "selectors": ["a=b"]}]), "fenced: true"),
        (json!([{"name": "a", "fenced": true}, {"name": "a", "creators": ["x"]}]), "same name"),
    ];
    let components = cases.map(|(components, want)| (json!({"components": components}), want));
    let of = |requests, limits| json!({"sidecar": {"resources": {"requests": requests, "limits": limits}}});
    let resources = [
        (
            of(json!({"cpu": "10m", "memory": "65Mi"}), json!({"cpu": 1, "memory": "64Mi"})),
            "requests.memory is more",
        ),
        (
            of(json!({"cpu": 2, "memory": "32Mi"}), json!({"cpu": "1999m", "memory": "1Gi"})),
            "requests.cpu is more",
        ),
        (
            of(json!({"cpu": "1000m", "memory": "1Mi"}), json!({"cpu": 2, "memory": "1Gi"})),
            "the shortest form",
        ),
        (
            of(json!({"cpu": "1m", "memory": "1Mi"}), json!({"cpu": 2, "memory": "1024Mi"})),
            "the shortest form",
        ),
    ];
    for (config, want) in components.into_iter().chain(resources) {
        let values = process::own_directory();
        let file = values.path().join("values.yaml");
        std::fs::write(&file, json!({"config": config}).to_string()).unwrap();
        let said =
            helm::render(&chart(), "injector", "injector", &[], Some(&file)).expect_err(want);
        assert!(said.contains(want), "{said}");
        assert!(Config::parse(&config.to_string()).is_err(), "{config}");
    }
}

#[test]
fn a_disallowed_static_role_fails_render_and_program() {
    let role = "arn:aws:iam::111122223333:role/agents/acme";
    let cases = [
        (json!({"partitions": ["aws-cn"]}), Some("config.roles.allow.partitions")),
        (json!({"accounts": ["999999999999"]}), Some("config.roles.allow.accounts")),
        (json!({"pathPrefixes": ["/other/"]}), Some("config.roles.allow.pathPrefixes")),
        (
            json!({"partitions": ["aws"], "accounts": ["111122223333"], "pathPrefixes": ["/other/", "/agents/"]}),
            None,
        ),
    ];
    for (allow, want) in cases {
        let values = process::own_directory();
        let file = values.path().join("values.yaml");
        let roles = json!({"acme": role});
        let config = json!({"roles": {"allow": allow}});
        let all = json!({"staticRoles": roles, "config": config});
        std::fs::write(&file, all.to_string()).unwrap();
        let rendered = helm::render(&chart(), "injector", "injector", &[], Some(&file));
        let allowed = Config::parse(&config.to_string()).unwrap().roles.allowed;
        let read = roles::file::parse(&json!({"roles": roles}).to_string(), &allowed);
        assert_eq!((rendered.is_ok(), read.is_ok()), (want.is_none(), want.is_none()), "{allow}");
        let said = rendered.err().unwrap_or_default();
        assert!(said.contains(want.unwrap_or_default()), "{said}");
    }
}

#[test]
fn contradictory_certificate_and_network_values_fail() {
    let certs = format!("{NAME}-certs");
    let cases = [
        (json!({"certificates": {"mode": "existingSecret"}}), "secretName is empty"),
        (
            json!({"certificates": {"existingSecret": {"secretName": "own"}}}),
            "certificates.existingSecret is set, but certificates.mode is selfManaged",
        ),
        (
            json!({"certificates": {"mode": "certManager", "existingSecret": {"caBundle": CA}}}),
            "certificates.existingSecret is set, but certificates.mode is certManager",
        ),
        (
            json!({"certificates": {"mode": "existingSecret", "existingSecret": {"secretName": "own", "caBundle": "-----BEGIN EC PRIVATE KEY-----"}}}),
            "contains a private key",
        ),
        (
            json!({"certificates": {"certManager": {"issuerRef": {"name": "own"}}}}),
            "uses no issuer",
        ),
        (json!({"certificates": {"mode": "helm"}}), "certificates/mode"),
        (json!({"tls": {"secretName": "own"}}), "additional properties 'tls' not allowed"),
        (json!({"serviceAccount": {"name": certs}}), "the webhook may write nothing"),
        (
            json!({"networkPolicy": {"kind": "cilium", "podCidrs": ["10.0.0.0/8"]}}),
            "never by address",
        ),
        (
            json!({"networkPolicy": {"kind": "cilium", "apiServerCidrs": ["10.0.0.0/8"]}}),
            "never by address",
        ),
        (
            json!({"networkPolicy": {"apiServerCidrs": ["10.0.0.0/16"], "podCidrs": ["10.0.1.0/24"]}}),
            "only within the block",
        ),
        (json!({"networkPolicy": {"apiServerCidrs": []}}), "apiServerCidrs"),
        (json!({"networkPolicy": {"apiServerCidrs": ["10.0.0.1"]}}), "apiServerCidrs"),
        (json!({"networkPolicy": {"dnsCidrs": ["172.20.0.10"]}}), "dnsCidrs"),
        (json!({"awsCa": {"configMap": "a", "secret": "b"}}), "one object has the CA certificates"),
        (json!({"config": {"awsCaBundle": "corporate.pem"}}), "--set-file"),
        (
            json!({"config": {"awsCaBundle": "-----BEGIN EC PRIVATE KEY-----"}}),
            "awsCaBundle contains a private key",
        ),
        (json!({"config": {"awsCaBundle": format!("# $(A)\n{CA}")}}), "would expand it"),
        (
            json!({"config": {"baseCredentials": {"source": "environment", "ipFamily": "ipv6"}}}),
            "does not call the Pod Identity agent",
        ),
    ];
    for (values, want) in cases {
        let said = render_with(&values).expect_err(want);
        assert!(said.contains(want), "{values}: {said}");
    }
}

#[test]
fn two_renders_are_the_same() {
    assert_eq!(all_ways(), all_ways());
}

/// Fields of other writers have no key here: an upgrade, or GitOps, would remove them.
#[test]
fn only_an_existing_secret_sets_the_ca_bundle() {
    let given: Vec<(Value, Value, Value)> = all_ways()
        .iter()
        .map(|(_, manifests)| {
            let configuration = of_kind(manifests, "MutatingWebhookConfiguration");
            let bundles: Vec<Option<&Value>> = configuration["webhooks"]
                .as_array()
                .unwrap()
                .iter()
                .map(|webhook| webhook["clientConfig"].get("caBundle"))
                .collect();
            let injected =
                &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
            let secrets: Vec<&Value> =
                manifests.iter().filter(|manifest| manifest["kind"] == "Secret").collect();
            (json!(bundles), injected.clone(), json!(secrets))
        })
        .collect();
    let secret = json!([{
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": format!("{NAME}-tls"), "namespace": "fab-session-injector",
            "labels": of_kind(&render(&[]).unwrap(), "ConfigMap")["metadata"]["labels"],
        },
    }]);
    let none = json!([null, null]);
    let bundle =
        json!(["LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"]);
    let injected = json!(format!("fab-session-injector/{NAME}"));
    let want = [
        (none.clone(), json!(null), secret),
        (none.clone(), injected.clone(), json!([])),
        (none, injected, json!([])),
        (bundle, json!(null), json!([])),
    ];
    // The same for both kinds of network policy.
    let twice: Vec<_> = want.into_iter().flat_map(|want| [want.clone(), want]).collect();
    assert_eq!(given, twice);
}

#[test]
fn webhook_pods_never_mount_the_ca_key() {
    let secrets = ["-tls", "-cert-manager", "-cert-manager", "own"];
    let ways = all_ways();
    for (index, (way, manifests)) in ways.iter().enumerate() {
        let pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"].clone();
        let volumes = pod["volumes"].as_array().unwrap();
        let secret: Vec<&Value> =
            volumes.iter().filter_map(|volume| volume.get("secret")).collect();
        let [secret] = secret[..] else { panic!("{way}: {secret:?}") };
        assert!(secret["secretName"].as_str().unwrap().ends_with(secrets[index / 2]), "{way}");
        let items =
            json!([{"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"}]);
        assert_eq!(secret["items"], items, "{way}");
        assert!(secret.get("optional").is_none(), "{way}");
        // The Secret with the CA of cert-manager.
        let pods = json!(pods(manifests)).to_string();
        assert!(!pods.contains("cert-manager-ca") && !pods.contains("ca.key"), "{way}");
    }
}

#[test]
fn every_pod_is_hardened_alike() {
    for (way, manifests) in all_ways() {
        let pods = pods(&manifests);
        // Webhook and test, and `certs` with selfManaged.
        assert_eq!(pods.len(), if way.contains("selfManaged") { 3 } else { 2 }, "{way}");
        for (name, pod) in pods {
            let spec = &pod["spec"];
            assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
            assert_eq!(spec["enableServiceLinks"], false, "{name}");
            assert_eq!(spec["priorityClassName"], "system-cluster-critical", "{name}");
            let security = json!({"runAsNonRoot": true, "runAsUser": 61017, "runAsGroup": 61017, "fsGroup": 61017, "seccompProfile": {"type": "RuntimeDefault"}});
            assert_eq!(spec["securityContext"], security, "{name}");
            assert_eq!(spec.get("initContainers"), None, "{name}");
            let [container] = &spec["containers"].as_array().unwrap()[..] else { panic!("{name}") };
            let security = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
            assert_eq!(container["securityContext"], security, "{name}");
            assert_eq!(container["image"], "ghcr.io/nanohype/fab-session-injector:0.1.0", "{name}");
            for amount in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
                let resources = &container["resources"];
                assert!(
                    resources.pointer(amount).is_some_and(Value::is_string),
                    "{name}: {amount}"
                );
            }
            for mount in container["volumeMounts"].as_array().unwrap() {
                assert_eq!(mount["readOnly"], true, "{name}");
                assert_eq!(mount.get("subPath"), None, "{name}");
            }
        }
    }
}

/// Labels for policies of the cluster are on all objects, and no selector has them.
#[test]
fn labels_and_annotations_reach_every_object_and_pod() {
    let values = json!({
        "commonLabels": {"platform.example/team": "a", "cost": "1"},
        "podLabels": {"pods": "all"},
        "podAnnotations": {"note": "b: c"},
        "metrics": {
            "serviceMonitor": {"enabled": true, "labels": {"release": "own"}},
            "prometheusRule": {"enabled": true},
            "dashboard": {"enabled": true},
        },
    });
    let manifests = render_with(&values).unwrap();
    assert!(manifests.len() > 30, "{}", manifests.len());
    for manifest in &manifests {
        let (kind, metadata) = (&manifest["kind"], &manifest["metadata"]);
        let labels = &metadata["labels"];
        assert_eq!(labels["platform.example/team"], "a", "{kind} {metadata}");
        assert_eq!(labels["cost"], "1", "{kind} {metadata}");
        for path in ["/spec/selector", "/spec/podSelector", "/spec/topologySpreadConstraints"] {
            let selector = manifest.pointer(path).unwrap_or(&Value::Null).to_string();
            assert!(
                !selector.contains("cost") && !selector.contains("pods\""),
                "{kind} {selector}"
            );
        }
    }
    let pods = pods(&manifests);
    assert_eq!(pods.len(), 3);
    for (name, pod) in pods {
        let metadata = &pod["metadata"];
        assert_eq!(metadata["labels"]["pods"], "all", "{name}");
        assert_eq!(metadata["labels"]["cost"], "1", "{name}");
        assert_eq!(metadata["annotations"]["note"], "b: c", "{name}");
    }
    let monitor = of_kind(&manifests, "ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "own");

    let contradictions = [
        (json!({"commonLabels": {"app.kubernetes.io/name": "x"}}), "the chart sets it too"),
        (json!({"podLabels": {"app.kubernetes.io/component": "x"}}), "the chart sets it too"),
        (json!({"commonLabels": {"a": "1"}, "podLabels": {"a": "2"}}), "commonLabels sets it too"),
        (json!({"commonLabels": {"grafana_dashboard": "1"}}), "metrics.dashboard.labels has"),
        (json!({"podAnnotations": {"checksum/config": "x"}}), "the chart sets it too"),
        (json!({"commonLabels": {"a": "b c"}}), "commonLabels"),
        (json!({"commonLabels": {"a b": "c"}}), "commonLabels"),
        (json!({"podAnnotations": {"a": 1}}), "podAnnotations"),
        (json!({"certs": {"resources": {"limit": {}}}}), "limit"),
    ];
    for (values, want) in contradictions {
        let said = render_with(&values).expect_err(want);
        assert!(said.contains(want), "{values}: {said}");
    }
}

/// Each container's resources are values.
#[test]
fn each_container_has_the_given_resources() {
    let resources =
        |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": "1Gi"}});
    let values = json!({
        "resources": resources("1"),
        "certs": {"resources": resources("2")},
        "test": {"resources": resources("3")},
    });
    let manifests = render_with(&values).unwrap();
    let found: Vec<(String, Value)> = pods(&manifests)
        .into_iter()
        .map(|(name, pod)| {
            let limits = &pod["spec"]["containers"][0]["resources"]["limits"];
            assert_eq!(limits["memory"], "1Gi", "{name}");
            (name, limits["cpu"].clone())
        })
        .collect();
    let cpu = |name: &str| {
        found.iter().find(|(found, _)| found == name).map(|(_, cpu)| cpu.as_str().unwrap())
    };
    assert_eq!(cpu(NAME), Some("1"));
    assert_eq!(cpu(&format!("{NAME}-certs")), Some("2"));
    assert_eq!(cpu(&format!("{NAME}-test")), Some("3"));
}

/// In its own user namespace, a pod shares its UID with no other pod.
#[test]
fn pods_have_user_namespaces_where_these_are_ga() {
    let cases = [
        ("auto", "v1.32.0", None),
        ("auto", "v1.35.9-eks-1a2b3c4", None),
        ("auto", "v1.36.0", Some(false)),
        ("auto", "v1.36.0-eks-1a2b3c4", Some(false)),
        ("auto", "v1.40.1", Some(false)),
        ("false", "v1.32.0", Some(false)),
        ("true", "v1.36.0", Some(true)),
    ];
    for (value, version, want) in cases {
        let rendered = helm::render_for(&chart(), version, &[("hostUsers", value)]).unwrap();
        let manifests: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
        let manifests: Vec<Value> =
            manifests.into_iter().filter(|manifest| !manifest.is_null()).collect();
        let pods = pods(&manifests);
        assert_eq!(pods.len(), 3);
        for (name, pod) in pods {
            let found = pod["spec"].get("hostUsers").cloned();
            assert_eq!(found, want.map(Value::from), "{value}, {version}: {name}");
        }
    }
    let said = render(&[("hostUsers", "never")]).unwrap_err();
    assert!(said.contains("hostUsers"), "{said}");
    let said = render(&[("hostUsers", "null")]).unwrap_err();
    assert!(said.contains("hostUsers"), "{said}");
    let said = render(&[("config.sidecar.uid", "61017")]).unwrap_err();
    assert!(said.contains("the UID of the chart's own pods"), "{said}");
}

/// A Service that selected the pods of the other deployment would send reviews to it.
#[test]
fn each_selector_matches_one_component() {
    for (way, manifests) in all_ways() {
        let pods = pods(&manifests);
        let selected = |selector: &Value| -> Vec<&str> {
            let wanted = selector.as_object().unwrap();
            let has_all = |labels: &Value| wanted.iter().all(|(key, value)| labels[key] == *value);
            let chosen = pods.iter().filter(|(_, pod)| has_all(&pod["metadata"]["labels"]));
            chosen.map(|(name, _)| name.as_str()).collect()
        };
        let mut selectors = 0;
        for manifest in &manifests {
            let name = manifest["metadata"]["name"].as_str().unwrap();
            let places: &[&str] = match manifest["kind"].as_str().unwrap() {
                "Service" => &["/spec/selector"],
                "Deployment" if name == NAME => &[
                    "/spec/selector/matchLabels",
                    "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels",
                    "/spec/template/spec/topologySpreadConstraints/1/labelSelector/matchLabels",
                ],
                "Deployment" | "PodDisruptionBudget" => &["/spec/selector/matchLabels"],
                "NetworkPolicy" => &["/spec/podSelector/matchLabels"],
                "CiliumNetworkPolicy" => &["/spec/endpointSelector/matchLabels"],
                _ => continue,
            };
            for place in places {
                assert_eq!(selected(manifest.pointer(place).unwrap()), [name], "{way}: {place}");
                selectors += 1;
            }
        }
        assert_eq!(selectors, if way.contains("selfManaged") { 8 } else { 6 }, "{way}");
    }
}

/// Not every cluster has the CRDs of these objects.
#[test]
fn monitoring_is_off_by_default() {
    let kinds = |manifests: &[Value]| -> Vec<String> {
        let named = |manifest: &Value| {
            let name = manifest["metadata"]["name"].as_str()?.strip_prefix(NAME)?;
            Some(format!("{}{name}", manifest["kind"].as_str()?))
        };
        manifests.iter().filter_map(named).collect()
    };
    let without = kinds(&render(&[]).unwrap());
    let added = |metrics: Value, mode: &str| -> Vec<String> {
        let values = json!({"metrics": metrics, "certificates": {"mode": mode}});
        let with = kinds(&render_with(&values).unwrap());
        with.into_iter().filter(|kind| !without.contains(kind)).collect()
    };
    let on = json!({"enabled": true});
    assert_eq!(added(json!({}), "selfManaged"), [""; 0]);
    assert_eq!(added(json!({"prometheusRule": on}), "selfManaged"), ["PrometheusRule"]);
    assert_eq!(added(json!({"dashboard": on}), "selfManaged"), ["ConfigMap-dashboard"]);
    let of_webhook = ["Service-metrics", "ServiceMonitor-metrics"];
    let of_certs = ["Service-certs-metrics", "ServiceMonitor-certs-metrics"];
    let mut both = [of_webhook, of_certs].concat();
    both.sort_unstable();
    let mut found = added(json!({"serviceMonitor": on}), "selfManaged");
    found.sort();
    assert_eq!(found, both);
    let of_cert_manager = ["Certificate", "Certificate-ca", "Issuer-ca", "Issuer-selfsigned"];
    let mut found = added(json!({"serviceMonitor": on}), "certManager");
    found.retain(|kind| !of_cert_manager.contains(&kind.as_str()));
    assert_eq!(found, of_webhook);
}

#[test]
fn prometheus_finds_each_component_exactly_once() {
    let values = json!({"metrics": {
        "serviceMonitor": {"enabled": true, "interval": "15s", "labels": {"release": "own"}},
        "prometheusRule": {"enabled": true, "labels": {"release": "own"}},
        "dashboard": {"enabled": true, "labels": {"own/label": "x"}},
    }});
    let mut with_issuer: Value = serde_saphyr::from_str(include_str!("chart/issuer.yaml")).unwrap();
    with_issuer["metrics"] = values["metrics"].clone();
    let manifests = render_with(&with_issuer).unwrap();
    let has = |labels: &Value, wanted: &Value| {
        wanted.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
    };
    let mut found = Vec::new();
    for monitor in manifests.iter().filter(|manifest| manifest["kind"] == "ServiceMonitor") {
        assert_eq!(monitor["metadata"]["labels"]["release"], "own");
        let [endpoint] = &monitor["spec"]["endpoints"].as_array().unwrap()[..] else { panic!() };
        assert_eq!(endpoint, &json!({"port": "health", "path": "/metrics", "interval": "15s"}));
        let chosen = &monitor["spec"]["selector"]["matchLabels"];
        let services: Vec<&Value> = manifests
            .iter()
            .filter(|manifest| manifest["kind"] == "Service")
            .filter(|service| has(&service["metadata"]["labels"], chosen))
            .collect();
        let [service] = services[..] else { panic!("{chosen}: {services:?}") };
        let service = &service["spec"];
        // Each replica separately, also replicas that are not ready.
        assert_eq!(
            (&service["clusterIP"], &service["publishNotReadyAddresses"]),
            (&json!("None"), &json!(true))
        );
        let [port] = &service["ports"].as_array().unwrap()[..] else { panic!("{service}") };
        assert_eq!(port["name"], "health");
        for (name, pod) in pods(&manifests) {
            if has(&pod["metadata"]["labels"], &service["selector"]) {
                let ports = &pod["spec"]["containers"][0]["ports"];
                let is_it = |open: &&Value| {
                    open["name"] == port["targetPort"] && open["containerPort"] == port["port"]
                };
                assert!(
                    ports.as_array().unwrap().iter().any(|open| is_it(&open)),
                    "{name}: {ports}"
                );
                found.push(name);
            }
        }
    }
    found.sort();
    let components = ["", "-certs", "-issuer", "-issuer-certs"];
    assert_eq!(found, components.map(|component| format!("{NAME}{component}")));
    let rule = of_kind(&manifests, "PrometheusRule");
    assert_eq!(rule["metadata"]["labels"]["release"], "own");
    let dashboard = named(&manifests, "ConfigMap", &format!("{NAME}-dashboard")).unwrap();
    assert_eq!(dashboard["metadata"]["labels"]["own/label"], "x");

    // A Service's name has at most 63 characters, and two names must stay different.
    let mut long = with_issuer.clone();
    long["fullnameOverride"] = "n".repeat(63).into();
    let names: Vec<String> = render_with(&long)
        .unwrap()
        .iter()
        .filter(|manifest| manifest["kind"] == "Service")
        .map(|service| service["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 6);
    assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 6, "{names:?}");
}

#[test]
fn contradictions_about_monitoring_fail_the_render() {
    let on = json!({"enabled": true});
    let days = |days: u32| json!({"enabled": true, "certificateDays": days});
    let cases = [
        (
            json!({"metrics": {"serviceMonitor": on}, "networkPolicy": {"metricsNamespaces": []}}),
            Some("only the kubelet reaches the metrics"),
        ),
        (
            json!({"metrics": {"serviceMonitor": on}, "networkPolicy": {"enabled": false, "metricsNamespaces": []}}),
            None,
        ),
        (
            json!({"metrics": {"serviceMonitor": {"labels": {"release": "own"}}}}),
            Some("metrics.serviceMonitor.labels is set"),
        ),
        (
            json!({"metrics": {"prometheusRule": {"labels": {"release": "own"}}}}),
            Some("metrics.prometheusRule.labels is set"),
        ),
        (json!({"metrics": {"prometheusRule": days(10)}}), Some("10 days before expiry")),
        (json!({"metrics": {"prometheusRule": days(9)}}), None),
        (json!({"metrics": {"prometheusRule": {"certificateDays": 10}}}), None),
        (
            json!({"metrics": {"prometheusRule": days(30)}, "certificates": {"mode": "certManager"}}),
            Some("30 days before expiry"),
        ),
        (
            json!({"metrics": {"prometheusRule": days(29)}, "certificates": {"mode": "certManager"}}),
            None,
        ),
        (
            json!({"metrics": {"prometheusRule": days(60)}, "certificates": {"mode": "existingSecret", "existingSecret": {"secretName": "own"}}}),
            None,
        ),
        (
            json!({"metrics": {"dashboard": {"enabled": true, "labels": {"grafana_dashboard": null}}}}),
            Some("selects dashboards by label"),
        ),
        (json!({"metrics": {"serviceMonitor": {"interval": "5m"}}}), Some("interval")),
        (json!({"metrics": {"prometheusRule": days(0)}}), Some("certificateDays")),
        (json!({"metrics": {"podMonitor": on}}), Some("podMonitor")),
    ];
    for (values, want) in cases {
        let said = render_with(&values).err();
        assert_eq!(said.is_some(), want.is_some(), "{values}: {said:?}");
        assert!(said.unwrap_or_default().contains(want.unwrap_or_default()), "{values}");
    }
}

#[test]
fn own_spread_constraints_replace_those_of_the_chart() {
    let spread = |constraints: Value| {
        let manifests = render_with(&json!({"topologySpreadConstraints": constraints}))?;
        let pod = of_kind(&manifests, "Deployment")["spec"]["template"]["spec"].clone();
        Ok::<_, String>(pod["topologySpreadConstraints"].clone())
    };
    let default = spread(json!([])).unwrap();
    let keys = |constraints: &Value| {
        let all = constraints.as_array().unwrap().iter();
        all.map(|it| it["topologyKey"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&default), ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
    let selector = &default[0]["labelSelector"];
    let own = json!([
        {"topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2},
        {"topologyKey": "rack", "labelSelector": {"matchLabels": {"a": "b"}}, "nodeTaintsPolicy": "Honor"},
        {"topologyKey": "rack", "matchLabelKeys": []},
    ]);
    let want = json!([
        {
            "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2,
            "labelSelector": selector, "matchLabelKeys": ["pod-template-hash"],
        },
        {
            "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1,
            "labelSelector": {"matchLabels": {"a": "b"}}, "nodeTaintsPolicy": "Honor",
        },
        {
            "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1,
            "labelSelector": selector, "matchLabelKeys": [],
        },
    ]);
    assert_eq!(spread(own).unwrap(), want);
    for wrong in [json!([{}]), json!([{"topologyKey": "a", "maxSkew": 0}])] {
        assert!(spread(wrong).is_err());
    }
}

#[test]
fn drains_and_rollouts_keep_a_replica_and_finish() {
    for replicas in ["1", "2", "5"] {
        let manifests = render(&[("replicaCount", replicas)]).unwrap();
        let budget = &of_kind(&manifests, "PodDisruptionBudget")["spec"];
        assert_eq!(budget["maxUnavailable"], 1);
        assert_eq!(budget.get("minAvailable"), None);
        assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
        let deployment = &of_kind(&manifests, "Deployment")["spec"];
        let strategy =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        assert_eq!(deployment["strategy"], strategy);
        let pod = &deployment["template"]["spec"];
        for constraint in pod["topologySpreadConstraints"].as_array().unwrap() {
            assert_eq!(constraint["whenUnsatisfiable"], "ScheduleAnyway");
            assert_eq!(constraint["matchLabelKeys"], json!(["pod-template-hash"]));
        }
        // The program's shutdown time; an argument sets one part of it.
        let arguments: Vec<&str> = pod["containers"][0]["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|argument| argument.as_str().unwrap())
            .collect();
        let cli = Cli::try_parse_from(["fab-session-injector"].into_iter().chain(arguments));
        let Command::Webhook(webhook) = cli.unwrap().command else { panic!() };
        let (delay, grace_of_what_is_in_flight) = (webhook.shutdown_delay, 10);
        assert!(delay >= 5, "API servers and nodes need time to remove the address");
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > delay + grace_of_what_is_in_flight);
    }
}

/// The webhook reads the file that the chart mounts, and trusts it at start.
#[test]
fn ca_certificates_are_mounted_into_the_webhook_only() {
    let sources = [
        (
            json!({"configMap": "bundle"}),
            json!({"name": "bundle", "items": [{"key": "ca.crt", "path": "ca.crt"}]}),
        ),
        (
            json!({"secret": "bundle", "key": "root.pem"}),
            json!({"secretName": "bundle", "items": [{"key": "root.pem", "path": "ca.crt"}]}),
        ),
    ];
    for (values, want) in sources {
        let manifests = render_with(&json!({"awsCa": values})).unwrap();
        for (name, pod) in pods(&manifests) {
            let volumes = pod["spec"]["volumes"].as_array().unwrap().iter();
            let volume = volumes.clone().find(|volume| volume["name"] == "aws-ca");
            let container = &pod["spec"]["containers"][0];
            if name != NAME {
                assert!(volume.is_none() && !container.to_string().contains("aws-ca"), "{name}");
                continue;
            }
            let volume = volume.unwrap();
            assert_eq!(volume.get("configMap").or(volume.get("secret")), Some(&want));
            let arguments = container["args"].as_array().unwrap().iter();
            let arguments = arguments.map(|argument| argument.as_str().unwrap());
            let cli = Cli::try_parse_from(["fab-session-injector"].into_iter().chain(arguments));
            let Command::Webhook(webhook) = cli.unwrap().command else { panic!() };
            let file = webhook.aws_ca_bundle.unwrap();
            let mounts = container["volumeMounts"].as_array().unwrap();
            let mount = mounts.iter().find(|mount| mount["name"] == "aws-ca").unwrap();
            assert_eq!(file, Path::new(mount["mountPath"].as_str().unwrap()).join("ca.crt"));
        }
    }
    assert!(!json!(render(&[]).unwrap()).to_string().contains("aws-ca"));
}

/// With the network of the node: the webhook only, and nothing that Kubernetes forbids or ignores there.
#[test]
fn only_the_webhook_uses_the_network_of_its_node() {
    let values = json!({"hostNetwork": true, "ports": {"webhook": 9443, "health": 9081}});
    for kind in ["kubernetes", "cilium"] {
        let mut values = values.clone();
        values["networkPolicy"] = json!({"kind": kind});
        values["hostUsers"] = json!(false);
        let manifests = render_with(&values).unwrap();
        for (name, pod) in pods(&manifests) {
            let spec = &pod["spec"];
            let is_webhook = name == NAME;
            assert_eq!(spec.get("hostNetwork"), is_webhook.then_some(&json!(true)), "{name}");
            assert_eq!(spec.get("hostUsers"), (!is_webhook).then_some(&json!(false)), "{name}");
            let dns = json!("ClusterFirstWithHostNet");
            assert_eq!(spec.get("dnsPolicy"), is_webhook.then_some(&dns), "{name}");
        }
        let policies =
            manifests.iter().filter(|it| it["kind"].as_str().unwrap().ends_with("NetworkPolicy"));
        let names: Vec<&Value> = policies.map(|policy| &policy["metadata"]["name"]).collect();
        assert_eq!(names, [&json!(format!("{NAME}-certs"))]);
        let container =
            &of_kind(&manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        for (index, (port, argument)) in
            [(9443, "--listen=[::]:9443"), (9081, "--health-listen=[::]:9081")].iter().enumerate()
        {
            assert_eq!(container["ports"][index]["containerPort"], *port);
            assert!(container["args"].as_array().unwrap().contains(&json!(argument)));
        }
    }
    // A node has one replica at most, so a rollout may need the place of an old one.
    for (replicas, unavailable) in [(1, 0), (2, 1), (5, 1)] {
        let manifests =
            render_with(&json!({"hostNetwork": true, "replicaCount": replicas})).unwrap();
        let strategy = &of_kind(&manifests, "Deployment")["spec"]["strategy"]["rollingUpdate"];
        assert_eq!(strategy, &json!({"maxSurge": 1, "maxUnavailable": unavailable}));
    }
    let own = render_with(&json!({"hostNetwork": true, "dnsPolicy": "Default"})).unwrap();
    let pod = &of_kind(&own, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["dnsPolicy"], "Default");
    let notes = helm::notes(&chart(), &[("hostNetwork", "true"), ("ports.webhook", "9443")], None);
    for wanted in [
        "port 9443 of the\nnodes",
        "pod-security.kubernetes.io/enforce=privileged",
        "network policies do not apply to these pods",
    ] {
        assert!(notes.contains(wanted), "{wanted}\n{notes}");
    }
    assert!(!notes.contains("any pod may reach"), "{notes}");
    for (values, want) in [
        (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"}), "uses the DNS of the node"),
        (json!({"ports": {"webhook": 8081}}), "each needs a port of its own"),
        (json!({"ports": {"webhook": 443}}), "webhook"),
        (json!({"dnsPolicy": "None"}), "dnsPolicy"),
    ] {
        let said = render_with(&values).expect_err(want);
        assert!(said.contains(want), "{said}");
    }
}

#[test]
fn the_webhook_may_not_write_and_no_role_may_create() {
    let manifests = render(&[]).unwrap();
    let certs = format!("{NAME}-certs");
    let mut rights: Vec<(String, Value)> = Vec::new();
    for binding in &manifests {
        let kind = binding["kind"].as_str().unwrap();
        let Some(role @ ("Role" | "ClusterRole")) = kind.strip_suffix("Binding") else { continue };
        assert_eq!(binding["roleRef"]["kind"], role);
        let name = binding["roleRef"]["name"].as_str().unwrap();
        let [subject] = &binding["subjects"].as_array().unwrap()[..] else { panic!("{binding}") };
        assert_eq!(subject["namespace"], "fab-session-injector");
        let account = subject["name"].as_str().unwrap().to_owned();
        for rule in named(&manifests, role, name).unwrap()["rules"].as_array().unwrap() {
            rights.push((account.clone(), rule.clone()));
        }
    }
    rights.sort_by_key(|(account, rule)| (account.clone(), rule.to_string()));
    let want = [
        (
            NAME.to_owned(),
            json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]}),
        ),
        (
            certs.clone(),
            json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": [format!("{NAME}-tls")], "verbs": ["get", "list", "watch", "patch"]}),
        ),
        (
            certs.clone(),
            json!({"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"], "resourceNames": ["fab-session-injector"], "verbs": ["get", "list", "watch", "patch"]}),
        ),
    ];
    assert_eq!(rights, want);
    let accounts: Vec<(String, Value)> = pods(&manifests)
        .into_iter()
        .map(|(name, pod)| (name, pod["spec"]["serviceAccountName"].clone()))
        .collect();
    let want = [
        (&*certs, json!(certs)),
        (NAME, json!(NAME)),
        (&*format!("{NAME}-test"), json!("default")),
    ];
    assert_eq!(accounts, want.map(|(name, account)| (name.to_owned(), account)));
    // In the other modes this service account does not exist.
    for (way, manifests) in all_ways().iter().filter(|(way, _)| !way.contains("selfManaged")) {
        assert!(!json!(manifests).to_string().contains(&certs), "{way}");
    }
}

/// The arguments of the deployment `certs`, exactly.
#[test]
fn certs_gets_its_arguments_from_the_chart() {
    let manifests = render(&[]).unwrap();
    let deployment = named(&manifests, "Deployment", &format!("{NAME}-certs")).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let want = json!([
        "certs",
        "--namespace=fab-session-injector",
        format!("--secret={NAME}-tls"),
        format!("--service={NAME}"),
        "--webhook-configuration=fab-session-injector",
        "--health-listen=[::]:8081",
    ]);
    assert_eq!(container["args"], want);
    let arguments = want.as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    let cli = Cli::try_parse_from(["fab-session-injector"].into_iter().chain(arguments)).unwrap();
    assert!(matches!(cli.command, Command::Certs(_)), "{:?}", cli.command);
    assert!(named(&manifests, "Service", NAME).is_some());
}

#[test]
fn network_policies_allow_only_the_needed_traffic() {
    // NetworkPolicy: the peers and ports of each rule.
    let summary = |values: &Value, name: &str| {
        let policy = named(&render_with(values).unwrap(), "NetworkPolicy", name).unwrap();
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        let rules = |direction: &str, peers: &str| -> Vec<Value> {
            let rules = policy["spec"][direction].as_array().cloned().unwrap_or_default();
            let rule = |rule: Value| {
                // A rule without peers or ports would match all of them.
                assert!(!rule[peers].as_array().unwrap().is_empty(), "{rule}");
                let ports =
                    rule["ports"].as_array().unwrap().iter().map(|port| port["port"].clone());
                json!([rule[peers], ports.collect::<Vec<_>>()])
            };
            rules.into_iter().map(rule).collect()
        };
        (rules("ingress", "from"), rules("egress", "to"))
    };
    let certs = format!("{NAME}-certs");
    let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    let everywhere = json!([block("0.0.0.0/0"), block("::/0")]);
    let dns_pods = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    });
    let dns = json!([[dns_pods, block("169.254.20.10/32")], [53, 53]]);
    let monitoring = json!([[{"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring"]},
    ]}}], [8081]]);
    let pod_identity = json!([[block("169.254.170.23/32"), block("fd00:ec2::23/128")], [80]]);

    let (ingress, egress) = summary(&json!({}), NAME);
    assert_eq!(ingress, [json!([everywhere, [8443]]), monitoring.clone()]);
    assert_eq!(egress, [dns.clone(), json!([everywhere, [443, 6443]]), pod_identity]);
    let (ingress, egress) = summary(&json!({"networkPolicy": {"apiServerPorts": [6443]}}), &certs);
    assert_eq!(ingress, [monitoring]);
    assert_eq!(egress, [dns, json!([everywhere, [6443]])]);

    let values = json!({"networkPolicy": {
        "podCidrs": ["100.64.0.0/10", "fd00:1::/64"], "metricsNamespaces": [], "apiServerPorts": [16443],
        "extraEgress": [{"to": [block("10.0.0.9/32")], "ports": [{"port": 3128}]}],
        "dnsCidrs": ["172.20.0.10/32", "fd12::a/128"],
    }, "ports": {"webhook": 9443, "health": 9081}});
    let (ingress, egress) = summary(&values, NAME);
    let except = |cidr: &str, except: &str| json!({"ipBlock": {"cidr": cidr, "except": [except]}});
    let peers = json!([except("0.0.0.0/0", "100.64.0.0/10"), except("::/0", "fd00:1::/64")]);
    assert_eq!(ingress, [json!([peers, [9443]])]);
    let servers = json!([block("172.20.0.10/32"), block("fd12::a/128")]);
    assert_eq!(json!(egress[0][0].as_array().unwrap()[1..]), servers);
    assert_eq!(egress[1][1], json!([16443, 443]));
    assert_eq!(egress[3], json!([[block("10.0.0.9/32")], [3128]]));

    let (_, egress) = summary(&json!({"networkPolicy": {"dnsCidrs": []}}), &certs);
    assert_eq!(egress[0][0], json!([dns_pods]));

    let off = render(&[("networkPolicy.enabled", "false")]).unwrap();
    assert!(!json!(off).to_string().contains("NetworkPolicy"));
}

#[test]
fn cilium_policies_have_no_ip_addresses() {
    let manifests = render(&[("networkPolicy.kind", "cilium")]).unwrap();
    assert!(!manifests.iter().any(|manifest| manifest["kind"] == "NetworkPolicy"));
    let summary = |name: &str| {
        let policy = named(&manifests, "CiliumNetworkPolicy", name).unwrap();
        assert!(!policy.to_string().to_lowercase().contains("cidr"), "{policy}");
        let rules = |direction: &str| -> Vec<Value> {
            let rule = |rule: &Value| {
                let mut rule = rule.clone();
                let ports = rule.as_object_mut().unwrap().shift_remove("toPorts").unwrap();
                let ports = ports[0]["ports"].as_array().unwrap().iter();
                let ports: Vec<Value> = ports.map(|port| port["port"].clone()).collect();
                json!([rule, ports])
            };
            policy["spec"][direction].as_array().unwrap().iter().map(rule).collect()
        };
        (rules("ingress"), rules("egress"))
    };
    let dns = json!([{"toEndpoints": [{"matchLabels": {
        "k8s:io.kubernetes.pod.namespace": "kube-system", "k8s:k8s-app": "kube-dns",
    }}]}, ["53"]]);
    let to = |entity: &str, ports: &[&str]| json!([{"toEntities": [entity]}, ports]);
    let (ingress, egress) = summary(NAME);
    let want_of_health = [
        json!([{"fromEntities": ["host"]}, ["8081"]]),
        json!([{"fromEndpoints": [{"matchExpressions": [
            {"key": "k8s:io.kubernetes.pod.namespace", "operator": "In", "values": ["monitoring"]},
        ]}]}, ["8081"]]),
    ];
    let reviews = json!([{"fromEntities": ["kube-apiserver", "remote-node", "host"]}, ["8443"]]);
    assert_eq!(ingress, [&[reviews], &want_of_health[..]].concat());
    let api_server = to("kube-apiserver", &["443", "6443"]);
    let want = [
        dns.clone(),
        to("host", &["53"]),
        api_server.clone(),
        to("world", &["443"]),
        to("host", &["80"]),
    ];
    assert_eq!(egress, want);
    let (ingress, egress) = summary(&format!("{NAME}-certs"));
    assert_eq!(ingress, want_of_health);
    assert_eq!(egress, [dns, to("host", &["53"]), api_server]);
    // A DNS server outside of the cluster has no identity.
    let servers = ["169.254.20.10/32", "10.0.0.2/32"];
    let outside = json!({"networkPolicy": {"kind": "cilium", "dnsCidrs": servers}});
    let policy = named(&render_with(&outside).unwrap(), "CiliumNetworkPolicy", NAME).unwrap();
    let rules = policy["spec"]["egress"].as_array().unwrap().iter();
    let blocks: Vec<&Value> = rules.filter_map(|rule| rule.get("toCIDR")).collect();
    assert_eq!(blocks, [&json!(["10.0.0.2/32"])]);
}

/// Runs the pod of `helm test` as its container would run.
#[test]
fn the_charts_own_test_passes() {
    let custom = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/custom.config.yaml"),
    );
    let custom: Value = serde_saphyr::from_str(&custom.unwrap()).unwrap();
    let allow =
        json!({"partitions": ["aws-cn"], "accounts": ["999999999999"], "pathPrefixes": ["/a/"]});
    let configs =
        [json!({}), custom, json!({"roles": {"allow": allow}}), json!({"cluster": "prod"})];
    for config in configs {
        let (succeeded, said) = run_the_charts_test(&json!({"config": config}));
        assert!(succeeded && said.contains("fab-session-credentials"), "{config}: {said}");
    }
    // The control: the test can fail.
    let (succeeded, said) = run_the_charts_test(&json!({"fullnameOverride": "broken"}));
    assert!(!succeeded && said.contains("[role-missing]"), "{said}");
}

fn run_the_charts_test(values: &Value) -> (bool, String) {
    let manifests = render_with(values).unwrap();
    let name = values["fullnameOverride"].as_str().unwrap_or(NAME);
    let pod = &named(&manifests, "Pod", &format!("{name}-test")).unwrap()["spec"];
    let directory = process::own_directory();
    let container = &pod["containers"][0];
    let mut arguments: Vec<String> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|argument| argument.as_str().unwrap().to_owned())
        .collect();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let is_mounted = |volume: &&Value| volume["name"] == mount["name"];
        let volume = pod["volumes"].as_array().unwrap().iter().find(is_mounted).unwrap();
        let data = named(&manifests, "ConfigMap", volume["configMap"]["name"].as_str().unwrap());
        let place = directory.path().join(mount["name"].as_str().unwrap());
        std::fs::create_dir(&place).unwrap();
        for (file, text) in data.unwrap()["data"].as_object().unwrap() {
            let text = text.as_str().unwrap().to_owned();
            let is_broken = name == "broken" && mount["name"] == "test";
            let text =
                if is_broken { text.replace("  example: arn", "  other: arn") } else { text };
            std::fs::write(place.join(file), text).unwrap();
        }
        let mounted_at = format!("{}/", mount["mountPath"].as_str().unwrap());
        for argument in &mut arguments {
            *argument = argument.replace(&mounted_at, &format!("{}/", place.display()));
        }
    }
    let ran =
        Program::new(env!("CARGO_BIN_EXE_fab-session-injector")).args(&arguments).output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    (ran.status.success(), said)
}

#[test]
fn the_webhook_configuration_is_narrow_and_fails_closed() {
    let configuration = of_kind(&render(&[]).unwrap(), "MutatingWebhookConfiguration");
    assert_eq!(configuration["metadata"]["name"], "fab-session-injector");
    let webhooks = configuration["webhooks"].as_array().unwrap();
    let summary: Vec<Value> = webhooks
        .iter()
        .map(|webhook| {
            json!([
                webhook["name"],
                webhook["failurePolicy"],
                webhook["clientConfig"]["service"]["path"],
                webhook["sideEffects"],
                webhook["reinvocationPolicy"],
                webhook["timeoutSeconds"]
            ])
        })
        .collect();
    let want = [
        json!(["enabled.session.fab.nanohype.dev", "Fail", "/enabled", "None", "IfNeeded", 5]),
        json!(["audit.session.fab.nanohype.dev", "Ignore", "/audit", "None", "IfNeeded", 5]),
    ];
    assert_eq!(summary, want);
    for webhook in webhooks {
        assert_eq!(webhook["matchConditions"].as_array().unwrap().len(), 1);
        assert!(
            webhook["namespaceSelector"].to_string().contains("fab.nanohype.dev/session-injection")
        );
    }
}

/// As a platform installs it: the chart is a dependency, which a condition or a tag switches off.
#[test]
fn an_umbrella_chart_renders_it_as_a_dependency() {
    let own = |values: Value| json!({"fab-session-injector": values});
    let kinds = |umbrella: &Path, values: &Value| -> Vec<String> {
        let file = umbrella.join("own.yaml");
        std::fs::write(&file, values.to_string()).unwrap();
        let text = helm::render(umbrella, "platform", "injector", &[], Some(&file)).unwrap();
        let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let kinds = manifests.iter().filter_map(|manifest| manifest["kind"].as_str());
        kinds.map(str::to_owned).collect()
    };
    let alone = render_with(&json!({"config": {"region": "eu-west-1"}})).unwrap();
    let umbrella = helm::umbrella(&json!({}));
    let on = own(json!({"enabled": true, "config": {"region": "eu-west-1"}}));
    assert_eq!(kinds(umbrella.path(), &on).len(), alone.len());
    let mut with_globals = on.clone();
    with_globals["global"] = json!({"imageRegistry": "registry.example", "x": {"y": 1}});
    with_globals["tags"] = json!({"security": true});
    assert_eq!(kinds(umbrella.path(), &with_globals).len(), alone.len());
    assert!(kinds(umbrella.path(), &own(json!({"enabled": false}))).is_empty());
    assert!(kinds(umbrella.path(), &json!({"tags": {"security": false}})).is_empty());
    // The keys are Helm's, and only these: a typo is still an error.
    let typo = umbrella.path().join("own.yaml");
    std::fs::write(&typo, own(json!({"enabeld": true})).to_string()).unwrap();
    let said = helm::render(umbrella.path(), "platform", "injector", &[], Some(&typo)).unwrap_err();
    assert!(said.contains("enabeld"), "{said}");

    // Under another name, with a part of its values in the parent's.
    let umbrella = helm::umbrella(&json!({
        "alias": "sessions",
        "condition": "sessions.enabled",
        "import-values": [{"child": "image", "parent": "imported"}],
    }));
    let on = json!({"sessions": {"enabled": true, "config": {"region": "eu-west-1"}}});
    assert_eq!(kinds(umbrella.path(), &on).len(), alone.len());
}

#[test]
fn every_value_is_described() {
    let schema: Value =
        serde_json::from_slice(&std::fs::read(chart().join("values.schema.json")).unwrap())
            .unwrap();
    let mut undescribed = Vec::new();
    fn walk(schema: &Value, at: &str, undescribed: &mut Vec<String>) {
        for (key, child) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{key}");
            if child["description"].as_str().unwrap_or_default().is_empty()
                && child.get("$ref").is_none()
            {
                undescribed.push(at.clone());
            }
            walk(child, &at, undescribed);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{at}[]"), undescribed);
        }
    }
    walk(&schema, "", &mut undescribed);
    assert!(undescribed.is_empty(), "{undescribed:?}");
}

#[test]
fn the_notes_name_missing_values_and_next_steps() {
    let mode = |mode| ("certificates.mode", mode);
    let own = ("certificates.existingSecret.secretName", "own");
    const CERTS: &str = "rollout status deployment noted-fab-session-injector-certs";
    let say = |values: &[(&str, &str)], present: &[&str], absent: &[&str]| {
        let notes = helm::notes(&chart(), values, None);
        let always = [
            "session-injection=audit",
            "--dry-run=server -o yaml",
            "fab-session-injector check --namespace $NS",
            "session-injection=enabled --overwrite",
            "component=no-such-component",
            "helm test -n injector noted",
        ];
        for wanted in present.iter().chain(&always) {
            assert!(notes.contains(wanted), "{values:?}: {wanted}\n{notes}");
        }
        for unwanted in absent {
            assert!(!notes.contains(unwanted), "{values:?}: {unwanted}\n{notes}");
        }
    };
    let anybody = "any pod may reach the\nwebhook's port";
    let regionless = "no region is set";
    let gains = "can read the role ARNs of tenants and displace real reviews";
    say(
        &[],
        &["no tenant has a role", regionless, CERTS, anybody, gains],
        &["secret", "cert-manager"],
    );
    say(
        &[("extraEnv.AWS_REGION", "eu-west-1")],
        &["pod-security.kubernetes.io/enforce=restricted"],
        &[regionless],
    );
    say(
        &[
            mode("certManager"),
            ("networkPolicy.kind", "cilium"),
            ("config.cluster", "prod"),
            ("config.region", "eu-west-1"),
        ],
        &["Roles come from SSM", "--for=condition=Ready certificate/noted-fab-session-injector\n"],
        &["WARNING", CERTS],
    );
    say(
        &[mode("existingSecret"), own, ("networkPolicy.podCidrs[0]", "10.0.0.0/8")],
        &["caBundle is empty", "get secret own", "noted-fab-session-injector.injector.svc"],
        &[CERTS, anybody],
    );
    say(
        &[mode("existingSecret"), own, ("certificates.existingSecret.caBundle", CA)],
        &["get secret own"],
        &["caBundle is empty"],
    );
}

/// The table has the descriptions of the schema and the defaults of values.yaml. `UPDATE=1`
/// writes the table.
#[test]
fn the_readme_lists_every_value() {
    let read = |file: &str| std::fs::read_to_string(chart().join(file)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let mut table = "| key | default | description |\n| --- | --- | --- |\n".to_owned();
    rows(&schema, &values, "", &mut table);
    let readme = read("README.md");
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if is_update() {
        let whole = format!("{before}{BEGIN}{table}{END}{after}");
        std::fs::write(chart().join("README.md"), whole).unwrap();
    } else {
        assert!(found == table, "the table of values is not current; UPDATE=1 writes it");
    }
}

fn rows(schema: &Value, values: &Value, within: &str, table: &mut String) {
    let properties = schema["properties"].as_object().unwrap();
    let is_of_helm = |name: &str| within.is_empty() && OF_HELM.contains(&name);
    for (name, child) in properties.iter().filter(|(name, _)| !is_of_helm(name)) {
        let key = format!("{within}{name}");
        // Keys of a component have no value in values.yaml, but a default.
        let value = values.get(name).or(child.get("default"));
        let mut row = |shown: &str| {
            let description = child["description"].as_str().unwrap();
            table.push_str(&format!("| `{key}` | {shown} | {description} |\n"));
        };
        match value {
            Some(Value::Array(components)) if key == "config.components" => {
                let names: Vec<String> = components
                    .iter()
                    .map(|component| format!("`{}`", component["name"].as_str().unwrap()))
                    .collect();
                row(&names.join(", "));
                rows(&child["items"], &json!({}), "config.components[].", table);
            }
            Some(Value::Object(entries))
                if !entries.is_empty() && child["properties"].is_object() =>
            {
                if child["type"].to_string().contains("null") {
                    row("as below");
                }
                rows(child, &json!(entries), &format!("{key}."), table);
            }
            Some(value) => row(&format!("`{value}`")),
            None => row(""),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test has no command line")]
fn is_update() -> bool {
    std::env::var("UPDATE").is_ok()
}

/// Keys of the values that Helm writes or reads for a dependency of another chart: all of
/// `pkg/chart/v2/util/dependencies.go` and `pkg/chart/common/util/coalesce.go` (Helm 4) that are in
/// the dependency's own values. `tags` is in the values of the parent only. `import-values` reads
/// keys that the dependency has.
const OF_HELM: [&str; 2] = ["global", "enabled"];
/// A certificate, as far as the chart checks it.
const CA: &str = "-----BEGIN CERTIFICATE-----";
/// Name of the objects of the release `injector`.
const NAME: &str = "injector-fab-session-injector";

const BEGIN: &str = "<!-- values: begin -->\n";
const END: &str = "<!-- values: end -->\n";
