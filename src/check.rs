//! The checks of an installation: takes facts of the cluster and AWS, and returns findings.
//!
//! Does no I/O. The caller reads and passes one namespace after the other, and none is kept. A fact
//! that could not be read arrives as [`Seen::Hidden`] and becomes a finding of level `unknown`. If
//! the webhook or the sidecar makes the same check, their function is called and their message is
//! used.

mod base_credentials;
mod config;
mod difference;
mod egress;
mod facts;
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

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

pub use self::{
    base_credentials::ROLE_ANNOTATION,
    egress::IssuerPods,
    facts::{
        AwsFacts, ConfigText, Facts, Guard, NamespaceContents, ReleaseFacts, Seen, Trial,
        WebhookFacts,
    },
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
    namespaces::Namespace,
    roles::Roles,
    session::{RoleArn, TenantName},
};

/// The checks that have been made, and what the next ones need.
#[derive(Debug)]
pub struct Checks<'c> {
    aws: Option<AwsFacts>,
    cluster_roles: Seen<Granted>,
    config: &'c Config,
    /// Since when the guard's rule about the issuer's tokens denies.
    guard_since: Option<Timestamp>,
    issuer_pods: Option<IssuerPods>,
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
            issuer_pods,
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
            issuer_pods,
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
        let Self { cluster_roles, config, guard_since, issuer_pods, roles, .. } = &*self;
        let found = Findings::of([
            namespace::check_namespace(namespace, &contents.accounts, config),
            base_credentials::check_annotations(namespace, &contents.accounts, config),
            quota::check_quota(namespace, contents, config),
            pods::check_pods(namespace, &contents.pods, roles.as_ref(), config),
            issuer::check_pods(namespace, &contents.pods, *guard_since, config),
            issuer::check_ca(namespace, &contents.pods, config),
            egress::check_egress(namespace, contents, issuer_pods.as_ref()),
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

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn items<'v>(object: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    object[key].as_array().into_iter().flatten()
}
