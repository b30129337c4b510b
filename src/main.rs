//! Parses the command line, runs the command, maps its end to an exit code.

use std::{
    io::{Write, stderr},
    process::ExitCode,
};

use clap::Parser;
use fab_session_injector::{cli::Cli, command, terminal::harmless};

fn main() -> ExitCode {
    match command::run(Cli::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            // Nobody is left to tell where standard error is closed.
            for line in format!("fab-session-injector: {failure}").lines() {
                let _ = writeln!(stderr(), "{}", harmless(line));
            }
            failure.exit_code()
        }
    }
}
