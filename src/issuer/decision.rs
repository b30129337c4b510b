//! Decides whether a pod gets a token, and of which session.
//!
//! The pod has proved its UID by its token. Everything else is read from the API server and from
//! the sources of the webhook, and nothing from the caller.

use std::borrow::Cow;

use jiff::Timestamp;

use super::{
    TokenFacts,
    guard::{created, is_evaluated},
    refusal::TokenRefusal,
    sandbox::SandboxSession,
};
use crate::{
    admission::{BASE_VOLUME, CONTAINER_NAME, has_ended},
    config::IssuerSettings,
    json::Json,
    namespaces::{Mode, Namespace},
    roles::{Role, Roles},
    session::{
        OnBehalfOf, RoleArn, RoleSessionName, SessionId, SessionName, SourceIdentity, TenantName,
        env,
    },
};

/// The session that a caller gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    pub identity: SourceIdentity,
    pub role: RoleArn,
    pub role_session_name: RoleSessionName,
    pub on_behalf_of: Option<OnBehalfOf>,
}

impl TokenFacts {
    /// Returns the facts that the token of a stored pod has.
    pub fn of_pod(pod: Json<'_>) -> Option<Self> {
        let (metadata, spec) = (pod.at("metadata"), pod.at("spec"));
        Some(Self {
            namespace: metadata.at("namespace").string()?.parse().ok()?,
            service_account: spec.at("serviceAccountName").string()?.parse().ok()?,
            pod_name: metadata.at("name").string()?.parse().ok()?,
            pod_uid: metadata.at("uid").string()?.parse().ok()?,
            credential_id: None,
        })
    }
}

/// Returns the caller's namespace and its tenant.
pub fn tenant_of<'n>(
    caller: &TokenFacts,
    namespace: Option<&'n Namespace>,
) -> Result<&'n TenantName, TokenRefusal> {
    let name = || caller.namespace.as_str().to_owned();
    let namespace = namespace
        .filter(|namespace| namespace.mode == Some(Mode::Enabled))
        .ok_or_else(|| TokenRefusal::NamespaceNotEnabled { namespace: name() })?;
    namespace.tenant.as_ref().map_err(|_| TokenRefusal::TenantMissing { namespace: name() })
}

/// The stored pod of a caller, and what the variables of its sidecar say.
#[derive(Debug)]
pub struct CallerPod {
    id: SessionId,
    on_behalf_of: Option<OnBehalfOf>,
    /// The role that the sidecar assumes.
    role: Option<String>,
    created: Option<Timestamp>,
}

impl CallerPod {
    /// Checks the pod of the caller's name, as it is stored now. None: there is none.
    pub fn of(
        caller: &TokenFacts,
        pod: Option<Json<'_>>,
        issuer: &IssuerSettings,
    ) -> Result<Self, TokenRefusal> {
        let pod = pod.ok_or_else(|| TokenRefusal::PodGone { pod: caller.pod_name.to_string() })?;
        let [metadata, spec] = pod.members(["metadata", "spec"]);
        let sidecar = check_pod(caller, pod, metadata, spec, issuer)?;
        let variables = SidecarVariables::of(sidecar);
        let on_behalf_of = if issuer.on_behalf_of { variables.on_behalf_of()? } else { None };
        Ok(Self {
            id: variables.session_id()?,
            on_behalf_of,
            role: variables.role(),
            created: created(metadata),
        })
    }

    /// Reports whether the pod has a value that only the guard has evaluated: the decision depends on
    /// the time since when it does.
    pub fn relies_on_guard(&self) -> bool {
        matches!(self.id, SessionId::Known(_) | SessionId::SandboxClaim)
            || self.on_behalf_of.is_some()
    }

    /// Reports whether the session is that of the pod's Sandbox.
    pub fn has_session_of_sandbox(&self) -> bool {
        self.id == SessionId::SandboxClaim
    }
}

/// Decides on a caller. `guard_since`: when the guard's rule about the issuer's tokens was bound;
/// `None` if it is not. `sandbox`: the session of a pod that runs a Sandbox.
pub fn decide(
    caller: &TokenFacts,
    tenant: &TenantName,
    pod: &CallerPod,
    roles: &Roles,
    guard_since: Option<Timestamp>,
    sandbox: Option<SandboxSession>,
) -> Result<Grant, TokenRefusal> {
    if !pod.id.fits(tenant) {
        return Err(TokenRefusal::TenantTooLong { tenant: tenant.clone() });
    }
    let check_age = |since: Timestamp| match is_evaluated(pod.created, since) {
        true => Ok(()),
        false => Err(TokenRefusal::PredatesGuard { pod: caller.pod_name.to_string() }),
    };
    if pod.relies_on_guard() {
        check_age(guard_since.ok_or(TokenRefusal::GuardMissing)?)?;
    }
    let name = match &pod.id {
        SessionId::Known(name) => name.clone(),
        SessionId::SandboxClaim => {
            let SandboxSession { name, sandbox_created, guard_since: references_since } =
                sandbox.ok_or(TokenRefusal::NoSession { why: "its Sandbox was not read" })?;
            let references_since = references_since.ok_or(TokenRefusal::SandboxGuardMissing)?;
            if !is_evaluated(sandbox_created, references_since) {
                return Err(TokenRefusal::SandboxPredatesGuard {
                    pod: caller.pod_name.to_string(),
                });
            }
            check_age(references_since)?;
            name
        }
        SessionId::PodUid => caller.pod_uid.as_str().parse().map_err(|_| {
            TokenRefusal::NoSession { why: "the pod's UID is not a valid session name" }
        })?,
        SessionId::PodName => {
            return Err(TokenRefusal::NoSession {
                why: "FAB_SESSION_ID is the pod's name, which a tenant chooses",
            });
        }
    };
    let role = role_of(tenant, roles)?;
    // The sidecar assumes no other role than that of its variable.
    if pod.role.as_deref().is_some_and(|assumed| assumed != role.as_str()) {
        return Err(TokenRefusal::RoleChanged {
            pod: caller.pod_name.to_string(),
            role: role.to_string(),
        });
    }
    Ok(Grant {
        identity: SourceIdentity::of(tenant, &name),
        role: role.clone(),
        role_session_name: RoleSessionName::of(&name),
        on_behalf_of: pod.on_behalf_of.clone(),
    })
}

/// Checks that the stored pod is the caller's, still runs, and gives the issuer's token only to
/// the sidecar. Returns the sidecar.
///
/// It does not compare the pod with what the webhook injects now: after each upgrade that would
/// refuse all running pods.
fn check_pod<'a>(
    caller: &TokenFacts,
    pod: Json<'a>,
    metadata: Json<'a>,
    spec: Json<'a>,
    issuer: &IssuerSettings,
) -> Result<Json<'a>, TokenRefusal> {
    let gone = || TokenRefusal::PodGone { pod: caller.pod_name.to_string() };
    let is = |json: Json<'_>, wanted: &str| json.string().is_some_and(|found| found == wanted);
    let [account, containers, init_containers, ephemeral_containers, volumes] = spec.members([
        "serviceAccountName",
        "containers",
        "initContainers",
        "ephemeralContainers",
        "volumes",
    ]);
    if !is(metadata.at("uid"), caller.pod_uid.as_str()) {
        return Err(gone());
    }
    if !is(account, caller.service_account.as_str()) {
        return Err(TokenRefusal::AccountDiffers { pod: caller.pod_name.to_string() });
    }
    if has_ended(pod) {
        return Err(gone());
    }
    let not_ours = |why| TokenRefusal::NotInjected { why };
    let is_sidecar = |container: &Json<'_>| is(container.at("name"), CONTAINER_NAME);
    let Some(sidecar) = init_containers.items().find(is_sidecar) else {
        return Err(not_ours("it has no credential sidecar"));
    };
    if !is(sidecar.at("restartPolicy"), "Always") {
        return Err(not_ours("its credential sidecar is not a native sidecar"));
    }
    let projects = |volume: Json<'_>| {
        let mut sources = volume.at("projected").at("sources").items();
        sources.any(|source| is(source.at("serviceAccountToken").at("audience"), &issuer.audience))
    };
    let mut found = false;
    for volume in volumes.items().filter(|volume| projects(*volume)) {
        if !is(volume.at("name"), BASE_VOLUME) {
            return Err(not_ours("another volume projects a token for the session issuer"));
        }
        found = true;
    }
    if !found {
        return Err(not_ours("no volume of its sidecar projects a token for the session issuer"));
    }
    for container in [containers, init_containers, ephemeral_containers] {
        for other in container.items() {
            let [name, mounts, devices] = other.members(["name", "volumeMounts", "volumeDevices"]);
            let uses_base = mounts.items().chain(devices.items());
            let mut uses_base = uses_base.map(|used| used.at("name"));
            if !is(name, CONTAINER_NAME) && uses_base.any(|name| is(name, BASE_VOLUME)) {
                return Err(not_ours("another container mounts the token of its sidecar"));
            }
        }
    }
    Ok(sidecar)
}

/// The variables of the sidecar on which a decision depends.
#[derive(Default)]
struct SidecarVariables<'a> {
    /// Value, and the source in its place.
    id: Vec<[Json<'a>; 2]>,
    on_behalf_of: Vec<Json<'a>>,
    role: Vec<Json<'a>>,
}

impl<'a> SidecarVariables<'a> {
    fn of(sidecar: Json<'a>) -> Self {
        let mut variables = Self::default();
        for variable in sidecar.at("env").items() {
            let [name, value, from] = variable.members(["name", "value", "valueFrom"]);
            match name.string().as_deref() {
                Some(env::ID) => variables.id.push([value, from]),
                Some(env::ON_BEHALF_OF) => variables.on_behalf_of.push(value),
                Some(env::ROLE_ARN) => variables.role.push(value),
                _ => {}
            }
        }
        variables
    }

    fn session_id(&self) -> Result<SessionId, TokenRefusal> {
        let no_session = |why| TokenRefusal::NoSession { why };
        let [[value, from]] = self.id[..] else {
            return Err(no_session("its sidecar does not have FAB_SESSION_ID exactly once"));
        };
        if from.is_object() {
            let field = from.at("fieldRef").at("fieldPath").string();
            return match field.as_deref() {
                Some("metadata.uid") => Ok(SessionId::PodUid),
                Some("metadata.name") => Ok(SessionId::PodName),
                _ => Err(no_session("FAB_SESSION_ID is neither a name nor the pod's UID")),
            };
        }
        let value = value.string();
        let marker = SessionId::SandboxClaim.to_string();
        if value.as_deref() == Some(&*marker) {
            return Ok(SessionId::SandboxClaim);
        }
        let name: Option<SessionName> = value.and_then(|text| text.parse().ok());
        name.map(SessionId::Known).ok_or_else(|| no_session("FAB_SESSION_ID is not a session name"))
    }

    /// Returns on whose behalf the session runs. The pod's annotation does not count: it can change
    /// while the pod runs.
    fn on_behalf_of(&self) -> Result<Option<OnBehalfOf>, TokenRefusal> {
        let value = match self.on_behalf_of[..] {
            [] => return Ok(None),
            [value] => value.string().and_then(|text| text.parse().ok()),
            _ => None,
        };
        value.map(Some).ok_or(TokenRefusal::NoSession {
            why: "its sidecar does not have FAB_SESSION_ON_BEHALF_OF once, as a valid session tag",
        })
    }

    fn role(&self) -> Option<String> {
        self.role.first()?.string().map(Cow::into_owned)
    }
}

fn role_of<'r>(tenant: &TenantName, roles: &'r Roles) -> Result<&'r RoleArn, TokenRefusal> {
    let place = || roles.location(tenant);
    match roles.role(tenant) {
        Some(Role::Known(role)) => Ok(role),
        Some(Role::NotFound | Role::Unusable(_)) => {
            Err(TokenRefusal::RoleUnusable { place: place() })
        }
        Some(Role::Unreachable(_)) | None => Err(TokenRefusal::RoleUnavailable { place: place() }),
    }
}
