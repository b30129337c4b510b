//! Tests the promises of docs/threat-model.md on a real node. Pods are created with webhook and
//! guard, with one of them, and with neither, which shows what stops an attempt. Attempts on a
//! running pod are made with and without the guard. Where AWS must stop an attempt, it is made
//! with and without the policies that the program prints.

use std::{
    io::{Read, Write},
    net::TcpStream,
    ops::Deref,
    process::Command,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use harness::{
    cloud,
    control_plane::Outcome,
    image::Image,
    platform::{self, OPERATOR},
    process::wait_until,
};
use serde_json::{Value, json};
use strict_aws::{Association, Role, World};

static BOTH: LazyLock<Platform> = LazyLock::new(|| start(true, true));
/// A platform without the guard's bindings.
static WEBHOOK: LazyLock<Platform> = LazyLock::new(|| start(true, false));
/// A platform without the webhook configuration.
static GUARD: LazyLock<Platform> = LazyLock::new(|| start(false, true));
static NEITHER: LazyLock<Platform> = LazyLock::new(|| start(false, false));

/// A tenant with minimal AWS policies: the control.
const PLAIN: Tenant = Tenant {
    name: "plain",
    namespace: "tenants-plain",
    base: "arn:aws:iam::111122223333:role/prod-plain-tenant",
    broker: "arn:aws:iam::111122223333:role/prod-plain-broker",
};

/// A tenant with the AWS policies of `iam --restrict-to pod-uid`.
const HELD: Tenant = Tenant {
    name: "held",
    namespace: "tenants-held",
    base: "arn:aws:iam::111122223333:role/prod-held-tenant",
    broker: "arn:aws:iam::111122223333:role/prod-held-broker",
};

struct Tenant {
    name: &'static str,
    namespace: &'static str,
    base: &'static str,
    broker: &'static str,
}

#[test]
fn an_agent_without_labels_gets_a_session_or_does_not_start() {
    // As the EKS webhook changes a pod of this service account.
    let pod = given_by_eks(agent("bare"));
    for platform in [&*BOTH, &*WEBHOOK] {
        let started = platform.run(&PLAIN, &pod);
        assert_eq!(started["spec"]["initContainers"][0]["name"], SIDECAR);
        let caller = platform.call(&PLAIN, "bare");
        assert!(is_session_of(PLAIN.broker, &caller), "{caller}");
        let own = format!("agent.plain.{}", uid(&started));
        assert_eq!(platform.identity_of(&caller), own);
    }
    GUARD.assert_refused(&PLAIN, &pod, "[guard-sidecar]");
    let mut later = injected(&PLAIN, &agent("given-later"), ADMIN);
    bring(&mut later, &pod);
    GUARD.assert_refused(&PLAIN, &later, "[guard-aws-token]");

    let started = NEITHER.run(&PLAIN, &pod);
    assert_eq!(started["spec"]["initContainers"], Value::Null);
    let caller = NEITHER.call(&PLAIN, "bare");
    assert!(is_session_of(PLAIN.base, &caller), "{caller}");
    assert_eq!(NEITHER.identity_of(&caller), Value::Null, "the call has no SourceIdentity");
}

#[test]
fn a_label_of_another_component_gains_nothing() {
    let fleet = labelled(given_by_eks(agent("fleet")), "agents.nanohype.dev/agent", "a");
    let dispatcher =
        labelled(given_by_eks(agent("dispatcher")), "fab.nanohype.dev/component", "dispatcher");
    let unknown = labelled(given_by_eks(agent("unknown")), "fab.nanohype.dev/component", "other");
    for platform in [&*BOTH, &*WEBHOOK] {
        platform.run(&PLAIN, &fleet);
        let caller = platform.call(&PLAIN, "fleet");
        assert!(caller["error"].is_string() && caller["arn"].is_null(), "{caller}");

        let started = platform.run(&PLAIN, &dispatcher);
        let caller = platform.call(&PLAIN, "dispatcher");
        assert_eq!(platform.identity_of(&caller), format!("agent.plain.{}", uid(&started)));

        platform.assert_refused(&PLAIN, &unknown, "[unknown-component]");
    }
    GUARD.assert_refused(&PLAIN, &fleet, "[guard-aws-token]");
    GUARD.assert_refused(&PLAIN, &dispatcher, "[guard-sidecar]");
    let injected = labelled(injected(&PLAIN, &agent("unknown"), ADMIN), COMPONENT, "other");
    GUARD.assert_refused(&PLAIN, &injected, "[guard-component]");

    for (pod, name) in [(fleet, "fleet"), (dispatcher, "dispatcher"), (unknown, "unknown")] {
        NEITHER.run(&PLAIN, &pod);
        let caller = NEITHER.call(&PLAIN, name);
        assert!(is_session_of(PLAIN.base, &caller), "{name}: {caller}");
    }
}

#[test]
fn a_pod_cannot_name_another_session() {
    let pod = labelled(agent("claims"), "agents.nanohype.dev/agentsandbox", "victim");
    let mut annotated = agent("claims-in-an-annotation");
    annotated["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": "victim"});
    // A tenant's copy of the pod that the webhook injects for a trusted creator.
    let copy = injected(&PLAIN, &pod, OPERATOR);
    for platform in [&*BOTH, &*WEBHOOK] {
        let started = platform.run(&PLAIN, &pod);
        let caller = platform.call(&PLAIN, "claims");
        assert_eq!(platform.identity_of(&caller), format!("agent.plain.{}", uid(&started)));
        assert_eq!(platform.asked_for("agent.plain.victim"), NOTHING);
        platform.assert_refused(&PLAIN, &annotated, "[reserved-annotation]");

        // The control: a trusted creator is allowed to name the session.
        let mut named = pod.clone();
        named["metadata"]["name"] = "named".into();
        named["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": "named"});
        platform.run_as(OPERATOR, &PLAIN, &named);
        let caller = platform.call(&PLAIN, "named");
        assert_eq!(platform.identity_of(&caller), "agent.plain.named");
    }

    GUARD.assert_refused(&PLAIN, &copy, "[guard-sidecar-env]");
    NEITHER.run(&PLAIN, &copy);
    let caller = NEITHER.call(&PLAIN, "claims");
    assert_eq!(NEITHER.identity_of(&caller), "agent.plain.victim");
}

#[test]
fn a_pod_cannot_act_as_another_tenant() {
    let mut pod = labelled(agent("strays"), "agents.nanohype.dev/platform", "held");
    set(&mut pod, "FAB_SESSION_TENANT", "held");
    set(&mut pod, "FAB_SESSION_ROLE_ARN", HELD.broker);
    let mut copy = injected(&HELD, &pod, ADMIN);
    for platform in [&*BOTH, &*WEBHOOK] {
        let started = platform.run(&PLAIN, &pod);
        let caller = platform.call(&PLAIN, "strays");
        assert!(is_session_of(PLAIN.broker, &caller), "{caller}");
        assert_eq!(platform.identity_of(&caller), format!("agent.plain.{}", uid(&started)));
    }
    copy["metadata"]["namespace"] = PLAIN.namespace.into();
    GUARD.assert_refused(&PLAIN, &copy, "[guard-sidecar-env]");

    // Then the trust policy of the other tenant's role decides, which names other base roles.
    NEITHER.try_as(ADMIN, &PLAIN, &copy).unwrap();
    let errors = wait_until("STS was asked", MOMENT, || {
        let errors = NEITHER.outcomes_of("strays", |asked| asked["roleArn"] == HELD.broker);
        (!errors.is_empty()).then_some(errors)
    });
    assert!(errors.iter().all(|error| error == "AccessDenied"), "{errors:?}");
}

#[test]
fn a_pod_cannot_use_reserved_names() {
    // A tenant's container with the sidecar's name.
    let mut named = agent("named-as-ours");
    let mut own = named["spec"]["containers"][0].clone();
    own["name"] = SIDECAR.into();
    push(&mut named["spec"]["containers"], own);
    let mut mounting = agent("mounts-ours");
    let mount = json!({"name": "fab-session-base", "mountPath": "/base"});
    push(&mut mounting["spec"]["containers"][0]["volumeMounts"], mount);
    let mut copy = injected(&PLAIN, &agent("mounts-ours"), ADMIN);
    bring(&mut copy, &mounting);
    for platform in [&*BOTH, &*WEBHOOK] {
        let started = platform.run(&PLAIN, &named);
        assert_eq!(started["spec"]["initContainers"][0]["name"], SIDECAR);
        assert_eq!(started["spec"]["containers"].as_array().unwrap().len(), 1, "the agent");
        platform.assert_refused(&PLAIN, &copy, "[reserved-volume]");
    }
    named["spec"]["serviceAccountName"] = "default".into();
    GUARD.assert_refused(&PLAIN, &named, "[guard-reserved-name]");
    GUARD.assert_refused(&PLAIN, &copy, "[guard-mount]");

    NEITHER.run(&PLAIN, &named);
    NEITHER.run(&PLAIN, &copy);
    let token = NEITHER.read(&PLAIN, "mounts-ours", "agent", "/base/token").unwrap();
    assert!(NEITHER.base_credentials(&token).unwrap()["AccessKeyId"].is_string());
}

#[test]
fn a_container_named_like_a_mesh_proxy_has_no_credentials() {
    let mut pod = given_by_eks(agent("meshed"));
    let mut proxy = pod["spec"]["containers"][0].clone();
    proxy["name"] = "istio-proxy".into();
    push(&mut pod["spec"]["containers"], proxy);
    let call = |platform: &Platform| platform.call_in(&PLAIN, "meshed", "istio-proxy");
    for platform in [&*BOTH, &*WEBHOOK] {
        platform.run(&PLAIN, &pod);
        assert!(is_session_of(PLAIN.broker, &platform.call(&PLAIN, "meshed")));
        let caller = call(platform);
        assert!(caller["error"].is_string() && caller["arn"].is_null(), "{caller}");
    }
    NEITHER.run(&PLAIN, &pod);
    let caller = call(&NEITHER);
    assert!(is_session_of(PLAIN.base, &caller), "{caller}");
}

#[test]
fn a_pod_cannot_share_processes_with_the_sidecar() {
    let sharing = |mut pod: Value| {
        pod["spec"]["shareProcessNamespace"] = true.into();
        pod
    };
    let pod = sharing(agent("shares"));
    let copy = sharing(injected(&PLAIN, &agent("shares"), ADMIN));
    let alone = injected(&PLAIN, &agent("alone"), ADMIN);
    for platform in [&*BOTH, &*WEBHOOK] {
        platform.assert_refused(&PLAIN, &pod, "[host-namespace]");
    }
    GUARD.assert_refused(&PLAIN, &copy, "[guard-host-namespace]");

    // Its own process, the pause container's and the sidecar's; without the field only its own.
    for (pod, name, want) in [(&copy, "shares", true), (&alone, "alone", false)] {
        NEITHER.run(&PLAIN, pod);
        let listed = NEITHER.node.exec(PLAIN.namespace, name, "agent", &["/box", "list", "/proc"]);
        let processes = listed.run().stdout;
        let ids = processes.lines().filter(|name| name.parse::<u32>().is_ok());
        let sees = ids
            .filter_map(|id| {
                NEITHER.read(&PLAIN, name, "agent", &format!("/proc/{id}/cmdline")).ok()
            })
            .any(|words| words.contains("/fab-session-injector"));
        assert_eq!(sees, want, "{name}: {processes}");
    }
}

#[test]
fn aws_restricts_a_name_to_its_pod() {
    let own = injected(&HELD, &agent("own"), ADMIN);
    let started = NEITHER.run(&HELD, &own);
    let caller = NEITHER.call(&HELD, "own");
    assert!(is_session_of(HELD.broker, &caller), "{caller}");
    let identity = format!("agent.held.{}", uid(&started));
    assert_eq!(NEITHER.identity_of(&caller), identity);

    // Neither webhook nor guard prevents these two from using that name.
    for (tenant, want) in [(&PLAIN, Value::Null), (&HELD, "AccessDenied".into())] {
        let mut pod = agent("wears-another-name");
        pod["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": uid(&started)});
        NEITHER.try_as(ADMIN, tenant, &injected(tenant, &pod, OPERATOR)).unwrap();
        let worn = format!("agent.{}.{}", tenant.name, uid(&started));
        let errors = wait_until("STS was asked", MOMENT, || {
            let errors =
                NEITHER.outcomes_of("wears-another-name", |asked| asked["sourceIdentity"] == *worn);
            (!errors.is_empty()).then_some(errors)
        });
        assert!(errors.iter().all(|error| *error == want), "{}: {errors:?}", tenant.name);
    }
}

#[test]
fn a_pod_cannot_bring_its_own_base_credentials() {
    // A pod without webhook and guard gets them, and a pod with a session brings them along.
    let mut thief = agent("thief");
    project_token(&mut thief);
    NEITHER.run(&PLAIN, &thief);
    let token = NEITHER.read(&PLAIN, "thief", "agent", "/loot/token").unwrap();
    let stolen = NEITHER.base_credentials(&token).unwrap();
    let mut keys = agent("keys");
    for (name, key) in [
        ("AWS_ACCESS_KEY_ID", "AccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "SecretAccessKey"),
        ("AWS_SESSION_TOKEN", "Token"),
    ] {
        set(&mut keys, name, stolen[key].as_str().unwrap());
    }
    let mut bearer = agent("bearer");
    set(&mut bearer, "AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-stolen");

    for (pod, by_webhook, by_guard) in [
        (&thief, "[aws-token-volume]", "[guard-aws-token]"),
        (&keys, "[static-credentials]", "[guard-static-credentials]"),
        (&bearer, "[static-credentials]", "[guard-static-credentials]"),
    ] {
        for platform in [&*BOTH, &*WEBHOOK] {
            platform.assert_refused(&PLAIN, pod, by_webhook);
        }
        // The pod has a sidecar, so the guard refuses it only for its own credentials.
        let name = pod["metadata"]["name"].as_str().unwrap();
        let mut with_sidecar = injected(&PLAIN, &agent(name), ADMIN);
        bring(&mut with_sidecar, pod);
        GUARD.assert_refused(&PLAIN, &with_sidecar, by_guard);
    }

    NEITHER.run(&PLAIN, &keys);
    let caller = NEITHER.call(&PLAIN, "keys");
    assert!(is_session_of(PLAIN.base, &caller), "{caller}");
    assert_eq!(NEITHER.identity_of(&caller), Value::Null);
    // The strict AWS has no Bedrock that accepts the token.
    NEITHER.run(&PLAIN, &bearer);
}

#[test]
fn a_base_role_can_only_assume_the_session_role() {
    let base_credentials = |tenant: &Tenant| {
        let mut thief = agent("direct");
        project_token(&mut thief);
        let started = NEITHER.run(tenant, &thief);
        let token = NEITHER.read(tenant, "direct", "agent", "/loot/token").unwrap();
        (NEITHER.base_credentials(&token).unwrap(), uid(&started).to_owned())
    };
    // The base role is allowed to invoke models for both tenants, as for agents without a session.
    let (plain, _) = base_credentials(&PLAIN);
    let invoked = NEITHER.invoke_model(&plain);
    assert!(invoked.starts_with("HTTP/1.1 200 "), "{invoked}");
    assert_eq!(NEITHER.identity_of_model_call(&plain), Value::Null, "it has no SourceIdentity");

    let (held, uid) = base_credentials(&HELD);
    let denied = NEITHER.invoke_model(&held);
    assert!(denied.starts_with("HTTP/1.1 403 ") && denied.contains("explicit deny"), "{denied}");
    assert_eq!(NEITHER.identity_of_model_call(&held), Value::Null);

    let name = format!("agent.held.{uid}");
    let session = NEITHER.assume(&held, &HELD, &name);
    let invoked = NEITHER.invoke_model(&session);
    assert!(invoked.starts_with("HTTP/1.1 200 "), "{invoked}");
    assert_eq!(NEITHER.identity_of_model_call(&session), name);
}

#[test]
fn the_image_of_a_running_sidecar_cannot_be_changed() {
    let change = |platform: &Platform| {
        let image = format!("{SIDECAR}=node.test/agent:1");
        platform.in_tenant(&["set", "image", "pod/changed", &image])
    };
    for platform in [&*BOTH, &*WEBHOOK] {
        platform.run(&PLAIN, &agent("changed"));
    }
    let refused = change(&BOTH);
    assert!(!refused.ok && refused.stderr.contains("[guard-image-update]"), "{}", refused.stderr);

    let changed = change(&WEBHOOK);
    assert!(changed.ok, "{}", changed.stderr);
    // The program of the other image runs with the sidecar's mounts and user.
    wait_until("another program ran as the sidecar", Duration::from_secs(60), || {
        let log = WEBHOOK.in_tenant(&["logs", "changed", "--container", SIDECAR]);
        log.stdout.contains("box:").then_some(())
    });
}

#[test]
fn exec_attach_and_debug_of_the_sidecar_are_refused() {
    let version = |platform: &Platform| {
        let words = ["/fab-session-injector", "--version"];
        platform.node.exec(PLAIN.namespace, "entered", SIDECAR, &words).run()
    };
    let attach = |platform: &Platform| {
        // Standard input is empty, so the command ends if it is admitted.
        let path = format!(
            "/api/v1/namespaces/{}/pods/entered/attach?container={SIDECAR}&stdout=true",
            PLAIN.namespace
        );
        platform.node.kubectl(&["create", "--raw", &path, "--filename=-"]).stdin("{}").run()
    };
    let targets = |platform: &Platform| {
        platform.debug("entered", "targets", &json!({"targetContainerName": SIDECAR}))
    };
    let mounts = |platform: &Platform| {
        let base = json!([{"name": "fab-session-base", "mountPath": "/base"}]);
        platform.debug("entered", "mounts", &json!({"volumeMounts": base}))
    };
    let wears_its_user = |platform: &Platform| {
        let mut own = restricted();
        own["runAsUser"] = 64017.into();
        platform.debug("entered", "user", &json!({"securityContext": own}))
    };
    for platform in [&*BOTH, &*WEBHOOK] {
        platform.run(&PLAIN, &agent("entered"));
    }
    for (refused, code) in [
        (version(&BOTH), "[guard-exec]"),
        (attach(&BOTH), "[guard-exec]"),
        (targets(&BOTH), "[guard-ephemeral-target]"),
        (mounts(&BOTH), "[guard-ephemeral-mount]"),
        (wears_its_user(&BOTH), "[guard-ephemeral-user]"),
    ] {
        assert!(!refused.ok && refused.stderr.contains(code), "{code}: {}", refused.stderr);
    }

    let entered = version(&WEBHOOK);
    assert!(entered.ok && entered.stdout.contains("fab-session-injector"), "{}", entered.stderr);
    let attached = attach(&WEBHOOK);
    assert!(!attached.stderr.contains("denied request"), "{}", attached.stderr);
    for (made, name) in [
        (targets(&WEBHOOK), "targets"),
        (mounts(&WEBHOOK), "mounts"),
        (wears_its_user(&WEBHOOK), "user"),
    ] {
        assert!(made.ok, "{name}: {}", made.stderr);
        WEBHOOK.await_debugger("entered", name);
    }
    // The container sees the sidecar's process.
    let seen = WEBHOOK.read(&PLAIN, "entered", "targets", "/proc/1/cmdline").unwrap();
    assert!(seen.contains("sidecar"), "{seen:?}");
    let token = WEBHOOK.read(&PLAIN, "entered", "mounts", "/base/token").unwrap();
    let credentials = WEBHOOK.base_credentials(&token).unwrap();
    assert!(credentials["AccessKeyId"].is_string());
}

#[test]
fn tenants_cannot_request_an_agents_base_token() {
    let ask = |platform: &Platform| {
        let audience = "--audience=pods.eks.amazonaws.com";
        let bound = ["--bound-object-kind=Pod", "--bound-object-name=asked"];
        platform.in_tenant(&["create", "token", "tenant-runtime", audience, bound[0], bound[1]])
    };
    for platform in [&*BOTH, &*WEBHOOK] {
        platform.run(&PLAIN, &agent("asked"));
    }
    let refused = ask(&BOTH);
    assert!(!refused.ok && refused.stderr.contains("[guard-token]"), "{}", refused.stderr);
    let given = ask(&WEBHOOK);
    assert!(given.ok, "{}", given.stderr);
    let credentials = WEBHOOK.base_credentials(given.stdout.trim()).unwrap();
    assert!(credentials["AccessKeyId"].is_string());
}

/// A platform, with the calls of these tests.
struct Platform(platform::Platform);

impl Deref for Platform {
    type Target = platform::Platform;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Platform {
    /// Runs a pod of the tenant; the requesting user is not a trusted creator.
    fn run(&self, tenant: &Tenant, pod: &Value) -> Value {
        self.run_as(ADMIN, tenant, pod)
    }

    fn run_as(&self, creator: &str, tenant: &Tenant, pod: &Value) -> Value {
        self.try_as(creator, tenant, pod).unwrap_or_else(|said| panic!("{said}"));
        self.node.await_ready(tenant.namespace, pod["metadata"]["name"].as_str().unwrap())
    }

    fn try_as(&self, creator: &str, tenant: &Tenant, pod: &Value) -> Result<(), String> {
        let created = self.post(creator, tenant, pod, &[]);
        if created.ok { Ok(()) } else { Err(created.stderr) }
    }

    fn assert_refused(&self, tenant: &Tenant, pod: &Value, code: &str) {
        let said = self.try_as(ADMIN, tenant, pod).expect_err("let in");
        assert!(said.contains(code), "{said}\nwant {code}");
    }

    fn post(&self, creator: &str, tenant: &Tenant, pod: &Value, more: &[&str]) -> Outcome {
        let mut words = vec!["create", "--filename=-", "--namespace", tenant.namespace];
        if creator != ADMIN {
            words.extend(["--as", creator]);
        }
        words.extend(more);
        self.node.kubectl(&words).stdin(&pod.to_string()).run()
    }

    /// Runs kubectl in the namespace of the plain tenant.
    fn in_tenant(&self, words: &[&str]) -> Outcome {
        self.node.kubectl(&[&["--namespace", PLAIN.namespace], words].concat()).run()
    }

    /// Calls AWS with the AWS SDK for Go in the agent's container, unchanged.
    fn call(&self, tenant: &Tenant, pod: &str) -> Value {
        self.call_in(tenant, pod, "agent")
    }

    fn call_in(&self, tenant: &Tenant, pod: &str, container: &str) -> Value {
        let client = self.node.exec(tenant.namespace, pod, container, &["/client-go"]);
        let called = client.stdin("call\n").run();
        serde_json::from_str(called.stdout.trim())
            .unwrap_or_else(|error| panic!("{error}: {} {}", called.stdout, called.stderr))
    }

    fn read(
        &self,
        tenant: &Tenant,
        pod: &str,
        container: &str,
        path: &str,
    ) -> Result<String, String> {
        let words = ["/box", "read", path];
        let read = self.node.exec(tenant.namespace, pod, container, &words).run();
        if read.ok { Ok(read.stdout) } else { Err(read.stderr) }
    }

    /// Returns the response of the node's Pod Identity agent for a token.
    fn base_credentials(&self, token: &str) -> Result<Value, String> {
        let head = "GET /v1/credentials HTTP/1.1\r\nHost: 169.254.170.23";
        let answer = self.ask_aws(&format!("{head}\r\nAuthorization: {token}\r\n"), "");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(answer);
        }
        Ok(serde_json::from_str(body).unwrap())
    }

    fn invoke_model(&self, credentials: &Value) -> String {
        let path = "/model/anthropic.claude-sonnet-4/invoke";
        self.call_aws(credentials, "bedrock", "bedrock-runtime", path, "{}")
    }

    /// Assumes the tenant's session-broker role with a SourceIdentity; returns the credentials.
    fn assume(&self, credentials: &Value, tenant: &Tenant, name: &str) -> Value {
        let body = format!(
            "Action=AssumeRole&Version=2011-06-15&RoleArn={}&RoleSessionName=direct&SourceIdentity={name}",
            tenant.broker
        );
        let answer = self.call_aws(credentials, "sts", "sts", "/", &body);
        let text = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).expect(&answer);
            rest.split_once('<').unwrap().0.to_owned()
        };
        json!({
            "AccessKeyId": text("AccessKeyId"),
            "SecretAccessKey": text("SecretAccessKey"),
            "Token": text("SessionToken"),
        })
    }

    /// Makes a signed call with stolen credentials, as a program of the attacker does.
    #[allow(clippy::disallowed_methods, reason = "AWS uses the same clock")]
    fn call_aws(
        &self,
        credentials: &Value,
        service: &str,
        endpoint: &str,
        path: &str,
        body: &str,
    ) -> String {
        let text = |key: &str| credentials[key].as_str().unwrap().to_owned();
        let (id, secret) = (text("AccessKeyId"), text("SecretAccessKey"));
        let identity = Credentials::new(id, secret, Some(text("Token")), None, "stolen").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(cloud::REGION)
            .name(service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .unwrap();
        let host = format!("{endpoint}.{}.amazonaws.com", cloud::REGION);
        let url = format!("https://{host}{path}");
        let headers = [("host", host.as_str())].into_iter();
        let body_of = SignableBody::Bytes(body.as_bytes());
        let request = SignableRequest::new("POST", url, headers, body_of).unwrap();
        let (signature, _) = sign(request, &parameters.into()).unwrap().into_parts();
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in signature.headers() {
            head += &format!("{name}: {value}\r\n");
        }
        self.ask_aws(&head, body)
    }

    fn ask_aws(&self, head: &str, body: &str) -> String {
        let mut connection = TcpStream::connect(self.cloud.pod_identity()).unwrap();
        connection.set_read_timeout(Some(MOMENT)).unwrap();
        let length = body.len();
        write!(connection, "{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Returns the SourceIdentity of the call in CloudTrail.
    fn identity_of(&self, caller: &Value) -> Value {
        self.identity_of_call("GetCallerIdentity", &caller["accessKeyId"])
    }

    fn identity_of_model_call(&self, credentials: &Value) -> Value {
        self.identity_of_call("InvokeModel", &credentials["AccessKeyId"])
    }

    fn identity_of_call(&self, name: &str, key: &Value) -> Value {
        let calls = self.cloud.events(name);
        let call = calls
            .iter()
            .find(|event| event["userIdentity"]["accessKeyId"] == *key)
            .unwrap_or_else(|| panic!("no {name} with {key}"));
        call["userIdentity"]["sessionContext"]["sourceIdentity"].clone()
    }

    /// Returns the result of each AssumeRole call with this SourceIdentity.
    fn asked_for(&self, identity: &str) -> Vec<Value> {
        self.assumptions(|event| event["requestParameters"]["sourceIdentity"] == identity)
    }

    /// Returns the results of one pod's AssumeRole calls, by the name of its base session in EKS,
    /// which contains a part of the pod's name.
    fn outcomes_of(&self, pod: &str, is_meant: impl Fn(&Value) -> bool) -> Vec<Value> {
        let caller = format!("/eks-prod-{}", pod.get(..15).unwrap_or(pod));
        self.assumptions(|event| {
            let arn = event["userIdentity"]["arn"].as_str().unwrap_or_default();
            arn.contains(&caller) && is_meant(&event["requestParameters"])
        })
    }

    fn assumptions(&self, is_meant: impl Fn(&Value) -> bool) -> Vec<Value> {
        let events = self.cloud.events("AssumeRole").into_iter();
        events.filter(is_meant).map(|event| event["errorCode"].clone()).collect()
    }

    /// Adds an ephemeral container to a running pod of the plain tenant.
    fn debug(&self, pod: &str, name: &str, own: &Value) -> Outcome {
        let get = ["get", "pod", pod, "--namespace", PLAIN.namespace];
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/ephemeralcontainers", PLAIN.namespace);
        let replace = ["replace", "--raw", &path, "--filename=-"];
        let mut debugger = json!({
            "name": name, "image": AGENT_IMAGE, "args": ["sleep"], "securityContext": restricted(),
        });
        for (key, value) in own.as_object().unwrap() {
            debugger[key] = value.clone();
        }
        wait_until("the kubelet did not change the pod meanwhile", MOMENT, || {
            let mut pod = self.node.kubectl(&get).json();
            if pod["spec"]["ephemeralContainers"].is_null() {
                pod["spec"]["ephemeralContainers"] = json!([]);
            }
            push(&mut pod["spec"]["ephemeralContainers"], debugger.clone());
            let replaced = self.node.kubectl(&replace).stdin(&pod.to_string()).run();
            (!replaced.stderr.contains("(Conflict)")).then_some(replaced)
        })
    }

    fn await_debugger(&self, pod: &str, name: &str) {
        wait_until(&format!("{name} runs"), Duration::from_secs(60), || {
            let get = ["get", "pod", pod, "--namespace", PLAIN.namespace];
            let pod = self.node.kubectl(&get).json();
            let statuses = pod["status"]["ephemeralContainerStatuses"].as_array()?.clone();
            let mut own = statuses.iter().filter(|status| status["name"] == name);
            own.any(|status| status["state"]["running"].is_object()).then_some(())
        });
    }
}

/// Starts a node with two more tenants, and removes the webhook configuration or the guard.
fn start(webhook: bool, guard: bool) -> Platform {
    let roles = [PLAIN, HELD].map(|tenant| (tenant.name, tenant.broker));
    let platform = Platform(platform::Platform::start_with(two_tenants, &roles));
    for tenant in [PLAIN, HELD] {
        platform.node.create(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": tenant.namespace,
                "labels": {
                    "agents.nanohype.dev/platform": tenant.name,
                    "fab.nanohype.dev/session-injection": "enabled",
                    "pod-security.kubernetes.io/enforce": "restricted",
                },
            }}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "tenant-runtime", "namespace": tenant.namespace},
            }),
        ]);
        platform.node.await_service_account(tenant.namespace, "tenant-runtime");
    }
    let dry_run = |pod: &Value| platform.post(ADMIN, &PLAIN, pod, &["--dry-run=server"]);
    let token = || {
        let audience = "--audience=pods.eks.amazonaws.com";
        platform.in_tenant(&["create", "token", "tenant-runtime", audience])
    };
    // Created and deleted policies take effect after a short delay.
    let mut reserved = agent("reserved");
    reserved["spec"]["serviceAccountName"] = "default".into();
    reserved["spec"]["containers"][0]["name"] = SIDECAR.into();
    wait_until("the guard holds", MOMENT, || {
        let is_held = dry_run(&reserved).stderr.contains("[guard-reserved-name]");
        (is_held && token().stderr.contains("[guard-token]")).then_some(())
    });
    if !webhook {
        let all = ["delete", "mutatingwebhookconfiguration", "fab-session-injector"];
        assert!(platform.node.kubectl(&all).run().ok);
        wait_until("the webhook is not called any more", MOMENT, || {
            dry_run(&agent("probe")).stderr.contains("[guard-sidecar]").then_some(())
        });
    }
    if !guard {
        let all = ["delete", "validatingadmissionpolicybindings", "--all"];
        assert!(platform.node.kubectl(&all).run().ok);
        wait_until("the guard holds no more", MOMENT, || {
            (dry_run(&reserved).ok && token().ok).then_some(())
        });
    }
    platform
}

fn two_tenants(mut world: World) -> World {
    for tenant in [PLAIN, HELD] {
        let session_policy = tenant.policy("session-role-policy");
        let models = json!({
            "Version": "2012-10-17", "Statement": session_policy["Statement"][0],
        });
        let mut base = Role::new(tenant.base)
            .trust(cloud::pods_of_the_cluster())
            .policy(tenant.policy("base-role-policy"))
            .policy(models);
        let trust = match tenant.name {
            "plain" => tenant.printed(&["--only=session-role-trust"]),
            _ => {
                let deny = "deny-without-source-identity";
                let flag = "--deny-without-source-identity";
                base = base.policy(tenant.printed(&[flag, "--only", deny]));
                tenant.printed(&["--only=session-role-trust", "--restrict-to=pod-uid"])
            }
        };
        world = world
            .role(base)
            .role(Role::new(tenant.broker).trust(trust).policy(session_policy))
            .association(Association::new(tenant.namespace, "tenant-runtime", tenant.base));
    }
    world
}

impl Tenant {
    fn policy(&self, name: &str) -> Value {
        self.printed(&["--only", name])
    }

    /// Returns the output of the image's program.
    fn printed(&self, arguments: &[&str]) -> Value {
        static IMAGE: LazyLock<Image> = LazyLock::new(Image::unpack);
        let output = Command::new(IMAGE.at("/fab-session-injector"))
            .args(["iam", "--cluster=prod", "--tenant", self.name])
            .args(["--namespace", self.namespace])
            .args(["--base-role", self.base, "--session-role", self.broker])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Returns the injected pod, ready to be created without the webhook.
fn injected(tenant: &Tenant, pod: &Value, creator: &str) -> Value {
    let made = BOTH.post(creator, tenant, pod, &["--dry-run=server", "--output=json"]);
    assert!(made.ok, "{}", made.stderr);
    let mut made: Value = serde_json::from_str(&made.stdout).unwrap();
    made.as_object_mut().unwrap().remove("status");
    let metadata = made["metadata"].as_object_mut().unwrap();
    metadata
        .retain(|key, _| ["annotations", "labels", "name", "namespace"].contains(&key.as_str()));
    assert_eq!(made["spec"]["initContainers"][0]["name"], SIDECAR);
    made
}

/// Returns a pod that is an agent only by its service account.
fn agent(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "agent",
                "image": AGENT_IMAGE,
                "args": ["sleep"],
                "env": [{"name": "AWS_REGION", "value": cloud::REGION}],
                "securityContext": restricted(),
                "volumeMounts": [],
            }],
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "serviceAccountName": "tenant-runtime",
            "terminationGracePeriodSeconds": 1,
            "volumes": [],
        },
    })
}

/// Returns the pod as the EKS Pod Identity webhook changes it.
fn given_by_eks(mut pod: Value) -> Value {
    let directory = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount";
    set(&mut pod, "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials");
    let file = format!("{directory}/eks-pod-identity-token");
    set(&mut pod, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file);
    let name = "eks-pod-identity-token";
    add_token(&mut pod, name, directory, name);
    pod
}

fn project_token(pod: &mut Value) {
    add_token(pod, "loot", "/loot", "token");
}

fn add_token(pod: &mut Value, volume: &str, directory: &str, file: &str) {
    let mount = json!({"name": volume, "mountPath": directory, "readOnly": true});
    push(&mut pod["spec"]["containers"][0]["volumeMounts"], mount);
    push(
        &mut pod["spec"]["volumes"],
        json!({"name": volume, "projected": {"sources": [
            {"serviceAccountToken": {"audience": "pods.eks.amazonaws.com", "path": file}},
        ]}}),
    );
}

/// Adds to `pod` the variables, mounts and volumes of `other`.
fn bring(pod: &mut Value, other: &Value) {
    let parts = ["/spec/containers/0/env", "/spec/containers/0/volumeMounts", "/spec/volumes"];
    for part in parts {
        let here = pod.pointer_mut(part).unwrap();
        for item in other.pointer(part).unwrap().as_array().unwrap() {
            if !here.as_array().unwrap().iter().any(|own| own["name"] == item["name"]) {
                push(here, item.clone());
            }
        }
    }
}

fn set(pod: &mut Value, variable: &str, value: &str) {
    let variable = json!({"name": variable, "value": value});
    push(&mut pod["spec"]["containers"][0]["env"], variable);
}

fn labelled(mut pod: Value, key: &str, value: &str) -> Value {
    pod["metadata"]["labels"][key] = value.into();
    pod
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

fn restricted() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap()
}

fn is_session_of(role: &str, caller: &Value) -> bool {
    let name = role.rsplit('/').next().unwrap();
    let arn = caller["arn"].as_str().unwrap_or_default();
    arn.starts_with(&format!("arn:aws:sts::111122223333:assumed-role/{name}/"))
}

/// The user of kubectl, which webhook and guard treat like any user.
const ADMIN: &str = "admin";

const AGENT_IMAGE: &str = "node.test/agent:1";

const COMPONENT: &str = "fab.nanohype.dev/component";

const NOTHING: [Value; 0] = [];

const SIDECAR: &str = "fab-session-credentials";

const MOMENT: Duration = Duration::from_secs(20);
