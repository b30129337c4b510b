//! An HTTPS client with a selectable protocol, for the webhook's port.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub struct Client {
    sender: Sender,
    /// The certificate of the server.
    pub certificate: Vec<u8>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    /// Connects, with the CA certificate of the server.
    pub async fn connect(
        address: SocketAddr,
        authority: &[u8],
        protocol: Protocol,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self, Error> {
        let stream = shake_hands(address, authority, protocol, versions).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate =
            certificates.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, certificate })
    }

    /// Sends a POST request; returns its response.
    pub async fn post(
        &mut self,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, Error> {
        let request = Request::post(format!("https://localhost{path}"))
            .header("host", "localhost")
            .header("content-type", content_type)
            .body(Full::new(body.into()))?;
        let answer = match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await?,
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        let status = answer.status();
        Ok(Answer { status, body: answer.into_body().collect().await?.to_bytes() })
    }
}

/// Returns a connection after the TLS handshake, without a request.
pub async fn shake_hands(
    address: SocketAddr,
    authority: &[u8],
    protocol: Protocol,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<TlsStream<TcpStream>, Error> {
    shake_hands_with("localhost", address, authority, protocol, versions).await
}

/// Connects to a server with another name. `authority` can have several CA certificates.
pub async fn shake_hands_with(
    name: &'static str,
    address: SocketAddr,
    authority: &[u8],
    protocol: Protocol,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<TlsStream<TcpStream>, Error> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    shake_hands_on(stream, name, authority, protocol, versions).await
}

/// Does the TLS handshake on a socket of the caller.
pub async fn shake_hands_on(
    stream: TcpStream,
    name: &'static str,
    authority: &[u8],
    protocol: Protocol,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<TlsStream<TcpStream>, Error> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authority) {
        roots.add(authority?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::Http2 => b"h2".to_vec(),
    }];
    let name = ServerName::try_from(name)?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}
