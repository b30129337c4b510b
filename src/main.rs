//! Parses the command line, runs the command and maps its result to an exit code.

use std::{
    io::{Write, stderr},
    process::ExitCode,
};

use fab_session_injector::{cli::Cli, command, terminal::harmless};

fn main() -> ExitCode {
    match command::run(Cli::of_arguments().command) {
        Ok(code) => code,
        Err(failure) => {
            // A closed standard error leaves no place to report the failure.
            for line in failure.to_string().lines() {
                let _ = writeln!(stderr(), "error: {}", harmless(line));
            }
            failure.exit_code()
        }
    }
}
