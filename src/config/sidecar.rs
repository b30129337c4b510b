//! The container that agents get, as far as the platform team shapes it.

use std::{convert::Infallible, fmt, str::FromStr};

use super::reader::Section;
use crate::session::{RoleArn, SessionDuration, TenantName};

#[derive(Clone, Debug)]
pub struct Sidecar {
    pub image: String,
    pub image_pull_policy: PullPolicy,
    /// Where the sidecar serves credentials on the pod's loopback.
    pub port: u16,
    /// Its user and group, which no agent's container should share.
    pub uid: u32,
    pub duration: SessionDuration,
    pub resources: Resources,
    /// Extra variables of the sidecar: endpoints and a CA bundle in test clusters.
    pub env: Vec<(String, String)>,
}

/// Kubernetes quantities, as text.
#[derive(Clone, Debug)]
pub struct Resources {
    pub cpu_request: String,
    pub memory_request: String,
    pub cpu_limit: String,
    pub memory_limit: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// How the sidecar itself, and nobody else in the pod, gets the service account's role.
#[derive(Clone, Debug)]
pub enum BaseCredentials {
    /// By the sidecar's extra variables (test clusters).
    Environment,
    /// IAM roles for service accounts: a web identity token and the base role's ARN.
    Irsa(RoleArnTemplate),
    /// EKS Pod Identity: a token for the node's agent.
    PodIdentity,
}

/// A role ARN in which `{tenant}` stands for the tenant.
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
                cpu_request: requests.text("cpu", "10m"),
                memory_request: requests.text("memory", "32Mi"),
                cpu_limit: limits.text("cpu", "100m"),
                memory_limit: limits.text("memory", "64Mi"),
            },
            env: section.pairs("env"),
        };
        for (name, value) in &sidecar.env {
            if name.starts_with("FAB_SESSION_") {
                section.problem(
                    &format!("env.{name}"),
                    "FAB_SESSION_ variables are the webhook's own; remove it",
                );
            }
            if value.contains("$(") {
                section.problem(
                    &format!("env.{name}"),
                    "the kubelet would expand $(; write the value itself",
                );
            }
        }
        limits.close();
        requests.close();
        resources.close();
        section.close();
        Sidecar {
            image: if sidecar.image.is_empty() { DEFAULT_IMAGE.to_owned() } else { sidecar.image },
            ..sidecar
        }
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
                let template = RoleArnTemplate(template.0.replace("{cluster}", cluster));
                if let Err(error) = template.0.replace("{tenant}", "t").parse::<RoleArn>() {
                    section.problem(
                        "roleArn",
                        format!("{error}, once {{cluster}} and {{tenant}} are filled in"),
                    );
                }
                Self::Irsa(template)
            }
            (Source::Irsa, None) => {
                section.problem("roleArn", "source: irsa needs the base role's ARN; {cluster} and {tenant} may stand in it");
                Self::PodIdentity
            }
            (_, Some(_)) => {
                section.problem("roleArn", "only source: irsa takes it; remove it");
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
