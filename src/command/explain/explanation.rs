//! The report on one pod. [`text`] prints its fields as text, serde as JSON.

mod issuer;
mod text;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;

use self::issuer::IssuerAnswer;
use crate::{
    admission::{
        Decision, Drift, DriftStatus, Explained, Gives, Injection, NamedBy, Passed, Refusal,
    },
    check::Seen,
    config::{BaseCredentials, Config, Matched, Matcher, SessionTransport},
    issuer::{SandboxSession, TokenRefusal},
    manifest,
    namespaces::{Mode, Namespace},
    roles::{Cause, Roles},
    session::{Session, SessionId, SourceIdentity},
};

/// The decision for one pod, and its inputs. The serialized field names are API.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    object: String,
    namespace: String,
    /// None: the namespace has not opted in.
    #[serde(serialize_with = "mode")]
    mode: Option<Mode>,
    tenant: Option<String>,
    requesting_user: RequestingUser,
    /// The value in log and metrics. `unknown`: this shell cannot read the tenant's role.
    decision: &'static str,
    #[serde(skip)]
    becomes: String,
    /// Why the pod is left unchanged.
    unchanged: Option<&'static str>,
    /// In the order of the rules. The first one is the webhook's response.
    refusals: Vec<Said>,
    component: Option<ShownComponent>,
    /// Components that come first if one of their creators creates the pod. Only if the requesting
    /// user is unknown and the pod does not exist yet.
    possible_components: Vec<ShownComponent>,
    session: Option<Identity>,
    /// None: the pod's sidecar does not ask the session issuer, or does not exist yet.
    issuer: Option<IssuerAnswer>,
    warnings: Vec<String>,
    drift: Option<ShownDrift>,
}

/// The explained pod.
#[derive(Debug)]
pub(super) enum Subject<'p> {
    /// Not created yet: the object is a pod, or has a pod template. With the components that come
    /// first for some users.
    Proposed(&'p Value, Vec<Matched<'p>>),
    /// A pod of the cluster.
    Existing { pod: &'p Value, drift: Drift, seen: SeenByIssuer },
}

/// What the session issuer would read, as far as this shell may.
#[derive(Debug)]
pub(super) struct SeenByIssuer {
    /// Since when the guard's rule about the issuer's tokens denies.
    pub(super) guard_since: Seen<Option<Timestamp>>,
    /// The session of a pod that runs a Sandbox.
    pub(super) sandbox: Option<Seen<Result<SandboxSession, TokenRefusal>>>,
}

/// The requesting user: who creates the pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "known", content = "username")]
pub(super) enum RequestingUser {
    /// Given on the command line.
    Given(String),
    /// A user that matches this glob of the config: the pod matches what is injected for such a
    /// user.
    Assumed(String),
    Unknown,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    code: &'static str,
    message: String,
    remedy: String,
    /// Whether a retry without any change may be admitted (HTTP 503).
    transient: bool,
    /// Whether this shell cannot read the tenant's role, so the webhook may not refuse the pod.
    #[serde(skip)]
    is_unread: bool,
}

#[derive(Debug, Serialize)]
struct ShownComponent {
    name: String,
    matcher: &'static str,
    /// The selector or glob of the config that matched.
    matched: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    id: String,
    named_by: &'static str,
    /// Where the trusted creator named it, on the pod.
    named_in: Option<NamedIn>,
    source_identity: String,
    role_arn: String,
    /// Where the role was read from.
    source: String,
    /// How the sidecar gets session credentials. `None`: there is no sidecar.
    transport: Option<String>,
    /// The base role of the sidecar, if the config names it (IRSA).
    base_role_arn: Option<String>,
    /// What a trusted creator says, for the session tag.
    on_behalf_of: Option<String>,
}

#[derive(Debug, Serialize)]
struct NamedIn {
    /// `annotation` or `label`.
    kind: &'static str,
    key: &'static str,
}

/// The difference between a pod of the cluster and current injection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownDrift {
    #[serde(flatten)]
    status: DriftStatus,
    /// Globs of exempt users, one of which may have created the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    possible_exemptions: Vec<String>,
}

/// The result of an explanation, for the exit code; the most severe last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Verdict {
    Fine,
    /// An input of the decision was not available.
    Undecided,
    /// The pod is refused, or differs from current injection.
    Wrong,
}

impl Explanation {
    pub(super) fn new(
        subject: Subject<'_>,
        namespace: &Namespace,
        creator: RequestingUser,
        explained: Explained<'_>,
        roles: &Roles,
        config: &Config,
    ) -> Self {
        let refusals: Vec<Said> = explained.refusals().map(Said::of).collect();
        let is_unread = !refusals.is_empty() && refusals.iter().all(|said| said.is_unread);
        let Explained { decision, further: _, matched, operations: _, warnings } = explained;
        let (unchanged, session) = match &decision {
            Decision::Inject(injection) => {
                let mut session = Identity::of(&subject, injection, roles);
                if let Some(session) = &mut session {
                    session.base_role_arn = base_role(injection, matched, config);
                }
                (None, session)
            }
            Decision::Pass(passed) => (Some(name_of(*passed)), None),
            Decision::Refuse(_) => (None, None),
        };
        let possible_components = match &subject {
            Subject::Proposed(_, possible) => {
                possible.iter().copied().map(ShownComponent::of).collect()
            }
            Subject::Existing { .. } => Vec::new(),
        };
        let issuer = match &subject {
            Subject::Proposed(..) => None,
            Subject::Existing { pod, seen, .. } => {
                IssuerAnswer::of(pod, namespace, roles, config, seen)
            }
        };
        let (object, drift) = match subject {
            Subject::Proposed(object, _) => (object, None),
            // In audit, pods are never changed.
            Subject::Existing { pod, .. } if namespace.mode == Some(Mode::Audit) => (pod, None),
            Subject::Existing {
                pod,
                drift: Drift { status, assumed_creator: _, possible_exemption },
                seen: _,
            } => {
                let possible_exemptions =
                    possible_exemption.iter().map(ToString::to_string).collect();
                (pod, Some(ShownDrift { status, possible_exemptions }))
            }
        };
        Self {
            object: manifest::title(object),
            namespace: namespace.name.clone(),
            mode: namespace.mode,
            tenant: namespace.tenant.as_ref().ok().map(ToString::to_string),
            requesting_user: creator,
            decision: match &decision {
                Decision::Inject(injection) => injection.gives.as_str(),
                Decision::Pass(_) => "pass",
                Decision::Refuse(_) if is_unread => "unknown",
                Decision::Refuse(_) => "refuse",
            },
            becomes: text::becomes(&decision, is_unread, namespace.mode),
            unchanged,
            refusals,
            component: matched.map(ShownComponent::of),
            possible_components,
            session,
            issuer,
            warnings,
            drift,
        }
    }

    /// In audit no pod is refused by the webhook and no pod is compared. A pod that has completed has no error.
    pub(super) fn verdict(&self) -> Verdict {
        let is_permanent = self.refusals.iter().any(|said| !said.transient);
        match &self.drift {
            Some(ShownDrift { status: DriftStatus::Ended, .. }) => Verdict::Fine,
            Some(drift) if self.mode.is_some() && !drift.status.is_in_order() => {
                if drift.possible_exemptions.is_empty() {
                    Verdict::Wrong
                } else {
                    Verdict::Undecided
                }
            }
            _ if self.issuer.as_ref().is_some_and(IssuerAnswer::is_refusal) => Verdict::Wrong,
            _ if is_permanent && self.mode == Some(Mode::Enabled) => Verdict::Wrong,
            _ if self.refusals.iter().any(|said| said.transient) => Verdict::Undecided,
            _ => Verdict::Fine,
        }
    }
}

impl RequestingUser {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Given(name) | Self::Assumed(name) => name,
            Self::Unknown => "",
        }
    }
}

impl Said {
    fn of(refusal: &Refusal) -> Self {
        let said = Self {
            code: refusal.code(),
            message: refusal.sentence(),
            remedy: refusal.remedy(),
            transient: refusal.is_transient(),
            is_unread: false,
        };
        match unread(refusal) {
            Some(message) => Self {
                message,
                remedy: "log in to AWS as a user that may read it, or set --roles".to_owned(),
                is_unread: true,
                ..said
            },
            None => said,
        }
    }
}

/// Returns the message about a role that this shell cannot read with its own AWS credentials. The
/// webhook has others.
fn unread(refusal: &Refusal) -> Option<String> {
    let (place, cause) = match refusal {
        Refusal::RoleDenied { place } => (place, Some(Cause::Denied)),
        Refusal::RoleUnavailable { place, cause, .. } => (place, *cause),
        _ => return None,
    };
    let why = match cause {
        Some(Cause::Denied) => "access denied".to_owned(),
        Some(Cause::NoCredentials) => "no AWS credentials".to_owned(),
        Some(cause) => cause.to_string(),
        None => "timed out".to_owned(),
    };
    Some(format!("this shell cannot read {place}: {why}; the webhook may have a role"))
}

impl ShownComponent {
    fn of(matched: Matched<'_>) -> Self {
        let Matched { component, matcher } = matched;
        let (matcher, matched) = match matcher {
            Matcher::Creator(glob) => ("creator", glob.to_string()),
            Matcher::FencedServiceAccount(glob) => ("fenced-service-account", glob.to_string()),
            Matcher::Selector(selector) => ("label-selector", selector.to_string()),
            Matcher::ServiceAccount(glob) => ("service-account", glob.to_string()),
        };
        Self { name: component.name.clone(), matcher, matched }
    }
}

impl Identity {
    fn of(subject: &Subject<'_>, injection: &Injection, roles: &Roles) -> Option<Self> {
        let Injection { component: _, gives, named_by } = injection;
        let (session, named_by) = (gives.session()?, (*named_by)?);
        let (named_by, named_in) = match named_by {
            NamedBy::Component => ("config", None),
            NamedBy::Creator { what, key } => {
                ("trusted-creator", Some(NamedIn { kind: what, key }))
            }
            NamedBy::Unnamed => ("none", None),
            NamedBy::UntrustedCreator => ("not-trusted", None),
        };
        let (id, source_identity) = known(session, subject);
        Some(Self {
            id,
            named_by,
            named_in,
            source_identity,
            role_arn: session.role.to_string(),
            source: roles.location(&session.tenant),
            transport: match gives {
                Gives::Sidecar(_, transport) => Some(transport.to_string()),
                Gives::Env(_) | Gives::Keep | Gives::Nothing => None,
            },
            base_role_arn: None,
            on_behalf_of: session.on_behalf_of.as_ref().map(ToString::to_string),
        })
    }
}

/// Returns the base role of the pod's sidecar, if the config names it.
fn base_role(
    injection: &Injection,
    matched: Option<Matched<'_>>,
    config: &Config,
) -> Option<String> {
    match (&injection.gives, &config.base_credentials) {
        (Gives::Sidecar(session, SessionTransport::RoleChain), BaseCredentials::Irsa(template)) => {
            Some(template.of(&session.tenant, matched?.component))
        }
        _ => None,
    }
}

/// Returns session and SourceIdentity. For a pod of the cluster, a pod name or UID that the kubelet
/// sets is filled in.
fn known(session: &Session, subject: &Subject<'_>) -> (String, String) {
    let of_kubelet = match (subject, &session.id) {
        (Subject::Proposed(..), _) | (_, SessionId::Known(_)) => None,
        (Subject::Existing { pod, .. }, SessionId::PodName) => pod.pointer("/metadata/name"),
        (Subject::Existing { pod, .. }, SessionId::PodUid) => pod.pointer("/metadata/uid"),
        // The issuer's answer names it.
        (Subject::Existing { .. }, SessionId::SandboxClaim) => None,
    };
    match of_kubelet.and_then(Value::as_str).and_then(|name| name.parse().ok()) {
        Some(name) => {
            let identity = SourceIdentity::of(&session.tenant, &name);
            (name.as_str().to_owned(), identity.to_string())
        }
        None => (session.id.to_string(), session.identity_for_people()),
    }
}

fn mode<S: Serializer>(mode: &Option<Mode>, serializer: S) -> Result<S::Ok, S::Error> {
    mode.map(Mode::as_str).serialize(serializer)
}

fn name_of(passed: Passed) -> &'static str {
    match passed {
        Passed::Exempt => "exempt",
        Passed::NotAnAgent => "not-an-agent",
        Passed::NotOptedIn => "not-opted-in",
    }
}
