//! Runs the main job on one machine: the webhook injects a pod, the pod's sidecar gets session
//! credentials, an AWS SDK makes a call with them, and CloudTrail's event names the session.
//!
//! Webhook and sidecar are the real program, which `make demo` builds. The reviews were recorded
//! from a real API server. AWS is the stand-in of tests/aws.

#![allow(clippy::print_stdout, reason = "a demo prints its results")]

mod issuer;
mod session;
mod webhook;

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use fab_session_injector::manifest;
use serde_json::Value;
use similar::TextDiff;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if env::args().nth(1).as_deref() == Some("agent") {
        return session::call_as_the_agent().await;
    }
    let root = root();
    let directory = root.join("target/demo");
    let made = Command::new(root.join("certs/make")).arg(&directory).status()?;
    if !made.success() {
        return Err("certs/make failed: it created no certificates; install openssl".into());
    }
    let webhook = webhook::Webhook::start(&directory)?;
    println!("The webhook serves https://{}/enabled.", webhook.address);

    println!(
        "\n== A dispatcher pod. A Job creates it, so it has no name yet; its UID is the session.\n"
    );
    inject(&webhook, "dispatcher").await?;
    println!(
        "\n== A runtime pod. The platform's operator creates it and names its session after an AgentSandbox.\n"
    );
    let pod = inject(&webhook, "runtime").await?;
    println!("\n== The runtime pod's sidecar and agent, as the kubelet would start them.\n");
    session::run(&pod, &directory)?;
    println!("\n== The same pod with the session issuer, and without base credentials.\n");
    let review: Value =
        serde_json::from_slice(&fs::read(root.join("tests/reviews/runtime.json"))?)?;
    issuer::run(&review["request"]["object"], &directory)
}

/// Sends the review to the webhook, prints its response, and returns the injected pod.
async fn inject(webhook: &webhook::Webhook, name: &str) -> Result<Value, Error> {
    let review = fs::read(root().join(format!("tests/reviews/{name}.json")))?;
    let answer = webhook.post(review.clone()).await?;
    let (review, answer): (Value, Value) =
        (serde_json::from_slice(&review)?, serde_json::from_slice(&answer)?);
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
    Ok(injected)
}

/// A process that is killed when the demo ends.
struct Process(Child);

impl Process {
    /// Writes the output of the process to `log`.
    fn start(command: &mut Command, log: &Path) -> Result<Self, Error> {
        let output = fs::File::create(log)?;
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have exited already; its log has the reason.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the path of fab-session-injector of the same build.
fn program() -> Result<PathBuf, Error> {
    let own = env::current_exe()?;
    let program = own.with_file_name("fab-session-injector");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} does not exist: run make demo", program.display()).into())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
