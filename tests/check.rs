//! `check` on a real API server with the chart as Helm installs it, a real parameter store and a
//! strict AWS: a whole set-up is found to be whole, and each thing that somebody breaks is found,
//! and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "sidecar/account.rs"]
#[allow(dead_code, reason = "tests/sidecar.rs uses the rest")]
mod account;
#[path = "cluster/control_plane.rs"]
#[allow(dead_code, reason = "of it, only a part is needed")]
mod control_plane;
#[path = "cluster/helm.rs"]
mod helm;
#[path = "cluster/moto.rs"]
#[allow(dead_code, reason = "of it, only a part is needed")]
mod moto;
#[path = "sidecar/pod.rs"]
#[allow(dead_code, reason = "tests/sidecar.rs uses the rest")]
mod pod;
#[path = "cluster/process.rs"]
#[allow(dead_code, reason = "of it, only a part is needed")]
mod process;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fab_session_injector::check::Link;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use account::{Account, BASE, BROKER, Policies, allow, statements, trust};
use control_plane::ControlPlane;
use moto::{Moto, REGION};
use process::{Process, wait_until};

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::whole()));

/// Something that somebody does to a set-up that is whole.
struct Fault {
    name: &'static str,
    change: Change,
    /// What `check` finds then: level, link and code of each finding that is not ok.
    want: Vec<&'static str>,
}

enum Change {
    /// The authority that is trusted: days from now to its beginning and to its end.
    Authority(i64, i64),
    /// Other policies in AWS.
    Aws(Box<Policies>),
    /// The serving certificate: days from now to its beginning and to its end, and whether by
    /// another authority.
    Certificate {
        days: (i64, i64),
        host: &'static str,
        other: bool,
    },
    Create(Value),
    Delete(Object),
    /// A key of a ConfigMap: this text for that one.
    Edit(Object, &'static str, &'static str, &'static str),
    /// The parameter of the tenant: its type and value, or none.
    Parameter(Option<(&'static str, &'static str)>),
    Patch(Object, Value),
    /// A pod from before its namespace opted in.
    Pod(Value),
    Rename(Object, &'static str),
}

/// Kind and name, and the namespace if there is one.
#[derive(Clone, Copy)]
struct Object(&'static str, &'static str, Option<&'static str>);

const CONFIGURATION: Object = Object("mutatingwebhookconfiguration", "fab-session-injector", None);
const ACME: Object = Object("namespace", "tenants-acme", None);
const SECOND: Object = Object("namespace", "second", None);
const CONFIG: Object = Object("configmap", "pilot-fab-session-injector", Some(SYSTEM));
const INSTALLED: Object = Object("configmap", "pilot-fab-session-injector-installed", Some(SYSTEM));

fn faults() -> Vec<Fault> {
    let pods_policy = Object("validatingadmissionpolicy", "fab-session-injector-pods", None);
    let exec = Object("validatingadmissionpolicybinding", "fab-session-injector-exec", None);
    let exec_policy = Object("validatingadmissionpolicy", "fab-session-injector-exec", None);
    let slice = Object("endpointslice", "webhook", Some(SYSTEM));
    let label = |key: &str| format!("/metadata/labels/{}", key.replace('/', "~1"));
    let opt_in = label("fab.nanohype.dev/session-injection");
    let tenant = label("fab.nanohype.dev/tenant");
    let enforce = label("pod-security.kubernetes.io/enforce");
    let replace = |object, path: &str, value: Value| {
        Change::Patch(object, json!([{"op": "replace", "path": path, "value": value}]))
    };
    let remove =
        |object, path: &str| Change::Patch(object, json!([{"op": "remove", "path": path}]));
    let add = |object, path: &str, value: Value| {
        Change::Patch(object, json!([{"op": "add", "path": path, "value": value}]))
    };
    let policies = |policies| Change::Aws(Box::new(policies));
    let own = &json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}});
    let fault = |name, change, want: &[&'static str]| Fault { name, change, want: want.to_vec() };
    vec![
        // The webhook.
        fault(
            "configuration renamed, behind EKS's",
            Change::Rename(CONFIGURATION, "zz-session-injector"),
            &["broken webhook-order"],
        ),
        fault(
            "configuration renamed, still before EKS's",
            Change::Rename(CONFIGURATION, "a-session-injector"),
            &["broken webhook-order"],
        ),
        fault("configuration deleted", Change::Delete(CONFIGURATION), &["broken webhook-missing"]),
        fault(
            "one webhook taken out",
            remove(CONFIGURATION, "/webhooks/1"),
            &["broken webhook-missing"],
        ),
        fault(
            "failure policy changed",
            replace(CONFIGURATION, "/webhooks/0/failurePolicy", json!("Ignore")),
            &["broken webhook-edited"],
        ),
        fault(
            "time-out changed",
            replace(CONFIGURATION, "/webhooks/0/timeoutSeconds", json!(30)),
            &["broken webhook-edited"],
        ),
        fault(
            "namespace selector edited",
            add(
                CONFIGURATION,
                "/webhooks/0/namespaceSelector/matchExpressions/-",
                json!({"key": "a", "operator": "Exists"}),
            ),
            &["broken webhook-edited"],
        ),
        fault(
            "object selector added",
            add(CONFIGURATION, "/webhooks/0/objectSelector", json!({"matchLabels": {"a": "b"}})),
            &["broken webhook-edited"],
        ),
        fault(
            "matcher edited",
            replace(CONFIGURATION, "/webhooks/0/matchConditions/0/expression", json!("true")),
            &["broken webhook-edited"],
        ),
        fault(
            "authority taken out",
            remove(CONFIGURATION, "/webhooks/0/clientConfig/caBundle"),
            &["broken ca-bundle"],
        ),
        fault(
            "certificate of another authority",
            Change::Certificate { days: (-30, 30), host: HOST, other: true },
            &["broken ca-bundle"],
        ),
        fault(
            "certificate for another host",
            Change::Certificate { days: (-30, 30), host: "other.injector.svc", other: false },
            &["broken ca-bundle"],
        ),
        fault("authority ended", Change::Authority(-400, -1), &["broken ca-bundle"]),
        fault("authority not begun", Change::Authority(1, 400), &["broken ca-bundle"]),
        fault(
            "certificate not begun",
            Change::Certificate { days: (1, 30), host: HOST, other: false },
            &["broken certificate"],
        ),
        fault(
            "certificate ended",
            Change::Certificate { days: (-30, -1), host: HOST, other: false },
            &["broken certificate"],
        ),
        fault(
            "certificate ends soon",
            Change::Certificate { days: (-30, 5), host: HOST, other: false },
            &["broken certificate"],
        ),
        fault(
            "Secret deleted",
            Change::Delete(Object("secret", SECRET, Some(SYSTEM))),
            &["broken ca-bundle", "broken certificate"],
        ),
        fault(
            "Deployment deleted",
            Change::Delete(Object("deployment", "pilot-fab-session-injector", Some(SYSTEM))),
            &["broken rollout", "unseen ca-bundle", "unseen certificate"],
        ),
        fault(
            "a replica too few",
            replace(
                Object("deployment", "pilot-fab-session-injector", Some(SYSTEM)),
                "/spec/template/spec/priorityClassName",
                json!("no-such-class"),
            ),
            &["broken rollout"],
        ),
        fault(
            "nothing says what was installed",
            Change::Delete(INSTALLED),
            &["unseen config-edited", "unseen guard-missing", "unseen webhook-edited"],
        ),
        fault("no replica is ready", Change::Delete(slice), &["broken endpoints"]),
        fault(
            "the one replica is not ready",
            replace(slice, "/endpoints/0/conditions/ready", json!(false)),
            &["broken endpoints"],
        ),
        // The guard.
        fault("guard's binding deleted", Change::Delete(exec), &["broken guard-missing"]),
        fault("guard's policy deleted", Change::Delete(exec_policy), &["broken guard-missing"]),
        fault(
            "guard's policy edited",
            replace(pods_policy, "/spec/validations/0/expression", json!("true")),
            &["broken guard-edited"],
        ),
        fault(
            "guard's binding only warns",
            replace(exec, "/spec/validationActions", json!(["Warn"])),
            &["broken guard-edited"],
        ),
        fault("release without guard", remove(INSTALLED, "/data/guard.yaml"), &["note guard-off"]),
        // What may redirect the base token.
        fault(
            "istio's plugin is there",
            Change::Create(daemon_set("istio-cni-node")),
            &["note network-plugin"],
        ),
        fault(
            "Multus is there",
            Change::Create(daemon_set("kube-multus-ds")),
            &["note network-plugin"],
        ),
        fault(
            "a namespace in the ambient mode",
            add(SECOND, &label("istio.io/dataplane-mode"), json!("ambient")),
            &["note network-plugin"],
        ),
        // The config.
        fault(
            "a component is exempt",
            Change::Edit(
                CONFIG,
                "config.yaml",
                "components:\n",
                "components:\n- {name: gateway, serviceAccounts: [gateway], credentials: exempt}\n",
            ),
            &["broken config-edited", "note component-hole"],
        ),
        fault(
            "Pod Security lowered",
            Change::Edit(CONFIG, "config.yaml", "podSecurity: restricted", "podSecurity: baseline"),
            &["broken config-edited", "note pod-security-lowered"],
        ),
        fault(
            "any account's role is taken",
            Change::Edit(CONFIG, "config.yaml", "- \"111122223333\"", ""),
            &["broken config-edited", "note role-lists"],
        ),
        // The namespaces.
        fault(
            "opt-in mistyped",
            replace(SECOND, &opt_in, json!("enable")),
            &["broken namespace-label"],
        ),
        fault("opt-in true", replace(SECOND, &opt_in, json!("true")), &["broken namespace-label"]),
        fault("no tenant", remove(SECOND, &tenant), &["broken tenant tenant-missing"]),
        fault(
            "tenant too long",
            replace(SECOND, &tenant, json!("a-name-of-22-characters")),
            &["broken tenant tenant-too-long"],
        ),
        fault(
            "no role for the tenant",
            replace(SECOND, &tenant, json!("unknown")),
            &["broken role-parameter role-missing"],
        ),
        fault("Pod Security not enforced", remove(SECOND, &enforce), &["broken pss pod-security"]),
        fault(
            "Pod Security baseline",
            replace(SECOND, &enforce, json!("baseline")),
            &["broken pss pod-security"],
        ),
        fault(
            "Pod Security of a version with NET_RAW",
            add(SECOND, &label("pod-security.kubernetes.io/enforce-version"), json!("v1.21")),
            &["broken pss pod-security"],
        ),
        fault(
            "old client mode kept",
            add(SECOND, &label("fab.nanohype.dev/operator"), json!("keep")),
            &["note operator-kept"],
        ),
        fault(
            "old client mode mistyped",
            add(SECOND, &label("fab.nanohype.dev/operator"), json!("kept")),
            &["broken operator-kept"],
        ),
        fault(
            "no fenced service account",
            Change::Delete(Object("serviceaccount", "tenant-runtime", Some("second"))),
            &["note service-account"],
        ),
        fault(
            "quota with no room",
            Change::Create(json!({
                "apiVersion": "v1", "kind": "ResourceQuota",
                "metadata": {"name": "small", "namespace": "second"},
                "spec": {"hard": {"limits.memory": "32Mi"}},
            })),
            &["broken quota"],
        ),
        fault(
            "quota that is full for now",
            Change::Create(json!({
                "apiVersion": "v1", "kind": "ResourceQuota",
                "metadata": {"name": "full", "namespace": "tenants-acme"},
                "spec": {"hard": {"limits.memory": "100Mi"}},
            })),
            &["note quota"],
        ),
        fault(
            "limit range below the sidecar",
            Change::Create(json!({
                "apiVersion": "v1", "kind": "LimitRange",
                "metadata": {"name": "small", "namespace": "second"},
                "spec": {"limits": [{"type": "Container", "max": {"cpu": "50m"}}]},
            })),
            &["broken limit-range"],
        ),
        fault(
            "everybody may exec",
            Change::Create(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": "all", "namespace": "second"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}],
            })),
            &["broken rights"],
        ),
        fault(
            "somebody may exec",
            Change::Create(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": "eve", "namespace": "second"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
            })),
            &["note rights"],
        ),
        // The pods.
        fault("pod without sidecar", Change::Pod(agent("bare")), &["broken pod-without-sidecar"]),
        fault(
            "pod with an older sidecar",
            Change::Pod(injected("old", |pod| {
                pod["spec"]["initContainers"][0]["image"] = json!("sidecar:old");
            })),
            &["broken pod-outdated"],
        ),
        fault(
            "pod of another role",
            Change::Pod(injected("moved", |pod| {
                let text = pod.to_string().replace(BROKER, BASE);
                *pod = serde_json::from_str(&text).unwrap();
            })),
            &["broken pod-outdated"],
        ),
        fault(
            "pod with keys of its own",
            Change::Pod({
                let mut pod = agent("keys");
                pod["spec"]["containers"][0]["env"] =
                    json!([{"name": "AWS_ACCESS_KEY_ID", "value": "AKIA"}]);
                pod
            }),
            &["broken pod-refused static-credentials"],
        ),
        // AWS.
        fault(
            "parameter missing",
            Change::Parameter(None),
            &["broken role-parameter role-missing"],
        ),
        fault(
            "parameter is a secret",
            Change::Parameter(Some(("SecureString", BROKER))),
            &["broken role-parameter role-secure-string"],
        ),
        fault(
            "parameter is a list",
            Change::Parameter(Some(("StringList", BROKER))),
            &["broken role-parameter role-wrong-type"],
        ),
        fault(
            "parameter is no ARN",
            Change::Parameter(Some(("String", "acme-broker"))),
            &["broken role-parameter role-malformed"],
        ),
        fault(
            "role is not allow-listed",
            Change::Parameter(Some((
                "String",
                "arn:aws:iam::999999999999:role/eks-agent-platform/tenants/prod-acme-broker",
            ))),
            &["broken role-parameter role-not-allowed"],
        ),
        fault(
            "trust without SetSourceIdentity",
            policies(Policies {
                trust: statements(&[allow(
                    &["sts:AssumeRole", "sts:TagSession"],
                    json!({"Principal": {"AWS": BASE}}),
                )]),
                ..Policies::default()
            }),
            &["broken assume-role set-source-identity-denied", "broken role-trust"],
        ),
        fault(
            "trust without TagSession",
            policies(Policies {
                trust: statements(&[allow(
                    &["sts:AssumeRole", "sts:SetSourceIdentity"],
                    json!({"Principal": {"AWS": BASE}}),
                )]),
                ..Policies::default()
            }),
            &["broken assume-role tag-session-denied", "broken role-trust"],
        ),
        fault(
            "trust of another principal",
            policies(Policies {
                trust: statements(&[allow(
                    &["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
                    json!({"Principal": {"AWS": BROKER}}),
                )]),
                ..Policies::default()
            }),
            &["broken assume-role assume-role-denied", "broken base-role"],
        ),
        fault(
            "trust of a whole account",
            policies(Policies {
                trust: statements(&[allow(
                    &["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
                    json!({"Principal": {"AWS": "arn:aws:iam::111122223333:root"}}),
                )]),
                ..Policies::default()
            }),
            &["unseen base-role"],
        ),
        fault(
            "trust of another tenant's names",
            policies(Policies {
                trust: trust(&json!({"StringLike": {"sts:SourceIdentity": "agent.beta.*"}})),
                ..Policies::default()
            }),
            &["broken assume-role assume-role-denied", "broken role-trust"],
        ),
        fault(
            "base role may not assume",
            policies(Policies {
                base: statements(&[allow(&["bedrock:InvokeModel"], json!({"Resource": "*"}))]),
                trust: trust(own),
                ..Policies::default()
            }),
            &["broken assume-role base-role-denied", "broken base-role"],
        ),
        fault(
            "boundary denies",
            policies(Policies {
                boundary: Some(statements(&[account::deny(
                    &["sts:AssumeRole"],
                    json!({"Resource": "*"}),
                )])),
                ..Policies::default()
            }),
            &["broken assume-role boundary-denied", "broken base-role"],
        ),
        fault(
            "base role may more",
            policies(Policies {
                base: statements(&[
                    allow(
                        &["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
                        json!({"Resource": BROKER}),
                    ),
                    allow(&["s3:GetObject"], json!({"Resource": "*"})),
                ]),
                ..Policies::default()
            }),
            &["note permissions-lost"],
        ),
    ]
}

/// Of a plugin, in a namespace that every cluster has.
fn daemon_set(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "install", "image": "registry.example/plugin:1"}]},
            },
        },
    })
}

#[test]
fn what_is_whole_is_silent_and_each_fault_is_found_and_nothing_else() {
    let world = world();
    assert_eq!(world.found(), BTreeSet::new(), "{}", world.text());
    let faults = faults();
    // The README says so.
    assert_eq!(faults.len(), 67);
    for Fault { name, change, want } in &faults {
        let undo = world.make(change);
        let want: BTreeSet<String> = want.iter().map(|line| (*line).to_owned()).collect();
        world.finds(name, &want);
        world.undo(undo);
        world.finds(&format!("{name}, undone"), &BTreeSet::new());
    }
}

/// One does not hide the other.
#[test]
fn two_faults_at_once_are_both_found() {
    let world = world();
    let faults = faults();
    let pairs = [
        ("failure policy changed", "certificate ended"),
        ("certificate of another authority", "no replica is ready"),
        ("configuration renamed, behind EKS's", "guard's binding deleted"),
        ("guard's policy edited", "guard's policy deleted"),
        ("authority taken out", "matcher edited"),
        ("opt-in mistyped", "pod without sidecar"),
        ("no tenant", "parameter is a secret"),
        ("tenant too long", "trust without SetSourceIdentity"),
        ("Pod Security not enforced", "pod with an older sidecar"),
        ("quota with no room", "limit range below the sidecar"),
        ("no tenant", "Pod Security not enforced"),
        ("configuration deleted", "certificate ends soon"),
    ];
    for (first, second) in pairs {
        let find = |name| faults.iter().find(|fault| fault.name == name).unwrap();
        let (first, second) = (find(first), find(second));
        let undo_first = world.make(&first.change);
        let undo_second = world.make(&second.change);
        let want = first.want.iter().chain(&second.want).map(|line| (*line).to_owned()).collect();
        world.finds(&format!("{} and {}", first.name, second.name), &want);
        world.undo(undo_second);
        world.undo(undo_first);
    }
    world.finds("all undone", &BTreeSet::new());
}

/// Nobody knows who created a pod, and a component may leave the pods of some alone.
#[test]
fn a_pod_that_may_be_left_alone_is_neither_broken_nor_in_order() {
    let world = world();
    let undo = [
        Change::Edit(
            CONFIG,
            "config.yaml",
            "components:\n",
            "components:\n- {name: jobs, creators: ['system:serviceaccount:jobs:*'], credentials: exempt}\n",
        ),
        Change::Pod(agent("whose")),
    ]
    .map(|change| world.make(&change));
    let want = ["broken config-edited", "note component-hole", "unseen pod-without-sidecar"];
    world.finds("an exempt creator", &want.map(str::to_owned).into());
    undo.into_iter().rev().for_each(|undo| world.undo(undo));
}

#[test]
fn the_docs_list_each_link() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md");
    let docs = fs::read_to_string(docs).unwrap();
    let (_, docs) = docs.split_once("\n## Links\n").unwrap();
    let rows: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `")).collect();
    let want: Vec<String> = Link::ALL
        .iter()
        .map(|link| {
            let about = link.about();
            format!("| `{}` | {} | {} |", about.id, about.cause, about.remedy)
        })
        .collect();
    assert_eq!(rows, want, "\n{}", want.join("\n"));
}

#[test]
fn it_says_what_is_broken_and_what_to_do_for_people_and_for_programs() {
    let world = world();
    let undo = world.make(&Change::Patch(
        SECOND,
        json!([{"op": "replace", "path": "/metadata/labels/fab.nanohype.dev~1session-injection", "value": "enable"}]),
    ));
    let output = wait_until("it is found", Duration::from_secs(10), || {
        let output = world.check(&[]);
        (output.status.code() == Some(1)).then_some(output)
    });
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("broken")).unwrap();
    assert_eq!(
        line,
        "broken  namespace-label       namespace second: fab.nanohype.dev/session-injection=enable opts in to nothing: let the label say enabled or audit, or take it away"
    );
    assert!(text.ends_with("1 broken, 0 unseen, 0 to know\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours but for a terminal");
    assert!(output.stderr.is_empty(), "no progress but on a terminal");
    let json: Value = serde_json::from_slice(&world.check(&["-o", "json"]).stdout).unwrap();
    assert_eq!(json["broken"], true);
    let findings = json["findings"].as_array().unwrap();
    let of = |link: &str| findings.iter().filter(|it| it["link"] == link).count();
    assert_eq!(of("namespace-label"), 1);
    let links: BTreeSet<&str> = findings.iter().map(|it| it["link"].as_str().unwrap()).collect();
    assert!(links.len() > 18, "what is in order has its line, too: {links:?}");

    // One namespace only, which is not the broken one.
    let one = world.check(&["--namespace", "tenants-acme", "--skip-aws"]);
    assert_eq!(one.status.code(), Some(0), "{}", String::from_utf8_lossy(&one.stdout));
    world.undo(undo);
    let out = world.check(&["--namespace", "plain", "-o", "json"]);
    assert_eq!(levels(&out), BTreeSet::from(["note namespace-label".to_owned()]));
}

#[test]
fn what_it_may_not_see_it_names() {
    let world = world();
    let kubeconfig = world.kubeconfig_of("nobody");
    // Nothing but the release's own config and the namespaces.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "little"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps", "namespaces"], "verbs": ["get", "list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "little"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "little"},
        "subjects": [{"kind": "ServiceAccount", "name": "nobody", "namespace": SYSTEM}],
    });
    let undo = [Change::Create(role), Change::Create(binding)].map(|change| world.make(&change));
    let output = wait_until("it may read its config", Duration::from_secs(10), || {
        let output = world
            .check_as(&kubeconfig, &["--skip-aws", "-o", "json", "--release-namespace", SYSTEM]);
        (output.status.code() == Some(0)).then_some(output)
    });
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap().iter();
    let unseen: Vec<&Value> = findings.filter(|it| it["level"] == "unseen").collect();
    let links: BTreeSet<&str> = unseen.iter().map(|it| it["link"].as_str().unwrap()).collect();
    let want = [
        "certificate",
        "endpoints",
        "guard-missing",
        "limit-range",
        "network-plugin",
        "pod-without-sidecar",
        "quota",
        "rights",
        "rollout",
        "service-account",
        "webhook-missing",
    ];
    assert_eq!(links, want.into(), "{unseen:#?}");
    for finding in unseen {
        assert!(finding["says"].as_str().unwrap().contains("is forbidden: User"), "{finding}");
    }
    undo.into_iter().rev().for_each(|undo| world.undo(undo));

    // And without the config there is nothing to go by, unless somebody gives one.
    let none = world.check_as(&kubeconfig, &["--skip-aws"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(2), "{said}");
    assert!(said.contains("by --release-namespace"), "{said}");
}

#[test]
fn what_aws_does_not_answer_is_unseen_and_not_broken() {
    let world = world();
    let mut command = world.command(&world.cluster.kubeconfig(), &["-o", "json", "--assume-role"]);
    // STS that nobody serves.
    let output = command.env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(levels(&output), BTreeSet::from(["unseen assume-role".to_owned()]));
    let mut command = world.command(&world.cluster.kubeconfig(), &["-o", "json", "--assume-role"]);
    let output = command.env("AWS_ENDPOINT_URL_IAM", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(levels(&output), BTreeSet::from(["unseen role-trust".to_owned()]));
    // Roles are assumed where somebody asks for it.
    let output = world.check(&["-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let output = world.check_as(&world.cluster.kubeconfig(), &["-o", "json"]);
    assert_eq!(levels(&output), BTreeSet::from(["unseen assume-role".to_owned()]));
}

/// Not even where this machine is, and whose it is, which an instance's metadata would say.
#[test]
fn aws_is_not_asked_where_nobody_wants_it() {
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
        let role = findings.find(|it| it["link"] == "role-parameter").unwrap();
        assert_eq!(role["level"], "ok", "a static role is looked at either way: {role}");
        metadata.accept().is_ok()
    };
    assert!(asks(&[]));
    assert!(!asks(&["--skip-aws"]));
}

#[test]
fn on_a_terminal_it_has_colours_and_says_where_it_is() {
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
    assert!(plain.contains("\u{1b}[Klooking at namespace 2 of 2: "), "{plain:?}");
    let (_, report) = plain.rsplit_once("\u{1b}[K").unwrap();
    assert!(report.starts_with("ok ") && !report.contains("looking at"), "{report:?}");
    assert!(!report.contains('\u{1b}'), "{report:?}");
    assert!(on_a_terminal("").contains("\u{1b}[32mok    \u{1b}[0m"));
}

#[test]
fn it_goes_by_the_release_that_is_chosen_or_by_a_file() {
    let world = world();
    let directory = process::own_directory();
    let file = directory.path().join("config.yaml");
    let config = world.get(CONFIG)["data"]["config.yaml"].as_str().unwrap().to_owned();
    fs::write(&file, config.replace("podSecurity: restricted", "podSecurity: baseline")).unwrap();
    let file = file.to_str().unwrap();
    let by_file = world.check(&["-o", "json", "--config", file]);
    assert_eq!(levels(&by_file), BTreeSet::from(["note pod-security-lowered".to_owned()]));

    // Anybody may write one into their own namespace.
    let mut second = world.get(CONFIG);
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

/// With the real webhook; the kubelet's part is played.
#[test]
fn a_pod_that_is_tried_says_whether_agents_get_credentials() {
    let world = world();
    let (_webhook, undo) = world.serve();
    let namespace = "tenants-acme";
    let try_pod_as = |kubeconfig: &Path, link: &str, plays: &dyn Fn(&str)| {
        let arguments = ["--as-pod", "--namespace", namespace, "-o", "json"];
        let mut child = world
            .command(kubeconfig, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut played = BTreeSet::new();
        wait_until("check ends", Duration::from_secs(40), || {
            for pod in world.tried_pods(namespace) {
                if played.insert(pod.clone()) {
                    plays(&pod);
                }
            }
            child.try_wait().unwrap()
        });
        let output = child.wait_with_output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let subject = format!("namespace {namespace}");
        let all = found["findings"].as_array().unwrap().iter();
        let of_pod = all.filter(|it| it["link"] == link && it["subject"] == *subject);
        let [finding] = of_pod.collect::<Vec<_>>()[..] else { panic!("{found:#}") };
        assert_eq!(world.tried_pods(namespace), Vec::<String>::new(), "it leaves none behind");
        (played.len(), finding.clone())
    };
    let try_pod =
        |plays: &dyn Fn(&str)| try_pod_as(&world.cluster.kubeconfig(), "assume-role", plays);
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

    let says = "Startup probe failed: no credentials of arn:aws:iam::1:role/r [set-source-identity-denied]: allow it";
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
        event(pod, "somebody", "all is well");
        patch_status(
            pod,
            &json!({"initContainerStatuses": [{
                "name": "fab-session-credentials", "image": "i", "imageID": "i", "ready": false,
                "restartCount": 0, "started": false, "state": {"running": {}},
            }]}),
        );
    };
    let (pods, assumed) = try_pod(&is_held);
    assert_eq!((pods, &assumed["level"]), (1, &json!("broken")), "{assumed}");
    assert!(assumed["says"].as_str().unwrap().contains(says), "{assumed}");

    // Events may be written by whoever likes.
    let (pods, assumed) = try_pod(&|pod| {
        event(pod, "kubelet", says);
        starts(pod);
    });
    assert_eq!((pods, &assumed["level"]), (1, &json!("ok")), "{assumed}");

    // Whoever stops it stops the pod as well.
    let arguments = ["--as-pod", "--skip-aws", "--namespace", namespace];
    let mut child = world
        .command(&world.cluster.kubeconfig(), &arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("its pod is there", Duration::from_secs(20), || {
        (!world.tried_pods(namespace).is_empty()).then_some(())
    });
    let stopped = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(world.tried_pods(namespace), Vec::<String>::new());

    // Who may look but not create pods has not shown that agents get none.
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
    wait_until("it may look", Duration::from_secs(10), || {
        let said = world.check_as(&viewer, &["--skip-aws"]).stdout;
        String::from_utf8(said).unwrap().contains("running pods are").then_some(())
    });
    let (pods, assumed) = try_pod_as(&viewer, "assume-role", &starts);
    assert_eq!((pods, &assumed["level"]), (0, &json!("unseen")), "{assumed}");
    assert!(assumed["says"].as_str().unwrap().contains("may not create pods"), "{assumed}");
    bound.into_iter().rev().for_each(|undo| world.undo(undo));

    let gone = world.make(&Change::Parameter(None));
    let refused = wait_until("the webhook has learnt it", Duration::from_secs(20), || {
        let (pods, assumed) = try_pod(&starts);
        (pods == 0).then_some(assumed)
    });
    assert_eq!(refused["level"], "broken");
    assert!(refused["says"].as_str().unwrap().contains("[role-missing]"), "{refused}");
    world.undo(gone);

    // Without webhook and guard it starts as anybody's pod does.
    let binding = Object("validatingadmissionpolicybinding", "fab-session-injector-pods", None);
    let gone = [CONFIGURATION, binding].map(|object| world.make(&Change::Delete(object)));
    let bare = wait_until("a pod is created bare", Duration::from_secs(30), || {
        let tried = &["--as-pod", "--namespace", namespace, "-o", "json"];
        let tried = world.check_as(&world.cluster.kubeconfig(), tried);
        let found: Value = serde_json::from_slice(&tried.stdout).unwrap();
        let subject = format!("namespace {namespace}");
        let mut findings = found["findings"].as_array().unwrap().iter();
        findings.find(|it| it["link"] == "webhook-missing" && it["subject"] == *subject).cloned()
    });
    assert_eq!(bare["level"], "broken", "{bare}");
    assert_eq!(world.tried_pods(namespace), Vec::<String>::new());
    gone.into_iter().rev().for_each(|undo| world.undo(undo));
    undo.into_iter().rev().for_each(|undo| world.undo(undo));
}

#[test]
fn wrong_input_names_the_flag_and_what_is_wrong() {
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
        // Without a ConfigMap the service of the webhook configuration says where the release is.
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
fn whoever_has_read_enough_ends_it_quietly() {
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

/// A cluster in which all is as it should be.
struct World {
    cluster: ControlPlane,
    moto: Moto,
    account: Mutex<Account>,
    authority: Authority,
}

/// How a fault is taken back.
enum Undo {
    Account(Account),
    Delete(Value),
    Parameter,
    /// As it was before, with what must go first.
    Restore(Value, Option<Value>),
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
            authority: Authority::new(),
        };
        world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
        world.make_roles();
        // What EKS brings, and what comes before it.
        for name in ["pod-identity-webhook", "aws-load-balancer-webhook"] {
            world.apply(&json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": name}, "webhooks": [],
            }));
        }
        let certificate = world.authority.certificate((-30, 30), HOST);
        world.patch(
            Object("secret", SECRET, Some(SYSTEM)),
            &json!([{"op": "add", "path": "/data", "value": {"tls.crt": base64(&certificate)}}]),
        );
        let bundle = base64(&world.authority.pem);
        let to_both = [0, 1].map(|index| {
            json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle})
        });
        world.patch(CONFIGURATION, &json!(to_both));
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
        // From before the webhook was there, so that nobody need answer for it.
        world.create(&injected("whole", |_| {}));
        let mut finished = agent("finished");
        finished["metadata"]["name"] = json!("not-an-agent");
        finished["spec"]["serviceAccountName"] = json!("default");
        world.create(&finished);
        for namespace in [ACME, SECOND] {
            world.opt_in(namespace.1, Some("enabled"));
        }
        wait_until("the release is rolled out", Duration::from_secs(30), || {
            world.run_pods();
            let status = ["rollout", "status", "deployment", "--namespace", SYSTEM, "--timeout=1s"];
            world.cluster.kubectl(&status).run().ok.then_some(())
        });
        world
    }

    /// What is found, other than what is in order.
    fn found(&self) -> BTreeSet<String> {
        levels(&self.check(&["-o", "json"]))
    }

    /// Controllers fill in what they count a moment later.
    fn finds(&self, name: &str, want: &BTreeSet<String>) {
        let mut found = BTreeSet::new();
        for _ in 0..10 {
            self.run_pods();
            found = self.found();
            if found == *want {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(found, *want, "{name}\n{}", self.text());
    }

    /// The kubelet's part of the release.
    fn run_pods(&self) {
        let pods = self.cluster.kubectl(&["get", "pods", "--namespace", SYSTEM]).json();
        for pod in pods["items"].as_array().unwrap() {
            if pod["status"]["phase"] == "Running" {
                continue;
            }
            let name = pod["metadata"]["name"].as_str().unwrap();
            let status = json!({"status": {
                "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            }});
            let patch = ["patch", "pod", name, "--namespace", SYSTEM, "--subresource=status"];
            // It may have gone by now.
            self.cluster.kubectl(&[&patch[..], &["--patch", &status.to_string()]].concat()).run();
        }
    }

    fn text(&self) -> String {
        let output = self.check(&[]);
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// As the administrator, with the base role's credentials of EKS Pod Identity.
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
            Change::Authority(from, until) => {
                let bundle = base64(&self.authority.pem_of(*from, *until));
                let put = [0, 1].map(|index| {
                    json!({"op": "replace", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle})
                });
                self.make(&Change::Patch(CONFIGURATION, json!(put)))
            }
            Change::Aws(policies) => {
                self.write_down(policies);
                let account = Account::open((**policies).clone());
                Undo::Account(std::mem::replace(&mut *self.account.lock().unwrap(), account))
            }
            Change::Certificate { days, host, other } => {
                let secret = Object("secret", SECRET, Some(SYSTEM));
                let before = self.get(secret);
                let stranger = Authority::new();
                let authority = if *other { &stranger } else { &self.authority };
                let certificate = base64(&authority.certificate(*days, host));
                let put = json!([{"op": "replace", "path": "/data/tls.crt", "value": certificate}]);
                self.patch(secret, &put);
                Undo::Restore(before, None)
            }
            Change::Create(object) => {
                self.apply(object);
                Undo::Delete(object.clone())
            }
            Change::Delete(object) => {
                let before = self.get(*object);
                self.delete(*object);
                Undo::Restore(before, None)
            }
            Change::Edit(object, key, from, to) => {
                let before = self.get(*object);
                let mut after = before.clone();
                let text = before["data"][*key].as_str().unwrap();
                assert!(text.contains(from), "{from:?} is not in\n{text}");
                after["data"][*key] = json!(text.replacen(from, to, 1));
                self.replace(&after);
                Undo::Restore(before, None)
            }
            Change::Parameter(value) => {
                match value {
                    Some((kind, value)) => {
                        // Its type cannot be changed in place.
                        self.moto.delete_parameter(PARAMETER);
                        self.moto.put_parameter(PARAMETER, value, kind);
                    }
                    None => self.moto.delete_parameter(PARAMETER),
                }
                Undo::Parameter
            }
            Change::Patch(object, operations) => {
                let before = self.get(*object);
                self.patch(*object, operations);
                Undo::Restore(before, None)
            }
            Change::Pod(pod) => {
                let namespace = pod["metadata"]["namespace"].as_str().unwrap();
                self.opt_in(namespace, None);
                self.create(pod);
                self.opt_in(namespace, Some("enabled"));
                Undo::Delete(pod.clone())
            }
            Change::Rename(object, name) => {
                let before = self.get(*object);
                let mut after = before.clone();
                after["metadata"]["name"] = json!(name);
                self.delete(*object);
                self.apply(&after);
                Undo::Restore(before, Some(after))
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
                // There may be none.
                self.moto.put_parameter(PARAMETER, BROKER, "String");
                self.moto.delete_parameter(PARAMETER);
                self.moto.put_parameter(PARAMETER, BROKER, "String");
            }
            Undo::Restore(before, first) => {
                first.iter().for_each(|object| self.remove(object));
                self.replace(&before);
            }
        }
    }

    /// In IAM, what the strict AWS goes by.
    fn write_down(&self, policies: &Policies) {
        let Policies { base, boundary, trust, .. } = policies;
        let iam = |action: &str, parameters: &[(&str, &str)]| self.moto.iam(action, parameters);
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
        let nobody = statements(&[]).to_string();
        for name in ["prod-acme-tenant", "prod-acme-broker"] {
            self.moto.iam(
                "CreateRole",
                &[
                    ("RoleName", name),
                    ("Path", "/eks-agent-platform/tenants/"),
                    ("AssumeRolePolicyDocument", &nobody),
                ],
            );
        }
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

    fn get(&self, Object(kind, name, namespace): Object) -> Value {
        let mut arguments = vec!["get", kind, name];
        arguments.extend(namespace.into_iter().flat_map(|namespace| ["--namespace", namespace]));
        let mut object = self.cluster.kubectl(&arguments).json();
        let metadata = object["metadata"].as_object_mut().unwrap();
        for key in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"] {
            metadata.shift_remove(key);
        }
        object
    }

    fn patch(&self, Object(kind, name, namespace): Object, operations: &Value) {
        let operations = operations.to_string();
        let mut arguments = vec!["patch", kind, name, "--type=json", "--patch", &operations];
        arguments.extend(namespace.into_iter().flat_map(|namespace| ["--namespace", namespace]));
        self.cluster.kubectl(&arguments).json();
    }

    fn delete(&self, Object(kind, name, namespace): Object) {
        let mut arguments = vec!["delete", kind, name];
        arguments.extend(namespace.into_iter().flat_map(|namespace| ["--namespace", namespace]));
        let deleted = self.cluster.kubectl(&arguments).run();
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

    /// As it was, whether it is there or not. A controller may write at the same moment.
    fn replace(&self, object: &Value) {
        let text = object.to_string();
        let by = |verb: &str| self.cluster.kubectl(&[verb, "--filename=-"]).stdin(&text).run();
        wait_until("the object is as before", Duration::from_secs(10), || {
            (by("replace").ok || by("create").ok).then_some(())
        });
    }

    /// Once the API server's webhooks know that the namespace is not theirs.
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

    /// The real webhook, where the API server reaches it.
    fn serve(&self) -> (Process, Vec<Undo>) {
        let directory = self.cluster.kubeconfig().parent().unwrap().to_owned();
        let (certificate, key) = self.authority.pair((-30, 30), "127.0.0.1");
        let config = self.get(CONFIG)["data"]["config.yaml"].as_str().unwrap().to_owned();
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (port, health_port) = (process::free_port(), process::free_port());
        let config = config.replace("refreshSeconds: 300", "refreshSeconds: 1");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .args(["webhook", "--linger=0", "--config"])
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
        let bundle = base64(&self.authority.pem);
        let called = [(0, "enabled"), (1, "audit")].map(|(index, path)| {
            let url = format!("https://127.0.0.1:{port}/{path}");
            json!({"op": "replace", "path": format!("/webhooks/{index}/clientConfig"), "value": {"url": url, "caBundle": bundle}})
        });
        let undo = vec![self.make(&Change::Patch(CONFIGURATION, json!(called)))];
        // The API server brings it into effect within a moment.
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

    /// Of a service account of the release's namespace.
    fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let create = ["create", "serviceaccount", account, "--namespace", SYSTEM];
        self.cluster.kubectl(&create).json();
        let token =
            self.cluster.kubectl(&["create", "token", account, "--namespace", SYSTEM]).run();
        assert!(token.ok, "{}", token.stderr);
        let admin = fs::read_to_string(self.cluster.kubeconfig()).unwrap();
        let mut config: Value = serde_saphyr::from_str(&admin).unwrap();
        config["users"][0]["user"] = json!({"token": token.stdout.trim()});
        let path = self.cluster.kubeconfig().with_file_name(format!("{account}.kubeconfig"));
        fs::write(&path, config.to_string()).unwrap();
        path
    }
}

/// Level, link and code of each finding that is not ok.
fn levels(output: &Output) -> BTreeSet<String> {
    let findings: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let findings = findings["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["level"] != "ok")
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default();
            format!("{} {} {}", text("level"), text("link"), text("code")).trim().to_owned()
        })
        .collect()
}

/// A pod of the service account that carries base credentials, as `restricted` wants it.
fn agent(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "tenants-acme"},
        "spec": {
            "serviceAccountName": "tenant-runtime",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "agent", "image": "agent:1", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    })
}

/// The same as the webhook would write it, but for what is done to it then.
fn injected(name: &str, change: impl Fn(&mut Value)) -> Value {
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
    let mut pod: Value = serde_saphyr::from_slice(&output.stdout).unwrap();
    change(&mut pod);
    pod
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let (parameters, key) = (Self::parameters(-400, 400), KeyPair::generate().unwrap());
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// The same, but from and until so many days from now.
    fn pem_of(&self, from: i64, until: i64) -> String {
        Self::parameters(from, until).self_signed(self.issuer.key()).unwrap().pem()
    }

    fn parameters(from: i64, until: i64) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "authority of a test");
        (parameters.not_before, parameters.not_after) = (days(from).into(), days(until).into());
        parameters
    }

    /// One that begins and ends so many days from now.
    fn certificate(&self, holds: (i64, i64), host: &str) -> String {
        self.pair(holds, host).0
    }

    fn pair(&self, (begins, ends): (i64, i64), host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
        // An hour more, so that whole days are left.
        (parameters.not_before, parameters.not_after) =
            (days(begins).into(), (days(ends) + Duration::from_secs(3600)).into());
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        (certificate, key.serialize_pem())
    }
}

#[allow(clippy::disallowed_methods, reason = "the program under test goes by the same clock")]
fn days(from_now: i64) -> SystemTime {
    let time = Duration::from_secs(from_now.unsigned_abs() * 86_400);
    if from_now < 0 { SystemTime::now() - time } else { SystemTime::now() + time }
}

fn base64(text: &str) -> Value {
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}

fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/fab-session-injector")
}

const SYSTEM: &str = "injector";
const SECRET: &str = "pilot-fab-session-injector-tls";
const HOST: &str = "pilot-fab-session-injector.injector.svc";
const PARAMETER: &str = "/eks-agent-platform/prod/tenant-substrate/acme/session_role_arn";
const BOUNDARY: &str = "arn:aws:iam::111122223333:policy/boundary";
