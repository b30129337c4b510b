//! A proxy in front of an API server. It records the calls, and can change the answers to
//! TokenReviews.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{stand_in::StandIn, tls::Tls};

/// A running proxy. Once dropped, it accepts no connections.
pub struct ApiProxy {
    tls: Tls,
    _server: StandIn,
    shared: Arc<Shared>,
}

/// What the proxy does with the answers to TokenReviews.
#[derive(Clone, Copy, Debug)]
pub enum Review {
    /// Passes them on after a change.
    Changed(fn(&mut Value)),
    /// Answers with HTTP 500 in their place.
    Failed,
}

struct Shared {
    api_server: SocketAddr,
    connector: TlsConnector,
    state: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    /// Method and path of each call.
    calls: Vec<String>,
    review: Option<Review>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl ApiProxy {
    /// Starts in front of the API server of the kubeconfig.
    pub fn before(kubeconfig: &Path) -> Self {
        let cluster = &read(kubeconfig)["clusters"][0]["cluster"];
        let authority = cluster["certificate-authority-data"].as_str().unwrap();
        let authority = STANDARD.decode(authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority).unwrap().into_owned()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = cluster["server"].as_str().unwrap().strip_prefix("https://").unwrap();
        let shared = Arc::new(Shared {
            api_server: server.parse().unwrap(),
            connector: TlsConnector::from(Arc::new(config)),
            state: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = StandIn::start([127, 0, 0, 1].into(), router);
        Self { tls: Tls::before(server.address), _server: server, shared }
    }

    /// Returns the kubeconfig of the same user with the proxy in place of the API server. The user
    /// has a token: the proxy does not pass on client certificates.
    pub fn kubeconfig(&self, kubeconfig: &Path) -> PathBuf {
        let mut config = read(kubeconfig);
        let authority = fs::read(self.tls.authority()).unwrap();
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = self.tls.endpoint().into();
        cluster["certificate-authority-data"] = STANDARD.encode(authority).into();
        let path = kubeconfig.with_extension("proxied");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Returns method and path of the calls since the last time, except watches.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().calls)
    }

    /// Sets what becomes of the answers to TokenReviews.
    pub fn review(&self, review: Option<Review>) {
        self.shared.state().review = review;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap()
    }

    async fn send(&self, parts: Parts, body: Bytes) -> Result<hyper::Response<Incoming>, Error> {
        let stream = TcpStream::connect(self.api_server).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(ServerName::from(self.api_server.ip()), stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = hyper::Request::builder().method(parts.method).uri(target);
        for (name, value) in &parts.headers {
            if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
                request = request.header(name, value);
            }
        }
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let is_watch = parts.uri.query().is_some_and(|query| query.contains("watch="));
    let is_review = parts.method == Method::POST && path.ends_with("/tokenreviews");
    let review = {
        let mut state = shared.state();
        if !is_watch {
            state.calls.push(format!("{} {path}", parts.method));
        }
        state.review.filter(|_| is_review)
    };
    if let Some(Review::Failed) = review {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let Ok(body) = to_bytes(body, LONGEST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let Ok(response) = shared.send(parts, body).await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::TRANSFER_ENCODING);
    let Some(Review::Changed(change)) = review else {
        return Response::from_parts(parts, Body::new(body));
    };
    let body = to_bytes(Body::new(body), LONGEST_BODY).await.unwrap_or_default();
    let Ok(mut review) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    change(&mut review);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    (parts.status, headers, review.to_string()).into_response()
}

fn read(kubeconfig: &Path) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(kubeconfig).unwrap()).unwrap()
}

/// Maximum length of a body, in bytes. A TokenReview has some KiB.
const LONGEST_BODY: usize = 1 << 20;
