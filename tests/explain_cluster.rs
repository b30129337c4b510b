//! `explain POD` on a real API server, which calls the real webhook; and how its audit log and the
//! webhook's log are joined by the command of docs/operations.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "tests/cluster.rs uses the rest")]
#[path = "cluster/control_plane.rs"]
mod control_plane;
#[allow(dead_code, reason = "tests/cluster.rs uses the rest")]
#[path = "cluster/foreign.rs"]
mod foreign;
#[path = "cluster/helm.rs"]
mod helm;
#[allow(dead_code, reason = "tests/cluster.rs uses the rest")]
#[path = "cluster/moto.rs"]
mod moto;
#[path = "cluster/process.rs"]
mod process;
#[allow(dead_code, reason = "tests/cluster.rs uses the rest")]
#[path = "cluster/world.rs"]
mod world;

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use moto::REGION;
use process::{own_directory, program, wait_until};
use world::{OPERATOR, SYSTEM, World, parameter, role};

const NAMESPACE: &str = "tenants-explained";
const PROGRAM: &str = env!("CARGO_BIN_EXE_fab-session-injector");

fn agent(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "serviceAccountName": "tenant-runtime",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "agent", "image": "agent:1", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    })
}

/// Somebody at a terminal: the administrator's kubeconfig, and credentials by which SSM can be read.
struct Terminal<'w> {
    world: &'w World,
    directory: TempDir,
}

impl<'w> Terminal<'w> {
    fn open(world: &'w World) -> Self {
        // By the account that the chart gives rights, the release is found.
        for kind in ["ConfigMap", "ClusterRoleBinding"] {
            world.apply(world.manifest(kind));
        }
        Self { world, directory: own_directory() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env("KUBECONFIG", self.world.cluster.kubeconfig())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", REGION)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// What a block of a page prints, on both of its ends.
    #[allow(clippy::disallowed_methods, reason = "where the other programs of the page are")]
    fn run(&self, block: &str) -> String {
        let ours = Path::new(PROGRAM).parent().unwrap().display();
        let kubectl = program("kubectl").parent().unwrap().display().to_string();
        let path = env::var("PATH").unwrap();
        let ran = self
            .command("sh")
            .args(["-eu", "-c", &format!("exec 2>&1\nSYSTEM={SYSTEM}\nNS={NAMESPACE}\n{block}")])
            .env("PATH", format!("{ours}:{kubectl}:{path}"))
            .output()
            .unwrap();
        let printed = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success(), "{block}\n{printed}");
        printed
    }

    /// The exit code, and what was printed on both ends.
    fn explain(&self, arguments: &[&str], stdin: &str) -> (i32, String, String) {
        let elsewhere = arguments.iter().any(|argument| argument.starts_with("--namespace"));
        let usual = ["--namespace", NAMESPACE].into_iter().filter(|_| !elsewhere);
        let mut child = self
            .command(PROGRAM)
            .arg("explain")
            .args(usual)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn said(&self, code: i32, arguments: &[&str]) -> Value {
        let (found, stdout, stderr) = self.explain(&[&["--output=json"], arguments].concat(), "");
        assert_eq!(found, code, "{arguments:?}: {stdout}{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }
}

#[test]
fn a_pod_of_the_cluster_is_explained_as_it_stands() {
    let world = World::start(&[], None);
    world.publish("acme", &role("acme"));
    world.namespace(NAMESPACE, "enabled", "acme", &[]);
    let terminal = Terminal::open(&world);

    // Injected, as nobody's session.
    let created = world.create(&agent("plain"), None).unwrap();
    let uid = created.pod["metadata"]["uid"].as_str().unwrap();
    let said = terminal.said(0, &["plain"]);
    assert_eq!(said["decision"], "inject");
    assert_eq!(said["standing"], json!({"is": "as-made"}));
    assert_eq!(said["creator"], json!({"known": "unknown"}));
    let component =
        json!({"name": "runtime", "matcher": "fenced-service-account", "holds": "tenant-runtime"});
    assert_eq!(said["component"], component);
    let session = json!({
        "id": uid, "namedBy": "nobody-listed", "namedIn": null,
        "sourceIdentity": format!("agent.acme.{uid}"), "roleArn": role("acme"),
        "place": format!("SSM parameter {}", parameter("acme")),
    });
    assert_eq!(said["session"], session);

    // Injected, as the session that the operator named; that it was the operator shows.
    let mut named = agent("named");
    named["metadata"]["labels"] = json!({"agents.nanohype.dev/agentsandbox": "coder-1"});
    world.create(&named, Some(OPERATOR)).unwrap();
    for arguments in [&["pod/named"][..], &["named", "--as", OPERATOR]] {
        let said = terminal.said(0, arguments);
        assert_eq!(said["standing"], json!({"is": "as-made"}));
        assert_eq!(said["session"]["sourceIdentity"], "agent.acme.coder-1");
        assert_eq!(said["creator"]["username"], OPERATOR);
    }
    let (_, text, _) = terminal.explain(&["named"], "");
    assert!(
        text.contains(&format!("not recorded on a pod; judged as one of {OPERATOR}")),
        "{text}"
    );
    assert!(text.contains("\n  stands     as the webhook leaves it\n"), "{text}");
    // Had jane created it, it would have another name.
    let said = terminal.said(1, &["named", "--as=jane"]);
    assert_eq!(said["standing"]["is"], "differs");
    let places = said["standing"]["at"].to_string();
    assert!(places.contains("/metadata/annotations/fab.nanohype.dev~1session-id"), "{places}");

    // A tenant in whose names a uid has no room, so that only the operator's word does.
    let tenant = "a-tenant-of-a-long-name";
    world.publish(tenant, &role("long"));
    world.namespace("tenants-long", "enabled", tenant, &[]);
    named["metadata"]["namespace"] = "tenants-long".into();
    world.create(&named, Some(OPERATOR)).unwrap();
    let said = terminal.said(0, &["named", "--namespace=tenants-long"]);
    assert_eq!(said["standing"], json!({"is": "as-made"}));
    let said = terminal.said(1, &["named", "--namespace=tenants-long", "--as=jane"]);
    assert_eq!(said["refusal"]["code"], "tenant-too-long");

    // Passed by.
    let mut nobody = agent("nobody");
    nobody["spec"]["serviceAccountName"] = "default".into();
    world.create(&nobody, None).unwrap();
    let said = terminal.said(0, &["nobody"]);
    assert_eq!(said["passed"], "not-an-agent");
    assert_eq!(said["standing"], json!({"is": "as-made"}));

    // Refused, in the sentence that the API server shows.
    let mut refused = agent("refused");
    refused["spec"]["hostPID"] = true.into();
    let shown = world.create(&refused, None).unwrap_err();
    let config = &world.manifest("ConfigMap")["data"]["config.yaml"];
    let file = terminal.directory.path().join("webhook.yaml");
    fs::write(file, config.as_str().unwrap()).unwrap();
    let (code, stdout, stderr) =
        terminal.explain(&["-f-", "-ojson", "--config=webhook.yaml"], &refused.to_string());
    assert_eq!(code, 1, "{stderr}");
    let said: Value = serde_json::from_str(&stdout).unwrap();
    let part = |key: &str| said["refusal"][key].as_str().unwrap();
    let sentence = format!("{} [{}]: {}", part("sentence"), part("code"), part("remedy"));
    assert!(shown.contains(&sentence), "{shown}\n{sentence}");

    // Another role is published: what stands is stale.
    world.publish("acme", &role("next"));
    let said = terminal.said(1, &["plain"]);
    assert_eq!(said["standing"]["is"], "differs");
    world.publish("acme", &role("acme"));
    terminal.said(0, &["plain"]);

    // Created while the webhook was off, and the guard as well.
    let delete = |kind: &str, name: &str| {
        assert!(world.cluster.kubectl(&["delete", kind, name]).run().ok, "{kind}");
    };
    delete("mutatingwebhookconfiguration", "fab-session-injector");
    delete("validatingadmissionpolicybinding", "fab-session-injector-pods");
    let unseen = wait_until("a pod is created unseen", Duration::from_secs(20), || {
        let mut pod = agent("unseen");
        pod["metadata"] = json!({"namespace": NAMESPACE, "generateName": "unseen-"});
        let pod = world.create(&pod, None).ok()?.pod;
        pod["spec"]["initContainers"].is_null().then_some(pod)
    });
    let unseen = unseen["metadata"]["name"].as_str().unwrap();
    let said = terminal.said(1, &[unseen]);
    assert_eq!(said["decision"], "inject");
    assert_eq!(said["standing"], json!({"is": "no-sidecar"}));

    // All of the namespace, by the commands of the page.
    let printed = terminal.run(&block("docs/faq.md"));
    assert!(printed.contains("Pod/plain in tenants-explained: inject"), "{printed}");
    assert!(printed.contains(&format!("look at pod/{unseen}")), "{printed}");
    assert!(!printed.contains("look at pod/plain") && !printed.contains("look at pod/named"));

    let status = ["patch", "pod", unseen, "--namespace", NAMESPACE, "--subresource=status"];
    let ended = ["--patch", r#"{"status": {"phase": "Failed"}}"#];
    world.cluster.kubectl(&[&status[..], &ended].concat()).json();
    assert_eq!(terminal.said(0, &[unseen])["standing"], json!({"is": "ended"}));

    // Opted out: what was injected goes on as it is.
    let label = ["label", "namespace", NAMESPACE, "fab.nanohype.dev/session-injection-"];
    assert!(world.cluster.kubectl(&label).run().ok);
    let said = terminal.said(0, &["plain"]);
    assert_eq!(said["passed"], "not-opted-in");
    assert_eq!(said["standing"], json!({"is": "left-over"}));

    let (code, _, stderr) = terminal.explain(&["no-such-pod"], "");
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr
            .contains("no no-such-pod among the namespaces/tenants-explained/pods of the cluster")
    );
}

#[test]
fn the_two_logs_are_joined_by_uid() {
    let world = World::start(&[], None);
    world.publish("acme", &role("acme"));
    world.namespace(NAMESPACE, "enabled", "acme", &[("test.example/foreign", "late")]);
    let mut refused = agent("refused");
    refused["spec"]["hostPID"] = true.into();
    world.create(&refused, None).unwrap_err();
    // Ours is called again, after another webhook has added a container.
    let _late = foreign::Webhook::start(&world, "zz-late", "late", foreign::add_a_container);
    world.create(&agent("twice"), Some(OPERATOR)).unwrap();
    world.audit_annotations(NAMESPACE, "twice");

    let directory = own_directory();
    let log = world.webhook.as_ref().unwrap().log();
    fs::write(directory.path().join("webhook.log"), &log).unwrap();
    let audit = world.cluster.kubeconfig().with_file_name("audit.log");
    fs::copy(audit, directory.path().join("audit.log")).unwrap();
    let ran = Command::new("sh")
        .args(["-eu", "-c", &block("docs/operations.md")])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{} (it takes jq)", String::from_utf8_lossy(&ran.stderr));
    let printed = String::from_utf8(ran.stdout).unwrap();
    let joined: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    let reviews: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["message"] == "review")
        .collect();
    let uids = |lines: &[Value]| -> BTreeSet<String> {
        lines.iter().map(|line| line["uid"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(uids(&joined), uids(&reviews), "each review has its event");
    let of = |pod: &str| -> Vec<&Value> {
        joined.iter().filter(|line| line["pod"] == pod && line["namespace"] == NAMESPACE).collect()
    };
    let [line] = of("refused")[..] else { panic!("{joined:?}") };
    assert_eq!(line["code"], "host-namespace");
    assert_eq!(line["component"], "runtime");
    let both = of("twice");
    assert_eq!(both.len(), 2, "one for each round: {both:?}");
    assert_eq!(both[0]["auditID"], both[1]["auditID"]);
    assert!(both.iter().all(|line| line["user"] == OPERATOR && line["decision"] == "inject"));

    // What the log says of a review is what the event says of its pod.
    for event in world.cluster.audit_events() {
        for line in joined.iter().filter(|line| line["auditID"] == event["auditID"]) {
            let said = |key: &str| {
                &event["annotations"][format!("enabled.session.fab.nanohype.dev/{key}")]
            };
            let decision = line["decision"].as_str().unwrap();
            let want = match line["code"].as_str().unwrap() {
                "" => decision.to_owned(),
                code => format!("{decision}/{code}"),
            };
            assert_eq!(*said("decision"), json!(want));
            assert_eq!(*said("component"), line["component"]);
        }
    }
    let said = world.cluster.api_server_log();
    assert!(!said.contains("Failed to set admission audit annotation"), "the rounds differ");
    assert!(!said.contains("annotation has invalid format"), "{said}");
}

/// The one block of a page that says of itself that it is run here.
fn block(page: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let blocks: Vec<&str> =
        page.split("<!-- run by tests/explain_cluster.rs -->\n```sh\n").skip(1).collect();
    let [block] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    block.split("```").next().unwrap().to_owned()
}
