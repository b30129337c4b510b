//! The opted-in namespaces, as a snapshot: which mode, whose tenant.
//!
//! Nothing here does I/O, except in [`watch`], which fills the snapshot.

mod standard;
pub mod watch;

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use crate::{
    config::{PodSecurity, TenantRule},
    session::{NotATenant, TenantName, is_dns_label},
};

pub use self::standard::OldStandard;

/// An immutable snapshot. Namespaces that did not opt in are not in it.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(HashMap<String, Arc<Namespace>>);

/// What a namespace may be called: a DNS label (RFC 1123).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamespaceName(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not the name of a namespace: want 1 to 63 characters of a-z, 0-9 and '-', without a '-' at either end"
)]
pub struct NotANamespace;

/// What the labels of a namespace say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Namespace {
    pub name: String,
    /// None: not opted in.
    pub mode: Option<Mode>,
    pub tenant: Result<TenantName, NoTenant>,
    /// The platform team allows the old client mode, in which the pod assumes by itself.
    pub operator_kept: bool,
    /// What the namespace enforces on its pods, by level and version.
    pub pod_security: PodSecurity,
    /// The version that it pins, if that makes `restricted` weaker.
    pub old_standard: Option<OldStandard>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mode {
    /// Decide, count, log; change and block nothing.
    Audit,
    Enabled,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoTenant {
    /// Neither a label nor the name's prefix says one.
    Absent,
    Malformed {
        value: String,
        rule: NotATenant,
    },
}

impl Namespaces {
    pub fn find(&self, name: &str) -> Option<&Namespace> {
        self.0.get(name).map(Arc::as_ref)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.0.values().map(Arc::as_ref)
    }

    /// This snapshot and one namespace more, which was looked up by itself.
    pub fn with(&self, namespace: Namespace) -> Self {
        let mut namespaces = self.clone();
        namespaces.0.insert(namespace.name.clone(), Arc::new(namespace));
        namespaces
    }
}

impl NamespaceName {
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

pub const OPT_IN_LABEL: &str = "fab.nanohype.dev/session-injection";
pub const OPERATOR_LABEL: &str = "fab.nanohype.dev/operator";
pub const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";
/// Absent, or `latest`: the API server's own version.
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
    fn only_the_two_words_opt_in() {
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
