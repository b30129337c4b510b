//! All abuse of the webhook's port at once, against the released program within the chart's memory
//! limit.
//!
//! Needs root for a memory cgroup, and the program of `make image`: run `make e2e`.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    pin::Pin,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Bytes;
use futures_util::stream::{self, StreamExt};
use harness::{
    process::{Process, free_port, get, own_directory, wait_until},
    webhook::{
        client::{Client, Protocol, shake_hands, shake_hands_on},
        load::{JSON, pod_with, post_of, proxies, silent_ssm},
        server::{Server, command, make_certificate, review},
    },
};
use http_body_util::combinators::BoxBody;
use hyper::{Request, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{SupportedProtocolVersion, version::TLS13};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

/// A memory cgroup for the test, of version 1 or 2.
struct Cgroup {
    directory: PathBuf,
    limit: &'static str,
}

impl Cgroup {
    fn new(name: &str, bytes: usize) -> Self {
        let (root, limit) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
            ("/sys/fs/cgroup", "memory.max")
        } else {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        };
        let directory = Path::new(root).join(format!("fab-{name}-{}", std::process::id()));
        fs::create_dir(&directory)
            .unwrap_or_else(|error| panic!("cannot make {directory:?} ({error}): run me as root"));
        fs::write(directory.join(limit), bytes.to_string()).unwrap();
        Self { directory, limit }
    }

    /// Returns the same command, in this cgroup.
    fn with(&self, program: &Path, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ >\"$CGROUP/cgroup.procs\" && exec \"$0\" \"$@\""]);
        shell.arg(program).args(command.get_args()).env("CGROUP", &self.directory);
        shell.current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap());
        }
        shell
    }

    /// Returns the peak memory, in bytes.
    fn peak(&self) -> usize {
        let peak =
            if self.limit == "memory.max" { "memory.peak" } else { "memory.max_usage_in_bytes" };
        fs::read_to_string(self.directory.join(peak)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Returns the path of the program of the image, which runs in clusters.
fn released() -> PathBuf {
    // Next to the directory of the program that cargo built for this test.
    let target = Path::new(env!("CARGO_BIN_EXE_fab-session-injector")).ancestors().nth(2).unwrap();
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let program = target.join(triple).join("release/fab-session-injector");
    assert!(program.exists(), "there is no {program:?}: make image");
    program
}

/// Starts a webhook in a cgroup, and an SSM that accepts calls and never responds, so that forged
/// reviews wait as long as possible.
fn start(name: &str, bytes: usize) -> (Server, Cgroup, TcpListener) {
    let directory = own_directory();
    let tls = directory.path().join("tls");
    make_certificate(&tls, &[]);
    let (silent, config) = silent_ssm(directory.path());
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let (address, health) = (local(free_port()), local(free_port()));
    let arguments = ["--shutdown-delay=0", "--config", config.to_str().unwrap()];
    let inner = command(directory.path(), &tls, address, health, &arguments);
    let cgroup = Cgroup::new(name, bytes);
    let mut process =
        Process::start("webhook", directory.path(), &cgroup.with(&released(), &inner));
    process.wait_until("the webhook is ready", SECOND * 30, || {
        get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
    });
    (Server { process, address, health, directory }, cgroup, silent)
}

/// The server's data for a load.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    authority: Arc<Vec<u8>>,
    until: Instant,
}

impl Target {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    async fn stream(&self, protocol: Protocol) -> Option<TlsStream<TcpStream>> {
        let stream = shake_hands(self.address, &self.authority, protocol, VERSIONS);
        timeout(SECOND * 5, stream).await.ok()?.ok()
    }

    async fn deaf(&self) -> Option<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_recv_buffer_size(4096).ok()?;
        let stream = socket.connect(self.address).await.ok()?;
        let stream =
            shake_hands_on(stream, "localhost", &self.authority, Protocol::Http1, VERSIONS);
        timeout(SECOND * 5, stream).await.ok()?.ok()
    }
}

async fn idle(target: Target) -> usize {
    let mut held = Vec::new();
    while target.goes_on() && held.len() < 1000 {
        held.extend(target.stream(Protocol::Http1).await);
    }
    sleep(target.until.saturating_duration_since(Instant::now())).await;
    held.len()
}

/// Opens connections that start a TLS handshake and do not finish it.
async fn half_handshakes(target: Target) -> usize {
    // The head of a record with a ClientHello of 512 bytes, and its first bytes.
    const BEGUN: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let mut held = std::collections::VecDeque::new();
    let mut begun = 0;
    while target.goes_on() {
        let Ok(mut stream) = TcpStream::connect(target.address).await else { continue };
        let _ = stream.write_all(&BEGUN).await;
        held.push_back(stream);
        begun += 1;
        if held.len() > 60 {
            held.pop_front();
        }
        sleep(Duration::from_millis(10)).await;
    }
    begun
}

/// Opens HTTP/2 streams with a request, without its body or with only the first byte of it.
async fn streams_without_a_body(target: Target) -> usize {
    let mut held = Vec::new();
    let mut opened = 0;
    while target.goes_on() && held.len() < 1000 {
        let Some(stream) = target.stream(Protocol::Http2).await else { continue };
        let handshake = http2::handshake::<_, _, BoxBody<Bytes, std::io::Error>>(
            TokioExecutor::new(),
            TokioIo::new(stream),
        );
        let Ok((mut sender, driver)) = handshake.await else { continue };
        tokio::spawn(driver);
        for number in 0..64 {
            let first = (number % 2 == 1).then(|| Ok(Frame::data(Bytes::from_static(b"{"))));
            let pieces = stream::iter(first).chain(stream::pending());
            let body = http_body_util::StreamBody::new(pieces);
            let request = Request::post("https://localhost/enabled")
                .header("content-type", JSON)
                .header("x-long", "x".repeat(12 * 1024))
                .body(BoxBody::new(body))
                .unwrap();
            held_request(&mut sender, request);
            opened += 1;
        }
        held.push(sender);
        sleep(Duration::from_millis(1)).await;
    }
    sleep(target.until.saturating_duration_since(Instant::now())).await;
    opened
}

fn held_request(
    sender: &mut http2::SendRequest<BoxBody<Bytes, std::io::Error>>,
    request: Request<BoxBody<Bytes, std::io::Error>>,
) {
    let asked = sender.send_request(request);
    tokio::spawn(async move { drop(timeout(SECOND * 10, asked).await) });
}

/// Sends only a part of each body.
async fn slow_bodies(target: Target) -> usize {
    let promise = format!(
        "POST /enabled HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {LARGEST}\r\n\r\n"
    );
    let mut begun = 0;
    let mut held = Vec::new();
    while target.goes_on() {
        let Some(mut stream) = target.stream(Protocol::Http1).await else { continue };
        let part = vec![b' '; 1 << 20];
        let _ = stream.write_all(promise.as_bytes()).await;
        let _ = timeout(Duration::from_millis(50), stream.write_all(&part)).await;
        held.push(stream);
        begun += 1;
        if held.len() > 100 {
            held.remove(0);
        }
    }
    begun
}

async fn heads_without_an_end(target: Target) -> usize {
    let mut held = Vec::new();
    while target.goes_on() && held.len() < 300 {
        let Some(mut stream) = target.stream(Protocol::Http1).await else { continue };
        let _ = stream.write_all(b"POST /enabled HTTP/1.1\r\nHost: x\r\nA: ").await;
        let _ = timeout(Duration::from_millis(5), stream.write_all(&[b'a'; 380_000])).await;
        held.push(stream);
    }
    sleep(target.until.saturating_duration_since(Instant::now())).await;
    held.len()
}

/// Sends the same complete body repeatedly.
async fn posts(target: Target, body: Bytes) -> usize {
    let mut sent = 0;
    while target.goes_on() {
        let client = Client::connect(target.address, &target.authority, Protocol::Http2, VERSIONS);
        let Ok(Ok(mut client)) = timeout(SECOND * 5, client).await else { continue };
        while target.goes_on() {
            let post = client.post("/enabled", JSON, body.clone());
            let Ok(Ok(_)) = timeout(SECOND * 5, post).await else { break };
            sent += 1;
        }
    }
    sent
}

async fn chunks_of_one_byte(target: Target) -> usize {
    let head = format!(
        "POST /enabled HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let many = b"1\r\n \r\n".repeat(4096);
    let mut sent = 0;
    while target.goes_on() {
        let Some(mut stream) = target.stream(Protocol::Http1).await else { continue };
        let _ = stream.write_all(head.as_bytes()).await;
        while target.goes_on()
            && matches!(timeout(SECOND * 5, stream.write_all(&many)).await, Ok(Ok(())))
        {
            sent += 4096;
        }
    }
    sent
}

/// Requests large responses and does not read them.
async fn unread_answers(target: Target) -> usize {
    let post = post_of(&pod_with("/spec/containers/0/env", &proxies(LARGE / 3).to_string()));
    let mut held = Vec::new();
    while target.goes_on() && held.len() < 160 {
        let Some(mut stream) = target.deaf().await else { continue };
        let _ = timeout(SECOND * 5, stream.write_all(&post)).await;
        let _ = timeout(SECOND, stream.read_exact(&mut [0; 12])).await;
        held.push(stream);
    }
    sleep(target.until.saturating_duration_since(Instant::now())).await;
    held.len()
}

/// Returns bodies whose parsed tree would need a hundred times their length.
fn forged() -> Vec<(&'static str, Vec<u8>)> {
    let list = |piece: &str, bytes: usize| {
        format!("[{}]", vec![piece; bytes / (piece.len() + 1)].join(","))
    };
    let mounts = |bytes| {
        let nested = list("[0]", bytes);
        pod_with(
            "/spec/containers/0/volumeMounts",
            &format!("[{{\"name\":\"v\",\"mountPath\":\"/x\",\"y\":{nested}}}]"),
        )
    };
    let mut waits = review("runtime");
    waits.resize(LARGEST, b' ');
    vec![
        ("lists in a mount", mounts(3 << 20)),
        ("more lists in a mount", mounts(LARGEST - (64 << 10))),
        ("ports", pod_with("/spec/containers/0/ports", &list("{}", LARGEST - (64 << 10)))),
        (
            "containers",
            pod_with("/spec/containers", &list("{\"name\":\"\"}", LARGEST - (64 << 10))),
        ),
        ("labels", {
            let pairs = vec!["\"a\":\"\""; (LARGEST - (64 << 10)) / 7].join(",");
            pod_with("/metadata/labels", &format!("{{{pairs}}}"))
        }),
        ("one that waits for SSM", waits),
    ]
}

/// Sends a review of a pod that needs no role, as API servers do: on an existing connection, and
/// on a new one if that is closed. Returns the duration and the number of failed attempts.
async fn good(client: &mut Option<Client>, target: &Target) -> (Duration, usize) {
    let mut in_vain = 0;
    let begun = Instant::now();
    loop {
        let asked = async {
            if client.is_none() {
                let new =
                    Client::connect(target.address, &target.authority, Protocol::Http2, VERSIONS);
                *client = Some(new.await?);
            }
            let client = client.as_mut().expect("it was made");
            client.post("/enabled?timeout=5s", JSON, review("fleet")).await
        };
        let left = (SECOND * 3).saturating_sub(begun.elapsed());
        match timeout(left, asked).await {
            Ok(Ok(answer)) if answer.status == 200 => {
                let told: Value = serde_json::from_slice(&answer.body).unwrap();
                assert_eq!(told["response"]["allowed"], true, "{told}");
                return (begun.elapsed(), in_vain);
            }
            Ok(other) => {
                assert!(begun.elapsed() < SECOND * 3, "{other:?}");
                in_vain += 1;
                *client = None;
            }
            Err(_) => panic!("a real review had no answer within 3 s"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_loads_at_once_stay_inside_the_charts_limit() {
    let (mut server, cgroup, _silent) = start("at-once", CHART_LIMIT);
    let target = Target {
        address: server.address,
        authority: Arc::new(server.authority()),
        until: Instant::now() + SECOND * 25,
    };
    let mut client = None;
    good(&mut client, &target).await;

    let mut loads = JoinSet::new();
    let mut start = |name: &'static str, load: Pin<Box<dyn Future<Output = usize> + Send>>| {
        loads.spawn(async move { (name, load.await) });
    };
    let t = || target.clone();
    start("idle connections", Box::pin(idle(t())));
    start("streams without a body", Box::pin(streams_without_a_body(t())));
    start("half handshakes", Box::pin(half_handshakes(t())));
    start("slow bodies", Box::pin(slow_bodies(t())));
    start("heads without an end", Box::pin(heads_without_an_end(t())));
    start("unread responses", Box::pin(unread_answers(t())));
    for _ in 0..2 {
        start("chunks of a byte", Box::pin(chunks_of_one_byte(t())));
    }
    for (name, body) in forged() {
        let body = Bytes::from(body);
        for _ in 0..2 {
            start(name, Box::pin(posts(t(), body.clone())));
        }
    }
    let (mut asked, mut longest, mut in_vain) = (0, Duration::ZERO, 0);
    while target.goes_on() {
        sleep(Duration::from_millis(200)).await;
        assert!(server.process.ended().is_none(), "the webhook was killed after {asked} reviews");
        let (took, failed) = good(&mut client, &target).await;
        (longest, in_vain) = (longest.max(took), in_vain + failed);
        asked += 1;
    }
    let mut counts = std::collections::BTreeMap::new();
    while let Some(load) = loads.join_next().await {
        let (name, count) = load.unwrap();
        *counts.entry(name).or_insert(0) += count;
    }
    good(&mut client, &target).await;
    assert!(server.process.ended().is_none(), "the webhook was killed");
    println!(
        "{asked} real reviews, {in_vain} asked again, the longest took {longest:?}; {} MiB of {} at most; {counts:?}",
        cgroup.peak() >> 20,
        CHART_LIMIT >> 20
    );
    assert_eq!(in_vain, 0, "a real review lost its place or its connection");
    for (name, count) in counts {
        assert!(count > 0, "{name}: no load");
    }
}

/// The control: the cgroup kills a process that uses more.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_too_small_kills_the_webhook() {
    let (mut server, _cgroup, _silent) = start("too-small", 24 << 20);
    let target = Target {
        address: server.address,
        authority: Arc::new(server.authority()),
        until: Instant::now() + SECOND * 30,
    };
    let (_, body) = forged().remove(1);
    let body = Bytes::from(body);
    let mut loads = JoinSet::new();
    for _ in 0..4 {
        loads.spawn(posts(target.clone(), body.clone()));
    }
    let status = wait_until("it is killed", SECOND * 30, || server.process.ended());
    loads.abort_all();
    assert!(!status.success(), "{status}");
}

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];
/// `resources.limits.memory` in the chart's values.
const CHART_LIMIT: usize = 256 << 20;
const LARGE: usize = 1900 * 1024;
const LARGEST: usize = 8 << 20;
const SECOND: Duration = Duration::from_secs(1);
