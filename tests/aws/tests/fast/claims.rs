//! The claims of web identity tokens that STS has of its own: source identity, tags and roles; and
//! how a trust policy decides on them.

use serde_json::{Value, json};

use crate::caller::{
    CLIENT, ISSUER, PROVIDER, Reply, SESSION, SUBJECT, THIRD, assume, aws, claims, federated,
    federation, permit, policy, show, trust, trust_if,
};
use strict_aws::{Aws, Provider, Role, World, tokens::Issuer};

const IDENTITY: &str = "https://aws.amazon.com/source_identity";

const TAGS: &str = "https://aws.amazon.com/tags";

const ROLES: &str = "https://aws.amazon.com/roles";

const WEB: &str = "sts:AssumeRoleWithWebIdentity";

#[test]
fn a_source_identity_has_the_rules_of_the_parameter() {
    let (issuer, aws) = federation();
    let (longest, longer) = ("a".repeat(64), "a".repeat(65));
    let cases = [
        (json!(SUBJECT), true),
        (json!("a_+=,.@-Z0"), true),
        (json!(longest), true),
        (json!(longer), false),
        (json!("a"), false),
        (json!("agent:acme:s"), false),
        (json!("aws:acme"), false),
        (json!([SUBJECT]), false),
        (json!(7), false),
    ];
    for (identity, valid) in cases {
        let reply = ask(&aws, &issuer, json!({IDENTITY: identity}));
        let code = (!valid).then_some("InvalidIdentityToken");
        assert_eq!(reply.element("Code"), code, "{identity}");
        assert_eq!(reply.element("SourceIdentity"), identity.as_str().filter(|_| valid));
    }
    // The parameters of AssumeRole are none of this call.
    let token = issuer.sign(&claims(&issuer, json!({})));
    let reply = show(&aws, &token, &[("SourceIdentity", "agent.evil.s")]);
    assert_eq!((reply.status, reply.element("SourceIdentity")), (200, None));
}

#[test]
fn a_source_identity_needs_permission_in_the_trust() {
    let both = json!([WEB, "sts:SetSourceIdentity"]);
    for (actions, denied) in [(both, false), (json!(WEB), true)] {
        let (issuer, aws) = trusting(trust(&json!({"Federated": PROVIDER}), &actions));
        assert_eq!(ask(&aws, &issuer, json!({})).error(), None, "without an identity");
        let error = ask(&aws, &issuer, json!({IDENTITY: SUBJECT})).error();
        let want = "AccessDenied: Not authorized to perform sts:SetSourceIdentity";
        assert_eq!(error.as_deref(), denied.then_some(want));
    }
}

#[test]
fn no_identity_policy_is_evaluated() {
    let issuer = Issuer::new(ISSUER).unwrap();
    let trust = trust(&json!({"Federated": PROVIDER}), &json!([WEB, "sts:SetSourceIdentity"]));
    let denied = permit("Deny", &json!("sts:*"));
    let role = Role::new(SESSION).trust(trust).policy(denied.clone()).boundary(denied);
    let aws = federated(&issuer, role);
    assert_eq!(ask(&aws, &issuer, json!({IDENTITY: SUBJECT})).error(), None);
    // The role of the session has no part in who may start it; in what it does next, it has.
    let session = ask(&aws, &issuer, json!({})).credentials();
    assert!(assume(&aws, &session, SESSION, &[]).error().is_some());
}

#[test]
fn the_trust_policy_decides_by_the_claims() {
    let name = |claim: &str| format!("issuer.test/dev:{claim}");
    let (aud, sub, amr) = (&*name("aud"), &*name("sub"), &*name("amr"));
    let cases = [
        (json!({"StringEquals": {aud: CLIENT}}), true),
        (json!({"StringEquals": {aud: "sts.amazonaws.com"}}), false),
        (json!({"StringLike": {sub: "agent.acme.*"}}), true),
        (json!({"StringLike": {sub: "agent.acme2.*"}}), false),
        (json!({"ForAnyValue:StringEquals": {amr: "signed"}}), true),
        (json!({"ForAnyValue:StringEquals": {amr: "other"}}), false),
        (json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}}), true),
        (json!({"StringLike": {"sts:SourceIdentity": "agent.acme2.*"}}), false),
        (json!({"StringEquals": {"sts:SourceIdentity": "${issuer.test/dev:sub}"}}), true),
        (json!({"StringEquals": {"sts:SourceIdentity": "${issuer.test/dev:aud}"}}), false),
        (json!({"StringEquals": {"sts:RoleSessionName": "session-0"}}), true),
        (json!({"StringEquals": {"sts:RoleSessionName": SUBJECT}}), false),
        (json!({"StringEquals": {"aws:RequestTag/kubernetes-namespace": "tenants-acme"}}), true),
        (json!({"StringEquals": {"aws:RequestTag/kubernetes-namespace": "tenants-evil"}}), false),
        (json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["kubernetes-namespace"]}}), true),
        (json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["other"]}}), false),
        (json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}}), true),
        (json!({"Bool": {"sts:RoleAuthorizedByIdp": false}}), false),
    ];
    let more = json!({
        IDENTITY: SUBJECT,
        ROLES: [SESSION],
        TAGS: {"principal_tags": {"kubernetes-namespace": ["tenants-acme"]}},
        "amr": ["signed", "pod"],
    });
    for (condition, allowed) in cases {
        // The condition is on the call only.
        let principal = json!({"Federated": PROVIDER});
        let document = policy(json!([
            {
                "Effect": "Allow", "Principal": principal, "Action": WEB, "Condition": condition,
            },
            {
                "Effect": "Allow", "Principal": principal,
                "Action": ["sts:SetSourceIdentity", "sts:TagSession"],
            },
        ]));
        let (issuer, aws) = trusting(document);
        let error = ask(&aws, &issuer, more.clone()).error();
        let want = "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity";
        assert_eq!(error.as_deref(), (!allowed).then_some(want), "{condition}");
    }
}

#[test]
fn other_claims_are_not_condition_keys() {
    for claim in ["email", "jti", "kubernetes.io", "groups"] {
        let condition = json!({"StringEquals": {format!("issuer.test/dev:{claim}"): "x"}});
        let document = trust_if(&json!({"Federated": PROVIDER}), &json!(WEB), &condition);
        let world = World::new(crate::caller::ACCOUNT, crate::caller::REGION)
            .provider(Provider::new(ISSUER, [CLIENT]))
            .role(Role::new(SESSION).trust(document));
        assert!(Aws::new(world).is_err(), "{claim}");
    }
    for condition in [
        json!({"StringEquals": {"sts:RoleAuthorizedByIdp": "true"}}),
        json!({"Bool": {"issuer.test/dev:sub": "true"}}),
        json!({"Bool": {"sts:RoleAuthorizedByIdp": "yes"}}),
        json!({"StringEquals": {"issuer.test/dev:amr": "signed"}}),
    ] {
        let document = trust_if(&json!({"Federated": PROVIDER}), &json!(WEB), &condition);
        let world = World::new(crate::caller::ACCOUNT, crate::caller::REGION)
            .provider(Provider::new(ISSUER, [CLIENT]))
            .role(Role::new(SESSION).trust(document));
        assert!(Aws::new(world).is_err(), "{condition}");
    }
}

#[test]
fn only_its_provider_names_a_caller_with_a_token() {
    let cases = [
        (json!({"Federated": PROVIDER}), true),
        (json!({"Federated": format!("{PROVIDER}/")}), false),
        (json!({"Federated": "arn:aws:iam::111122223333:oidc-provider/issuer.test"}), false),
        (json!({"AWS": "*"}), false),
        (json!("*"), false),
        (json!({"AWS": crate::caller::ROOT}), false),
    ];
    for (principal, allowed) in cases {
        let (issuer, aws) = trusting(trust(&principal, &json!(WEB)));
        let error = ask(&aws, &issuer, json!({})).error();
        assert_eq!(error.is_none(), allowed, "{principal}: {error:?}");
    }
}

#[test]
fn a_permission_lacks_keys_that_only_the_call_has() {
    let principal = json!({"Federated": PROVIDER});
    let actions = json!([WEB, "sts:SetSourceIdentity", "sts:TagSession"]);
    let tagged = json!({
        IDENTITY: SUBJECT, ROLES: [SESSION], TAGS: {"principal_tags": {"Team": ["acme"]}},
    });
    // Keys of the token are present for all three.
    let of_token = json!({
        "StringEquals": {"issuer.test/dev:aud": CLIENT},
        "StringLike": {"issuer.test/dev:sub": "agent.acme.*"},
    });
    let (issuer, aws) = trusting(trust_if(&principal, &actions, &of_token));
    assert_eq!(ask(&aws, &issuer, tagged.clone()).error(), None);
    // One statement for all: the permissions lack RoleAuthorizedByIdp and RoleSessionName.
    for condition in [
        json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}}),
        json!({"StringEquals": {"sts:RoleSessionName": "session-0"}}),
    ] {
        let (issuer, aws) = trusting(trust_if(&principal, &actions, &condition));
        assert_eq!(ask(&aws, &issuer, json!({ROLES: [SESSION]})).error(), None, "the call alone");
        let error = ask(&aws, &issuer, json!({ROLES: [SESSION], IDENTITY: SUBJECT})).error();
        let want = "AccessDenied: Not authorized to perform sts:SetSourceIdentity";
        assert_eq!(error.as_deref(), Some(want), "{condition}");
    }
    // Each permission with keys of its own.
    let statement = |action: &str, condition: &Value| {
        json!({
            "Effect": "Allow", "Principal": principal, "Action": action, "Condition": condition,
        })
    };
    let authorized = json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}});
    let named = json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}});
    let keys = json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["Team"]}});
    let (issuer, aws) = trusting(policy(json!([
        statement(WEB, &authorized),
        statement("sts:SetSourceIdentity", &named),
        statement("sts:TagSession", &keys),
    ])));
    assert_eq!(ask(&aws, &issuer, tagged).error(), None);
    let cases = [
        (json!({IDENTITY: SUBJECT}), WEB),
        (json!({ROLES: [SESSION], IDENTITY: "agent.evil.s"}), "sts:SetSourceIdentity"),
        (
            json!({ROLES: [SESSION], TAGS: {"principal_tags": {"Other": ["acme"]}}}),
            "sts:TagSession",
        ),
    ];
    for (more, action) in cases {
        let want = format!("AccessDenied: Not authorized to perform {action}");
        assert_eq!(ask(&aws, &issuer, more).error(), Some(want));
    }
}

#[test]
fn tags_are_arrays_of_one_string() {
    let (issuer, aws) = federation();
    let format = "InvalidIdentityToken: principal_tags passed in claim is not in correct format.";
    let whole = "InvalidIdentityToken: Session tags passed in claim are not in correct format.";
    let cases = [
        (json!({"principal_tags": {"Team": ["acme"], "Other": [""]}}), None),
        (json!({"principal_tags": {"Team": ["acme"]}, "transitive_tag_keys": []}), None),
        (json!({"principal_tags": {"Team": ["acme"]}, "transitive_tag_keys": ["Team"]}), None),
        (json!({}), None),
        (json!({"principal_tags": {"Team": "acme"}}), Some(format)),
        (json!({"principal_tags": {"Team": ["acme", "other"]}}), Some(format)),
        (json!({"principal_tags": {"Team": []}}), Some(format)),
        (json!({"principal_tags": {"Team": [1]}}), Some(format)),
        (json!({"principal_tags": ["Team"]}), Some(format)),
        (json!("Team"), Some(whole)),
        (json!({"transitive_tag_keys": "Team"}), Some(whole)),
        (
            json!({"principal_tags": {"aws:x": ["acme"]}}),
            Some("InvalidParameterValue: The tag key prefix aws: is reserved for internal use"),
        ),
        (
            json!({"principal_tags": {"Team": ["acme"]}, "transitive_tag_keys": ["Other"]}),
            Some(
                "InvalidParameterValue: The specified transitive tag key must be included in the \
                 requested tags.",
            ),
        ),
    ];
    for (tags, want) in cases {
        let error = ask(&aws, &issuer, json!({TAGS: tags})).error();
        assert_eq!(error.as_deref(), want, "{tags}");
    }
    let long = json!({"principal_tags": {"Team": ["v".repeat(257)]}});
    let reply = ask(&aws, &issuer, json!({TAGS: long}));
    assert_eq!(reply.element("Code"), Some("ValidationError"));
    // The form with one claim for each tag is not supported; it is never ignored.
    let flat = json!({"https://aws.amazon.com/tags/principal_tags/Team": "acme"});
    assert_eq!(ask(&aws, &issuer, flat).status, 501);
}

#[test]
fn tags_need_permission_in_the_trust() {
    let principal = json!({"Federated": PROVIDER});
    for (actions, denied) in [(json!([WEB, "sts:TagSession"]), false), (json!(WEB), true)] {
        let (issuer, aws) = trusting(trust(&principal, &actions));
        let error =
            ask(&aws, &issuer, json!({TAGS: {"principal_tags": {"Team": ["acme"]}}})).error();
        let want = "AccessDenied: Not authorized to perform sts:TagSession";
        assert_eq!(error.as_deref(), denied.then_some(want));
        let empty = json!({TAGS: {"principal_tags": {}, "transitive_tag_keys": []}});
        assert_eq!(ask(&aws, &issuer, empty).error(), None, "no tags");
    }
}

#[test]
fn tags_of_a_token_are_principal_tags_of_the_session() {
    let issuer = Issuer::new(ISSUER).unwrap();
    let web = json!([WEB, "sts:TagSession"]);
    let chained = json!(["sts:AssumeRole", "sts:TagSession"]);
    let condition = json!({"StringEquals": {"aws:PrincipalTag/team": "acme"}});
    let third = Role::new(THIRD).trust(trust_if(&json!({"AWS": SESSION}), &chained, &condition));
    let session = Role::new(SESSION).trust(trust(&json!({"Federated": PROVIDER}), &web));
    let aws = aws(World::new(crate::caller::ACCOUNT, crate::caller::REGION)
        .provider(Provider::new(ISSUER, [CLIENT]))
        .role(session)
        .role(third));
    aws.publish(ISSUER, issuer.discovery(), issuer.jwks());
    for (value, allowed) in [("acme", true), ("evil", false)] {
        let tags = json!({TAGS: {"principal_tags": {"Team": [value]}}});
        let session = ask(&aws, &issuer, tags).credentials();
        assert_eq!(assume(&aws, &session, THIRD, &[]).error().is_none(), allowed, "{value}");
    }
}

#[test]
fn the_packed_size_has_a_limit() {
    let (issuer, aws) = federation();
    let size = |more: Value| {
        let reply = ask(&aws, &issuer, more);
        reply.element("PackedPolicySize").map(|size| size.parse::<u32>().unwrap())
    };
    // As measured on AWS.
    assert_eq!(size(json!({"sub": ""})), Some(24));
    assert_eq!(size(json!({"sub": "a"})), Some(24));
    assert_eq!(size(json!({"sub": "subject-probe"})), Some(25));
    assert_eq!(size(json!({"sub": "a".repeat(300)})), Some(34));
    assert_eq!(size(json!({"sub": "subject-probe", IDENTITY: "source-probe"})), Some(26));
    let tags =
        json!({"principal_tags": {"Team": ["engineering"]}, "transitive_tag_keys": ["Team"]});
    assert_eq!(size(json!({"sub": "subject-probe", TAGS: tags})), Some(25));

    let many = |count: usize| {
        let tag = |index: usize| (format!("key-{index}"), json!(["v".repeat(256)]));
        let tags: serde_json::Map<String, Value> = (0..count).map(tag).collect();
        json!({TAGS: {"principal_tags": tags}})
    };
    assert!(size(many(8)).unwrap() > 90);
    let reply = ask(&aws, &issuer, many(9));
    assert_eq!(reply.element("Code"), Some("PackedPolicyTooLarge"));
    let message = reply.element("Message").unwrap();
    assert!(message.starts_with("Packed size of session tags consumes 10"), "{message}");
}

#[test]
fn the_roles_of_a_token_are_exact() {
    let (issuer, aws) = federation();
    let other = "arn:aws:iam::111122223333:role/tenants/other";
    let mismatch = "InvalidIdentityToken: The target role ARN is not present in the roles claim \
                    of the identity token";
    let none = "InvalidIdentityToken: The roles claim contains no valid role ARNs";
    let format = "InvalidIdentityToken: The roles claim is not in a supported format";
    let cases = [
        (json!([SESSION]), None),
        (json!([other, SESSION]), None),
        (json!(SESSION), None),
        (json!(format!("{other}; {SESSION}")), None),
        (json!(["not-an-arn", 7, SESSION]), None),
        (json!([other]), Some(mismatch)),
        (json!([SESSION.replace("acme-session", "Acme-Session")]), Some(mismatch)),
        (json!([format!("{SESSION}2")]), Some(mismatch)),
        (json!(["arn:aws:iam::111122223333:role/tenants/*"]), Some(none)),
        (json!(["acme-session"]), Some(none)),
        (json!([]), Some(none)),
        (json!(""), Some(none)),
        (json!({"role": SESSION}), Some(format)),
        (json!(7), Some(format)),
    ];
    for (roles, want) in cases {
        let error = ask(&aws, &issuer, json!({ROLES: roles})).error();
        assert_eq!(error.as_deref(), want, "{roles}");
    }
}

#[test]
fn the_roles_of_a_token_come_before_the_trust_policy() {
    // The trust policy of SESSION allows nothing, and THIRD does not exist.
    let (issuer, aws) = trusting(trust(&json!({"Federated": PROVIDER}), &json!("sts:AssumeRole")));
    for (roles, role, code) in [
        (json!([SESSION]), SESSION, "AccessDenied"),
        (json!([THIRD]), SESSION, "InvalidIdentityToken"),
        (json!([THIRD]), THIRD, "AccessDenied"),
        (json!([SESSION]), THIRD, "InvalidIdentityToken"),
    ] {
        let token = issuer.sign(&claims(&issuer, json!({ROLES: roles})));
        let reply = show(&aws, &token, &[("RoleArn", role)]);
        assert_eq!(reply.element("Code"), Some(code), "{roles} {role}");
    }
}

#[test]
fn the_issuer_authorizes_a_role_by_the_claim_only() {
    let principal = json!({"Federated": PROVIDER});
    let cases = [
        (json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}}), json!({ROLES: [SESSION]}), true),
        (json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}}), json!({}), false),
        (json!({"Bool": {"sts:RoleAuthorizedByIdp": "false"}}), json!({}), true),
        (
            json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}}),
            json!({"sts:RoleAuthorizedByIdp": true}),
            false,
        ),
    ];
    for (condition, more, allowed) in cases {
        let (issuer, aws) = trusting(trust_if(&principal, &json!(WEB), &condition));
        let error = ask(&aws, &issuer, more.clone()).error();
        assert_eq!(error.is_none(), allowed, "{condition} {more}: {error:?}");
    }
}

#[test]
fn a_role_s_own_maximum_limits_the_session() {
    let issuer = Issuer::new(ISSUER).unwrap();
    let token = issuer.sign(&claims(&issuer, json!({})));
    for (maximum, seconds, allowed) in [
        (3600, "3600", true),
        (3600, "3601", false),
        (43_200, "43200", true),
        (43_200, "43201", false),
        (43_200, "899", false),
    ] {
        let trust = trust(&json!({"Federated": PROVIDER}), &json!(WEB));
        let role = Role::new(SESSION).trust(trust).max_session_duration(maximum);
        let aws = federated(&issuer, role);
        let reply = show(&aws, &token, &[("DurationSeconds", seconds)]);
        let code = (!allowed).then_some("ValidationError");
        assert_eq!(reply.element("Code"), code, "{maximum} {seconds}");
    }
}

fn trusting(document: Value) -> (Issuer, Aws) {
    let issuer = Issuer::new(ISSUER).unwrap();
    let aws = federated(&issuer, Role::new(SESSION).trust(document));
    (issuer, aws)
}

fn ask(aws: &Aws, issuer: &Issuer, more: Value) -> Reply {
    show(aws, &issuer.sign(&claims(issuer, more)), &[])
}
