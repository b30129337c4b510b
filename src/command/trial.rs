//! An agent's pod that `check` starts in a namespace, to see whether it gets credentials.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use anyhow::Context;
use kube::{
    api::{DeleteParams, ListParams},
    core::{Request, Status},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Failure,
    cluster::{CORE, Cluster},
};
use crate::{
    admission::sidecar,
    check::{self, Seen, Tenancy, Trial},
    config::{Config, Creator, Resources},
    namespaces::Mode,
};

/// The pod that runs now, for whoever stops before its end.
#[derive(Debug, Default)]
pub(super) struct Running(RefCell<Option<Pod>>);

#[derive(Debug)]
struct Pod {
    cluster: Cluster,
    /// Of the pods of its namespace.
    path: String,
    name: String,
}

impl Running {
    /// Takes it away. It ends by itself, so that what comes of this does not matter.
    pub(super) async fn delete(&self) {
        let Some(Pod { cluster, path, name }) = self.0.take() else { return };
        if let Ok(request) = Request::new(&path).delete(&name, &DeleteParams::default()) {
            let _ = cluster.send(request).await;
        }
    }
}

/// One after the other, where a pod would be injected. `looking` is told which is next.
pub(super) async fn run(
    cluster: &Cluster,
    namespaces: &Seen<Vec<Value>>,
    tenancies: &mut HashMap<String, Tenancy>,
    config: &Config,
    running: &Running,
    looking: impl Fn(&str),
) -> Result<(), Failure> {
    let username = whoami(cluster).await?;
    for namespace in check::opted_in(namespaces, config) {
        let Some(tenancy) = tenancies.get_mut(&namespace.name) else { continue };
        if namespace.mode != Some(Mode::Enabled) {
            let says = "no pod was tried there, since audit gives none a sidecar";
            tenancy.trial = Some(Trial::Untried(says.to_owned()));
            continue;
        }
        let namespace = namespace.name;
        let creator = Creator::new(&username, &namespace);
        let Some(account) = check::account_to_try(tenancy, creator, config) else { continue };
        looking(&format!("a pod in namespace {namespace}"));
        tenancy.trial = Some(try_pod(cluster, &namespace, account, config, running).await?);
    }
    Ok(())
}

/// Starts a pod that ends once its sidecar lets it start, and deletes it.
async fn try_pod(
    cluster: &Cluster,
    namespace: &str,
    account: &str,
    config: &Config,
    running: &Running,
) -> Result<Trial, Failure> {
    if !may_create(cluster, namespace).await? {
        return Ok(Trial::Untried(format!("you may not create pods in {namespace}")));
    }
    let path = format!("{CORE}/namespaces/{namespace}/pods");
    let pod = match cluster.create(&path, &pod_to_try(account, config)).await? {
        Ok(pod) => pod,
        Err(status) if is_passing(&status) => return Ok(Trial::Unanswered(status.message)),
        Err(status) => return Ok(Trial::Refused(status.message)),
    };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    running.0.replace(Some(Pod { cluster: cluster.clone(), path, name }));
    let trial = match sidecar(&pod) {
        None => Ok(Trial::Bare),
        Some(_) => follow(cluster, namespace, &pod["metadata"]).await,
    };
    running.delete().await;
    trial
}

/// As whom the API server knows us, since a component may be of our pods.
/// <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#self-subject-review>
async fn whoami(cluster: &Cluster) -> Result<String, Failure> {
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer =
        cluster.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", &asked).await?;
    // Who may not ask is judged as nobody in particular.
    let answer = answer.unwrap_or_default();
    Ok(answer["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned())
}

/// RBAC says no as a webhook or a quota does, so it is asked before.
/// <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access>
async fn may_create(cluster: &Cluster, namespace: &str) -> Result<bool, Failure> {
    let asked = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": namespace, "verb": "create", "version": "v1", "resource": "pods",
        }},
    });
    let answer =
        cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &asked).await?;
    // Who may not ask finds out by trying.
    Ok(answer.map_or(true, |answer| answer["status"]["allowed"] != false))
}

/// Whether the API server itself had no time. That a webhook has none, or is not reached, is what
/// agents meet.
fn is_passing(status: &Status) -> bool {
    matches!(status.code, 429 | 504)
}

async fn follow(cluster: &Cluster, namespace: &str, metadata: &Value) -> Result<Trial, Failure> {
    let within = format!("{CORE}/namespaces/{namespace}");
    let name = metadata["name"].as_str().unwrap_or_default();
    let deadline = Instant::now() + START;
    let mut waiting_since = None;
    loop {
        let pod = cluster.get(&format!("{within}/pods"), name).await?;
        let status = match &pod {
            Seen::Known(pod) => pod.as_ref().map_or(&Value::Null, |pod| &pod["status"]),
            Seen::Hidden(why) => return Ok(Trial::Waiting(why.clone())),
        };
        if status["phase"] == "Succeeded" {
            return Ok(Trial::Ended);
        }
        if !check::waits(status) {
            waiting_since = None;
        } else if waiting_since.get_or_insert_with(Instant::now).elapsed() >= CREDENTIALS {
            let said = last_word(cluster, &within, metadata, Some("Unhealthy")).await?;
            return Ok(Trial::Held(said.unwrap_or_else(|| "no event says why".to_owned())));
        }
        if Instant::now() >= deadline {
            let said = last_word(cluster, &within, metadata, None).await?;
            let phase = status["phase"].as_str().unwrap_or("gone");
            let said = said.as_deref().unwrap_or("no event");
            return Ok(Trial::Waiting(format!("{phase}; {said}")));
        }
        sleep(PAUSE).await;
    }
}

/// Of the kubelet's events about the pod, the last, or the last with this reason.
async fn last_word(
    cluster: &Cluster,
    within: &str,
    metadata: &Value,
    reason: Option<&str>,
) -> Result<Option<String>, Failure> {
    let uid = metadata["uid"].as_str().unwrap_or_default();
    let of_pod = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let path = format!("{within}/events");
    let request = Request::new(&path).list(&of_pod).context("request").map_err(Failure::Ours)?;
    // Where events may not be read, only how the pod ends is known.
    let Seen::Known(Some(list)) = cluster.ask(request, &path).await? else { return Ok(None) };
    let events = list["items"].as_array().into_iter().flatten();
    let mut said = events.filter(|event| {
        event["source"]["component"] == "kubelet"
            && reason.is_none_or(|reason| event["reason"] == reason)
    });
    Ok(said
        .next_back()
        .and_then(|event| event["message"].as_str())
        .map(|said| said.trim().to_owned()))
}

/// As `restricted` wants it. It does nothing, and ends by itself, whatever becomes of us.
fn pod_to_try(account: &str, config: &Config) -> Value {
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } =
        &config.sidecar.resources;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "fab-check-"},
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "activeDeadlineSeconds": 2 * START.as_secs(),
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "agent",
                "image": config.sidecar.image,
                "imagePullPolicy": config.sidecar.image_pull_policy.as_str(),
                "args": ["--version"],
                "resources": {
                    "requests": {"cpu": cpu_request.as_str(), "memory": memory_request.as_str()},
                    "limits": {"cpu": cpu_limit.as_str(), "memory": memory_limit.as_str()},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": true,
                },
            }],
        },
    })
}

/// For a pod to be scheduled, its image pulled and its sidecar's first credentials.
const START: Duration = Duration::from_secs(60);
/// A sidecar that is given credentials has them a second after its start, and the kubelet asks it
/// once a second; the rest is for an association of EKS Pod Identity that is new.
const CREDENTIALS: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(500);
