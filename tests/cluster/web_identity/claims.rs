//! Sessions that come with a SandboxClaim: warm pods, and the guard of their references. The objects
//! are those of agent-sandbox v1beta1; the tests write them in the place of its controller.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use harness::{
    helm::{self, chart},
    process::{own_directory, wait_until},
    root,
    sidecar::pod::{CONTROLLER, claim_components},
    world::SYSTEM,
};
use serde_json::{Value, json};

use super::{IssuerProcess, PATIENCE, Projected};

const TENANT: &str = "jane";
const NAMESPACE: [&str; 2] = ["--namespace", "tenants-acme"];
const SANDBOXES: &str = "agents.x-k8s.io";
pub(crate) const CLAIMS: &str = "extensions.agents.x-k8s.io";

/// A cluster with the issuer, the kinds of agent-sandbox and the guard of their references.
struct WarmCluster {
    issuer: IssuerProcess,
    guarded: Instant,
}

impl WarmCluster {
    fn start() -> Self {
        let issuer = IssuerProcess::start_with_claims();
        for (group, kind, plural) in [
            (SANDBOXES, "Sandbox", "sandboxes"),
            (CLAIMS, "SandboxClaim", "sandboxclaims"),
            (CLAIMS, "SandboxWarmPool", "sandboxwarmpools"),
        ] {
            issuer.create("", &kind_of(group, kind, plural)).unwrap();
        }
        let roles = [TENANT, CONTROLLER].map(|user| {
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": user.replace(':', "-")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            })
        });
        for role in roles {
            issuer.create("", &role).unwrap();
        }
        for policy in policies() {
            issuer.create("", &policy).unwrap();
        }
        issuer.bind_guard(&["Deny"]);
        let cluster = Self { issuer, guarded: Instant::now() };
        wait_until("the kinds are served", PATIENCE, || {
            let list = |plural| cluster.issuer.run("", &["get", plural, "--all-namespaces"], "");
            ["sandboxes", "sandboxclaims", "sandboxwarmpools"]
                .iter()
                .all(|it| list(it).is_ok())
                .then_some(())
        });
        wait_until("the guard refuses", PATIENCE, || {
            let create = ["create", "--filename=-", "--dry-run=server"];
            let owned = |object: Value| {
                cluster.issuer.run(TENANT, &create, &object.to_string()).unwrap_err_or_default()
            };
            let claim = reference(CLAIMS, "SandboxClaim", "c", UID);
            let sandbox = reference(SANDBOXES, "Sandbox", "s", UID);
            (owned(object(SANDBOXES, "Sandbox", "probe", Some(claim)))
                .contains("[guard-sandbox-owner]")
                && owned(plain_pod("probe", Some(sandbox))).contains("[guard-sandbox-pod]"))
            .then_some(())
        });
        cluster
    }

    /// Waits until new pods and Sandboxes are old enough to be trusted.
    fn settle(&self) {
        thread::sleep(Duration::from_secs(62).saturating_sub(self.guarded.elapsed()));
    }

    fn create(
        &self,
        user: &str,
        group: &str,
        kind: &str,
        name: &str,
        owner: Option<Value>,
    ) -> Value {
        self.issuer.create(user, &object(group, kind, name, owner)).unwrap()
    }

    /// Creates a Sandbox of a pool and its pod, as the controller does.
    fn warm(&self, pool: &Value, name: &str) -> Projected<'_> {
        let sandbox =
            self.create(CONTROLLER, SANDBOXES, "Sandbox", name, Some(refers_to(CLAIMS, pool)));
        self.pod(name, &sandbox)
    }

    fn pod(&self, name: &str, sandbox: &Value) -> Projected<'_> {
        let reference = refers_to(SANDBOXES, sandbox);
        self.issuer.pod_of(CONTROLLER, name, |pod| {
            pod["metadata"]["ownerReferences"] = json!([reference]);
        })
    }

    /// Gives a Sandbox to a claim, as the controller does.
    fn adopt(&self, name: &str, claim: &Value) -> Result<String, String> {
        self.own(CONTROLLER, "sandbox", name, Some(refers_to(CLAIMS, claim)), Some(claim))
    }

    /// Replaces the owner of an object.
    fn own(
        &self,
        user: &str,
        kind: &str,
        name: &str,
        owner: Option<Value>,
        claim: Option<&Value>,
    ) -> Result<String, String> {
        let patch = owned_by(owner, claim);
        let words = ["patch", kind, name, "--type=merge", "--patch", &patch];
        self.issuer.run(user, &[&words[..], &NAMESPACE].concat(), "")
    }

    fn stored_sandbox(&self, name: &str) -> Value {
        let get = ["get", "sandbox", name, "--output=json"];
        let sandbox = self.issuer.run("", &[&get[..], &NAMESPACE].concat(), "").unwrap();
        serde_json::from_str(&sandbox).unwrap()
    }

    fn code(&self, pod: &Projected<'_>) -> (u16, String) {
        let (status, answer) = self.issuer.ask_for(pod);
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    }

    fn reviews(&self) -> f64 {
        self.issuer.labelled("api_calls_total{call=\"tokenreview\"}")
    }
}

/// Returns the patch that replaces the owner of an object, and sets the label of a claim.
fn owned_by(owner: Option<Value>, claim: Option<&Value>) -> String {
    let mut patch = json!({"metadata": {"ownerReferences": owner.map(|it| vec![it])}});
    if let Some(claim) = claim {
        patch["metadata"]["labels"] =
            json!({"agents.x-k8s.io/claim-uid": claim["metadata"]["uid"]});
    }
    patch.to_string()
}

trait ErrorText {
    fn unwrap_err_or_default(self) -> String;
}

impl ErrorText for Result<String, String> {
    fn unwrap_err_or_default(self) -> String {
        self.err().unwrap_or_default()
    }
}

#[test]
fn a_warm_pod_serves_the_session_of_its_claim() {
    let cluster = WarmCluster::start();
    let pool = cluster.create(TENANT, CLAIMS, "SandboxWarmPool", "pool", None);
    let early = cluster.warm(&pool, "early");
    cluster.settle();
    let pod = cluster.warm(&pool, "pool-a");
    let sidecar = pod.sidecar();
    let _running = sidecar.start_ready();
    wait_until("it waits", PATIENCE, || {
        (sidecar.get("/v1/credentials").1["code"] == "not-bound").then_some(())
    });
    assert_eq!(sidecar.get("/v1/credentials").0, 503);
    assert_eq!(sidecar.get("/v1/session").0, 503);
    assert_eq!(sidecar.get("/v1/session").1["code"], "not-bound");
    assert_eq!(sidecar.status()["sourceIdentity"], "agent.acme.<sandbox claim>");
    assert_eq!(sidecar.status()["failures"], 0);
    assert_eq!(cluster.issuer.explained(&pod)["code"], "unbound");
    // Changes of the pool's Sandbox, and time, cost no review of the token.
    let label = ["label", "sandbox", "pool-a", "own=1"];
    cluster.issuer.run(CONTROLLER, &[&label[..], &NAMESPACE].concat(), "").unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.reviews(), 0.0, "waiting costs no TokenReview");

    let claim = cluster.create(TENANT, CLAIMS, "SandboxClaim", "mine", None);
    cluster.adopt("pool-a", &claim).unwrap();
    let claimed = Instant::now();
    wait_until("it has credentials", Duration::from_secs(10), || {
        (sidecar.get("/v1/credentials").0 == 200).then_some(())
    });
    let took = claimed.elapsed();
    println!("credentials {took:?} after the claim");
    assert_eq!(cluster.reviews(), 1.0, "the control");
    let uid = claim["metadata"]["uid"].as_str().unwrap();
    let identity = format!("agent.acme.{uid}");
    let (status, session) = sidecar.get("/v1/session");
    assert_eq!(status, 200);
    assert_eq!(session["sessionId"], uid);
    assert_eq!(session["sourceIdentity"], json!(identity));
    assert_eq!(sidecar.status()["sourceIdentity"], json!(identity));
    let [event] = &cluster.issuer.events("AssumeRoleWithWebIdentity")[..] else {
        panic!("one event")
    };
    assert_eq!(event["requestParameters"]["sourceIdentity"], json!(identity));
    assert_eq!(cluster.issuer.explained(&pod)["sourceIdentity"], json!(identity));

    // The code of the page, in an agent's container.
    for (language, words) in snippets(sidecar.directory.path(), sidecar.port) {
        let output = sidecar.agent(&words).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(printed.contains(&identity), "{language}: {printed}{said}");
    }

    // What the author of the claim writes has no effect.
    cluster.issuer.kubectl(
        &[
            &["annotate", "pod", "pool-a", "fab.nanohype.dev/session-id=other", "--overwrite"][..],
            &NAMESPACE,
        ]
        .concat(),
    );
    assert_eq!(cluster.issuer.ask_for(&pod).1["sourceIdentity"], json!(identity));

    // Suspended and resumed: another pod of the same Sandbox.
    cluster.issuer.kubectl(&[&["delete", "pod", "pool-a", "--now"][..], &NAMESPACE].concat());
    let resumed = cluster.pod("pool-a", &cluster.stored_sandbox("pool-a"));
    assert_ne!(resumed.uid, pod.uid);
    assert_eq!(cluster.issuer.ask_for(&resumed).1["sourceIdentity"], json!(identity));

    // Without a claim and a pool, the pod is the session.
    let alone = cluster.create(TENANT, SANDBOXES, "Sandbox", "alone", None);
    let alone = cluster.pod("alone", &alone);
    assert_eq!(
        cluster.issuer.ask_for(&alone).1["sourceIdentity"],
        json!(format!("agent.acme.{}", alone.uid))
    );

    // The claim is being deleted. Afterwards the garbage collector deletes the Sandbox, too, unless
    // its reference is removed, as by `--cascade=orphan`.
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}}).to_string();
    let hold = ["patch", "sandboxclaim", "mine", "--type=merge", "--patch", &hold];
    cluster.issuer.kubectl(&[&hold[..], &NAMESPACE].concat());
    cluster
        .issuer
        .kubectl(&[&["delete", "sandboxclaim", "mine", "--wait=false"][..], &NAMESPACE].concat());
    assert_eq!(cluster.code(&resumed), (403, "claim-gone".to_owned()));
    cluster.own(TENANT, "sandbox", "pool-a", None, None).unwrap();
    assert_eq!(cluster.code(&resumed), (403, "claim-gone".to_owned()));

    // A claim of the same name is another one.
    let claim = cluster.create(TENANT, CLAIMS, "SandboxClaim", "again", None);
    let pod = cluster.warm(&pool, "pool-b");
    cluster.adopt("pool-b", &claim).unwrap();
    assert_eq!(cluster.code(&pod), (200, String::new()));
    cluster.issuer.kubectl(
        &[&["delete", "sandboxclaim", "again", "--cascade=orphan"][..], &NAMESPACE].concat(),
    );
    cluster.create(TENANT, CLAIMS, "SandboxClaim", "again", None);
    assert_eq!(cluster.code(&pod), (403, "claim-gone".to_owned()));
    // The agent of a new pod learns that as well.
    cluster.issuer.kubectl(&[&["delete", "pod", "pool-b", "--now"][..], &NAMESPACE].concat());
    let pod = cluster.pod("pool-b", &cluster.stored_sandbox("pool-b"));
    let sidecar = pod.sidecar();
    let _running = sidecar.start_ready();
    wait_until("it says that the claim is gone", PATIENCE, || {
        let (status, answer) = sidecar.get("/v1/session");
        (status == 403 && answer.to_string().contains("claim-gone")).then_some(())
    });

    // A Sandbox and a pod from before the guard.
    let claim = cluster.create(TENANT, CLAIMS, "SandboxClaim", "early", None);
    assert_eq!(cluster.code(&early), (409, "unbound".to_owned()));
    cluster.adopt("early", &claim).unwrap();
    assert_eq!(cluster.code(&early), (403, "predates-guard".to_owned()));
    cluster.issuer.kubectl(&[&["delete", "pod", "early", "--now"][..], &NAMESPACE].concat());
    let young = cluster.pod("early", &cluster.stored_sandbox("early"));
    assert_eq!(cluster.code(&young), (403, "predates-guard".to_owned()), "its Sandbox");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Returns commands that run the code of docs/warm-pools.md, each with its language, and print the
/// session.
fn snippets(directory: &Path, port: u16) -> [(&'static str, Vec<String>); 3] {
    let page = fs::read_to_string(root().join("docs/warm-pools.md")).unwrap();
    let code = |language: &str| {
        let (_, code) = page.split_once(&format!("```{language}\n")).unwrap();
        let (code, _) = code.split_once("\n```").unwrap();
        assert!(code.contains("127.0.0.1:7413"), "{language}");
        code.replace(":7413", &format!(":{port}"))
    };
    let file = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let python = file("session.py", format!("{}\nprint(session)\n", code("python")));
    let python = vec![said("python3", &["-c", "import sys; print(sys.executable)"]), python];
    let script = format!("{}\nconsole.log(JSON.stringify(session));\n", code("javascript"));
    let script = vec![said("node", &["--print", "process.execPath"]), file("session.mjs", script)];
    let go = format!(
        "package main\nimport (\"io\"; \"net/http\"; \"os\")\nfunc main() {{\n{}\nif err != nil {{ panic(err) }}\nio.Copy(os.Stdout, response.Body)\n}}\n",
        code("go")
    );
    let program = directory.join("session").to_str().unwrap().to_owned();
    said("go", &["build", "-o", &program, &file("session.go", go)]);
    [("Python", python), ("JavaScript", script), ("Go", vec![program])]
}

/// Returns what kubectl says.
type Attempt = Box<dyn Fn(&WarmCluster) -> Result<String, String>>;

/// An attempt to change which session a pod gets, with the code of its refusal.
struct Attack {
    what: &'static str,
    code: &'static str,
    attempt: Attempt,
}

#[test]
fn only_the_controller_gives_a_sandbox_its_claim() {
    let cluster = WarmCluster::start();
    let pool = cluster.create(TENANT, CLAIMS, "SandboxWarmPool", "pool", None);
    let claims =
        ["one", "two"].map(|name| cluster.create(TENANT, CLAIMS, "SandboxClaim", name, None));
    let [one, two] = &claims;
    for name in ["warm", "claimed", "unlabelled"] {
        cluster.warm(&pool, name);
    }
    cluster.adopt("claimed", one).unwrap();
    let alone = cluster.create(TENANT, SANDBOXES, "Sandbox", "alone", None);
    cluster.pod("alone", &alone);
    // Removal is possible for everyone, and so are objects without these references.
    cluster.own(TENANT, "pod", "alone", None, None).unwrap();
    cluster.issuer.create(TENANT, &plain_pod("plain", None)).unwrap();
    let job = reference("batch", "Job", "j", UID);
    cluster.issuer.create(TENANT, &plain_pod("of-a-job", Some(job))).unwrap();
    let label = ["label", "sandbox", "alone", "own=1"];
    cluster.issuer.run(TENANT, &[&label[..], &NAMESPACE].concat(), "").unwrap();

    // Two claims race for each of these Sandboxes.
    for number in 0..8 {
        let name = format!("raced-{number}");
        cluster.create(CONTROLLER, SANDBOXES, "Sandbox", &name, Some(refers_to(CLAIMS, &pool)));
        let adopt = |claim: &Value| {
            let patch = owned_by(Some(refers_to(CLAIMS, claim)), Some(claim));
            let words = ["patch", "sandbox", &name, "--type=merge", "--patch", &patch];
            let command = cluster.issuer.kubectl_as(CONTROLLER, &[&words[..], &NAMESPACE].concat());
            thread::spawn(|| command.run())
        };
        let raced = claims.each_ref().map(adopt).map(|it| it.join().unwrap());
        assert_eq!(raced.iter().filter(|claimed| claimed.ok).count(), 1, "{raced:?}");
    }

    let of_one = refers_to(CLAIMS, one);
    let of_two = refers_to(CLAIMS, two);
    let of_pool = refers_to(CLAIMS, &pool);
    let of_alone = refers_to(SANDBOXES, &alone);
    let attack = |what, code, attempt| Attack { what, code, attempt };
    let owns = |user: &'static str, kind: &'static str, name: &'static str, owner: &Value| {
        let owner = owner.clone();
        Box::new(move |cluster: &WarmCluster| {
            cluster.own(user, kind, name, Some(owner.clone()), None)
        }) as Box<dyn Fn(&WarmCluster) -> Result<String, String>>
    };
    let creates = |user: &'static str, object: Value| {
        Box::new(move |cluster: &WarmCluster| {
            cluster.issuer.create(user, &object).map(|it| it.to_string())
        }) as Box<dyn Fn(&WarmCluster) -> Result<String, String>>
    };
    let many = (0..129).map(|n| {
        let mut owner = reference("v1x.example", "Own", &format!("o{n}"), UID);
        owner["controller"] = json!(false);
        owner
    });
    let many: Vec<Value> = many.collect();
    let mut many_pod = plain_pod("many", None);
    many_pod["metadata"]["ownerReferences"] = json!(many);
    let attacks = [
        attack(
            "a tenant's pod of a Sandbox",
            "[guard-sandbox-pod]",
            creates(TENANT, plain_pod("forged", Some(of_alone.clone()))),
        ),
        attack(
            "a tenant gives a pod a Sandbox",
            "[guard-sandbox-pod]",
            owns(TENANT, "pod", "plain", &of_alone),
        ),
        attack(
            "the controller adopts a pod that lost its Sandbox",
            "[guard-sandbox-adoption]",
            owns(CONTROLLER, "pod", "alone", &of_alone),
        ),
        attack(
            "a tenant's Sandbox of a claim",
            "[guard-sandbox-owner]",
            creates(TENANT, object(SANDBOXES, "Sandbox", "forged", Some(of_one.clone()))),
        ),
        attack(
            "a tenant's Sandbox of a pool",
            "[guard-sandbox-owner]",
            creates(TENANT, object(SANDBOXES, "Sandbox", "forged-pool", Some(of_pool.clone()))),
        ),
        attack(
            "a tenant claims a Sandbox",
            "[guard-sandbox-owner]",
            owns(TENANT, "sandbox", "warm", &of_one),
        ),
        attack(
            "a second claim",
            "[guard-sandbox-bound]",
            owns(CONTROLLER, "sandbox", "claimed", &of_two),
        ),
        attack(
            "back to the pool",
            "[guard-sandbox-bound]",
            owns(CONTROLLER, "sandbox", "claimed", &of_pool),
        ),
        attack(
            "a claim without a pool before",
            "[guard-sandbox-bound]",
            owns(CONTROLLER, "sandbox", "alone", &of_one),
        ),
        attack(
            "a claim without its label",
            "[guard-sandbox-label]",
            owns(CONTROLLER, "sandbox", "unlabelled", &of_one),
        ),
        attack(
            "a tenant removes the label of the claim",
            "[guard-sandbox-owner]",
            Box::new(|cluster: &WarmCluster| {
                let words = ["label", "sandbox", "claimed", "agents.x-k8s.io/claim-uid-"];
                cluster.issuer.run(TENANT, &[&words[..], &NAMESPACE].concat(), "")
            }),
        ),
        attack("a pod with 129 references", "[guard-too-many]", creates(TENANT, many_pod)),
    ];
    // A user without the rights of the controller and of the tenant.
    let said = cluster.own("bob", "sandbox", "warm", Some(of_one.clone()), None);
    let said = said.unwrap_err_or_default();
    assert!(said.contains("User \"bob\" cannot"), "{said}");
    for Attack { what, code, attempt } in &attacks {
        let said = attempt(&cluster).unwrap_err_or_default();
        assert!(said.contains(code), "{what}: want {code}\n{said}");
    }
    // The status of an object cannot change its references.
    for (kind, name) in [("pod", "plain"), ("sandbox", "warm")] {
        let owner = if kind == "pod" { &of_alone } else { &of_one };
        let patch = json!({"metadata": {"ownerReferences": [owner]}}).to_string();
        let words =
            ["patch", kind, name, "--subresource=status", "--type=merge", "--patch", &patch];
        let _ = cluster.issuer.run(TENANT, &[&words[..], &NAMESPACE].concat(), "");
        let get = ["get", kind, name, "--output=json"];
        let found = cluster.issuer.run("", &[&get[..], &NAMESPACE].concat(), "").unwrap();
        assert!(!found.contains(owner["uid"].as_str().unwrap()), "{kind}: {found}");
    }

    // The control: without the guard each of them is admitted.
    cluster.issuer.kubectl(&["delete", "validatingadmissionpolicybindings", "--all"]);
    for Attack { what, attempt, .. } in &attacks {
        wait_until(what, Duration::from_secs(20), || {
            let said = attempt(&cluster);
            assert!(
                said.as_ref().err().is_none_or(|it| it.contains("[guard-")),
                "{what}: {said:?}"
            );
            said.ok()
        });
    }
}

/// Returns the guard's policies for Sandboxes with their bindings, as the chart renders them.
fn policies() -> Vec<Value> {
    let directory = own_directory();
    let file = directory.path().join("values.yaml");
    let mut components = claim_components();
    components[0]["startGate"] = json!("listening");
    let values = json!({
        "issuer": {"enabled": true},
        "config": {
            "cluster": "prod",
            "components": components,
            "roles": {"allow": {"accounts": ["111122223333"]}},
            "issuer": {
                "url": "https://issuer.example.com/prod",
                "keys": [{"kms": "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}],
            },
        },
    });
    fs::write(&file, values.to_string()).unwrap();
    let text = helm::render(&chart(), "injector", SYSTEM, &[], Some(&file)).unwrap();
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let names = ["fab-session-injector-sandbox-pods", "fab-session-injector-sandboxes"];
    let found: Vec<Value> = manifests
        .into_iter()
        .filter(|it| it["metadata"]["name"].as_str().is_some_and(|name| names.contains(&name)))
        .collect();
    assert_eq!(found.len(), 4);
    found
}

/// Returns a definition with the group, kind and fields of agent-sandbox.
pub(crate) fn kind_of(group: &str, kind: &str, plural: &str) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1beta1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}},
            }],
        },
    })
}

pub(crate) fn object(group: &str, kind: &str, name: &str, owner: Option<Value>) -> Value {
    let mut object = json!({
        "apiVersion": format!("{group}/v1beta1"),
        "kind": kind,
        "metadata": {"name": name, "namespace": "tenants-acme"},
    });
    if let Some(owner) = owner {
        object["metadata"]["ownerReferences"] = json!([owner]);
    }
    object
}

fn plain_pod(name: &str, owner: Option<Value>) -> Value {
    let mut pod = object("v1", "Pod", name, owner);
    pod["apiVersion"] = json!("v1");
    pod["spec"] = json!({"containers": [{"name": "c", "image": "i"}]});
    pod
}

fn refers_to(group: &str, owner: &Value) -> Value {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let metadata = &owner["metadata"];
    reference(group, &text(&owner["kind"]), &text(&metadata["name"]), &text(&metadata["uid"]))
}

fn reference(group: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": format!("{group}/v1beta1"),
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": true,
    })
}

const UID: &str = "1e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
