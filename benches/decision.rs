//! Measures time and allocations of one decision, for recorded reviews. With the argument
//! `--times N` it only decides N times, so that callgrind can count instructions.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;

use divan::{AllocProfiler, Bencher};
use fab_session_injector::{admission::Review, config::Config, namespaces::Mode};
use harness::{tenant::Tenant, webhook::server::review};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--times").skip(1);
    let Some(times) = arguments.next() else {
        return divan::main();
    };
    let tenant = Tenant::new(Config::default());
    let review = review("runtime");
    for _ in 0..times.parse().unwrap() {
        black_box(answer_to(&tenant, black_box(&review)));
    }
}

#[divan::bench(args = ["runtime", "dispatcher", "several-containers", "fleet"])]
fn answer(bencher: Bencher, name: &str) {
    let tenant = Tenant::new(Config::default());
    let review = review(name);
    bencher.bench(|| answer_to(&tenant, black_box(&review)));
}

/// The work of the floor for the same bytes.
#[divan::bench(args = ["runtime", "dispatcher", "several-containers", "fleet"])]
fn parse_into_a_value(bencher: Bencher, name: &str) {
    let review = review(name);
    bencher.bench(|| serde_json::from_slice::<serde_json::Value>(black_box(&review)));
}

/// Handles a review; returns the response.
fn answer_to(tenant: &Tenant, review: &[u8]) -> Vec<u8> {
    let Tenant { config, namespaces, roles } = tenant;
    Review::parse(review).unwrap().answer(Mode::Enabled, namespaces, roles, config).body
}
