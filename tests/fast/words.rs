//! Text and names are in plain words: none of those in `words/refused.txt` is in a Markdown page, the
//! chart, the comments and strings of `src`, or the name of a test.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use syn::visit::Visit;

/// A word in lower case with its line, counted from 1; or, as an empty word, the end of a text.
type Word = (String, usize);

#[test]
fn no_text_has_a_refused_word() {
    let list = Refused::read();
    let mut wrong = String::new();
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        for (phrase, line, instead) in list.found(&words(&file, &text)) {
            let name = file.strip_prefix(root()).unwrap().display();
            writeln!(wrong, "{name}:{line}: {phrase:?}: write {instead}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_refused_word_is_found_in_each_kind_of_text() {
    let list = Refused::read();
    let planted = [
        ("src/a.rs", "/// It is made\n/// anew.\nfn f() {}", Some(2)),
        ("src/a.rs", "//! The Secret is looked\n//! at.", Some(1)),
        ("src/a.rs", "fn f() {\n    g(\"cannot mend {it}\");\n}", Some(2)),
        ("src/a.rs", "const A: &str = r#\"Whoever \"reads\" it\"#;", Some(1)),
        ("src/a.rs", "fn f() { let c = '\"'; } // nobody", Some(1)),
        ("src/a.rs", "fn nobody() {}", None),
        ("src/a.rs", "/// Runs as `nobody`.", None),
        ("src/a.rs", "#[test]\nfn it_is_mended() {}", Some(2)),
        ("src/a.rs", "f(\"the pod is let\", \"in\")", None),
        ("docs/a.md", "The pod is let\nin.", Some(1)),
        ("docs/a.md", "The pod is let `x` in.", None),
        ("docs/a.md", "| a | Goes before |", Some(1)),
        ("tests/a.rs", "//! Head anew.\n// Line anew.\nfn f() { g(\"anew\") }", Some(1)),
        ("tests/a.rs", "#[tokio::test]\nasync fn nobody_gets_in() {}", Some(2)),
        ("chart/values.yaml", "a: 1 # whoever", Some(1)),
    ];
    for (file, text, want) in planted {
        let found = list.found(&words(Path::new(file), text));
        let lines: Vec<usize> = found.iter().map(|(_, line, _)| *line).collect();
        assert_eq!(lines, Vec::from_iter(want), "{file}: {text}");
    }
}

#[test]
fn the_name_of_a_test_has_at_most_60_characters() {
    let mut wrong = String::new();
    for file in files().into_iter().filter(|file| is(file, "rs")) {
        for (name, line) in test_names(&fs::read_to_string(&file).unwrap()) {
            if name.len() > 60 {
                writeln!(wrong, "{}:{line}: {name}", file.display()).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_tests_that_a_page_names_exist() {
    let mut wrong = String::new();
    for file in files().into_iter().filter(|file| is(file, "md")) {
        let text = fs::read_to_string(&file).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "./_-".contains(c)));
        let is_test = |word: &&str| word.starts_with("tests/") && word.ends_with(".rs");
        // Capitals stand for any name.
        let is_name = |word: &&str| !word.contains(|c: char| c.is_ascii_uppercase());
        for path in words.filter(is_test).filter(is_name) {
            if !root().join(path).exists() {
                writeln!(wrong, "{}: {path}", file.display()).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A terminal shows a line of prose without wrapping it, and README is read on one page. Quotes are
/// messages as they are printed, and a link cannot be wrapped.
#[test]
fn lines_of_prose_have_at_most_120_characters() {
    let mut wrong = String::new();
    for file in files().into_iter().filter(|file| is(file, "md")) {
        let text = fs::read_to_string(&file).unwrap();
        let mut is_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            is_code ^= line.trim_start().starts_with("```");
            let is_prose = !is_code && !line.starts_with(['|', '!', '<', '>']);
            let is_link = line.split(' ').any(|word| word.contains("](http") && word.len() > 80);
            if is_prose && !is_link && line.chars().count() > 120 {
                writeln!(wrong, "{}:{number}", file.display()).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 110, "README.md has {} lines", readme.lines().count());
}

struct Refused(Vec<(Vec<String>, String)>);

impl Refused {
    fn read() -> Self {
        let text = fs::read_to_string(root().join("tests/fast/words/refused.txt")).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries = lines.map(|line| {
            let (phrase, instead) = line.split_once(" = ").unwrap();
            (phrase.split(' ').map(str::to_owned).collect(), instead.to_owned())
        });
        Self(entries.collect())
    }

    fn found(&self, words: &[Word]) -> Vec<(String, usize, &str)> {
        let mut found = Vec::new();
        for (at, (_, line)) in words.iter().enumerate() {
            for (phrase, instead) in &self.0 {
                let here = words[at..].iter().map(|(word, _)| word);
                if words.len() - at >= phrase.len() && phrase.iter().eq(here.take(phrase.len())) {
                    found.push((phrase.join(" "), *line, &**instead));
                }
            }
        }
        found
    }
}

/// The words of a file's texts.
fn words(file: &Path, text: &str) -> Vec<Word> {
    if !is(file, "rs") {
        return split(text, 1);
    }
    let mut words = Vec::new();
    let only_heads = !file.strip_prefix(root()).unwrap_or(file).starts_with("src");
    let mut previous = 0;
    for Text { line, text, is_comment } in texts(text) {
        if only_heads && !(is_comment && text.starts_with(['!', '/'])) {
            continue;
        }
        // A comment goes on in the next line.
        if !is_comment || previous + 1 != line {
            words.push((String::new(), line));
        }
        previous = if is_comment { line } else { 0 };
        words.extend(split(&text, line));
    }
    for (name, line) in test_names(text) {
        words.push((String::new(), line));
        words.extend(name.split('_').map(|word| (word.to_owned(), line)));
    }
    words
}

/// A comment without its first two slashes, or the text of a string.
struct Text {
    line: usize,
    text: String,
    is_comment: bool,
}

/// The comments and strings of a Rust file.
fn texts(source: &str) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        let line = source[..source.len() - rest.len() + at].matches('\n').count() + 1;
        let (before, here) = rest.split_at(at);
        let hashes = before.len() - before.trim_end_matches('#').len();
        let is_raw = before[..before.len() - hashes].ends_with('r');
        let (text, length, is_comment) = if let Some(comment) = here.strip_prefix("//") {
            let end = comment.find('\n').unwrap_or(comment.len());
            (Some(&comment[..end]), 2 + end, true)
        } else if here.starts_with('"') && is_raw {
            let end = here[1..].find(&format!("\"{}", "#".repeat(hashes))).unwrap();
            (Some(&here[1..=end]), end + 2 + hashes, false)
        } else if let Some(string) = here.strip_prefix('"') {
            let mut is_escaped = false;
            let end = string.find(|found| {
                let is_end = found == '"' && !is_escaped;
                is_escaped = found == '\\' && !is_escaped;
                is_end
            });
            let end = end.unwrap();
            (Some(&string[..end]), end + 2, false)
        } else if here.starts_with("'\\") {
            (None, here[3..].find('\'').unwrap() + 4, false)
        } else if here.starts_with('\'') && here.chars().nth(2) == Some('\'') {
            (None, 2 + here.chars().nth(1).unwrap().len_utf8(), false)
        } else {
            (None, 1, false)
        };
        texts.extend(text.map(|text| Text { line, text: text.to_owned(), is_comment }));
        rest = &here[length..];
    }
    texts
}

/// Words of letters and digits; a code span and other signs end a phrase.
fn split(text: &str, first: usize) -> Vec<Word> {
    let mut words = Vec::new();
    let mut is_code = false;
    for (line, text) in (first..).zip(text.split('\n')) {
        let text = text.trim_start_matches(['/', '!', '#', '>', ' ', '\t']);
        let is_fence = text.starts_with("```");
        for (number, part) in text.split('`').enumerate() {
            if number > 0 && !is_fence {
                is_code = !is_code;
                words.push((String::new(), line));
            }
            if is_code {
                continue;
            }
            for word in part.split_whitespace() {
                let bare = word.trim_matches(|sign: char| !sign.is_alphanumeric());
                words.push((bare.to_lowercase(), line));
                if word.ends_with([',', '.', ';', ':', '!', '?', ')']) {
                    words.push((String::new(), line));
                }
            }
        }
        // A code span does not go beyond a paragraph.
        is_code &= !text.is_empty();
    }
    words
}

fn test_names(source: &str) -> Vec<(String, usize)> {
    struct Names<'s>(&'s str, Vec<(String, usize)>);
    impl Visit<'_> for Names<'_> {
        fn visit_item_fn(&mut self, function: &syn::ItemFn) {
            let is_test = |it: &syn::Attribute| {
                it.path().segments.last().is_some_and(|last| last.ident == "test")
            };
            if function.attrs.iter().any(is_test) {
                let name = function.sig.ident.to_string();
                let line = self.0.lines().position(|line| line.contains(&format!("fn {name}(")));
                self.1.push((name, line.map_or(0, |line| line + 1)));
            }
        }
    }
    let mut names = Names(source, Vec::new());
    if let Ok(file) = syn::parse_file(source) {
        names.visit_file(&file);
    }
    names.1
}

fn files() -> Vec<PathBuf> {
    let pages = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];
    let mut files: Vec<PathBuf> = pages.map(|it| root().join(it)).into();
    for directory in ["benches", "charts", "docs", "examples", "fuzz", "image", "src", "tests"] {
        add(&root().join(directory), &mut files);
    }
    files
}

fn add(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_chart = path.starts_with(root().join("charts"));
        let kinds: &[&str] =
            if is_chart { &["json", "md", "tpl", "txt", "yaml"] } else { &["md", "rs"] };
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("node_modules") {
                add(&path, files);
            }
        } else if kinds.iter().any(|kind| is(&path, kind)) {
            files.push(path);
        }
    }
}

fn is(file: &Path, kind: &str) -> bool {
    file.extension().is_some_and(|extension| extension == kind)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
