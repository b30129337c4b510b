//! The checks of an installation: takes facts of the cluster and AWS, and returns findings.
//!
//! Does no I/O. A fact that could not be read arrives as [`Seen::Hidden`] and becomes a finding of
//! level `unknown`. If the webhook or the sidecar makes the same check, their function is called
//! and their message is used.

mod config;
mod difference;
mod finding;
mod guard;
mod iam;
mod iam_policy;
mod id;
mod namespace;
mod network;
mod pods;
mod quota;
mod rights;
mod roles;
mod webhook;

use std::{collections::HashMap, time::SystemTime};

use serde_json::Value;

pub use self::{
    finding::{Finding, Findings, Level},
    iam::{Chain, Held},
    iam_policy::principals,
    id::{About, CheckId},
    namespace::opted_in,
    pods::waits,
    roles::{service_account_to_try, tenants},
    webhook::{CONFIGURATION, service},
};
use crate::{config::Config, credentials, roles::Roles, session::TenantName};

/// The facts of the cluster and AWS, as far as they could be read. Objects are as the API server
/// returned them.
#[derive(Debug)]
pub struct Facts {
    /// None: AWS is skipped.
    pub account: Option<Account>,
    pub config: Config,
    /// All DaemonSets of the cluster.
    pub daemon_sets: Seen<Vec<Value>>,
    /// The tenants' roles. None: they are in SSM, and AWS is skipped.
    pub roles: Option<Roles>,
    pub guard: Guard,
    pub namespaces: Seen<Vec<Value>>,
    pub now: SystemTime,
    /// ClusterRoles and ClusterRoleBindings.
    pub rights: Seen<Vec<Value>>,
    /// The contents of the opted-in namespaces, by name.
    pub contents: HashMap<String, NamespaceContents>,
    pub text: Text,
    pub webhook: Webhook,
}

/// The config as text.
#[derive(Debug)]
pub struct Text {
    /// As rendered by the release.
    pub installed: Seen<Option<String>>,
    /// As it is in the cluster. None: the ConfigMap of the release was not found.
    pub live: Option<String>,
    /// The ConfigMap, for messages.
    pub place: String,
}

/// The webhook configuration, and the objects of the release that serve it.
#[derive(Debug)]
pub struct Webhook {
    /// All MutatingWebhookConfigurations.
    pub configurations: Seen<Vec<Value>>,
    /// The Deployment of the webhook.
    pub deployment: Seen<Option<Value>>,
    /// The EndpointSlices of the webhook's service.
    pub endpoints: Seen<Vec<Value>>,
    /// The webhook configuration as rendered by the release.
    pub installed: Seen<Option<Value>>,
    /// The Deployment of certs, if the release has one.
    pub keeper: Seen<Option<Value>>,
    /// The Secret with the serving certificate.
    pub secret: Seen<Option<Value>>,
}

/// The policies and bindings of the guard, which the API server enforces itself.
#[derive(Debug)]
pub struct Guard {
    /// All ValidatingAdmissionPolicies and their bindings.
    pub objects: Seen<Vec<Value>>,
    /// The guard's, as rendered by the release. Empty: the release has no guard.
    pub installed: Seen<Option<Vec<Value>>>,
}

/// The contents of one namespace.
#[derive(Debug)]
pub struct NamespaceContents {
    pub accounts: Seen<Vec<Value>>,
    pub limit_ranges: Seen<Vec<Value>>,
    pub pods: Seen<Vec<Value>>,
    pub quotas: Seen<Vec<Value>>,
    /// Roles and RoleBindings.
    pub rights: Seen<Vec<Value>>,
    /// The result of the test pod. None: no test pod was started.
    pub trial: Option<Trial>,
}

/// The result of a test pod: an agent pod that ends as soon as it has started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trial {
    /// The pod was created without a sidecar.
    Bare,
    /// Another client deleted the pod before its result was known.
    Deleted,
    /// The sidecar got credentials, so the pod started and ended.
    Ended,
    /// The sidecar has no credentials; with the message of the pod's event.
    Held(String),
    /// The API server denied the pod; with its message.
    Refused(String),
    /// The API server did not process the request; with its message.
    Unanswered(String),
    /// No pod was created; with the reason.
    Untried(String),
    /// The pod neither started nor failed in time; with its phase and last event.
    Waiting(String),
}

/// The facts of AWS.
#[derive(Debug)]
pub struct Account {
    /// The result of assuming each tenant's role. None: not requested.
    pub assumed: Option<HashMap<TenantName, Result<(), credentials::AssumeRoleError>>>,
    /// The IAM policies of each tenant's role and of its base roles.
    pub chains: HashMap<TenantName, Chain>,
}

/// A fact, or the reason why it could not be read.
#[derive(Clone, Debug)]
pub enum Seen<T> {
    Hidden(String),
    Known(T),
}

/// Makes all checks.
pub fn findings(facts: &Facts) -> Findings {
    let mut found = Findings::default();
    config::is_as_installed(&facts.text, &mut found);
    config::check_exceptions(&facts.config, &mut found);
    webhook::check_webhook(facts, &mut found);
    guard::check_guard(&facts.guard, &mut found);
    network::check_network(facts, &mut found);
    namespace::check_namespaces(facts, &mut found);
    roles::check_roles(facts, &mut found);
    found.in_order()
}

impl<T> Seen<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Hidden(why) => Seen::Hidden(why),
            Self::Known(known) => Seen::Known(change(known)),
        }
    }

    /// Returns the known fact. If it is hidden, adds an unknown finding and returns None.
    fn or_report(&self, check: CheckId, subject: &str, found: &mut Findings) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Hidden(why) => {
                found.unknown(check, subject, why);
                None
            }
        }
    }
}

impl<T> Seen<Vec<T>> {
    /// Returns both lists as one, or the first hidden reason.
    pub fn beside(self, other: Self) -> Self {
        match (self, other) {
            (Self::Known(mut these), Self::Known(those)) => {
                these.extend(those);
                Self::Known(these)
            }
            (Self::Hidden(why), _) | (_, Self::Hidden(why)) => Self::Hidden(why),
        }
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn items<'v>(object: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    object[key].as_array().into_iter().flatten()
}
