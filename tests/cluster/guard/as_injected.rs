//! The short way of the pods policy: a pod that is `asInjected` breaks no rule of `refusal`, and
//! what the webhook injects is `asInjected`.

use std::{fs, time::Duration};

use harness::{
    api_server::{ApiServer, NotCreated},
    case::Case,
    process::wait_until,
    world::World,
};
use serde_json::{Value, json};

use super::{
    Attempt, add_volume, agent, creations, home, injected, make_homes, make_namespaces, mount,
    named, render,
};

/// What the policy computes for a pod.
#[derive(Debug)]
struct Verdict {
    as_injected: bool,
    /// "" if it breaks none.
    broken_rule: String,
}

#[test]
fn a_pod_as_injected_breaks_no_rule() {
    let world = World::without_configuration(&[], None);
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| case.config.is_none() && case.name != "not-opted-in")
        .filter(|case| fs::exists(case.path("injected.yaml")).unwrap())
        .collect();
    make_homes(&world, &cases, "seen");
    make_namespaces(&world);
    observe(&world);

    // What the webhook injects takes the short way.
    let mut compared = Vec::new();
    for case in &cases {
        let pod = named(injected(&case.name), &home(case, "seen"), "seen");
        let said = world.create(&pod, case.creator.as_deref()).unwrap_err();
        let Some(verdict) = verdict(&said) else { continue };
        assert_eq!(verdict.broken_rule, "", "{}", case.name);
        if !verdict.as_injected {
            compared.push(case.name.as_str());
        }
    }
    assert_eq!(compared, COMPARED);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let api_server = ApiServer::of(&world.cluster.kubeconfig()).dry();
    let look = |pod: &Value| match runtime.block_on(api_server.create(pod)) {
        Err(NotCreated::Refused(said)) => verdict(&said),
        other => panic!("{other:?}"),
    };
    for Attempt { what, stdin, .. } in creations(&world.cluster) {
        let pod: Value = serde_json::from_str(&stdin).unwrap();
        // The API server itself refuses some pods first.
        if let Some(verdict) = look(&pod) {
            assert!(!verdict.as_injected && !verdict.broken_rule.is_empty(), "{what}: {verdict:?}");
        }
    }

    // Each reserved name, of a container and of a volume.
    for name in
        ["fab-session-credentials", "fab-session-token", "fab-session-base", "fab-session-empty"]
    {
        for golden in ["no-agent", "fleet"] {
            let plain = named(injected(golden), "tenants-held", "reserved");
            let mut with_container = plain.clone();
            let mut container = plain["spec"]["containers"][0].clone();
            container["name"] = name.into();
            super::push(&mut with_container["spec"]["containers"], container);
            let mut with_volume = plain;
            add_volume(&mut with_volume, json!({"name": name, "emptyDir": {}}));
            for pod in [with_container, with_volume] {
                let verdict = look(&pod).unwrap();
                assert!(verdict.broken_rule.contains("[guard-reserved-name]"), "{verdict:?}");
                assert!(!verdict.as_injected, "{golden}: {name}");
            }
        }
    }

    let mut random = Random(1);
    let (mut short, mut refused) = (0, 0);
    for golden in ["fenced-without-labels", "dispatcher", "fleet", "no-agent"] {
        let mut whole = named(injected(golden), "tenants-held", "changed");
        let container = agent(&mut whole)["name"].as_str().unwrap().to_owned();
        mount(&mut whole, &container, json!({"name": "own", "mountPath": "/own"}));
        add_volume(&mut whole, json!({"name": "own", "emptyDir": {}}));
        for _ in 0..CHANGES {
            let mut pod = whole.clone();
            for _ in 0..=random.below(2) {
                change(&mut pod, &mut random);
            }
            let Some(verdict) = look(&pod) else { continue };
            short += usize::from(verdict.as_injected);
            refused += usize::from(!verdict.broken_rule.is_empty());
            assert!(!verdict.as_injected || verdict.broken_rule.is_empty(), "{verdict:?} of {pod}");
        }
    }
    println!("of {} changed pods, {short} as injected, {refused} refused", 4 * CHANGES);
    assert!(short > CHANGES / 10 && refused > CHANGES / 10, "{short} and {refused}");
}

/// Goldens in the old client mode, which keeps what rules are about.
const COMPARED: [&str; 1] = ["operator-kept"];
const CHANGES: usize = 150;

/// Binds a policy that refuses each pod, and tells what the policy for pods computes for it.
fn observe(world: &World) {
    let rendered = render(&json!({})).unwrap();
    let observer = |kind: &str| {
        let found = rendered.iter().find(|manifest| {
            manifest["kind"] == kind && manifest["metadata"]["name"] == "fab-session-injector-pods"
        });
        let mut object = found.unwrap().clone();
        object["metadata"]["name"] = "observer".into();
        object
    };
    let mut policy = observer("ValidatingAdmissionPolicy");
    let variables = policy["spec"]["variables"].as_array_mut().unwrap();
    let refusal = variables.iter_mut().find(|variable| variable["name"] == "refusal").unwrap();
    let rules = refusal["expression"].as_str().unwrap();
    let rules = rules.strip_prefix("variables.asInjected ? \"\" :").unwrap().to_owned();
    refusal["expression"] = rules.into();
    policy["spec"]["validations"] = json!([{
        "expression": "false",
        "messageExpression": "\"observed: \" + (variables.asInjected ? \"as injected: \" : \"compared: \") + variables.refusal + \"|\"",
    }]);
    let mut binding = observer("ValidatingAdmissionPolicyBinding");
    binding["spec"]["policyName"] = "observer".into();
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [policy, binding]}));
    let pod = super::named(injected("fenced-without-labels"), "tenants-held", "first");
    wait_until("the policy is bound", Duration::from_secs(20), || {
        // Until then the pod may be created once.
        world.create(&pod, None).err()?.contains("observed: ").then_some(())
    });
}

/// Reads a refusal. None: the API server refused the pod before the policy.
fn verdict(said: &str) -> Option<Verdict> {
    let (_, observed) = said.split_once("observed: ")?;
    let (way, rest) = observed.split_once(": ").unwrap();
    let (broken_rule, _) = rest.split_once('|').unwrap();
    Some(Verdict { as_injected: way == "as injected", broken_rule: broken_rule.to_owned() })
}

/// Changes one value of the pod, by another value of the pod or by one that rules are about.
fn change(pod: &mut Value, random: &mut Random) {
    let mut pointers = Vec::new();
    collect(&pod["spec"], "/spec", &mut pointers);
    collect(&pod["metadata"]["annotations"], "/metadata/annotations", &mut pointers);
    collect(&pod["metadata"]["labels"], "/metadata/labels", &mut pointers);
    let pointer = pointers[random.below(pointers.len())].clone();
    let other = pod.pointer(&pointers[random.below(pointers.len())]).unwrap().clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = pod.pointer_mut(parent).unwrap();
    match (random.below(4), parent) {
        (0, Value::Object(fields)) => {
            fields.shift_remove(&key);
        }
        (0, Value::Array(items)) => {
            items.remove(key.parse().unwrap());
        }
        (1, Value::Array(items)) => {
            let copy = items[key.parse::<usize>().unwrap()].clone();
            items.push(copy);
        }
        (2, parent) => *at(parent, &key) = other,
        (_, parent) => {
            let value = at(parent, &key);
            *value = match value {
                Value::Number(_) => json!(64017),
                Value::Bool(is) => json!(!*is),
                Value::String(_) => json!(TEXTS[random.below(TEXTS.len())]),
                _ => other,
            };
        }
    }
}

fn at<'v>(parent: &'v mut Value, key: &str) -> &'v mut Value {
    match parent {
        Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
        parent => &mut parent[key],
    }
}

fn collect(value: &Value, pointer: &str, pointers: &mut Vec<String>) {
    let mut below = |key: &str, value: &Value| {
        let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
        collect(value, &pointer, pointers);
        pointers.push(pointer);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| below(key, value)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| below(&index.to_string(), value));
        }
        _ => {}
    }
}

const TEXTS: [&str; 12] = [
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "FAB_OPERATOR",
    "FAB_SESSION_TENANT",
    "JAVA_TOOL_OPTIONS",
    "-Daws.profile=own",
    "sts.amazonaws.com",
    "fab-session-base",
    "fab-session-credentials",
    "metadata.name",
    "Always",
    "acme",
];

/// A sequence that is the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}
