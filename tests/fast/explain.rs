//! Tests `explain` for manifests, without a cluster. `tests/cluster/explain.rs` tests it with one.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use harness::{case::Case, schema};
use serde_json::{Value, json};

const OPERATOR: &str = "system:serviceaccount:eks-agent-platform:operator";
const ROLE: &str = "arn:aws:iam::111122223333:role/acme";

static ROLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("explain.roles.yaml");
    fs::write(&path, format!("roles: {{acme: '{ROLE}'}}\n")).unwrap();
    path
});

fn explain(manifest: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["explain", "--filename=-", "--roles"])
        .arg(&*ROLES)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(manifest.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn said(manifest: &str, arguments: &[&str]) -> Value {
    let output = explain(manifest, &[&["--output=json"], arguments].concat());
    let printed = text(&output.stdout);
    let said = serde_json::from_str(printed).unwrap_or_else(|error| {
        panic!("{error}: {printed}{}", text(&output.stderr));
    });
    schema::check(&said);
    said
}

fn pod(labels: &[(&str, &str)], account: &str) -> Value {
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "tenants-acme", "labels": labels},
        "spec": {"serviceAccountName": account, "containers": [{"name": "agent", "image": "i"}]},
    })
}

fn namespace(mode: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenants-acme", "labels": {
        "fab.nanohype.dev/session-injection": mode, "pod-security.kubernetes.io/enforce": "restricted",
    }}})
}

#[test]
fn explain_shows_the_component_and_what_matched() {
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("explain.config.yaml");
    let text = "components: [{name: mine, creators: ['system:serviceaccount:mine:*']}, {name: left, serviceAccounts: [left-*], credentials: exempt}, {name: rest, fenced: true}]\n";
    fs::write(&config, text).unwrap();
    let config = format!("--config={}", config.display());
    let sandbox = ("agents.nanohype.dev/agentsandbox", "coder-1");
    let cases: [(Value, &[&str], &str, [&str; 3]); 7] = [
        (pod(&[sandbox], "other"), &[], "inject", ["runtime", "label-selector", sandbox.0]),
        (
            pod(&[("agents.nanohype.dev/agent", "x")], "tenant-runtime"),
            &[],
            "withhold",
            ["fleet", "label-selector", "agents.nanohype.dev/agent"],
        ),
        (pod(&[], "fab"), &[], "inject", ["dispatcher", "service-account", "fab"]),
        (
            pod(&[], "tenant-runtime-x-1"),
            &[],
            "inject",
            ["runtime", "fenced-service-account", "tenant-runtime-x-*"],
        ),
        (
            pod(&[], "other"),
            &[&config, "--as=system:serviceaccount:mine:job"],
            "inject",
            ["mine", "creator", "system:serviceaccount:mine:*"],
        ),
        (pod(&[], "left-1"), &[&config], "pass", ["left", "service-account", "left-*"]),
        (
            pod(&[sandbox], "tenant-runtime"),
            &[&config],
            "inject",
            ["rest", "fenced-service-account", "tenant-runtime"],
        ),
    ];
    for (pod, arguments, decision, [component, matcher, matched]) in cases {
        let said = said(&pod.to_string(), arguments);
        assert_eq!(said["decision"], decision, "{pod}");
        let want = json!({"name": component, "matcher": matcher, "matched": matched});
        assert_eq!(said["component"], want, "{pod}");
    }
}

#[test]
fn explain_shows_the_source_of_the_session_name() {
    let label = ("agents.nanohype.dev/agentsandbox", "coder-1");
    let mut annotated = pod(&[label], "tenant-runtime");
    annotated["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": "named"});
    let plain = pod(&[], "tenant-runtime");
    let by_name = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("explain.by-name.yaml");
    fs::write(&by_name, "components: [{name: all, fenced: true, session: pod-name}]\n").unwrap();
    let by_name = format!("--config={}", by_name.display());
    let operator = format!("--as={OPERATOR}");
    let named_in = |kind: &str, key: &str| json!({"kind": kind, "key": key});
    let by_annotation = named_in("annotation", "fab.nanohype.dev/session-id");
    let labelled = pod(&[label], "tenant-runtime");
    let cases: [(&Value, &str, &str, &str, Value); 5] = [
        (&annotated, &operator, "named", "trusted-creator", by_annotation),
        (&labelled, &operator, "coder-1", "trusted-creator", named_in("label", label.0)),
        (&plain, &operator, "<pod uid>", "none", Value::Null),
        (&labelled, "--as=jane", "<pod uid>", "not-trusted", Value::Null),
        (&plain, &by_name, "<pod name>", "config", Value::Null),
    ];
    for (pod, argument, id, named_by, named_in) in cases {
        let said = said(&pod.to_string(), &[argument]);
        let want = json!({
            "id": id, "namedBy": named_by, "namedIn": named_in, "sourceIdentity": format!("agent.acme.{id}"),
            "roleArn": ROLE,
            "source": format!("role for tenant acme in the static role file {}", ROLES.display()),
            "transport": "role-chain",
            "baseRoleArn": null,
            "onBehalfOf": null,
        });
        assert_eq!(said["session"], want, "{argument}");
    }
}

#[test]
fn explain_shows_the_transport_with_a_session_issuer() {
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("explain.issuer.yaml");
    let issuer = json!({
        "url": "https://issuer.example.com/prod", "endpoint": "https://issuer.fab.svc/v1/token",
        "caFile": "/nonexistent/ca.crt", "keys": [{"file": "/nonexistent/key.pem"}],
    });
    let allow = json!({"accounts": ["111122223333"]});
    let text_of = json!({
        "cluster": "prod", "transport": "webIdentity", "issuer": issuer, "roles": {"allow": allow},
    });
    fs::write(&config, text_of.to_string()).unwrap();
    let argument = format!("--config={}", config.display());
    let manifest = pod(&[], "tenant-runtime").to_string();
    let said = said(&manifest, &[&argument]);
    assert_eq!(said["session"]["transport"], "web-identity");
    assert_eq!(said["issuer"], Value::Null, "the pod does not exist yet");
    let printed = explain(&manifest, &[&argument]).stdout;
    let line = "  transport  web-identity: the sidecar gets a token of the session issuer, and has no base credentials\n";
    assert!(text(&printed).contains(line), "{}", text(&printed));
}

/// With IRSA the config names the base role. The annotation of the service account does not.
#[test]
fn explain_shows_the_base_role_of_the_component() {
    let by_component = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("explain.irsa.yaml");
    let role = "arn:aws:iam::111122223333:role/{cluster}-{tenant}-{component}";
    let base = json!({"source": "irsa", "roleArn": role});
    fs::write(&by_component, json!({"cluster": "prod", "baseCredentials": base}).to_string())
        .unwrap();
    let argument = format!("--config={}", by_component.display());
    for (account, component) in [("tenant-runtime", "runtime"), ("fab", "dispatcher")] {
        let manifest = pod(&[], account).to_string();
        let role = format!("arn:aws:iam::111122223333:role/prod-acme-{component}");
        assert_eq!(said(&manifest, &[&argument])["session"]["baseRoleArn"], json!(role));
        let printed = explain(&manifest, &[&argument]).stdout;
        assert!(text(&printed).contains(&format!("  base role  {role}\n")), "{}", text(&printed));
    }
}

#[test]
fn explain_shows_the_rule_of_the_decision() {
    let plain = pod(&[], "tenant-runtime");
    let mut with_keys = plain.clone();
    with_keys["spec"]["containers"][0]["env"] = json!([{"name": "AWS_PROFILE", "value": "x"}]);
    let cases: [(String, &[&str], i32, &str, &str); 6] = [
        (pod(&[], "other").to_string(), &[], 0, "unchanged", "not-an-agent"),
        (format!("{}\n---\n{plain}", namespace("off")), &[], 0, "unchanged", "not-opted-in"),
        (with_keys.to_string(), &[], 1, "code", "static-credentials"),
        (format!("{}\n---\n{with_keys}", namespace("audit")), &[], 0, "code", "static-credentials"),
        (plain.to_string(), &["--namespace=tenants-other"], 1, "code", "role-missing"),
        (
            pod(&[("fab.nanohype.dev/component", "other")], "x").to_string(),
            &[],
            1,
            "code",
            "unknown-component",
        ),
    ];
    for (manifest, arguments, code, field, want) in cases {
        let output = explain(&manifest, &[&["-ojson"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{want}: {}", text(&output.stderr));
        let said: Value = serde_json::from_str(text(&output.stdout)).unwrap();
        let found = if field == "code" { &said["refusals"][0]["code"] } else { &said[field] };
        assert_eq!(found, want, "{said}");
    }
}

/// `explain` makes the same decision as `inject` for each golden, and prints the same message.
#[test]
fn explain_decides_as_in_the_goldens() {
    let (mut refused, mut others) = (0, 0);
    for case in Case::all() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .args(["explain", "--region=eu-west-1", "--roles=tests/golden/roles.yaml", "-f"])
            .arg(case.input())
            .args(case.creator.iter().flat_map(|creator| ["--as", creator]))
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if let Some(config) = &case.config {
            command.arg("--config").arg(config);
        }
        let output = command.arg("-ojson").output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        schema::check(&said);
        let refusals = said["refusals"].as_array().unwrap();
        match fs::read_to_string(case.path("refused.txt")) {
            Ok(want) => {
                let denials: Vec<String> = refusals
                    .iter()
                    .map(|refusal| {
                        let part = |key: &str| refusal[key].as_str().unwrap();
                        format!("{} [{}]: {}", part("message"), part("code"), part("remedy"))
                    })
                    .collect();
                let wanted: Vec<&str> =
                    want.lines().map(|line| line.split_once(": ").unwrap().1).collect();
                assert_eq!(denials, wanted, "{}", case.name);
                assert_eq!(output.status.code(), Some(1), "{}", case.name);
                refused += 1;
            }
            Err(_) => {
                assert_eq!(refusals.len(), 0, "{}", case.name);
                let injected = fs::read_to_string(case.path("injected.yaml")).unwrap();
                let has_sidecar = injected.contains("name: fab-session-credentials");
                assert_eq!(said["decision"] == "inject", has_sidecar, "{}: {said}", case.name);
                others += 1;
            }
        }
    }
    assert!(refused > 20 && others > 20, "{refused} refused, {others} others");
}

#[test]
fn explain_lists_all_refusals_of_a_pod() {
    let mut many = pod(&[], "tenant-runtime");
    many["spec"]["hostNetwork"] = true.into();
    many["spec"]["hostPID"] = true.into();
    many["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
    many["spec"]["containers"] = json!([
        {"name": "a", "image": "i", "env": [
            {"name": "AWS_ACCESS_KEY_ID", "value": "x"},
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"},
            {"name": "JAVA_TOOL_OPTIONS", "value": "-Daws.profile=x -Daws.roleArn=x"},
        ]},
        {"name": "b", "image": "i", "ports": [{"containerPort": 7413}],
            "volumeMounts": [{"name": "v", "mountPath": "/run/fab-session"}]},
    ]);
    let of_kind = [
        "static-credentials",
        "static-credentials",
        "static-credentials",
        "static-credentials",
        "windows",
        "host-namespace",
        "host-namespace",
        "port-taken",
        "token-path-taken",
    ];
    let mut unknown = pod(&[("fab.nanohype.dev/component", "other")], "x");
    unknown["spec"]["hostPID"] = true.into();
    unknown["spec"]["containers"][0]["env"] = json!([{"name": "FAB_OPERATOR", "value": "1"}]);
    let codes_of = |pod: &Value, arguments: &[&str]| -> Vec<String> {
        let said = said(&pod.to_string(), arguments);
        let refusals = said["refusals"].as_array().unwrap();
        refusals.iter().map(|refusal| refusal["code"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(codes_of(&many, &[]), of_kind);
    // Without a tenant there is no role to look up.
    let without_tenant = [&["tenant-missing"][..], &of_kind].concat();
    assert_eq!(codes_of(&many, &["--namespace=other"]), without_tenant);
    let without_role = [&of_kind[..], &["role-missing"]].concat();
    assert_eq!(codes_of(&many, &["--namespace=tenants-other"]), without_role);
    // Other rules depend on the component.
    assert_eq!(
        codes_of(&unknown, &["--namespace=other"]),
        ["unknown-component", "tenant-missing", "fab-operator"]
    );
    let output = explain(&many.to_string(), &["--namespace=tenants-other"]);
    let lines = text(&output.stdout).lines().filter(|line| line.starts_with("  refusal    "));
    assert_eq!(lines.count(), without_role.len(), "{}", text(&output.stdout));
}

/// A component with `creators` comes before others only for these users.
#[test]
fn components_of_other_users_are_named_without_as() {
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("explain.creators.yaml");
    let job = "system:serviceaccount:kube-system:job-controller";
    let components = format!(
        "components: [{{name: left, creators: ['system:serviceaccount:ci:*', '{job}'], credentials: exempt}}, {{name: rest, fenced: true}}, {{name: last, creators: [x]}}]\n"
    );
    fs::write(&config, components).unwrap();
    let config = format!("--config={}", config.display());
    let possible = |object: &Value, arguments: &[&str]| {
        let said = said(&object.to_string(), &[&[&*config], arguments].concat());
        assert_eq!(said["component"]["name"], "rest", "{said}");
        let possible = said["possibleComponents"].as_array().unwrap().iter();
        possible.map(|it| it["matched"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let pod = pod(&[], "tenant-runtime");
    let of = |kind: &str, version: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "o", "namespace": "tenants-acme"}, "spec": {"template": {"spec": pod["spec"]}}});
    assert_eq!(possible(&pod, &[]), ["system:serviceaccount:ci:*", job]);
    assert_eq!(possible(&pod, &["--as=jane"]), [""; 0]);
    // The user that creates the pods of a Job is known, and that of a Deployment, too.
    assert_eq!(possible(&of("Job", "batch/v1"), &[]), [job]);
    assert_eq!(possible(&of("Deployment", "apps/v1"), &[]), [""; 0]);
    assert_eq!(possible(&of("Sandbox", "agents.x-k8s.io/v1"), &[]).len(), 2);
    let output = explain(&pod.to_string(), &[&config]);
    let line = format!("             or left, if {job} creates the pod (set --as)\n");
    assert!(text(&output.stdout).contains(&line), "{}", text(&output.stdout));
}

#[test]
fn the_limit_of_a_tenants_name_is_the_same_for_any_tenant() {
    for length in [22, 57, 63] {
        let tenant = format!("--tenant={}", "t".repeat(length));
        let said = said(&pod(&[], "tenant-runtime").to_string(), &[&tenant]);
        let message = said["refusals"][0]["message"].as_str().unwrap();
        // 64 characters without "agent.", a dot and a UID of 36 characters.
        assert!(message.contains("at most 21 fit beside <pod uid>"), "{length}: {message}");
    }
}

#[test]
fn explain_prints_all_facts_as_text() {
    let mut session = pod(&[("agents.nanohype.dev/agentsandbox", "coder-1")], "tenant-runtime");
    session["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "s"}}]);
    let output = explain(&session.to_string(), &["--as", OPERATOR]);
    let want = format!(
        "Pod/a in tenants-acme: inject: session credentials from the sidecar
  namespace  enabled, tenant acme
  user       {OPERATOR}
  component  runtime, by label selector agents.nanohype.dev/agentsandbox
  session    coder-1, named by the trusted creator in the label agents.nanohype.dev/agentsandbox
  identity   agent.acme.coder-1
  role       {ROLE}
  source     role for tenant acme in the static role file {}
",
        ROLES.display()
    );
    let printed = text(&output.stdout);
    assert!(printed.starts_with(&want), "{printed}\nwant {want}");
    assert!(printed.contains("\n  warning    "), "{printed}");
    assert!(text(&output.stderr).starts_with("assumed: namespace tenants-acme has the label"));

    let mut refused = pod(&[], "tenant-runtime");
    refused["spec"]["hostPID"] = true.into();
    let output = explain(&format!("{}\n---\n{refused}", namespace("audit")), &[]);
    assert!(output.status.success(), "no pod is refused in audit");
    let want = "Pod/a in tenants-acme: left unchanged (audit); if enabled: refuse (HTTP 403, permanent until fixed)
  namespace  audit, tenant acme
  user       unknown; assumed not to be a trusted creator (set --as)
  component  runtime, by fenced service account tenant-runtime
  refusal    the pod sets hostPID [host-namespace]: remove the field; it exposes credentials to other containers or to the node
";
    assert_eq!(text(&output.stdout), want);
}

#[test]
fn invalid_input_is_named() {
    let pod = pod(&[], "tenant-runtime").to_string();
    let cases: [(&str, &[&str], i32, &str); 7] = [
        ("kind: [", &[], 2, "standard input: invalid YAML: unclosed bracket '[' at line 1"),
        (&pod, &["--output=xml"], 2, "'--output <FORMAT>'"),
        (&pod, &["--roles=/nowhere"], 2, "cannot be used multiple times"),
        (&pod, &["some-pod"], 2, "cannot be used with"),
        (&pod, &["--config=/nowhere"], 2, "cannot read /nowhere"),
        (&pod, &["--namespace=A_B"], 2, "'--namespace <NAME>': not a valid namespace name"),
        ("", &[], 2, "standard input contains no object"),
    ];
    for (manifest, arguments, code, want) in cases {
        let output = explain(manifest, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output.stderr).contains(want), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
    for (arguments, want) in [
        (vec!["explain"], "<POD|--filename <FILE|->>"),
        (vec!["explain", "-f", "x.yaml"], "no source of roles is configured: set --roles"),
        (vec!["explain", "../../nodes"], "kind \"..\" is not supported"),
        (vec!["explain", "deploy/../../nodes"], "not a valid name"),
        (vec!["explain", "a", "--tenant=acme"], "cannot be used with"),
        (vec!["explain", "a", "--config=c.yaml", "--release=r"], "cannot be used with"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(&arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(want), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn several_pods_are_objects_one_after_another() {
    let pods = [pod(&[], "tenant-runtime"), pod(&[], "other")];
    let manifest = pods.map(|pod| pod.to_string()).join("\n---\n");
    let output = explain(&manifest, &["--output=json"]);
    let objects = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let decisions: Vec<Value> = objects
        .map(|object| {
            let object = object.unwrap();
            schema::check(&object);
            object["decision"].clone()
        })
        .collect();
    assert_eq!(decisions, ["inject", "pass"]);
}

#[test]
fn a_failure_is_an_object_too() {
    let output = explain("kind: [", &["--output=json"]);
    assert_eq!(output.status.code(), Some(2));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check(&object);
    assert_eq!(object["error"]["exitCode"], 2);
}

/// Closes the pipe as `explain | head -1` does.
#[test]
fn a_closed_stdout_prints_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["explain", "--filename=-", "--roles"])
        .arg(&*ROLES)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let pod = pod(&[], "tenant-runtime").to_string();
    child.stdin.take().unwrap().write_all(pod.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn an_unreadable_role_is_not_a_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let (config, manifest) =
        (directory.path().join("config.yaml"), directory.path().join("pod.yaml"));
    // No program listens on port 9.
    let text_of =
        "{cluster: prod, roles: {ssm: {endpoint: 'http://127.0.0.1:9', region: eu-west-1}}}";
    fs::write(&config, text_of).unwrap();
    fs::write(&manifest, pod(&[], "tenant-runtime").to_string()).unwrap();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .args(["explain", "-ojson", "-f"])
            .arg(&manifest)
            .arg("--config")
            .arg(&config)
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
        command
    };
    let output = command().output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["decision"], "unknown", "{said}");
    assert_eq!(said["refusals"][0]["code"], "role-unavailable", "{said}");
    assert_eq!(said["refusals"][0]["transient"], true);
    let message = said["refusals"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("this shell cannot read SSM parameter"), "{message}");
    assert_eq!(said["component"]["name"], "runtime", "the rest is known");

    // Another refusal does not depend on the role.
    let mut other = pod(&[], "tenant-runtime");
    other["spec"]["hostPID"] = true.into();
    fs::write(&manifest, other.to_string()).unwrap();
    let output = command().output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["decision"], "refuse", "{said}");
    assert_eq!(said["refusals"][0]["code"], "host-namespace", "{said}");
    assert_eq!(said["refusals"][1]["code"], "role-unavailable", "{said}");
    let message = said["refusals"][1]["message"].as_str().unwrap();
    assert!(message.starts_with("this shell cannot read SSM parameter"), "{message}");
}

#[test]
fn an_unreachable_cluster_differs_from_invalid_input() {
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("config");
    // No program listens on port 9.
    let text_of = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}]});
    fs::write(&kubeconfig, text_of.to_string()).unwrap();
    let run = |arguments: &[&str], kubeconfig: &Path| {
        Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(arguments)
            .arg("--output=json")
            .env("KUBECONFIG", kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .output()
            .unwrap()
    };
    let missing = directory.path().join("missing");
    let malformed = directory.path().join("malformed");
    fs::write(&malformed, ": [").unwrap();
    let unreachable = "cannot reach the API server http://127.0.0.1:9 (context c): Connection refused (os error 111); try kubectl cluster-info, or choose another context with --context";
    let absent = format!(
        "no cluster: the kubeconfig {} does not exist; set KUBECONFIG or --context",
        missing.display()
    );
    for command in [&["explain", "a", "--namespace=n"][..], &["check"]] {
        for (kubeconfig, code, want) in [
            (&kubeconfig, 3, unreachable),
            (&missing, 2, &absent),
            (&malformed, 2, "no cluster: the kubeconfig is not valid YAML: "),
        ] {
            let output = run(command, kubeconfig);
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{command:?}: {stderr}");
            assert!(stderr.starts_with(&format!("error: {want}")), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "one cause, once: {stderr}");
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(said["error"]["exitCode"], code, "{said}");
            assert!(said["error"]["message"].as_str().unwrap().starts_with(want), "{said}");
        }
    }
}
