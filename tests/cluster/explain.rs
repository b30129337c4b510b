//! Tests `explain POD` with a real API server, which calls the real webhook; and the command of
//! docs/log.md that joins the audit log with the webhook's log.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use harness::{
    foreign,
    moto::REGION,
    process::{own_directory, wait_until},
    schema, shell,
    world::{self, OPERATOR, SYSTEM, World, parameter, role},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const NAMESPACE: &str = "tenants-explained";
const PROGRAM: &str = env!("CARGO_BIN_EXE_fab-session-injector");

fn agent(name: &str) -> Value {
    world::agent(NAMESPACE, name)
}

/// The shell of an administrator: a kubeconfig, and credentials that can read SSM.
pub(crate) struct Terminal<'w> {
    world: &'w World,
    directory: TempDir,
}

impl<'w> Terminal<'w> {
    pub(crate) fn open(world: &'w World) -> Self {
        // `explain` finds the release by the service account in the chart's ClusterRoleBindings.
        for kind in ["ConfigMap", "ClusterRoleBinding"] {
            world.apply(world.manifest(kind));
        }
        Self { world, directory: own_directory() }
    }

    fn equip(&self, command: &mut Command) {
        command
            .current_dir(self.directory.path())
            .env("KUBECONFIG", self.world.cluster.kubeconfig())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", REGION)
            .env("AWS_EC2_METADATA_DISABLED", "true");
    }

    /// Returns the stdout and stderr of a block of a page.
    fn run(&self, block: &str) -> String {
        let block = format!("SYSTEM={SYSTEM}\nNS={NAMESPACE}\n{block}");
        shell::run(&block, |shell| self.equip(shell))
    }

    /// Returns exit code, stdout and stderr.
    fn explain(&self, arguments: &[&str], stdin: &str) -> (i32, String, String) {
        let elsewhere = arguments.iter().any(|argument| argument.starts_with("--namespace"));
        let usual = ["--namespace", NAMESPACE].into_iter().filter(|_| !elsewhere);
        let mut command = Command::new(PROGRAM);
        self.equip(&mut command);
        let mut child = command
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

    pub(crate) fn said(&self, code: i32, arguments: &[&str]) -> Value {
        let (found, stdout, stderr) = self.explain(&[&["--output=json"], arguments].concat(), "");
        assert_eq!(found, code, "{arguments:?}: {stdout}{stderr}");
        let said = serde_json::from_str(&stdout).unwrap();
        schema::check(&said);
        said
    }
}

#[test]
fn a_pod_of_the_cluster_is_explained_with_its_drift() {
    let world = World::start(&[], None);
    world.publish("acme", &role("acme"));
    world.namespace(NAMESPACE, "enabled", "acme", &[]);
    let terminal = Terminal::open(&world);

    // Injected; no trusted creator names the session.
    let created = world.create(&agent("plain"), None).unwrap();
    let uid = created.pod["metadata"]["uid"].as_str().unwrap();
    let said = terminal.said(0, &["plain"]);
    assert_eq!(said["decision"], "inject");
    assert_eq!(said["drift"], json!({"status": "up-to-date"}));
    assert_eq!(said["requestingUser"], json!({"known": "unknown"}));
    let component = json!({
        "name": "runtime", "matcher": "fenced-service-account", "matched": "tenant-runtime",
    });
    assert_eq!(said["component"], component);
    let session = json!({
        "id": uid, "namedBy": "not-trusted", "namedIn": null,
        "sourceIdentity": format!("agent.acme.{uid}"), "roleArn": role("acme"),
        "source": format!("SSM parameter {}", parameter("acme")), "transport": "role-chain",
        "baseRoleArn": null,
        "onBehalfOf": null,
    });
    assert_eq!(said["session"], session);

    // Injected, with the session that the operator named: `explain` infers the operator.
    let mut named = agent("named");
    named["metadata"]["labels"] = json!({"agents.nanohype.dev/agentsandbox": "coder-1"});
    world.create(&named, Some(OPERATOR)).unwrap();
    for arguments in [&["pod/named"][..], &["named", "--as", OPERATOR]] {
        let said = terminal.said(0, arguments);
        assert_eq!(said["drift"], json!({"status": "up-to-date"}));
        assert_eq!(said["session"]["sourceIdentity"], "agent.acme.coder-1");
        assert_eq!(said["requestingUser"]["username"], OPERATOR);
    }
    let (_, text, _) = terminal.explain(&["named"], "");
    assert!(text.contains(&format!("not recorded on pods; assuming {OPERATOR}")), "{text}");
    assert!(text.contains("\n  drift      none: the pod matches current injection\n"), "{text}");
    // With jane as requesting user, the session would have another name.
    let said = terminal.said(1, &["named", "--as=jane"]);
    assert_eq!(said["drift"]["status"], "changed");
    let paths = said["drift"]["paths"].to_string();
    assert!(paths.contains("/metadata/annotations/fab.nanohype.dev~1session-id"), "{paths}");

    // The tenant's name is too long for a UID in the SourceIdentity: only a named session fits.
    let tenant = "a-tenant-of-a-long-name";
    world.publish(tenant, &role("long"));
    world.namespace("tenants-long", "enabled", tenant, &[]);
    named["metadata"]["namespace"] = "tenants-long".into();
    world.create(&named, Some(OPERATOR)).unwrap();
    let said = terminal.said(0, &["named", "--namespace=tenants-long"]);
    assert_eq!(said["drift"], json!({"status": "up-to-date"}));
    let said = terminal.said(1, &["named", "--namespace=tenants-long", "--as=jane"]);
    assert_eq!(said["refusals"][0]["code"], "tenant-too-long");

    // Left unchanged.
    let mut other = agent("other");
    other["spec"]["serviceAccountName"] = "default".into();
    world.create(&other, None).unwrap();
    let said = terminal.said(0, &["other"]);
    assert_eq!(said["unchanged"], "not-an-agent");
    assert_eq!(said["drift"], json!({"status": "up-to-date"}));

    // A workload, by its newest pod.
    let template = json!({
        "metadata": {"labels": {"app": "agents"}},
        "spec": agent("unused")["spec"].clone(),
    });
    let deployment = |replicas: u32| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "agents", "namespace": NAMESPACE},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "agents"}},
                "template": template,
            },
        })
    };
    world.apply(&deployment(0));
    let (code, _, stderr) = terminal.explain(&["deploy/agents"], "");
    assert_eq!(code, 2, "{stderr}");
    let remedy = format!("kubectl get deployment/agents --namespace {NAMESPACE} -o yaml |");
    assert!(
        stderr.contains("deployment/agents has no pod") && stderr.contains(&remedy),
        "{stderr}"
    );
    world.apply(&deployment(1));
    let text = wait_until("the Deployment has a pod", Duration::from_secs(60), || {
        let (code, text, _) = terminal.explain(&["deploy/agents"], "");
        (code == 0).then_some(text)
    });
    assert!(text.starts_with("Pod/agents-"), "{text}");
    world.apply(&deployment(0));
    let (code, _, stderr) = terminal.explain(&["deploy/none"], "");
    assert!(code == 2 && stderr.contains("deployments/none does not exist"), "{stderr}");

    // Refused, with the message that the API server shows.
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
    let part = |key: &str| said["refusals"][0][key].as_str().unwrap();
    let denial = format!("{} [{}]: {}", part("message"), part("code"), part("remedy"));
    assert!(shown.contains(&denial), "{shown}\n{denial}");

    // Another role is published: the running pod differs.
    world.publish("acme", &role("next"));
    let said = terminal.said(1, &["plain"]);
    assert_eq!(said["drift"]["status"], "changed");
    world.publish("acme", &role("acme"));
    terminal.said(0, &["plain"]);

    // Created without the webhook and without the guard.
    let delete = |kind: &str, name: &str| {
        assert!(world.cluster.kubectl(&["delete", kind, name]).run().ok, "{kind}");
    };
    delete("mutatingwebhookconfiguration", "fab-session-injector");
    delete("validatingadmissionpolicybinding", "fab-session-injector-pods");
    let missed = wait_until("a pod is not injected", Duration::from_secs(20), || {
        let mut pod = agent("missed");
        pod["metadata"] = json!({"namespace": NAMESPACE, "generateName": "missed-"});
        let pod = world.create(&pod, None).ok()?.pod;
        pod["spec"]["initContainers"].is_null().then_some(pod)
    });
    let missed = missed["metadata"]["name"].as_str().unwrap();
    let said = terminal.said(1, &[missed]);
    assert_eq!(said["decision"], "inject");
    assert_eq!(said["drift"], json!({"status": "not-injected"}));

    // All pods of the namespace, by the commands of the page.
    let printed = terminal.run(&block("docs/faq.md"));
    assert!(printed.contains("Pod/plain in tenants-explained: inject"), "{printed}");
    assert!(printed.contains(&format!("inspect pod/{missed}")), "{printed}");
    assert!(!printed.contains("inspect pod/plain") && !printed.contains("inspect pod/named"));

    let status = ["patch", "pod", missed, "--namespace", NAMESPACE, "--subresource=status"];
    let ended = ["--patch", r#"{"status": {"phase": "Failed"}}"#];
    world.cluster.kubectl(&[&status[..], &ended].concat()).json();
    assert_eq!(terminal.said(0, &[missed])["drift"], json!({"status": "ended"}));

    // Opted out: an injected pod keeps its sidecar.
    let label = ["label", "namespace", NAMESPACE, "fab.nanohype.dev/session-injection-"];
    assert!(world.cluster.kubectl(&label).run().ok);
    let said = terminal.said(0, &["plain"]);
    assert_eq!(said["unchanged"], "not-opted-in");
    assert_eq!(said["drift"], json!({"status": "orphaned"}));

    let (code, _, stderr) = terminal.explain(&["no-such-pod"], "");
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains(
            "namespaces/tenants-explained/pods/no-such-pod does not exist in the cluster"
        )
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
    // The API server calls the webhook again after another webhook adds a container.
    let _late = foreign::Webhook::start(&world, "zz-late", "late", foreign::add_a_container);
    world.create(&agent("twice"), Some(OPERATOR)).unwrap();
    world.audit_annotations(NAMESPACE, "twice");

    let directory = own_directory();
    // The webhook writes its log in a thread of its own.
    let log = wait_until("the log has both reviews", Duration::from_secs(60), || {
        let log = world.webhook.as_ref().unwrap().log();
        (log.matches(r#""pod":"twice""#).count() == 2).then_some(log)
    });
    fs::write(directory.path().join("webhook.log"), &log).unwrap();
    let audit = world.cluster.kubeconfig().with_file_name("audit.log");
    fs::copy(audit, directory.path().join("audit.log")).unwrap();
    let ran = Command::new("sh")
        .args(["-eu", "-c", &block("docs/log.md")])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{} (needs jq)", String::from_utf8_lossy(&ran.stderr));
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

    // The query for EKS finds the refused pod, and no other.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/log.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, expression) = page.split_once("parse @message /").unwrap();
    let expression = expression.split("/\n").next().unwrap();
    let ran = Command::new("jq")
        .args(["-R", "--arg", "expression", expression, "--arg", "namespace", NAMESPACE])
        .arg(
            "capture($expression) as $found | fromjson | select(.objectRef.namespace == $namespace)
             | {name: .objectRef.name, code: $found.code}",
        )
        .arg(directory.path().join("audit.log"))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let found: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(found, json!({"name": "refused", "code": "host-namespace"}));

    // The log has the names that the audit log has.
    for line in &joined {
        let review = reviews.iter().find(|review| review["uid"] == line["uid"]).unwrap();
        assert_eq!(review["pod"], line["pod"], "{review}");
    }

    // Log and audit event agree on each pod.
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

/// Returns the block of a page that is marked to be run here.
fn block(page: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let blocks: Vec<&str> =
        page.split("<!-- run by tests/cluster/explain.rs -->\n```sh\n").skip(1).collect();
    let [block] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    block.split("```").next().unwrap().to_owned()
}
