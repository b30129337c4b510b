//! Tests `inject` for many kinds of manifests, without a cluster.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use harness::schema;
use serde_json::{Value, json};

static ROLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("inject.roles.yaml");
    fs::write(&path, "roles: {acme: 'arn:aws:iam::111122223333:role/acme'}\n").unwrap();
    path
});

/// Runs `inject` with the manifest on standard input.
fn inject(manifest: &str, arguments: &[&str]) -> Output {
    let mut child = command().args(arguments).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(manifest.as_bytes());
    child.wait_with_output().unwrap()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
    command
        .args(["inject", "--filename=-", "--roles"])
        .arg(&*ROLES)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"serviceAccountName": "tenant-runtime", "containers": [{"name": "agent", "image": "i"}]}})
}

#[test]
fn templates_of_all_workloads_are_injected() {
    let object = |api_version: &str, kind: &str, spec: Value| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "o"}, "spec": spec});
    let cases = [
        (object("apps/v1", "Deployment", json!({"template": template()})), "/spec/template/spec"),
        (object("apps/v1", "DaemonSet", json!({"template": template()})), "/spec/template/spec"),
        (object("apps/v1", "ReplicaSet", json!({"template": template()})), "/spec/template/spec"),
        (object("apps/v1", "StatefulSet", json!({"template": template()})), "/spec/template/spec"),
        (object("batch/v1", "Job", json!({"template": template()})), "/spec/template/spec"),
        (
            object("v1", "ReplicationController", json!({"template": template()})),
            "/spec/template/spec",
        ),
        (
            json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "o"}, "template": template()}),
            "/template/spec",
        ),
        (
            object(
                "batch/v1",
                "CronJob",
                json!({"jobTemplate": {"spec": {"template": template()}}}),
            ),
            "/spec/jobTemplate/spec/template/spec",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o"}, "spec": template()["spec"]}),
            "/spec",
        ),
    ];
    for (object, spec) in &cases {
        let output = inject(&object.to_string(), &["--namespace=tenants-acme"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let injected: Value = serde_saphyr::from_str(text(&output.stdout)).unwrap();
        let sidecar = &injected.pointer(spec).unwrap()["initContainers"][0];
        assert_eq!(sidecar["name"], "fab-session-credentials", "{object}");
        // The metadata of the workload is left unchanged.
        if *spec != "/spec" {
            assert_eq!(injected["metadata"], object["metadata"]);
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": cases.iter().map(|(object, _)| object).collect::<Vec<_>>()});
    let output = inject(
        &format!(
            "{list}\n---\n# a document more\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\n"
        ),
        &["--namespace=tenants-acme"],
    );
    let all: Vec<Value> = serde_saphyr::from_multiple(text(&output.stdout)).unwrap();
    assert_eq!(all.len(), cases.len() + 1);
    assert_eq!(
        all.last().unwrap(),
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}})
    );
}

#[test]
fn all_refusals_of_a_pod_are_reported() {
    let mut spec = template()["spec"].clone();
    spec["hostNetwork"] = true.into();
    spec["containers"][0]["env"] =
        json!([{"name": "AWS_PROFILE", "value": "x"}, {"name": "FAB_OPERATOR", "value": "1"}]);
    let object = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    let pods = format!("{}\n---\n{}", object("a", spec.clone()), object("b", spec));
    let want = [
        "container \"agent\" sets FAB_OPERATOR [fab-operator]: ",
        "container \"agent\" sets AWS_PROFILE, which takes precedence over the session credentials [static-credentials]: ",
        "the pod sets hostNetwork [host-namespace]: ",
    ];
    let output = inject(&pods, &["--namespace=tenants-acme"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<&str> =
        text(&output.stderr).lines().filter(|line| line.starts_with("Pod/")).collect();
    let pods_and_reasons = ["a", "b"].into_iter().flat_map(|pod| want.map(|want| (pod, want)));
    for (line, (pod, want)) in lines.iter().zip(pods_and_reasons) {
        assert!(line.starts_with(&format!("Pod/{pod}: {want}")), "{line}");
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");

    let audit = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenants-acme", "labels": {"fab.nanohype.dev/session-injection": "audit", "pod-security.kubernetes.io/enforce": "restricted"}}});
    let output = inject(&format!("{audit}\n---\n{pods}"), &["--namespace=tenants-acme"]);
    assert!(output.status.success());
    for want in want {
        let line = format!("audit: Pod/a is left unchanged; if enabled: refuse: {want}");
        assert!(text(&output.stderr).contains(&line), "{}", text(&output.stderr));
    }
}

#[test]
fn a_patch_applies_to_the_whole_object() {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "o", "namespace": "tenants-acme"}, "spec": {"template": {"spec": template()["spec"]}}});
    let output = inject(&object.to_string(), &["--patch"]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check(&printed);
    assert_eq!(printed["object"], "Deployment/o");
    let patch: json_patch::Patch = serde_json::from_value(printed["patch"].clone()).unwrap();
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    let failed = inject("kind: [", &["--patch"]);
    schema::check(&serde_json::from_slice(&failed.stdout).unwrap());
    let whole = inject(&object.to_string(), &[]);
    assert_eq!(patched, serde_saphyr::from_str::<Value>(text(&whole.stdout)).unwrap());
    assert!(
        patched.pointer("/spec/template/metadata/annotations").is_some(),
        "a template without metadata gets some"
    );
}

#[test]
fn a_diff_has_no_colours_without_a_terminal() {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o"}, "spec": template()["spec"]});
    let output = inject(&object.to_string(), &["--namespace=tenants-acme", "--diff"]);
    let diff = text(&output.stdout);
    assert!(diff.starts_with("--- Pod/o\n+++ Pod/o, injected\n@@"), "{diff}");
    assert!(diff.contains("name: fab-session-credentials\n"), "{diff}");
    assert!(!diff.contains('\u{1b}'), "{diff}");
}

#[test]
fn labels_of_a_namespace_in_the_input_decide() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o", "namespace": "elsewhere"}, "spec": template()["spec"]});
    let namespace = |labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "labels": labels}});
    let run = |labels: Value, arguments: &[&str]| {
        let mut all = vec!["--namespace=ns"];
        all.extend(arguments);
        inject(&format!("{}\n---\n{pod}\n", namespace(labels)), &all)
    };
    let opted_in = json!({"fab.nanohype.dev/session-injection": "enabled", "fab.nanohype.dev/tenant": "acme", "pod-security.kubernetes.io/enforce": "restricted"});
    let output = run(opted_in.clone(), &[]);
    assert!(text(&output.stdout).contains("fab-session-credentials"));
    assert!(!text(&output.stderr).contains("assumed"), "{}", text(&output.stderr));
    let output = run(json!({"fab.nanohype.dev/tenant": "acme"}), &[]);
    assert!(!text(&output.stdout).contains("fab-session-credentials"), "not opted in");
    assert!(text(&output.stderr).contains("namespace ns has not opted in"));
    let output = run(
        json!({"fab.nanohype.dev/session-injection": "enabled", "fab.nanohype.dev/tenant": "acme"}),
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("[pod-security]"));
    assert_eq!(text(&output.stdout), "");

    let output = inject(&pod.to_string(), &["--namespace=anything", "--tenant=acme"]);
    assert!(text(&output.stdout).contains("agent.acme."), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("assumed: namespace anything"));
}

#[test]
fn the_old_client_mode_differs_from_an_env_component() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenants-acme", "labels": {"fab.nanohype.dev/session-injection": "audit", "fab.nanohype.dev/operator": "keep", "pod-security.kubernetes.io/enforce": "restricted"}}});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o", "namespace": "tenants-acme"}, "spec": template()["spec"]});
    pod["spec"]["containers"][0]["env"] = json!([{"name": "FAB_OPERATOR", "value": "jane"}]);
    let output = inject(&format!("{namespace}\n---\n{pod}\n"), &[]);
    let said = text(&output.stderr);
    assert!(said.contains("if enabled: keep"), "{said}");
}

#[test]
fn an_input_without_pods_is_reported() {
    let text_of =
        |kind: &str| format!("apiVersion: example.com/v1\nkind: {kind}\nmetadata:\n  name: o\n");
    let output = inject(&text_of("Widget"), &[]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), text_of("Widget"));
    let said = "the input contains no pod and no pod template\nnot evaluated, because no pod was found in them: Widget/o\n";
    assert_eq!(text(&output.stderr), said);
}

#[test]
fn stderr_names_what_the_output_does_not_cover() {
    let object = |api_version: &str, kind: &str, spec: Value| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "o"}, "spec": spec});
    let deployment = object("apps/v1", "Deployment", json!({"template": template()}));
    let rollout = object("argoproj.io/v1alpha1", "Rollout", json!({"template": template()}));
    let sandbox = object("agents.x-k8s.io/v1beta1", "Sandbox", json!({"podTemplate": template()}));
    let all = [&deployment, &rollout, &sandbox, &object("v1", "Service", json!({}))];
    let input = all.map(Value::to_string).join("\n---\n");
    let output = inject(&input, &["--namespace=tenants-acme", "--as=jane", "--region=eu-west-1"]);
    let said = text(&output.stderr);
    for line in [
        "warning: the pods of Deployment/o are created by system:serviceaccount:kube-system:replicaset-controller, not by jane; set --as to it",
        "assumed: the pods of Rollout/o are as in /spec/template; the controller that creates them may set other labels, annotations and fields",
        "assumed: the pods of Sandbox/o are as in /spec/podTemplate; the controller that creates them may set other labels, annotations and fields",
        "not evaluated, because no pod was found in them: Service/o",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    let printed: Vec<Value> = serde_saphyr::from_multiple(text(&output.stdout)).unwrap();
    for (object, spec) in
        printed.iter().zip(["/spec/template", "/spec/template", "/spec/podTemplate"])
    {
        let sidecar = &object.pointer(spec).unwrap()["spec"]["initContainers"][0];
        assert_eq!(sidecar["name"], "fab-session-credentials", "{object}");
    }

    let output = inject(&deployment.to_string(), &["-n", "kube-system", "--tenant=acme"]);
    let said = text(&output.stderr);
    assert!(said.contains("API servers do not call the webhook for pods of kube-system"), "{said}");
}

#[test]
fn a_directory_stands_for_its_manifests() {
    let directory = tempfile::tempdir().unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenants-acme", "labels": {"fab.nanohype.dev/session-injection": "true"}}});
    let pod = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "tenants-acme"}, "spec": template()["spec"]});
    for (name, object) in [("b.yml", pod("b")), ("a.json", pod("a")), ("c.yaml", namespace)] {
        fs::write(directory.path().join(name), object.to_string()).unwrap();
    }
    fs::write(directory.path().join("notes.txt"), "no manifest").unwrap();
    fs::write(directory.path().join("later.yaml"), "# nothing yet\n").unwrap();
    let run = |files: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(["inject", "--roles"])
            .arg(&*ROLES)
            .args(files.iter().flat_map(|file| ["-f", file]))
            .current_dir(directory.path())
            .output()
            .unwrap()
    };
    for files in [&["."][..], &["a.json", "b.yml", "c.yaml"]] {
        let output = run(files);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        let want = "namespace tenants-acme has fab.nanohype.dev/session-injection=true, which has no effect";
        assert!(said.contains(want), "{said}");
        let printed: Vec<Value> = serde_saphyr::from_multiple(text(&output.stdout)).unwrap();
        let names: Vec<&Value> = printed.iter().map(|object| &object["metadata"]["name"]).collect();
        assert_eq!(names, ["a", "b", "tenants-acme"]);
    }
    fs::create_dir(directory.path().join("empty")).unwrap();
    let output = run(&["empty"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("empty contains no file *.json, *.yaml or *.yml"));
}

/// Closes the pipe as `inject | head -1` does.
#[test]
fn a_closed_stdout_prints_no_error() {
    let mut child =
        command().args(["--namespace=tenants-acme", "--region=eu-west-1"]).spawn().unwrap();
    drop(child.stdout.take());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o"}, "spec": template()["spec"]});
    child.stdin.take().unwrap().write_all(pod.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    let said = text(&output.stderr);
    assert!(said.lines().all(|line| line.starts_with("assumed: ")), "{said}");
}

#[test]
fn invalid_input_differs_from_a_refusal() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o"}, "spec": template()["spec"]}).to_string();
    let elsewhere = pod.replace(r#"{"name":"o"}"#, r#"{"name":"o","namespace":"Else.where"}"#);
    let cases: [(&str, &[&str], i32, &str); 12] = [
        (&pod, &["--namespace=A_B"], 2, "'--namespace <NAME>': not a valid namespace name"),
        (
            &elsewhere,
            &[],
            2,
            "Pod/o: metadata.namespace \"Else.where\": not a valid namespace name",
        ),
        (
            "a: 1\n---\nkind: [",
            &[],
            2,
            "standard input: invalid YAML: unclosed bracket '[' at line 3",
        ),
        (
            "a: 1\n---\nb: 18446744073709551616",
            &[],
            2,
            "standard input: document 2: /b is an integer",
        ),
        (&pod, &[], 2, "Pod/o has no metadata.namespace; set --namespace"),
        ("kind: [", &["--namespace=tenants-acme"], 2, "invalid YAML"),
        ("", &["--namespace=tenants-acme"], 2, "standard input contains no object"),
        ("hello", &[], 2, "standard input: document 1 is a scalar, not an object with apiVersion"),
        (&pod, &["--namespace=tenants-acme", "--tenant=A.B"], 2, "a tenant is a DNS label"),
        (&pod, &["--namespace=tenants-acme", "--config=/nowhere"], 2, "cannot read /nowhere"),
        (&pod, &["--namespace=tenants-acme", "--diff", "--patch"], 2, "cannot be used with"),
        (&pod, &["--namespace=tenants-other"], 1, "[role-missing]"),
    ];
    for (manifest, arguments, code, want) in cases {
        let output = inject(manifest, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output.stderr).contains(want), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
}

#[test]
fn missing_and_ambiguous_settings_are_reported() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "tenants-acme"}, "spec": template()["spec"]});
    let said = |output: &Output| text(&output.stderr).to_owned();
    let no_region = "no region is set, so the sidecar in this output cannot start";
    assert!(said(&inject(&pod.to_string(), &[])).contains(no_region));
    assert!(!said(&inject(&pod.to_string(), &["--region=eu-west-1"])).contains(no_region));
    let mut other = pod.clone();
    other["spec"]["serviceAccountName"] = "default".into();
    assert!(!said(&inject(&other.to_string(), &[])).contains(no_region));
    let mut fleet = pod.clone();
    fleet["metadata"]["labels"] = json!({"agents.nanohype.dev/agent": "a"});
    assert!(!said(&inject(&fleet.to_string(), &[])).contains(no_region), "no sidecar");

    let namespace = |mode: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenants-acme", "labels": {"fab.nanohype.dev/session-injection": mode}}});
    let twice = format!("{}\n---\n{}\n---\n{pod}", namespace("off"), namespace("enabled"));
    let output = inject(&twice, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("Namespace \"tenants-acme\" appears twice"),
        "{}",
        said(&output)
    );
}

#[test]
fn pods_in_lists_of_all_kinds_are_evaluated() {
    let bare = json!({"metadata": {"name": "a"}, "spec": {"serviceAccountName": "tenant-runtime", "hostNetwork": true, "containers": [{"name": "agent", "image": "i"}]}});
    let mut pod = bare.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    let list =
        |kind: &str, item: &Value| json!({"apiVersion": "v1", "kind": kind, "items": [item]});
    for input in [list("List", &list("List", &pod)), list("PodList", &bare), list("PodList", &pod)]
    {
        let output = inject(&input.to_string(), &["--namespace=tenants-acme"]);
        assert_eq!(output.status.code(), Some(1), "{input}");
        assert!(text(&output.stderr).contains("[host-namespace]"), "{input}");
    }
}

/// What an API server makes of the same input: tests/golden/null-values.yaml and
/// refuse-no-containers.yaml run on a real one.
#[test]
fn incomplete_templates_are_refused_like_by_the_webhook() {
    let deployment = |template: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "agent"}, "spec": {"template": template}});
    let labels = json!({"labels": {"fab.nanohype.dev/component": "runtime"}});
    for template in [
        json!({"metadata": labels}),
        json!({"metadata": labels, "spec": null}),
        json!({"metadata": labels, "spec": {}}),
        json!({"metadata": labels, "spec": {"containers": null}}),
        json!({"metadata": labels, "spec": {"containers": []}}),
        json!({"metadata": labels, "spec": {"containers": [null]}}),
        json!({"metadata": labels, "spec": {"containers": [{"image": "i"}]}}),
    ] {
        let output =
            inject(&deployment(template.clone()).to_string(), &["--namespace=tenants-acme"]);
        assert_eq!(output.status.code(), Some(1), "{template}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("[unreadable-pod]"), "{}", text(&output.stderr));
    }
}

#[test]
fn manifests_that_kubectl_reads_are_read() {
    let pod = |name: &str| {
        let mut pod = template();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = name.into();
        pod
    };
    let utf_16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
        format!("\u{feff}{}", pod("a")).encode_utf16().flat_map(unit).collect()
    };
    let cases: [(&str, Vec<u8>, usize); 6] = [
        ("JSON objects", format!("{}{:#}\n{}", pod("a"), pod("b"), pod("c")).into(), 3),
        ("a byte order mark", format!("\u{feff}{}", pod("a")).into(), 1),
        (
            "joined files with byte order marks",
            format!("\u{feff}{}\n---\n\u{feff}{}\n", pod("a"), pod("b")).into(),
            2,
        ),
        ("UTF-16", utf_16(u16::to_le_bytes), 1),
        ("UTF-16, big-endian", utf_16(u16::to_be_bytes), 1),
        ("a flow mapping that is no JSON", b"{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {serviceAccountName: tenant-runtime, containers: [{name: agent, image: i}]}}".into(), 1),
    ];
    for (what, manifest, pods) in cases {
        let mut child = command().arg("--namespace=tenants-acme").spawn().unwrap();
        child.stdin.take().unwrap().write_all(&manifest).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{what}: {}", text(&output.stderr));
        let printed: Vec<Value> = serde_saphyr::from_multiple(text(&output.stdout)).unwrap();
        assert_eq!(printed.len(), pods, "{what}");
        for pod in printed {
            assert_eq!(pod["spec"]["initContainers"][0]["name"], "fab-session-credentials");
        }
    }
    let odd = [&utf_16(u16::to_le_bytes)[..], b"x"].concat();
    let duplicate = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: x, app: x}}\nspec: {containers: [{name: a, image: x}]}\n";
    for (manifest, want) in [(odd, "it is not valid UTF-16"), (duplicate.into(), "duplicate")] {
        let mut child = command().arg("--namespace=tenants-acme").spawn().unwrap();
        child.stdin.take().unwrap().write_all(&manifest).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(want), "{}", text(&output.stderr));
    }
}

/// The file is the webhook's. This machine may not have it.
#[test]
fn an_issuer_ca_that_is_not_readable_is_left_empty_and_said() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (config, ca) = (directory.join("inject.issuer.yaml"), directory.join("inject.issuer.crt"));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = parameters.self_signed(&key).unwrap().pem();
    let issuer = json!({
        "url": "https://issuer.example.com/prod", "endpoint": "https://issuer.fab.svc/v1/token",
        "caFile": ca, "keys": [{"file": "/nonexistent/key.pem"}],
    });
    let allow = json!({"accounts": ["111122223333"]});
    let text_of = json!({
        "cluster": "prod", "region": "eu-west-1", "transport": "webIdentity", "issuer": issuer,
        "roles": {"allow": allow},
    });
    fs::write(&config, text_of.to_string()).unwrap();
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": template()["spec"],
    });
    let argument = format!("--config={}", config.display());
    let injected = || {
        let output = inject(
            &manifest.to_string(),
            &["--tenant=acme", "--namespace=tenants-acme", &argument],
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
        let pod: Value = serde_saphyr::from_slice(&output.stdout).unwrap();
        let env = pod["spec"]["initContainers"][0]["env"].as_array().unwrap().clone();
        let ca = env.into_iter().find(|variable| variable["name"] == "FAB_SESSION_ISSUER_CA");
        (ca.unwrap()["value"].clone(), text(&output.stderr).to_owned())
    };
    let _ = fs::remove_file(&ca);
    let (value, said) = injected();
    let line = "FAB_SESSION_ISSUER_CA is empty in this output, because the file in issuer.caFile is not readable here; the webhook sets it";
    assert!(said.contains(line), "{said}");
    assert_eq!(value.as_str().unwrap_or_default(), "");
    fs::write(&ca, &pem).unwrap();
    let (value, said) = injected();
    assert_eq!(value.as_str().unwrap().trim(), pem.trim());
    assert!(!said.contains("FAB_SESSION_ISSUER_CA"), "{said}");
}

/// Only a trusted creator says on whose behalf a session runs, and only if the config has it on.
#[test]
fn a_trusted_creator_says_on_whose_behalf_a_session_runs() {
    const KEY: &str = "fab.nanohype.dev/on-behalf-of";
    const OPERATOR: &str = "system:serviceaccount:eks-agent-platform:operator";
    const TENANT: &str = "system:serviceaccount:tenants-acme:builder";
    let config = |name: &str, on: bool, transport: &str| {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("inject.{name}.yaml"));
        let config = json!({
            "cluster": "prod", "region": "eu-west-1", "transport": transport,
            "issuer": {
                "url": "https://issuer.example.com/prod", "endpoint": "https://i.fab.svc/v1/token",
                "caFile": "none", "keys": [{"file": "key.pem"}], "onBehalfOf": on,
            },
            "roles": {"allow": {"accounts": ["111122223333"]}},
        });
        fs::write(&file, config.to_string()).unwrap();
        format!("--config={}", file.display())
    };
    let on = config("on-behalf-of", true, "webIdentity");
    let off = config("no-on-behalf-of", false, "webIdentity");
    let chained = config("on-behalf-of-chained", true, "roleChain");
    let injected = |config: &str, creator: &str, value: &str| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        pod["spec"] = template()["spec"].clone();
        pod["metadata"]["annotations"] = json!({KEY: value});
        inject(&pod.to_string(), &["--namespace=tenants-acme", "--as", creator, config])
    };
    let variable = |output: &Output| -> Option<Value> {
        assert!(output.status.success(), "{}", text(&output.stderr));
        let pod: Value = serde_saphyr::from_str(text(&output.stdout)).unwrap();
        assert!(!pod["spec"]["containers"].to_string().contains("ON_BEHALF_OF"), "{pod}");
        let env = pod["spec"]["initContainers"][0]["env"].as_array().unwrap();
        env.iter().find(|variable| variable["name"] == "FAB_SESSION_ON_BEHALF_OF").cloned()
    };
    let said = json!({"name": "FAB_SESSION_ON_BEHALF_OF", "value": "jane.doe@example.com"});
    let value = "jane.doe@example.com";
    let first = injected(&on, OPERATOR, value);
    assert_eq!(variable(&first), Some(said.clone()));
    // A second call changes nothing.
    let again = inject(text(&first.stdout), &["--namespace=tenants-acme", "--as", OPERATOR, &on]);
    assert_eq!(text(&again.stdout), text(&first.stdout));
    // It is off by default, for each user.
    for creator in [OPERATOR, TENANT] {
        assert_eq!(variable(&injected(&off, creator, "not a \"valid\" value")), None, "{creator}");
    }
    let without = injected(&chained, OPERATOR, value);
    assert_eq!(variable(&without), None);
    let warning =
        "the annotation fab.nanohype.dev/on-behalf-of has no effect with the transport role-chain";
    assert!(text(&without.stderr).contains(warning), "{}", text(&without.stderr));
    // Other users, also with a whole sidecar of their own, and values that are no session tag.
    for (config, creator, value, want) in [
        (&on, TENANT, value, "on-behalf-of is reserved for trusted creators [reserved-annotation]"),
        (
            &chained,
            TENANT,
            value,
            "on-behalf-of is reserved for trusted creators [reserved-annotation]",
        ),
        (
            &on,
            OPERATOR,
            "a\"b",
            "on-behalf-of has '\"' at byte 1; allowed are A-Z, a-z, 0-9, spaces and _.:/=+-@ [on-behalf-of-illegal]",
        ),
        (
            &on,
            OPERATOR,
            "",
            "on-behalf-of has 0 characters; a session tag has 1 to 256 [on-behalf-of-illegal]",
        ),
    ] {
        let refused = injected(config, creator, value);
        assert_eq!(refused.status.code(), Some(1), "{creator} {value}");
        assert!(text(&refused.stderr).contains(want), "{}", text(&refused.stderr));
    }
    let forged = inject(text(&first.stdout), &["--namespace=tenants-acme", "--as", TENANT, &on]);
    assert_eq!(variable(&forged), None);
}
