//! Tests the flags of `iam`. `tests/cluster/iam.rs` tests its documents in the AWS stand-in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

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
fn one_document_is_no_terraform_file_and_no_script() {
    for format in ["terraform", "aws-cli"] {
        let output = iam(&["--cluster=prod", "--only=parameter", "-o", format]);
        assert_eq!(output.status.code(), Some(2));
        let want = format!("leave out -o {format}");
        assert!(text(&output.stderr).contains(&want), "{}", text(&output.stderr));
    }
}

/// What would stop something is a comment in the script.
#[test]
fn the_script_replaces_no_trust_and_attaches_no_deny() {
    let output = iam(&["--cluster=prod", "-o=aws-cli"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("set --region"), "{}", text(&output.stderr));
    let output = iam(&[
        "--cluster=prod",
        "-o=aws-cli",
        "--region=eu-west-1",
        "--deny-without-source-identity",
        "--oidc-issuer=https://oidc.example/id",
        "--service-account=it",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let script = text(&output.stdout);
    let calls: Vec<&str> = script
        .lines()
        .filter_map(|line| line.strip_prefix("aws "))
        .map(|call| call.split(" --cli-input-json").next().unwrap_or(call))
        .map(|call| call.split(" --policy-document").next().unwrap_or(call))
        .collect();
    let want = [
        "iam create-role",
        "iam put-role-policy --role-name session --policy-name session-role-policy",
        "iam put-role-policy --role-name base --policy-name base-role-policy",
        "ssm put-parameter --region eu-west-1",
        "iam put-role-policy --role-name \"${WEBHOOK_ROLE:-fab-session-injector}\" --policy-name webhook-policy",
    ];
    assert_eq!(calls, want);
    let comments = [
        "# aws iam update-assume-role-policy --role-name session ",
        "# aws iam update-assume-role-policy --role-name base ",
        "# aws iam put-role-policy --role-name base --policy-name deny-without-source-identity ",
    ];
    let places = comments.map(|comment| script.find(comment).unwrap());
    assert!(places.is_sorted(), "{script}");
    // The deny is last.
    assert!(!script[places[2]..].contains("\naws "), "{script}");
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

/// With an issuer the session role trusts its provider, and in a migration the base roles too.
#[test]
fn each_transport_has_its_documents() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    let authority = fs::read_to_string(authority(directory.path())).unwrap();
    let key = "arn:aws:kms:eu-west-1:111122223333:key/0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
    let mut settings = json!({
        "cluster": "prod",
        "roles": {"allow": {"accounts": ["111122223333"]}, "ssm": {}},
        "issuer": {
            "url": "https://issuer.example.com/prod",
            "endpoint": "https://fab-issuer.fab-system.svc/v1/token",
            "caBundle": authority,
            "durationSeconds": 7200,
            "keys": [{"kms": key}],
        },
    });
    fs::write(&config, settings.to_string()).unwrap();
    let file = config;
    let config = format!("--config={}", file.display());
    let run = |arguments: &[&str]| -> Output {
        Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(["iam", "--tenant=acme"])
            .arg("--session-role=arn:aws:iam::111122223333:role/session")
            .args(arguments)
            .output()
            .unwrap()
    };
    let documents = |arguments: &[&str]| -> Vec<Value> {
        let output = run(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let named = |documents: &[Value], name: &str| -> Value {
        let found = documents.iter().find(|document| document["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))["document"].clone()
    };
    let principals = |documents: &[Value]| -> Vec<String> {
        let trust = named(documents, "session-role-trust");
        let statements = trust["Statement"].as_array().unwrap();
        statements.iter().map(|it| it["Principal"].to_string()).collect()
    };
    let provider =
        r#"{"Federated":"arn:aws:iam::111122223333:oidc-provider/issuer.example.com/prod"}"#;

    let only_issuer = documents(&[&config, "--transport=web-identity"]);
    let names: Vec<&str> =
        only_issuer.iter().map(|document| document["name"].as_str().unwrap()).collect();
    let want = [
        "oidc-provider",
        "session-role",
        "session-role-trust",
        "session-role-policy",
        "parameter",
        "webhook-policy",
        "issuer-policy",
    ];
    assert_eq!(names, want);
    assert_eq!(principals(&only_issuer), [provider; 3]);
    let created = named(&only_issuer, "oidc-provider");
    assert_eq!(
        created,
        json!({"Url": "https://issuer.example.com/prod", "ClientIDList": ["fab-session/prod"]})
    );
    assert_eq!(named(&only_issuer, "issuer-policy")["Statement"][0]["Resource"], json!([key]));
    assert_eq!(named(&only_issuer, "session-role")["MaxSessionDuration"], 7200);

    // Only a URL of S3 names a bucket.
    for (url, folder) in [
        ("https://files.s3.eu-west-1.amazonaws.com/prod", "arn:aws:s3:::files/prod"),
        ("https://a.b-an.s3.us-gov-west-1.amazonaws.com", "arn:aws-us-gov:s3:::a.b-an"),
        ("https://files.s3.cn-north-1.amazonaws.com.cn/a/b", "arn:aws-cn:s3:::files/a/b"),
    ] {
        settings["issuer"]["url"] = url.into();
        fs::write(&file, settings.to_string()).unwrap();
        let policy = named(&documents(&[&config, "--transport=web-identity"]), "bucket-policy");
        let files = ["keys.json", ".well-known/openid-configuration"];
        let files = files.map(|file| format!("{folder}/{file}"));
        assert_eq!(policy["Statement"][0]["Resource"], json!(files), "{url}");
        let bucket: Vec<&str> = folder.splitn(2, '/').collect();
        assert_eq!(policy["Statement"][1]["Resource"], bucket[0], "{url}");
        assert_eq!(policy["Statement"][1]["Effect"], "Deny");
    }
    settings["issuer"]["url"] = "https://issuer.example.com/prod".into();
    fs::write(&file, settings.to_string()).unwrap();

    let base = "--base-role=arn:aws:iam::111122223333:role/base";
    let both = principals(&documents(&[&config, "--transport=both", base]));
    assert_eq!(both[..2], [r#"{"AWS":["arn:aws:iam::111122223333:role/base"]}"#; 2]);
    assert_eq!(both[2..], [provider; 3]);

    for (arguments, want) in [
        (&["--transport=web-identity", base][..], "--base-role is of the transport role-chain"),
        (&["--transport=both"][..], "--base-role is required"),
        (&[][..], "--base-role is required"),
        (&[base, "--only=oidc-provider"][..], "--only oidc-provider needs --transport"),
        (
            &["--transport=web-identity", "--suspended-tag=s"][..],
            "--suspended-tag is about base roles",
        ),
        (
            &["--transport=web-identity", "--only=base-role-policy"][..],
            "--only base-role-policy is about base roles",
        ),
    ] {
        let output = run(&[&[&*config], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(want), "{}", text(&output.stderr));
    }
    let output = run(&["--cluster=prod", "--transport=web-identity"]);
    assert!(text(&output.stderr).contains("section issuer"), "{}", text(&output.stderr));

    // One more session tag, only if the config has it.
    let tags = || {
        let trust = named(&documents(&[&config, "--transport=web-identity"]), "session-role-trust");
        trust["Statement"][2]["Condition"]["ForAllValues:StringEquals"]["aws:TagKeys"].clone()
    };
    assert_eq!(tags(), json!(["kubernetes-namespace", "kubernetes-pod-uid"]));
    settings["issuer"]["onBehalfOf"] = true.into();
    fs::write(&file, settings.to_string()).unwrap();
    assert_eq!(tags(), json!(["kubernetes-namespace", "kubernetes-pod-uid", "on-behalf-of"]));
}

/// Makes a CA; returns its certificate.
fn authority(directory: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make");
    assert!(Command::new(script).arg(directory).arg("localhost").status().unwrap().success());
    directory.join("ca.crt")
}
