//! CloudTrail events, in particular those of later calls.

use std::time::Duration;

use http::Request;
use serde_json::{Value, json};

use crate::caller::{
    ACCOUNT, BASE, CLIENT, ISSUER, PROVIDER, REGION, Reply, SESSION, SUBJECT, THIRD, assume, aws,
    base, claims, federation, now, permit, show, signed, sts, trust, world,
};
use strict_aws::{
    Association, Aws, Cluster, Credentials, Outage, Provider, Role, World,
    tokens::{Issuer, Pod},
};

#[test]
fn a_later_call_shows_its_session_and_identity() {
    let aws = aws(permitted());
    let identity = [("SourceIdentity", "agent.acme.s"), ("DurationSeconds", "900")];
    let session = assume(&aws, &base(&aws), SESSION, &identity).credentials();
    let later = now() + Duration::from_secs(60);
    let request = Request::post("https://bedrock.test/model/m/invoke")
        .header("host", "bedrock.test")
        .header("user-agent", "agent/1")
        .body("{}".into())
        .unwrap();
    aws.answer(&signed(request, &session, "bedrock", REGION, later), later);

    let [assumed, invoked] = &aws.events()[..] else { panic!("two calls") };
    let key = session.access_key_id.as_str();
    assert_eq!(
        assumed["requestParameters"],
        json!({
            "roleArn": SESSION, "roleSessionName": "session-0",
            "sourceIdentity": "agent.acme.s", "durationSeconds": 900,
        })
    );
    assert_eq!(assumed["responseElements"]["credentials"]["accessKeyId"], key);
    let expiration = &assumed["responseElements"]["credentials"]["expiration"];
    assert_eq!(expiration, "2027-01-15T08:15:00Z");
    let arn = "arn:aws:sts::111122223333:assumed-role/acme-base/pod-0";
    assert_eq!(assumed["userIdentity"]["arn"], arn);
    assert_eq!(assumed["userIdentity"]["sessionContext"].get("sourceIdentity"), None);

    assert_eq!(invoked["eventSource"], "bedrock.amazonaws.com");
    assert_eq!(invoked["eventName"], "InvokeModel");
    assert_eq!(invoked["eventTime"], "2027-01-15T08:01:00Z");
    assert_eq!(invoked["awsRegion"], REGION);
    assert_eq!(invoked["userAgent"], "agent/1");
    assert_eq!(invoked.get("errorCode"), None);
    let who = &invoked["userIdentity"];
    assert_eq!(who["type"], "AssumedRole");
    assert_eq!(who["arn"], "arn:aws:sts::111122223333:assumed-role/acme-session/session-0");
    assert_eq!(who["accessKeyId"], key);
    assert_eq!(who["accountId"], ACCOUNT);
    assert!(who["principalId"].as_str().unwrap().ends_with(":session-0"));
    let context = &who["sessionContext"];
    assert_eq!(context["sourceIdentity"], "agent.acme.s");
    assert_eq!(context["sessionIssuer"]["arn"], SESSION);
    assert_eq!(context["sessionIssuer"]["type"], "Role");
    assert_eq!(context["sessionIssuer"]["userName"], "acme-session");
    assert_eq!(context["attributes"]["creationDate"], "2027-01-15T08:00:00Z");
}

#[test]
fn the_event_name_follows_the_protocol() {
    let aws = aws(world());
    let credentials = base(&aws);
    let form = "Action=ListUsers&Version=2010-05-08";
    let cases = [
        (
            Request::post("/").header("x-amz-target", "AmazonSSM.GetParameters"),
            "{}",
            "GetParameters",
        ),
        (Request::post("/"), form, "ListUsers"),
        (Request::get("/a/b?c=d"), "", "GET /a/b"),
    ];
    for (request, body, want) in cases {
        let request = request.header("host", "service.test").body(body.into()).unwrap();
        let (mut parts, body) = request.into_parts();
        parts.uri = format!("https://service.test{}", parts.uri).parse().unwrap();
        let request = Request::from_parts(parts, body);
        aws.answer(&signed(request, &credentials, "ssm", REGION, now()), now());
        assert_eq!(aws.events().last().unwrap()["eventName"], want);
    }
}

#[test]
fn an_error_is_recorded_with_code_and_message() {
    let aws = aws(world());
    let reply = assume(&aws, &base(&aws), SESSION, &[("SourceIdentity", "a:b")]);
    let event = aws.events().pop().unwrap();
    assert_eq!(event["errorCode"], "ValidationError");
    assert_eq!(event["errorMessage"], reply.element("Message").unwrap());
    assert_eq!(event["responseElements"], Value::Null);

    let request = Request::get("https://service.test/").header("host", "service.test");
    let reply = Reply::of(aws.answer(&request.body("".into()).unwrap(), now()));
    let event = aws.events().pop().unwrap();
    assert_eq!(reply.status, 403);
    assert_eq!(event["errorCode"], "MissingAuthenticationTokenException");
    assert_eq!(event["userIdentity"]["type"], "Unknown");

    aws.clear_events();
    assert_eq!(aws.events(), Vec::<Value>::new());
}

#[test]
fn a_pod_call_has_two_events_without_secrets() {
    let (aws, token) = pods();
    let request = Request::get("/v1/credentials").header("authorization", &token);
    let reply = Reply::of(aws.answer(&request.body("".into()).unwrap(), now()));
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    let events = aws.events();
    let [assumed, asked] = &events[..] else { panic!("two events") };
    assert_eq!(assumed["eventName"], "AssumeRole");
    assert_eq!(assumed["userIdentity"]["invokedBy"], "pods.eks.amazonaws.com");
    let tags = &assumed["requestParameters"]["principalTags"];
    assert_eq!(tags["kubernetes-namespace"], "tenants-acme");
    assert_eq!(asked["eventSource"], "eks-auth.amazonaws.com");
    assert_eq!(asked["eventName"], "AssumeRoleForPodIdentity");

    let shown = serde_json::to_string(&events).unwrap();
    assert!(shown.contains(body["AccessKeyId"].as_str().unwrap()));
    for secret in [&body["SecretAccessKey"], &body["Token"], &json!(token)] {
        assert!(!shown.contains(secret.as_str().unwrap()));
    }
}

#[test]
fn an_event_of_a_token_shows_subject_and_tags() {
    let (issuer, aws) = federation();
    let token = issuer.sign(&claims(
        &issuer,
        json!({
            "https://aws.amazon.com/source_identity": SUBJECT,
            "https://aws.amazon.com/tags": {
                "principal_tags": {"kubernetes-namespace": ["tenants-acme"]},
                "transitive_tag_keys": [],
            },
        }),
    ));
    let reply = show(&aws, &token, &[]);
    let event = aws.events().pop().unwrap();
    assert_eq!(event["eventName"], "AssumeRoleWithWebIdentity");
    assert_eq!(event["eventSource"], "sts.amazonaws.com");
    assert_eq!(
        event["userIdentity"],
        json!({
            "type": "WebIdentityUser",
            "principalId": format!("{PROVIDER}:{CLIENT}:{SUBJECT}"),
            "userName": SUBJECT,
            "identityProvider": PROVIDER,
        })
    );
    assert_eq!(
        event["requestParameters"],
        json!({
            "roleArn": SESSION, "roleSessionName": "session-0", "sourceIdentity": SUBJECT,
            "principalTags": {"kubernetes-namespace": "tenants-acme"}, "transitiveTagKeys": [],
        })
    );
    let given = &event["responseElements"];
    assert_eq!(given["sourceIdentity"], SUBJECT);
    assert_eq!(given["subjectFromWebIdentityToken"], SUBJECT);
    assert_eq!(given["provider"], PROVIDER);
    assert_eq!(given["audience"], CLIENT);
    let credentials = reply.credentials();
    assert_eq!(given["credentials"]["accessKeyId"], *credentials.access_key_id);
    let shown = event.to_string();
    let secrets = [token, credentials.secret_access_key, credentials.session_token];
    assert!(!secrets.iter().any(|secret| shown.contains(secret)));
}

#[test]
fn an_invalid_token_leaves_no_event() {
    let (issuer, aws) = federation();
    let other = "https://aws.amazon.com/roles";
    let invalid = [
        json!({"aud": "other"}),
        json!({"iss": "https://other.test"}),
        json!({other: ["arn:aws:iam::111122223333:role/other"]}),
    ];
    for more in invalid {
        let reply = show(&aws, &issuer.sign(&claims(&issuer, more)), &[]);
        assert_eq!(reply.element("Code"), Some("InvalidIdentityToken"));
    }
    aws.interrupt(ISSUER, Outage::Missing);
    show(&aws, &issuer.sign(&claims(&issuer, json!({}))), &[]);
    assert_eq!(aws.events(), Vec::<Value>::new());

    // The others leave one.
    aws.interrupt(ISSUER, Outage::Unreachable);
    show(&aws, &issuer.sign(&claims(&issuer, json!({}))), &[]);
    aws.publish(ISSUER, issuer.discovery(), issuer.jwks());
    show(&aws, &issuer.sign(&claims(&issuer, json!({"exp": 1_700_000_000}))), &[]);
    let token = issuer.sign(&claims(&issuer, json!({})));
    show(&aws, &token, &[("RoleArn", THIRD)]);
    let errors: Vec<Value> = aws.events().iter().map(|event| event["errorCode"].clone()).collect();
    assert_eq!(errors, ["IDPCommunicationError", "ExpiredTokenException", "AccessDenied"]);
    let denied = aws.events().pop().unwrap();
    assert_eq!(denied["errorMessage"], "An unknown error occurred");
    assert_eq!(denied["userIdentity"]["userName"], SUBJECT);
}

#[test]
fn a_later_call_shows_the_provider_of_the_token() {
    let issuer = Issuer::new(ISSUER).unwrap();
    let web = json!(["sts:AssumeRoleWithWebIdentity", "sts:SetSourceIdentity"]);
    let role = Role::new(SESSION).trust(trust(&json!({"Federated": PROVIDER}), &web));
    let chained = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
    let third = Role::new(THIRD).trust(trust(&json!({"AWS": SESSION}), &chained));
    let role = role.policy(permit("Allow", &json!("sts:*")));
    let provider = Provider::new(ISSUER, [CLIENT]);
    let world = World::new(ACCOUNT, REGION).provider(provider).role(role).role(third);
    let aws = Aws::new(world).unwrap();
    aws.publish(ISSUER, issuer.discovery(), issuer.jwks());
    let identity = json!({"https://aws.amazon.com/source_identity": SUBJECT});
    let session = show(&aws, &issuer.sign(&claims(&issuer, identity)), &[]).credentials();
    let context = |credentials: &Credentials| {
        sts(&aws, credentials, now(), &[("Action", "GetCallerIdentity")]);
        aws.events().pop().unwrap()["userIdentity"]["sessionContext"].clone()
    };
    let found = context(&session);
    assert_eq!(found["sourceIdentity"], SUBJECT);
    assert_eq!(
        found["webIdFederationData"],
        json!({"federatedProvider": PROVIDER, "attributes": {}})
    );
    // The next session keeps the identity only.
    let next = context(&assume(&aws, &session, THIRD, &[]).credentials());
    assert_eq!(next["sourceIdentity"], SUBJECT);
    assert_eq!(next.get("webIdFederationData"), None);
}

#[test]
fn the_same_calls_make_the_same_events() {
    let run = || {
        let aws = aws(permitted());
        assume(&aws, &base(&aws), SESSION, &[("SourceIdentity", "agent.acme.s")]);
        aws.events()
    };
    assert_eq!(run(), run());
}

fn pods() -> (Aws, String) {
    let issuer = Issuer::new("https://oidc.test/id").unwrap();
    let service = json!({"Service": "pods.eks.amazonaws.com"});
    let actions = json!(["sts:AssumeRole", "sts:TagSession"]);
    let world = World::new(ACCOUNT, REGION)
        .cluster(Cluster::new("dev", issuer.url(), issuer.jwks()))
        .role(Role::new(BASE).trust(trust(&service, &actions)))
        .association(Association::new("tenants-acme", "tenant-runtime", BASE));
    let pod = Pod::new("tenants-acme", "tenant-runtime", "agent-0");
    let hour = Duration::from_secs(3600);
    (aws(world), issuer.mint(&pod, "pods.eks.amazonaws.com", now(), hour))
}

/// Returns a world in which the base role is allowed to set a source identity.
fn permitted() -> World {
    let actions = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
    World::new(ACCOUNT, REGION)
        .role(
            Role::new(BASE)
                .trust(trust(&json!("*"), &actions))
                .policy(permit("Allow", &json!("sts:*"))),
        )
        .role(
            Role::new(SESSION)
                .trust(trust(&json!({"AWS": BASE}), &actions))
                .policy(permit("Allow", &json!("bedrock:*"))),
        )
}
