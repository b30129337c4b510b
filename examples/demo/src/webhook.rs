//! The webhook as a local process, and a client that calls it as an API server does.

use std::{fs, net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Error, Process, free_address, program, root};

pub(crate) struct Webhook {
    pub(crate) address: SocketAddr,
    tls: TlsConnector,
    log: String,
    _process: Process,
}

impl Webhook {
    /// Starts the webhook with the certificates in `directory`, which has its log as well.
    pub(crate) fn start(directory: &Path) -> Result<Self, Error> {
        let (address, health) = (free_address()?, free_address()?);
        let example = |name: &str| root().join("examples/demo").join(name);
        let log = directory.join("webhook.log");
        let mut command = Command::new(program()?);
        command
            .arg("webhook")
            .arg(format!("--listen={address}"))
            .arg(format!("--health-listen={health}"))
            .arg("--tls-certificate")
            .arg(directory.join("tls.crt"))
            .arg("--tls-key")
            .arg(directory.join("tls.key"))
            .arg("--namespaces")
            .arg(example("namespaces.yaml"))
            .arg("--roles")
            .arg(example("roles.yaml"))
            .env("AWS_REGION", "eu-west-1");
        let process = Process::start(&mut command, &log)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&fs::read(directory.join("ca.crt"))?) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { address, tls, log: log.display().to_string(), _process: process })
    }

    /// Sends a review, and returns the body of the response.
    pub(crate) async fn post(&self, review: Vec<u8>) -> Result<Bytes, Error> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        let request = Request::post("/enabled?timeout=5s")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(review))?;
        Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes())
    }

    /// Connects when the webhook has read its files and listens.
    async fn connect(&self) -> Result<TlsStream<TcpStream>, Error> {
        let mut last = None;
        for _ in 0..100 {
            match TcpStream::connect(self.address).await {
                Ok(stream) => {
                    let name = ServerName::try_from("localhost")?;
                    return Ok(self.tls.connect(name, stream).await?);
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("cannot connect to the webhook: {last:?}; see {}", self.log).into())
    }
}
