//! Calls of the Pod Identity agent with tokens of the cluster.

use std::time::{Duration, SystemTime};

use http::Request;
use serde_json::{Value, json};

use crate::caller::{ACCOUNT, BASE, REGION, Reply, SESSION, assume, aws, now, trust, trust_if};
use strict_aws::{
    Association, Aws, Cluster, Credentials, Role, World,
    tokens::{Algorithm, Issuer, Pod},
};

const URL: &str = "https://oidc.test/id/ABC";

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_pod_gets_credentials_of_its_service_account() {
    // RS256 is the default of API servers.
    let issuer = Issuer::with(URL, Algorithm::Rs256).unwrap();
    let aws = cluster(&issuer, both(), association());
    let reply = ask(&aws, Some(&mint(&issuer, "tenant-runtime")));
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(body["AccountId"], ACCOUNT);
    assert_eq!(body["Expiration"], "2027-01-15T14:00:00Z");
    let credentials = credentials(&reply);
    assert_eq!(assume(&aws, &credentials, SESSION, &[]).error(), None);
}

#[test]
fn session_tags_are_transitive_unless_disabled() {
    let issuer = Issuer::new(URL).unwrap();
    let no_tags = || association().disable_session_tags();
    let plain = json!("sts:AssumeRole");
    let cases = [
        (both(), both(), association(), None),
        (both(), plain.clone(), association(), Some("perform: sts:TagSession on resource")),
        (both(), plain.clone(), no_tags(), None),
        (plain.clone(), plain.clone(), no_tags(), None),
    ];
    for (base, session, association, want) in cases {
        let aws = world(&issuer, &base, trust(&json!({"AWS": BASE}), &session), association);
        let first = credentials(&ask(&aws, Some(&mint(&issuer, "tenant-runtime"))));
        let error = assume(&aws, &first, SESSION, &[]).error();
        match want {
            None => assert_eq!(error, None),
            Some(want) => assert!(error.as_ref().is_some_and(|it| it.contains(want)), "{error:?}"),
        }
    }
}

#[test]
fn session_tags_identify_the_pod() {
    let issuer = Issuer::new(URL).unwrap();
    let pod = Pod::new("tenants-acme", "tenant-runtime", "agent-0");
    let cases = [
        ("eks-cluster-arn", "arn:aws:eks:eu-west-1:111122223333:cluster/dev"),
        ("eks-cluster-name", "dev"),
        ("kubernetes-namespace", "tenants-acme"),
        ("kubernetes-service-account", "tenant-runtime"),
        ("kubernetes-pod-name", "agent-0"),
        ("kubernetes-pod-uid", pod.uid.as_str()),
    ];
    for (key, value) in cases {
        for (wanted, status) in [(value, 200), ("other", 403)] {
            let condition = json!({"StringEquals": {format!("aws:PrincipalTag/{key}"): wanted}});
            let session = trust_if(&json!({"AWS": BASE}), &both(), &condition);
            let aws = world(&issuer, &both(), session, association());
            let first = credentials(&ask(&aws, Some(&mint(&issuer, "tenant-runtime"))));
            assert_eq!(assume(&aws, &first, SESSION, &[]).status, status, "{key} {wanted}");
        }
    }
}

#[test]
fn a_denied_pod_gets_the_reason() {
    let issuer = Issuer::new(URL).unwrap();
    let stranger = Issuer::new(URL).unwrap();
    let pod = Pod::new("tenants-acme", "tenant-runtime", "agent-0");
    let audience = "pods.eks.amazonaws.com";
    let right = Some(mint(&issuer, "tenant-runtime"));
    let denied = "(AccessDeniedException): Unauthorized Exception! EKS does not have permissions";
    let invalid = "(InvalidTokenException)";
    let cases: [(Value, Option<String>, u16, &str); 9] = [
        (both(), right.clone(), 200, "ASIA"),
        (json!("sts:AssumeRole"), right.clone(), 400, denied),
        (json!("sts:TagSession"), right, 400, denied),
        (both(), None, 400, "Service account token cannot be empty"),
        (both(), Some("x".to_owned()), 400, invalid),
        (both(), Some(mint(&stranger, "tenant-runtime")), 400, invalid),
        (both(), Some(issuer.mint(&pod, "sts.amazonaws.com", now(), HOUR)), 400, invalid),
        (both(), Some(issuer.mint(&pod, audience, now() - HOUR, HOUR)), 400, "(ExpiredToken"),
        (both(), Some(mint(&issuer, "other")), 404, "(ResourceNotFoundException)"),
    ];
    for (actions, token, status, want) in cases {
        let aws = cluster(&issuer, actions, association());
        let reply = ask(&aws, token.as_deref());
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.body.contains(want), "{}", reply.body);
    }
}

#[test]
fn a_trust_policy_can_require_a_namespace() {
    let issuer = Issuer::new(URL).unwrap();
    for (namespace, status) in [("tenants-acme", 200), ("tenants-evil", 400)] {
        let condition = json!({
            "StringEquals": {
                "aws:RequestTag/kubernetes-namespace": namespace,
                "aws:SourceAccount": ACCOUNT,
            },
        });
        let service = json!({"Service": "pods.eks.amazonaws.com"});
        let role = Role::new(BASE).trust(trust_if(&service, &both(), &condition));
        let aws = aws(World::new(ACCOUNT, REGION)
            .cluster(Cluster::new("dev", URL, issuer.jwks()))
            .role(role)
            .association(association()));
        assert_eq!(ask(&aws, Some(&mint(&issuer, "tenant-runtime"))).status, status);
    }
}

fn ask(aws: &Aws, token: Option<&str>) -> Reply {
    let mut request = Request::get("/v1/credentials").header("host", "169.254.170.23");
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    Reply::of(aws.answer(&request.body("".into()).unwrap(), now()))
}

fn mint(issuer: &Issuer, service_account: &str) -> String {
    let pod = Pod::new("tenants-acme", service_account, "agent-0");
    issuer.mint(&pod, "pods.eks.amazonaws.com", now(), HOUR)
}

fn credentials(reply: &Reply) -> Credentials {
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    Credentials {
        access_key_id: text("AccessKeyId"),
        secret_access_key: text("SecretAccessKey"),
        session_token: text("Token"),
        expiration: SystemTime::UNIX_EPOCH,
    }
}

fn cluster(issuer: &Issuer, actions: Value, association: Association) -> Aws {
    world(issuer, &actions, trust(&json!({"AWS": BASE}), &both()), association)
}

fn world(issuer: &Issuer, base: &Value, session: Value, association: Association) -> Aws {
    let service = json!({"Service": "pods.eks.amazonaws.com"});
    aws(World::new(ACCOUNT, REGION)
        .cluster(Cluster::new("dev", URL, issuer.jwks()))
        .role(Role::new(BASE).trust(trust(&service, base)))
        .role(Role::new(SESSION).trust(session))
        .association(association))
}

fn association() -> Association {
    Association::new("tenants-acme", "tenant-runtime", BASE)
}

fn both() -> Value {
    json!(["sts:AssumeRole", "sts:TagSession"])
}
