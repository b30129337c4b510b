//! The checks of an installation: takes facts of the cluster and AWS, and returns findings.
//!
//! Does no I/O. The caller reads and passes one namespace after the other, and none is kept. A fact
//! that could not be read arrives as [`Seen::Hidden`] and becomes a finding of level `unknown`. If
//! the webhook or the sidecar makes the same check, their function is called and their message is
//! used.

mod base_credentials;
mod config;
mod difference;
mod finding;
mod guard;
mod iam;
mod iam_policy;
mod iam_role;
mod id;
mod issuer;
mod issuer_trust;
mod kubernetes;
mod namespace;
mod network;
mod objects;
mod pods;
mod preflight;
mod quota;
mod revoked;
mod rights;
mod role_controls;
mod roles;
mod sandboxes;
mod transport;
mod unattributed;
mod versions;
mod webhook;

use std::{
    collections::{BTreeSet, HashMap},
    time::SystemTime,
};

use jiff::Timestamp;
use serde_json::Value;

pub use self::{
    base_credentials::ROLE_ANNOTATION,
    finding::{Finding, Findings, Level},
    iam_policy::principals,
    iam_role::{Boundary, Chain, Held},
    id::{About, CheckId},
    issuer::{IssuerFacts, Providers, PublishedText},
    kubernetes::{KubernetesVersions, Nodes},
    namespace::{as_enabled, opted_in},
    objects::Objects,
    pods::waits,
    preflight::Preflight,
    roles::{service_account_to_try, tenants},
    transport::Transports,
    unattributed::{Associations, ServiceAccount},
    webhook::{CONFIGURATION, service},
};
use self::{revoked::Revocations, rights::Granted, unattributed::Unattributed, versions::Versions};
use crate::{
    config::Config,
    credentials,
    json::Json,
    namespaces::Namespace,
    roles::Roles,
    session::{RoleArn, TenantName},
};

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

/// The checks that have been made, and what the next ones need.
#[derive(Debug)]
pub struct Checks<'c> {
    aws: Option<AwsFacts>,
    cluster_roles: Seen<Granted>,
    config: &'c Config,
    /// Since when the guard's rule about the issuer's tokens denies.
    guard_since: Option<Timestamp>,
    roles: Option<Roles>,
    found: Findings,
    revocations: Revocations,
    tenants: BTreeSet<TenantName>,
    transports: Transports,
    /// The results of the test pods, and their namespaces.
    trials: Vec<(String, Trial)>,
    unattributed: Unattributed,
    /// None: there is no release yet.
    versions: Option<Versions>,
}

impl<'c> Checks<'c> {
    /// Makes the checks of the cluster.
    pub fn of_cluster(facts: Facts<'c>) -> Self {
        let Facts {
            aws,
            config,
            daemon_sets,
            issuer,
            roles,
            namespaces,
            sandboxes,
            release,
            rights,
            kubernetes,
        } = facts;
        let (cluster_roles, rights) = rights::check_cluster_rights(&rights);
        let (guard_since, guard) = match &release {
            ReleaseFacts::Installed { guard, .. } => issuer::check_guard(&guard.objects, config),
            ReleaseFacts::Missing(_) => (None, Findings::default()),
        };
        let found = Findings::of([
            kubernetes::check_kubernetes(&kubernetes),
            config::check_exceptions(config),
            check_release(&release, &namespaces, config),
            network::check_network(config, &daemon_sets, &namespaces),
            rights,
            transport::check_labels(&namespaces, config),
            guard,
            sandboxes::check_sandboxes(&release, &sandboxes, &namespaces, config),
            issuer::check_files(config, issuer.as_ref()),
        ]);
        let tenants = tenants(&namespaces, config);
        let versions = match &release {
            ReleaseFacts::Installed { webhook, .. } => Some(Versions::of(&webhook.deployment)),
            ReleaseFacts::Missing(_) => None,
        };
        let revocations = Revocations::of(aws.as_ref(), config);
        Self {
            aws,
            cluster_roles,
            config,
            guard_since,
            roles,
            found,
            revocations,
            tenants,
            transports: Transports::of(&namespaces, &sandboxes, config),
            trials: Vec::new(),
            unattributed: Unattributed::default(),
            versions,
        }
    }

    /// Makes the checks of an opted-in namespace. `trial` is the result of its test pod. None: no
    /// test pod was started.
    pub fn of_namespace(
        &mut self,
        namespace: &Namespace,
        contents: &NamespaceContents,
        trial: Option<Trial>,
    ) {
        let Self { cluster_roles, config, guard_since, roles, .. } = &*self;
        let found = Findings::of([
            namespace::check_namespace(namespace, &contents.accounts, config),
            base_credentials::check_annotations(namespace, &contents.accounts, config),
            quota::check_quota(namespace, contents, config),
            pods::check_pods(namespace, &contents.pods, roles.as_ref(), config),
            issuer::check_pods(namespace, &contents.pods, *guard_since, config),
            rights::check_rights(namespace, &contents.rights, cluster_roles),
        ]);
        self.found.extend(found.shortened(&namespace::subject(namespace)));
        self.revocations.see(&contents.pods);
        self.unattributed.see(&namespace.name, &contents.pods, None);
        if let Some(versions) = &mut self.versions {
            versions.see(&contents.pods);
        }
        self.trials.extend(trial.map(|trial| (namespace.name.clone(), trial)));
    }

    /// Returns the base roles whose policies are known.
    pub fn base_roles(&self) -> BTreeSet<String> {
        self.known_base_roles().map(|(role, _)| role.to_string()).collect()
    }

    /// Returns whether a service account may have a base role by an association of EKS Pod
    /// Identity.
    pub fn may_have_associations(&self) -> bool {
        self.known_base_roles().any(|(_, held)| unattributed::trusts_pod_identity(held))
    }

    /// Returns the service accounts of the checked namespaces whose pods have no session and get
    /// their role by an association.
    pub fn associated(&self) -> impl Iterator<Item = &ServiceAccount> {
        self.unattributed.associated()
    }

    /// Notes the pods of service accounts with a base role, in a namespace that is not opted in.
    pub fn of_other_namespace(
        &mut self,
        namespace: &str,
        pods: &Seen<Objects>,
        accounts: &BTreeSet<ServiceAccount>,
    ) {
        self.unattributed.see(namespace, pods, Some(accounts));
    }

    /// Notes that service accounts with a base role in other namespaces are not known.
    pub fn without_accounts(&mut self, why: String) {
        self.found.unknown(CheckId::PodUnattributed, "service accounts", why);
    }

    /// Makes the checks of AWS, and returns all findings.
    pub fn finish(mut self, associations: &Seen<Associations>) -> Findings {
        let roles = roles::check_roles(&self);
        self.found.extend(roles);
        if let Some(versions) = &self.versions {
            self.found.extend(versions.check(env!("CARGO_PKG_VERSION")));
        }
        if let Some(aws) = &self.aws {
            self.found.extend(self.unattributed.check(aws, associations));
        }
        self.found.in_order()
    }

    fn known_base_roles(&self) -> impl Iterator<Item = (&RoleArn, &Held)> {
        self.aws.iter().flat_map(unattributed::base_roles)
    }
}

fn check_release(release: &ReleaseFacts, namespaces: &Seen<Objects>, config: &Config) -> Findings {
    match release {
        ReleaseFacts::Installed { guard, now, text, webhook } => Findings::of([
            config::check_as_installed(text),
            config::check_image(&webhook.configurations, config),
            webhook::check_webhook(webhook, *now),
            guard::check_guard(guard),
            namespace::check_opt_in(namespaces, config),
        ]),
        ReleaseFacts::Missing(preflight) => Findings::of([
            config::check_image(&preflight.configurations, config),
            preflight::check_preflight(preflight),
        ]),
    }
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

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn items<'v>(object: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    object[key].as_array().into_iter().flatten()
}
