//! Sessions that come with a SandboxClaim in the chart: the issuer's further rights, and the values
//! that contradict them.

use harness::sidecar::pod::{CONTROLLER, claim_components};

use super::*;

fn values(change: impl FnOnce(&mut Value)) -> Value {
    let mut values: Value = serde_saphyr::from_str(include_str!("issuer.yaml")).unwrap();
    values["config"]["components"] = claim_components();
    change(&mut values);
    values
}

fn rules(manifests: &[Value]) -> Vec<Value> {
    let role = named(manifests, "ClusterRole", "injector-fab-session-injector-issuer").unwrap();
    role["rules"].as_array().unwrap().clone()
}

#[test]
fn the_issuer_reads_sandboxes_only_for_such_sessions() {
    let late = render_with(&values(|_| {})).unwrap();
    let without = render_with(&values(|values| {
        values["config"].as_object_mut().unwrap().shift_remove("components");
    }))
    .unwrap();
    let admission = |names: &[&str]| {
        json!({
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
            "resourceNames": names,
            "verbs": ["get"],
        })
    };
    let of_pods = ["fab-session-injector-issuer-pods", "fab-session-injector-issuer-pods-b90f6786"];
    let guards = ["fab-session-injector-sandbox-pods", "fab-session-injector-sandboxes"];
    let more = [
        admission(&[of_pods, guards].concat()),
        json!({"apiGroups": ["agents.x-k8s.io"], "resources": ["sandboxes"], "verbs": ["get", "list", "watch"]}),
        json!({"apiGroups": ["extensions.agents.x-k8s.io"], "resources": ["sandboxclaims"], "verbs": ["get"]}),
    ];
    let (rest, last) = (rules(&without), admission(&of_pods));
    assert_eq!(rest.last(), Some(&last));
    let want: Vec<Value> = rest[..rest.len() - 1].iter().chain(&more).cloned().collect();
    assert_eq!(rules(&late), want);
    for guard in guards {
        for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
            assert!(named(&late, kind, guard).is_some(), "{kind} {guard}");
            assert!(named(&without, kind, guard).is_none(), "{kind} {guard}");
        }
        let binding = named(&late, "ValidatingAdmissionPolicyBinding", guard).unwrap();
        assert_eq!(binding["spec"]["matchResources"], Value::Null, "all namespaces");
    }
}

/// The program refuses the same values.
#[test]
fn contradictions_about_claims_fail_the_render() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 9] = [
        ("only the session issuer reads", |values| {
            values["issuer"]["enabled"] = false.into();
            values["config"].as_object_mut().unwrap().shift_remove("issuer");
        }),
        ("a tenant chooses these", |values| {
            values["config"]["components"][0]["selectors"] = json!(["a"]);
        }),
        ("a tenant chooses these", |values| {
            values["config"]["components"][0]["serviceAccounts"] = json!(["a"]);
        }),
        ("put it before the others", |values| {
            values["config"]["components"].as_array_mut().unwrap().reverse();
        }),
        ("no creators", |values| {
            values["config"]["components"][0].as_object_mut().unwrap().shift_remove("creators");
        }),
        ("may match an account of a tenant", |values| {
            values["config"]["components"][0]["creators"] = json!(["system:serviceaccount:*"]);
        }),
        ("copies annotations", |values| {
            values["config"]["sessionCreators"] = json!([CONTROLLER]);
        }),
        ("the sidecar waits for the claim", |values| {
            values["config"]["components"][0]["credentials"] = "none".into();
        }),
        ("no credentials until it is claimed", |values| {
            values["config"]["components"][0]["startGate"] = "credentials".into();
        }),
    ];
    for (want, change) in cases {
        let said = render_with(&values(change)).unwrap_err();
        assert!(said.contains(want), "want {want}: {said}");
    }
}
