//! The floor: a minimal webhook of the same crates, with TLS and HTTP. It parses a review and
//! returns its uid. It uses the server of the real webhook, so the difference between the two is
//! the webhook's own work.
//!
//! `floor ADDRESS DIRECTORY [PATCH]`: PATCH is a file with a JSON Patch, which each response then
//! contains.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may panic")]

use std::{fs, future::pending, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use fab_session_injector::serve::{
    Limits, Transport, serve,
    tls::{Certificate, Files},
};
use serde_json::Value;
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (address, directory) =
        (arguments.next().expect("ADDRESS"), arguments.next().expect("DIRECTORY"));
    let files = Files {
        certificate: format!("{directory}/tls.crt").into(),
        key: format!("{directory}/tls.key").into(),
    };
    let patch = arguments.next().map(|file| STANDARD.encode(fs::read(file).expect("PATCH")));
    let patch = patch.map(|patch| format!(r#","patchType":"JSONPatch","patch":"{patch}""#));
    let tls = Certificate::load(files).unwrap().server_config().unwrap();
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    let router = Router::new().route("/enabled", post(echo));
    let router = router.with_state(Arc::from(patch.unwrap_or_default()));
    let transport = Transport::Tls(TlsAcceptor::from(Arc::new(tls)));
    serve(listener, transport, Limits::default(), router, pending(), Duration::ZERO).await;
}

async fn echo(
    State(patch): State<Arc<str>>,
    body: Bytes,
) -> ([(&'static str, &'static str); 1], String) {
    let review: Value = serde_json::from_slice(&body).unwrap();
    let uid = review["request"]["uid"].as_str().unwrap();
    let answer = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"{uid}","allowed":true{patch}}}}}"#
    );
    ([("content-type", "application/json")], answer)
}
