//! The client of the session issuer: one request per token, over TLS, never through a proxy.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Reason, Secret, pod_token::PodToken, sts::chain};
use crate::session::{CaBundle, IssuerEndpoint, env::IssuerAccess};

/// Calls the session issuer with the pod's own token.
#[derive(Debug)]
pub struct IssuerClient {
    endpoint: IssuerEndpoint,
    own: PodToken,
    tls: TlsSettings,
}

/// A token of the session issuer, and what to assume with it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssuedToken {
    #[serde(deserialize_with = "secret")]
    pub(super) token: Secret<String>,
    pub(super) role: String,
    pub(super) source_identity: String,
    pub(super) role_session_name: String,
    pub(super) duration_seconds: u32,
}

/// An error response of the issuer.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
}

impl IssuerClient {
    pub fn new(calls: IssuerAccess) -> Result<Self, rustls::Error> {
        let IssuerAccess { endpoint, ca, token_file } = calls;
        let tls = TlsSettings::new(&ca)?;
        Ok(Self { endpoint, own: PodToken::new(token_file), tls })
    }

    /// Requests a token. `wait`: how long the issuer may wait for the session of a pod that has none
    /// yet. The caller limits the time.
    pub(super) async fn token(&self, wait: Option<Duration>) -> Result<IssuedToken, Reason> {
        let unavailable = |detail: String| Reason::IssuerUnavailable { detail };
        let own = self.own.read().map_err(|error| {
            unavailable(format!(
                "cannot read the pod's token {}: {error}",
                self.own.file().display()
            ))
        })?;
        let own = own.ok_or(Reason::PodChanged)?;
        let (status, body) =
            self.post(&own, wait).await.map_err(|error| unavailable(chain(&*error)))?;
        if status == 200 {
            // The body has a token, so no text shows it.
            return serde_json::from_slice(&body)
                .map_err(|_| unavailable("its response cannot be parsed".to_owned()));
        }
        let Ok(ErrorBody { code, message }) = serde_json::from_slice(&body) else {
            return Err(unavailable(format!("HTTP {status}")));
        };
        let detail: String = message.chars().take(LONGEST_SENTENCE).collect();
        let code: String = code.chars().take(LONGEST_CODE).collect();
        Err(match (status, &*code) {
            (409, UNBOUND) => Reason::NotBound { waited: true },
            (400..500, _) => Reason::IssuerRefused { code, detail },
            (_, code) => unavailable(format!("{detail} [{code}]")),
        })
    }

    pub(super) fn is_in_same_pod(&self) -> bool {
        self.own.is_of_same_pod()
    }

    async fn post(
        &self,
        token: &str,
        wait: Option<Duration>,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let Self { endpoint, own: _, tls: TlsSettings(tls) } = self;
        let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(endpoint.host().to_owned())?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::post(endpoint.path())
            .header(header::HOST, endpoint.host())
            .header(header::AUTHORIZATION, format!("Bearer {}", token.trim_end()));
        if let Some(wait) = wait {
            request = request.header("prefer", format!("wait={}", wait.as_secs()));
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST_RESPONSE).collect().await?.to_bytes();
        connection.abort();
        Ok((status, body))
    }
}

/// TLS 1.3 with the issuer's own CA as the only one.
struct TlsSettings(Arc<ClientConfig>);

impl TlsSettings {
    fn new(ca: &CaBundle) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_str().as_bytes()).flatten() {
            roots.add(certificate)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSettings")
    }
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// The issuer's code for a pod that has no session yet.
const UNBOUND: &str = "unbound";
/// Maximum length of a response, in bytes. A token has about 1 KiB.
const LONGEST_RESPONSE: usize = 16 * 1024;
/// Maximum length of an error's text, in characters: several times that of the longest one.
const LONGEST_SENTENCE: usize = 1024;
/// Maximum length of an error's code, in characters.
const LONGEST_CODE: usize = 64;
