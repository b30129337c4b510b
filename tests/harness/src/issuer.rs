//! The command line of a session issuer.

use std::{ffi::OsString, net::SocketAddr, path::Path};

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
