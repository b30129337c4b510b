//! The refusals of the session issuer, each from the code that decides: a pod or namespace, and what
//! is wrong with it.

use std::collections::HashMap;

use fab_session_injector::{
    config::Config,
    issuer::{CallerPod, NotAProjectedToken, TokenFacts, TokenRefusal, decide, tenant_of},
    json::Json,
    namespaces::Namespace,
    roles::{Role, Roles, Source},
    session::TenantName,
};
use jiff::Timestamp;
use serde_json::{Value, json, value::to_raw_value};

/// Returns the refusals in the order of the page's examples.
pub(super) fn refusals() -> Vec<TokenRefusal> {
    let named = |pod: &mut Value| {
        pod["spec"]["initContainers"][0]["env"] =
            json!([{"name": "FAB_SESSION_ID", "value": "coder-1"}]);
    };
    let field = |path: &'static str| {
        move |pod: &mut Value| {
            let source = json!({"fieldRef": {"fieldPath": path}});
            pod["spec"]["initContainers"][0]["env"][0]["valueFrom"] = source;
        }
    };
    let bound = Some("2026-11-24T08:00:00Z".parse().unwrap());
    let mut of_previous_role = pod();
    let role =
        json!({"name": "FAB_SESSION_ROLE_ARN", "value": "arn:aws:iam::111122223333:role/previous"});
    of_previous_role["spec"]["initContainers"][0]["env"].as_array_mut().unwrap().push(role);
    let role = "arn:aws:iam::111122223333:role/prod-acme-broker".parse().unwrap();
    let role = published([("acme", Role::Known(role))]);
    vec![
        of_pod(|pod| pod["spec"]["serviceAccountName"] = json!("default"), bound),
        TokenRefusal::ApiUnavailable { detail: "no response in time".to_owned() },
        TokenRefusal::Busy,
        TokenRefusal::ClaimGone { pod: "pool-x1".to_owned() },
        of_pod(named, None),
        TokenRefusal::KeyUnpublished,
        TokenRefusal::KeyUnavailable,
        of_namespace("tenants-acme", &[("fab.nanohype.dev/session-injection", "audit")]),
        of_pod(field("metadata.name"), bound),
        of_pod(|pod| pod["spec"]["initContainers"] = json!([]), bound),
        of_pod(
            |pod| {
                let volume = pod["spec"]["volumes"][0].clone();
                pod["spec"]["volumes"].as_array_mut().unwrap().push(volume);
                pod["spec"]["volumes"][1]["name"] = json!("own");
            },
            bound,
        ),
        of_pod(
            |pod| {
                let mount = json!([{"name": "fab-session-base", "mountPath": "/base"}]);
                pod["spec"]["containers"][0]["volumeMounts"] = mount;
            },
            bound,
        ),
        of_pod(|pod| pod["metadata"]["uid"] = json!("another"), bound),
        of_pod(named, Some("2026-11-24T08:59:30Z".parse().unwrap())),
        decided("acme", &of_previous_role, &role, bound),
        decided("acme", &pod(), &published([]), bound),
        decided("acme", &pod(), &published([("acme", Role::NotFound)]), bound),
        TokenRefusal::SandboxGone { why: "it is deleted" },
        TokenRefusal::SandboxGuardMissing,
        TokenRefusal::SandboxPredatesGuard { pod: "pool-x1".to_owned() },
        of_namespace("fab", &[("fab.nanohype.dev/session-injection", "enabled")]),
        decided(&"a".repeat(50), &pod(), &published([]), bound),
        TokenRefusal::TokenInvalid { why: NotAProjectedToken::Audience.to_string() },
        TokenRefusal::TokenRejected,
        TokenRefusal::Unbound { pod: "pool-x1".to_owned() },
    ]
}

/// Returns the refusal of an injected pod after a change.
fn of_pod(change: impl FnOnce(&mut Value), guard_since: Option<Timestamp>) -> TokenRefusal {
    let mut pod = pod();
    change(&mut pod);
    decided("acme", &pod, &published([]), guard_since)
}

fn of_namespace(name: &str, labels: &[(&str, &str)]) -> TokenRefusal {
    let label = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let namespace = Namespace::read(name, label, &config().tenant);
    let caller = TokenFacts { namespace: name.parse().unwrap(), ..caller() };
    tenant_of(&caller, Some(&namespace)).unwrap_err()
}

fn decided(
    tenant: &str,
    pod: &Value,
    roles: &Roles,
    guard_since: Option<Timestamp>,
) -> TokenRefusal {
    let tenant: TenantName = tenant.parse().unwrap();
    let issuer = config().issuer.unwrap();
    let pod = to_raw_value(pod).unwrap();
    let pod = Some(Json::from(&*pod));
    let pod = CallerPod::of(&caller(), pod, &issuer);
    pod.and_then(|pod| decide(&caller(), &tenant, &pod, roles, guard_since, None)).unwrap_err()
}

/// Returns a snapshot of roles that come from SSM.
fn published<const N: usize>(roles: [(&str, Role); N]) -> Roles {
    let parameter = config().roles.ssm.unwrap().parameter;
    let roles = roles.map(|(tenant, role)| (tenant.parse().unwrap(), role.into()));
    Roles::new(Source::Ssm(parameter), HashMap::from(roles))
}

fn caller() -> TokenFacts {
    TokenFacts {
        namespace: "tenants-acme".parse().unwrap(),
        service_account: "tenant-runtime".parse().unwrap(),
        pod_name: "coder-1".parse().unwrap(),
        pod_uid: UID.parse().unwrap(),
        credential_id: None,
    }
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "coder-1", "uid": UID, "creationTimestamp": "2026-11-24T09:00:00Z"},
        "spec": {
            "serviceAccountName": "tenant-runtime",
            "initContainers": [{
                "name": "fab-session-credentials",
                "restartPolicy": "Always",
                "env": [{
                    "name": "FAB_SESSION_ID",
                    "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}},
                }],
            }],
            "containers": [{"name": "agent"}],
            "volumes": [{
                "name": "fab-session-base",
                "projected": {"sources": [{"serviceAccountToken": {"audience": AUDIENCE}}]},
            }],
        },
    })
}

fn config() -> Config {
    let config = json!({
        "cluster": "prod",
        "roles": {"ssm": {}, "allow": {"accounts": ["111122223333"]}},
        "issuer": {
            "url": "https://issuer.example.com/prod",
            "endpoint": "https://fab-session-injector-issuer.fab-system.svc/v1/token",
            "caFile": "ca.crt",
            "keys": [{"file": "key.pem"}],
        },
    });
    Config::parse(&config.to_string()).unwrap()
}

const UID: &str = "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
const AUDIENCE: &str = "fab-session-issuer.prod";
