//! Signatures of requests.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};

use crate::caller::{REGION, Reply, assume, aws, base, now, signed, sts, sts_request, world};
use strict_aws::Credentials;

const WHO: &[(&str, &str)] = &[("Action", "GetCallerIdentity")];

#[test]
fn a_signed_call_identifies_the_caller() {
    let aws = aws(world());
    let reply = sts(&aws, &base(&aws), now(), WHO);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let arn = "arn:aws:sts::111122223333:assumed-role/acme-base/pod-0";
    assert_eq!(reply.element("Arn"), Some(arn));
    assert_eq!(reply.element("Account"), Some("111122223333"));
    assert!(reply.element("UserId").unwrap().ends_with(":pod-0"));
    assert!(reply.element("RequestId").is_some());
}

#[test]
fn a_change_after_signing_is_rejected() {
    type Change = fn(&mut Request<Bytes>);
    let cases: [(&str, Change, &str); 9] = [
        ("nothing", |_| {}, ""),
        (
            "body",
            |request| *request.body_mut() = "Action=GetCallerIdentity&Version=2011-06-15&a".into(),
            "SignatureDoesNotMatch: The request signature we calculated does not match",
        ),
        (
            "query",
            |request| *request.uri_mut() = "/?a=b".parse().unwrap(),
            "SignatureDoesNotMatch: The request signature we calculated does not match",
        ),
        (
            "signature",
            |request| {
                edit(request, "authorization", |text| {
                    let (head, _) = text.rsplit_once('=').unwrap();
                    format!("{head}={}", "0".repeat(64))
                });
            },
            "SignatureDoesNotMatch: The request signature we calculated does not match",
        ),
        (
            "no token",
            |request| drop(request.headers_mut().remove("x-amz-security-token")),
            "InvalidClientTokenId: The security token included in the request is invalid.",
        ),
        (
            "other token",
            |request| edit(request, "x-amz-security-token", |text| text.to_lowercase()),
            "InvalidClientTokenId: The security token included in the request is invalid.",
        ),
        (
            "unsigned header",
            |request| {
                request.headers_mut().insert("x-amz-extra", HeaderValue::from_static("x"));
            },
            "SignatureDoesNotMatch: 'x-amz-extra' must be a 'SignedHeader'",
        ),
        (
            "no Authorization",
            |request| drop(request.headers_mut().remove("authorization")),
            "MissingAuthenticationToken: Request is missing Authentication Token",
        ),
        (
            "half an Authorization",
            |request| {
                edit(request, "authorization", |text| text.replace("SignedHeaders", "Signed"));
            },
            "IncompleteSignature: Authorization header requires 'SignedHeaders' parameter.",
        ),
    ];
    for (name, change, want) in cases {
        let aws = aws(world());
        let mut request = signed(sts_request(WHO), &base(&aws), "sts", REGION, now());
        change(&mut request);
        let reply = Reply::of(aws.answer(&request, now()));
        let error = reply.error().unwrap_or_default();
        assert!(
            error.starts_with(want) && (want.is_empty() == error.is_empty()),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_caller_without_the_secret_is_rejected() {
    let aws = aws(world());
    let right = base(&aws);
    let other_secret = base(&aws).secret_access_key;
    let cases = [
        (right.clone(), None),
        (Credentials { secret_access_key: other_secret, ..right.clone() }, Some("SignatureDoes")),
        (
            Credentials { access_key_id: "ASIAQQQQQQQQQQQQQQQQ".to_owned(), ..right.clone() },
            Some("InvalidClientTokenId"),
        ),
        (Credentials { session_token: base(&aws).session_token, ..right }, Some("InvalidClient")),
    ];
    for (credentials, want) in cases {
        let error = sts(&aws, &credentials, now(), WHO).error();
        match want {
            None => assert_eq!(error, None),
            Some(want) => assert!(error.as_ref().unwrap().starts_with(want), "{error:?}"),
        }
    }
}

#[test]
fn a_date_more_than_five_minutes_off_is_rejected() {
    let aws = aws(world());
    let credentials = base(&aws);
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let second = Duration::from_secs(1);
    let cases = [
        (now(), None),
        (now() - minutes(5), None),
        (now() + minutes(5), None),
        (
            now() - minutes(5) - second,
            Some(
                "SignatureDoesNotMatch: Signature expired: 20270115T075459Z is now earlier than \
                 20270115T075500Z (20270115T080000Z - 5 min.)",
            ),
        ),
        (
            now() + minutes(5) + second,
            Some(
                "SignatureDoesNotMatch: Signature not yet current: 20270115T080501Z is still \
                 later than 20270115T080500Z (20270115T080000Z + 5 min.)",
            ),
        ),
    ];
    for (signed_at, want) in cases {
        let request = signed(sts_request(WHO), &credentials, "sts", REGION, signed_at);
        let reply = Reply::of(aws.answer(&request, now()));
        assert_eq!(reply.error().as_deref(), want);
    }
}

#[test]
fn a_scope_of_another_region_service_or_day_is_rejected() {
    let aws = aws(world());
    let credentials = base(&aws);
    let cases = [
        ("sts", REGION, None),
        ("sts", "us-east-1", Some("Credential should be scoped to a valid region. ")),
        ("iam", REGION, Some("Credential should be scoped to correct service: 'sts'. ")),
    ];
    for (service, region, want) in cases {
        let request = signed(sts_request(WHO), &credentials, service, region, now());
        let error = Reply::of(aws.answer(&request, now())).error();
        assert_eq!(error, want.map(|want| format!("SignatureDoesNotMatch: {want}")));
    }
    let mut request = signed(sts_request(WHO), &credentials, "sts", REGION, now());
    edit(&mut request, "authorization", |text| text.replace("/20270115/", "/20270114/"));
    let error = Reply::of(aws.answer(&request, now())).error().unwrap();
    assert!(error.contains("'20270114' != '20270115'"), "{error}");
}

#[test]
fn credentials_are_rejected_after_their_expiration() {
    let aws = aws(world());
    let credentials = base(&aws);
    let end = credentials.expiration;
    assert_eq!(end, now() + Duration::from_secs(3600));
    let before = sts(&aws, &credentials, end - Duration::from_secs(1), WHO);
    assert_eq!(before.error(), None);
    let after = sts(&aws, &credentials, end, WHO);
    let want = "ExpiredToken: The security token included in the request is expired";
    assert_eq!(after.error().as_deref(), Some(want));
    assert_eq!(after.status, 403);
    // JSON services have another code for it.
    let request = Request::post("https://bedrock.test/model/m/invoke")
        .header("host", "bedrock.test")
        .body("{}".into())
        .unwrap();
    let request = signed(request, &credentials, "bedrock", REGION, end);
    let reply = Reply::of(aws.answer(&request, end));
    assert!(reply.body.contains("\"ExpiredTokenException\""), "{}", reply.body);
}

#[test]
fn other_services_accept_every_signed_call() {
    let aws = aws(world());
    let credentials = base(&aws);
    let ask = |credentials: &Credentials| {
        let request = Request::post("https://bedrock.test/guardrail/a%3A0/version/1/apply?b=2&a")
            .header("host", "bedrock.test")
            .header("x-amzn-bedrock-trace", "  on   off ")
            .body("{\"prompt\":\"x\"}".into())
            .unwrap();
        Reply::of(aws.answer(&signed(request, credentials, "bedrock", REGION, now()), now()))
    };
    let reply = ask(&credentials);
    assert_eq!((reply.status, reply.body.as_str()), (200, "{}"));
    let wrong = Credentials { secret_access_key: "x".to_owned(), ..credentials };
    let reply = ask(&wrong);
    assert_eq!(reply.status, 403);
    assert!(reply.body.contains("\"InvalidSignatureException\""), "{}", reply.body);
}

#[test]
fn unknown_sts_operations_are_rejected() {
    let aws = aws(world());
    let reply = sts(&aws, &base(&aws), now(), &[("Action", "AssumeEverything")]);
    let want = "InvalidAction: Could not find operation AssumeEverything for version 2011-06-15";
    assert_eq!(reply.error().as_deref(), Some(want));
    let reply = assume(&aws, &base(&aws), "arn:aws:iam::111122223333:user/a", &[]);
    let want = "ValidationError: arn:aws:iam::111122223333:user/a is invalid";
    assert_eq!(reply.error().as_deref(), Some(want));
}

fn edit(request: &mut Request<Bytes>, name: &'static str, change: impl Fn(&str) -> String) {
    let changed = change(request.headers()[name].to_str().unwrap());
    request.headers_mut().insert(name, changed.parse().unwrap());
}
