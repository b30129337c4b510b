//! Controllers that keep a pod's annotations as their template says, as kubernetes-sigs/agent-sandbox
//! does (`reconcilePod` in its sandbox_controller.go at 2fd412d5): at each reconciliation they write
//! back what differs.

use std::collections::BTreeMap;

use harness::world::{OPERATOR, World};
use serde_json::{Value, json};

use crate::WORLD;

const SANDBOXES: &str = "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
const NAMESPACE: &str = "tenants-reconciled";
const SESSION_ID: &str = "fab.nanohype.dev/session-id";

/// A Sandbox: the name of its pod, and the annotations of its template.
struct Sandbox {
    name: &'static str,
    annotations: BTreeMap<&'static str, &'static str>,
}

impl Sandbox {
    /// Creates the pod if it does not exist, and writes back annotations that differ. Returns whether
    /// nothing differed, or the error that the controller reports.
    fn reconcile(&self, world: &World, controller: &str) -> Result<bool, String> {
        let get = ["get", "pod", self.name, "--namespace", NAMESPACE, "--output=json"];
        let found = world.cluster.kubectl(&get).run();
        if !found.ok {
            return world.create(&self.pod(), Some(controller)).map(|_| false);
        }
        let found: Value = serde_json::from_str(&found.stdout).unwrap();
        let stored = |key: &str| found["metadata"]["annotations"][key].as_str();
        if self.annotations.iter().all(|(key, value)| stored(key) == Some(value)) {
            return Ok(true);
        }
        let patch = json!({"metadata": {"annotations": self.annotations}}).to_string();
        let arguments = [
            "patch",
            "pod",
            self.name,
            "--namespace",
            NAMESPACE,
            "--type=merge",
            "--as",
            controller,
            "--patch",
            &patch,
        ];
        let outcome = world.cluster.kubectl(&arguments).run();
        if outcome.ok { Ok(false) } else { Err(outcome.stderr) }
    }

    fn pod(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": NAMESPACE, "annotations": self.annotations,
                "labels": {"agents.x-k8s.io/sandbox-name-hash": "1a2b3c4d"},
            },
            "spec": {
                "serviceAccountName": "tenant-runtime", "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "sandbox", "image": "agent:1",
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        })
    }
}

#[test]
fn a_controller_that_writes_annotations_back_does_not_loop() {
    WORLD.namespace(NAMESPACE, "enabled", "acme", &[]);
    let sandbox = |name, annotations: &[(&'static str, &'static str)]| Sandbox {
        name,
        annotations: annotations.iter().copied().collect(),
    };
    let own = sandbox("own", &[("team.example", "a")]);
    assert_eq!(own.reconcile(&WORLD, SANDBOXES), Ok(false));
    assert_eq!(own.reconcile(&WORLD, SANDBOXES), Ok(true));

    // The webhook writes what a trusted creator's template says.
    let named = sandbox("named", &[(SESSION_ID, "chosen")]);
    assert_eq!(named.reconcile(&WORLD, OPERATOR), Ok(false));
    assert_eq!(named.reconcile(&WORLD, OPERATOR), Ok(true));

    // Any other is told at once, before a pod exists.
    for key in [SESSION_ID, "fab.nanohype.dev/source-identity", "fab.nanohype.dev/component"] {
        let said = sandbox("told", &[(key, "chosen")]).reconcile(&WORLD, SANDBOXES).unwrap_err();
        assert!(said.contains(&format!("the annotation {key} is reserved")), "{said}");
        assert!(
            said.contains("[reserved-annotation]: remove the annotation from the pod and"),
            "{said}"
        );
    }

    // A claim adds its annotations to a pod that runs already.
    let claimed = sandbox("own", &[(SESSION_ID, "chosen")]);
    let said = claimed.reconcile(&WORLD, SANDBOXES).unwrap_err();
    assert!(said.contains("[guard-annotation]"), "{said}");
    assert!(said.contains("in the object from which a controller writes it"), "{said}");
}
