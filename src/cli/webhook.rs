use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

#[derive(Args, Debug)]
pub struct Webhook {
    /// Config file (default: built-in defaults)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the admission endpoints, with TLS; `[::]` accepts IPv4 and IPv6
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    pub listen: SocketAddr,
    /// Address of /livez, /readyz and /metrics, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8081")]
    pub health_listen: SocketAddr,
    /// Serving certificate and its chain, as PEM; reloaded when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: PathBuf,
    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: PathBuf,
    /// CA certificates (PEM) that are trusted for AWS, in addition to the system's and those of the
    /// config; read at start
    #[arg(long, value_name = "FILE")]
    pub aws_ca_bundle: Option<PathBuf>,
    /// Static role file, instead of the config's sources
    #[arg(long, value_name = "FILE")]
    pub roles: Option<PathBuf>,
    /// Namespace manifests, instead of an API server (for trials without a cluster)
    #[arg(long, value_name = "FILE")]
    pub namespaces: Option<PathBuf>,
    /// Seconds to continue serving after SIGTERM, until API servers stop calling this replica
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub shutdown_delay: u64,
}

pub(super) const WEBHOOK_EXAMPLES: &str = "Examples:
  fab-session-injector webhook --config webhook.yaml \\
    --tls-certificate tls.crt --tls-key tls.key
  fab-session-injector webhook --roles roles.yaml --namespaces namespaces.yaml \\
    --listen 127.0.0.1:8443 --tls-certificate tls.crt --tls-key tls.key";
