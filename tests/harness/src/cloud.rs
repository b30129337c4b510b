//! AWS for the pods of a node: STS with its real name and TLS, the Pod Identity agent at its real
//! address. Both are the strict AWS, which accepts the node's tokens.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use serde_json::{Value, json};
use strict_aws::{Association, Aws, Cluster, Fault, Role, Server, Target, Times, World};

use crate::{node::Node, tls::Tls};

/// The region of the cloud.
pub const REGION: &str = "eu-west-1";

/// Base role of the runtime service account.
pub const BASE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-tenant";

/// Base role of the dispatcher's service account.
pub const DISPATCHER: &str = "arn:aws:iam::111122223333:role/prod-fab";

/// Base role in the namespace that did not opt in.
pub const PLAIN: &str =
    "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-plain-tenant";

/// Base role in the namespace that keeps the old client mode, and the role that its client assumes.
pub const KEPT: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-kept-tenant";
pub const OPERATORS: &str =
    "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-kept-session";

/// Session-broker role of the tenant.
pub const BROKER: &str =
    "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker";

/// A running AWS. It stops when dropped.
pub struct Cloud {
    aws: Arc<Aws>,
    tls: Tls,
    server: Server,
}

impl Cloud {
    /// Starts with the tenant acme, and with the additions of `more`.
    pub fn start(node: &Node, more: impl FnOnce(World) -> World) -> Self {
        let keys = node.kubectl(&["get", "--raw", "/openid/v1/jwks"]).run().stdout;
        let keys: Value = serde_json::from_str(&keys).unwrap();
        let world = World::new("111122223333", REGION)
            .cluster(Cluster::new("prod", "https://kubernetes.default.svc.cluster.local", keys))
            .role(Role::new(BASE).trust(pods_of_the_cluster()).policy(may_become(BROKER)))
            .role(Role::new(DISPATCHER).trust(pods_of_the_cluster()).policy(may_become(BROKER)))
            .role(Role::new(PLAIN).trust(pods_of_the_cluster()))
            .role(Role::new(KEPT).trust(pods_of_the_cluster()).policy(may_become(OPERATORS)))
            .role(Role::new(OPERATORS).trust(under(&json!(KEPT), "*@example.com")))
            .role(Role::new(BROKER).trust(under_a_name_of("acme", &[BASE, DISPATCHER])))
            .association(Association::new("fab", "fab", DISPATCHER))
            .association(Association::new("tenants-acme", "tenant-runtime", BASE))
            .association(Association::new("tenants-first", "tenant-runtime", BASE))
            .association(Association::new("tenants-kept", "tenant-runtime", KEPT))
            .association(Association::new("tenants-outside", "tenant-runtime", PLAIN))
            .association(Association::new("tenants-unmarked", "tenant-runtime", BASE));
        let aws = Arc::new(Aws::new(more(world)).unwrap());
        let listener = TcpListener::bind((node.host_address(), 0)).unwrap();
        let server = Server::on(listener, Arc::clone(&aws)).unwrap();
        let name = format!("sts.{REGION}.amazonaws.com");
        let tls = Tls::on((node.host_address(), 443).into(), &[&name], server.address());
        lead_pod_identity_to(node, server.address());
        Self { aws, tls, server }
    }

    /// Returns the PEM file of the CA that signed the certificate of STS.
    pub fn authority(&self) -> PathBuf {
        self.tls.authority()
    }

    /// Returns the address to which calls of Pod Identity are redirected.
    pub fn pod_identity(&self) -> SocketAddr {
        self.server.address()
    }

    /// Publishes the files of an issuer to STS.
    pub fn publish(&self, url: &str, discovery: Value, keys: Value) {
        assert!(self.aws.publish(url, discovery, keys), "no provider has the URL {url}");
    }

    /// Makes all AssumeRole calls fail from now on. Other calls still work.
    pub fn fail_assume_role(&self) {
        self.aws.inject(Target::AssumeRole, Fault::InternalError, Times::UntilCleared);
    }

    /// Ends the outage; returns the number of failed calls.
    pub fn heal(&self) -> u64 {
        let failed = self.aws.faults().iter().map(|fault| fault.fired()).sum();
        self.aws.clear_faults();
        failed
    }

    /// Returns the CloudTrail events with this name.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let events = self.all_events();
        events.into_iter().filter(|event| event["eventName"] == name).collect()
    }

    /// Returns all events, oldest first.
    pub fn all_events(&self) -> Vec<Value> {
        self.aws.events()
    }
}

/// Redirects the agent's address. On a node of EKS the agent listens there itself.
fn lead_pod_identity_to(node: &Node, address: SocketAddr) {
    let rules = format!(
        "table ip pod_identity {{
           chain prerouting {{
             type nat hook prerouting priority dstnat
             ip daddr 169.254.170.23 tcp dport 80 dnat to {address}
           }}
         }}"
    );
    let file = node.state().join("pod-identity.nft");
    fs::write(&file, rules).unwrap();
    node.enter(&["nft", "--file", file.to_str().unwrap()]);
}

/// Returns the trust policy of a base role.
pub fn pods_of_the_cluster() -> Value {
    json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": {"Service": "pods.eks.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:TagSession"],
    }]})
}

/// Returns the permissions policy of a base role.
pub fn may_become(broker: &str) -> Value {
    json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
        "Resource": broker,
    }]})
}

/// Returns a trust policy. TagSession has no condition key for the source identity, so it has its
/// own statement.
pub fn under_a_name_of(tenant: &str, bases: &[&str]) -> Value {
    under(&json!(bases), &format!("agent.{tenant}.*"))
}

fn under(bases: &Value, names: &str) -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": bases},
            "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
            "Condition": {"StringLike": {"sts:SourceIdentity": names}},
        },
        {"Effect": "Allow", "Principal": {"AWS": bases}, "Action": "sts:TagSession"},
    ]})
}
