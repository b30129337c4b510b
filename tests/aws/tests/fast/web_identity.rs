//! Calls of STS with tokens of the cluster.

use std::time::Duration;

use serde_json::{Value, json};

use crate::caller::{
    ACCOUNT, BASE, REGION, Reply, assume, aws, now, sts, sts_request, trust, trust_if,
};
use strict_aws::{
    Aws, Cluster, Role, World,
    tokens::{Issuer, Pod},
};

const URL: &str = "https://oidc.test/id/ABC";

const PROVIDER: &str = "arn:aws:iam::111122223333:oidc-provider/oidc.test/id/ABC";

const HOUR: Duration = Duration::from_secs(3600);

const TOLERANCE: Duration = Duration::from_secs(300);

#[test]
fn a_valid_token_starts_a_session() {
    let issuer = Issuer::new(URL).unwrap();
    let aws = cluster(&issuer, trusted());
    let reply = show(&aws, &mint(&issuer, "sts.amazonaws.com"), &[]);
    assert_eq!(reply.error(), None);
    let subject = "system:serviceaccount:tenants-acme:tenant-runtime";
    assert_eq!(reply.element("SubjectFromWebIdentityToken"), Some(subject));
    assert_eq!(reply.element("Provider"), Some(PROVIDER));
    let who = sts(&aws, &reply.credentials(), now(), &[("Action", "GetCallerIdentity")]);
    let arn = "arn:aws:sts::111122223333:assumed-role/acme-base/session-0";
    assert_eq!(who.element("Arn"), Some(arn));
}

#[test]
fn an_invalid_token_is_rejected() {
    let issuer = Issuer::new(URL).unwrap();
    let stranger = Issuer::new(URL).unwrap();
    let elsewhere = Issuer::new("https://oidc.test/id/XYZ").unwrap();
    let pod = Pod::new("tenants-acme", "tenant-runtime", "agent-0");
    let early = now() - HOUR - TOLERANCE;
    let cases = [
        (
            mint(&issuer, "pods.eks.amazonaws.com"),
            "InvalidIdentityToken: The web identity token provided could not be validated.",
        ),
        (
            issuer.mint(&pod, "sts.amazonaws.com", early, HOUR),
            "ExpiredTokenException: Token expired: current date/time 1799999700 must be before \
             the expiration date/time 1799999700",
        ),
        (
            mint(&elsewhere, "sts.amazonaws.com"),
            "InvalidIdentityToken: No OpenIDConnect provider found in your account for \
             https://oidc.test/id/XYZ",
        ),
        (
            mint(&stranger, "sts.amazonaws.com"),
            "InvalidIdentityToken: Couldn't retrieve verification key",
        ),
        ("x".to_owned(), "InvalidIdentityToken: The ID Token provided is not a valid JWT."),
    ];
    let aws = cluster(&issuer, trusted());
    for (token, want) in cases {
        let reply = show(&aws, &token, &[]);
        let error = reply.error().unwrap();
        assert!(error.starts_with(want), "{error}");
        assert_eq!(reply.status, 400);
    }
}

#[test]
fn the_trust_policy_decides_by_audience_and_subject() {
    let subject = "system:serviceaccount:tenants-acme:tenant-runtime";
    let web = json!("sts:AssumeRoleWithWebIdentity");
    let principal = json!({"Federated": PROVIDER});
    let when =
        |key: &str, value: &str| trust_if(&principal, &web, &json!({"StringEquals": {key: value}}));
    let cases = [
        (when("oidc.test/id/ABC:sub", subject), true),
        (when("oidc.test/id/ABC:sub", "system:serviceaccount:tenants-evil:tenant-runtime"), false),
        (when("oidc.test/id/ABC:aud", "sts.amazonaws.com"), true),
        (when("oidc.test/id/ABC:aud", "other"), false),
        (when("sts:RoleSessionName", "session-0"), true),
        (trust(&json!({"Federated": format!("{PROVIDER}D")}), &web), false),
        (trust(&principal, &json!("sts:AssumeRole")), false),
    ];
    let issuer = Issuer::new(URL).unwrap();
    for (document, allowed) in cases {
        let aws = cluster(&issuer, Role::new(BASE).trust(document.clone()));
        let error = show(&aws, &mint(&issuer, "sts.amazonaws.com"), &[]).error();
        let want = "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity";
        assert_eq!(error.as_deref(), (!allowed).then_some(want), "{document}");
    }
}

#[test]
fn a_session_lives_as_long_as_its_role_allows() {
    let issuer = Issuer::new(URL).unwrap();
    let aws = cluster(&issuer, trusted().max_session_duration(7200));
    let token = mint(&issuer, "sts.amazonaws.com");
    let cases = [
        ("7200", None),
        (
            "7201",
            Some(
                "ValidationError: The requested DurationSeconds exceeds the MaxSessionDuration \
                 set for this role.",
            ),
        ),
    ];
    for (seconds, want) in cases {
        let reply = show(&aws, &token, &[("DurationSeconds", seconds)]);
        assert_eq!(reply.error().as_deref(), want);
    }
    // The next AssumeRole call is role chaining, which limits the duration of all roles.
    let first = show(&aws, &token, &[]).credentials();
    let error = assume(&aws, &first, BASE, &[("DurationSeconds", "7200")]).error().unwrap();
    assert!(error.contains("role chaining"), "{error}");
}

/// Calls AssumeRoleWithWebIdentity, which is not signed.
fn show(aws: &Aws, token: &str, more: &[(&str, &str)]) -> Reply {
    let required = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", BASE),
        ("RoleSessionName", "session-0"),
        ("WebIdentityToken", token),
    ];
    Reply::of(aws.answer(&sts_request(&[&required, more].concat()), now()))
}

fn mint(issuer: &Issuer, audience: &str) -> String {
    let pod = Pod::new("tenants-acme", "tenant-runtime", "agent-0");
    issuer.mint(&pod, audience, now(), HOUR)
}

fn cluster(issuer: &Issuer, role: Role) -> Aws {
    aws(World::new(ACCOUNT, REGION).cluster(Cluster::new("dev", URL, issuer.jwks())).role(role))
}

fn trusted() -> Role {
    let principal: Value = json!({"Federated": PROVIDER});
    Role::new(BASE).trust(trust(&principal, &json!("sts:AssumeRoleWithWebIdentity")))
}
