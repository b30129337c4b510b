//! Abuse of the webhook's port: a valid review still gets its response within a second, and the
//! memory stays bounded.
//!
//! The server calls an SSM that accepts calls and never responds, so that forged reviews wait as
//! long as possible.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::{self, OpenOptions},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use axum::body::Bytes;
use fab_session_injector::serve::{Limits, Transport, serve};
use harness::{
    process::{Process, free_port, get, own_directory, wait_until},
    webhook::{
        client::{Answer, Client, Protocol, shake_hands, shake_hands_on},
        load::{JSON, pod_with, post_of, proxies, silent_ssm},
        server::{Server, command, make_certificate, review},
    },
};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    Request,
    body::Frame,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A review of a pod that needs no role, so its response time depends only on the port.
struct Good {
    review: Vec<u8>,
    client: Client,
}

impl Good {
    async fn start(server: &Server) -> Self {
        let client = connect(server).await;
        Self { review: review("fleet"), client }
    }

    /// Sends it on an existing and on a new connection, since API servers use both.
    async fn is_answered(&mut self, server: &Server, when: &str) {
        for fresh in [false, true] {
            let begun = Instant::now();
            let ask = async {
                let mut own = if fresh { Some(connect(server).await) } else { None };
                let client = own.as_mut().unwrap_or(&mut self.client);
                match client.post("/enabled?timeout=5s", JSON, self.review.clone()).await {
                    // It missed a ping while this machine was busy: API servers reconnect.
                    Err(_) if !fresh => {
                        self.client = connect(server).await;
                        let again = self.client.post("/enabled", JSON, self.review.clone());
                        again.await.unwrap()
                    }
                    answer => answer.unwrap(),
                }
            };
            let answer = timeout(SECOND, ask).await;
            let answer = answer.unwrap_or_else(|_| panic!("{when}: no answer in a second"));
            let told: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(told["response"]["allowed"], true, "{when}: {told}");
            assert!(begun.elapsed() < SECOND, "{when}");
        }
    }
}

fn start() -> (Server, TcpListener) {
    let directory = own_directory();
    let tls = directory.path().join("tls");
    make_certificate(&tls, &[]);
    let (silent, config) = silent_ssm(directory.path());
    let arguments = ["--shutdown-delay=0", "--config", config.to_str().unwrap()];
    (Server::start_with(directory, &tls, &arguments), silent)
}

async fn connect(server: &Server) -> Client {
    Client::connect(server.address, &server.authority(), Protocol::Http2, &[&TLS13]).await.unwrap()
}

#[tokio::test]
async fn a_valid_review_takes_under_a_second_during_abuse() {
    let (server, _silent) = start();
    let mut good = Good::start(&server).await;
    good.is_answered(&server, "at the start").await;
    let at_the_start = server.memory("VmRSS:");

    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    good.is_answered(&server, "with connections that say nothing").await;
    drop(silent);

    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(
            shake_hands(server.address, &server.authority(), Protocol::Http1, &[&TLS13])
                .await
                .unwrap(),
        );
    }
    good.is_answered(&server, "with a thousand idle connections").await;
    // The server closes them, so that their slots are free again.
    let mut read = [0; 1];
    let sent_away = timeout(Duration::from_secs(20), idle[0].read(&mut read)).await;
    assert!(matches!(sent_away, Ok(Ok(0) | Err(_))), "{sent_away:?}");
    drop(idle);

    let promise = format!(
        "POST /enabled HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {LARGEST}\r\n\r\n"
    );
    let mut slow = Vec::new();
    for n in 0..100 {
        let mut stream =
            shake_hands(server.address, &server.authority(), Protocol::Http1, &[&TLS13])
                .await
                .unwrap();
        stream.write_all(promise.as_bytes()).await.unwrap();
        // Some of them fill the budget, the others only announce to.
        let part = if n % 2 == 0 { vec![b' '; 1 << 20] } else { Vec::new() };
        let _ = timeout(Duration::from_millis(50), stream.write_all(&part)).await;
        slow.push(stream);
        if n % 10 == 9 {
            good.is_answered(&server, "with bodies that do not end").await;
        }
    }
    let mut answer = String::new();
    let last = slow.last_mut().unwrap();
    let ended = timeout(Duration::from_secs(10), last.read_to_string(&mut answer)).await;
    assert!(ended.is_ok() && answer.starts_with("HTTP/1.1 408"), "{answer}");
    drop(slow);

    // Headers that never end.
    let mut heads = Vec::new();
    for _ in 0..300 {
        let mut stream =
            shake_hands(server.address, &server.authority(), Protocol::Http1, &[&TLS13])
                .await
                .unwrap();
        let _ = stream.write_all(b"POST /enabled HTTP/1.1\r\nHost: x\r\nA: ").await;
        let _ = timeout(Duration::from_millis(5), stream.write_all(&[b'a'; 380_000])).await;
        heads.push(stream);
    }
    good.is_answered(&server, "with heads that do not end").await;
    let refused = heads.iter_mut().map(|stream| async {
        let mut answer = String::new();
        let _ = timeout(Duration::from_secs(1), stream.read_to_string(&mut answer)).await;
        answer.starts_with("HTTP/1.1 431")
    });
    let refused = futures_util::future::join_all(refused).await;
    assert!(refused.contains(&true), "no response has the status 431");
    drop(heads);

    // Complete reviews of the maximum size, which wait for SSM.
    let mut large = JoinSet::new();
    for _ in 0..12 {
        let mut body = review("runtime");
        body.resize(LARGEST, b' ');
        let mut client = connect(&server).await;
        large.spawn(async move { client.post("/enabled", JSON, body).await });
    }
    while !large.is_empty() {
        good.is_answered(&server, "with the largest reviews waiting for SSM").await;
        match timeout(Duration::from_millis(50), large.join_next()).await {
            Ok(Some(answer)) => is_refused_in_time(&answer.unwrap().unwrap()),
            Ok(None) => break,
            Err(_) => {}
        }
    }

    // Streams that are opened and reset repeatedly.
    let mut resets = JoinSet::new();
    for _ in 0..4 {
        let mut client = connect(&server).await;
        resets.spawn(async move {
            let mut sent = 0;
            for _ in 0..5_000 {
                let request = client.post("/enabled", JSON, review("runtime"));
                if matches!(timeout(Duration::from_micros(200), request).await, Ok(Err(_))) {
                    // The server has closed this connection.
                    break;
                }
                sent += 1;
            }
            sent
        });
    }
    let mut sent = 0;
    while !resets.is_empty() {
        good.is_answered(&server, "with streams that are reset").await;
        match timeout(Duration::from_millis(50), resets.join_next()).await {
            Ok(Some(count)) => sent += count.unwrap(),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert!(sent > 100, "{sent} streams");

    good.is_answered(&server, "afterwards").await;
    let metrics = get(server.health, "/metrics");
    for status in [408, 503] {
        let count = format!("rejected_requests_total{{status=\"{status}\"}}");
        assert!(metrics.contains(&count), "no request got {status}: {metrics}");
    }
    let most = server.memory("VmHWM:");
    // The chart's limit holds with a debug build and all of the loads above.
    assert!(most < 256 * 1024, "{at_the_start} KiB at the start, {most} KiB at most");
}

/// A connection whose body does not arrive whole is closed first.
#[tokio::test]
async fn a_review_in_progress_outlives_idle_connections() {
    let (server, _silent) = start();
    let mut waits_for_ssm = connect(&server).await;
    let decided =
        tokio::spawn(async move { waits_for_ssm.post("/enabled", JSON, review("runtime")).await });
    let mut slow =
        shake_hands(server.address, &server.authority(), Protocol::Http1, &[&TLS13]).await.unwrap();
    let body = post_of(&review("runtime"));
    slow.write_all(&body[..body.len() - 1]).await.unwrap();
    sleep(SECOND / 2).await;
    let mut idle = Vec::new();
    // As many as the port accepts, so two old connections give way.
    for _ in 0..Limits::default().connections {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let closed = timeout(SECOND, slow.read(&mut [0])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    is_refused_in_time(&decided.await.unwrap().unwrap());
}

fn is_refused_in_time(answer: &Answer) {
    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = told["response"]["status"]["message"].as_str().unwrap_or_default();
    let known = message.contains("[role-unavailable]") && told["response"]["status"]["code"] == 503;
    assert!(known || answer.status == 503, "{answer:?}");
}

/// A piece of one byte keeps the whole buffer into which it was read.
#[tokio::test]
async fn bodies_in_one_byte_pieces_use_no_more_memory() {
    let (server, _silent) = start();
    let whole = review("fleet");
    let answer = in_pieces(&server, Protocol::Http1, &whole, whole.len()).await.unwrap();
    let told: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(told["response"]["allowed"], true, "{told}");

    // The control: the memory of such a body if its pieces are kept unchanged.
    let kept = kept_as_they_come(MIB).await;
    assert!(kept > 20 * MIB, "{kept} bytes for a MiB");
    let before = server.memory("VmHWM:");
    chunks_of_one_byte(&server, MIB).await;
    let took = server.memory("VmHWM:").saturating_sub(before);
    assert!(took < 8 * 1024, "{took} KiB for a MiB");

    // Many such bodies, as large as the time limit allows.
    let mut good = Good::start(&server).await;
    // On separate threads, so that they delay the server and not this test.
    let abusers = Runtime::new().unwrap();
    let mut bodies = JoinSet::new();
    for _ in 0..4 {
        let chunks = chunks_of_one_byte(&server, LARGEST);
        bodies.spawn_on(async move { ("chunks", chunks.await) }, abusers.handle());
        // HTTP/2 closes a connection with many small frames; the client reconnects.
        let mut frames = Vec::new();
        for _ in 0..200 {
            frames.push(in_pieces(&server, Protocol::Http2, b" ", LARGEST));
        }
        let frames = async move {
            let begun = Instant::now();
            let mut connections = 0;
            for frames in frames {
                if begun.elapsed() < SECOND * 4 {
                    let _ = timeout(SECOND * 4, frames).await;
                    connections += 1;
                }
            }
            ("connections with frames", connections)
        };
        bodies.spawn_on(frames, abusers.handle());
    }
    let mut sent = BTreeMap::new();
    while !bodies.is_empty() {
        good.is_answered(&server, "with bodies in pieces of one byte").await;
        match timeout(Duration::from_millis(50), bodies.join_next()).await {
            Ok(Some(ended)) => {
                let (kind, count) = ended.unwrap();
                *sent.entry(kind).or_insert(0) += count;
            }
            Ok(None) => break,
            Err(_) => {}
        }
    }
    abusers.shutdown_background();
    let most = server.memory("VmHWM:");
    println!(
        "a MiB: {} KiB where its pieces are kept, {took} KiB here; {sent:?}: {most} KiB",
        kept / 1024
    );
    assert!(sent["chunks"] > MIB, "{sent:?} are no abuse");
    assert!(most < 256 * 1024, "{before} KiB before, {most} KiB at most");
}

/// Sends `part` repeatedly, up to a number of bytes, each byte in its own chunk or frame.
fn in_pieces(
    server: &Server,
    protocol: Protocol,
    part: &[u8],
    count: usize,
) -> impl Future<Output = Result<Bytes, Error>> + Send + use<> {
    let (address, authority) = (server.address, server.authority());
    let part = Bytes::copy_from_slice(part);
    async move {
        let stream = shake_hands(address, &authority, protocol, &[&TLS13]).await?;
        let piece = move |at: usize| part.slice(at % part.len()..).split_to(1);
        let pieces = (0..count).map(move |at| Ok(Frame::data(piece(at))));
        let pieces = StreamBody::new(futures_util::stream::iter(pieces));
        let request = Request::post("https://localhost/enabled?timeout=5s")
            .header("host", "localhost")
            .header("content-type", JSON)
            .body(BodyExt::map_err(pieces, |never: Infallible| match never {}))?;
        let answer = match protocol {
            Protocol::Http1 => {
                let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(driver);
                sender.send_request(request).await?
            }
            Protocol::Http2 => {
                let (mut sender, driver) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::spawn(driver);
                sender.send_request(request).await?
            }
        };
        Ok(answer.into_body().collect().await?.to_bytes())
    }
}

/// Sends chunks as fast as possible; returns how many were sent before the server closed.
fn chunks_of_one_byte(server: &Server, count: usize) -> impl Future<Output = usize> + Send + use<> {
    let (address, authority) = (server.address, server.authority());
    async move {
        let stream = shake_hands(address, &authority, Protocol::Http1, &[&TLS13]).await.unwrap();
        write_chunks(stream, count).await
    }
}

async fn write_chunks(mut stream: impl AsyncRead + AsyncWrite + Unpin, count: usize) -> usize {
    let head = format!(
        "POST /enabled HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let many = b"1\r\n \r\n".repeat(4096);
    let mut sent = 0;
    while sent < count && stream.write_all(&many).await.is_ok() {
        sent += 4096;
    }
    let _ = stream.write_all(b"0\r\n\r\n").await;
    let mut answer = [0; 12];
    // The server responds or closes the connection, however busy the machine is.
    let _ = stream.read_exact(&mut answer).await;
    sent
}

#[tokio::test]
async fn invalid_requests_do_not_flood_the_log() {
    const FLOOD: usize = 2_000;
    let server = Server::start();
    let mut client = connect(&server).await;
    let begun = Instant::now();
    for _ in 0..FLOOD {
        assert_eq!(client.post("/enabled", JSON, "{").await.unwrap().status, 400);
    }
    // Each second of the limit has 10 lines. The first one may have begun before the flood, and
    // the last one may end after it.
    let most = 10 * (begun.elapsed().as_secs() as usize + 2);
    // One more line counts the lines that were left out.
    sleep(SECOND).await;
    client.post("/enabled", JSON, "{").await.unwrap();
    let written = wait_until("the last line is written", SECOND * 10, || {
        let log = server.process.log();
        let lines = log.lines().filter(|line| line.contains("\"invalid request\""));
        let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let omitted: u64 = lines.iter().map(|line| line["omitted"].as_u64().unwrap()).sum();
        (lines.len() + omitted as usize == FLOOD + 1).then_some(lines.len())
    });
    assert!(written <= most + 1, "{written} lines, {most} at most");
    let metrics = get(server.health, "/metrics");
    let counted = format!("rejected_requests_total{{status=\"400\"}} {}", FLOOD + 1);
    assert!(metrics.contains(&counted), "{metrics}");
}

/// Returns the memory of this process, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Returns the memory of this process while it keeps a body of `count` chunks.
async fn kept_as_they_come(count: usize) -> usize {
    let (told, kept) = tokio::sync::oneshot::channel();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Some(told)));
    let keep = move |request: axum::extract::Request| async move {
        let before = resident();
        let mut body = request.into_body();
        let mut pieces = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            pieces.push(frame);
        }
        assert_eq!(pieces.len(), count);
        if let Some(told) = told.lock().unwrap().take() {
            let _ = told.send(resident() - before);
        }
        "kept"
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(keep);
    let (limits, never) = (Limits::default(), std::future::pending());
    let serving =
        tokio::spawn(serve(listener, Transport::Plain, limits, router, never, Duration::ZERO));
    write_chunks(TcpStream::connect(address).await.unwrap(), count).await;
    serving.abort();
    kept.await.unwrap()
}

#[tokio::test]
async fn unread_responses_stay_within_their_budget() {
    // The control: the memory of such responses without a budget.
    let held = unread_by_others().await;
    assert!(held > 256 * MIB, "{held} bytes in {UNREAD} answers of {} KiB", LARGE / 1024);

    let server = Server::start();
    let mut good = Good::start(&server).await;
    let before = server.memory("RssAnon:");
    let large = pod_with("/spec/containers/0/env", &proxies(LARGE / 3).to_string());
    let mut held_open = Vec::new();
    for n in 0..UNREAD {
        let mut stream = asks_and_does_not_read(&server, &large).await;
        let mut start = [0; 12];
        timeout(SECOND * 5, stream.read_exact(&mut start)).await.unwrap().unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        held_open.push(stream);
        if n % 10 == 9 {
            good.is_answered(&server, "with large unread responses").await;
        }
    }
    let with_large = server.memory("RssAnon:");
    let metrics = get(server.health, "/metrics");
    assert!(!metrics.contains("fab_session_injector_unread_responses_total 0"), "{metrics}");
    // The server closed the first connection, and the last one has its response.
    let mut rest = vec![0; LARGE * 3 / 4];
    for (n, is_there) in [(UNREAD - 1, true), (0, false)] {
        let read = timeout(SECOND * 5, held_open[n].read_exact(&mut rest)).await.unwrap();
        assert_eq!(read.is_ok(), is_there, "{n}: {read:?}");
    }

    let mut connections = Vec::new();
    let mut answered = 0;
    for n in 0..60 {
        let (connection, streams) = streams_that_nobody_reads(&server).await;
        answered += streams.len();
        connections.push((connection, streams));
        if n % 10 == 9 {
            good.is_answered(&server, "with unread streams").await;
        }
    }
    assert!(answered > 3_000, "{answered} streams");
    let with_streams = server.memory("RssAnon:");
    println!(
        "{UNREAD} answers: {} MiB where nobody counts; here {before} KiB before, {with_large} KiB \
         with them, {with_streams} KiB with {answered} streams",
        held / MIB
    );
    // The budget, the reviews in progress, and the free memory of the allocator: the same for any
    // number of clients.
    for most in [with_large, with_streams] {
        assert!(most < before + 128 * 1024, "{before} KiB before, {most} KiB with them");
    }
}

/// Unsent response bytes in kernel and TLS buffers are not counted, so they must not remain.
#[tokio::test]
async fn clients_that_do_not_read_are_disconnected_in_seconds() {
    let server = Server::start();
    let mut good = Good::start(&server).await;
    let medium = pod_with("/spec/containers/0/env", &proxies(40 * 1024).to_string());
    let mut held_open = Vec::new();
    for _ in 0..50 {
        let mut stream = asks_and_does_not_read(&server, &medium).await;
        timeout(SECOND * 5, stream.read_exact(&mut [0; 12])).await.unwrap().unwrap();
        held_open.push(stream);
    }
    // And responses that the server has finished, so that only the kernel still has them.
    let last = String::from_utf8(post_of(&medium)).unwrap();
    let last = last.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    for _ in 0..50 {
        held_open.push(sends_and_does_not_read(&server, last.as_bytes()).await);
    }
    good.is_answered(&server, "with unread responses").await;
    let with_them = connections(server.address.port());
    assert!(with_them > 90, "{with_them}");
    sleep(SECOND * 12).await;
    let left = connections(server.address.port());
    assert!(left <= 5, "{left} of {with_them} are still there");
    good.is_answered(&server, "afterwards").await;
    drop(held_open);
}

/// Returns the number of connections of this port in the kernel, in any state, server side.
fn connections(port: u16) -> usize {
    const LISTEN: &str = "0A";
    const TIME_WAIT: &str = "06";
    let all = fs::read_to_string("/proc/net/tcp").unwrap();
    let of_the_server = all.lines().skip(1).filter(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap();
        let state = fields.nth(1).unwrap();
        local.ends_with(&format!(":{port:04X}")) && ![LISTEN, TIME_WAIT].contains(&state)
    });
    of_the_server.count()
}

/// The health port has no TLS and is open to the collectors of metrics.
#[tokio::test]
async fn unread_metrics_use_little_memory() {
    let server = Server::start();
    let before = server.memory("RssAnon:");
    let mut held_open = Vec::new();
    for n in 0..400 {
        let mut stream = deaf(server.health).await;
        let _ = stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50)).await;
        held_open.push(stream);
        if n % 100 == 99 {
            assert!(get(server.health, "/readyz").starts_with("HTTP/1.1 200"), "{n}");
        }
    }
    // There is no HTTP/2, with which one connection could request many responses.
    let stream = TcpStream::connect(server.health).await.unwrap();
    let (mut sender, driver) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(driver);
    let metrics = Request::get("http://localhost/metrics").body(Full::default()).unwrap();
    assert!(timeout(SECOND * 5, sender.send_request(metrics)).await.unwrap().is_err());
    let with_them = server.memory("RssAnon:");
    println!(
        "{} who read no metrics: {before} KiB before, {with_them} KiB with them",
        held_open.len()
    );
    assert!(with_them < before + 32 * 1024, "{before} KiB before, {with_them} KiB with them");
}

/// Connects a client whose kernel accepts only some KiB of a response.
async fn deaf(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

async fn asks_and_does_not_read(server: &Server, review: &[u8]) -> TlsStream<TcpStream> {
    sends_and_does_not_read(server, &post_of(review)).await
}

async fn sends_and_does_not_read(server: &Server, request: &[u8]) -> TlsStream<TcpStream> {
    let stream = deaf(server.address).await;
    let mut stream =
        shake_hands_on(stream, "localhost", &server.authority(), Protocol::Http1, &[&TLS13])
            .await
            .unwrap();
    stream.write_all(request).await.unwrap();
    stream
}

/// Opens the maximum number of streams of a connection, each with a window of one byte for the
/// body of its response.
async fn streams_that_nobody_reads(
    server: &Server,
) -> (http2::SendRequest<Full<Bytes>>, Vec<hyper::Response<hyper::body::Incoming>>) {
    let stream =
        shake_hands(server.address, &server.authority(), Protocol::Http2, &[&TLS13]).await.unwrap();
    let (mut sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    let asked = (0..64).map(|_| {
        let request = Request::post("https://localhost/enabled")
            .header("content-type", JSON)
            .body(Full::new(Bytes::from(review("runtime"))))
            .unwrap();
        sender.send_request(request)
    });
    let asked: Vec<_> = asked.collect();
    let answered = timeout(SECOND * 5, futures_util::future::join_all(asked)).await.unwrap();
    (sender, answered.into_iter().flatten().collect())
}

/// Returns the memory of this process for the same number of unread responses.
async fn unread_by_others() -> usize {
    let socket = TcpSocket::new_v4().unwrap();
    // The setting of the webhook; by default the kernel buffers megabytes on loopback.
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(|| async { vec![b'x'; LARGE] });
    let (limits, never) = (Limits::default(), std::future::pending());
    let serving =
        tokio::spawn(serve(listener, Transport::Plain, limits, router, never, Duration::ZERO));
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..UNREAD {
        let mut stream = deaf(address).await;
        stream.write_all(&post_of(b"{}")).await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        held.push(stream);
    }
    let took = resident() - before;
    serving.abort();
    took
}

#[tokio::test]
async fn unusual_pods_get_a_response_with_their_uid() {
    let server = Server::start();
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let env: Vec<Value> =
        (0..8_000).map(|n| json!({"name": format!("V{n}"), "value": "x".repeat(120)})).collect();
    let cases = [
        ("deep nesting", vec![("/spec/futureField", deep)]),
        ("a MiB of variables", vec![("/spec/containers/0/env", json!(env).to_string())]),
        ("a NO_PROXY of megabytes", vec![("/spec/containers/0/env", proxies(7 * MIB).to_string())]),
        (
            "a name of megabytes",
            vec![("/spec/containers/0/name", json!("n".repeat(7 * MIB)).to_string())],
        ),
        ("a thousand containers", vec![("/spec/containers", containers(1000))]),
        ("as many as there may be", vec![("/spec/containers", containers(256))]),
        (
            "deep nesting in a label",
            vec![("/metadata/labels", "{\"a\":".repeat(5000) + "1" + &"}".repeat(5000))],
        ),
    ];
    for (name, changes) in cases {
        let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
        let uid = review["request"]["uid"].as_str().unwrap().to_owned();
        let mut body = String::new();
        for (path, with) in changes {
            let (parent, key) = path.rsplit_once('/').unwrap();
            let object = review.pointer_mut(&format!("/request/object{parent}")).unwrap();
            object[key] = json!("@replaced@");
            body = review.to_string().replace("\"@replaced@\"", &with);
        }
        let answer = connect(&server).await.post("/enabled", JSON, body).await.unwrap();
        assert_eq!(answer.status, 200, "{name}: {:?}", answer.body);
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(told["response"]["uid"], uid, "{name}");
        assert!(told["response"]["allowed"].is_boolean(), "{name}");
        assert!(answer.body.len() < 2 * MIB + 16 * 1024, "{name}: {} bytes", answer.body.len());
        if name.ends_with("megabytes") {
            let message = told["response"]["status"]["message"].as_str().unwrap();
            assert!(message.contains("[patch-too-large]"), "{name}: {message}");
        }
    }
}

fn containers(count: usize) -> String {
    let all: Vec<Value> =
        (0..count).map(|n| json!({"name": format!("c{n}"), "image": "i"})).collect();
    json!(all).to_string()
}

/// The reader of the log has stopped, or its disk is full.
#[tokio::test]
async fn a_blocked_log_delays_no_review() {
    for (name, full) in [("an unread pipe", false), ("a full disk", true)] {
        let directory = own_directory();
        let tls = directory.path().join("tls");
        make_certificate(&tls, &[]);
        let log = if full { "/dev/full".into() } else { directory.path().join("pipe") };
        if !full {
            assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
        }
        // Both ends of a pipe, so that it opens, and blocks when its buffer is full.
        let _held = OpenOptions::new().read(!full).write(true).open(&log).unwrap();
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, health) = (local(free_port()), local(free_port()));
        let inner = command(directory.path(), &tls, address, health, &["--shutdown-delay=0"]);
        let mut process = Process::start("webhook", directory.path(), &into_log(&inner, &log));
        process.wait_until("the webhook is ready", Duration::from_secs(30), || {
            get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        let authority = fs::read(tls.join("ca.crt")).unwrap();
        let mut client =
            Client::connect(address, &authority, Protocol::Http2, &[&TLS13]).await.unwrap();
        for _ in 0..3_000 {
            let asked = client.post("/enabled", JSON, review("runtime"));
            let answer = timeout(SECOND * 5, asked).await.expect(name).unwrap();
            assert_eq!(answer.status, 200, "{name}");
        }
        let metrics = get(health, "/metrics");
        let lost = metrics
            .lines()
            .find_map(|line| line.strip_prefix("fab_session_injector_log_lines_dropped_total "))
            .unwrap();
        assert_eq!(lost != "0", !full, "{name}: {lost} lost");
        process.terminate();
        let status = wait_until("it has ended", Duration::from_secs(15), || process.ended());
        assert_eq!(status.code(), Some(0), "{name}");
    }
}

/// Returns the same command, with its standard error in `log`.
fn into_log(command: &Command, log: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 2>\"$LOG\""]).env("LOG", log);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell
}

#[tokio::test]
async fn the_webhook_is_not_ready_before_its_namespace_list() {
    let directory = own_directory();
    let tls = directory.path().join("tls");
    make_certificate(&tls, &[]);
    let closed = free_port();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": format!("https://127.0.0.1:{closed}")}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    });
    fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let (address, health) = (local(free_port()), local(free_port()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
    command
        .args(["webhook", "--shutdown-delay=0"])
        .arg(format!("--listen={address}"))
        .arg(format!("--health-listen={health}"))
        .arg("--tls-certificate")
        .arg(tls.join("tls.crt"))
        .arg("--tls-key")
        .arg(tls.join("tls.key"))
        .env("AWS_REGION", "eu-west-1")
        .env("KUBECONFIG", directory.path().join("kubeconfig"));
    let mut process = Process::start("webhook", directory.path(), &command);
    process.wait_until("it listens", Duration::from_secs(30), || {
        get(health, "/livez").starts_with("HTTP/1.1 200").then_some(())
    });
    sleep(SECOND).await;
    let answer = get(health, "/readyz");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("namespaces"), "{answer}");
    let metrics = wait_until("the failed watch is counted", Duration::from_secs(20), || {
        let metrics = get(health, "/metrics");
        (!metrics.contains("namespace_watch_errors_total 0")).then_some(metrics)
    });
    assert!(metrics.contains("fab_session_injector_namespace_watch_errors_total "), "{metrics}");
}

/// Size of a response near the maximum.
const LARGE: usize = 1900 * 1024;
const LARGEST: usize = 8 << 20;
const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
/// Number of clients that do not read their response.
const UNREAD: usize = 160;
