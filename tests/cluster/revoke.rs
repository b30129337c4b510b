//! `revoke`: its changes in moto's IAM, its pods on a real API server, and its effect on a real
//! sidecar and a real SDK in the strict AWS.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
    time::Duration,
};

use harness::{
    moto::Moto,
    process::wait_until,
    schema,
    sidecar::{
        account::{Account, BROKER, Policies, allow, statements, trust},
        client::{self, Client},
        pod::Pod,
    },
    world::{OPERATOR, SYSTEM, World, agent, parameter, role},
};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::{
    WORLD,
    terraform::apply,
    web_identity::claims::{CLAIMS, kind_of, object},
};

/// IAM, with a role for each test.
static IAM: LazyLock<Moto> = LazyLock::new(Moto::start);

/// A role in IAM, and the shell of its administrator.
#[derive(Clone)]
struct Terminal<'m> {
    iam: &'m Moto,
    role: String,
    kubeconfig: PathBuf,
    /// Access key and secret.
    credentials: (String, String),
}

impl<'m> Terminal<'m> {
    /// Creates the role.
    fn open(name: &str) -> Terminal<'static> {
        Terminal::at(&IAM, name)
    }

    fn at(iam: &'m Moto, name: &str) -> Self {
        iam.iam(
            "CreateRole",
            &[
                ("RoleName", &format!("prod-{name}-broker")),
                ("Path", "/eks-agent-platform/tenants/"),
                ("AssumeRolePolicyDocument", &trust(&json!({})).to_string()),
            ],
        );
        let credentials = ("test".to_owned(), "test".to_owned());
        Self { iam, role: role(name), kubeconfig: "/dev/null".into(), credentials }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .arg("revoke")
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("AWS_ACCESS_KEY_ID", &self.credentials.0)
            .env("AWS_SECRET_ACCESS_KEY", &self.credentials.1)
            .env("AWS_ENDPOINT_URL_IAM", self.iam.endpoint())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env_remove("AWS_REGION");
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::of(&self.command(arguments).output().unwrap())
    }

    /// Runs it with the role on the command line.
    fn on_role(&self, arguments: &[&str]) -> Said {
        self.run(&[&["--session-role", &self.role], arguments].concat())
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(&[&["--session-role", &self.role], arguments].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn name(&self) -> &str {
        self.role.rsplit('/').next().unwrap()
    }

    fn put(&self, policy: &str, document: &str) {
        self.iam.iam(
            "PutRolePolicy",
            &[("RoleName", self.name()), ("PolicyName", policy), ("PolicyDocument", document)],
        );
    }

    /// Returns the text of the policy; None if the role has none of this name.
    fn policy(&self, policy: &str) -> Option<String> {
        let names = self.iam.iam("ListRolePolicies", &[("RoleName", self.name())]);
        if !names.contains(&format!("<member>{policy}</member>")) {
            return None;
        }
        let get = [("RoleName", self.name()), ("PolicyName", policy)];
        let answer = self.iam.iam("GetRolePolicy", &get);
        let (_, text) = answer.split_once("<PolicyDocument>").unwrap();
        let (text, _) = text.split_once("</PolicyDocument>").unwrap();
        Some(percent_decode_str(text).decode_utf8().unwrap().into_owned())
    }

    fn list(&self) -> Value {
        let said = self.on_role(&["--list", "-o", "json"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        let list = serde_json::from_str(&said.stdout).unwrap();
        schema::check(&list);
        list
    }

    /// Returns the revoked sessions, and whether each one has a mark.
    fn revoked(&self) -> BTreeSet<(String, bool)> {
        let list = self.list();
        let sessions = list["sessions"].as_array().unwrap().iter();
        let entry = |session: &Value| {
            let name = session["sourceIdentity"].as_str().unwrap().to_owned();
            (name, session["withoutPodSince"].is_string())
        };
        sessions.map(entry).collect()
    }
}

struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

fn entries(names: &[&str]) -> BTreeSet<(String, bool)> {
    names.iter().map(|name| ((*name).to_owned(), false)).collect()
}

#[test]
fn programs_at_once_lose_no_entry_and_no_foreign_policy() {
    let terminal = Terminal::open("at-once");
    let foreign = statements(&[allow(&["bedrock:InvokeModel"], json!({"Resource": "*"}))]);
    let foreign = format!("{foreign:#}\n");
    terminal.put("own", &foreign);
    let names = ["a", "b", "c", "d"].map(|name| format!("agent.acme.{name}"));
    let all = names.iter().map(|name| terminal.start(&["--source-identity", name, "--apply"]));
    let all: Vec<Child> = all.collect();
    for child in all {
        let said = Said::of(&child.wait_with_output().unwrap());
        assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
        assert!(said.stderr.contains("revoke stops no pod"), "{}", said.stderr);
    }
    assert_eq!(terminal.revoked(), entries(&names.each_ref().map(String::as_str)));
    assert_eq!(terminal.policy("own").unwrap(), foreign);
    // The second time nothing is written, so nothing is waited for.
    let said = terminal.on_role(&["--source-identity", "agent.acme.a", "--apply"]);
    assert!(said.code == 0 && said.stdout.contains("agent.acme.a, as before"), "{}", said.stdout);
}

#[test]
fn an_entry_that_another_program_removes_is_written_again() {
    let terminal = Terminal::open("removed");
    let child = terminal.start(&["--source-identity", "agent.acme.a", "--apply"]);
    wait_until("it is written", Duration::from_secs(30), || {
        terminal.policy(POLICY).filter(|text| text.contains("agent.acme.a"))
    });
    // A program that read the policy before.
    let other = terminal.run(&["--source-identity", "agent.acme.b"]).stdout;
    terminal.put(POLICY, &other);
    let said = Said::of(&child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("writing it again"), "{}", said.stderr);
    assert_eq!(terminal.revoked(), entries(&["agent.acme.a", "agent.acme.b"]));
}

#[test]
fn a_hundred_sessions_fit_and_a_full_policy_is_an_error() {
    let terminal = Terminal::open("full");
    let other = statements(&[allow(&["s3:GetObject"], json!({"Resource": "*"}))]).to_string();
    terminal.put("other", &other);
    let revoke = |from: usize, to: usize, more: &[&str]| {
        let names = (from..to).map(|index| format!("--session={index:053}"));
        let names: Vec<String> = names.collect();
        let mut arguments = vec!["--tenant=acme"];
        arguments.extend(names.iter().map(String::as_str));
        arguments.extend(more);
        terminal.on_role(&arguments)
    };
    let said = revoke(0, 100, &["--apply"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(terminal.revoked().len(), 100);
    let before = terminal.policy(POLICY).unwrap();
    let said = revoke(100, 160, &["--apply"]);
    assert_eq!(said.code, 1, "{}{}", said.stdout, said.stderr);
    let said = said.stderr;
    for part in [
        "IAM accepts 10240",
        &format!("other policies have {}", other.len()),
        "--prune",
        "--older-than",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(terminal.policy(POLICY).unwrap(), before, "no part was written");
    let list = terminal.list();
    assert_eq!(list["characters"], json!({"used": before.len() + other.len(), "limit": 10_240}));
    // As many as the list says.
    let remaining = usize::try_from(list["remainingSessions"].as_u64().unwrap()).unwrap();
    assert_eq!(revoke(100, 100 + remaining, &["--apply"]).code, 0);
    assert_eq!(terminal.revoked().len(), 100 + remaining);
    assert_eq!(revoke(500, 503, &["--apply"]).code, 1);
    // The time of older credentials needs no place for names.
    assert_eq!(
        terminal.on_role(&["--tenant=acme", "--list"]).stdout.lines().count(),
        102 + remaining
    );
}

#[test]
fn a_policy_that_was_edited_is_refused_and_unchanged() {
    let terminal = Terminal::open("edited");
    let edited = statements(&[allow(&["s3:GetObject"], json!({"Resource": "*"}))]).to_string();
    terminal.put(POLICY, &edited);
    for arguments in [&["--source-identity=agent.acme.a", "--apply"][..], &["--list"]] {
        let said = terminal.on_role(arguments);
        assert_eq!(said.code, 1, "{arguments:?}: {}", said.stderr);
        assert!(
            said.stderr.contains("does not have the form that revoke writes"),
            "{}",
            said.stderr
        );
    }
    assert_eq!(terminal.policy(POLICY).unwrap(), edited);
    // The control: the form that revoke prints, with the white space of another tool.
    let printed = terminal.run(&["--source-identity", "agent.acme.b"]).stdout;
    terminal.put(POLICY, &printed);
    let said = terminal.on_role(&["--source-identity=agent.acme.a", "--apply"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(terminal.revoked(), entries(&["agent.acme.a", "agent.acme.b"]));
}

#[test]
fn a_role_or_a_permission_that_is_missing_is_one_sentence() {
    let iam = Moto::start();
    let mut terminal = Terminal::at(&iam, "denied");
    let apply = ["--source-identity=agent.acme.a", "--apply"];
    let expect = |said: &Said, code: i32, parts: &[&str]| {
        assert_eq!(said.code, code, "{}", said.stderr);
        assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
        for part in parts {
            assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
        }
    };
    let on = |role: &str| terminal.run(&[&["--session-role", role], &apply[..]].concat());
    expect(&on("arn:aws:iam::111122223333:role/none"), 2, &["NoSuchEntity", "AWS_PROFILE"]);
    // A role of this name has another path, or is in another account.
    for wrong in [
        "arn:aws:iam::111122223333:role/prod-denied-broker",
        &terminal.role.replace("1111", "9999"),
    ] {
        expect(&on(wrong), 2, &[wrong, &terminal.role, "another ARN"]);
    }
    // The role of another tenant; with the own tenant as the control, the policy is written.
    let trusting = |names: &str| {
        let condition = json!({"StringLike": {"sts:SourceIdentity": names}});
        let document = trust(&condition).to_string();
        let document = ("PolicyDocument", &*document);
        iam.iam("UpdateAssumeRolePolicy", &[("RoleName", terminal.name()), document]);
    };
    trusting("agent.globex.*");
    expect(
        &terminal.on_role(&apply),
        2,
        &["not the session role of tenant acme", "--session-role"],
    );
    assert_eq!(terminal.policy(POLICY), None);
    trusting("agent.acme.*");
    assert_eq!(terminal.on_role(&apply).code, 0);
    iam.iam("DeleteRolePolicy", &[("RoleName", terminal.name()), ("PolicyName", POLICY)]);

    let mut command = terminal.command(&[&["--session-role", &terminal.role], &apply[..]].concat());
    command.env("AWS_ENDPOINT_URL_IAM", "http://127.0.0.1:1");
    expect(&Said::of(&command.output().unwrap()), 3, &["IAM did not answer"]);

    // A user that may only read.
    let reads = allow(&["iam:Get*", "iam:List*"], json!({"Resource": "*"}));
    iam.iam("CreateUser", &[("UserName", "reader")]);
    iam.iam(
        "PutUserPolicy",
        &[
            ("UserName", "reader"),
            ("PolicyName", "reads"),
            ("PolicyDocument", &statements(&[reads]).to_string()),
        ],
    );
    let key = iam.iam("CreateAccessKey", &[("UserName", "reader")]);
    let text = |name: &str| {
        let (_, rest) = key.split_once(&format!("<{name}>")).unwrap();
        rest.split_once('<').unwrap().0.to_owned()
    };
    terminal.credentials = (text("AccessKeyId"), text("SecretAccessKey"));
    iam.enforce_policies();
    assert_eq!(terminal.on_role(&["--list"]).code, 0, "the control: the user may read");
    let said = terminal.on_role(&apply);
    // moto's denial has another form than AWS's, so that SDKs find no code in it.
    expect(&said, 2, &["HTTP 403", &terminal.role, "AWS_PROFILE"]);
    assert_eq!(terminal.revoked(), entries(&[]));
}

/// A pod of a tenant on the API server.
fn of_session(namespace: &str, name: &str, session: &str) -> Value {
    let mut pod = agent(namespace, name);
    pod["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": session});
    pod
}

/// Opens the shell of a cluster's administrator, for a new tenant with a namespace and a role.
fn of_cluster(world: &World, tenant: &str) -> Terminal<'static> {
    // The commands find the release by the service account in the chart's ClusterRoleBindings.
    for kind in ["ConfigMap", "ClusterRoleBinding"] {
        world.apply(world.manifest(kind));
    }
    let mut terminal = Terminal::open(tenant);
    world.publish(tenant, &terminal.role);
    world.namespace(&format!("tenants-{tenant}"), "enabled", tenant, &[]);
    terminal.kubeconfig = world.cluster.kubeconfig();
    terminal
}

#[test]
fn a_pod_is_revoked_by_the_variables_of_its_sidecar() {
    let world = &*WORLD;
    let terminal = of_cluster(world, "revoked");
    let namespace = "tenants-revoked";
    world.create(&of_session(namespace, "pod-a", "fab-coder-x7k2p"), Some(OPERATOR)).unwrap();
    let plain = world.create(&agent(namespace, "pod-b"), None).unwrap();
    let uid = plain.pod["metadata"]["uid"].as_str().unwrap();
    let of_uid = format!("agent.revoked.{uid}");

    let pods = ["--pod=pod-a", "--pod=pod/pod-b", "--namespace", namespace];
    let printed = terminal.run(&pods);
    assert!(printed.stdout.contains("agent.revoked.fab-coder-x7k2p"), "{}", printed.stderr);
    assert!(printed.stdout.contains(&of_uid));
    assert_eq!(terminal.revoked(), entries(&[]), "it only prints");
    let said = terminal.run(&[&pods[..], &["--apply"]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(terminal.revoked(), entries(&["agent.revoked.fab-coder-x7k2p", &of_uid]));
    let delete = format!("kubectl delete pod pod-a --namespace {namespace}");
    assert!(said.stderr.contains(&delete), "{}", said.stderr);

    // By name, the role is that of SSM. A session without a pod is a warning.
    let said = terminal.run(&["--tenant=revoked", "--session=none", "--apply"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr
            .contains("warning: no pod and no SandboxClaim of the cluster has agent.revoked.none"),
        "{}",
        said.stderr
    );

    // Another role is published now: its policy would not stop the pod.
    world.publish("revoked", &role("other"));
    let said = terminal.run(&[&pods[..], &["--apply"]].concat());
    assert_eq!(said.code, 2, "{}", said.stderr);
    for part in [&*terminal.role, &role("other"), &parameter("revoked"), "--session-role"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    let said = terminal.on_role(&[&pods[..], &["--apply"]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);

    let mut bare = agent(namespace, "bare");
    bare["spec"]["serviceAccountName"] = "default".into();
    world.create(&bare, None).unwrap();
    // A tenant's pod with the session of another tenant, where neither webhook nor guard acts.
    let stored = world.cluster.kubectl(&["get", "pod", "pod-a", "--namespace", namespace]).json();
    let copy = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "copy", "namespace": "default"},
        "spec": {
            "initContainers": [{
                "name": "fab-session-credentials", "image": "i",
                "env": stored["spec"]["initContainers"][0]["env"],
            }],
            "containers": [{"name": "c", "image": "i"}],
        },
    });
    world.create(&copy, None).unwrap();
    // A pod of no component may have any variables, also in an enabled namespace of another tenant.
    world.namespace("tenants-neighbour", "enabled", "neighbour", &[]);
    let mut foreign = agent("tenants-neighbour", "foreign");
    foreign["spec"]["serviceAccountName"] = "default".into();
    let mut env = copy["spec"]["initContainers"][0]["env"].clone();
    env.as_array_mut().unwrap().retain(|it| it["valueFrom"].is_null());
    foreign["spec"]["containers"][0]["env"] = env;
    world.create(&foreign, None).unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["--pod=none", "--namespace", namespace], "does not exist in the cluster"),
        (&["--pod=pod-a", "--tenant=acme", "--namespace", namespace], "once for each tenant"),
        (&["--pod=bare", "--namespace", namespace], "has no session"),
        (&["--pod=copy", "--namespace=default"], "namespace default is not enabled"),
        (
            &["--pod=foreign", "--namespace=tenants-neighbour"],
            "its namespace is of tenant neighbour",
        ),
    ];
    for (arguments, want) in cases {
        let said = terminal.run(arguments);
        assert_eq!(said.code, 2, "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains(want), "{arguments:?}: {}", said.stderr);
    }
}

#[test]
fn prune_removes_an_entry_after_pod_and_longest_session() {
    let world = &*WORLD;
    let terminal = of_cluster(world, "pruned");
    let namespace = "tenants-pruned";
    world.create(&of_session(namespace, "pod-a", "a"), Some(OPERATOR)).unwrap();
    let names = ["--tenant=pruned", "--session=a", "--session=b"];
    assert_eq!(terminal.run(&[&names[..], &["--apply"]].concat()).code, 0);
    let entry = |name: &str, mark: bool| (format!("agent.pruned.{name}"), mark);
    let prune = || {
        let said = terminal.run(&["--tenant=pruned", "--prune"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        said.stdout
    };

    let said = prune();
    assert!(
        said.contains("kept     agent.pruned.a") && said.contains("marked   agent.pruned.b"),
        "{said}"
    );
    assert_eq!(terminal.revoked(), [entry("a", false), entry("b", true)].into());
    prune();
    assert_eq!(terminal.revoked(), [entry("a", false), entry("b", true)].into(), "too early");

    // Both entries were marked before the longest session; the pod of one is there again.
    let past = |ago: SignedDuration| {
        let since = (Timestamp::now() - ago).strftime("%Y%m%dT%H%M%SZ").to_string();
        let marked = json!({"Version": "2012-10-17", "Statement": [{
            "Sid": format!("RevokedSessionsWithoutPodSince{since}"),
            "Effect": "Deny", "Action": "*", "Resource": "*",
            "Condition": {"StringEquals": {"aws:SourceIdentity": ["agent.pruned.a", "agent.pruned.b"]}},
        }]});
        terminal.put(POLICY, &marked.to_string());
    };
    past(SignedDuration::from_mins(60));
    prune();
    assert_eq!(
        terminal.revoked(),
        [entry("a", false), entry("b", true)].into(),
        "two clocks differ"
    );
    past(SignedDuration::from_mins(75));

    // A user that may not list pods removes nothing.
    world.service_account(SYSTEM, "prunes");
    let mut little = terminal.clone();
    little.kubeconfig = world.cluster.kubeconfig_of(SYSTEM, "prunes");
    let said = little.on_role(&["--prune"]);
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(said.stderr.contains("nothing was removed"), "{}", said.stderr);
    assert_eq!(terminal.revoked(), [entry("a", true), entry("b", true)].into());

    let said = prune();
    assert!(said.contains("removed  agent.pruned.b"), "{said}");
    assert_eq!(terminal.revoked(), [entry("a", false)].into());

    let delete =
        ["delete", "pod", "pod-a", "--namespace", namespace, "--grace-period=0", "--force"];
    assert!(world.cluster.kubectl(&delete).run().ok);
    past(SignedDuration::from_hours(2));
    prune();
    assert_eq!(terminal.policy(POLICY), None, "a policy without entries is deleted");
}

/// The pods of a claim do not name its session, and there may be none, as of a suspended Sandbox.
#[test]
fn the_session_of_a_claim_stays_until_the_claim_is_gone() {
    let world = &*WORLD;
    let terminal = of_cluster(world, "claimed");
    world.apply(&kind_of(CLAIMS, "SandboxClaim", "sandboxclaims"));
    let claim = object(CLAIMS, "SandboxClaim", "task", None);
    let in_namespace = ["--namespace", "tenants-claimed"];
    let create = [&["create", "--filename=-", "--output=json"], &in_namespace[..]].concat();
    let created = wait_until("the kind is served", Duration::from_secs(20), || {
        let mut claim = claim.clone();
        claim["metadata"]["namespace"] = json!("tenants-claimed");
        let created = world.cluster.kubectl(&create).stdin(&claim.to_string()).run();
        created.ok.then(|| serde_json::from_str::<Value>(&created.stdout).unwrap())
    });
    let uid = created["metadata"]["uid"].as_str().unwrap();
    let identity = format!("agent.claimed.{uid}");
    // A pod of a Sandbox without a claim has the same variables, and its own UID as the session.
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let alone = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone", "namespace": "default"},
        "spec": {
            "initContainers": [{
                "name": "fab-session-credentials", "image": "i",
                "env": [
                    value("FAB_SESSION_ID", "<sandbox claim>"),
                    value("FAB_SESSION_TENANT", "claimed"),
                    value("FAB_SESSION_ROLE_ARN", &terminal.role),
                    value("FAB_SESSION_DURATION", "3600"),
                ],
            }],
            "containers": [{"name": "c", "image": "i"}],
        },
    });
    let alone = world.create(&alone, None).unwrap().pod;
    let of_alone = alone["metadata"]["uid"].as_str().unwrap();
    let names = ["--tenant=claimed", "--session", uid, "--session", of_alone];
    let revoked = terminal.run(&[&names[..], &["--apply"]].concat());
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    for deletion in [
        "kubectl delete sandboxclaim task --namespace tenants-claimed",
        "kubectl delete pod alone --namespace default",
    ] {
        assert!(revoked.stderr.contains(deletion), "{}", revoked.stderr);
    }

    let prune = || {
        let said = terminal.run(&["--tenant=claimed", "--prune"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        said.stdout
    };
    let said = prune();
    assert!(said.contains(&format!("kept     {identity}")), "{said}");
    assert!(said.contains(&format!("kept     agent.claimed.{of_alone}")), "{said}");
    let delete = [&["delete", "sandboxclaim", "task"], &in_namespace[..]].concat();
    assert!(world.cluster.kubectl(&delete).run().ok);
    assert!(prune().contains(&format!("marked   {identity}")));
}

#[test]
fn terraform_reads_the_printed_resource() {
    let session = ["--tenant=acme", "--session=fab-coder-x7k2p", "--older-than=2h"];
    let session = [&session[..], &["--session=fab-planner-x7k2q"]].concat();
    let said =
        Terminal::print(&[&session[..], &["-o=terraform", "--session-role", BROKER]].concat());
    let address = "aws_iam_role_policy.fab_session_injector_revoked_prod_acme_broker";
    let read = &apply(&said.stdout, true).unwrap().resources[address];
    assert_eq!((&read["name"], &read["role"]), (&json!(POLICY), &json!("prod-acme-broker")));
    let policy: Value = serde_json::from_str(read["policy"].as_str().unwrap()).unwrap();
    assert_eq!(policy["Statement"].as_array().unwrap().len(), 2);
}

/// The printed policy, in an AWS that enforces it.
#[test]
fn a_revoked_session_is_denied_and_its_neighbour_is_not() {
    // Long beside the pauses of a busy machine, in which an SDK would use expired credentials.
    let account = Account::open(Policies { seconds: Some(60), ..Policies::default() });
    let pod_of = |session: &'static str| {
        let mut template = account.template();
        template.named = Some(session);
        account.pod_of(&template)
    };
    let agent = |pod: &Pod| {
        let endpoint = format!("AWS_ENDPOINT_URL_SSM=http://{}", account.address());
        let words = [&["env".to_owned(), endpoint][..], &client::words("rust")].concat();
        Client::start("rust", pod.agent(&words))
    };
    let printed = |arguments: &[&str]| -> Value {
        let said = Terminal::print(arguments);
        assert_eq!(said.code, 0, "{}", said.stderr);
        serde_json::from_str(&said.stdout).unwrap()
    };
    let (pod, neighbour) = (pod_of("fab-coder-x7k2p"), pod_of("fab-planner-x7k2q"));
    let _sidecars = [pod.start_ready(), neighbour.start_ready()];
    let (mut revoked, mut other) = (agent(&pod), agent(&neighbour));
    revoked.read().unwrap();
    other.read().unwrap();

    let policy = printed(&["--tenant=acme", "--session=fab-coder-x7k2p"]);
    account.aws.put_role_policy(BROKER, POLICY, &policy).unwrap();
    let denied = revoked.read().unwrap_err();
    assert!(denied.contains("with an explicit deny in an identity-based policy"), "{denied}");
    other.read().unwrap();
    // AWS requires no permission for GetCallerIdentity.
    revoked.call().unwrap();

    // The sidecar gets new credentials of the session, and they are denied, too. STS does not say
    // that the session is revoked, so neither does the status.
    let key = pod.get("/v1/credentials").1["AccessKeyId"].clone();
    wait_until("the sidecar renews", Duration::from_secs(180), || {
        let (status, body) = pod.get("/v1/credentials");
        (status == 200 && body["AccessKeyId"] != key).then_some(())
    });
    assert_eq!(pod.status()["lastError"], Value::Null);
    assert!(agent(&pod).read().unwrap_err().contains("explicit deny"));
    // A new pod of the tenant works.
    let new = pod_of("fab-coder-9mw4t");
    let _new = new.start_ready();
    agent(&new).read().unwrap();
    other.read().unwrap();

    // Credentials that were issued after the time are valid, and those before it are not.
    let older = printed(&["--older-than=2026-01-01T00:00:00Z"]).to_string();
    let put = |document: &str| {
        let document: Value = serde_json::from_str(document).unwrap();
        account.aws.put_role_policy(BROKER, POLICY, &document).unwrap();
    };
    put(&older);
    for pod in [&pod, &neighbour, &new] {
        agent(pod).read().unwrap();
    }
    put(&older.replace("2026-01-01", "2999-01-01"));
    for pod in [&pod, &neighbour, &new] {
        assert!(agent(pod).read().unwrap_err().contains("explicit deny"));
    }

    // The undo.
    account.aws.delete_role_policy(BROKER, POLICY).unwrap();
    agent(&pod).read().unwrap();
}

impl Terminal<'_> {
    /// Runs it without IAM, credentials and cluster.
    fn print(arguments: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command.arg("revoke").args(arguments).env_clear();
        Said::of(&command.output().unwrap())
    }
}

const POLICY: &str = "fab-session-injector-revoked";
