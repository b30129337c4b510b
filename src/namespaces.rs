//! Opted-in namespaces, with mode and tenant, as a snapshot.
//!
//! Only [`watch`] does I/O: it fills the snapshot.

mod old_standard;
pub mod watch;

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use crate::{
    config::{PodSecurity, SessionTransport, TenantRule},
    session::{NotATenant, TenantName, is_dns_label},
};

pub use self::old_standard::OldStandard;

/// An immutable snapshot of the opted-in namespaces.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(HashMap<String, Arc<Namespace>>);

/// The name of a namespace: a DNS label (RFC 1123).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamespaceName(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not a valid namespace name: expected 1 to 63 characters of a-z, 0-9 and '-', without a '-' at either end"
)]
pub struct NotANamespace;

/// A namespace, as its labels define it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Namespace {
    pub name: String,
    /// None: not opted in.
    pub mode: Option<Mode>,
    pub tenant: Result<TenantName, NoTenant>,
    /// Whether pods may use the old client mode, in which the agent itself assumes the role.
    pub operator_kept: bool,
    /// How new pods get session credentials. None: as the config says.
    pub transport: Option<SessionTransport>,
    /// The Pod Security Standard that the namespace enforces. The pinned version is considered.
    pub pod_security: PodSecurity,
    /// The pinned version of the Pod Security Standards, if it makes `restricted` weaker.
    pub old_standard: Option<OldStandard>,
}

/// The mode of an opted-in namespace.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mode {
    /// Agent pods are evaluated, counted and logged. They are neither changed nor refused.
    Audit,
    /// Agent pods are injected or refused.
    Enabled,
}

/// Why a namespace has no tenant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoTenant {
    /// Neither a label nor the prefix of the name defines one.
    Absent,
    /// The value is not a valid tenant name.
    Malformed { value: String, rule: NotATenant },
}

impl Namespaces {
    /// Returns the namespace, if it opted in.
    pub fn find(&self, name: &str) -> Option<&Namespace> {
        self.0.get(name).map(Arc::as_ref)
    }

    /// Iterates over all namespaces, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.0.values().map(Arc::as_ref)
    }

    /// Returns this snapshot with one more namespace.
    pub fn with(&self, namespace: Namespace) -> Self {
        let mut namespaces = self.clone();
        namespaces.0.insert(namespace.name.clone(), Arc::new(namespace));
        namespaces
    }
}

impl NamespaceName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NamespaceName {
    type Err = NotANamespace;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if is_dns_label(s) { Ok(Self(s.to_owned())) } else { Err(NotANamespace) }
    }
}

impl FromIterator<Namespace> for Namespaces {
    fn from_iter<I: IntoIterator<Item = Namespace>>(namespaces: I) -> Self {
        let opted_in = namespaces.into_iter().filter(|namespace| namespace.mode.is_some());
        Self(opted_in.map(|namespace| (namespace.name.clone(), Arc::new(namespace))).collect())
    }
}

impl Namespace {
    /// Reads the labels of a namespace. `label` returns the value of a label.
    pub fn read<'l>(
        name: &str,
        label: impl Fn(&str) -> Option<&'l str>,
        rule: &TenantRule,
    ) -> Self {
        let TenantRule { labels, namespace_prefix } = rule;
        let from_label = labels.iter().find_map(|key| label(key));
        let from_name = || {
            name.strip_prefix(namespace_prefix.as_str()).filter(|_| !namespace_prefix.is_empty())
        };
        let tenant = match from_label.or_else(from_name) {
            Some(value) => {
                value.parse().map_err(|rule| NoTenant::Malformed { value: value.to_owned(), rule })
            }
            None => Err(NoTenant::Absent),
        };
        let pinned = label(POD_SECURITY_VERSION_LABEL);
        let old_standard: Option<OldStandard> = pinned.and_then(|version| version.parse().ok());
        let level = label(POD_SECURITY_LABEL)
            .and_then(|level| level.parse().ok())
            .unwrap_or(PodSecurity::Privileged);
        Self {
            name: name.to_owned(),
            mode: label(OPT_IN_LABEL).and_then(Mode::of_label),
            tenant,
            operator_kept: label(OPERATOR_LABEL) == Some("keep"),
            transport: label(TRANSPORT_LABEL).and_then(SessionTransport::of_label),
            pod_security: old_standard.map_or(level, |_| OldStandard::weaken(level)),
            old_standard,
        }
    }
}

impl Mode {
    fn of_label(value: &str) -> Option<Self> {
        match value {
            "audit" => Some(Self::Audit),
            "enabled" => Some(Self::Enabled),
            _ => None,
        }
    }

    /// Returns the value of the label [`OPT_IN_LABEL`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enabled => "enabled",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Label by which a namespace opts in: `enabled` or `audit`.
pub const OPT_IN_LABEL: &str = "fab.nanohype.dev/session-injection";
/// Label that allows the old client mode: `keep`.
pub const OPERATOR_LABEL: &str = "fab.nanohype.dev/operator";
/// Label that overrides the config's `transport` for new pods: `role-chain` or `web-identity`.
pub const TRANSPORT_LABEL: &str = "fab.nanohype.dev/session-transport";
/// Label of the enforced Pod Security Standard.
pub const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";
/// Label of the enforced version of the Pod Security Standards. Absent or `latest`: the version of
/// the API server.
pub const POD_SECURITY_VERSION_LABEL: &str = "pod-security.kubernetes.io/enforce-version";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(name: &str, labels: &[(&str, &'static str)]) -> Namespace {
        let label =
            |key: &str| labels.iter().find(|(name, _)| *name == key).map(|&(_, value)| value);
        Namespace::read(name, label, &Config::default().tenant)
    }

    #[test]
    fn the_tenant_comes_from_the_first_label_then_from_the_name() {
        let own = ("fab.nanohype.dev/tenant", "acme");
        let platform = ("agents.nanohype.dev/platform", "beta");
        let cases = [
            ("fab", vec![own, platform], Some("acme")),
            ("tenants-gamma", vec![platform], Some("beta")),
            ("tenants-gamma", vec![], Some("gamma")),
            ("fab", vec![], None),
            ("tenants-", vec![], None),
            ("tenants-gamma", vec![("fab.nanohype.dev/tenant", "a.b")], None),
        ];
        for (name, labels, want) in cases {
            let tenant = read(name, &labels).tenant.ok();
            assert_eq!(tenant.as_ref().map(TenantName::as_str), want, "{name} {labels:?}");
        }
    }

    #[test]
    fn restricted_of_an_old_version_counts_as_baseline() {
        use PodSecurity::{Baseline, Privileged, Restricted};
        let cases = [
            ("restricted", None, Restricted),
            ("restricted", Some("latest"), Restricted),
            ("restricted", Some("v1.22"), Restricted),
            ("restricted", Some("v1.21"), Baseline),
            ("baseline", Some("v1.22"), Baseline),
            ("baseline", Some("v1.21"), Baseline),
            ("privileged", Some("v1.21"), Privileged),
            ("Restricted", Some("v1.21"), Privileged),
        ];
        for (level, version, want) in cases {
            let mut labels = vec![(POD_SECURITY_LABEL, level)];
            labels.extend(version.map(|version| (POD_SECURITY_VERSION_LABEL, version)));
            assert_eq!(read("tenants-a", &labels).pod_security, want, "{level} {version:?}");
        }
        let alone = [(POD_SECURITY_VERSION_LABEL, "v1.30")];
        assert_eq!(read("tenants-a", &alone).pod_security, Privileged);
    }

    #[test]
    fn only_the_two_label_values_opt_in() {
        let cases = [
            ("enabled", Some(Mode::Enabled)),
            ("audit", Some(Mode::Audit)),
            ("Enabled", None),
            ("true", None),
            ("", None),
        ];
        for (value, want) in cases {
            assert_eq!(read("tenants-a", &[(OPT_IN_LABEL, value)]).mode, want, "{value:?}");
        }
        assert_eq!([read("tenants-a", &[])].into_iter().collect::<Namespaces>().iter().count(), 0);
    }
}
