//! The documents as Terraform resources.

use std::{collections::BTreeSet, fmt::Write};

use serde_json::Value;

use super::{Account, Document, MAX_SESSION_DURATION, Name, documents, path, trust};
use crate::session::RoleArn;

/// Returns one Terraform file for the AWS provider. The boundary's statement is a local value,
/// because the boundary is one policy for all tenants. The default provider is that of the session
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
            if of == own { String::new() } else { format!("  provider = aws.account_{of}\n") }
        };
        let block = match name {
            Name::SessionRole | Name::SessionRoleTrust => role(account, &label),
            Name::SessionRolePolicy => {
                role_policy(&format!("session_{label}"), name.as_str(), &session_role, "", &body)
            }
            Name::BaseRolePolicy | Name::DenyWithoutSourceIdentity => {
                let mut blocks = Vec::new();
                for (index, role) in account.base_roles.iter().enumerate() {
                    let resource = format!("{}_{label}_{index}", name.as_str().replace('-', "_"));
                    let provider = provider(role.account());
                    let role = quoted(role.name());
                    blocks.push(role_policy(&resource, name.as_str(), &role, &provider, &body));
                }
                blocks.join("\n")
            }
            Name::BoundaryStatement => {
                format!("locals {{\n  boundary_statement_{label} = {}\n}}\n", expression(&body))
            }
            Name::Parameter => format!(
                "resource \"aws_ssm_parameter\" \"session_role_{label}\" {{\n{}  name  = {}\n  type  = \"String\"\n  value = \
                 aws_iam_role.session_{label}.arn\n}}\n",
                provider(account.cluster_account.as_str()),
                quoted(&account.parameter),
            ),
            Name::WebhookPolicy => format!(
                "resource \"aws_iam_policy\" \"session_injector_{label}\" {{\n{}  name   = \"fab-session-injector-{label}\"\n  policy = \
                 jsonencode({})\n}}\n",
                provider(account.cluster_account.as_str()),
                expression(&body)
            ),
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
    let mut more = String::new();
    if let Some(boundary) = &account.permissions_boundary {
        more = format!("  permissions_boundary = {}\n", quoted(boundary.as_str()));
    }
    if !account.tags.is_empty() {
        let tags = account
            .tags
            .iter()
            .map(|tag| format!("    {} = {}\n", quoted(tag.key.as_str()), quoted(&tag.value)));
        more.push_str(&format!("  tags = {{\n{}  }}\n", tags.collect::<String>()));
    }
    format!(
        "resource \"aws_iam_role\" \"session_{label}\" {{\n  name                 = {}\n  path                 = {}\n  \
         max_session_duration = {MAX_SESSION_DURATION}\n{more}  assume_role_policy   = jsonencode({})\n}}\n",
        quoted(account.session_role.name()),
        quoted(path(&account.session_role)),
        expression(&trust(account)),
    )
}

/// Returns a file with one inline policy of a role.
pub fn terraform_of_inline_policy(role: &RoleArn, name: &str, body: &Value) -> String {
    // An identifier has only some of the characters of a role's name.
    let label: String =
        role.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let resource = format!("{}_{label}", name.replace('-', "_"));
    role_policy(&resource, name, &quoted(role.name()), "", body)
}

fn role_policy(resource: &str, name: &str, role: &str, provider: &str, body: &Value) -> String {
    format!(
        "resource \"aws_iam_role_policy\" \"{resource}\" {{\n{provider}  name   = \"{name}\"\n  role   = {role}\n  policy = jsonencode({})\n}}\n",
        expression(body),
    )
}

/// Returns JSON as a Terraform expression: the same text, with Terraform's template sequences
/// escaped.
fn expression(value: &Value) -> String {
    escaped(&format!("{value:#}")).replace('\n', "\n  ")
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
