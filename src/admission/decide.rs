//! Claim x namespace x directory -> decision. There is no fourth case for "unsure".

use std::borrow::Cow;

use json_patch::PatchOperation;

use super::{
    claim::{self, Claim, NamedBy},
    demands, patch,
    pod::{Metadata, Pod},
    refusal::{Refusal, shown},
    review::{AuditAnnotations, Request},
};
use crate::{
    config::{Component, Config, Creator, Credentials, Matched, SessionSource},
    directory::{Cause, Directory, Role},
    namespaces::{Namespace, Namespaces},
    session::{RoleArn, Session, SessionId, TenantName},
};

/// What becomes of a pod.
#[derive(Debug)]
pub enum Decision {
    /// An agent that we know.
    Inject(Box<Injection>),
    /// None of our business.
    Pass(Passed),
    /// An agent that we do not know, or one that asks for more than it may have.
    Refuse(Refusal),
}

/// Why a pod is none of our business.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passed {
    /// Its component is left alone, whatever the namespace says.
    Exempt,
    /// No component matches.
    NotAnAgent,
    /// Its namespace did not opt in.
    NotOptedIn,
}

#[derive(Debug)]
pub struct Injection {
    pub component: String,
    pub gives: Gives,
    /// None: the pod gets no session.
    pub named_by: Option<NamedBy>,
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
pub(super) struct Outcome<'c> {
    decision: Decision,
    matched: Option<Matched<'c>>,
    patch: patch::Patch,
}

/// A decision, and what it came from.
#[derive(Debug)]
pub struct Explained<'c> {
    pub decision: Decision,
    /// The component that decided, as far as one did.
    pub matched: Option<Matched<'c>>,
    /// What is done to the pod.
    pub operations: Vec<PatchOperation>,
    /// What its creator is told.
    pub warnings: Vec<String>,
    pub missing: Option<Missing>,
}

/// What the snapshots lacked: the shell may look it up once and ask again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Missing {
    Namespace(String),
    Role(TenantName),
}

pub(super) fn outcome<'c>(
    request: &Request<'_>,
    namespaces: &Namespaces,
    directory: &Directory,
    config: &'c Config,
) -> (Outcome<'c>, Option<Missing>) {
    let (mut matched, mut missing) = (None, None);
    let decided =
        pass_or_inject(request, namespaces, directory, config, &mut matched, &mut missing);
    let (decision, patch) =
        decided.unwrap_or_else(|refusal| (Decision::Refuse(refusal), patch::Patch::default()));
    (Outcome { decision, matched, patch }, missing)
}

fn pass_or_inject<'c>(
    request: &Request<'_>,
    namespaces: &Namespaces,
    directory: &Directory,
    config: &'c Config,
    matched: &mut Option<Matched<'c>>,
    missing: &mut Option<Missing>,
) -> Result<(Decision, patch::Patch), Refusal> {
    let pass = |why| Ok((Decision::Pass(why), patch::Patch::default()));
    creation_of_a_pod(request)?;
    let creator = Creator::new(&request.user_info.0.username, &request.namespace);
    let object =
        request.object.ok_or_else(|| Refusal::UnreadablePod { place: "the whole".to_owned() })?;
    let pod = Pod::read(object, creator)?;
    // Nothing is looked up for a pod that is none of our business.
    let claimed = match claim::claim(&pod, config) {
        Ok(Claim::Agent(found)) => {
            *matched = Some(found);
            Ok(found.component)
        }
        Ok(Claim::Exempt(found)) => {
            *matched = Some(found);
            return pass(Passed::Exempt);
        }
        Ok(Claim::Stranger) => return pass(Passed::NotAnAgent),
        Err(refusal) => Err(refusal),
    };
    let Some(namespace) = namespaces.find(&request.namespace) else {
        *missing = Some(Missing::Namespace(shown(&request.namespace)));
        return Err(Refusal::NamespaceUnknown { namespace: shown(&request.namespace) });
    };
    if namespace.mode.is_none() {
        return pass(Passed::NotOptedIn);
    }
    let component = claimed?;
    let tenant = tenant_of(namespace)?;
    let credentials = demands::credentials(&pod, component, namespace);
    demands::refuse_excess(&pod, component, credentials, namespace, config)?;
    let mut session = || session(&pod, creator, component, tenant, directory, config, missing);
    let (gives, named_by) = match credentials {
        Credentials::Env => {
            let (session, named_by) = session()?;
            let gives = if component.credentials == Credentials::Env {
                Gives::Env(session)
            } else {
                Gives::Keep(session)
            };
            (gives, Some(named_by))
        }
        Credentials::Exempt => return pass(Passed::Exempt),
        Credentials::Nothing => (Gives::Nothing, None),
        Credentials::Sidecar => {
            let (session, named_by) = session()?;
            (Gives::Sidecar(session), Some(named_by))
        }
    };
    let patch = patch::patch(&pod, component, &gives, config)?;
    let injection = Injection { component: component.name.clone(), gives, named_by };
    Ok((Decision::Inject(Box::new(injection)), patch))
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

fn tenant_of(namespace: &Namespace) -> Result<&TenantName, Refusal> {
    namespace.tenant.as_ref().map_err(|reason| Refusal::TenantMissing {
        namespace: namespace.name.clone(),
        reason: reason.clone(),
    })
}

fn session(
    pod: &Pod<'_>,
    creator: Creator<'_>,
    component: &Component,
    tenant: &TenantName,
    directory: &Directory,
    config: &Config,
    missing: &mut Option<Missing>,
) -> Result<(Session, NamedBy), Refusal> {
    let (id, named_by) = claim::session(pod, creator, component.session, config)?;
    fits(&id, tenant)?;
    if id == SessionId::PodName && name_length(pod) > tenant.room() {
        return Err(Refusal::SessionTooLong { tenant: tenant.clone(), needed: name_length(pod) });
    }
    let role = role_of(tenant, directory, missing)?.clone();
    let duration = config.sidecar.duration;
    Ok((Session { tenant: tenant.clone(), id, role, duration }, named_by))
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

impl<'c> Outcome<'c> {
    /// The pod tripped a bug of ours.
    pub(super) fn failure() -> Self {
        Self {
            decision: Decision::Refuse(Refusal::Internal),
            matched: None,
            patch: patch::Patch::default(),
        }
    }

    /// The operations as the library for them knows them.
    pub(super) fn explained(self, missing: Option<Missing>) -> Explained<'c> {
        let Self { decision, matched, patch } = self;
        match serde_json::from_slice::<json_patch::Patch>(&patch.json()) {
            Ok(json_patch::Patch(operations)) => {
                Explained { decision, matched, operations, warnings: patch.warnings, missing }
            }
            Err(_) => Self::failure().explained(None),
        }
    }

    pub(super) fn decision(&self) -> &Decision {
        &self.decision
    }

    pub(super) fn component(&self) -> Option<&str> {
        self.matched.map(|matched| &*matched.component.name)
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.decision {
            Decision::Refuse(refusal) => Some(refusal),
            Decision::Inject(_) | Decision::Pass(_) => None,
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
            Decision::Pass(_) => AuditAnnotations {
                decision: "pass".into(),
                component,
                ..AuditAnnotations::default()
            },
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
