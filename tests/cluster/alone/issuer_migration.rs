//! A tenant that changes from the transport `roleChain` to `webIdentity` and back, with a stream of
//! new pods and with sessions that run: no pod is refused, no session ends, and each has its name.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::Arc,
    thread::sleep,
    time::Duration,
};

use harness::{
    api_server::agent,
    cloud::{BASE, BROKER, REGION},
    file_server,
    process::{Process, free_port, get, own_directory, wait_until},
    program, root,
    sidecar::{
        account::{allow, statements},
        pod::Pod,
    },
    stream::Stream,
    world::{CANARY, SYSTEM, World},
};
use serde_json::{Value, json};
use strict_aws::{Aws, Cluster, Provider, Role, Server, World as AwsWorld};
use tempfile::TempDir;

use super::sessions::Sessions;
use crate::web_identity::issuer_process::make_key;

const NAMESPACE: &str = "tenants-acme";
const IN_NAMESPACE: &str = "--namespace=tenants-acme";
const URL: &str = "https://issuer.example.com/prod";
const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";
const AUDIENCE: &str = "fab-session-issuer.prod";
const TRANSPORT: &str = "fab.nanohype.dev/session-transport";
/// Lifetime of the credentials, in seconds. Each session renews its credentials during the migration.
const LIFE: u64 = 40;

/// A cluster with webhook, guard and issuer, and an AWS whose session role trusts both transports.
struct Migration {
    world: World,
    stream: Stream,
    aws: Arc<Aws>,
    _issuer: Process,
    _server: Server,
    _directory: TempDir,
}

impl Migration {
    fn start() -> Self {
        let directory = own_directory();
        let path = directory.path();
        let made = Command::new(root().join("certs/make")).arg(path).arg("localhost").status();
        assert!(made.unwrap().success());
        let [address, health] =
            [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", server.local_addr().unwrap());
        let kms = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let values = json!({
            "issuer": {"enabled": true},
            "config": {
                "roles": {"allow": {"accounts": ["111122223333"]}},
                "baseCredentials": {"source": "irsa", "roleArn": BASE},
                "sidecar": {"env": {"AWS_ENDPOINT_URL_STS": endpoint}},
                "issuer": {
                    "url": URL,
                    "endpoint": format!("https://localhost:{}/v1/token", address.port()),
                    "caBundle": fs::read_to_string(path.join("ca.crt")).unwrap(),
                    "keys": [{"kms": kms, "state": "signing"}],
                },
            },
        });
        let file = path.join("values.json");
        fs::write(&file, values.to_string()).unwrap();
        let world = World::start(&[], Some(&file));
        world.publish("acme", BROKER);
        world.namespace(NAMESPACE, "enabled", "acme", &[]);
        let config = write_config(&world, path);
        let aws = aws(&world, &config);
        let aws = Arc::new(Aws::new(aws).unwrap());
        let server = Server::on(server, Arc::clone(&aws)).unwrap();
        let issuer = start_issuer(&world, path, &config, address, health);
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(path.join("published").join(name)).unwrap()).unwrap()
        };
        assert!(aws.publish(URL, read(".well-known/openid-configuration"), read("keys.json")));
        // The one who requests the tokens of pods.
        world.allow("system:node:a");
        let every = Duration::from_millis(250);
        let stream = Stream::start(&world.cluster.kubeconfig(), agent(NAMESPACE), every);
        Self { world, stream, aws, _issuer: issuer, _server: server, _directory: directory }
    }

    /// Creates a pod and runs its sidecar. Its transport is this one.
    fn session(&self, sessions: &mut Sessions, name: &str, transport: &str) {
        let mut pod = agent(NAMESPACE);
        pod["metadata"] = json!({"name": name, "namespace": NAMESPACE});
        let stored = self.world.create(&pod, None).unwrap();
        let has_issuer = stored.container("fab-session-credentials")["env"]
            .as_array()
            .unwrap()
            .iter()
            .any(|variable| variable["name"] == "FAB_SESSION_ISSUER");
        assert_eq!(has_issuer, transport == "web-identity", "{name}");
        let uid = stored.pod["metadata"]["uid"].as_str().unwrap();
        let audience = if has_issuer { AUDIENCE } else { "sts.amazonaws.com" };
        let request = [
            "create",
            "token",
            "tenant-runtime",
            IN_NAMESPACE,
            "--audience",
            audience,
            "--bound-object-kind=Pod",
            "--bound-object-name",
            name,
            "--bound-object-uid",
            uid,
            "--as=system:node:a",
            "--as-group=system:nodes",
        ];
        let token = self.world.cluster.kubectl(&request).run();
        assert!(token.ok, "{}", token.stderr);
        let pod = Pod::stored(&stored.pod);
        pod.project(token.stdout.trim());
        sessions.start(name, uid, pod);
    }

    /// Sets the namespace's transport, or removes the label. Returns when new pods have it.
    fn set_transport(&self, label: Option<&str>) {
        let value = label.map_or(format!("{TRANSPORT}-"), |label| format!("{TRANSPORT}={label}"));
        let label_it = ["label", "--overwrite", "namespace", NAMESPACE, &value];
        assert!(self.world.cluster.kubectl(&label_it).run().ok);
        let wanted = label == Some("web-identity");
        let probe = agent(NAMESPACE);
        let create = ["create", "--dry-run=server", "--output=json", "--filename=-"];
        wait_until("the webhook has the label", Duration::from_secs(20), || {
            let made = self.world.cluster.kubectl(&create).stdin(&probe.to_string()).run();
            assert!(made.ok, "{}", made.stderr);
            (made.stdout.contains("FAB_SESSION_ISSUER") == wanted).then_some(())
        });
    }

    fn no_pod_was_refused(&self, when: &str) {
        // On a fast machine a step is over before many pods are created.
        wait_until("the stream goes on", Duration::from_secs(60), || {
            (self.stream.count() > 10).then_some(())
        });
        let tally = self.stream.take();
        println!("{when}: {} pods, slowest {} ms", tally.injected, tally.slowest.as_millis());
        assert!(tally.injected > 10 && tally.bare == 0, "{when}: {tally:?}");
        assert!(tally.refused.is_empty(), "{when}: {tally:?}");
    }
}

/// Writes the config of the release, with a key of this directory.
fn write_config(world: &World, path: &Path) -> std::path::PathBuf {
    let text = world.manifest("ConfigMap")["data"]["config.yaml"].as_str().unwrap();
    let mut config: Value = serde_saphyr::from_str(text).unwrap();
    config["issuer"]["keys"] = json!([{"file": make_key(path), "state": "signing"}]);
    let file = path.join("config.yaml");
    fs::write(&file, config.to_string()).unwrap();
    file
}

/// Returns the account: the session role trusts base role and issuer, as `iam` prints it.
fn aws(world: &World, config: &Path) -> AwsWorld {
    let printed = Command::new(program())
        .args(["iam", "--transport=both", "--tenant=acme", "--only=session-role-trust"])
        .args(["--session-role", BROKER, "--base-role", BASE, "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let trust = serde_json::from_slice(&printed.stdout).unwrap();
    let keys = world.cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"]).run().stdout;
    let issuer = CLUSTER.trim_start_matches("https://");
    let of_pods = json!({
        "Principal": {"Federated": format!("arn:aws:iam::111122223333:oidc-provider/{issuer}")},
        "Condition": {"StringEquals": {
            format!("{issuer}:sub"): format!("system:serviceaccount:{NAMESPACE}:tenant-runtime"),
            format!("{issuer}:aud"): "sts.amazonaws.com",
        }},
    });
    let base = Role::new(BASE)
        .trust(statements(&[allow(&["sts:AssumeRoleWithWebIdentity"], of_pods)]))
        .policy(statements(&[allow(
            &["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
            json!({"Resource": BROKER}),
        )]));
    AwsWorld::new("111122223333", REGION)
        .cluster(Cluster::new("prod", CLUSTER, serde_json::from_str(&keys).unwrap()))
        .provider(Provider::new(URL, ["fab-session/prod"]))
        .role(base)
        .role(Role::new(BROKER).trust(trust))
        .session_seconds(LIFE)
}

/// Starts the issuer with the service account and the rights of the chart.
fn start_issuer(
    world: &World,
    path: &Path,
    config: &Path,
    address: SocketAddr,
    health: SocketAddr,
) -> Process {
    let exported = Command::new(program())
        .args(["issuer", "export", "--out"])
        .arg(path.join("published"))
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let published_at = file_server::serve(Ipv4Addr::LOCALHOST.into(), path.join("published"));
    for object in world.named("-issuer") {
        if ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"]
            .iter()
            .any(|kind| object["kind"] == *kind)
        {
            world.apply(object);
        }
    }
    let account = world.named("-issuer").find(|object| object["kind"] == "ServiceAccount").unwrap();
    let account = account["metadata"]["name"].as_str().unwrap();
    let mut command = Command::new(program());
    command
        .args(harness::issuer::arguments(config, path, address, health, published_at))
        .env("KUBECONFIG", world.cluster.kubeconfig_of(SYSTEM, account))
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", CANARY)
        .env("AWS_REGION", REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let mut issuer = Process::start("issuer", path, &command);
    issuer.wait_until("the issuer signs", Duration::from_secs(60), || {
        let metrics = get(health, "/metrics");
        metrics.contains("fab_session_injector_issuer_key_published 1\n").then_some(())
    });
    issuer
}

#[test]
fn a_tenant_changes_its_transport_and_back_unnoticed() {
    let migration = Migration::start();
    let mut sessions = Sessions::default();
    for name in ["chained-1", "chained-2"] {
        migration.session(&mut sessions, name, "role-chain");
    }
    sessions.await_all();
    migration.no_pod_was_refused("before");

    migration.set_transport(Some("web-identity"));
    for name in ["web-1", "web-2", "web-3"] {
        migration.session(&mut sessions, name, "web-identity");
    }
    sessions.await_all();
    migration.no_pod_was_refused("to webIdentity");
    // Those of both transports renew while the label says webIdentity.
    sessions.await_renewals(2);
    sessions.are_unbroken("with webIdentity");

    migration.set_transport(Some("role-chain"));
    for name in ["chained-3", "chained-4"] {
        migration.session(&mut sessions, name, "role-chain");
    }
    sessions.await_all();
    migration.no_pod_was_refused("back to roleChain");
    migration.set_transport(None);
    migration.session(&mut sessions, "chained-5", "role-chain");
    sessions.await_all();
    // And while it says roleChain, or nothing.
    sessions.await_renewals(2);
    sleep(Duration::from_secs(LIFE));
    migration.no_pod_was_refused("without the label");
    sessions.are_unbroken("at the end");
    let (count, credentials, failures) = sessions.counts();
    println!("{count} sessions, {credentials} credentials, {failures} failed attempts");

    let named = |event: &Value| event["responseElements"]["sourceIdentity"].is_string();
    let events: Vec<Value> = migration.aws.events().into_iter().filter(named).collect();
    sessions.have_their_names(&events);
    for name in ["AssumeRole", "AssumeRoleWithWebIdentity"] {
        assert!(events.iter().any(|event| event["eventName"] == name), "no {name}");
    }
}
