use serde_json::json;

use super::*;

#[test]
fn a_deny_takes_precedence_over_an_allow() {
    let allow = json!({"Effect": "Allow", "Action": "sts:*", "Resource": "*"});
    let deny = json!({"Effect": "Deny", "Action": ["iam:*", "STS:assumerole"], "Resource": "*"});
    let elsewhere = json!({"Effect": "Deny", "Action": "sts:AssumeRole", "Resource": OTHER});
    let all_but = json!({"Effect": "Deny", "NotAction": "sts:AssumeRole", "Resource": "*"});
    let cases = [
        (json!([allow]), Action::AssumeRole, Verdict::Allowed),
        (json!([deny, allow]), Action::AssumeRole, Verdict::Denied),
        (json!([allow, deny]), Action::TagSession, Verdict::Allowed),
        (json!([allow, elsewhere]), Action::AssumeRole, Verdict::Allowed),
        (json!([allow, all_but]), Action::AssumeRole, Verdict::Allowed),
        (json!([allow, all_but]), Action::TagSession, Verdict::Denied),
        (json!([]), Action::AssumeRole, Verdict::Silent),
    ];
    for (statements, action, want) in cases {
        let document = json!({"Version": "2012-10-17", "Statement": statements});
        let policy = Policy::read(&document, &Vocabulary::default()).unwrap();
        assert_eq!(policy.verdict(action, ROLE, &Context::default()), want, "{statements}");
    }
}

#[test]
fn operators_compare_as_documented() {
    let identity = "sts:SourceIdentity";
    let cases = [
        (json!({"StringEquals": {identity: "agent.acme.s"}}), true),
        (json!({"StringEquals": {identity: ["x", "agent.acme.s"]}}), true),
        (json!({"StringEquals": {identity: "agent.acme.*"}}), false),
        (json!({"StringEquals": {identity: "Agent.acme.s"}}), false),
        (json!({"StringEqualsIgnoreCase": {identity: "Agent.acme.s"}}), true),
        (json!({"StringLike": {identity: "agent.acme.*"}}), true),
        (json!({"StringLike": {identity: "agent.acme2.*"}}), false),
        (json!({"StringNotEquals": {identity: "other"}}), true),
        (json!({"StringNotEquals": {identity: ["other", "agent.acme.s"]}}), false),
        (json!({"StringNotLike": {identity: "agent.*"}}), false),
        (json!({"StringEquals": {"aws:SourceIdentity": "x"}}), false),
        (json!({"StringEqualsIfExists": {"aws:SourceIdentity": "x"}}), true),
        (json!({"StringEqualsIfExists": {identity: "x"}}), false),
        (json!({"StringNotEquals": {"aws:SourceIdentity": "x"}}), true),
        (json!({"Null": {identity: "false"}}), true),
        (json!({"Null": {identity: "true"}}), false),
        (json!({"Null": {"aws:SourceIdentity": true}}), true),
        (json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b", "c"]}}), true),
        (json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}}), false),
        (json!({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}), true),
        (json!({"ForAnyValue:StringEquals": {"aws:TagKeys": ["z"]}}), false),
        (json!({"ForAllValues:StringEquals": {"sts:TransitiveTagKeys": ["z"]}}), true),
        (json!({"ForAnyValue:StringEquals": {"sts:TransitiveTagKeys": ["z"]}}), false),
        (json!({"StringEquals": {identity: "agent.${aws:PrincipalTag/team}.s"}}), true),
        (json!({"StringEquals": {identity: "agent.${aws:PrincipalTag/no}.s"}}), false),
        (json!({"StringEquals": {identity: "agent.${aws:PrincipalTag/no, 'acme'}.s"}}), true),
        (json!({"StringEquals": {identity: "agent.acme.s"}, "Null": {identity: true}}), false),
    ];
    let mut context = Context::default();
    context.set(Key::RequestedSourceIdentity, "agent.acme.s");
    context.set(Key::PrincipalTag("team".to_owned()), "acme");
    context.set_all(Key::TagKeys, ["a".to_owned(), "b".to_owned()]);
    for (condition, want) in cases {
        let policy = with_condition("sts:*", &condition).unwrap();
        let allowed = policy.verdict(Action::AssumeRole, ROLE, &context) == Verdict::Allowed;
        assert_eq!(allowed, want, "{condition}");
    }
}

#[test]
fn a_key_is_present_only_for_its_actions() {
    let condition = json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}});
    let policy = with_condition("sts:*", &condition).unwrap();
    let mut context = Context::default();
    context.set(Key::RequestedSourceIdentity, "agent.acme.s");
    for (action, want) in [
        (Action::AssumeRole, Verdict::Allowed),
        (Action::SetSourceIdentity, Verdict::Allowed),
        (Action::TagSession, Verdict::Silent),
    ] {
        assert_eq!(policy.verdict(action, ROLE, &context), want, "{action}");
    }
}

#[test]
fn unsupported_elements_are_errors() {
    let cases = [
        json!({"DateLessThan": {"sts:SourceIdentity": "x"}}),
        json!({"StringEqual": {"sts:SourceIdentity": "x"}}),
        json!({"StringEquals": {"sts:SourceIdentities": "x"}}),
        json!({"StringEquals": {"aws:TagKeys": "x"}}),
        json!({"Null": {"sts:SourceIdentity": "maybe"}}),
        json!({"StringEquals": {"sts:SourceIdentity": 1}}),
        json!("x"),
    ];
    for condition in cases {
        assert!(with_condition("sts:*", &condition).is_err(), "{condition}");
        assert!(with_condition("s3:*", &condition).is_ok(), "{condition} for another service");
    }
    let statement = json!({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"});
    let cases = [
        json!({"Statement": [statement]}),
        json!({"Version": "2008-10-17", "Statement": [statement]}),
        json!({"Version": "2012-10-17"}),
        json!({"Version": "2012-10-17", "Statement": "x"}),
        json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*"}]}),
        json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*"}]}),
        json!({"Version": "2012-10-17", "Statement": [{"Action": "*", "Resource": "*"}]}),
    ];
    for document in cases {
        assert!(Policy::read(&document, &Vocabulary::default()).is_err(), "{document}");
    }
    let document = json!({"Version": "2012-10-17", "Statement": [statement]});
    assert!(Policy::read(&document, &Vocabulary::default()).is_ok());
    assert!(TrustPolicy::read(&document, &Vocabulary::default()).is_err(), "has a Resource");
}

#[test]
fn principals_must_exist_and_have_no_wildcard() {
    let roles = BTreeSet::from([ROLE.parse().unwrap()]);
    let vocabulary = Vocabulary { roles, ..Default::default() };
    let cases = [
        (json!("*"), true),
        (json!({"AWS": ROLE}), true),
        (json!({"AWS": OTHER}), false),
        (json!({"AWS": "arn:aws:iam::111122223333:role/*"}), false),
        (json!({"AWS": ["111122223333", "arn:aws:iam::111122223333:root"]}), true),
        (json!({"AWS": "1111"}), false),
        (json!({"Service": "pods.eks.amazonaws.com"}), true),
        (json!({"Service": "pods.eks"}), false),
        (json!({"Federated": "arn:aws:iam::111122223333:oidc-provider/x"}), true),
        (json!({"CanonicalUser": "x"}), false),
        (json!(null), false),
    ];
    for (principal, want) in cases {
        let statement =
            json!({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"});
        let document = json!({"Version": "2012-10-17", "Statement": statement});
        assert_eq!(TrustPolicy::read(&document, &vocabulary).is_ok(), want, "{principal}");
    }
}

fn with_condition(action: &str, condition: &Value) -> Result<Policy, NotAPolicy> {
    let statement =
        json!({"Effect": "Allow", "Action": action, "Resource": "*", "Condition": condition});
    let document = json!({"Version": "2012-10-17", "Statement": [statement]});
    Policy::read(&document, &Vocabulary::default())
}

const ROLE: &str = "arn:aws:iam::111122223333:role/session";

const OTHER: &str = "arn:aws:iam::111122223333:role/other";
