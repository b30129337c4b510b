//! The shell around the pure rooms: here start the clock, the environment, files, clients.

mod files;
mod inject;
mod reviews;
mod snapshots;
mod webhook;

use std::{fmt, process::ExitCode};

use crate::cli::Command;

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
        Command::Inject(arguments) => inject::run(&arguments),
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
