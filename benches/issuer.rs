//! Compares the session issuer with a floor, a server of the same crates that only signs ES256; and
//! the start of a sidecar with the issuer with that of one with base credentials, and with that of a
//! process that only responds. The API server is a stand-in, STS the strict AWS of the tests. The
//! issuer runs on one core, this program on another.
//!
//! The issuer signs at most 100 tokens a second, so the CPU time of a token is compared, which is the
//! inverse of the rate of a whole core. `issuer PROGRAM [RATE]` measures; `issuer floor ADDRESS DIRECTORY`
//! and `issuer responds PORT` run what it is compared with.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints its results")]
#![allow(clippy::disallowed_methods, reason = "it starts programs, and reads the clock")]

use std::{
    fs,
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fab_session_injector::serve::{
    Limits, Protocol, Transport, serve,
    tls::{Certificate, Files},
};
use harness::{
    file_server,
    process::free_port,
    sidecar::{
        account::{Account, BROKER, Policies},
        pod::{Pod, Template},
    },
    stand_in::StandIn,
    tls::Tls,
    webhook::client::{self as tls_client, shake_hands},
};
use rustls::version::TLS13;
use serde_json::{Value, json};
use strict_aws::Provider;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, sleep_until},
};
use tokio_rustls::TlsAcceptor;

/// Requests a second, below the issuer's limit of 100. A debug build or a busy machine needs fewer.
const RATE: u32 = 80;
const REQUESTS: u32 = 240;
const PAIRS: usize = 7;
const STARTS: usize = 15;
/// The issuer's limits are 20 tokens a second for a namespace, and 3 at once for a pod.
const NAMESPACES: usize = 10;
const PODS: usize = 1000;
const URL: &str = "https://issuer.example.com/prod";
const AUDIENCE: &str = "fab-session-issuer.prod";

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", address, directory] => floor(address, directory).await,
        ["responds", port] => responds(port.parse().unwrap()).await,
        [program] => measure(program, RATE).await,
        [program, rate] => measure(program, rate.parse().unwrap()).await,
        _ => {
            panic!("issuer PROGRAM [RATE] | issuer floor ADDRESS DIRECTORY | issuer responds PORT")
        }
    }
}

/// Runs the floor: the server of the issuer, with a handler that signs a text of a JWT's length.
async fn floor(address: &str, directory: &str) {
    let files = Files {
        certificate: format!("{directory}/tls.crt").into(),
        key: format!("{directory}/tls.key").into(),
    };
    let tls = Certificate::load(files).unwrap().server_config().unwrap();
    let pair = Arc::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
    let router = Router::new().route("/v1/token", post(sign)).with_state(pair);
    let limits = Limits { connections: 1024, protocol: Protocol::OneRequest, ..Limits::default() };
    let listener = TcpListener::bind(address).await.unwrap();
    let transport = Transport::Tls(TlsAcceptor::from(Arc::new(tls)));
    serve(listener, transport, limits, router, pending(), Duration::ZERO).await;
}

async fn sign(State(pair): State<Arc<EcdsaKeyPair>>) -> Response {
    let signed = "x".repeat(800);
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    Json(json!({"token": token})).into_response()
}

/// Responds on a port, and does nothing else.
async fn responds(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let router = Router::new().fallback(async || "{}");
    let limits = Limits { protocol: Protocol::OneRequest, ..Limits::default() };
    serve(listener, Transport::Plain, limits, router, pending(), Duration::ZERO).await;
}

/// A stand-in for an API server: namespaces, pods, and tokens that it signs.
struct ApiServer {
    pair: RsaKeyPair,
    /// A pod as the webhook makes it.
    pod: Value,
}

impl ApiServer {
    fn jwks(&self) -> Value {
        // DER of RFC 8017: 9 bytes before the modulus of 2048 bits.
        let key = URL_SAFE_NO_PAD.encode(&self.pair.public_key().as_ref()[9..265]);
        json!({"keys": [{"use": "sig", "kty": "RSA", "kid": "1", "alg": "RS256", "n": key, "e": "AQAB"}]})
    }

    /// Returns the projected token of a pod.
    fn token(&self, number: usize) -> String {
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let namespace = namespace(number);
        let claims = json!({
            "iss": "https://kubernetes.default.svc", "aud": [AUDIENCE],
            "exp": now + 3600, "iat": now, "nbf": now,
            "jti": "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e",
            "sub": format!("system:serviceaccount:{namespace}:default"),
            "kubernetes.io": {
                "namespace": namespace,
                "node": {"name": "ip-10-0-0-1.eu-west-1.compute.internal", "uid": uid(0)},
                "pod": {"name": format!("p{number}"), "uid": uid(number)},
                "serviceaccount": {"name": "default", "uid": uid(0)},
            },
        });
        let signed = format!("{}.{}", part(&json!({"alg": "RS256", "kid": "1"})), part(&claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Response {
        let answer = match path.trim_matches('/').split('/').collect::<Vec<_>>()[..] {
            ["openid", "v1", "jwks"] => self.jwks(),
            ["api", "v1", "namespaces"] => namespaces(),
            ["api", "v1", "namespaces", namespace, "pods", name] => {
                let number = name[1..].parse().unwrap();
                let mut pod = self.pod.clone();
                pod["metadata"]["namespace"] = namespace.into();
                pod["metadata"]["name"] = name.into();
                pod["metadata"]["uid"] = uid(number).into();
                pod
            }
            ["apis", "authentication.k8s.io", "v1", "tokenreviews"] if method == Method::POST => {
                let mut review: Value = serde_json::from_slice(body).unwrap();
                let claims = review["spec"]["token"].as_str().unwrap().split('.').nth(1).unwrap();
                let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
                let claims: Value = serde_json::from_slice(&claims).unwrap();
                let pod = &claims["kubernetes.io"]["pod"];
                review["status"] = json!({
                    "authenticated": true, "audiences": [AUDIENCE],
                    "user": {
                        "username": claims["sub"],
                        "extra": {
                            "authentication.kubernetes.io/pod-name": [pod["name"]],
                            "authentication.kubernetes.io/pod-uid": [pod["uid"]],
                        },
                    },
                });
                review
            }
            _ => {
                let status = json!({
                    "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404,
                    "reason": "NotFound", "message": "not found",
                });
                return (StatusCode::NOT_FOUND, Json(status)).into_response();
            }
        };
        Json(answer).into_response()
    }
}

async fn answer(State(server): State<Arc<ApiServer>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
        // No event comes.
        let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        return Body::from_stream(never).into_response();
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    server.answer(&parts.method, parts.uri.path(), &body)
}

fn namespaces() -> Value {
    let items = (0..NAMESPACES).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace(number), "uid": uid(number), "resourceVersion": "1", "labels": {
                "fab.nanohype.dev/session-injection": "enabled",
                "fab.nanohype.dev/tenant": "acme",
            }},
        })
    });
    json!({
        "apiVersion": "v1", "kind": "NamespaceList", "metadata": {"resourceVersion": "1"},
        "items": items.collect::<Vec<_>>(),
    })
}

fn namespace(number: usize) -> String {
    format!("tenants-{}", number % NAMESPACES)
}

fn uid(number: usize) -> String {
    format!("0e1c7c2b-8a52-4c4f-9d0e-{number:012}")
}

/// A running issuer, with what it reads.
struct Issuer {
    process: Running,
    floor: Running,
    address: SocketAddr,
    floor_address: SocketAddr,
    api_server: Arc<ApiServer>,
    account: Account,
    settings: Value,
    directory: TempDir,
    _stand_in: (StandIn, Tls),
}

impl Issuer {
    async fn start(program: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        run(Command::new(harness::root().join("certs/make")).arg(path).arg("localhost"));
        let [address, floor_address] = [(); 2].map(|()| local(free_port()));
        let health = local(free_port());
        let key = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
        run(Command::new("openssl").args(key).arg(path.join("key.pem")));
        let settings = json!({
            "url": URL,
            "endpoint": format!("https://localhost:{}/v1/token", address.port()),
            "caBundle": fs::read_to_string(path.join("ca.crt")).unwrap(),
            "keys": [{"file": path.join("key.pem"), "state": "signing"}],
        });
        let config = path.join("config.yaml");
        let roles = path.join("roles.yaml");
        fs::write(&roles, json!({"roles": {"acme": BROKER}}).to_string()).unwrap();
        let text = json!({
            "cluster": "prod",
            "transport": "webIdentity",
            "roles": {"allow": {"accounts": ["111122223333"]}, "file": roles},
            "issuer": settings,
        });
        fs::write(&config, text.to_string()).unwrap();
        let published = path.join("published");
        run(Command::new(program)
            .args(["issuer", "export", "--out"])
            .arg(&published)
            .arg("--config")
            .arg(&config));
        let account = account(program, &config, &published);

        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
        let pair = RsaKeyPair::from_pkcs8(der.as_ref()).unwrap();
        let api_server = Arc::new(ApiServer { pair, pod: injected(program, path) });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&api_server));
        let stand_in = StandIn::start(Ipv4Addr::LOCALHOST, router);
        let tls = Tls::before(stand_in.address);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {
                "server": tls.endpoint(), "certificate-authority": tls.authority(),
            }}],
            "users": [{"name": "x", "user": {"token": "x"}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        });
        fs::write(path.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let published_at = file_server::serve(Ipv4Addr::LOCALHOST.into(), published);
        let log = fs::File::create(path.join("issuer.log")).unwrap();
        let mut command = Command::new("taskset");
        command
            .args(["-c", "0", program])
            .args(harness::issuer::arguments(&config, path, address, health, published_at))
            .env("KUBECONFIG", path.join("kubeconfig"))
            .stderr(log);
        let process = Running(command.spawn().unwrap());
        let this = std::env::current_exe().unwrap();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(this).args(["floor", &floor_address.to_string()]).arg(path);
        let floor = Running(command.spawn().unwrap());
        for _ in 0..600 {
            let metrics = harness::process::get(health, "/metrics");
            if metrics.contains("issuer_ready 1\n") && metrics.contains("issuer_key_published 1\n")
            {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        Self {
            process,
            floor,
            address,
            floor_address,
            api_server,
            account,
            settings,
            directory,
            _stand_in: (stand_in, tls),
        }
    }

    /// Sends requests at the steady rate. Returns the CPU time of one in microseconds.
    async fn load(
        &self,
        process: &Running,
        address: SocketAddr,
        tokens: &[String],
        rate: u32,
    ) -> f64 {
        let authority: Arc<[u8]> = fs::read(self.directory.path().join("ca.crt")).unwrap().into();
        let before = process.cpu();
        let start = Instant::now() + Duration::from_millis(10);
        let requests: Vec<_> = (0..REQUESTS)
            .map(|number| {
                let token = tokens[number as usize].clone();
                let authority = Arc::clone(&authority);
                let due = start + Duration::from_secs(number.into()) / rate;
                tokio::spawn(async move {
                    sleep_until(due.into()).await;
                    ask(address, &authority, &token).await;
                })
            })
            .collect();
        for request in requests {
            request.await.unwrap();
        }
        (process.cpu() - before).as_secs_f64() * 1e6 / f64::from(REQUESTS)
    }

    /// Returns the pod of a sidecar with the issuer.
    fn pod(&self, number: usize) -> Pod {
        let mut template = Template::new(&self.account.template().endpoint, BROKER);
        template.issuer = Some(self.settings.clone());
        template.uid = uid(number);
        template.name = format!("p{number}");
        template.account = "default";
        template.named = None;
        let pod = Pod::inject(&template);
        pod.project(&self.api_server.token(number));
        pod
    }
}

async fn measure(program: &str, rate: u32) {
    let issuer = Issuer::start(program).await;
    let mut tokens: Vec<String> = (0..PODS).map(|number| issuer.api_server.token(number)).collect();
    sleep(Duration::from_secs(3)).await;
    for line in issuer.process.status().lines() {
        if ["VmRSS", "RssAnon", "Threads"].iter().any(|name| line.starts_with(name)) {
            println!("idle: {line}");
        }
    }

    println!("pair  floor us  issuer us  ratio (CPU time of one token)");
    let mut ratios = Vec::new();
    for pair in 0..=PAIRS {
        tokens.rotate_left(REQUESTS as usize);
        let ours = issuer.load(&issuer.process, issuer.address, &tokens, rate);
        let floor = || issuer.load(&issuer.floor, issuer.floor_address, &tokens, rate);
        let (floor, ours) = if pair % 2 == 0 {
            (floor().await, ours.await)
        } else {
            let ours = ours.await;
            (floor().await, ours)
        };
        // The first pair only warms up.
        if pair > 0 {
            println!("{pair:4} {floor:9.0} {ours:10.0}  {:.2}", floor / ours);
            ratios.push(floor / ours);
        }
    }
    println!("median of ratios: {}", spread(&mut ratios));
    for line in issuer.process.status().lines() {
        if ["VmRSS", "RssAnon", "VmHWM"].iter().any(|name| line.starts_with(name)) {
            println!("after the load: {line}");
        }
    }

    println!("a sidecar's start, until it serves credentials:");
    let this = std::env::current_exe().unwrap();
    let (mut only, mut chain, mut web) = (Vec::new(), Vec::new(), Vec::new());
    let (mut added, mut cpu) = (Vec::new(), Vec::new());
    for round in 0..STARTS {
        let chained = issuer.account.pod();
        let with_issuer = issuer.pod(PODS + round);
        let words =
            [this.to_str().unwrap(), "responds", &chained.port.to_string()].map(str::to_owned);
        only.push(started(&mut chained.agent(&words), &chained).0);
        let mut both = [(&chained, (0.0, 0.0)), (&with_issuer, (0.0, 0.0))];
        if round % 2 == 1 {
            both.reverse();
        }
        for (pod, took) in &mut both {
            *took = started(&mut pod.sidecar_command(), pod);
        }
        both.sort_by_key(|(pod, _)| pod.port == with_issuer.port);
        let [(_, (a, a_cpu)), (_, (b, b_cpu))] = both;
        chain.push(a);
        web.push(b);
        added.push(b - a);
        cpu.push(b_cpu - a_cpu);
    }
    println!("a process that only responds: {} ms", spread(&mut only));
    println!("roleChain: {} ms", spread(&mut chain));
    println!("webIdentity: {} ms", spread(&mut web));
    println!("webIdentity adds in each pair: {} ms", spread(&mut added));
    println!("and of CPU time: {} ms", spread(&mut cpu));
}

/// Runs the command in a pod until it responds with 200. Returns wall and CPU time in milliseconds.
fn started(command: &mut Command, pod: &Pod) -> (f64, f64) {
    let began = Instant::now();
    let process = Running(command.stderr(Stdio::null()).spawn().unwrap());
    while pod.get("/v1/credentials").0 != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "no credentials");
        std::thread::sleep(Duration::from_micros(500));
    }
    (began.elapsed().as_secs_f64() * 1e3, process.cpu().as_secs_f64() * 1e3)
}

/// Returns an account whose session role trusts the issuer and the base role.
fn account(program: &str, config: &Path, published: &Path) -> Account {
    let trust = harness::issuer::trust(Path::new(program), config);
    let account = Account::open_with(Policies { trust, ..Policies::default() }, |world| {
        world.provider(Provider::new(URL, ["fab-session/prod"]))
    });
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(published.join(name)).unwrap()).unwrap()
    };
    assert!(account.aws.publish(URL, read(".well-known/openid-configuration"), read("keys.json")));
    account
}

/// Returns a pod as the webhook makes it with the config.
fn injected(program: &str, directory: &Path) -> Value {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "p0", "namespace": "tenants-acme", "labels": {"agents.nanohype.dev/agentsandbox": "a"},
        },
        "spec": {
            "serviceAccountName": "default",
            "automountServiceAccountToken": false,
            "containers": [{"name": "session", "image": "agent"}],
        },
    });
    fs::write(directory.join("pod.json"), pod.to_string()).unwrap();
    let output = Command::new(program)
        .args(["inject", "-f", "pod.json", "--roles=roles.yaml", "--config=config.yaml"])
        .args(["--region=eu-west-1"])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_saphyr::from_slice(&output.stdout).unwrap()
}

async fn ask(address: SocketAddr, authority: &[u8], token: &str) {
    let protocol = tls_client::Protocol::Http1;
    let mut stream = shake_hands(address, authority, protocol, &[&TLS13]).await.unwrap();
    let request = format!(
        "POST /v1/token HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns the median with the least and the greatest value.
fn spread(values: &mut [f64]) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let [first, .., last] = *values else { panic!("too few values") };
    format!("{:.2} ({first:.2} to {last:.2})", values[values.len() / 2])
}

struct Running(Child);

impl Running {
    /// Returns the CPU time that the process has used.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap().flatten();
        let nanos = tasks.map(|task| -> u64 {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanos.sum())
    }

    fn status(&self) -> String {
        fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
