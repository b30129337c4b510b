//! `check --as-pod`: starts a test pod in a namespace, and reports whether it gets credentials.

use std::{cell::RefCell, time::Duration};

use kube::{
    api::{DeleteParams, ListParams, Preconditions},
    core::{Request, Status},
};
use serde_json::{Value, json, value::RawValue};
use tokio::time::{Instant, sleep};

use super::access;
use crate::{
    admission::sidecar,
    check::{self, NamespaceContents, Seen, Trial},
    command::{
        CommandError,
        cluster::{CORE, Cluster},
    },
    config::{Config, Creator, Resources},
    json::Json,
    namespaces::{Mode, Namespace},
};

/// The test pod that runs now, so that a signal can delete it.
#[derive(Debug, Default)]
pub(super) struct Running(RefCell<Option<TestPod>>);

#[derive(Debug)]
struct TestPod {
    cluster: Cluster,
    /// The API path of pods in its namespace.
    path: String,
    name: String,
    uid: String,
}

impl Running {
    /// Deletes the pod, and never another pod of its name. Ignores errors, because the pod ends by
    /// itself.
    pub(super) async fn delete(&self) {
        let Some(TestPod { cluster, path, name, uid }) = self.0.take() else { return };
        let only = Preconditions { uid: Some(uid), ..Preconditions::default() };
        let only = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        if let Ok(request) = Request::new(&path).delete(&name, &only) {
            let _ = cluster.send(request).await;
        }
    }
}

/// Starts a test pod in the namespace, as this user. None: the namespace has no account for it.
pub(super) async fn run(
    cluster: &Cluster,
    namespace: &Namespace,
    contents: &NamespaceContents,
    username: &str,
    config: &Config,
    running: &Running,
) -> Result<Option<Trial>, CommandError> {
    if namespace.mode != Some(Mode::Enabled) {
        let why = "no test pod started: in mode audit, the webhook injects no sidecar";
        return Ok(Some(Trial::Untried(why.to_owned())));
    }
    let name = &namespace.name;
    let creator = Creator::new(username, name);
    let account = check::service_account_to_try(&contents.accounts, creator, config);
    let Some(account) = account else { return Ok(None) };
    Ok(Some(try_pod(cluster, name, &account, config, running).await?))
}

/// Starts a pod that ends once its startup gate opens, and deletes it.
async fn try_pod(
    cluster: &Cluster,
    namespace: &str,
    account: &str,
    config: &Config,
    running: &Running,
) -> Result<Trial, CommandError> {
    if !may_create(cluster, namespace).await? {
        return Ok(Trial::Untried(format!(
            "no test pod started: the current user may not create pods in {namespace}"
        )));
    }
    let path = format!("{CORE}/namespaces/{namespace}/pods");
    let pod = match cluster.create(&path, &pod_to_try(account, config)).await? {
        Ok(pod) => pod,
        Err(status) if is_passing(&status) => return Ok(Trial::Unanswered(status.message)),
        Err(status) => return Ok(Trial::Refused(status.message)),
    };
    let pod = Json::from(&*pod);
    let metadata = pod.at("metadata");
    let text = |key: &str| metadata.at(key).string().unwrap_or_default().into_owned();
    let (name, uid) = (text("name"), text("uid"));
    running.0.replace(Some(TestPod { cluster: cluster.clone(), path, name, uid }));
    let trial = match sidecar(pod) {
        None => Ok(Trial::Bare),
        Some(_) => follow(cluster, namespace, metadata).await,
    };
    running.delete().await;
    trial
}

/// Returns the username of the current user: a component may match the pods that this user creates.
/// <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#self-subject-review>
pub(super) async fn whoami(cluster: &Cluster) -> Result<String, CommandError> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer =
        cluster.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
    // A user without permission for this review counts as an unknown user.
    let answer = answer.unwrap_or_default();
    let user = Json::from(&*answer).at("status").at("userInfo");
    Ok(user.at("username").string().unwrap_or_default().into_owned())
}

/// Returns whether the current user may create pods. A denial by RBAC has the same status code as
/// one by a webhook or a quota, so this is checked first.
async fn may_create(cluster: &Cluster, namespace: &str) -> Result<bool, CommandError> {
    let pods =
        json!({"namespace": namespace, "verb": "create", "version": "v1", "resource": "pods"});
    // Without permission for this review, the creation itself shows whether it is allowed.
    Ok(access::may(cluster, pods).await?.unwrap_or(true))
}

/// Returns whether the API server itself was too busy (429) or too slow (504). A webhook that is
/// too slow or unreachable is an error, because it also denies agent pods.
fn is_passing(status: &Status) -> bool {
    matches!(status.code, 429 | 504)
}

/// Waits until the pod ends or is deleted, until its sidecar has had no credentials for
/// [`CREDENTIALS`], or until [`START`] is over.
async fn follow(
    cluster: &Cluster,
    namespace: &str,
    metadata: Json<'_>,
) -> Result<Trial, CommandError> {
    let within = format!("{CORE}/namespaces/{namespace}");
    let name = metadata.at("name").string().unwrap_or_default();
    let deadline = Instant::now() + START;
    let mut waiting_since = None;
    loop {
        let pod: Box<RawValue> = match cluster.get(&format!("{within}/pods"), &name).await? {
            Seen::Known(Some(pod)) => pod,
            Seen::Known(None) => return Ok(Trial::Deleted),
            Seen::Hidden(why) => return Ok(Trial::Waiting(why)),
        };
        let pod = Json::from(&*pod);
        // A tenant may have created another pod of this name.
        if pod.at("metadata").at("uid").string() != metadata.at("uid").string() {
            return Ok(Trial::Deleted);
        }
        let status = pod.at("status");
        let phase = status.at("phase").string();
        if phase.as_deref() == Some("Succeeded") {
            return Ok(Trial::Ended);
        }
        if !check::waits(status) {
            waiting_since = None;
        } else if waiting_since.get_or_insert_with(Instant::now).elapsed() >= CREDENTIALS {
            let event = last_word(cluster, &within, metadata, Some("Unhealthy")).await?;
            return Ok(Trial::Held(event.unwrap_or_else(|| "none".to_owned())));
        }
        if Instant::now() >= deadline {
            let event = last_word(cluster, &within, metadata, None).await?;
            let phase = phase.as_deref().unwrap_or("unknown");
            let event = event.as_deref().unwrap_or("none");
            return Ok(Trial::Waiting(format!("phase {phase}; last event: {event}")));
        }
        sleep(PAUSE).await;
    }
}

/// Returns the message of the kubelet's last event about the pod, or of its last event with this
/// reason.
async fn last_word(
    cluster: &Cluster,
    within: &str,
    metadata: Json<'_>,
    reason: Option<&str>,
) -> Result<Option<String>, CommandError> {
    let uid = metadata.at("uid").string().unwrap_or_default();
    let of_pod = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    // Without permission for events, only the status of the pod is known.
    let events = cluster.list(&format!("{within}/events"), of_pod).await?;
    let matching = events.iter().filter(|event| {
        let is = |json: Json<'_>, text| json.string().is_some_and(|found| found == text);
        is(event.at("source").at("component"), "kubelet")
            && reason.is_none_or(|reason| is(event.at("reason"), reason))
    });
    let message = matching.last().and_then(|event| event.at("message").string());
    Ok(message.map(|message| message.trim().to_owned()))
}

/// Returns the test pod. It meets the Pod Security Standard `restricted`, and ends by itself even
/// if `check` is killed.
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
                "image": config.sidecar.image.as_str(),
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

/// Time limit for scheduling the pod, pulling its image, and the sidecar's first credentials.
const START: Duration = Duration::from_secs(60);
/// Time limit for the credentials of a running sidecar. It usually gets them within a second, and
/// the kubelet probes it each second; the rest is for a new association of EKS Pod Identity.
const CREDENTIALS: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(500);
