//! Garbage at the issuer's port, from clients in one place of the network. It costs no calls of the
//! API server, bounded memory and a bounded log, and sidecars get their tokens meanwhile.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use harness::{
    process::wait_until,
    webhook::client::{Protocol, shake_hands_on},
};
use rustls::{
    pki_types::{PrivatePkcs8KeyDer, pem::PemObject},
    version::TLS13,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::web_identity::issuer_process::{AUDIENCE, IssuerProcess, Settings};

/// How the API server signs, or another with the same names.
struct Signer(RsaKeyPair);

impl Signer {
    fn of(pem: &[u8]) -> Self {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).unwrap();
        Self(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap())
    }

    fn new() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self(
            RsaKeyPair::from_pkcs8(
                AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref(),
            )
            .unwrap(),
        )
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Returns tokens that the issuer refuses, made of one that it accepts.
fn garbage(issuer: &IssuerProcess, good: &str) -> Vec<(&'static str, String)> {
    let part = |index| -> Value {
        let text = good.split('.').nth(index).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    let (header, claims) = (part(0), part(1));
    let with = |part: &Value, key: &str, value: Value| {
        let mut changed = part.clone();
        changed[key] = value;
        changed
    };
    let (own, other) = (Signer::of(&issuer.token_key()), Signer::new());
    let now = claims["iat"].as_u64().unwrap();
    let mut expired = with(&claims, "exp", json!(now - 3600));
    expired["iat"] = json!(now - 7200);
    // The control: a token that this key signs is accepted.
    assert_eq!(issuer.ask(&own.sign(&header, &claims)).0, 200);
    vec![
        ("random", URL_SAFE_NO_PAD.encode([7; 900])),
        ("three parts", format!("{0}.{0}.{0}", URL_SAFE_NO_PAD.encode([9; 400]))),
        ("another key", other.sign(&header, &claims)),
        ("unknown kid", other.sign(&with(&header, "kid", json!("other")), &claims)),
        ("expired", own.sign(&header, &expired)),
        (
            "another audience",
            own.sign(&header, &with(&claims, "aud", json!(["sts.amazonaws.com"]))),
        ),
        ("no pod", own.sign(&header, &with(&claims, "kubernetes.io", json!({})))),
        ("8 KiB", "a".repeat(8 * 1024 + 1)),
    ]
}

/// All abuse, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<BTreeMap<String, usize>>>,
    runtime: Runtime,
    senders: JoinSet<()>,
}

impl Flood {
    fn start(address: SocketAddr, authority: Vec<u8>, tokens: Vec<(&'static str, String)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut flood = Self { stop, sent, runtime, senders: JoinSet::new() };
        let authority: Arc<[u8]> = authority.into();
        let head = |token: &str, more: &str| {
            format!("POST /v1/token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}")
        };
        for (what, token) in tokens {
            let whole = head(&token, "Content-Length: 0\r\n\r\n");
            flood.repeat(what, 2, address, &authority, whole.into(), 0);
        }
        let long = format!("Content-Length: {}\r\n\r\n", 16 << 20);
        flood.repeat("16 MiB bodies", 4, address, &authority, head("a", &long).into(), 16 << 20);
        flood.repeat("16 MiB heads", 4, address, &authority, head("a", "X: ").into(), 16 << 20);
        // It fills the buffer of a head, and does not end.
        let slow = head("a", &format!("X: {}", "a".repeat(15 * 1024)));
        flood.repeat("slow heads", 150, address, &authority, slow.into(), 0);
        flood.repeat("idle connections", 100, address, &authority, Vec::new(), 0);
        // A ClientHello of 64 KiB that does not end, in records of 16 KiB.
        let mut hello = Vec::new();
        for number in 0..4 {
            hello.extend([22, 3, 1, 0x40, 0]);
            let start = if number == 0 { &[1, 0, 0xff, 0xff][..] } else { &[] };
            hello.extend(start);
            hello.extend(vec![3; 0x4000 - start.len() - usize::from(number == 3)]);
        }
        flood.plain("slow handshakes", 300, address, hello);
        // With these there are more connections than the port accepts.
        flood.plain("silent connections", 600, address, Vec::new());
        flood
    }

    /// Sends the request again and again on so many connections, each followed by so many bytes.
    fn repeat(
        &mut self,
        what: &'static str,
        connections: usize,
        address: SocketAddr,
        authority: &Arc<[u8]>,
        request: Vec<u8>,
        bytes: usize,
    ) {
        let request: Arc<[u8]> = request.into();
        for _ in 0..connections {
            let (request, authority) = (Arc::clone(&request), Arc::clone(authority));
            self.spawn(what, move || {
                let (request, authority) = (Arc::clone(&request), Arc::clone(&authority));
                async move {
                    let stream = connect(address).await?;
                    let http1 = Protocol::Http1;
                    let tls =
                        shake_hands_on(stream, "localhost", &authority, http1, &[&TLS13]).await;
                    send(&mut tls.ok()?, &request, bytes).await
                }
            });
        }
    }

    /// The same without TLS.
    fn plain(
        &mut self,
        what: &'static str,
        connections: usize,
        address: SocketAddr,
        bytes: Vec<u8>,
    ) {
        let bytes: Arc<[u8]> = bytes.into();
        for _ in 0..connections {
            let bytes = Arc::clone(&bytes);
            self.spawn(what, move || {
                let bytes = Arc::clone(&bytes);
                async move {
                    let mut stream = connect(address).await?;
                    stream.write_all(&bytes).await.ok()?;
                    stream.read(&mut [0; 1]).await.ok().map(|_| ())
                }
            });
        }
    }

    fn spawn<F: Future<Output = Option<()>> + Send>(
        &mut self,
        what: &'static str,
        mut once: impl FnMut() -> F + Send + 'static,
    ) {
        let (stop, sent) = (Arc::clone(&self.stop), Arc::clone(&self.sent));
        let send = async move {
            while !stop.load(Ordering::Relaxed) {
                match timeout(Duration::from_secs(8), once()).await {
                    Ok(Some(())) | Err(_) => {
                        *sent.lock().unwrap().entry(what.to_owned()).or_insert(0) += 1;
                    }
                    // The server has too many connections of this address.
                    Ok(None) => sleep(Duration::from_millis(200)).await,
                }
            }
        };
        self.senders.spawn_on(send, self.runtime.handle());
    }

    fn end(mut self) -> BTreeMap<String, usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.abort_all();
        self.runtime.shutdown_background();
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

/// Connects from another address than the sidecars, as another pod does.
async fn connect(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    socket.connect(address).await.ok()
}

async fn send(stream: &mut TlsStream<TcpStream>, request: &[u8], bytes: usize) -> Option<()> {
    stream.write_all(request).await.ok()?;
    let part = [b'a'; 16 * 1024];
    for _ in 0..bytes / part.len() {
        // The response may come before the end.
        if timeout(Duration::from_millis(500), stream.write_all(&part)).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    Some(())
}

#[test]
fn garbage_costs_no_calls_and_little_memory() {
    let issuer = IssuerProcess::start_with(Settings { is_proxied: true, ..Settings::default() });
    let proxy = issuer.proxy.as_ref().unwrap();
    // One token for each second, since a pod gets three at once.
    let good: Vec<String> =
        (0..8).map(|n| issuer.pod(&format!("p{n}"), |_| {}).token(AUDIENCE)).collect();
    let (address, authority) = issuer.port();
    let tokens = garbage(&issuer, &issuer.pod("copied", |_| {}).token(AUDIENCE));
    let idle = ["VmRSS:", "RssAnon:"].map(|key| issuer.memory(key));

    proxy.take_calls();
    let lines = issuer.log().lines().count();
    let begun = Instant::now();
    let flood = Flood::start(address, authority, tokens);
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    let (mut genuine, mut attempts) = (0, 0);
    for token in good.iter().cycle().take(2 * good.len()) {
        let asked = Instant::now();
        // As a sidecar, which repeats a request that fails. On a busy machine the time for a token
        // may be over.
        wait_until("a sidecar gets its token", Duration::from_secs(60), || {
            attempts += 1;
            let (status, answer) = issuer.ask(token);
            assert!([200, 503].contains(&status), "{answer}");
            (status == 200).then_some(())
        });
        genuine += 1;
        slowest = slowest.max(asked.elapsed());
        most = most.max(issuer.memory("RssAnon:"));
        std::thread::sleep(Duration::from_secs(1).saturating_sub(asked.elapsed()));
    }
    let sent = flood.end();
    let took = begun.elapsed().as_secs() as usize + 1;

    let calls = proxy.take_calls();
    let count = |part: &str| calls.iter().filter(|call| call.contains(part)).count();
    let [reviews, pods, guards, keys] =
        ["/tokenreviews", "/pods/", "/validatingadmissionpolic", "/openid/v1/jwks"].map(count);
    let written = issuer.log().lines().count() - lines;
    let peak = issuer.memory("VmHWM:");
    println!(
        "{sent:?} in {took} s, with {genuine} tokens of {attempts} requests, the slowest after {} ms: {keys} reads of the keys; {written} lines; idle {} KiB resident, {} KiB anonymous; at most {peak} KiB, {most} KiB",
        slowest.as_millis(),
        idle[0],
        idle[1],
    );
    for what in ["random", "another key", "unknown kid", "expired", "16 MiB bodies", "slow heads"] {
        assert!(sent.get(what).is_some_and(|count| *count > 1), "{what}: no flood");
    }
    // None for garbage.
    assert!((genuine..=attempts).contains(&reviews), "{reviews} for {attempts}: {calls:?}");
    assert!((genuine..=attempts).contains(&pods), "{pods} for {attempts}: {calls:?}");
    assert!(guards <= 2 * (1 + took / 10), "{guards}");
    // For the unknown key, once in 10 s; the others only for the age of the keys.
    assert!(keys <= 2 + took / 10, "{keys}");
    assert_eq!(reviews + pods + guards + keys, calls.len(), "{calls:?}");
    assert!(written <= attempts + 10 * (took + 1), "{written} lines in {took} s");
    assert!(most < LIMIT, "{most} KiB");
}

/// Anonymous memory, in KiB: the chart's limit of 256 MiB, less 128 MiB for the kernel's buffers of
/// connections and the program's text. A debug build took 28 MiB.
const LIMIT: usize = 100 * 1024;
