//! The typed config file of the platform team.
//!
//! A [`Config`] is complete and consistent. Parsing reports all unknown keys, wrong types and
//! contradictions at once, each with its path.

mod base_credentials;
mod component;
mod creator;
mod glob;
mod image;
mod issuer;
pub(crate) mod quantity;
mod reader;
mod roles;
mod selector;
mod sidecar;

use std::fmt;

use serde_json::Value;

pub(crate) use self::reader::parse;
use self::reader::{Reader, Section};
pub use self::{
    base_credentials::{BaseCredentials, IpFamily, RoleArnTemplate},
    component::{
        COMPONENT_OF_APP, Component, CredentialsMode, Matched, Matcher, PodProperties,
        SessionSource,
    },
    creator::Creator,
    glob::Glob,
    image::{Image, ImageDigest},
    issuer::{
        CredentialSource, IssuerCa, IssuerKey, IssuerSettings, KeyArn, KeySource, KeyState,
        NotAKeyArn, SessionTransport,
    },
    quantity::Quantity,
    reader::Problems,
    roles::{Allowed, ParameterTemplate, RoleSettings, Ssm},
    selector::Selector,
    sidecar::{PullPolicy, Resources, Sidecar},
};
use crate::session::CaBundle;

#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the cluster in EKS, if it is set.
    pub cluster: Option<String>,
    /// The AWS region that is set on agents and sidecars, if one is known.
    pub region: Option<Region>,
    pub tenant: TenantRule,
    /// Service accounts that have base credentials: every pod of one is an agent.
    pub fenced_service_accounts: Vec<Glob>,
    /// Trusted creators: users that may name the session of a pod that they create.
    pub session_creators: Vec<Glob>,
    /// Ordered: the first component that matches a pod applies.
    pub components: Vec<Component>,
    /// The least strict Pod Security Standard that a namespace of agents may enforce.
    pub pod_security: PodSecurity,
    /// Names of the containers of a service mesh: they get no variable and no mount.
    pub proxy_containers: Vec<String>,
    /// Token audiences that AWS exchanges for credentials.
    pub aws_audiences: Vec<String>,
    pub base_credentials: BaseCredentials,
    /// CA certificates that webhook and sidecars trust for AWS, in addition to the built-in ones.
    pub aws_ca_bundle: Option<CaBundle>,
    pub sidecar: Sidecar,
    pub roles: RoleSettings,
    /// How sidecars get session credentials, unless a label of the namespace says otherwise.
    pub transport: SessionTransport,
    pub issuer: Option<IssuerSettings>,
}

/// How the tenant of a namespace is found.
#[derive(Clone, Debug)]
pub struct TenantRule {
    /// Keys of namespace labels; the first that is set is the tenant.
    pub labels: Vec<String>,
    /// Without such a label, the tenant is the namespace's name without this prefix, if it has it.
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
        let components = component::read(&mut root);
        let roles = RoleSettings::read(root.section("roles"), &cluster);
        let issuer = IssuerSettings::read(&mut root, &cluster, &roles.allowed, &components);
        let config = Self {
            cluster: Some(cluster.clone()).filter(|name| !name.is_empty()),
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
            components,
            pod_security: root.choice("podSecurity", PodSecurity::Restricted, POD_SECURITY),
            proxy_containers: root.texts("proxyContainers", &["istio-proxy", "linkerd-proxy"]),
            aws_audiences: [
                AWS_AUDIENCES.map(str::to_owned).to_vec(),
                root.texts("awsAudiences", &[]),
            ]
            .concat(),
            base_credentials: BaseCredentials::read(root.section("baseCredentials"), &cluster),
            aws_ca_bundle: root.optional("awsCaBundle"),
            sidecar: Sidecar::read(root.section("sidecar")),
            roles,
            transport: root.choice("transport", SessionTransport::RoleChain, issuer::TRANSPORTS),
            issuer,
        };
        if config.transport == SessionTransport::WebIdentity && config.issuer.is_none() {
            root.problem("transport", "webIdentity needs the section issuer; set it");
        }
        for component in config.claim_components() {
            if config.issuer.is_none() {
                root.problem(
                    "components",
                    format!(
                        "{} has session: sandbox-claim, which needs the section issuer; set it",
                        component.name
                    ),
                );
            }
            let is_trusted = |name: &Glob| {
                config.session_creators.iter().any(|glob| glob.matches(name.example()))
            };
            if component.creators.iter().any(is_trusted) {
                root.problem(
                    "sessionCreators",
                    format!(
                        "matches a creator of component {}: the controller copies annotations that the author of a claim writes, so it must not name sessions; remove it there",
                        component.name
                    ),
                );
            }
        }
        if config.fenced_service_accounts.is_empty() {
            root.problem(
                "fencedServiceAccounts",
                "is empty, so no pod is fenced; list the service accounts that have base credentials",
            );
        }
        tenant.close();
        root.close();
        config
    }

    /// Returns the first component that matches the pod.
    pub fn component_of(&self, pod: &impl PodProperties) -> Option<Matched<'_>> {
        let globs = &self.fenced_service_accounts;
        let fence = |account: &str| globs.iter().find(|glob| glob.matches(account));
        self.components.iter().find_map(|component| {
            Some(Matched { component, matcher: component.matcher(pod, fence)? })
        })
    }

    /// Returns the components whose pods get a sidecar.
    pub fn components_with_sidecar(&self) -> impl Iterator<Item = &Component> {
        let has_sidecar =
            |component: &&Component| component.credentials == CredentialsMode::Sidecar;
        self.components.iter().filter(has_sidecar)
    }

    /// Returns the components whose sessions are those of a SandboxClaim.
    pub fn claim_components(&self) -> impl Iterator<Item = &Component> {
        self.components.iter().filter(|it| it.session == SessionSource::SandboxClaim)
    }

    /// Returns the source of session credentials with this transport. `None`: the transport needs
    /// an issuer, and there is none.
    pub fn credential_source(&self, transport: SessionTransport) -> Option<CredentialSource<'_>> {
        match transport {
            SessionTransport::RoleChain => Some(CredentialSource::Base(&self.base_credentials)),
            SessionTransport::WebIdentity => self.issuer.as_ref().map(CredentialSource::Issuer),
        }
    }

    /// Reports whether a trusted creator may say on whose behalf a session runs.
    pub fn takes_on_behalf_of(&self) -> bool {
        self.issuer.as_ref().is_some_and(|issuer| issuer.on_behalf_of)
    }

    /// Reports whether the requesting user is a trusted creator.
    pub fn may_name_sessions(&self, creator: Creator<'_>) -> bool {
        creator.listed_in(&self.session_creators).is_some()
    }
}

/// Returns the config of an empty file.
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

/// Parses the value of a label as Pod Security Admission does.
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
#[error("not a valid region: expected a code such as eu-west-1, of a-z, 0-9 and '-'")]
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

/// Label of a pod: its component, as the author of the pod sets it. The webhook writes the component that
/// it finds into the annotation of the same key.
pub const COMPONENT_LABEL: &str = "fab.nanohype.dev/component";
/// Label of a pod: the sandbox that it runs.
pub const SANDBOX_LABEL: &str = "agents.nanohype.dev/agentsandbox";
/// Label of a namespace: its tenant.
pub const TENANT_LABEL: &str = "fab.nanohype.dev/tenant";
const PLATFORM_LABEL: &str = "agents.nanohype.dev/platform";

/// Audiences of the tokens that AWS exchanges for credentials in every cluster; a config can only
/// add audiences.
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
    fn all_problems_are_reported_at_once_with_their_path() {
        let text = r"
regoin: eu-west-1
region: EU West
tenant: {labels: tenants}
components:
  - {name: dispatcher, selectors: ['a=b'], credentials: exempt}
  - {name: dispatcher, selectors: ['=b'], credentials: sidecat}
  - {name: other}
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
    fn a_component_of_claims_has_the_controller_alone() {
        let controller = "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
        let problems = |component: &str, rest: &str| {
            let text = format!(
                r"
components:
  - {{name: sandbox, session: sandbox-claim, {component}}}
  - {{name: runtime, fenced: true}}
{rest}"
            );
            match Config::parse(&text) {
                Ok(_) => String::new(),
                Err(problems) => problems.to_string(),
            }
        };
        let creators = format!("creators: ['{controller}']");
        let issuer = "
cluster: prod
roles: {allow: {accounts: ['111122223333']}}
issuer: {url: 'https://i.example.com/prod', endpoint: 'https://i.fab.svc/v1/token', caFile: ca.crt, keys: [{file: k.pem}]}
";
        assert_eq!(problems(&creators, issuer), "");
        let cases = [
            (creators.clone(), String::new(), "components: "),
            (
                format!(
                    "{creators}}}\n  - {{name: second, session: sandbox-claim, {creators}}}\n  - {{name: other, fenced: true}}\n  - {{name: last, session: sandbox-claim, {creators}"
                ),
                issuer.to_owned(),
                "components[3]: comes after other, which may match",
            ),
            ("selectors: [a]".to_owned(), issuer.to_owned(), "components[0].selectors: "),
            (
                "serviceAccounts: [a]".to_owned(),
                issuer.to_owned(),
                "components[0].serviceAccounts: ",
            ),
            ("fenced: true".to_owned(), issuer.to_owned(), "components[0].fenced: "),
            ("fenced: true".to_owned(), issuer.to_owned(), "components[0].creators: is empty"),
            (
                "creators: ['a:*']".to_owned(),
                issuer.to_owned(),
                "components[0].creators: has a '*'",
            ),
            (
                format!("{creators}, credentials: env"),
                issuer.to_owned(),
                "components[0].credentials: ",
            ),
            (
                format!("{creators}, startGate: credentials"),
                issuer.to_owned(),
                "components[0].startGate: ",
            ),
            (
                creators.clone(),
                format!(
                    "{issuer}sessionCreators: ['system:serviceaccount:agent-sandbox-system:*']"
                ),
                "sessionCreators: ",
            ),
        ];
        for (component, rest, want) in cases {
            let found = problems(&component, &rest);
            assert!(found.contains(want), "{component} {rest}: {found}");
        }
        let text = format!(
            "components: [{{name: a, session: sandbox-claim, {creators}}}, {{name: b, fenced: true}}]\n{issuer}transport: roleChain"
        );
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.components[0].start_gate, crate::session::StartGate::Listening);
        let chain = Some(SessionTransport::RoleChain);
        assert_eq!(
            config.components[0].transport(chain, config.transport),
            SessionTransport::WebIdentity
        );
        assert_eq!(
            config.components[1].transport(None, config.transport),
            SessionTransport::RoleChain
        );
    }

    #[test]
    fn a_yaml_error_of_the_config_has_its_line() {
        let error = Config::parse("components: [").unwrap_err().to_string();
        assert!(error.contains("line"), "{error}");
    }
}
