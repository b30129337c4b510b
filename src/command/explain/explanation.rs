//! The report on one pod, printed as text and as JSON from the same fields.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::{
    admission::{
        Compared, Decision, Explained, Gives, Injection, NamedBy, Passed, Refusal, Standing,
    },
    config::{Matched, Matcher},
    directory::Directory,
    manifest,
    namespaces::{Mode, Namespace},
    session::{Session, SessionId, SourceIdentity},
    terminal::harmless,
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
    requesting_user: Creator,
    /// The value in log and metrics.
    decision: &'static str,
    #[serde(skip)]
    becomes: String,
    /// Why the pod is left unchanged.
    unchanged: Option<&'static str>,
    refusal: Option<Said>,
    component: Option<Component>,
    session: Option<Identity>,
    warnings: Vec<String>,
    drift: Option<Stands>,
}

/// The explained pod.
#[derive(Debug)]
pub(super) enum Subject<'p> {
    /// Not created yet: the object is a pod, or has a pod template.
    Proposed(&'p Value),
    /// A pod of the cluster.
    Standing { pod: &'p Value, standing: Standing },
}

/// The requesting user: who creates the pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "known", content = "username")]
pub(super) enum Creator {
    /// Given on the command line.
    Given(String),
    /// A user that matches this glob of the config: the pod matches what is injected for such a
    /// user.
    Assumed(String),
    Unknown,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    code: &'static str,
    message: String,
    remedy: String,
    /// Whether a retry without any change may be admitted (HTTP 503).
    transient: bool,
}

#[derive(Debug, Serialize)]
struct Component {
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
struct Stands {
    #[serde(flatten)]
    compared: Compared,
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
        creator: Creator,
        explained: Explained<'_>,
        roles: &Directory,
    ) -> Self {
        let Explained { decision, matched, operations: _, warnings, missing: _ } = explained;
        let (unchanged, refusal, session) = match &decision {
            Decision::Inject(injection) => (None, None, Identity::of(&subject, injection, roles)),
            Decision::Pass(passed) => (Some(name_of(*passed)), None, None),
            Decision::Refuse(refusal) => (None, Some(Said::of(refusal)), None),
        };
        let (object, drift) = match subject {
            Subject::Proposed(object) => (object, None),
            // In audit, pods are never changed.
            Subject::Standing { pod, .. } if namespace.mode == Some(Mode::Audit) => (pod, None),
            Subject::Standing { pod, standing: Standing { compared, likely: _, excused } } => {
                let possible_exemptions = excused.iter().map(ToString::to_string).collect();
                (pod, Some(Stands { compared, possible_exemptions }))
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
                Decision::Refuse(_) => "refuse",
            },
            becomes: becomes(&decision, namespace.mode),
            unchanged,
            refusal,
            component: matched.map(Component::of),
            session,
            warnings,
            drift,
        }
    }

    /// In audit no pod is refused and no pod is compared. A pod that has completed has no error.
    pub(super) fn verdict(&self) -> Verdict {
        let transient = self.refusal.as_ref().is_some_and(|said| said.transient);
        match &self.drift {
            Some(Stands { compared: Compared::Ended, .. }) => Verdict::Fine,
            Some(stands) if self.mode.is_some() && !stands.compared.is_in_order() => {
                if stands.possible_exemptions.is_empty() {
                    Verdict::Wrong
                } else {
                    Verdict::Undecided
                }
            }
            _ if transient => Verdict::Undecided,
            _ if self.refusal.is_some() && self.mode == Some(Mode::Enabled) => Verdict::Wrong,
            _ => Verdict::Fine,
        }
    }

    /// Returns one JSON object and a line break.
    pub(super) fn json(&self) -> String {
        // Serialization cannot fail: the fields are strings, booleans, maps and lists of them.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        format!("{text}\n")
    }
}

impl Creator {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Given(name) | Self::Assumed(name) => name,
            Self::Unknown => "",
        }
    }
}

impl Said {
    fn of(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code(),
            message: refusal.sentence(),
            remedy: refusal.remedy(),
            transient: refusal.may_heal(),
        }
    }
}

impl Component {
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
    fn of(subject: &Subject<'_>, injection: &Injection, roles: &Directory) -> Option<Self> {
        let Injection { component: _, gives, named_by } = injection;
        let (session, named_by) = (gives.session()?, (*named_by)?);
        let (named_by, named_in) = match named_by {
            NamedBy::Component => ("config", None),
            NamedBy::Creator { what, key } => {
                ("trusted-creator", Some(NamedIn { kind: what, key }))
            }
            NamedBy::Nobody => ("none", None),
            NamedBy::Unlisted => ("not-trusted", None),
        };
        let (id, source_identity) = known(session, subject);
        Some(Self {
            id,
            named_by,
            named_in,
            source_identity,
            role_arn: session.role.to_string(),
            source: roles.place(&session.tenant),
        })
    }
}

/// Returns session and SourceIdentity. For a pod of the cluster, a pod name or UID that the kubelet
/// sets is filled in.
fn known(session: &Session, subject: &Subject<'_>) -> (String, String) {
    let of_kubelet = match (subject, &session.id) {
        (Subject::Proposed(_), _) | (_, SessionId::Known(_)) => None,
        (Subject::Standing { pod, .. }, SessionId::PodName) => pod.pointer("/metadata/name"),
        (Subject::Standing { pod, .. }, SessionId::PodUid) => pod.pointer("/metadata/uid"),
    };
    match of_kubelet.and_then(Value::as_str).and_then(|name| name.parse().ok()) {
        Some(name) => {
            let identity = SourceIdentity::of(&session.tenant, &name);
            (name.as_str().to_owned(), identity.to_string())
        }
        None => (session.id.to_string(), session.identity_for_people()),
    }
}

/// The text after "drift".
impl fmt::Display for Stands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, possible_exemptions } = self;
        let (what, remedy) = match compared {
            Compared::AsMade => ("none: the pod matches current injection", ""),
            Compared::Differs(_) => ("differs from current injection at ", "; replace the pod"),
            Compared::Ended => ("not compared: the pod has completed or is being deleted", ""),
            Compared::LeftOver => (
                "orphaned: the pod has a sidecar that a new pod would not get",
                "; replace the pod to remove the sidecar",
            ),
            Compared::NoSidecar => (
                "not injected: the pod was created before the namespace opted in, or without a call to the webhook",
                "; replace the pod",
            ),
            Compared::Refused(_) => (
                "would be refused if created now",
                "; follow the remedy in the refusal, then replace the pod",
            ),
        };
        f.write_str(what)?;
        if let Compared::Differs(paths) = compared {
            f.write_str(&paths.join(", "))?;
        }
        if possible_exemptions.is_empty() {
            return f.write_str(remedy);
        }
        write!(
            f,
            "; unknown whether this is an error: the pod may have been created by {}, which is exempt (set --as)",
            possible_exemptions.join(", ")
        )
    }
}

fn mode<S: Serializer>(mode: &Option<Mode>, serializer: S) -> Result<S::Ok, S::Error> {
    mode.map(Mode::as_str).serialize(serializer)
}

/// Describes a decision in words.
fn becomes(decision: &Decision, mode: Option<Mode>) -> String {
    let words = match decision {
        Decision::Inject(injection) => match injection.gives {
            Gives::Env(_) => "env: role and identity as variables; base credentials stay",
            Gives::Keep(_) => "keep: variables only, for FAB_OPERATOR; base credentials stay",
            Gives::Nothing => "withhold: base credentials are removed, no others are given",
            Gives::Sidecar(_) => "inject: session credentials from the sidecar",
        },
        Decision::Pass(Passed::Exempt) => return "pass: its component is exempt".to_owned(),
        Decision::Pass(Passed::NotAnAgent) => return "pass: no component matches it".to_owned(),
        Decision::Pass(Passed::NotOptedIn) => {
            return "pass: its namespace has not opted in".to_owned();
        }
        Decision::Refuse(_) => "refuse",
    };
    match mode {
        Some(Mode::Audit) => format!("left unchanged (audit); if enabled: {words}"),
        Some(Mode::Enabled) | None => words.to_owned(),
    }
}

fn name_of(passed: Passed) -> &'static str {
    match passed {
        Passed::Exempt => "exempt",
        Passed::NotAnAgent => "not-an-agent",
        Passed::NotOptedIn => "not-opted-in",
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            namespace,
            mode,
            tenant,
            requesting_user,
            decision: _,
            becomes,
            unchanged: _,
            refusal,
            component,
            session,
            warnings,
            drift,
        } = self;
        writeln!(f, "{} in {}: {becomes}", harmless(object), harmless(namespace))?;
        let mut say = |what: &str, text: &str| writeln!(f, "  {what:<10} {}", harmless(text));
        let mode = mode.map_or("not opted in", Mode::as_str);
        let tenant =
            tenant.as_ref().map_or("no tenant".to_owned(), |name| format!("tenant {name}"));
        say("namespace", &format!("{mode}, {tenant}"))?;
        match requesting_user {
            Creator::Given(name) => say("user", name)?,
            Creator::Assumed(name) => say(
                "user",
                &format!(
                    "not recorded on pods; assuming {name}, because the pod matches what is injected for it"
                ),
            )?,
            Creator::Unknown => {
                say("user", "unknown; assumed not to be a trusted creator (set --as)")?;
            }
        }
        if let Some(Component { name, matcher, matched }) = component {
            say("component", &format!("{name}, by {} {matched}", matcher.replace('-', " ")))?;
        }
        if let Some(session) = session {
            let Identity { id, named_by, named_in, source_identity, role_arn, source } = session;
            let origin = match (*named_by, named_in) {
                // On a pod of the cluster it may have been a label: the webhook copies the name
                // into the annotation.
                (_, Some(NamedIn { kind: "annotation", key })) if drift.is_some() => {
                    format!("named by the trusted creator, stored in the annotation {key}")
                }
                (_, Some(NamedIn { kind, key })) => {
                    format!("named by the trusted creator in the {kind} {key}")
                }
                ("config", None) => "set by the config".to_owned(),
                ("none", None) => "because the trusted creator names none".to_owned(),
                (_, None) => "because the requesting user is not a trusted creator".to_owned(),
            };
            say("session", &format!("{id}, {origin}"))?;
            say("identity", source_identity)?;
            say("role", role_arn)?;
            say("source", source)?;
        }
        if let Some(Said { code, message, remedy, transient }) = refusal {
            let lasts = if *transient {
                "HTTP 503, transient: clients retry"
            } else {
                "HTTP 403, permanent until fixed"
            };
            say("code", &format!("{code} ({lasts})"))?;
            say("message", message)?;
            say("remedy", remedy)?;
        }
        for warning in warnings {
            say("warning", warning)?;
        }
        match drift {
            Some(stands) => say("drift", &stands.to_string()),
            None => Ok(()),
        }
    }
}
