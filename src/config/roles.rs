//! The sources of the tenants' session-broker roles, and which roles are allowed.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{Region, reader::Section};
use crate::session::{RoleArn, TenantName, is_account_id};

#[derive(Clone, Debug)]
pub struct RoleSettings {
    pub ssm: Option<Ssm>,
    /// A static role file: the only source without `ssm`, else used while SSM is unavailable.
    pub file: Option<PathBuf>,
    pub allowed: Allowed,
}

/// How SSM Parameter Store is called.
#[derive(Clone, Debug)]
pub struct Ssm {
    pub parameter: ParameterTemplate,
    /// None: the default of the AWS SDK.
    pub region: Option<Region>,
    /// None: the endpoint of AWS.
    pub endpoint: Option<String>,
    /// Maximum number of calls per second of this process, half of them for lookups of waiting
    /// reviews. An account has 40 per second for the GetParameter calls of all its programs.
    /// <https://docs.aws.amazon.com/general/latest/gr/ssm.html>
    pub calls_per_second: u32,
    /// Age at which an ARN is read again.
    pub refresh: Duration,
    /// Maximum age of an ARN while SSM is unavailable.
    pub stale: Duration,
    /// How long an absent or invalid parameter is cached.
    pub negative: Duration,
}

/// The name of a parameter, with `{tenant}` in place of the tenant.
#[derive(Clone, Debug)]
pub struct ParameterTemplate(String);

#[derive(Debug, thiserror::Error)]
pub enum NotAParameterTemplate {
    #[error("has {0:?}; SSM allows letters, digits and _.-/ in a parameter's name")]
    Character(char),
    #[error("does not start with '/'")]
    Relative,
    #[error("has no {{tenant}}, so all tenants would share one role")]
    Tenantless,
}

/// The role ARNs that are accepted from any source. An empty list allows all.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    pub partitions: Vec<String>,
    pub accounts: Vec<String>,
    pub path_prefixes: Vec<String>,
}

impl RoleSettings {
    pub(super) fn read(mut section: Section<'_>, cluster: &str) -> Self {
        let mut allow = section.section("allow");
        let allowed = Allowed {
            partitions: allow.texts("partitions", &[]),
            accounts: allow.texts("accounts", &[]),
            path_prefixes: allow.texts("pathPrefixes", &[]),
        };
        for (index, account) in allowed.accounts.iter().enumerate() {
            if !is_account_id(account) {
                allow.problem(&format!("accounts[{index}]"), "expected 12 digits, in quotes");
            }
        }
        for (index, prefix) in allowed.path_prefixes.iter().enumerate() {
            if !prefix.starts_with('/') || !prefix.ends_with('/') {
                allow.problem(
                    &format!("pathPrefixes[{index}]"),
                    "expected a path that starts and ends with '/'",
                );
            }
        }
        let ssm = section.optional_section("ssm").map(|ssm| Ssm::read(ssm, cluster));
        let roles = Self { ssm, file: section.optional("file"), allowed };
        allow.close();
        section.close();
        roles
    }
}

impl Ssm {
    fn read(mut section: Section<'_>, cluster: &str) -> Self {
        let seconds = |section: &mut Section<'_>, key, default, most| {
            Duration::from_secs(section.number(key, default, 1..=most))
        };
        let text = section.text("parameter", DEFAULT_PARAMETER);
        if text.contains("{cluster}") && cluster.is_empty() {
            section.problem(
                "parameter",
                "has {cluster}, but the config's key cluster is empty; set it",
            );
        }
        let parameter = text.replace("{cluster}", cluster).parse().unwrap_or_else(|error| {
            if !(text.contains("{cluster}") && cluster.is_empty()) {
                section.problem("parameter", error);
            }
            ParameterTemplate(String::new())
        });
        let ssm = Self {
            parameter,
            region: section.optional("region"),
            endpoint: section.optional("endpoint"),
            calls_per_second: u32::try_from(section.number("callsPerSecond", 10, 1..=1000))
                .unwrap_or(10),
            refresh: seconds(&mut section, "refreshSeconds", 300, DAY),
            stale: seconds(&mut section, "staleSeconds", DAY, 7 * DAY),
            negative: seconds(&mut section, "negativeSeconds", 10, DAY),
        };
        section.close();
        ssm
    }
}

impl ParameterTemplate {
    /// Returns the name of the tenant's parameter.
    pub fn of(&self, tenant: &TenantName) -> String {
        self.0.replace("{tenant}", tenant.as_str())
    }

    /// Returns a pattern for the parameters of all tenants, for IAM.
    pub fn of_all(&self) -> String {
        self.0.replace("{tenant}", "*")
    }
}

impl fmt::Display for ParameterTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ParameterTemplate {
    type Err = NotAParameterTemplate;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if !s.starts_with('/') {
            return Err(NotAParameterTemplate::Relative);
        }
        if !s.contains("{tenant}") {
            return Err(NotAParameterTemplate::Tenantless);
        }
        let filled = s.replace("{tenant}", "t");
        match filled.chars().find(|&c| !c.is_ascii_alphanumeric() && !"_.-/".contains(c)) {
            Some(found) => Err(NotAParameterTemplate::Character(found)),
            None => Ok(Self(s.to_owned())),
        }
    }
}

impl Allowed {
    /// Returns the list that does not allow this role, if any.
    pub fn refuses(&self, role: &RoleArn) -> Option<&'static str> {
        let Self { partitions, accounts, path_prefixes } = self;
        let lacks = |list: &[String], holds: &dyn Fn(&str) -> bool| {
            !list.is_empty() && !list.iter().any(|item| holds(item))
        };
        if lacks(partitions, &|partition| partition == role.partition()) {
            return Some("partitions");
        }
        if lacks(accounts, &|account| account == role.account()) {
            return Some("accounts");
        }
        if lacks(path_prefixes, &|prefix| role.path_and_name().starts_with(prefix)) {
            return Some("pathPrefixes");
        }
        None
    }
}

const DAY: u64 = 86_400;
const DEFAULT_PARAMETER: &str =
    "/eks-agent-platform/{cluster}/tenant-substrate/{tenant}/session_role_arn";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_must_match_every_list() {
        let allowed = Allowed {
            partitions: vec!["aws".to_owned()],
            accounts: vec!["111122223333".to_owned()],
            path_prefixes: vec!["/eks-agent-platform/tenants/".to_owned()],
        };
        let cases = [
            ("arn:aws:iam::111122223333:role/eks-agent-platform/tenants/r", None),
            ("arn:aws-cn:iam::111122223333:role/eks-agent-platform/tenants/r", Some("partitions")),
            ("arn:aws:iam::999922223333:role/eks-agent-platform/tenants/r", Some("accounts")),
            (
                "arn:aws:iam::111122223333:role/eks-agent-platform/tenants-evil/r",
                Some("pathPrefixes"),
            ),
            ("arn:aws:iam::111122223333:role/r", Some("pathPrefixes")),
        ];
        for (arn, want) in cases {
            let role = arn.parse().unwrap();
            assert_eq!(allowed.refuses(&role), want, "{arn}");
            assert_eq!(Allowed::default().refuses(&role), None, "{arn}");
        }
    }

    #[test]
    fn a_parameter_names_the_tenant() {
        let template: ParameterTemplate = "/p/{tenant}/arn".parse().unwrap();
        assert_eq!(template.of(&"acme".parse().unwrap()), "/p/acme/arn");
        for text in ["p/{tenant}", "/p/arn", "/p/{tenant}/{other}", "/p/{tenant} "] {
            assert!(text.parse::<ParameterTemplate>().is_err(), "{text:?}");
        }
    }
}
