//! The webhook's config and snapshots with one tenant, for decisions without a cluster.

use std::collections::HashMap;

use fab_session_injector::{
    admission::{self, Decision},
    config::Config,
    namespaces::{Namespace, Namespaces},
    roles::{Role, Roles, Source},
};
use json_patch::PatchOperation;
use serde_json::Value;

/// The namespaces and the role of the tenant acme, and a config.
pub struct Tenant {
    pub config: Config,
    /// `tenants-acme` and `fab`, which opted in.
    pub namespaces: Namespaces,
    /// The role of the tenant.
    pub roles: Roles,
}

impl Tenant {
    /// Creates the tenant under a config.
    pub fn new(config: Config) -> Self {
        let label = |key: &str| match key {
            "fab.nanohype.dev/session-injection" => Some("enabled"),
            "agents.nanohype.dev/platform" => Some("acme"),
            "pod-security.kubernetes.io/enforce" => Some("restricted"),
            _ => None,
        };
        let namespaces =
            ["tenants-acme", "fab"].map(|name| Namespace::read(name, label, &config.tenant));
        let role = Role::Known(ROLE.parse().unwrap());
        let roles = HashMap::from([("acme".parse().unwrap(), role.into())]);
        Self {
            config,
            namespaces: namespaces.into_iter().collect(),
            roles: Roles::new(Source::File("roles.yaml".into()), roles),
        }
    }

    /// Returns the decision about a pod in `tenants-acme`, and the operations of its patch.
    pub fn decide(&self, pod: &Value, creator: &str) -> (Decision, Vec<PatchOperation>) {
        let Self { config, namespaces, roles } = self;
        let (decision, operations, _) =
            admission::decide(pod, creator, "tenants-acme", namespaces, roles, config);
        (decision, operations)
    }
}

/// The role of the tenant.
pub const ROLE: &str = "arn:aws:iam::111122223333:role/acme";
