//! The components: which pods are agents, and what each kind of agent gets.

use super::{
    COMPONENT_LABEL, Creator, Glob, SANDBOX_LABEL, Selector, SessionTransport, reader::Section,
};
use crate::session::StartGate;

/// A kind of agent pod: how it is matched and what it gets.
#[derive(Clone, Debug)]
pub struct Component {
    pub name: String,
    /// An alternative to the next three fields: one match is enough.
    pub selectors: Vec<Selector>,
    pub service_accounts: Vec<Glob>,
    /// Globs of the requesting user (`userInfo.username`).
    pub creators: Vec<Glob>,
    /// Whether every pod of a fenced service account matches.
    pub fenced: bool,
    pub credentials: CredentialsMode,
    pub session: SessionSource,
    pub start_gate: StartGate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CredentialsMode {
    /// Role and identity as variables only; base credentials stay.
    Env,
    /// The pod is left unchanged.
    Exempt,
    /// Base credentials are withheld, and nothing is added.
    Nothing,
    /// Session credentials from the sidecar.
    Sidecar,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionSource {
    /// The name that a trusted creator gives, else the pod's UID.
    CreatorOrUid,
    PodName,
    PodUid,
    /// The UID of the SandboxClaim that gets the pod, which the session issuer reads.
    SandboxClaim,
}

/// The component of a pod, and why it matches.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'c> {
    pub component: &'c Component,
    pub matcher: Matcher<'c>,
}

/// Why a component matches a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Matcher<'c> {
    Creator(&'c Glob),
    /// One of the config's `fencedServiceAccounts`.
    FencedServiceAccount(&'c Glob),
    Selector(&'c Selector),
    ServiceAccount(&'c Glob),
}

/// The properties of a pod that components match.
pub trait PodProperties {
    fn creator(&self) -> Creator<'_>;
    fn label(&self, key: &str) -> Option<&str>;
    fn service_account(&self) -> &str;
}

impl Component {
    /// Returns the first alternative that matches. `fence` finds the glob of
    /// `fencedServiceAccounts` that matches a service account.
    pub(super) fn matcher<'c>(
        &'c self,
        pod: &impl PodProperties,
        fence: impl Fn(&str) -> Option<&'c Glob>,
    ) -> Option<Matcher<'c>> {
        let Self { selectors, service_accounts, creators, fenced, .. } = self;
        let account = pod.service_account();
        let of = |globs: &'c [Glob], name: &str| globs.iter().find(|glob| glob.matches(name));
        selectors
            .iter()
            .find(|selector| selector.matches(|key| pod.label(key)))
            .map(Matcher::Selector)
            .or_else(|| of(service_accounts, account).map(Matcher::ServiceAccount))
            .or_else(|| pod.creator().listed_in(creators).map(Matcher::Creator))
            .or_else(|| fence(account).filter(|_| *fenced).map(Matcher::FencedServiceAccount))
    }

    /// Returns the transport of a pod in a namespace with this transport. The session of a claim
    /// always has the session issuer, which alone knows it.
    pub fn transport(
        &self,
        namespace: Option<SessionTransport>,
        config: SessionTransport,
    ) -> SessionTransport {
        match self.session {
            SessionSource::SandboxClaim => SessionTransport::WebIdentity,
            SessionSource::CreatorOrUid | SessionSource::PodName | SessionSource::PodUid => {
                namespace.unwrap_or(config)
            }
        }
    }

    /// Reports whether one of the selectors names this value of the label.
    pub fn names_value(&self, label: &str, value: &str) -> bool {
        self.selectors.iter().any(|selector| selector.names(label, value))
    }
}

pub(super) fn read(root: &mut Section<'_>) -> Vec<Component> {
    let Some(sections) = root.sections("components") else {
        return defaults();
    };
    let mut components: Vec<Component> = Vec::with_capacity(sections.len());
    for mut section in sections {
        let session = section.choice("session", SessionSource::CreatorOrUid, SESSION_SOURCES);
        let gate = match session {
            SessionSource::SandboxClaim => StartGate::Listening,
            _ => StartGate::Credentials,
        };
        let component = Component {
            name: section.text("name", ""),
            selectors: section.list("selectors").unwrap_or_default(),
            service_accounts: section.list("serviceAccounts").unwrap_or_default(),
            creators: section.list("creators").unwrap_or_default(),
            fenced: section.truth("fenced"),
            credentials: section.choice("credentials", CredentialsMode::Sidecar, CREDENTIALS),
            session,
            start_gate: section.parsed("startGate", gate),
        };
        report_problems(&component, &components, &section);
        if component.session == SessionSource::SandboxClaim {
            report_problems_of_claims(&component, &components, &section);
        }
        section.close();
        components.push(component);
    }
    if !components.iter().any(|component| component.fenced) {
        root.problem(
            "components",
            "no component has fenced: true, so a pod of a fenced service account may match no component; set it on the last component",
        );
    }
    components
}

fn report_problems(component: &Component, earlier: &[Component], section: &Section<'_>) {
    let Component { name, selectors, service_accounts, creators, fenced, credentials, .. } =
        component;
    if !is_plain(name) {
        section.problem("name", "expected 1 to 63 characters of a-z, 0-9 and '-'");
    }
    if earlier.iter().any(|other| other.name == *name) {
        section.problem(
            "name",
            format!("{name:?} is the name of an earlier component; choose another"),
        );
    }
    if selectors.is_empty() && service_accounts.is_empty() && creators.is_empty() && !fenced {
        section.problem(
            "",
            "matches no pod; set selectors, serviceAccounts, creators or fenced: true",
        );
    }
    if *fenced && matches!(credentials, CredentialsMode::Env | CredentialsMode::Exempt) {
        section.problem("fenced", "credentials: env or exempt would end the protection of all fenced service accounts; list those that need it in serviceAccounts instead");
    }
    if matches!(credentials, CredentialsMode::Env | CredentialsMode::Exempt)
        && !selectors.is_empty()
    {
        section.problem(
            "selectors",
            "tenants write labels, so a selector cannot be used with credentials: env or exempt; use serviceAccounts or creators",
        );
    }
}

/// Reports what contradicts `session: sandbox-claim`. The session issuer trusts what only the
/// controller of the Sandboxes may write, so only its account may match.
fn report_problems_of_claims(component: &Component, earlier: &[Component], section: &Section<'_>) {
    let Component { selectors, service_accounts, creators, fenced, credentials, .. } = component;
    for (key, is_set) in [
        ("selectors", !selectors.is_empty()),
        ("serviceAccounts", !service_accounts.is_empty()),
        ("fenced", *fenced),
    ] {
        if is_set {
            section.problem(
                key,
                "tenants choose it, so it cannot be used with session: sandbox-claim; remove it, and list the controller's account in creators",
            );
        }
    }
    if creators.is_empty() {
        section.problem(
            "creators",
            "is empty; session: sandbox-claim needs the account of the agent-sandbox controller, such as system:serviceaccount:agent-sandbox-system:agent-sandbox-controller",
        );
    }
    if creators.iter().any(|creator| creator.example().contains('*')) {
        section.problem(
            "creators",
            "has a '*', which may match an account of a tenant; with session: sandbox-claim, list the account of the agent-sandbox controller in full",
        );
    }
    if let Some(other) = earlier.iter().find(|other| other.session != SessionSource::SandboxClaim) {
        section.problem(
            "",
            format!(
                "comes after {}, which may match the controller's pods first; put a component with session: sandbox-claim before the others",
                other.name
            ),
        );
    }
    if *credentials != CredentialsMode::Sidecar {
        section.problem(
            "credentials",
            "session: sandbox-claim needs the sidecar, which waits for the claim; remove the key or set sidecar",
        );
    }
    if component.start_gate == StartGate::Credentials {
        section.problem(
            "startGate",
            "a pod of a warm pool has no credentials until it is claimed, so it would never start; remove the key or set listening",
        );
    }
}

/// Reports whether the name can be a value of an annotation and of a metric's label.
fn is_plain(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
}

fn defaults() -> Vec<Component> {
    let labels = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    let of_component = |value: &str| format!("{COMPONENT_LABEL}={value}");
    vec![
        Component {
            name: "dispatcher".to_owned(),
            selectors: labels(&[&of_component("dispatcher")]),
            service_accounts: vec![Glob::new("fab")],
            creators: Vec::new(),
            fenced: false,
            credentials: CredentialsMode::Sidecar,
            session: SessionSource::CreatorOrUid,
            start_gate: StartGate::Listening,
        },
        Component {
            name: "fleet".to_owned(),
            selectors: labels(&["agents.nanohype.dev/agent"]),
            service_accounts: Vec::new(),
            creators: Vec::new(),
            fenced: false,
            credentials: CredentialsMode::Nothing,
            session: SessionSource::CreatorOrUid,
            start_gate: StartGate::Credentials,
        },
        Component {
            name: "runtime".to_owned(),
            selectors: labels(&[
                &of_component("runtime"),
                &format!("{COMPONENT_OF_APP}=agent-sandbox"),
                SANDBOX_LABEL,
            ]),
            service_accounts: Vec::new(),
            creators: Vec::new(),
            fenced: true,
            credentials: CredentialsMode::Sidecar,
            session: SessionSource::CreatorOrUid,
            start_gate: StartGate::Credentials,
        },
    ]
}

/// The recommended label of a component within an application.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/>
pub const COMPONENT_OF_APP: &str = "app.kubernetes.io/component";
const CREDENTIALS: &[(&str, CredentialsMode)] = &[
    ("sidecar", CredentialsMode::Sidecar),
    ("env", CredentialsMode::Env),
    ("none", CredentialsMode::Nothing),
    ("exempt", CredentialsMode::Exempt),
];
const SESSION_SOURCES: &[(&str, SessionSource)] = &[
    ("creator-or-uid", SessionSource::CreatorOrUid),
    ("pod-uid", SessionSource::PodUid),
    ("pod-name", SessionSource::PodName),
    ("sandbox-claim", SessionSource::SandboxClaim),
];
