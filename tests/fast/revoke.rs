//! `revoke` without a cluster and without AWS: it prints the policy, and refuses invalid input.

use std::process::{Command, Output};

use serde_json::{Value, json};

const ROLE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker";

/// Runs the program without credentials, kubeconfig and network.
fn revoke(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .arg("revoke")
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_printed_policy_denies_the_sessions_and_calls_no_api() {
    let output = revoke(&[
        "--tenant=acme",
        "--session=fab-planner-x7k2q",
        "--session=fab-coder-x7k2p",
        "--source-identity=agent.acme.0d2c2a52",
        "--older-than=2026-11-24T08:00:00Z",
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names =
        ["agent.acme.0d2c2a52", "agent.acme.fab-coder-x7k2p", "agent.acme.fab-planner-x7k2q"];
    assert_eq!(
        document,
        json!({"Version": "2012-10-17", "Statement": [
            {
                "Sid": "RevokedSessions", "Effect": "Deny", "Action": "*", "Resource": "*",
                "Condition": {"StringEquals": {"aws:SourceIdentity": names}},
            },
            {
                "Sid": "RevokedCredentials", "Effect": "Deny", "Action": "*", "Resource": "*",
                "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-11-24T08:00:00Z"}},
            },
        ]})
    );
    // A long name is cut as in the pod.
    let long = "s".repeat(80);
    let output = revoke(&["--tenant=acme", "--session", &long]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = &document["Statement"][0]["Condition"]["StringEquals"]["aws:SourceIdentity"];
    assert_eq!(names[0].as_str().unwrap().len(), 64);
}

#[test]
fn the_terraform_resource_has_the_same_document() {
    let session = ["--tenant=acme", "--session=fab-coder-x7k2p"];
    let output = revoke(&[&session[..], &["-o=terraform", "--session-role", ROLE]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let file = String::from_utf8(output.stdout).unwrap();
    let (head, rest) = file.split_once("jsonencode(").unwrap();
    assert_eq!(
        head,
        "resource \"aws_iam_role_policy\" \"fab_session_injector_revoked_prod_acme_broker\" {\n  \
         name = \"fab-session-injector-revoked\"\n  role = \"prod-acme-broker\"\n  policy = "
    );
    let (document, end) = rest.rsplit_once(')').unwrap();
    assert_eq!(end, "\n}\n");
    let printed = revoke(&session).stdout;
    let printed: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(serde_json::from_str::<Value>(document).unwrap(), printed);
}

#[test]
fn invalid_input_is_an_error_with_its_remedy() {
    let long = "t".repeat(46);
    let long = format!("--tenant={long}");
    let role = ["--session-role", ROLE];
    let full: Vec<String> = (0..160)
        .map(|n| format!("--session={n:0>50}"))
        .chain(["--tenant=acme".to_owned()])
        .collect();
    let full: Vec<&str> = full.iter().map(String::as_str).collect();
    let cases: [(&[&str], &str); 24] = [
        (&[], "--session"),
        (&["--session=a"], "--tenant"),
        (&["--tenant=acme"], "--session"),
        (&["--tenant=Acme", "--session=a"], "--tenant"),
        (&["--tenant=acme", "--session=a:b"], "--session"),
        (&["--tenant=acme", "--session="], "--session"),
        (&[&long, "--session=twelve-chars"], "leaves 11 characters"),
        (
            &["--source-identity=agent.acme.a", "--source-identity=agent.beta.a"],
            "once for each tenant",
        ),
        (&["--tenant=acme", "--source-identity=agent.beta.a"], "once for each tenant"),
        (&["--source-identity=ada@example.com"], "expected agent.<tenant>.<session>"),
        (&["--source-identity=agent.acme.a b"], "--source-identity"),
        (&["--older-than=yesterday"], "RFC 3339"),
        (&["--older-than=2999-01-01T00:00:00Z"], "in the future"),
        (&["--tenant=acme", "--session=agent.acme.a"], "use --source-identity agent.acme.a"),
        (&full, "IAM accepts 10240"),
        (&["--list", "--prune"], "cannot be used with"),
        (&["--list", "--tenant=acme", "--session=a"], "cannot be used with"),
        (&["--namespace=a", "--list"], "cannot be used with"),
        (&["--tenant=acme", "--session=a", "--apply", "-o=terraform"], "cannot be used with"),
        (&["--tenant=acme", "--session=a", "-o=text"], "json or terraform"),
        (&["--list", "-o=terraform", role[0], role[1]], "text or json"),
        (
            &["--source-identity=agent.acme.a", "--apply", role[0], role[1]],
            "no AWS credentials; set AWS_PROFILE",
        ),
        (&["--list", role[0], role[1]], "no AWS credentials; set AWS_PROFILE"),
        (&["--pod=a"], "set KUBECONFIG"),
    ];
    for (arguments, want) in cases {
        let output = revoke(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(want), "{arguments:?}: {}", said(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// The role of the config, and the one of the command line.
#[test]
fn a_role_that_is_not_the_tenants_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let roles = file("roles.yaml", &format!("roles: {{acme: '{ROLE}'}}\n"));
    let config = file("config.yaml", &format!("roles: {{file: {roles}}}\n"));
    let print = |more: &[&str]| {
        let usual = ["--tenant=acme", "--session=a", "-o=terraform", "--config", &config];
        revoke(&[&usual[..], more].concat())
    };
    let output = print(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"prod-acme-broker\""));
    assert!(print(&["--session-role", ROLE]).status.success());
    let other = "arn:aws:iam::111122223333:role/other";
    let output = print(&["--session-role", other]);
    assert_eq!(output.status.code(), Some(2));
    for part in [other, ROLE, &roles, "--session-role"] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }
    let output = print(&["--tenant=acme", "--source-identity=agent.acme.b"]);
    assert_eq!(output.status.code(), Some(2), "--tenant twice");
    let output = revoke(&["--tenant=beta", "--session=a", "-o=terraform", "--config", &config]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("beta"), "{}", said(&output));
}
