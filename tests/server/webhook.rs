//! Tests of the webhook server with clients on its port.

use std::{
    fs, net::SocketAddr, os::unix::fs::symlink, path::Path, process::Command, time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    process::{free_port, get, own_directory, wait_until},
    webhook::{
        client::{Answer, Client, Protocol, shake_hands},
        server::{Server, command, make_certificate, review},
    },
};
use hyper::StatusCode;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JSON: &str = "application/json";

async fn connect(server: &Server) -> Client {
    Client::connect(server.address, &server.authority(), Protocol::Http2, &[&TLS13]).await.unwrap()
}

async fn ask(server: &Server, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    connect(server).await.post(path, JSON, body.into()).await.unwrap()
}

fn response(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    serde_json::from_slice::<Value>(&answer.body).unwrap()["response"].take()
}

fn patched(review: &[u8], response: &Value) -> Value {
    let mut object = serde_json::from_slice::<Value>(review).unwrap()["request"]["object"].take();
    if let Some(patch) = response["patch"].as_str() {
        let patch: json_patch::Patch =
            serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

#[tokio::test]
async fn the_webhook_supports_the_protocols_of_api_servers() {
    let server = Server::start();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for version in [&TLS12, &TLS13] {
            let mut client =
                Client::connect(server.address, &server.authority(), protocol, &[version])
                    .await
                    .unwrap();
            let answer = client.post("/enabled?timeout=5s", JSON, review("runtime")).await.unwrap();
            assert_eq!(response(&answer)["patchType"], "JSONPatch", "{protocol:?} {version:?}");
        }
    }
}

#[tokio::test]
async fn recorded_reviews_get_the_same_response_each_time() {
    let server = Server::start();
    let cases = [
        ("runtime", "inject"),
        ("dispatcher", "inject"),
        ("several-containers", "inject"),
        ("fleet", "withhold"),
    ];
    for (name, decision) in cases {
        let review = review(name);
        let answer = ask(&server, "/enabled", review.clone()).await;
        let told = response(&answer);
        let mut request: Value = serde_json::from_slice(&review).unwrap();
        assert_eq!(told["uid"], request["request"]["uid"], "{name}");
        assert_eq!(told["allowed"], true, "{name}");
        assert_eq!(told["auditAnnotations"]["decision"], decision, "{name}");
        assert_eq!(
            ask(&server, "/enabled", review.clone()).await.body,
            answer.body,
            "{name}: same in, same out"
        );

        request["request"]["object"] = patched(&review, &told);
        let again = response(&ask(&server, "/enabled", request.to_string()).await);
        assert_eq!(again.get("patch"), None, "{name}: twice is once");
        assert_eq!(again["auditAnnotations"], told["auditAnnotations"], "{name}");

        let audit = response(&ask(&server, "/audit", review).await);
        let want = json!({"uid": told["uid"], "allowed": true, "auditAnnotations": told["auditAnnotations"]});
        assert_eq!(audit, want, "{name}: an audit changes nothing");
    }
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_a_retry_status() {
    let server = Server::start();
    let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
    review["request"]["object"]["spec"]["hostPID"] = true.into();
    let refused = response(&ask(&server, "/enabled", review.to_string()).await);
    assert_eq!(refused["allowed"], false);
    assert_eq!(refused["status"]["code"], 403);
    assert!(refused["status"]["message"].as_str().unwrap().contains("[host-namespace]"));
    let audit = response(&ask(&server, "/audit", review.to_string()).await);
    assert_eq!((&audit["allowed"], audit.get("status")), (&json!(true), None));
    assert_eq!(audit["auditAnnotations"]["decision"], "refuse/host-namespace");

    review["request"]["namespace"] = "tenants-unheard-of".into();
    let refused = response(&ask(&server, "/enabled?timeout=2s", review.to_string()).await);
    assert_eq!(refused["status"]["code"], 503);
    assert_eq!(refused["status"]["details"]["retryAfterSeconds"], 1);
}

/// Names in a review are not validated: the API server validates them after webhooks, and a forged
/// review can contain any text.
#[tokio::test]
async fn responses_and_log_lines_have_no_terminal_commands() {
    let server = Server::start();
    let is_command = |c: char| {
        let mark =
            matches!(u32::from(c), 0x61c | 0x200e | 0x200f | 0x202a..=0x202e | 0x2066..=0x2069);
        mark || (c.is_control() && c != '\n')
    };
    let name = "n\u{7f}\u{80}\u{9b}31m\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\u{1b}[2J\r\nn";
    let container = |more: Value| {
        let mut container = json!({"name": name, "image": "i"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"spec": {"containers": [container]}})
    };
    let audience = json!([{"name": name, "projected": {"sources": [{"serviceAccountToken": {"audience": "sts.amazonaws.com", "path": name}}]}}]);
    // Changes of the pod, and the expected message.
    let cases = [
        (
            json!({"metadata": {"labels": {"fab.nanohype.dev/component": name}}}),
            "[unknown-component]",
        ),
        (
            container(json!({"env": [{"name": "AWS_PROFILE", "value": name}]})),
            "[static-credentials]",
        ),
        (container(json!({"ports": [{"containerPort": 7413}]})), "[port-taken]"),
        (json!({"spec": {"volumes": audience}}), "[aws-token-volume]"),
        (container(json!({"envFrom": [{"configMapRef": {"name": name}}]})), "envFrom"),
    ];
    for (change, want) in cases {
        let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
        json_patch::merge(&mut review["request"]["object"], &change);
        review["request"]["object"]["metadata"]["name"] = name.into();
        review["request"]["uid"] = format!("uid-{name}").into();
        let answer = ask(&server, "/enabled", review.to_string()).await;
        let told = response(&answer);
        let warnings = told["warnings"].as_array().into_iter().flatten();
        let texts: Vec<&str> =
            warnings.chain([&told["status"]["message"]]).filter_map(Value::as_str).collect();
        assert!(texts.iter().any(|text| text.contains(want)), "{want}: {told}");
        for text in texts {
            assert!(!text.contains('\n') && !text.contains(is_command), "{want}: {text:?}");
        }
    }
    let log = wait_until("the log has each review", Duration::from_secs(5), || {
        let log = server.process.log();
        (log.matches("uid-n").count() == 5).then_some(log)
    });
    assert!(!log.contains(is_command), "{log:?}");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ours = |line: &Value| line["uid"] == format!("uid-{name}") && line["pod"] == name;
    assert_eq!(lines.filter(ours).count(), 5);
}

#[tokio::test]
async fn the_log_has_the_name_or_generate_name_of_the_pod() {
    let server = Server::start();
    let labels = (0..2000).map(|n| (format!("label-{n}"), json!("")));
    let labels: serde_json::Map<String, Value> = labels.collect();
    let long = "n".repeat(300);
    // Changes of the pod's metadata, and the expected name.
    let cases = [
        ("runtime", json!({}), json!("session-fab-coder-x7k2p")),
        ("runtime", json!({"generateName": "other-"}), json!("session-fab-coder-x7k2p")),
        ("runtime", json!({"labels": labels}), json!("session-fab-coder-x7k2p")),
        ("runtime", json!({"name": long}), json!(long[..253])),
        ("runtime", json!({"name": null}), json!(null)),
        ("runtime", json!({"name": null, "generateName": long}), json!(long[..253])),
        ("runtime", json!({"labels": {"a": 1}}), json!(null)),
        ("dispatcher", json!({}), json!("fab-feature-build-")),
    ];
    for (index, (name, change, want)) in cases.into_iter().enumerate() {
        let mut review: Value = serde_json::from_slice(&review(name)).unwrap();
        json_patch::merge(&mut review["request"]["object"]["metadata"], &change);
        let uid = format!("uid-{index}");
        review["request"]["uid"] = json!(uid);
        response(&ask(&server, "/enabled", review.to_string()).await);
        let line = wait_until("the log has the review", Duration::from_secs(5), || {
            let log = server.process.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.find(|line: &Value| line["uid"] == uid)
        });
        assert_eq!(line["pod"], want, "{name} {change}");
    }
}

#[tokio::test]
async fn a_pod_with_thousands_of_containers_delays_no_review() {
    let server = Server::start();
    for name in ["fab-session-credentials", "agent"] {
        let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
        let many: Vec<Value> = (0..20_000).map(|_| json!({"name": name, "image": "x"})).collect();
        review["request"]["object"]["spec"]["initContainers"] = many.into();
        let answer = tokio::time::timeout(
            Duration::from_secs(10),
            ask(&server, "/enabled", review.to_string()),
        )
        .await;
        let refused = response(&answer.expect("it is answered at all"));
        assert!(
            refused["status"]["message"].as_str().unwrap().contains("[too-many-containers]"),
            "{refused}"
        );
    }
}

/// The API server waits two seconds; SSM accepts the call and never responds.
#[tokio::test]
async fn a_review_gets_its_response_in_time_while_ssm_hangs() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = own_directory();
    let tls = directory.path().join("tls");
    make_certificate(&tls, &[]);
    let config = directory.path().join("config.yaml");
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    fs::write(
        &config,
        json!({"cluster": "prod", "roles": {"ssm": {"endpoint": endpoint, "region": "eu-west-1"}}})
            .to_string(),
    )
    .unwrap();
    let arguments = ["--shutdown-delay=0", "--config", config.to_str().unwrap()];
    let server = Server::start_with(directory, &tls, &arguments);
    let answer = tokio::time::timeout(
        Duration::from_secs(10),
        ask(&server, "/enabled?timeout=2s", review("runtime")),
    )
    .await;
    let refused = response(&answer.expect("it is answered at all"));
    assert!(
        refused["status"]["message"].as_str().unwrap().contains("[role-unavailable]"),
        "{refused}"
    );
    assert_eq!(refused["status"]["code"], 503);
}

#[tokio::test]
async fn an_invalid_request_gets_an_http_status() {
    let server = Server::start();
    let good = review("runtime");
    let mut old: Value = serde_json::from_slice(&good).unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let list = json!([old["apiVersion"], old["kind"], old["request"]]).to_string();
    old["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let cases: [(&str, Vec<u8>, u16); 14] = [
        (JSON, b"[]".to_vec(), 400),
        (JSON, list.into_bytes(), 400),
        (JSON, b"".to_vec(), 400),
        (JSON, b"not json".to_vec(), 400),
        (JSON, b"null".to_vec(), 400),
        (JSON, b"{}".to_vec(), 400),
        (JSON, br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}"#.to_vec(), 400),
        (JSON, br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":""}}"#.to_vec(), 400),
        (JSON, old.to_string().into_bytes(), 400),
        (JSON, deep.into_bytes(), 400),
        ("text/plain", good.clone(), 415),
        ("application/jsonp", good.clone(), 415),
        ("application/json; charset=utf-8", good.clone(), 200),
        ("Application/JSON", good.clone(), 200),
    ];
    for (content_type, body, want) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = connect(&server).await.post("/enabled", content_type, body).await.unwrap();
        assert_eq!(answer.status.as_u16(), want, "{content_type} {shown}");
    }
    let answer = ask(&server, "/enabled", "[]").await;
    let want = "the body is not an AdmissionReview: invalid type: sequence, expected a JSON object at line 1 column 2\n";
    assert_eq!(answer.body, want);
    // Padded with white space, which JSON allows, to the limit and one byte more.
    for (bytes, want) in [(8 * 1024 * 1024, 200), (8 * 1024 * 1024 + 1, 413)] {
        let mut body = good.clone();
        body.resize(bytes, b' ');
        let answer = connect(&server).await.post("/enabled", JSON, body).await.unwrap();
        assert_eq!(answer.status.as_u16(), want, "{bytes}");
    }
    let metrics = get(server.health, "/metrics");
    assert!(
        metrics.contains("fab_session_injector_rejected_requests_total{status=\"413\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_unreadable_pod_is_refused_with_its_uid() {
    let server = Server::start();
    let cases = [
        json!(null),
        json!("pod"),
        json!({"metadata": {}, "spec": {"containers": "none"}}),
        json!({"metadata": {}, "spec": {"containers": [{"name": 7}]}}),
        json!({"metadata": {"labels": {"a": 1}}, "spec": {}}),
        json!({"spec": {"containers": []}}),
        json!({"metadata": {}, "spec": {"serviceAccountName": [], "containers": []}}),
    ];
    for object in cases {
        let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
        review["request"]["object"] = object.clone();
        let refused = response(&ask(&server, "/enabled", review.to_string()).await);
        assert_eq!(refused["uid"], review["request"]["uid"], "{object}");
        assert!(
            refused["status"]["message"].as_str().unwrap().contains("[unreadable-pod]"),
            "{object}: {refused}"
        );
    }
    for (field, value) in
        [("operation", "UPDATE"), ("operation", "DELETE"), ("subResource", "status")]
    {
        let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
        review["request"][field] = value.into();
        let refused = response(&ask(&server, "/enabled", review.to_string()).await);
        assert!(
            refused["status"]["message"].as_str().unwrap().contains("[not-a-pod-creation]"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_review_with_an_invalid_field_keeps_its_uid() {
    let server = Server::start();
    let cases = [
        ("userInfo", json!(null), None),
        ("userInfo", json!("me"), None),
        ("userInfo", json!(["me"]), None),
        ("userInfo", json!({"username": null}), None),
        ("dryRun", json!("yes"), None),
        ("subResource", json!(null), None),
        ("namespace", json!(null), Some("[namespace-unknown]")),
        ("namespace", json!(["tenants-acme"]), Some("[namespace-unknown]")),
        ("operation", json!(null), Some("[not-a-pod-creation]")),
        ("resource", json!(["", "v1", "pods"]), Some("[not-a-pod-creation]")),
    ];
    for (field, value, refusal) in cases {
        let mut review: Value = serde_json::from_slice(&review("runtime")).unwrap();
        review["request"][field] = value.clone();
        let told = response(&ask(&server, "/enabled", review.to_string()).await);
        assert_eq!(told["uid"], review["request"]["uid"], "{field}: {value}");
        assert_eq!(told["allowed"], refusal.is_none(), "{field}: {value}");
        let said = told["status"]["message"].as_str().unwrap_or_default();
        assert!(said.contains(refusal.unwrap_or_default()), "{field}: {value}: {said}");
    }
}

/// Replaces a Secret as the kubelet does: a new directory, and a symlink renamed over the old one.
fn mount(directory: &Path, generation: &str, arguments: &[&str]) {
    let fresh = directory.join(format!("..{generation}"));
    let authority = directory.parent().unwrap().join("tls");
    fs::create_dir_all(&fresh).unwrap();
    for file in ["ca.crt", "ca.key"] {
        if authority.join(file).exists() {
            fs::copy(authority.join(file), fresh.join(file)).unwrap();
        }
    }
    make_certificate(&fresh, arguments);
    fs::create_dir_all(&authority).unwrap();
    for file in ["ca.crt", "ca.key"] {
        fs::copy(fresh.join(file), authority.join(file)).unwrap();
    }
    let next = directory.join("..data_tmp");
    symlink(format!("..{generation}"), &next).unwrap();
    fs::rename(&next, directory.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let _ = symlink(format!("..data/{file}"), directory.join(file));
    }
}

#[tokio::test]
async fn a_certificate_that_the_kubelet_replaces_is_served() {
    let directory = own_directory();
    let secret = directory.path().join("secret");
    mount(&secret, "1", &[]);
    let server = Server::start_with(directory, &secret, &["--shutdown-delay=0"]);
    let metric = |outcome: &str| {
        let metrics = get(server.health, "/metrics");
        let name =
            format!("fab_session_injector_certificate_reloads_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.unwrap().parse::<u64>().unwrap()
    };
    let mut held = connect(&server).await;
    let mut seen = vec![held.certificate.clone()];
    for (round, generation) in ["2", "3"].into_iter().enumerate() {
        mount(&secret, generation, &[]);
        wait_until("the new certificate is taken", Duration::from_secs(20), || {
            (metric("loaded") > round as u64).then_some(())
        });
        let client = connect(&server).await;
        assert!(!seen.contains(&client.certificate), "generation {generation} is not served");
        seen.push(client.certificate);
    }
    // A key that does not match, and then no files: the last valid certificate is kept.
    mount(&secret, "4", &["--wrong-pair"]);
    wait_until("the wrong pair is noticed", Duration::from_secs(20), || {
        (metric("failed") > 0).then_some(())
    });
    assert_eq!(connect(&server).await.certificate, *seen.last().unwrap());
    mount(&secret, "5", &[]);
    wait_until("a sound pair is taken again", Duration::from_secs(20), || {
        (metric("loaded") > 2).then_some(())
    });
    let last = connect(&server).await.certificate;
    fs::remove_file(secret.join("..data")).unwrap();
    wait_until("the absence is noticed", Duration::from_secs(20), || {
        (metric("failed") > 1).then_some(())
    });
    assert_eq!(connect(&server).await.certificate, last);
    // Existing connections continue.
    assert_eq!(
        held.post("/enabled", JSON, review("runtime")).await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn an_expired_certificate_is_logged_and_replaced() {
    let directory = own_directory();
    let secret = directory.path().join("secret");
    mount(&secret, "1", &["--expired"]);
    let server = Server::start_with(directory, &secret, &["--shutdown-delay=0"]);
    let said = wait_until("the log says so", Duration::from_secs(5), || {
        let log = server.process.log();
        log.lines().find(|line| line.contains("certificate is expired")).map(str::to_owned)
    });
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["level"], "ERROR");
    assert_eq!(said["expired"], "2020-01-02T00:00:00Z");
    assert!(said["file"].as_str().unwrap().ends_with("secret/tls.crt"), "{said}");
    let metric = "fab_session_injector_certificate_expiry_timestamp_seconds 1577923200";
    assert!(get(server.health, "/metrics").contains(metric));
    // The check of an API server.
    let refused =
        Client::connect(server.address, &server.authority(), Protocol::Http2, &[&TLS13]).await;
    let refused = refused.err().expect("the client accepted it").to_string();
    assert!(refused.contains("certificate expired"), "{refused}");

    mount(&secret, "2", &[]);
    wait_until("the new certificate is taken", Duration::from_secs(20), || {
        (!get(server.health, "/metrics").contains(metric)).then_some(())
    });
    assert_eq!(response(&ask(&server, "/enabled", review("runtime")).await)["allowed"], true);
    let told =
        server.process.log().lines().filter(|line| line.contains("certificate is expired")).count();
    assert_eq!(told, 1, "once for each certificate");
}

#[test]
fn the_log_begins_with_version_and_addresses() {
    let server = Server::start();
    let said = wait_until("the log says so", Duration::from_secs(20), || {
        let log = server.process.log();
        log.lines().find(|line| line.contains("\"serving\"")).map(str::to_owned)
    });
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["version"], fab_session_injector::cli::VERSION);
    assert_eq!(said["listen"], server.address.to_string());
}

#[tokio::test]
async fn without_ssm_all_roles_come_from_the_static_file() {
    let server = Server::start();
    let metrics = get(server.health, "/metrics");
    assert!(metrics.contains("\nfab_session_injector_roles_from_file 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_shutdown_finishes_requests_in_progress() {
    let mut server = Server::start();
    let mut stream =
        shake_hands(server.address, &server.authority(), Protocol::Http1, &[&TLS13]).await.unwrap();
    let body = review("runtime");
    let head = format!(
        "POST /enabled HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body[..100]).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    server.process.terminate();
    wait_until("the webhook takes no connections", Duration::from_secs(10), || {
        std::net::TcpStream::connect(server.address).is_err().then_some(())
    });
    stream.write_all(&body[100..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let status =
        wait_until("the webhook has ended", Duration::from_secs(15), || server.process.ended());
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_webhook_serves_unready_during_the_shutdown_delay() {
    let start = |delay: &str| {
        let directory = own_directory();
        let tls = directory.path().join("tls");
        make_certificate(&tls, &[]);
        let server = Server::start_with(directory, &tls, &[delay]);
        server.process.terminate();
        server
    };
    // Longer than any machine needs for the two requests.
    let server = start("--shutdown-delay=600");
    wait_until("the webhook is not ready", Duration::from_secs(60), || {
        get(server.health, "/readyz").contains("not ready: stopping").then_some(())
    });
    assert_eq!(response(&ask(&server, "/enabled", review("runtime")).await)["allowed"], true);
    let mut server = start("--shutdown-delay=1");
    let status =
        wait_until("the webhook has ended", Duration::from_secs(60), || server.process.ended());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn startup_errors_are_reported() {
    let directory = own_directory();
    let tls = directory.path().join("tls");
    make_certificate(&tls, &[]);
    let config = directory.path().join("config.yaml");
    fs::write(&config, "regoin: x\nsidecar: {port: 1}\n").unwrap();
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&mut command(
        directory.path(),
        &tls,
        local(free_port()),
        local(free_port()),
        &["--config", config.to_str().unwrap()],
    ));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("sidecar.port: ") && said.contains("regoin: unknown key"), "{said}");

    let (code, said) = run(&mut command(
        directory.path(),
        Path::new("/nowhere"),
        local(free_port()),
        local(free_port()),
        &[],
    ));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot read /nowhere/tls.crt"), "{said}");

    let (code, said) = run(&mut command(
        directory.path(),
        &tls,
        taken.local_addr().unwrap(),
        local(free_port()),
        &[],
    ));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("cannot listen on 127.0.0.1:"), "{said}");
}
