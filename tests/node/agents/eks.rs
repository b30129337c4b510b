//! A stand-in for the EKS Pod Identity webhook on this machine, in three positions at once: before
//! the injector's webhook, after it, and after it without the object selector of EKS.

use std::time::Duration;

use harness::{
    foreign::{
        pod_identity::pod_identity,
        server::{Effect, Server},
    },
    node::Node,
    process::wait_until,
};
use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) struct Eks {
    pub(crate) first: Server,
    pub(crate) after: Server,
    pub(crate) unmarked: Server,
}

/// Namespaces in which the stand-in is first, or ignores the injector's label. Both opt in.
pub(crate) const FIRST: &str = "tenants-first";
pub(crate) const UNMARKED: &str = "tenants-unmarked";

/// A namespace in which it is last, and which keeps the old client mode.
pub(crate) const KEPT: &str = "tenants-kept";

/// A namespace in which it is last, as in `TENANT`, but which did not opt in.
pub(crate) const PLAIN: &str = "tenants-outside";

impl Eks {
    /// Starts the stand-in. In `tenant` it has the same position as in EKS.
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
            node.create(&[server.configuration(
                configuration,
                label,
                &json!({"objectSelector": selector}),
            )]);
            server
        };
        let eks = Self {
            first: start("a-pod-identity", "first", &marked),
            after: start("pod-identity-webhook", "after", &marked),
            unmarked: start("pod-identity-webhook-unmarked", "unmarked", &json!({})),
        };
        // Waits until each is called for a pod that is not an agent; the pod is not stored.
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

/// Creates a namespace of the tenant acme, without network policies and quota.
pub(crate) fn admit(node: &Node, name: &str, label: &str, injection: &str) {
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
