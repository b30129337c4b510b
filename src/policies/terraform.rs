//! The documents as Terraform resources.

use std::fmt::Write;

use serde_json::Value;

use super::{Account, Document, Name, documents};
use crate::session::RoleArn;

/// Returns one Terraform file for the AWS provider. The boundary's statement is a local value,
/// because the boundary is one policy for all tenants.
pub fn terraform(account: &Account) -> String {
    let mut file = String::new();
    for Document { name, body } in documents(account) {
        let label = label(account);
        let session_role = format!("aws_iam_role.session_{label}.name");
        let block = match name {
            Name::SessionRoleTrust => format!(
                "resource \"aws_iam_role\" \"session_{label}\" {{\n  name                 = {}\n  path                 = {}\n  \
                 max_session_duration = 3600\n  assume_role_policy   = jsonencode({})\n}}\n",
                quoted(role_name(&account.session_role)),
                quoted(path(&account.session_role)),
                expression(&body),
            ),
            Name::SessionRolePolicy => {
                role_policy(&format!("session_{label}"), name, &session_role, &body)
            }
            Name::BaseRolePolicy | Name::DenyWithoutSourceIdentity => {
                let mut blocks = Vec::new();
                for (index, role) in account.base_roles.iter().enumerate() {
                    let resource = format!("{}_{label}_{index}", name.as_str().replace('-', "_"));
                    blocks.push(role_policy(&resource, name, &quoted(role_name(role)), &body));
                }
                blocks.join("\n")
            }
            Name::BoundaryStatement => {
                format!("locals {{\n  boundary_statement_{label} = {}\n}}\n", expression(&body))
            }
            Name::Parameter => format!(
                "resource \"aws_ssm_parameter\" \"session_role_{label}\" {{\n  name  = {}\n  type  = \"String\"\n  value = \
                 aws_iam_role.session_{label}.arn\n}}\n",
                quoted(&account.parameter),
            ),
            Name::WebhookPolicy => format!(
                "resource \"aws_iam_policy\" \"session_injector_{label}\" {{\n  name   = \"fab-session-injector-{label}\"\n  policy = \
                 jsonencode({})\n}}\n",
                expression(&body)
            ),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(file, "# {}\n{block}", name.remark());
    }
    file.truncate(file.trim_end().len());
    file.push('\n');
    file
}

fn role_policy(resource: &str, name: Name, role: &str, body: &Value) -> String {
    format!(
        "resource \"aws_iam_role_policy\" \"{resource}\" {{\n  name   = \"{}\"\n  role   = {role}\n  policy = jsonencode({})\n}}\n",
        name.as_str(),
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

fn role_name(role: &RoleArn) -> &str {
    role.path_and_name().rsplit('/').next().unwrap_or_default()
}

fn path(role: &RoleArn) -> &str {
    let full = role.path_and_name();
    &full[..full.len() - role_name(role).len()]
}
