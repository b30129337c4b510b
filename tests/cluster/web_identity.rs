//! The session issuer with a real API server, and sidecars that get their tokens from it. STS is the
//! strict AWS, which reads the issuer's published files.

pub(crate) mod claims;
pub(crate) mod issuer_process;

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use harness::{
    api_proxy::Review,
    kms::{Kms, KmsFault},
    process::{own_directory, wait_until},
    sidecar::{
        account::BROKER,
        client::{self, Client},
    },
    tls::Tls,
};
use serde_json::{Value, json};
use strict_aws::Outage;

use self::issuer_process::{
    AUDIENCE, IssuerProcess, PATIENCE, Projected, Settings, ca, make_certificates,
};

#[test]
fn a_pod_without_any_aws_role_gets_credentials_of_its_session() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("a", |_| {});
    let sidecar = pod.sidecar();
    let _running = sidecar.start_ready();
    let (status, credentials) = sidecar.get("/v1/credentials");
    assert_eq!(status, 200, "{credentials}");
    let identity = format!("agent.acme.{}", pod.uid);
    assert_eq!(sidecar.status()["sourceIdentity"], json!(identity));
    let [event] = &issuer.events("AssumeRoleWithWebIdentity")[..] else { panic!("one event") };
    assert_eq!(event["userIdentity"]["type"], "WebIdentityUser");
    assert_eq!(event["userIdentity"]["userName"], json!(identity));
    assert_eq!(event["requestParameters"]["sourceIdentity"], json!(identity));
    assert_eq!(issuer.events("AssumeRole"), Vec::<Value>::new(), "no base credentials");
    let line = issuer.log_line("token", &pod.uid);
    assert_eq!(line["source_identity"], json!(identity));

    // The control: without the issuer the same pod gets nothing.
    drop(issuer.stop());
    let other = issuer.pod("b", |_| {});
    let sidecar = other.sidecar();
    let _running = sidecar.start();
    wait_until("it reports the issuer", PATIENCE, || {
        (sidecar.status()["lastError"]["code"] == "issuer-unavailable").then_some(())
    });
    assert_eq!(sidecar.get("/v1/credentials").0, 503);
}

#[test]
fn only_the_current_token_of_a_running_injected_pod_is_accepted() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("a", |_| {});
    assert_eq!(issuer.ask(&pod.token(AUDIENCE)).0, 200);

    let code = |token: &str| {
        let (status, answer) = issuer.ask(token);
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };
    let refused = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(code("garbage"), refused(401, "token-invalid"));
    assert_eq!(code(&pod.token("sts.amazonaws.com")), refused(401, "token-invalid"));
    let two = issuer.token_of(&["--audience", AUDIENCE, "--audience", "other"], Some(&pod));
    assert_eq!(code(&two), refused(401, "token-invalid"));
    // Without a pod in it.
    let of_account = issuer.token_of(&["--audience", AUDIENCE], None);
    assert_eq!(code(&of_account), refused(401, "token-invalid"));
    // Signed by another cluster with the same names.
    let mut forged = pod.token(AUDIENCE);
    let tail = if forged.ends_with("AAAA") { "BBBB" } else { "AAAA" };
    forged.replace_range(forged.len() - 4.., tail);
    assert_eq!(code(&forged), refused(401, "token-invalid"));

    // Pods that the webhook did not make so.
    for (name, change, why) in BROKEN {
        let pod = issuer.pod(name, change);
        let (status, answer) = issuer.ask(&pod.token(AUDIENCE));
        assert_eq!(status, 403, "{name}: {answer}");
        assert_eq!(answer["code"], "not-injected", "{name}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(why), "{name}: {answer}");
    }

    // A pod that is gone. A token lives longer than its pod.
    let gone = issuer.pod("gone", |_| {});
    let token = gone.token(AUDIENCE);
    assert_eq!(issuer.ask(&token).0, 200);
    issuer.kubectl(&["delete", "pod", "gone", "--namespace", "tenants-acme", "--now"]);
    // API servers cache the result of an authentication for some seconds.
    let refusals = [refused(401, "token-rejected"), refused(403, "pod-gone")];
    wait_until("its token is refused", PATIENCE, || refusals.contains(&code(&token)).then_some(()));

    // A namespace that has opted out.
    issuer.label("fab.nanohype.dev/session-injection=audit");
    let found = wait_until("the namespace counts", PATIENCE, || {
        let (status, answer) = issuer.ask_for(&pod);
        (status == 403).then_some(answer)
    });
    assert_eq!(found["code"], "namespace-not-enabled");
}

type Change = fn(&mut Value);

/// Changes of an injected pod, each with the reason of the refusal.
const BROKEN: [(&str, Change, &str); 4] = [
    (
        "no-sidecar",
        |pod| pod["spec"]["initContainers"][0]["name"] = json!("other"),
        "no credential sidecar",
    ),
    (
        "not-native",
        |pod| {
            let container = pod["spec"]["initContainers"][0].as_object_mut().unwrap();
            container.remove("restartPolicy");
            container.remove("startupProbe");
        },
        "not a native sidecar",
    ),
    (
        "second-mount",
        |pod| {
            let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
            mounts.push(json!({"name": "fab-session-base", "mountPath": "/stolen"}));
        },
        "another container mounts",
    ),
    (
        "second-volume",
        |pod| {
            let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
            let source = json!({"serviceAccountToken": {"audience": AUDIENCE, "path": "t"}});
            volumes.push(json!({"name": "own", "projected": {"sources": [source]}}));
        },
        "another volume projects",
    ),
];

/// Gives the session of a pod a name, as the webhook does for a trusted creator.
fn named(pod: &mut Value) {
    let env = pod["spec"]["initContainers"][0]["env"].as_array_mut().unwrap();
    let id = env.iter_mut().find(|variable| variable["name"] == "FAB_SESSION_ID").unwrap();
    *id = json!({"name": "FAB_SESSION_ID", "value": "chosen"});
}

/// A creator names a session by a literal in the pod. Only a pod that the guard checked has it.
#[test]
fn a_session_name_is_trusted_only_under_an_older_guard() {
    let issuer = IssuerProcess::start();
    let code = |pod: &Projected<'_>| {
        let (_, answer) = issuer.ask_for(pod);
        answer["code"].as_str().unwrap_or("none").to_owned()
    };
    let before = issuer.pod("before", named);
    assert_eq!(code(&before), "guard-missing");
    assert_eq!(issuer.explained(&before)["code"], "guard-missing");
    issuer.bind_guard(&["Warn", "Audit"]);
    thread::sleep(CACHED);
    assert_eq!(code(&before), "guard-missing", "a guard that denies nothing");
    issuer.bind_guard(&["Deny"]);
    let bound = Instant::now();
    let early = issuer.pod("early", named);
    wait_until("the binding is seen", PATIENCE, || {
        (code(&before) == "predates-guard").then_some(())
    });
    assert_eq!(code(&early), "predates-guard");
    let explained = issuer.explained(&early);
    assert_eq!(explained["answer"], "refusal");
    assert_eq!(explained["code"], "predates-guard");
    // A pod that names nothing needs no guard.
    let plain = issuer.pod("plain", |_| {});
    assert_eq!(issuer.ask(&plain.token(AUDIENCE)).0, 200);
    let token = json!({
        "answer": "token", "code": null, "message": null, "roleArn": BROKER,
        "sourceIdentity": format!("agent.acme.{}", plain.uid),
    });
    assert_eq!(issuer.explained(&plain), token);
    thread::sleep(Duration::from_secs(62).saturating_sub(bound.elapsed()));
    let late = issuer.pod("late", named);
    let (status, answer) = issuer.ask(&late.token(AUDIENCE));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["sourceIdentity"], "agent.acme.chosen");
    assert_eq!(issuer.explained(&late)["sourceIdentity"], "agent.acme.chosen");
    assert_eq!(code(&early), "predates-guard", "for as long as it runs");
}

#[test]
fn a_key_signs_only_while_it_is_published() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("a", |_| {});
    let token = pod.token(AUDIENCE);
    assert_eq!(issuer.ask(&token).0, 200);
    let keys = issuer.published().join("keys.json");
    let right = fs::read_to_string(&keys).unwrap();

    // A read that fails changes nothing.
    fs::remove_file(&keys).unwrap();
    issuer.await_metric("published_key_errors_total", |count| count > 0.0);
    assert_eq!(issuer.metric("key_published"), 1.0);

    // A file without the key.
    fs::write(&keys, r#"{"keys": []}"#).unwrap();
    issuer.await_metric("key_published", |published| published == 0.0);
    let (status, answer) = issuer.ask_for(&pod);
    assert_eq!((status, &answer["code"]), (503, &json!("key-unpublished")));

    // A file that STS may read otherwise than the issuer does counts as a foreign key.
    let path = issuer.published().join(".well-known/openid-configuration");
    let discovery = fs::read_to_string(&path).unwrap();
    let other = discovery.replace("https://issuer.example.com", "https://other.example.com");
    for (what, file, text) in [
        ("another jwks_uri", &path, &*other),
        ("a list of keys twice", &keys, r#"{"keys": [], "keys": []}"#),
        ("no JSON", &keys, "{"),
    ] {
        fs::write(file, text).unwrap();
        issuer.await_metric("foreign_keys", |foreign| foreign == 1.0);
        let log = issuer.log();
        assert!(log.contains("STS may find a key that is none of the config's"), "{what}: {log}");
        fs::write(&keys, r#"{"keys": []}"#).unwrap();
        fs::write(&path, &discovery).unwrap();
        issuer.await_metric("foreign_keys", |foreign| foreign == 0.0);
    }

    // A foreign key beside the own one is an alarm.
    let mut with_foreign: Value = serde_json::from_str(&right).unwrap();
    let mut foreign = with_foreign["keys"][0].clone();
    foreign["kid"] = json!("foreign");
    foreign["x"] = foreign["y"].clone();
    with_foreign["keys"].as_array_mut().unwrap().push(foreign);
    fs::write(&keys, with_foreign.to_string()).unwrap();
    issuer.await_metric("key_published", |published| published == 1.0);
    assert_eq!(issuer.metric("foreign_keys"), 1.0);
    wait_until("the log says so", PATIENCE, || {
        issuer.log().contains("its owner can name any session").then_some(())
    });
}

/// The stand-in signs digests, which moto does not. Each fault has its own pod, because the issuer
/// limits the tokens of a pod.
#[test]
fn a_key_in_kms_signs_and_its_faults_give_no_token() {
    let kms = Kms::start();
    let issuer = IssuerProcess::start_with_key_in(&kms);
    let ask = |name: &str| {
        let (status, answer) = issuer.ask_for(&issuer.pod(name, |_| {}));
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask("before"), (200, String::new()));
    for (name, fault) in [
        ("denied", KmsFault::Denied),
        ("hang", KmsFault::Hang),
        ("internal", KmsFault::Internal),
        ("other-signature", KmsFault::OtherSignature),
        ("throttled", KmsFault::Throttled),
    ] {
        kms.fail(Some(fault));
        assert_eq!(ask(name), (503, "key-unavailable".to_owned()), "{name}");
    }
    kms.fail(None);
    let signed = |kms: &Kms| kms.calls().iter().filter(|call| *call == "Sign").count();
    let before = signed(&kms);
    assert_eq!(ask("after"), (200, String::new()));
    assert_eq!(signed(&kms), before + 1);
}

/// A container that is restored from a checkpoint finds the token of its new pod in the file.
#[test]
fn a_sidecar_in_another_pod_drops_its_credentials() {
    let issuer = IssuerProcess::start();
    let (pod, other) = (issuer.pod("a", |_| {}), issuer.pod("b", |_| {}));
    let sidecar = pod.sidecar();
    let running = sidecar.start_ready();
    let identity = format!("agent.acme.{}", pod.uid);
    // The control: the kubelet renews the token.
    sidecar.project(&pod.token(AUDIENCE));
    assert_eq!(sidecar.get("/v1/credentials").0, 200);

    sidecar.project(&other.token(AUDIENCE));
    let (status, answer) = sidecar.get("/v1/credentials");
    assert_eq!((status, &answer["code"]), (403, &json!("pod-changed")), "{answer}");
    let status = sidecar.status();
    assert_eq!(status["accessKeyId"], Value::Null);
    assert_eq!(status["lastError"]["code"], "pod-changed", "{status}");
    assert!(running.log().contains("pod-changed"), "{}", running.log());
    // Neither pod's token is used again, and STS knows one session.
    sidecar.project(&pod.token(AUDIENCE));
    assert_eq!(sidecar.get("/v1/credentials").1["code"], "pod-changed");
    let [event] = &issuer.events("AssumeRoleWithWebIdentity")[..] else { panic!("one event") };
    assert_eq!(event["userIdentity"]["userName"], json!(identity));
    assert!(!issuer.log().contains(&other.uid), "{}", issuer.log());

    // A new process is the sidecar of the pod that it is in.
    drop(running);
    let sidecar = other.sidecar();
    let _running = sidecar.start_ready();
    assert_eq!(sidecar.status()["sourceIdentity"], json!(format!("agent.acme.{}", other.uid)));
}

/// The SDKs send the JWT to STS by themselves, by the provider of their default chains.
#[test]
fn each_sdk_gets_the_session_with_a_jwt() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("a", |_| {});
    let (status, answer) = issuer.ask(&pod.token(AUDIENCE));
    assert_eq!(status, 200, "{answer}");
    let directory = own_directory();
    let file = directory.path().join("jwt");
    let jwt = answer["token"].as_str().unwrap();
    let start = |name: &'static str| {
        let words = client::words(name);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("AWS_ENDPOINT_URL_STS", issuer.sts())
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_ROLE_ARN", answer["role"].as_str().unwrap())
            .env("AWS_ROLE_SESSION_NAME", name)
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", &file);
        let mut client = Client::start(name, command);
        client.ask();
        client
    };
    fs::write(&file, jwt).unwrap();
    let clients = SDKS.map(start);
    for client in &clients {
        let name = client.name;
        let arn = format!("arn:aws:sts::111122223333:assumed-role/prod-acme-broker/{name}");
        assert_eq!(client.answer(), Ok(arn), "{name}");
    }
    let identity = json!(format!("agent.acme.{}", pod.uid));
    let calls = issuer.events("GetCallerIdentity");
    assert_eq!(calls.len(), SDKS.len());
    for call in &calls {
        assert_eq!(call["userIdentity"]["sessionContext"]["sourceIdentity"], identity, "{call}");
    }

    // The control: one character of the signature is another.
    let tail = if jwt.ends_with("AAAA") { "BBBB" } else { "AAAA" };
    fs::write(&file, format!("{}{tail}", &jwt[..jwt.len() - 4])).unwrap();
    for client in &SDKS.map(start) {
        assert!(client.answer().is_err(), "{}", client.name);
    }
    assert_eq!(issuer.events("GetCallerIdentity").len(), SDKS.len());
}

/// The SDKs that read the endpoint of STS from the environment.
const SDKS: [&str; 7] = ["boto3", "cli", "go", "java", "javascript", "kotlin", "rust"];

/// The API server confirms a token. An answer that differs in one thing does not.
#[test]
fn a_token_review_that_differs_gives_no_token() {
    let issuer = IssuerProcess::start_with(Settings { is_proxied: true, ..Settings::default() });
    let proxy = issuer.proxy.as_ref().unwrap();
    for (name, change) in REVIEWS {
        let pod = issuer.pod(name, |_| {});
        let token = pod.token(AUDIENCE);
        proxy.review(Some(Review::Changed(change)));
        proxy.take_calls();
        let (status, answer) = issuer.ask(&token);
        assert_eq!((status, &answer["code"]), (401, &json!("token-rejected")), "{name}: {answer}");
        assert_eq!(answer["token"], Value::Null, "{name}");
        let is_pod = |call: &String| call.contains("/pods/");
        assert!(!proxy.take_calls().iter().any(is_pod), "{name}: it reads the pod");
        // The control: the same token, and the answer as it is.
        proxy.review(Some(Review::Changed(|_| {})));
        assert_eq!(issuer.ask(&token).0, 200, "{name}");
        assert!(proxy.take_calls().iter().any(is_pod), "{name}");
    }
}

/// Changes of a TokenReview's answer.
const REVIEWS: [(&str, Change); 14] = [
    ("not-authenticated", |review| review["status"]["authenticated"] = json!(false)),
    ("no-authentication", |review| remove(&mut review["status"], "authenticated")),
    ("no-audiences", |review| remove(&mut review["status"], "audiences")),
    ("empty-audiences", |review| review["status"]["audiences"] = json!([])),
    ("other-audience", |review| review["status"]["audiences"] = json!(["fab-session-issuer.dev"])),
    ("two-audiences", |review| review["status"]["audiences"] = json!([AUDIENCE, "other"])),
    ("other-account", |review| {
        review["status"]["user"]["username"] = json!("system:serviceaccount:tenants-acme:other");
    }),
    ("other-namespace", |review| {
        review["status"]["user"]["username"] = json!("system:serviceaccount:tenants-b:default");
    }),
    ("no-user", |review| remove(&mut review["status"], "user")),
    ("other-pod-name", |review| {
        extra(review)["authentication.kubernetes.io/pod-name"] = json!(["b"])
    }),
    ("other-pod-uid", |review| {
        extra(review)["authentication.kubernetes.io/pod-uid"] =
            json!(["0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e"]);
    }),
    ("two-pod-uids", |review| {
        let uids = &mut extra(review)["authentication.kubernetes.io/pod-uid"];
        uids.as_array_mut().unwrap().push(json!("0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e"));
    }),
    ("no-pod-uid", |review| remove(extra(review), "authentication.kubernetes.io/pod-uid")),
    ("no-extras", |review| remove(&mut review["status"]["user"], "extra")),
];

fn extra(review: &mut Value) -> &mut Value {
    let extra = &mut review["status"]["user"]["extra"];
    assert!(extra["authentication.kubernetes.io/pod-uid"].is_array(), "{extra}");
    extra
}

fn remove(object: &mut Value, key: &str) {
    assert!(object.as_object_mut().unwrap().shift_remove(key).is_some(), "{object}: no {key}");
}

#[test]
fn a_token_costs_two_calls_of_the_api_server() {
    let issuer = IssuerProcess::start_with(Settings { is_proxied: true, ..Settings::default() });
    let proxy = issuer.proxy.as_ref().unwrap();
    let tokens: Vec<String> = ["a", "b", "c", "d", "e"]
        .map(|name| issuer.pod(name, |_| {}).token(AUDIENCE))
        .into_iter()
        .flat_map(|token| vec![token; 3])
        .collect();
    let named = issuer.pod("named", named).token(AUDIENCE);
    proxy.take_calls();
    for token in &tokens {
        assert_eq!(issuer.ask(token).0, 200);
    }
    let calls = proxy.take_calls();
    let count = |calls: &[String], part: &str| calls.iter().filter(|it| it.contains(part)).count();
    let [reviews, pods, keys] =
        ["/tokenreviews", "/pods/", "/openid/v1/jwks"].map(|part| count(&calls, part));
    assert_eq!((reviews, pods), (tokens.len(), tokens.len()), "{calls:?}");
    assert!(keys <= 1 && reviews + pods + keys == calls.len(), "{calls:?}");

    // Only for a session with a name, the guard's policy and binding are read, once in 10 s.
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(issuer.ask(&named).1["code"], "guard-missing");
    }
    let calls = proxy.take_calls();
    let guards = count(&calls, "/validatingadmissionpolic");
    let rounds = 2 + begun.elapsed().as_secs() as usize / 10;
    assert!((2..=2 * rounds).contains(&guards), "{calls:?}");
}

/// Here the roles are in a file, which the issuer reads at its start.
#[test]
fn only_an_allowed_role_of_the_tenant_is_used() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("a", |_| {});
    issuer.stop();
    issuer.set_role(Some("arn:aws:iam::999900001111:role/prod-acme-broker"));
    let said = issuer.fails_to_start();
    assert!(said.contains("roles.acme: not in roles.allow.accounts of the config"), "{said}");
    for (role, code) in
        [(None, "role-unusable"), (Some("arn:aws:iam::111122223333:role/other"), "role-changed")]
    {
        issuer.set_role(role);
        issuer.start_again();
        issuer.await_metric("key_published", |published| published == 1.0);
        let (status, answer) = issuer.ask_for(&pod);
        assert_eq!((status, &answer["code"]), (403, &json!(code)), "{answer}");
        assert_eq!(issuer.explained(&pod)["code"], *code);
        drop(issuer.stop());
    }
}

/// The limit of a pod counts its failed requests, too, although less: otherwise a pod whose requests
/// fail would cost calls without an end.
#[test]
fn failed_requests_of_a_pod_cost_few_calls() {
    let issuer = IssuerProcess::start_with(Settings { is_proxied: true, ..Settings::default() });
    let proxy = issuer.proxy.as_ref().unwrap();
    let pod = issuer.pod("a", |_| {});
    let token = pod.token(AUDIENCE);
    proxy.review(Some(Review::Failed));
    proxy.take_calls();
    let begun = Instant::now();
    let mut codes = Vec::new();
    for _ in 0..100 {
        let (status, answer) = issuer.ask(&token);
        assert_eq!(status, 503, "{answer}");
        codes.push(answer["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(codes[..20], ["api-unavailable"; 20], "{codes:?}");
    let reviews = proxy.take_calls().iter().filter(|call| call.contains("/tokenreviews")).count();
    let most = 22 + begun.elapsed().as_secs() as usize / 2;
    assert!((20..=most).contains(&reviews), "{reviews} of 100, {codes:?}");
    assert_eq!(codes.iter().filter(|code| *code == "busy").count(), 100 - reviews, "{codes:?}");
    // Another pod has its own limit, and the first one gets a token soon.
    proxy.review(None);
    assert_eq!(issuer.ask(&issuer.pod("b", |_| {}).token(AUDIENCE)).0, 200);
    let ended = Instant::now();
    assert_eq!(issuer.ask_for(&pod).0, 200);
    assert!(ended.elapsed() < Duration::from_secs(10), "{:?}", ended.elapsed());
}

/// The guard refuses such a debugger. Here it does not, since no policy is bound.
#[test]
fn a_debugger_with_the_sidecars_token_ends_the_tokens() {
    let issuer = IssuerProcess::start();
    for (name, volume, is_refused) in
        [("own", "fab-session-base", true), ("other", "fab-session-token", false)]
    {
        let pod = issuer.pod(name, |_| {});
        let token = pod.token(AUDIENCE);
        assert_eq!(issuer.ask(&token).0, 200, "{name}");
        issuer.debug(&pod, &json!([{"name": volume, "mountPath": "/own"}]));
        let (status, answer) = issuer.ask(&token);
        if is_refused {
            assert_eq!((status, &answer["code"]), (403, &json!("not-injected")), "{answer}");
            let said = answer["message"].as_str().unwrap();
            assert!(said.contains("another container mounts the token"), "{said}");
        } else {
            assert_eq!(status, 200, "{answer}");
        }
    }
}

/// A mesh or a changed DNS leads the sidecar to another server.
#[test]
fn a_false_issuer_gets_no_token() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("a", |_| {});
    let heard = Heard::start();
    let foreign = Tls::on((Ipv4Addr::LOCALHOST, 0).into(), &["localhost"], heard.address);
    let other_name = Tls::on((Ipv4Addr::LOCALHOST, 0).into(), &["elsewhere"], heard.address);
    let of = |tls: &Tls| fs::read_to_string(tls.authority()).unwrap();
    for (what, tls, ca) in
        [("another CA", &foreign, None), ("another name", &other_name, Some(of(&other_name)))]
    {
        let sidecar = pod.sidecar_with(tls.address(), ca);
        let _running = sidecar.start();
        let error = wait_until("it reports the issuer", PATIENCE, || {
            let error = sidecar.status()["lastError"].clone();
            error.is_object().then_some(error)
        });
        assert_eq!(error["code"], "issuer-unavailable", "{what}: {error}");
        assert_eq!(heard.text(), "", "{what}");
    }
    // The control: a sidecar that trusts the false issuer sends it the pod's token.
    let sidecar = pod.sidecar_with(foreign.address(), Some(of(&foreign)));
    let _running = sidecar.start();
    wait_until("it has sent the token", PATIENCE, || {
        heard.text().contains("authorization: Bearer ey").then_some(())
    });
}

/// The planned change of docs/issuer.md.
#[test]
fn a_new_ca_cuts_off_only_pods_that_do_not_have_it() {
    let issuer = IssuerProcess::start();
    let next = own_directory();
    make_certificates(next.path());
    let (previous, new) = (issuer.ca(), ca(next.path()));
    let both = format!("{previous}{new}");
    let [old, prepared, young] = ["old", "prepared", "young"].map(|name| issuer.pod(name, |_| {}));
    // The code of the first failure, or nothing with credentials.
    let code = |pod: &Projected<'_>, ca: &str| -> String {
        let sidecar = pod.sidecar_with(issuer.port().0, Some(ca.to_owned()));
        let _running = sidecar.start();
        wait_until("it has credentials or fails", PATIENCE, || {
            let has_some = sidecar.get("/v1/credentials").0 == 200;
            let failed = sidecar.status()["lastError"]["code"].as_str().map(str::to_owned);
            if has_some { Some(String::new()) } else { failed }
        })
    };
    assert_eq!(code(&old, &previous), "");
    assert_eq!(code(&prepared, &both), "");
    assert_eq!(code(&young, &new), "issuer-unavailable");
    issuer.serve_certificate_of(next.path());
    wait_until("the issuer serves the new certificate", PATIENCE, || {
        code(&young, &new).is_empty().then_some(())
    });
    assert_eq!(code(&prepared, &both), "");
    // The control: a pod that was not replaced.
    assert_eq!(code(&old, &previous), "issuer-unavailable");
}

/// A server that answers nothing, and keeps what it hears.
struct Heard {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
}

impl Heard {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let text = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&text);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut bytes = [0; 8192];
                let length = stream.read(&mut bytes).unwrap_or_default();
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { address, text }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }
}

/// STS rejects what it cannot verify, and the sidecar says which.
#[test]
fn the_sidecar_names_what_sts_rejects() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("a", |_| {});
    let sidecar = pod.sidecar();
    issuer.interrupt(Outage::Missing);
    let _running = sidecar.start();
    wait_until("it reports the keys", PATIENCE, || {
        (sidecar.status()["lastError"]["code"] == "issuer-keys-unavailable").then_some(())
    });
    issuer.publish();
    wait_until("it recovers by itself", PATIENCE, || {
        (sidecar.get("/v1/credentials").0 == 200).then_some(())
    });
}

/// A trusted creator's word is a tag of the session in CloudTrail. It comes from the sidecar's
/// variable, which cannot change, and only if the guard checked it.
#[test]
fn a_session_has_the_tag_that_a_trusted_creator_gave() {
    const KEY: &str = "fab.nanohype.dev/on-behalf-of";
    let issuer = IssuerProcess::start_with_on_behalf_of();
    let tags = |answer: &Value| {
        let claims = answer["token"].as_str().unwrap().split('.').nth(1).unwrap();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        claims["https://aws.amazon.com/tags"]["principal_tags"].clone()
    };
    let code = |pod: &Projected<'_>| {
        let (_, answer) = issuer.ask_for(pod);
        answer["code"].as_str().unwrap_or("none").to_owned()
    };
    let early = issuer.pod_for("early", Some("jane"), |_| {});
    assert_eq!(code(&early), "guard-missing");
    issuer.bind_guard(&["Deny"]);
    let bound = std::time::Instant::now();
    wait_until("the binding is seen", PATIENCE, || {
        (code(&early) == "predates-guard").then_some(())
    });
    let plain = issuer.pod("plain", |_| {});
    let (status, answer) = issuer.ask_for(&plain);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(tags(&answer).get("on-behalf-of"), None);
    thread::sleep(Duration::from_secs(62).saturating_sub(bound.elapsed()));

    let pod = issuer.pod_for("jane", Some("jane.doe@example.com"), |_| {});
    let sidecar = pod.sidecar();
    let _running = sidecar.start_ready();
    assert_eq!(sidecar.get("/v1/credentials").0, 200);
    let [event] = &issuer.events("AssumeRoleWithWebIdentity")[..] else { panic!("one event") };
    let wanted = json!({
        "kubernetes-namespace": "tenants-acme",
        "kubernetes-pod-uid": pod.uid,
        "on-behalf-of": "jane.doe@example.com",
    });
    assert_eq!(event["requestParameters"]["principalTags"], wanted);
    assert_eq!(event["requestParameters"]["transitiveTagKeys"], json!([]));
    let line = issuer.log_line("token", &pod.uid);
    assert_eq!(line["on_behalf_of"], "jane.doe@example.com");

    // The annotation of a running pod says nothing.
    let other = format!("{KEY}=mallory");
    let annotate = ["annotate", "--overwrite", "pod", "--namespace", "tenants-acme"];
    issuer.kubectl(&[&annotate[..], &["jane", &other]].concat());
    issuer.kubectl(&[&annotate[..], &["plain", &other]].concat());
    let (_, answer) = issuer.ask_for(&pod);
    assert_eq!(tags(&answer)["on-behalf-of"], json!(["jane.doe@example.com"]));
    assert_eq!(tags(&issuer.ask_for(&plain).1).get("on-behalf-of"), None);

    // Variables that the webhook cannot have written.
    let changes: [(&str, Change); 3] = [
        ("no-tag", |pod| *variable(pod) = json!({"name": ON_BEHALF_OF, "value": "a\"b"})),
        ("field", |pod| {
            let field = json!({"fieldRef": {"fieldPath": "metadata.annotations['own']"}});
            *variable(pod) = json!({"name": ON_BEHALF_OF, "valueFrom": field});
        }),
        ("twice", |pod| {
            let twice = json!({"name": ON_BEHALF_OF, "value": "mallory"});
            pod["spec"]["initContainers"][0]["env"].as_array_mut().unwrap().push(twice);
        }),
    ];
    for (name, change) in changes {
        let pod = issuer.pod_for(name, Some("jane"), change);
        let (status, answer) = issuer.ask_for(&pod);
        assert_eq!((status, &answer["code"]), (403, &json!("no-session")), "{name}: {answer}");
    }
}

/// Without `onBehalfOf` the variable has no effect.
#[test]
fn a_tag_is_off_by_default() {
    let issuer = IssuerProcess::start();
    let pod = issuer.pod("forged", |pod| {
        let forged = json!({"name": ON_BEHALF_OF, "value": "mallory"});
        pod["spec"]["initContainers"][0]["env"].as_array_mut().unwrap().push(forged);
    });
    let sidecar = pod.sidecar();
    let _running = sidecar.start_ready();
    let [event] = &issuer.events("AssumeRoleWithWebIdentity")[..] else { panic!("one event") };
    let wanted = json!({"kubernetes-namespace": "tenants-acme", "kubernetes-pod-uid": pod.uid});
    assert_eq!(event["requestParameters"]["principalTags"], wanted);
}

/// Returns the sidecar's variable with what the creator said.
fn variable(pod: &mut Value) -> &mut Value {
    let env = pod["spec"]["initContainers"][0]["env"].as_array_mut().unwrap();
    env.iter_mut().find(|variable| variable["name"] == ON_BEHALF_OF).unwrap()
}

const ON_BEHALF_OF: &str = "FAB_SESSION_ON_BEHALF_OF";
/// The cache of the binding's age, and a second more.
const CACHED: Duration = Duration::from_secs(11);
