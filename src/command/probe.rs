//! `probe`: waits for a while until the agent may start, and says what it is waiting for. The
//! kubelet puts the last word into the pod's events.

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

use super::{Failure, environment, runtime};
use crate::{
    credentials::wire::{STATUS_PATH, Status},
    session::{
        StartGate,
        env::{self, Serving},
    },
    terminal::harmless,
};

pub(super) fn run() -> Result<ExitCode, Failure> {
    let serving = env::read_serving(environment)
        .context("how the sidecar serves, in the environment")
        .map_err(Failure::Input)?;
    match runtime()?.block_on(wait(&serving))? {
        None => Ok(ExitCode::SUCCESS),
        Some(reason) => {
            // Nobody is left to tell where standard output is closed.
            let _ = writeln!(stdout(), "{}", harmless(&reason));
            Ok(ExitCode::from(1))
        }
    }
}

/// None: the gate is open. Else what keeps it shut.
async fn wait(serving: &Serving) -> Result<Option<String>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = match timeout(ANSWER, ask(serving)).await {
            Ok(status) => status,
            Err(late) => Err(late).context("the sidecar does not answer"),
        };
        let shut = status.map(|status| what_lacks(serving.start_gate, &status));
        match shut {
            Ok(None) => return Ok(None),
            _ if Instant::now() < deadline => sleep(PAUSE).await,
            Ok(Some(reason)) => return Ok(Some(reason)),
            Err(error) => return Err(Failure::Ours(error)),
        }
    }
}

fn what_lacks(gate: StartGate, status: &Status) -> Option<String> {
    if gate == StartGate::Listening || status.remaining_seconds > 0 {
        return None;
    }
    Some(match &status.last_error {
        Some(error) => error.message.clone(),
        None => format!("waiting for the first credentials of {}", status.source_identity),
    })
}

async fn ask(serving: &Serving) -> anyhow::Result<Status> {
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
    let answer = sender.send_request(request).await.context("the sidecar does not answer")?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK {
        bail!("the sidecar answers {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("the sidecar's answer cannot be read")
}

/// Inside the five seconds of the startup probe, with the start of this process and one more
/// answer.
const PATIENCE: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
