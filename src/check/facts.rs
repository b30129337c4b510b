//! The facts from which the checks are made.

use std::{collections::HashMap, time::SystemTime};

use serde_json::Value;

use super::{
    Chain, CheckId, Findings, IssuerFacts, IssuerPods, KubernetesVersions, Objects, Preflight,
    Providers,
};
use crate::{config::Config, credentials, json::Json, roles::Roles, session::TenantName};

/// The facts of the cluster and AWS, as far as they could be read, without the contents of
/// namespaces. Objects are as the API server returned them.
#[derive(Debug)]
pub struct Facts<'c> {
    /// None: AWS is skipped.
    pub aws: Option<AwsFacts>,
    pub config: &'c Config,
    /// All DaemonSets of the cluster.
    pub daemon_sets: Seen<Objects>,
    /// None: the config has no session issuer, or AWS is skipped.
    pub issuer: Option<IssuerFacts>,
    /// None: the config has no session issuer.
    pub issuer_pods: Option<IssuerPods>,
    /// The tenants' roles. None: they are in SSM, and AWS is skipped.
    pub roles: Option<Roles>,
    pub namespaces: Seen<Objects>,
    /// Those whose pods get the session of a SandboxClaim: none without such a component.
    pub sandboxes: Seen<Objects>,
    pub release: ReleaseFacts,
    /// ClusterRoles and ClusterRoleBindings.
    pub rights: Seen<Objects>,
    pub kubernetes: KubernetesVersions,
}

/// The release of the chart, or what it takes to install one.
#[derive(Debug)]
pub enum ReleaseFacts {
    Installed { guard: Guard, now: SystemTime, text: ConfigText, webhook: Box<WebhookFacts> },
    Missing(Preflight),
}

/// The config as text.
#[derive(Debug)]
pub struct ConfigText {
    /// As rendered by the release.
    pub installed: Seen<Option<String>>,
    /// As it is in the cluster. None: the ConfigMap of the release was not found.
    pub live: Option<String>,
    /// The ConfigMap, for messages.
    pub place: String,
}

/// The webhook configuration, and the objects of the release that serve it.
#[derive(Debug)]
pub struct WebhookFacts {
    /// All MutatingWebhookConfigurations.
    pub configurations: Seen<Objects>,
    /// The Deployment of the webhook.
    pub deployment: Seen<Option<Value>>,
    /// The EndpointSlices of the webhook's service.
    pub endpoints: Seen<Objects>,
    /// The webhook configuration as rendered by the release.
    pub installed: Seen<Option<Value>>,
    /// The Deployment of certs, if the release has one.
    pub certs_deployment: Seen<Option<Value>>,
    /// The Secret with the serving certificate.
    pub secret: Seen<Option<Value>>,
}

/// The policies and bindings of the guard, which the API server enforces itself.
#[derive(Debug)]
pub struct Guard {
    /// All ValidatingAdmissionPolicies and their bindings.
    pub objects: Seen<Objects>,
    /// The guard's, as rendered by the release. Empty: the release has no guard.
    pub installed: Seen<Option<Vec<Value>>>,
}

/// The contents of one namespace.
#[derive(Debug)]
pub struct NamespaceContents {
    pub accounts: Seen<Objects>,
    pub limit_ranges: Seen<Objects>,
    pub network_policies: Seen<Objects>,
    pub pods: Seen<Objects>,
    pub quotas: Seen<Objects>,
    /// Roles and RoleBindings.
    pub rights: Seen<Objects>,
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
pub struct AwsFacts {
    /// The result of assuming each tenant's role. None: not requested.
    pub assumed: Option<HashMap<TenantName, Result<(), credentials::AssumeRoleError>>>,
    /// The IAM policies of each tenant's role and of its base roles.
    pub chains: HashMap<TenantName, Chain>,
    /// The session issuer's providers, in the accounts of the roles that trust it.
    pub providers: Providers,
}

/// A fact, or the reason why it could not be read.
#[derive(Clone, Debug)]
pub enum Seen<T> {
    Hidden(String),
    Known(T),
}

impl<T> Seen<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Hidden(why) => Seen::Hidden(why),
            Self::Known(known) => Seen::Known(change(known)),
        }
    }

    /// Returns the known fact. If it is hidden, adds an unknown finding and returns None.
    pub(super) fn or_report(
        &self,
        check: CheckId,
        subject: &str,
        found: &mut Findings,
    ) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Hidden(why) => {
                found.unknown(check, subject, why);
                None
            }
        }
    }
}

impl Seen<Objects> {
    /// Returns the objects. Empty if they are hidden.
    pub fn iter(&self) -> impl Iterator<Item = Json<'_>> {
        let known = match self {
            Self::Known(objects) => Some(objects),
            Self::Hidden(_) => None,
        };
        known.into_iter().flat_map(Objects::iter)
    }

    /// Returns both lists as one, or the first hidden reason.
    pub fn beside(self, other: Self) -> Self {
        match (self, other) {
            (Self::Known(these), Self::Known(those)) => Self::Known(these.beside(those)),
            (Self::Hidden(why), _) | (_, Self::Hidden(why)) => Self::Hidden(why),
        }
    }
}
