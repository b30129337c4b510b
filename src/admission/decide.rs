//! Decides on a pod from its component, its namespace and the tenant's role.
//!
//! A decision is one of three: inject, pass or refuse. A pod that cannot be evaluated is refused.

use super::{
    component::{self, NamedBy, PodKind},
    decision::{Decision, Gives, Injection, Passed},
    names::FAB_OPERATOR,
    operations::Patch,
    outcome::Outcome,
    patch::patch,
    pod::{Metadata, Pod},
    refusal::{Refusal, shown},
    review::Request,
    violations,
};
use crate::{
    config::{Component, Config, Creator, CredentialsMode, SessionSource},
    namespaces::{Namespace, Namespaces},
    roles::{Cause, Role, Roles},
    session::{RoleArn, Session, SessionId, TenantName},
};

/// Decides on the pod of a review.
pub(super) fn outcome<'c>(
    request: &Request<'_>,
    namespaces: &Namespaces,
    roles: &Roles,
    config: &'c Config,
) -> Outcome<'c> {
    let pod = match read_pod(request) {
        Ok(pod) => pod,
        Err(refusal) => return Outcome::refused(refusal, None),
    };
    let kind = component::kind(&pod, config);
    let matched = match kind {
        Ok(PodKind::Agent(matched) | PodKind::Exempt(matched)) => Some(matched),
        Ok(PodKind::NotAnAgent) | Err(_) => None,
    };
    match pass_or_inject(&pod, kind, request, namespaces, roles, config) {
        Ok((decision, patch)) => Outcome { decision, matched, patch },
        Err(refusal) => Outcome::refused(refusal, matched),
    }
}

fn read_pod<'a>(request: &'a Request<'_>) -> Result<Pod<'a>, Refusal> {
    creation_of_a_pod(request)?;
    let creator = Creator::new(&request.user_info.0.username, &request.namespace);
    let object =
        request.object.ok_or_else(|| Refusal::UnreadablePod { place: "the pod".to_owned() })?;
    Pod::read(object, creator)
}

fn pass_or_inject(
    pod: &Pod<'_>,
    kind: Result<PodKind<'_>, Refusal>,
    request: &Request<'_>,
    namespaces: &Namespaces,
    roles: &Roles,
    config: &Config,
) -> Result<(Decision, Patch), Refusal> {
    let pass = |why| Ok((Decision::Pass(why), Patch::default()));
    // A pod that is no agent needs no lookup. A refusal of the component has to wait: the namespace
    // may not be opted in.
    let component = match kind {
        Ok(PodKind::Agent(matched)) => Ok(matched.component),
        Ok(PodKind::Exempt(_)) => return pass(Passed::Exempt),
        Ok(PodKind::NotAnAgent) => return pass(Passed::NotAnAgent),
        Err(refusal) => Err(refusal),
    };
    let Some(namespace) = namespaces.find(&request.namespace) else {
        return Err(Refusal::NamespaceUnknown { namespace: shown(&request.namespace) });
    };
    if namespace.mode.is_none() {
        return pass(Passed::NotOptedIn);
    }
    let component = component?;
    let tenant = tenant_of(namespace)?;
    let credentials = credentials(pod, component, namespace);
    violations::refuse_excess(pod, component, credentials, namespace, config)?;
    violations::refuse_annotations(pod, component, credentials, config)?;
    let session = || session(pod, component, tenant, roles, config);
    let (gives, named_by) = match credentials {
        CredentialsMode::Env if component.credentials == CredentialsMode::Env => {
            let (session, named_by) = session()?;
            (Gives::Env(session), Some(named_by))
        }
        CredentialsMode::Env => (Gives::Keep, None),
        CredentialsMode::Exempt => return pass(Passed::Exempt),
        CredentialsMode::Nothing => (Gives::Nothing, None),
        CredentialsMode::Sidecar => {
            let (session, named_by) = session()?;
            (Gives::Sidecar(session), Some(named_by))
        }
    };
    let patch = patch(pod, component, &gives, config)?;
    let injection = Injection { component: component.name.clone(), gives, named_by };
    Ok((Decision::Inject(Box::new(injection)), patch))
}

/// Returns the refusal that the labels of a namespace cause: for all of its agent pods, or for
/// those whose session is their UID.
pub fn namespace_refusal(namespace: &Namespace, config: &Config) -> Option<Refusal> {
    let tenant = match tenant_of(namespace) {
        Ok(tenant) => tenant,
        Err(refusal) => return Some(refusal),
    };
    violations::refuse_pod_security(namespace, config)
        .and_then(|()| {
            let kinds = config
                .components
                .iter()
                .filter(|component| component.credentials == CredentialsMode::Sidecar);
            let uid = kinds.clone().any(|component| component.session != SessionSource::PodName);
            if uid { refuse_too_long(&SessionId::PodUid, tenant) } else { Ok(()) }
        })
        .err()
}

/// Returns the refusal that the Pod Security labels of a namespace cause, for any tenant.
pub fn pod_security_refusal(namespace: &Namespace, config: &Config) -> Option<Refusal> {
    violations::refuse_pod_security(namespace, config).err()
}

/// Returns the refusal that the tenant's role causes for every pod that needs a session.
pub fn role_refusal(tenant: &TenantName, roles: &Roles) -> Option<Refusal> {
    role_of(tenant, roles).err()
}

fn creation_of_a_pod(request: &Request<'_>) -> Result<(), Refusal> {
    let resource = &request.resource.0;
    let what = (&*resource.group, &*resource.version, &*resource.resource, &*request.sub_resource);
    match (what, &*request.operation) {
        (("", "v1", "pods", ""), "CREATE") => Ok(()),
        _ => Err(Refusal::NotAPodCreation {
            found: match &*request.sub_resource {
                "" => format!("{:?} of {:?}", shown(&request.operation), shown(&resource.resource)),
                part => format!(
                    "{:?} of {:?}",
                    shown(&request.operation),
                    format!("{}/{}", shown(&resource.resource), shown(part))
                ),
            },
        }),
    }
}

/// Returns the credentials of the pod: those of its component, or the old client mode if the
/// namespace keeps it and the pod sets `FAB_OPERATOR`.
fn credentials(pod: &Pod<'_>, component: &Component, namespace: &Namespace) -> CredentialsMode {
    let old_client = namespace.operator_kept
        && pod.containers().any(|placed| placed.container.sets(FAB_OPERATOR));
    match component.credentials {
        CredentialsMode::Sidecar if old_client => CredentialsMode::Env,
        credentials => credentials,
    }
}

fn tenant_of(namespace: &Namespace) -> Result<&TenantName, Refusal> {
    namespace.tenant.as_ref().map_err(|reason| Refusal::TenantMissing {
        namespace: namespace.name.clone(),
        reason: reason.clone(),
    })
}

fn session(
    pod: &Pod<'_>,
    component: &Component,
    tenant: &TenantName,
    roles: &Roles,
    config: &Config,
) -> Result<(Session, NamedBy), Refusal> {
    let (id, named_by) = component::session(pod, component.session, config)?;
    refuse_too_long(&id, tenant)?;
    if id == SessionId::PodName && name_length(pod) > tenant.remaining_length() {
        return Err(Refusal::SessionTooLong { tenant: tenant.clone(), needed: name_length(pod) });
    }
    let role = role_of(tenant, roles)?.clone();
    let duration = config.sidecar.duration;
    Ok((Session { tenant: tenant.clone(), id, role, duration }, named_by))
}

fn refuse_too_long(id: &SessionId, tenant: &TenantName) -> Result<(), Refusal> {
    if id.fits(tenant) {
        return Ok(());
    }
    let longest =
        (tenant.as_str().len() + tenant.remaining_length()).saturating_sub(id.least_length());
    let session = match id {
        SessionId::Known(_) => "a shortened session name".to_owned(),
        SessionId::PodName | SessionId::PodUid => id.to_string(),
    };
    Err(Refusal::TenantTooLong { tenant: tenant.clone(), session, longest })
}

/// Returns the length of the pod's name. For a `generateName` it is the maximum: the API server
/// cuts the prefix to 58 characters and appends 5.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#generated-values>
fn name_length(pod: &Pod<'_>) -> usize {
    let Metadata { name, generate_name, .. } = &pod.metadata;
    if name.is_empty() { generate_name.len().min(58) + 5 } else { name.len() }
}

fn role_of<'r>(tenant: &TenantName, roles: &'r Roles) -> Result<&'r RoleArn, Refusal> {
    let place = || roles.location(tenant);
    let unavailable =
        |cause| Refusal::RoleUnavailable { tenant: tenant.clone(), place: place(), cause };
    match roles.role(tenant) {
        Some(Role::Known(role)) => Ok(role),
        Some(Role::NotFound) => Err(Refusal::RoleMissing { place: place() }),
        Some(Role::Unreachable(Cause::Denied)) => Err(Refusal::RoleDenied { place: place() }),
        Some(Role::Unreachable(cause)) => Err(unavailable(Some(*cause))),
        Some(Role::Unusable(unusable)) => {
            Err(Refusal::RoleUnusable { place: place(), unusable: unusable.clone() })
        }
        None => Err(unavailable(None)),
    }
}
