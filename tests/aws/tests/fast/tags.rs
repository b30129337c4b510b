//! Session tags: the permission to set them, and their inheritance.

use serde_json::json;

use crate::caller::{ACCOUNT, BASE, REGION, SESSION, THIRD, assume, aws, base, trust, trust_if};
use strict_aws::{Aws, Role, World};

const TEAM: [(&str, &str); 2] = [("Tags.member.1.Key", "Team"), ("Tags.member.1.Value", "acme")];

const TRANSITIVE: (&str, &str) = ("TransitiveTagKeys.member.1", "Team");

#[test]
fn setting_tags_needs_permission() {
    for (actions, want) in [
        (json!(["sts:AssumeRole", "sts:TagSession"]), None),
        (
            json!(["sts:AssumeRole"]),
            Some(" because no role trust policy allows the sts:TagSession action"),
        ),
    ] {
        let aws = chain(&actions, &json!("sts:AssumeRole"));
        assert_eq!(assume(&aws, &base(&aws), SESSION, &[]).error(), None, "without tags");
        let error = assume(&aws, &base(&aws), SESSION, &TEAM).error();
        let want = want.map(|reason| {
            format!(
                "AccessDenied: User: arn:aws:sts::111122223333:assumed-role/acme-base/pod-0 is \
                 not authorized to perform: sts:TagSession on resource: {SESSION}{reason}"
            )
        });
        assert_eq!(error, want);
    }
}

#[test]
fn only_transitive_tags_need_the_permission_again() {
    let tagging = json!(["sts:AssumeRole", "sts:TagSession"]);
    let cases = [
        (false, json!("sts:AssumeRole"), None),
        (true, json!("sts:AssumeRole"), Some("sts:TagSession")),
        (true, tagging.clone(), None),
    ];
    for (transitive, next, denied) in cases {
        let aws = chain(&tagging, &next);
        let more = if transitive { [&TEAM[..], &[TRANSITIVE]].concat() } else { TEAM.to_vec() };
        let first = assume(&aws, &base(&aws), SESSION, &more);
        let error = assume(&aws, &first.credentials(), THIRD, &[]).error();
        let found = error.as_deref().map(|error| error.contains("perform: sts:TagSession on"));
        assert_eq!(found, denied.map(|_| true), "{transitive} {next}: {error:?}");
    }
}

#[test]
fn transitive_tags_are_principal_tags_down_the_chain() {
    let actions = json!(["sts:AssumeRole", "sts:TagSession"]);
    let fourth = "arn:aws:iam::111122223333:role/fourth";
    let condition = json!({"StringEquals": {"aws:PrincipalTag/team": "acme"}});
    for (value, transitive, want) in
        [("acme", true, 200), ("evil", true, 403), ("acme", false, 403)]
    {
        let aws = aws(roles(&actions, &actions).role(Role::new(fourth).trust(trust_if(
            &json!({"AWS": THIRD}),
            &actions,
            &condition,
        ))));
        let mut more = vec![TEAM[0], ("Tags.member.1.Value", value)];
        if transitive {
            more.push(TRANSITIVE);
        }
        let first = assume(&aws, &base(&aws), SESSION, &more).credentials();
        let second = assume(&aws, &first, THIRD, &[]).credentials();
        assert_eq!(assume(&aws, &second, fourth, &[]).status, want, "{value} {transitive}");
    }
}

#[test]
fn a_transitive_tag_cannot_be_set_again() {
    let actions = json!(["sts:AssumeRole", "sts:TagSession"]);
    let aws = chain(&actions, &actions);
    let first = assume(&aws, &base(&aws), SESSION, &[&TEAM[..], &[TRANSITIVE]].concat());
    let first = first.credentials();
    let again = assume(&aws, &first, THIRD, &TEAM).error().unwrap();
    assert!(again.starts_with("InvalidParameterValue: One of the specified"), "{again}");
    let other = [("Tags.member.1.Key", "Other"), ("Tags.member.1.Value", "x")];
    assert_eq!(assume(&aws, &first, THIRD, &other).error(), None);
}

#[test]
fn conditions_use_the_tags_of_the_request() {
    let actions = json!(["sts:AssumeRole", "sts:TagSession"]);
    let cases = [
        (json!({"StringEquals": {"aws:RequestTag/team": "acme"}}), true),
        (json!({"StringEquals": {"aws:RequestTag/team": "evil"}}), false),
        (json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["Team", "Other"]}}), true),
        (json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["Other"]}}), false),
        (json!({"ForAnyValue:StringEquals": {"sts:TransitiveTagKeys": "Team"}}), true),
        (json!({"Null": {"sts:TransitiveTagKeys": true}}), false),
    ];
    for (condition, allowed) in cases {
        let session = trust_if(&json!({"AWS": BASE}), &actions, &condition);
        let aws = aws(World::new(ACCOUNT, REGION)
            .role(Role::new(BASE).trust(trust(&json!("*"), &actions)))
            .role(Role::new(SESSION).trust(session)));
        let reply = assume(&aws, &base(&aws), SESSION, &[&TEAM[..], &[TRANSITIVE]].concat());
        assert_eq!(reply.status == 200, allowed, "{condition}");
    }
}

/// Returns three roles. Each trusts the one before, for the given actions.
fn chain(second: &serde_json::Value, third: &serde_json::Value) -> Aws {
    aws(roles(second, third))
}

fn roles(second: &serde_json::Value, third: &serde_json::Value) -> World {
    World::new(ACCOUNT, REGION)
        .role(Role::new(BASE).trust(trust(&json!("*"), second)))
        .role(Role::new(SESSION).trust(trust(&json!({"AWS": BASE}), second)))
        .role(Role::new(THIRD).trust(trust(&json!({"AWS": SESSION}), third)))
}
