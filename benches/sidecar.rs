//! Compares the sidecar with a floor, a handler of the same crates that returns a fixed body: the
//! time until it is ready, the latency of 200 requests per second from 100 clients, and the memory
//! after 10,000 requests. The servers run on one core, this program on another; STS is the strict
//! AWS of the tests. `sidecar PROGRAM` measures the program; `sidecar floor PORT` runs the floor.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints its results")]
#![allow(clippy::disallowed_methods, reason = "it starts programs with an environment")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::Router;
use fab_session_injector::serve::{Limits, Protocol, Transport, serve};
use serde_json::{Value, json};
use strict_aws::{Aws, Role, Server, World};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, sleep_until},
};

const CLIENTS: u32 = 100;
const RATE: u32 = 200;
const REQUESTS: u32 = 10_000;
const PAIRS: usize = 7;
const BASE: &str = "arn:aws:iam::111122223333:role/base";
const BROKER: &str = "arn:aws:iam::111122223333:role/broker";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", port] => floor(port.parse().unwrap()).await,
        [program] => measure(program).await,
        _ => panic!("sidecar PROGRAM | sidecar floor PORT"),
    }
}

/// Runs the floor: the minimal cost of an endpoint of these crates.
async fn floor(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let router = Router::new().fallback(async || {
        ([("content-type", "application/json"), ("cache-control", "no-store")], "x".repeat(900))
    });
    let limits = Limits { connections: 1024, protocol: Protocol::OneRequest, ..Limits::default() };
    serve(listener, Transport::Plain, limits, router, std::future::pending(), Duration::ZERO).await;
}

async fn measure(program: &str) {
    let aws = Arc::new(Aws::new(world()).unwrap());
    let sts = Server::start(Arc::clone(&aws)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let (ours, floor) = (free_port().await, free_port().await);
    let keys = aws.open_session(BASE, "bench", SystemTime::now()).unwrap();
    let environment = [
        ("FAB_SESSION_ROLE_ARN", BROKER.to_owned()),
        ("FAB_SESSION_ID", "s".to_owned()),
        ("FAB_SESSION_TENANT", "acme".to_owned()),
        ("FAB_SESSION_IDENTITY", "agent.acme.s".to_owned()),
        ("FAB_SESSION_DURATION", "3600".to_owned()),
        ("FAB_SESSION_PORT", ours.port().to_string()),
        ("FAB_SESSION_START_GATE", "credentials".to_owned()),
        ("FAB_SESSION_TOKEN_FILE", token.display().to_string()),
        ("AWS_REGION", "eu-west-1".to_owned()),
        ("AWS_ENDPOINT_URL_STS", sts.endpoint()),
        ("AWS_ACCESS_KEY_ID", keys.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", keys.secret_access_key),
        ("AWS_SESSION_TOKEN", keys.session_token),
    ];
    let start = || {
        let _ = fs::remove_file(&token);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new("taskset")
            .args(["-c", "0", program, "sidecar"])
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .env("PATH", "/usr/bin:/bin")
            .stderr(log)
            .spawn()
            .unwrap();
        Running(child)
    };

    let mut ready: Vec<f64> = Vec::new();
    for _ in 0..PAIRS {
        let began = Instant::now();
        let _sidecar = start();
        while !answers(ours, &token).await {
            sleep(Duration::from_micros(500)).await;
        }
        let took = began.elapsed().as_secs_f64() * 1e3;
        ready.push(took - sts_millis(&directory.path().join("log")));
    }
    println!("from exec to ready, without the calls to STS: {:.0} ms", median(&mut ready));

    let sidecar = start();
    let this = std::env::current_exe().unwrap();
    let _floor = Running(
        Command::new("taskset")
            .args(["-c", "0"])
            .arg(this)
            .args(["floor", &floor.port().to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    while !answers(ours, &token).await || !answers(floor, &token).await {
        sleep(Duration::from_millis(5)).await;
    }
    let request = request(&token);
    println!("pair   floor p50  p99 us   sidecar p50  p99 us   ratio p50  p99");
    let (mut halves, mut tails) = (Vec::new(), Vec::new());
    for pair in 1..=PAIRS {
        let (f, o) = if pair % 2 == 1 {
            let f = steady(floor, &request).await;
            (f, steady(ours, &request).await)
        } else {
            let o = steady(ours, &request).await;
            (steady(floor, &request).await, o)
        };
        let (half, tail) = (o.0 / f.0, o.1 / f.1);
        println!(
            "{pair:4} {:11.0} {:7.0} {:13.0} {:7.0} {half:11.2} {tail:4.2}",
            f.0, f.1, o.0, o.1
        );
        halves.push(half);
        tails.push(tail);
    }
    println!("median of ratios: p50 {:.2}, p99 {:.2}", median(&mut halves), median(&mut tails));

    for _ in 0..REQUESTS {
        exchange(ours, &request).await;
    }
    // Threads that resolved names or read files have stopped by then.
    sleep(Duration::from_secs(3)).await;
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.0.id())).unwrap();
    for line in status.lines() {
        if ["VmRSS", "RssAnon", "Threads"].iter().any(|name| line.starts_with(name)) {
            println!("{line}");
        }
    }
}

/// Sends requests for 3 s. Returns the 50th and 99th percentile of the latency, in microseconds.
async fn steady(address: SocketAddr, request: &str) -> (f64, f64) {
    let start = Instant::now() + Duration::from_millis(20);
    let each = Duration::from_secs(1) * CLIENTS / RATE;
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let request = request.to_owned();
            tokio::spawn(async move {
                let mut took = Vec::new();
                for round in 0..6 {
                    let due = start + each * round + each * client / CLIENTS;
                    sleep_until(due.into()).await;
                    exchange(address, &request).await;
                    took.push(due.elapsed());
                }
                took
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort_unstable();
    let at = |percent: usize| all[all.len() * percent / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

async fn exchange(address: SocketAddr, request: &str) {
    let answer = ask(address, request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

async fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn answers(address: SocketAddr, token: &std::path::Path) -> bool {
    ask(address, &request(token)).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn request(token: &std::path::Path) -> String {
    let token = fs::read_to_string(token).unwrap_or_default();
    format!("GET /v1/credentials HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n")
}

/// Returns how long the sidecar waited for STS, from its log.
fn sts_millis(log: &std::path::Path) -> f64 {
    let log = fs::read_to_string(log).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["millis"].as_f64()).next_back().unwrap()
}

async fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn world() -> World {
    let policy = |statement: Value| json!({"Version": "2012-10-17", "Statement": [statement]});
    let all = ["sts:AssumeRole", "sts:SetSourceIdentity"];
    let trust = policy(json!({"Effect": "Allow", "Action": all, "Principal": {"AWS": BASE}}));
    let base = policy(json!({
        "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": {"Service": "pods.eks.amazonaws.com"},
    }));
    World::new("111122223333", "eu-west-1")
        .role(
            Role::new(BASE)
                .trust(base)
                .policy(policy(json!({"Effect": "Allow", "Action": all, "Resource": BROKER}))),
        )
        .role(Role::new(BROKER).trust(trust))
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
