//! Runs the queries of docs/cloudtrail.md unchanged. Each finds exactly its records, and also the
//! events of a real sidecar and a real SDK.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use harness::{
    process, program,
    sidecar::{
        account::{Account, BROKER, Policies},
        client::{Client, words},
    },
};
use serde_json::{Value, json};
use strict_aws::{Provider, tokens::Issuer};

/// The records that each query finds, by the heading of the query.
const FINDS: [(&str, &[&str]); 7] = [
    (
        "Calls of one session",
        &[
            "session-asks-who-it-is",
            "session-invokes",
            "session-invokes-again",
            "session-is-revoked",
        ],
    ),
    ("Denied calls of a revoked session", &["session-is-revoked"]),
    (
        "AssumeRole calls with a tenant's names",
        &[
            "session-assumes",
            "session-is-denied",
            "web-identity-assumes",
            "web-identity-is-denied",
            "web-identity-is-forged",
        ],
    ),
    (
        "Sessions from the session issuer",
        &["web-identity-assumes", "web-identity-is-denied", "web-identity-is-forged"],
    ),
    ("Calls on behalf of a person", &["web-identity-invokes"]),
    ("Calls without a session", &["base-role-assumes-without-a-name", "base-role-invokes"]),
    (
        "Sessions of a session-broker role with another name",
        &[
            "broker-with-a-persons-name",
            "broker-with-another-tenants-name",
            "broker-without-a-name",
        ],
    ),
];

#[test]
fn each_query_finds_its_records_and_no_other_in_sql_and_in_jq() {
    let records = records();
    let names: BTreeMap<&str, &str> = records
        .iter()
        .map(|(name, record)| (record["eventID"].as_str().unwrap(), name.as_str()))
        .collect();
    assert_eq!(names.len(), records.len(), "no two records have one eventID");
    let queries: Vec<String> = FINDS.iter().map(|(heading, _)| block(heading, "sql")).collect();
    let found = athena(&block("Athena table", "sql"), &queries, &records).unwrap();
    for ((heading, wanted), rows) in FINDS.iter().zip(found.as_array().unwrap()) {
        let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
        let by_sql: BTreeSet<&str> = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| names[row["eventid"].as_str().unwrap()])
            .collect();
        assert_eq!(by_sql, wanted, "{heading}, in SQL");
        let printed = run(&block(heading, "sh"), &records);
        assert_eq!(named(&printed, &names), wanted, "{heading}, by jq");
    }
}

#[test]
fn a_session_is_listed_unless_the_issuer_logged_its_token() {
    let records = records();
    let names: BTreeMap<&str, &str> = records
        .iter()
        .map(|(name, record)| (record["eventID"].as_str().unwrap(), name.as_str()))
        .collect();
    let uid = "3b0f9a52-6c1d-4e0e-9d5a-8f2c7e41b6d0";
    let broker = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker";
    let lines = |tokens: &[(&str, &str, &str)]| {
        let lines = tokens.iter().map(|(timestamp, identity, role)| {
            let line = json!({
                "timestamp": timestamp, "level": "INFO", "message": "token",
                "source_identity": identity, "role": role,
            });
            format!("{line}\n")
        });
        let other = json!({"timestamp": "2026-11-24T08:00:00.1Z", "message": "serving"});
        format!("{other}\n{}", lines.collect::<String>())
    };
    let lacks = |log: &str| {
        let printed =
            run_beside(&block("Sessions that the issuer's log lacks", "sh"), &records, log);
        let found = named(&printed, &names);
        found.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let own = format!("agent.acme.{uid}");
    let [first, second] = ["2026-11-24T09:00:02.004211Z", "2026-11-24T09:41:11.9Z"];
    let complete = lines(&[(first, &own, broker), (second, &own, broker)]);
    assert_eq!(lacks(&complete), ["web-identity-is-forged"]);
    let all = ["web-identity-assumes", "web-identity-is-denied", "web-identity-is-forged"];
    assert_eq!(lacks(&lines(&[])), all);
    // Of another role, of another session, too early and too late.
    let useless = lines(&[
        (first, &own, "arn:aws:iam::111122223333:role/other"),
        (first, "agent.acme.other", broker),
        ("2026-11-24T08:53:00.0Z", &own, broker),
        ("2026-11-24T09:00:09.0Z", &own, broker),
    ]);
    assert_eq!(lacks(&useless), all);
}

#[test]
fn only_the_tenants_calls_are_counted_by_session() {
    let heading = "Calls of a tenant's sessions";
    let records = records();
    let [from_issuer, pod, session] = [
        "agent.acme.3b0f9a52-6c1d-4e0e-9d5a-8f2c7e41b6d0",
        "agent.acme.7f6d2c1e-93b4-4a51-8f0e-2f1d6b7a9c33",
        "agent.acme.fab-planner-x7k2q",
    ];
    let wanted = [
        (from_issuer, "bedrock.amazonaws.com", "InvokeModel", 1),
        (pod, "bedrock.amazonaws.com", "ConverseStream", 1),
        (session, "bedrock.amazonaws.com", "InvokeModel", 3),
        (session, "sts.amazonaws.com", "GetCallerIdentity", 1),
    ];
    let found = athena(&block("Athena table", "sql"), &[block(heading, "sql")], &records).unwrap();
    let rows: Vec<Value> = found[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["session"], row["eventsource"], row["eventname"], row["calls"]]))
        .collect();
    assert_eq!(rows, wanted.map(|row| json!(row)));
    assert_eq!(found[0][2]["first_call"], "2026-11-24T08:00:09Z");
    assert_eq!(found[0][2]["last_call"], "2026-11-24T08:07:12Z");

    let printed = run(&block(heading, "sh"), &records);
    let lines: Vec<String> =
        printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let wanted =
        wanted.map(|(session, source, name, calls)| format!("{calls} {session} {source} {name}"));
    assert_eq!(lines, wanted);
}

/// Events of the strict AWS: AssumeRole of the sidecar, an SDK's call with session credentials, and
/// a call with base credentials.
#[test]
fn queries_find_the_events_of_sidecar_and_sdk() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let _sidecar = pod.start_ready();
    Client::start("go", pod.agent(&words("go"))).call().unwrap();
    let base = account.base_session();
    let keys = [
        format!("AWS_ACCESS_KEY_ID={}", base.access_key_id),
        format!("AWS_SECRET_ACCESS_KEY={}", base.secret_access_key),
        format!("AWS_SESSION_TOKEN={}", base.session_token),
    ];
    let with_base = [&["env".to_owned()], &keys[..], &words("go")].concat();
    Client::start("go", pod.agent(&with_base)).call().unwrap();

    let records: Vec<(String, Value)> =
        account.aws.events().into_iter().map(|event| (String::new(), event)).collect();
    let of_today = |query: String| {
        let days = "BETWEEN '2026/11/24' AND '2026/11/25'";
        assert!(query.contains(days), "{query}");
        query.replace(days, "> '2020/01/01'").replace("fab-planner-x7k2q", "fab-coder-x7k2p")
    };
    let queries: Vec<String> =
        FINDS.iter().map(|(heading, _)| of_today(block(heading, "sql"))).collect();
    let found = athena(&block("Athena table", "sql"), &queries, &records).unwrap();
    let [of_session, revoked, names, issued, of_person, without, others] =
        &found.as_array().unwrap()[..]
    else {
        panic!()
    };
    assert_eq!(of_session[0]["eventname"], "GetCallerIdentity");
    assert_eq!(names[0]["session"], "agent.acme.fab-coder-x7k2p");
    assert_eq!(without[0]["eventname"], "GetCallerIdentity");
    assert!(without[0]["base"].as_str().unwrap().ends_with("/prod-acme-tenant/base"), "{without}");
    let counts = [of_session, revoked, names, issued, of_person, without, others];
    assert_eq!(counts.map(|rows| rows.as_array().unwrap().len()), [1, 0, 1, 0, 0, 1, 0]);
}

/// Events of the strict AWS with the trust policy that `iam` prints: two JWTs, of which the issuer
/// logged one, and an SDK's call with its session.
#[test]
#[allow(clippy::disallowed_methods, reason = "the strict AWS uses the same clock")]
fn queries_find_the_events_of_the_session_issuer() {
    const URL: &str = "https://issuer.example.com/prod";
    const CLIENT_ID: &str = "fab-session/prod";
    let policies = |on_behalf_of: bool| Policies {
        trust: issuer_trust(URL, on_behalf_of),
        ..Policies::default()
    };
    let issuer = Issuer::new(URL).unwrap();
    let open = |policies| {
        let provider = Provider::new(URL, [CLIENT_ID]);
        let account = Account::open_with(policies, |world| world.provider(provider));
        assert!(account.aws.publish(URL, issuer.discovery(), issuer.jwks()));
        account
    };
    let account = open(policies(true));
    let token = |identity: &str, role: &str, on_behalf_of: Option<&str>| {
        let minute = Duration::from_secs(60);
        let mut claims = issuer.claims(identity, CLIENT_ID, SystemTime::now(), minute);
        claims["https://aws.amazon.com/source_identity"] = identity.into();
        claims["https://aws.amazon.com/roles"] = json!([role]);
        claims["https://aws.amazon.com/tags"] = json!({
            "principal_tags": {"kubernetes-namespace": ["tenants-acme"], "kubernetes-pod-uid": ["0"]},
            "transitive_tag_keys": [],
        });
        if let Some(value) = on_behalf_of {
            claims["https://aws.amazon.com/tags"]["principal_tags"]["on-behalf-of"] =
                json!([value]);
        }
        issuer.sign(&claims)
    };
    let assume = |identity: &str, token: &str| {
        let name = identity.rsplit('.').next().unwrap();
        assume_with(account.address(), name, token)
    };
    let own = "agent.acme.fab-coder-x7k2p";
    let person = "jane.doe@example.com";
    let issued = assume(own, &token(own, BROKER, Some(person))).unwrap();
    assume("agent.acme.forged", &token("agent.acme.forged", BROKER, Some("other"))).unwrap();
    // The controls: another tenant's name, and a token for another role.
    let denied =
        assume("agent.other.coder", &token("agent.other.coder", BROKER, None)).unwrap_err();
    assert!(denied.contains("AccessDenied"), "{denied}");
    let other = "arn:aws:iam::111122223333:role/other";
    let rejected = assume(own, &token(own, other, None)).unwrap_err();
    assert!(rejected.contains("InvalidIdentityToken"), "{rejected}");
    // The trust policy allows the tag only if the config has it.
    let without = open(policies(false));
    let denied =
        assume_with(without.address(), "coder", &token(own, BROKER, Some(person))).unwrap_err();
    assert!(denied.contains("AccessDenied"), "{denied}");
    assume_with(without.address(), "coder", &token(own, BROKER, None)).unwrap();
    let [id, secret, session] = issued;
    let pod = account.pod();
    let variables = [
        "env".to_owned(),
        format!("AWS_ACCESS_KEY_ID={id}"),
        format!("AWS_SECRET_ACCESS_KEY={secret}"),
        format!("AWS_SESSION_TOKEN={session}"),
    ];
    Client::start("go", pod.agent(&[&variables[..], &words("go")].concat())).call().unwrap();

    let records: Vec<(String, Value)> =
        account.aws.events().into_iter().map(|event| (String::new(), event)).collect();
    let rows = |heading: &str| {
        let printed =
            run(&block(heading, "sh").replace("fab-planner-x7k2q", "fab-coder-x7k2p"), &records);
        printed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let [call] = &rows("Calls of one session")[..] else { panic!("one call") };
    assert!(call.contains("GetCallerIdentity"), "{call}");
    assert_eq!(rows("AssumeRole calls with a tenant's names").len(), 2);
    assert_eq!(rows("Sessions from the session issuer").len(), 3, "with the denied one");
    let [call] = &rows("Calls on behalf of a person")[..] else { panic!("one call") };
    assert!(call.contains("GetCallerIdentity"), "{call}");
    assert_eq!(rows("Calls without a session"), Vec::<String>::new());

    let time = records[0].1["eventTime"].as_str().unwrap();
    let log = json!({
        "timestamp": time.replace('Z', ".5Z"), "message": "token", "source_identity": own, "role": BROKER,
    });
    let lines = block("Sessions that the issuer's log lacks", "sh");
    let printed = run_beside(&lines, &records, &log.to_string());
    let found: Vec<&str> = printed.lines().map(|line| line.split('\t').nth(1).unwrap()).collect();
    assert_eq!(found, ["agent.acme.forged", "agent.other.coder"]);
}

/// The reason why the page defines its own table.
#[test]
fn queries_fail_without_the_source_identity_field() {
    let own = block("Athena table", "sql");
    let theirs = own.replace(">,\n      sourceidentity: STRING>>", ">>>");
    assert_ne!(own, theirs);
    let query = [block("Calls of one session", "sql")];
    let said = athena(&theirs, &query, &records()).unwrap_err();
    assert!(said.contains("sourceidentity"), "{said}");
    // The control: invalid SQL fails.
    let said = athena(&own, &[query[0].replace("FROM", "FROMM")], &records()).unwrap_err();
    assert!(said.contains("ParseError"), "{said}");
}

/// Returns the records, by file name.
fn records() -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cloudtrail");
    let mut records: Vec<(String, Value)> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
        })
        .collect();
    records.sort_by_key(|(_, record)| record["eventTime"].to_string());
    records
}

/// Returns the only block of this language below the heading.
fn block(heading: &str, language: &str) -> String {
    let page = include_str!("../../docs/cloudtrail.md");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap();
    let fence = format!("<!-- run by tests/cluster/cloudtrail.rs -->\n```{language}\n");
    let mut blocks = section.split(&fence).skip(1);
    let text = blocks.next().expect(heading).split("\n```").next().unwrap().to_owned();
    assert_eq!(blocks.next(), None, "{heading}: one block of {language}");
    text
}

/// Returns the rows of each query, or the error.
fn athena(table: &str, queries: &[String], records: &[(String, Value)]) -> Result<Value, String> {
    let records: Vec<&Value> = records.iter().map(|(_, record)| record).collect();
    let task = json!({"table": table, "queries": queries, "records": records});
    let mut child = Command::new(process::program("athena"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// Returns the trust policy of the tenant's role for the session issuer with this URL.
fn issuer_trust(url: &str, on_behalf_of: bool) -> Value {
    let directory = process::own_directory();
    let file = directory.path().join("config.yaml");
    let key = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let config = json!({
        "cluster": "prod",
        "roles": {"ssm": {}, "allow": {"accounts": ["111122223333"]}},
        "issuer": {
            "url": url,
            "endpoint": "https://issuer.fab-system.svc/v1/token",
            "caFile": "ca.crt",
            "keys": [{"kms": key}],
            "onBehalfOf": on_behalf_of,
        },
    });
    fs::write(&file, config.to_string()).unwrap();
    let printed = Command::new(program())
        .args(["iam", "--tenant", "acme", "--transport", "web-identity"])
        .args(["--only", "session-role-trust", "--session-role", BROKER, "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    serde_json::from_slice(&printed.stdout).unwrap()
}

/// Calls AssumeRoleWithWebIdentity. Returns access key, secret and session token, or the error.
fn assume_with(aws: SocketAddr, name: &str, token: &str) -> Result<[String; 3], String> {
    let body = format!(
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={BROKER}&RoleSessionName={name}&WebIdentityToken={token}"
    );
    let length = body.len();
    let mut stream = TcpStream::connect(aws).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: {aws}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(answer);
    }
    let element = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap();
        rest.split('<').next().unwrap().to_owned()
    };
    Ok(["AccessKeyId", "SecretAccessKey", "SessionToken"].map(element))
}

/// Returns the names of the records whose event IDs are the last fields of the lines.
fn named<'n>(printed: &str, names: &BTreeMap<&str, &'n str>) -> BTreeSet<&'n str> {
    printed.lines().map(|line| names[line.rsplit('\t').next().unwrap()]).collect()
}

/// Runs shell lines in a directory with two log files in the format of CloudTrail.
fn run(lines: &str, records: &[(String, Value)]) -> String {
    run_beside(lines, records, "")
}

/// The same beside the log of the session issuer.
fn run_beside(lines: &str, records: &[(String, Value)], issuer_log: &str) -> String {
    let directory = process::own_directory();
    fs::write(directory.path().join("issuer.log"), issuer_log).unwrap();
    let (first, second) = records.split_at(records.len() / 2);
    for (file, part) in [("0805Z_a.json", first), ("1115Z_b.json", second)] {
        let records: Vec<&Value> = part.iter().map(|(_, record)| record).collect();
        let file = directory.path().join(file);
        fs::write(&file, json!({"Records": records}).to_string()).unwrap();
        assert!(Command::new("gzip").arg(&file).status().unwrap().success());
    }
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", lines]).current_dir(directory.path());
    let output = shell.env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{lines}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
