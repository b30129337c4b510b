//! Tests the policies that `iam` prints in the strict AWS: they admit the right session and deny
//! each wrong one.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::Duration,
};

use harness::{
    process::{self, wait_until},
    sidecar::account::{Account, BASE, BROKER, Policies, allow, statements},
};
use serde_json::{Value, json};

#[test]
fn only_the_right_session_can_assume_the_role() {
    let right = ["--tenant=acme", "--namespace=tenants-acme", "--base-role", BASE];
    let restricted = |to| [&right[..], &[to]].concat();
    let cases: [(&str, Vec<&str>, &str, bool); 9] = [
        ("any of the tenant", right.to_vec(), "creator-or-uid", true),
        ("its own uid", restricted("--restrict-to=pod-uid"), "pod-uid", true),
        ("its own name", restricted("--restrict-to=pod-name"), "pod-name", true),
        ("a name beside the uid", restricted("--restrict-to=pod-uid"), "pod-name", false),
        ("a uid beside the name", restricted("--restrict-to=pod-name"), "pod-uid", false),
        (
            "a session that its creator named",
            restricted("--restrict-to=pod-uid"),
            "creator-or-uid",
            false,
        ),
        (
            "a uid of another namespace",
            vec![
                "--tenant=acme",
                "--namespace=other",
                "--base-role",
                BASE,
                "--restrict-to=pod-uid",
            ],
            "pod-uid",
            false,
        ),
        ("another tenant's", vec!["--tenant=other", "--base-role", BASE], "pod-uid", false),
        ("another base role", vec!["--tenant=acme", "--base-role", BROKER], "pod-uid", false),
    ];
    for (name, arguments, session, want) in cases {
        let trust = only("session-role-trust", &arguments);
        let base = only("base-role-policy", &arguments);
        let account = Account::open(Policies { trust, base, ..Policies::default() });
        assert_eq!(is_let_in(&account, session), want, "{name}");
    }
}

/// A boundary without the statement denies every session, as the platform's boundary does.
#[test]
fn the_boundary_statement_is_what_a_boundary_needs() {
    let arguments = ["--tenant=acme", "--base-role", BASE];
    let models = allow(&["bedrock:InvokeModel"], json!({"Resource": "*"}));
    let statement = only("boundary-statement", &arguments);
    for (boundary, want) in [
        (statements(std::slice::from_ref(&models)), false),
        (statements(&[models.clone(), statement]), true),
    ] {
        let account = Account::open(Policies {
            trust: only("session-role-trust", &arguments),
            base: only("base-role-policy", &arguments),
            boundary: Some(boundary),
            ..Policies::default()
        });
        assert_eq!(is_let_in(&account, "creator-or-uid"), want);
    }
}

/// The deny policy does not deny the calls that a session needs.
#[test]
fn base_credentials_can_assume_the_role_with_the_deny() {
    let arguments = ["--tenant=acme", "--base-role", BASE];
    let mut base = only("base-role-policy", &arguments);
    let with_deny = [&arguments[..], &["--deny-without-source-identity"]].concat();
    let deny = only("deny-without-source-identity", &with_deny)["Statement"][0].clone();
    assert_eq!(deny["Effect"], "Deny");
    base["Statement"].as_array_mut().unwrap().push(deny);
    let trust = only("session-role-trust", &arguments);
    let account = Account::open(Policies { trust, base, ..Policies::default() });
    assert!(is_let_in(&account, "creator-or-uid"));
}

#[test]
fn the_parameter_is_the_one_that_the_webhook_reads() {
    let arguments = ["--tenant=acme", "--base-role", BASE];
    let name = "/eks-agent-platform/prod/tenant-substrate/acme/session_role_arn";
    assert_eq!(
        only("parameter", &arguments),
        json!({"Name": name, "Type": "String", "Value": BROKER})
    );
    let resource = &only("webhook-policy", &[&arguments[..], &["--region=eu-west-1"]].concat())["Statement"]
        [0]["Resource"];
    assert_eq!(
        resource,
        &format!("arn:aws:ssm:eu-west-1:111122223333:parameter{}", name.replace("acme", "*"))
    );
}

/// The config can set a region for the parameters and another for agents.
#[test]
fn the_config_sets_the_region_of_the_parameters() {
    let output = iam_by(
        "cluster: prod\nregion: eu-west-1\nroles: {ssm: {region: us-east-1}, allow: {accounts: ['111122223333']}}\n",
        &["--tenant=acme", "--base-role", BASE, "--only=webhook-policy"],
    );
    let policy: Value = serde_json::from_slice(&output.stdout).unwrap();
    let resource = policy["Statement"][0]["Resource"].as_str().unwrap();
    assert!(resource.starts_with("arn:aws:ssm:us-east-1:111122223333:parameter/"), "{resource}");

    let cases = [
        (
            "cluster: prod\nroles: {ssm: {}, allow: {accounts: ['999999999999']}}\n",
            "--restrict-to=tenant",
            "roles.allow.accounts",
        ),
        ("cluster: prod\nroles: {ssm: {}}\n", "--restrict-to=pod-uid", "session: pod-uid"),
        ("roles: {file: roles.yaml}\n", "--restrict-to=tenant", "roles.ssm"),
    ];
    for (config, restrict_to, want) in cases {
        let output = iam_by(config, &["--tenant=acme", "--base-role", BASE, restrict_to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(want), "{said}");
    }
}

/// The Terraform file has the same documents. Each base role has both of its policies, and policy
/// variables of IAM are escaped for Terraform.
#[test]
fn terraform_has_the_same_documents() {
    let arguments = [
        "--tenant=acme",
        "--base-role",
        BASE,
        "--base-role",
        BROKER,
        "--restrict-to=pod-uid",
        "--deny-without-source-identity",
        "--terraform",
    ];
    let output = iam(&arguments);
    let file = String::from_utf8(output.stdout).unwrap();
    assert!(file.contains("agent.acme.$${aws:PrincipalTag/kubernetes-pod-uid}"), "{file}");
    assert_eq!(file.matches("${").count(), file.matches("$${").count(), "nothing is interpolated");
    let resources: Vec<&str> = file
        .lines()
        .filter_map(|line| line.strip_prefix("resource ")?.strip_suffix(" {"))
        .collect();
    let want = [
        "\"aws_iam_role\" \"session_acme\"",
        "\"aws_iam_role_policy\" \"session_acme\"",
        "\"aws_iam_role_policy\" \"base_role_policy_acme_0\"",
        "\"aws_iam_role_policy\" \"base_role_policy_acme_1\"",
        "\"aws_iam_role_policy\" \"deny_without_source_identity_acme_0\"",
        "\"aws_iam_role_policy\" \"deny_without_source_identity_acme_1\"",
        "\"aws_ssm_parameter\" \"session_role_acme\"",
        "\"aws_iam_policy\" \"session_injector_acme\"",
    ];
    assert_eq!(resources, want);
    // As read by Terraform's own parser, each is equal to the JSON document.
    let read = as_terraform(&file);
    let documents: Vec<Value> = serde_json::from_slice(&iam(&arguments[..7]).stdout).unwrap();
    for (resource, attribute, name) in [
        ("aws_iam_role.session_acme", "assume_role_policy", "session-role-trust"),
        ("aws_iam_role_policy.session_acme", "policy", "session-role-policy"),
        ("aws_iam_role_policy.base_role_policy_acme_0", "policy", "base-role-policy"),
        ("aws_iam_role_policy.base_role_policy_acme_1", "policy", "base-role-policy"),
        (
            "aws_iam_role_policy.deny_without_source_identity_acme_1",
            "policy",
            "deny-without-source-identity",
        ),
        ("aws_iam_policy.session_injector_acme", "policy", "webhook-policy"),
    ] {
        let text = read[format!("resource.{resource}")][attribute].as_str().unwrap();
        let document = documents.iter().find(|document| document["name"] == name).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(text).unwrap(),
            document["document"],
            "{resource}"
        );
    }
    let parameter = &read["resource.aws_ssm_parameter.session_role_acme"];
    assert_eq!(parameter["value"], "aws_iam_role.session_acme.arn");
    assert_eq!(
        parameter["name"],
        "/eks-agent-platform/prod/tenant-substrate/acme/session_role_arn"
    );
}

/// Returns each block by its address, with evaluated attributes.
fn as_terraform(file: &str) -> Value {
    let mut reader = Command::new(process::program("terraform-read"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/setup builds it");
    reader.stdin.take().unwrap().write_all(file.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "{file}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The default output stops no running pod.
#[test]
fn the_deny_is_printed_only_with_its_flag() {
    let arguments = ["--tenant=acme", "--base-role", BASE];
    let flag = "--deny-without-source-identity";
    for output in [vec![], vec!["--terraform"]] {
        let plain = iam(&[&arguments[..], &output].concat());
        assert!(plain.status.success());
        let printed = String::from_utf8(plain.stdout).unwrap();
        assert!(!printed.to_lowercase().contains("nothingwithoutsession"), "{printed}");
        assert!(
            !printed.contains("deny-without") && !printed.contains("deny_without"),
            "{printed}"
        );
        assert_eq!(String::from_utf8_lossy(&plain.stderr), "");

        let asked = iam(&[&arguments[..], &output, &[flag]].concat());
        assert!(asked.status.success());
        let printed = String::from_utf8(asked.stdout).unwrap();
        assert!(printed.contains("NothingWithoutSession"), "{printed}");
        says_what_it_stops(&asked.stderr);
    }
    let alone = ["--only", "deny-without-source-identity"];
    let refused = iam(&[&arguments[..], &alone].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stdout.is_empty());
    says_what_it_stops(&refused.stderr);
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&format!("needs the flag {flag}")));

    let asked = iam(&[&arguments[..], &alone, &[flag]].concat());
    let policy: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(policy["Statement"][0]["Sid"], "NothingWithoutSession");
    says_what_it_stops(&asked.stderr);
    // Another document alone stops no pod.
    let other = iam(&[&arguments[..], &["--only", "parameter", flag]].concat());
    assert_eq!((other.status.success(), &*other.stderr), (true, &b""[..]));
}

fn says_what_it_stops(said: &[u8]) {
    let said = String::from_utf8_lossy(said);
    for part in [
        "every pod of these base roles that runs without a session",
        "as soon as it is applied",
        "agents created before the namespace was `enabled`",
        "Apply it last: after `enabled`, and after the last pod without a session is gone",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn invalid_input_names_the_flag_and_the_rule() {
    let cases: [(&[&str], &str); 4] = [
        (&["--tenant=Acme", "--base-role", BASE], "--tenant"),
        (&["--tenant=acme", "--base-role=acme"], "--base-role"),
        (
            &["--tenant=acme", "--base-role", BASE, "--restrict-to=pod"],
            "tenant, pod-uid or pod-name",
        ),
        (&["--tenant=acme", "--base-role", BASE, "--only=trust"], "session-role-trust, "),
    ];
    for (arguments, want) in cases {
        let output = iam(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(want), "{said}");
    }
}

/// Reports whether a pod with this session gets credentials; false if STS denies them.
fn is_let_in(account: &Account, session: &'static str) -> bool {
    let mut template = account.template();
    template.session = session;
    let pod = account.pod_of(&template);
    let _sidecar = pod.start();
    wait_until("STS decides", Duration::from_secs(20), || {
        let status = pod.status();
        match status["lastError"]["code"].as_str() {
            Some(code) if code.ends_with("-denied") => Some(false),
            Some(code) => panic!("{code}"),
            None => (pod.get("/v1/credentials").0 == 200).then_some(true),
        }
    })
}

fn only(document: &str, arguments: &[&str]) -> Value {
    let output = iam(&[arguments, &["--only", document]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn iam(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["iam", "--cluster=prod", "--session-role", BROKER])
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs `iam` with a config instead of the cluster's name.
fn iam_by(config: &str, arguments: &[&str]) -> Output {
    let directory = process::own_directory();
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["iam", "--session-role", BROKER, "--config"])
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap()
}
