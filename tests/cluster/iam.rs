//! Tests the policies that `iam` prints in the strict AWS: they admit the right session and deny
//! each wrong one.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use harness::{
    cloud::{DISPATCHER, pods_of_the_cluster},
    moto::Moto,
    process::{self, wait_until},
    sidecar::account::{Account, BASE, BROKER, Policies, allow, statements},
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use strict_aws::{Association, Role};

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
        ("another base role", vec!["--tenant=acme", "--base-role", DISPATCHER], "pod-uid", false),
    ];
    for (name, arguments, session, want) in cases {
        let trust = only("session-role-trust", &arguments);
        let base = only("base-role-policy", &arguments);
        let account =
            Account::open_with(Policies { trust, base, ..Policies::default() }, |world| {
                world.role(Role::new(DISPATCHER).trust(pods_of_the_cluster()))
            });
        assert_eq!(is_let_in(&account, session), want, "{name}");
    }
}

/// With IRSA a base role admits the tokens of the listed service accounts only.
#[test]
fn a_base_role_admits_only_its_service_accounts() {
    const RIGHT: [&str; 3] =
        ["--namespace=tenants-acme", "--service-account=tenant-runtime", ISSUER_FLAG];
    const ISSUER_FLAG: &str = "--oidc-issuer=https://oidc.eks.eu-west-1.amazonaws.com/id/TEST";
    let cases: [([&str; 3], &'static str, bool); 6] = [
        (RIGHT, "tenant-runtime", true),
        (RIGHT, "fab", false),
        (["--namespace=other", RIGHT[1], RIGHT[2]], "tenant-runtime", false),
        ([RIGHT[0], "--service-account=fab", RIGHT[2]], "tenant-runtime", false),
        ([RIGHT[0], "--service-account=tenant-runtime-x-*", RIGHT[2]], "tenant-runtime-x-a", true),
        ([RIGHT[0], "--service-account=tenant-runtime-x-*", RIGHT[2]], "tenant-runtime", false),
    ];
    for (flags, service_account, want) in cases {
        let arguments = [&["--tenant=acme", "--base-role", BASE], &flags[..]].concat();
        let base_trust = only("base-role-trust", &arguments);
        let account = Account::open(Policies { base_trust, ..Policies::default() });
        let mut template = account.template();
        (template.source, template.base_role) = ("irsa", BASE);
        template.account = service_account;
        let pod = account.pod_of(&template);
        let _sidecar = pod.start();
        let admitted = wait_until("STS decides", Duration::from_secs(20), || {
            let status = pod.status();
            match status["lastError"]["code"].as_str() {
                Some("base-credentials-refused") => Some(false),
                Some(code) => panic!("{code}"),
                None => (pod.get("/v1/credentials").0 == 200).then_some(true),
            }
        });
        assert_eq!(admitted, want, "{flags:?} {service_account}");
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

/// A tag on a base role ends the sessions of its tenant with their credentials, and no others.
#[test]
fn a_suspended_tenant_gets_no_new_session() {
    const KEY: &str = "platform.nanohype.dev/suspended";
    const OTHER: &str = "arn:aws:iam::111122223333:role/prod-other-tenant";
    const OTHER_BROKER: &str = "arn:aws:iam::111122223333:role/prod-other-broker";
    let flag = format!("--suspended-tag={KEY}");
    let of_acme = ["--tenant=acme", "--base-role", BASE, &flag];
    let of_other = ["--tenant=other", "--base-role", OTHER, &flag];
    let other = |name| only_of(OTHER_BROKER, name, &of_other);
    let policies = Policies {
        trust: only("session-role-trust", &of_acme),
        base: only("base-role-policy", &of_acme),
        seconds: Some(20),
        ..Policies::default()
    };
    let account = Account::open_with(policies, |world| {
        let base = Role::new(OTHER).trust(pods_of_the_cluster()).policy(other("base-role-policy"));
        world
            .role(base)
            .role(Role::new(OTHER_BROKER).trust(other("session-role-trust")))
            .association(Association::new("tenants-other", "tenant-runtime", OTHER))
    });
    let mut other = account.template();
    (other.tenant, other.role) = ("other", OTHER_BROKER);
    let (pod, neighbour) = (account.pod(), account.pod_of(&other));
    let _sidecars = [pod.start_ready(), neighbour.start_ready()];
    let key = || neighbour.get("/v1/credentials").1["AccessKeyId"].clone();
    let before = key();
    assert!(before.is_string());

    assert!(account.aws.tag_role(BASE, KEY, "true"));
    // The running session keeps its credentials, and gets no others.
    let (status, body) = pod.get("/v1/credentials");
    assert_eq!(status, 200, "{body}");
    assert!(!is_let_in(&account, "creator-or-uid"), "a new pod");
    wait_until("the running session ends", Duration::from_secs(60), || {
        let (status, body) = pod.get("/v1/credentials");
        (status == 403 && body["code"] == "assume-role-denied").then_some(())
    });
    wait_until("the other tenant's session goes on", Duration::from_secs(60), || {
        let now = key();
        (now.is_string() && now != before).then_some(())
    });
    let new = account.pod_of(&other);
    let _sidecar = new.start_ready();
    // The control: without the flag, the tag has no effect.
    let without = Policies {
        trust: only("session-role-trust", &of_acme[..3]),
        base: only("base-role-policy", &of_acme[..3]),
        ..Policies::default()
    };
    let account = Account::open(without);
    assert!(account.aws.tag_role(BASE, KEY, "true"));
    assert!(is_let_in(&account, "creator-or-uid"));
}

/// With `--model` an agent can invoke these models only, and those of a profile only through it.
#[test]
fn an_agent_can_invoke_only_the_listed_models() {
    let arguments = ["--tenant=acme", "--base-role", BASE];
    let models = |models: &[&str]| {
        let account = Account::open(Policies {
            trust: only("session-role-trust", &arguments),
            base: only("base-role-policy", &arguments),
            session: Some(only("session-role-policy", &[&arguments, models].concat())),
            ..Policies::default()
        });
        let pod = account.pod();
        let _sidecar = pod.start_ready();
        let (_, credentials) = pod.get("/v1/credentials");
        let all = ["anthropic.a", "anthropic.b", "meta.a", "eu.anthropic.c", "anthropic.c"];
        all.map(|model| invoke(&account, &credentials, model) == 200)
    };
    assert_eq!(models(&[]), [true; 5]);
    let cases: [(&[&str], [bool; 5]); 5] = [
        (&["--model=anthropic.a"], [true, false, false, false, false]),
        (&["--model=anthropic.*"], [true, true, false, false, true]),
        (&["--model=eu.anthropic.c"], [false, false, false, true, false]),
        (&["--model=meta.a", "--model=eu.*"], [false, false, true, true, false]),
        (
            &["--model=arn:aws:bedrock:eu-west-1:111122223333:inference-profile/eu.anthropic.c"],
            [false, false, false, true, false],
        ),
    ];
    for (flags, want) in cases {
        assert_eq!(models(flags), want, "{flags:?}");
    }
}

/// The request for a new role has the trust policy, and the tags and the boundary that the platform's controls use.
#[test]
fn the_session_role_has_tags_and_boundary() {
    const BOUNDARY: &str = "arn:aws:iam::111122223333:policy/tenant-boundary";
    let arguments = [
        "--tenant=acme",
        "--base-role",
        BASE,
        "--tag=PlatformId=prod-acme",
        "--tag=team=a=b",
        "--permissions-boundary",
        BOUNDARY,
    ];
    let role = only("session-role", &arguments);
    let trust: Value =
        serde_json::from_str(role["AssumeRolePolicyDocument"].as_str().unwrap()).unwrap();
    assert_eq!(trust, only("session-role-trust", &arguments));
    let tags = json!([
        {"Key": "PlatformId", "Value": "prod-acme"},
        {"Key": "team", "Value": "a=b"},
    ]);
    assert_eq!((&role["Tags"], &role["PermissionsBoundary"]), (&tags, &json!(BOUNDARY)));
    assert_eq!(
        format!(
            "arn:aws:iam::111122223333:role{}{}",
            role["Path"].as_str().unwrap(),
            role["RoleName"].as_str().unwrap()
        ),
        BROKER
    );
    let plain = only("session-role", &arguments[..3]);
    assert!(plain.get("Tags").is_none() && plain.get("PermissionsBoundary").is_none());
}

/// With the session role in another account, the webhook still reads in the cluster's.
#[test]
fn each_document_names_its_account() {
    const CLUSTER: &str = "arn:aws:iam::444455556666:role/prod-acme-tenant";
    let accounts = |arguments: &[&str]| {
        let output = iam(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let shown = |document: &Value| {
            let accounts = document["accounts"].as_array().unwrap();
            let accounts: Vec<&str> = accounts.iter().map(|it| it.as_str().unwrap()).collect();
            format!("{} {}", document["name"].as_str().unwrap(), accounts.join(","))
        };
        let webhook = documents.last().unwrap()["document"]["Statement"][0]["Resource"].clone();
        (documents.iter().map(shown).collect::<Vec<_>>(), webhook)
    };
    let two = ["--tenant=acme", "--base-role", CLUSTER, "--region=eu-west-1"];
    let (documents, webhook) = accounts(&two);
    let want = [
        "session-role 111122223333",
        "session-role-trust 111122223333",
        "session-role-policy 111122223333",
        "base-role-policy 444455556666",
        "boundary-statement 444455556666",
        "parameter 444455556666",
        "webhook-policy 444455556666",
    ];
    assert_eq!(documents, want);
    let webhook = webhook.as_str().unwrap();
    assert!(webhook.starts_with("arn:aws:ssm:eu-west-1:444455556666:parameter/"), "{webhook}");
    // Base roles of two accounts do not tell the cluster's.
    let three = [&two[..], &["--base-role", BASE]].concat();
    let refused = iam(&three);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--cluster-account"));
    let (documents, webhook) =
        accounts(&[&three[..], &["--cluster-account=777788889999"]].concat());
    assert_eq!(documents[3], "base-role-policy 111122223333,444455556666");
    assert!(webhook.as_str().unwrap().contains(":777788889999:"), "{webhook}");
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
        (
            "cluster: prod\nbaseCredentials: {source: irsa, roleArn: 'arn:aws:iam::111122223333:role/{tenant}-{component}'}\nroles: {ssm: {}}\n",
            "--restrict-to=tenant",
            "gives arn:aws:iam::111122223333:role/acme-dispatcher, arn:aws:iam::111122223333:role/acme-runtime",
        ),
        (
            "cluster: prod\nbaseCredentials: {source: irsa, roleArn: 'arn:aws:iam::111122223333:role/r'}\nroles: {ssm: {}}\n",
            "--restrict-to=pod-uid",
            "session tags of EKS Pod Identity",
        ),
    ];
    for (config, restrict_to, want) in cases {
        let output = iam_by(config, &["--tenant=acme", "--base-role", BASE, restrict_to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(want), "{said}");
    }
}

/// The default output stops no running pod.
#[test]
fn the_deny_is_printed_only_with_its_flag() {
    let arguments = ["--tenant=acme", "--region=eu-west-1", "--base-role", BASE];
    let flag = "--deny-without-source-identity";
    let marks = ["NothingWithoutSession", "deny_without_source_identity = true"];
    for (output, mark) in [(vec![], marks[0]), (vec!["-o", "terraform"], marks[1])] {
        let plain = iam(&[&arguments[..], &output].concat());
        assert!(plain.status.success());
        let printed = String::from_utf8(plain.stdout).unwrap();
        assert!(!printed.contains(mark), "{printed}");
        assert!(
            !printed.contains("deny-without") && !printed.contains("deny_without"),
            "{printed}"
        );
        let said = String::from_utf8_lossy(&plain.stderr).into_owned();
        assert!(
            said.starts_with("session-role-policy: It allows every foundation model"),
            "{said}"
        );
        let scoped = iam(&[&arguments[..], &output, &["--model=a.b"]].concat());
        assert_eq!(String::from_utf8_lossy(&scoped.stderr), "");
        assert!(!String::from_utf8(scoped.stdout).unwrap().contains("every foundation model"));

        let asked = iam(&[&arguments[..], &output, &[flag]].concat());
        assert!(asked.status.success());
        let printed = String::from_utf8(asked.stdout).unwrap();
        assert!(printed.contains(mark), "{printed}");
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

/// The AWS CLI itself runs the script, in moto.
#[test]
fn the_script_creates_the_documents_of_iam() {
    const TAG: &str = "--tag=team=agents";
    let moto = Moto::start();
    let empty = statements(&[]).to_string();
    for name in ["prod-acme-tenant", "fab-session-injector"] {
        let trust = ("AssumeRolePolicyDocument", &*empty);
        moto.iam("CreateRole", &[("RoleName", name), trust]);
    }
    let base = "arn:aws:iam::111122223333:role/prod-acme-tenant";
    let arguments = ["--tenant=acme", "--region=eu-west-1", "--base-role", base, TAG];
    let flags = [&arguments[..], &["-o=aws-cli", "--deny-without-source-identity"]].concat();
    let script = iam(&flags);
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));

    let directory = process::own_directory();
    symlink(process::program("client-cli"), directory.path().join("aws")).unwrap();
    let file = directory.path().join("acme.sh");
    std::fs::write(&file, &script.stdout).unwrap();
    let run = |account: &str| {
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        let output = Command::new("sh")
            .arg(&file)
            .env("PATH", path)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_ENDPOINT_URL", account)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, said) = run(&moto.endpoint());
    assert!(done, "{said}");

    let stored = |role: &str, policy: &str| -> Option<Value> {
        let names = moto.iam("ListRolePolicies", &[("RoleName", role)]);
        if !names.contains(&format!("<member>{policy}</member>")) {
            return None;
        }
        let get = [("RoleName", role), ("PolicyName", policy)];
        document_in(&moto.iam("GetRolePolicy", &get), "PolicyDocument")
    };
    let want = |name| Some(only(name, &arguments));
    let broker = BROKER.rsplit('/').next().unwrap();
    for (role, name) in [
        (broker, "session-role-policy"),
        ("prod-acme-tenant", "base-role-policy"),
        ("fab-session-injector", "webhook-policy"),
    ] {
        assert_eq!(stored(role, name), want(name), "{name}");
    }
    assert_eq!(stored("prod-acme-tenant", "deny-without-source-identity"), None);
    let role = moto.iam("GetRole", &[("RoleName", broker)]);
    assert_eq!(document_in(&role, "AssumeRolePolicyDocument"), want("session-role-trust"));
    assert!(role.contains(&format!("<Arn>{BROKER}</Arn>")), "{role}");
    assert!(role.contains("<Value>agents</Value>"), "{role}");
    // A second run adds nothing and replaces nothing.
    let (done, said) = run(&moto.endpoint());
    assert!(!done && said.contains("EntityAlreadyExists"), "{said}");
}

/// Returns the JSON in an element of a response of IAM.
fn document_in(response: &str, element: &str) -> Option<Value> {
    let (_, text) = response.split_once(&format!("<{element}>"))?;
    let (text, _) = text.split_once(&format!("</{element}>"))?;
    serde_json::from_str(&percent_decode_str(text).decode_utf8().unwrap()).unwrap()
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
    const BOUNDARY: &str = "--permissions-boundary=arn:aws:iam::444455556666:policy/b";
    let long = format!("--tenant={}", "a".repeat(22));
    const ISSUER: &str = "--oidc-issuer=https://oidc.example/id";
    const FAB: &str = "--service-account=fab";
    let other = "--base-role=arn:aws:iam::444455556666:role/r";
    let cases: [(&[&str], &str); 25] = [
        (&["--tenant=acme", "--base-role", BASE, ISSUER], "--service-account"),
        (&["--tenant=acme", "--base-role", BASE, FAB], "--oidc-issuer"),
        (&["--tenant=acme", "--base-role", BASE, ISSUER, "--service-account=*"], "not be only *"),
        (&["--tenant=acme", "--base-role", BASE, "--only=base-role-trust"], "needs --oidc-issuer"),
        (
            &["--tenant=acme", "--base-role", BASE, ISSUER, FAB, "--restrict-to=pod-uid"],
            "session tags of EKS Pod Identity",
        ),
        (
            &[
                "--tenant=acme",
                "--base-role",
                BASE,
                other,
                ISSUER,
                FAB,
                "--cluster-account=111122223333",
            ],
            "an OIDC provider of its own",
        ),
        (
            &[&long, "--base-role", BASE],
            "has 22 characters, but beside the session a SourceIdentity has at most 21",
        ),
        (&["--tenant=acme", "--base-role", BASE, "--base-role", BASE], "are the same role"),
        (&["--tenant=acme", "--base-role", BROKER], "are the same role"),
        (
            &["--tenant=acme", "--base-role=arn:aws:iam::111122223333:role/PROD-acme-broker"],
            "are the same role",
        ),
        (
            &["--tenant=acme", "--base-role=arn:aws-cn:iam::111122223333:role/r"],
            "are of two partitions",
        ),
        (&["--tenant=acme", "--base-role", BASE, "--tag=PlatformId"], "expected KEY=VALUE"),
        (&["--tenant=acme", "--base-role", BASE, "--tag=aws:k=v"], "reserved for AWS"),
        (
            &["--tenant=acme", "--base-role", BASE, "--tag=k=v", "--tag=K=w"],
            "--tag k is given twice",
        ),
        (&["--tenant=acme", "--base-role", BASE, "--suspended-tag=a*"], "--suspended-tag"),
        (
            &["--tenant=acme", "--base-role", BASE, "--permissions-boundary", BROKER],
            "expected the ARN of a managed policy",
        ),
        (&["--tenant=acme", "--base-role", BASE, BOUNDARY], "is of account 444455556666"),
        (
            &[
                "--tenant=acme",
                "--base-role",
                BASE,
                "--permissions-boundary=arn:aws-cn:iam::aws:policy/b",
            ],
            "are of two partitions",
        ),
        (&["--tenant=acme", "--base-role", BASE, "--model=a b"], "--model"),
        (
            &[
                "--tenant=acme",
                "--base-role",
                BASE,
                "--model=arn:aws-cn:bedrock:*::foundation-model/a",
            ],
            "--model is of partition aws-cn",
        ),
        (&["--tenant=acme", "--base-role", BASE, "--cluster-account=1"], "12 digits"),
        (&["--tenant=Acme", "--base-role", BASE], "--tenant"),
        (&["--tenant=acme", "--base-role=acme"], "--base-role"),
        (&["--tenant=acme", "--base-role", BASE, "--restrict-to=pod"], "tenant, pod-uid, pod-name"),
        (&["--tenant=acme", "--base-role", BASE, "--only=trust"], "session-role-trust, "),
    ];
    for (arguments, want) in cases {
        let output = iam(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(want), "{said}");
    }
}

/// The modules need the cluster's ARN.
#[test]
fn terraform_needs_the_cluster_and_its_region() {
    let arguments = ["--tenant=acme", "--base-role", BASE, "--output=terraform"];
    let refused = iam(&arguments);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("set --region"));
    let ssm = "roles: {ssm: {parameter: '/p/{tenant}', region: us-east-1}}\nregion: eu-west-1\n";
    let refused = iam_by(ssm, &arguments);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("set cluster in the config"));

    let printed = iam_by(&format!("cluster: prod\n{ssm}"), &arguments);
    let printed = String::from_utf8(printed.stdout).unwrap();
    for line in [
        "  cluster_arn      = \"arn:aws:eks:eu-west-1:111122223333:cluster/prod\"\n",
        "  parameter        = \"/p/{tenant}\"\n",
        "  parameter_region = \"us-east-1\"\n",
    ] {
        assert!(printed.contains(line), "{printed}");
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

/// Invokes a model with the credentials of a session; returns the status.
#[allow(clippy::disallowed_methods, reason = "the program under test uses the same clock")]
fn invoke(account: &Account, credentials: &Value, model: &str) -> u16 {
    let text = |key: &str| credentials[key].as_str().unwrap().to_owned();
    let (id, secret) = (text("AccessKeyId"), text("SecretAccessKey"));
    let identity = Credentials::new(id, secret, Some(text("Token")), None, "agent").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region("eu-west-1")
        .name("bedrock")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .unwrap();
    let host = "bedrock-runtime.eu-west-1.amazonaws.com";
    let path = format!("/model/{model}/invoke");
    let headers = [("host", host)].into_iter();
    let body = SignableBody::Bytes(b"{}");
    let request =
        SignableRequest::new("POST", format!("https://{host}{path}"), headers, body).unwrap();
    let (signature, _) = sign(request, &parameters.into()).unwrap().into_parts();
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in signature.headers() {
        head += &format!("{name}: {value}\r\n");
    }
    let mut connection = TcpStream::connect(account.address()).unwrap();
    write!(connection, "{head}Content-Length: 2\r\n\r\n{{}}").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn only(document: &str, arguments: &[&str]) -> Value {
    only_of(BROKER, document, arguments)
}

fn only_of(session_role: &str, document: &str, arguments: &[&str]) -> Value {
    let output = iam_of(session_role, &[arguments, &["--only", document]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the documents by their names.
pub(crate) fn documents(session_role: &str, arguments: &[&str]) -> BTreeMap<String, Value> {
    let output = iam_of(session_role, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let named = |it: Value| (it["name"].as_str().unwrap().to_owned(), it["document"].clone());
    documents.into_iter().map(named).collect()
}

pub(crate) fn iam(arguments: &[&str]) -> Output {
    iam_of(BROKER, arguments)
}

pub(crate) fn iam_of(session_role: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["iam", "--cluster=prod", "--session-role", session_role])
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
