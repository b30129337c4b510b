//! The claims of web identity tokens that STS requires: times and audience.

use serde_json::{Value, json};

use crate::caller::{
    ACCOUNT, CLIENT, INVALID, ISSUER, PROVIDER, REGION, SESSION, aws, claims, federation, show,
    trust,
};
use strict_aws::{Aws, Provider, Role, World, tokens::Issuer};

#[test]
fn each_required_claim_is_present() {
    let (issuer, aws) = federation();
    for name in ["iss", "sub", "aud", "iat", "exp"] {
        let want = format!("InvalidIdentityToken: Missing a required claim: {name}");
        assert_eq!(ask(&aws, &issuer, json!({name: null})).as_deref(), Some(&*want));
    }
    assert_eq!(ask(&aws, &issuer, json!({"nbf": null, "jti": null})), None);
}

#[test]
fn clocks_may_differ_by_five_minutes() {
    let (issuer, aws) = federation();
    let at = |seconds: i64| 1_800_000_000 + seconds;
    let cases = [
        (json!({"iat": at(300)}), None),
        (
            json!({"iat": at(301)}),
            Some("InvalidIdentityToken: Token issued in the future: 1800000301"),
        ),
        (json!({"nbf": at(300)}), None),
        (
            json!({"nbf": at(301)}),
            Some(
                "InvalidIdentityToken: Token not yet valid: current date/time 1800000300 must be \
                 after or equal to the not-before date/time 1800000301",
            ),
        ),
        (json!({"exp": at(-299)}), None),
        (
            json!({"exp": at(-300)}),
            Some(
                "ExpiredTokenException: Token expired: current date/time 1799999700 must be \
                 before the expiration date/time 1799999700",
            ),
        ),
    ];
    for (more, want) in cases {
        assert_eq!(ask(&aws, &issuer, more.clone()).as_deref(), want, "{more}");
    }
}

#[test]
fn times_are_integers() {
    let (issuer, aws) = federation();
    let error = "InvalidIdentityToken: Invalid timestamp in token claims.";
    for name in ["iat", "nbf", "exp"] {
        let cases = [
            (json!(1_800_000_000_u64), true),
            (json!("1800000000"), true),
            (json!(1_800_000_000.5), false),
            (json!("soon"), false),
            (json!(true), false),
        ];
        for (value, valid) in cases {
            let found = ask(&aws, &issuer, json!({name: value}));
            assert_eq!(found.as_deref(), (!valid).then_some(error), "{name} {value}");
        }
    }
}

#[test]
fn the_rest_of_a_token_s_life_does_not_limit_the_session() {
    let (issuer, aws) = federation();
    let token = issuer.sign(&claims(&issuer, json!({"exp": 1_800_000_001})));
    let reply = show(&aws, &token, &[]);
    assert_eq!(reply.element("Expiration"), Some("2027-01-15T09:00:00Z"));
}

#[test]
fn the_audience_is_one_client_id() {
    let second = "InvalidIdentityToken: Token audience contains more than one audience while \
                  authorized party is not present";
    let empty = "InvalidIdentityToken: Claim is not allowed to be empty: aud";
    let cases = [
        (json!({"aud": CLIENT}), None),
        (json!({"aud": [CLIENT]}), None),
        (json!({"aud": "fab-session/other"}), Some(INVALID)),
        (json!({"aud": "sts.amazonaws.com"}), Some(INVALID)),
        (json!({"aud": ""}), Some(INVALID)),
        (json!({"aud": []}), Some(empty)),
        (json!({"aud": [CLIENT, "other"]}), Some(second)),
        (json!({"aud": [CLIENT, "second"]}), Some(second)),
        // The authorized party replaces the audience.
        (json!({"aud": [CLIENT, "other"], "azp": CLIENT}), None),
        (json!({"aud": "other", "azp": CLIENT}), None),
        (json!({"aud": CLIENT, "azp": "other"}), Some(INVALID)),
        (json!({"aud": CLIENT, "azp": ""}), Some(INVALID)),
    ];
    let issuer = Issuer::new(ISSUER).unwrap();
    let web = json!("sts:AssumeRoleWithWebIdentity");
    let aws = aws(World::new(ACCOUNT, REGION)
        .provider(Provider::new(ISSUER, [CLIENT, "second"]))
        .role(Role::new(SESSION).trust(trust(&json!({"Federated": PROVIDER}), &web))));
    aws.publish(ISSUER, issuer.discovery(), issuer.jwks());
    for (more, want) in cases {
        assert_eq!(ask(&aws, &issuer, more.clone()).as_deref(), want, "{more}");
    }
    let token = issuer.sign(&claims(&issuer, json!({"aud": ["x", "y"], "azp": "second"})));
    assert_eq!(show(&aws, &token, &[]).element("Audience"), Some("second"));
}

fn ask(aws: &Aws, issuer: &Issuer, more: Value) -> Option<String> {
    show(aws, &issuer.sign(&claims(issuer, more)), &[]).error()
}
