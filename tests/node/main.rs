//! Tests as root: the image, the chart and SDKs on a real node, which the scripts beside this file
//! start ([README.md](README.md)); and the sidecar and the webhook in namespaces and cgroups.
//!
//! Each module has nodes of its own. They run until the process ends, so `tests/run` gives each
//! module a process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it measured"
)]

mod agents;
mod check;
mod issuer;
mod long;
mod memory_limit;
mod mesh;
mod pilot;
mod shared_user;
