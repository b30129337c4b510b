//! `completions`: generates shell completions.

use std::process::ExitCode;

use clap::CommandFactory;

use super::{CommandError, print};
use crate::cli::{Cli, Completions, Shell};

pub(super) fn run(arguments: &Completions) -> Result<ExitCode, CommandError> {
    let Completions { shell } = arguments;
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fab-session-injector", &mut script);
    print(&String::from_utf8_lossy(&script).replace(MISSPELT, SPELT))
}

/// For bash, clap_complete spells a program's name with a '-' in two ways, so that bash completes
/// no subcommand.
/// <https://github.com/clap-rs/clap/issues/6421>
const MISSPELT: &str = "fab__subcmd__session__subcmd__injector";
const SPELT: &str = "fab__session__injector";
