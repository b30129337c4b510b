//! Tests with the programs of `tests/setup`: API servers with the chart, Helm, moto, SDKs,
//! Prometheus. The directories with a `go.mod` have the pins of these programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it measured"
)]

mod agent_sandbox;
mod alone;
mod chart;
mod check;
mod cloudtrail;
mod controllers;
mod examples;
mod explain;
mod guard;
mod iam;
mod injection;
mod ipv6;
mod issuer;
mod manifests;
mod metrics;
mod policies;
mod release;
mod revoke;
mod setup;
mod sidecar;
mod terraform;
mod web_identity;

use std::sync::LazyLock;

use harness::world::{World, role};

/// A cluster with webhook and guard in the default config, and a role of the tenant `acme`. It is
/// shared by tests that do not affect each other: each has its own namespaces, and its own names
/// for what has none.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let world = World::shared();
    world.publish("acme", &role("acme"));
    guard::await_guard(&world);
    world
});
