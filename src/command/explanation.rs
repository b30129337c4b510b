//! What is said of one pod: in text and in JSON, from the same fields.

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

/// What becomes of a pod, and what that came from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    object: String,
    namespace: String,
    /// None: not opted in.
    #[serde(serialize_with = "mode")]
    mode: Option<Mode>,
    tenant: Option<String>,
    creator: Creator,
    /// As in log and metrics.
    decision: &'static str,
    #[serde(skip)]
    becomes: String,
    passed: Option<&'static str>,
    refusal: Option<Said>,
    component: Option<Component>,
    session: Option<Identity>,
    warnings: Vec<String>,
    standing: Option<Stands>,
}

/// The pod in question.
#[derive(Debug)]
pub(super) enum Subject<'p> {
    /// Nobody has created it: it is an object that is one, or has its template.
    Proposed(&'p Value),
    /// It is in the cluster.
    Standing { pod: &'p Value, standing: Standing },
}

/// Who creates the pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "known", content = "username")]
pub(super) enum Creator {
    /// As the command line says.
    Given(String),
    /// One of those whom this rule of the config names, as what stands on the pod shows.
    Likely(String),
    Unknown,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    code: &'static str,
    sentence: String,
    remedy: String,
    may_heal: bool,
}

#[derive(Debug, Serialize)]
struct Component {
    name: String,
    matcher: &'static str,
    /// What of the config held.
    holds: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    id: String,
    named_by: &'static str,
    /// Where on the pod a creator named it.
    named_in: Option<NamedIn>,
    source_identity: String,
    role_arn: String,
    place: String,
}

#[derive(Debug, Serialize)]
struct NamedIn {
    /// `annotation` or `label`.
    kind: &'static str,
    key: &'static str,
}

/// How a pod that is there compares with what a new one would become.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stands {
    #[serde(flatten)]
    compared: Compared,
    /// Who may have created it, whose pods are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    unless_by: Option<String>,
}

/// Of an explanation, the worst last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Verdict {
    Fine,
    /// What it takes to decide was not to be had.
    Undecided,
    /// Refused, or not what it should be.
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
        let (passed, refusal, session) = match &decision {
            Decision::Inject(injection) => (None, None, Identity::of(&subject, injection, roles)),
            Decision::Pass(passed) => (Some(name_of(*passed)), None, None),
            Decision::Refuse(refusal) => (None, Some(Said::of(refusal)), None),
        };
        let (object, standing) = match subject {
            Subject::Proposed(object) => (object, None),
            // In audit pods are as they come.
            Subject::Standing { pod, .. } if namespace.mode == Some(Mode::Audit) => (pod, None),
            Subject::Standing { pod, standing: Standing { compared, likely: _, excused } } => {
                let unless_by = excused.map(|glob| glob.to_string());
                (pod, Some(Stands { compared, unless_by }))
            }
        };
        Self {
            object: manifest::title(object),
            namespace: namespace.name.clone(),
            mode: namespace.mode,
            tenant: namespace.tenant.as_ref().ok().map(ToString::to_string),
            creator,
            decision: match &decision {
                Decision::Inject(injection) => injection.gives.as_str(),
                Decision::Pass(_) => "pass",
                Decision::Refuse(_) => "refuse",
            },
            becomes: becomes(&decision, namespace.mode),
            passed,
            refusal,
            component: matched.map(Component::of),
            session,
            warnings,
            standing,
        }
    }

    /// In audit nothing is refused, and nothing is missing on a pod. One that ended is past both.
    pub(super) fn verdict(&self) -> Verdict {
        let may_heal = self.refusal.as_ref().is_some_and(|said| said.may_heal);
        match &self.standing {
            Some(Stands { compared: Compared::Ended, .. }) => Verdict::Fine,
            Some(stands) if self.mode.is_some() && !stands.compared.is_in_order() => {
                if stands.unless_by.is_some() { Verdict::Undecided } else { Verdict::Wrong }
            }
            _ if may_heal => Verdict::Undecided,
            _ if self.refusal.is_some() && self.mode == Some(Mode::Enabled) => Verdict::Wrong,
            _ => Verdict::Fine,
        }
    }

    /// One JSON object and a line's end.
    pub(super) fn json(&self) -> String {
        // Text, truth values and lists of them: there is nothing in it that JSON cannot say.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        format!("{text}\n")
    }
}

impl Creator {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Given(name) | Self::Likely(name) => name,
            Self::Unknown => "",
        }
    }
}

impl Said {
    fn of(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code(),
            sentence: refusal.sentence(),
            remedy: refusal.remedy(),
            may_heal: refusal.may_heal(),
        }
    }
}

impl Component {
    fn of(matched: Matched<'_>) -> Self {
        let Matched { component, matcher } = matched;
        let (matcher, holds) = match matcher {
            Matcher::Creator(glob) => ("creator", glob.to_string()),
            Matcher::FencedServiceAccount(glob) => ("fenced-service-account", glob.to_string()),
            Matcher::Selector(selector) => ("label-selector", selector.to_string()),
            Matcher::ServiceAccount(glob) => ("service-account", glob.to_string()),
        };
        Self { name: component.name.clone(), matcher, holds }
    }
}

impl Identity {
    fn of(subject: &Subject<'_>, injection: &Injection, roles: &Directory) -> Option<Self> {
        let Injection { component: _, gives, named_by } = injection;
        let (session, named_by) = (gives.session()?, (*named_by)?);
        let (named_by, named_in) = match named_by {
            NamedBy::Component => ("config", None),
            NamedBy::Creator { what, key } => ("creator", Some(NamedIn { kind: what, key })),
            NamedBy::Nobody => ("nobody", None),
            NamedBy::Unlisted => ("nobody-listed", None),
        };
        let (id, source_identity) = known(session, subject);
        Some(Self {
            id,
            named_by,
            named_in,
            source_identity,
            role_arn: session.role.to_string(),
            place: roles.place(&session.tenant),
        })
    }
}

/// Session and SourceIdentity; of a pod that is there, what the kubelet makes of them.
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

/// What follows "stands".
impl fmt::Display for Stands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, unless_by } = self;
        let (how, then) = match compared {
            Compared::AsMade => ("as the webhook leaves it", ""),
            Compared::Differs(_) => ("other than the webhook makes it, at ", "; replace the pod"),
            Compared::Ended => ("no more: it has ended", ""),
            Compared::LeftOver => {
                ("with a sidecar that a new pod would not get", "; replace the pod to be rid of it")
            }
            Compared::NoSidecar => (
                "without a sidecar: it was created before the namespace opted in, or unseen by the webhook",
                "; replace the pod",
            ),
            Compared::Refused(_) => {
                ("where a new one would not be let in", "; do what the remedy says, and replace it")
            }
        };
        f.write_str(how)?;
        if let Compared::Differs(places) = compared {
            f.write_str(&places.join(", "))?;
        }
        match unless_by {
            Some(creator) => {
                write!(f, ", unless one of {creator} created it, whose pods are left alone")
            }
            None => f.write_str(then),
        }
    }
}

fn mode<S: Serializer>(mode: &Option<Mode>, serializer: S) -> Result<S::Ok, S::Error> {
    mode.map(Mode::as_str).serialize(serializer)
}

/// A decision in words.
fn becomes(decision: &Decision, mode: Option<Mode>) -> String {
    let words = match decision {
        Decision::Inject(injection) => match injection.gives {
            Gives::Env(_) => "env: role and identity as variables, and base credentials stay",
            Gives::Keep(_) => "keep: the old client mode, and base credentials stay",
            Gives::Nothing => "withhold: base credentials are taken, and there are no others",
            Gives::Sidecar(_) => "inject: session credentials, by the sidecar",
        },
        Decision::Pass(Passed::Exempt) => return "pass: its component is exempt".to_owned(),
        Decision::Pass(Passed::NotAnAgent) => return "pass: no component matches it".to_owned(),
        Decision::Pass(Passed::NotOptedIn) => {
            return "pass: its namespace did not opt in".to_owned();
        }
        Decision::Refuse(_) => "refuse",
    };
    match mode {
        Some(Mode::Audit) => format!("stays as it is (audit); enabled, {words}"),
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
            creator,
            decision: _,
            becomes,
            passed: _,
            refusal,
            component,
            session,
            warnings,
            standing,
        } = self;
        writeln!(f, "{} in {}: {becomes}", harmless(object), harmless(namespace))?;
        let mut say = |what: &str, text: &str| writeln!(f, "  {what:<10} {}", harmless(text));
        let mode = mode.map_or("not opted in", Mode::as_str);
        let tenant =
            tenant.as_ref().map_or("no tenant".to_owned(), |name| format!("tenant {name}"));
        say("namespace", &format!("{mode}, {tenant}"))?;
        match creator {
            Creator::Given(name) => say("creator", name)?,
            Creator::Likely(name) => say(
                "creator",
                &format!(
                    "not recorded on a pod; judged as one of {name}, since it stands as made for them"
                ),
            )?,
            Creator::Unknown => say("creator", "not known, so judged as nobody's (--as says who)")?,
        }
        if let Some(Component { name, matcher, holds }) = component {
            say("component", &format!("{name}, by {} {holds}", matcher.replace('-', " ")))?;
        }
        if let Some(session) = session {
            let Identity { id, named_by, named_in, source_identity, role_arn, place } = session;
            let origin = match (*named_by, named_in) {
                // On a pod that is there, it may have been a label, and the annotation our copy.
                (_, Some(NamedIn { kind: "annotation", key })) if standing.is_some() => {
                    format!("named by the creator, and kept in the annotation {key}")
                }
                (_, Some(NamedIn { kind, key })) => {
                    format!("named by the creator in the {kind} {key}")
                }
                ("config", None) => "as the config says".to_owned(),
                ("nobody", None) => "since the creator names none".to_owned(),
                (_, None) => "since no creator of sessionCreators names one".to_owned(),
            };
            say("session", &format!("{id}, {origin}"))?;
            say("identity", source_identity)?;
            say("role", role_arn)?;
            say("published", place)?;
        }
        if let Some(Said { code, sentence, remedy, may_heal }) = refusal {
            let lasts = if *may_heal { "may heal by itself" } else { "stays until it is mended" };
            say("code", &format!("{code}, {lasts}"))?;
            say("sentence", sentence)?;
            say("remedy", remedy)?;
        }
        for warning in warnings {
            say("warning", warning)?;
        }
        match standing {
            Some(stands) => say("stands", &stands.to_string()),
            None => Ok(()),
        }
    }
}
