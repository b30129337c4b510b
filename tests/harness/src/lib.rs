//! Code that several test programs share: the processes of a test, clusters and nodes, stand-ins
//! for AWS and for the webhooks of other vendors, and clients of the program under test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test may panic, and prints few of these types"
)]

pub mod agent_sandbox;
pub mod api_proxy;
pub mod api_server;
pub mod case;
pub mod cloud;
pub mod control_plane;
pub mod data;
pub mod file_server;
pub mod foreign;
pub mod foreign_fields;
pub mod helm;
pub mod image;
pub mod issuer;
pub mod kms;
pub mod moto;
pub mod node;
pub mod parameter_store;
pub mod platform;
pub mod process;
pub mod schema;
pub mod shell;
pub mod stand_in;
pub mod stream;
pub mod tenant;
pub mod tls;
pub mod world;

/// A sidecar in its pod, with AWS and the SDKs that call it.
pub mod sidecar {
    pub mod account;
    pub mod client;
    pub mod pod;
}

/// The webhook's program, and a client for its port.
pub mod webhook {
    pub mod client;
    pub mod load;
    pub mod server;
}

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Returns the program under test, which Cargo builds before each test program.
pub fn program() -> PathBuf {
    let program = profile().join("fab-session-injector");
    assert!(
        program.exists(),
        "no {}: run `cargo build --bin fab-session-injector`, with `--release` for a benchmark",
        program.display()
    );
    program
}

/// Returns the root of the repository.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<&Path> =
        LazyLock::new(|| Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap());
    &ROOT
}

/// Returns the directory for files of tests, which is `CARGO_TARGET_TMPDIR` of a test program.
pub fn scratch() -> PathBuf {
    profile().parent().unwrap().join("tmp")
}

/// Returns the directory of the built programs: that of a test program is `deps` in it.
fn profile() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}
