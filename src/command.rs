//! The commands. They read the clock, the environment and files, and create the clients; the
//! modules that they call get these as arguments.

mod aws_client;
mod aws_shell;
mod certs;
mod check;
mod cluster;
mod completions;
mod explain;
mod files;
mod iam;
mod iam_roles;
mod inject;
mod installed;
mod issuer;
mod offline;
mod output;
mod probe;
mod revoke;
mod roles;
mod sidecar;
mod tls_server;
mod webhook;

use std::{
    fmt,
    io::{ErrorKind, Write, stderr, stdout},
    net::SocketAddr,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, anyhow};
use serde_json::json;
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    cli::Command,
    serve,
    terminal::{harmless, in_escapes},
};

/// Why a command failed, which decides its exit code.
#[derive(Debug)]
pub enum CommandError {
    /// The input is invalid (exit code 2).
    Input(anyhow::Error),
    /// An internal error, or an API is unreachable (exit code 3).
    Internal(anyhow::Error),
}

/// Runs one command to completion. A command with `-o json` prints its failure as JSON, too.
pub fn run(command: Command) -> Result<ExitCode, CommandError> {
    let in_json = command.prints_json();
    let result = dispatch(command);
    if let (true, Err(failure)) = (in_json, &result) {
        let failure = json!({"exitCode": failure.code(), "message": failure.to_string()});
        print(&output::object("CommandError", &json!({"error": failure})))?;
    }
    result
}

fn dispatch(command: Command) -> Result<ExitCode, CommandError> {
    match command {
        Command::Certs(arguments) => certs::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Iam(arguments) => iam::run(arguments),
        Command::Inject(arguments) => inject::run(&arguments),
        Command::Issuer(arguments) => issuer::run(arguments),
        Command::Probe => probe::run(),
        Command::Revoke(arguments) => revoke::run(arguments),
        Command::Sidecar => sidecar::run(),
        Command::Webhook(arguments) => webhook::run(arguments),
    }
}

impl CommandError {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Internal(_) => 3,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Input(error) | Self::Internal(error)) = self;
        write!(f, "{error:#}")
    }
}

#[allow(clippy::disallowed_methods, reason = "the only place that reads the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Writes to standard output, and returns the exit code: 141 if stdout is closed.
///
/// Escapes the characters that a terminal would interpret as a command. Every command prints with
/// it.
fn print(output: &str) -> Result<ExitCode, CommandError> {
    match stdout().write_all(in_escapes(output).as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::from(STDOUT_CLOSED)),
        Err(error) => {
            Err(CommandError::Internal(anyhow!(error).context("cannot write to standard output")))
        }
    }
}

/// Writes a line for the user to standard error. A closed standard error is no failure.
fn say(line: &str) {
    let _ = writeln!(stderr(), "{}", harmless(line));
}

/// Starts a runtime with one thread: commands wait more than they compute.
fn runtime() -> Result<Runtime, CommandError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime").map_err(CommandError::Internal)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, CommandError> {
    serve::listen(address)
        .with_context(|| format!("cannot listen on {address}"))
        .map_err(CommandError::Internal)
}

/// Returns on SIGTERM or SIGINT.
async fn terminated() -> Result<(), CommandError> {
    let wait_for =
        |kind| signal(kind).context("cannot wait for signals").map_err(CommandError::Internal);
    let mut terminate = wait_for(SignalKind::terminate())?;
    let mut interrupt = wait_for(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A dropped sender counts as a stop.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[allow(clippy::disallowed_methods, reason = "the only place that reads the clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Exit code that a shell reports for a process killed by SIGPIPE: 128 plus the signal's number.
const STDOUT_CLOSED: u8 = 141;
