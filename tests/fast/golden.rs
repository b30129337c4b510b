//! Golden tests: `golden/NAME.yaml` is the input, `NAME.injected.yaml` or `NAME.refused.txt` the
//! output. `UPDATE=1` writes the outputs; review the diff.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use harness::case::Case;

#[test]
fn each_pod_becomes_its_golden_output() {
    let cases = Case::all();
    assert!(cases.len() > 50, "{} goldens", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let output = inject(case, &case.input());
        let warnings = warnings(&output);
        let (injected, refused) = (case.path("injected.yaml"), case.path("refused.txt"));
        let (expected, other, found) = match output.status.code() {
            Some(0) => (injected, refused, format!("{warnings}{}", text(&output.stdout))),
            Some(1) => (refused, injected, warnings),
            code => panic!("{}: {code:?}: {}", case.name, text(&output.stderr)),
        };
        if is_update() {
            let _ = fs::remove_file(&other);
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found || other.exists() {
            wrong.push(format!("{}:\n{found}", case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ; UPDATE=1 writes the outputs\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_second_injection_changes_nothing() {
    let mut injected = 0;
    for case in Case::all().iter().filter(|case| case.path("injected.yaml").exists()) {
        let once = text(&inject(case, &case.input()).stdout);
        let again = inject(case, &write(&case.scratch("again.yaml"), &once));
        assert_eq!(text(&again.stdout), once, "{}", case.name);
        injected += 1;
    }
    assert!(injected > 20);
}

#[test]
fn a_refusal_repeats_no_secret_of_the_pod() {
    let mut canaries = 0;
    for case in Case::all() {
        if fs::read_to_string(case.input()).unwrap().contains("canary-") {
            let output = inject(&case, &case.input());
            assert!(!text(&output.stderr).contains("canary-"), "{}", case.name);
            assert!(!text(&output.stdout).contains("canary-"), "{}", case.name);
            canaries += 1;
        }
    }
    assert!(canaries > 0);
}

fn inject(case: &Case, manifest: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
    command
        .args(["inject", "--region=eu-west-1", "--filename"])
        .arg(manifest)
        // A refusal contains this path.
        .args(["--roles", "tests/golden/roles.yaml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(creator) = &case.creator {
        command.args(["--as", creator]);
    }
    if let Some(config) = &case.config {
        command.arg("--config").arg(config);
    }
    command.output().unwrap()
}

/// Returns the warnings about the pods, without the assumptions about their namespace.
fn warnings(output: &Output) -> String {
    let stderr = text(&output.stderr);
    let said = stderr.lines().filter(|line| !line.starts_with("assumed: "));
    said.map(|line| {
        if line.starts_with("warning: ") || line.starts_with("unchanged: ") {
            format!("# {line}\n")
        } else {
            format!("{line}\n")
        }
    })
    .collect()
}

fn write(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    path.to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "a test has no command line")]
fn is_update() -> bool {
    std::env::var("UPDATE").is_ok()
}
