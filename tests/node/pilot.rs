//! Runs the commands of docs/pilot.md unchanged and in order, on a separate node. Between them it
//! checks the page's statements about pods.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use harness::{
    cloud::BROKER,
    platform::{Platform, SYSTEM, TENANT},
    process::wait_until,
    shell,
};
use serde_json::{Value, json};

const OPT_IN: &str = "fab.nanohype.dev/session-injection";

#[test]
fn the_pilot_page_enables_a_tenant_and_reverts_it() {
    let platform = Platform::start();
    let node = &platform.node;
    let taken_back = ["label", "namespace", TENANT, &format!("{OPT_IN}-")];
    assert!(node.kubectl(&taken_back).run().ok);
    let page = Page::read(&platform);
    let [
        up,
        audit,
        holds,
        complaints,
        dry_run,
        reviews,
        enable,
        identities,
        tried,
        why,
        without,
        back,
    ] = page.blocks();

    // 1. Before.
    assert!(page.run(up).contains("successfully rolled out"));
    let before_name = platform.create_session("fab-before-a1b2c");
    let before = node.await_ready(TENANT, &before_name);
    assert!(!is_injected(&before));

    // 2. audit.
    page.run(audit);
    let said = page.run(holds);
    assert!(said.contains("\n0 errors, "), "{said}");
    assert_eq!(page.run(complaints).trim(), "no namespace is misconfigured");
    // The label is in effect a moment later.
    let judged = wait_until("a pod is judged in a dry run", SOON, || {
        assert_eq!(page.run(dry_run).trim(), "pod/try");
        lines(&page.run(reviews)).pop()
    });
    assert_eq!((&judged["pod"], &judged["dry_run"]), (&json!("try"), &json!(true)));
    let audited = platform.create_session("fab-audited-d3e4f");
    let pod = node.await_ready(TENANT, &audited);
    assert_eq!(shape(&pod), shape(&before), "it is as the one before");
    let review = lines(&page.run(reviews)).pop().unwrap();
    assert_eq!(review["pod"], *audited, "{review}");
    assert_eq!(review["mode"], "audit", "{review}");
    assert_eq!(review["decision"], "inject", "{review}");
    assert_eq!(review["component"], "runtime", "{review}");
    assert_eq!(review["dry_run"], false, "{review}");

    // 3. enabled.
    page.run(enable);
    wait_until("a pod would be injected", SOON, || {
        page.run(dry_run);
        (lines(&page.run(reviews)).pop()?["mode"] == "enabled").then_some(())
    });
    let injected = platform.create_session("fab-first-g5h6i");
    assert!(is_injected(&node.await_ready(TENANT, &injected)));
    let identity = "agent.acme.fab-first-g5h6i";
    let printed = page.run(identities);
    let columns: Vec<Vec<&str>> =
        printed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["POD", "IDENTITY", "ROLE"]);
    assert!(columns.contains(&vec![&injected, identity, BROKER]), "{printed}");
    assert!(columns.contains(&vec![&audited, "<none>", "<none>"]), "{printed}");
    let said = page.run(tried);
    assert_eq!(errors(&said), BTreeSet::from(["pod-without-sidecar"]), "{said}");
    let mut ok = said.lines().filter(|line| line.starts_with("ok ")).map(second_word);
    assert!(ok.any(|check| check == "assume-role"), "{said}");
    let said = page.run(why);
    assert!(said.contains("\"message\":"), "the sidecar's log: {said}");
    let first = call(&platform, &injected);
    assert_eq!(calls_under(&platform, identity), std::slice::from_ref(&first));

    // 4. Last: the pods that the deny would stop.
    let printed = page.run(without);
    let stopped: BTreeSet<&str> =
        printed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(stopped.contains(&*before_name) && stopped.contains(&*audited), "{printed}");
    assert!(!stopped.contains(&*injected), "{printed}");

    // 5. Back.
    page.run(back);
    let plain = wait_until("a new pod is plain", SOON, || {
        let name = platform.create_session("fab-after-j7k8l");
        let pod = node.kubectl(&["get", "pod", &name, "--namespace", TENANT]).json();
        if is_injected(&pod) {
            let delete = ["delete", "pod", &name, "--namespace", TENANT, "--grace-period=1"];
            assert!(node.kubectl(&delete).run().ok);
            return None;
        }
        Some(name)
    });
    let plain = node.await_ready(TENANT, &plain);
    assert_eq!(shape(&plain), shape(&before));
    // The injected pod continues, and its restarted sidecar gets new credentials.
    assert_eq!(call(&platform, &injected), first);
    let restarted = restart_sidecar(&platform, &injected);
    assert_eq!(restarted["restartCount"], 1, "{restarted}");
    let second = call(&platform, &injected);
    assert_ne!(second, first);
    assert_eq!(calls_under(&platform, identity), [first.clone(), first, second]);
}

/// Returns the checks that `check` reports as errors.
fn errors(said: &str) -> BTreeSet<&str> {
    said.lines().filter(|line| line.starts_with("error ")).map(second_word).collect()
}

fn second_word(line: &str) -> &str {
    line.split_whitespace().nth(1).unwrap()
}

/// The commands of the page.
struct Page {
    blocks: Vec<String>,
    variables: String,
    kubeconfig: PathBuf,
}

impl Page {
    fn read(platform: &Platform) -> Self {
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pilot.md");
        let text = fs::read_to_string(text).unwrap();
        let parts: Vec<&str> = text.split("```sh\n").collect();
        // The comment above a block can have the reason why it is not run.
        let is_run = |before: &str| {
            !before.trim_end().lines().next_back().unwrap().starts_with("<!-- not run")
        };
        let mut blocks: Vec<String> = parts
            .windows(2)
            .filter(|pair| is_run(pair[0]))
            .map(|pair| pair[1].split("```").next().unwrap().to_owned())
            .collect();
        // The first block sets the reader's namespaces.
        let variables: String = blocks
            .remove(0)
            .lines()
            .map(|line| match line.split_once('=').unwrap().0 {
                "SYSTEM" => format!("SYSTEM={SYSTEM}\n"),
                "NS" => format!("NS={TENANT}\n"),
                other => panic!("{other} is a variable that the test does not know"),
            })
            .collect();
        Self { blocks, variables, kubeconfig: platform.node.kubeconfig() }
    }

    fn blocks(&self) -> [&str; 12] {
        let blocks: Vec<&str> = self.blocks.iter().map(String::as_str).collect();
        blocks.try_into().unwrap()
    }

    /// Runs a block; returns its standard output and standard error, interleaved.
    fn run(&self, block: &str) -> String {
        shell::run(&format!("{}{block}", self.variables), |shell| {
            shell.env("KUBECONFIG", &self.kubeconfig);
        })
    }
}

/// Returns the reviews of the log, oldest first.
fn lines(printed: &str) -> Vec<Value> {
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_injected(pod: &Value) -> bool {
    pod["spec"]["initContainers"][0]["name"] == "fab-session-credentials"
}

/// Returns the parts of a pod that the webhook changes.
fn shape(pod: &Value) -> [&Value; 4] {
    let spec = &pod["spec"];
    [
        &spec["containers"],
        &spec["initContainers"],
        &spec["volumes"],
        &pod["metadata"]["annotations"],
    ]
}

/// Calls AWS as the agent; returns the access key ID.
fn call(platform: &Platform, pod: &str) -> String {
    let called = platform.node.exec(TENANT, pod, "session", &["/client-go"]).stdin("call\n").run();
    assert!(called.ok, "{}", called.stderr);
    let said: Value = serde_json::from_str(&called.stdout).unwrap();
    let arn = said["arn"].as_str().unwrap_or("");
    assert!(arn.contains(":assumed-role/prod-acme-broker/"), "{said}");
    said["accessKeyId"].as_str().unwrap().to_owned()
}

/// Returns the access key IDs of an agent's calls, in order.
fn calls_under(platform: &Platform, identity: &str) -> Vec<String> {
    let calls = platform.cloud.events("GetCallerIdentity");
    calls
        .iter()
        .map(|event| &event["userIdentity"])
        .filter(|caller| caller["sessionContext"]["sourceIdentity"] == identity)
        .map(|caller| caller["accessKeyId"].as_str().unwrap().to_owned())
        .collect()
}

/// Restarts the sidecar as after a crash.
fn restart_sidecar(platform: &Platform, pod: &str) -> Value {
    let node = &platform.node;
    let status = || {
        let pod = node.kubectl(&["get", "pod", pod, "--namespace", TENANT]).json();
        pod["status"]["initContainerStatuses"][0].clone()
    };
    let running = status()["containerID"].as_str().unwrap().to_owned();
    let id = running.strip_prefix("containerd://").unwrap();
    node.enter(&["ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id]);
    wait_until("the sidecar runs again", Duration::from_secs(90), || {
        let status = status();
        (status["containerID"] != *running && status["started"] == true).then_some(status)
    })
}

/// Ten times the delay until a label takes effect on a busy machine.
const SOON: Duration = Duration::from_secs(60);
