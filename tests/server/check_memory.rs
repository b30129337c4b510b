//! The memory of `check`: namespaces are read and dropped one after the other.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
};

use harness::process::own_directory;
use serde_json::{Value, json};

/// Length of a page of pods in bytes, and number of pages in each namespace.
const PAGE: usize = 6 << 20;
const PAGES: usize = 2;

/// Returns the peak resident memory of `check`, in bytes, for this number of namespaces.
fn peak(namespaces: usize) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream, namespaces));
        }
    });
    let directory = own_directory();
    let kubeconfig = directory.path().join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [{"name": "a", "user": {}}],
    });
    fs::write(&kubeconfig, text.to_string()).unwrap();
    let mut check = Command::new(harness::program())
        .args(["check", "--skip-aws"])
        .env("KUBECONFIG", &kubeconfig)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The findings do not fit into a pipe, so once a byte is there, `check` waits with its peak
    // behind it.
    let mut output = check.stdout.take().unwrap();
    output.read_exact(&mut [0]).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", check.id())).unwrap();
    let mut findings = String::new();
    output.read_to_string(&mut findings).unwrap();
    assert_eq!(check.wait().unwrap().code(), Some(1), "{findings}");
    assert!(findings.len() > 64 << 10);
    let checked = findings.matches("running pods are up to date").count();
    assert_eq!(checked, namespaces);
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Answers one request as an API server with an installation and hostile pods.
fn answer(mut stream: TcpStream, namespaces: usize) {
    let mut request = String::new();
    let mut lines = BufReader::new(&stream);
    lines.read_line(&mut request).unwrap();
    let mut header = String::new();
    while lines.read_line(&mut header).unwrap() > 2 {
        header.clear();
    }
    let target = request.split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let body = match path {
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations" => {
            let service = json!({"namespace": "injector", "name": "webhook"});
            let webhook = json!({"clientConfig": {"service": service}});
            list(&[json!({"metadata": {"name": "fab-session-injector"}, "webhooks": [webhook]})])
        }
        "/api/v1/namespaces/injector/configmaps/webhook" => {
            let config = "region: eu-west-1\nroles: {ssm: {}}\ncluster: c\n";
            Some(json!({"data": {"config.yaml": config}}).to_string())
        }
        "/api/v1/namespaces" => {
            let opted_in = |index: usize| if index < namespaces { "enabled" } else { "enable" };
            let namespace = |index| {
                json!({"metadata": {"name": format!("tenants-{index}"), "labels": {
                    "fab.nanohype.dev/session-injection": opted_in(index),
                    "fab.nanohype.dev/tenant": "acme",
                }}})
            };
            list(&(0..1000).map(namespace).collect::<Vec<_>>())
        }
        _ if path.ends_with("/pods") => {
            let page: usize = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("continue=")?.parse().ok())
                .unwrap_or(1);
            let next = if page < PAGES { (page + 1).to_string() } else { String::new() };
            let piece = r#"{"name":"a"},"#;
            let pod = format!(
                r#"{{"metadata":{{"name":"a"}},"spec":{{"containers":[],"x":[{}0]}}}}"#,
                piece.repeat((1 << 20) / piece.len())
            );
            let pods = vec![pod; PAGE >> 20].join(",");
            Some(format!(
                r#"{{"kind":"PodList","metadata":{{"continue":"{next}"}},"items":[{pods}]}}"#
            ))
        }
        _ => None,
    };
    let (status, body) = match body {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", json!({"kind": "Status", "code": 404}).to_string()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}

fn list(items: &[Value]) -> Option<String> {
    Some(json!({"kind": "List", "items": items}).to_string())
}

#[test]
fn check_keeps_the_text_of_one_namespace_at_a_time() {
    let [none, one, three] = [0, 1, 3].map(peak);
    // The list, and a page three times: as it grows in memory, and once more in the list.
    assert!(one < none + PAGES * PAGE + 3 * PAGE, "{none}, with one namespace {one}");
    assert!(three < one + PAGE, "with one namespace {one}, with three {three}");
}
