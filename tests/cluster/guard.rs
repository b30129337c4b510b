//! The chart's guard on a real API server: with the real webhook, and after the webhook
//! configuration is deleted. Each refusal has a control: without the guard's bindings, the API
//! server admits the same request.

mod as_injected;
pub(crate) mod issuer;
mod sandboxes;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use fab_session_injector::{
    admission::{
        self, BASE_CREDENTIALS, Decision, Gives, JAVA_OPTIONS, JAVA_PROPERTIES, OWN_NETWORK,
        STATIC_CREDENTIALS,
    },
    config::Config,
    namespaces::{self, Namespace, Namespaces},
    roles::{Entry, Role, Roles, Source},
    session::base_credentials,
};
use harness::{
    case::{self, Case},
    control_plane::{ControlPlane, Outcome},
    data, foreign,
    helm::{self, chart},
    moto,
    process::{self, wait_until},
    world::{self, SYSTEM, World, role},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::WORLD;

#[test]
fn pods_that_the_guard_refuses_are_admitted_without_it() {
    let world = World::start(&[], None);
    world.publish("acme", &role("acme"));
    make_namespaces(&world);
    world.service_account("tenants-held", "tenant-runtime-x-a");
    await_guard(&world);

    // Without the webhook configuration, pods are created as written.
    let delete = ["delete", "mutatingwebhookconfiguration", "fab-session-injector"];
    assert!(world.cluster.kubectl(&delete).run().ok);
    let agent = named(original("fenced-without-labels"), "tenants-held", "as-written");
    wait_until("the API server no longer calls the webhook", Duration::from_secs(20), || {
        world.create(&agent, None).unwrap_err().contains("[guard-sidecar]").then_some(())
    });

    let attempts = attempts(&world);
    let mut codes = BTreeSet::new();
    for attempt in &attempts {
        let outcome = attempt.run(&world);
        assert!(!outcome.ok, "{}: admitted", attempt.what);
        for want in &attempt.wants {
            assert!(
                outcome.stderr.contains(want),
                "{}:\n{}\nwant {want}",
                attempt.what,
                outcome.stderr
            );
        }
        codes.insert(attempt.wants[0].clone());
    }
    let spelled = fs::read_to_string(chart().join("templates/guard.yaml")).unwrap();
    let spelled: BTreeSet<String> = spelled
        .split("[guard-")
        .skip(1)
        .map(|rest| format!("[guard-{}]", rest.split_once(']').unwrap().0))
        // Only in clusters of IPv6: tests/cluster/ipv6.rs.
        .filter(|code| code != "[guard-service]")
        // Only with the session issuer: tests/cluster/guard/issuer.rs.
        .filter(|code| !code.starts_with("[guard-issuer-"))
        .filter(|code| code != "[guard-resize]" || world.cluster.has(code, RESIZE))
        .collect();
    assert_eq!(codes, spelled, "each code has an attempt");

    let bindings = ["delete", "validatingadmissionpolicybindings", "--all"];
    assert!(world.cluster.kubectl(&bindings).run().ok);
    wait_until("the guard no longer refuses", Duration::from_secs(20), || {
        world.create(&agent, None).is_ok().then_some(())
    });
    for attempt in &attempts {
        let outcome = wait_until(&attempt.what, Duration::from_secs(20), || {
            Some(attempt.run(&world)).filter(|outcome| !outcome.stderr.contains("denied request"))
        });
        // There is no node, so exec and attach fail after admission.
        let let_in = outcome.ok || outcome.stderr.contains("does not have a host assigned");
        assert!(let_in, "{}: without a guard\n{}", attempt.what, outcome.stderr);
    }
    // Before that version, an API server copies no labels of a Binding.
    let is_copied =
        |bound: &Bound| bound.list != "labels" || world.cluster.has(&bound.name, BOUND_LABELS);
    for bound in bound().into_iter().filter(is_copied) {
        let pod = world.cluster.kubectl(&["get", "pod", &bound.name, IN_HELD]).json();
        assert_eq!(pod["metadata"][bound.list][bound.key], bound.value, "{}", bound.name);
    }
}

/// Makes the namespaces in which the pods of `guard/creations` are created.
fn make_namespaces(world: &World) {
    for (namespace, enforced, version) in [
        ("tenants-held", "restricted", "latest"),
        ("tenants-loose", "privileged", "latest"),
        ("tenants-old", "restricted", "v1.21"),
    ] {
        let labels = [
            ("pod-security.kubernetes.io/enforce", enforced),
            ("pod-security.kubernetes.io/enforce-version", version),
        ];
        world.namespace(namespace, "enabled", "acme", &labels);
        world.service_account(namespace, "fab");
    }
    let ambient = [("istio.io/dataplane-mode", "ambient")];
    world.namespace("tenants-ambient", "enabled", "acme", &ambient);
}

/// A request of kubectl, and the expected parts of its refusal: the code first.
struct Attempt {
    what: String,
    wants: Vec<String>,
    arguments: Vec<String>,
    stdin: String,
}

impl Attempt {
    fn new(what: &str, wants: &[&str], arguments: &[&str], stdin: String) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self { what: what.to_owned(), wants: owned(wants), arguments: owned(arguments), stdin }
    }

    fn run(&self, world: &World) -> Outcome {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        world.cluster.kubectl(&arguments).stdin(&self.stdin).run()
    }
}

fn attempts(world: &World) -> Vec<Attempt> {
    let mut attempts = creations(&world.cluster);
    for disguise in disguises("tenants-held").into_iter().filter(|disguise| disguise.is_agent) {
        attempts.push(disguise.attempt);
    }
    attempts.extend(updates(world));
    attempts.extend(ways_in(world));
    attempts.extend(tokens());
    let is_resize = |attempt: &Attempt| attempt.arguments.iter().any(|it| it.ends_with("=resize"));
    attempts.retain(|it| !is_resize(it) || world.cluster.has(&it.what, RESIZE));
    attempts
}

/// A change of a pod that the webhook could have injected.
type Change = fn(&mut Value);

/// The first minor versions of Kubernetes with these fields, rules and subresources.
const ALWAYS: u32 = 0;
const FILE_KEY_REF: u32 = 35;
const HOSTNAME_OVERRIDE: u32 = 35;
const RESIZE: u32 = 33;
const ROOT_OF_A_USER_NAMESPACE: u32 = 35;
const RESTART_RULES: u32 = 35;
const BOUND_LABELS: u32 = 35;

/// A creation that the guard refuses, from a file of `guard/creations`: an injected golden with a
/// change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    code: String,
    /// A part of the refusal: what it names.
    names: String,
    golden: Option<String>,
    namespace: Option<String>,
    /// The first minor version of Kubernetes that stores the changed fields. Others drop them.
    #[serde(default)]
    since: u32,
    /// Operations of a JSON patch.
    change: Vec<Value>,
}

fn creations(cluster: &ControlPlane) -> Vec<Attempt> {
    let golden = "fenced-without-labels";
    let mut attempts = Vec::new();
    let mut attempt = |golden: &str,
                       namespace: &str,
                       code: &str,
                       names: &str,
                       from: &str,
                       change: &dyn Fn(&mut Value)| {
        let name = format!("a-{}", attempts.len());
        let mut pod = named(injected(golden), namespace, &name);
        change(&mut pod);
        let what = format!("{name}, {golden} with {names}, {from}");
        let create = ["create", "--filename=-"];
        let code = format!("[{code}]");
        attempts.push(Attempt::new(&what, &[&code, names], &create, pod.to_string()));
    };
    for (file, creation) in data::cases::<Creation>("tests/cluster/guard/creations") {
        let Creation { code, names, golden: own, namespace, since, change } = creation;
        if !cluster.has(&names, since) {
            continue;
        }
        let golden = own.as_deref().unwrap_or(golden);
        let namespace = namespace.as_deref().unwrap_or("tenants-held");
        let from = format!("{file}: {}", json!(change));
        attempt(golden, namespace, &code, &names, &from, &|pod| data::patch(pod, &change));
    }
    let long_lists: [(&str, &str, Change); 6] = [
        ("no-agent", "65536 variables and mounts", |pod| {
            let env: Vec<Value> = (0..700).map(|n| json!({"name": format!("V{n}")})).collect();
            let container = agent(pod).clone();
            let containers = (0..94).map(|n| {
                let mut container = container.clone();
                container["name"] = format!("c{n}").into();
                container["env"] = json!(env);
                container
            });
            pod["spec"]["containers"] = containers.collect();
        }),
        ("fenced-without-labels", "1184 variables or mounts", |pod| {
            agent(pod)["env"] = (0..1185).map(|n| json!({"name": format!("V{n}")})).collect();
        }),
        ("no-agent", "1184 volumes", |pod| {
            pod["spec"]["volumes"] =
                (0..1185).map(|n| json!({"name": format!("v{n}"), "emptyDir": {}})).collect();
        }),
        ("no-agent", "1184 sources", |pod| {
            let source = json!({"configMap": {"name": "m"}});
            let volume =
                |n| json!({"name": format!("v{n}"), "projected": {"sources": vec![&source; 12]}});
            pod["spec"]["volumes"] = (0..100).map(volume).collect();
        }),
        ("no-agent", "257 containers", |pod| {
            let container = agent(pod).clone();
            pod["spec"]["containers"] = (0..258)
                .map(|n| {
                    let mut container = container.clone();
                    container["name"] = format!("c{n}").into();
                    container
                })
                .collect();
        }),
        ("no-agent", "1184 sources", |pod| {
            let source = |n| json!({"downwardAPI": {"items": [{"path": format!("f{n}"), "fieldRef": {"fieldPath": "metadata.name"}}]}});
            let sources: Vec<Value> = (0..1185).map(source).collect();
            pod["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": sources}}]);
        }),
    ];
    for (golden, names, change) in long_lists {
        attempt(golden, "tenants-held", "guard-too-many", names, "a long list", &change);
    }
    for key in OWN_NETWORK {
        let change = |pod: &mut Value| {
            annotations(pod).insert(key.to_owned(), "own".into());
        };
        attempt(golden, "tenants-held", "guard-pod-network", key, "each key", &change);
    }
    for name in STATIC_CREDENTIALS {
        let change = |pod: &mut Value| set(agent(pod), name, "own");
        attempt(
            golden,
            "tenants-held",
            "guard-static-credentials",
            &format!("sets {name},"),
            "each name",
            &change,
        );
    }
    for property in JAVA_PROPERTIES {
        let change = |pod: &mut Value| {
            set(agent(pod), "JDK_JAVA_OPTIONS", &format!("-Xmx1g -D{property}=own"));
        };
        let names = format!("sets -D{property} in JDK_JAVA_OPTIONS,");
        attempt(
            golden,
            "tenants-held",
            "guard-static-credentials",
            &names,
            "each property",
            &change,
        );
    }
    for name in JAVA_OPTIONS {
        let change = |pod: &mut Value| set(agent(pod), name, "-Daws.profile=own");
        let names = format!("sets -Daws.profile in {name},");
        attempt(golden, "tenants-held", "guard-static-credentials", &names, "each name", &change);
    }
    // Variables by which SDKs find base credentials: of Pod Identity and of IRSA.
    for name in [
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ] {
        for golden in [golden, "fleet"] {
            let change = |pod: &mut Value| set(agent(pod), name, "own");
            let names = format!("sets {name},");
            attempt(golden, "tenants-held", "guard-base-credentials", &names, "each name", &change);
        }
    }
    attempts
}

/// An attempt that could make an agent look like a pod that is not an agent.
struct Disguise {
    attempt: Attempt,
    /// Whether the pod that the API server stores is an agent.
    is_agent: bool,
}

/// Returns different ways to write the same pod, each with its own pod name.
fn disguises(namespace: &str) -> Vec<Disguise> {
    const ACCOUNT: &str = "\"serviceAccountName\":\"tenant-runtime\"";
    let text = |name: &str, change: Change| {
        let mut pod = named(original("fenced-without-labels"), namespace, name);
        change(&mut pod);
        pod.to_string()
    };
    let plain = |name: &str| text(name, |_| {});
    let written = |name: &str, account: &str| {
        let text = plain(name);
        assert!(text.contains(ACCOUNT), "{text}");
        text.replace(ACCOUNT, account)
    };
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let raw = ["create", "--raw", &*path, "--filename=-"];
    let apply = ["apply", "--server-side", "--output=json", "--filename=-"];
    let agents = [
        ("by server-side apply", &apply[..], plain("applied")),
        (
            "with a scheduling gate",
            &raw,
            text("gated", |pod| {
                pod["spec"]["schedulingGates"] = json!([{"name": "own.example/gate"}]);
            }),
        ),
        (
            "with the old field name serviceAccount",
            &raw,
            written("old", "\"serviceAccount\":\"tenant-runtime\""),
        ),
        (
            "with the service account as the second of two",
            &raw,
            written("second", &format!("\"serviceAccountName\":\"default\",{ACCOUNT}")),
        ),
        (
            "with another service account in another case",
            &raw,
            written("cased", &format!("{ACCOUNT},\"ServiceAccountName\":\"default\"")),
        ),
        (
            "with another component in another case",
            &raw,
            text("labelled", |pod| {
                pod["metadata"]["labels"] = json!({"fab.nanohype.dev/Component": "fleet"});
            }),
        ),
        (
            "with a tree in an unknown field",
            &raw,
            text("tree", |pod| {
                pod["spec"]["containers"][0]["y"] = (0..1000).map(|_| json!([0])).collect();
            }),
        ),
    ];
    let others = [
        (
            "with the service account as the first of two",
            &raw,
            written("first", &format!("{ACCOUNT},\"serviceAccountName\":\"default\"")),
        ),
        (
            "with the service account in another case only",
            &raw,
            written("unknown", "\"ServiceAccountName\":\"tenant-runtime\""),
        ),
    ];
    let agents = agents.into_iter().map(|(what, how, text)| {
        let wants = ["[guard-sidecar]", "component runtime"];
        Disguise { attempt: Attempt::new(what, &wants, how, text), is_agent: true }
    });
    let others = others.into_iter().map(|(what, how, text)| Disguise {
        attempt: Attempt::new(what, &[], how, text),
        is_agent: false,
    });
    agents.chain(others).collect()
}

/// Returns updates of running pods, each of a separate pod.
fn updates(world: &World) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let image = running(world, "fenced-without-labels", "runs-image");
    attempts.push(Attempt::new(
        "another image for the running sidecar",
        &["[guard-image-update]", "fab-session-credentials"],
        &["set", "image", &image, "fab-session-credentials=evil:1", IN_HELD],
        String::new(),
    ));
    let digest = running(world, "fenced-without-labels", "runs-digest");
    let pinned = format!(
        "fab-session-credentials=ghcr.io/nanohype/fab-session-injector:{}@sha256:{}",
        env!("CARGO_PKG_VERSION"),
        "b".repeat(64)
    );
    attempts.push(Attempt::new(
        "a digest that is not listed for the running sidecar",
        &["[guard-image-update]", "fab-session-credentials"],
        &["set", "image", &digest, &pinned, IN_HELD],
        String::new(),
    ));
    let annotated = running(world, "fenced-without-labels", "runs-annotated");
    for key in ["session-id", "source-identity", "session-role-arn", "component"] {
        let key = format!("fab.nanohype.dev/{key}");
        for change in [format!("{key}=own"), format!("{key}-")] {
            attempts.push(Attempt::new(
                &format!("annotate {change}"),
                &["[guard-annotation]", &key],
                &["annotate", "--overwrite", &annotated, &change, IN_HELD],
                String::new(),
            ));
        }
    }
    let plain = named(original("no-agent"), "tenants-held", "plain");
    world.create(&plain, None).unwrap();
    let patch = |what: &str, wants: &[&str], pod: &str, part: &str, patch: &Value| {
        let patch = format!("--patch={patch}");
        let part = format!("--subresource={part}");
        Attempt::new(what, wants, &["patch", pod, &part, &patch, IN_HELD], String::new())
    };
    let own = json!({"metadata": {"annotations": {"fab.nanohype.dev/session-id": "own"}}});
    let key = "fab.nanohype.dev/session-id";
    let annotation = ["[guard-annotation]", key];
    attempts.push(Attempt::new(
        "annotate a pod without a session",
        &annotation,
        &["annotate", "pod/plain", &format!("{key}=own"), IN_HELD],
        String::new(),
    ));
    let status = running(world, "fenced-without-labels", "runs-status");
    for pod in [&*status, "pod/plain"] {
        attempts.push(patch(
            &format!("annotate {pod} by pods/status"),
            &annotation,
            pod,
            "status",
            &own,
        ));
    }
    // The sidecar needs more CPU to respond.
    let resized = running(world, "fenced-without-labels", "runs-resized");
    let less = json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}});
    let own = json!({"spec": {"initContainers": [{"name": SIDECAR, "resources": less}]}});
    let wants = ["[guard-resize]", SIDECAR];
    attempts.push(patch("less CPU for the sidecar", &wants, &resized, "resize", &own));
    may_bind(world, "tenants-held");
    for Bound { name, path, list, key, value } in bound() {
        running(world, "fenced-without-labels", &name);
        attempts.push(bind(&name, "tenants-held", &path, &json!({list: {key: value}})));
    }
    // Its network is not created yet.
    let gated = waiting(world, "attack-mesh-linkerd", "waits");
    let mut changes = vec![
        ("annotate", ISTIO_EXCLUDES, format!("{ISTIO_EXCLUDES}-")),
        ("annotate", ISTIO_EXCLUDES, format!("{ISTIO_EXCLUDES}=169.254.0.0/17")),
        ("annotate", LINKERD_GROUP, format!("{LINKERD_GROUP}-")),
        ("annotate", LINKERD_GROUP, format!("{LINKERD_GROUP}=1337")),
        ("label", "istio.io/dataplane-mode", "istio.io/dataplane-mode=ambient".to_owned()),
    ];
    changes.extend(OWN_NETWORK.map(|key| ("annotate", key, format!("{key}=own"))));
    for (verb, key, change) in changes {
        attempts.push(Attempt::new(
            &format!("{verb} {change}"),
            &["[guard-network-update]", key],
            &[verb, "--overwrite", &gated, &change, IN_HELD],
            String::new(),
        ));
    }
    // Only its own label excludes the pod from the ambient mode.
    let mut outside = named(injected("fenced-without-labels"), "tenants-ambient", "outside");
    outside["metadata"]["labels"]["istio.io/dataplane-mode"] = "none".into();
    world.create(&outside, None).unwrap();
    attempts.push(Attempt::new(
        "join the ambient mode of its namespace",
        &["[guard-network-update]", "istio.io/dataplane-mode"],
        &["label", "pod/outside", "istio.io/dataplane-mode-", "--namespace=tenants-ambient"],
        String::new(),
    ));
    attempts
}

/// Allows the tenant's own scheduler to bind pods in its namespace.
fn may_bind(world: &World, namespace: &str) {
    let rules = json!([{"apiGroups": [""], "resources": ["bindings", "pods/binding"], "verbs": ["create"]}]);
    let group = "rbac.authorization.k8s.io";
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "binder", "namespace": namespace}, "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "binder", "namespace": namespace},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "binder"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "binder"}],
        },
    ]}));
}

/// A pod whose Binding has an annotation or a label that the API server copies to the pod.
struct Bound {
    name: String,
    path: String,
    list: &'static str,
    key: &'static str,
    value: &'static str,
}

fn bound() -> Vec<Bound> {
    let rows = [
        ("annotations", "fab.nanohype.dev/source-identity", "agent.other.own"),
        // The API server allows no user to add it to an existing pod.
        ("annotations", APPARMOR, "localhost/own"),
        ("labels", "istio.io/dataplane-mode", "ambient"),
        ("labels", "fab.nanohype.dev/component", "fleet"),
    ];
    let mut bound = Vec::new();
    for (list, key, value) in rows {
        let name = format!("bound-{}", bound.len());
        let path = format!("pods/{name}/binding");
        bound.push(Bound { name, path, list, key, value });
        let name = format!("bound-{}", bound.len());
        bound.push(Bound { name, path: "bindings".to_owned(), list, key, value });
    }
    bound
}

/// Binds a pod to a node as the tenant's own scheduler, with this metadata of the Binding.
fn bind(name: &str, namespace: &str, path: &str, own: &Value) -> Attempt {
    let mut metadata = own.clone();
    metadata["name"] = name.into();
    metadata["namespace"] = namespace.into();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": metadata,
        "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"},
    });
    let path = format!("/api/v1/namespaces/{namespace}/{path}");
    Attempt::new(
        &format!("bind by {path} with {own}"),
        &["[guard-binding]"],
        &["create", "--raw", &path, "--filename=-", "--as=binder"],
        binding.to_string(),
    )
}

/// Returns attempts with ephemeral containers, exec and attach.
fn ways_in(world: &World) -> Vec<Attempt> {
    let token =
        json!({"name": "fab-session-token", "mountPath": "/var/run/fab-session", "readOnly": true});
    let mut as_the_sidecar = restricted();
    as_the_sidecar["runAsUser"] = 64017.into();
    let debuggers = [
        (
            "fenced-without-labels",
            "[guard-ephemeral-target]",
            json!({"targetContainerName": "fab-session-credentials"}),
        ),
        (
            "fenced-without-labels",
            "[guard-ephemeral-user]",
            json!({"securityContext": as_the_sidecar}),
        ),
        ("fenced-without-labels", "[guard-ephemeral-mount]", json!({"volumeMounts": [token]})),
        (
            "fenced-without-labels",
            "[guard-ephemeral-mount]",
            json!({"volumeMounts": [{"name": "fab-session-base", "mountPath": "/base"}]}),
        ),
        (
            "fenced-without-labels",
            "[guard-ephemeral-mount]",
            json!({"volumeMounts": [{"name": "fab-session-empty", "mountPath": "/empty"}]}),
        ),
        // The volume of EKS's webhook, which no container mounts.
        (
            "fleet",
            "[guard-ephemeral-mount]",
            json!({"volumeMounts": [{"name": "eks-pod-identity-token", "mountPath": "/eks"}]}),
        ),
    ];
    let mut attempts = Vec::new();
    for (row, (golden, code, own)) in debuggers.into_iter().enumerate() {
        let name = format!("debugged-{row}");
        let mut pod = named(injected(golden), "tenants-held", &name);
        add_volume(&mut pod, aws_volume("eks-pod-identity-token", "pods.eks.amazonaws.com"));
        let created = world.create(&pod, None).unwrap_or_else(|said| panic!("{name}: {said}"));
        attempts.push(debug(&created.pod, code, &own));
    }
    let mut same_user = named(injected("fenced-without-labels"), "tenants-held", "debugged-user");
    // No container runs as the UID of the pod, but a debugger would.
    same_user["spec"]["securityContext"]["runAsUser"] = 64017.into();
    agent(&mut same_user)["securityContext"]["runAsUser"] = 1000.into();
    let created = world.create(&same_user, None).unwrap();
    attempts.push(debug(&created.pod, "[guard-ephemeral-user]", &json!({})));

    running(world, "fenced-without-labels", "entered");
    for connection in ["exec", "attach"] {
        attempts.push(Attempt::new(
            connection,
            &["[guard-exec]", "pod entered"],
            &["create", "--raw", &format!("/api/v1/namespaces/tenants-held/pods/entered/{connection}?container=fab-session-credentials&command=id&stdout=true"), "--filename=-"],
            "{}".to_owned(),
        ));
    }
    attempts.push(Attempt::new(
        "kubectl exec",
        &["[guard-exec]", "pod entered"],
        &["exec", "entered", IN_HELD, "--container=fab-session-credentials", "--", "id"],
        String::new(),
    ));
    attempts
}

fn tokens() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for account in ["tenant-runtime", "tenant-runtime-x-a", "fab"] {
        for audience in ["sts.amazonaws.com", "pods.eks.amazonaws.com"] {
            let audience = format!("--audience={audience}");
            attempts.push(Attempt::new(
                &format!("a token of {account}, {audience}"),
                &["[guard-token]", account],
                &["create", "token", account, "--audience=other", &audience, IN_HELD],
                String::new(),
            ));
        }
    }
    // So that the expression does not iterate a longer list.
    let mut many = vec!["create".to_owned(), "token".to_owned(), "tenant-runtime".to_owned()];
    many.extend((0..65).map(|n| format!("--audience=a{n}")));
    many.push(IN_HELD.to_owned());
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let wants = ["[guard-too-many]", "64 audiences"];
    attempts.push(Attempt::new("a token of many audiences", &wants, &many, String::new()));
    attempts
}

/// Adds an ephemeral container to the pod.
fn debug(pod: &Value, code: &str, own: &Value) -> Attempt {
    let mut pod = pod.clone();
    let mut debugger =
        json!({"name": "debugger", "image": "debugger:1", "securityContext": restricted()});
    for (key, value) in own.as_object().unwrap() {
        debugger[key] = value.clone();
    }
    pod["spec"]["ephemeralContainers"] = json!([debugger]);
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/ephemeralcontainers");
    Attempt::new(
        &format!("{name}: {own}"),
        &[code, "\"debugger\""],
        &["replace", "--raw", &path, "--filename=-"],
        pod.to_string(),
    )
}

#[test]
fn the_guard_enforces_each_golden_without_the_webhook() {
    let world = World::without_configuration(&[], None);
    guard(&world, &json!({}));
    await_guard(&world);
    let (injected, refused) = goldens_are_held(&world, |case| case.config.is_none());
    assert!(injected > 20 && refused > 50, "{injected} admitted, {refused} refused");
    agrees_with_the_webhook(&world, &Config::default());

    // The webhook's maximum of containers, which is more than etcd stores. The guard still
    // checks the last one, and the cost is below the limit of the API server.
    world.namespace("tenants-acme", "enabled", "acme", &[]);
    let mut many = named(offline(&many_containers(160), None), "tenants-acme", "many");
    let judged = |pod: &Value| {
        let create = ["create", "--dry-run=server", "--filename=-"];
        world.cluster.kubectl(&create).stdin(&pod.to_string()).run()
    };
    let outcome = judged(&many);
    assert!(outcome.ok, "{}", outcome.stderr);
    // The webhook refuses this mount. The guard does not: the field only removes access.
    let mut recursive =
        named(offline(&original("fenced-without-labels"), None), "tenants-acme", "recursive");
    agent(&mut recursive)["volumeMounts"][0]["recursiveReadOnly"] = "Enabled".into();
    let outcome = judged(&recursive);
    assert!(outcome.ok, "{}", outcome.stderr);
    // The maximum of ranges: 256 KiB of annotations, with the agent's range at the end.
    let ranges = format!("{}169.254.170.23/32", "10.0.0.0/8,".repeat(23_000));
    annotations(&mut many)[ISTIO_EXCLUDES] = ranges.into();
    let outcome = judged(&many);
    assert!(outcome.ok, "{}", outcome.stderr);
    set(container(&mut many, "agent-255"), "AWS_SESSION_TOKEN", "own");
    let said = judged(&many).stderr;
    assert!(said.contains("\"agent-255\" sets AWS_SESSION_TOKEN"), "{said}");

    // A config with which some pods keep base credentials.
    let text = fs::read_to_string(case::directory().join("custom.config.yaml")).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    guard(&world, &json!({"config": config}));
    let unexempted = named(original("exempt"), "tenants-custom", "a");
    world.namespace("tenants-custom", "enabled", "acme", &[]);
    for account in ["exempted", "legacy"] {
        world.service_account("tenants-custom", account);
    }
    let legacy = |change: Change| {
        let mut pod = named(original("env-only"), "tenants-custom", "legacy");
        change(&mut pod);
        world.create(&pod, None)
    };
    let variable: Change = |pod| set(agent(pod), "AWS_PROFILE", "own");
    wait_until("the guard applies the other config", Duration::from_secs(20), || {
        legacy(variable).err()?.contains("[guard-static-credentials]").then_some(())
    });
    legacy(|pod| set(agent(pod), "FAB_OPERATOR", "1")).unwrap_err();
    legacy(|_| {}).unwrap();
    let mut exempt = unexempted;
    set(agent(&mut exempt), "AWS_PROFILE", "own");
    add_volume(&mut exempt, aws_volume("fab-session-base", "sts.amazonaws.com"));
    world.create(&exempt, None).unwrap();
    token(&world, "tenants-custom", "exempted", &[]).unwrap();
    assert!(token(&world, "tenants-custom", "legacy", &[]).unwrap_err().contains("[guard-token]"));

    let (injected, refused) = goldens_are_held(&world, |case| case.config.is_some());
    assert!(injected >= 4 && refused >= 4, "{injected} admitted, {refused} refused");
    agrees_with_the_webhook(&world, &Config::parse(&text).unwrap());
}

/// Checks each golden: the guard admits the injected pod. It refuses the original pod if the
/// golden has a sidecar or a refusal.
fn goldens_are_held(world: &World, belongs: impl Fn(&Case) -> bool) -> (usize, usize) {
    let cases: Vec<Case> = Case::all().into_iter().filter(belongs).collect();
    make_homes(world, &cases, "held");
    let (mut let_in, mut refused) = (0, 0);
    for case in &cases {
        let home = home(case, "held");
        let as_written = world
            .create(&named(original(&case.name), &home, "as-written"), case.creator.as_deref());
        if case.path("refused.txt").exists() {
            match as_written {
                // Nothing is injected, and a token that no container mounts is harmless.
                Ok(_) => assert_eq!(case.name, "refuse-token-volume-fleet"),
                Err(said) => assert!(is_expected(&said), "{}: {said}", case.name),
            }
            refused += 1;
            continue;
        }
        let pod = named(injected(&case.name), &home, "injected");
        let is_agent = pod["spec"]["initContainers"]
            .as_array()
            .is_some_and(|init| init.iter().any(|container| container["name"] == SIDECAR));
        world
            .create(&pod, case.creator.as_deref())
            .unwrap_or_else(|said| panic!("{}, injected: {said}", case.name));
        let_in += 1;
        if is_agent {
            let said = as_written.err().unwrap_or_else(|| panic!("{}: admitted", case.name));
            assert!(is_expected(&said), "{}: {said}", case.name);
            refused += 1;
        }
    }
    (let_in, refused)
}

/// Whether the guard refused the pod, or the API server did because the golden alone is not a
/// complete pod: the volume of a mount, the container of an annotation or every container is
/// missing, or its namespace's Pod Security Standard forbids it.
fn is_expected(said: &str) -> bool {
    [
        "[guard-",
        "volumeMounts[",
        "violates PodSecurity",
        "windows pod",
        "container not found",
        "spec.containers: Required value",
    ]
    .iter()
    .any(|want| said.contains(want))
}

/// Compares the guard with the webhook's decision, for the same pods as written.
fn agrees_with_the_webhook(world: &World, config: &Config) {
    const NAMESPACE: &str = "tenants-matched";
    let accounts = [
        "default",
        "tenant-runtime",
        "fab",
        "tenant-runtime-x-a",
        "tenant-runtimes",
        "exempted",
        "legacy",
    ];
    let exists = ["get", "namespace", NAMESPACE];
    if !world.cluster.kubectl(&exists).run().ok {
        world.namespace(NAMESPACE, "enabled", "acme", &[]);
        for account in &accounts[2..] {
            world.service_account(NAMESPACE, account);
        }
    }
    let labels = [
        json!({}),
        json!({"fab.nanohype.dev/component": "dispatcher"}),
        json!({"fab.nanohype.dev/component": "runtime"}),
        json!({"fab.nanohype.dev/component": "reviewer"}),
        json!({"fab.nanohype.dev/component": "reviewer", "team": "b"}),
        json!({"fab.nanohype.dev/component": ""}),
        json!({"agents.nanohype.dev/agent": ""}),
        json!({"agents.nanohype.dev/agentsandbox": "a"}),
        json!({"agents.x-k8s.io/sandbox-name-hash": "a"}),
        json!({"team": "a"}),
        json!({"team": "a", "tier": "agents"}),
        json!({"app.kubernetes.io/component": "agent-sandbox"}),
        json!({"app.kubernetes.io/component": "agent-sandbox", "agents.nanohype.dev/agent": "a"}),
    ];
    let label = |key: &str| match key {
        namespaces::OPT_IN_LABEL => Some("enabled"),
        "agents.nanohype.dev/platform" => Some("acme"),
        "pod-security.kubernetes.io/enforce" => Some("restricted"),
        _ => None,
    };
    let snapshot = Namespaces::default().with(Namespace::read(NAMESPACE, label, &config.tenant));
    let known = Role::Known(role("acme").parse().unwrap());
    let entry = Entry { role: Arc::new(known), fresh: true, read_at: None };
    let entries = HashMap::from([("acme".parse().unwrap(), entry)]);
    let roles = Roles::new(Source::None, entries);
    let (mut refused, mut let_in) = (0, 0);
    // The last is a service account of the pods' own namespace, which is never trusted.
    for creator in [
        "admin",
        "system:serviceaccount:batch:runner",
        "system:serviceaccount:tenants-matched:runner",
    ] {
        let mut pods = Vec::new();
        for (row, labels) in labels.iter().enumerate() {
            for account in accounts {
                let mut pod = named(
                    original("fenced-without-labels"),
                    NAMESPACE,
                    &format!("pod-{row}-{account}"),
                );
                pod["metadata"]["labels"] = labels.clone();
                pod["spec"]["serviceAccountName"] = account.into();
                pods.push(pod);
            }
        }
        world.allow(creator);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": pods});
        let create = ["create", "--dry-run=server", "--filename=-", "--as", creator];
        let said = world.cluster.kubectl(&create).stdin(&list.to_string()).run().stderr;
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let line =
                said.lines().find(|line| line.contains(&format!("pods \"{name}\" is forbidden")));
            let (decision, _, _) =
                admission::decide(&pod, creator, NAMESPACE, &snapshot, &roles, config);
            let want = match &decision {
                Decision::Inject(injection) => match injection.gives {
                    Gives::Sidecar(..) => {
                        Some(format!("component {} and has no init container", injection.component))
                    }
                    Gives::Env(_) | Gives::Keep | Gives::Nothing => None,
                },
                Decision::Pass(_) => None,
                Decision::Refuse(_) => Some("[guard-component]".to_owned()),
            };
            match (line, &want) {
                (None, None) => let_in += 1,
                (Some(line), Some(want)) if line.contains(want.as_str()) => refused += 1,
                _ => panic!("{name} by {creator}: {line:?}, and the webhook decides {decision:?}"),
            }
        }
    }
    assert!(refused > 30 && let_in > 30, "{refused} refused, {let_in} admitted");
}

#[test]
fn the_guard_follows_the_config_and_an_upgrade() {
    let world = World::without_configuration(&[], None);
    guard(&world, &json!({}));
    await_guard(&world);
    world.namespace("tenants-acme", "enabled", "acme", &[]);
    world.namespace("tenants-kept", "enabled", "acme", &[("fab.nanohype.dev/operator", "keep")]);
    let as_written = named(original("fenced-without-labels"), "tenants-acme", "as-written");
    let configs = [
        json!({}),
        json!({"baseCredentials": {"source": "irsa", "roleArn": "arn:aws:iam::111122223333:role/{cluster}-{tenant}"}}),
        json!({"baseCredentials": {"source": "irsa", "roleArn": "arn:aws:iam::111122223333:role/{cluster}-{tenant}-{component}"}}),
        json!({"baseCredentials": {"source": "environment"}, "sidecar": {"env": {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}}}),
        json!({"sidecar": {"port": 8000, "uid": 2000, "durationSeconds": 900, "env": {"https_proxy": "http://proxy.example:3128", "no_proxy": ".example", "AWS_REGION": "eu-north-1", "SSL_CERT_FILE": ""}}}),
        json!({"sidecar": {"env": {"HTTPS_PROXY": "http://proxy.example:3128"}}, "baseCredentials": {"source": "irsa", "roleArn": "arn:aws:iam::111122223333:role/r"}}),
        json!({"awsCaBundle": fs::read_to_string(authority()).unwrap(), "baseCredentials": {"ipFamily": "ipv4"}}),
        json!({"tenant": {"labels": [], "namespacePrefix": "tenants-"}, "podSecurity": "baseline", "proxyContainers": []}),
        json!({"components": as_many_components_as_there_may_be(), "awsAudiences": ["https://a\"b\\c"]}),
        json!({"roles": {"allow": {"partitions": ["aws"], "pathPrefixes": ["/x/", "/eks-agent-platform/"]}}}),
    ];
    let directory = process::own_directory();
    for (row, config) in configs.into_iter().enumerate() {
        guard(&world, &json!({"config": config}));
        let mut whole = config.clone();
        whole["cluster"] = "prod".into();
        let file = directory.path().join("config.yaml");
        fs::write(&file, whole.to_string()).unwrap();
        let pod = offline(&as_written, Some(&file));
        wait_until(&format!("a pod of config {row} is admitted"), Duration::from_secs(20), || {
            world.create(&named(pod.clone(), "tenants-acme", &format!("a-{row}")), None).ok()
        });
        let said = world.create(&as_written, None).unwrap_err();
        assert!(said.contains("[guard-sidecar]"), "{row}: {said}");
        if config["awsCaBundle"].is_string() {
            // The tenant's own CA, and none.
            let mut own = named(pod.clone(), "tenants-acme", &format!("own-{row}"));
            set(sidecar(&mut own), "FAB_SESSION_CA_BUNDLE", "own");
            let said = world.create(&own, None).unwrap_err();
            let wanted = "variables: FAB_SESSION_CA_BUNDLE [guard-sidecar-env]";
            assert!(said.contains(wanted), "{said}");
            let env = sidecar(&mut own)["env"].as_array_mut().unwrap();
            env.retain(|variable| variable["name"] != "FAB_SESSION_CA_BUNDLE");
            let said = world.create(&own, None).unwrap_err();
            assert!(said.contains(wanted), "{said}");
        }
        if config["baseCredentials"]["source"] == "irsa" {
            let mut other = named(pod, "tenants-acme", &format!("other-{row}"));
            let role = "arn:aws:iam::111122223333:role/prod-acme-dispatcher";
            set(sidecar(&mut other), "AWS_ROLE_ARN", role);
            let said = world.create(&other, None).unwrap_err();
            assert!(said.contains("variables: AWS_ROLE_ARN [guard-sidecar-env]"), "{row}: {said}");
        }
    }
    // The last config restricts the roles.
    let mut elsewhere = named(injected("fenced-without-labels"), "tenants-acme", "elsewhere");
    let other = "arn:aws:iam::111122223333:role/other/eks-agent-platform/r";
    set(sidecar(&mut elsewhere), "FAB_SESSION_ROLE_ARN", other);
    let said = world.create(&elsewhere, None).unwrap_err();
    assert!(said.contains("variables: FAB_SESSION_ROLE_ARN [guard-sidecar-env]"), "{said}");

    // Without a region in the values, the guard admits any region, once.
    guard(&world, &json!({"config": {"region": ""}}));
    let mut regional = named(injected("fenced-without-labels"), "tenants-acme", "regional");
    set(sidecar(&mut regional), "AWS_REGION", "us-east-1");
    wait_until("another region is admitted", Duration::from_secs(20), || {
        world.create(&regional, None).ok()
    });
    push(&mut sidecar(&mut regional)["env"], json!({"name": "AWS_REGION", "value": "eu-west-1"}));
    let said = world.create(&regional, None).unwrap_err();
    assert!(said.contains("variables: AWS_REGION [guard-sidecar-env]"), "{said}");

    // In a namespace with operator=keep, an old client keeps its base credentials.
    let mut kept = named(original("fenced-without-labels"), "tenants-kept", "kept");
    assert!(world.create(&kept, None).unwrap_err().contains("[guard-sidecar]"));
    set(agent(&mut kept), "FAB_OPERATOR", "1");
    world.create(&kept, None).unwrap();

    // An upgrade: old replicas of the webhook still inject the previous image.
    let before = named(injected("fenced-without-labels"), "tenants-acme", "before");
    let image = before["spec"]["initContainers"][0]["image"].clone();
    let next = json!({"sidecar": {"image": "registry.example/injector:2"}});
    guard(&world, &json!({"config": next, "guard": {"previousImages": [image]}}));
    let mut after = before.clone();
    after["metadata"]["name"] = "after".into();
    sidecar(&mut after)["image"] = "registry.example/injector:2".into();
    wait_until("the next image is admitted", Duration::from_secs(20), || {
        world.create(&after, None).ok()
    });
    world.create(&before, None).unwrap();
    let mut unknown = after.clone();
    sidecar(&mut unknown)["image"] = "registry.example/injector:3".into();
    assert!(world.create(&unknown, None).unwrap_err().contains("[guard-image]"));

    // After the upgrade, pods with the previous image keep running and may change otherwise.
    guard(&world, &json!({"config": next, "guard": {"tokenCreators": ["vcluster-*"]}}));
    let mut late = before;
    late["metadata"]["name"] = "late".into();
    wait_until("the previous image is refused", Duration::from_secs(20), || {
        let mut dry = world.cluster.kubectl(&["create", "--dry-run=server", "--filename=-"]);
        dry = dry.stdin(&late.to_string());
        dry.run().stderr.contains("[guard-image]").then_some(())
    });
    let label = ["label", "pod", "before", "own=label", "--namespace=tenants-acme"];
    assert!(world.cluster.kubectl(&label).run().ok);

    // Users in tokenCreators and kubelets get tokens.
    let said = token(&world, "tenants-acme", "tenant-runtime", &["--as", "other"]).unwrap_err();
    assert!(said.contains("[guard-token]"), "{said}");
    token(&world, "tenants-acme", "tenant-runtime", &["--as", "vcluster-a"]).unwrap();
    let kubelet = ["--as", "system:node:a", "--as-group", "system:nodes"];
    token(&world, "tenants-acme", "tenant-runtime", &kubelet).unwrap();

    // Tokens of all service accounts, except exempt ones.
    world.service_account("tenants-acme", "exempted");
    let mut carrier = named(original("no-agent"), "tenants-acme", "carrier");
    add_volume(&mut carrier, aws_volume("own", "sts.amazonaws.com"));
    mount(&mut carrier, "agent", json!({"name": "own", "mountPath": "/own"}));
    let of = |account: &str, name: &str| {
        let mut pod = named(carrier.clone(), "tenants-acme", name);
        pod["spec"]["serviceAccountName"] = account.into();
        pod
    };
    for account in ["default", "exempted"] {
        token(&world, "tenants-acme", account, &[]).unwrap();
        world.create(&of(account, &format!("before-{account}")), None).unwrap();
    }
    let exempted =
        json!({"name": "left", "serviceAccounts": ["exempted"], "credentials": "exempt"});
    let components = json!([exempted, {"name": "runtime", "fenced": true}]);
    let all = json!({"denyAwsTokens": "all", "tokenCreators": ["vcluster-*"]});
    guard(&world, &json!({"config": {"components": components}, "guard": all}));
    wait_until("tokens of all service accounts are refused", Duration::from_secs(20), || {
        let said = token(&world, "tenants-acme", "default", &[]).err()?;
        said.contains("[guard-token]").then_some(())
    });
    token(&world, "tenants-acme", "exempted", &[]).unwrap();
    token(&world, "tenants-acme", "default", &["--as", "vcluster-a"]).unwrap();
    token(&world, "tenants-acme", "default", &kubelet).unwrap();
    let said = wait_until("mounts in all pods are refused", Duration::from_secs(20), || {
        world.create(&of("default", "carrier"), None).err()
    });
    assert!(
        said.contains("\"agent\" mounts the volume own") && said.contains("[guard-aws-token]"),
        "{said}"
    );
    world.create(&of("exempted", "carrier"), None).unwrap();
}

/// A user with the ClusterRole `edit` in a namespace may impersonate its service accounts.
#[test]
fn the_guard_trusts_no_account_of_the_namespace() {
    let directory = process::own_directory();
    let file = directory.path().join("values.yaml");
    let listed = |name: &str| format!("system:serviceaccount:*:{name}");
    let components = json!([
        {"name": "jobs", "creators": [listed("jobs")], "credentials": "exempt"},
        {"name": "runtime", "fenced": true},
    ]);
    let values = json!({
        "config": {"sessionCreators": [listed("operator")], "components": components},
        "guard": {"tokenCreators": [listed("vc-syncer")]},
    });
    fs::write(&file, values.to_string()).unwrap();
    let world = World::start(&[], Some(&file));
    world.publish("acme", &role("acme"));
    world.namespace("tenants-acme", "enabled", "acme", &[]);
    world.namespace("platform", "", "", &[]);
    await_guard(&world);
    // Like vcluster's syncer: each has the tenant's permissions there.
    let accounts = ["jobs", "operator", "vc-syncer"];
    let mut subjects =
        vec![json!({"kind": "ServiceAccount", "name": "tenant", "namespace": "platform"})];
    world.service_account("platform", "tenant");
    for namespace in ["tenants-acme", "platform"] {
        for account in accounts {
            world.service_account(namespace, account);
            subjects
                .push(json!({"kind": "ServiceAccount", "name": account, "namespace": namespace}));
        }
    }
    let edit = |namespace: &str, subjects: &[Value]| {
        world.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "edit", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": subjects,
        }));
    };
    edit("tenants-acme", &subjects);
    // The control: the tenant's user impersonates a service account of another namespace.
    edit("platform", &subjects[..1]);
    let tenant =
        world.cluster.kubectl(&["create", "token", "tenant", "--namespace=platform"]).run();
    let admin = fs::read_to_string(world.cluster.kubeconfig()).unwrap();
    let mut config: Value = serde_saphyr::from_str(&admin).unwrap();
    config["users"][0]["user"] = json!({"token": tenant.stdout.trim()});
    let kubeconfig = directory.path().join("tenant.kubeconfig");
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let as_account = |namespace: &str, account: &str, arguments: &[&str], stdin: &str| {
        let user = format!("--as=system:serviceaccount:{namespace}:{account}");
        let arguments = [arguments, &[&kubeconfig, &user, "--namespace=tenants-acme"]].concat();
        world.cluster.kubectl(&arguments).stdin(stdin).run()
    };
    let create = ["create", "--output=json", "--filename=-"];
    let token = ["create", "token", "tenant-runtime", "--audience=pods.eks.amazonaws.com"];

    let own = as_account("tenants-acme", "vc-syncer", &token, "");
    assert!(!own.ok && own.stderr.contains("[guard-token]"), "{}", own.stderr);
    let other = as_account("platform", "vc-syncer", &token, "");
    assert!(other.ok, "{}", other.stderr);

    // The ClusterRole `edit` allows none of these. The controls: an administrator may do each,
    // and the tenant may exec.
    let node = ["--as=system:node:a", "--as-group=system:nodes"];
    let tenant = |arguments: &[&str]| {
        let all = [arguments, &[&kubeconfig, "--namespace=tenants-acme"]].concat();
        world.cluster.kubectl(&all).run()
    };
    let operator = [&token[..], &["--as=system:serviceaccount:platform:operator"]].concat();
    let other = [&token[..], &["--as=system:serviceaccount:kube-system:operator"]].concat();
    assert!(tenant(&operator).stderr.contains("[guard-token]"), "it may impersonate this");
    for attack in [other, [&token[..], &node].concat()] {
        let outcome = tenant(&attack);
        assert!(outcome.stderr.contains("cannot impersonate"), "{attack:?}: {}", outcome.stderr);
    }
    world.allow("system:node:a");
    let kubelet = [&token[..], &node, &["--namespace=tenants-acme"]].concat();
    let outcome = world.cluster.kubectl(&kubelet).run();
    assert!(outcome.ok, "{}", outcome.stderr);
    for (verb, part, may) in [
        ("update", "ephemeralcontainers", false),
        ("patch", "resize", false),
        ("patch", "status", false),
        ("create", "binding", false),
        ("create", "exec", true),
    ] {
        let part = format!("--subresource={part}");
        let asked = ["auth", "can-i", verb, "pods", &part, "--namespace=tenants-acme"];
        assert_eq!(tenant(&asked).ok, may, "{verb} {part}");
        assert!(world.cluster.kubectl(&asked).run().ok, "{verb} {part}");
    }

    let pod = |name: &str| named(original("fenced-without-labels"), "tenants-acme", name);
    let stored = |outcome: Outcome| -> Value {
        assert!(outcome.ok, "{}", outcome.stderr);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let is_injected = |pod: &Value| pod["spec"]["initContainers"][0]["name"] == SIDECAR;
    let own = as_account("tenants-acme", "jobs", &create, &pod("own-job").to_string());
    assert!(is_injected(&stored(own)), "exempt");
    let other = as_account("platform", "jobs", &create, &pod("other-job").to_string());
    assert!(!is_injected(&stored(other)));

    let named_session = |name: &str| {
        let mut pod = pod(name);
        pod["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": "chosen"});
        pod.to_string()
    };
    let identity = |outcome: Outcome| {
        let mut pod = stored(outcome);
        assert!(is_injected(&pod));
        pod["metadata"]["annotations"]["fab.nanohype.dev/source-identity"].take()
    };
    let own = as_account("tenants-acme", "operator", &create, &named_session("own-session"));
    assert!(own.stderr.contains("[reserved-annotation]"), "{}", own.stderr);
    let other = as_account("platform", "operator", &create, &named_session("other-session"));
    assert_eq!(identity(other), "agent.acme.chosen");

    // The same for the guard, without the webhook.
    let delete = ["delete", "mutatingwebhookconfiguration", "fab-session-injector"];
    assert!(world.cluster.kubectl(&delete).run().ok);
    let bare = pod("own-bare").to_string();
    wait_until("a service account of the namespace is not exempt", Duration::from_secs(20), || {
        let outcome = as_account("tenants-acme", "jobs", &create, &bare);
        outcome.stderr.contains("[guard-sidecar]").then_some(())
    });
    let forged = |account: &str| {
        let mut pod = named(injected("agentsandbox-session"), "tenants-acme", account);
        pod["metadata"]["labels"] = json!({"eks.amazonaws.com/skip-pod-identity-webhook": "true"});
        pod.to_string()
    };
    let own = as_account("tenants-acme", "operator", &create, &forged("own"));
    assert!(!own.ok && own.stderr.contains("[guard-sidecar-env]"), "{}", own.stderr);
    let other = as_account("platform", "operator", &create, &forged("other"));
    assert!(other.ok, "{}", other.stderr);
}

#[test]
fn the_guard_admits_what_the_webhook_injects() {
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| case.config.is_none() && case.path("injected.yaml").exists())
        // These are not complete pods without the volumes that another webhook adds.
        .filter(|case| case.name != "attack-later-volume" && case.name != "not-opted-in")
        .collect();
    WORLD.publish("aaaaaaaaaaaaaaaaaaaaaa", &role("long"));
    make_homes(&WORLD, &cases, "made");
    for case in &cases {
        let pod = named(original(&case.name), &home(case, "made"), "a");
        WORLD
            .create(&pod, case.creator.as_deref())
            .unwrap_or_else(|said| panic!("{}: {said}", case.name));
    }
    assert!(cases.len() > 20, "{}", cases.len());

    // The webhook's maximum of containers.
    WORLD.namespace("tenants-many", "enabled", "acme", &[]);
    let many = named(many_containers(20), "tenants-many", "many");
    let created = WORLD.create(&many, None).unwrap();
    assert_eq!(created.names("initContainers").len(), 129);
}

/// The control is in `pods_that_the_guard_refuses_are_admitted_without_it`: without webhook and
/// guard, the API server stores each agent without a sidecar.
#[test]
fn a_disguised_agent_is_injected_or_is_not_an_agent() {
    WORLD.namespace("tenants-disguised", "enabled", "acme", &[]);
    for Disguise { attempt, is_agent } in disguises("tenants-disguised") {
        let outcome = attempt.run(&WORLD);
        assert!(outcome.ok, "{}: {}", attempt.what, outcome.stderr);
        let pod: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let account = if is_agent { "tenant-runtime" } else { "default" };
        assert_eq!(pod["spec"]["serviceAccountName"], account, "{}", attempt.what);
        let injected = pod["spec"]["initContainers"][0]["name"] == SIDECAR;
        assert_eq!(injected, is_agent, "{}", attempt.what);
        assert!(!outcome.stdout.contains("\"y\":"), "the API server drops unknown fields");
    }
}

/// Webhook and guard admit these fields. They change neither the sidecar nor its volumes. The
/// control is a namespace that did not opt in: there the API server stores the pod as written.
#[test]
fn admitted_fields_do_not_change_the_sidecar() {
    let rows: [(&str, u32, &str, Change); 13] = [
        ("host names", ALWAYS, "\"ip\":\"192.0.2.1\"", |pod| {
            let names = json!(["sts.eu-west-1.amazonaws.com"]);
            pod["spec"]["hostAliases"] = json!([{"ip": "192.0.2.1", "hostnames": names}]);
        }),
        ("a resolver", ALWAYS, "\"nameservers\":[\"192.0.2.1\"]", |pod| {
            pod["spec"]["dnsPolicy"] = "None".into();
            pod["spec"]["dnsConfig"] = json!({"nameservers": ["192.0.2.1"]});
        }),
        ("the name of the host", HOSTNAME_OVERRIDE, "hostnameOverride", |pod| {
            pod["spec"]["hostnameOverride"] = "sts.eu-west-1.amazonaws.com".into();
        }),
        ("root of a user namespace", ROOT_OF_A_USER_NAMESPACE, "\"runAsUser\":0", |pod| {
            pod["spec"]["hostUsers"] = false.into();
            pod["spec"]["securityContext"].as_object_mut().unwrap().shift_remove("runAsNonRoot");
            agent(pod)["securityContext"]["runAsUser"] = 0.into();
        }),
        ("network settings", ALWAYS, "7413 7414", |pod| {
            let own = json!({"name": "net.ipv4.ip_local_port_range", "value": "7413 7414"});
            pod["spec"]["securityContext"]["sysctls"] = json!([own]);
        }),
        ("a restart of all containers", RESTART_RULES, "RestartAllContainers", |pod| {
            let exit = json!({"operator": "In", "values": [42]});
            agent(pod)["restartPolicy"] = "Never".into();
            agent(pod)["restartPolicyRules"] =
                json!([{"action": "RestartAllContainers", "exitCodes": exit}]);
        }),
        ("a message at the token's path", ALWAYS, "Path\":\"/var/run/fab-session/token", |pod| {
            agent(pod)["terminationMessagePath"] = "/var/run/fab-session/token".into();
        }),
        ("a CSI volume", ALWAYS, "own.csi.example", |pod| add_volume(pod, csi_volume("own"))),
        ("a CSI volume with a reserved name", ALWAYS, "own.csi.example", |pod| {
            add_volume(pod, csi_volume("fab-session-base"));
        }),
        ("an audience in another case", ALWAYS, "STS.amazonaws.com", |pod| {
            let sources = json!([{"serviceAccountToken": {"audience": "STS.amazonaws.com", "path": "token"}}]);
            add_volume(pod, json!({"name": "own", "projected": {"sources": sources}}));
        }),
        ("an annotation in another case", ALWAYS, "Session-ID", |pod| {
            pod["metadata"]["annotations"] = json!({"fab.nanohype.dev/Session-ID": "victim"});
        }),
        // The webhook writes no session into proxies.
        ("a session variable of a proxy", ALWAYS, "\"value\":\"own\"", |pod| {
            let mut proxy = agent(pod).clone();
            proxy["name"] = "istio-proxy".into();
            set(&mut proxy, "FAB_SESSION_ID", "own");
            push(&mut pod["spec"]["containers"], proxy);
        }),
        // The proxy can bind the sidecar's port. Then only this pod has no credentials.
        ("a container after a proxy", ALWAYS, "istio-proxy", |pod| {
            let mut proxy = agent(pod).clone();
            proxy["name"] = "istio-proxy".into();
            proxy["restartPolicy"] = "Always".into();
            let mut own = proxy.clone();
            own["name"] = SIDECAR.into();
            pod["spec"]["initContainers"] = json!([proxy, own]);
        }),
    ];
    WORLD.namespace("tenants-odd", "enabled", "acme", &[]);
    WORLD.namespace("tenants-odd-plain", "", "acme", &[]);
    let pod = |name: &str| named(original("fenced-without-labels"), "tenants-odd", name);
    let plain = WORLD.create(&pod("plain"), None).unwrap();
    let ours = |created: &world::Created| {
        let volumes = created.pod["spec"]["volumes"].as_array().unwrap();
        let ours = |name: &str| name.starts_with("fab-session-");
        let ours = volumes.iter().filter(|volume| ours(volume["name"].as_str().unwrap()));
        ours.map(Value::to_string).collect::<BTreeSet<_>>()
    };
    for (row, (what, since, text, change)) in rows.into_iter().enumerate() {
        if !WORLD.cluster.has(what, since) {
            continue;
        }
        let name = format!("odd-{row}");
        let mut pod = pod(&name);
        change(&mut pod);
        let created = WORLD.create(&pod, None).unwrap_or_else(|said| panic!("{what}: {said}"));
        assert_eq!(created.container(SIDECAR), plain.container(SIDECAR), "{what}");
        assert_eq!(ours(&created), ours(&plain), "{what}");
        let id = "/metadata/annotations/fab.nanohype.dev~1source-identity";
        assert_eq!(created.pod.pointer(id).unwrap(), "agent.acme.<pod uid>", "{what}");

        let before = named(pod, "tenants-odd-plain", &name);
        let control = WORLD.create(&before, None).unwrap_or_else(|said| panic!("{what}: {said}"));
        assert!(control.pod.to_string().contains(text), "{what}: {}", control.pod);
        let replaced = what == "a CSI volume with a reserved name";
        assert_eq!(created.pod.to_string().contains(text), !replaced, "{what}: {}", created.pod);
        if what == "a container after a proxy" {
            assert_eq!(created.names("initContainers"), ["istio-proxy", SIDECAR]);
            let proxy = created.container("istio-proxy");
            assert!(!proxy.to_string().contains("fab-session"), "{proxy}");
            assert_ne!(control.container(SIDECAR), plain.container(SIDECAR));
        }
    }
}

/// Neither webhook nor guard applies in the namespace. Each control differs only in the part
/// that the API server refuses.
#[test]
fn the_api_server_denies_these_objects_by_itself() {
    WORLD.namespace("tenants-alone", "", "acme", &[]);
    let service = |address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "catches", "namespace": "tenants-alone"},
            "spec": {"externalIPs": [address], "ports": [{"port": 80}], "selector": {"app": "own"}},
        })
    };
    let pod = |change: &dyn Fn(&mut Value)| {
        let mut pod = named(original("fenced-without-labels"), "tenants-alone", "a");
        change(&mut pod);
        pod
    };
    let from_file = |volume: Value| {
        pod(&|pod| {
            let key = json!({"volumeName": "fab-session-base", "path": "token", "key": "TOKEN"});
            agent(pod)["env"] = json!([{"name": "TOKEN", "valueFrom": {"fileKeyRef": key}}]);
            add_volume(pod, volume.clone());
        })
    };
    let mirror = |annotation: &str, account: bool| {
        pod(&|pod| {
            pod["metadata"]["annotations"] = json!({annotation: "own"});
            pod["spec"]["nodeName"] = "nowhere".into();
            if !account {
                pod["spec"].as_object_mut().unwrap().shift_remove("serviceAccountName");
                add_volume(pod, aws_volume("own", "pods.eks.amazonaws.com"));
            }
        })
    };
    let as_root = |host_users: bool| {
        pod(&|pod| {
            pod["spec"]["hostUsers"] = host_users.into();
            pod["spec"]["securityContext"].as_object_mut().unwrap().shift_remove("runAsNonRoot");
            agent(pod)["securityContext"]["runAsUser"] = 0.into();
        })
    };
    let with_proc = |kind: &str| {
        pod(&|pod| {
            pod["spec"]["hostUsers"] = false.into();
            agent(pod)["securityContext"]["procMount"] = kind.into();
        })
    };
    let debugger = |list: &str| {
        pod(&|pod| {
            let debugger =
                json!([{"name": "debugger", "image": "i", "securityContext": restricted()}]);
            pod["spec"][list] = debugger;
        })
    };
    let labelled = |value: &str| {
        pod(&|pod| {
            pod["metadata"]["labels"] = json!({"fab.nanohype.dev/component": value});
        })
    };
    let (mirrored, other) = ("kubernetes.io/config.mirror", "kubernetes.io/config.own");
    for (said, since, attack, control) in [
        ("link-local", ALWAYS, service("169.254.170.23"), service("203.0.113.23")),
        (
            "emptyDir",
            FILE_KEY_REF,
            from_file(aws_volume("fab-session-base", "pods.eks.amazonaws.com")),
            from_file(json!({"name": "fab-session-base", "emptyDir": {}})),
        ),
        ("may not reference service accounts", ALWAYS, mirror(mirrored, true), mirror(other, true)),
        ("ServiceAccountToken", ALWAYS, mirror(mirrored, false), mirror(other, false)),
        ("violates PodSecurity", ROOT_OF_A_USER_NAMESPACE, as_root(true), as_root(false)),
        (
            "violates PodSecurity",
            ROOT_OF_A_USER_NAMESPACE,
            with_proc("Unmasked"),
            with_proc("Default"),
        ),
        (
            "cannot be set on create",
            ALWAYS,
            debugger("ephemeralContainers"),
            debugger("initContainers"),
        ),
        ("a valid label must", ALWAYS, labelled("runtim\u{435}"), labelled("runtime")),
    ] {
        let create = |object: &Value| {
            let create = ["create", "--dry-run=server", "--filename=-"];
            WORLD.cluster.kubectl(&create).stdin(&object.to_string()).run()
        };
        if !WORLD.cluster.has(said, since) {
            continue;
        }
        let refused = create(&attack);
        assert!(!refused.ok && refused.stderr.contains(said), "{said}: {}", refused.stderr);
        assert!(!refused.stderr.contains("fab-session-injector"), "{}", refused.stderr);
        let outcome = create(&control);
        assert!(outcome.ok, "{said}: {}", outcome.stderr);
    }

    // A pod cannot get a reserved name later.
    WORLD.create(&named(pod(&|_| {}), "tenants-alone", "patched"), None).unwrap();
    let container = json!({"name": SIDECAR, "image": "own:1"});
    for (patch, said) in [
        (json!({"initContainers": [container]}), "may not add or remove containers"),
        (json!({"containers": [container]}), "may not add or remove containers"),
        (json!({"volumes": [csi_volume("fab-session-base")]}), "may not change fields other than"),
        (json!({"containers": [{"name": "agent", "image": "own:1"}]}), ""),
    ] {
        let patch = format!("--patch={}", json!({"spec": patch}));
        let patch = ["patch", "pod", "patched", &patch, "--namespace=tenants-alone"];
        let outcome = WORLD.cluster.kubectl(&patch).run();
        assert_eq!(outcome.ok, said.is_empty(), "{patch:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "{patch:?}: {}", outcome.stderr);
    }

    // Labels and annotations cannot be changed by these. The control is pods/status.
    for (part, changes) in [("ephemeralcontainers", false), ("resize", false), ("status", true)] {
        if part == "resize" && !WORLD.cluster.has(part, RESIZE) {
            continue;
        }
        let get = ["get", "pod", "patched", "--namespace=tenants-alone"];
        let mut pod = WORLD.cluster.kubectl(&get).json();
        for list in ["labels", "annotations"] {
            pod["metadata"][list] = json!({"own": part});
        }
        let path = format!("/api/v1/namespaces/tenants-alone/pods/patched/{part}");
        let replace = ["replace", "--raw", &path, "--filename=-"];
        let outcome = WORLD.cluster.kubectl(&replace).stdin(&pod.to_string()).run();
        assert!(outcome.ok, "{part}: {}", outcome.stderr);
        let pod = WORLD.cluster.kubectl(&get).json();
        for list in ["labels", "annotations"] {
            assert_eq!(pod["metadata"][list]["own"] == part, changes, "{part}: {list}");
        }
    }

    // The webhook replaces a volume of that name, and the API server validates the result.
    WORLD.namespace("tenants-file", "enabled", "acme", &[]);
    let own = from_file(json!({"name": "fab-session-base", "emptyDir": {}}));
    if WORLD.cluster.has("a variable from a file", FILE_KEY_REF) {
        let said = WORLD.create(&named(own, "tenants-file", "a"), None).unwrap_err();
        assert!(said.contains("emptyDir"), "{said}");
    }
}

#[test]
fn the_guard_admits_additions_of_other_webhooks() {
    let others: [(&str, &str, foreign::Effect); 5] = [
        ("zz-late-guarded", "late", foreign::add_a_container),
        ("aa-linkerd-guarded", "linkerd", foreign::linkerd),
        // The webhook is called again, and writes the sidecar's GID for the plugin.
        ("zz-linkerd-guarded", "linkerd-late", foreign::linkerd),
        ("zz-istio-guarded", "istio", foreign::istio),
        ("zz-rewrites-guarded", "rewrites", foreign::rewrite_from_old_types),
    ];
    for (configuration, label, effect) in others {
        let namespace = format!("tenants-guarded-{label}");
        WORLD.namespace(&namespace, "enabled", "acme", &[("test.example/foreign", &namespace)]);
        WORLD.apply(&json!({
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "default", "namespace": namespace},
            "spec": {"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, "defaultRequest": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "1Gi"}}]},
        }));
        let webhook = foreign::Webhook::start(&WORLD, configuration, &namespace, effect);
        let pod = named(original("fenced-without-labels"), &namespace, "a");
        let created = WORLD.create(&pod, None).unwrap_or_else(|said| panic!("{label}: {said}"));
        assert!(webhook.calls() > 0, "{label}");
        if label.starts_with("linkerd") {
            assert_eq!(created.pod["metadata"]["annotations"][LINKERD_GROUP], "64017", "{label}");
        }
        let limits = &created.container(SIDECAR)["resources"]["limits"];
        assert_eq!(limits["ephemeral-storage"], "1Gi", "{label}");
    }
    for (configuration, label, honours_label) in [
        ("a-pod-identity-guarded", "eks-before", true),
        ("pod-identity-guarded", "eks-after", true),
        ("pod-identity-guarded-unlabelled", "eks-unlabelled", false),
    ] {
        let namespace = format!("tenants-guarded-{label}");
        WORLD.namespace(&namespace, "enabled", "acme", &[("test.example/foreign", &namespace)]);
        let webhook =
            foreign::Webhook::start_pod_identity(&WORLD, configuration, &namespace, honours_label);
        for golden in ["fenced-without-labels", "fleet"] {
            let pod = named(original(golden), &namespace, golden);
            WORLD.create(&pod, None).unwrap_or_else(|said| panic!("{label}, {golden}: {said}"));
        }
        assert_eq!(webhook.calls() > 0, label != "eks-after", "{label}");
    }
}

#[test]
fn the_guard_admits_unrelated_changes() {
    WORLD.namespace("tenants-busy", "enabled", "acme", &[]);
    let pod = named(original("fenced-without-labels"), "tenants-busy", "a");
    WORLD.create(&pod, None).unwrap();
    let inside = "--namespace=tenants-busy";
    let wider = format!("{ISTIO_EXCLUDES}=10.0.0.0/8,169.254.170.23/32");
    for arguments in [
        &["label", "pod", "a", "own=label", inside][..],
        &["annotate", "pod", "a", "own=annotation", inside],
        &["annotate", "pod", "a", "--overwrite", &wider, inside],
        &["label", "pod", "a", "istio.io/dataplane-mode=none", inside],
        &["set", "image", "pod/a", "agent=agent:2", inside],
        &["create", "token", "tenant-runtime", inside],
        &["create", "token", "tenant-runtime", "--audience=vault", inside],
        &["create", "token", "default", "--audience=sts.amazonaws.com", inside],
        &["delete", "pod", "a", "--dry-run=server", inside],
    ] {
        let outcome = WORLD.cluster.kubectl(arguments).run();
        assert!(outcome.ok, "{arguments:?}: {}", outcome.stderr);
    }
    for container in ["?container=agent&", "?"] {
        for connection in ["exec", "attach"] {
            let path = format!(
                "/api/v1/namespaces/tenants-busy/pods/a/{connection}{container}command=id&stdout=true"
            );
            let said = WORLD
                .cluster
                .kubectl(&["create", "--raw", &path, "--filename=-"])
                .stdin("{}")
                .run()
                .stderr;
            assert!(said.contains("does not have a host assigned"), "{path}: {said}");
        }
    }
    // The requests of a kubelet and of a scheduler, and a resize of the agent.
    let condition = json!({"status": {"conditions": [{"type": "own/ready", "status": "True"}]}});
    let more =
        json!({"resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "1"}}, "name": "agent"});
    let more = json!({"spec": {"containers": [more]}});
    for (part, patch) in [("status", condition), ("resize", more)] {
        if part == "resize" && !WORLD.cluster.has(part, RESIZE) {
            continue;
        }
        let (part, patch) = (format!("--subresource={part}"), format!("--patch={patch}"));
        let outcome = WORLD.cluster.kubectl(&["patch", "pod", "a", inside, &part, &patch]).run();
        assert!(outcome.ok, "{part}: {}", outcome.stderr);
    }
    let bind = |name: &str, own: &Value, user: &str| {
        let pod = named(original("fenced-without-labels"), "tenants-busy", name);
        WORLD.create(&pod, None).unwrap();
        let mut attempt = bind(name, "tenants-busy", &format!("pods/{name}/binding"), own);
        *attempt.arguments.last_mut().unwrap() = format!("--as={user}");
        let outcome = attempt.run(&WORLD);
        assert!(outcome.ok, "{user}: {}", outcome.stderr);
        WORLD.cluster.kubectl(&["get", "pod", name, inside]).json()["metadata"]["labels"].take()
    };
    may_bind(&WORLD, "tenants-busy");
    // The API server adds two labels of the node to each Binding.
    let zone = "topology.kubernetes.io/zone";
    let labels = json!({zone: "a", "topology.kubernetes.io/region": "b", "own": "label"});
    let metadata = json!({"name": "nowhere", "labels": labels});
    WORLD.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}));
    let mut names = (0..).map(|n| format!("bound-by-its-own-{n}"));
    if WORLD.cluster.has(zone, BOUND_LABELS) {
        wait_until("the API server adds the node's zone", Duration::from_secs(20), || {
            (bind(&names.next().unwrap(), &json!({}), "binder")[zone] == "a").then_some(())
        });
    }
    bind("bound", &json!({}), "system:kube-scheduler");
    // Some schedulers copy the pod's annotations.
    let copied = json!({
        "annotations": {"fab.nanohype.dev/component": "runtime"}, "labels": {"own": "label"},
    });
    bind("bound-by-a-copier", &copied, "system:kube-scheduler");

    let debugged = |name: &str| {
        let current = WORLD.cluster.kubectl(&["get", "pod", name, inside]).json();
        let debugger = debug(&current, "", &json!({"targetContainerName": "agent"}));
        let outcome = debugger.run(&WORLD);
        assert!(outcome.ok, "{}", outcome.stderr);
    };
    debugged("a");
    // The API server writes a missing list of sources as null.
    for golden in ["fenced-without-labels", "no-agent"] {
        let name = format!("sourceless-{golden}");
        let mut pod = named(original(golden), "tenants-busy", &name);
        add_volume(&mut pod, json!({"name": "own", "projected": {"defaultMode": 420}}));
        WORLD.create(&pod, None).unwrap_or_else(|said| panic!("{golden}: {said}"));
        debugged(&name);
    }

    // The guard does not apply in namespaces without injection.
    WORLD.namespace("tenants-watched", "audit", "acme", &[]);
    WORLD.namespace("tenants-plain", "", "acme", &[]);
    for namespace in ["tenants-watched", "tenants-plain"] {
        let mut pod = named(original("fenced-without-labels"), namespace, "a");
        set(agent(&mut pod), "AWS_PROFILE", "own");
        WORLD.create(&pod, None).unwrap_or_else(|said| panic!("{namespace}: {said}"));
        token(&WORLD, namespace, "tenant-runtime", &[]).unwrap();
    }
}

#[test]
fn the_type_check_of_the_guard_finds_no_error() {
    let policies = wait_until("the policies are type-checked", Duration::from_secs(20), || {
        let policies = WORLD.cluster.kubectl(&["get", "validatingadmissionpolicies"]).json();
        let items = policies["items"].as_array().unwrap().clone();
        items.iter().all(|policy| policy["status"]["typeChecking"].is_object()).then_some(items)
    });
    assert_eq!(policies.len(), 7, "the six of the guard, and the one for certs");
    for policy in policies {
        assert_eq!(policy["status"]["typeChecking"], json!({}), "{}", policy["metadata"]["name"]);
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    }
}

#[test]
fn the_guard_is_installed_unless_disabled() {
    let policies = |values: &Value| {
        let rendered = render(values).unwrap();
        let names = rendered
            .iter()
            .filter(|manifest| manifest["kind"] == "ValidatingAdmissionPolicyBinding")
            .map(|manifest| manifest["metadata"]["name"].as_str().unwrap().to_owned());
        names.filter(|name| !is_of_certs(name)).collect::<Vec<_>>()
    };
    assert_eq!(
        policies(&json!({"fullnameOverride": "other"})),
        ["pods", "pod-updates", "bindings", "ephemeral-containers", "exec", "tokens"]
            .map(|what| format!("fab-session-injector-{what}"))
    );
    assert!(policies(&json!({"guard": {"enabled": false}})).is_empty());
    assert_eq!(policies(&issuer::values()).len(), 8);
    // Alert and dashboard select each of them, and not the policy for certs.
    let watched = "fab-session-injector-(bindings|ephemeral-containers|exec|issuer-pods|issuer-tokens|pod-updates|pods|sandbox-pods|sandboxes|services|tokens)";
    for file in ["dashboard.json", "templates/_alerts.tpl"] {
        assert!(fs::read_to_string(chart().join(file)).unwrap().contains(watched), "{file}");
    }

    let image = "ghcr.io/nanohype/fab-session-injector:0.1.0";
    for (own, want) in [
        (json!({"previousImages": [image]}), "list the previous image"),
        (json!({"tokenCreators": ["*"]}), "every user request tokens"),
        (json!({"denyAwsTokens": "none"}), "'agents', 'all'"),
        (json!({"nope": 1}), "additional properties 'nope' not allowed"),
    ] {
        let said = render(&json!({"guard": own})).unwrap_err();
        assert!(said.contains(want), "{said}");
    }
}

#[test]
fn the_guard_and_the_webhook_list_the_same_variables() {
    let rendered = render(&json!({})).unwrap();
    let policy = rendered
        .iter()
        .find(|manifest| manifest["metadata"]["name"] == "fab-session-injector-pods");
    let variables = policy.unwrap()["spec"]["variables"].as_array().unwrap();
    let listed = |name: &str| -> BTreeSet<String> {
        let names = variables.iter().find(|variable| variable["name"] == name).unwrap();
        let names = names["expression"].as_str().unwrap();
        serde_json::from_str::<HashMap<String, bool>>(names).unwrap().into_keys().collect()
    };
    let base =
        BASE_CREDENTIALS.into_iter().chain([base_credentials::URI, base_credentials::TOKEN_FILE]);
    assert_eq!(listed("baseNames"), base.map(str::to_owned).collect());
    assert_eq!(listed("staticNames"), STATIC_CREDENTIALS.map(str::to_owned).into());
    assert_eq!(listed("javaNames"), JAVA_OPTIONS.map(str::to_owned).into());
    let properties = JAVA_PROPERTIES.map(|name| name.strip_prefix("aws.").unwrap()).join("|");
    let with_static = variables.iter().find(|variable| variable["name"] == "withStatic").unwrap();
    let with_static = with_static["expression"].as_str().unwrap();
    assert!(with_static.contains(&format!("\"-Daws[.]({properties})\"")), "{with_static}");
    let own = variables.iter().find(|variable| variable["name"] == "ownNetwork").unwrap();
    let own = own["expression"].as_str().unwrap();
    let own = own.split_inclusive(']').next().unwrap();
    assert_eq!(serde_json::from_str::<Vec<String>>(own).unwrap(), OWN_NETWORK);
}

fn render(values: &Value) -> Result<Vec<Value>, String> {
    let directory = process::own_directory();
    let file = directory.path().join("values.yaml");
    fs::write(&file, values.to_string()).unwrap();
    let mut own = vec![("config.cluster", "prod")];
    if values["config"].get("region").is_none() {
        own.push(("config.region", moto::REGION));
    }
    let text = helm::render(&chart(), "injector", SYSTEM, &own, Some(&file))?;
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    Ok(manifests.into_iter().filter(|manifest| !manifest.is_null()).collect())
}

/// Whether this is the chart's policy for the service account of `certs`.
fn is_of_certs(name: &str) -> bool {
    name.ends_with("-certs")
}

/// Applies the chart's guard, rendered with these values. The API server loads it a moment later.
pub(crate) fn guard(world: &World, values: &Value) {
    let manifests = render(values).unwrap().into_iter();
    let guard: Vec<Value> = manifests
        .filter(|manifest| {
            manifest["kind"].as_str().unwrap().starts_with("ValidatingAdmissionPolicy")
                && !is_of_certs(manifest["metadata"]["name"].as_str().unwrap())
        })
        .collect();
    let issuer = values["issuer"]["enabled"] == true;
    assert_eq!(guard.len(), if issuer { 16 } else { 12 });
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": guard}));
}

/// Waits until each policy of the guard has refused a request.
pub(crate) fn await_guard(world: &World) {
    const NAMESPACE: &str = "probe-of-the-guard";
    world.namespace(NAMESPACE, "enabled", "probe", &[]);
    let mut pod = named(original("no-agent"), NAMESPACE, "probe");
    pod["spec"]["serviceAccountName"] = "default".into();
    add_volume(&mut pod, aws_volume("own", "sts.amazonaws.com"));
    let created = world.create(&pod, None).unwrap();
    let mut reserved = named(pod, NAMESPACE, "reserved");
    agent(&mut reserved)["name"] = SIDECAR.into();
    let mut debugger = debug(
        &created.pod,
        "[guard-ephemeral-mount]",
        &json!({"volumeMounts": [{"name": "own", "mountPath": "/own"}]}),
    );
    debugger.arguments[2].push_str("?dryRun=All");
    let inside = "--namespace=probe-of-the-guard";
    may_bind(world, NAMESPACE);
    let exec = "/api/v1/namespaces/probe-of-the-guard/pods/probe/exec?container=fab-session-credentials&command=id&stdout=true";
    let probes = [
        Attempt::new(
            "creation",
            &["[guard-reserved-name]"],
            &["create", "--dry-run=server", "--filename=-"],
            reserved.to_string(),
        ),
        Attempt::new(
            "update",
            &["[guard-annotation]"],
            &[
                "annotate",
                "--dry-run=server",
                "--overwrite",
                "pod",
                "probe",
                "fab.nanohype.dev/component=other",
                inside,
            ],
            String::new(),
        ),
        bind(
            "probe",
            NAMESPACE,
            "pods/probe/binding?dryRun=All",
            &json!({"annotations": {"own": "annotation"}}),
        ),
        debugger,
        Attempt::new(
            "exec",
            &["[guard-exec]"],
            &["create", "--raw", exec, "--filename=-"],
            "{}".to_owned(),
        ),
        Attempt::new(
            "token",
            &["[guard-token]"],
            &["create", "token", "tenant-runtime", "--audience=sts.amazonaws.com", inside],
            String::new(),
        ),
    ];
    for probe in probes {
        wait_until(&format!("the guard refuses ({})", probe.what), Duration::from_secs(20), || {
            probe.run(world).stderr.contains(&probe.wants[0]).then_some(())
        });
    }
}

/// Returns a file with a CA certificate.
fn authority() -> std::path::PathBuf {
    let directory = harness::scratch().join("guard-authority");
    harness::webhook::server::make_certificate(&directory, &[]);
    directory.join("ca.crt")
}

/// Creates the namespaces of the goldens.
fn make_homes(world: &World, cases: &[Case], prefix: &str) {
    let homes = cases.iter().flat_map(|case| case.home(&home(case, prefix)));
    world.create_homes(&homes.collect::<Vec<_>>());
}

fn home(case: &Case, prefix: &str) -> String {
    format!("{prefix}-{}", case.name)
}

/// Creates an injected golden in `tenants-held`, and returns its name for kubectl.
fn running(world: &World, golden: &str, name: &str) -> String {
    let pod = named(injected(golden), "tenants-held", name);
    world.create(&pod, None).unwrap_or_else(|said| panic!("{name}: {said}"));
    format!("pod/{name}")
}

/// The same with a scheduling gate, so that the pod is not scheduled.
fn waiting(world: &World, golden: &str, name: &str) -> String {
    let mut pod = named(injected(golden), "tenants-held", name);
    pod["spec"]["schedulingGates"] = json!([{"name": "own.example/gate"}]);
    world.create(&pod, None).unwrap_or_else(|said| panic!("{name}: {said}"));
    format!("pod/{name}")
}

/// Requests a token with an audience of AWS.
fn token(world: &World, namespace: &str, account: &str, by: &[&str]) -> Result<(), String> {
    if let ["--as", user, ..] = by {
        world.allow(user);
    }
    let mut arguments = vec!["create", "token", account, "--namespace", namespace];
    arguments.push("--audience=sts.amazonaws.com");
    arguments.extend(by);
    let outcome = world.cluster.kubectl(&arguments).run();
    if outcome.ok { Ok(()) } else { Err(outcome.stderr) }
}

/// Returns the pod that `inject` prints.
fn offline(pod: &Value, config: Option<&Path>) -> Value {
    let directory = process::own_directory();
    let file = directory.path().join("pod.yaml");
    fs::write(&file, pod.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
    command.args(["inject", "--region", moto::REGION, "--tenant=acme", "--namespace=tenants-acme"]);
    command.args(["--roles", "tests/golden/roles.yaml", "--filename"]).arg(file);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

fn as_many_components_as_there_may_be() -> Vec<Value> {
    let component = |index: usize| {
        json!({
            "name": format!("team-{index}"),
            "selectors": [format!("team=t{index},tier=agents"), format!("team-{index}")],
            "serviceAccounts": [format!("team-{index}-*")],
            "creators": [format!("system:serviceaccount:team-{index}:*")],
        })
    };
    let last = json!({"name": "runtime", "fenced": true});
    (0..31).map(component).chain([last]).collect()
}

/// Returns a pod with 256 containers, each with this number of variables.
fn many_containers(variables: usize) -> Value {
    let mut pod = original("fenced-without-labels");
    let container = |index: usize| {
        let mut container = pod["spec"]["containers"][0].clone();
        container["name"] = format!("agent-{index}").into();
        let own = |own| json!({"name": format!("OWN_VARIABLE_{own}"), "value": "own"});
        container["env"] = (0..variables).map(own).collect();
        container
    };
    let (init, regular) = ((0..128).map(container).collect(), (128..256).map(container).collect());
    (pod["spec"]["initContainers"], pod["spec"]["containers"]) = (init, regular);
    pod
}

fn original(golden: &str) -> Value {
    case::objects(&format!("{golden}.yaml")).pop().unwrap()
}

fn injected(golden: &str) -> Value {
    case::objects(&format!("{golden}.injected.yaml")).pop().unwrap()
}

fn named(mut pod: Value, namespace: &str, name: &str) -> Value {
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["name"] = name.into();
    pod
}

fn sidecar(pod: &mut Value) -> &mut Value {
    container(pod, SIDECAR)
}

fn annotations(pod: &mut Value) -> &mut Map<String, Value> {
    pod["metadata"]["annotations"].as_object_mut().unwrap()
}

/// The first regular container of the pod.
fn agent(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["containers"][0]
}

fn container<'p>(pod: &'p mut Value, name: &str) -> &'p mut Value {
    let spec = pod["spec"].as_object_mut().unwrap();
    let lists =
        spec.iter_mut().filter(|(key, _)| ["initContainers", "containers"].contains(&key.as_str()));
    let mut all = lists.flat_map(|(_, list)| list.as_array_mut().unwrap());
    all.find(|container| container["name"] == name).unwrap()
}

fn set(container: &mut Value, name: &str, value: &str) {
    let entry = json!({"name": name, "value": value});
    let env = container.as_object_mut().unwrap().entry("env").or_insert_with(|| json!([]));
    match env.as_array_mut().unwrap().iter_mut().find(|entry| entry["name"] == name) {
        Some(found) => *found = entry,
        None => push(env, entry),
    }
}

fn mount(pod: &mut Value, name: &str, mount: Value) {
    let container = container(pod, name).as_object_mut().unwrap();
    push(container.entry("volumeMounts").or_insert_with(|| json!([])), mount);
}

fn add_volume(pod: &mut Value, volume: Value) {
    let spec = pod["spec"].as_object_mut().unwrap();
    push(spec.entry("volumes").or_insert_with(|| json!([])), volume);
}

fn aws_volume(name: &str, audience: &str) -> Value {
    let token = json!({"audience": audience, "path": "token"});
    json!({"name": name, "projected": {"sources": [{"serviceAccountToken": token}]}})
}

fn csi_volume(name: &str) -> Value {
    json!({"name": name, "csi": {"driver": "own.csi.example", "readOnly": true}})
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

fn restricted() -> Value {
    json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}})
}

const ISTIO_EXCLUDES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
const LINKERD_GROUP: &str = "config.linkerd.io/proxy-gid";
const SIDECAR: &str = "fab-session-credentials";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/fab-session-credentials";
const IN_HELD: &str = "--namespace=tenants-held";
