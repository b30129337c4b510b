//! A TLS proxy with a temporary certificate, in front of the strict AWS, which has only HTTP.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{io::copy_bidirectional, net::TcpStream, sync::oneshot};
use tokio_rustls::TlsAcceptor;

use crate::{process::own_directory, root};

/// A running proxy. It stops when dropped.
pub struct Tls {
    address: SocketAddr,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tls {
    /// Starts the proxy on 127.0.0.1.
    pub fn before(target: SocketAddr) -> Self {
        Self::on((Ipv4Addr::LOCALHOST, 0).into(), &[], target)
    }

    /// Starts the proxy with a certificate for `hosts`; without any, for 127.0.0.1 and localhost.
    pub fn on(address: SocketAddr, hosts: &[&str], target: SocketAddr) -> Self {
        let directory = own_directory();
        let path = directory.path();
        let made = Command::new(root().join("certs/make")).arg(path).args(hosts).status();
        assert!(made.unwrap().success());
        let read = |name: &str| fs::read(path.join(name)).unwrap();
        let certificate = CertificateDer::from_pem_slice(&read("tls.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read("tls.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = relay(&listener, &acceptor, target) => {}
                }
            });
        });
        Self { address, directory, stop: Some(stop), thread: Some(thread) }
    }

    /// Returns the endpoint of the proxy.
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Returns the address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the certificate of the CA that signed the proxy's certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn relay(listener: &tokio::net::TcpListener, acceptor: &TlsAcceptor, target: SocketAddr) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // The client reports its own errors.
            if let Ok(mut stream) = acceptor.accept(stream).await
                && let Ok(mut behind) = TcpStream::connect(target).await
            {
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            }
        });
    }
}
