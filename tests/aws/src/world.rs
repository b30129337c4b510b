//! The world: an account, its roles, and the issuers whose tokens it accepts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::{
    arn::{NotARoleArn, RoleArn, is_account},
    policy::{Policy, Vocabulary},
    provider::{NotAProvider, Outage, Provider, Publication, Published, STS, StandingProvider},
    role::{NotARole, Role, StandingRole},
    tokens::{KeySet, NotAKeySet},
};

/// A description of the account. [`crate::Aws::new`] returns its errors.
#[derive(Clone, Debug)]
pub struct World {
    account: String,
    region: String,
    cluster: Option<Cluster>,
    providers: Vec<Provider>,
    roles: Vec<Role>,
    associations: Vec<Association>,
    session_seconds: Option<u64>,
    terse: bool,
}

/// An EKS cluster: an OIDC provider of the account, and the Pod Identity agent.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: String,
    issuer: String,
    jwks: Value,
}

/// An association: the role for the pods of a service account.
/// <https://docs.aws.amazon.com/eks/latest/APIReference/API_PodIdentityAssociation.html>
#[derive(Clone, Debug)]
pub struct Association {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) role: String,
    pub(crate) disable_session_tags: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum NotAWorld {
    #[error("{0:?} is not an account ID; an account ID has 12 digits")]
    Account(String),
    #[error("an association names {0}, which does not exist in the account")]
    Association(String),
    #[error("associations need a cluster")]
    NoCluster,
    #[error("the cluster's issuer {0:?} does not start with https://")]
    Issuer(String),
    #[error("the cluster's keys are not a valid JWKS")]
    KeySet(#[source] NotAKeySet),
    #[error("the OIDC provider of {url}")]
    Provider { url: String, source: NotAProvider },
    #[error("an account has two OIDC providers of {0}")]
    ProviderTwice(String),
    #[error("role {arn}")]
    Role { arn: String, source: NotARole },
    #[error("the ARN of a role is invalid")]
    RoleArn(#[source] NotARoleArn),
    #[error("the account has no role {0}")]
    NoRole(String),
    #[error("role {0} is defined twice")]
    RoleTwice(String),
}

/// A validated world.
#[derive(Debug)]
pub(crate) struct StandingWorld {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) cluster: Option<StandingCluster>,
    /// All providers, with that of the cluster.
    providers: Vec<StandingProvider>,
    /// What each issuer publishes, by URL. It can change.
    publications: Mutex<BTreeMap<String, Publication>>,
    pub(crate) roles: BTreeMap<String, Arc<StandingRole>>,
    pub(crate) associations: Vec<Association>,
    pub(crate) session_seconds: Option<u64>,
    pub(crate) terse: bool,
    vocabulary: Vocabulary,
}

#[derive(Debug)]
pub(crate) struct StandingCluster {
    pub(crate) name: String,
    pub(crate) issuer: String,
    pub(crate) keys: KeySet,
}

impl World {
    pub fn new(account: impl Into<String>, region: impl Into<String>) -> Self {
        Self {
            account: account.into(),
            region: region.into(),
            cluster: None,
            providers: Vec::new(),
            roles: Vec::new(),
            associations: Vec::new(),
            session_seconds: None,
            terse: false,
        }
    }

    /// Adds an association.
    #[must_use]
    pub fn association(mut self, association: Association) -> Self {
        self.associations.push(association);
        self
    }

    #[must_use]
    pub fn cluster(self, cluster: Cluster) -> Self {
        Self { cluster: Some(cluster), ..self }
    }

    /// Adds an IAM OIDC provider, beside that of the cluster.
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.providers.push(provider);
        self
    }

    /// Adds a role.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }

    /// Sets the lifetime of all sessions, instead of the requested one. For tests only: AWS grants
    /// the requested lifetime, and at least 900 s. The validation of requests does not change.
    #[must_use]
    pub fn session_seconds(self, seconds: u64) -> Self {
        Self { session_seconds: Some(seconds), ..self }
    }

    /// Omits the policy type from denials, as STS often does.
    #[must_use]
    pub fn terse(self) -> Self {
        Self { terse: true, ..self }
    }

    pub(crate) fn stand(self) -> Result<StandingWorld, NotAWorld> {
        let Self {
            account,
            region,
            cluster,
            providers,
            roles,
            associations,
            session_seconds,
            terse,
        } = self;
        if !is_account(&account) {
            return Err(NotAWorld::Account(account));
        }
        let (providers, publications) = stand_providers(&account, cluster.as_ref(), providers)?;
        let cluster = cluster.map(Cluster::stand).transpose()?;
        let mut arns = BTreeSet::new();
        for role in &roles {
            let arn: RoleArn = role.arn.parse().map_err(NotAWorld::RoleArn)?;
            if !arns.insert(arn) {
                return Err(NotAWorld::RoleTwice(role.arn.clone()));
            }
        }
        let issuers = providers.iter().map(|provider| provider.name().to_owned()).collect();
        let vocabulary = Vocabulary { issuers, roles: arns };
        let mut standing = BTreeMap::new();
        for role in roles {
            let name = role.arn.clone();
            let arn = name.parse().map_err(NotAWorld::RoleArn)?;
            let role = role
                .stand(arn, &vocabulary)
                .map_err(|source| NotAWorld::Role { arn: name.clone(), source })?;
            standing.insert(name, Arc::new(role));
        }
        if cluster.is_none() && !associations.is_empty() {
            return Err(NotAWorld::NoCluster);
        }
        // The role of an association must be in the cluster's account.
        // https://docs.aws.amazon.com/eks/latest/userguide/pod-id-assign-target-role.html
        let known = |role: &str| {
            standing.get(role).is_some_and(|role: &Arc<StandingRole>| role.arn.account() == account)
        };
        if let Some(stray) = associations.iter().find(|association| !known(&association.role)) {
            return Err(NotAWorld::Association(stray.role.clone()));
        }
        Ok(StandingWorld {
            account,
            region,
            cluster,
            providers,
            publications: Mutex::new(publications),
            roles: standing,
            associations,
            session_seconds,
            terse,
            vocabulary,
        })
    }
}

impl Cluster {
    /// Takes the issuer as in tokens, with `https://`.
    pub fn new(name: impl Into<String>, issuer: impl Into<String>, jwks: Value) -> Self {
        Self { name: name.into(), issuer: issuer.into(), jwks }
    }

    fn stand(self) -> Result<StandingCluster, NotAWorld> {
        let Self { name, issuer, jwks } = self;
        // IAM accepts only https issuers.
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html
        if !issuer.starts_with("https://") {
            return Err(NotAWorld::Issuer(issuer));
        }
        let keys = KeySet::read(&jwks).map_err(NotAWorld::KeySet)?;
        Ok(StandingCluster { name, issuer, keys })
    }
}

impl Association {
    pub fn new(
        namespace: impl Into<String>,
        service_account: impl Into<String>,
        role: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            service_account: service_account.into(),
            role: role.into(),
            disable_session_tags: false,
        }
    }

    /// Disables session tags. Sessions then do not need `sts:TagSession` to assume a role.
    #[must_use]
    pub fn disable_session_tags(self) -> Self {
        Self { disable_session_tags: true, ..self }
    }
}

impl StandingWorld {
    /// Adds, replaces or removes an inline policy of a role.
    pub(crate) fn put_role_policy(
        &self,
        role_arn: &str,
        name: &str,
        document: Option<&Value>,
    ) -> Result<(), NotAWorld> {
        let role =
            self.roles.get(role_arn).ok_or_else(|| NotAWorld::NoRole(role_arn.to_owned()))?;
        match document {
            None => drop(role.inline().remove(name)),
            Some(document) => {
                let policy = Policy::read(document, &self.vocabulary).map_err(|source| {
                    let source = NotARole::Inline { name: name.to_owned(), source };
                    NotAWorld::Role { arn: role_arn.to_owned(), source }
                })?;
                role.inline().insert(name.to_owned(), policy);
            }
        }
        Ok(())
    }

    /// Returns the provider of an account. The URL is compared exactly.
    pub(crate) fn provider(&self, account: &str, url: &str) -> Option<&StandingProvider> {
        self.providers.iter().find(|provider| provider.account == account && provider.url == url)
    }

    /// Replaces what is published at the URL. Returns false if it is not the URL of a provider, or
    /// that of the cluster, whose keys never change.
    pub(crate) fn publish(&self, url: &str, publication: Publication) -> bool {
        let is_cluster = self.cluster.as_ref().is_some_and(|cluster| cluster.issuer == url);
        let mut publications = self.publications();
        let known = publications.get_mut(url).filter(|_| !is_cluster);
        known.map(|known| *known = publication).is_some()
    }

    /// Returns what is published at the URL of a provider.
    pub(crate) fn fetch(&self, url: &str) -> Result<Published, Outage> {
        let publication = self.publications().get(url).cloned();
        publication.ok_or(Outage::Missing)?.fetch(url)
    }

    /// Every change is complete when the lock is released, so a poisoned lock is safe.
    fn publications(&self) -> MutexGuard<'_, BTreeMap<String, Publication>> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cluster_arn(&self, cluster: &StandingCluster) -> String {
        format!("arn:aws:eks:{}:{}:cluster/{}", self.region, self.account, cluster.name)
    }
}

/// Returns all providers, and what their issuers publish. For IAM, the issuer of the cluster is a
/// provider as any other. Workloads have tokens of it for STS.
fn stand_providers(
    account: &str,
    cluster: Option<&Cluster>,
    providers: Vec<Provider>,
) -> Result<(Vec<StandingProvider>, BTreeMap<String, Publication>), NotAWorld> {
    let mut standing = Vec::new();
    let mut publications = BTreeMap::new();
    if let Some(Cluster { name: _, issuer, jwks }) = cluster {
        publications.insert(issuer.clone(), Publication::of_cluster(issuer, jwks));
        let (account, client_ids) = (account.to_owned(), vec![STS.to_owned()]);
        standing.push(StandingProvider { account, url: issuer.clone(), client_ids });
    }
    for provider in providers {
        let url = provider.url().to_owned();
        let (provider, publication) = provider
            .stand(account)
            .map_err(|source| NotAWorld::Provider { url: url.clone(), source })?;
        let is_same = |one: &StandingProvider| one.account == provider.account && one.url == url;
        if standing.iter().any(is_same) {
            return Err(NotAWorld::ProviderTwice(url));
        }
        // The files of an issuer are the same for all accounts.
        publications.entry(url).or_insert(publication);
        standing.push(provider);
    }
    Ok((standing, publications))
}
