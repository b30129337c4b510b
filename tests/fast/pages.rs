//! Checks the pages that are generated from the code: docs/refusals.md and docs/cli.md. `UPDATE=1`
//! regenerates them; review the diff. Checks the values of docs/issuer.md, too.

mod cli;
mod guard;
mod issuer;
mod refusals;
mod sidecar;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use fab_session_injector::{
    admission::{BASE_CREDENTIALS, JAVA_OPTIONS, JAVA_PROPERTIES, STATIC_CREDENTIALS},
    config::Config,
};
use serde_json::{Value, json};

#[test]
fn the_refusals_page_is_generated_from_the_code() {
    is_as_generated("docs/refusals.md", &refusals::page());
}

#[test]
fn the_cli_page_is_generated_from_the_program() {
    is_as_generated("docs/cli.md", &cli::page());
}

#[test]
fn every_code_has_a_section_on_the_page() {
    let page = refusals::page();
    let least = [
        ("src/admission/refusal.rs", 29),
        ("src/credentials/assume_role_error.rs", 25),
        ("src/issuer/refusal.rs", 17),
    ];
    for (file, least) in least {
        let codes = codes(file);
        assert!(codes.len() >= least, "{file}: {codes:?}");
        for code in codes {
            assert!(
                page.contains(&format!("\n### `{code}`\n")),
                "{code} of {file} has no example in tests/fast/pages/refusals.rs"
            );
        }
    }
}

/// Some codes of the issuer are also codes of the webhook, so the section is read by itself.
#[test]
fn the_issuers_section_has_each_of_its_codes_and_no_other() {
    let page = fs::read_to_string(root("docs/refusals.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n## {}\n", refusals::ISSUER_HEADING)).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let listed: Vec<String> = section.lines().filter_map(heading).collect();
    assert_eq!(listed, codes("src/issuer/refusal.rs"));
}

/// The chart adds the two keys that its values do not need.
#[test]
fn the_values_of_the_issuer_page_are_a_valid_config() {
    let page = fs::read_to_string(root("docs/issuer.md")).unwrap();
    let fence = "<!-- parsed by tests/fast/pages.rs -->\n```yaml\n";
    let values = page.split_once(fence).unwrap().1.split("\n```").next().unwrap();
    let values: Value = serde_saphyr::from_str(values).unwrap();
    let mut config = values["config"].clone();
    config["issuer"]["endpoint"] = "https://issuer.fab-system.svc/v1/token".into();
    config["issuer"]["caFile"] = "ca.crt".into();
    let parsed = Config::parse(&config.to_string()).map_err(|problems| problems.to_string());
    let issuer = parsed.unwrap().issuer.unwrap();
    assert_eq!(issuer.client_id.to_string(), "fab-session/prod");
    // What the page says is required.
    config["roles"]["allow"]["accounts"] = json!([]);
    let problems = Config::parse(&config.to_string()).unwrap_err().to_string();
    assert!(problems.contains("roles.allow.accounts: is empty"), "{problems}");
}

#[test]
fn the_components_of_the_warm_pools_page_are_valid() {
    let values = |page: &str| -> Value {
        let page = fs::read_to_string(root(page)).unwrap();
        let fence = "<!-- parsed by tests/fast/pages.rs -->\n```yaml\n";
        let values = page.split_once(fence).unwrap().1.split("\n```").next().unwrap();
        serde_saphyr::from_str(values).unwrap()
    };
    let mut config = values("docs/issuer.md")["config"].clone();
    config["components"] = values("docs/warm-pools.md")["config"]["components"].clone();
    config["issuer"]["endpoint"] = "https://issuer.fab-system.svc/v1/token".into();
    config["issuer"]["caFile"] = "ca.crt".into();
    let parsed = Config::parse(&config.to_string()).map_err(|problems| problems.to_string());
    let parsed = parsed.unwrap();
    assert_eq!(parsed.claim_components().count(), 1);
    assert_eq!(parsed.components[0].name, "sandbox", "it is the first one");
    // What the page says is an error.
    config["sessionCreators"] = config["components"][0]["creators"].clone();
    let problems = Config::parse(&config.to_string()).unwrap_err().to_string();
    assert!(problems.contains("sessionCreators: matches"), "{problems}");
}

/// The list of docs/sidecar.md has each variable that the webhook refuses or removes for its
/// effect on SDKs, with the version and the file of an SDK.
#[test]
fn each_refused_variable_has_the_source_of_an_sdk() {
    let page = fs::read_to_string(root("docs/sidecar.md")).unwrap();
    let section = page.split("\n## ").find(|part| part.starts_with("Variables that take")).unwrap();
    let mut listed = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, names, sdk, file, _] = cells[..] else { panic!("{row}") };
        assert!(sdk.chars().any(|c| c.is_ascii_digit()), "no version: {row}");
        assert!(file.starts_with('`') && file.contains(['.', '/']), "no file: {row}");
        listed.extend(names.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    let refused = STATIC_CREDENTIALS.iter().chain(&JAVA_PROPERTIES).chain(&BASE_CREDENTIALS);
    let variant = "aws.containerAuthorizationTokenFile".to_owned();
    let refused: BTreeSet<String> =
        refused.map(|name| (*name).to_owned()).chain([variant]).collect();
    assert_eq!(listed, refused);
    for name in JAVA_OPTIONS {
        assert!(section.contains(&format!("`{name}`")), "{name} is not in docs/sidecar.md");
    }
}

#[test]
fn other_pages_list_every_code_too() {
    let page = refusals::page();
    let denials = guard::denials().into_iter().map(|denial| denial.code);
    for code in FILES.into_iter().flat_map(codes).chain(denials) {
        let row = format!("\n| [`{code}`](#{code}) |");
        assert!(page.contains(&row), "{code} is not in the index of docs/refusals.md");
    }
    for code in refusals::codes() {
        let heading = format!("\n### `{code}`\n");
        assert!(page.contains(&heading), "{code} has a meaning, but there is no such code");
    }
    let sidecar = fs::read_to_string(root("docs/sidecar.md")).unwrap();
    for code in codes("src/credentials/assume_role_error.rs") {
        assert!(sidecar.contains(&format!("\n| `{code}` |")), "{code} is not in docs/sidecar.md");
    }
    let rules = fs::read_to_string(root("docs/guard.md")).unwrap();
    for guard::Denial { code, .. } in guard::denials() {
        assert!(rules.contains(&format!("`{code}`")), "{code} is not in docs/guard.md");
    }
}

#[test]
fn the_refusals_page_has_each_code_and_no_other() {
    let page = fs::read_to_string(root("docs/refusals.md")).unwrap();
    let listed: BTreeSet<String> = page.lines().filter_map(heading).collect();
    let guarded = guard::denials().into_iter().map(|denial| denial.code);
    let existing: BTreeSet<String> =
        FILES.into_iter().flat_map(codes).chain(guarded).chain(refusals::request_codes()).collect();
    assert_eq!(listed, existing);
}

fn is_as_generated(page: &str, generated: &str) {
    if is_update() {
        fs::write(root(page), generated).unwrap();
    }
    let found = fs::read_to_string(root(page)).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(&*found, generated);
    assert!(
        found == generated,
        "{page} is out of date; UPDATE=1 regenerates it\n{}",
        diff.unified_diff().header("found", "generated")
    );
}

/// Returns the code of a heading.
fn heading(line: &str) -> Option<String> {
    Some(line.strip_prefix("### `")?.strip_suffix('`')?.to_owned())
}

/// The files with codes, except those of requests to the sidecar and of the guard.
const FILES: [&str; 3] =
    ["src/admission/refusal.rs", "src/credentials/assume_role_error.rs", "src/issuer/refusal.rs"];

/// Returns every string in the body of the function `code` of a file.
fn codes(file: &str) -> Vec<String> {
    let source = fs::read_to_string(root(file)).unwrap();
    let body = source.split("pub fn code(&self)").nth(1).unwrap();
    let body = body.split("\n    }\n").next().unwrap();
    let mut codes: Vec<String> = body.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    codes.sort();
    codes
}

/// Returns the text in lines of at most 120 characters, as far as its words allow.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= 120 {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[allow(clippy::disallowed_methods, reason = "a test has no command line")]
fn is_update() -> bool {
    std::env::var("UPDATE").is_ok()
}
