//! The documents as calls of the AWS CLI.

use serde_json::Value;

use super::{Account, Document, Name, documents, issuer_trust};
use crate::session::RoleArn;

/// One call, with credentials of one account.
struct CliCall<'a> {
    account: &'a str,
    command: String,
}

/// Returns a POSIX shell script. It only adds: a call that replaces a trust policy, or that stops
/// running pods, is a comment in it.
pub fn aws_cli(account: &Account) -> String {
    let mut script = HEAD.replace("{tenant}", account.tenant.as_str());
    let mut current = None;
    let (last, first): (Vec<_>, Vec<_>) = documents(account)
        .into_iter()
        .partition(|document| document.name == Name::DenyWithoutSourceIdentity);
    for document in first.iter().chain(&last) {
        let is_comment = replaces_or_stops(document.name);
        let remark = format!("{}: {}", document.name, account.remark(document.name));
        script += &format!("\n{}", comment(&remark));
        if document.name == Name::BoundaryStatement {
            script += &commented(&format!("{:#}", document.body));
        }
        for CliCall { account: of, command } in calls(document, account) {
            if current != Some(of) {
                script += &format!("of_account {of}\n");
                current = Some(of);
            }
            script += &if is_comment { commented(&command) } else { format!("{command}\n") };
        }
    }
    script
}

fn replaces_or_stops(name: Name) -> bool {
    match name {
        Name::BaseRoleTrust
        | Name::BucketPolicy
        | Name::DenyWithoutSourceIdentity
        | Name::SessionRoleTrust => true,
        Name::BaseRolePolicy
        | Name::BoundaryStatement
        | Name::IssuerPolicy
        | Name::OidcProvider
        | Name::Parameter
        | Name::SessionRole
        | Name::SessionRolePolicy
        | Name::WebhookPolicy => false,
    }
}

fn calls<'a>(document: &Document, account: &'a Account) -> Vec<CliCall<'a>> {
    let Document { name, accounts: _, body } = document;
    let session = |command| vec![CliCall { account: account.session_role.account(), command }];
    let base = |command: &dyn Fn(&RoleArn) -> String| {
        let roles = account.base_roles.iter();
        roles.map(|role| CliCall { account: role.account(), command: command(role) }).collect()
    };
    let cluster = |command| vec![CliCall { account: account.cluster_account.as_str(), command }];
    match name {
        Name::SessionRole => {
            session(format!("aws iam create-role --cli-input-json {}", quoted(body)))
        }
        Name::SessionRoleTrust => session(replace_trust(&account.session_role, body)),
        Name::SessionRolePolicy => session(put_policy(account.session_role.name(), *name, body)),
        Name::BaseRoleTrust => base(&|role| replace_trust(role, body)),
        Name::BaseRolePolicy | Name::DenyWithoutSourceIdentity => {
            base(&|role| put_policy(role.name(), *name, body))
        }
        Name::BoundaryStatement => Vec::new(),
        Name::BucketPolicy => {
            let bucket = account.issuer.as_ref().and_then(issuer_trust::bucket);
            let bucket = bucket.map_or("", |bucket| bucket.name);
            let body = quoted(body);
            cluster(format!("aws s3api put-bucket-policy --bucket {bucket} --policy {body}"))
        }
        Name::IssuerPolicy => {
            cluster(put_policy("\"${ISSUER_ROLE:-fab-session-injector-issuer}\"", *name, body))
        }
        Name::OidcProvider => {
            let body = quoted(body);
            let role = &account.session_role;
            let url = account.issuer.as_ref().map_or("", |issuer| issuer.url.host_and_path());
            // Another tenant's run may have created it.
            session(format!(
                "aws iam create-open-id-connect-provider --cli-input-json {body} ||\n  aws iam get-open-id-connect-provider --open-id-connect-provider-arn arn:{}:iam::{}:oidc-provider/{url}",
                role.partition(),
                role.account()
            ))
        }
        Name::Parameter => {
            let region = account.parameter.as_ref().map_or("*", |it| &*it.region);
            let body = quoted(body);
            cluster(format!("aws ssm put-parameter --region {region} --cli-input-json {body}"))
        }
        Name::WebhookPolicy => {
            cluster(put_policy("\"${WEBHOOK_ROLE:-fab-session-injector}\"", *name, body))
        }
    }
}

fn replace_trust(role: &RoleArn, body: &Value) -> String {
    let (role, body) = (role.name(), quoted(body));
    format!("aws iam update-assume-role-policy --role-name {role} --policy-document {body}")
}

fn put_policy(role: &str, name: Name, body: &Value) -> String {
    let body = quoted(body);
    format!(
        "aws iam put-role-policy --role-name {role} --policy-name {name} --policy-document {body}"
    )
}

/// Returns the document as one word of a shell.
fn quoted(body: &Value) -> String {
    format!("'{}'", format!("{body:#}").replace('\'', "'\\''"))
}

/// Returns the sentences as comment lines of at most [`WIDTH`] characters, if no word is longer.
fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        let length = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(line) if length + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n") + "\n"
}

/// Returns the lines as comments.
fn commented(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

const WIDTH: usize = 100;
const HEAD: &str = "\
# Required AWS resources of tenant {tenant}. This script only adds: calls that replace a policy of a
# role or bucket, or that stop running pods, are comments. If a resource exists already, the script ends there.
set -eu

# Ends with the credentials of another account. With two accounts, run each part with its own.
of_account() {
  test \"$(aws sts get-caller-identity --query Account --output text)\" = \"$1\" || {
    echo \"these are not credentials of account $1\" >&2
    exit 1
  }
}
";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_one_word_of_the_shell() {
        assert_eq!(quoted(&json!("it's")), "'\"it'\\''s\"'");
    }

    #[test]
    fn comments_are_wrapped_between_words() {
        let text = comment(&"word ".repeat(30));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.starts_with("# word") && line.len() <= WIDTH));
    }
}
