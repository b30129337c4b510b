//! The shell of an engineer who runs the commands of a page.

use std::process::Command;

use crate::process::program;

/// Runs a block; returns standard output and standard error, interleaved. The shell finds the
/// program under test and the programs of `tests/setup`. `equip` sets its other variables.
#[allow(clippy::disallowed_methods, reason = "the shell needs the other programs")]
pub fn run(block: &str, equip: impl FnOnce(&mut Command)) -> String {
    let [ours, others] = [crate::program(), program("kubectl")];
    let [ours, others] = [&ours, &others].map(|program| program.parent().unwrap().display());
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-eu", "-c", &format!("exec 2>&1\n{block}")]);
    shell.env("PATH", format!("{ours}:{others}:{path}"));
    equip(&mut shell);
    let ran = shell.output().unwrap();
    let printed = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{block}\n{printed}");
    printed
}
