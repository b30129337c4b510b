//! The serving certificate, reloaded when its files change.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::certificates::ends;

/// Paths of certificate and key, both PEM.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The certificate and key that are served now. The key always matches the certificate.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    current: ArcSwap<Loaded>,
    provider: Arc<CryptoProvider>,
    reloads: [AtomicU64; 2],
}

#[derive(Debug)]
struct Loaded {
    certificate: Vec<u8>,
    key: PrivateKeyBytes,
    certified: Arc<CertifiedKey>,
    ends: Option<SystemTime>,
}

/// Bytes of a private key, for comparison only.
#[derive(PartialEq)]
struct PrivateKeyBytes(Vec<u8>);

/// Why a certificate and key cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum NotACertificate {
    #[error("{0} contains no PEM certificate")]
    Certificate(PathBuf),
    #[error("{0} contains no PEM private key")]
    Key(PathBuf),
    #[error("the key in {key} does not match the certificate in {certificate}")]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        rule: rustls::Error,
    },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

impl Certificate {
    /// Loads certificate and key from the files.
    pub fn load(files: Files) -> Result<Arc<Self>, NotACertificate> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = ArcSwap::from_pointee(read(&files, &provider)?);
        Ok(Arc::new(Self { files, current, provider, reloads: Default::default() }))
    }

    /// Returns the TLS configuration: TLS 1.2 and 1.3, ALPN for HTTP/2 and HTTP/1.1.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Reads the files each [`TICK`], and serves a new pair if it is valid. It polls because the
    /// kubelet replaces a symlink in the path, which a watch of the files does not report.
    pub async fn follow(self: Arc<Self>, now: impl Fn() -> SystemTime) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        let mut logged = None;
        loop {
            ticks.tick().await;
            let expiry = self.ends().filter(|ends| *ends < now() && logged != Some(*ends));
            if let Some(expiry) = expiry {
                logged = Some(expiry);
                let file = self.files.certificate.display();
                let expired = Timestamp::try_from(expiry).unwrap_or_default();
                tracing::error!(
                    %file,
                    %expired,
                    "the serving certificate is expired; API servers reject it"
                );
            }
            let reader = Arc::clone(&self);
            let Ok(loaded) =
                tokio::task::spawn_blocking(move || read(&reader.files, &reader.provider)).await
            else {
                continue;
            };
            match loaded {
                Ok(loaded) => {
                    failing = false;
                    let current = self.current.load();
                    if loaded.certificate != current.certificate || loaded.key != current.key {
                        self.current.store(Arc::new(loaded));
                        self.reloads[0].fetch_add(1, Ordering::Relaxed);
                        tracing::info!("certificate reloaded");
                    }
                }
                Err(error) if !failing => {
                    failing = true;
                    self.reloads[1].fetch_add(1, Ordering::Relaxed);
                    let error = with_causes(&error);
                    tracing::warn!(
                        %error,
                        "cannot load the new certificate; serving the previous one"
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// Returns the expiry of the serving certificate. None: it cannot be parsed.
    pub fn ends(&self) -> Option<SystemTime> {
        self.current.load().ends
    }

    /// Returns how often a new pair was loaded, and how often the files became unreadable or
    /// invalid.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads[0].load(Ordering::Relaxed), self.reloads[1].load(Ordering::Relaxed))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }
}

impl fmt::Debug for PrivateKeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

fn read(files: &Files, provider: &CryptoProvider) -> Result<Loaded, NotACertificate> {
    let Files { certificate, key } = files;
    let bytes = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| NotACertificate::Read { path: path.clone(), error })
    };
    let (certificate_bytes, key_bytes) = (bytes(certificate)?, bytes(key)?);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate_bytes)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|chain: &Vec<_>| !chain.is_empty())
        .ok_or_else(|| NotACertificate::Certificate(certificate.clone()))?;
    let private =
        PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|_| NotACertificate::Key(key.clone()))?;
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|rule| {
        NotACertificate::Pair { certificate: certificate.clone(), key: key.clone(), rule }
    })?;
    let ends = certified.end_entity_cert().ok().and_then(|leaf| ends(leaf));
    Ok(Loaded {
        ends,
        certificate: certificate_bytes,
        key: PrivateKeyBytes(key_bytes),
        certified: Arc::new(certified),
    })
}

/// Returns an error and its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Interval between two reads of the files. The kubelet takes about a minute to update a mounted
/// Secret.
const TICK: Duration = Duration::from_secs(1);
