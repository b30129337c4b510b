//! Foreign text in outputs: no output, log line or response contains a character that a terminal
//! executes, and each JSON keeps its value.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fab-session-injector");

/// A name with DEL, C1 controls, bidirectional marks and ESC.
const NAME: &str =
    "n\u{7f}\u{80}\u{9b}31m\u{9f}\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\u{1b}[2Jn";

#[test]
fn no_output_has_a_terminal_command() {
    let directory = tempfile::tempdir().unwrap();
    // YAML allows DEL and C1 only as escapes.
    let file = |name: &str, text: &str| {
        fs::write(directory.path().join(name), in_ascii(text)).unwrap();
    };
    file("roles.yaml", "roles: {acme: 'arn:aws:iam::111122223333:role/r'}\n");
    file("fine.json", &pod(NAME, json!([{"name": "agent", "image": NAME}])).to_string());
    let keyed = json!([{"name": "agent", "image": "i", NAME: NAME}]);
    file("keyed.json", &pod(NAME, keyed).to_string());
    let sets = json!([{"name": NAME, "env": [{"name": "AWS_PROFILE", "value": NAME}]}]);
    file("refused.json", &pod(NAME, sets).to_string());
    let warned = json!([{"name": NAME, "envFrom": [{"configMapRef": {"name": NAME}}]}]);
    file("warned.json", &pod("a", warned).to_string());
    let mut mounts = pod("a", json!([{"name": "a"}]));
    mounts["metadata"]["labels"] = json!({"fab.nanohype.dev/component": NAME});
    file("label.json", &mounts.to_string());
    fs::write(directory.path().join("broken.json"), format!("{{\"{NAME}\": ")).unwrap();
    let inject = |file| vec!["inject", "-f", file, "--roles=roles.yaml", "--region=eu-west-1"];
    let explain = |file| vec!["explain", "-f", file, "--roles=roles.yaml"];
    let iam = || {
        let roles = [
            "--base-role=arn:aws:iam::111122223333:role/b",
            "--session-role=arn:aws:iam::111122223333:role/s",
        ];
        [&["iam", "--tenant=acme", "--cluster=a\u{202e}"], &roles[..]].concat()
    };
    let with = |mut arguments: Vec<&'static str>, more: &[&'static str]| {
        arguments.extend(more);
        arguments
    };
    // The commands, and how and where each prints the name.
    let cases: Vec<(Vec<&str>, i32, How)> = vec![
        (inject("fine.json"), 0, How::Yaml),
        (inject("keyed.json"), 0, How::Yaml),
        (with(inject("fine.json"), &["--diff"]), 0, How::Text),
        (with(inject("fine.json"), &["--patch"]), 0, How::Json),
        (inject("refused.json"), 1, How::Said),
        (inject("warned.json"), 0, How::Said),
        (inject("label.json"), 1, How::Said),
        (inject("broken.json"), 2, How::Nothing),
        (explain("fine.json"), 0, How::Text),
        (with(explain("fine.json"), &["-o", "json"]), 0, How::Json),
        (with(explain("refused.json"), &["-o", "json"]), 1, How::Json),
        (with(explain("warned.json"), &["-o", "json"]), 0, How::Json),
        (with(explain("label.json"), &["-o", "json"]), 1, How::Json),
        (explain("label.json"), 1, How::Text),
        (with(explain("fine.json"), &["-o", "json", "--as", NAME]), 0, How::Json),
        (with(explain("fine.json"), &["--as", NAME]), 0, How::Text),
        // The name of an SSM parameter cannot have such characters.
        (iam(), 2, How::Said),
    ];
    for (arguments, code, how) in cases {
        let Output { status, stdout, stderr } = run(&arguments, directory.path());
        let (stdout, stderr) = (text(stdout), text(stderr));
        assert_eq!(status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
        for printed in [&stdout, &stderr] {
            let raw = printed.chars().find(|&c| is_command(c));
            assert_eq!(raw, None, "{arguments:?}: {printed:?}");
        }
        let escaped = |text: &str| text.contains("202e") || text.contains("202E");
        match how {
            How::Json => assert!(has_name(&serde_json::from_str(&stdout).unwrap()), "{stdout}"),
            How::Nothing => {}
            How::Said => assert!(escaped(&stderr), "{arguments:?}: {stderr}"),
            How::Text => assert!(escaped(&stdout), "{arguments:?}: {stdout}"),
            How::Yaml => {
                assert!(has_name(&serde_saphyr::from_str(&stdout).unwrap()), "{stdout}");
            }
        }
    }
}

enum How {
    /// JSON with the name as a value.
    Json,
    Nothing,
    /// Escaped, on standard error.
    Said,
    Text,
    Yaml,
}

fn in_ascii(json: &str) -> String {
    let escaped = |c: char| {
        if matches!(c, '\n' | ' '..='~') {
            c.to_string()
        } else {
            format!("\\u{:04x}", u32::from(c))
        }
    };
    json.chars().map(escaped).collect()
}

fn pod(name: &str, containers: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "tenants-acme"},
        "spec": {"serviceAccountName": "tenant-runtime", "containers": containers},
    })
}

/// Returns whether a string or a key contains the whole name.
fn has_name(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_name),
        Value::Object(entries) => {
            entries.iter().any(|(key, entry)| key.contains(NAME) || has_name(entry))
        }
        Value::String(text) => text.contains(NAME) || text.contains("\\u{202e}"),
        _ => false,
    }
}

/// Returns whether a terminal executes the character (bidirectional algorithm, ECMA-48). The end of
/// a line is excluded.
fn is_command(c: char) -> bool {
    let is_mark = matches!(c as u32, 0x61c | 0x200e | 0x200f | 0x202a..=0x202e | 0x2066..=0x2069);
    is_mark || (c.is_control() && c != '\n')
}

fn run(arguments: &[&str], directory: &Path) -> Output {
    Command::new(PROGRAM).args(arguments).current_dir(directory).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
