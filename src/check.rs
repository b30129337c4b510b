//! What stands between an opted-in namespace and sessions with a name: facts in, findings out.
//!
//! Nothing here does I/O. What could not be seen arrives as such, and is named. What webhook and
//! sidecar judge themselves is asked of their own functions, and told in their own words.

mod account;
mod amount;
mod difference;
mod finding;
mod guard;
mod holes;
mod iam;
mod link;
mod network;
mod pods;
mod rights;
mod room;
mod tenancy;
mod webhook;

use std::{collections::HashMap, time::SystemTime};

use serde_json::Value;

pub use self::{
    account::{account_to_try, tenants},
    finding::{Finding, Findings, Level},
    iam::{Chain, Held, principals},
    link::{About, Link},
    pods::waits,
    tenancy::opted_in,
    webhook::{CONFIGURATION, service},
};
use crate::{config::Config, credentials, directory::Directory, session::TenantName};

/// What cluster and AWS hold, as far as it was seen. Objects are as the API server gave them.
#[derive(Debug)]
pub struct Facts {
    /// None: nobody was to look.
    pub account: Option<Account>,
    pub config: Config,
    /// All of the cluster.
    pub daemon_sets: Seen<Vec<Value>>,
    /// The tenants' roles. None: nobody was to look.
    pub directory: Option<Directory>,
    pub guard: Guard,
    pub namespaces: Seen<Vec<Value>>,
    pub now: SystemTime,
    /// ClusterRoles and their bindings.
    pub rights: Seen<Vec<Value>>,
    /// What is in the namespaces that opted in, by their names.
    pub tenancies: HashMap<String, Tenancy>,
    pub text: Text,
    pub webhook: Webhook,
}

/// The config as text.
#[derive(Debug)]
pub struct Text {
    /// As the release brought it.
    pub installed: Seen<Option<String>>,
    /// As it is. None: there is no release whose config this is.
    pub live: Option<String>,
    /// Where it is, for people.
    pub place: String,
}

/// What the API server is told of the webhook.
#[derive(Debug)]
pub struct Webhook {
    /// All MutatingWebhookConfigurations.
    pub configurations: Seen<Vec<Value>>,
    /// The Deployment that serves.
    pub deployment: Seen<Option<Value>>,
    /// The EndpointSlices of the webhook's service.
    pub endpoints: Seen<Vec<Value>>,
    /// The configuration as the release brought it.
    pub installed: Seen<Option<Value>>,
    /// The Deployment that keeps the certificate, where there is one.
    pub keeper: Seen<Option<Value>>,
    /// The Secret with the serving certificate.
    pub secret: Seen<Option<Value>>,
}

/// What the API server holds by itself.
#[derive(Debug)]
pub struct Guard {
    /// All ValidatingAdmissionPolicies, and their bindings.
    pub objects: Seen<Vec<Value>>,
    /// Ours, as the release brought them. Empty: it has no guard.
    pub installed: Seen<Option<Vec<Value>>>,
}

/// What is in one namespace.
#[derive(Debug)]
pub struct Tenancy {
    pub accounts: Seen<Vec<Value>>,
    pub limit_ranges: Seen<Vec<Value>>,
    pub pods: Seen<Vec<Value>>,
    pub quotas: Seen<Vec<Value>>,
    /// Roles and RoleBindings.
    pub rights: Seen<Vec<Value>>,
    /// What became of an agent's pod that was started to see. None: none was.
    pub trial: Option<Trial>,
}

/// How an agent's pod fared that does nothing but end once it has started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trial {
    /// It was created without a sidecar.
    Bare,
    /// Its sidecar had credentials, so it started.
    Ended,
    /// Its sidecar has none, and says why.
    Held(String),
    /// The API server did not take it.
    Refused(String),
    /// The API server did not say whether it takes it.
    Unanswered(String),
    /// There was none, and why.
    Untried(String),
    /// Nothing of that, for as long as one waits.
    Waiting(String),
}

/// What AWS holds.
#[derive(Debug)]
pub struct Account {
    /// Whether the role of each tenant was assumed. None: nobody was to try.
    pub assumed: Option<HashMap<TenantName, Result<(), credentials::Failure>>>,
    /// What IAM holds of each tenant's role.
    pub chains: HashMap<TenantName, Chain>,
}

/// What was looked for, or why nobody let us look.
#[derive(Clone, Debug)]
pub enum Seen<T> {
    Hidden(String),
    Known(T),
}

/// Walks the whole chain.
pub fn findings(facts: &Facts) -> Findings {
    let mut found = Findings::default();
    holes::is_as_installed(&facts.text, &mut found);
    holes::judge(&facts.config, &mut found);
    webhook::judge(facts, &mut found);
    guard::judge(&facts.guard, &mut found);
    network::judge(facts, &mut found);
    tenancy::judge(facts, &mut found);
    account::judge(facts, &mut found);
    found.in_order()
}

impl<T> Seen<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Hidden(why) => Seen::Hidden(why),
            Self::Known(known) => Seen::Known(change(known)),
        }
    }

    /// What is known; what is not is told of the link.
    fn or_tell(&self, link: Link, subject: &str, found: &mut Findings) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Hidden(why) => {
                found.unseen(link, subject, why);
                None
            }
        }
    }
}

impl<T> Seen<Vec<T>> {
    /// Both, or the first that is hidden.
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
