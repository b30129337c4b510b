//! Properties of every pod, as property-based tests.

use fab_session_injector::{
    admission::{self, Decision, JAVA_OPTIONS, JAVA_PROPERTIES, Review, STATIC_CREDENTIALS},
    config::Config,
    manifest::PodIn,
    namespaces::Mode,
};
use harness::{
    foreign_fields::{ISTIO_EXCLUDES, LINKERD_GROUP, without_ours},
    tenant::{ROLE, Tenant},
};
use proptest::{
    collection::vec, option, prelude::*, sample::select, test_runner::Config as Runner,
};
use serde_json::{Map, Value, json};

const OPERATOR: &str = "system:serviceaccount:eks-agent-platform:operator";

fn tenant() -> Tenant {
    Tenant::new(Config::parse("sessionCreators: ['system:serviceaccount:*:operator']\n").unwrap())
}

/// Returns the injected pod, or None if it is refused.
fn inject(tenant: &Tenant, pod: &Value, creator: &str) -> Option<Value> {
    match tenant.decide(pod, creator) {
        (Decision::Refuse(_), _) => None,
        (Decision::Inject(_) | Decision::Pass(_), operations) => {
            let mut pod = pod.clone();
            json_patch::patch(&mut pod, &operations).unwrap();
            Some(pod)
        }
    }
}

/// Generates text, with and without a meaning for the injector.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "",
            "other",
            "agent.other.s",
            "$(EVIL)",
            "$(FAB_SESSION_ID)",
            "arn:aws:iam::999999999999:role/other",
            "x,y",
            "http://proxy"
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}",
    ]
}

fn variable() -> impl Strategy<Value = Value> {
    let names = vec![
        "A",
        "EVIL",
        "PATH",
        "FAB_SESSION_ID",
        "FAB_SESSION_IDENTITY",
        "FAB_SESSION_TENANT",
        "FAB_SESSION_ROLE_ARN",
        "FAB_SESSION_DURATION",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "HTTPS_PROXY",
        "NO_PROXY",
        "no_proxy",
    ];
    let reference = json!({"configMapKeyRef": {"name": "m", "key": "k"}});
    (select(names), option::weighted(0.8, value())).prop_map(move |(name, value)| match value {
        Some(value) => json!({"name": name, "value": value}),
        None => json!({"name": name, "valueFrom": reference}),
    })
}

fn mount() -> impl Strategy<Value = Value> {
    let names = vec!["work", "eks-pod-identity-token", "aws-iam-token", "cache"];
    (select(names), "/[a-z]{1,4}").prop_map(|(name, path)| json!({"name": name, "mountPath": path, "unknownField": {"deep": [1, null]}}))
}

fn container(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let list = |items: Option<Vec<Value>>| items.map_or(Value::Null, Value::Array);
    (
        select(names),
        option::of(vec(variable(), 0..6)),
        option::of(vec(mount(), 0..3)),
        any::<bool>(),
    )
        .prop_map(move |(name, env, mounts, native)| {
            let mut container =
                json!({"name": name, "image": "i", "futureField": {"keep": ["me", 1.5, true]}});
            container["env"] = list(env);
            container["volumeMounts"] = list(mounts);
            if native {
                container["restartPolicy"] = "Always".into();
            }
            container
        })
}

fn volume() -> impl Strategy<Value = Value> {
    let names = vec![
        "work",
        "cache",
        "eks-pod-identity-token",
        "aws-iam-token",
        "fab-session-token",
        "fab-session-base",
        "fab-session-empty",
    ];
    select(names).prop_map(|name| json!({"name": name, "emptyDir": {"futureField": 1}}))
}

fn metadata() -> impl Strategy<Value = Value> {
    let keys = vec![
        "app",
        "agents.nanohype.dev/agentsandbox",
        "fab.nanohype.dev/session-id",
        "fab.nanohype.dev/source-identity",
        "fab.nanohype.dev/tenant",
        "agents.nanohype.dev/platform",
        "eks.amazonaws.com/skip-containers",
        "eks.amazonaws.com/skip-pod-identity-webhook",
        "fab.nanohype.dev/session-role-arn",
        "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        "container.apparmor.security.beta.kubernetes.io/agent",
        "container.apparmor.security.beta.kubernetes.io/fab-session-credentials",
        ISTIO_EXCLUDES,
        LINKERD_GROUP,
    ];
    let map = move || {
        option::of(vec((select(keys.clone()), value()), 0..4)).prop_map(|entries| {
            entries.map_or(Value::Null, |entries| {
                entries
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value.into()))
                    .collect::<Map<_, _>>()
                    .into()
            })
        })
    };
    (map(), map()).prop_map(|(labels, annotations)| json!({"name": "a", "labels": labels, "annotations": annotations, "futureField": "kept"}))
}

/// Generates pods of the fenced service account.
fn pod() -> impl Strategy<Value = Value> {
    let init = option::of(vec(
        container(&["first", "second", "linkerd-proxy", "fab-session-credentials"]),
        0..3,
    ));
    let kinds = vec![
        ("fab.nanohype.dev/component", "dispatcher"),
        ("fab.nanohype.dev/component", "runtime"),
        ("agents.nanohype.dev/agent", "a"),
    ];
    (
        metadata(),
        option::weighted(0.3, select(kinds)),
        vec(container(&["agent", "tools", "istio-proxy"]), 1..3),
        init,
        option::of(vec(volume(), 0..4)),
    )
        .prop_map(|(mut metadata, kind, containers, init, volumes)| {
            if let Some((key, value)) = kind {
                metadata["labels"][key] = value.into();
            }
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "futureField": {"a": [{}]},
                "spec": {
                    "serviceAccountName": "tenant-runtime", "futureField": [[]],
                    "containers": containers, "initContainers": init, "volumes": volumes,
                },
            })
        })
}

fn creator() -> impl Strategy<Value = &'static str> {
    select(vec![
        OPERATOR,
        // The config lists this name in every namespace except the pod's.
        "system:serviceaccount:tenants-acme:operator",
        "system:serviceaccount:kube-system:replicaset-controller",
        "somebody",
        "",
    ])
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
}

fn is_proxy(container: &Value) -> bool {
    container["name"] == "istio-proxy" || container["name"] == "linkerd-proxy"
}

fn runner(cases: u32) -> Runner {
    Runner { cases, failure_persistence: None, ..Runner::default() }
}

#[test]
fn every_variable_that_precedes_the_endpoint_is_refused() {
    let tenant = tenant();
    let decide = |name: &str, value: &Value| {
        let mut variable = json!({"name": name});
        variable["valueFrom"] = json!({"secretKeyRef": {"name": "s", "key": "k"}});
        if !value.is_null() {
            variable = json!({"name": name, "value": value});
        }
        let container = json!({"name": "agent", "image": "i", "env": [variable]});
        let pod = json!({"metadata": {"name": "a"}, "spec": {"serviceAccountName": "tenant-runtime", "containers": [container]}});
        match tenant.decide(&pod, "admin").0 {
            Decision::Refuse(refusal) => refusal.to_string(),
            decision => format!("{decision:?}"),
        }
    };
    for name in STATIC_CREDENTIALS {
        for value in [json!("own"), json!(""), Value::Null] {
            let said = decide(name, &value);
            assert!(said.contains(&format!("sets {name}, which takes precedence")), "{said}");
        }
    }
    for variable in JAVA_OPTIONS {
        for property in JAVA_PROPERTIES {
            let said = decide(variable, &json!(format!("-Xmx1g -D{property}=own")));
            assert!(said.contains(&format!("sets -D{property} in {variable}, which ")), "{said}");
        }
        for value in [json!(""), json!("-Daws.region=eu-west-1 -Duser.home=/tmp"), Value::Null] {
            let said = decide(variable, &value);
            assert!(said.starts_with("Inject("), "{variable} {value}: {said}");
        }
    }
}

#[test]
fn the_maximum_of_containers_is_injected_twice() {
    let tenant = tenant();
    let pod = |many: usize| {
        let containers: Vec<Value> = (0..many)
            .map(|index| json!({"name": format!("agent-{index}"), "image": "i"}))
            .collect();
        json!({"metadata": {}, "spec": {"serviceAccountName": "tenant-runtime", "containers": containers}})
    };
    let once = inject(&tenant, &pod(256), OPERATOR).unwrap();
    assert_eq!(inject(&tenant, &once, OPERATOR).unwrap(), once);
    assert!(inject(&tenant, &pod(257), OPERATOR).is_none());
}

/// Generates pods with many repetitions of names that the webhook removes.
fn repeated() -> impl Strategy<Value = Value> {
    let container = (0_usize..140, 0_usize..40, option::weighted(0.05, 0_usize..1200));
    (vec(container, 1..150), 0_usize..60).prop_map(|(containers, volumes)| {
        let containers = containers.into_iter().enumerate();
        let containers = containers.map(|(n, (taken_out, mounted, others))| {
            let taken_out = (0..taken_out).map(|_| json!({"name": "AWS_ROLE_ARN"}));
            let others = (0..others.unwrap_or_default()).map(|n| json!({"name": format!("V{n}")}));
            let mount = json!({"name": "aws-iam-token", "mountPath": "/x"});
            json!({
                "name": format!("c{n}"), "image": "i",
                "env": taken_out.chain(others).collect::<Vec<_>>(),
                "volumeMounts": vec![mount; mounted],
            })
        });
        let volume = json!({"name": "fab-session-token"});
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "serviceAccountName": "tenant-runtime",
                "containers": containers.collect::<Vec<_>>(),
                "volumes": vec![volume; volumes],
            },
        })
    })
}

proptest! {
    #![proptest_config(runner(60))]

    /// The API server applies a patch without a time limit, and an operation may move a whole list.
    #[test]
    fn a_patch_has_a_bounded_cost(pod in repeated()) {
        let (decision, operations) = tenant().decide(&pod, "jane");
        let longest = containers(&pod).map(|container| container["env"].as_array().unwrap().len()).max().unwrap();
        if matches!(decision, Decision::Inject(_)) {
            prop_assert!(operations.len() <= 10_000, "{} operations", operations.len());
            prop_assert!(longest <= 1024 + 128, "{longest} variables");
        }
    }
}

proptest! {
    #![proptest_config(runner(600))]

    #[test]
    fn a_second_injection_changes_nothing(pod in pod(), creator in creator()) {
        let tenant = tenant();
        if let Some(once) = inject(&tenant, &pod, creator) {
            let (_, operations) = tenant.decide(&once, creator);
            prop_assert!(operations.is_empty(), "{:?}", operations);
        }
    }

    #[test]
    fn changes_between_two_calls_are_corrected(pod in pod(), late in container(&["late"]), creator in creator()) {
        let tenant = tenant();
        let Some(once) = inject(&tenant, &pod, creator) else { return Ok(()) };
        let has_sidecar = |pod: &Value| containers(pod).any(|container| container["name"] == "fab-session-credentials");
        let mut between = once.clone();
        between["spec"]["containers"].as_array_mut().unwrap().push(late);
        for container in between["spec"]["initContainers"].as_array_mut().into_iter().flatten() {
            container.as_object_mut().unwrap().shift_remove("restartPolicy");
        }
        between["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("eks.amazonaws.com/skip-containers");
        // The added container may have a forbidden field.
        let (decision, _) = tenant.decide(&between, creator);
        let Some(again) = inject(&tenant, &between, creator) else {
            prop_assert!(matches!(decision, Decision::Refuse(_)), "{decision:?}");
            return Ok(());
        };
        prop_assert_eq!(has_sidecar(&again), has_sidecar(&once));
        for container in containers(&again).filter(|container| container["name"] == "fab-session-credentials") {
            prop_assert_eq!(&container["restartPolicy"], "Always");
        }
        prop_assert_eq!(inject(&tenant, &again, creator), Some(again));
    }

    #[test]
    fn all_other_fields_survive_the_injection(pod in pod(), creator in creator()) {
        if let Some(injected) = inject(&tenant(), &pod, creator) {
            let mut before = without_ours(&pod);
            let after = without_ours(&injected);
            // New lists, which are empty without the injector's items.
            for key in ["initContainers", "volumes"] {
                if before["spec"][key].is_null() {
                    before["spec"][key] = json!([]);
                }
            }
            for list in ["containers", "initContainers"] {
                for (index, container) in before["spec"][list].as_array_mut().unwrap().iter_mut().enumerate() {
                    for key in ["env", "volumeMounts"] {
                        if container[key].is_null() && !after["spec"][list][index][key].is_null() {
                            container[key] = json!([]);
                        }
                    }
                }
            }
            prop_assert_eq!(after, before);
        }
    }

    #[test]
    fn a_claimed_identity_has_no_effect(pod in pod(), creator in creator()) {
        let tenant = tenant();
        let (decision, _) = tenant.decide(&pod, creator);
        prop_assert!(!matches!(decision, Decision::Pass(_)), "a fenced pod is never passed");
        let Decision::Inject(injection) = decision else { return Ok(()) };
        let injected = inject(&tenant, &pod, creator).unwrap();
        let annotation = |key: &str| injected["metadata"]["annotations"][key].as_str();
        let Some(session) = injection.gives.session() else {
            prop_assert_eq!(annotation("fab.nanohype.dev/source-identity"), None);
            prop_assert_eq!(annotation("fab.nanohype.dev/session-role-arn"), None);
            return Ok(());
        };
        prop_assert_eq!(session.tenant.as_str(), "acme");
        prop_assert_eq!(session.role.as_str(), ROLE);
        prop_assert_eq!(annotation("fab.nanohype.dev/session-role-arn"), Some(ROLE));
        prop_assert!(annotation("fab.nanohype.dev/source-identity").unwrap().starts_with("agent.acme."));
        if creator != OPERATOR {
            prop_assert_eq!(session.identity_for_people(), "agent.acme.<pod uid>");
        }
        for container in containers(&injected).filter(|container| !is_proxy(container)) {
            let values = |name: &str| -> Vec<Value> {
                let env = container["env"].as_array().unwrap();
                env.iter().filter(|entry| entry["name"] == name).map(|entry| entry["value"].clone()).collect()
            };
            prop_assert_eq!(values("FAB_SESSION_ROLE_ARN"), [json!(ROLE)]);
            prop_assert_eq!(values("FAB_SESSION_TENANT"), [json!("acme")]);
            let identity = values("FAB_SESSION_IDENTITY");
            prop_assert!(identity.len() == 1 && identity[0].as_str().unwrap().starts_with("agent.acme."), "{identity:?}");
        }
    }

    #[test]
    fn meshes_do_not_redirect_the_base_token(pod in pod(), creator in creator()) {
        let tenant = tenant();
        let (decision, _) = tenant.decide(&pod, creator);
        let Decision::Inject(injection) = decision else { return Ok(()) };
        if injection.gives.session().is_none() {
            return Ok(());
        }
        let injected = inject(&tenant, &pod, creator).unwrap();
        let annotation = |pod: &Value, key: &str| pod["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned();
        let excluded = annotation(&injected, ISTIO_EXCLUDES);
        prop_assert!(excluded.split(',').any(|range| range == "169.254.170.23/32"), "{excluded:?}");
        prop_assert!(excluded.ends_with(&annotation(&pod, ISTIO_EXCLUDES)), "{excluded:?}");
        let meshed = containers(&injected).any(|container| container["name"] == "linkerd-proxy");
        let group = if meshed { "64017".to_owned() } else { annotation(&pod, LINKERD_GROUP) };
        prop_assert_eq!(annotation(&injected, LINKERD_GROUP), group);
    }

    #[test]
    fn in_an_injected_pod_only_the_sidecar_has_base_credentials(pod in pod(), creator in creator()) {
        let tenant = tenant();
        let (decision, _) = tenant.decide(&pod, creator);
        let Decision::Inject(injection) = decision else { return Ok(()) };
        let has_session = injection.gives.session().is_some();
        let injected = inject(&tenant, &pod, creator).unwrap();
        for container in containers(&injected).filter(|container| container["name"] != "fab-session-credentials") {
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                let name = mount["name"].as_str().unwrap();
                prop_assert!(!["fab-session-base", "fab-session-empty", "eks-pod-identity-token", "aws-iam-token"].contains(&name), "{name}");
            }
            let env: Vec<&str> = container["env"].as_array().into_iter().flatten().map(|entry| entry["name"].as_str().unwrap()).collect();
            for name in ["AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] {
                prop_assert!(!env.contains(&name), "{name}");
            }
            let uri = container["env"].as_array().into_iter().flatten().find(|entry| entry["name"] == "AWS_CONTAINER_CREDENTIALS_FULL_URI");
            let at = |name: &str| env.iter().position(|found| *found == name);
            if has_session && !is_proxy(container) {
                prop_assert_eq!(&uri.unwrap()["value"], "http://127.0.0.1:7413/v1/credentials");
                let identity = container["env"].as_array().into_iter().flatten().find(|entry| entry["name"] == "FAB_SESSION_IDENTITY");
                let refers = identity.unwrap()["value"].as_str().unwrap().contains("$(FAB_SESSION_ID)");
                prop_assert!(at("FAB_SESSION_ID").is_some());
                prop_assert!(!refers || at("FAB_SESSION_ID") < at("FAB_SESSION_IDENTITY"), "{env:?}");
            } else {
                prop_assert_eq!(uri, None);
            }
        }
    }

    /// People correct all of them at once; the webhook's response is the first.
    #[test]
    fn the_first_of_all_refusals_is_the_webhooks(pod in pod(), creator in creator()) {
        let tenant = tenant();
        let Tenant { config, namespaces, roles } = &tenant;
        let (decision, operations) = tenant.decide(&pod, creator);
        let explained = admission::explain(&pod, creator, "tenants-acme", namespaces, roles, config);
        let first = match &decision {
            Decision::Refuse(refusal) => Some(refusal),
            Decision::Inject(_) | Decision::Pass(_) => None,
        };
        prop_assert_eq!(explained.refusals().next(), first);
        prop_assert_eq!(explained.operations.len(), operations.len());
        prop_assert!(first.is_some() || explained.further.is_empty());
    }

    #[test]
    fn values_of_variables_do_not_leave_the_pod(mut pod in pod(), creator in creator()) {
        for container in pod["spec"]["containers"].as_array_mut().unwrap() {
            for entry in container["env"].as_array_mut().into_iter().flatten() {
                if entry["value"].is_string() && !entry["name"].as_str().unwrap().contains("REGION") && !entry["name"].as_str().unwrap().eq_ignore_ascii_case("NO_PROXY") {
                    entry["value"] = "canary".into();
                }
            }
        }
        let (decision, operations) = tenant().decide(&pod, creator);
        prop_assert!(!serde_json::to_string(&operations).unwrap().contains("canary"));
        if let Decision::Refuse(refusal) = decision {
            prop_assert!(!refusal.to_string().contains("canary"));
        }
    }

    /// Offline, a pod is decided as the webhook decides on it, and the patch applies to the object,
    /// whatever is missing in it.
    #[test]
    fn inject_and_the_webhook_agree_on_any_template(pod in pod(), at in any::<prop::sample::Index>(), hole in any::<bool>()) {
        let template = json!({"metadata": pod["metadata"], "spec": pod["spec"]});
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "o"}, "spec": {"template": template}});
        let paths = paths(&object["spec"]["template"], "/spec/template".to_owned());
        let path = &paths[at.index(paths.len())];
        let (parent, key) = path.rsplit_once('/').unwrap();
        match object.pointer_mut(parent) {
            Some(Value::Object(entries)) if hole => { entries.shift_remove(&key.replace("~1", "/")); }
            _ => *object.pointer_mut(path).unwrap() = Value::Null,
        }
        let Some(found) = PodIn::find(&object).pop() else { return Ok(()) };
        let tenant = tenant();
        let (decision, operations) = tenant.decide(&found.pod, "jane");
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "tenants-acme", "userInfo": {"username": "jane"},
            "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": found.pod,
        }}).to_string();
        let Tenant { config, namespaces, roles } = &tenant;
        let answer = Review::parse(review.as_bytes()).unwrap().answer(Mode::Enabled, namespaces, roles, config);
        let is_refused = matches!(decision, Decision::Refuse(_));
        prop_assert_eq!(answer.decision == "refuse", is_refused, "{}", path);
        let mut patched = object.clone();
        let lifted = found.lift(&object, operations);
        prop_assert!(is_refused || json_patch::patch(&mut patched, &lifted).is_ok(), "{}", path);
        if !is_refused {
            let again = PodIn::find(&patched).remove(0);
            prop_assert!(tenant.decide(&again.pod, "jane").1.is_empty(), "{}", path);
        }
    }

    #[test]
    fn random_bytes_are_an_invalid_request(body in vec(any::<u8>(), 0..200)) {
        prop_assert!(Review::parse(&body).is_err());
    }

    /// A review with one changed value keeps its uid, or is an invalid request.
    #[test]
    fn every_response_has_the_uid_of_its_review(at in any::<prop::sample::Index>(), with in json_value()) {
        let mut review: Value = serde_json::from_slice(include_bytes!("../reviews/runtime.json")).unwrap();
        let paths = paths(&review, String::new());
        *review.pointer_mut(&paths[at.index(paths.len())]).unwrap() = with;
        let body = review.to_string();
        if let Ok(parsed) = Review::parse(body.as_bytes()) {
            let Tenant { config, namespaces, roles } = tenant();
            for mode in [Mode::Audit, Mode::Enabled] {
                let answer: Value = serde_json::from_slice(&parsed.answer(mode, &namespaces, &roles, &config).body).unwrap();
                prop_assert_eq!(&answer["response"]["uid"], &review["request"]["uid"]);
                prop_assert!(answer["response"]["allowed"].is_boolean());
            }
        }
    }

    #[test]
    fn a_pod_is_read_with_its_review_as_alone(at in any::<prop::sample::Index>(), with in json_value()) {
        let mut review: Value = serde_json::from_slice(include_bytes!("../reviews/runtime.json")).unwrap();
        let paths = paths(&review, String::new());
        *review.pointer_mut(&paths[at.index(paths.len())]).unwrap() = with;
        let body = review.to_string();
        let Some((before, after)) = body.split_once("\"request\":{") else { return Ok(()) };
        // In a field that is not used. A text that is not UTF-8 is not read at once.
        let ignored = b"\"request\":{\"ignored\":\"\xff\",";
        let alone = [before.as_bytes(), ignored, after.as_bytes()].concat();
        let Tenant { config, namespaces, roles } = tenant();
        let [at_once, alone] = [body.as_bytes(), &alone].map(|body| {
            let review = Review::parse(body).map_err(|error| error.to_string())?;
            Ok::<_, String>(review.answer(Mode::Enabled, &namespaces, &roles, &config).body)
        });
        prop_assert_eq!(at_once.is_ok(), alone.is_ok());
        if let (Ok(at_once), Ok(alone)) = (at_once, alone) {
            prop_assert_eq!(at_once, alone);
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..3)
                .prop_map(|map| map.into_iter().collect::<Map<_, _>>().into())
        ]
    })
}

/// Every JSON pointer of a tree but its root.
fn paths(value: &Value, prefix: String) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value))
            .collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for (key, child) in children {
        let path = format!("{prefix}/{key}");
        all.extend(paths(child, path.clone()));
        all.push(path);
    }
    all
}
