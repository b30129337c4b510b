//! Sandboxes, warm pools and claims of kubernetes-sigs/agent-sandbox, with webhook, guard and the
//! garbage collector of a control plane: what docs/eks-agent-platform.md says about them.

use std::{sync::LazyLock, time::Duration};

use harness::{
    agent_sandbox::{AgentSandbox, USER},
    control_plane::{ControlPlane, Outcome},
    process::wait_until,
    root,
    world::{World, role, variable},
};
use serde_json::{Value, json};

/// A cluster with the values of `examples/agent-sandbox.yaml` and the controller. Each test has its
/// own namespace.
struct Bench {
    world: World,
    _controller: AgentSandbox,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let world = World::start(&[], Some(&root().join("examples/agent-sandbox.yaml")));
    world.publish("acme", &role("acme"));
    // A tenant that may write objects of its namespace, not all of which RBAC gives in a real one.
    world.allow(TENANT);
    let controller = AgentSandbox::start(&world.cluster);
    await_garbage_collector(&world.cluster);
    Bench { world, _controller: controller }
});

/// Waits until the garbage collector handles the new types: until it deletes a Sandbox and a claim
/// whose owner does not exist. It finds new types at its next discovery. A request before that
/// fails, and it doubles its pause after each failure, to minutes.
fn await_garbage_collector(cluster: &ControlPlane) {
    let owner = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "never-created",
        "uid": "00000000-0000-4000-8000-000000000000",
    });
    let garbage = |group: &str, kind: &str, spec: Value| {
        json!({
            "apiVersion": format!("{group}/v1beta1"), "kind": kind,
            "metadata": {"name": "garbage", "namespace": "default", "ownerReferences": [owner]},
            "spec": spec,
        })
    };
    let suspended = json!({
        "operatingMode": "Suspended", "podTemplate": {"spec": pod_spec("tenant-runtime")},
    });
    let sandbox = garbage("agents.x-k8s.io", "Sandbox", suspended);
    let claim = json!({"warmPoolRef": {"name": "never-created"}});
    let claim = garbage("extensions.agents.x-k8s.io", "SandboxClaim", claim);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [sandbox, claim]});
    let made = cluster.kubectl(&["create", "--filename=-"]).stdin(&list.to_string()).run();
    assert!(made.ok, "{}", made.stderr);
    wait_until("the garbage collector handles Sandboxes", GARBAGE, || {
        let left = cluster.kubectl(&["get", "sandboxes,sandboxclaims", "--namespace=default"]);
        left.json()["items"].as_array().unwrap().is_empty().then_some(())
    });
}

/// A namespace with a template.
struct Home {
    name: &'static str,
}

impl Home {
    fn new(name: &'static str) -> Self {
        BENCH.world.namespace(name, "enabled", "acme", &[]);
        let home = Self { name };
        let template = json!({"podTemplate": {
            "metadata": {"labels": {"team.example/name": "a"}},
            "spec": pod_spec("tenant-runtime"),
        }});
        home.create("extensions.agents.x-k8s.io", "SandboxTemplate", "template", &template);
        home
    }

    fn pool(&self, name: &str, replicas: u32) {
        let spec = json!({"replicas": replicas, "sandboxTemplateRef": {"name": "template"}});
        self.create("extensions.agents.x-k8s.io", "SandboxWarmPool", name, &spec);
    }

    fn claim(&self, name: &str, pool: &str, more: Value) {
        let mut spec = json!({"warmPoolRef": {"name": pool}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.create("extensions.agents.x-k8s.io", "SandboxClaim", name, &spec);
    }

    fn sandbox(&self, name: &str, account: &str) {
        let spec = json!({"podTemplate": {"spec": pod_spec(account)}});
        self.create("agents.x-k8s.io", "Sandbox", name, &spec);
    }

    /// Creates an object as the tenant.
    fn create(&self, group: &str, kind: &str, name: &str, spec: &Value) {
        let object = json!({
            "apiVersion": format!("{group}/v1beta1"), "kind": kind,
            "metadata": {"name": name, "namespace": self.name}, "spec": spec,
        });
        let made = self.tenant(&["create", "--filename=-"], &object.to_string());
        assert!(made.ok, "{}", made.stderr);
    }

    fn tenant(&self, arguments: &[&str], stdin: &str) -> Outcome {
        let arguments = [arguments, &["--namespace", self.name, "--as", TENANT]].concat();
        BENCH.world.cluster.kubectl(&arguments).stdin(stdin).run()
    }

    fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let found = BENCH.world.cluster.kubectl(&[
            "get",
            kind,
            name,
            "--namespace",
            self.name,
            "--output=json",
            "--ignore-not-found",
        ]);
        let found = found.run();
        assert!(found.ok, "{}", found.stderr);
        serde_json::from_str(&found.stdout).ok()
    }

    fn list(&self, kind: &str) -> Vec<Value> {
        let list = BENCH.world.cluster.kubectl(&["get", kind, "--namespace", self.name]).json();
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until the object is ready; returns it.
    fn ready(&self, kind: &str, name: &str) -> Value {
        wait_until(&format!("{kind} {name} is ready"), PATIENCE, || {
            self.get(kind, name).filter(|it| condition(it)["status"] == "True")
        })
    }

    /// Waits until so many Sandboxes of the pool are ready; returns them.
    fn filled(&self, pool: &str, replicas: usize) -> Vec<Value> {
        wait_until(&format!("pool {pool} is filled"), PATIENCE, || {
            let mut all = self.list("sandboxes");
            all.retain(|it| {
                let is_own = controller(it).is_some_and(|owner| owner["name"] == pool);
                is_own && condition(it)["status"] == "True"
            });
            (all.len() == replicas).then_some(all)
        })
    }

    fn pod(&self, name: &str) -> Value {
        self.get("pod", name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Returns the pod's component and its session, as a field of the pod.
    fn session(&self, name: &str) -> [String; 2] {
        let pod = self.pod(name);
        let sidecar = &pod["spec"]["initContainers"][0];
        let id = variable(sidecar, "FAB_SESSION_ID").map_or(Value::Null, Clone::clone);
        let component = &pod["metadata"]["annotations"]["fab.nanohype.dev/component"];
        let field = id["fieldRef"]["fieldPath"].clone();
        [component, &field].map(|it| it.as_str().unwrap_or_default().to_owned())
    }
}

#[test]
fn a_sandbox_has_the_session_of_its_name() {
    let home = Home::new("tenants-named");
    let by_name = ["sandbox", "metadata.name"].map(str::to_owned);
    // The service account does not matter.
    for account in ["tenant-runtime", "default"] {
        home.sandbox(account, account);
        home.ready("sandbox", account);
        assert_eq!(home.session(account), by_name);
    }
    home.pool("pool", 1);
    let [pooled] = &home.filled("pool", 1)[..] else { panic!("one sandbox") };
    let warm = name_of(pooled).to_owned();
    assert!(warm.starts_with("pool-"), "{warm}");
    assert_eq!(home.session(&warm), by_name, "before a claim adopts it");
    home.claim("user", "pool", json!({}));
    let claim = home.ready("sandboxclaim", "user");
    assert_eq!(claim["status"]["sandbox"]["name"], json!(warm), "the claim names the session");
    assert_eq!(home.session(&warm), by_name);

    // Without a pool of pods, the Sandbox and its pod have the name of the claim. Variables of the
    // claim do not name the session.
    home.pool("empty", 0);
    home.claim("cold", "empty", json!({}));
    home.ready("sandboxclaim", "cold");
    assert_eq!(home.session("cold"), by_name);
    let env = json!({"podTemplate": {"spec": pod_spec("tenant-runtime")}, "envVarsInjectionPolicy": "Allowed"});
    home.create("extensions.agents.x-k8s.io", "SandboxTemplate", "with-env", &env);
    let spec = json!({"replicas": 1, "sandboxTemplateRef": {"name": "with-env"}});
    home.create("extensions.agents.x-k8s.io", "SandboxWarmPool", "with-env", &spec);
    home.filled("with-env", 1);
    let stolen = json!({"env": [{"name": "FAB_SESSION_ID", "value": "stolen"}]});
    home.claim("variable", "with-env", stolen);
    home.ready("sandboxclaim", "variable");
    assert_eq!(
        home.session("variable"),
        by_name,
        "a claim with variables takes no pod of the pool"
    );
    assert!(!home.pod("variable").to_string().contains("stolen"));

    // The controls: the labels and the reference of a Sandbox do not make a pod one.
    for (name, account, want) in [
        ("own", "default", ["", ""]),
        ("own-runtime", "tenant-runtime", ["runtime", "metadata.uid"]),
    ] {
        let mut pod = copy_of(&home.pod(&warm), name);
        pod["spec"] = pod_spec(account);
        let made = home.tenant(&["create", "--filename=-"], &pod.to_string());
        assert!(made.ok, "{}", made.stderr);
        assert_eq!(home.session(name), want.map(str::to_owned), "{name}");
    }
}

/// A claim takes a pod that runs. The reference to the Sandbox stays on the pod. The reference of the
/// Sandbox changes from the pool to the claim.
#[test]
fn a_claim_takes_a_sandbox_of_the_pool_with_its_pod() {
    let home = Home::new("tenants-taken");
    home.pool("pool", 1);
    let [before] = &home.filled("pool", 1)[..] else { panic!("one sandbox") };
    let name = name_of(before);
    let pod_before = home.pod(name);
    assert_eq!(controller(before).unwrap()["kind"], "SandboxWarmPool");
    assert_eq!(controller(&pod_before).unwrap()["uid"], before["metadata"]["uid"]);

    let added = json!({"annotations": {"team.example/job": "42"}, "labels": {"sandbox.users.io/job": "42"}});
    home.claim("user", "pool", json!({"additionalPodMetadata": added}));
    let claim = home.ready("sandboxclaim", "user");
    let after = home.get("sandbox", name).unwrap();
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    assert_eq!(uid(&after), uid(before));
    assert_eq!(after["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    let owner = controller(&after).unwrap();
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("SandboxClaim"), &uid(&claim)));
    assert_eq!(after["metadata"]["labels"]["agents.x-k8s.io/claim-uid"], uid(&claim));
    assert_eq!(claim["metadata"]["annotations"]["agents.x-k8s.io/sandbox-name"], json!(name));

    // The same pod, with what the claim's author wrote.
    let pod = wait_until("the pod has the metadata of the claim", PATIENCE, || {
        let pod = home.pod(name);
        (pod["metadata"]["annotations"]["team.example/job"] == "42").then_some(pod)
    });
    assert_eq!(uid(&pod), uid(&pod_before));
    assert_eq!(pod["spec"], pod_before["spec"]);
    assert_eq!(pod["metadata"]["ownerReferences"], pod_before["metadata"]["ownerReferences"]);
    assert_eq!(pod["metadata"]["labels"]["sandbox.users.io/job"], "42");
    for pool_label in ["agents.x-k8s.io/warm-pool-sandbox", "agents.x-k8s.io/created-by"] {
        assert_eq!(pod["metadata"]["labels"].get(pool_label), None);
    }
    // Neither the Sandbox nor its status has the UID of the pod, and the pod has none of the claim.
    let shown = json!([after["metadata"], after["spec"], after["status"]]).to_string();
    assert!(!shown.contains(uid(&pod).as_str().unwrap()), "{shown}");
    assert!(!pod["metadata"].to_string().contains(uid(&claim).as_str().unwrap()));

    // The pool is filled again, with another Sandbox.
    let [next] = &home.filled("pool", 1)[..] else { panic!("one sandbox") };
    assert_ne!(name_of(next), name);
}

#[test]
fn a_resumed_sandbox_has_another_pod_of_its_name() {
    let home = Home::new("tenants-resumed");
    home.pool("pool", 1);
    home.filled("pool", 1);
    let added = json!({"annotations": {"team.example/job": "42"}});
    home.claim("user", "pool", json!({"additionalPodMetadata": added}));
    let claim = home.ready("sandboxclaim", "user");
    let name = claim["status"]["sandbox"]["name"].as_str().unwrap();
    let first = home.pod(name)["metadata"]["uid"].clone();
    let set = |mode: &str| {
        let patch = json!({"spec": {"operatingMode": mode}}).to_string();
        let made = home.tenant(&["patch", "sandbox", name, "--type=merge", "--patch", &patch], "");
        assert!(made.ok, "{}", made.stderr);
    };
    set("Suspended");
    wait_until("the pod is gone", PATIENCE, || home.get("pod", name).is_none().then_some(()));
    let owner = |sandbox: &Value| controller(sandbox).unwrap()["uid"].clone();
    let suspended = home.get("sandbox", name).unwrap();
    assert_eq!(owner(&suspended), claim["metadata"]["uid"], "the claim keeps it");
    set("Running");
    let second = wait_until("another pod exists", PATIENCE, || home.get("pod", name));
    assert_ne!(second["metadata"]["uid"], first);
    assert_eq!(controller(&second).unwrap()["uid"], suspended["metadata"]["uid"]);
    assert_eq!(second["metadata"]["annotations"]["team.example/job"], "42", "at its creation");
    assert_eq!(home.session(name), ["sandbox", "metadata.name"].map(str::to_owned));
}

#[test]
fn claims_never_share_a_sandbox() {
    let home = Home::new("tenants-raced");
    home.pool("pool", 2);
    home.filled("pool", 2);
    let names: Vec<String> = (0..6).map(|n| format!("user-{n}")).collect();
    let claims = names.iter().map(|name| {
        json!({
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxClaim",
            "metadata": {"name": name, "namespace": home.name},
            "spec": {"warmPoolRef": {"name": "pool"}},
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": claims.collect::<Vec<_>>()});
    let made = home.tenant(&["create", "--filename=-"], &list.to_string());
    assert!(made.ok, "{}", made.stderr);
    let mut taken: Vec<String> = names
        .iter()
        .map(|name| home.ready("sandboxclaim", name)["status"]["sandbox"]["name"].to_string())
        .collect();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), names.len(), "{taken:?}");
    // No Sandbox ever had a second claim: the audit log has each change.
    let mut owners = std::collections::BTreeMap::new();
    for event in BENCH.world.cluster.changes_of_sandboxes() {
        let Some(owner) = of_claim(&event) else { continue };
        if event["objectRef"]["namespace"] != home.name || event["responseStatus"]["code"] != 200 {
            continue;
        }
        let name = event["objectRef"]["name"].to_string();
        assert_eq!(*owners.entry(name.clone()).or_insert(owner.clone()), owner, "{name}");
    }
}

#[test]
fn a_deleted_claim_takes_its_sandbox_and_pod_along() {
    let home = Home::new("tenants-deleted");
    home.pool("pool", 1);
    home.filled("pool", 1);
    home.claim("user", "pool", json!({}));
    let first = home.ready("sandboxclaim", "user");
    let name = first["status"]["sandbox"]["name"].as_str().unwrap().to_owned();
    home.filled("pool", 1);
    assert!(home.tenant(&["delete", "sandboxclaim", "user"], "").ok);
    // The same name at once, while the old Sandbox may still exist.
    home.claim("user", "pool", json!({}));
    let second = home.ready("sandboxclaim", "user");
    assert_ne!(second["metadata"]["uid"], first["metadata"]["uid"]);
    assert_ne!(second["status"]["sandbox"]["name"], json!(name), "another Sandbox");
    wait_until("sandbox and pod are deleted", GARBAGE, || {
        (home.get("sandbox", &name).is_none() && home.get("pod", &name).is_none()).then_some(())
    });

    // An orphaned Sandbox keeps its pod, and has no claim any more.
    let name = second["status"]["sandbox"]["name"].as_str().unwrap();
    let uid = home.pod(name)["metadata"]["uid"].clone();
    assert!(home.tenant(&["delete", "sandboxclaim", "user", "--cascade=orphan"], "").ok);
    wait_until("the reference is removed", GARBAGE, || {
        controller(&home.get("sandbox", name).unwrap()).is_none().then_some(())
    });
    assert_eq!(home.pod(name)["metadata"]["uid"], uid);
}

/// The rules of a guard can depend on it.
#[test]
fn only_the_controller_writes_references() {
    let home = Home::new("tenants-written");
    home.pool("pool", 1);
    home.filled("pool", 1);
    home.claim("user", "pool", json!({}));
    let claim = home.ready("sandboxclaim", "user");
    let name = claim["status"]["sandbox"]["name"].as_str().unwrap();
    home.filled("pool", 1);
    for mode in ["Suspended", "Running"] {
        let patch = json!({"spec": {"operatingMode": mode}}).to_string();
        assert!(home.tenant(&["patch", "sandbox", name, "--type=merge", "--patch", &patch], "").ok);
        wait_until("the pod follows", PATIENCE, || {
            (home.get("pod", name).is_some() == (mode == "Running")).then_some(())
        });
    }
    assert!(home.tenant(&["delete", "sandboxclaim", "user", "--cascade=orphan"], "").ok);
    wait_until("the claim is gone", GARBAGE, || {
        let sandbox = home.get("sandbox", name).unwrap();
        controller(&sandbox).is_none().then_some(())
    });
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    let mut seen = std::collections::BTreeSet::new();
    for event in BENCH.world.cluster.changes_of_sandboxes() {
        // The garbage collector removes the last one by null.
        let references = event["requestObject"]["metadata"].get("ownerReferences");
        let Some(references) = references.filter(|_| event["objectRef"]["namespace"] == home.name)
        else {
            continue;
        };
        let acting = [&event["impersonatedUser"]["username"], &event["user"]["username"]];
        let user = acting.into_iter().find_map(Value::as_str).unwrap();
        let kinds = references.as_array().into_iter().flatten();
        let kinds: Vec<&str> = kinds.filter_map(|it| it["kind"].as_str()).collect();
        let resource = event["objectRef"]["resource"].as_str().unwrap();
        seen.insert((resource.to_owned(), user.to_owned(), kinds.join(",")));
    }
    let by = |resource: &str, user: &str, kinds: &str| {
        (resource.to_owned(), user.to_owned(), kinds.to_owned())
    };
    // The garbage collector only removes references.
    assert!(seen.contains(&by("sandboxes", USER, "SandboxWarmPool")), "{seen:?}");
    assert!(seen.contains(&by("sandboxes", USER, "SandboxClaim")), "{seen:?}");
    assert!(seen.contains(&by("sandboxes", collector, "")), "{seen:?}");
    for (resource, user, kinds) in &seen {
        assert!(
            user == USER || (user == collector && kinds.is_empty()),
            "{resource} {user} {kinds}"
        );
    }
}

/// The controller takes a pod of the right name that has its label. It writes its reference to a pod
/// that it did not create.
#[test]
fn a_foreign_pod_is_taken_by_its_label() {
    let home = Home::new("tenants-foreign");
    home.sandbox("model", "tenant-runtime");
    home.ready("sandbox", "model");
    // The label has a hash of the Sandbox's name, which the tenant can compute.
    let tracking = "agents.x-k8s.io/sandbox-name-hash";
    let plain = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": home.name, "labels": labels},
            "spec": pod_spec("tenant-runtime"),
        })
    };
    let create = |pod: &Value| {
        let made = home.tenant(&["create", "--filename=-"], &pod.to_string());
        assert!(made.ok, "{}", made.stderr);
    };
    create(&plain("labelled", json!({"agents.x-k8s.io/adoptable": "true"})));
    home.sandbox("labelled", "tenant-runtime");
    let sandbox = home.ready("sandbox", "labelled");
    let pod = home.pod("labelled");
    assert_eq!(controller(&pod).unwrap()["uid"], sandbox["metadata"]["uid"]);
    assert!(pod["metadata"]["labels"][tracking].is_string());
    // The user that created the pod decides on its component, not the reference.
    assert_eq!(home.session("labelled"), ["runtime", "metadata.uid"].map(str::to_owned));

    // The control: without the label the Sandbox never gets ready.
    create(&plain("unlabelled", json!({})));
    home.sandbox("unlabelled", "tenant-runtime");
    wait_until("the Sandbox reports it", PATIENCE, || {
        let found = home.get("sandbox", "unlabelled")?;
        condition(&found)["message"].as_str()?.contains("cannot adopt").then_some(())
    });
    assert!(controller(&home.pod("unlabelled")).is_none());
}

/// The annotation of a Sandbox names its pod, so both may have different names.
#[test]
fn a_sandbox_may_have_a_pod_of_another_name() {
    let home = Home::new("tenants-renamed");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "other", "namespace": home.name,
            "labels": {"agents.x-k8s.io/adoptable": "true"},
        },
        "spec": pod_spec("tenant-runtime"),
    });
    assert!(home.tenant(&["create", "--filename=-"], &pod.to_string()).ok);
    let sandbox = json!({
        "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox",
        "metadata": {
            "name": "renamed", "namespace": home.name,
            "annotations": {"agents.x-k8s.io/pod-name": "other"},
        },
        "spec": {"podTemplate": {"spec": pod_spec("tenant-runtime")}},
    });
    assert!(home.tenant(&["create", "--filename=-"], &sandbox.to_string()).ok);
    let sandbox = home.ready("sandbox", "renamed");
    assert_eq!(controller(&home.pod("other")).unwrap()["uid"], sandbox["metadata"]["uid"]);
    assert!(home.get("pod", "renamed").is_none());
}

/// A template without a policy of its own closes private and link-local addresses, and has other DNS
/// servers.
#[test]
fn the_default_policy_of_a_template_closes_the_cluster() {
    let home = Home::new("tenants-closed");
    let policy = wait_until("the policy exists", PATIENCE, || {
        home.get("networkpolicy", "template-network-policy")
    });
    let selected = &policy["spec"]["podSelector"]["matchLabels"];
    let to = &policy["spec"]["egress"][0]["to"];
    let closed = json!(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]);
    assert_eq!(to[0]["ipBlock"], json!({"cidr": "0.0.0.0/0", "except": closed}));
    assert_eq!(to[1]["ipBlock"], json!({"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]}));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    home.pool("pool", 1);
    let [sandbox] = &home.filled("pool", 1)[..] else { panic!("one sandbox") };
    let pod = home.pod(name_of(sandbox));
    for (key, value) in selected.as_object().unwrap() {
        assert_eq!(pod["metadata"]["labels"][key], *value, "it selects the pods of the template");
    }
    assert_eq!(pod["spec"]["dnsPolicy"], "None");
    assert_eq!(pod["spec"]["dnsConfig"]["nameservers"], json!(["8.8.8.8", "1.1.1.1"]));
    // The policy of the example, as written, selects the same pods.
    let network = root().join("examples/agent-sandbox-network.yaml");
    let network = std::fs::read_to_string(network).unwrap();
    BENCH.world.namespace("tenants-acme", "enabled", "acme", &[]);
    let apply = ["apply", "--server-side", "--validate=strict", "--filename=-"];
    let made = BENCH.world.cluster.kubectl(&apply).stdin(&network).run();
    assert!(made.ok && !made.stderr.contains("Warning"), "{}", made.stderr);
    let network: Value = serde_saphyr::from_str(&network).unwrap();
    let key = &network["spec"]["podSelector"]["matchExpressions"][0]["key"];
    assert!(selected.get(key.as_str().unwrap()).is_some(), "{key}");
}

/// The author of a claim writes annotations of the webhook, which the controller copies.
#[test]
fn a_claim_cannot_write_annotations_of_the_webhook() {
    let home = Home::new("tenants-annotated");
    home.pool("pool", 1);
    home.filled("pool", 1);
    let key = "fab.nanohype.dev/session-id";
    let added = json!({"annotations": {key: "chosen"}});
    home.claim("user", "pool", json!({"additionalPodMetadata": added}));
    let claim = wait_until("the claim reports the guard", PATIENCE, || {
        let claim = home.get("sandboxclaim", "user")?;
        condition(&claim)["message"].as_str()?.contains("[guard-annotation]").then_some(claim)
    });
    assert_eq!(condition(&claim)["status"], "False");
    let name = claim["status"]["sandbox"]["name"].as_str().unwrap();
    assert_eq!(home.pod(name)["metadata"]["annotations"][key], "<pod name>");
    // A cold pod: the webhook refuses its creation.
    home.pool("empty", 0);
    let added = json!({"annotations": {key: "chosen"}});
    home.claim("cold", "empty", json!({"additionalPodMetadata": added}));
    wait_until("the claim reports the webhook", PATIENCE, || {
        let claim = home.get("sandboxclaim", "cold")?;
        condition(&claim)["message"].as_str()?.contains("[reserved-annotation]").then_some(())
    });
    assert!(home.get("pod", "cold").is_none());
}

/// The warm pool of the examples, as written: its pods run without a session of their own, and a claim
/// takes one unchanged.
#[test]
fn the_warm_pool_of_the_examples_is_applied_as_written() {
    let keys = harness::process::own_directory();
    let made = std::process::Command::new(root().join("certs/make"))
        .arg(keys.path())
        .arg("localhost")
        .status();
    assert!(made.unwrap().success());
    let ca = std::fs::read_to_string(keys.path().join("ca.crt")).unwrap();
    let values = [("config.issuer.caBundle", &*ca)];
    let world = World::start(&values, Some(&root().join("examples/agent-sandbox-claims.yaml")));
    world.publish("acme", &role("acme"));
    world.namespace("tenants-acme", "enabled", "acme", &[]);
    let _controller = AgentSandbox::start(&world.cluster);
    let apply = || {
        let file = root().join("examples/agent-sandbox-warm-pool.yaml");
        let apply = ["apply", "--server-side", "--validate=strict", "--filename"];
        world.cluster.kubectl(&[&apply[..], &[file.to_str().unwrap()]].concat()).run()
    };
    let made = apply();
    assert!(made.ok && !made.stderr.contains("Warning"), "{}", made.stderr);
    let get = |kind: &str, name: &str| {
        world.cluster.kubectl(&["get", kind, name, "--namespace=tenants-acme"]).json()
    };
    let claim = wait_until("the claim is ready", PATIENCE, || {
        let claim = get("sandboxclaim", "task-1");
        (condition(&claim)["status"] == "True").then_some(claim)
    });
    let name = claim["status"]["sandbox"]["name"].as_str().unwrap();
    // The claim is applied with the pool, and waits two seconds for it.
    assert!(name.starts_with("coders-") || name == "task-1", "{name}");
    let pod = get("pod", name);
    assert_eq!(pod["metadata"]["annotations"]["fab.nanohype.dev/component"], "sandbox");
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!(variable(sidecar, "FAB_SESSION_START_GATE").unwrap(), "listening");
    assert!(variable(sidecar, "FAB_SESSION_ISSUER").is_some());
    // Neither the pod's name nor its UID, nor what the claim's author chose.
    assert_eq!(variable(sidecar, "FAB_SESSION_ID").unwrap(), "<sandbox claim>");
    assert_eq!(pod["spec"]["dnsPolicy"], "ClusterFirst");
    // The policies add up: what the sidecar needs is open.
    let network = get("networkpolicy", "sandbox-session");
    let key = &network["spec"]["podSelector"]["matchExpressions"][0]["key"];
    assert!(pod["metadata"]["labels"].get(key.as_str().unwrap()).is_some(), "{key}");
}

/// Returns the claim that the change of an audit event makes the controller of a Sandbox.
fn of_claim(event: &Value) -> Option<Value> {
    let references = event["requestObject"]["metadata"]["ownerReferences"].as_array()?;
    let claim = references.iter().find(|it| it["kind"] == "SandboxClaim")?;
    Some(claim["uid"].clone())
}

fn controller(object: &Value) -> Option<&Value> {
    let references = object["metadata"]["ownerReferences"].as_array()?;
    references.iter().find(|it| it["controller"] == true)
}

/// Returns the condition `Ready`.
fn condition(object: &Value) -> &Value {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|it| it["type"] == "Ready").unwrap_or(&Value::Null)
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// Returns a pod with the labels and the references of another.
fn copy_of(pod: &Value, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": pod["metadata"]["namespace"],
            "labels": pod["metadata"]["labels"],
            "ownerReferences": pod["metadata"]["ownerReferences"],
        },
    })
}

fn pod_spec(account: &str) -> Value {
    json!({
        "serviceAccountName": account,
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "agent", "image": "agent:1",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }],
    })
}

const TENANT: &str = "tenant-of-sandboxes";
const PATIENCE: Duration = Duration::from_secs(60);
/// The garbage collector finds a new type at its next discovery, every 30 s.
const GARBAGE: Duration = Duration::from_secs(120);
