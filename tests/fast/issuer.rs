//! `issuer export` with keys in files. `tests/cluster/issuer.rs` has keys in KMS, and verifiers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use fab_session_injector::issuer::PublicKey;
use serde_json::{Value, json};
use tempfile::TempDir;

const URL: &str = "https://issuer.example.com/prod";

/// A directory with a config and its keys.
struct Issuer {
    directory: TempDir,
    keys: Vec<PublicKey>,
}

impl Issuer {
    /// Creates a key for each state.
    fn with_keys(states: &[&str]) -> Self {
        let mut issuer = Self { directory: tempfile::tempdir().unwrap(), keys: Vec::new() };
        let mut entries = String::new();
        for (index, state) in states.iter().enumerate() {
            let pkcs8 = pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING);
            issuer.keys.push(PublicKey::of_private_key(&pkcs8).unwrap());
            let name = format!("{index}.pem");
            issuer.write(&name, &pem("PRIVATE KEY", &pkcs8));
            let file = issuer.path(&name).display().to_string();
            entries += &format!("    - {{file: {file}, state: {state}}}\n");
        }
        issuer.configure(URL, &entries);
        issuer
    }

    fn configure(&self, url: &str, keys: &str) {
        self.write(
            "config.yaml",
            &format!(
                "cluster: prod
roles: {{ssm: {{}}, allow: {{accounts: ['111122223333']}}}}
issuer:
  url: {url}
  endpoint: https://injector-issuer.fab-system.svc/v1/token
  caFile: ca.crt
  keys:
{keys}"
            ),
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn out(&self) -> PathBuf {
        self.path("published")
    }

    fn run(&self) -> Output {
        self.run_to(&self.out())
    }

    fn run_to(&self, out: &Path) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(["issuer", "export", "--config"])
            .arg(self.path("config.yaml"))
            .arg("--out")
            .arg(out)
            .output()
            .unwrap()
    }

    /// Runs it; returns what it says on failure.
    fn fails(&self) -> String {
        let output = self.run();
        let said = text(&output.stderr).to_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(text(&output.stdout), "");
        said
    }

    /// Runs it; returns what it prints.
    fn exports(&self) -> String {
        let output = self.run();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    }

    fn published(&self, file: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.out().join(file)).unwrap()).unwrap()
    }

    fn kids(&self) -> Vec<String> {
        let keys = self.published("keys.json");
        let keys = keys["keys"].as_array().unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }
}

fn pkcs8(algorithm: &'static EcdsaSigningAlgorithm) -> Vec<u8> {
    EcdsaKeyPair::generate(algorithm).unwrap().to_pkcs8v1().unwrap().as_ref().to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Returns the names of all files below the directory.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(files(&path).iter().map(|inner| format!("{name}/{inner}"))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

#[test]
fn the_two_files_have_issuer_and_public_keys() {
    let issuer = Issuer::with_keys(&["old", "signing", "next"]);
    let said = issuer.exports();
    assert_eq!(files(&issuer.out()), [".well-known/openid-configuration", "keys.json"]);
    let discovery = issuer.published(".well-known/openid-configuration");
    assert_eq!(discovery["issuer"], URL);
    assert_eq!(discovery["jwks_uri"], format!("{URL}/keys.json"));
    assert_eq!(discovery["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let ids: Vec<String> = issuer.keys.iter().map(|key| key.id().to_string()).collect();
    assert_eq!(issuer.kids(), ids);
    for key in issuer.published("keys.json")["keys"].as_array().unwrap() {
        let members: Vec<&String> = key.as_object().unwrap().keys().collect();
        assert_eq!(members, ["kty", "crv", "x", "y", "use", "alg", "kid"]);
    }
    let out = issuer.out().display().to_string();
    let wanted = [
        format!("Keys of the issuer {URL}:"),
        format!("{}  old      {}", ids[0], issuer.path("0.pem").display()),
        format!("{}  signing  {}", ids[1], issuer.path("1.pem").display()),
        format!("1. {out}/keys.json to {URL}/keys.json"),
        format!(
            "2. {out}/.well-known/openid-configuration to {URL}/.well-known/openid-configuration"
        ),
    ];
    for part in wanted {
        assert!(said.contains(&part), "{part}\n{said}");
    }
    assert!(!said.contains("PRIVATE KEY"));
    for (only, file) in [("keys", "keys.json"), ("discovery", ".well-known/openid-configuration")] {
        let output = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(["issuer", "export", "--only", only, "--config"])
            .arg(issuer.path("config.yaml"))
            .output()
            .unwrap();
        assert_eq!(output.stdout, fs::read(issuer.out().join(file)).unwrap(), "{only}");
    }
}

#[test]
fn a_rotation_replaces_the_keys_in_the_same_directory() {
    let issuer = Issuer::with_keys(&["signing", "next"]);
    issuer.exports();
    let before = issuer.kids();
    let entry = |index: u8, state: &str| {
        format!(
            "    - {{file: {}, state: {state}}}\n",
            issuer.path(&format!("{index}.pem")).display()
        )
    };
    issuer.configure(URL, &[entry(1, "signing"), entry(0, "old")].concat());
    issuer.exports();
    assert_eq!(issuer.kids(), [before[1].clone(), before[0].clone()]);
    issuer.configure(URL, &entry(1, "signing"));
    issuer.exports();
    assert_eq!(issuer.kids(), [before[1].clone()]);
    assert_eq!(files(&issuer.out()), [".well-known/openid-configuration", "keys.json"]);
}

/// A directory with a part of the keys, if it is uploaded, ends the sessions of the others.
#[test]
fn one_key_that_cannot_be_loaded_changes_no_file() {
    let issuer = Issuer::with_keys(&["signing", "next"]);
    issuer.exports();
    let before = issuer.kids();
    let good = pem("PRIVATE KEY", &pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING));
    let other_curve = pem("PRIVATE KEY", &pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING));
    let same = fs::read_to_string(issuer.path("0.pem")).unwrap();
    let file = issuer.path("1.pem").display().to_string();
    for (content, wanted) in [
        (None, ["issuer.keys[1]", &file, "No such file"]),
        (Some(""), ["issuer.keys[1]", &file, "openssl genpkey -algorithm EC"]),
        (
            Some(&good.replace("PRIVATE", "EC PRIVATE")),
            ["issuer.keys[1]", &file, "openssl pkcs8 -topk8"],
        ),
        (
            Some(&good.replace("PRIVATE", "ENCRYPTED PRIVATE")),
            ["issuer.keys[1]", &file, "openssl pkcs8 -topk8"],
        ),
        (Some(&pem("PRIVATE KEY", b"x")), ["issuer.keys[1]", &file, "PKCS#8; create one"]),
        (Some(&other_curve), ["issuer.keys[1]", &file, "of the curve P-256"]),
        (Some(&same), ["issuer.keys[1]", "the same key as issuer.keys[0]", "remove one"]),
    ] {
        match content {
            None => fs::remove_file(issuer.path("1.pem")).unwrap(),
            Some(content) => issuer.write("1.pem", content),
        }
        let said = issuer.fails();
        assert!(wanted.iter().all(|part| said.contains(part)), "{wanted:?}: {said}");
        // No part of a key reaches the terminal.
        assert!(
            !content.unwrap_or_default().lines().any(|line| line.len() > 60 && said.contains(line))
        );
        assert_eq!(issuer.kids(), before);
        assert_eq!(files(&issuer.out()), [".well-known/openid-configuration", "keys.json"]);
    }
}

#[test]
fn the_directory_of_another_issuer_stays_unchanged() {
    let issuer = Issuer::with_keys(&["signing"]);
    issuer.exports();
    let keys = fs::read_to_string(issuer.out().join("keys.json")).unwrap();
    let entry = format!("    - {{file: {}, state: signing}}\n", issuer.path("0.pem").display());
    issuer.configure("https://issuer.example.com/test", &entry);
    let said = issuer.fails();
    assert!(said.contains(&format!("is of the issuer {URL}; choose another --out")), "{said}");
    for (content, wanted) in [("x", "is not JSON"), ("{}", "names no issuer")] {
        issuer.write("published/.well-known/openid-configuration", content);
        let said = issuer.fails();
        assert!(said.contains(wanted) && said.contains("remove it"), "{said}");
    }
    assert_eq!(fs::read_to_string(issuer.out().join("keys.json")).unwrap(), keys);
}

#[test]
fn an_output_directory_that_cannot_be_written_is_named() {
    let issuer = Issuer::with_keys(&["signing"]);
    issuer.write("file", "");
    let output = issuer.run_to(&issuer.path("file"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot create directory") && said.contains("/file"), "{said}");
    // The last step fails: no file is left beside the old ones.
    fs::create_dir_all(issuer.out().join("keys.json/x")).unwrap();
    let said = issuer.fails();
    assert!(said.contains("cannot replace") && said.contains("keys.json"), "{said}");
    assert_eq!(files(&issuer.out()), [".well-known/openid-configuration"]);
}

#[test]
fn a_config_without_an_issuer_is_refused() {
    let issuer = Issuer::with_keys(&["signing"]);
    issuer.write("config.yaml", "cluster: prod\n");
    let said = issuer.fails();
    assert!(said.contains("the config has no section issuer; set it"), "{said}");
    assert!(!issuer.out().exists());
}
