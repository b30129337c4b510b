//! The caller's own policies: when they apply, and the errors of their denials.

use serde_json::{Value, json};

use crate::caller::{
    ACCOUNT, BASE, FOREIGN, REGION, ROOT, SESSION, assume, aws, base, permit, policy, trust,
};
use strict_aws::{Role, World};

/// The policies of the caller.
#[derive(Clone, Debug, Default)]
struct Caller {
    policy: Option<Value>,
    boundary: Option<Value>,
}

#[test]
fn the_principal_type_decides_which_policies_apply() {
    let allow = || Some(permit("Allow", &json!("sts:AssumeRole")));
    let deny = || Some(permit("Deny", &json!("sts:AssumeRole")));
    let silent = || Some(permit("Allow", &json!("bedrock:*")));
    let role = json!({"AWS": BASE});
    let account = json!({"AWS": ROOT});
    let session = json!({"AWS": "arn:aws:sts::111122223333:assumed-role/acme-base/pod-0"});
    let other = json!({"AWS": SESSION});

    let nothing = "";
    let boundary_silent = " because no permissions boundary allows the sts:AssumeRole action";
    let boundary_denies = " with an explicit deny in a permissions boundary";
    let identity_silent = " because no identity-based policy allows the sts:AssumeRole action";
    let identity_denies = " with an explicit deny in an identity-based policy";
    let trust_silent = " because no role trust policy allows the sts:AssumeRole action";
    let cases = [
        // Role principal: only the boundary must allow.
        (&role, SESSION, None, None, nothing),
        (&role, SESSION, silent(), None, nothing),
        (&role, SESSION, deny(), None, identity_denies),
        (&role, SESSION, None, allow(), nothing),
        (&role, SESSION, None, silent(), boundary_silent),
        (&role, SESSION, allow(), silent(), boundary_silent),
        (&role, SESSION, allow(), deny(), boundary_denies),
        // Account principal: both must allow.
        (&account, SESSION, allow(), None, nothing),
        (&account, SESSION, silent(), None, identity_silent),
        (&account, SESSION, None, None, identity_silent),
        (&account, SESSION, allow(), silent(), boundary_silent),
        (&account, SESSION, None, allow(), identity_silent),
        // Session principal: neither needs to allow, but each may deny.
        (&session, SESSION, None, silent(), nothing),
        (&session, SESSION, None, deny(), boundary_denies),
        (&session, SESSION, deny(), None, identity_denies),
        // Another principal.
        (&other, SESSION, allow(), allow(), trust_silent),
        // A role of another account: both must allow, for all principals.
        (&role, FOREIGN, allow(), None, nothing),
        (&role, FOREIGN, None, None, identity_silent),
        (&session, FOREIGN, allow(), silent(), boundary_silent),
        (&account, FOREIGN, allow(), allow(), nothing),
    ];
    for (principal, target, policy, boundary, want) in cases {
        let caller = Caller { policy, boundary };
        let error = ask(&caller, principal, target, false);
        let want = (!want.is_empty()).then(|| {
            format!(
                "AccessDenied: User: arn:aws:sts::111122223333:assumed-role/acme-base/pod-0 is \
                 not authorized to perform: sts:AssumeRole on resource: {target}{want}"
            )
        });
        assert_eq!(error, want, "{principal} {caller:?}");
    }
}

#[test]
fn a_boundary_that_denies_escalation_stops_the_chain() {
    // A typical boundary of platforms: it allows all actions, except those that escalate.
    let boundary = policy(json!([
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {
            "Sid": "DenyEscalation",
            "Effect": "Deny",
            "Action": ["organizations:*", "account:*", "sts:AssumeRole"],
            "NotResource": "arn:aws:iam::111122223333:role/tenants/*-session",
        },
    ]));
    let caller = Caller { policy: None, boundary: Some(boundary) };
    assert_eq!(ask(&caller, &json!({"AWS": BASE}), SESSION, false), None);
    let elsewhere = ask(&caller, &json!({"AWS": BASE}), FOREIGN, false).unwrap();
    assert!(elsewhere.ends_with("with an explicit deny in a permissions boundary"), "{elsewhere}");
}

#[test]
fn a_terse_denial_omits_the_policy_type() {
    let caller = Caller { policy: None, boundary: Some(permit("Deny", &json!("sts:*"))) };
    let principal = json!({"AWS": BASE});
    let error = ask(&caller, &principal, SESSION, true).unwrap();
    assert!(error.ends_with(&format!("on resource: {SESSION}")), "{error}");
    assert_ne!(Some(error), ask(&caller, &principal, SESSION, false));
}

#[test]
fn a_denial_hides_whether_the_role_exists() {
    let caller = Caller { policy: Some(permit("Allow", &json!("sts:*"))), boundary: None };
    let nowhere = "arn:aws:iam::111122223333:role/nowhere";
    let error = ask(&caller, &json!({"AWS": BASE}), nowhere, false).unwrap();
    assert!(error.starts_with("AccessDenied: User: arn:aws:sts::"), "{error}");
    assert!(error.ends_with("role/nowhere"), "{error}");
}

/// Returns the error of the base role's AssumeRole call for `target`, which trusts `principal`.
fn ask(caller: &Caller, principal: &Value, target: &str, terse: bool) -> Option<String> {
    let Caller { policy, boundary } = caller.clone();
    let mut role = Role::new(BASE).trust(trust(&json!({"AWS": "*"}), &json!("sts:AssumeRole")));
    role = policy.into_iter().fold(role, Role::policy);
    role = boundary.into_iter().fold(role, Role::boundary);
    let targets = [SESSION, FOREIGN]
        .map(|arn| Role::new(arn).trust(trust(principal, &json!("sts:AssumeRole"))));
    let world = targets.into_iter().fold(World::new(ACCOUNT, REGION).role(role), World::role);
    let aws = aws(if terse { world.terse() } else { world });
    assume(&aws, &base(&aws), target, &[]).error()
}
