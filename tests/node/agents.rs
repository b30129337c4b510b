//! End-to-end tests on a real node with kubelet, containerd, runc and a network. They run the
//! image of `make image`; Helm installs the chart, and real AWS SDKs call the strict AWS.

mod controllers;
mod eks;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use harness::{
    cloud::{self, BASE, BROKER, DISPATCHER},
    foreign::server,
    image::{Image, ROOTS},
    node::Node,
    platform::{OPERATOR, Platform, SANDBOXES, SYSTEM, TENANT, session},
    process::{self, wait_until},
};
use serde_json::{Value, json};

use controllers::{FAB, admit_dispatcher, admit_sandboxes, dispatcher, fleet, sandbox};
use eks::{Eks, FIRST, KEPT, PLAIN, UNMARKED, admit};

/// Shared by tests that do not affect each other. It is never dropped: its leash stops it, seconds
/// after the test process exits.
static PLATFORM: LazyLock<Platform> = LazyLock::new(Platform::start);

/// For tests of base credentials. The other tests run with or without it.
static EKS: LazyLock<Eks> = LazyLock::new(|| Eks::start(&PLATFORM.node, TENANT));

#[test]
fn an_agent_calls_aws_with_the_name_of_its_session() {
    let platform = &*PLATFORM;
    let pod = platform.create_session("fab-coder-x7k2p");
    let started = platform.node.await_ready(TENANT, &pod);
    let sidecar = &started["spec"]["initContainers"][0];
    assert_eq!(sidecar["name"], "fab-session-credentials");
    assert_eq!(started["status"]["initContainerStatuses"][0]["ready"], true);
    assert_eq!(started["status"]["containerStatuses"][0]["ready"], true);

    let caller = call(platform, &pod);
    let session_of_the_broker = "arn:aws:sts::111122223333:assumed-role/prod-acme-broker/";
    assert!(caller["arn"].as_str().unwrap_or("").starts_with(session_of_the_broker), "{caller}");

    let identity = "agent.acme.fab-coder-x7k2p";
    let assumed: Vec<Value> = platform
        .cloud
        .events("AssumeRole")
        .into_iter()
        .filter(|event| event["requestParameters"]["sourceIdentity"] == identity)
        .collect();
    assert_eq!(assumed.len(), 1, "{assumed:?}");
    assert_eq!(assumed[0]["requestParameters"]["roleArn"], BROKER);
    assert_eq!(assumed[0]["errorCode"], Value::Null, "{}", assumed[0]);
    // The question of an auditor to CloudTrail: which session made the call?
    let calls = platform.cloud.events("GetCallerIdentity");
    assert!(
        calls.iter().any(|event| {
            event["userIdentity"]["sessionContext"]["sourceIdentity"] == identity
                && event["userIdentity"]["accessKeyId"] == caller["accessKeyId"]
        }),
        "{calls:?}"
    );
}

#[test]
fn an_agent_cannot_get_base_credentials() {
    let platform = &*PLATFORM;
    let pod = platform.create_session("fab-curious-a1b2c");
    platform.node.await_ready(TENANT, &pod);
    let try_to = |words: &[&str]| platform.node.exec(TENANT, &pod, "session", words).run();

    // The control: the same command reads a file that is meant for the agent.
    assert!(try_to(&["/box", "read", "/var/run/fab-session/token"]).ok);
    for path in
        ["/var/run/fab-session-base/token", "/var/run/secrets/kubernetes.io/serviceaccount/token"]
    {
        let read = try_to(&["/box", "read", path]);
        assert!(!read.ok && read.stderr.contains("no such file"), "{path}: {}", read.stderr);
    }
    // The agent also sees no process of another container.
    let processes = try_to(&["/box", "list", "/proc"]);
    let others: Vec<&str> =
        processes.stdout.lines().filter(|name| name.parse().is_ok_and(|id: u32| id > 1)).collect();
    assert!(others.len() <= 1, "only the one that looks: {others:?}");
    // The node's Pod Identity agent is reachable; only the token is missing.
    assert!(try_to(&["/box", "dial", "169.254.170.23:80"]).ok);
}

#[test]
fn only_pods_of_other_namespaces_get_a_base_token() {
    let node = &PLATFORM.node;
    PLATFORM.create_other_namespace("tenants-other");
    let create = |namespace: &str| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "thief", "namespace": namespace},
            "spec": {
                "containers": [{
                    "name": "agent",
                    "image": "node.test/agent:1",
                    "args": ["sleep"],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "loot", "mountPath": "/loot"}],
                }],
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "serviceAccountName": "tenant-runtime",
                "volumes": [{"name": "loot", "projected": {"sources": [
                    {"serviceAccountToken": {"audience": "pods.eks.amazonaws.com", "path": "token"}},
                ]}}],
            },
        });
        node.kubectl(&["create", "--filename=-"]).stdin(&pod.to_string()).run()
    };
    let refused = create(TENANT);
    assert!(!refused.ok && refused.stderr.contains("[aws-token-volume]"), "{}", refused.stderr);

    let created = create("tenants-other");
    assert!(created.ok, "{}", created.stderr);
    let pod = node.await_ready("tenants-other", "thief");
    assert_eq!(pod["spec"]["initContainers"], Value::Null, "it is left alone");
    let read = node.exec("tenants-other", "thief", "agent", &["/box", "read", "/loot/token"]).run();
    assert!(read.ok && read.stdout.starts_with("eyJ"), "{}", read.stderr);
}

#[test]
fn a_session_works_under_the_platforms_policies() {
    let platform = &*PLATFORM;
    let node = &platform.node;
    let listener = TcpListener::bind((node.host_address(), 0)).unwrap();
    let elsewhere = listener.local_addr().unwrap().to_string();
    let pod = platform.create_session("fab-policed-q9w8e");
    node.await_ready(TENANT, &pod);
    let dial = |address: &str| node.exec(TENANT, &pod, "session", &["/box", "dial", address]).run();

    // A network policy takes effect a second after the start of its pod.
    wait_until("the pod does not get elsewhere", Duration::from_secs(20), || {
        let dialled = dial(&elsewhere);
        dialled.stderr.contains("timeout").then_some(())
    });
    let caller = call(platform, &pod);
    assert!(caller["arn"].is_string(), "{caller}");

    // The control: without a policy the same listener is reachable.
    platform.create_other_namespace("tenants-free");
    node.create(&[json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "free", "namespace": "tenants-free"},
        "spec": {"containers": [{"name": "agent", "image": "node.test/agent:1", "args": ["sleep"]}]},
    })]);
    node.await_ready("tenants-free", "free");
    let dialled = node.exec("tenants-free", "free", "agent", &["/box", "dial", &elsewhere]).run();
    assert!(dialled.ok, "{}", dialled.stderr);
}

#[test]
fn pods_created_at_once_each_call_aws_with_their_own_name() {
    // Length of cluster and pod in the name of a base session: 64 without the UUID.
    const EKS_NAMES: usize = 64 - 1 - 36;
    LazyLock::force(&EKS);
    let platform = &*PLATFORM;
    let node = &platform.node;
    admit_sandboxes(node);
    // The dispatcher labels its session as the operator does, but is not a trusted creator.
    admit_dispatcher(node, &session(TENANT, "fab-planner-d3f4t", &["sleep"]));

    let operators = platform.create_session("fab-coder-m5n6p");
    platform.create_as(OPERATOR, &fleet(TENANT));
    node.create(&[dispatcher(), fleet(PLAIN)]);
    platform.create_as(SANDBOXES, &sandbox("sandbox-r8t2"));

    // Each pod's SourceIdentity, and the key with which it called AWS.
    let mut keys = BTreeMap::new();
    let mut called = |identity: &str, pod: &str, caller: &Value| {
        assert!(is_session_of(BROKER, caller), "{identity}: {caller}");
        let key = caller["accessKeyId"].as_str().unwrap().to_owned();
        assert!(keys.insert(identity.to_owned(), (pod.to_owned(), key)).is_none(), "{identity}");
    };

    let job = wait_until("the dispatcher is done", Duration::from_secs(120), || {
        let job = node.kubectl(&["get", "job", "fab-feature-build", "--namespace", FAB]).json();
        let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ended =
            |kind: &str| conditions.iter().any(|it| it["type"] == kind && it["status"] == "True");
        assert!(!ended("Failed"), "{}", log_of(node, FAB, "job/fab-feature-build"));
        ended("Complete").then_some(job)
    });
    assert_eq!(job["status"]["succeeded"], 1);
    let pod = the_only_pod(node, FAB, "batch.kubernetes.io/job-name=fab-feature-build");
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "fab-session-credentials");
    assert_eq!(pod["status"]["phase"], "Succeeded");
    let name = pod["metadata"]["name"].as_str().unwrap();
    let caller = said(&log_of(node, FAB, name));
    called(&format!("agent.acme.{}", uid(&pod)), name, &caller);

    let pod = node.await_ready(TENANT, "session-fab-planner-d3f4t");
    called(
        &format!("agent.acme.{}", uid(&pod)),
        "session-fab-planner-d3f4t",
        &call(platform, "session-fab-planner-d3f4t"),
    );

    node.await_ready(TENANT, &operators);
    called("agent.acme.fab-coder-m5n6p", &operators, &call(platform, &operators));

    let pod = node.await_ready(TENANT, "sandbox-r8t2");
    assert_eq!(pod["metadata"]["annotations"]["fab.nanohype.dev/component"], "sandbox");
    called(
        "agent.acme.sandbox-r8t2",
        "sandbox-r8t2",
        &call_in(node, TENANT, "sandbox-r8t2", "sandbox"),
    );
    // Any other user that creates such a pod cannot choose its name in AWS.
    let asked = node
        .kubectl(&["create", "--dry-run=server", "--filename=-"])
        .stdin(&sandbox("sandbox-stolen").to_string())
        .json();
    assert_eq!(
        asked["metadata"]["annotations"]["fab.nanohype.dev/source-identity"],
        "agent.acme.<pod uid>"
    );

    // A fleet has no credentials. Where the namespace did not opt in, EKS gives it some.
    let [withheld, plain] = [TENANT, PLAIN].map(|namespace| {
        let deployment = "deployment/ops-reviewer";
        let watch = ["rollout", "status", deployment, "--timeout=90s", "--namespace", namespace];
        let watched = node.kubectl(&watch).run();
        assert!(watched.ok, "{}", watched.stderr);
        let pod = the_only_pod(node, namespace, "agents.nanohype.dev/agent=reviewer");
        let name = pod["metadata"]["name"].as_str().unwrap();
        let pod = node.await_ready(namespace, name);
        assert_eq!(pod["spec"]["initContainers"], Value::Null);
        (pod.clone(), call_in(node, namespace, name, "agent"))
    });
    assert!(is_session_of(cloud::PLAIN, &plain.1), "{}", plain.1);
    assert!(has_base_credentials(&plain.0));
    let error = withheld.1["error"].as_str().unwrap_or("");
    assert!(error.contains("get credentials"), "{}", withheld.1);
    assert!(!has_base_credentials(&withheld.0));

    let events = platform.cloud.all_events();
    assert_eq!(keys.len(), 4);
    for (identity, (pod, key)) in &keys {
        // The name has no key of another pod, and the key has no other name.
        let mut calls = 0;
        for caller in events.iter().map(|event| &event["userIdentity"]) {
            let under_the_name = caller["sessionContext"]["sourceIdentity"] == **identity;
            assert_eq!(caller["accessKeyId"] == **key, under_the_name, "{identity}: {caller}");
            calls += usize::from(under_the_name);
        }
        assert!(calls > 0, "{identity}");
        let of_the_pod =
            |event: &&Value| event["requestParameters"]["sourceIdentity"] == **identity;
        let assumed: Vec<&Value> = events.iter().filter(of_the_pod).collect();
        assert_eq!(assumed.len(), 1, "{identity}: {assumed:?}");
        assert_eq!(assumed[0]["errorCode"], Value::Null);
        // EKS names the base session after the pod of the token.
        let arn = assumed[0]["userIdentity"]["arn"].as_str().unwrap();
        let mut session = format!("/eks-prod-{pod}");
        session.truncate("/".len() + EKS_NAMES);
        assert!(arn.contains(&session), "{pod}: {arn}");
    }
    assert_attributed(&events);
}

#[test]
fn a_pod_ends_with_its_agent_and_logs_need_no_container() {
    let platform = &*PLATFORM;
    let node = &platform.node;
    let name = "session-fab-brief-s1t2u";
    platform.create_as(
        OPERATOR,
        &session(TENANT, "fab-brief-s1t2u", &["each", "feed call /client-go"]),
    );
    let pod = wait_until("the session has ended", Duration::from_secs(90), || {
        let pod = node.kubectl(&["get", "pod", name, "--namespace", TENANT]).json();
        assert_ne!(pod["status"]["phase"], "Failed", "{}", pod["status"]);
        (pod["status"]["phase"] == "Succeeded").then_some(pod)
    });
    // By kubectl and by the API request of fab; neither names a container.
    let path = format!("/api/v1/namespaces/{TENANT}/pods/{name}/log?timestamps=false");
    for ask in [vec!["logs", name, "--namespace", TENANT], vec!["get", "--raw", &path]] {
        let asked = node.kubectl(&ask).run();
        assert!(asked.ok, "{ask:?}: {}", asked.stderr);
        assert!(is_session_of(BROKER, &said(&asked.stdout)), "{ask:?}: {}", asked.stdout);
    }
    let ended = |list: &str| {
        let terminated = &pod["status"][list][0]["state"]["terminated"];
        assert_eq!(terminated["exitCode"], 0, "{list}: {}", pod["status"]);
        terminated["finishedAt"].as_str().unwrap().to_owned()
    };
    let (agent, sidecar) = (ended("containerStatuses"), ended("initContainerStatuses"));
    // RFC 3339 times in UTC compare as text.
    assert!(agent <= sidecar, "{agent}, {sidecar}");
}

#[test]
fn the_eks_webhook_gives_an_agent_no_base_credentials() {
    const TOKEN: &str =
        "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token";
    let eks = &*EKS;
    let platform = &*PLATFORM;
    let node = &platform.node;
    let name = "session-fab-eks-v3w4x";
    let calls = [&eks.first, &eks.after, &eks.unmarked].map(server::Server::calls);
    let namespaces = [FIRST, TENANT, UNMARKED];
    for namespace in namespaces.into_iter().chain([PLAIN]) {
        platform.create_as(OPERATOR, &session(namespace, "fab-eks-v3w4x", &["sleep"]));
    }
    for namespace in namespaces {
        let pod = node.await_ready(namespace, name);
        assert!(!has_base_credentials(&pod), "{namespace}: {}", pod["spec"]);
        let caller = call_in(node, namespace, name, "session");
        assert!(is_session_of(BROKER, &caller), "{namespace}: {caller}");
        for path in [TOKEN, "/var/run/fab-session-base/token"] {
            let read = node.exec(namespace, name, "session", &["/box", "read", path]).run();
            assert!(
                !read.ok && read.stderr.contains("no such file"),
                "{namespace}: {}",
                read.stderr
            );
        }
    }
    // Where the namespace did not opt in, the EKS webhook has its full effect.
    let pod = node.await_ready(PLAIN, name);
    assert!(has_base_credentials(&pod));
    let read = node.exec(PLAIN, name, "session", &["/box", "read", TOKEN]).run();
    assert!(read.ok && read.stdout.starts_with("eyJ"), "{}", read.stderr);
    let caller = call_in(node, PLAIN, name, "session");
    assert!(is_session_of(cloud::PLAIN, &caller), "{caller}");

    let called = [&eks.first, &eks.after, &eks.unmarked].map(server::Server::calls);
    assert!(called.iter().zip(calls).all(|(now, before)| *now > before), "{calls:?}, {called:?}");
    assert_attributed(&platform.cloud.all_events());
}

/// The webhook's variables come before those of the pod, which may refer to them.
#[test]
fn the_kubelet_expands_references_to_the_session() {
    let platform = &*PLATFORM;
    let node = &platform.node;
    let mut pod = session(TENANT, "fab-refers-e9f1g", &["sleep"]);
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "OWN", "value": "$(FAB_SESSION_ID) of $(FAB_SESSION_IDENTITY)"},
        {"name": "OTHER", "value": "$(NO_SUCH_VARIABLE)"},
    ]);
    platform.create_as(OPERATOR, &pod);
    let name = "session-fab-refers-e9f1g";
    node.await_ready(TENANT, name);
    let read = node.exec(TENANT, name, "session", &["/box", "read", "/proc/self/environ"]).run();
    let has = |variable: &str| read.stdout.split('\0').any(|it| it == variable);
    assert!(has("OWN=fab-refers-e9f1g of agent.acme.fab-refers-e9f1g"), "{}", read.stdout);
    assert!(has("OTHER=$(NO_SUCH_VARIABLE)"), "{}", read.stdout);
}

/// `keep`: the old client assumes the role that its pod brings, under the operator's name.
#[test]
fn a_kept_client_assumes_its_own_role() {
    LazyLock::force(&EKS);
    let platform = &*PLATFORM;
    let node = &platform.node;
    admit(node, KEPT, "after", "enabled");
    let label = ["label", "namespace", KEPT, "fab.nanohype.dev/operator=keep"];
    assert!(node.kubectl(&label).run().ok);
    let pod = |sandbox: &str, operator: &str| {
        let env = |name: &str, value: &str| json!({"name": name, "value": value});
        let mut pod = session(KEPT, sandbox, &["sleep"]);
        pod["spec"]["containers"][0]["env"] = json!([
            env("FAB_OPERATOR", operator),
            env("FAB_SESSION_ROLE_ARN", cloud::OPERATORS),
            env("FAB_SESSION_DURATION", "1800"),
        ]);
        // The webhook reads the new label a moment later.
        wait_until("the namespace keeps the mode", Duration::from_secs(20), || {
            let create = node.kubectl(&["create", "--filename=-"]).stdin(&pod.to_string()).run();
            assert!(create.ok || create.stderr.contains("[fab-operator]"), "{}", create.stderr);
            create.ok.then_some(())
        });
        node.await_ready(KEPT, &format!("session-{sandbox}"))
    };
    let assume = |name: &str| {
        said(&node.exec(KEPT, name, "session", &["/client-go"]).stdin("assume\n").run().stdout)
    };
    let started = pod("fab-kept-y5z6a", "operator@example.com");
    assert_eq!(started["spec"]["initContainers"], Value::Null);
    assert!(has_base_credentials(&started), "{}", started["spec"]);
    for key in ["session-id", "source-identity", "session-role-arn"] {
        let annotation = &started["metadata"]["annotations"][format!("fab.nanohype.dev/{key}")];
        assert_eq!(annotation, &Value::Null, "{key}");
    }

    let caller = assume("session-fab-kept-y5z6a");
    assert!(is_session_of(cloud::OPERATORS, &caller), "{caller}");
    let calls = platform.cloud.events("GetCallerIdentity");
    let of_the_client =
        |event: &&Value| event["userIdentity"]["accessKeyId"] == caller["accessKeyId"];
    let call = calls.iter().find(of_the_client).unwrap();
    let identity = &call["userIdentity"]["sessionContext"]["sourceIdentity"];
    assert_eq!(identity, "operator@example.com", "{call}");

    // The control: STS denies a name that the role's trust policy does not allow.
    pod("fab-kept-b7c8d", "operator@other.example");
    let denied = assume("session-fab-kept-b7c8d");
    assert!(denied["error"].as_str().unwrap_or("").contains("AccessDenied"), "{denied}");
}

/// The chart's pods have one by default, an agent's pod has one if it requests it.
#[test]
fn a_user_namespace_gives_a_pod_another_user_on_the_node() {
    let platform = &*PLATFORM;
    let all = platform.node.kubectl(&["get", "pods", "--namespace", SYSTEM]).json();
    let running: Vec<&Value> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Running")
        .collect();
    assert!(running.len() >= 2, "the webhook and what keeps its certificate: {running:?}");
    for pod in running {
        assert_eq!(pod["spec"]["hostUsers"], false);
        let users = users_on_the_node(pod);
        assert!(users.iter().any(|user| user % IDS_OF_A_POD == 61017), "{users:?}");
        assert!(users.iter().all(|user| *user >= IDS_OF_A_POD), "{users:?}");
    }
    let mut apart = session(TENANT, "fab-apart-q1w2e", &["sleep"]);
    apart["spec"]["hostUsers"] = false.into();
    platform.create_as(OPERATOR, &apart);
    let apart = platform.node.await_ready(TENANT, "session-fab-apart-q1w2e");
    let users = users_on_the_node(&apart);
    assert!(users.iter().any(|user| user % IDS_OF_A_POD == 64017), "{users:?}");
    assert!(users.iter().all(|user| *user >= IDS_OF_A_POD), "{users:?}");
    let caller = call(platform, "session-fab-apart-q1w2e");
    assert!(caller["arn"].as_str().unwrap().ends_with("/fab-apart-q1w2e"), "{caller}");

    // The control: without it all sidecars are the same user for the kernel.
    let shared = platform.create_session("fab-shared-r3t4z");
    let shared = platform.node.await_ready(TENANT, &shared);
    assert!(users_on_the_node(&shared).contains(&64017));
}

/// Returns the users of a pod's processes as the node sees them.
fn users_on_the_node(pod: &Value) -> BTreeSet<u32> {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let of_the_pod = fs::read_dir("/proc").unwrap().flatten().filter(|process| {
        fs::read_to_string(process.path().join("cgroup")).is_ok_and(|cgroup| cgroup.contains(uid))
    });
    let user = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.to_owned();
        line.split_whitespace().next()?.parse().ok()
    };
    let statuses =
        of_the_pod.filter_map(|process| fs::read_to_string(process.path().join("status")).ok());
    statuses.filter_map(user).collect()
}

/// Number of users of each pod; the range of a pod starts at a multiple.
const IDS_OF_A_POD: u32 = 65536;

#[test]
fn the_image_has_only_the_program_and_ca_certificates() {
    let image = Image::unpack();
    assert_eq!(image.paths(), [ROOTS, "/fab-session-injector"]);
    assert_eq!(image.config["Entrypoint"], json!(["/fab-session-injector"]));
    assert_eq!(image.config["User"], "61017:61017");
    let labels = &image.config["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));

    // Static: it has no interpreter and no library.
    let read = Command::new("readelf")
        .args(["--wide", "--program-headers", "--dynamic"])
        .arg(image.at("/fab-session-injector"))
        .output()
        .unwrap();
    let read = String::from_utf8(read.stdout).unwrap();
    assert!(read.contains("LOAD"), "{read}");
    assert!(!read.contains("INTERP") && !read.contains("NEEDED"), "{read}");

    // Mozilla's list has had 100 to 150 CA certificates for years.
    let roots = fs::read_to_string(image.at(ROOTS)).unwrap();
    assert!((100..200).contains(&roots.matches("BEGIN CERTIFICATE").count()));
}

#[test]
fn the_image_has_no_shell() {
    let node = &PLATFORM.node;
    let of_the_webhook = "--selector=app.kubernetes.io/component=webhook";
    let webhooks = node.kubectl(&["get", "pods", "--namespace", SYSTEM, of_the_webhook]).json();
    let name = webhooks["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let exec = |words: &[&str]| node.exec(SYSTEM, &name, "webhook", words).run();
    assert!(exec(&["/fab-session-injector", "--version"]).ok);
    for shell in ["sh", "bash", "/bin/sh", "/bin/busybox"] {
        let ran = exec(&[shell]);
        let missing = ["no such file or directory", "not found in $PATH"];
        assert!(!ran.ok && missing.iter().any(|text| ran.stderr.contains(text)), "{}", ran.stderr);
    }
}

#[test]
fn a_node_leaves_nothing_behind() {
    let mut node = Node::start();
    eprintln!("{}", node.log());
    node.make_image(
        "node.test/box:1",
        "/box",
        &[format!("{}:/box:755", process::program("box").display())],
    );
    node.await_service_account("default", "default");
    node.create(&[json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "box", "namespace": "default"},
        "spec": {"containers": [{"name": "box", "image": "node.test/box:1", "args": ["sleep"]}]},
    })]);
    node.await_ready("default", "box");
    let listed = node.exec("default", "box", "box", &["/box", "list", "/"]).run();
    assert!(listed.stdout.lines().any(|name| name == "box"), "{}", listed.stderr);

    let (name, state) = (node.name(), node.state());
    let traces = || traces_of(&name, &state);
    assert_eq!(
        traces().len(),
        4,
        "what is looked for is there while the node runs: {:?}",
        traces()
    );
    node.down();
    assert!(traces().is_empty(), "{:?}", traces());
}

/// Returns links, cgroups, processes and files of a node on this machine. Its mounts are in a mount
/// namespace, which ends with its processes.
fn traces_of(name: &str, state: &Path) -> Vec<String> {
    let mut traces = Vec::new();
    if Path::new("/sys/class/net").join(name).exists() {
        traces.push("a link".to_owned());
    }
    let found = Command::new("find").args(["/sys/fs/cgroup", "-name", name]).output().unwrap();
    if !found.stdout.is_empty() {
        traces.push(format!("cgroups {}", String::from_utf8_lossy(&found.stdout)));
    }
    let state_text = state.to_str().unwrap();
    let processes: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|words| String::from_utf8_lossy(&words).replace('\0', " "))
        .filter(|words| words.contains(state_text))
        .collect();
    if !processes.is_empty() {
        traces.push(format!("processes {processes:?}"));
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if mounts.contains(state_text) {
        traces.push("mounts on the machine".to_owned());
    }
    if state.exists() {
        traces.push("files".to_owned());
    }
    traces
}

/// Checks that base credentials made only AssumeRole calls with a SourceIdentity, and that every
/// other call has a SourceIdentity, except calls from namespaces that did not opt in, or that keep
/// the old client mode.
fn assert_attributed(events: &[Value]) {
    let (mut assumed, mut attributed) = (0, 0);
    for event in events {
        let identity = &event["userIdentity"];
        let name = event["eventName"].as_str().unwrap();
        if identity["invokedBy"] == "pods.eks.amazonaws.com" {
            assert!(["AssumeRole", "AssumeRoleForPodIdentity"].contains(&name), "{event}");
            continue;
        }
        let context = &identity["sessionContext"];
        let issuer = context["sessionIssuer"]["arn"].as_str().unwrap_or("");
        if [BASE, DISPATCHER].contains(&issuer) {
            assert_eq!(name, "AssumeRole", "with base credentials: {event}");
            assert!(is_of_acme(&event["requestParameters"]["sourceIdentity"]), "{event}");
            assumed += 1;
        } else if ![cloud::PLAIN, cloud::KEPT, cloud::OPERATORS].contains(&issuer) {
            assert_eq!(issuer, BROKER, "{event}");
            assert!(is_of_acme(&context["sourceIdentity"]), "{event}");
            attributed += 1;
        }
    }
    assert!(assumed > 0 && attributed > 0, "{assumed}, {attributed}");
}

fn is_of_acme(identity: &Value) -> bool {
    identity.as_str().is_some_and(|identity| identity.starts_with("agent.acme."))
}

/// Returns whether AWS reports the caller as a session of this role.
fn is_session_of(role: &str, caller: &Value) -> bool {
    let (_, name) = role.rsplit_once('/').unwrap();
    let session = format!("arn:aws:sts::111122223333:assumed-role/{name}/");
    caller["arn"].as_str().is_some_and(|arn| arn.starts_with(&session))
}

/// Returns whether a container other than the sidecar has the token mount of the EKS webhook, or
/// its variables.
fn has_base_credentials(pod: &Value) -> bool {
    pod["spec"]["containers"].as_array().unwrap().iter().any(|container| {
        let has = |list: &str, name: &str| {
            container[list].as_array().is_some_and(|list| list.iter().any(|it| it["name"] == name))
        };
        let env = container["env"].as_array().cloned().unwrap_or_default();
        has("volumeMounts", "eks-pod-identity-token")
            || env.iter().any(|it| it["value"] == "http://169.254.170.23/v1/credentials")
    })
}

fn the_only_pod(node: &Node, namespace: &str, selector: &str) -> Value {
    let pods = ["get", "pods", "--namespace", namespace, "--selector", selector];
    let pods = node.kubectl(&pods).json();
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods[0].clone()
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap()
}

fn log_of(node: &Node, namespace: &str, what: &str) -> String {
    let logs = node.kubectl(&["logs", what, "--namespace", namespace]).run();
    assert!(logs.ok, "{}", logs.stderr);
    logs.stdout
}

fn call(platform: &Platform, pod: &str) -> Value {
    call_in(&platform.node, TENANT, pod, "session")
}

/// Calls AWS with the AWS SDK for Go in the agent's container, unchanged.
pub(crate) fn call_in(node: &Node, namespace: &str, pod: &str, container: &str) -> Value {
    let called = node.exec(namespace, pod, container, &["/client-go"]).stdin("call\n").run();
    assert!(called.ok, "{}", called.stderr);
    said(&called.stdout)
}

/// Returns the SDK's line of output.
fn said(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}
