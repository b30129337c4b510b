//! Writes the seed corpus of the fuzz targets: the goldens and the recorded reviews, each in the
//! format of its target. `cargo run --example seed DIRECTORY`

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a tool of the tests may fail loudly")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use fab_session_injector::manifest::{self, PodIn};
use serde_json::Value;

fn main() {
    let directory = PathBuf::from(std::env::args_os().nth(1).expect("seed DIRECTORY"));
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let of_target = directory.join(target);
        fs::create_dir_all(&of_target).unwrap();
        fs::write(of_target.join(name), bytes).unwrap();
    };
    for (name, text) in files("tests/reviews", ".json") {
        write("review", &name, text.as_bytes());
    }
    let (_, recorded) = files("tests/reviews", ".json").swap_remove(0);
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    for (name, text) in files("tests/golden", ".yaml") {
        write("manifest", &name, text.as_bytes());
        let objects = manifest::read(&text).unwrap();
        for PodIn { pod, .. } in objects.iter().flat_map(PodIn::find) {
            write("pod", &name, pod.to_string().as_bytes());
            let mut review = recorded.clone();
            review["request"]["object"] = pod;
            write("review", &name, review.to_string().as_bytes());
        }
        if name.ends_with(".config.yaml") || name == "roles.yaml" {
            write("config", &name, text.as_bytes());
        }
    }
    for (name, text) in files("charts/fab-session-injector", "values.yaml") {
        // The chart's key `config` is the program's config.
        let values: Value = manifest::read(&text).unwrap().remove(0);
        write("config", &name, manifest::write(&values["config"]).unwrap().as_bytes());
    }
    for (index, (noun, text)) in NOUNS.iter().enumerate() {
        write("nouns", &index.to_string(), &[&[*noun], text.as_bytes()].concat());
    }
}

/// Returns the files in the order of their names.
fn files(directory: &str, suffix: &str) -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(suffix) {
            found.push((name, fs::read_to_string(path).unwrap()));
        }
    }
    found.sort();
    found
}

/// An example of each type, by its byte in `targets/nouns.rs`.
const NOUNS: [(u8, &str); 16] = [
    (0, "arn:aws-us-gov:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker"),
    (1, "acme-0"),
    (2, "agent.acme.fab-coder-x7k2p"),
    (3, "900"),
    (4, "app,fab.nanohype.dev/component=dispatcher"),
    (5, "listening"),
    (6, "a*b*-x-*\nacb-bb-x-"),
    (7, "1500m"),
    (7, "eu-west-1"),
    (8, "/eks-agent-platform/prod/tenant-substrate/{tenant}/session_role_arn"),
    (9, "tenants-acme"),
    (10, "https://issuer.example.com/prod"),
    (11, "fab-session/prod"),
    (12, "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e"),
    (13, "acme\nada@example.com"),
    (13, "tenant-of-twenty-one\nfab-coder-x7k2p-fab-coder-x7k2p-fab-coder-x7k2p-fab-coder-x7k2p"),
];
