//! Faulty installations on a real node. The first message that an engineer sees (Helm's output,
//! the refusal in kubectl, the pod's events, a log) names the object, the rule and the remedy. A
//! correct installation shows none of these messages.

use std::{
    fs,
    ops::Deref,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use harness::{
    cloud::{BASE, BROKER, REGION, may_become, pods_of_the_cluster, under_a_name_of},
    node::Node,
    parameter_store::ParameterStore,
    platform::{self, AGENT_IMAGE, SIDECAR_IMAGE, SYSTEM, TENANT},
    process::{self, wait_until},
};
use serde_json::{Map, Value, json};
use strict_aws::{Association, Role, World};

/// A correct installation with faulty tenants. Never dropped: the node's leash stops it.
static SOUND: LazyLock<Installed> = LazyLock::new(|| {
    let installed = Installed::bring_up();
    installed.parameters.put(&parameter("acme"), BROKER);
    for tenant in BROKEN_ROLES {
        installed.parameters.put(&parameter(tenant), &broker(tenant));
    }
    let notes = installed.platform.helm("install", &installed.values(), &[]).unwrap();
    assert!(!notes.contains("no region") && !notes.contains("no tenant has a role"), "{notes}");
    installed.platform.admit_tenant();
    installed
});

/// An installation that one test after the other makes faulty, each in another way.
static UNSOUND: LazyLock<Mutex<Installed>> = LazyLock::new(|| {
    let installed = Installed::bring_up();
    installed.parameters.put(&parameter("acme"), BROKER);
    installed.platform.helm("install", &installed.values(), &[]).unwrap();
    installed.create_namespace("tenants-acme", json!({}));
    installed.create_namespace("tenants-roleless", json!({}));
    Mutex::new(installed)
});

/// Tenants whose role AWS denies to the sidecar.
const BROKEN_ROLES: [&str; 5] = ["homeless", "nameless", "powerless", "tagless", "untrusted"];

#[test]
fn a_correct_installation_logs_none_of_these_errors() {
    let Installed { platform, .. } = &*SOUND;
    let pod = platform.create_session("fab-sound-a1b2c");
    platform.node.await_ready(TENANT, &pod);
    let log = platform.webhook_log();
    let serving = log.iter().filter(|line| line["message"] == "serving").count();
    assert_eq!(serving, 1, "{log:?}");
    let of_others = |line: &Value| {
        let named = |key: &str| line[key].as_str().is_some_and(|name| !name.ends_with("acme"));
        named("namespace") || named("tenant")
    };
    let warnings: Vec<&Value> =
        log.iter().filter(|line| line["level"] != "INFO" && !of_others(line)).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    let events = platform.events(TENANT, &pod);
    assert!(events.iter().any(|event| event["reason"] == "Started"), "{events:?}");
    let with_a_code = |event: &&Value| event["message"].as_str().unwrap_or("").contains("]: ");
    let complaints: Vec<&Value> = events.iter().filter(with_a_code).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let log = platform.sidecar_log(TENANT, &pod);
    assert!(log.contains("session credentials issued"), "{log}");
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

#[test]
fn an_unavailable_role_is_named_with_its_path() {
    let installed = &*SOUND;
    installed.parameters.deny(&parameter("unreadable"));
    installed.parameters.put(&parameter("misspelt"), "arn:aws:iam::111122223333:user/acme");
    let cases = [
        (
            "unpublished",
            "there is no",
            "role-missing",
            "publish the ARN of the tenant's session-broker role there",
        ),
        (
            "unreadable",
            "the webhook's IAM role is not authorized to read",
            "role-denied",
            "grant ssm:GetParameters on this parameter to the webhook's IAM role",
        ),
        (
            "misspelt",
            "is not the ARN of a role",
            "role-malformed",
            "publish the ARN of an IAM role",
        ),
    ];
    for (tenant, rule, code, remedy) in cases {
        let namespace = format!("tenants-{tenant}");
        installed.create_namespace(&namespace, json!({}));
        let said = installed.refusal(&namespace);
        let path = format!("SSM parameter {}", parameter(tenant));
        says(&said, &[&path, rule, &format!("[{code}]: "), remedy]);
        installed.platform.await_log(|line| line["level"] == "WARN" && line["tenant"] == tenant);
    }
}

#[test]
fn a_misconfigured_namespace_is_reported_at_opt_in() {
    let installed = &*SOUND;
    let label = "kubectl label namespace";
    let cases = [
        (
            "tenants-with-much-too-long-a-name",
            json!({}),
            vec![
                "tenant with-much-too-long-a-name has 25 characters",
                "at most 21",
                "[tenant-too-long]: ",
                "shorter tenant in the namespace label fab.nanohype.dev/tenant",
            ],
        ),
        (
            "shouting",
            json!({"fab.nanohype.dev/tenant": "ACME"}),
            vec![
                "the tenant \"ACME\" of namespace \"shouting\"",
                "a DNS label",
                "[tenant-missing]: ",
                label,
                "fab.nanohype.dev/tenant=",
            ],
        ),
        (
            "nobodys",
            json!({}),
            vec![
                "namespace \"nobodys\" has no tenant label",
                "[tenant-missing]: ",
                label,
                "fab.nanohype.dev/tenant=",
            ],
        ),
        (
            "tenants-lax",
            json!({"pod-security.kubernetes.io/enforce": "baseline"}),
            vec![
                "namespace \"tenants-lax\" enforces the Pod Security Standard baseline",
                "agent pods need restricted",
                "[pod-security]: ",
                label,
                "pod-security.kubernetes.io/enforce=restricted",
            ],
        ),
    ];
    for (namespace, labels, parts) in cases {
        installed.create_namespace(namespace, labels);
        let told = installed.platform.await_log(|line| {
            line["level"] == "WARN" && line["namespace"] == namespace && line["reason"].is_string()
        });
        says(told["reason"].as_str().unwrap(), &parts);
        says(&installed.refusal(namespace), &parts);
    }
}

#[test]
fn a_denied_role_is_in_the_pods_events_and_the_sidecar_log() {
    let Installed { platform, .. } = &*SOUND;
    let cases = [
        (
            "homeless",
            "base-credentials-unavailable",
            "create the EKS Pod Identity association of the pod's service account",
        ),
        (
            "nameless",
            "set-source-identity-denied",
            "allow sts:SetSourceIdentity in the trust policy of",
        ),
        // STS does not name the policy type, so the remedy lists all policies.
        (
            "powerless",
            "set-source-identity-denied",
            "allow sts:SetSourceIdentity on arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-powerless-broker in a policy of the base role",
        ),
        ("tagless", "tag-session-denied", "allow sts:TagSession in the trust policy of"),
        (
            "untrusted",
            "assume-role-denied",
            "allow the base role sts:AssumeRole, sts:SetSourceIdentity and (with Pod Identity) sts:TagSession",
        ),
    ];
    for (tenant, _, _) in cases {
        let namespace = format!("tenants-{tenant}");
        SOUND.create_namespace(&namespace, json!({}));
        platform.node.create(&[agent(&namespace)]);
    }
    for (tenant, code, remedy) in cases {
        let namespace = format!("tenants-{tenant}");
        let code_of_all = format!("[{code}]: ");
        let event = wait_until(&format!("an event of {tenant} says {code}"), POD, || {
            platform
                .events(&namespace, "agent")
                .into_iter()
                .find(|event| event["message"].as_str().unwrap_or("").contains(&code_of_all))
        });
        assert_eq!(event["reason"], "Unhealthy", "{event}");
        let said = event["message"].as_str().unwrap();
        let identity = format!("agent.{tenant}.");
        says(said, &[&broker(tenant), &identity, &code_of_all, remedy]);
        let log = platform.sidecar_log(&namespace, "agent");
        let line = log.lines().find(|line| line.contains("no new session credentials"));
        let line: Value = serde_json::from_str(line.unwrap_or_else(|| panic!("{log}"))).unwrap();
        assert_eq!(line["code"], code, "{line}");
        says(line["error"].as_str().unwrap(), &[&broker(tenant), remedy]);
    }
}

#[test]
fn contradictory_values_fail_the_upgrade_with_a_message() {
    let Installed { platform, .. } = &*SOUND;
    let generation = || {
        let deployment = ["get", "deployment", "fab-session-injector", "--namespace", SYSTEM];
        platform.node.kubectl(&deployment).json()["metadata"]["generation"].clone()
    };
    let before = generation();
    let cases = [
        (
            json!({"image": {"digest": "sha256:abc"}}),
            ["image.digest is", "64 lower-case hexadecimal digits", "copy it whole"],
        ),
        (
            json!({"serviceAccount": {"create": false}}),
            [
                "serviceAccount.name is empty",
                "must not share the webhook's permissions",
                "to the service account that you created",
            ],
        ),
        (
            json!({"certificates": {"mode": "existingSecret"}}),
            [
                "certificates.existingSecret.secretName is empty",
                "serves nothing without a certificate",
                "name the Secret",
            ],
        ),
        (
            json!({"certificates": {"existingSecret": {"secretName": "own"}}}),
            [
                "certificates.existingSecret is set",
                "creates its own Secret",
                "set certificates.mode to existingSecret",
            ],
        ),
        (
            json!({"networkPolicy": {"kind": "cilium", "podCidrs": ["10.0.0.0/8"]}}),
            ["podCidrs is set", "never by address", "set networkPolicy.kind to kubernetes"],
        ),
        (
            json!({"config": {"region": "eu-west-1"}, "extraEnv": {"AWS_REGION": "eu-west-1"}}),
            ["extraEnv.AWS_REGION", "sets AWS_REGION to config.region", "remove one of them"],
        ),
        (
            json!({"config": {"baseCredentials": {"source": "irsa"}}}),
            [
                "roleArn is empty",
                "IRSA assumes a role by its ARN",
                "set config.baseCredentials.roleArn",
            ],
        ),
        (
            json!({"config": {"baseCredentials": {"source": "irsa", "roleArn": "arn:aws:iam::111122223333:role/{cluster}-{tenant}"}}}),
            ["contains {cluster}", "config.cluster is empty", "set config.cluster"],
        ),
        (
            json!({"guard": {"tokenCreators": ["*"]}}),
            ["guard.tokenCreators lists", "every user request tokens", "list only the users"],
        ),
        (
            json!({"staticRoles": {"acme": BROKER}, "config": {"roles": {"allow": {"accounts": ["999999999999"]}}}}),
            [
                "staticRoles.acme is",
                "config.roles.allow.accounts does not accept it",
                "extend the list",
            ],
        ),
        (
            json!({"config": {"components": [{"name": "runtime", "selectors": ["a=b"], "credentials": "env"}, {"name": "fence", "fenced": true}]}}),
            [
                "config.components[0] (runtime) has credentials: env and selectors",
                "a tenant writes labels",
                "serviceAccounts or creators only",
            ],
        ),
        (
            json!({"config": {"components": [{"name": "runtime", "selectors": ["a=b"]}]}}),
            [
                "no component with fenced: true",
                "every pod of a fenced service account",
                "set fenced: true on the last component",
            ],
        ),
    ];
    for (values, parts) in cases {
        let said = platform.helm("upgrade", &values, &[]).expect_err(parts[0]);
        says(&said, &parts);
    }
    let misspelt = json!({"config": {"clutser": "prod"}});
    let said = platform.helm("upgrade", &misspelt, &[]).expect_err("there is no such value");
    says(&said, &["config", "additional properties 'clutser' not allowed"]);
    assert_eq!(generation(), before);
}

#[test]
fn the_notes_name_missing_values() {
    let installed = unsound();
    let values = json!({
        "config": {"cluster": "prod", "sidecar": {"image": SIDECAR_IMAGE}},
        "staticRoles": {"acme": BROKER},
    });
    let notes = installed.upgrade(&values, &[]);
    says(&notes, &["WARNING: no region", "config.region"]);
    let platform = &installed.platform;
    platform.await_log(|line| {
        let message = line["message"].as_str().unwrap_or("");
        message
            == "no region is set, so no sidecar can start; set the config key region or AWS_REGION"
    });

    // The webhook's own calls have no credentials either.
    let said = installed.refusal("tenants-roleless");
    let path = parameter("roleless");
    says(&said, &[&path, "[role-unavailable]: ", "see the webhook's log for SSM errors"]);
    let told = platform.await_log(|line| line["detail"].is_string());
    says(told["detail"].as_str().unwrap(), &["no credentials found"]);

    // The termination message of the sidecar is in the pod's status.
    platform.node.create(&[agent("tenants-acme")]);
    let said = wait_until("the sidecar has ended", POD, || {
        let pod = ["get", "pod", "agent", "--namespace", "tenants-acme"];
        let pod = platform.node.kubectl(&pod).json();
        let state = &pod["status"]["initContainerStatuses"][0];
        ["state", "lastState"]
            .iter()
            .find_map(|when| state[when]["terminated"]["message"].as_str().map(str::to_owned))
    });
    says(&said, &["AWS_REGION is not set", "set the config key region of the webhook"]);
    installed.delete_agent();
}

#[test]
fn a_wrong_cluster_name_shows_in_the_parameter_path() {
    let installed = unsound();
    let mut values = installed.values();
    assert_eq!(installed.judged_with(&values, "tenants-acme"), None);
    values["config"]["cluster"] = "production-platfrom".into();
    let notes = installed.upgrade(&values, &[]);
    let path = "/eks-agent-platform/production-platfrom/tenant-substrate/";
    says(&notes, &[path]);
    let said = installed.refusal("tenants-acme");
    says(&said, &["there is no SSM parameter", path, "[role-missing]: ", "publish"]);
}

/// The effect of a security group, a missing route or a missing VPC endpoint: packets are lost.
#[test]
fn an_unreachable_ssm_counts_as_no_answer() {
    let installed = unsound();
    let values = installed.values();
    assert_eq!(installed.judged_with(&values, "tenants-acme"), None);
    let address = installed.parameters.address;
    let to_ssm = format!("ip daddr {} tcp dport {}", address.ip(), address.port());
    let (said, told) = without(&installed.platform.node, "forward", &to_ssm, || {
        installed.create_namespace("tenants-late", json!({}));
        let said = installed.refusal("tenants-late");
        let why = |line: &Value| line["detail"].is_string();
        (said, installed.platform.await_log(why))
    });
    let read = format!("cannot read SSM parameter {}", parameter("late"));
    says(
        &said,
        &[&read, ": no answer", "[role-unavailable]: ", "see the webhook's log for SSM errors"],
    );
    assert_eq!(told["message"], "cannot read roles from SSM; serving cached roles");
    says(told["detail"].as_str().unwrap(), &["no answer in time"]);
    is_documented("no answer in time");
    wait_until("SSM is reached again", POD, || {
        installed.judged("tenants-late")?.contains("[role-missing]").then_some(())
    });
}

#[test]
fn a_missing_sidecar_image_is_named_in_the_pods_events() {
    let installed = unsound();
    let mut values = installed.values();
    values["config"]["sidecar"]["image"] = "node.test/nowhere:7".into();
    installed.upgrade(&values, &[]);
    let platform = &installed.platform;
    platform.node.create(&[agent("tenants-acme")]);
    let event = wait_until("the image is not pulled", POD, || {
        platform.events("tenants-acme", "agent").into_iter().find(|event| {
            event["message"].as_str().unwrap_or("").starts_with("Failed to pull image")
        })
    });
    says(event["message"].as_str().unwrap(), &["\"node.test/nowhere:7\""]);
    let container = "spec.initContainers{fab-session-credentials}";
    assert_eq!(event["involvedObject"]["fieldPath"], container, "{event}");
    is_documented("`ImagePullBackOff`");
    installed.delete_agent();
}

#[test]
fn an_untrusted_certificate_shows_the_api_servers_error() {
    let installed = unsound();
    let directory = process::own_directory();
    let made = |name: &str, host: &str, flags: &[&str]| {
        let to = directory.path().join(name);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make");
        let made = Command::new(script).args(flags).arg(&to).arg(host).status();
        assert!(made.unwrap().success());
        let secret = ["create", "secret", "tls", name, "--namespace", SYSTEM];
        let read = |file: &str| fs::read_to_string(to.join(file)).unwrap();
        let files = [("cert", "tls.crt"), ("key", "tls.key")]
            .map(|(flag, file)| format!("--{flag}={}", to.join(file).display()));
        let created =
            installed.platform.node.kubectl(&[&secret[..], &[&files[0], &files[1]]].concat()).run();
        assert!(created.ok, "{}", created.stderr);
        read("ca.crt")
    };
    let host = format!("fab-session-injector.{SYSTEM}.svc");
    let sound = made("sound", &host, &[]);
    let expired = made("expired", &host, &["--expired"]);
    let misnamed = made("misnamed", "fab-session-injector.default.svc", &[]);
    let with = |secret: &str, authority: &str| {
        let mut values = installed.values();
        values["certificates"] = json!({
            "mode": "existingSecret",
            "existingSecret": {"secretName": secret, "caBundle": authority},
        });
        values
    };
    let webhook = "failed calling webhook \"enabled.session.fab.nanohype.dev\"";

    let said = installed.judged_with(&with("sound", &expired), "tenants-acme").unwrap();
    let unknown = "x509: certificate signed by unknown authority";
    says(&said, &[webhook, unknown]);
    is_documented(unknown);

    let said = installed.judged_with(&with("expired", &expired), "tenants-acme").unwrap();
    let ended = "x509: certificate has expired";
    says(&said, &[webhook, ended]);
    is_documented(ended);
    let told = installed.platform.await_log(|line| line["level"] == "ERROR");
    assert_eq!(told["message"], "the serving certificate is expired; API servers reject it");
    assert_eq!(told["expired"], "2020-01-02T00:00:00Z", "{told}");

    let said = installed.judged_with(&with("misnamed", &misnamed), "tenants-acme").unwrap();
    let other = "x509: certificate is valid for ";
    says(&said, &[webhook, other, &format!(", not {host}")]);
    is_documented(other);

    // The old webhook continues to serve, since the new one cannot start.
    let mistyped = with("sonud", &sound);
    let said =
        installed.platform.helm("upgrade", &mistyped, &["--force-conflicts", "--timeout=5s"]);
    assert!(said.is_err(), "it waits for the Secret in vain");
    let event = wait_until("the Secret is missed", POD, || {
        let failed =
            ["get", "events", "--namespace", SYSTEM, "--field-selector=reason=FailedMount"];
        let events = installed.platform.node.kubectl(&failed).json();
        let mut messages =
            events["items"].as_array()?.iter().filter_map(|it| it["message"].as_str());
        messages.find(|message| message.contains("sonud")).map(str::to_owned)
    });
    says(&event, &["secret \"sonud\" not found"]);
    is_documented("secret \"...\" not found");

    assert_eq!(installed.judged_with(&with("sound", &sound), "tenants-acme"), None);
    // Restores the installation for the other tests.
    installed.upgrade(&installed.values(), &["--force-conflicts"]);
}

/// The effect of a security group that denies the control plane the port 8443. A network policy
/// cannot have this effect here, because the API server is on the node.
#[test]
fn an_unreachable_webhook_shows_the_api_servers_error() {
    let installed = unsound();
    assert_eq!(installed.judged_with(&installed.values(), "tenants-acme"), None);
    let node = &installed.platform.node;
    let said = without(node, "output", "tcp dport 8443", || installed.judged("tenants-acme"));
    let late = "context deadline exceeded";
    let said = said.unwrap();
    says(
        &said,
        &["failed calling webhook \"enabled.session.fab.nanohype.dev\"", ":443/enabled", late],
    );
    is_documented(late);

    let scale = |replicas: &str| {
        let deployment = ["scale", "deployment", "fab-session-injector", "--namespace", SYSTEM];
        assert!(node.kubectl(&[&deployment[..], &[replicas]].concat()).run().ok);
    };
    scale("--replicas=0");
    // An API server that resolves endpoints itself, as in EKS, reports the second one.
    let words = ["connect: connection refused", "no endpoints available for service"];
    let said = wait_until("there is no webhook", POD, || {
        let said = installed.judged("tenants-acme")?;
        words.iter().any(|words| said.contains(words)).then_some(said)
    });
    says(&said, &["failed calling webhook \"enabled.session.fab.nanohype.dev\""]);
    words.iter().for_each(|words| is_documented(words));
    scale("--replicas=1");
    wait_until("it is reached again", POD, || {
        installed.judged("tenants-acme").is_none().then_some(())
    });
}

/// The chart on a node, with an SSM stand-in that pods can reach.
struct Installed {
    parameters: ParameterStore,
    platform: Platform,
}

impl Installed {
    fn bring_up() -> Self {
        let platform = Platform(platform::Platform::bring_up(with_broken_roles));
        let parameters = ParameterStore::on(platform.node.host_address(), 40.0);
        Self { parameters, platform }
    }

    /// Returns the values of a correct installation.
    fn values(&self) -> Value {
        let address = self.parameters.address;
        json!({
            "replicaCount": 1,
            // For the webhook's own calls. The stand-in checks only their time.
            "extraEnv": {"AWS_ACCESS_KEY_ID": "webhook", "AWS_SECRET_ACCESS_KEY": "unchecked"},
            "networkPolicy": {"extraEgress": [{
                "to": [{"ipBlock": {"cidr": format!("{}/32", address.ip())}}],
                "ports": [{"port": address.port()}],
            }]},
            "config": {
                "cluster": CLUSTER,
                "region": REGION,
                "sidecar": {"image": SIDECAR_IMAGE},
                "roles": {"ssm": {"endpoint": self.parameters.endpoint()}},
            },
        })
    }

    /// Upgrades; returns the notes when all webhook pods have these values.
    fn upgrade(&self, values: &Value, flags: &[&str]) -> String {
        let notes = self.platform.helm("upgrade", values, flags).unwrap();
        let webhooks = ["get", "pods", "--namespace", SYSTEM, OF_THE_WEBHOOK];
        wait_until("the pods of before are gone", POD, || {
            let pods = self.platform.node.kubectl(&webhooks).json();
            let going = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
            (!pods["items"].as_array()?.iter().any(going)).then_some(())
        });
        let configuration = ["get", "mutatingwebhookconfiguration", "fab-session-injector"];
        wait_until("the API server knows an authority", POD, || {
            let configuration = self.platform.node.kubectl(&configuration).json();
            let bundle = &configuration["webhooks"][0]["clientConfig"]["caBundle"];
            bundle.as_str().is_some_and(|bundle| !bundle.is_empty()).then_some(())
        });
        notes
    }

    /// Creates a namespace that opted in and enforces `restricted`, except for `labels`.
    fn create_namespace(&self, name: &str, labels: Value) {
        let mut all = Map::new();
        all.insert("fab.nanohype.dev/session-injection".to_owned(), "enabled".into());
        all.insert("pod-security.kubernetes.io/enforce".to_owned(), "restricted".into());
        all.extend(labels.as_object().unwrap().clone());
        self.platform.node.create(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": all}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "tenant-runtime", "namespace": name},
            }),
        ]);
        self.platform.node.await_service_account(name, "tenant-runtime");
    }

    /// Returns the error for an agent pod there, if any; no pod is created. Uses `--raw`, since
    /// kubectl otherwise retries transient errors for half a minute.
    fn judged(&self, namespace: &str) -> Option<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        let create = self.platform.node.kubectl(&["create", "--raw", &path, "--filename=-"]);
        let created = create.stdin(&agent(namespace).to_string()).run();
        (!created.ok).then_some(created.stderr)
    }

    fn refusal(&self, namespace: &str) -> String {
        let said = self.judged(namespace).expect("the pod is refused");
        says(&said, &["admission webhook \"enabled.session.fab.nanohype.dev\" denied the request"]);
        said
    }

    fn judged_with(&self, values: &Value, namespace: &str) -> Option<String> {
        self.upgrade(values, &["--force-conflicts"]);
        self.judged(namespace)
    }

    fn delete_agent(&self) {
        let pod = ["delete", "pod", "agent", "--namespace", "tenants-acme", "--now"];
        assert!(self.platform.node.kubectl(&pod).run().ok);
    }
}

/// Runs `act` while packets of this kind, which the machine sends or forwards, are lost.
fn without<T>(node: &Node, hook: &str, kind: &str, act: impl FnOnce() -> T) -> T {
    let file = node.state().join("lost.nft");
    let rules = format!(
        "table ip lost {{
           chain lost {{
             type filter hook {hook} priority 0
             {kind} drop
           }}
         }}"
    );
    fs::write(&file, rules).unwrap();
    node.enter(&["nft", "--file", file.to_str().unwrap()]);
    let done = panic::catch_unwind(AssertUnwindSafe(act));
    node.enter(&["nft", "delete", "table", "ip", "lost"]);
    done.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
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
    fn webhook_log(&self) -> Vec<Value> {
        let logs = ["logs", "--namespace", SYSTEM, OF_THE_WEBHOOK, "--tail=-1"];
        let log = self.node.kubectl(&logs).run().stdout;
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn await_log(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until("the webhook's log says so", POD, || {
            self.webhook_log().into_iter().find(&wanted)
        })
    }

    fn sidecar_log(&self, namespace: &str, pod: &str) -> String {
        let logs =
            ["logs", "--namespace", namespace, pod, "--container", "fab-session-credentials"];
        self.node.kubectl(&logs).run().stdout
    }

    fn events(&self, namespace: &str, pod: &str) -> Vec<Value> {
        let of_the_pod = format!("--field-selector=involvedObject.name={pod}");
        let events = ["get", "events", "--namespace", namespace, &of_the_pod];
        self.node.kubectl(&events).json()["items"].as_array().unwrap().clone()
    }
}

/// A failed test leaves values, which the next test replaces.
fn unsound() -> MutexGuard<'static, Installed> {
    UNSOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks the parts of a message. `--nocapture` shows it.
fn says(text: &str, parts: &[&str]) {
    eprintln!("{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Checks that docs/operations.md lists a message of another component.
fn is_documented(words: &str) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let has = |entry: fs::DirEntry| fs::read_to_string(entry.path()).unwrap().contains(words);
    assert!(fs::read_dir(docs).unwrap().any(|entry| has(entry.unwrap())), "{words:?} in docs");
}

fn parameter(tenant: &str) -> String {
    format!("/eks-agent-platform/{CLUSTER}/tenant-substrate/{tenant}/session_role_arn")
}

fn base(tenant: &str) -> String {
    format!("arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-{tenant}-tenant")
}

fn broker(tenant: &str) -> String {
    format!("arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-{tenant}-broker")
}

/// Adds tenants with one fault each. STS reports only the action, as it mostly does.
fn with_broken_roles(world: World) -> World {
    let mut world = world.terse();
    for tenant in BROKEN_ROLES {
        let (base, broker) = (base(tenant), broker(tenant));
        let mut may = may_become(&broker);
        let mut trust = under_a_name_of(tenant, &[&base]);
        match tenant {
            "nameless" => trust["Statement"][0]["Action"] = "sts:AssumeRole".into(),
            "powerless" => {
                may["Statement"][0]["Action"] = json!(["sts:AssumeRole", "sts:TagSession"])
            }
            "tagless" => {
                trust["Statement"].as_array_mut().unwrap().pop();
            }
            "untrusted" => trust = under_a_name_of(tenant, &[BASE]),
            _ => {}
        }
        world = world
            .role(Role::new(&base).trust(pods_of_the_cluster()).policy(may))
            .role(Role::new(&broker).trust(trust));
        if tenant != "homeless" {
            let namespace = format!("tenants-{tenant}");
            world = world.association(Association::new(namespace, "tenant-runtime", &base));
        }
    }
    world
}

fn agent(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "agent", "namespace": namespace},
        "spec": {
            "containers": [{
                "name": "agent",
                "image": AGENT_IMAGE,
                "args": ["sleep"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "serviceAccountName": "tenant-runtime",
            "terminationGracePeriodSeconds": 1,
        },
    })
}

const CLUSTER: &str = "prod";

const OF_THE_WEBHOOK: &str = "--selector=app.kubernetes.io/component=webhook";

/// Ten times the start time of a pod on two idle cores.
const POD: Duration = Duration::from_secs(60);
