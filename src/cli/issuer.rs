use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

#[derive(Args, Debug)]
pub struct Issuer {
    #[command(subcommand)]
    pub command: Option<IssuerCommand>,
    /// Config file of the webhook
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// Address of /v1/token, with TLS; `[::]` accepts IPv4 and IPv6
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    pub listen: SocketAddr,
    /// Address of /livez, /readyz and /metrics, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8081")]
    pub health_listen: SocketAddr,
    /// Serving certificate and its chain, as PEM; reloaded when it changes
    #[arg(long, value_name = "FILE", required = true)]
    pub tls_certificate: Option<PathBuf>,
    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", required = true)]
    pub tls_key: Option<PathBuf>,
    /// CA certificates (PEM) that are trusted for AWS and for the published files, in addition to
    /// the system's and those of the config; read at start
    #[arg(long, value_name = "FILE")]
    pub aws_ca_bundle: Option<PathBuf>,
    /// URL below which the published files are read, if the issuer's own URL is not reachable from
    /// the cluster
    #[arg(long, value_name = "URL")]
    pub published_at: Option<String>,
    /// Seconds to continue serving after SIGTERM, until sidecars stop calling this replica
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub shutdown_delay: u64,
}

#[derive(Debug, Subcommand)]
pub enum IssuerCommand {
    /// Write the two files that STS reads: the discovery document and the public keys
    ///
    /// Exit codes: 0 done; 2 invalid input, or a key cannot be read; 3 internal error.
    Export(IssuerExport),
}

#[derive(Args, Debug)]
pub struct IssuerExport {
    /// Config file of the webhook
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Directory for the files; it is created if it does not exist
    #[arg(long, value_name = "DIRECTORY", required_unless_present = "only")]
    pub out: Option<PathBuf>,
    /// Print one file in place of writing both, for example in a pod of the issuer, which has the
    /// key files
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub only: Option<PublicFile>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PublicFile {
    Discovery,
    Keys,
}

/// Lines have at most 98 characters, because help is wrapped at 100.
pub(super) const ISSUER_EXAMPLES: &str = "Examples:
  fab-session-injector issuer --config webhook.yaml \\
    --tls-certificate tls.crt --tls-key tls.key
  fab-session-injector issuer export --config webhook.yaml --out published";
