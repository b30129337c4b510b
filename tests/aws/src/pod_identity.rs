//! EKS Pod Identity: the agent on the node and the EKS Auth service, in one.
//! <https://docs.aws.amazon.com/eks/latest/userguide/pod-identities.html>

use std::time::SystemTime;

use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use serde_json::{Value, json};

use crate::{
    authorization::of_other,
    moment,
    policy::{Action, Caller, Context, Key},
    role::StandingRole,
    session::{Credentials, Session},
    sts::assume_role::{Grant, expiration},
    tags::{Tag, Tags},
    tokens::{Disbelief, Kubernetes, believe},
    world::{Association, StandingCluster, StandingWorld},
};

/// The reason for no credentials. The codes are those of the EKS Auth API.
/// <https://docs.aws.amazon.com/eks/latest/APIReference/API_auth_AssumeRoleForPodIdentity.html#API_auth_AssumeRoleForPodIdentity_Errors>
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// None for errors of the agent itself.
    pub(crate) code: Option<&'static str>,
    pub(crate) sentence: String,
}

/// The pod and role of a valid token.
#[derive(Debug)]
pub(crate) struct Claimant<'w> {
    pub(crate) kubernetes: Kubernetes,
    pub(crate) cluster: &'w StandingCluster,
    pub(crate) association: &'w Association,
    pub(crate) role: &'w std::sync::Arc<StandingRole>,
}

impl Refusal {
    /// Returns the plain text that the agent sends.
    pub(crate) fn text(&self, request_id: &str) -> String {
        match self.code {
            Some(code) => format!("[{request_id}]: ({code}): {}, fault: client\n", self.sentence),
            None => format!("{}\n", self.sentence),
        }
    }

    fn of_eks(status: StatusCode, code: &'static str, sentence: &str) -> Self {
        Self { status, code: Some(code), sentence: sentence.to_owned() }
    }
}

pub(crate) fn claimant<'w>(
    world: &'w StandingWorld,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<Claimant<'w>, Refusal> {
    let token = headers.get(AUTHORIZATION).and_then(|token| token.to_str().ok());
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Err(Refusal {
            status: StatusCode::BAD_REQUEST,
            code: None,
            sentence: "Service account token cannot be empty".to_owned(),
        });
    };
    let not_found = || {
        Refusal::of_eks(
            StatusCode::NOT_FOUND,
            "ResourceNotFoundException",
            "The specified resource could not be found.",
        )
    };
    let cluster = world.cluster.as_ref().ok_or_else(not_found)?;
    let kubernetes =
        believe(token, &cluster.issuer, &cluster.keys, AUDIENCE, now).map_err(|why| match why {
            Disbelief::Expired { .. } => Refusal::of_eks(
                StatusCode::BAD_REQUEST,
                "ExpiredTokenException",
                "The specified Kubernetes service account token is expired.",
            ),
            _ => invalid_token(),
        })?;
    let kubernetes = kubernetes.ok_or_else(invalid_token)?;
    let association = world
        .associations
        .iter()
        .find(|association| {
            association.namespace == kubernetes.namespace
                && association.service_account == kubernetes.service_account
        })
        .ok_or_else(not_found)?;
    let role = world.roles.get(&association.role).ok_or_else(not_found)?;
    Ok(Claimant { kubernetes, cluster, association, role })
}

/// Assumes the role as the service does, with tags that identify the pod.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-role.html>
pub(crate) fn decide(
    world: &StandingWorld,
    claimant: &Claimant<'_>,
    session_name: String,
    now: SystemTime,
) -> Result<Grant, Refusal> {
    let Claimant { kubernetes: _, cluster, association, role } = claimant;
    let tags =
        if association.disable_session_tags { Tags::default() } else { tags(world, claimant) };
    let mut context = Context::default();
    context.set(Key::RoleSessionName, &session_name);
    context.set(Key::SourceAccount, &world.account);
    context.set(Key::SourceArn, world.cluster_arn(cluster));
    for tag in tags.iter() {
        context.set(Key::RequestTag(tag.key.clone()), &tag.value);
    }
    let keys = || tags.iter().map(|tag| tag.key.clone());
    context.set_all(Key::TagKeys, keys());
    context.set_all(Key::TransitiveTagKeys, keys());
    let tagging = (!tags.is_empty()).then_some(Action::TagSession);
    for action in [Some(Action::AssumeRole), tagging].into_iter().flatten() {
        of_other(&Caller::Service(SERVICE), role, action, &context).map_err(|_| {
            Refusal::of_eks(
                StatusCode::BAD_REQUEST,
                "AccessDeniedException",
                "Unauthorized Exception! EKS does not have permissions to assume the associated \
                 role.",
            )
        })?;
    }
    let role = std::sync::Arc::clone(role);
    let session = Session {
        created: now,
        federated: None,
        name: session_name,
        role,
        source_identity: None,
        tags,
    };
    Ok(Grant { session, expiration: expiration(world, SIX_HOURS, now) })
}

/// Returns the name of the session: `eks-<cluster>-<pod>-<uuid>`, cut to the maximum of 64
/// characters.
pub(crate) fn session_name(claimant: &Claimant<'_>, uuid: &str) -> String {
    let whose = format!("eks-{}-{}", claimant.cluster.name, claimant.kubernetes.pod);
    let room = 64 - "-".len() - uuid.len();
    format!("{}-{uuid}", whose.get(..room).unwrap_or(&whose))
}

pub(crate) fn body(credentials: &Credentials, account: &str) -> Value {
    json!({
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "AccountId": account,
        "Expiration": moment::extended(credentials.expiration),
    })
}

/// Returns the six tags. All are transitive, so sessions that this one assumes inherit them.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html#pod-id-abac-tags>
fn tags(world: &StandingWorld, claimant: &Claimant<'_>) -> Tags {
    let Kubernetes { namespace, pod, pod_uid, service_account } = &claimant.kubernetes;
    let cluster_arn = world.cluster_arn(claimant.cluster);
    [
        ("eks-cluster-arn", &cluster_arn),
        ("eks-cluster-name", &claimant.cluster.name),
        ("kubernetes-namespace", namespace),
        ("kubernetes-service-account", service_account),
        ("kubernetes-pod-name", pod),
        ("kubernetes-pod-uid", pod_uid),
    ]
    .into_iter()
    .map(|(key, value)| Tag { key: key.to_owned(), value: value.clone(), transitive: true })
    .collect()
}

fn invalid_token() -> Refusal {
    Refusal::of_eks(
        StatusCode::BAD_REQUEST,
        "InvalidTokenException",
        "The specified Kubernetes service account token is invalid.",
    )
}

pub(crate) const SERVICE: &str = "pods.eks.amazonaws.com";

const AUDIENCE: &str = "pods.eks.amazonaws.com";

/// Lifetime of the service's sessions, as observed.
const SIX_HOURS: u64 = 6 * 3600;
