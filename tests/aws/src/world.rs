//! What exists: an account, its roles, and a cluster whose tokens it believes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    arn::{NotARoleArn, RoleArn, is_account},
    policy::Vocabulary,
    role::{NotARole, Role, StandingRole},
    tokens::{KeySet, NotAKeySet},
};

/// The world to be. What is wrong with it is said by [`crate::Aws::new`].
#[derive(Clone, Debug)]
pub struct World {
    account: String,
    region: String,
    cluster: Option<Cluster>,
    roles: Vec<Role>,
    associations: Vec<Association>,
    session_seconds: Option<u64>,
    terse: bool,
}

/// An EKS cluster: an OIDC provider of the account, and its pods' agent.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: String,
    issuer: String,
    jwks: Value,
}

/// Which role the pods of a service account get.
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
    #[error("{0:?} is no account's id; it has 12 digits")]
    Account(String),
    #[error("an association names {0}, which does not exist in the account")]
    Association(String),
    #[error("associations need a cluster")]
    NoCluster,
    #[error("the cluster's issuer {0:?} does not begin with https://")]
    Issuer(String),
    #[error("the cluster's keys are no JWKS")]
    KeySet(#[source] NotAKeySet),
    #[error("role {arn}")]
    Role { arn: String, source: NotARole },
    #[error("a role is misnamed")]
    RoleArn(#[source] NotARoleArn),
    #[error("role {0} is there twice")]
    RoleTwice(String),
}

/// A world that was read.
#[derive(Debug)]
pub(crate) struct StandingWorld {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) cluster: Option<StandingCluster>,
    pub(crate) roles: BTreeMap<String, Arc<StandingRole>>,
    pub(crate) associations: Vec<Association>,
    pub(crate) session_seconds: Option<u64>,
    pub(crate) terse: bool,
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
            roles: Vec::new(),
            associations: Vec::new(),
            session_seconds: None,
            terse: false,
        }
    }

    /// One more association.
    #[must_use]
    pub fn association(mut self, association: Association) -> Self {
        self.associations.push(association);
        self
    }

    #[must_use]
    pub fn cluster(self, cluster: Cluster) -> Self {
        Self { cluster: Some(cluster), ..self }
    }

    /// One more role.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }

    /// How long the sessions live that are granted, whatever was asked for. For tests only:
    /// AWS grants what was asked, and never less than 900 s. What a request may ask for is
    /// checked as ever.
    #[must_use]
    pub fn session_seconds(self, seconds: u64) -> Self {
        Self { session_seconds: Some(seconds), ..self }
    }

    /// Denials do not say which policy they come from, as those of STS often do not.
    #[must_use]
    pub fn terse(self) -> Self {
        Self { terse: true, ..self }
    }

    pub(crate) fn stand(self) -> Result<StandingWorld, NotAWorld> {
        let Self { account, region, cluster, roles, associations, session_seconds, terse } = self;
        if !is_account(&account) {
            return Err(NotAWorld::Account(account));
        }
        let cluster = cluster.map(Cluster::stand).transpose()?;
        let mut arns = BTreeSet::new();
        for role in &roles {
            let arn: RoleArn = role.arn.parse().map_err(NotAWorld::RoleArn)?;
            if !arns.insert(arn) {
                return Err(NotAWorld::RoleTwice(role.arn.clone()));
            }
        }
        let issuer = cluster.as_ref().map(|cluster| cluster.provider().to_owned());
        let vocabulary = Vocabulary { issuer, roles: arns };
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
        // The role of an association is in the cluster's account.
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
            roles: standing,
            associations,
            session_seconds,
            terse,
        })
    }
}

impl Cluster {
    /// `issuer` as its tokens spell it, `https://` included.
    pub fn new(name: impl Into<String>, issuer: impl Into<String>, jwks: Value) -> Self {
        Self { name: name.into(), issuer: issuer.into(), jwks }
    }

    fn stand(self) -> Result<StandingCluster, NotAWorld> {
        let Self { name, issuer, jwks } = self;
        // Only https is an issuer that IAM takes.
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

    /// Sessions get no tags, so nothing that they assume needs `sts:TagSession`.
    #[must_use]
    pub fn disable_session_tags(self) -> Self {
        Self { disable_session_tags: true, ..self }
    }
}

impl StandingCluster {
    /// The issuer as IAM's OIDC provider and its condition keys spell it.
    pub(crate) fn provider(&self) -> &str {
        self.issuer.strip_prefix("https://").unwrap_or(&self.issuer)
    }
}

impl StandingWorld {
    /// The ARN of the cluster's OIDC provider in the account.
    pub(crate) fn provider_arn(&self, cluster: &StandingCluster) -> String {
        format!("arn:aws:iam::{}:oidc-provider/{}", self.account, cluster.provider())
    }

    pub(crate) fn cluster_arn(&self, cluster: &StandingCluster) -> String {
        format!("arn:aws:eks:{}:{}:cluster/{}", self.region, self.account, cluster.name)
    }
}
