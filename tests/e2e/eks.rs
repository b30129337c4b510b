//! EKS's own webhook beside ours, as a stand-in on this machine, in three places at once: before
//! ours, after ours, and after ours without the object selector that EKS gives it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    node::Node,
    pod_identity::pod_identity,
    process::wait_until,
    server::{Effect, Server},
};

#[derive(Debug)]
pub(crate) struct Eks {
    pub(crate) first: Server,
    pub(crate) after: Server,
    pub(crate) unmarked: Server,
}

/// Where the stand-in comes before ours, or does not look at our label. Both opt in.
pub(crate) const FIRST: &str = "tenants-first";
pub(crate) const UNMARKED: &str = "tenants-unmarked";

/// Where it comes after ours, as in `TENANT`, but nobody opted in.
pub(crate) const PLAIN: &str = "tenants-outside";

impl Eks {
    /// Its place in `tenant` is the one that it has in EKS.
    pub(crate) fn start(node: &Node, tenant: &str) -> Self {
        for (namespace, label) in [(FIRST, "first"), (UNMARKED, "unmarked")] {
            admit(node, namespace, label, "enabled");
        }
        admit(node, PLAIN, "after", "no");
        let label = ["label", "namespace", tenant, "test.example/foreign=after"];
        assert!(node.kubectl(&label).run().ok);

        let marked = json!({"matchExpressions": [
            {"key": "eks.amazonaws.com/skip-pod-identity-webhook", "operator": "DoesNotExist"},
        ]});
        let start = |configuration: &str, label: &str, selector: &Value| {
            let effect: Effect = pod_identity;
            let server = Server::start(node.host_address(), effect);
            node.create(&[server.configuration(configuration, label, selector.clone())]);
            server
        };
        let eks = Self {
            first: start("a-pod-identity", "first", &marked),
            after: start("pod-identity-webhook", "after", &marked),
            unmarked: start("pod-identity-webhook-unmarked", "unmarked", &json!({})),
        };
        // Until a pod that is no agent's reaches each; it is never stored.
        for (namespace, server) in [
            (FIRST, &eks.first),
            (PLAIN, &eks.after),
            (tenant, &eks.after),
            (UNMARKED, &eks.unmarked),
        ] {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": namespace},
                "spec": {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "default"},
            });
            let calls = server.calls();
            wait_until("the API server calls EKS's webhook", Duration::from_secs(20), || {
                node.kubectl(&["create", "--dry-run=server", "--filename=-"])
                    .stdin(&pod.to_string())
                    .run();
                (server.calls() > calls).then_some(())
            });
        }
        eks
    }
}

/// A namespace of the tenant acme, without policies and quota.
fn admit(node: &Node, name: &str, label: &str, injection: &str) {
    node.create(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
            "fab.nanohype.dev/session-injection": injection,
            "fab.nanohype.dev/tenant": "acme",
            "pod-security.kubernetes.io/enforce": "restricted",
            "test.example/foreign": label,
        }}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "tenant-runtime", "namespace": name},
        }),
    ]);
    for account in ["default", "tenant-runtime"] {
        node.await_service_account(name, account);
    }
}
