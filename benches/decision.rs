//! Measures time and allocations of one decision, for recorded reviews. With the argument
//! `--times N` it only decides N times, so that callgrind can count instructions.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::{collections::HashMap, hint::black_box};

use divan::{AllocProfiler, Bencher};
use fab_session_injector::{
    admission::Review,
    config::Config,
    directory::{Directory, Role, Source},
    namespaces::{Mode, Namespace, Namespaces},
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--times").skip(1);
    let Some(times) = arguments.next() else {
        return divan::main();
    };
    let world = World::new();
    let review = read("runtime");
    for _ in 0..times.parse().unwrap() {
        black_box(world.answer(black_box(&review)));
    }
}

#[divan::bench(args = ["runtime", "dispatcher", "several-containers", "fleet"])]
fn answer(bencher: Bencher, name: &str) {
    let world = World::new();
    let review = read(name);
    bencher.bench(|| world.answer(black_box(&review)));
}

/// The work of the floor for the same bytes.
#[divan::bench(args = ["runtime", "dispatcher", "several-containers", "fleet"])]
fn parse_into_a_value(bencher: Bencher, name: &str) {
    let review = read(name);
    bencher.bench(|| serde_json::from_slice::<serde_json::Value>(black_box(&review)));
}

struct World {
    config: Config,
    namespaces: Namespaces,
    directory: Directory,
}

impl World {
    fn new() -> Self {
        let config = Config::default();
        let labels = [
            ("fab.nanohype.dev/session-injection", "enabled"),
            ("agents.nanohype.dev/platform", "acme"),
            ("pod-security.kubernetes.io/enforce", "restricted"),
        ];
        let label =
            |key: &str| labels.iter().find(|(name, _)| *name == key).map(|&(_, value)| value);
        let namespaces =
            ["tenants-acme", "fab"].map(|name| Namespace::read(name, label, &config.tenant));
        let role = Role::Known("arn:aws:iam::111122223333:role/acme".parse().unwrap());
        let entries = HashMap::from([("acme".parse().unwrap(), role.into())]);
        Self {
            config,
            namespaces: namespaces.into_iter().collect(),
            directory: Directory::new(Source::File("roles.yaml".into()), entries),
        }
    }

    fn answer(&self, review: &[u8]) -> Vec<u8> {
        let review = Review::parse(review).unwrap();
        review.answer(Mode::Enabled, &self.namespaces, &self.directory, &self.config).body
    }
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/reviews/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}
