//! Inline policies that change while sessions run: they apply to later calls.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_disable-perms.html>

use http::Request;
use serde_json::{Value, json};
use strict_aws::{Aws, Credentials, Role, World};

use crate::caller::{
    ACCOUNT, BASE, REGION, Reply, SESSION, assume, aws, base, now, permit, policy, signed, sts,
    trust,
};

#[test]
fn a_denied_source_identity_loses_only_its_own_calls() {
    let (aws, [first, second]) = sessions();
    let deny = |names: Value| deny(json!({"StringEquals": {"aws:SourceIdentity": names}}));
    let statuses = || [&first, &second].map(|session| invoke(&aws, session));
    assert_eq!(statuses(), [200, 200]);
    aws.put_role_policy(SESSION, "revoked", &deny(json!(["agent.acme.0"]))).unwrap();
    assert_eq!(statuses(), [403, 200]);
    // Credentials that the same session gets later are denied, too.
    let renewed = named(&aws, "agent.acme.0");
    assert_eq!(invoke(&aws, &renewed), 403);
    assert_eq!(parameter(&aws, &renewed).status, 403);
    aws.put_role_policy(SESSION, "revoked", &deny(json!(["agent.acme.1", "x.y"]))).unwrap();
    assert_eq!(statuses(), [200, 403]);
    aws.delete_role_policy(SESSION, "revoked").unwrap();
    assert_eq!(statuses(), [200, 200]);
}

#[test]
fn credentials_that_were_issued_before_a_time_are_denied() {
    let (aws, [first, _]) = sessions();
    let issued = aws.events().pop().unwrap()["eventTime"].as_str().unwrap().to_owned();
    let issued = &*issued;
    for (operator, time, status) in [
        ("DateLessThan", "2100-01-01T00:00:00Z", 403),
        ("DateLessThan", issued, 200),
        ("DateLessThanEquals", issued, 403),
        ("DateGreaterThan", issued, 200),
        ("DateGreaterThanEquals", issued, 403),
        ("DateEquals", issued, 403),
    ] {
        let condition = json!({operator: {"aws:TokenIssueTime": time}});
        aws.put_role_policy(SESSION, "revoked", &deny(condition)).unwrap();
        assert_eq!(invoke(&aws, &first), status, "{operator} {time}");
    }
}

/// AWS: "No permissions are required to perform this operation".
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>
#[test]
fn every_call_but_get_caller_identity_is_denied() {
    let (aws, [first, _]) = sessions();
    assert_eq!(parameter(&aws, &first).status, 200);
    aws.put_role_policy(SESSION, "revoked", &deny(json!({}))).unwrap();
    let reply = parameter(&aws, &first);
    assert_eq!(reply.status, 403);
    let reason = "is not authorized to perform: ssm:GetParameter on resource: * with an explicit deny in an identity-based policy";
    assert!(reply.body.contains(reason), "{}", reply.body);
    let event = aws.events().pop().unwrap();
    assert_eq!(event["errorCode"], "AccessDeniedException");
    assert_eq!(event["userIdentity"]["sessionContext"]["sourceIdentity"], "agent.acme.0");
    let further = assume(&aws, &first, SESSION, &[]);
    assert_eq!(further.status, 403);
    assert_eq!(sts(&aws, &first, now(), &[("Action", "GetCallerIdentity")]).status, 200);
}

#[test]
fn a_policy_that_is_not_understood_is_an_error() {
    let (aws, _) = sessions();
    for condition in [
        json!({"StringEquals": {"aws:TokenIssueTime": "2026-01-02T03:04:05Z"}}),
        json!({"DateLessThan": {"aws:SourceIdentity": "2026-01-02T03:04:05Z"}}),
        json!({"DateLessThan": {"aws:TokenIssueTime": "yesterday"}}),
        json!({"DateNotEquals": {"aws:TokenIssueTime": "2026-01-02T03:04:05Z"}}),
        json!({"ForAnyValue:DateLessThan": {"aws:TokenIssueTime": "2026-01-02T03:04:05Z"}}),
    ] {
        let what = condition.to_string();
        assert!(aws.put_role_policy(SESSION, "revoked", &deny(condition)).is_err(), "{what}");
    }
    assert!(
        aws.put_role_policy("arn:aws:iam::111122223333:role/none", "a", &deny(json!({}))).is_err()
    );
}

/// Returns two running sessions of one role, `agent.acme.0` and `agent.acme.1`.
fn sessions() -> (Aws, [Credentials; 2]) {
    let role = |arn, who: &Value| {
        Role::new(arn).trust(trust(who, &json!("sts:*"))).policy(permit("Allow", &json!("*")))
    };
    let world = World::new(ACCOUNT, REGION)
        .role(role(BASE, &json!({"AWS": "*"})))
        .role(role(SESSION, &json!({"AWS": [BASE, SESSION]})));
    let aws = aws(world);
    let sessions = [0, 1].map(|index| named(&aws, &format!("agent.acme.{index}")));
    (aws, sessions)
}

fn named(aws: &Aws, identity: &str) -> Credentials {
    assume(aws, &base(aws), SESSION, &[("SourceIdentity", identity)]).credentials()
}

fn deny(condition: Value) -> Value {
    policy(json!([{"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}]))
}

fn invoke(aws: &Aws, credentials: &Credentials) -> u16 {
    let request = Request::post("https://bedrock.test/model/m/invoke")
        .header("host", "bedrock.test")
        .body("{}".into())
        .unwrap();
    Reply::of(aws.answer(&signed(request, credentials, "bedrock", REGION, now()), now())).status
}

fn parameter(aws: &Aws, credentials: &Credentials) -> Reply {
    let request = Request::post("https://ssm.test/")
        .header("host", "ssm.test")
        .header("x-amz-target", "AmazonSSM.GetParameter")
        .body("{}".into())
        .unwrap();
    Reply::of(aws.answer(&signed(request, credentials, "ssm", REGION, now()), now()))
}
