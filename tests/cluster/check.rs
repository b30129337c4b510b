//! `check` on a real API server, with the chart as Helm installs it, a real parameter store and a
//! strict AWS. An intact installation has only ok findings. Each fault is found, and nothing else.

mod issuer;
mod preflight;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fab_session_injector::check::CheckId;
use harness::{
    control_plane::{ControlPlane, require_own},
    data,
    helm::{self, chart},
    moto::{Moto, REGION},
    process::{self, Process, wait_until},
    schema,
    sidecar::account::{Account, BASE, BROKER, Policies, allow, statements},
    world,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::Deserialize;
use serde_json::{Value, json};
use strict_aws::Association;
use tempfile::TempDir;

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::whole()));

/// A change that breaks an intact installation, from a file of `check/faults`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    change: Change,
    /// The expected findings that are not ok: level, check and code.
    want: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum Change {
    /// The trusted CA: start and end of its validity, in days from now.
    Ca {
        days: (i64, i64),
    },
    /// The statements of policies in AWS.
    Aws(Statements),
    /// The serving certificate.
    Certificate(Certificate),
    Create(Value),
    /// Adds the inline policy of revoked sessions to the session role.
    Revoke(String),
    Delete(Object),
    /// Replaces a text in a key of a ConfigMap.
    Edit {
        object: Object,
        key: String,
        from: String,
        to: String,
    },
    /// Replaces the parameter of the tenant, or deletes it.
    Parameter(Option<Parameter>),
    Patch {
        object: Object,
        operations: Value,
    },
    /// Creates a pod before its namespace opts in.
    Pod(Agent),
    Rename {
        object: Object,
        to: String,
    },
    /// Tags the base role in IAM.
    Tag {
        key: String,
        value: String,
    },
}

/// A policy that is not named is as it should be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statements {
    base: Option<Vec<Value>>,
    boundary: Option<Vec<Value>>,
    trust: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Certificate {
    /// Start and end of its validity, in days from now.
    days: (i64, i64),
    host: Option<String>,
    /// Whether another CA signs it.
    #[serde(default)]
    other_ca: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameter {
    r#type: String,
    value: String,
}

/// A pod with the service account that has base credentials.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Agent {
    name: String,
    /// Whether the webhook has injected it.
    injected: bool,
    /// The role in all places, instead of the tenant's.
    role: Option<String>,
    /// Operations of a JSON patch.
    operations: Vec<Value>,
}

/// Kind, name and `--namespace` as arguments of kubectl.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Object(Cow<'static, str>);

const CONFIGURATION: Object = object("mutatingwebhookconfiguration fab-session-injector");
const CONFIG: Object = object("configmap pilot-fab-session-injector --namespace injector");
const PODS_BINDING: Object = object("validatingadmissionpolicybinding fab-session-injector-pods");
const SECRET: Object = object("secret pilot-fab-session-injector-tls --namespace injector");

const fn object(arguments: &'static str) -> Object {
    Object(Cow::Borrowed(arguments))
}

/// The faults, each with the place of its file.
fn faults() -> Vec<(String, Fault)> {
    let faults = data::cases::<Fault>("tests/cluster/check/faults");
    // docs/testing.md has this number.
    assert_eq!(faults.len(), 77);
    faults
}

#[test]
fn check_finds_each_fault_and_nothing_else() {
    let world = world();
    assert_eq!(world.found(), BTreeSet::new(), "{}", world.text());
    for (file, Fault { name, change, want }) in faults() {
        let undo = world.make(&change);
        world.finds(&format!("{file}: {name}"), &want.into_iter().collect());
        world.undo(undo);
        world.finds(&format!("{file}: {name}, undone"), &BTreeSet::new());
    }
}

/// The sidecar uses the source of the config only, whatever service accounts and roles are set up for.
#[test]
fn base_credentials_of_another_source_are_found() {
    let world = world();
    let directory = process::own_directory();
    let file = directory.path().join("config.yaml");
    let found = |config: &Value| -> Vec<String> {
        fs::write(&file, config.to_string()).unwrap();
        let arguments = ["-o", "json", "--config", file.to_str().unwrap()];
        let levels = levels(&world.check(&arguments));
        levels.into_iter().filter(|it| it.contains("base-credentials")).collect()
    };
    let base_trust = |statements: &Value| {
        let role = [("RoleName", "prod-acme-tenant"), ("PolicyDocument", &*statements.to_string())];
        world.moto.iam("UpdateAssumeRolePolicy", &role);
    };
    let mut pod_identity =
        json!({"cluster": "prod", "roles": {"ssm": {"endpoint": world.moto.endpoint()}}});
    let irsa = |role: &str| {
        let mut config = pod_identity.clone();
        let role = format!("arn:aws:iam::111122223333:role/eks-agent-platform/tenants/{role}");
        config["baseCredentials"] = json!({"source": "irsa", "roleArn": role});
        config
    };
    let [right, wrong] = ["{cluster}-{tenant}-tenant", "{component}"].map(irsa);
    pod_identity["baseCredentials"] = json!({"source": "podIdentity"});
    let of_provider = statements(&[allow(
        &["sts:AssumeRoleWithWebIdentity"],
        json!({"Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.example"}}),
    )]);
    let of_pods = statements(&[allow(
        &["sts:AssumeRole", "sts:TagSession"],
        json!({"Principal": {"Service": "pods.eks.amazonaws.com"}}),
    )]);
    // All results first, because other tests use the role as well.
    base_trust(&of_provider);
    let with_provider = [&pod_identity, &right, &wrong].map(found);
    base_trust(&of_pods);
    let with_pods = [&pod_identity, &right].map(found);
    let error = || vec!["error base-credentials".to_owned()];
    // Pod Identity with a base role for IRSA; IRSA; IRSA with a base role that the session role does
    // not trust.
    assert_eq!(with_provider, [error(), vec![], error()]);
    // Pod Identity; IRSA with a base role for Pod Identity.
    assert_eq!(with_pods, [vec![], error()]);
}

/// One fault does not hide another.
#[test]
fn two_faults_at_once_are_both_found() {
    let world = world();
    let faults = faults();
    let pairs = [
        ("failure policy changed", "certificate expired"),
        ("certificate of another CA", "no replica is ready"),
        ("configuration renamed, behind EKS's", "guard's binding deleted"),
        ("guard's policy edited", "guard's policy deleted"),
        ("caBundle removed", "matcher edited"),
        ("opt-in mistyped", "pod without sidecar"),
        ("no tenant", "parameter is a secret"),
        ("tenant too long", "trust without SetSourceIdentity"),
        ("Pod Security not enforced", "pod with an older sidecar"),
        ("quota too small", "limit range below the sidecar"),
        ("no tenant", "Pod Security not enforced"),
        ("configuration deleted", "certificate expires soon"),
    ];
    for (first, second) in pairs {
        let find = |name| &faults.iter().find(|(_, fault)| fault.name == name).unwrap().1;
        let (first, second) = (find(first), find(second));
        let undo_first = world.make(&first.change);
        let undo_second = world.make(&second.change);
        let want = first.want.iter().chain(&second.want).cloned().collect();
        world.finds(&format!("{} and {}", first.name, second.name), &want);
        world.undo(undo_second);
        world.undo(undo_first);
    }
    world.finds("all undone", &BTreeSet::new());
}

/// The requesting user of a pod is not recorded, and a component may exempt pods of some users.
#[test]
fn a_pod_that_may_be_exempt_is_unknown() {
    let world = world();
    let exempt = "components:\n- {name: jobs, creators: ['system:serviceaccount:jobs:*'], credentials: exempt}\n";
    let undo = [
        Change::Edit {
            object: CONFIG,
            key: "config.yaml".to_owned(),
            from: "components:\n".to_owned(),
            to: exempt.to_owned(),
        },
        Change::Pod(Agent { name: "whose".to_owned(), ..Agent::default() }),
    ]
    .map(|change| world.make(&change));
    let want =
        ["error config-edited", "warning component-unattributed", "unknown pod-without-sidecar"];
    world.finds("an exempt creator", &want.map(str::to_owned).into());
    undo.into_iter().rev().for_each(|undo| world.undo(undo));
}

#[test]
fn revoked_sessions_are_reported_with_and_without_pod() {
    let world = world();
    let pod = world.get_in("pod", "whole", "tenants-acme");
    let with_pod = format!("agent.acme.{}", pod["metadata"]["uid"].as_str().unwrap());
    let document = REVOKED.replace("agent.acme.a", &format!(r#"{with_pod}","agent.acme.zz"#));
    let document = ("PolicyDocument", &*document);
    world.moto.iam("PutRolePolicy", &[BROKER_NAME, REVOKED_NAME, document]);
    let message = |arguments: &[&str]| {
        let found: Value = serde_json::from_slice(&world.check(arguments).stdout).unwrap();
        let mut findings = found["findings"].as_array().unwrap().iter();
        let finding = findings.find(|it| it["check"] == "revoked-sessions").unwrap();
        assert_eq!(finding["level"], "warning");
        finding["message"].as_str().unwrap().to_owned()
    };
    let said = message(&["-o", "json"]);
    assert!(said.contains(&format!("whose pods still exist: {with_pod}")), "{said}");
    assert!(said.contains("revoke --prune may remove them: agent.acme.zz"), "{said}");
    world.undo(Undo::Revocation);
    assert_eq!(world.found(), BTreeSet::new());
}

/// The deny policy of a base role stops them, also outside of the namespaces that opted in.
#[test]
fn pods_of_a_base_role_without_a_session_are_named() {
    let world = world();
    let endpoint = json!({"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": "http://169.254.170.23/v1/credentials"});
    let role = json!({"name": "AWS_ROLE_ARN", "value": BASE});
    let old = json!([{"op": "add", "path": "/spec/containers/0/env", "value": [endpoint]}]);
    let old = Agent {
        name: "old".to_owned(),
        operations: old.as_array().unwrap().clone(),
        ..Agent::default()
    };
    let account = |name: &str, role: Option<&str>| {
        let annotations = role.map(|role| json!({"eks.amazonaws.com/role-arn": role}));
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": "plain", "annotations": annotations},
        })
    };
    let pod = |name: &str, variable: &Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{name}-1"), "namespace": "plain"},
            "spec": {"serviceAccountName": name, "containers": [{"name": "a", "image": "i", "env": [variable]}]},
        })
    };
    let objects = [
        account("gateway", Some(BASE)),
        account("sync", None),
        account("other", Some(BROKER)),
        pod("gateway", &role),
        pod("sync", &endpoint),
        pod("other", &json!({"name": "AWS_ROLE_ARN", "value": BROKER})),
    ];
    let mut undo: Vec<Undo> =
        objects.into_iter().map(|object| world.make(&Change::Create(object))).collect();
    undo.push(world.make(&Change::Pod(old)));
    let with_sync = Account::open_with(Policies::default(), |aws| {
        aws.association(Association::new("plain", "sync", BASE))
    });
    undo.push(Undo::Account(std::mem::replace(&mut *world.account.lock().unwrap(), with_sync)));
    let findings = |output: Output| -> BTreeSet<String> {
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of_check = found["findings"].as_array().unwrap().iter();
        let of_check = of_check.filter(|it| it["check"] == "pod-unattributed");
        let text = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
        of_check
            .map(|it| {
                let message = text(it, "message");
                let who = message.split("service account ").nth(1).unwrap_or_default();
                let who = who.split(';').next().unwrap_or_default().to_owned();
                let subject = text(it, "subject");
                format!("{} {}: {who}", text(it, "level"), subject.split(',').next().unwrap())
            })
            .collect()
    };
    let want = |level: &str| {
        [
            ("plain", "gateway: gateway-1"),
            ("plain", "sync: sync-1"),
            ("tenants-acme", "tenant-runtime: old"),
        ]
        .map(|(namespace, who)| format!("{level} namespace {namespace}: {who}"))
    };
    let json = ["-o", "json"];
    assert_eq!(findings(world.check(&json)), want("warning").into());
    let deny = policy_of_iam("deny-without-source-identity");
    let role = ("RoleName", "prod-acme-tenant");
    let put = [role, ("PolicyName", "deny"), ("PolicyDocument", &*deny)];
    world.moto.iam("PutRolePolicy", &put);
    assert_eq!(findings(world.check(&json)), want("error").into());
    let one = findings(world.check(&["-o", "json", "--namespace", "tenants-acme"]));
    assert_eq!(one, want("error")[2..].iter().cloned().collect());
    // Without EKS, the role of an association is not known.
    let mut command = world.command(&world.cluster.kubeconfig(), &json);
    let output = command.env("AWS_ENDPOINT_URL_EKS", "http://127.0.0.1:1").output().unwrap();
    let gateway = want("error")[0].clone();
    assert_eq!(findings(output), [gateway, "unknown EKS: ".to_owned()].into());
    world.moto.iam("DeleteRolePolicy", &put[..2]);
    undo.into_iter().rev().for_each(|undo| world.undo(undo));
    world.finds("all undone", &BTreeSet::new());
}

#[test]
fn the_docs_list_each_check() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md");
    let docs = fs::read_to_string(docs).unwrap();
    let (_, docs) = docs.split_once("\n## Checks\n").unwrap();
    let rows: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `")).collect();
    let want: Vec<String> = CheckId::ALL
        .iter()
        .map(|link| {
            let about = link.about();
            format!("| `{}` | {} | {} |", about.id, about.cause, about.remedy)
        })
        .collect();
    assert_eq!(rows, want, "\n{}", want.join("\n"));
}

#[test]
fn text_and_json_report_errors_and_remedies() {
    let world = world();
    let mistyped = faults().into_iter().find(|(_, fault)| fault.name == "opt-in mistyped");
    let undo = world.make(&mistyped.unwrap().1.change);
    let output = wait_until("it is found", Duration::from_secs(10), || {
        let output = world.check(&[]);
        (output.status.code() == Some(1)).then_some(output)
    });
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("error")).unwrap();
    assert_eq!(
        line,
        "error    namespace-label         namespace second: fab.nanohype.dev/session-injection=enable is invalid, so the namespace is not opted in: set the label to `enabled` or `audit`, or remove it"
    );
    assert!(text.ends_with("1 error, 0 unknown, 0 warnings\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours only on a terminal");
    assert!(output.stderr.is_empty(), "progress only on a terminal");
    let json: Value = serde_json::from_slice(&world.check(&["-o", "json"]).stdout).unwrap();
    assert_eq!(json["errors"], 1);
    let findings = json["findings"].as_array().unwrap();
    let of = |check: &str| findings.iter().filter(|it| it["check"] == check).count();
    assert_eq!(of("namespace-label"), 1);
    let checks: BTreeSet<&str> = findings.iter().map(|it| it["check"].as_str().unwrap()).collect();
    assert!(checks.len() > 18, "ok findings are printed, too: {checks:?}");

    // The other namespace has no error.
    let one = world.check(&["--namespace", "tenants-acme", "--skip-aws"]);
    assert_eq!(one.status.code(), Some(0), "{}", String::from_utf8_lossy(&one.stdout));
    world.undo(undo);
    let out = world.check(&["--namespace", "plain", "-o", "json"]);
    assert_eq!(levels(&out), BTreeSet::from(["warning namespace-label".to_owned()]));
}

#[test]
fn checks_without_permission_are_unknown() {
    let world = world();
    let kubeconfig = world.kubeconfig_of("little");
    // Only ConfigMaps and namespaces.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "little"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps", "namespaces"], "verbs": ["get", "list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "little"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "little"},
        "subjects": [{"kind": "ServiceAccount", "name": "little", "namespace": SYSTEM}],
    });
    let undo = [Change::Create(role), Change::Create(binding)].map(|change| world.make(&change));
    let output = wait_until("the user may read the config", Duration::from_secs(10), || {
        let output = world
            .check_as(&kubeconfig, &["--skip-aws", "-o", "json", "--release-namespace", SYSTEM]);
        (output.status.code() == Some(0)).then_some(output)
    });
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap().iter();
    let unknown: Vec<&Value> = findings.filter(|it| it["level"] == "unknown").collect();
    let checks: BTreeSet<&str> = unknown.iter().map(|it| it["check"].as_str().unwrap()).collect();
    let want = [
        "certificate",
        "endpoints",
        "guard-missing",
        "kubernetes-version",
        "limit-range",
        "network-plugin",
        "pod-without-sidecar",
        "quota",
        "rbac",
        "rollout",
        "service-account",
        "sidecar-image",
        "version",
        "webhook-missing",
    ];
    assert_eq!(checks, want.into(), "{unknown:#?}");
    for finding in unknown {
        assert!(finding["message"].as_str().unwrap().contains("is forbidden: User"), "{finding}");
    }
    undo.into_iter().rev().for_each(|undo| world.undo(undo));

    // Without a config, check is not possible, unless --config sets one.
    let none = world.check_as(&kubeconfig, &["--skip-aws"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(2), "{said}");
    assert!(said.contains("set --release-namespace"), "{said}");
}

#[test]
fn failed_aws_calls_are_unknown_and_not_errors() {
    let world = world();
    let mut command = world.command(&world.cluster.kubeconfig(), &["-o", "json", "--assume-role"]);
    // An STS endpoint that nothing serves.
    let output = command.env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(levels(&output), BTreeSet::from(["unknown assume-role".to_owned()]));
    let mut command = world.command(&world.cluster.kubeconfig(), &["-o", "json", "--assume-role"]);
    let output = command.env("AWS_ENDPOINT_URL_IAM", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(levels(&output), BTreeSet::from(["unknown role-trust".to_owned()]));
    // Roles are assumed only with --assume-role.
    let output = world.check(&["-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let output = world.check_as(&world.cluster.kubeconfig(), &["-o", "json"]);
    assert_eq!(levels(&output), BTreeSet::from(["unknown assume-role".to_owned()]));
}

/// With `--skip-aws`, not even the instance metadata service is called.
#[test]
fn skip_aws_makes_no_aws_call() {
    let world = world();
    let directory = process::own_directory();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let roles = write("roles.yaml", &format!("roles: {{acme: {BROKER}}}\n"));
    let config = write("config.yaml", &format!("roles: {{file: {roles}}}\n"));
    let asks = |flags: &[&str]| {
        let metadata = TcpListener::bind("127.0.0.1:0").unwrap();
        metadata.set_nonblocking(true).unwrap();
        let address = format!("http://{}", metadata.local_addr().unwrap());
        let arguments = [&["--config", &config, "-o", "json"], flags].concat();
        let mut command = world.command(&world.cluster.kubeconfig(), &arguments);
        command.env_remove("AWS_REGION").env_remove("AWS_EC2_METADATA_DISABLED");
        let output = command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", address).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let mut findings = found["findings"].as_array().unwrap().iter();
        let role = findings.find(|it| it["check"] == "role-parameter").unwrap();
        assert_eq!(role["level"], "ok", "a static role is checked with and without AWS: {role}");
        metadata.accept().is_ok()
    };
    assert!(asks(&[]));
    assert!(!asks(&["--skip-aws"]));
}

#[test]
fn a_terminal_gets_colours_and_progress() {
    let world = world();
    let on_a_terminal = |colour: &str| {
        let program = world.command(&world.cluster.kubeconfig(), &[]);
        let line = format!("{} check --skip-aws", program.get_program().to_str().unwrap());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command.env("NO_COLOR", colour).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = on_a_terminal("1");
    assert!(plain.contains("\u{1b}[Kchecking namespace 2 of 2: "), "{plain:?}");
    let (_, report) = plain.rsplit_once("\u{1b}[K").unwrap();
    assert!(report.starts_with("ok ") && !report.contains("checking "), "{report:?}");
    assert!(!report.contains('\u{1b}'), "{report:?}");
    assert!(on_a_terminal("").contains("\u{1b}[32mok     \u{1b}[0m"));
}

#[test]
fn check_uses_the_chosen_release_or_a_config_file() {
    let world = world();
    let directory = process::own_directory();
    let file = directory.path().join("config.yaml");
    let config = world.get(&CONFIG)["data"]["config.yaml"].as_str().unwrap().to_owned();
    fs::write(&file, config.replace("podSecurity: restricted", "podSecurity: baseline")).unwrap();
    let file = file.to_str().unwrap();
    let by_file = world.check(&["-o", "json", "--config", file]);
    assert_eq!(levels(&by_file), BTreeSet::from(["warning pod-security-lowered".to_owned()]));

    // A tenant may create such a ConfigMap in its own namespace.
    let mut second = world.get(&CONFIG);
    second["metadata"]["name"] = json!("trial-fab-session-injector");
    second["metadata"]["labels"]["app.kubernetes.io/instance"] = json!("trial");
    let mut forged = second.clone();
    forged["metadata"]["namespace"] = json!("plain");
    let undo = [second, forged].map(|config| world.make(&Change::Create(config)));
    assert_eq!(levels(&world.check(&["-o", "json"])), BTreeSet::new());
    let either = world.check(&["-o", "json", "--release-namespace", SYSTEM]);
    let said = String::from_utf8_lossy(&either.stderr).into_owned();
    assert_eq!(either.status.code(), Some(2), "{said}");
    assert!(said.contains("more than one release") && said.contains("--release"), "{said}");
    let chosen = world.check(&["-o", "json", "--release", "pilot"]);
    assert_eq!(levels(&chosen), BTreeSet::new());
    undo.into_iter().for_each(|undo| world.undo(undo));
    let elsewhere = world.check(&["--release-namespace", "plain"]);
    assert_eq!(elsewhere.status.code(), Some(2));
}

/// With the real webhook and without a kubelet: the test sets the status of pods.
#[test]
fn a_test_pod_shows_whether_agents_get_credentials() {
    let world = world();
    let (_webhook, undo) = world.serve();
    let namespace = "tenants-acme";
    let start = |kubeconfig: &Path| {
        let arguments = ["--as-pod", "--namespace", namespace, "-o", "json"];
        let mut command = world.command(kubeconfig, &arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let send = |signal: &str, child: &Child| {
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    let finding_of = |child: Child| {
        let output = child.wait_with_output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let subject = format!("namespace {namespace}");
        let all = found["findings"].as_array().unwrap().iter();
        let of_pod = all.filter(|it| it["check"] == "assume-role" && it["subject"] == *subject);
        let [finding] = of_pod.collect::<Vec<_>>()[..] else { panic!("{found:#}") };
        finding.clone()
    };
    let try_pod_as = |kubeconfig: &Path, plays: &dyn Fn(&str)| {
        let mut child = start(kubeconfig);
        let mut played = BTreeSet::new();
        wait_until("check ends", Duration::from_secs(40), || {
            for pod in world.tried_pods(namespace) {
                if played.insert(pod.clone()) {
                    plays(&pod);
                }
            }
            child.try_wait().unwrap()
        });
        let finding = finding_of(child);
        assert_eq!(world.tried_pods(namespace), Vec::<String>::new(), "no test pod is left");
        (played.len(), finding)
    };
    let try_pod = |plays: &dyn Fn(&str)| try_pod_as(&world.cluster.kubeconfig(), plays);
    let patch_status = |pod: &str, status: &Value| {
        let status = json!({"status": status}).to_string();
        let patch = ["patch", "pod", pod, "--namespace", namespace, "--subresource=status"];
        world.cluster.kubectl(&[&patch[..], &["--patch", &status]].concat()).json();
    };

    let starts = |pod: &str| {
        let stored = world.get_in("pod", pod, namespace);
        assert_eq!(stored["spec"]["initContainers"][0]["name"], "fab-session-credentials");
        patch_status(pod, &json!({"phase": "Succeeded"}));
    };
    let (pods, assumed) = try_pod(&starts);
    assert_eq!((pods, &assumed["level"]), (1, &json!("ok")), "{assumed}");

    let says = "Startup probe failed: cannot get credentials of arn:aws:iam::1:role/r [set-source-identity-denied]: allow it";
    let event = |pod: &str, component: &str, says: &str| {
        let uid = &world.get_in("pod", pod, namespace)["metadata"]["uid"];
        world.apply(&json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{pod}.{component}"), "namespace": namespace},
            "involvedObject": {"kind": "Pod", "name": pod, "namespace": namespace, "uid": uid},
            "reason": "Unhealthy", "message": says, "count": 3, "type": "Warning",
            "source": {"component": component},
        }));
    };
    let is_held = |pod: &str| {
        event(pod, "kubelet", says);
        event(pod, "other", "all is well");
        patch_status(
            pod,
            &json!({"initContainerStatuses": [{
                "name": "fab-session-credentials", "image": "i", "imageID": "i", "ready": false,
                "restartCount": 0, "started": false, "state": {"running": {}},
            }]}),
        );
    };
    let (pods, assumed) = try_pod(&is_held);
    assert_eq!((pods, &assumed["level"]), (1, &json!("error")), "{assumed}");
    assert!(assumed["message"].as_str().unwrap().contains(says), "{assumed}");

    // Other users may write events.
    let (pods, assumed) = try_pod(&|pod| {
        event(pod, "kubelet", says);
        starts(pod);
    });
    assert_eq!((pods, &assumed["level"]), (1, &json!("ok")), "{assumed}");

    // A tenant that may delete and create pods cannot decide the result.
    let (pods, assumed) = try_pod(&|pod| world.remove(&agent(pod)));
    assert_eq!((pods, &assumed["level"]), (1, &json!("unknown")), "{assumed}");
    assert!(assumed["message"].as_str().unwrap().contains("was deleted"), "{assumed}");

    // Meanwhile check is stopped, so it only sees the second pod.
    let child = start(&world.cluster.kubeconfig());
    let pod = wait_until("the test pod exists", Duration::from_secs(20), || {
        world.tried_pods(namespace).pop()
    });
    send("-STOP", &child);
    world.remove(&agent(&pod));
    world.create(&agent(&pod));
    starts(&pod);
    send("-CONT", &child);
    let assumed = finding_of(child);
    assert_eq!(assumed["level"], "unknown", "{assumed}");
    assert!(assumed["message"].as_str().unwrap().contains("was deleted"), "{assumed}");
    assert_eq!(world.tried_pods(namespace), [&*pod], "check deletes only its own pod");
    world.remove(&agent(&pod));

    // A signal to check also deletes the pod.
    let mut child = start(&world.cluster.kubeconfig());
    wait_until("the test pod exists", Duration::from_secs(20), || {
        world.tried_pods(namespace).pop()
    });
    send("-TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(world.tried_pods(namespace), Vec::<String>::new());

    // A user that may read but not create pods gets an unknown finding.
    let viewer = world.kubeconfig_of("viewer");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "viewer"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "viewer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "viewer"},
        "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": SYSTEM}],
    });
    let bound = [Change::Create(role), Change::Create(binding)].map(|change| world.make(&change));
    wait_until("the user may read", Duration::from_secs(10), || {
        let said = world.check_as(&viewer, &["--skip-aws"]).stdout;
        String::from_utf8(said).unwrap().contains("running pods are").then_some(())
    });
    let (pods, assumed) = try_pod_as(&viewer, &starts);
    assert_eq!((pods, &assumed["level"]), (0, &json!("unknown")), "{assumed}");
    assert!(assumed["message"].as_str().unwrap().contains("may not create pods"), "{assumed}");
    bound.into_iter().rev().for_each(|undo| world.undo(undo));

    let gone = world.make(&Change::Parameter(None));
    let refused = wait_until("the webhook has read it", Duration::from_secs(20), || {
        let (pods, assumed) = try_pod(&starts);
        (pods == 0).then_some(assumed)
    });
    assert_eq!(refused["level"], "error");
    assert!(refused["message"].as_str().unwrap().contains("[role-missing]"), "{refused}");
    world.undo(gone);

    // Without webhook and guard, the test pod is created without a sidecar.
    let gone = [CONFIGURATION, PODS_BINDING].map(|object| world.make(&Change::Delete(object)));
    let bare = wait_until("a pod is created bare", Duration::from_secs(30), || {
        let tried = &["--as-pod", "--namespace", namespace, "-o", "json"];
        let tried = world.check_as(&world.cluster.kubeconfig(), tried);
        let found: Value = serde_json::from_slice(&tried.stdout).unwrap();
        let subject = format!("namespace {namespace}");
        let mut findings = found["findings"].as_array().unwrap().iter();
        findings.find(|it| it["check"] == "webhook-missing" && it["subject"] == *subject).cloned()
    });
    assert_eq!(bare["level"], "error", "{bare}");
    assert_eq!(world.tried_pods(namespace), Vec::<String>::new());
    gone.into_iter().rev().for_each(|undo| world.undo(undo));
    undo.into_iter().rev().for_each(|undo| world.undo(undo));
}

#[test]
fn invalid_input_names_the_flag_and_the_cause() {
    let world = world();
    let directory = process::own_directory();
    let wrong = directory.path().join("wrong.yaml");
    fs::write(&wrong, "regoin: eu-west-1\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--config", wrong], &[wrong, "regoin"]),
        (&["--config", "/nowhere.yaml"], &["/nowhere.yaml"]),
        (&["--namespace", "Acme"], &["--namespace"]),
        (&["--namespace", "nowhere"], &["--namespace nowhere", "no such namespace"]),
        (&["--context", "elsewhere"], &["--context elsewhere"]),
        (&["--release", "other"], &["no release of the chart was found", "--release-namespace"]),
        (&["-o", "yaml"], &["--output", "json", "text"]),
    ];
    for (arguments, wanted) in cases {
        let kubeconfig = world.cluster.kubeconfig();
        let output = world.check_as(&kubeconfig, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // The service of the webhook configuration names the release.
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        for part in wanted {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
    }
    let directory = process::own_directory();
    let gone = directory.path().join("gone.kubeconfig");
    let admin = fs::read_to_string(world.cluster.kubeconfig()).unwrap();
    let mut config: Value = serde_saphyr::from_str(&admin).unwrap();
    config["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:1");
    fs::write(&gone, config.to_string()).unwrap();
    let output = world.check_as(&gone, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_closed_stdout_ends_check_quietly() {
    let world = world();
    let mut child = world
        .command(&world.cluster.kubeconfig(), &["--skip-aws"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns a document that `iam` prints.
fn policy_of_iam(document: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["iam", "--cluster=prod", "--tenant=acme", "--base-role", BASE, "--session-role"])
        .args([BROKER, "--deny-without-source-identity", "--only", document])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A cluster with an intact installation.
struct World {
    cluster: ControlPlane,
    moto: Moto,
    account: Mutex<Account>,
    ca: Ca,
}

/// How to undo a change.
enum Undo {
    Account(Account),
    Delete(Value),
    Parameter,
    /// The object as it was before, and an object to delete first.
    Restore(Value, Option<Value>),
    Revocation,
    Untag(String),
}

impl World {
    fn whole() -> Self {
        let cluster = ControlPlane::start();
        let moto = Moto::start();
        moto.put_parameter(PARAMETER, BROKER, "String");
        let endpoint = moto.endpoint();
        cluster.create_namespace(SYSTEM, &[]);
        let values = [
            ("config.cluster", "prod"),
            ("config.region", REGION),
            ("config.roles.ssm.endpoint", &*endpoint),
            ("config.roles.allow.partitions[0]", "aws"),
            ("config.roles.allow.pathPrefixes[0]", "/eks-agent-platform/tenants/"),
        ];
        let directory = process::own_directory();
        let file = directory.path().join("values.yaml");
        fs::write(&file, "config: {roles: {allow: {accounts: ['111122223333']}}}\n").unwrap();
        let text = helm::render(&chart(), "pilot", SYSTEM, &values, Some(&file)).unwrap();
        let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let is_hook =
            |manifest: &Value| manifest["metadata"]["annotations"].get("helm.sh/hook").is_some();
        let items: Vec<Value> =
            manifests.into_iter().filter(|it| !it.is_null() && !is_hook(it)).collect();
        let world = Self {
            cluster,
            moto,
            account: Mutex::new(Account::open(Policies::default())),
            ca: Ca::new(),
        };
        world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
        world.make_roles();
        // The webhook configuration of EKS, and one that sorts before it.
        for name in ["pod-identity-webhook", "aws-load-balancer-webhook"] {
            world.apply(&json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": name}, "webhooks": [],
            }));
        }
        let certificate = world.ca.certificate((-30, 30), HOST);
        world.patch(
            &SECRET,
            &json!([{"op": "add", "path": "/data", "value": {"tls.crt": base64(&certificate)}}]),
        );
        let bundle = base64(&world.ca.pem);
        let to_both = [0, 1].map(|index| {
            json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle})
        });
        world.patch(&CONFIGURATION, &json!(to_both));
        world.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "webhook", "namespace": SYSTEM, "labels": {"kubernetes.io/service-name": "pilot-fab-session-injector"}},
            "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
        }));
        world.cluster.create_namespace("plain", &[]);
        for (name, tenant) in [("tenants-acme", "acme"), ("second", "acme")] {
            let labels = [
                ("fab.nanohype.dev/tenant", tenant),
                ("pod-security.kubernetes.io/enforce", "restricted"),
            ];
            world.cluster.create_namespace(name, &labels);
            let create = ["create", "serviceaccount", "tenant-runtime", "--namespace", name];
            world.cluster.kubectl(&create).json();
        }
        // Created before the opt-in, because no webhook serves yet.
        world.create(&injected("whole"));
        let mut finished = agent("finished");
        finished["metadata"]["name"] = json!("not-an-agent");
        finished["spec"]["serviceAccountName"] = json!("default");
        world.create(&finished);
        for namespace in ["tenants-acme", "second"] {
            world.opt_in(namespace, Some("enabled"));
        }
        wait_until("the release is rolled out", Duration::from_secs(30), || {
            world.cluster.run_pods(SYSTEM);
            let status = ["rollout", "status", "deployment", "--namespace", SYSTEM, "--timeout=1s"];
            world.cluster.kubectl(&status).run().ok.then_some(())
        });
        world
    }

    /// Returns the findings that are not ok.
    fn found(&self) -> BTreeSet<String> {
        levels(&self.check(&["-o", "json"]))
    }

    /// Waits for the findings, because controllers update status a moment later.
    fn finds(&self, name: &str, want: &BTreeSet<String>) {
        let mut found = BTreeSet::new();
        for _ in 0..10 {
            self.cluster.run_pods(SYSTEM);
            found = self.found();
            if found == *want {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(found, *want, "{name}\n{}", self.text());
    }

    fn text(&self) -> String {
        let output = self.check(&[]);
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// Runs check as the administrator, with the base role's credentials of EKS Pod Identity.
    fn check(&self, arguments: &[&str]) -> Output {
        let assumes = !arguments.contains(&"--skip-aws");
        let assume: &[&str] = if assumes { &["--assume-role"] } else { &[] };
        self.check_as(&self.cluster.kubeconfig(), &[arguments, assume].concat())
    }

    fn check_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        self.command(kubeconfig, arguments).output().unwrap()
    }

    fn command(&self, kubeconfig: &Path, arguments: &[&str]) -> Command {
        let account = self.account.lock().unwrap();
        let token = account.mint("check", "pods.eks.amazonaws.com", Duration::from_secs(3600));
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .arg("check")
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .env("AWS_REGION", REGION)
            .env("AWS_ENDPOINT_URL_STS", format!("http://{}", account.address()))
            .env("AWS_ENDPOINT_URL_IAM", self.moto.endpoint())
            .env("AWS_ENDPOINT_URL_EKS", format!("http://{}", account.address()))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env_remove("AWS_ACCESS_KEY_ID")
            .env(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                format!("http://{}/v1/credentials", account.address()),
            )
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", token);
        command
    }

    fn make(&self, change: &Change) -> Undo {
        match change {
            Change::Ca { days: (from, until) } => {
                let bundle = base64(&self.ca.pem_of(*from, *until));
                let operations = [0, 1].map(|index| {
                    json!({"op": "replace", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle})
                });
                self.make(&Change::Patch { object: CONFIGURATION, operations: json!(operations) })
            }
            Change::Aws(Statements { base, boundary, trust }) => {
                let mut policies = Policies::default();
                for (policy, own) in [(&mut policies.base, base), (&mut policies.trust, trust)] {
                    *policy = own.as_deref().map_or_else(|| policy.take(), statements);
                }
                policies.boundary = boundary.as_deref().map(statements);
                self.write_down(&policies);
                let account = Account::open(policies);
                Undo::Account(std::mem::replace(&mut *self.account.lock().unwrap(), account))
            }
            Change::Certificate(Certificate { days, host, other_ca }) => {
                let before = self.get(&SECRET);
                let stranger = Ca::new();
                let ca = if *other_ca { &stranger } else { &self.ca };
                let certificate = base64(&ca.certificate(*days, host.as_deref().unwrap_or(HOST)));
                let put = json!([{"op": "replace", "path": "/data/tls.crt", "value": certificate}]);
                self.patch(&SECRET, &put);
                Undo::Restore(before, None)
            }
            Change::Create(object) => {
                self.apply(object);
                Undo::Delete(object.clone())
            }
            Change::Delete(object) => {
                let before = self.get(object);
                self.delete(object);
                Undo::Restore(before, None)
            }
            Change::Edit { object, key, from, to } => {
                let before = self.get(object);
                let mut after = before.clone();
                let text = before["data"][key].as_str().unwrap();
                assert!(text.contains(from), "{from:?} is not in\n{text}");
                after["data"][key] = json!(text.replacen(from, to, 1));
                self.replace(&after);
                Undo::Restore(before, None)
            }
            Change::Parameter(parameter) => {
                // The type of a parameter cannot be changed in place.
                self.moto.delete_parameter(PARAMETER);
                if let Some(Parameter { r#type, value }) = parameter {
                    self.moto.put_parameter(PARAMETER, value, r#type);
                }
                Undo::Parameter
            }
            Change::Patch { object, operations } => {
                let before = self.get(object);
                self.patch(object, operations);
                Undo::Restore(before, None)
            }
            Change::Pod(agent) => {
                let pod = agent.pod();
                let namespace = pod["metadata"]["namespace"].as_str().unwrap();
                self.opt_in(namespace, None);
                self.create(&pod);
                self.opt_in(namespace, Some("enabled"));
                Undo::Delete(pod)
            }
            Change::Rename { object, to } => {
                let before = self.get(object);
                let mut after = before.clone();
                after["metadata"]["name"] = json!(to);
                self.delete(object);
                self.apply(&after);
                Undo::Restore(before, Some(after))
            }
            Change::Revoke(document) => {
                let document = ("PolicyDocument", &**document);
                self.moto.iam("PutRolePolicy", &[BROKER_NAME, REVOKED_NAME, document]);
                Undo::Revocation
            }
            Change::Tag { key, value } => {
                let tag = [("Tags.member.1.Key", &**key), ("Tags.member.1.Value", &**value)];
                self.moto.iam("TagRole", &[&[("RoleName", "prod-acme-tenant")][..], &tag].concat());
                Undo::Untag(key.clone())
            }
        }
    }

    fn undo(&self, undo: Undo) {
        match undo {
            Undo::Account(account) => {
                self.write_down(&Policies::default());
                *self.account.lock().unwrap() = account;
            }
            Undo::Delete(object) => self.remove(&object),
            Undo::Parameter => {
                // The parameter may not exist.
                self.moto.put_parameter(PARAMETER, BROKER, "String");
                self.moto.delete_parameter(PARAMETER);
                self.moto.put_parameter(PARAMETER, BROKER, "String");
            }
            Undo::Restore(before, first) => {
                first.iter().for_each(|object| self.remove(object));
                self.replace(&before);
            }
            Undo::Revocation => {
                self.moto.iam("DeleteRolePolicy", &[BROKER_NAME, REVOKED_NAME]);
            }
            Undo::Untag(key) => {
                let parameters = [("RoleName", "prod-acme-tenant"), ("TagKeys.member.1", &*key)];
                self.moto.iam("UntagRole", &parameters);
            }
        }
    }

    /// Writes the policies of the strict AWS to IAM.
    fn write_down(&self, policies: &Policies) {
        let Policies { base, boundary, trust, .. } = policies;
        let iam =
            |action: &str, parameters: &[(&str, &str)]| drop(self.moto.iam(action, parameters));
        let role = ("RoleName", "prod-acme-tenant");
        let (trust, base) = (trust.to_string(), base.to_string());
        iam(
            "UpdateAssumeRolePolicy",
            &[("RoleName", "prod-acme-broker"), ("PolicyDocument", &trust)],
        );
        iam("PutRolePolicy", &[role, ("PolicyName", "own"), ("PolicyDocument", &base)]);
        match boundary {
            Some(boundary) => {
                let boundary = boundary.to_string();
                iam("CreatePolicy", &[("PolicyName", "boundary"), ("PolicyDocument", &boundary)]);
                iam("PutRolePermissionsBoundary", &[role, ("PermissionsBoundary", BOUNDARY)]);
            }
            None => iam("DeleteRolePermissionsBoundary", &[role]),
        }
    }

    fn make_roles(&self) {
        let empty = statements(&[]).to_string();
        for name in ["prod-acme-tenant", "prod-acme-broker"] {
            self.moto.iam(
                "CreateRole",
                &[
                    ("RoleName", name),
                    ("Path", "/eks-agent-platform/tenants/"),
                    ("AssumeRolePolicyDocument", &empty),
                ],
            );
        }
        let by_eks = json!({"Principal": {"Service": "pods.eks.amazonaws.com"}});
        let by_eks = statements(&[allow(&["sts:AssumeRole", "sts:TagSession"], by_eks)]);
        self.moto.iam(
            "UpdateAssumeRolePolicy",
            &[("RoleName", "prod-acme-tenant"), ("PolicyDocument", &by_eks.to_string())],
        );
        let models = allow(&["bedrock:*"], json!({"Resource": "*"}));
        let models = statements(&[models]).to_string();
        self.moto.iam("CreatePolicy", &[("PolicyName", "models"), ("PolicyDocument", &models)]);
        self.moto.iam(
            "AttachRolePolicy",
            &[
                ("RoleName", "prod-acme-broker"),
                ("PolicyArn", "arn:aws:iam::111122223333:policy/models"),
            ],
        );
        self.write_down(&Policies::default());
    }

    fn get(&self, object: &Object) -> Value {
        let mut object = self.cluster.kubectl(&object.arguments("get")).json();
        let metadata = object["metadata"].as_object_mut().unwrap();
        for key in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"] {
            metadata.shift_remove(key);
        }
        object
    }

    fn patch(&self, object: &Object, operations: &Value) {
        let operations = operations.to_string();
        let mut arguments = object.arguments("patch");
        arguments.extend(["--type=json", "--patch", &operations]);
        self.cluster.kubectl(&arguments).json();
    }

    fn delete(&self, object: &Object) {
        let deleted = self.cluster.kubectl(&object.arguments("delete")).run();
        assert!(deleted.ok, "{}", deleted.stderr);
    }

    fn remove(&self, object: &Value) {
        let arguments = ["delete", "--filename=-", "--grace-period=0", "--force"];
        let removed = self.cluster.kubectl(&arguments).stdin(&object.to_string()).run();
        assert!(removed.ok, "{}", removed.stderr);
    }

    fn apply(&self, object: &Value) {
        let apply = ["apply", "--server-side", "--force-conflicts", "--filename=-"];
        let applied = self.cluster.kubectl(&apply).stdin(&object.to_string()).run();
        assert!(applied.ok, "{}", applied.stderr);
    }

    /// Replaces or creates the object. Retries, because a controller may write at the same time.
    fn replace(&self, object: &Value) {
        let text = object.to_string();
        let by = |verb: &str| self.cluster.kubectl(&[verb, "--filename=-"]).stdin(&text).run();
        wait_until("the object is as before", Duration::from_secs(10), || {
            (by("replace").ok || by("create").ok).then_some(())
        });
    }

    /// Creates the pod. Retries until the API server has seen that the namespace opted out.
    fn create(&self, pod: &Value) {
        wait_until("the pod may be created", Duration::from_secs(20), || {
            let created =
                self.cluster.kubectl(&["create", "--filename=-"]).stdin(&pod.to_string()).run();
            assert!(
                created.ok
                    || created.stderr.contains("failed calling webhook")
                    || created.stderr.contains("ValidatingAdmissionPolicy"),
                "{}",
                created.stderr
            );
            created.ok.then_some(())
        });
    }

    fn opt_in(&self, namespace: &str, mode: Option<&str>) {
        let label = match mode {
            Some(mode) => format!("fab.nanohype.dev/session-injection={mode}"),
            None => "fab.nanohype.dev/session-injection-".to_owned(),
        };
        self.cluster.kubectl(&["label", "namespace", namespace, &label, "--overwrite"]).json();
    }

    /// Starts the real webhook at an address that the API server can reach.
    fn serve(&self) -> (Process, Vec<Undo>) {
        let directory = self.cluster.kubeconfig().parent().unwrap().to_owned();
        let (certificate, key) = self.ca.pair((-30, 30), "127.0.0.1");
        let config = self.get(&CONFIG)["data"]["config.yaml"].as_str().unwrap().to_owned();
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (port, health_port) = (process::free_port(), process::free_port());
        let config = config.replace("refreshSeconds: 300", "refreshSeconds: 1");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .args(["webhook", "--shutdown-delay=0", "--config"])
            .arg(file("webhook.yaml", &config))
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--health-listen=127.0.0.1:{health_port}"))
            .arg("--tls-certificate")
            .arg(file("webhook.crt", &certificate))
            .arg("--tls-key")
            .arg(file("webhook.key", &key))
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", REGION);
        let mut webhook = Process::start("webhook", &directory, &command);
        webhook.wait_until("the webhook is ready", Duration::from_secs(30), || {
            let health = ([127, 0, 0, 1], health_port).into();
            process::get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        let bundle = base64(&self.ca.pem);
        let called = [(0, "enabled"), (1, "audit")].map(|(index, path)| {
            let url = format!("https://127.0.0.1:{port}/{path}");
            json!({"op": "replace", "path": format!("/webhooks/{index}/clientConfig"), "value": {"url": url, "caBundle": bundle}})
        });
        let called = Change::Patch { object: CONFIGURATION, operations: json!(called) };
        let undo = vec![self.make(&called)];
        // The change takes effect a moment later.
        wait_until("the API server calls the webhook", Duration::from_secs(20), || {
            let create = ["create", "--dry-run=server", "--filename=-"];
            let created = self.cluster.kubectl(&create).stdin(&agent("asked").to_string()).run();
            created.ok.then_some(())
        });
        (webhook, undo)
    }

    fn tried_pods(&self, namespace: &str) -> Vec<String> {
        let pods = self.cluster.kubectl(&["get", "pods", "--namespace", namespace]).json();
        let names = pods["items"].as_array().unwrap().iter();
        let names = names.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("fab-check-")).collect()
    }

    fn get_in(&self, kind: &str, name: &str, namespace: &str) -> Value {
        self.cluster.kubectl(&["get", kind, name, "--namespace", namespace]).json()
    }

    /// Returns a kubeconfig of a service account in the release's namespace.
    fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let create = ["create", "serviceaccount", account, "--namespace", SYSTEM];
        self.cluster.kubectl(&create).json();
        self.cluster.kubeconfig_of(SYSTEM, account)
    }
}

/// The chart's value `viewers`, and Kubernetes' `view` in the namespace of the agents.
#[test]
fn viewers_of_the_chart_can_check_and_explain() {
    let world = world();
    let kubeconfig = world.kubeconfig_of("reads");
    let account = |name: &str, namespace: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
    let account = json!([account("reads", SYSTEM), account("other", "tenants-acme")]);
    let values = process::own_directory();
    let file = values.path().join("values.yaml");
    fs::write(&file, json!({"viewers": account}).to_string()).unwrap();
    let text = helm::render(&helm::chart(), "injector", SYSTEM, &[], Some(&file)).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let is_for_viewers =
        |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/component"] == "viewer";
    let mut objects: Vec<Value> = objects.into_iter().filter(is_for_viewers).collect();
    assert_eq!(objects.len(), 4);
    // The rules of `view`, without the controller that aggregates them.
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "reads", "namespace": "tenants-acme"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:aggregate-to-view",
        },
        "subjects": account,
    }));
    let undo: Vec<_> =
        objects.into_iter().map(|object| world.make(&Change::Create(object))).collect();
    let arguments = ["--namespace=tenants-acme", "--skip-aws", "--output=json"];
    let levels = wait_until("the user may read", Duration::from_secs(20), || {
        let output = world.check_as(&kubeconfig, &arguments);
        (output.status.code() == Some(0)).then(|| levels(&output))
    });
    // Both need the Secret.
    let secret = ["unknown ca-bundle", "unknown certificate"].map(str::to_owned);
    assert_eq!(levels, BTreeSet::from(secret));
    let explain = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["explain", "whole", "--namespace=tenants-acme", "--roles"])
        .arg({
            let file = values.path().join("roles.yaml");
            fs::write(&file, format!("roles: {{acme: {BROKER}}}\n")).unwrap();
            file
        })
        .env("KUBECONFIG", &kubeconfig)
        .output()
        .unwrap();
    assert_eq!(explain.status.code(), Some(0), "{}", String::from_utf8_lossy(&explain.stderr));
    // Without the release's namespace on the command line, the bindings of viewers do not count.
    let configuration = world.make(&Change::Delete(CONFIGURATION));
    let output = world.check_as(&kubeconfig, &arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("more than one release"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    world.undo(configuration);
    undo.into_iter().rev().for_each(|undo| world.undo(undo));
}

/// Returns level, check and code of each finding that is not ok.
fn levels(output: &Output) -> BTreeSet<String> {
    let findings: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    schema::check(&findings);
    let findings = findings["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["level"] != "ok")
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default();
            format!("{} {} {}", text("level"), text("check"), text("code")).trim().to_owned()
        })
        .collect()
}

/// Returns a pod with the service account that has base credentials. It meets `restricted`.
fn agent(name: &str) -> Value {
    world::agent("tenants-acme", name)
}

/// Returns the same pod as the webhook injects it.
fn injected(name: &str) -> Value {
    let directory: TempDir = process::own_directory();
    let roles = directory.path().join("roles.yaml");
    fs::write(&roles, format!("roles: {{acme: {BROKER}}}\n")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["inject", "-f", "-", "--namespace=tenants-acme", "--region", REGION, "--roles"])
        .arg(&roles)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(agent(name).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_saphyr::from_slice(&output.stdout).unwrap()
}

impl Object {
    fn arguments<'o>(&'o self, verb: &'o str) -> Vec<&'o str> {
        std::iter::once(verb).chain(self.0.split(' ')).collect()
    }
}

impl Agent {
    fn pod(&self) -> Value {
        let Self { name, injected: is_injected, role, operations } = self;
        let mut pod = if *is_injected { injected(name) } else { agent(name) };
        if let Some(role) = role {
            pod = serde_json::from_str(&pod.to_string().replace(BROKER, role)).unwrap();
        }
        data::patch(&mut pod, operations);
        pod
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let (parameters, key) = (Self::parameters(-400, 400), KeyPair::generate().unwrap());
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Returns the same CA with another validity, in days from now.
    fn pem_of(&self, from: i64, until: i64) -> String {
        Self::parameters(from, until).self_signed(self.issuer.key()).unwrap().pem()
    }

    fn parameters(from: i64, until: i64) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "CA of a test");
        (parameters.not_before, parameters.not_after) = (days(from).into(), days(until).into());
        parameters
    }

    /// Returns a certificate with this validity, in days from now.
    fn certificate(&self, holds: (i64, i64), host: &str) -> String {
        self.pair(holds, host).0
    }

    fn pair(&self, (begins, ends): (i64, i64), host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
        // One more hour, so that the remaining time is in whole days.
        (parameters.not_before, parameters.not_after) =
            (days(begins).into(), (days(ends) + Duration::from_secs(3600)).into());
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        (certificate, key.serialize_pem())
    }
}

#[allow(clippy::disallowed_methods, reason = "the program under test uses the same clock")]
fn days(from_now: i64) -> SystemTime {
    let time = Duration::from_secs(from_now.unsigned_abs() * 86_400);
    if from_now < 0 { SystemTime::now() - time } else { SystemTime::now() + time }
}

fn base64(text: &str) -> Value {
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}

fn world() -> MutexGuard<'static, World> {
    require_own();
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The session of the pod `whole` is its uid, so no pod has this one.
const REVOKED: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"RevokedSessions","Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:SourceIdentity":["agent.acme.a"]}}}]}"#;
const BROKER_NAME: (&str, &str) = ("RoleName", "prod-acme-broker");
const REVOKED_NAME: (&str, &str) = ("PolicyName", "fab-session-injector-revoked");
const SYSTEM: &str = "injector";
const HOST: &str = "pilot-fab-session-injector.injector.svc";
const PARAMETER: &str = "/eks-agent-platform/prod/tenant-substrate/acme/session_role_arn";
const BOUNDARY: &str = "arn:aws:iam::111122223333:policy/boundary";
