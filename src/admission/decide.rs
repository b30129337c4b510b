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
    pod::Pod,
    pod_fields::Metadata,
    refusal::{Refusal, shown},
    refusals::{Refusals, Stop, WantedRefusals},
    review::Request,
    violations,
};
use crate::{
    config::{Component, Config, Creator, CredentialsMode, SessionSource, SessionTransport},
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
    wanted: WantedRefusals,
) -> Outcome<'c> {
    let pod = match read_pod(request) {
        Ok(pod) => pod,
        Err(refusal) => return Outcome::refused(vec![refusal], None, None),
    };
    let name = pod.name();
    if let Err(refusal) = pod.refuse_excess_labels() {
        return Outcome::refused(vec![refusal], None, name);
    }
    let kind = component::kind(&pod, config);
    let matched = match kind {
        Ok(PodKind::Agent(matched) | PodKind::Exempt(matched)) => Some(matched),
        Ok(PodKind::NotAnAgent) | Err(_) => None,
    };
    let mut refusals = Refusals::new(wanted);
    match pass_or_inject(&pod, kind, request, namespaces, roles, config, &mut refusals) {
        Ok((decision, patch)) => {
            Outcome { decision, further: Vec::new(), matched, patch, pod: name }
        }
        Err(Stop) => Outcome::refused(refusals.into_vec(), matched, name),
    }
}

fn read_pod<'a>(request: &'a Request<'_>) -> Result<Pod<'a>, Refusal> {
    creation_of_a_pod(request)?;
    let creator = Creator::new(&request.user_info.0.username, &request.namespace);
    match &request.object {
        Some(json) => Pod::of(json, creator),
        None => Err(Refusal::UnreadablePod { place: "the pod".to_owned() }),
    }
}

fn pass_or_inject(
    pod: &Pod<'_>,
    kind: Result<PodKind<'_>, Refusal>,
    request: &Request<'_>,
    namespaces: &Namespaces,
    roles: &Roles,
    config: &Config,
    refusals: &mut Refusals,
) -> Result<(Decision, Patch), Stop> {
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
        let namespace = shown(&request.namespace);
        return Err(refusals.end_with(Refusal::NamespaceUnknown { namespace }));
    };
    if namespace.mode.is_none() {
        return pass(Passed::NotOptedIn);
    }
    let component = refusals.add_error(component)?;
    let tenant = refusals.add_error(tenant_of(namespace))?;
    violations::check_every_agent(pod, namespace, refusals)?;
    // All further rules depend on the component.
    let Some(component) = component else { return Err(Stop) };
    let credentials = credentials(pod, component, namespace);
    violations::check_kind(pod, component, credentials, namespace, config, refusals)?;
    let annotations = violations::reserved_annotation(pod, component, credentials, config);
    refusals.add_all(annotations)?;
    let transport = component.transport(namespace.transport, config.transport);
    let mut session = || session(pod, component, transport, tenant, roles, config, refusals);
    let given = match credentials {
        CredentialsMode::Env if component.credentials == CredentialsMode::Env => {
            session()?.map(|(session, named_by)| (Gives::Env(session), Some(named_by)))
        }
        CredentialsMode::Env => Some((Gives::Keep, None)),
        CredentialsMode::Exempt => {
            refusals.end()?;
            return pass(Passed::Exempt);
        }
        CredentialsMode::Nothing => Some((Gives::Nothing, None)),
        CredentialsMode::Sidecar => session()?
            .map(|(session, named_by)| (Gives::Sidecar(session, transport), Some(named_by))),
    };
    refusals.end()?;
    let Some((gives, named_by)) = given else { return Err(Stop) };
    let patch =
        patch(pod, component, &gives, config).map_err(|refusal| refusals.end_with(refusal))?;
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
            let mut components = config.components_with_sidecar();
            let uid = components.any(|component| component.session != SessionSource::PodName);
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

/// Returns the pod's session and the source of its name. `None` if the pod is refused.
fn session(
    pod: &Pod<'_>,
    component: &Component,
    transport: SessionTransport,
    tenant: Option<&TenantName>,
    roles: &Roles,
    config: &Config,
    refusals: &mut Refusals,
) -> Result<Option<(Session, NamedBy)>, Stop> {
    let named = refusals.add_error(component::session(pod, component.session, config))?;
    let on_behalf_of =
        refusals.add_error(component::on_behalf_of(pod, component, transport, config))?;
    let Some(tenant) = tenant else { return Ok(None) };
    if let Some((id, _)) = &named {
        refusals.add_error(refuse_too_long_for(pod, id, tenant))?;
    }
    let role = refusals.add_error(role_of(tenant, roles))?;
    let (Some((id, named_by)), Some(role), Some(on_behalf_of)) = (named, role, on_behalf_of) else {
        return Ok(None);
    };
    let (tenant, role, duration) = (tenant.clone(), role.clone(), config.sidecar.duration);
    Ok(Some((Session { tenant, id, role, duration, on_behalf_of }, named_by)))
}

fn refuse_too_long_for(pod: &Pod<'_>, id: &SessionId, tenant: &TenantName) -> Result<(), Refusal> {
    refuse_too_long(id, tenant)?;
    if *id == SessionId::PodName && name_length(pod) > tenant.remaining_length() {
        return Err(Refusal::SessionTooLong { tenant: tenant.clone(), needed: name_length(pod) });
    }
    Ok(())
}

fn refuse_too_long(id: &SessionId, tenant: &TenantName) -> Result<(), Refusal> {
    if id.fits(tenant) {
        return Ok(());
    }
    let session = match id {
        SessionId::Known(_) => "a shortened session name".to_owned(),
        SessionId::PodName | SessionId::PodUid | SessionId::SandboxClaim => id.to_string(),
    };
    Err(Refusal::TenantTooLong { tenant: tenant.clone(), session, longest: id.longest_tenant() })
}

/// Returns the length of the pod's name. For a `generateName` it is the maximum: the API server
/// cuts the prefix to 58 characters and appends 5.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#generated-values>
fn name_length(pod: &Pod<'_>) -> usize {
    let Metadata { name, generate_name, .. } = pod.metadata;
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
