//! The log queries of docs/metrics.md, over the logs of real sidecars. Loki's own parser and
//! pipeline run its queries (`tests/loki`). No program that the tests can have runs queries of
//! CloudWatch Logs Insights: only their fields and values are compared with the logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use harness::{
    process::{Process, program, wait_until},
    sidecar::{
        account::{Account, Policies, allow, statements},
        pod::Pod,
    },
};
use serde_json::{Value, json};
use strict_aws::{Fault, Target, Times};

use super::repository;

/// A sidecar that works, two whose role may not be assumed, and one whose STS does not work.
#[test]
fn log_queries_find_each_failure_by_its_code() {
    let works = || Account::open(Policies::default());
    let foreign = json!({"Principal": {"AWS": "arn:aws:iam::999999999999:root"}});
    let trust = statements(&[allow(&["sts:AssumeRole", "sts:SetSourceIdentity"], foreign)]);
    let denied = || Account::open(Policies { trust: trust.clone(), ..Policies::default() });
    let away = works();
    away.aws.inject(Target::Sts, Fault::InternalError, Times::UntilCleared);
    let accounts = [works(), denied(), denied(), away];
    let messages = ["issued", "assume-role-denied", "assume-role-denied", "sts-unavailable"];
    let pods: Vec<(Pod, Process)> = accounts
        .iter()
        .map(Account::pod)
        .map(|pod| {
            let sidecar = pod.start();
            (pod, sidecar)
        })
        .collect();
    let logs: Vec<String> = pods
        .iter()
        .zip(messages)
        .map(|((_, sidecar), message)| {
            wait_until(message, Duration::from_secs(60), || {
                let log = sidecar.log();
                log.contains(message).then_some(log)
            })
        })
        .collect();
    let log = logs.concat();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    let [by_code, reasons] = &blocks("logql")[..] else { panic!("two queries of Loki") };
    let counted: BTreeMap<String, f64> = logql(by_code, &log)
        .iter()
        .map(|group| {
            assert_eq!(group["labels"]["namespace"], "tenants-acme");
            let code = group["labels"]["code"].as_str().unwrap().to_owned();
            (code, group["value"].as_f64().unwrap())
        })
        .collect();
    let want = [("assume-role-denied".to_owned(), 2.0), ("sts-unavailable".to_owned(), 1.0)];
    assert_eq!(counted, BTreeMap::from(want));
    let printed = logql(reasons, &log);
    let failures: Vec<&Value> =
        lines.iter().filter(|line| line["message"] == "no new session credentials").collect();
    let shown = |line: &&Value| {
        format!("{} {}", line["code"].as_str().unwrap(), line["error"].as_str().unwrap())
    };
    let want: BTreeSet<String> = failures.iter().map(shown).collect();
    let printed: BTreeSet<String> =
        printed.iter().map(|found| found["line"].as_str().unwrap().to_owned()).collect();
    assert_eq!(printed, want);
    // Negative controls: another message selects no line, and Loki's parser refuses a misspelt query.
    assert!(logql(&by_code.replace("no new", "new"), &log).is_empty());
    assert!(run(&by_code.replace("| json", "| jason"), &log).is_err());

    let [insights] = &blocks("insights")[..] else { panic!("one query of Logs Insights") };
    let fields: BTreeSet<&str> = insights
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
        .filter_map(|word| word.strip_prefix("log_processed."))
        .collect();
    assert_eq!(fields, BTreeSet::from(["code", "message"]));
    assert!(failures.iter().all(|line| fields.iter().all(|field| line[field].is_string())));
    assert!(insights.contains(r#""no new session credentials""#), "{insights}");
}

/// Returns the blocks of docs/metrics.md in this language.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(repository("docs/metrics.md")).unwrap();
    let begin = format!("\n```{language}\n");
    let blocks = page.split(&begin).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().trim().to_owned()).collect()
}

fn logql(query: &str, log: &str) -> Vec<Value> {
    let printed = run(query, log).unwrap();
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs the query with the labels that collectors of Kubernetes' logs set.
fn run(query: &str, log: &str) -> Result<String, String> {
    let mut child = Command::new(program("logql"))
        .arg(query)
        .args(["container=fab-session-credentials", "namespace=tenants-acme", "pod=agent"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program reads no line if it does not parse the query.
    let _ = child.stdin.take().unwrap().write_all(log.as_bytes());
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(stdout) } else { Err(stderr) }
}
