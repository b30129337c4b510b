//! An AWS account with one tenant, on the strict AWS of tests/aws.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use strict_aws::{
    Association, Aws, Cluster, Credentials, Role, Server, World,
    tokens::{Issuer, Pod as TokenPod},
};

use super::pod::{POD_UID, Pod, Template};
pub use crate::cloud::{BASE, BROKER};

/// Settings of an account; the default is an account in which everything works.
#[derive(Clone, Debug)]
pub struct Policies {
    /// The permissions policy of the base role.
    pub base: Value,
    /// The trust policy of the base role.
    pub base_trust: Value,
    /// The permissions boundary of the base role.
    pub boundary: Option<Value>,
    /// The trust policy of the session-broker role.
    pub trust: Value,
    /// The permissions policy of the session-broker role.
    pub session: Option<Value>,
    /// Lifetime of all credentials; None: the requested one.
    pub seconds: Option<u64>,
    /// Whether denials omit the policy type.
    pub terse: bool,
}

/// A running account. It stops when dropped.
#[derive(Debug)]
pub struct Account {
    /// The strict AWS.
    pub aws: Arc<Aws>,
    server: Server,
    issuer: Issuer,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            base: statements(&[allow(
                &["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
                json!({"Resource": BROKER}),
            )]),
            base_trust: base_trust(),
            boundary: None,
            trust: trust(&json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}})),
            session: None,
            seconds: None,
            terse: false,
        }
    }
}

impl Account {
    /// Starts an account.
    pub fn open(policies: Policies) -> Self {
        Self::open_with(policies, |world| world)
    }

    /// Starts an account with the additions of `more`.
    pub fn open_with(policies: Policies, more: impl FnOnce(World) -> World) -> Self {
        let Policies { base, base_trust, boundary, trust, session, seconds, terse } = policies;
        let issuer = Issuer::new(ISSUER).unwrap();
        let mut base = Role::new(BASE).trust(base_trust).policy(base);
        if let Some(boundary) = boundary {
            base = base.boundary(boundary);
        }
        let broker = Role::new(BROKER).trust(trust);
        let broker = session.into_iter().fold(broker, Role::policy);
        let mut world = World::new("111122223333", "eu-west-1")
            .cluster(Cluster::new("prod", issuer.url(), issuer.jwks()))
            .role(base)
            .role(broker)
            .association(Association::new("tenants-acme", "tenant-runtime", BASE));
        if let Some(seconds) = seconds {
            world = world.session_seconds(seconds);
        }
        if terse {
            world = world.terse();
        }
        let aws = Arc::new(Aws::new(more(world)).unwrap());
        let server = Server::start(Arc::clone(&aws)).unwrap();
        Self { aws, server, issuer }
    }

    /// Returns the address of all its services.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns the pod of the tenant.
    pub fn template(&self) -> Template {
        Template::new(&self.server.endpoint(), BROKER)
    }

    /// Returns an injected pod with a projected token.
    pub fn pod(&self) -> Pod {
        self.pod_of(&self.template())
    }

    /// Returns an injected pod with a projected token, for another template.
    pub fn pod_of(&self, template: &Template) -> Pod {
        let pod = Pod::inject(template);
        let audience = match template.source {
            "irsa" => "sts.amazonaws.com",
            _ => "pods.eks.amazonaws.com",
        };
        let claims = TokenPod::new(
            format!("tenants-{}", template.tenant),
            template.account,
            template.name.clone(),
        );
        pod.project(&self.mint_for(claims, audience, Duration::from_secs(3600)));
        pod
    }

    /// Returns a token of the service account for a pod with this name.
    pub fn mint(&self, name: &str, audience: &str, lifetime: Duration) -> String {
        self.mint_for(TokenPod::new("tenants-acme", "tenant-runtime", name), audience, lifetime)
    }

    fn mint_for(&self, mut pod: TokenPod, audience: &str, lifetime: Duration) -> String {
        pod.uid = POD_UID.to_owned();
        self.issuer.mint(&pod, audience, now(), lifetime)
    }

    /// Returns credentials of the base role without a call.
    pub fn base_session(&self) -> Credentials {
        self.aws.open_session(BASE, "base", now()).unwrap()
    }

    /// Returns the CloudTrail events with this name.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let events = self.aws.events();
        events.into_iter().filter(|event| event["eventName"] == name).collect()
    }

    /// Returns the number of AssumeRole calls for the session-broker role.
    pub fn assumed(&self) -> usize {
        self.events("AssumeRole")
            .iter()
            .filter(|event| event["requestParameters"]["roleArn"] == BROKER)
            .count()
    }
}

/// Returns the trust policy of the base role, for EKS Pod Identity and for IRSA.
fn base_trust() -> Value {
    let oidc = ISSUER.trim_start_matches("https://");
    statements(&[
        allow(
            &["sts:AssumeRole", "sts:TagSession"],
            json!({"Principal": {"Service": "pods.eks.amazonaws.com"}}),
        ),
        allow(
            &["sts:AssumeRoleWithWebIdentity"],
            json!({
                "Principal": {"Federated": format!("arn:aws:iam::111122223333:oidc-provider/{oidc}")},
                "Condition": {"StringEquals": {
                    format!("{oidc}:sub"): "system:serviceaccount:tenants-acme:tenant-runtime",
                    format!("{oidc}:aud"): "sts.amazonaws.com",
                }},
            }),
        ),
    ])
}

/// Returns a trust policy that names the base role, with a condition on the SourceIdentity. A
/// separate statement allows TagSession, since that action has no such condition key.
pub fn trust(condition: &Value) -> Value {
    statements(&[
        allow(
            &["sts:AssumeRole", "sts:SetSourceIdentity"],
            json!({"Principal": {"AWS": BASE}, "Condition": condition}),
        ),
        allow(&["sts:TagSession"], json!({"Principal": {"AWS": BASE}})),
    ])
}

/// Returns a policy of these statements.
pub fn statements(list: &[Value]) -> Value {
    json!({"Version": "2012-10-17", "Statement": list})
}

/// Returns a statement that allows actions. `rest` has its other keys.
pub fn allow(actions: &[&str], rest: Value) -> Value {
    statement("Allow", actions, rest)
}

/// Returns a statement that denies actions. `rest` has its other keys.
pub fn deny(actions: &[&str], rest: Value) -> Value {
    statement("Deny", actions, rest)
}

fn statement(effect: &str, actions: &[&str], mut rest: Value) -> Value {
    rest["Effect"] = json!(effect);
    rest["Action"] = json!(actions);
    rest
}

/// The OIDC issuer of the cluster.
pub const ISSUER: &str = "https://oidc.eks.eu-west-1.amazonaws.com/id/TEST";

#[allow(clippy::disallowed_methods, reason = "the program under test uses the same clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
