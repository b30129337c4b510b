//! A client that signs requests, minimal worlds, and an issuer with its IAM OIDC provider.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials as Identity;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use strict_aws::{Answer, Aws, Credentials, Provider, Role, World, tokens::Issuer};

/// A response, as a client reads it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn of(answer: Answer) -> Self {
        match answer {
            Answer::Response(response) => Self {
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(response.body()).into_owned(),
            },
            other => panic!("not a plain response: {other:?}"),
        }
    }

    /// Returns the text of the first element with this name.
    pub(crate) fn element(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    }

    /// Returns `Code: Message`, or None if the call succeeded.
    pub(crate) fn error(&self) -> Option<String> {
        Some(format!("{}: {}", self.element("Code")?, self.element("Message")?))
    }

    pub(crate) fn credentials(&self) -> Credentials {
        let text = |name| {
            let found = self.element(name);
            found.unwrap_or_else(|| panic!("no {name}: {}", self.body)).to_owned()
        };
        Credentials {
            access_key_id: text("AccessKeyId"),
            secret_access_key: text("SecretAccessKey"),
            session_token: text("SessionToken"),
            expiration: UNIX_EPOCH,
        }
    }
}

/// Makes a signed call of STS.
pub(crate) fn sts(
    aws: &Aws,
    credentials: &Credentials,
    now: SystemTime,
    pairs: &[(&str, &str)],
) -> Reply {
    Reply::of(aws.answer(&signed(sts_request(pairs), credentials, "sts", REGION, now), now))
}

/// Calls AssumeRole for `role`, with `more` parameters beside the required ones.
pub(crate) fn assume(
    aws: &Aws,
    credentials: &Credentials,
    role: &str,
    more: &[(&str, &str)],
) -> Reply {
    let required = [("Action", "AssumeRole"), ("RoleArn", role), ("RoleSessionName", "session-0")];
    sts(aws, credentials, now(), &[&required, more].concat())
}

pub(crate) fn sts_request(pairs: &[(&str, &str)]) -> Request<Bytes> {
    let version = [("Version", "2011-06-15")];
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(version.iter().chain(pairs))
        .finish();
    Request::post(format!("https://{HOST}/"))
        .header("host", HOST)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body.into())
        .unwrap()
}

/// Signs a request as an SDK does.
pub(crate) fn signed(
    mut request: Request<Bytes>,
    credentials: &Credentials,
    service: &str,
    region: &str,
    now: SystemTime,
) -> Request<Bytes> {
    let identity = Identity::new(
        &credentials.access_key_id,
        &credentials.secret_access_key,
        Some(credentials.session_token.clone()),
        None,
        "test",
    )
    .into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .unwrap();
    let headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let signable = SignableRequest::new(
        request.method().as_str(),
        request.uri().to_string(),
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        SignableBody::Bytes(request.body()),
    )
    .unwrap();
    let (instructions, _) = sign(signable, &parameters.into()).unwrap().into_parts();
    instructions.apply_to_request_http1x(&mut request);
    request
}

/// Returns a world with a base role without policies, and a session role that trusts it by name.
pub(crate) fn world() -> World {
    let actions = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];
    World::new(ACCOUNT, REGION)
        .role(Role::new(BASE).trust(trust(&json!({"AWS": ROOT}), &json!(actions))))
        .role(Role::new(SESSION).trust(trust(&json!({"AWS": BASE}), &json!(actions))))
}

/// Returns an AWS with an OIDC provider, whose issuer has published its files, and a session role.
pub(crate) fn federated(issuer: &Issuer, role: Role) -> Aws {
    let provider = Provider::new(ISSUER, [CLIENT]);
    let aws = aws(World::new(ACCOUNT, REGION).provider(provider).role(role));
    assert!(aws.publish(ISSUER, issuer.discovery(), issuer.jwks()));
    aws
}

/// Returns an issuer and an AWS in which its tokens can assume the session role, with any identity
/// and tags.
pub(crate) fn federation() -> (Issuer, Aws) {
    let issuer = Issuer::new(ISSUER).unwrap();
    let actions =
        json!(["sts:AssumeRoleWithWebIdentity", "sts:SetSourceIdentity", "sts:TagSession"]);
    let role = Role::new(SESSION).trust(trust(&json!({"Federated": PROVIDER}), &actions));
    let aws = federated(&issuer, role);
    (issuer, aws)
}

/// Returns the claims of a valid token, with those of `more`. A claim that is null there is
/// removed.
pub(crate) fn claims(issuer: &Issuer, more: Value) -> Value {
    let mut claims = issuer.claims(SUBJECT, CLIENT, now(), Duration::from_secs(60));
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// Calls AssumeRoleWithWebIdentity for the session role, which is not signed.
pub(crate) fn show(aws: &Aws, token: &str, more: &[(&str, &str)]) -> Reply {
    let required = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", SESSION),
        ("RoleSessionName", "session-0"),
        ("WebIdentityToken", token),
    ];
    let given = |name: &str| more.iter().any(|(it, _)| *it == name);
    let required = required.into_iter().filter(|(name, _)| !given(name));
    let pairs: Vec<(&str, &str)> = required.chain(more.iter().copied()).collect();
    Reply::of(aws.answer(&sts_request(&pairs), now()))
}

pub(crate) fn aws(world: World) -> Aws {
    Aws::new(world).unwrap()
}

/// Returns credentials of the base role.
pub(crate) fn base(aws: &Aws) -> Credentials {
    aws.open_session(BASE, "pod-0", now()).unwrap()
}

pub(crate) fn trust(principal: &Value, actions: &Value) -> Value {
    policy(json!([{"Effect": "Allow", "Principal": principal, "Action": actions}]))
}

pub(crate) fn trust_if(principal: &Value, actions: &Value, condition: &Value) -> Value {
    policy(json!([{
        "Effect": "Allow", "Principal": principal, "Action": actions, "Condition": condition,
    }]))
}

/// Returns a permissions policy for all resources.
pub(crate) fn permit(effect: &str, actions: &Value) -> Value {
    policy(json!([{"Effect": effect, "Action": actions, "Resource": "*"}]))
}

pub(crate) fn policy(statements: Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// 2027-01-15T08:00:00Z
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) const ACCOUNT: &str = "111122223333";

pub(crate) const REGION: &str = "eu-west-1";

pub(crate) const ROOT: &str = "arn:aws:iam::111122223333:root";

pub(crate) const BASE: &str = "arn:aws:iam::111122223333:role/tenants/acme-base";

pub(crate) const SESSION: &str = "arn:aws:iam::111122223333:role/tenants/acme-session";

/// The third role of a chain.
pub(crate) const THIRD: &str = "arn:aws:iam::111122223333:role/third";

pub(crate) const FOREIGN: &str = "arn:aws:iam::444455556666:role/foreign";

/// URL of an issuer that is not a cluster's.
pub(crate) const ISSUER: &str = "https://issuer.test/dev";

pub(crate) const PROVIDER: &str = "arn:aws:iam::111122223333:oidc-provider/issuer.test/dev";

pub(crate) const CLIENT: &str = "fab-session/dev";

pub(crate) const SUBJECT: &str = "agent.acme.s";

/// The error of a token that has no other message.
pub(crate) const INVALID: &str = "InvalidIdentityToken: The web identity token provided could not \
                                  be validated. See the AssumeRoleWithWebIdentity documentation \
                                  for requirements.";

/// The error of a token whose key STS does not find.
pub(crate) const NO_KEY: &str = "InvalidIdentityToken: Couldn't retrieve verification key from \
                                 your identity provider,  please reference \
                                 AssumeRoleWithWebIdentity documentation for requirements";

pub(crate) const HOST: &str = "sts.eu-west-1.amazonaws.com";
