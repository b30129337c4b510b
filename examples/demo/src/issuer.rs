//! The same pod without base credentials: its sidecar gets a token of the session issuer, which is
//! the real program. The API server is a stand-in.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use fab_session_injector::manifest;
use serde_json::{Value, json};
use strict_aws::{
    Aws, Outage, Provider, Role, Server, World,
    tokens::{Issuer, Pod as TokenPod},
};

use crate::{
    Error, Process, free_address, program, root,
    session::{BROKER, POD_UID, call_of_agent, now, print_event, variables, wait_for},
};

/// Starts issuer and sidecar, makes a call as the pod's agent, and prints CloudTrail's event of it.
pub(crate) fn run(pod: &Value, directory: &Path) -> Result<(), Error> {
    let address = free_address()?;
    let key = directory.join("issuer-key.pem");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
        .arg(&key)
        .output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into());
    }
    let config = directory.join("issuer.yaml");
    let settings = json!({
        "cluster": "prod",
        "region": "eu-west-1",
        "transport": "webIdentity",
        "roles": {
            "allow": {"accounts": ["111122223333"]},
            "file": root().join("examples/demo/roles.yaml"),
        },
        "issuer": {
            "url": URL,
            "endpoint": format!("https://localhost:{}/v1/token", address.port()),
            "caBundle": fs::read_to_string(directory.join("ca.crt"))?,
            "keys": [{"file": key, "state": "signing"}],
        },
    });
    fs::write(&config, settings.to_string())?;
    let published = directory.join("published");
    run_program(&["issuer", "export", "--config", &text(&config), "--out", &text(&published)])?;

    let pod = injected(pod, &config, directory)?;
    let cluster = Issuer::new("https://kubernetes.default.svc")?;
    let api_server =
        ApiServer { pod: pod.clone(), keys: cluster.jwks(), published: published.clone() }
            .serve()?;
    let kubeconfig = directory.join("kubeconfig");
    fs::write(&kubeconfig, kubeconfig_of(api_server).to_string())?;
    let log = directory.join("issuer.log");
    let mut issuer = Command::new(program()?);
    issuer
        .args(["issuer", "--config", &text(&config)])
        .arg(format!("--listen={address}"))
        .arg(format!("--health-listen={}", free_address()?))
        .args(["--tls-certificate", &text(&directory.join("tls.crt"))])
        .args(["--tls-key", &text(&directory.join("tls.key"))])
        .arg(format!("--published-at=http://{api_server}/published"))
        .env("KUBECONFIG", &kubeconfig);
    let _issuer = Process::start(&mut issuer, &log)?;
    wait_for(&log, "the published keys are correct")?;
    println!("The session issuer has its key in a file, and published the public part.");

    let aws = Arc::new(account(&config, published)?);
    let server = Server::start(Arc::clone(&aws))?;
    let endpoint = server.endpoint();
    let (pod_token, token) = (directory.join("pod-token"), directory.join("issued-token"));
    let mut claims = TokenPod::new(
        "tenants-acme",
        "tenant-runtime",
        pod["metadata"]["name"].as_str().unwrap_or_default(),
    );
    claims.uid = POD_UID.to_owned();
    let audience = "fab-session-issuer.prod";
    fs::write(&pod_token, cluster.mint(&claims, audience, now(), Duration::from_secs(3600)))?;
    let _ = fs::remove_file(&token);
    let port = free_address()?.port().to_string();
    let mut sidecar = Command::new(program()?);
    sidecar
        .arg("sidecar")
        .env_clear()
        .envs(variables(&pod["spec"]["initContainers"][0], &pod))
        .env("AWS_ENDPOINT_URL_STS", &endpoint)
        .env("FAB_SESSION_ISSUER_TOKEN_FILE", &pod_token)
        .env("FAB_SESSION_PORT", &port)
        .env("FAB_SESSION_TOKEN_FILE", &token);
    let log = directory.join("issued-sidecar.log");
    let _sidecar = Process::start(&mut sidecar, &log)?;
    wait_for(&log, "session credentials issued")?;
    println!("The sidecar got session credentials by AssumeRoleWithWebIdentity. The pod's service");
    println!("account has no role in AWS.");
    call_of_agent(&pod, &token, &port, &endpoint)?;
    print_event(&aws)
}

/// Returns the pod as the webhook injects it with this config.
fn injected(pod: &Value, config: &Path, directory: &Path) -> Result<Value, Error> {
    let file = directory.join("pod.json");
    fs::write(&file, pod.to_string())?;
    let output = run_program(&[
        "inject",
        "-f",
        &text(&file),
        "--namespace=tenants-acme",
        "--as=system:serviceaccount:eks-agent-platform:operator",
        "--roles",
        &text(&root().join("examples/demo/roles.yaml")),
        "--config",
        &text(config),
    ])?;
    let mut pod = manifest::read(&output)?.remove(0);
    pod["metadata"]["uid"] = json!(POD_UID);
    pod["metadata"]["creationTimestamp"] = json!("2026-01-01T01:00:00Z");
    Ok(pod)
}

/// Returns an account whose session role trusts the issuer, as `iam` prints it.
fn account(config: &Path, published: PathBuf) -> Result<Aws, Error> {
    let trust = run_program(&[
        "iam",
        "--transport=web-identity",
        "--tenant=acme",
        "--session-role",
        BROKER,
        "--only=session-role-trust",
        "--config",
        &text(config),
    ])?;
    let read = move |name: &str| fs::read(published.join(name)).map_err(|_| Outage::Missing);
    let world = World::new("111122223333", "eu-west-1")
        .provider(Provider::new(URL, ["fab-session/prod"]).files(read))
        .role(Role::new(BROKER).trust(serde_json::from_str(&trust)?));
    Ok(Aws::new(world)?)
}

fn run_program(arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new(program()?).args(arguments).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn kubeconfig_of(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "demo", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "demo", "user": {}}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
        "current-context": "demo",
    })
}

/// What the issuer asks of an API server, for one pod. It accepts every token.
struct ApiServer {
    pod: Value,
    keys: Value,
    published: PathBuf,
}

impl ApiServer {
    /// Serves on a free port until the demo ends.
    fn serve(self) -> Result<SocketAddr, Error> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let server = Arc::new(self);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                // The client reports what it does not get.
                thread::spawn(move || {
                    let _ = server.answer(stream);
                });
            }
        });
        Ok(address)
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = [0; 16 * 1024];
        let length = stream.read(&mut request)?;
        let request = String::from_utf8_lossy(&request[..length]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let body = match path.split('?').next().unwrap_or_default() {
            // A watch in which nothing happens.
            "/api/v1/namespaces" if path.contains("watch=true") => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")?;
                loop {
                    thread::park();
                }
            }
            "/api/v1/namespaces" => json!({
                "apiVersion": "v1",
                "kind": "NamespaceList",
                "metadata": {"resourceVersion": "1"},
                "items": [namespace()],
            }),
            "/openid/v1/jwks" => self.keys.clone(),
            "/apis/authentication.k8s.io/v1/tokenreviews" => self.review(),
            guard if guard.contains("/validatingadmissionpolic") => json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {
                    "policyName": "fab-session-injector-issuer-pods",
                    "validationActions": ["Deny"],
                },
            }),
            pod if pod.contains("/pods/") => self.pod.clone(),
            file => {
                let file = file.trim_start_matches("/published/");
                serde_json::from_slice(&fs::read(self.published.join(file))?)?
            }
        };
        let body = body.to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn review(&self) -> Value {
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": {},
            "status": {
                "authenticated": true,
                "audiences": ["fab-session-issuer.prod"],
                "user": {
                    "username": "system:serviceaccount:tenants-acme:tenant-runtime",
                    "extra": {
                        "authentication.kubernetes.io/pod-name": [self.pod["metadata"]["name"]],
                        "authentication.kubernetes.io/pod-uid": [POD_UID],
                    },
                },
            },
        })
    }
}

fn namespace() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "tenants-acme", "uid": "n", "resourceVersion": "1", "labels": {
            "fab.nanohype.dev/session-injection": "enabled",
            "fab.nanohype.dev/tenant": "acme",
        }},
    })
}

const URL: &str = "https://issuer.example.com/prod";
