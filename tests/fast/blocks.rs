//! Runs each command block of README.md and docs/. A comment above a block can name the test that
//! runs it instead, or the reason why it is not run.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Write, stderr},
    path::{Path, PathBuf},
    process::Command,
};

/// A block of a page, and the comment above it.
struct Block {
    /// `docs/pilot.md:23`
    place: String,
    text: String,
    fate: Fate,
}

enum Fate {
    /// Run here, after the preceding blocks, in a directory for the page.
    Run,
    RunBy(String),
    NotRun(String),
}

#[test]
fn every_block_of_the_pages_runs_or_has_a_reason() {
    let pages = pages();
    let (mut run_here, mut run_by, mut not_run) = (0, BTreeMap::new(), Vec::new());
    for page in &pages {
        let directory = tempfile::tempdir().unwrap();
        for Block { place, text, fate } in blocks(page) {
            match fate {
                Fate::Run => {
                    run(&place, &text, directory.path());
                    run_here += 1;
                }
                Fate::RunBy(file) => {
                    assert!(runs(&file, page, &text), "{place}: {file} does not run this");
                    *run_by.entry(file).or_insert(0) += 1;
                }
                Fate::NotRun(reason) => {
                    assert!(reason.split_whitespace().count() > 2, "{place}: why? {reason:?}");
                    not_run.push(format!("{place}: {reason}"));
                }
            }
        }
    }
    assert!(run_here >= 8, "{run_here} blocks are run");
    let by: Vec<String> = run_by.iter().map(|(file, count)| format!("{count} by {file}")).collect();
    // Not captured, so that a successful run shows it too.
    let _ = writeln!(
        stderr(),
        "{} pages: {run_here} blocks run here; {}; {} not run:\n  {}",
        pages.len(),
        by.join(", "),
        not_run.len(),
        not_run.join("\n  "),
    );
}

#[test]
fn a_comment_above_a_block_decides_whether_it_runs() {
    let text = "a\n\n```sh\ntrue\n```\n<!-- not run: takes a moon -->\n```sh\nfly\n```\n<!-- run by tests/x.rs -->\n```sh\nx\n```\n```yaml\na: 1\n```\n";
    let found = read("p.md", text);
    assert_eq!(found.len(), 3);
    assert!(matches!(&found[0].fate, Fate::Run) && found[0].text == "true\n");
    assert!(matches!(&found[1].fate, Fate::NotRun(reason) if reason == "takes a moon"));
    assert!(matches!(&found[2].fate, Fate::RunBy(file) if file == "tests/x.rs"));
    assert_eq!(found[1].place, "p.md:7");
}

fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    let mut directories = vec![PathBuf::from("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root().join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    pages.sort();
    assert!(pages.len() >= 10, "{pages:?}");
    pages
}

fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    // Only one name of the language, so that no block is missed.
    for other in ["```bash", "```console", "```shell", "~~~"] {
        assert!(!text.contains(other), "{page}: {other} is written ```sh");
    }
    read(page, &text)
}

fn read(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut above = "";
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line.trim_start() == "```sh" {
            let text = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim_start() != "```")
                .map(|line| format!("{line}\n"))
                .collect();
            let comment = above.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
            let said =
                |key| comment.and_then(|comment| comment.strip_prefix(key)).map(str::to_owned);
            let fate = match (said("run by "), said("not run: ")) {
                (Some(file), _) => Fate::RunBy(file),
                (None, Some(reason)) => Fate::NotRun(reason),
                (None, None) => Fate::Run,
            };
            blocks.push(Block { place: format!("{page}:{}", index + 1), text, fate });
        }
        above = line.trim();
    }
    blocks
}

#[allow(clippy::disallowed_methods, reason = "where the other programs of the pages are")]
fn run(place: &str, text: &str, directory: &Path) {
    let program = Path::new(env!("CARGO_BIN_EXE_fab-session-injector")).parent().unwrap();
    let path = env::var("PATH").unwrap();
    let output = Command::new("sh")
        .args(["-eu", "-c", text])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", program.display()))
        .env("HOME", directory)
        // No cluster.
        .env("KUBECONFIG", "/dev/null")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{place}: {}\n{text}{said}", output.status);
}

/// Returns whether `file` runs the block: a test that reads the page, or a target of CI.
fn runs(file: &str, page: &str, block: &str) -> bool {
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    if file != ".ci/run" {
        return text.contains(page);
    }
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let is_made = |target: &str| {
        let by_ci =
            |target: &str| text.lines().any(|line| line.starts_with(&format!("make {target}")));
        let for_another = makefile.lines().any(|line| {
            line.split_once(": ").is_some_and(|(other, needs)| {
                by_ci(other) && needs.split_whitespace().any(|need| need == target)
            })
        });
        by_ci(target) || for_another
    };
    block.lines().all(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("make") && words.next().is_some_and(is_made)
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
