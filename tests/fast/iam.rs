//! Tests the flags of `iam`. `tests/cluster/iam.rs` tests its documents in the AWS stand-in.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

fn iam(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["iam", "--tenant=acme", "--base-role=arn:aws:iam::111122223333:role/base"])
        .arg("--session-role=arn:aws:iam::111122223333:role/session")
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The static role file names the role, so there is no parameter to publish.
#[test]
fn static_roles_need_no_documents_about_a_parameter() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    fs::write(&config, "cluster: prod\nroles: {file: roles.yaml}\n").unwrap();
    let config = format!("--config={}", config.display());
    let names = |arguments: &[&str]| -> Vec<String> {
        let output = iam(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        documents.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let of_parameter = ["parameter", "webhook-policy"];
    let all = names(&["--cluster=prod"]);
    assert!(of_parameter.iter().all(|name| all.iter().any(|it| it == name)), "{all:?}");
    let others: Vec<String> =
        all.into_iter().filter(|name| !of_parameter.contains(&&**name)).collect();
    assert_eq!(names(&[&config]), others);

    let output = iam(&[&config, "-o", "terraform", "--region=eu-west-1"]);
    let modules = text(&output.stdout);
    assert!(modules.contains("parameter         = null\n"), "{modules}{}", text(&output.stderr));
    assert!(!modules.contains("//terraform/webhook"), "{modules}");
    assert!(text(&output.stderr).contains("parameter and webhook-policy are left out: the config"));
    assert!(text(&output.stderr).contains("staticRoles"));
    for only in of_parameter {
        let output = iam(&[&config, "--only", only]);
        assert_eq!(output.status.code(), Some(2));
        let want = format!("error: --only {only}: the config has no roles.ssm");
        assert!(text(&output.stderr).starts_with(&want), "{}", text(&output.stderr));
    }
    assert!(iam(&[&config, "--only=session-role-trust"]).status.success());
}

#[test]
fn one_document_is_no_terraform_file() {
    let output = iam(&["--cluster=prod", "--only=parameter", "-o", "terraform"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("leave out -o terraform"), "{}", text(&output.stderr));
}

/// It is read where the document is applied.
#[test]
fn each_document_says_what_it_can_stop() {
    let output = iam(&["--cluster=prod", "--deny-without-source-identity"]);
    let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (name, want) in [
        ("session-role-trust", "a principal that it does not name cannot assume the role any more"),
        ("session-role-policy", "Agents lose the other permissions of the base role"),
        ("boundary-statement", "stops nothing that runs"),
        ("parameter", "Another value changes the role of new pods"),
        ("deny-without-source-identity", "It immediately stops every pod of these roles"),
    ] {
        let document = documents.iter().find(|it| it["name"] == name).unwrap();
        let remark = document["remark"].as_str().unwrap();
        assert!(remark.contains(want), "{name}: {remark}");
    }
}
