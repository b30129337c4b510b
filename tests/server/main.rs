//! The webhook's and the sidecar's servers with clients, slow, hostile or many; and the sidecar's
//! cache over simulated days. AWS is a stand-in. No cluster.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it measured"
)]

mod alone;
mod check_memory;
mod listen;
mod long_answers;
mod private_ca;
mod soak;
mod tenants;
mod webhook;
