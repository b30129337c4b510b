//! The shell around the pure rooms: here start the clock, the environment, files, clients.

mod account;
mod aws_client;
mod certs;
mod check;
mod cluster;
mod completions;
mod endpoint;
mod explain;
mod explanation;
mod files;
mod iam;
mod inject;
mod installed;
mod offline;
mod probe;
mod reviews;
mod room;
mod sidecar;
mod snapshots;
mod trial;
mod unread;
mod webhook;

use std::{
    fmt,
    io::{ErrorKind, Write, stdout},
    net::SocketAddr,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, anyhow};
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{cli::Command, serve, terminal::in_escapes};

/// Whose fault it is that a command did not do its work; the exit code says so.
#[derive(Debug)]
pub enum Failure {
    /// The input is wrong.
    Input(anyhow::Error),
    /// We failed, or what we need is not reachable.
    Ours(anyhow::Error),
}

/// Runs one command to its end.
pub fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Certs(arguments) => certs::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Iam(arguments) => iam::run(arguments),
        Command::Inject(arguments) => inject::run(&arguments),
        Command::Probe => probe::run(),
        Command::Sidecar => sidecar::run(),
        Command::Webhook(arguments) => webhook::run(arguments),
    }
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Input(_) => 2,
            Self::Ours(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Input(error) | Self::Ours(error)) = self;
        write!(f, "{error:#}")
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place in which the environment is read")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// To standard output, which whoever reads it may have closed. No output of any command has a
/// character of others raw that a terminal would take for a command.
fn print(output: &str) -> Result<ExitCode, Failure> {
    match stdout().write_all(in_escapes(output).as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::from(READER_GONE)),
        Err(error) => Err(Failure::Ours(anyhow!(error).context("cannot write to standard output"))),
    }
}

/// Of one thread, which waits more than it works.
fn runtime() -> Result<Runtime, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime").map_err(Failure::Ours)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    serve::listen(address)
        .with_context(|| format!("cannot listen on {address}"))
        .map_err(Failure::Ours)
}

/// Ready when somebody asks this process to end.
async fn terminated() -> Result<(), Failure> {
    let wait_for = |kind| signal(kind).context("cannot wait for signals").map_err(Failure::Ours);
    let mut terminate = wait_for(SignalKind::terminate())?;
    let mut interrupt = wait_for(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone is a stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[allow(clippy::disallowed_methods, reason = "the one place in which the clock is read")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// What a shell says of a tool that SIGPIPE ends: 128 and the signal's number.
const READER_GONE: u8 = 141;
