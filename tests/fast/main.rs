//! Tests that take seconds: they start no program but this repository's, and no server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it measured"
)]

mod architecture;
mod blocks;
mod command_line;
mod explain;
mod golden;
mod iam;
mod inject;
mod issuer;
mod laws;
mod pages;
mod raw;
mod revoke;
mod schema;
mod words;
