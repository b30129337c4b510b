//! A client for the API server without retries. kubectl and the kube client repeat a call up to ten
//! times if the response asks for it, which hides the single responses and their times.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::world;

/// A client of the API server.
pub struct ApiServer {
    address: SocketAddr,
    tls: TlsConnector,
    /// Query of the request path.
    query: &'static str,
    /// The user as which the client acts, if it is another one.
    user: Option<&'static str>,
    /// The last connection.
    connection: Mutex<Option<Connection>>,
}

/// The reason why a pod was not created.
#[derive(Debug)]
pub enum NotCreated {
    /// There was no response, for this reason.
    NoAnswer(String),
    /// The message of the Status.
    Refused(String),
}

type Connection = http2::SendRequest<Full<Bytes>>;
/// An error of the connection.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

impl ApiServer {
    /// Returns a client for the user of the kubeconfig.
    pub fn of(kubeconfig: &Path) -> Self {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let pem = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        let certificate =
            |value: &Value| CertificateDer::from_pem_slice(&pem(value)).unwrap().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&cluster["certificate-authority-data"])).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate(&user["client-certificate-data"])],
                PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server = cluster["server"].as_str().unwrap().strip_prefix("https://").unwrap();
        Self {
            address: server.parse().unwrap(),
            tls: TlsConnector::from(Arc::new(tls)),
            query: "",
            user: None,
            connection: Mutex::default(),
        }
    }

    /// Makes all further creations dry runs: pods are admitted and not stored.
    pub fn dry(self) -> Self {
        Self { query: "?dryRun=All", ..self }
    }

    /// Makes all further requests as another user.
    pub fn impersonating(self, user: &'static str) -> Self {
        Self { user: Some(user), ..self }
    }

    /// Creates a pod; returns it as stored.
    pub async fn create(&self, pod: &Value) -> Result<Value, NotCreated> {
        let answer = timeout(LONGEST, self.post(pod)).await;
        let answer = answer.map_err(|_| NotCreated::NoAnswer(format!("within {LONGEST:?}")))?;
        let answer = answer.map_err(|error| NotCreated::NoAnswer(error.to_string()))?;
        match answer["kind"].as_str() {
            Some("Pod") => Ok(answer),
            _ => Err(NotCreated::Refused(answer["message"].to_string())),
        }
    }

    async fn post(&self, pod: &Value) -> Result<Value, Error> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap();
        let path = format!("/api/v1/namespaces/{namespace}/pods{}", self.query);
        let answer = self.send(Method::POST, &path, pod.to_string()).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Sends a request; returns the body of any response. A patch is a merge patch.
    pub async fn send(&self, method: Method, path: &str, body: String) -> Result<Bytes, Error> {
        let format = if method == Method::PATCH { "merge-patch+json" } else { "json" };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .header("content-type", format!("application/{format}"));
        if let Some(user) = self.user {
            request = request.header("impersonate-user", user);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let open = self.connection.lock().unwrap().clone();
        let mut connection = match open.filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = connection.send_request(request).await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, stream).await?;
        let (connection, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        *self.connection.lock().unwrap() = Some(connection.clone());
        Ok(connection)
    }
}

/// Returns an agent pod: its service account is fenced.
pub fn agent(namespace: &str) -> Value {
    let mut pod = world::agent(namespace, "");
    pod["metadata"] = json!({"generateName": "a-", "namespace": namespace});
    pod
}

/// Longer than both calls of the webhook can take on a busy machine.
const LONGEST: Duration = Duration::from_secs(30);
