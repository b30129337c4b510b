//! The memory to read a forged review, and to check lists of hostile objects: a bound in lengths of
//! the JSON, for any JSON.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::{collections::HashMap, sync::Mutex, time::SystemTime};

use fab_session_injector::{
    admission::Review,
    check::{
        Checks, ConfigText, Facts, Finding, Findings, Guard, IssuerPods, KubernetesVersions,
        NamespaceContents, Objects, ReleaseFacts, Seen, WebhookFacts,
    },
    config::Config,
    namespaces::Mode,
};
use harness::{
    tenant::Tenant,
    webhook::{load::review_with, server::review},
};
use peak_alloc::PeakAlloc;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config as Cases, TestRunner},
};
use serde_json::{Value, json};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bound of the peak memory beside a body: this number of lengths of the body, of lengths of the
/// response (mostly its patch, plain and in Base64), and the memory of the parsed containers.
const BODY: usize = 2;
const ANSWER: usize = 4;
const CONTAINERS: usize = 256 << 10;
/// Maximum memory of a review beside its body. A response has at most about 2 MiB.
const MOST_BESIDE: usize = 6 << 20;

/// Only one test at a time measures memory.
static COUNTING: Mutex<()> = Mutex::new(());

fn tenant() -> Tenant {
    Tenant::new(Config::parse("region: eu-west-1\n").unwrap())
}

/// Handles the body. Returns the peak memory beside the body and the length of the response,
/// in bytes.
fn peak(tenant: &Tenant, body: &[u8]) -> (usize, usize) {
    let Tenant { config, namespaces, roles } = tenant;
    let mut answer = 0;
    let peak = peak_of(|| match Review::parse(body) {
        Ok(review) => {
            let whole = review.answer(Mode::Enabled, namespaces, roles, config);
            answer = whole.body.len();
        }
        // As the handler formats it.
        Err(error) => drop(error.to_string()),
    });
    (peak, answer)
}

fn peak_of<T>(f: impl FnOnce() -> T) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    drop(f());
    MEMORY.peak_usage().saturating_sub(before)
}

/// Paths at which a review has text, an object or a list.
const PLACES: [&str; 33] = [
    "/kind",
    "/request",
    "/request/uid",
    "/request/namespace",
    "/request/operation",
    "/request/dryRun",
    "/request/resource",
    "/request/userInfo",
    "/request/userInfo/username",
    "/request/object",
    "/request/object/metadata",
    "/request/object/metadata/name",
    "/request/object/metadata/labels",
    "/request/object/metadata/annotations",
    "/request/object/metadata/managedFields",
    "/request/object/spec",
    "/request/object/spec/serviceAccountName",
    "/request/object/spec/nodeSelector",
    "/request/object/spec/os",
    "/request/object/spec/hostNetwork",
    "/request/object/spec/containers",
    "/request/object/spec/initContainers",
    "/request/object/spec/volumes",
    "/request/object/spec/containers/0",
    "/request/object/spec/containers/0/name",
    "/request/object/spec/containers/0/env",
    "/request/object/spec/containers/0/envFrom",
    "/request/object/spec/containers/0/ports",
    "/request/object/spec/containers/0/volumeMounts",
    "/request/object/spec/containers/0/volumeDevices",
    "/request/object/spec/containers/0/image",
    "/request/object/spec/containers/0/securityContext",
    "/oldObject",
];

/// Repeated pieces: after `@` as text, after `:` as entries of an object, otherwise in a list.
const PIECES: [&str; 47] = [
    "0",
    "1.5e300",
    "-18446744073709551616",
    "null",
    "\"\"",
    "\"\\u0001\\\"\"",
    "[]",
    "[0]",
    "[[[[[[0]]]]]]",
    "{}",
    "{\"a\":{\"a\":{}}}",
    "{\"name\":\"\"}",
    "{\"name\":\"\\u0061\"}",
    "{\"name\":\"AWS_REGION\"}",
    "{\"name\":\"NO_PROXY\",\"value\":\",,,,,,,,\"}",
    "{\"name\":\"FAB_SESSION_ID\",\"x\":[[0],[0],[0],[0]]}",
    "{\"name\":\"AWS_ROLE_ARN\",\"valueFrom\":{\"x\":[{},{}]}}",
    "{\"name\":\"fab-session-token\",\"y\":[[0],[0],[0],[0]]}",
    "{\"name\":\"fab-session-credentials\",\"y\":[[0],[0],[0],[0]]}",
    "{\"name\":\"istio-proxy\"}",
    "{\"name\":\"eks-pod-identity-token\"}",
    "{\"name\":\"v\",\"mountPath\":\"/x\",\"y\":[[0],[0]]}",
    "{\"name\":\"v\",\"mountPath\":\"/var/run/fab-session/../../../../..//var/run/fab-session\"}",
    "{\"name\":\"v\",\"projected\":{\"sources\":[{},{},{},{},{}]}}",
    "{\"name\":\"v\",\"projected\":{\"sources\":[{\"serviceAccountToken\":{\"audience\":\"\\u0061\"}}]}}",
    "{\"serviceAccountToken\":{\"audience\":\"x\"}}",
    "{\"containerPort\":1}",
    "{\"name\":\"c\",\"env\":[{\"name\":\"\"}]}",
    "{\"name\":\"c\",\"env\":[{\"name\":\"AWS_REGION\",\"value\":\"x\"},{\"name\":\"HTTP_PROXY\"}]}",
    "{\"name\":\"c\",\"volumeMounts\":[{\"name\":\"aws-iam-token\"}]}",
    "{\"name\":\"c\",\"ports\":[{},{},{},{}]}",
    "{\"name\":\"\\u200b\\u200b\\u200b\\u200b\\u007f\"}",
    ":\"a\":0",
    ":\"a\":\"\"",
    ":\"\\u0061\":\"\\u0062\"",
    ":\"a\":{}",
    ":\"name\":\"x\"",
    ":\"containers\":[]",
    ":\"value\":[[0],[0]]",
    ":\"fab.nanohype.dev/session-id\":\"\\u0061\"",
    ":\"traffic.sidecar.istio.io/excludeOutboundIPRanges\":\"10.0.0.0/8,\\u0061\"",
    ":\"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes\":\",,,,\"",
    "@\\u0001,\\\"a ",
    "@a",
    "@\u{7f}",
    "@\u{200b}",
    "@,",
];

/// Returns a value of about `bytes` bytes that repeats one piece.
fn filled(piece: &str, bytes: usize) -> String {
    let (open, piece, close) = match piece.strip_prefix(':') {
        Some(entry) => ("{", entry, "}"),
        None if piece.starts_with('@') => {
            return format!("\"{}\"", piece[1..].repeat(bytes / piece.len()));
        }
        None => ("[", piece, "]"),
    };
    let count = bytes / (piece.len() + 1) + 1;
    let mut text = String::with_capacity(bytes + 64);
    text.push_str(open);
    for index in 0..count {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&piece.replace('#', &index.to_string()));
    }
    text.push_str(close);
    text
}

fn is_bound(tenant: &Tenant, body: &[u8], what: &str) -> f64 {
    let (peak, answer) = peak(tenant, body);
    let most = BODY * body.len() + (ANSWER * answer + CONTAINERS).min(MOST_BESIDE);
    let length = body.len();
    assert!(
        peak <= most,
        "{what}: {peak} bytes for {length}, answered by {answer} (at most {most})"
    );
    (peak as f64 - (ANSWER * answer) as f64) / length as f64
}

#[test]
fn any_value_at_any_path_uses_bounded_memory() {
    let _alone = COUNTING.lock().unwrap();
    let tenant = tenant();
    const BYTES: usize = 512 << 10;
    let mut worst = (0.0, String::new());
    for place in PLACES {
        for piece in PIECES {
            let body = review_with(place, &filled(piece, BYTES));
            let what = format!("{piece} at {place}");
            let lengths = is_bound(&tenant, &body, &what);
            if lengths > worst.0 {
                worst = (lengths, what);
            }
        }
    }
    println!("the worst takes {:.2} lengths of its body: {}", worst.0, worst.1);
    // The control: the parsed tree of one of these bodies.
    let body = review_with("/request/object/spec/containers/0/image", &filled("[0]", BYTES));
    let tree = peak_of(|| serde_json::from_slice::<Value>(&body)) / body.len();
    assert!(tree > 20, "a tree takes {tree} lengths");
}

/// Generates values of several nested pieces.
fn value() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        (0..PIECES.len(), 1_usize..1 << 16).prop_map(|(piece, bytes)| filled(PIECES[piece], bytes)),
        Just("{}".to_owned()),
        "[a-z\\\\u0-9]{0,40}".prop_map(|text| Value::from(text).to_string()),
    ];
    text.prop_recursive(3, 24, 8, |inner| {
        let keys = prop_oneof![
            Just("name"),
            Just("value"),
            Just("valueFrom"),
            Just("env"),
            Just("volumeMounts"),
            Just("mountPath"),
            Just("projected"),
            Just("sources"),
            Just("containers"),
            Just("metadata"),
            Just("spec"),
            Just("labels"),
            Just("\\u0061"),
        ];
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(|items| format!("[{}]", items.join(","))),
            vec((keys, inner), 0..8).prop_map(|entries| {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}

#[test]
fn any_generated_body_uses_bounded_memory() {
    let _alone = COUNTING.lock().unwrap();
    let tenant = tenant();
    let cases = Cases { cases: 400, failure_persistence: None, ..Cases::default() };
    let bodies = (0..PLACES.len(), value());
    TestRunner::new(cases)
        .run(&bodies, |(place, value)| {
            let body = review_with(PLACES[place], &value);
            is_bound(&tenant, &body, PLACES[place]);
            // And a body that is cut off or is not JSON.
            is_bound(&tenant, &body[..body.len() / 2], PLACES[place]);
            Ok(())
        })
        .unwrap();
}

/// Bound of the peak memory to check a list, beside the responses with it: this number of lengths
/// of the list, this number of sizes of the findings, and the memory of one decision, or of the
/// first holders of each permission.
const LIST: usize = 2;
const FINDINGS: usize = 4;
const HOLDERS: usize = 2 << 20;
const DECISION: usize = 128 << 10;

/// Kinds of objects, and the paths at which the checks read them.
const READ: [(&str, &[&str]); 10] = [
    ("Namespace", &["", "/metadata", "/metadata/name", "/metadata/labels"]),
    ("DaemonSet", &["", "/metadata", "/metadata/name", "/metadata/namespace"]),
    ("ClusterRole", &["", "/metadata/name", "/rules", "/rules/0/verbs"]),
    ("ClusterRoleBinding", &["", "/metadata/name", "/roleRef", "/subjects", "/subjects/0/name"]),
    ("ServiceAccount", &["", "/metadata", "/metadata/name"]),
    ("LimitRange", &["", "/metadata/name", "/spec/limits", "/spec/limits/0/max/cpu"]),
    (
        "ResourceQuota",
        &["", "/metadata/name", "/spec/hard", "/spec/hard/cpu", "/spec/scopes", "/status/used/cpu"],
    ),
    ("Role", &["", "/metadata/name", "/rules", "/rules/0", "/rules/0/resources"]),
    (
        "RoleBinding",
        &[
            "",
            "/metadata/name",
            "/metadata/labels",
            "/roleRef/name",
            "/subjects",
            "/subjects/0/name",
        ],
    ),
    (
        "Pod",
        &[
            "",
            "/metadata/name",
            "/metadata/annotations",
            "/metadata/managedFields",
            "/spec/containers",
            "/spec/containers/0/env",
            "/spec/initContainers",
            "/spec/volumes",
            "/status",
            "/status/initContainerStatuses",
        ],
    ),
];

/// Repeated pieces, as in [`PIECES`]. `#` is another number each time.
const NUMBERED: [&str; 18] = [
    "0",
    "\"#\"",
    "[[[[[[0]]]]]]",
    "{}",
    "{\"a\":{\"a\":{}}}",
    "{\"name\":\"#\"}",
    "{\"name\":\"fab-session-credentials\",\"y\":[[0],[0],[0],[0]]}",
    "{\"kind\":\"ServiceAccount\",\"name\":\"\\u0061#\",\"namespace\":\"b\"}",
    "{\"kind\":\"Group\",\"name\":\"system:authenticated\"}",
    "{\"apiGroups\":[\"*\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]}",
    "{\"type\":\"Container\",\"max\":{\"cpu\":\"0\",\"memory\":\"0\"},\"min\":{\"cpu\":\"9\",\"memory\":\"9\"}}",
    "{\"type\":\"Pod\",\"max\":{\"cpu\":\"0\"}}",
    ":\"a\":0",
    ":\"a#\":\"b#\"",
    ":\"\\u0061\":{}",
    "@\\u0001,\\\"a ",
    "@0",
    "@\u{200b}",
];

/// Returns an object of the kind. Its numbers are another each time.
fn object(kind: &str) -> Value {
    let labels = json!({"fab.nanohype.dev/session-injection": "enabled"});
    let metadata = json!({"name": "a#", "labels": labels});
    let amounts = json!({"cpu": "1m", "memory": "1"});
    match kind {
        "ClusterRole" | "Role" => json!({"metadata": metadata, "rules": [all_rights()]}),
        "ClusterRoleBinding" | "RoleBinding" => json!({
            "metadata": metadata,
            "roleRef": {"kind": "ClusterRole", "name": "all"},
            "subjects": [{"kind": "ServiceAccount", "name": "u#", "namespace": "n"}],
        }),
        "LimitRange" => {
            let limit = json!({"type": "Container", "max": amounts});
            json!({"metadata": metadata, "spec": {"limits": [limit]}})
        }
        "ResourceQuota" => json!({
            "metadata": metadata, "spec": {"hard": amounts}, "status": {"used": amounts},
        }),
        "Pod" => {
            let review: Value = serde_json::from_slice(&review("runtime")).unwrap();
            let mut pod = review["request"]["object"].clone();
            pod["metadata"]["name"] = "a#".into();
            pod
        }
        _ => json!({"metadata": metadata}),
    }
}

fn all_rights() -> Value {
    json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})
}

/// Returns a list of `count` objects of the kind, each with `value` at the path.
fn list(kind: &str, place: &str, value: &str, count: usize) -> Vec<u8> {
    let mut object = object(kind);
    let mut parent = &mut object;
    let keys: Vec<&str> = place.split('/').skip(1).collect();
    for key in keys {
        parent = match parent {
            Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
            object => &mut object[key],
        };
    }
    *parent = "@@".into();
    let object = object.to_string().replacen("\"@@\"", value, 1);
    let items: Vec<String> =
        (0..count).map(|index| object.replace('#', &index.to_string())).collect();
    format!("{{\"kind\":\"{kind}List\",\"items\":[{}]}}", items.join(",")).into_bytes()
}

/// Makes the checks of a cluster with one namespace, in which only this list has objects.
fn checked(tenant: &Tenant, kind: &str, list: &[u8]) -> Findings {
    fn unknown<T>() -> Seen<T> {
        Seen::Hidden(String::new())
    }
    let of = |wanted: &str| {
        let mut objects = Objects::default();
        if wanted == kind {
            objects.add(list).unwrap();
        }
        Seen::Known(objects)
    };
    let role = json!({"metadata": {"name": "all"}, "rules": [all_rights()]});
    let roles = Seen::Known(Objects::of("ClusterRole", &[role]));
    let mut checks = Checks::of_cluster(Facts {
        aws: None,
        config: &tenant.config,
        daemon_sets: of("DaemonSet"),
        issuer: None,
        issuer_pods: Some(IssuerPods { namespace: unknown(), pods: unknown() }),
        roles: Some(tenant.roles.clone()),
        namespaces: of("Namespace"),
        sandboxes: of("Sandbox"),
        rights: roles.beside(of("ClusterRole")).beside(of("ClusterRoleBinding")),
        kubernetes: KubernetesVersions { api_server: unknown(), kubelets: unknown() },
        release: ReleaseFacts::Installed {
            guard: Guard { objects: unknown(), installed: unknown() },
            now: SystemTime::UNIX_EPOCH,
            text: ConfigText { installed: unknown(), live: None, place: String::new() },
            webhook: Box::new(WebhookFacts {
                configurations: unknown(),
                deployment: unknown(),
                endpoints: unknown(),
                installed: unknown(),
                certs_deployment: unknown(),
                secret: unknown(),
            }),
        },
    });
    let contents = NamespaceContents {
        accounts: of("ServiceAccount"),
        limit_ranges: of("LimitRange"),
        network_policies: of("NetworkPolicy"),
        pods: of("Pod"),
        quotas: of("ResourceQuota"),
        rights: of("Role").beside(of("RoleBinding")),
    };
    checks.of_namespace(tenant.namespaces.find("tenants-acme").unwrap(), &contents, None);
    checks.finish(&Seen::Known(HashMap::new()))
}

fn is_bound_list(tenant: &Tenant, kind: &str, list: &[u8], what: &str) {
    let mut findings = 0;
    let peak = peak_of(|| {
        let found = checked(tenant, kind, list);
        let bytes = |it: &Finding| size_of::<Finding>() + it.subject.len() + it.message.len();
        findings = found.iter().map(bytes).sum();
        found
    });
    let beside = if kind.ends_with("Binding") { HOLDERS } else { DECISION };
    let (length, most) = (list.len(), LIST * list.len() + FINDINGS * findings + beside);
    assert!(
        peak <= most,
        "{what}: {peak} bytes for {length} and findings of {findings} (at most {most})"
    );
}

#[test]
fn the_checks_of_any_list_use_bounded_memory() {
    let _alone = COUNTING.lock().unwrap();
    let tenant = tenant();
    for (kind, places) in READ {
        for place in places {
            for piece in NUMBERED {
                let list = list(kind, place, &filled(piece, 64 << 10), 1);
                is_bound_list(&tenant, kind, &list, &format!("{piece} at {place} of a {kind}"));
            }
            let list = list(kind, place, "[{}]", if kind == "Pod" { 256 } else { 2048 });
            is_bound_list(&tenant, kind, &list, &format!("many {kind}s with a short {place}"));
        }
    }
}

#[test]
fn the_checks_of_generated_lists_use_bounded_memory() {
    let _alone = COUNTING.lock().unwrap();
    let tenant = tenant();
    let cases = Cases { cases: 100, failure_persistence: None, ..Cases::default() };
    TestRunner::new(cases)
        .run(&(0..READ.len(), any::<prop::sample::Index>(), value()), |(kind, place, value)| {
            let (kind, places) = READ[kind];
            let place = place.get(places);
            is_bound_list(&tenant, kind, &list(kind, place, &value, 1), place);
            Ok(())
        })
        .unwrap();
}
