//! InvokeModel: the caller's policies, with and without a source identity.

use http::Request;
use serde_json::{Value, json};

use crate::caller::{
    ACCOUNT, BASE, REGION, Reply, SESSION, assume, aws, base, now, permit, policy, signed, trust,
};
use strict_aws::{Aws, Credentials, Role, World};

#[test]
fn the_callers_policies_decide_about_invoke_model() {
    let allow = || permit("Allow", &json!("bedrock:InvokeModel"));
    let deny = || permit("Deny", &json!("bedrock:*"));
    let other = || permit("Allow", &json!("s3:*"));
    let of = |resource: &str| {
        policy(json!([{"Effect": "Allow", "Action": "bedrock:InvokeModel", "Resource": resource}]))
    };
    let cases = [
        (vec![], None, "no identity-based policy allows the bedrock:InvokeModel action"),
        (vec![other()], None, "no identity-based policy allows the bedrock:InvokeModel action"),
        (vec![allow()], None, ""),
        (vec![of("arn:aws:bedrock:*::foundation-model/*")], None, ""),
        (vec![of("arn:aws:bedrock:eu-west-1::foundation-model/a.b:0")], None, ""),
        (vec![of("arn:aws:bedrock:*::foundation-model/c.*")], None, "no identity-based policy"),
        (vec![allow(), deny()], None, "an explicit deny in an identity-based policy"),
        (vec![allow()], Some(other()), "no permissions boundary allows"),
        (vec![allow()], Some(deny()), "an explicit deny in a permissions boundary"),
    ];
    for (policies, boundary, want) in cases {
        let what = format!("{policies:?} {boundary:?}");
        let mut role = Role::new(BASE).trust(trust(&json!({"AWS": "*"}), &json!("sts:AssumeRole")));
        role = policies.into_iter().fold(role, Role::policy);
        role = boundary.into_iter().fold(role, Role::boundary);
        let aws = aws(World::new(ACCOUNT, REGION).role(role));
        let reply = invoke(&aws, &base(&aws), "a.b%3A0");
        if want.is_empty() {
            assert_eq!((reply.status, reply.body.as_str()), (200, "{}"), "{what}");
        } else {
            assert_eq!(reply.status, 403, "{what}");
            assert!(reply.body.contains("\"AccessDeniedException\""), "{}", reply.body);
            assert!(reply.body.contains(want), "{what}: {}", reply.body);
            assert_eq!(aws.events().pop().unwrap()["errorCode"], "AccessDeniedException");
        }
    }
}

/// The model of a profile can be allowed only through the profile.
#[test]
fn a_profile_needs_permission_for_its_models_too() {
    const PROFILE: &str = "arn:aws:bedrock:*:111122223333:inference-profile/eu.a.b";
    let on = |resource: &str| json!({"Effect": "Allow", "Action": "bedrock:InvokeModel", "Resource": resource});
    let models = |region: &str, profile: &str| {
        let mut allowed = on(&format!("arn:aws:bedrock:{region}::foundation-model/*"));
        allowed["Condition"] = json!({"StringLike": {"bedrock:InferenceProfileArn": profile}});
        allowed
    };
    let cases = [
        (vec![on(PROFILE)], false),
        (vec![models("*", PROFILE)], false),
        (vec![on(PROFILE), models(REGION, PROFILE)], false),
        (vec![on(PROFILE), models("*", "*/eu.a.c")], false),
        (vec![on(PROFILE), models("*", PROFILE)], true),
        (vec![on("*")], true),
    ];
    for (statements, want) in cases {
        let what = format!("{statements:?}");
        let with_all = statements == [on("*")];
        let role = Role::new(BASE).trust(trust(&json!({"AWS": "*"}), &json!("sts:AssumeRole")));
        let role = role.policy(policy(json!(statements)));
        let aws = aws(World::new(ACCOUNT, REGION).role(role));
        assert_eq!(invoke(&aws, &base(&aws), "eu.a.b").status == 200, want, "{what}");
        assert_eq!(invoke(&aws, &base(&aws), "a.b").status == 200, with_all, "{what}");
    }
}

#[test]
fn a_new_tag_of_a_role_applies_to_its_sessions() {
    let deny = policy(json!([
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": "bedrock:*", "Resource": "*",
         "Condition": {"Null": {"aws:PrincipalTag/suspended": "false"}}},
    ]));
    let role = Role::new(BASE).trust(trust(&json!({"AWS": "*"}), &json!("sts:AssumeRole")));
    let aws = aws(World::new(ACCOUNT, REGION).role(role.policy(deny)));
    let credentials = base(&aws);
    assert_eq!(invoke(&aws, &credentials, "a.b").status, 200);
    assert!(aws.tag_role(BASE, "Suspended", ""));
    assert_eq!(invoke(&aws, &credentials, "a.b").status, 403);
    assert!(!aws.tag_role(SESSION, "suspended", ""));
}

#[test]
fn a_policy_can_deny_calls_without_a_source_identity() {
    let actions = json!(["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"]);
    let deny = |condition: &Value| {
        policy(json!([{
            "Effect": "Deny", "NotAction": actions, "Resource": "*", "Condition": condition,
        }]))
    };
    let role = |arn, who: &Value| {
        Role::new(arn)
            .trust(trust(who, &actions))
            .policy(permit("Allow", &json!("*")))
            .policy(deny(&json!({"Null": {"aws:SourceIdentity": "true"}})))
    };
    let world = World::new(ACCOUNT, REGION)
        .role(role(BASE, &json!({"AWS": "*"})))
        .role(role(SESSION, &json!({"AWS": BASE})));
    let aws = aws(world);
    assert_eq!(invoke(&aws, &base(&aws), "m").status, 403);
    let named = assume(&aws, &base(&aws), SESSION, &[("SourceIdentity", "agent.acme.s")]);
    assert_eq!(invoke(&aws, &named.credentials(), "m").status, 200);
    let nameless = assume(&aws, &base(&aws), SESSION, &[]);
    assert_eq!(invoke(&aws, &nameless.credentials(), "m").status, 403);
}

fn invoke(aws: &Aws, credentials: &Credentials, model: &str) -> Reply {
    let request = Request::post(format!("https://bedrock.test/model/{model}/invoke"))
        .header("host", "bedrock.test")
        .body("{}".into())
        .unwrap();
    Reply::of(aws.answer(&signed(request, credentials, "bedrock", REGION, now()), now()))
}
