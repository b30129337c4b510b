//! Faults: their targets and their counters.

use std::time::Duration;

use http::Request;
use serde_json::json;
use strict_aws::{Answer, Aws, Fault, HUGE, Target, Times};

use crate::caller::{
    REGION, Reply, SESSION, SUBJECT, assume, aws, base, claims, federation, now, show, signed, sts,
    sts_request, world,
};

const WHO: &[(&str, &str)] = &[("Action", "GetCallerIdentity")];

#[test]
fn a_fault_applies_to_its_target_the_given_times() {
    let aws = aws(world());
    let credentials = base(&aws);
    let ask = || assume(&aws, &credentials, SESSION, &[]).error();
    let throttled = Some("ThrottlingException: Rate exceeded".to_owned());

    let fault = aws.inject(Target::AssumeRole, Fault::Throttle, Times::Next(2));
    assert_eq!(sts(&aws, &credentials, now(), WHO).error(), None, "another call");
    assert_eq!([ask(), ask(), ask()], [throttled.clone(), throttled.clone(), None]);
    assert_eq!(fault.fired(), 2);

    let fault = aws.inject(Target::Sts, Fault::Throttle, Times::UntilCleared);
    assert_eq!(sts(&aws, &credentials, now(), WHO).error(), throttled);
    assert_eq!(ask(), throttled);
    aws.clear_faults();
    assert_eq!(ask(), None);
    assert_eq!(fault.fired(), 2, "the counter remains");

    aws.inject(Target::PodIdentity, Fault::Throttle, Times::UntilCleared);
    assert_eq!(ask(), None, "another target");
    let request = Request::get("/v1/credentials").body("".into()).unwrap();
    assert_eq!(Reply::of(aws.answer(&request, now())).status, 429);
}

#[test]
fn each_fault_has_its_status_and_error() {
    let cases = [
        (
            Fault::Denied,
            403,
            Some("AccessDenied: User: arn:aws:sts::111122223333:assumed-role/"),
            0,
        ),
        (Fault::Empty, 200, None, 0),
        (Fault::Garbage, 200, None, 0),
        (Fault::Huge, 200, None, HUGE),
        (Fault::InternalError, 500, Some("InternalFailure: The request processing has failed"), 0),
        (Fault::Throttle, 400, Some("ThrottlingException: Rate exceeded"), 0),
    ];
    for (fault, status, error, size) in cases {
        let reply = Reply::of(struck(&aws(world()), fault));
        assert_eq!(reply.status, status, "{fault:?}");
        match error {
            Some(want) => assert!(reply.error().unwrap().starts_with(want), "{fault:?}"),
            None => assert_eq!(reply.element("Arn"), None, "{fault:?}"),
        }
        assert!(reply.body.len() >= size, "{fault:?}");
    }
    assert!(Reply::of(struck(&aws(world()), Fault::Empty)).body.is_empty());
}

#[test]
fn faults_apply_to_calls_with_a_token() {
    let (issuer, aws) = federation();
    let identity = json!({"https://aws.amazon.com/source_identity": SUBJECT});
    let token = issuer.sign(&claims(&issuer, identity));
    let target = Target::AssumeRoleWithWebIdentity;
    let cases = [
        (Fault::Denied, 403, Some("AccessDenied")),
        (Fault::Empty, 200, None),
        (Fault::Garbage, 200, None),
        (Fault::Huge, 200, None),
        (Fault::InternalError, 500, Some("InternalFailure")),
        (Fault::Throttle, 400, Some("ThrottlingException")),
    ];
    for (fault, status, code) in cases {
        let injected = aws.inject(target, fault, Times::Next(1));
        let reply = show(&aws, &token, &[]);
        assert_eq!((reply.status, reply.element("Code")), (status, code), "{fault:?}");
        assert_eq!(reply.element("AccessKeyId"), None, "{fault:?}");
        assert_eq!(injected.fired(), 1);
    }
    aws.inject(target, Fault::Denied, Times::Next(1));
    let want = "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity";
    assert_eq!(show(&aws, &token, &[]).error().as_deref(), Some(want));
    aws.inject(target, Fault::Malformed, Times::Next(1));
    let malformed = show(&aws, &token, &[]);
    assert!(malformed.element("Expiration").unwrap().starts_with("soon, "));
    aws.inject(target, Fault::Nameless, Times::Next(1));
    let nameless = show(&aws, &token, &[]);
    assert_eq!((nameless.status, nameless.element("SourceIdentity")), (200, None));

    // Another call has another target; the target of all calls of STS applies to this one too.
    let other = aws.inject(Target::AssumeRole, Fault::Throttle, Times::UntilCleared);
    assert_eq!(show(&aws, &token, &[]).element("SourceIdentity"), Some(SUBJECT));
    assert_eq!(other.fired(), 0);
    aws.inject(Target::Sts, Fault::Throttle, Times::Next(1));
    assert_eq!(show(&aws, &token, &[]).status, 400);
}

#[test]
fn network_faults_are_left_to_the_server() {
    let aws = aws(world());
    assert!(matches!(struck(&aws, Fault::Hang), Answer::Hang));
    let delay = Duration::from_secs(7);
    match struck(&aws, Fault::Slow(delay)) {
        Answer::After(found, response) => {
            assert_eq!((found, response.status().as_u16()), (delay, 200));
        }
        other => panic!("{other:?}"),
    }
    match struck(&aws, Fault::CloseMidBody) {
        Answer::CloseAfter(response) => {
            let body = String::from_utf8_lossy(response.body()).into_owned();
            assert!(body.contains("<Arn>"), "{body}");
        }
        other => panic!("{other:?}"),
    }
}

fn struck(aws: &Aws, fault: Fault) -> Answer {
    let credentials = base(aws);
    let injected = aws.inject(Target::Sts, fault, Times::Next(1));
    let request = signed(sts_request(WHO), &credentials, "sts", REGION, now());
    let answer = aws.answer(&request, now());
    assert_eq!(injected.fired(), 1);
    answer
}
