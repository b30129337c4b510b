//! Starts the webhook locally, and prints how it changes two sample pods.
//!
//! The webhook serves TLS with temporary certificates, namespace manifests and a static role file.
//! The reviews were recorded from a real API server. `make demo` builds the program first.

#![allow(clippy::print_stdout, reason = "a demo prints its results")]

#[allow(dead_code, reason = "the tests also use HTTP/1.1 and the status")]
#[path = "../tests/webhook/client.rs"]
mod client;

use std::{
    error::Error,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use client::{Client, Protocol};
use fab_session_injector::manifest;
use rustls::version::TLS13;
use serde_json::Value;
use similar::TextDiff;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = root.join("target/demo");
    let made = Command::new(root.join("certs/make")).arg(&directory).status()?;
    if !made.success() {
        return Err("certs/make failed: it created no certificates; install openssl".into());
    }
    let webhook = Webhook::start(root, &directory)?;
    let mut client = webhook.connect(&directory).await?;
    println!("The webhook serves https://{}/enabled.", webhook.address);
    let reviews = [
        (
            "runtime",
            "A runtime pod. The platform's operator creates it and names its session after an AgentSandbox.",
        ),
        (
            "dispatcher",
            "A dispatcher pod. A Job creates it, so it has no name yet; its UID is the session.",
        ),
    ];
    for (name, what) in reviews {
        let review = std::fs::read(root.join(format!("tests/reviews/{name}.json")))?;
        let answer = client.post("/enabled?timeout=5s", "application/json", review.clone()).await?;
        println!("\n== {what}\n");
        show(&serde_json::from_slice(&review)?, &serde_json::from_slice(&answer.body)?)?;
    }
    Ok(())
}

/// Prints the response, and the difference between the pod before and after.
fn show(review: &Value, answer: &Value) -> Result<(), Box<dyn Error + Send + Sync>> {
    let response = &answer["response"];
    println!("allowed: {}", response["allowed"]);
    println!("audit annotations: {}", serde_json::to_string_pretty(&response["auditAnnotations"])?);
    for warning in response["warnings"].as_array().into_iter().flatten() {
        println!("warning: {}", warning.as_str().unwrap_or_default());
    }
    let pod = &review["request"]["object"];
    let mut injected = pod.clone();
    let patch = STANDARD.decode(response["patch"].as_str().unwrap_or_default())?;
    let patch: json_patch::Patch = serde_json::from_slice(&patch)?;
    json_patch::patch(&mut injected, &patch)?;
    let (before, after) = (manifest::write(pod)?, manifest::write(&injected)?);
    let diff = TextDiff::from_lines(&before, &after);
    println!("{}", diff.unified_diff().context_radius(2).header("the pod", "the pod, injected"));
    Ok(())
}

struct Webhook {
    process: Child,
    address: SocketAddr,
}

impl Webhook {
    fn start(root: &Path, certificates: &Path) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (address, health) = (free_address()?, free_address()?);
        let example = |name: &str| root.join("examples/demo").join(name);
        let process = Command::new(program()?)
            .arg("webhook")
            .arg(format!("--listen={address}"))
            .arg(format!("--health-listen={health}"))
            .arg("--tls-certificate")
            .arg(certificates.join("tls.crt"))
            .arg("--tls-key")
            .arg(certificates.join("tls.key"))
            .arg("--namespaces")
            .arg(example("namespaces.yaml"))
            .arg("--roles")
            .arg(example("roles.yaml"))
            .env("AWS_REGION", "eu-west-1")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(certificates.join("webhook.log"))?)
            .spawn()?;
        Ok(Self { process, address })
    }

    /// Connects when the webhook has read its files and listens.
    async fn connect(&self, certificates: &Path) -> Result<Client, Box<dyn Error + Send + Sync>> {
        let ca = std::fs::read(certificates.join("ca.crt"))?;
        let mut last = None;
        for _ in 0..100 {
            match Client::connect(self.address, &ca, Protocol::Http2, &[&TLS13]).await {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = certificates.join("webhook.log");
        Err(format!("cannot connect to the webhook: {last:?}; see {}", log.display()).into())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // The process may have exited already; the log has the reason.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the path of the program of the same build.
fn program() -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
    let own = std::env::current_exe()?;
    let build = own
        .parent()
        .and_then(Path::parent)
        .ok_or("this example is not in a build directory; run make demo")?;
    Ok(build.join("fab-session-injector"))
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
