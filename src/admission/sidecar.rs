//! The container that we add and its volumes, as literals.
//!
//! Every field that the API server would default is written out, so that what it stored
//! compares equal to what we would write again.

use serde_json::{Map, Value, json};

use super::eks;
use crate::{
    config::{BaseCredentials, Component, Config, Quantity, Resources, Sidecar},
    session::{Session, env},
};

/// The container as it must be. `existing` is what stands under its name now: what a
/// LimitRange added to its resources stays.
pub(super) fn container(
    session: &Session,
    component: &Component,
    config: &Config,
    existing: Option<&Value>,
) -> Value {
    let Sidecar { image, image_pull_policy, port: _, uid, duration: _, resources, env: _ } =
        &config.sidecar;
    json!({
        "name": CONTAINER_NAME,
        "image": image,
        "args": ["sidecar"],
        "env": variables(session, component, config),
        "resources": resources_beside(resources, existing),
        "volumeMounts": mounts(config),
        "restartPolicy": "Always",
        // For as long as an agent may wait for its credentials: kubelet asks each second,
        // and gives up on this container after five minutes.
        "startupProbe": {
            "exec": {"command": ["/fab-session-injector", "probe"]},
            "timeoutSeconds": 5,
            "periodSeconds": 1,
            "successThreshold": 1,
            "failureThreshold": 300,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": image_pull_policy.as_str(),
        "securityContext": {
            "capabilities": {"drop": ["ALL"]},
            "runAsUser": uid,
            "runAsGroup": uid,
            "runAsNonRoot": true,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The volumes under our names. None: the name stays unused, whoever put something there.
pub(super) fn volumes(config: &Config) -> [(&'static str, Option<Value>); 3] {
    let memory = |name| json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    let audience = match config.base_credentials {
        BaseCredentials::Environment => None,
        BaseCredentials::Irsa(_) => Some(eks::WEB_IDENTITY_AUDIENCE),
        BaseCredentials::PodIdentity => Some(eks::POD_IDENTITY_AUDIENCE),
    };
    let base = audience.map(|audience| {
        let token = json!({"audience": audience, "expirationSeconds": 3600, "path": "token"});
        let sources = json!([{"serviceAccountToken": token}]);
        json!({"name": BASE_VOLUME, "projected": {"sources": sources, "defaultMode": 0o644}})
    });
    [
        (TOKEN_VOLUME, Some(memory(TOKEN_VOLUME))),
        (BASE_VOLUME, base),
        (EMPTY_VOLUME, Some(memory(EMPTY_VOLUME))),
    ]
}

/// The mount by which an agent reads the token that opens its credential endpoint.
pub(super) fn agent_token_mount() -> Value {
    json!({"name": TOKEN_VOLUME, "readOnly": true, "mountPath": TOKEN_DIRECTORY})
}

/// The endpoint that the sidecar serves: a literal loopback address is the one form that
/// every AWS SDK takes, also the old ones.
pub(super) fn credentials_uri(port: u16) -> String {
    format!("http://127.0.0.1:{port}/v1/credentials")
}

pub(super) fn token_file() -> String {
    format!("{TOKEN_DIRECTORY}/token")
}

/// One entry of a container's `env`, as the API server stores it.
pub(super) fn entry(variable: &env::Variable) -> Value {
    let env::Variable { name, value } = variable;
    match value {
        env::Value::Field(path) => {
            json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
        }
        env::Value::Text(text) => json!({"name": name, "value": text}),
    }
}

fn variables(session: &Session, component: &Component, config: &Config) -> Vec<Value> {
    let text = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut variables: Vec<Value> = env::variables(session).iter().map(entry).collect();
    variables.push(text("FAB_SESSION_PORT", &config.sidecar.port.to_string()));
    variables.push(text("FAB_SESSION_START_GATE", component.start_gate.as_str()));
    variables.push(text("FAB_SESSION_TOKEN_FILE", &token_file()));
    match &config.base_credentials {
        BaseCredentials::Environment => {}
        BaseCredentials::Irsa(template) => {
            variables.push(text("AWS_ROLE_ARN", &template.of(&session.tenant)));
            variables.push(text("AWS_WEB_IDENTITY_TOKEN_FILE", &base_token_file()));
        }
        BaseCredentials::PodIdentity => {
            variables.push(text(eks::CREDENTIALS_URI, eks::POD_IDENTITY_URI));
            variables.push(text(eks::TOKEN_FILE, &base_token_file()));
        }
    }
    if let Some(region) = &config.region {
        variables.push(text("AWS_REGION", region.as_str()));
        variables.push(text("AWS_DEFAULT_REGION", region.as_str()));
    }
    variables.push(text("AWS_STS_REGIONAL_ENDPOINTS", "regional"));
    variables.push(text("AWS_EC2_METADATA_DISABLED", "true"));
    // The platform team's own values win: they are for clusters with other endpoints.
    for (name, value) in &config.sidecar.env {
        variables.retain(|variable| variable["name"] != **name);
        variables.push(text(name, value));
    }
    variables
}

fn mounts(config: &Config) -> Value {
    let token = json!({"name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY});
    let base = json!({"name": BASE_VOLUME, "readOnly": true, "mountPath": BASE_DIRECTORY});
    // What is mounted here already is left alone by the service account admission plugin,
    // which otherwise mounts a token for the Kubernetes API.
    let empty =
        json!({"name": EMPTY_VOLUME, "readOnly": true, "mountPath": SERVICE_ACCOUNT_DIRECTORY});
    match config.base_credentials {
        BaseCredentials::Environment => json!([token, empty]),
        BaseCredentials::Irsa(_) | BaseCredentials::PodIdentity => json!([token, base, empty]),
    }
}

/// Our cpu and memory, and any other resource that stands there already.
fn resources_beside(resources: &Resources, existing: Option<&Value>) -> Value {
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = resources;
    let beside = |kind: &str, cpu: &Quantity, memory: &Quantity| {
        let mut own = Map::new();
        own.insert("cpu".to_owned(), cpu.as_str().into());
        own.insert("memory".to_owned(), memory.as_str().into());
        let others =
            existing.and_then(|container| container.get("resources")?.get(kind)?.as_object());
        for (name, quantity) in others.into_iter().flatten() {
            own.entry(name).or_insert_with(|| quantity.clone());
        }
        Value::Object(own)
    };
    json!({"limits": beside("limits", cpu_limit, memory_limit), "requests": beside("requests", cpu_request, memory_request)})
}

fn base_token_file() -> String {
    format!("{BASE_DIRECTORY}/token")
}

pub(super) const CONTAINER_NAME: &str = "fab-session-credentials";
pub(super) const TOKEN_VOLUME: &str = "fab-session-token";
pub(super) const BASE_VOLUME: &str = "fab-session-base";
pub(super) const EMPTY_VOLUME: &str = "fab-session-empty";
pub(super) const VOLUMES: [&str; 3] = [TOKEN_VOLUME, BASE_VOLUME, EMPTY_VOLUME];
pub(super) const TOKEN_DIRECTORY: &str = "/var/run/fab-session";
const BASE_DIRECTORY: &str = "/var/run/fab-session-base";
const SERVICE_ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
