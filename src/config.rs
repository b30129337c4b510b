//! What the platform team decided: the typed config file.
//!
//! A [`Config`] is whole and consistent: unknown keys, wrong types and contradictions are
//! all found at once, each with its place, before anything starts.

mod component;
mod creator;
mod glob;
mod reader;
mod roles;
mod selector;
mod sidecar;

use std::fmt;

use serde_json::Value;

pub(crate) use self::reader::parse;
use self::reader::{Reader, Section};
pub use self::{
    component::{Component, Credentials, Matched, Matcher, Pod, SessionSource},
    creator::Creator,
    glob::Glob,
    reader::Problems,
    roles::{Allowed, ParameterTemplate, Roles, Ssm},
    selector::Selector,
    sidecar::{BaseCredentials, PullPolicy, Quantity, Resources, RoleArnTemplate, Sidecar},
};

#[derive(Clone, Debug)]
pub struct Config {
    /// The region that agents and sidecars are given, where one is known.
    pub region: Option<Region>,
    pub tenant: TenantRule,
    /// Service accounts that carry base credentials: every pod of one is an agent.
    pub fenced_service_accounts: Vec<Glob>,
    /// Users that may say, on a pod that they create, which session it is.
    pub session_creators: Vec<Glob>,
    /// In order; the first that matches a pod decides.
    pub components: Vec<Component>,
    /// The least Pod Security Standard that a namespace of agents must enforce.
    pub pod_security: PodSecurity,
    /// Containers that are a mesh's and not an agent's: they get no variable and no mount.
    pub proxy_containers: Vec<String>,
    /// Token audiences that AWS turns into credentials.
    pub aws_audiences: Vec<String>,
    pub base_credentials: BaseCredentials,
    pub sidecar: Sidecar,
    pub roles: Roles,
}

/// How a namespace names its tenant.
#[derive(Clone, Debug)]
pub struct TenantRule {
    /// Labels of the namespace; the first that is there is the tenant.
    pub labels: Vec<String>,
    /// Without such a label: the namespace's name without this prefix, if it has it.
    pub namespace_prefix: String,
}

/// Pod Security Standards, from the least strict to the strictest.
/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PodSecurity {
    Privileged,
    Baseline,
    Restricted,
}

impl Config {
    /// Reads the file's text. An empty text is the default config.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        parse(text, Self::read)
    }

    fn read(mut root: Section<'_>) -> Self {
        let cluster = root.text("cluster", "");
        let mut tenant = root.section("tenant");
        let config = Self {
            region: root.optional("region"),
            tenant: TenantRule {
                labels: tenant.texts("labels", &[TENANT_LABEL, PLATFORM_LABEL]),
                namespace_prefix: tenant.text("namespacePrefix", "tenants-"),
            },
            fenced_service_accounts: root.list("fencedServiceAccounts").unwrap_or_else(|| {
                vec![Glob::new("tenant-runtime"), Glob::new("tenant-runtime-x-*")]
            }),
            session_creators: root.list("sessionCreators").unwrap_or_else(|| {
                vec![Glob::new("system:serviceaccount:eks-agent-platform:operator")]
            }),
            components: component::read(&mut root),
            pod_security: root.choice("podSecurity", PodSecurity::Restricted, POD_SECURITY),
            proxy_containers: root.texts("proxyContainers", &["istio-proxy", "linkerd-proxy"]),
            aws_audiences: [
                AWS_AUDIENCES.map(str::to_owned).to_vec(),
                root.texts("awsAudiences", &[]),
            ]
            .concat(),
            base_credentials: BaseCredentials::read(root.section("baseCredentials"), &cluster),
            sidecar: Sidecar::read(root.section("sidecar")),
            roles: Roles::read(root.section("roles"), &cluster),
        };
        if config.fenced_service_accounts.is_empty() {
            root.problem(
                "fencedServiceAccounts",
                "lists none, so no pod is fenced; name the accounts that carry base credentials",
            );
        }
        tenant.close();
        root.close();
        config
    }

    /// The first component that matches the pod.
    pub fn component_of(&self, pod: &impl Pod) -> Option<Matched<'_>> {
        let globs = &self.fenced_service_accounts;
        let fence = |account: &str| globs.iter().find(|glob| glob.matches(account));
        self.components.iter().find_map(|component| {
            Some(Matched { component, matcher: component.matcher(pod, fence)? })
        })
    }

    pub fn may_name_sessions(&self, creator: Creator<'_>) -> bool {
        creator.listed_in(&self.session_creators).is_some()
    }
}

/// The config of an empty file.
impl Default for Config {
    fn default() -> Self {
        let reader = Reader::default();
        Self::read(reader.root(Value::Null))
    }
}

impl fmt::Display for PodSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            POD_SECURITY.iter().find(|(_, level)| level == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// The label's text as Pod Security Admission reads it.
impl std::str::FromStr for PodSecurity {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        POD_SECURITY.iter().find(|(name, _)| *name == s).map(|&(_, level)| level).ok_or(())
    }
}

/// The code of an AWS region.
/// <https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Region(String);

#[derive(Clone, Debug, thiserror::Error)]
#[error("not a region: want a code such as eu-west-1, of a-z, 0-9 and '-'")]
pub struct NotARegion;

impl Region {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Region {
    type Err = NotARegion;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.is_empty() || !s.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(NotARegion);
        }
        Ok(Self(s.to_owned()))
    }
}

const POD_SECURITY: &[(&str, PodSecurity)] = &[
    ("privileged", PodSecurity::Privileged),
    ("baseline", PodSecurity::Baseline),
    ("restricted", PodSecurity::Restricted),
];

/// On a pod: which kind of agent it says it is; also the annotation by which we say it.
pub const COMPONENT_LABEL: &str = "fab.nanohype.dev/component";
/// On a pod: the sandbox that it runs.
pub const SANDBOX_LABEL: &str = "agents.nanohype.dev/agentsandbox";
/// On a namespace: whose it is.
pub const TENANT_LABEL: &str = "fab.nanohype.dev/tenant";
const PLATFORM_LABEL: &str = "agents.nanohype.dev/platform";

/// Tokens for these are as good as a role in every cluster; a config can only add to them.
/// <https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html>,
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html>
const AWS_AUDIENCES: [&str; 2] = ["sts.amazonaws.com", "pods.eks.amazonaws.com"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        let (empty, default) = (Config::parse("# nothing\n").unwrap(), Config::default());
        assert_eq!(format!("{empty:?}"), format!("{default:?}"));
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_place() {
        let text = r"
regoin: eu-west-1
region: EU West
tenant: {labels: tenants}
components:
  - {name: dispatcher, selectors: ['a=b'], credentials: exempt}
  - {name: dispatcher, selectors: ['=b'], credentials: sidecat}
  - {name: nobody}
podSecurity: 7
sidecar: {port: 70000, durationSeconds: 7200, env: {FAB_SESSION_ID: x}}
roles: {ssm: {parameter: '/x/{cluster}/y', refreshSeconds: 0}, allow: {accounts: ['1']}}
";
        let problems = Config::parse(text).unwrap_err().to_string();
        let places: Vec<&str> =
            problems.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        let want = [
            "region",
            "tenant.labels",
            "components[0].selectors",
            "components[1].selectors[0]",
            "components[1].credentials",
            "components[1].name",
            "components[2]",
            "podSecurity",
            "sidecar.port",
            "sidecar.durationSeconds",
            "sidecar.env.FAB_SESSION_ID",
            "roles.ssm.parameter",
            "roles.ssm.refreshSeconds",
            "roles.allow.accounts[0]",
            "regoin",
        ];
        for place in want {
            assert!(places.contains(&place), "{place} not in {places:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_yaml_says_where() {
        let error = Config::parse("components: [").unwrap_err().to_string();
        assert!(error.contains("line"), "{error}");
    }
}
