//! `probe`: the sidecar's startup probe. It waits up to [`PATIENCE`] for the startup gate. If the
//! gate is still closed, it prints the reason, which the kubelet adds to the pod's events.

use std::{
    fs,
    io::{Write, stdout},
    net::Ipv4Addr,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{CommandError, environment, runtime};
use crate::{
    credentials::wire::{STATUS_PATH, SidecarStatus},
    session::{
        StartGate,
        env::{self, Serving},
    },
    terminal::harmless,
};

pub(super) fn run() -> Result<ExitCode, CommandError> {
    let serving = env::read_serving(environment)
        .context("cannot read the sidecar's settings from the environment")
        .map_err(CommandError::Input)?;
    match runtime()?.block_on(wait(&serving))? {
        None => Ok(ExitCode::SUCCESS),
        Some(reason) => {
            // If standard output is closed, the reason cannot be printed.
            let _ = writeln!(stdout(), "{}", harmless(&reason));
            Ok(ExitCode::from(1))
        }
    }
}

/// Waits for the startup gate. None: it is open. Some: why it is closed.
async fn wait(serving: &Serving) -> Result<Option<String>, CommandError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = match timeout(ANSWER, ask(serving)).await {
            Ok(status) => status,
            Err(late) => Err(late).context("the sidecar does not respond"),
        };
        let shut = status.map(|status| what_lacks(serving.start_gate, &status));
        match shut {
            Ok(None) => return Ok(None),
            _ if Instant::now() < deadline => sleep(PAUSE).await,
            Ok(Some(reason)) => return Ok(Some(reason)),
            Err(error) => return Err(CommandError::Internal(error)),
        }
    }
}

/// Returns why the startup gate is closed. None: it is open.
fn what_lacks(gate: StartGate, status: &SidecarStatus) -> Option<String> {
    if gate == StartGate::Listening || status.remaining_seconds > 0 {
        return None;
    }
    Some(match &status.last_error {
        Some(error) => error.message.clone(),
        None => format!("waiting for the first credentials of {}", status.source_identity),
    })
}

/// Requests the sidecar's status.
async fn ask(serving: &Serving) -> anyhow::Result<SidecarStatus> {
    let Serving { port, start_gate: _, token_file } = serving;
    let token = fs::read(token_file)
        .with_context(|| format!("the sidecar has not written {} yet", token_file.display()))?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))
        .await
        .with_context(|| format!("the sidecar does not listen on port {port}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(STATUS_PATH)
        .header(header::HOST, format!("{}:{port}", Ipv4Addr::LOCALHOST))
        .header(header::AUTHORIZATION, token)
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.context("the sidecar does not respond")?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK {
        bail!("the sidecar responded with {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("cannot parse the sidecar's response")
}

/// Maximum wait. With the start of this process and one more response it stays below the timeout
/// of the startup probe, which is 5 s.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time limit of one response.
const ANSWER: Duration = Duration::from_secs(1);
/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(100);
