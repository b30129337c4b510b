//! Role chaining: the lifetime of a chained session, and its source identity.

use std::time::Duration;

use serde_json::json;

use crate::caller::{BASE, SESSION, THIRD, assume, aws, base, now, permit, sts, trust, world};
use strict_aws::{Aws, Fault, Role, Target, Times};

#[test]
fn a_chained_session_lives_an_hour_at_most() {
    let cases = [
        (None, "2027-01-15T09:00:00Z", None),
        (Some("900"), "2027-01-15T08:15:00Z", None),
        (Some("3600"), "2027-01-15T09:00:00Z", None),
        (
            Some("3601"),
            "",
            Some(
                "ValidationError: The requested DurationSeconds exceeds the 1 hour session limit \
                 for roles assumed by role chaining.",
            ),
        ),
        (
            Some("899"),
            "",
            Some(
                "ValidationError: 1 validation error detected: Value '899' at 'durationSeconds' \
                 failed to satisfy constraint: Member must have value greater than or equal to 900",
            ),
        ),
    ];
    for (seconds, expiration, want) in cases {
        let aws = aws(world());
        let more: Vec<(&str, &str)> =
            seconds.map(|seconds| ("DurationSeconds", seconds)).into_iter().collect();
        let reply = assume(&aws, &base(&aws), SESSION, &more);
        assert_eq!(reply.error().as_deref(), want, "{seconds:?}");
        assert_eq!(reply.element("Expiration").unwrap_or_default(), expiration, "{seconds:?}");
    }
}

#[test]
fn a_world_can_shorten_all_sessions() {
    let aws = aws(world().session_seconds(3));
    let reply = assume(&aws, &base(&aws), SESSION, &[("DurationSeconds", "900")]);
    assert_eq!(reply.element("Expiration"), Some("2027-01-15T08:00:03Z"));
    let who = &[("Action", "GetCallerIdentity")];
    let at = |seconds| {
        let at = now() + Duration::from_secs(seconds);
        sts(&aws, &reply.credentials(), at, who).status
    };
    assert_eq!((at(2), at(3)), (200, 403));
    // The validation of the requested duration does not change.
    let reply = assume(&aws, &base(&aws), SESSION, &[("DurationSeconds", "3")]);
    assert_eq!(reply.status, 400);
}

#[test]
fn a_fault_can_remove_identity_or_expiration() {
    let aws = chain_of_three();
    let credentials = base(&aws);
    let named = [("SourceIdentity", "agent.acme.s")];
    let ask = || assume(&aws, &credentials, SESSION, &named);
    assert_eq!(ask().element("SourceIdentity"), Some("agent.acme.s"));
    aws.inject(Target::AssumeRole, Fault::Nameless, Times::Next(1));
    let nameless = ask();
    assert_eq!((nameless.status, nameless.element("SourceIdentity")), (200, None));
    aws.inject(Target::AssumeRole, Fault::Malformed, Times::Next(1));
    assert!(ask().element("Expiration").unwrap().starts_with("soon, 2"));
}

#[test]
fn a_source_identity_is_set_once_and_inherited() {
    let aws = chain_of_three();
    let first = assume(&aws, &base(&aws), SESSION, &[("SourceIdentity", "agent.acme.s")]);
    assert_eq!(first.element("SourceIdentity"), Some("agent.acme.s"));
    let first = first.credentials();

    let inherited = assume(&aws, &first, THIRD, &[]);
    assert_eq!(inherited.element("SourceIdentity"), Some("agent.acme.s"));
    let same = assume(&aws, &first, THIRD, &[("SourceIdentity", "agent.acme.s")]);
    assert_eq!(same.element("SourceIdentity"), Some("agent.acme.s"));
    let other = assume(&aws, &first, THIRD, &[("SourceIdentity", "agent.evil.s")]);
    assert_eq!(
        other.error().as_deref(),
        Some(
            "AccessDenied: User: arn:aws:sts::111122223333:assumed-role/acme-session/session-0 is \
             not authorized to perform: sts:SetSourceIdentity on resource: \
             arn:aws:iam::111122223333:role/third"
        )
    );

    let without = assume(&aws, &base(&aws), SESSION, &[]);
    assert_eq!(without.element("SourceIdentity"), None);
    let late = assume(&aws, &without.credentials(), THIRD, &[("SourceIdentity", "agent.evil.s")]);
    assert_eq!(late.element("SourceIdentity"), Some("agent.evil.s"), "none was set before");
}

#[test]
fn a_source_identity_needs_permission_on_both_sides() {
    let both = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
    let assume_only = json!("sts:AssumeRole");
    let identity = [("SourceIdentity", "agent.acme.s")];
    let trust_denies = " because no role trust policy allows the sts:SetSourceIdentity action";
    let caller_denies = " because no identity-based policy allows the sts:SetSourceIdentity action";
    let cases: [(_, _, &[(&str, &str)], _); 5] = [
        (&both, &both, &identity, None),
        (&both, &assume_only, &identity, Some(trust_denies)),
        (&assume_only, &both, &identity, Some(caller_denies)),
        // The trust policy names the base role, so AssumeRole needs no permission.
        (&json!("s3:*"), &both, &[], None),
        (&both, &assume_only, &[], None),
    ];
    for (permitted, trusted, more, want) in cases {
        let aws = aws(strict_aws::World::new("111122223333", "eu-west-1")
            .role(role(BASE, &json!({"AWS": "*"}), &both).policy(permit("Allow", permitted)))
            .role(role(SESSION, &json!({"AWS": BASE}), trusted)));
        let error = assume(&aws, &base(&aws), SESSION, more).error();
        let want = want.map(|reason| {
            format!(
                "AccessDenied: User: arn:aws:sts::111122223333:assumed-role/acme-base/pod-0 is \
                 not authorized to perform: sts:SetSourceIdentity on resource: {SESSION}{reason}"
            )
        });
        assert_eq!(error, want, "{permitted} {trusted}");
    }
}

#[test]
fn an_inherited_source_identity_needs_the_permission_too() {
    let aws = chain_of_three();
    let bare = "arn:aws:iam::111122223333:role/bare";
    let first = assume(&aws, &base(&aws), SESSION, &[("SourceIdentity", "agent.acme.s")]);
    let error = assume(&aws, &first.credentials(), bare, &[]).error().unwrap();
    assert!(error.contains("perform: sts:SetSourceIdentity on resource"), "{error}");
    let first = assume(&aws, &base(&aws), SESSION, &[]);
    assert_eq!(assume(&aws, &first.credentials(), bare, &[]).error(), None);
}

/// Returns three roles in a chain. `bare` trusts the second without `sts:SetSourceIdentity`.
fn chain_of_three() -> Aws {
    let actions = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
    let allow = || permit("Allow", &json!("sts:*"));
    aws(strict_aws::World::new("111122223333", "eu-west-1")
        .role(role(BASE, &json!({"AWS": "*"}), &actions).policy(allow()))
        .role(role(SESSION, &json!({"AWS": BASE}), &actions).policy(allow()))
        .role(role(THIRD, &json!({"AWS": SESSION}), &actions))
        .role(role(
            "arn:aws:iam::111122223333:role/bare",
            &json!({"AWS": SESSION}),
            &json!("sts:AssumeRole"),
        )))
}

fn role(arn: &str, principal: &serde_json::Value, actions: &serde_json::Value) -> Role {
    Role::new(arn).trust(trust(principal, actions))
}
