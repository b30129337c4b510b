//! The elements of an IAM policy document, as IAM stores it.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html>

use serde_json::Value;

use super::items;
use crate::session::RoleArn;

/// Returns the roles that the trust policy allows by ARN.
pub fn principals(trust: &Value) -> Vec<RoleArn> {
    let mut roles: Vec<RoleArn> = Vec::new();
    for role in allowed_principals(trust).filter_map(|arn| arn.parse().ok()) {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles
}

/// Returns the principals that the trust policy allows: roles, accounts, or `*`.
pub(super) fn allowed_principals(trust: &Value) -> impl Iterator<Item = &str> {
    statements(trust).filter(|it| it["Effect"] == "Allow").flat_map(principals_of)
}

/// Returns whether the principal is the ID of a deleted role. IAM shows the ID even if a new role
/// has the same name.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html>
pub(super) fn is_gone(principal: &str) -> bool {
    principal.starts_with("AROA")
}

/// Returns the tags of a principal that the trust policy does not accept: those that the condition
/// `Null` requires to be absent.
pub(super) fn tags_that_deny(trust: &Value) -> Vec<String> {
    let conditions = statements(trust).filter_map(|it| it["Condition"]["Null"].as_object());
    let absent = conditions.flatten().filter(|(_, value)| strings(value).any(|it| it == "true"));
    let tag = |key: &str| {
        let (start, tag) = key.split_at_checked(PRINCIPAL_TAG.len())?;
        start.eq_ignore_ascii_case(PRINCIPAL_TAG).then(|| tag.to_owned())
    };
    absent.filter_map(|(key, _)| tag(key)).collect()
}

/// Returns the principals of a statement, without services and identity providers.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html>
pub(super) fn principals_of(statement: &Value) -> impl Iterator<Item = &str> {
    let principal = &statement["Principal"];
    principal.as_str().into_iter().chain(strings(&principal["AWS"]))
}

/// Returns whether the statement names a principal that the trust policy allows, or its whole
/// account. `NotPrincipal` is not evaluated.
pub(super) fn is_about(statement: &Value, trust: &Value) -> bool {
    let whole_account = |principal: &str, other: &str| {
        let account = other.parse().ok().map(|role: RoleArn| role.account().to_owned());
        account.is_some_and(|account| {
            principal == account || principal.ends_with(&format!(":iam::{account}:root"))
        })
    };
    principals_of(statement).any(|principal| {
        principal == "*"
            || allowed_principals(trust)
                .any(|other| other == principal || whole_account(principal, other))
    })
}

/// Returns the statements that deny the action without a condition.
pub(super) fn denials<'v>(
    document: &'v Value,
    action: &'static str,
    role: Option<&'v RoleArn>,
) -> impl Iterator<Item = &'v Value> {
    statements(document).filter(move |statement| {
        statement["Effect"] == "Deny"
            && statement["Condition"].is_null()
            && concerns(statement, action, role)
    })
}

pub(super) fn concerns(statement: &Value, action: &str, role: Option<&RoleArn>) -> bool {
    names_action(statement, action)
        && role.is_none_or(|role| {
            let is_role = |pattern: &str| matches(pattern, role.as_str());
            is_named(&statement["Resource"], &statement["NotResource"], is_role)
        })
}

pub(super) fn names_action(statement: &Value, action: &str) -> bool {
    let is_it = |pattern: &str| is_action(pattern, action);
    is_named(&statement["Action"], &statement["NotAction"], is_it)
}

fn is_named(these: &Value, not_these: &Value, is_it: impl Fn(&str) -> bool) -> bool {
    if not_these.is_null() { strings(these).any(is_it) } else { !strings(not_these).any(is_it) }
}

/// Returns whether the pattern matches the action. Only names of actions ignore case.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_action.html>
pub(super) fn is_action(pattern: &str, action: &str) -> bool {
    matches(&pattern.to_ascii_lowercase(), &action.to_ascii_lowercase())
}

/// Returns whether the condition matches this value of its key. None: the key is not in the
/// context.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html>
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html>
pub(super) fn condition_holds(operator: &str, patterns: &Value, brought: Option<&str>) -> bool {
    let (set, operator) = operator.split_once(':').unwrap_or(("", operator));
    let (operator, if_exists) = match operator.strip_suffix("IfExists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let (is_negated, equals): (bool, fn(&str, &str) -> bool) = match operator {
        "StringEquals" => (false, str::eq),
        "StringEqualsIgnoreCase" => (false, str::eq_ignore_ascii_case),
        "StringLike" => (false, matches),
        "StringNotEquals" => (true, str::eq),
        "StringNotEqualsIgnoreCase" => (true, str::eq_ignore_ascii_case),
        "StringNotLike" => (true, matches),
        _ => return true,
    };
    let Some(value) = brought else {
        return match set {
            _ if if_exists => true,
            "ForAllValues" => true,
            "ForAnyValue" => false,
            _ => is_negated,
        };
    };
    let is_named = strings(patterns).any(|pattern| {
        // The value of a policy variable is not known here.
        if pattern.contains("${") { !is_negated } else { equals(pattern, value) }
    });
    is_named != is_negated
}

/// Returns whether the pattern matches the text: `*` matches any number of characters, also none,
/// and `?` exactly one.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // The pattern after the last `*`, and the text that this `*` may still match.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        (pattern, text) = match (pattern, text, retry) {
            ([b'*', after @ ..], _, _) => {
                retry = Some((after, text));
                (after, text)
            }
            ([], [], _) => return true,
            ([wanted, after @ ..], [found, rest @ ..], _) if [b'?', *found].contains(wanted) => {
                (after, rest)
            }
            (_, _, Some((after, [_, rest @ ..]))) => {
                retry = Some((after, rest));
                (after, rest)
            }
            (_, _, _) => return false,
        };
    }
}

/// Returns the statements of a policy. A single statement may be an object instead of a list.
pub(super) fn statements(document: &Value) -> impl Iterator<Item = &Value> {
    let one = Some(&document["Statement"]).filter(|statement| statement.is_object());
    items(document, "Statement").chain(one)
}

pub(super) fn strings(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    value.as_str().into_iter().chain(list)
}

const PRINCIPAL_TAG: &str = "aws:PrincipalTag/";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BASE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-tenant";
    const ROLE: &str = "arn:aws:iam::111122223333:role/prod-acme-session-broker";

    #[test]
    fn only_action_patterns_ignore_case() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "anything", true),
            ("?", "", false),
            ("?", "a", true),
            ("?", "ab", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*?", "a", false),
            ("*a?", "aab", true),
            ("*-broker", "prod-acme-broker", true),
            ("*-broker", "prod-acme-broker-2", false),
            ("a*", "A", false),
            ("a.c", "abc", false),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(matches(pattern, text), want, "{pattern:?} {text:?}");
        }
        let role: RoleArn = ROLE.parse().unwrap();
        let cases = [
            ("sts:AssumeRole", ROLE.to_owned(), true),
            ("STS:assumerol?", ROLE.replace("acme", "????"), true),
            ("sts:AssumeRole", ROLE.replace("acme", "?"), false),
            ("sts:AssumeRole", ROLE.replace("acme", "ACME"), false),
        ];
        for (action, resource, want) in cases {
            let statement = json!({"Action": action, "Resource": resource});
            assert_eq!(concerns(&statement, "sts:AssumeRole", Some(&role)), want, "{statement}");
        }
    }

    #[test]
    fn principals_that_are_not_roles_are_ignored() {
        let principal = json!({"AWS": [BASE, "AROAEXAMPLE", "111122223333", BASE], "Service": "ec2.amazonaws.com"});
        let trust = json!({"Statement": [
            {"Effect": "Allow", "Principal": principal},
            {"Effect": "Allow", "Principal": "*"},
            {"Effect": "Deny", "Principal": {"AWS": ROLE}},
        ]});
        assert_eq!(principals(&trust), [BASE.parse::<RoleArn>().unwrap()]);
    }
}
