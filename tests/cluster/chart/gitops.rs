//! The chart as Argo CD and Flux install it: by Helm 3, by sync waves, and by their objects in
//! `examples/gitops`. Their controllers do not run here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use harness::{
    helm::{self, chart},
    process::{own_directory, program, wait_until},
    root, scratch,
};
use serde_json::{Value, json};

use super::release::{
    CONFIGURATION, Certs, NAMESPACE, SERVER_SIDE, apply, cluster, fill_in, filled_in, render,
    secret,
};

#[test]
fn helm_3_and_helm_4_render_the_same_objects() {
    let examples = root().join("examples");
    let files = fs::read_dir(&examples).unwrap().map(|entry| entry.unwrap().path());
    let is_values = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Those of agent-sandbox are objects of a tenant.
        let objects = ["agent-sandbox-network.yaml", "agent-sandbox-warm-pool.yaml"];
        name.ends_with(".yaml") && !objects.contains(&name)
    };
    let files: Vec<PathBuf> = files.filter(is_values).collect();
    assert!(files.len() > 8, "{files:?}");
    let mut cases: Vec<Vec<String>> =
        files.iter().map(|file| vec!["--values".to_owned(), file.display().to_string()]).collect();
    let values = [
        "certificates.mode=certManager",
        "guard.enabled=false",
        "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true",
    ];
    cases.extend(values.map(|values| vec!["--set".to_owned(), values.to_owned()]));
    for case in cases {
        let mut arguments =
            vec!["template", "pilot", "--namespace=fab-system", "--kube-version=1.36.0"];
        arguments.extend(case.iter().map(String::as_str));
        let [three, four] = ["helm3", "helm"].map(|version| {
            let text = run(version, &arguments, Some(&chart())).unwrap();
            let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            let named = objects.into_iter().filter(|object| !object.is_null()).map(|object| {
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                ((object["kind"].as_str().unwrap().to_owned(), name), object)
            });
            named.collect::<BTreeMap<_, _>>()
        });
        assert!(three.len() > 10 && three == four, "{case:?}");
    }
    // The values are checked by both.
    for version in ["helm3", "helm"] {
        let wrong = ["template", "pilot", "--kube-version=1.36.0", "--set", "nope=1"];
        let said = run(version, &wrong, Some(&chart())).unwrap_err();
        assert!(said.contains("additional properties 'nope' not allowed"), "{version}: {said}");
    }
}

/// Helm 3 overwrites what another user changed; what `certs` wrote stays. It deletes the webhook
/// configuration after the webhook, unlike Helm 4, so docs/gitops.md deletes it by hand first.
#[test]
fn helm_3_installs_upgrades_and_uninstalls() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let kubeconfig = cluster.kubeconfig();
    let of_release =
        ["pilot", "--namespace", NAMESPACE, "--kubeconfig", kubeconfig.to_str().unwrap()];
    let helm = |verb: &str, chart: Option<&Path>| {
        run("helm3", &[&[verb], &of_release[..]].concat(), chart).unwrap()
    };
    helm("install", Some(&chart()));
    fill_in(&cluster);
    let before = filled_in(&cluster);
    edit(&cluster);
    helm("upgrade", Some(&chart()));
    assert_eq!((filled_in(&cluster), policy(&cluster)), (before, json!("Fail")));
    helm("uninstall", None);
    let deleted: Vec<Value> = cluster.deletions();
    let at = |resource: &str| {
        let is_it = |event: &&Value| event["objectRef"]["resource"] == resource;
        let times = deleted.iter().filter(is_it).map(|it| it["requestReceivedTimestamp"].as_str());
        times.map(Option::unwrap).collect::<Vec<_>>()
    };
    let configuration = at("mutatingwebhookconfigurations");
    assert_eq!(configuration.len(), 1, "{deleted:?}");
    assert!(at("services").iter().max() < configuration.iter().min(), "{deleted:?}");
    assert!(at("deployments").iter().max() < configuration.iter().min(), "{deleted:?}");
    assert!(at("deployments").iter().max() < at("validatingadmissionpolicies").iter().min());

    helm("install", Some(&chart()));
    let delete = ["delete", "mutatingwebhookconfiguration", CONFIGURATION];
    assert!(cluster.kubectl(&delete).run().ok);
    helm("uninstall", None);
    let get = ["get", "mutatingwebhookconfigurations,validatingadmissionpolicies", "--output=name"];
    assert_eq!(cluster.kubectl(&get).run().stdout, "");
}

/// The command of docs/gitops.md ends a conflict for a Helm 4 that has no `--force-conflicts`.
#[test]
fn a_conflict_ends_without_force_conflicts() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let kubeconfig = cluster.kubeconfig();
    helm::install(&chart(), "pilot", NAMESPACE, &kubeconfig, &[]).unwrap();
    fill_in(&cluster);
    let before = filled_in(&cluster);
    edit(&cluster);
    let upgrade = || helm::upgrade(&chart(), "pilot", NAMESPACE, &kubeconfig, &[], &[]);
    let said = upgrade().unwrap_err();
    assert!(said.contains("conflict") && said.contains("failurePolicy"), "{said}");

    let rendered = render(NAMESPACE, &[]);
    let take = ["--server-side", "--force-conflicts", "--field-manager=helm"];
    assert!(apply(&cluster, &rendered, &take).ok);
    upgrade().unwrap();
    assert_eq!((filled_in(&cluster), policy(&cluster)), (before, json!("Fail")));
}

/// Argo CD creates waves in ascending order, each when the one before is healthy, and deletes them
/// in descending order (argo-cd 3.4, controller/sort_delete.go).
#[test]
fn sync_waves_create_and_delete_in_a_working_order() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let list: Value = serde_json::from_str(&render(NAMESPACE, &[])).unwrap();
    let mut waves: BTreeMap<i64, Vec<Value>> = BTreeMap::new();
    for object in list["items"].as_array().unwrap() {
        let wave = &object["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"];
        let wave = wave.as_str().map_or(0, |wave| wave.parse().unwrap());
        waves.entry(wave).or_default().push(object.clone());
    }
    let kinds = |wave: i64| -> BTreeSet<&str> {
        waves[&wave].iter().map(|object| object["kind"].as_str().unwrap()).collect()
    };
    assert_eq!(waves.keys().collect::<Vec<_>>(), [&0, &1]);
    assert_eq!(kinds(1), BTreeSet::from(["MutatingWebhookConfiguration"]));
    assert!(kinds(0).is_superset(&BTreeSet::from(["Deployment", "Service", "Secret"])));
    let of =
        |wave: i64| json!({"apiVersion": "v1", "kind": "List", "items": waves[&wave]}).to_string();

    assert!(apply(&cluster, &of(0), &SERVER_SIDE).ok);
    // Returns when `certs` is ready, which is the health of its Deployment.
    let certs = Certs::start(&cluster, &of(0));
    assert_eq!(secret(&cluster).as_object().unwrap().len(), 4);
    let get = ["get", "mutatingwebhookconfigurations", "--output=name"];
    assert_eq!(cluster.kubectl(&get).run().stdout, "");
    assert!(certs.process.log().contains("does not exist, so API servers do not call the webhook"));
    assert!(apply(&cluster, &of(1), &SERVER_SIDE).ok);
    wait_until("caBundle is filled in", Duration::from_secs(60), || {
        let own = &secret(&cluster)["ca.crt"];
        (filled_in(&cluster).1 == json!([own, own])).then_some(())
    });

    for wave in [1, 0] {
        let delete = ["delete", "--filename=-", "--wait=false"];
        let deleted = cluster.kubectl(&delete).stdin(&of(wave)).run();
        assert!(deleted.ok, "{}", deleted.stderr);
        assert_eq!(cluster.kubectl(&get).run().stdout, "");
    }
}

/// `Replace=true` of Argo CD, and `--force-replace` of Helm.
#[test]
fn a_replacement_empties_what_certs_then_fills_again() {
    let cluster = cluster();
    cluster.create_namespace(NAMESPACE, &[]);
    let manifests = render(NAMESPACE, &[]);
    assert!(apply(&cluster, &manifests, &SERVER_SIDE).ok);
    fill_in(&cluster);
    let replaced = cluster.kubectl(&["replace", "--filename=-"]).stdin(&manifests).run();
    assert!(replaced.ok, "{}", replaced.stderr);
    let nothing = (json!([null, null, null]), json!([null, null]));
    assert_eq!(filled_in(&cluster), nothing);
    let _certs = Certs::start(&cluster, &manifests);
    let own = &secret(&cluster)["ca.crt"];
    assert_eq!(filled_in(&cluster).1, json!([own, own]));
}

#[test]
fn the_objects_of_argo_cd_and_flux_are_valid() {
    let cluster = cluster();
    for types in ["argo-cd-crds.yaml", "flux-crds.yaml"] {
        let file = program(types);
        let create = ["apply", "--server-side", "--filename", file.to_str().unwrap()];
        let made = cluster.kubectl(&create).run();
        assert!(made.ok, "{}", made.stderr);
        let wait = ["wait", "--for=condition=Established", "--timeout=180s", "--filename"];
        let known = cluster.kubectl(&[&wait[..], &[file.to_str().unwrap()]].concat()).run();
        assert!(known.ok, "{}", known.stderr);
    }
    let example = fs::read_to_string(root().join("examples/eks.yaml")).unwrap();
    let example: Value = serde_saphyr::from_str(&example).unwrap();
    for (file, namespace, kind, values) in [
        ("argo-cd.yaml", "argocd", "Application", "/spec/source/helm/valuesObject"),
        ("flux.yaml", "flux-system", "HelmRelease", "/spec/values"),
    ] {
        cluster.create_namespace(namespace, &[]);
        let text = fs::read_to_string(root().join("examples/gitops").join(file)).unwrap();
        let made = apply(&cluster, &text, &SERVER_SIDE);
        assert!(made.ok && !made.stderr.contains("Warning"), "{file}: {}", made.stderr);
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let object = objects.iter().find(|object| object["kind"] == kind).unwrap();
        let values = object.pointer(values).unwrap();
        assert_eq!(values, &example, "{file}");
        let directory = own_directory();
        let own = directory.path().join("values.yaml");
        fs::write(&own, values.to_string()).unwrap();
        helm::render(&chart(), "fab-session-injector", "fab-system", &[], Some(&own)).unwrap();
        // The control: a field that is not theirs.
        let wrong =
            apply(&cluster, &text.replace("\nspec:\n", "\nspec:\n  nope: 1\n"), &SERVER_SIDE);
        assert!(!wrong.ok && wrong.stderr.contains("nope"), "{file}: {}", wrong.stderr);
    }
}

/// Another user weakens the webhook configuration.
fn edit(cluster: &harness::control_plane::ControlPlane) {
    let patch = json!({"webhooks": [
        {"name": "enabled.session.fab.nanohype.dev", "failurePolicy": "Ignore"},
    ]});
    let patch = patch.to_string();
    let arguments = ["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--patch", &patch];
    cluster.kubectl(&arguments).json();
    assert_eq!(policy(cluster), json!("Ignore"));
}

fn policy(cluster: &harness::control_plane::ControlPlane) -> Value {
    let get = ["get", "mutatingwebhookconfiguration", CONFIGURATION];
    cluster.kubectl(&get).json()["webhooks"][0]["failurePolicy"].clone()
}

fn run(version: &str, arguments: &[&str], chart: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new(program(version));
    command.args(arguments).args(chart);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, scratch().join("helm"));
    }
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}
