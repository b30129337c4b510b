//! Checks whether the trust policy of a session role trusts the session issuer for the names of its
//! own tenant, and nothing more. As in [`super::iam`], only STS decides.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use super::{
    Chain, CheckId, Findings,
    iam_policy::{allowed_principals, condition_holds, is_gone, names_action, statements, strings},
};
use crate::{
    config::IssuerSettings,
    policies::{provider_arn, token_tags},
    session::{RoleArn, SourceIdentity, TenantName},
};

/// What the context of a call has, as far as it is known.
#[derive(Clone)]
struct Context<'c> {
    /// The start of the condition keys of the provider.
    provider: &'c str,
    action: &'static str,
    audience: &'c str,
    identity: String,
    names_the_role: bool,
    /// Keys of the session tags in a token.
    tags: &'c [&'static str],
}

pub(super) fn check_trust(
    tenant: &TenantName,
    role: &RoleArn,
    chain: &Chain,
    issuer: &IssuerSettings,
) -> Findings {
    let mut found = Findings::default();
    let subject = format!("tenant {tenant}, {role}");
    let Some(session) = chain.session_role.or_report(CheckId::IssuerTrust, &subject, &mut found)
    else {
        return found;
    };
    let (trust, provider) = (&session.trust, provider_arn(&issuer.url, role));
    let tags = token_tags(issuer.on_behalf_of);
    let mut wrong = Vec::new();
    for action in ACTIONS {
        let right = Context {
            provider: issuer.url.host_and_path(),
            action,
            audience: issuer.client_id.as_str(),
            identity: SourceIdentity::text(tenant, EXAMPLE),
            names_the_role: true,
            tags: &tags,
        };
        let about = |effect: &'static str| {
            statements(trust).filter(move |it| it["Effect"] == effect && names_action(it, action))
        };
        let allowing: Vec<&Value> = about("Allow").filter(|it| is_about(it, &provider)).collect();
        match allowing.first() {
            None => wrong
                .push(format!("no statement of its trust policy allows {action} to {provider}")),
            Some(_) if allowing.iter().any(|it| right.meets(it)) => {}
            Some(first) => wrong.push(format!(
                "its trust policy does not allow {action} for {}: {first}",
                SourceIdentity::text(tenant, "*")
            )),
        }
        let denials = about("Deny")
            .filter(|it| it["Condition"].is_null() && is_about(it, &provider))
            .map(|it| format!("its trust policy denies {action}: {it}"));
        wrong.extend(denials);
        for statement in allowing {
            let wider = right.others(tenant).into_iter().find(|(_, it)| it.meets(statement));
            if let Some((what, _)) = wider {
                wrong.push(format!("its trust policy also allows {action} {what}: {statement}"));
            }
        }
    }
    if wrong.is_empty() {
        let names = SourceIdentity::text(tenant, "*");
        let message = format!("its trust policy allows the session issuer {names}, and no others");
        found.ok(CheckId::IssuerTrust, &*subject, message);
    }
    for message in wrong {
        found.error(CheckId::IssuerTrust, &*subject, message);
    }
    if session.longest_session < issuer.duration {
        let message = format!(
            "its maximum session duration of {} seconds is shorter than issuer.durationSeconds ({}), so STS refuses each session",
            session.longest_session.as_secs(),
            issuer.duration.as_secs()
        );
        found.error(CheckId::SessionDuration, &*subject, message);
    }
    // A caller of AssumeRoleWithWebIdentity chooses the duration.
    if session.longest_session > issuer.duration.max(LEAST_LIMIT) {
        let message = format!(
            "its maximum session duration of {} seconds is longer than issuer.durationSeconds ({}): a stolen token can get credentials for that long",
            session.longest_session.as_secs(),
            issuer.duration.as_secs()
        );
        found.warning(CheckId::SessionDuration, &*subject, message);
    }
    let allowed = allowed_principals(trust).filter(|it| !is_gone(it));
    if let Some(callers) = listed(allowed) {
        let message = format!(
            "its trust policy also allows {callers}: their credentials can set any session name of the tenant. When no namespace of the tenant has the transport role-chain, remove their statements"
        );
        found.warning(CheckId::IssuerTrust, &*subject, message);
    }
    if let Some(providers) = listed(other_providers(trust, &provider)) {
        let message = format!(
            "its trust policy also allows {providers}: their tokens can get credentials of this role without the session issuer. Remove their statements"
        );
        found.warning(CheckId::IssuerTrust, &*subject, message);
    }
    found
}

/// Returns the texts without duplicates, as a list. None: there are none.
fn listed<'v>(texts: impl Iterator<Item = &'v str>) -> Option<String> {
    let texts: BTreeSet<&str> = texts.collect();
    (!texts.is_empty()).then(|| texts.into_iter().collect::<Vec<_>>().join(", "))
}

/// Returns the identity providers of others that may assume the role. IAM's names for them are ARNs,
/// and host names of those that need none.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html>
fn other_providers<'v>(trust: &'v Value, provider: &str) -> impl Iterator<Item = &'v str> {
    let allows = |it: &&Value| {
        it["Effect"] == "Allow"
            && [ASSUME, "sts:AssumeRoleWithSAML"].iter().any(|action| names_action(it, action))
    };
    let all =
        statements(trust).filter(allows).flat_map(|it| strings(&it["Principal"]["Federated"]));
    all.filter(move |it| *it != provider)
}

/// Returns whether the statement names the provider, or every user.
fn is_about(statement: &Value, provider: &str) -> bool {
    let principal = &statement["Principal"];
    principal == "*" || strings(&principal["Federated"]).any(|it| it == provider)
}

impl Context<'_> {
    /// Returns calls that only a wider statement than needed allows, each with its description.
    fn others(&self, tenant: &TenantName) -> Vec<(&'static str, Self)> {
        let audience =
            ("for tokens with another client ID", Self { audience: "another", ..self.clone() });
        if self.action == TAG_SESSION {
            let tags = ("with other session tags", Self { tags: &["another"], ..self.clone() });
            return vec![audience, tags];
        }
        let of_tenant = |tenant: &str| format!("agent.{tenant}.{EXAMPLE}");
        let mut others = vec![audience];
        // A tenant's name has no dot, so `agent.acme*` is also another tenant's.
        let names = [of_tenant("another"), of_tenant(&format!("{tenant}0")), EXAMPLE.to_owned()];
        others.extend(
            names.map(|identity| ("for names of other tenants", Self { identity, ..self.clone() })),
        );
        if self.action == ASSUME {
            others.push((
                "for tokens that do not name the role (sts:RoleAuthorizedByIdp)",
                Self { names_the_role: false, ..self.clone() },
            ));
        }
        others
    }

    /// Returns whether the conditions of the statement hold. A condition on another key counts as
    /// one that holds.
    fn meets(&self, statement: &Value) -> bool {
        let conditions = statement["Condition"].as_object().into_iter().flatten();
        let mut all = conditions.flat_map(|(operator, keys)| {
            let keys = keys.as_object().into_iter().flatten();
            keys.map(move |(key, patterns)| (operator, key, patterns))
        });
        all.all(|(operator, key, patterns)| self.holds(operator, key, patterns))
    }

    fn holds(&self, operator: &str, key: &str, patterns: &Value) -> bool {
        let is = |name: &str| key.eq_ignore_ascii_case(name);
        let of_provider = |name: &str| is(&format!("{}:{name}", self.provider));
        if of_provider("aud") {
            condition_holds(operator, patterns, Some(self.audience))
        } else if of_provider("sub") {
            condition_holds(operator, patterns, Some(&self.identity))
        } else if is("sts:SourceIdentity") {
            let brought = Some(&*self.identity).filter(|_| self.action != TAG_SESSION);
            condition_holds(operator, patterns, brought)
        } else if is("sts:RoleAuthorizedByIdp") && operator == "Bool" {
            let wanted = if self.names_the_role { "true" } else { "false" };
            self.action == ASSUME
                && (strings(patterns).any(|it| it.eq_ignore_ascii_case(wanted))
                    || patterns.as_bool() == Some(self.names_the_role))
        } else if is("aws:TagKeys") && operator.starts_with("ForAllValues:") {
            self.tags.iter().all(|tag| condition_holds(operator, patterns, Some(tag)))
        } else {
            true
        }
    }
}

const ASSUME: &str = "sts:AssumeRoleWithWebIdentity";
const TAG_SESSION: &str = "sts:TagSession";
const ACTIONS: [&str; 3] = [ASSUME, "sts:SetSourceIdentity", TAG_SESSION];
/// The least limit that IAM takes for a role, and its default.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html>
const LEAST_LIMIT: Duration = Duration::from_secs(3600);
const EXAMPLE: &str = "1d3f2a8e-0000-4000-8000-000000000000";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{
        check::{Held, Level, Seen},
        config::Config,
        revocation::Revoked,
    };

    const ROLE: &str = "arn:aws:iam::111122223333:role/prod-acme-broker";
    const PROVIDER: &str = "arn:aws:iam::111122223333:oidc-provider/issuer.example.com/prod";
    const AUDIENCE: &str = "issuer.example.com/prod:aud";
    const SUBJECT: &str = "issuer.example.com/prod:sub";

    fn found(statements: &Value) -> Vec<String> {
        let config = Config::parse(
            "cluster: prod\nroles: {allow: {accounts: ['111122223333']}}\nissuer: {url: 'https://issuer.example.com/prod', endpoint: 'https://i.s.svc/v1/token', caFile: ca.pem, keys: [{file: key.pem}]}\n",
        );
        let config = config.unwrap();
        let held = Held {
            boundary: None,
            longest_session: Duration::from_secs(3600),
            policies: Vec::new(),
            revoked: Ok(Revoked::default()),
            tags: BTreeMap::new(),
            trust: json!({"Statement": statements}),
        };
        let chain = Chain { base_roles: Vec::new(), session_role: Seen::Known(held) };
        let (tenant, role) = ("acme".parse().unwrap(), ROLE.parse().unwrap());
        let found = check_trust(&tenant, &role, &chain, config.issuer.as_ref().unwrap());
        let wrong = found.iter().filter(|finding| finding.level != Level::Ok);
        wrong.map(|it| format!("{}: {}", it.level, it.message)).collect()
    }

    fn allow(actions: &Value, condition: &Value) -> Value {
        json!({"Effect": "Allow", "Principal": {"Federated": PROVIDER}, "Action": actions, "Condition": condition})
    }

    /// Returns the statements that `iam` prints, with other conditions of the first two.
    fn trust(assume: &Value, set: &Value) -> Value {
        let tags = json!({
            "StringEquals": {AUDIENCE: "fab-session/prod"},
            "ForAllValues:StringEquals": {"aws:TagKeys": token_tags(false)},
        });
        json!([
            allow(&json!(ASSUME), assume),
            allow(&json!("sts:SetSourceIdentity"), set),
            allow(&json!(TAG_SESSION), &tags),
        ])
    }

    fn conditions(audience: &str, names: &str) -> [Value; 2] {
        let set = json!({
            "StringEquals": {AUDIENCE: audience},
            "StringLike": {SUBJECT: names, "sts:SourceIdentity": names},
        });
        let mut assume = set.clone();
        assume["Bool"] = json!({"sts:RoleAuthorizedByIdp": "true"});
        [assume, set]
    }

    #[test]
    fn a_trust_for_other_names_than_the_tenants_is_an_error() {
        let [assume, set] = conditions("fab-session/prod", "agent.acme.*");
        let [of_all, set_of_all] = conditions("fab-session/prod", "agent.*");
        let [of_prefix, _] = conditions("fab-session/prod", "agent.acme*");
        let [of_other, set_of_other] = conditions("fab-session/prod", "agent.beta.*");
        let [elsewhere, _] = conditions("sts.amazonaws.com", "agent.acme.*");
        let without = |condition: &Value, operator: &str| {
            let mut condition = condition.clone();
            condition.as_object_mut().unwrap().shift_remove(operator);
            condition
        };
        let with = |other: Value| {
            let mut statements = trust(&assume, &set);
            statements.as_array_mut().unwrap().push(other);
            statements
        };
        let by_subject_alone = json!({
            "StringEquals": {AUDIENCE: ["fab-session/prod"]},
            "StringLike": {SUBJECT.to_uppercase(): "agent.acme.*"},
            "Bool": {"sts:roleAuthorizedByIdp": true},
        });
        let base =
            json!({"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "sts:AssumeRole"});
        let denied = json!({"Effect": "Deny", "Principal": "*", "Action": "sts:TagSession"});
        let no_assume = "error: no statement of its trust policy allows sts:AssumeRoleWithWebIdentity to arn:aws:iam::111122223333:oidc-provider/issuer.example.com/prod";
        let cases: [(Value, &[&str]); 16] = [
            (trust(&assume, &set), &[]),
            (trust(&by_subject_alone, &set), &[]),
            (
                json!([]),
                &[
                    no_assume,
                    "error: no statement of its trust policy allows sts:SetSourceIdentity",
                    "error: no statement of its trust policy allows sts:TagSession",
                ],
            ),
            (
                trust(&of_all, &set_of_all),
                &[
                    "error: its trust policy also allows sts:AssumeRoleWithWebIdentity for names of other tenants: {",
                    "error: its trust policy also allows sts:SetSourceIdentity for names of other tenants: {",
                ],
            ),
            (
                trust(&of_prefix, &set),
                &["error: its trust policy also allows sts:AssumeRoleWithWebIdentity for names"],
            ),
            (
                trust(&of_other, &set_of_other),
                &[
                    "error: its trust policy does not allow sts:AssumeRoleWithWebIdentity for agent.acme.*: {",
                    "error: its trust policy does not allow sts:SetSourceIdentity for agent.acme.*: {",
                ],
            ),
            (
                trust(&elsewhere, &set),
                &["error: its trust policy does not allow sts:AssumeRoleWithWebIdentity for"],
            ),
            (
                trust(&without(&assume, "StringEquals"), &set),
                &[
                    "error: its trust policy also allows sts:AssumeRoleWithWebIdentity for tokens with another client ID",
                ],
            ),
            (
                trust(&without(&assume, "Bool"), &set),
                &[
                    "error: its trust policy also allows sts:AssumeRoleWithWebIdentity for tokens that do not name the role",
                ],
            ),
            (
                trust(&assume, &without(&set, "StringLike")),
                &["error: its trust policy also allows sts:SetSourceIdentity for names of other"],
            ),
            // The key has no value in these calls.
            (
                trust(&assume, &assume),
                &["error: its trust policy does not allow sts:SetSourceIdentity for agent.acme.*"],
            ),
            (with(denied), &["error: its trust policy denies sts:TagSession: {"]),
            (
                with(base),
                &["warning: its trust policy also allows arn:aws:iam::111122223333:role/"],
            ),
            // A second statement beside the right one.
            (
                with(allow(&json!("sts:*"), &json!({}))),
                &[
                    "error: its trust policy also allows sts:AssumeRoleWithWebIdentity for tokens",
                    "error: its trust policy also allows sts:SetSourceIdentity for tokens",
                    "error: its trust policy also allows sts:TagSession for tokens with another",
                ],
            ),
            (
                with(allow(
                    &json!(TAG_SESSION),
                    &json!({"StringEquals": {AUDIENCE: "fab-session/prod"}}),
                )),
                &["error: its trust policy also allows sts:TagSession with other session tags: {"],
            ),
            (
                with(json!({
                    "Effect": "Allow", "Action": ASSUME,
                    "Principal": {"Federated": [PROVIDER.replace("prod", "staging")]},
                })),
                &["warning: its trust policy also allows arn:aws:iam::111122223333:oidc-provider/"],
            ),
        ];
        for (statements, want) in cases {
            let found = found(&statements);
            assert_eq!(found.len(), want.len(), "{statements}: {found:#?}");
            for (message, begins) in found.iter().zip(want) {
                assert!(message.starts_with(begins), "{message}\nwant {begins}");
            }
        }
    }
}
