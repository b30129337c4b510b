//! Requests and a config for abuse of the webhook's port.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::server::review;

/// Returns an SSM that accepts calls and never responds, so that forged reviews wait as long as
/// possible, and the path of a config that names it.
pub fn silent_ssm(directory: &Path) -> (TcpListener, PathBuf) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config_with_ssm(directory, silent.local_addr().unwrap());
    (silent, config)
}

/// Writes a config that names an SSM at this address; returns its path.
pub fn config_with_ssm(directory: &Path, address: SocketAddr) -> PathBuf {
    let config = directory.join("config.yaml");
    let endpoint = format!("http://{address}");
    let ssm =
        json!({"cluster": "prod", "roles": {"ssm": {"endpoint": endpoint, "region": "eu-west-1"}}});
    fs::write(&config, ssm.to_string()).unwrap();
    config
}

/// Returns the review of the pod of `runtime`, with other text at the path of a value.
pub fn review_with(place: &str, text: &str) -> Vec<u8> {
    let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
    let (parent, key) = place.rsplit_once('/').unwrap();
    match review.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = "@@".into(),
        object => object[key] = "@@".into(),
    }
    review.to_string().replacen("\"@@\"", text, 1).into_bytes()
}

/// Returns the same for a path in the pod.
pub fn pod_with(place: &str, text: &str) -> Vec<u8> {
    review_with(&format!("/request/object{place}"), text)
}

/// Returns variables with a long NO_PROXY, which the webhook copies into two variables.
pub fn proxies(bytes: usize) -> Value {
    json!([
        {"name": "HTTPS_PROXY", "value": "http://proxy.test:3128"},
        {"name": "NO_PROXY", "value": "a,".repeat(bytes / 2)},
    ])
}

/// Returns a request of HTTP/1.1 with this body.
pub fn post_of(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /enabled HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The content type of a review.
pub const JSON: &str = "application/json";
