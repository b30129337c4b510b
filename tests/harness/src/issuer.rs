//! The command line of a session issuer, and the trust in it.

use std::{ffi::OsString, net::SocketAddr, path::Path, process::Command};

use serde_json::Value;

use crate::cloud::{BASE, BROKER};

/// Returns the arguments of an issuer that ends at once on SIGTERM. `tls`: the directory with
/// `tls.crt` and `tls.key`. `published_at`: the server of its public files.
pub fn arguments(
    config: &Path,
    tls: &Path,
    address: SocketAddr,
    health: SocketAddr,
    published_at: SocketAddr,
) -> Vec<OsString> {
    vec![
        "issuer".into(),
        "--config".into(),
        config.into(),
        format!("--listen={address}").into(),
        format!("--health-listen={health}").into(),
        "--tls-certificate".into(),
        tls.join("tls.crt").into(),
        "--tls-key".into(),
        tls.join("tls.key").into(),
        format!("--published-at=http://{published_at}").into(),
        "--shutdown-delay=0".into(),
    ]
}

/// Returns the trust policy of the session role in base role and issuer, as `iam` prints it.
pub fn trust(program: &Path, config: &Path) -> Value {
    let printed = Command::new(program)
        .args(["iam", "--transport=both", "--tenant=acme", "--only=session-role-trust"])
        .args(["--session-role", BROKER, "--base-role", BASE, "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    serde_json::from_slice(&printed.stdout).unwrap()
}
