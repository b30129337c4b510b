//! A server that the API server calls for pods, and its webhook configuration.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use fab_session_injector::serve::{
    Limits, Transport, serve,
    tls::{Certificate, Files},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::{process::own_directory, root};

/// The effect of a webhook on a pod: the operations of its JSON patch.
pub type Effect = fn(&Value) -> Vec<Value>;

/// A webhook server. It stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: Ipv4Addr,
    port: u16,
    calls: Arc<AtomicUsize>,
    /// Stops the server when dropped.
    _runtime: tokio::runtime::Runtime,
    directory: TempDir,
}

impl Server {
    /// Starts a server with its own certificate.
    pub fn start(address: Ipv4Addr, effect: Effect) -> Self {
        let directory = own_directory();
        let made = Command::new(root().join("certs/make"))
            .arg(directory.path())
            .arg(address.to_string())
            .status();
        assert!(made.unwrap().success());
        let calls = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listening = listen(address, directory.path(), effect, Arc::clone(&calls));
        let port = runtime.block_on(listening);
        Self { address, port, calls, _runtime: runtime, directory }
    }

    /// Returns the configuration for pods of namespaces with the label
    /// `test.example/foreign=<label>`, with further settings of the webhook. The API server calls
    /// webhooks in the order of these names.
    pub fn configuration(&self, name: &str, label: &str, settings: &Value) -> Value {
        let authority = std::fs::read(self.directory.path().join("ca.crt")).unwrap();
        let url = format!("https://{}:{}/mutate", self.address, self.port);
        let mut configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "foreign.test.example",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": url, "caBundle": STANDARD.encode(authority)},
                "failurePolicy": "Fail",
                "namespaceSelector": {"matchLabels": {"test.example/foreign": label}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "sideEffects": "None",
            }],
        });
        let webhook = configuration["webhooks"][0].as_object_mut().unwrap();
        webhook.extend(settings.as_object().unwrap().clone());
        configuration
    }

    /// Returns the number of calls.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

async fn listen(
    address: Ipv4Addr,
    directory: &Path,
    effect: Effect,
    calls: Arc<AtomicUsize>,
) -> u16 {
    let files = Files { certificate: directory.join("tls.crt"), key: directory.join("tls.key") };
    let tls = Certificate::load(files).unwrap().server_config().unwrap();
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = move |Json(review): Json<Value>| async move {
        calls.fetch_add(1, Ordering::Relaxed);
        let operations = effect(&review["request"]["object"]);
        let patch = serde_json::to_vec(&operations).unwrap();
        Json(json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(&patch)},
        }))
    };
    let router = Router::new().route("/mutate", post(handler));
    let transport = Transport::Tls(TlsAcceptor::from(Arc::new(tls)));
    tokio::spawn(serve(
        listener,
        transport,
        Limits::default(),
        router,
        std::future::pending(),
        Duration::ZERO,
    ));
    port
}
