//! Runs the queries of docs/cloudtrail.md unchanged. Each finds exactly its records, and also the
//! events of a real sidecar and a real SDK.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use harness::{
    process,
    sidecar::{
        account::{Account, Policies},
        client::{Client, words},
    },
};
use serde_json::{Value, json};

/// The records that each query finds, by the heading of the query.
const FINDS: [(&str, &[&str]); 5] = [
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
    ("AssumeRole calls with a tenant's names", &["session-assumes", "session-is-denied"]),
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
        let by_jq: BTreeSet<&str> =
            printed.lines().map(|line| names[line.rsplit('\t').next().unwrap()]).collect();
        assert_eq!(by_jq, wanted, "{heading}, by jq");
    }
}

#[test]
fn only_the_tenants_calls_are_counted_by_session() {
    let heading = "Calls of a tenant's sessions";
    let records = records();
    let [pod, session] =
        ["agent.acme.7f6d2c1e-93b4-4a51-8f0e-2f1d6b7a9c33", "agent.acme.fab-planner-x7k2q"];
    let wanted = [
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
    assert_eq!(found[0][1]["first_call"], "2026-11-24T08:00:09Z");
    assert_eq!(found[0][1]["last_call"], "2026-11-24T08:07:12Z");

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
    let [of_session, revoked, names, without, others] = &found.as_array().unwrap()[..] else {
        panic!()
    };
    assert_eq!(of_session[0]["eventname"], "GetCallerIdentity");
    assert_eq!(names[0]["session"], "agent.acme.fab-coder-x7k2p");
    assert_eq!(without[0]["eventname"], "GetCallerIdentity");
    assert!(without[0]["base"].as_str().unwrap().ends_with("/prod-acme-tenant/base"), "{without}");
    let counts = [of_session, revoked, names, without, others];
    assert_eq!(counts.map(|rows| rows.as_array().unwrap().len()), [1, 0, 1, 1, 0]);
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

/// Runs shell lines in a directory with two log files in the format of CloudTrail.
fn run(lines: &str, records: &[(String, Value)]) -> String {
    let directory = process::own_directory();
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
