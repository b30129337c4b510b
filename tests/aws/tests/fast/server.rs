//! Tests of the server with the real SDK, and of faults that need a socket.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_sdk_sts::{
    Client,
    config::{BehaviorVersion, Credentials as Provided, Region},
    error::ProvideErrorMetadata,
};
use serde_json::{Value, json};
use strict_aws::{
    Association, Aws, Cluster, Credentials, Fault, Outage, Provider, Role, Server, Target, Times,
    World,
    tokens::{Issuer, Pod},
};

#[tokio::test]
async fn the_sdk_assumes_a_role_and_gets_its_identity() {
    let (aws, server) = start();
    let credentials = aws.open_session(BASE, "pod-0", real_time()).unwrap();
    let client = client(&server, &credentials);
    let assume = |identity| {
        let call = client.assume_role().role_arn(SESSION).role_session_name("session-0");
        call.source_identity(identity).send()
    };
    let answer = assume("agent.acme.s").await.unwrap();
    assert_eq!(answer.source_identity(), Some("agent.acme.s"));
    let given = answer.credentials().unwrap();
    let session = Credentials {
        access_key_id: given.access_key_id().to_owned(),
        secret_access_key: given.secret_access_key().to_owned(),
        session_token: given.session_token().to_owned(),
        expiration: UNIX_EPOCH,
    };
    let who = self::client(&server, &session).get_caller_identity().send().await.unwrap();
    assert_eq!(who.arn(), Some("arn:aws:sts::111122223333:assumed-role/acme-session/session-0"));

    let refused = assume("agent.evil.s").await.unwrap_err();
    assert_eq!(refused.code(), Some("AccessDenied"));
    assert!(refused.message().unwrap().contains("sts:AssumeRole on resource"));
    let malformed = assume("agent:acme:s").await.unwrap_err();
    assert_eq!(malformed.code(), Some("ValidationError"));
    let identity = &aws.events()[1]["userIdentity"]["sessionContext"]["sourceIdentity"];
    assert_eq!(identity, "agent.acme.s");
}

#[tokio::test]
async fn the_sdk_trades_a_token_for_a_session() {
    let issuer = Issuer::new("https://issuer.test/dev").unwrap();
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/issuer.test/dev"},
            "Action": ["sts:AssumeRoleWithWebIdentity", "sts:SetSourceIdentity"],
        },
    });
    let world = World::new("111122223333", "eu-west-1")
        .provider(Provider::new(issuer.url(), ["fab-session/dev"]))
        .role(Role::new(SESSION).trust(trust));
    let (aws, server) = serve(world);
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(server.endpoint())
        .build();
    let client = Client::from_conf(config);
    let minute = Duration::from_secs(60);
    let mut claims = issuer.claims("agent.acme.s", "fab-session/dev", real_time(), minute);
    claims["https://aws.amazon.com/source_identity"] = "agent.acme.s".into();
    let token = issuer.sign(&claims);
    let ask = || {
        let call = client.assume_role_with_web_identity().role_arn(SESSION);
        call.role_session_name("session-0").web_identity_token(&token).send()
    };
    let error = ask().await.unwrap_err().into_service_error();
    assert!(error.is_invalid_identity_token_exception(), "{error:?}");
    aws.interrupt(issuer.url(), Outage::Unreachable);
    let error = ask().await.unwrap_err().into_service_error();
    assert!(error.is_idp_communication_error_exception(), "{error:?}");
    aws.publish(issuer.url(), issuer.discovery(), issuer.jwks());
    let answer = ask().await.unwrap();
    assert_eq!(answer.source_identity(), Some("agent.acme.s"));
    assert_eq!(answer.subject_from_web_identity_token(), Some("agent.acme.s"));
    assert_eq!(answer.audience(), Some("fab-session/dev"));
    let provider = "arn:aws:iam::111122223333:oidc-provider/issuer.test/dev";
    assert_eq!(answer.provider(), Some(provider));
    assert!(answer.credentials().is_some());
}

#[tokio::test]
async fn the_sdk_retries_a_throttled_call() {
    let (aws, server) = start();
    let credentials = aws.open_session(BASE, "pod-0", real_time()).unwrap();
    let fault = aws.inject(Target::Sts, Fault::Throttle, Times::Next(1));
    client(&server, &credentials).get_caller_identity().send().await.unwrap();
    assert_eq!(fault.fired(), 1, "the SDK retried");
}

#[test]
fn pods_and_tests_have_separate_routes() {
    let issuer = Issuer::new("https://oidc.test/id").unwrap();
    let (_, server) = serve(world(&issuer));
    let pod = Pod::new("tenants-acme", "tenant-runtime", "agent-0");
    let hour = Duration::from_secs(3600);
    let token = issuer.mint(&pod, "pods.eks.amazonaws.com", real_time(), hour);
    let pods = |token: &str| {
        exchange(
            &server,
            &format!("GET /v1/credentials HTTP/1.1\r\nAuthorization: {token}\r\n"),
            "",
        )
    };
    let answer = pods(&token).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("SecretAccessKey"), "{answer}");

    let ask = |line: &str, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = exchange(&server, &format!("{line} HTTP/1.1\r\n"), &body).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
        (status, serde_json::from_str::<Value>(body).unwrap_or_default())
    };
    assert_eq!(ask("GET /_strict/health", &Value::Null), (200, json!({"healthy": true})));
    assert_eq!(ask("GET /_strict/events", &Value::Null).1["Records"].as_array().unwrap().len(), 2);
    assert_eq!(ask("DELETE /_strict/events", &Value::Null).0, 200);
    assert_eq!(ask("GET /_strict/events", &Value::Null).1, json!({"Records": []}));
    assert_eq!(ask("GET /_strict/other", &Value::Null).0, 404);

    let wanted = json!({"target": "podIdentity", "fault": "internalError", "times": 1});
    assert_eq!(ask("PUT /_strict/faults", &wanted).0, 200);
    assert!(pods(&token).unwrap().starts_with("HTTP/1.1 500"));
    assert!(pods(&token).unwrap().starts_with("HTTP/1.1 200"));
    let listed = json!([{"target": "PodIdentity", "fault": "InternalError", "fired": 1}]);
    assert_eq!(ask("DELETE /_strict/faults", &Value::Null), (200, listed));
    assert_eq!(ask("GET /_strict/faults", &Value::Null).1, json!([]));
    let wanted = json!({"target": "assumeRoleWithWebIdentity", "fault": "hang"});
    let listed = json!([{"target": "AssumeRoleWithWebIdentity", "fault": "Hang", "fired": 0}]);
    assert_eq!(ask("PUT /_strict/faults", &wanted), (200, listed.clone()));
    assert_eq!(ask("DELETE /_strict/faults", &Value::Null), (200, listed));
    for wrong in [
        json!({"target": "podIdentity", "fault": "slow"}),
        json!({"target": "podIdentity", "fault": "hang", "seconds": 1}),
        json!({"target": "s3", "fault": "hang"}),
        json!({"target": "sts", "fault": "hang", "often": true}),
    ] {
        assert_eq!(ask("PUT /_strict/faults", &wrong).0, 400, "{wrong}");
    }
}

#[test]
fn a_response_can_be_late_cut_off_or_missing() {
    let issuer = Issuer::new("https://oidc.test/id").unwrap();
    let (aws, server) = serve(world(&issuer));
    let inject = |fault| {
        aws.clear_faults();
        aws.inject(Target::PodIdentity, fault, Times::UntilCleared);
    };
    let ask = || {
        let started = Instant::now();
        let answer = exchange(&server, "GET /v1/credentials HTTP/1.1\r\n", "");
        (answer, started.elapsed())
    };
    let (whole, _) = ask();
    let whole = whole.unwrap();
    assert!(whole.ends_with("Service account token cannot be empty\n"), "{whole}");

    inject(Fault::Slow(Duration::from_millis(300)));
    let (late, took) = ask();
    assert_eq!(body(&late.unwrap()), body(&whole));
    assert!(took >= Duration::from_millis(300), "{took:?}");

    inject(Fault::CloseMidBody);
    let (cut, _) = ask();
    let cut = cut.unwrap();
    assert!(cut.contains(&format!("content-length: {}", body(&whole).len())), "{cut}");
    assert_eq!(body(&cut), &body(&whole)[..body(&whole).len() / 2]);

    inject(Fault::Hang);
    let (hung, _) = ask();
    assert_eq!(hung.unwrap_err().kind(), io::ErrorKind::WouldBlock, "no response");
}

#[test]
fn a_dropped_server_closes_its_connections() {
    let issuer = Issuer::new("https://oidc.test/id").unwrap();
    let (aws, server) = serve(world(&issuer));
    aws.inject(Target::PodIdentity, Fault::Hang, Times::UntilCleared);
    let mut connection = TcpStream::connect(server.address()).unwrap();
    connection.write_all(b"GET /v1/credentials HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address = server.address();
    drop(server);
    let mut rest = Vec::new();
    let ended = connection.read_to_end(&mut rest);
    let reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
    assert!(ended.as_ref().map_or_else(reset, |read| *read == 0), "{ended:?}");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn the_server_uses_the_given_clock() {
    let issuer = Issuer::new("https://oidc.test/id").unwrap();
    let aws = Arc::new(Aws::new(world(&issuer)).unwrap());
    let then = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::with_clock(listener, Arc::clone(&aws), move || then).unwrap();
    exchange(&server, "GET /v1/credentials HTTP/1.1\r\n", "").unwrap();
    assert_eq!(aws.events()[0]["eventTime"], "2027-01-15T08:00:00Z");
}

fn start() -> (Arc<Aws>, Server) {
    serve(world(&Issuer::new("https://oidc.test/id").unwrap()))
}

fn serve(world: World) -> (Arc<Aws>, Server) {
    let aws = Arc::new(Aws::new(world).unwrap());
    let server = Server::start(Arc::clone(&aws)).unwrap();
    (aws, server)
}

fn world(issuer: &Issuer) -> World {
    let statement = |statement: Value| json!({"Version": "2012-10-17", "Statement": statement});
    World::new("111122223333", "eu-west-1")
        .cluster(Cluster::new("dev", issuer.url(), issuer.jwks()))
        .role(
            Role::new(BASE)
                .trust(statement(json!({
                    "Effect": "Allow",
                    "Principal": {"Service": "pods.eks.amazonaws.com"},
                    "Action": ["sts:AssumeRole", "sts:TagSession"],
                })))
                .policy(statement(json!({
                    "Effect": "Allow",
                    "Action": ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
                    "Resource": SESSION,
                }))),
        )
        .role(Role::new(SESSION).trust(statement(json!({
            "Effect": "Allow",
            "Principal": {"AWS": BASE},
            "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
            "Condition": {"StringLike": {"sts:SourceIdentity": "agent.acme.*"}},
        }))))
        .association(Association::new("tenants-acme", "tenant-runtime", BASE))
}

fn client(server: &Server, credentials: &Credentials) -> Client {
    let Credentials { access_key_id, secret_access_key, session_token, expiration: _ } =
        credentials.clone();
    let token = Some(session_token);
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(server.endpoint())
        .credentials_provider(Provided::new(
            access_key_id,
            secret_access_key,
            token,
            None,
            "strict-aws",
        ))
        .build();
    Client::from_conf(config)
}

/// Sends one request and returns the response, within two seconds.
fn exchange(server: &Server, head: &str, body: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(server.address())?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    let length = body.len();
    write!(
        connection,
        "{head}Host: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    io::read_to_string(connection)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// The SDK signs with the real clock.
#[allow(clippy::disallowed_methods)]
fn real_time() -> SystemTime {
    SystemTime::now()
}

const BASE: &str = "arn:aws:iam::111122223333:role/tenants/acme-base";

const SESSION: &str = "arn:aws:iam::111122223333:role/tenants/acme-session";
