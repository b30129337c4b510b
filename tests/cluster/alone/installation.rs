//! A release with webhook, guard and session issuer as processes, and the AWS that trusts it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{
    cloud::{BASE, BROKER, REGION},
    file_server,
    process::{Process, free_port, get, own_directory},
    program, root,
    sidecar::{
        account::{allow, statements},
        pod::Pod,
    },
    world::{CANARY, SYSTEM, World},
};
use serde_json::{Value, json};
use strict_aws::{Aws, Cluster, Provider, Role, Server, World as AwsWorld};
use tempfile::TempDir;

use crate::web_identity::issuer_process::make_key;

pub(super) const NAMESPACE: &str = "tenants-acme";
const IN_NAMESPACE: &str = "--namespace=tenants-acme";
const URL: &str = "https://issuer.example.com/prod";
const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";

/// A release, its tenant `acme`, and an AWS whose session role trusts both transports.
pub(super) struct Installation {
    pub(super) world: World,
    pub(super) aws: Arc<Aws>,
    issuer: Mutex<Option<Process>>,
    command: Command,
    health: SocketAddr,
    _server: Server,
    directory: TempDir,
}

impl Installation {
    /// Starts with these keys in addition to those of the config. `life`: lifetime of all session
    /// credentials, in seconds.
    pub(super) fn start(keys: &Value, life: u64) -> Self {
        let directory = own_directory();
        let path = directory.path();
        let made = Command::new(root().join("certs/make")).arg(path).arg("localhost").status();
        assert!(made.unwrap().success());
        let [address, health] =
            [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", server.local_addr().unwrap());
        let kms = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let mut values = json!({
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
        let config = values["config"].as_object_mut().unwrap();
        config.extend(keys.as_object().unwrap().clone());
        let file = path.join("values.json");
        fs::write(&file, values.to_string()).unwrap();
        let world = World::start(&[], Some(&file));
        world.publish("acme", BROKER);
        world.namespace(NAMESPACE, "enabled", "acme", &[]);
        // The one who requests the tokens of pods.
        world.allow("system:node:a");
        let config = write_config(&world, path);
        let aws = Arc::new(Aws::new(aws(&world, &config, life)).unwrap());
        let server = Server::on(server, Arc::clone(&aws)).unwrap();
        export(path, &config);
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(path.join("published").join(name)).unwrap()).unwrap()
        };
        assert!(aws.publish(URL, read(".well-known/openid-configuration"), read("keys.json")));
        let command = issuer(&world, path, &config, address, health);
        let issuer = Mutex::default();
        let started = Self { world, aws, issuer, command, health, _server: server, directory };
        started.restart_issuer();
        started
    }

    /// Kills the issuer, and starts it; returns when it signs.
    pub(super) fn restart_issuer(&self) {
        *self.issuer.lock().unwrap() = None;
        let mut issuer = Process::start("issuer", self.directory.path(), &self.command);
        issuer.wait_until("the issuer signs", Duration::from_secs(60), || {
            let metrics = get(self.health, "/metrics");
            metrics.contains("fab_session_injector_issuer_key_published 1\n").then_some(())
        });
        *self.issuer.lock().unwrap() = Some(issuer);
    }

    /// Does with a stored pod what the kubelet does before it starts the containers.
    pub(super) fn pod(&self, stored: &Value) -> Pod {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let volumes = stored["spec"]["volumes"].as_array().unwrap();
        let base = volumes.iter().find(|volume| volume["name"] == "fab-session-base").unwrap();
        let token = &base["projected"]["sources"][0]["serviceAccountToken"];
        let account = text(&stored["spec"]["serviceAccountName"]);
        let request = [
            "create",
            "token",
            &account,
            IN_NAMESPACE,
            "--audience",
            &text(&token["audience"]),
            "--bound-object-kind=Pod",
            "--bound-object-name",
            &text(&stored["metadata"]["name"]),
            "--bound-object-uid",
            &text(&stored["metadata"]["uid"]),
            "--as=system:node:a",
            "--as-group=system:nodes",
        ];
        let token = self.world.cluster.kubectl(&request).run();
        assert!(token.ok, "{}", token.stderr);
        let pod = Pod::stored(stored);
        pod.project(token.stdout.trim());
        pod
    }
}

/// Writes the config of the release, with a key of this directory.
fn write_config(world: &World, path: &Path) -> PathBuf {
    let text = world.manifest("ConfigMap")["data"]["config.yaml"].as_str().unwrap();
    let mut config: Value = serde_saphyr::from_str(text).unwrap();
    config["issuer"]["keys"] = json!([{"file": make_key(path), "state": "signing"}]);
    let file = path.join("config.yaml");
    fs::write(&file, config.to_string()).unwrap();
    file
}

/// Returns the account: the session role trusts base role and issuer, as `iam` prints it.
fn aws(world: &World, config: &Path, life: u64) -> AwsWorld {
    let trust = harness::issuer::trust(&program(), config);
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
        .session_seconds(life)
}

/// Writes the public files of the issuer.
fn export(path: &Path, config: &Path) {
    let exported = Command::new(program())
        .args(["issuer", "export", "--out"])
        .arg(path.join("published"))
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
}

/// Returns the issuer with the service account and the rights of the chart.
fn issuer(
    world: &World,
    path: &Path,
    config: &Path,
    address: SocketAddr,
    health: SocketAddr,
) -> Command {
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
    command
}
