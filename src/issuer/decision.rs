//! Decides whether a pod gets a token, and of which session.
//!
//! The pod has proved its UID by its token. Everything else is read from the API server and from
//! the sources of the webhook, and nothing from the caller.

use jiff::Timestamp;

use super::{
    TokenFacts,
    guard::{created, is_evaluated},
    refusal::TokenRefusal,
    sandbox::SandboxSession,
};
use crate::{
    admission::{BASE_VOLUME, CONTAINER_NAME, has_ended, sidecar},
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

/// The facts that [`decide`] needs besides the pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Needs {
    /// Since when the guard's rule about the issuer's tokens is bound.
    pub guard: bool,
    /// The session of the pod's Sandbox.
    pub sandbox: bool,
}

impl Needs {
    /// `pod`: as for [`decide`].
    pub fn of(
        caller: &TokenFacts,
        pod: Option<Json<'_>>,
        issuer: &IssuerSettings,
    ) -> Result<Self, TokenRefusal> {
        let pod = pod.ok_or_else(|| TokenRefusal::PodGone { pod: caller.pod_name.to_string() })?;
        check_pod(caller, pod, issuer)?;
        let id = session_id(pod)?;
        let on_behalf_of = if issuer.on_behalf_of { on_behalf_of(pod)? } else { None };
        Ok(Self {
            guard: relies_on_guard(&id, on_behalf_of.as_ref()),
            sandbox: id == SessionId::SandboxClaim,
        })
    }
}

/// Reports whether the pod has a value that only the guard has evaluated.
fn relies_on_guard(id: &SessionId, on_behalf_of: Option<&OnBehalfOf>) -> bool {
    matches!(id, SessionId::Known(_) | SessionId::SandboxClaim) || on_behalf_of.is_some()
}

/// Decides on a caller. `pod`: the pod of the caller's name, as it is stored now. `guard_since`: when
/// the guard's rule about the issuer's tokens was bound; `None` if it is not. `sandbox`: the session of
/// a pod that runs a Sandbox.
pub fn decide(
    caller: &TokenFacts,
    tenant: &TenantName,
    pod: Option<Json<'_>>,
    roles: &Roles,
    issuer: &IssuerSettings,
    guard_since: Option<Timestamp>,
    sandbox: Option<SandboxSession>,
) -> Result<Grant, TokenRefusal> {
    let pod = pod.ok_or_else(|| TokenRefusal::PodGone { pod: caller.pod_name.to_string() })?;
    check_pod(caller, pod, issuer)?;
    let id = session_id(pod)?;
    if !id.fits(tenant) {
        return Err(TokenRefusal::TenantTooLong { tenant: tenant.clone() });
    }
    let on_behalf_of = if issuer.on_behalf_of { on_behalf_of(pod)? } else { None };
    let check_age = |since: Timestamp| match is_evaluated(created(pod.at("metadata")), since) {
        true => Ok(()),
        false => Err(TokenRefusal::PredatesGuard { pod: caller.pod_name.to_string() }),
    };
    if relies_on_guard(&id, on_behalf_of.as_ref()) {
        check_age(guard_since.ok_or(TokenRefusal::GuardMissing)?)?;
    }
    let name = match id {
        SessionId::Known(name) => name,
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
    check_role(caller, pod, role)?;
    Ok(Grant {
        identity: SourceIdentity::of(tenant, &name),
        role: role.clone(),
        role_session_name: RoleSessionName::of(&name),
        on_behalf_of,
    })
}

/// Checks that the stored pod is the caller's, still runs, and gives the issuer's token only to
/// the sidecar.
///
/// It does not compare the pod with what the webhook injects now: after each upgrade that would
/// refuse all running pods.
fn check_pod(
    caller: &TokenFacts,
    pod: Json<'_>,
    issuer: &IssuerSettings,
) -> Result<(), TokenRefusal> {
    let gone = || TokenRefusal::PodGone { pod: caller.pod_name.to_string() };
    let (metadata, spec) = (pod.at("metadata"), pod.at("spec"));
    let is = |json: Json<'_>, wanted: &str| json.string().is_some_and(|found| found == wanted);
    if !is(metadata.at("uid"), caller.pod_uid.as_str()) {
        return Err(gone());
    }
    if !is(spec.at("serviceAccountName"), caller.service_account.as_str()) {
        return Err(TokenRefusal::AccountDiffers { pod: caller.pod_name.to_string() });
    }
    if has_ended(pod) {
        return Err(gone());
    }
    let not_ours = |why| TokenRefusal::NotInjected { why };
    let Some(container) = sidecar(pod) else {
        return Err(not_ours("it has no credential sidecar"));
    };
    if !is(container.at("restartPolicy"), "Always") {
        return Err(not_ours("its credential sidecar is not a native sidecar"));
    }
    let projects = |volume: Json<'_>| {
        let mut sources = volume.at("projected").at("sources").items();
        sources.any(|source| is(source.at("serviceAccountToken").at("audience"), &issuer.audience))
    };
    let mut found = false;
    for volume in spec.at("volumes").items().filter(|volume| projects(*volume)) {
        if !is(volume.at("name"), BASE_VOLUME) {
            return Err(not_ours("another volume projects a token for the session issuer"));
        }
        found = true;
    }
    if !found {
        return Err(not_ours("no volume of its sidecar projects a token for the session issuer"));
    }
    let uses_base = |container: Json<'_>| {
        let of = |list, key| {
            let mut items = container.at(list).items();
            items.any(|item| is(item.at(key), BASE_VOLUME))
        };
        of("volumeMounts", "name") || of("volumeDevices", "name")
    };
    let others = ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| spec.at(list).items())
        .filter(|container| !is(container.at("name"), CONTAINER_NAME));
    for other in others {
        if uses_base(other) {
            return Err(not_ours("another container mounts the token of its sidecar"));
        }
    }
    Ok(())
}

/// Returns the session that the sidecar's variable names.
fn session_id(pod: Json<'_>) -> Result<SessionId, TokenRefusal> {
    let no_session = |why| TokenRefusal::NoSession { why };
    let mut named = variables(pod, env::ID);
    let (Some(variable), None) = (named.next(), named.next()) else {
        return Err(no_session("its sidecar does not have FAB_SESSION_ID exactly once"));
    };
    let from = variable.at("valueFrom");
    if from.is_object() {
        let field = from.at("fieldRef").at("fieldPath").string();
        return match field.as_deref() {
            Some("metadata.uid") => Ok(SessionId::PodUid),
            Some("metadata.name") => Ok(SessionId::PodName),
            _ => Err(no_session("FAB_SESSION_ID is neither a name nor the pod's UID")),
        };
    }
    let value = variable.at("value").string();
    let marker = SessionId::SandboxClaim.to_string();
    if value.as_deref() == Some(&*marker) {
        return Ok(SessionId::SandboxClaim);
    }
    let name: Option<SessionName> = value.and_then(|text| text.parse().ok());
    name.map(SessionId::Known).ok_or_else(|| no_session("FAB_SESSION_ID is not a session name"))
}

/// Returns on whose behalf the session runs, from the sidecar's variable. The pod's annotation does
/// not count: it can change while the pod runs.
fn on_behalf_of(pod: Json<'_>) -> Result<Option<OnBehalfOf>, TokenRefusal> {
    let mut named = variables(pod, env::ON_BEHALF_OF);
    let Some(variable) = named.next() else { return Ok(None) };
    let value = variable.at("value").string().and_then(|text| text.parse().ok());
    match value {
        Some(value) if named.next().is_none() => Ok(Some(value)),
        _ => Err(TokenRefusal::NoSession {
            why: "its sidecar does not have FAB_SESSION_ON_BEHALF_OF once, as a valid session tag",
        }),
    }
}

/// Checks that the role is that of the sidecar's variable: the sidecar assumes no other.
fn check_role(caller: &TokenFacts, pod: Json<'_>, role: &RoleArn) -> Result<(), TokenRefusal> {
    let assumed = variables(pod, env::ROLE_ARN).find_map(|it| it.at("value").string());
    match assumed {
        Some(assumed) if assumed != role.as_str() => Err(TokenRefusal::RoleChanged {
            pod: caller.pod_name.to_string(),
            role: role.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Returns the sidecar's variables of this name.
fn variables<'a>(pod: Json<'a>, name: &str) -> impl Iterator<Item = Json<'a>> {
    let all = sidecar(pod).into_iter().flat_map(|sidecar| sidecar.at("env").items());
    all.filter(move |variable| variable.at("name").string().is_some_and(|it| it == name))
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
