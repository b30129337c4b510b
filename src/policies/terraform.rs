//! The documents for Terraform: calls of the modules in `terraform/`, and one resource for
//! `revoke -o terraform`.

use std::fmt::Write;

use serde_json::Value;

use super::{Account, BaseRoleTrust, RestrictTo, path};
use crate::session::RoleArn;

/// Returns calls of the Terraform modules of this version: one for the cluster, one for the tenant.
/// The modules have the policies; [`documents`](super::documents) has the same.
///
/// `cluster` is the ARN of the cluster in EKS. The default provider is that of its account. A session
/// role of another account has a provider of its own.
pub fn terraform(account: &Account, cluster: &str) -> String {
    let (own, session) = (account.cluster_account.as_str(), account.session_role.account());
    let mut file = String::new();
    let mut provider = "aws".to_owned();
    if session != own {
        provider = format!("aws.account_{session}");
        // Writing to a String cannot fail.
        let _ = write!(
            file,
            "# The default provider is that of account {own}. Configure a provider for the session role's account:\n\
             #   alias \"account_{session}\"\n\n"
        );
    }
    // With static roles, the webhook calls no AWS API.
    if account.parameter.is_some() {
        let webhook = webhook(account, cluster);
        let _ = write!(file, "# Once per cluster: the role of the webhook.\n{webhook}\n");
    }
    let tenant = tenant(account, cluster, provider);
    let _ = write!(file, "# Once per tenant.\n{tenant}");
    file
}

fn webhook(account: &Account, cluster: &str) -> String {
    let mut short = vec![("cluster_arn", quoted(cluster))];
    short.extend(parameter(account).map(|name| ("parameter", quoted(&name))));
    let region = account.parameter.as_ref().map(|parameter| parameter.region.as_str());
    if let Some(region) = region.filter(|region| cluster.split(':').nth(3) != Some(region)) {
        short.push(("parameter_region", quoted(region)));
    }
    module("fab_session_injector", "webhook", &[&short], &[])
}

fn tenant(account: &Account, cluster: &str, session_provider: String) -> String {
    let role = &account.session_role;
    let providers = [("aws", "aws".to_owned()), ("aws.session", session_provider)];
    let mut short = vec![
        ("cluster_arn", quoted(cluster)),
        ("tenant", quoted(account.tenant.as_str())),
        ("namespace", quoted(&account.namespace)),
        ("session_role_name", quoted(role.name())),
        ("path", quoted(path(role))),
    ];
    if account.parameter.is_none() {
        short.push(("parameter", "null".to_owned()));
    }
    short.extend(parameter(account).map(|name| ("parameter", quoted(&name))));
    if account.restrict_to != RestrictTo::Tenant {
        short.push(("restrict_to", quoted(&account.restrict_to.to_string())));
    }
    let boundary = account.permissions_boundary.iter();
    short.extend(boundary.map(|it| ("permissions_boundary", quoted(it.as_str()))));
    short.extend(account.suspended_tag.iter().map(|key| ("suspended_tag", quoted(key.as_str()))));

    let is_own = |role: &&RoleArn| role.account() == account.cluster_account.as_str();
    let (own, other): (Vec<_>, Vec<_>) = account.base_roles.iter().partition(is_own);
    let trust = account.base_role_trust.as_ref();
    if let Some(trust) = trust {
        short.push(("oidc_provider", quoted(&format!("https://{}", trust.issuer))));
    }
    let created: String = own.iter().filter_map(|role| Some(created(role, trust?))).collect();
    let created = (!created.is_empty()).then(|| format!("{{\n{created}  }}"));
    let existing = own.iter().filter(|_| trust.is_none());
    let existing = existing.map(|role| (quoted(role.name()), quoted(role.as_str())));
    let tags = account.tags.iter().map(|tag| (quoted(tag.key.as_str()), quoted(&tag.value)));
    let others = other.iter().map(|role| quoted(role.as_str()));
    let models = account.models.iter().map(|model| quoted(model.as_str()));
    let mut long: Vec<(&str, String)> = [
        ("base_roles", created),
        ("existing_base_roles", map(existing)),
        ("other_base_role_arns", list(others)),
        ("session_role_tags", map(tags)),
        ("models", list(models)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect();
    if account.deny_without_source_identity {
        long.push(("deny_without_source_identity", "true".to_owned()));
    }
    let providers = format!("{{\n{}  }}", aligned(&providers, "    "));
    let providers = [("providers", providers)];
    module(&format!("tenant_{}", label(account)), "tenant", &[&providers, &short], &long)
}

/// Returns the entry of a base role that the module creates.
fn created(role: &RoleArn, trust: &BaseRoleTrust) -> String {
    let accounts = trust.service_accounts.iter().map(|name| quoted(&name.to_string()));
    let accounts: Vec<_> = accounts.collect();
    let arguments = [
        ("name", quoted(role.name())),
        ("path", quoted(path(role))),
        ("service_accounts", format!("[{}]", accounts.join(", "))),
    ];
    format!("    {} = {{\n{}    }}\n", quoted(role.name()), aligned(&arguments, "      "))
}

/// Returns the call of a module of this version. A blank line is between groups of arguments, and
/// before each argument of `long`.
fn module(
    name: &str,
    module: &str,
    groups: &[&[(&str, String)]],
    long: &[(&str, String)],
) -> String {
    let source = quoted(&format!("{MODULES}/{module}?ref=v{}", env!("CARGO_PKG_VERSION")));
    let mut blocks = vec![format!("  source = {source}\n")];
    blocks.extend(groups.iter().map(|group| aligned(group, "  ")));
    blocks.extend(long.iter().map(|(key, value)| format!("  {key} = {value}\n")));
    format!("module \"{name}\" {{\n{}}}\n", blocks.join("\n"))
}

/// Returns the name of the parameters with `{tenant}`, if it is not the modules' default.
fn parameter(account: &Account) -> Option<String> {
    let cluster = account.cluster.as_deref().unwrap_or_default();
    let name = account.parameter.as_ref()?.names.replace('*', "{tenant}");
    (name != DEFAULT_PARAMETER.replace("{cluster}", cluster)).then_some(name)
}

fn map(pairs: impl Iterator<Item = (String, String)>) -> Option<String> {
    let pairs: Vec<_> = pairs.collect();
    (!pairs.is_empty()).then(|| format!("{{\n{}  }}", aligned(&pairs, "    ")))
}

fn list(items: impl Iterator<Item = String>) -> Option<String> {
    let items: String = items.map(|item| format!("    {item},\n")).collect();
    (!items.is_empty()).then(|| format!("[\n{items}  ]"))
}

/// Returns a file with one inline policy of a role.
pub fn terraform_of_inline_policy(role: &RoleArn, name: &str, body: &Value) -> String {
    // An identifier has only some of the characters of a role's name.
    let label: String =
        role.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let resource = format!("{}_{label}", name.replace('-', "_"));
    let short = [("name", quoted(name)), ("role", quoted(role.name()))];
    let policy = format!("jsonencode({})", expression(body));
    format!(
        "resource \"aws_iam_role_policy\" \"{resource}\" {{\n{}  policy = {policy}\n}}\n",
        aligned(&short, "  ")
    )
}

/// Returns arguments of one line as `terraform fmt` writes them: their values start in the same
/// column.
fn aligned<K: AsRef<str>>(arguments: &[(K, String)], indent: &str) -> String {
    let width = arguments.iter().map(|(key, _)| key.as_ref().chars().count()).max();
    let width = width.unwrap_or_default();
    let line = |(key, value): &(K, String)| {
        format!("{indent}{key:<width$} = {value}\n", key = key.as_ref())
    };
    arguments.iter().map(line).collect()
}

/// Returns JSON as a Terraform expression, with Terraform's template sequences escaped. It is
/// indented and spaced as `terraform fmt` writes it, so that a file with it does not change.
fn expression(value: &Value) -> String {
    escaped(&indented(value, "  "))
}

fn indented(value: &Value, indent: &str) -> String {
    let within = format!("{indent}  ");
    let (open, items, close): (_, Vec<String>, _) = match value {
        Value::Array(list) if !list.is_empty() => {
            ('[', list.iter().map(|item| indented(item, &within)).collect(), ']')
        }
        Value::Object(keys) if !keys.is_empty() => {
            let item = |(key, value): (&String, &Value)| {
                format!("{} : {}", Value::from(&**key), indented(value, &within))
            };
            ('{', keys.iter().map(item).collect(), '}')
        }
        other => return other.to_string(),
    };
    format!("{open}\n{within}{}\n{indent}{close}", items.join(&format!(",\n{within}")))
}

fn quoted(text: &str) -> String {
    escaped(&Value::from(text).to_string())
}

fn escaped(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

/// Returns the tenant as a part of a Terraform identifier. A tenant is a DNS label and may start
/// with a digit, an identifier may not: callers put a prefix before it.
fn label(account: &Account) -> String {
    account.tenant.as_str().replace('-', "_")
}

/// Where a release has its modules. Two slashes are between repository and directory.
const MODULES: &str = "github.com/nanohype/fab-session-injector//terraform";

/// The default of the modules' variable `parameter`, and of the config.
const DEFAULT_PARAMETER: &str =
    "/eks-agent-platform/{cluster}/tenant-substrate/{tenant}/session_role_arn";
