//! Claim x namespace x directory -> decision. There is no fourth case for "unsure".

use std::borrow::Cow;

use json_patch::PatchOperation;

use super::{
    claim, demands, patch,
    pod::{Metadata, Pod},
    refusal::Refusal,
    review::{AuditAnnotations, Request},
};
use crate::{
    config::{Component, Config, Credentials, SessionSource},
    directory::{Cause, Directory, Role},
    namespaces::{Namespace, Namespaces},
    session::{RoleArn, Session, SessionId, TenantName},
};

/// What becomes of a pod.
#[derive(Debug)]
pub enum Decision {
    /// An agent that we know.
    Inject(Box<Injection>),
    /// Not an agent, or not opted in: none of our business.
    Pass,
    /// An agent that we do not know, or one that asks for more than it may have.
    Refuse(Refusal),
}

#[derive(Debug)]
pub struct Injection {
    pub component: String,
    pub gives: Gives,
}

/// What the pod is given.
#[derive(Debug)]
pub enum Gives {
    /// Role and identity as variables; base credentials stay.
    Env(Session),
    /// The same as `Env`, for a pod that would have a sidecar: the platform team keeps the old
    /// client mode for its namespace, so that its calls are not ours to attribute.
    Keep(Session),
    /// Nothing, and base credentials are withheld.
    Nothing,
    /// Session credentials by the sidecar; base credentials are withheld from the others.
    Sidecar(Session),
}

/// A decision and what it does to the pod.
#[derive(Debug)]
pub(super) struct Outcome {
    decision: Decision,
    component: Option<String>,
    patch: patch::Patch,
}

/// What the snapshots lacked: the shell may look it up once and ask again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Missing {
    Namespace(String),
    Role(TenantName),
}

pub(super) fn outcome(
    request: &Request<'_>,
    namespaces: &Namespaces,
    directory: &Directory,
    config: &Config,
) -> (Outcome, Option<Missing>) {
    let mut missing = None;
    let mut component = None;
    let decided =
        pass_or_inject(request, namespaces, directory, config, &mut component, &mut missing);
    let component = component.map(|component| component.name.clone());
    let (decision, patch) = match decided {
        Ok(Some((injection, patch))) => (Decision::Inject(Box::new(injection)), patch),
        Ok(None) => (Decision::Pass, patch::Patch::default()),
        Err(refusal) => (Decision::Refuse(refusal), patch::Patch::default()),
    };
    (Outcome { decision, component, patch }, missing)
}

fn pass_or_inject<'c>(
    request: &Request<'_>,
    namespaces: &Namespaces,
    directory: &Directory,
    config: &'c Config,
    matched: &mut Option<&'c Component>,
    missing: &mut Option<Missing>,
) -> Result<Option<(Injection, patch::Patch)>, Refusal> {
    creation_of_a_pod(request)?;
    let creator = &*request.user_info.0.username;
    let object =
        request.object.ok_or_else(|| Refusal::UnreadablePod { place: "the whole".to_owned() })?;
    let pod = Pod::read(object, creator)?;
    let component = claim::component(&pod, config);
    // Nothing is looked up for a pod that is none of our business.
    if matches!(component, Ok(None)) {
        return Ok(None);
    }
    *matched = component.as_ref().ok().copied().flatten();
    let Some(namespace) = namespaces.find(&request.namespace) else {
        *missing = Some(Missing::Namespace(request.namespace.to_string()));
        return Err(Refusal::NamespaceUnknown { namespace: request.namespace.to_string() });
    };
    if namespace.mode.is_none() {
        return Ok(None);
    }
    let Some(component) = component? else { return Ok(None) };
    let tenant = tenant_of(namespace)?;
    let credentials = demands::credentials(&pod, component, namespace);
    demands::refuse_excess(&pod, component, credentials, namespace, config)?;
    let gives = match credentials {
        Credentials::Env => {
            let session = session(&pod, creator, component, tenant, directory, config, missing)?;
            if component.credentials == Credentials::Env {
                Gives::Env(session)
            } else {
                Gives::Keep(session)
            }
        }
        Credentials::Exempt => return Ok(None),
        Credentials::Nothing => Gives::Nothing,
        Credentials::Sidecar => {
            Gives::Sidecar(session(&pod, creator, component, tenant, directory, config, missing)?)
        }
    };
    let patch = patch::patch(&pod, component, &gives, config)?;
    Ok(Some((Injection { component: component.name.clone(), gives }, patch)))
}

/// Why agent pods of this namespace are refused, as far as its labels alone tell: all of
/// them, or those whose session nobody names.
pub fn unworkable(namespace: &Namespace, config: &Config) -> Option<Refusal> {
    let tenant = match tenant_of(namespace) {
        Ok(tenant) => tenant,
        Err(refusal) => return Some(refusal),
    };
    demands::enforces(namespace, config)
        .and_then(|()| {
            let kinds = config
                .components
                .iter()
                .filter(|component| component.credentials == Credentials::Sidecar);
            let uid = kinds.clone().any(|component| component.session != SessionSource::PodName);
            if uid { fits(&SessionId::PodUid, tenant) } else { Ok(()) }
        })
        .err()
}

/// Why agent pods of this namespace are refused for what it enforces, whoever its tenant is.
pub fn insecure(namespace: &Namespace, config: &Config) -> Option<Refusal> {
    demands::enforces(namespace, config).err()
}

/// Why no pod of the tenant gets a session, as far as its role alone tells.
pub fn unpublished(tenant: &TenantName, directory: &Directory) -> Option<Refusal> {
    role_of(tenant, directory, &mut None).err()
}

fn creation_of_a_pod(request: &Request<'_>) -> Result<(), Refusal> {
    let resource = &request.resource.0;
    let what = (&*resource.group, &*resource.version, &*resource.resource, &*request.sub_resource);
    match (what, &*request.operation) {
        (("", "v1", "pods", ""), "CREATE") => Ok(()),
        _ => Err(Refusal::NotAPodCreation {
            found: match &*request.sub_resource {
                "" => format!("{:?} of {:?}", &*request.operation, &*resource.resource),
                part => format!(
                    "{:?} of {:?}",
                    &*request.operation,
                    format!("{}/{part}", &*resource.resource)
                ),
            },
        }),
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
    creator: &str,
    component: &Component,
    tenant: &TenantName,
    directory: &Directory,
    config: &Config,
    missing: &mut Option<Missing>,
) -> Result<Session, Refusal> {
    let id = claim::session(pod, creator, component.session, config)?;
    fits(&id, tenant)?;
    if id == SessionId::PodName && name_length(pod) > tenant.room() {
        return Err(Refusal::SessionTooLong { tenant: tenant.clone(), needed: name_length(pod) });
    }
    let role = role_of(tenant, directory, missing)?.clone();
    Ok(Session { tenant: tenant.clone(), id, role, duration: config.sidecar.duration })
}

fn fits(id: &SessionId, tenant: &TenantName) -> Result<(), Refusal> {
    if id.fits(tenant) {
        return Ok(());
    }
    let longest = (tenant.as_str().len() + tenant.room()).saturating_sub(id.least_room());
    let session = match id {
        SessionId::Known(_) => "a cut session name".to_owned(),
        SessionId::PodName | SessionId::PodUid => id.to_string(),
    };
    Err(Refusal::TenantTooLong { tenant: tenant.clone(), session, longest })
}

/// How long the pod's name is or will be: the API server cuts a generateName to 58
/// characters and adds 5 of its own.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#generated-values>
fn name_length(pod: &Pod<'_>) -> usize {
    let Metadata { name, generate_name, .. } = &pod.metadata;
    if name.is_empty() { generate_name.len().min(58) + 5 } else { name.len() }
}

fn role_of<'d>(
    tenant: &TenantName,
    directory: &'d Directory,
    missing: &mut Option<Missing>,
) -> Result<&'d RoleArn, Refusal> {
    let place = || directory.place(tenant);
    match directory.role(tenant) {
        Some(Role::Known(role)) => Ok(role),
        Some(Role::NotFound) => Err(Refusal::RoleMissing { place: place() }),
        Some(Role::Unreachable(Cause::Denied)) => Err(Refusal::RoleDenied { place: place() }),
        Some(Role::Unreachable(cause)) => {
            Err(Refusal::RoleUnavailable { place: place(), cause: Some(*cause) })
        }
        Some(Role::Unusable(unusable)) => {
            Err(Refusal::RoleUnusable { place: place(), unusable: unusable.clone() })
        }
        None => {
            *missing = Some(Missing::Role(tenant.clone()));
            Err(Refusal::RoleUnavailable { place: place(), cause: None })
        }
    }
}

impl Outcome {
    /// The pod tripped a bug of ours.
    pub(super) fn failure() -> Self {
        Self {
            decision: Decision::Refuse(Refusal::Internal),
            component: None,
            patch: patch::Patch::default(),
        }
    }

    /// The operations as the library for them knows them.
    pub(super) fn into_parts(self) -> (Decision, Vec<PatchOperation>, Vec<String>) {
        match serde_json::from_slice::<json_patch::Patch>(&self.patch.json()) {
            Ok(json_patch::Patch(operations)) => (self.decision, operations, self.patch.warnings),
            Err(_) => (Decision::Refuse(Refusal::Internal), Vec::new(), Vec::new()),
        }
    }

    pub(super) fn decision(&self) -> &Decision {
        &self.decision
    }

    pub(super) fn component(&self) -> Option<&str> {
        self.component.as_deref()
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.decision {
            Decision::Refuse(refusal) => Some(refusal),
            Decision::Inject(_) | Decision::Pass => None,
        }
    }

    /// The JSON patch, if there is anything to do.
    pub(super) fn patch(&self) -> Option<Vec<u8>> {
        (matches!(self.decision, Decision::Inject(_)) && !self.patch.is_empty())
            .then(|| self.patch.json())
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.patch.warnings
    }

    /// The same in both rounds, since they are derived from the decision and not from the
    /// patch, which is empty in the second.
    pub(super) fn audit_annotations(&self) -> AuditAnnotations<'_> {
        let component = self.component();
        match &self.decision {
            Decision::Pass => {
                AuditAnnotations { decision: "pass".into(), ..AuditAnnotations::default() }
            }
            Decision::Refuse(refusal) => AuditAnnotations {
                decision: Cow::Owned(format!("refuse/{}", refusal.code())),
                component,
                ..AuditAnnotations::default()
            },
            Decision::Inject(injection) => {
                let session = injection.gives.session();
                AuditAnnotations {
                    decision: injection.gives.as_str().into(),
                    component,
                    session_id: session.map(|session| session.id.to_string()),
                    source_identity: session.map(Session::identity_for_people),
                    role_arn: session.map(|session| session.role.as_str()),
                }
            }
        }
    }
}

impl Gives {
    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::Env(session) | Self::Keep(session) | Self::Sidecar(session) => Some(session),
            Self::Nothing => None,
        }
    }

    /// Whether the pod keeps the base credentials that it came with.
    pub(super) fn leaves_base_credentials(&self) -> bool {
        matches!(self, Self::Env(_) | Self::Keep(_))
    }

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Env(_) => "env",
            Self::Keep(_) => "keep",
            Self::Nothing => "withhold",
            Self::Sidecar(_) => "inject",
        }
    }
}
