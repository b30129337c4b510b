//! Parses the command line, runs the command and maps its result to an exit code.

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
            // A closed standard error leaves no place to report the failure.
            for line in format!("fab-session-injector: {failure}").lines() {
                let _ = writeln!(stderr(), "{}", harmless(line));
            }
            failure.exit_code()
        }
    }
}
