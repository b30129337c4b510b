//! The source of the sidecar's base credentials.

use std::{convert::Infallible, fmt, str::FromStr};

use super::{component::Component, reader::Section};
use crate::session::{RoleArn, TenantName};

/// How the sidecar, and no other container of the pod, gets base credentials.
#[derive(Clone, Debug)]
pub enum BaseCredentials {
    /// From the additional variables of the sidecar (test clusters).
    Environment,
    /// IAM roles for service accounts: a web identity token and the base role's ARN.
    Irsa(RoleArnTemplate),
    /// EKS Pod Identity: a token for the agent on the node.
    PodIdentity(IpFamily),
}

/// The IP family of the cluster, which decides the address of the node's Pod Identity agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpFamily {
    V4,
    V6,
}

/// A role ARN, with `{tenant}` and `{component}` in place of their names.
#[derive(Clone, Debug)]
pub struct RoleArnTemplate(String);

impl BaseCredentials {
    pub(super) fn read(mut section: Section<'_>, cluster: &str) -> Self {
        let source = section.choice("source", BaseCredentialsSource::PodIdentity, SOURCES);
        let template: Option<RoleArnTemplate> = section.optional("roleArn");
        let family = section.choice("ipFamily", IpFamily::V4, FAMILIES);
        if family == IpFamily::V6 && !matches!(source, BaseCredentialsSource::PodIdentity) {
            section
                .problem("ipFamily", "ipv6 has an effect only with source: podIdentity; remove it");
        }
        let base = match (source, template) {
            (BaseCredentialsSource::Irsa, Some(template)) => {
                if template.0.contains("{cluster}") && cluster.is_empty() {
                    section.problem(
                        "roleArn",
                        "has {cluster}, but the config's key cluster is empty; set it",
                    );
                }
                let template = RoleArnTemplate(template.0.replace("{cluster}", cluster));
                if let Err(error) = template.fill("t", "c").parse::<RoleArn>() {
                    section.problem("roleArn", format!("with its placeholders filled in, {error}"));
                }
                Self::Irsa(template)
            }
            (BaseCredentialsSource::Irsa, None) => {
                section.problem("roleArn", "source: irsa needs the base role's ARN; set it (it may contain {cluster}, {tenant} and {component})");
                Self::PodIdentity(family)
            }
            (_, Some(_)) => {
                section.problem("roleArn", "is allowed only with source: irsa; remove it");
                Self::PodIdentity(family)
            }
            (BaseCredentialsSource::PodIdentity, None) => Self::PodIdentity(family),
            (BaseCredentialsSource::Environment, None) => Self::Environment,
        };
        section.close();
        base
    }
}

impl RoleArnTemplate {
    /// Returns the base role of a tenant's pods of this component.
    pub fn of(&self, tenant: &TenantName, component: &Component) -> String {
        self.fill(tenant.as_str(), &component.name)
    }

    fn fill(&self, tenant: &str, component: &str) -> String {
        self.0.replace("{tenant}", tenant).replace("{component}", component)
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
enum BaseCredentialsSource {
    Environment,
    Irsa,
    PodIdentity,
}

const FAMILIES: &[(&str, IpFamily)] = &[("ipv4", IpFamily::V4), ("ipv6", IpFamily::V6)];
const SOURCES: &[(&str, BaseCredentialsSource)] = &[
    ("podIdentity", BaseCredentialsSource::PodIdentity),
    ("irsa", BaseCredentialsSource::Irsa),
    ("environment", BaseCredentialsSource::Environment),
];
