//! What IAM's documents say of a role that sessions assume, as far as they may be read.
//!
//! This is no IAM: whether a call is allowed is for STS to say. It looks for what is documented to
//! be needed, quotes what stands in its place, and leaves other conditions alone.

use serde_json::Value;

use super::{Findings, Link, Seen, items};
use crate::{
    config::Glob,
    policies::ASSUME,
    session::{RoleArn, SourceIdentity, TenantName},
};

/// What IAM holds of one role. Documents are as IAM stores them.
#[derive(Clone, Debug)]
pub struct Held {
    pub boundary: Option<Value>,
    /// Inline and attached.
    pub policies: Vec<Value>,
    pub trust: Value,
}

/// The tenant's role, and those that its trust policy names.
#[derive(Debug)]
pub struct Chain {
    pub base_roles: Vec<(RoleArn, Seen<Held>)>,
    pub session_role: Seen<Held>,
}

/// The roles that the trust policy names.
pub fn principals(trust: &Value) -> Vec<RoleArn> {
    let named = statements(trust).flat_map(|statement| strings(&statement["Principal"]["AWS"]));
    let mut roles: Vec<RoleArn> = Vec::new();
    for role in named.filter_map(|arn| arn.parse().ok()) {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles
}

pub(super) fn judge(tenant: &TenantName, role: &RoleArn, chain: &Chain, found: &mut Findings) {
    let subject = format!("tenant {tenant}, {role}");
    let Some(session) = chain.session_role.or_tell(Link::RoleTrust, &subject, found) else {
        return;
    };
    is_trusted(tenant, &subject, &session.trust, found);
    for (base, held) in &chain.base_roles {
        let subject = format!("tenant {tenant}, {base}");
        let Some(held) = held.or_tell(Link::BaseRole, &subject, found) else { continue };
        may_assume(&subject, role, held, found);
        loses(&subject, held, session, found);
    }
}

/// With a SourceIdentity, and with the tags that EKS Pod Identity passes on.
fn is_trusted(tenant: &TenantName, subject: &str, trust: &Value, found: &mut Findings) {
    let mut wrong = Vec::new();
    for action in ASSUME {
        let allows = |statement: &&Value| {
            statement["Effect"] == "Allow"
                && names_action(statement, action)
                && strings(&statement["Principal"]["AWS"]).next().is_some()
        };
        let allowing: Vec<&Value> = statements(trust).filter(allows).collect();
        match allowing.first() {
            None => {
                wrong.push(format!("no statement of its trust policy allows {action} to a role"))
            }
            Some(_) if allowing.iter().any(|statement| takes(statement, action, tenant)) => {}
            Some(first) => wrong.push(format!(
                "its trust policy allows {action} not for {}: {first}",
                names(tenant)
            )),
        }
        let denials = denials(trust, action, None);
        wrong.extend(denials.map(|it| format!("its trust policy denies {action}: {it}")));
    }
    if wrong.is_empty() {
        found.ok(Link::RoleTrust, subject, format!("its trust policy lets {} in", names(tenant)));
    }
    for says in wrong {
        found.broken(Link::RoleTrust, subject, says);
    }
}

/// Whether its condition on the SourceIdentity takes the tenant's sessions. There is none of a
/// TagSession: <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html>
fn takes(statement: &Value, action: &str, tenant: &TenantName) -> bool {
    let session = SourceIdentity::text(tenant, EXAMPLE);
    let conditions = statement["Condition"].as_object().into_iter().flatten();
    let mut wanted = conditions
        .filter(|(operator, _)| OPERATORS.iter().any(|known| operator.contains(known)))
        .flat_map(|(operator, keys)| {
            keys.as_object().into_iter().flatten().map(move |it| (operator, it))
        })
        .filter(|(_, (key, _))| key.eq_ignore_ascii_case("sts:SourceIdentity"));
    wanted.all(|(operator, (_, patterns))| {
        action != TAG_SESSION
            && strings(patterns).any(|pattern| {
                // What a variable stands for is not known here.
                pattern.contains("${") || operator.contains("Like") && matches(pattern, &session)
            })
    })
}

fn may_assume(subject: &str, role: &RoleArn, base: &Held, found: &mut Findings) {
    let allows = |document: &Value, action: &str| {
        statements(document).any(|it| it["Effect"] == "Allow" && concerns(it, action, Some(role)))
    };
    let mut wrong = Vec::new();
    for action in ASSUME {
        let denied = base.policies.iter().flat_map(|policy| denials(policy, action, Some(role)));
        wrong.extend(denied.map(|it| format!("a policy of it denies {action}: {it}")));
        let Some(boundary) = &base.boundary else { continue };
        let denied = denials(boundary, action, Some(role));
        wrong.extend(denied.map(|it| format!("its permissions boundary denies {action}: {it}")));
        if !allows(boundary, action) {
            wrong.push(format!("its permissions boundary allows {action} on {role} nowhere"));
        }
    }
    // Of AssumeRole and TagSession the trust policy's word may be enough in one account.
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html
    if !base.policies.iter().any(|policy| allows(policy, SET_SOURCE_IDENTITY)) {
        wrong.push(format!("no policy of it allows {SET_SOURCE_IDENTITY} on {role}"));
    }
    if wrong.is_empty() {
        found.ok(Link::BaseRole, subject, format!("may assume {role}"));
    }
    for says in wrong {
        found.broken(Link::BaseRole, subject, says);
    }
}

/// Agents act as the session role, and what only the base role may do is gone.
fn loses(subject: &str, base: &Held, session: &Held, found: &mut Findings) {
    let allowed = |held: &Held| -> Vec<String> {
        let all = held.policies.iter().flat_map(statements).filter(|it| it["Effect"] == "Allow");
        all.flat_map(|statement| strings(&statement["Action"])).map(str::to_owned).collect()
    };
    let kept = allowed(session);
    let mut lost = allowed(base);
    lost.sort_unstable();
    lost.dedup();
    lost.retain(|action| {
        !action.starts_with("sts:") && !kept.iter().any(|pattern| matches(pattern, action))
    });
    if lost.is_empty() {
        found.ok(
            Link::PermissionsLost,
            subject,
            "agents may do whatever it may, by the actions' names",
        );
    } else {
        found.note(Link::PermissionsLost, subject, format!("agents lose {}", lost.join(", ")));
    }
}

/// Those that hold without a condition.
fn denials<'v>(
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

fn concerns(statement: &Value, action: &str, role: Option<&RoleArn>) -> bool {
    names_action(statement, action)
        && role.is_none_or(|role| {
            is_named(&statement["Resource"], &statement["NotResource"], role.as_str())
        })
}

fn names_action(statement: &Value, action: &str) -> bool {
    is_named(&statement["Action"], &statement["NotAction"], action)
}

fn is_named(these: &Value, not_these: &Value, text: &str) -> bool {
    if not_these.is_null() {
        strings(these).any(|pattern| matches(pattern, text))
    } else {
        !strings(not_these).any(|pattern| matches(pattern, text))
    }
}

/// Of any case, as actions are. `?` is taken for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase().replace('?', "*");
    pattern.parse().is_ok_and(|glob: Glob| glob.matches(&text.to_ascii_lowercase()))
}

/// One stands without a list.
fn statements(document: &Value) -> impl Iterator<Item = &Value> {
    let one = Some(&document["Statement"]).filter(|statement| statement.is_object());
    items(document, "Statement").chain(one)
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    value.as_str().into_iter().chain(list)
}

fn names(tenant: &TenantName) -> String {
    SourceIdentity::text(tenant, "*")
}

const SET_SOURCE_IDENTITY: &str = "sts:SetSourceIdentity";
const TAG_SESSION: &str = "sts:TagSession";
/// With `ForAnyValue:` before them, or `IfExists` behind.
const OPERATORS: [&str; 2] = ["StringEquals", "StringLike"];
const EXAMPLE: &str = "1d3f2a8e-0000-4000-8000-000000000000";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;
    use serde_json::json;

    const BASE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-tenant";
    const ROLE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker";

    fn document(statements: Value) -> Value {
        json!({"Version": "2012-10-17", "Statement": statements})
    }

    fn trust(actions: Value, condition: Value) -> Value {
        json!({"Effect": "Allow", "Action": actions, "Principal": {"AWS": BASE}, "Condition": condition})
    }

    fn found(trust: Value, policy: Value, boundary: Option<Value>) -> Vec<String> {
        let tenant: TenantName = "acme".parse().unwrap();
        let models = document(json!({"Effect": "Allow", "Action": "bedrock:*", "Resource": "*"}));
        let session = Held { boundary: None, policies: vec![models], trust: document(trust) };
        let base_roles = principals(&session.trust);
        let base = Held {
            boundary: boundary.map(document),
            policies: vec![document(policy)],
            trust: Value::Null,
        };
        let chain = Chain {
            base_roles: base_roles
                .into_iter()
                .map(|arn| (arn, Seen::Known(base.clone())))
                .collect(),
            session_role: Seen::Known(session),
        };
        let mut found = Findings::default();
        judge(&tenant, &ROLE.parse().unwrap(), &chain, &mut found);
        let wrong = found.iter().filter(|finding| finding.level != Level::Ok);
        wrong.map(|finding| format!("{}: {}", finding.link, finding.says)).collect()
    }

    #[test]
    fn what_is_missing_or_in_the_way_is_quoted() {
        let ours = || json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}});
        let assume = || json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
        let tags =
            || json!({"Effect": "Allow", "Action": "sts:TagSession", "Principal": {"AWS": BASE}});
        let right = || json!([trust(assume(), ours()), tags()]);
        let may = || json!({"Effect": "Allow", "Action": "sts:*", "Resource": ROLE});
        let escalation =
            || json!({"Effect": "Deny", "Action": ["sts:AssumeRole"], "Resource": "*"});
        let all = || json!({"Effect": "Allow", "Action": "*", "Resource": "*"});
        let carved = json!({"Effect": "Deny", "Action": "sts:AssumeRole", "NotResource": "arn:aws:iam::*:role/*-broker"});
        let operators = json!({"StringEquals": {"sts:SourceIdentity": ["ada@example.com"]}});
        let held = json!({"StringEquals": {"sts:SourceIdentity": "agent.acme.${aws:PrincipalTag/kubernetes-pod-uid}"}});
        let cases: [(Value, Value, Option<Value>, &[&str]); 12] = [
            (right(), may(), None, &[]),
            (json!([trust(assume(), held), tags()]), may(), None, &[]),
            (right(), may(), Some(json!([all(), carved])), &[]),
            (
                json!(trust(assume(), ours())),
                may(),
                None,
                &["role-trust: no statement of its trust policy allows sts:TagSession"],
            ),
            (
                json!(trust(json!("sts:*"), ours())),
                may(),
                None,
                &[
                    "role-trust: its trust policy allows sts:TagSession not for agent.acme.*: {\"Effect\"",
                ],
            ),
            (
                json!([trust(assume(), operators), tags()]),
                may(),
                None,
                &[
                    "role-trust: its trust policy allows sts:AssumeRole not for agent.acme.*: {\"Effect\"",
                    "role-trust: its trust policy allows sts:SetSourceIdentity not for",
                ],
            ),
            (
                json!([trust(json!("sts:AssumeRole"), json!({})), tags()]),
                may(),
                None,
                &["role-trust: no statement of its trust policy allows sts:SetSourceIdentity"],
            ),
            (
                right(),
                json!({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}),
                None,
                &["base-role: no policy of it allows sts:SetSourceIdentity on"],
            ),
            (
                right(),
                may(),
                Some(json!([all(), escalation()])),
                &[
                    "base-role: its permissions boundary denies sts:AssumeRole: {\"Effect\":\"Deny\"",
                ],
            ),
            (
                right(),
                may(),
                Some(json!({"Effect": "Allow", "Action": "bedrock:*", "Resource": "*"})),
                &[
                    "base-role: its permissions boundary allows sts:AssumeRole on",
                    "base-role: its permissions boundary allows sts:SetSourceIdentity on",
                    "base-role: its permissions boundary allows sts:TagSession on",
                ],
            ),
            (
                right(),
                json!([may(), escalation()]),
                None,
                &["base-role: a policy of it denies sts:AssumeRole"],
            ),
            (
                right(),
                json!([may(), {"Effect": "Allow", "Action": ["s3:GetObject", "bedrock:InvokeModel"], "Resource": "*"}]),
                None,
                &["permissions-lost: agents lose s3:GetObject"],
            ),
        ];
        for (trust, policy, boundary, want) in cases {
            let found = found(trust.clone(), policy, boundary);
            assert_eq!(found.len(), want.len(), "{trust}: {found:#?}");
            for (says, begins) in found.iter().zip(want) {
                assert!(says.starts_with(begins), "{says}\nwant {begins}");
            }
        }
    }

    #[test]
    fn principals_that_are_no_roles_are_left_out() {
        let principal = json!({"AWS": [BASE, "AROAEXAMPLE", "111122223333", BASE], "Service": "ec2.amazonaws.com"});
        let trust = document(json!([{"Principal": principal}, {"Principal": "*"}]));
        assert_eq!(principals(&trust), [BASE.parse::<RoleArn>().unwrap()]);
    }
}
