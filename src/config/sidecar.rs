//! Settings of the sidecar container.

use std::{convert::Infallible, fmt, str::FromStr};

use super::reader::Section;
use crate::session::{RoleArn, SessionDuration, TenantName};

#[derive(Clone, Debug)]
pub struct Sidecar {
    pub image: String,
    pub image_pull_policy: PullPolicy,
    /// The port on the pod's loopback on which the sidecar serves credentials.
    pub port: u16,
    /// User and group of the sidecar; no agent container should have the same.
    pub uid: u32,
    pub duration: SessionDuration,
    pub resources: Resources,
    /// Additional variables of the sidecar, such as endpoints and a CA bundle in test clusters.
    pub env: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Resources {
    pub cpu_request: Quantity,
    pub memory_request: Quantity,
    pub cpu_limit: Quantity,
    pub memory_limit: Quantity,
}

/// A Kubernetes quantity in the form in which the API server stores it, so that a stored pod
/// compares equal to current injection.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quantity {
    text: String,
    /// In thousandths of a core or of a byte.
    thousandths: u128,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected a quantity in its shortest form, such as 100m or 2 for cpu, 64Mi or 1Gi for memory"
)]
pub struct NotAQuantity;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// How the sidecar, and no other container of the pod, gets base credentials.
#[derive(Clone, Debug)]
pub enum BaseCredentials {
    /// From the additional variables of the sidecar (test clusters).
    Environment,
    /// IAM roles for service accounts: a web identity token and the base role's ARN.
    Irsa(RoleArnTemplate),
    /// EKS Pod Identity: a token for the agent on the node.
    PodIdentity,
}

/// A role ARN, with `{tenant}` in place of the tenant.
#[derive(Clone, Debug)]
pub struct RoleArnTemplate(String);

impl Sidecar {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let mut resources = section.section("resources");
        let mut requests = resources.section("requests");
        let mut limits = resources.section("limits");
        let sidecar = Self {
            image: section.text("image", DEFAULT_IMAGE),
            image_pull_policy: section.choice(
                "imagePullPolicy",
                PullPolicy::IfNotPresent,
                PULL_POLICIES,
            ),
            port: u16::try_from(section.number("port", 7413, 1024..=65535)).unwrap_or(7413),
            uid: u32::try_from(section.number("uid", 64017, 1..=0x7fff_ffff)).unwrap_or(64017),
            duration: section.parsed("durationSeconds", SessionDuration::default()),
            resources: Resources {
                cpu_request: requests.parsed("cpu", Quantity::thousandths(10)),
                memory_request: requests.parsed("memory", Quantity::mebibytes(32)),
                cpu_limit: limits.parsed("cpu", Quantity::thousandths(100)),
                memory_limit: limits.parsed("memory", Quantity::mebibytes(64)),
            },
            env: section.pairs("env"),
        };
        for (name, value) in &sidecar.env {
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != '=') {
                section.problem(
                    &format!("env.{name}"),
                    "not a valid variable name: expected printable ASCII characters except '='",
                );
            }
            if name.starts_with("FAB_SESSION_") {
                section.problem(
                    &format!("env.{name}"),
                    "the prefix FAB_SESSION_ is reserved for the webhook; remove the variable",
                );
            }
            if value.contains("$(") {
                section.problem(
                    &format!("env.{name}"),
                    "the kubelet would expand $(; set the resulting value instead",
                );
            }
        }
        let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = &sidecar.resources;
        for (key, request, limit) in
            [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)]
        {
            if request.thousandths > limit.thousandths {
                requests.problem(
                    key,
                    "is more than its limit, so the API server would deny every pod; lower it",
                );
            }
        }
        limits.close();
        requests.close();
        resources.close();
        section.close();
        Self {
            image: if sidecar.image.is_empty() { DEFAULT_IMAGE.to_owned() } else { sidecar.image },
            ..sidecar
        }
    }
}

impl Quantity {
    fn thousandths(thousandths: u16) -> Self {
        Self { text: format!("{thousandths}m"), thousandths: thousandths.into() }
    }

    fn mebibytes(mebibytes: u16) -> Self {
        Self { text: format!("{mebibytes}Mi"), thousandths: (u128::from(mebibytes) * 1000) << 20 }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| NotAQuantity)?;
        // `next`: this many of one unit make one of the next unit.
        let (unit, next) = match &s[digits.len()..] {
            "m" => (1, 1000),
            "" => (1000, 1000),
            "Ki" => (1000 << 10, 1024),
            "Mi" => (1000 << 20, 1024),
            "Gi" => (1000 << 30, 1024),
            _ => return Err(NotAQuantity),
        };
        if digits.starts_with(['0', '+']) || number.is_multiple_of(next) {
            return Err(NotAQuantity);
        }
        Ok(Self { text: s.to_owned(), thousandths: u128::from(number) * unit })
    }
}

impl PullPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl BaseCredentials {
    pub(super) fn read(mut section: Section<'_>, cluster: &str) -> Self {
        let source = section.choice("source", Source::PodIdentity, SOURCES);
        let template: Option<RoleArnTemplate> = section.optional("roleArn");
        let base = match (source, template) {
            (Source::Irsa, Some(template)) => {
                if template.0.contains("{cluster}") && cluster.is_empty() {
                    section.problem(
                        "roleArn",
                        "has {cluster}, but the config's key cluster is empty; set it",
                    );
                }
                let template = RoleArnTemplate(template.0.replace("{cluster}", cluster));
                if let Err(error) = template.0.replace("{tenant}", "t").parse::<RoleArn>() {
                    section.problem(
                        "roleArn",
                        format!("with {{cluster}} and {{tenant}} filled in, {error}"),
                    );
                }
                Self::Irsa(template)
            }
            (Source::Irsa, None) => {
                section.problem("roleArn", "source: irsa needs the base role's ARN; set it (it may contain {cluster} and {tenant})");
                Self::PodIdentity
            }
            (_, Some(_)) => {
                section.problem("roleArn", "is allowed only with source: irsa; remove it");
                Self::PodIdentity
            }
            (Source::PodIdentity, None) => Self::PodIdentity,
            (Source::Environment, None) => Self::Environment,
        };
        section.close();
        base
    }
}

impl RoleArnTemplate {
    pub fn of(&self, tenant: &TenantName) -> String {
        self.0.replace("{tenant}", tenant.as_str())
    }
}

impl fmt::Display for RoleArnTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RoleArnTemplate {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(s.to_owned()))
    }
}

#[derive(Clone, Copy)]
enum Source {
    Environment,
    Irsa,
    PodIdentity,
}

const DEFAULT_IMAGE: &str =
    concat!("ghcr.io/nanohype/fab-session-injector:", env!("CARGO_PKG_VERSION"));
const PULL_POLICIES: &[(&str, PullPolicy)] = &[
    ("Always", PullPolicy::Always),
    ("IfNotPresent", PullPolicy::IfNotPresent),
    ("Never", PullPolicy::Never),
];
const SOURCES: &[(&str, Source)] = &[
    ("podIdentity", Source::PodIdentity),
    ("irsa", Source::Irsa),
    ("environment", Source::Environment),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_has_one_form() {
        for text in ["10m", "1", "1500m", "32Mi", "1Gi", "1025Ki"] {
            assert!(text.parse::<Quantity>().is_ok(), "{text:?}");
        }
        for text in
            ["", "0", "0.1", "1000m", "1024Mi", "lots", "-1", "+1", "01", "1 Mi", "1M", "1e3"]
        {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
        assert!(
            "2".parse::<Quantity>().unwrap().thousandths
                > "1500m".parse::<Quantity>().unwrap().thousandths
        );
    }
}
