//! Checks the IAM policies of the session role and of its base roles.
//!
//! This is not a policy simulator: only STS decides whether a call is allowed. The checks look for
//! the statements that the AWS documentation requires, quote statements that block a call, and
//! ignore conditions on other keys.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    CheckId, Findings,
    iam_policy::{
        allowed_principals, concerns, condition_holds, denials, is_about, is_action, is_gone,
        names_action, principals_of, statements, strings,
    },
    iam_role::{Boundary, Chain, Held},
    role_controls::check_controls,
};
use crate::{
    config::BaseCredentials,
    policies::ASSUME,
    session::{RoleArn, SourceIdentity, TenantName},
};

pub(super) fn check_policies(
    tenant: &TenantName,
    role: &RoleArn,
    chain: &Chain,
    credentials: &BaseCredentials,
) -> Findings {
    let mut found = Findings::default();
    let subject = format!("tenant {tenant}, {role}");
    let Some(session) = chain.session_role.or_report(CheckId::RoleTrust, &subject, &mut found)
    else {
        return found;
    };
    let needed = needed(credentials);
    check_trust(tenant, &subject, &session.trust, &needed, &mut found);
    let others: BTreeSet<&str> =
        allowed_principals(&session.trust).filter(|it| !is_gone(it)).collect();
    if chain.base_roles.is_empty() && !others.is_empty() {
        let others: Vec<&str> = others.into_iter().collect();
        let others = others.join(", ");
        let message = format!("cannot determine the base role: its trust policy allows {others}");
        found.unknown(CheckId::BaseRole, &*subject, message);
    }
    for (base, held) in &chain.base_roles {
        let subject = format!("tenant {tenant}, {base}");
        let Some(held) = held.or_report(CheckId::BaseRole, &subject, &mut found) else { continue };
        check_base_role(&subject, role, base, held, &needed, &mut found);
        check_lost_permissions(&subject, held, session, &mut found);
        check_controls(&subject, held, session, &mut found);
    }
    found
}

/// Returns the actions that the policies must allow. Only credentials of EKS Pod Identity have
/// session tags; these are transitive, so each `AssumeRole` with them requires `sts:TagSession`.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>
fn needed(credentials: &BaseCredentials) -> Vec<&'static str> {
    let with_tags = matches!(credentials, BaseCredentials::PodIdentity(_));
    ASSUME.into_iter().filter(|action| with_tags || *action != TAG_SESSION).collect()
}

/// Checks whether the trust policy allows each needed action for sessions of the tenant.
fn check_trust(
    tenant: &TenantName,
    subject: &str,
    trust: &Value,
    needed: &[&'static str],
    found: &mut Findings,
) {
    let mut wrong = Vec::new();
    for &action in needed {
        let allowing: Vec<&Value> = statements(trust)
            .filter(|it| {
                it["Effect"] == "Allow"
                    && names_action(it, action)
                    && principals_of(it).next().is_some()
            })
            .collect();
        match allowing.first() {
            None => {
                wrong.push(format!("no statement of its trust policy allows {action} to a role"))
            }
            Some(_) if allowing.iter().any(|statement| takes(statement, action, tenant)) => {}
            Some(first) => wrong.push(format!(
                "its trust policy does not allow {action} for {}: {first}",
                names(tenant)
            )),
        }
        let denials = denials(trust, action, None).filter(|it| is_about(it, trust));
        wrong.extend(denials.map(|it| format!("its trust policy denies {action}: {it}")));
    }
    let gone: BTreeSet<&str> = allowed_principals(trust).filter(|name| is_gone(name)).collect();
    wrong.extend(gone.iter().map(|id| format!("its trust policy names {id}, a deleted role")));
    if wrong.is_empty() {
        found.ok(CheckId::RoleTrust, subject, format!("its trust policy allows {}", names(tenant)));
    }
    for message in wrong {
        found.error(CheckId::RoleTrust, subject, message);
    }
}

/// Returns whether the statement's conditions on `sts:SourceIdentity` match sessions of the tenant.
/// `sts:TagSession` has no such key in its context:
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html>
fn takes(statement: &Value, action: &str, tenant: &TenantName) -> bool {
    let session = SourceIdentity::text(tenant, EXAMPLE);
    let brought = Some(&*session).filter(|_| action != TAG_SESSION);
    let conditions = statement["Condition"].as_object().into_iter().flatten();
    let mut wanted = conditions
        .flat_map(|(operator, keys)| {
            keys.as_object().into_iter().flatten().map(move |it| (operator, it))
        })
        .filter(|(_, (key, _))| key.eq_ignore_ascii_case("sts:SourceIdentity"));
    wanted.all(|(operator, (_, patterns))| condition_holds(operator, patterns, brought))
}

fn check_base_role(
    subject: &str,
    role: &RoleArn,
    base: &RoleArn,
    held: &Held,
    needed: &[&'static str],
    found: &mut Findings,
) {
    let allows = |document: &Value, action: &str| {
        statements(document).any(|it| it["Effect"] == "Allow" && concerns(it, action, Some(role)))
    };
    let mut wrong = Vec::new();
    for &action in needed {
        let denied = held.policies.iter().flat_map(|policy| denials(policy, action, Some(role)));
        wrong.extend(denied.map(|it| format!("one of its policies denies {action}: {it}")));
        let Some(Boundary { document: boundary, .. }) = &held.boundary else { continue };
        let denied = denials(boundary, action, Some(role));
        wrong.extend(denied.map(|it| format!("its permissions boundary denies {action}: {it}")));
        if !allows(boundary, action) {
            wrong.push(format!("its permissions boundary does not allow {action} on {role}"));
        }
    }
    // In the same account, the trust policy alone may allow AssumeRole and TagSession.
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic-cross-account.html
    let elsewhere = base.account() != role.account();
    for action in needed.iter().filter(|action| elsewhere || **action == SET_SOURCE_IDENTITY) {
        if !held.policies.iter().any(|policy| allows(policy, action)) {
            let other = if elsewhere { ", a role of another account" } else { "" };
            wrong.push(format!("none of its policies allows {action} on {role}{other}"));
        }
    }
    if wrong.is_empty() {
        found.ok(CheckId::BaseRole, subject, format!("may assume {role}"));
    }
    for message in wrong {
        found.error(CheckId::BaseRole, subject, message);
    }
}

/// Checks which actions agents lose. They act as the session role, and actions that only the base
/// role allows are lost.
fn check_lost_permissions(subject: &str, base: &Held, session: &Held, found: &mut Findings) {
    let allowed = |held: &Held| -> Vec<String> {
        let all = held.policies.iter().flat_map(statements).filter(|it| it["Effect"] == "Allow");
        all.flat_map(|statement| strings(&statement["Action"])).map(str::to_owned).collect()
    };
    let kept = allowed(session);
    let mut lost = allowed(base);
    lost.sort_unstable();
    lost.dedup();
    lost.retain(|action| {
        !is_action("sts:*", action) && !kept.iter().any(|pattern| is_action(pattern, action))
    });
    if lost.is_empty() {
        found.ok(
            CheckId::PermissionsLost,
            subject,
            "the session role allows all of its actions, by their names",
        );
    } else {
        found.warning(
            CheckId::PermissionsLost,
            subject,
            format!("agents lose {}", lost.join(", ")),
        );
    }
}

fn names(tenant: &TenantName) -> String {
    SourceIdentity::text(tenant, "*")
}

const SET_SOURCE_IDENTITY: &str = "sts:SetSourceIdentity";
const TAG_SESSION: &str = "sts:TagSession";
const EXAMPLE: &str = "1d3f2a8e-0000-4000-8000-000000000000";

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use serde_json::json;

    use super::{super::iam_policy::principals, *};
    use crate::{
        check::{Level, Seen},
        config::IpFamily,
        revocation::Revoked,
    };

    const BASE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-tenant";
    const ROLE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker";

    fn document(statements: Value) -> Value {
        json!({"Version": "2012-10-17", "Statement": statements})
    }

    fn trust(actions: Value, condition: Value) -> Value {
        json!({"Effect": "Allow", "Action": actions, "Principal": {"AWS": BASE}, "Condition": condition})
    }

    fn found(trust: Value, policy: Value, boundary: Option<Value>) -> Vec<String> {
        found_with(&BaseCredentials::PodIdentity(IpFamily::V4), trust, policy, boundary)
    }

    fn found_with(
        credentials: &BaseCredentials,
        trust: Value,
        policy: Value,
        boundary: Option<Value>,
    ) -> Vec<String> {
        let tenant: TenantName = "acme".parse().unwrap();
        let models = document(json!({"Effect": "Allow", "Action": "bedrock:*", "Resource": "*"}));
        let arn = "arn:aws:iam::111122223333:policy/b".to_owned();
        let boundary = boundary.map(|statements| Boundary { arn, document: document(statements) });
        let tags = BTreeMap::new();
        let session = Held {
            boundary: boundary.clone(),
            longest_session: Duration::from_secs(3600),
            policies: vec![models],
            revoked: Ok(Revoked::default()),
            tags: tags.clone(),
            trust: document(trust),
        };
        let base_roles = principals(&session.trust);
        let base = Held {
            boundary,
            longest_session: Duration::from_secs(3600),
            policies: vec![document(policy)],
            revoked: Ok(Revoked::default()),
            tags,
            trust: Value::Null,
        };
        let chain = Chain {
            base_roles: base_roles
                .into_iter()
                .map(|arn| (arn, Seen::Known(base.clone())))
                .collect(),
            session_role: Seen::Known(session),
        };
        let found = check_policies(&tenant, &ROLE.parse().unwrap(), &chain, credentials);
        let wrong = found.iter().filter(|finding| finding.level != Level::Ok);
        wrong.map(|finding| format!("{}: {}", finding.check, finding.message)).collect()
    }

    #[test]
    fn missing_and_blocking_statements_are_quoted() {
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
                    "role-trust: its trust policy does not allow sts:TagSession for agent.acme.*: {\"Effect\"",
                ],
            ),
            (
                json!([trust(assume(), operators), tags()]),
                may(),
                None,
                &[
                    "role-trust: its trust policy does not allow sts:AssumeRole for agent.acme.*: {\"Effect\"",
                    "role-trust: its trust policy does not allow sts:SetSourceIdentity for",
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
                &["base-role: none of its policies allows sts:SetSourceIdentity on"],
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
                    "base-role: its permissions boundary does not allow sts:AssumeRole on",
                    "base-role: its permissions boundary does not allow sts:SetSourceIdentity on",
                    "base-role: its permissions boundary does not allow sts:TagSession on",
                ],
            ),
            (
                right(),
                json!([may(), escalation()]),
                None,
                &["base-role: one of its policies denies sts:AssumeRole"],
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
            begin_with(&found, want, &trust);
        }
    }

    fn begin_with(found: &[String], want: &[&str], of: &Value) {
        assert_eq!(found.len(), want.len(), "{of}: {found:#?}");
        for (message, begins) in found.iter().zip(want) {
            assert!(message.starts_with(begins), "{message}\nwant {begins}");
        }
    }

    #[test]
    fn only_principals_of_the_trust_policy_are_evaluated() {
        let statement = |effect: &str, actions: &str, principal: Value| json!({"Effect": effect, "Action": actions, "Principal": principal});
        let all = |principal: Value| statement("Allow", "sts:*", principal);
        let deny = |principal: Value| statement("Deny", "sts:AssumeRole", principal);
        let role = |arn: &str| json!({"AWS": arn});
        let policy = |action: &str| json!({"Effect": "Allow", "Action": action, "Resource": "*"});
        let not_principal =
            json!({"Effect": "Deny", "Action": "sts:*", "NotPrincipal": role(BASE)});
        let denied = "role-trust: its trust policy denies sts:AssumeRole: {\"Effect\":\"Deny\"";
        let unknown = "base-role: cannot determine the base role: its trust policy allows";
        let elsewhere = BASE.replace("111122223333", "444455556666");
        let of_root = format!("{unknown} arn:aws:iam::111122223333:root");
        let root = "arn:aws:iam::111122223333:root";
        let other_root = "arn:aws:iam::444455556666:root";
        let gone = "role-trust: its trust policy names AROAEXAMPLE, a deleted role";
        let cases: [(Value, Value, &[&str]); 21] = [
            (json!([all(role(BASE)), deny(role(root))]), policy("sts:*"), &[denied]),
            (json!([all(role(BASE)), deny(role("111122223333"))]), policy("sts:*"), &[denied]),
            (json!([all(role(BASE)), deny(role(other_root))]), policy("sts:*"), &[]),
            (json!([all(role(root)), deny(role(root))]), policy("sts:*"), &[denied, &of_root]),
            (all(role("AROAEXAMPLE")), policy("sts:*"), &[gone]),
            (all(json!({"AWS": [BASE, "AROAEXAMPLE"]})), policy("sts:*"), &[gone]),
            (all(role(BASE)), policy("sts:SetSourceIdentity"), &[]),
            (all(role(BASE)), policy("STS:setsourceidentity"), &[]),
            (json!([all(role(BASE)), deny(role(ROLE))]), policy("sts:*"), &[]),
            (
                json!([all(role(BASE)), deny(json!({"Service": "ec2.amazonaws.com"}))]),
                policy("sts:*"),
                &[],
            ),
            (json!([all(role(BASE)), not_principal]), policy("sts:*"), &[]),
            (
                json!([all(role(BASE)), deny(json!({"AWS": [ROLE, BASE]}))]),
                policy("sts:*"),
                &[denied],
            ),
            (json!([all(role(BASE)), deny(json!("*"))]), policy("sts:*"), &[denied]),
            (json!([all(role(BASE)), deny(role("*"))]), policy("sts:*"), &[denied]),
            (all(role("arn:aws:iam::111122223333:root")), policy("sts:*"), &[&of_root]),
            (all(role("111122223333")), policy("sts:*"), &[&format!("{unknown} 111122223333")]),
            (all(role("*")), policy("sts:*"), &[&format!("{unknown} *")]),
            (all(json!("*")), policy("sts:*"), &[&format!("{unknown} *")]),
            (
                all(json!({"Service": "ec2.amazonaws.com"})),
                policy("sts:*"),
                &[
                    "role-trust: no statement of its trust policy allows sts:AssumeRole",
                    "role-trust: no statement of its trust policy allows sts:SetSourceIdentity",
                    "role-trust: no statement of its trust policy allows sts:TagSession",
                ],
            ),
            (all(role(&elsewhere)), policy("sts:*"), &[]),
            (
                all(role(&elsewhere)),
                policy("sts:SetSourceIdentity"),
                &[
                    &format!(
                        "base-role: none of its policies allows sts:AssumeRole on {ROLE}, a role of another"
                    ),
                    "base-role: none of its policies allows sts:TagSession on",
                ],
            ),
        ];
        for (trust, policy, want) in cases {
            begin_with(&found(trust.clone(), policy, None), want, &trust);
        }
    }

    #[test]
    fn tag_session_is_required_only_with_session_tags() {
        let action = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
        let trust = trust(action.clone(), json!({}));
        let allow = json!({"Effect": "Allow", "Action": action, "Resource": "*"});
        let cases: [(BaseCredentials, &[&str]); 3] = [
            (BaseCredentials::Environment, &[]),
            (BaseCredentials::Irsa(BASE.parse().unwrap()), &[]),
            (
                BaseCredentials::PodIdentity(IpFamily::V4),
                &[
                    "role-trust: no statement of its trust policy allows sts:TagSession",
                    "base-role: its permissions boundary does not allow sts:TagSession",
                ],
            ),
        ];
        for (credentials, want) in cases {
            let found = found_with(&credentials, trust.clone(), allow.clone(), Some(allow.clone()));
            begin_with(&found, want, &trust);
        }
    }

    #[test]
    fn conditions_on_the_name_match_as_in_iam() {
        let ours = format!("agent.acme.{EXAMPLE}");
        let cases = [
            // Whether it matches a session of the tenant, and sts:TagSession, which has no such
            // key.
            ("StringLike", json!("agent.acme.*"), (true, false)),
            ("StringLike", json!("agent.acme.????????-*"), (true, false)),
            ("StringLike", json!("agent.acme.?-*"), (false, false)),
            ("StringLike", json!("Agent.acme.*"), (false, false)),
            ("StringLike", json!(["agent.beta.*", "agent.acme.*"]), (true, false)),
            ("StringLikeIfExists", json!("agent.acme.*"), (true, true)),
            ("StringLikeIfExists", json!("agent.beta.*"), (false, true)),
            ("ForAnyValue:StringLike", json!("agent.acme.*"), (true, false)),
            ("ForAllValues:StringLike", json!("agent.acme.*"), (true, true)),
            ("StringEquals", json!("agent.acme.*"), (false, false)),
            ("StringEquals", json!(ours), (true, false)),
            ("StringEquals", json!(ours.to_uppercase()), (false, false)),
            ("StringEquals", json!("agent.${aws:PrincipalTag/x}"), (true, false)),
            ("StringEqualsIgnoreCase", json!(ours.to_uppercase()), (true, false)),
            ("StringEqualsIgnoreCase", json!("AGENT.ACME.*"), (false, false)),
            ("StringNotEquals", json!(ours), (false, true)),
            ("StringNotEquals", json!("ada@example.com"), (true, true)),
            ("StringNotEquals", json!("${aws:username}"), (true, true)),
            ("StringNotEqualsIgnoreCase", json!(ours.to_uppercase()), (false, true)),
            ("StringNotLike", json!("agent.acme.*"), (false, true)),
            ("StringNotLike", json!(["agent.beta.*", "agent.acme.*"]), (false, true)),
            ("StringNotLike", json!("agent.beta.*"), (true, true)),
            ("ForAnyValue:StringNotLike", json!("agent.beta.*"), (true, false)),
            ("StringNotLikeIfExists", json!("agent.acme.*"), (false, true)),
            ("Null", json!("false"), (true, true)),
        ];
        let tenant: TenantName = "acme".parse().unwrap();
        for (operator, patterns, want) in cases {
            for key in ["sts:SourceIdentity", "STS:sourceidentity"] {
                let condition = json!({operator: {key: patterns}});
                let statement = trust(json!("sts:*"), condition);
                let taken =
                    ["sts:AssumeRole", TAG_SESSION].map(|it| takes(&statement, it, &tenant));
                assert_eq!(taken, [want.0, want.1], "{statement}");
            }
        }
    }
}
