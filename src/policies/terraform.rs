//! The documents as Terraform resources.

use std::{collections::BTreeSet, fmt::Write};

use serde_json::Value;

use super::{Account, Document, MAX_SESSION_DURATION, Name, documents, path, trust};
use crate::session::RoleArn;

/// Returns one Terraform file for the AWS provider. The boundary's statement is a local value,
/// because the boundary is one policy for all tenants. The trust policy of the base roles is one as
/// well, because other files have these roles. The default provider is that of the session
/// role's account. Each other account has a provider of its own.
pub fn terraform(account: &Account) -> String {
    let mut file = String::new();
    let mut others = BTreeSet::new();
    // The trust policy is an argument of the role.
    let documents = documents(account);
    let documents =
        documents.into_iter().filter(|document| document.name != Name::SessionRoleTrust);
    for Document { name, accounts, body } in documents {
        let label = label(account);
        let session_role = format!("aws_iam_role.session_{label}.name");
        let own = account.session_role.account();
        let provider = |of: &str| {
            let alias = (of != own).then(|| format!("aws.account_{of}"));
            alias.map(|alias| ("provider", alias))
        };
        let of_cluster = || provider(account.cluster_account.as_str()).into_iter();
        let block = match name {
            Name::SessionRole | Name::SessionRoleTrust => role(account, &label),
            Name::SessionRolePolicy => {
                role_policy(&format!("session_{label}"), name.as_str(), session_role, None, &body)
            }
            Name::BaseRolePolicy | Name::DenyWithoutSourceIdentity => {
                let mut blocks = Vec::new();
                for (index, role) in account.base_roles.iter().enumerate() {
                    let resource = format!("{}_{label}_{index}", name.as_str().replace('-', "_"));
                    let provider = provider(role.account());
                    let role = quoted(role.name());
                    blocks.push(role_policy(&resource, name.as_str(), role, provider, &body));
                }
                blocks.join("\n")
            }
            Name::BaseRoleTrust => local(&format!("base_role_trust_{label}"), &body),
            Name::BoundaryStatement => local(&format!("boundary_statement_{label}"), &body),
            Name::Parameter => {
                let own = [
                    ("name", quoted(&account.parameter)),
                    ("type", quoted("String")),
                    ("value", format!("aws_iam_role.session_{label}.arn")),
                ];
                let arguments: Vec<_> = of_cluster().chain(own).collect();
                resource("aws_ssm_parameter", &format!("session_role_{label}"), &arguments, &[])
            }
            Name::WebhookPolicy => {
                let own = ("name", format!("\"fab-session-injector-{label}\""));
                let arguments: Vec<_> = of_cluster().chain([own]).collect();
                let policy = ("policy", jsonencode(&body));
                let resource_name = format!("session_injector_{label}");
                resource("aws_iam_policy", &resource_name, &arguments, &[policy])
            }
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            file,
            "# {}\n# Account: {}.\n{block}",
            account.remark(name),
            accounts.join(", ")
        );
        others.extend(accounts.into_iter().filter(|other| other != own));
    }
    file.truncate(file.trim_end().len());
    file.push('\n');
    let providers: Vec<String> =
        others.iter().map(|other| format!("#   alias \"account_{other}\"\n")).collect();
    if providers.is_empty() {
        return file;
    }
    format!(
        "# The default provider is that of account {}. Configure a provider for each other account:\n{}\n{file}",
        account.session_role.account(),
        providers.concat(),
    )
}

fn role(account: &Account, label: &str) -> String {
    let mut short = vec![
        ("name", quoted(account.session_role.name())),
        ("path", quoted(path(&account.session_role))),
        ("max_session_duration", MAX_SESSION_DURATION.to_string()),
    ];
    short.extend(
        account.permissions_boundary.iter().map(|it| ("permissions_boundary", quoted(it.as_str()))),
    );
    let mut long = Vec::new();
    if !account.tags.is_empty() {
        let tags = account.tags.iter().map(|tag| (quoted(tag.key.as_str()), quoted(&tag.value)));
        let tags: Vec<_> = tags.collect();
        long.push(("tags", format!("{{\n{}  }}", aligned(&tags, "    "))));
    }
    long.push(("assume_role_policy", jsonencode(&trust(account))));
    resource("aws_iam_role", &format!("session_{label}"), &short, &long)
}

/// Returns a file with one inline policy of a role.
pub fn terraform_of_inline_policy(role: &RoleArn, name: &str, body: &Value) -> String {
    // An identifier has only some of the characters of a role's name.
    let label: String =
        role.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let resource = format!("{}_{label}", name.replace('-', "_"));
    role_policy(&resource, name, quoted(role.name()), None, body)
}

fn role_policy(
    resource_name: &str,
    name: &str,
    role: String,
    provider: Option<(&str, String)>,
    body: &Value,
) -> String {
    let short: Vec<_> =
        provider.into_iter().chain([("name", quoted(name)), ("role", role)]).collect();
    let policy = ("policy", jsonencode(body));
    resource("aws_iam_role_policy", resource_name, &short, &[policy])
}

/// Returns a resource as `terraform fmt` writes it: the values of consecutive arguments of one line
/// start in the same column, those of `long`, with several lines, do not.
fn resource(kind: &str, name: &str, short: &[(&str, String)], long: &[(&str, String)]) -> String {
    let long = long.iter().map(|(key, value)| format!("  {key} = {value}\n"));
    let long = long.collect::<String>();
    format!("resource \"{kind}\" \"{name}\" {{\n{}{long}}}\n", aligned(short, "  "))
}

fn local(name: &str, body: &Value) -> String {
    format!("locals {{\n  {name} = {}\n}}\n", expression(body))
}

fn aligned<K: AsRef<str>>(arguments: &[(K, String)], indent: &str) -> String {
    let width = arguments.iter().map(|(key, _)| key.as_ref().chars().count()).max();
    let width = width.unwrap_or_default();
    let line = |(key, value): &(K, String)| {
        format!("{indent}{key:<width$} = {value}\n", key = key.as_ref())
    };
    arguments.iter().map(line).collect()
}

fn jsonencode(body: &Value) -> String {
    format!("jsonencode({})", expression(body))
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
