//! Sends reviews to a port: as many as possible (`throughput`), or at a steady rate (`latency`).
//! Prints one number: reviews per second, or the 99th percentile of the latency in microseconds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints its result")]

use std::time::{Duration, Instant};

use harness::webhook::client::{Client, Protocol};
use rustls::version::TLS13;

const CONNECTIONS: u32 = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, address, directory, review, number] = <[String; 5]>::try_from(arguments)
        .expect("throughput|latency ADDRESS DIRECTORY REVIEW SECONDS|RATE");
    let authority = std::fs::read(format!("{directory}/ca.crt")).unwrap();
    let body = axum::body::Bytes::from(std::fs::read(review).unwrap());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(
            Client::connect(address.parse().unwrap(), &authority, Protocol::Http1, &[&TLS13])
                .await
                .unwrap(),
        );
    }
    let answered = match &*kind {
        "throughput" => {
            saturate(clients, body, Duration::from_secs_f64(number.parse().unwrap())).await
        }
        _ => steady(clients, body, number.parse().unwrap()).await,
    };
    println!("{answered:.0}");
}

async fn saturate(clients: Vec<Client>, body: axum::body::Bytes, time: Duration) -> f64 {
    let start = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let body = body.clone();
            tokio::spawn(async move {
                let mut count = 0_u32;
                while start.elapsed() < time {
                    ask(&mut client, &body).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    f64::from(total) / start.elapsed().as_secs_f64()
}

/// Sends reviews for 3 s at a fixed rate, independent of the responses. Returns the 99th percentile
/// of the latency in microseconds.
async fn steady(clients: Vec<Client>, body: axum::body::Bytes, rate: f64) -> f64 {
    let start = Instant::now() + Duration::from_millis(10);
    let each = f64::from(CONNECTIONS) / rate;
    let rounds = (3.0 / each) as u32;
    let tasks: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(index, mut client)| {
            let body = body.clone();
            let first =
                start + Duration::from_secs_f64(each * index as f64 / f64::from(CONNECTIONS));
            tokio::spawn(async move {
                let mut took = Vec::new();
                for round in 0..rounds {
                    let due = first + Duration::from_secs_f64(each * f64::from(round));
                    tokio::time::sleep_until(due.into()).await;
                    ask(&mut client, &body).await;
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
    all[all.len() * 99 / 100].as_secs_f64() * 1e6
}

async fn ask(client: &mut Client, body: &axum::body::Bytes) {
    let answer =
        client.post("/enabled?timeout=5s", "application/json", body.clone()).await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
}
