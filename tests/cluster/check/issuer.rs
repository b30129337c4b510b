//! `check` of an installation with a session issuer: its files at a public URL, its provider and the
//! trust policy in IAM, and the guard's rule about its tokens.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use harness::{
    data,
    process::own_directory,
    program,
    sidecar::account::{BROKER, Policies},
    world::agent,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{BROKER_NAME, CONFIG, Ca, Change, Undo, World, levels, world};

/// A change that breaks an intact session issuer, from a file of `check/issuer_faults`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    change: IssuerChange,
    want: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum IssuerChange {
    Cluster(Change),
    /// Adds a certificate to `issuer.caBundle` of the config.
    Ca,
    /// Sets `issuer.durationSeconds` of the config.
    Duration(u64),
    /// Creates a pod whose session has this name.
    Named(String),
    /// Replaces the client ID of the provider, or deletes the provider.
    Provider(Option<String>),
    /// Operations on a published file. None: it is deleted.
    Published {
        file: String,
        operations: Option<Vec<Value>>,
    },
    Trust(Vec<Value>),
    Unreachable(bool),
}

/// An intact session issuer of the namespace `second`.
struct Issued<'w> {
    world: &'w World,
    directory: TempDir,
    proxy: SocketAddr,
    ca: String,
    is_away: Arc<AtomicBool>,
    trust: Value,
}

#[test]
fn check_finds_each_fault_of_a_session_issuer_and_nothing_else() {
    let world = world();
    let issued = Issued::of(&world);
    assert_eq!(issued.found(), BTreeSet::new(), "{}", issued.text());
    // Base credentials are not needed, and so not checked.
    let text = issued.text();
    for check in ["role-trust", "base-role", "base-credentials", "permissions-lost"] {
        assert!(!text.contains(&format!(" {check} ")), "{text}");
    }
    let faults = data::cases::<Fault>("tests/cluster/check/issuer_faults");
    // docs/testing.md has this number.
    assert_eq!(faults.len(), 27);
    for (file, Fault { name, change, want }) in faults {
        let undo = issued.make(&change);
        let found = issued.found();
        assert_eq!(found, want.into_iter().collect(), "{file}: {name}\n{}", issued.text());
        issued.undo(undo);
        assert_eq!(issued.found(), BTreeSet::new(), "{file}: {name}, undone\n{}", issued.text());
    }
    issued.remove();
}

impl<'w> Issued<'w> {
    fn of(world: &'w World) -> Self {
        let directory = own_directory();
        let path = directory.path();
        let key = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let made = Command::new("openssl").args(key).arg("-out").arg(path.join("key.pem")).output();
        assert!(made.unwrap().status.success());
        let ca = Ca::new();
        let text = world.get(&CONFIG)["data"]["config.yaml"].as_str().unwrap().to_owned();
        let mut config: Value = serde_saphyr::from_str(&text).unwrap();
        config["awsCaBundle"] = json!(ca.pem);
        config["issuer"] = json!({
            "url": URL,
            "endpoint": "https://pilot-fab-session-injector-issuer.injector.svc/v1/token",
            "caBundle": ca.pem,
            "keys": [{"file": path.join("key.pem")}],
        });
        config["transport"] = json!("webIdentity");
        fs::write(path.join("config.yaml"), config.to_string()).unwrap();
        fs::write(path.join("roles.yaml"), json!({"roles": {"acme": BROKER}}).to_string()).unwrap();
        let run = |arguments: &[&str]| {
            let mut command = Command::new(program());
            let output = command.args(arguments).arg("--config").arg(path.join("config.yaml"));
            let output = output.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        run(&["issuer", "export", "--out", path.join("published").to_str().unwrap()]);
        let iam = ["iam", "--transport=web-identity", "--tenant=acme", "--session-role", BROKER];
        let trust = run(&[&iam[..], &["--only", "session-role-trust"]].concat());

        let is_away = Arc::new(AtomicBool::new(false));
        let proxy = serve(path.join("published"), &ca, Arc::clone(&is_away));
        let trust = serde_json::from_slice(&trust).unwrap();
        let issued = Self { world, directory, proxy, ca: ca.pem, is_away, trust };
        issued.put_trust(&issued.trust);
        issued.put_provider(CLIENT_ID);
        world.apply(&policy());
        world.apply(&binding());
        issued.label("fab.nanohype.dev/session-transport=web-identity");
        world.create(&issuer_pod());
        issued.create_agent(&issued.pod("steady", None));
        issued
    }

    /// Makes the installation as it was without the issuer.
    fn remove(self) {
        self.label("fab.nanohype.dev/session-transport-");
        self.world.remove(&self.pod("steady", None));
        self.world.remove(&issuer_pod());
        self.world.remove(&binding());
        self.world.remove(&policy());
        self.delete_provider();
        self.world.write_down(&Policies::default());
    }

    fn make(&self, change: &IssuerChange) -> Option<Undo> {
        match change {
            IssuerChange::Cluster(change) => Some(self.world.make(change)),
            IssuerChange::Ca => {
                let both = json!(format!("{}{}", self.ca, Ca::new().pem));
                self.configure(|issuer| issuer.insert("caBundle".to_owned(), both));
                None
            }
            IssuerChange::Duration(seconds) => {
                let seconds = json!(seconds);
                self.configure(|issuer| issuer.insert("durationSeconds".to_owned(), seconds));
                None
            }
            IssuerChange::Named(name) => {
                let pod = self.pod(name, Some(name));
                self.create_agent(&pod);
                Some(Undo::Delete(pod))
            }
            IssuerChange::Provider(client_id) => {
                self.delete_provider();
                client_id.iter().for_each(|client_id| self.put_provider(client_id));
                None
            }
            IssuerChange::Published { file, operations } => {
                let path = self.published().join(file);
                match operations {
                    Some(operations) => {
                        let text = fs::read(&path).unwrap();
                        let mut document: Value = serde_json::from_slice(&text).unwrap();
                        data::patch(&mut document, operations);
                        fs::write(path, document.to_string()).unwrap();
                    }
                    None => fs::remove_file(path).unwrap(),
                }
                None
            }
            IssuerChange::Trust(operations) => {
                let mut trust = self.trust.clone();
                data::patch(&mut trust, operations);
                self.put_trust(&trust);
                None
            }
            IssuerChange::Unreachable(is_away) => {
                self.is_away.store(*is_away, SeqCst);
                None
            }
        }
    }

    /// Undoes a change of the cluster, and restores everything else.
    fn undo(&self, undo: Option<Undo>) {
        undo.into_iter().for_each(|undo| self.world.undo(undo));
        self.is_away.store(false, SeqCst);
        self.configure(|issuer| {
            issuer.insert("caBundle".to_owned(), json!(self.ca));
            issuer.shift_remove("durationSeconds")
        });
        self.put_trust(&self.trust);
        self.delete_provider();
        self.put_provider(CLIENT_ID);
        // export keeps the files of another issuer.
        fs::remove_dir_all(self.published()).unwrap();
        let mut export = Command::new(program());
        export.args(["issuer", "export", "--config"]).arg(self.config());
        let exported = export.arg("--out").arg(self.published()).output().unwrap();
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    }

    /// Creates an injected pod. No webhook of the cluster knows this issuer.
    fn create_agent(&self, pod: &Value) {
        self.world.opt_in("second", None);
        self.world.create(pod);
        self.world.opt_in("second", Some("enabled"));
    }

    /// Returns a pod of the namespace, as the webhook injects it for a trusted creator.
    fn pod(&self, name: &str, session: Option<&str>) -> Value {
        let mut pod = agent("second", name);
        if let Some(session) = session {
            pod["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": session});
        }
        let manifest = self.directory.path().join("pod.json");
        fs::write(&manifest, pod.to_string()).unwrap();
        let output = Command::new(program())
            .args(["inject", "--as=system:serviceaccount:eks-agent-platform:operator"])
            .args(["--tenant=acme", "--filename"])
            .arg(manifest)
            .arg("--config")
            .arg(self.config())
            .arg("--roles")
            .arg(self.directory.path().join("roles.yaml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pod: Value = serde_saphyr::from_slice(&output.stdout).unwrap();
        assert!(pod.to_string().contains("FAB_SESSION_ISSUER"), "{pod}");
        pod
    }

    fn found(&self) -> BTreeSet<String> {
        levels(&self.command(&["--output=json"]).output().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8(self.command(&[]).output().unwrap().stdout).unwrap()
    }

    /// The issuer's host has no address here, so a proxy leads to it.
    fn command(&self, arguments: &[&str]) -> Command {
        let config = self.config();
        let own = ["--namespace=second", "--assume-role", "--config", config.to_str().unwrap()];
        let arguments = [&own, arguments].concat();
        let mut command = self.world.command(&self.world.cluster.kubeconfig(), &arguments);
        command.env("ALL_PROXY", format!("http://{}", self.proxy)).env("NO_PROXY", "127.0.0.1");
        command
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    fn published(&self) -> PathBuf {
        self.directory.path().join("published")
    }

    /// Changes the section `issuer` of the config.
    fn configure(&self, change: impl FnOnce(&mut Map<String, Value>) -> Option<Value>) {
        let mut config: Value = serde_json::from_slice(&fs::read(self.config()).unwrap()).unwrap();
        change(config["issuer"].as_object_mut().unwrap());
        fs::write(self.config(), config.to_string()).unwrap();
    }

    fn put_trust(&self, trust: &Value) {
        let document = ("PolicyDocument", &*trust.to_string());
        self.world.moto.iam("UpdateAssumeRolePolicy", &[BROKER_NAME, document]);
    }

    fn put_provider(&self, client_id: &str) {
        let parameters = [("Url", URL), ("ClientIDList.member.1", client_id)];
        let thumbprint = ("ThumbprintList.member.1", "0000000000000000000000000000000000000000");
        let all = [&parameters[..], &[thumbprint]].concat();
        self.world.moto.iam("CreateOpenIDConnectProvider", &all);
    }

    fn delete_provider(&self) {
        let parameters = [("OpenIDConnectProviderArn", PROVIDER)];
        self.world.moto.iam("DeleteOpenIDConnectProvider", &parameters);
    }

    fn label(&self, label: &str) {
        let arguments = ["label", "namespace", "second", label, "--overwrite"];
        self.world.cluster.kubectl(&arguments).json();
    }
}

/// Returns a pod of the issuer, as a network policy sees it.
fn issuer_pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "issuer", "namespace": super::SYSTEM,
            "labels": {"app.kubernetes.io/component": "issuer"},
        },
        "spec": {
            "containers": [{"name": "issuer", "image": "i", "ports": [{"name": "https", "containerPort": 8443}]}],
        },
    })
}

fn policy() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "fab-session-injector-issuer-pods"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"],
            }]},
            "validations": [{"expression": "true"}],
        },
    })
}

fn binding() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "fab-session-injector-issuer-pods-b90f6786"},
        "spec": {"policyName": "fab-session-injector-issuer-pods", "validationActions": ["Deny"]},
    })
}

/// Serves the directory of the URL's path over HTTPS, behind an HTTP proxy. Returns the address of
/// the proxy, which ends with the process.
fn serve(directory: PathBuf, ca: &Ca, is_away: Arc<AtomicBool>) -> SocketAddr {
    let (certificate, key) = ca.pair((-1, 30), HOST);
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if !is_away.load(SeqCst) {
                // A client that goes away is no concern of the server.
                let _ = answer(stream, &config, &directory);
            }
        }
    });
    address
}

fn answer(
    mut stream: TcpStream,
    config: &Arc<ServerConfig>,
    directory: &Path,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    assert!(head.starts_with(format!("CONNECT {HOST}:443 ").as_bytes()), "{head:?}");
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut request = String::new();
    stream.read_line(&mut request)?;
    let path = request.split(' ').nth(1).unwrap_or_default();
    let file = path.strip_prefix("/prod/").map(|path| directory.join(path));
    let (status, body) = match file.and_then(|file| fs::read(file).ok()) {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let stream = stream.get_mut();
    stream.write_all(&[head.as_bytes(), &body].concat())?;
    stream.conn.send_close_notify();
    stream.flush()
}

const HOST: &str = "issuer.example.com";
const URL: &str = "https://issuer.example.com/prod";
const CLIENT_ID: &str = "fab-session/prod";
const PROVIDER: &str = "arn:aws:iam::111122223333:oidc-provider/issuer.example.com/prod";
