//! Which pods are agents, and what each kind is given.

use super::{COMPONENT_LABEL, Creator, Glob, SANDBOX_LABEL, Selector, reader::Section};
use crate::session::StartGate;

/// A kind of agent pod: how it is recognised and what it gets.
#[derive(Clone, Debug)]
pub struct Component {
    pub name: String,
    /// Alternatives, together with the three below: one that holds is enough.
    pub selectors: Vec<Selector>,
    pub service_accounts: Vec<Glob>,
    /// The pod's creator, as the API server knows it (`userInfo.username`).
    pub creators: Vec<Glob>,
    /// Any pod of a fenced service account.
    pub fenced: bool,
    pub credentials: Credentials,
    pub session: SessionSource,
    pub start_gate: StartGate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Credentials {
    /// Role and identity as variables only; base credentials stay.
    Env,
    /// Not touched at all.
    Exempt,
    /// Base credentials are withheld, nothing else.
    Nothing,
    /// Session credentials by the sidecar.
    Sidecar,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionSource {
    /// What a listed creator says, else the pod's uid.
    CreatorOrUid,
    PodName,
    PodUid,
}

/// A component that a pod is of, and what of it held.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'c> {
    pub component: &'c Component,
    pub matcher: Matcher<'c>,
}

/// What of a component held for a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Matcher<'c> {
    Creator(&'c Glob),
    /// One of the config's `fencedServiceAccounts`.
    FencedServiceAccount(&'c Glob),
    Selector(&'c Selector),
    ServiceAccount(&'c Glob),
}

/// What a component looks at.
pub trait Pod {
    fn creator(&self) -> Creator<'_>;
    fn label(&self, key: &str) -> Option<&str>;
    fn service_account(&self) -> &str;
}

impl Component {
    /// The first of the alternatives that holds. `fence` finds the pattern that fences a service
    /// account.
    pub(super) fn matcher<'c>(
        &'c self,
        pod: &impl Pod,
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

    /// Whether one of the selectors knows this value of the label.
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
        let component = Component {
            name: section.text("name", ""),
            selectors: section.list("selectors").unwrap_or_default(),
            service_accounts: section.list("serviceAccounts").unwrap_or_default(),
            creators: section.list("creators").unwrap_or_default(),
            fenced: section.truth("fenced"),
            credentials: section.choice("credentials", Credentials::Sidecar, CREDENTIALS),
            session: section.choice("session", SessionSource::CreatorOrUid, SESSION_SOURCES),
            start_gate: section.parsed("startGate", StartGate::Credentials),
        };
        judge(&component, &components, &section);
        section.close();
        components.push(component);
    }
    if !components.iter().any(|component| component.fenced) {
        root.problem(
            "components",
            "no component has fenced: true, so a pod of a fenced service account could go unseen; set it on the last one",
        );
    }
    components
}

fn judge(component: &Component, earlier: &[Component], section: &Section<'_>) {
    let Component { name, selectors, service_accounts, creators, fenced, credentials, .. } =
        component;
    if !is_plain(name) {
        section.problem("name", "want 1 to 63 characters of a-z, 0-9 and '-'");
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
            "matches no pod; give it selectors, serviceAccounts, creators or fenced: true",
        );
    }
    if *fenced && matches!(credentials, Credentials::Env | Credentials::Exempt) {
        section.problem("fenced", "credentials: env or exempt would take the fence away; list the service accounts that it is for");
    }
    if matches!(credentials, Credentials::Env | Credentials::Exempt) && !selectors.is_empty() {
        section.problem(
            "selectors",
            "a tenant writes labels, so they cannot choose credentials: env or exempt; use serviceAccounts or creators",
        );
    }
}

/// The name becomes a value of an annotation and of a metric's label.
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
            credentials: Credentials::Sidecar,
            session: SessionSource::CreatorOrUid,
            start_gate: StartGate::Listening,
        },
        Component {
            name: "fleet".to_owned(),
            selectors: labels(&["agents.nanohype.dev/agent"]),
            service_accounts: Vec::new(),
            creators: Vec::new(),
            fenced: false,
            credentials: Credentials::Nothing,
            session: SessionSource::CreatorOrUid,
            start_gate: StartGate::Credentials,
        },
        Component {
            name: "runtime".to_owned(),
            selectors: labels(&[
                &of_component("runtime"),
                "app.kubernetes.io/component=agent-sandbox",
                SANDBOX_LABEL,
            ]),
            service_accounts: Vec::new(),
            creators: Vec::new(),
            fenced: true,
            credentials: Credentials::Sidecar,
            session: SessionSource::CreatorOrUid,
            start_gate: StartGate::Credentials,
        },
    ]
}

const CREDENTIALS: &[(&str, Credentials)] = &[
    ("sidecar", Credentials::Sidecar),
    ("env", Credentials::Env),
    ("none", Credentials::Nothing),
    ("exempt", Credentials::Exempt),
];
const SESSION_SOURCES: &[(&str, SessionSource)] = &[
    ("creator-or-uid", SessionSource::CreatorOrUid),
    ("pod-uid", SessionSource::PodUid),
    ("pod-name", SessionSource::PodName),
];
