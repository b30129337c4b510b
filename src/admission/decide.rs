//! Decides on a pod from its component, its namespace and the tenant's role.
//!
//! A decision is one of three: inject, pass or refuse. A pod that cannot be evaluated is refused.

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

/// The decision on a pod.
#[derive(Debug)]
pub enum Decision {
    /// The pod is an agent and is changed.
    Inject(Box<Injection>),
    /// The pod is left unchanged.
    Pass(Passed),
    /// The pod is an agent of an unknown component, asks for something that agents may not have, or
    /// cannot get a session.
    Refuse(Refusal),
}

/// Why a pod is left unchanged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passed {
    /// Its component is exempt, in every namespace.
    Exempt,
    /// No component matches.
    NotAnAgent,
    /// Its namespace did not opt in.
    NotOptedIn,
}

/// The component and the session of an agent pod.
#[derive(Debug)]
pub struct Injection {
    pub component: String,
    pub gives: Gives,
    /// `None` if the pod gets no session.
    pub named_by: Option<NamedBy>,
}

/// The credentials that the pod gets.
#[derive(Debug)]
pub enum Gives {
    /// Variables with role and SourceIdentity. The pod keeps its base credentials.
    Env(Session),
    /// The same as `Env`, for a pod whose component has a sidecar: the namespace keeps the old
    /// client mode. The pod's calls are not attributed to a session.
    Keep(Session),
    /// No credentials: base credentials are removed.
    Nothing,
    /// Session credentials from the sidecar. Base credentials are removed from all other
    /// containers.
    Sidecar(Session),
}

/// A decision and its patch.
#[derive(Debug)]
pub(super) struct Outcome<'c> {
    decision: Decision,
    matched: Option<Matched<'c>>,
    patch: patch::Patch,
}

/// A decision, with the rule and the data that it results from.
#[derive(Debug)]
pub struct Explained<'c> {
    pub decision: Decision,
    /// The component that matched, if any.
    pub matched: Option<Matched<'c>>,
    /// The changes of the pod.
    pub operations: Vec<PatchOperation>,
    /// The warnings to the requesting user.
    pub warnings: Vec<String>,
    pub missing: Option<Missing>,
}

/// The namespace or role that the snapshots lack. The caller may look it up once and decide again.
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
        request.object.ok_or_else(|| Refusal::UnreadablePod { place: "the pod".to_owned() })?;
    let pod = Pod::read(object, creator)?;
    // A pod that is no agent needs no lookup.
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

/// Returns the refusal that the labels of a namespace cause: for all of its agent pods, or for
/// those whose session is their UID.
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

/// Returns the refusal that the Pod Security labels of a namespace cause, for any tenant.
pub fn insecure(namespace: &Namespace, config: &Config) -> Option<Refusal> {
    demands::enforces(namespace, config).err()
}

/// Returns the refusal that the tenant's role causes for every pod that needs a session.
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
    /// Returns the refusal of a pod on which the webhook fails by a bug.
    pub(super) fn failure() -> Self {
        Self {
            decision: Decision::Refuse(Refusal::Internal),
            matched: None,
            patch: patch::Patch::default(),
        }
    }

    /// Returns the outcome with its operations in the types of the JSON Patch library.
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

    /// Returns the JSON Patch, or `None` if the pod stays unchanged.
    pub(super) fn patch(&self) -> Option<Vec<u8>> {
        (matches!(self.decision, Decision::Inject(_)) && !self.patch.is_empty())
            .then(|| self.patch.json())
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.patch.warnings
    }

    /// Returns the audit annotations. They derive from the decision and not from the patch, so a
    /// reinvocation, whose patch is empty, gets the same ones.
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

    /// Returns whether the pod keeps its base credentials.
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
