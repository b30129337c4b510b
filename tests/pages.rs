//! Pages that are written from the code: docs/refusals.md and docs/cli.md. `UPDATE=1` writes them
//! anew; the diff is the review.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "pages/cli.rs"]
mod cli;
#[path = "pages/guard.rs"]
mod guard;
#[path = "pages/refusals.rs"]
mod refusals;

use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn the_page_of_refusals_is_what_the_code_says() {
    is_as_generated("docs/refusals.md", &refusals::page());
}

#[test]
fn the_page_of_the_command_line_is_what_the_program_takes() {
    is_as_generated("docs/cli.md", &cli::page());
}

#[test]
fn every_code_has_its_place_on_the_page() {
    let page = refusals::page();
    for (file, least) in [("src/admission/refusal.rs", 27), ("src/credentials/failure.rs", 18)] {
        let codes = codes(file);
        assert!(codes.len() >= least, "{file}: {codes:?}");
        for code in codes {
            assert!(
                page.contains(&format!("\n### `{code}`\n")),
                "{code} of {file} has no example in tests/pages/refusals.rs"
            );
        }
    }
}

#[test]
fn the_short_lists_have_every_code_as_well() {
    let lists = [
        ("src/admission/refusal.rs", "README.md"),
        ("src/credentials/failure.rs", "docs/sidecar.md"),
    ];
    for (file, page) in lists {
        let text = fs::read_to_string(root(page)).unwrap();
        for code in codes(file) {
            assert!(text.contains(&format!("\n| `{code}` |")), "{code} is not in {page}");
        }
    }
    let text = fs::read_to_string(root("docs/guard.md")).unwrap();
    for denial in guard::denials() {
        assert!(text.contains(&format!("`{}`", denial.code)), "{} is not there", denial.code);
    }
}

fn is_as_generated(page: &str, generated: &str) {
    if is_update() {
        fs::write(root(page), generated).unwrap();
    }
    let found = fs::read_to_string(root(page)).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(&*found, generated);
    assert!(
        found == generated,
        "{page} is another; UPDATE=1 writes it anew\n{}",
        diff.unified_diff().header("found", "generated")
    );
}

/// What the function `code` of a file gives: every text in its body.
fn codes(file: &str) -> Vec<String> {
    let source = fs::read_to_string(root(file)).unwrap();
    let body = source.split("pub fn code(&self)").nth(1).unwrap();
    let body = body.split("\n    }\n").next().unwrap();
    let mut codes: Vec<String> = body.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    codes.sort();
    codes
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[allow(clippy::disallowed_methods, reason = "a test has no command line")]
fn is_update() -> bool {
    std::env::var("UPDATE").is_ok()
}
