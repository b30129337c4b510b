//! The main job on what is embedded: the real webhook over TLS, with throwaway certificates,
//! namespace manifests and a static role file, answers reviews that a real API server once
//! sent. `make demo` builds the program first.

#![allow(clippy::print_stdout, reason = "a demo is for reading")]

#[allow(dead_code, reason = "the tests speak HTTP/1.1 as well, and look at the status")]
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
        return Err("certs/make made no certificates; it needs openssl".into());
    }
    let webhook = Webhook::start(root, &directory)?;
    let mut client = webhook.connect(&directory).await?;
    println!("The webhook serves https://{}/enabled.", webhook.address);
    let reviews = [
        (
            "runtime",
            "A runtime pod: the session of an AgentSandbox, created by the platform's operator.",
        ),
        (
            "dispatcher",
            "A dispatcher pod: of a Job, so it has no name yet, and its uid is the session.",
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

/// The answer, and the pod before and after.
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

    /// It listens once it has read its files.
    async fn connect(&self, certificates: &Path) -> Result<Client, Box<dyn Error + Send + Sync>> {
        let authority = std::fs::read(certificates.join("ca.crt"))?;
        let mut last = None;
        for _ in 0..100 {
            match Client::connect(self.address, &authority, Protocol::Http2, &[&TLS13]).await {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = certificates.join("webhook.log");
        Err(format!("the webhook does not listen ({last:?}); see {}", log.display()).into())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // It may have ended by itself, which its log says.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program beside this example, of the same build.
fn program() -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
    let own = std::env::current_exe()?;
    let build =
        own.parent().and_then(Path::parent).ok_or("this example is not in a build directory")?;
    Ok(build.join("fab-session-injector"))
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
