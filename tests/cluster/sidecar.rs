//! Tests the sidecar as injected pods run it: the real program with the arguments and variables
//! of its container. The strict AWS rejects the calls that the real one rejects.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use fab_session_injector::{admission::Decision, config::Config};
use harness::{
    process::{self, wait_until},
    program,
    sidecar::{
        account::{Account, BASE, BROKER, ISSUER, Policies, allow, deny, statements, trust},
        client::{self, CLIENTS, Client},
        pod::{POD_UID, without_a_pod},
    },
    tenant::Tenant,
    tls,
};
use serde_json::{Value, json};
use strict_aws::{Credentials, Fault, Role, Target, Times};

#[test]
fn an_injected_pod_gets_credentials_of_its_session() {
    let known = "agent.acme.fab-coder-x7k2p";
    let cases = [
        ("podIdentity", "creator-or-uid", Some("fab-coder-x7k2p"), known.to_owned()),
        ("irsa", "creator-or-uid", Some("fab-coder-x7k2p"), known.to_owned()),
        ("podIdentity", "creator-or-uid", None, format!("agent.acme.{POD_UID}")),
        ("podIdentity", "pod-uid", Some("other"), format!("agent.acme.{POD_UID}")),
        ("irsa", "pod-name", Some("other"), "agent.acme.session-fab-coder-x7k2p".to_owned()),
    ];
    for (source, session, named, identity) in cases {
        let account = Account::open(Policies::default());
        let mut template = account.template();
        (template.source, template.base_role) = (source, BASE);
        (template.session, template.named) = (session, named);
        let pod = account.pod_of(&template);
        let _sidecar = pod.start_ready();
        let mut agent = Client::start("boto3", pod.agent(&client::words("boto3")));

        let arn = agent.call().unwrap();
        let name = identity.rsplit_once('.').unwrap().1;
        assert_eq!(arn, format!("arn:aws:sts::111122223333:assumed-role/prod-acme-broker/{name}"));
        let [call] = &account.events("GetCallerIdentity")[..] else { panic!("one call") };
        assert_eq!(source_identity(call), identity, "{source} {session}");
        assert_eq!(pod.status()["sourceIdentity"], identity);
        assert_eq!(account.assumed(), 1);
    }
}

/// With `{component}` in the config, a tenant's label selects the base role. The trust policy of the
/// role decides by the service account, which the label does not change.
#[test]
fn each_component_has_a_base_role_of_its_own() {
    const RUNTIME: &str = "arn:aws:iam::111122223333:role/prod-acme-runtime";
    const DISPATCHER: &str = "arn:aws:iam::111122223333:role/prod-acme-dispatcher";
    let names = |roles: &[&str]| {
        let trusted = json!({"Principal": {"AWS": roles}});
        statements(&[allow(&["sts:AssumeRole", "sts:SetSourceIdentity"], trusted)])
    };
    let oidc = ISSUER.trim_start_matches("https://");
    let base = |role: &'static str, account: &str| {
        let condition = json!({"StringEquals": {
            format!("{oidc}:sub"): format!("system:serviceaccount:tenants-acme:{account}"),
            format!("{oidc}:aud"): "sts.amazonaws.com",
        }});
        let provider = format!("arn:aws:iam::111122223333:oidc-provider/{oidc}");
        let who = json!({"Principal": {"Federated": provider}, "Condition": condition});
        let trust = statements(&[allow(&["sts:AssumeRoleWithWebIdentity"], who)]);
        Role::new(role).trust(trust).policy(Policies::default().base)
    };
    let policies = Policies { trust: names(&[RUNTIME, DISPATCHER]), ..Policies::default() };
    let account = Account::open_with(policies, |world| {
        world.role(base(RUNTIME, "tenant-runtime")).role(base(DISPATCHER, "fab"))
    });
    let mut runtime = account.template();
    runtime.source = "irsa";
    runtime.base_role = "arn:aws:iam::111122223333:role/prod-acme-{component}";
    let mut dispatcher = runtime.clone();
    dispatcher.labels = json!({"fab.nanohype.dev/component": "dispatcher"});
    dispatcher.account = "fab";
    for (template, role) in [(&runtime, RUNTIME), (&dispatcher, DISPATCHER)] {
        let pod = account.pod_of(template);
        let _sidecar = pod.start();
        wait_until("it has credentials", PATIENCE, || {
            (pod.get("/v1/credentials").0 == 200).then_some(())
        });
        let last = account.events("AssumeRoleWithWebIdentity").pop().unwrap();
        assert_eq!(last["requestParameters"]["roleArn"], role);
    }
    // The attack: an agent's service account with the label of the dispatcher.
    let mut disguised = dispatcher.clone();
    disguised.account = "tenant-runtime";
    let pod = account.pod_of(&disguised);
    let _sidecar = pod.start();
    wait_until("it is refused", PATIENCE, || pod.status()["lastError"].is_object().then_some(()));
    assert_eq!(pod.status()["lastError"]["code"], "base-credentials-refused");
    assert_eq!(pod.get("/v1/credentials").0, 403);
}

#[test]
fn static_base_credentials_are_used_only_if_configured() {
    let account = Account::open(Policies::default());
    let keys = account.base_session();
    let mut template = account.template();
    template.source = "environment";
    template.env = vec![
        ("AWS_ACCESS_KEY_ID", keys.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", keys.secret_access_key),
        ("AWS_SESSION_TOKEN", keys.session_token),
    ];
    let pod = account.pod_of(&template);
    let _sidecar = pod.start_ready();
    assert_eq!(pod.get("/v1/credentials").0, 200);
    // With another source the sidecar does not use them, although they are set.
    template.source = "podIdentity";
    let pod = account.pod_of(&template);
    pod.project("no token");
    let _sidecar = pod.start();
    wait_until("it is refused", PATIENCE, || pod.status()["lastError"].is_object().then_some(()));
    let error = &pod.status()["lastError"];
    assert_eq!(error["code"], "base-credentials-refused");
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("HTTP 400 [") && said.contains("(InvalidTokenException): "), "{said}");
}

/// fab without injection: its own code assumes the role that the operator gives it, under the name of
/// the person for whom it acts (`aws sts assume-role` in fab's src/attribution.ts at 5dc03db).
#[test]
fn an_old_client_assumes_the_role_that_its_pod_brings() {
    let operators = json!({"StringEquals": {"sts:SourceIdentity": ["ada@example.com"]}});
    // The control: the trust policy of a session-broker role, whose ARN would replace the pod's.
    for (trust, is_let_in) in [(trust(&operators), true), (Policies::default().trust, false)] {
        let account = Account::open(Policies { trust, ..Policies::default() });
        let endpoint = account.template().endpoint;
        let brought = [
            ("AWS_ENDPOINT_URL_STS", &*endpoint),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("FAB_OPERATOR", "ada@example.com"),
            ("FAB_SESSION_DURATION", "1800"),
            ("FAB_SESSION_ROLE_ARN", BROKER),
        ];
        let keys = account.base_session();
        // EKS gives base credentials after the webhook, by other variables.
        let base = [
            ("AWS_ACCESS_KEY_ID", &*keys.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", &*keys.secret_access_key),
            ("AWS_SESSION_TOKEN", &*keys.session_token),
        ];
        let script = "exec \"$0\" sts assume-role --role-arn \"$FAB_SESSION_ROLE_ARN\" \
                      --role-session-name fab --duration-seconds \"$FAB_SESSION_DURATION\" \
                      --source-identity \"$FAB_OPERATOR\"";
        let outcome = Command::new("sh")
            .args(["-c", script])
            .args(client::words("cli"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(kept(&brought))
            .envs(base)
            .output()
            .unwrap();
        let stderr = String::from_utf8(outcome.stderr).unwrap();
        assert_eq!(outcome.status.success(), is_let_in, "{stderr}");
        assert!(is_let_in || stderr.contains("AccessDenied"), "{stderr}");
        let [assumed] = &account.events("AssumeRole")[..] else { panic!("one call") };
        let asked = &assumed["requestParameters"];
        assert_eq!(asked["roleArn"], BROKER);
        assert_eq!(asked["durationSeconds"], 1800);
        assert_eq!(asked["sourceIdentity"], "ada@example.com");
    }
}

/// Returns the variables of a pod that sets these, as `inject` prints it for a namespace that keeps
/// the old client mode.
fn kept(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let labels = json!({
        "agents.nanohype.dev/platform": "acme",
        "fab.nanohype.dev/operator": "keep",
        "fab.nanohype.dev/session-injection": "enabled",
        "pod-security.kubernetes.io/enforce": "restricted",
    });
    let env: Vec<Value> =
        variables.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenants-acme", "labels": labels}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "old", "namespace": "tenants-acme"}, "spec": {
            "serviceAccountName": "tenant-runtime",
            "containers": [{"name": "agent", "image": "agent", "env": env}],
        }},
    ]});
    let directory = process::own_directory();
    let roles = json!({"roles": {"acme": "arn:aws:iam::111122223333:role/prod-acme-other"}});
    fs::write(directory.path().join("roles.yaml"), roles.to_string()).unwrap();
    fs::write(directory.path().join("list.yaml"), list.to_string()).unwrap();
    let injected = Command::new(program())
        .args(["inject", "--roles=roles.yaml", "--filename=list.yaml"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&injected.stderr);
    assert!(injected.status.success(), "{stderr}");
    let printed = String::from_utf8(injected.stdout).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&printed).unwrap();
    let env = objects[1]["spec"]["containers"][0]["env"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    env.iter().map(|entry| (text(&entry["name"]), text(&entry["value"]))).collect()
}

/// AWS itself can restrict the name to the pod, since Pod Identity tags each session with it.
#[test]
fn a_trust_policy_can_restrict_the_name_to_the_pod() {
    for (session, tag, others) in [
        ("pod-uid", "kubernetes-pod-uid", "pod-name"),
        ("pod-name", "kubernetes-pod-name", "pod-uid"),
    ] {
        let own = format!("agent.acme.${{aws:PrincipalTag/{tag}}}");
        let condition = json!({"StringEquals": {"sts:SourceIdentity": own}});
        let account = Account::open(Policies { trust: trust(&condition), ..Policies::default() });
        let mut template = account.template();
        template.session = session;
        let pod = account.pod_of(&template);
        let _sidecar = pod.start_ready();
        assert_eq!(pod.get("/v1/credentials").0, 200, "{session}");
        // The control: AWS denies any other name, here one of the other kind.
        template.session = others;
        let pod = account.pod_of(&template);
        let _sidecar = pod.start();
        let code = wait_until("it is refused", PATIENCE, || {
            pod.status()["lastError"]["code"].as_str().map(str::to_owned)
        });
        assert!(code.ends_with("-denied"), "{code}");
        assert_eq!(pod.get("/v1/credentials").0, 403);
    }
}

#[test]
fn a_denial_names_its_cause_in_every_output() {
    let condition = || json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}});
    let all = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];
    let works = Policies::default;
    let cases = [
        (
            "a foreign trust policy",
            Policies {
                trust: statements(&[allow(
                    &all,
                    json!({"Principal": {"AWS": "arn:aws:iam::999999999999:root"}}),
                )]),
                ..works()
            },
            "assume-role-denied",
        ),
        (
            "no sts:SetSourceIdentity in the trust policy",
            Policies {
                trust: statements(&[allow(
                    &["sts:AssumeRole", "sts:TagSession"],
                    json!({"Principal": {"AWS": BASE}}),
                )]),
                ..works()
            },
            "set-source-identity-denied",
        ),
        (
            "no sts:SetSourceIdentity in the base role's policy",
            Policies {
                base: statements(&[allow(
                    &["sts:AssumeRole", "sts:TagSession"],
                    json!({"Resource": BROKER}),
                )]),
                ..works()
            },
            "base-role-denied",
        ),
        (
            "another tenant's name in the condition",
            Policies {
                trust: trust(&json!({"StringLike": {"sts:SourceIdentity": "agent.other.*"}})),
                ..works()
            },
            "assume-role-denied",
        ),
        (
            "sts:TagSession under a condition that it does not have",
            Policies {
                trust: statements(&[allow(
                    &all,
                    json!({"Principal": {"AWS": BASE}, "Condition": condition()}),
                )]),
                ..works()
            },
            "tag-session-denied",
        ),
        (
            "a boundary that denies",
            Policies {
                boundary: Some(statements(&[
                    allow(&["*"], json!({"Resource": "*"})),
                    deny(&["sts:AssumeRole"], json!({"Resource": "*"})),
                ])),
                ..works()
            },
            "boundary-denied",
        ),
    ];
    for (name, policies, want) in cases {
        for terse in [false, true] {
            let account = Account::open(Policies { terse, ..policies.clone() });
            let pod = account.pod();
            let mut sidecar = pod.start();
            let code = wait_until("it is refused", PATIENCE, || {
                pod.status()["lastError"]["code"].as_str().map(str::to_owned)
            });
            // Without a reason only the action is known. The remedy then lists all policies.
            let want = match want {
                "base-role-denied" if terse => "set-source-identity-denied",
                "boundary-denied" if terse => "assume-role-denied",
                _ => want,
            };
            assert_eq!(code, want, "{name}, terse: {terse}");
            let (status, body) = pod.get("/v1/credentials");
            assert_eq!((status, &body["code"], &body["Code"]), (403, &json!(want), &json!(want)));
            let probed = pod.probe();
            assert_eq!(probed.status.code(), Some(1), "{name}");
            let said = String::from_utf8(probed.stdout).unwrap();
            for part in [BROKER, "agent.acme.fab-coder-x7k2p", want] {
                assert!(said.contains(part), "{name}: {said}");
                assert!(sidecar.log().contains(part), "{name}: {}", sidecar.log());
            }
            assert_eq!(account.assumed(), 1, "{name}: the sidecar retries a denial slowly");
            assert!(sidecar.ended().is_none(), "the sidecar keeps running and retries");
        }
    }
}

#[test]
fn the_dispatcher_starts_without_credentials() {
    let account = Account::open(Policies {
        trust: trust(&json!({"StringLike": {"sts:SourceIdentity": "agent.other.*"}})),
        ..Policies::default()
    });
    let mut template = account.template();
    let _runtime = {
        let pod = account.pod_of(&template);
        let sidecar = pod.start();
        assert_eq!(pod.probe().status.code(), Some(1));
        sidecar
    };
    template.labels = json!({"fab.nanohype.dev/component": "dispatcher"});
    let pod = account.pod_of(&template);
    assert_eq!(pod.probe().status.code(), Some(3), "nothing listens");
    let _sidecar = pod.start_ready();
}

#[test]
fn a_client_that_only_fetches_urls_gets_nothing() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let _sidecar = pod.start_ready();
    let (port, token) = (pod.port, pod.token());
    let host = format!("Host: 127.0.0.1:{port}");
    let right = format!("Authorization: {token}");
    let request = |line: &str, headers: &[&str]| {
        pod.exchange(&format!("{line} HTTP/1.1\r\n{}\r\n\r\n", headers.join("\r\n")))
    };
    let path = "/v1/credentials";
    // The control: a complete request gets a response.
    let good = request(&format!("GET {path}"), &[&host, &right]);
    assert!(good.starts_with("HTTP/1.1 200 OK\r\n") && good.contains("SecretAccessKey"), "{good}");
    assert!(good.contains("\r\ncontent-type: application/json\r\n"), "{good}");
    assert!(good.contains("\r\ncache-control: no-store\r\n"), "{good}");

    let last = if token.ends_with('0') { '1' } else { '0' };
    let wrong = format!("Authorization: {}{last}", &token[..63]);
    let huge = format!("X-Huge: {}", "x".repeat(100_000));
    let many = vec!["X-Many: x"; 200].join("\r\n");
    let url = format!("http://127.0.0.1:{port}{path}");
    let cases: [(&str, &str, &[&str], &str); 15] = [
        ("no token", "GET /v1/credentials", &[&host], "401"),
        ("no token, the status", "GET /v1/status", &[&host], "401"),
        ("no token, elsewhere", "GET /", &[&host], "401"),
        ("a wrong token", "GET /v1/credentials", &[&host, &wrong], "401"),
        ("an empty token", "GET /v1/credentials", &[&host, "Authorization: "], "401"),
        ("a token in the URL", &format!("GET {path}?Authorization={token}"), &[&host], "401"),
        ("a foreign host", "GET /v1/credentials", &["Host: evil.example", &right], "403"),
        ("no host", "GET /v1/credentials", &[&right], "403"),
        ("POST", "POST /v1/credentials", &[&host, &right, "Content-Length: 0"], "405"),
        ("HEAD", "HEAD /v1/credentials", &[&host, &right], "405"),
        ("a preflight", "OPTIONS /v1/credentials", &[&host, "Origin: https://evil.example"], "405"),
        ("as a proxy", &format!("GET {url}"), &[&host, &right], "400"),
        ("CONNECT", &format!("CONNECT 127.0.0.1:{port}"), &[&host, &right], "400"),
        ("a huge header", "GET /v1/credentials", &[&host, &right, &huge], "431"),
        ("many headers", "GET /v1/credentials", &[&host, &right, &many], "431"),
    ];
    for (name, line, headers, status) in cases {
        let answer = request(line, headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
        for never in ["SecretAccessKey", "access-control", &token] {
            assert!(!answer.to_lowercase().contains(&never.to_lowercase()), "{name}: {answer}");
        }
    }
    // Two requests at once: the connection closes after the first response.
    let both = format!("GET {path} HTTP/1.1\r\n{host}\r\n{right}\r\n\r\n").repeat(2);
    assert_eq!(pod.exchange(&both).matches("HTTP/1.1 ").count(), 1);
    assert_eq!(pod.status()["refused"]["token-wrong"], 6);
}

/// A container that listens on the port first only prevents credentials in its own pod. It gets
/// no request later.
#[test]
fn no_container_shares_the_sidecars_port() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let share = || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(pod.address()).map(|()| socket)
    };
    // The control: two sockets that both allow it share the port.
    let both = [share(), share()];
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    drop(both);

    let sidecar = pod.start_ready();
    assert_eq!(share().unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(sidecar);

    let first = TcpListener::bind(pod.address()).unwrap();
    let late = pod.start();
    wait_until("the sidecar reports that the port is taken", PATIENCE, || {
        late.log().contains(&format!("cannot listen on {}", pod.address())).then_some(())
    });
    drop(first);
}

#[test]
fn a_thousand_clients_at_the_start_cause_one_call() {
    let account = Account::open(Policies::default());
    account.aws.inject(
        Target::AssumeRole,
        Fault::Slow(Duration::from_millis(400)),
        Times::UntilCleared,
    );
    let pod = account.pod();
    let _sidecar = pod.start();
    wait_until("it listens", PATIENCE, || TcpStream::connect(pod.address()).ok());
    let token =
        wait_until("there is a token", PATIENCE, || Some(pod.token()).filter(|t| !t.is_empty()));
    let request = format!(
        "GET /v1/credentials HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n"
    );
    let mut connections: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut connection = TcpStream::connect(pod.address()).unwrap();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            connection.write_all(request.as_bytes()).unwrap();
            connection
        })
        .collect();
    for connection in &mut connections {
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        // Or 503, where the first credentials arrive after the time limit of the request: on a busy
        // machine that can be each of them.
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 503"));
    }
    wait_until("credentials are served", PATIENCE, || {
        (pod.get("/v1/credentials").0 == 200).then_some(())
    });
    assert_eq!(account.assumed(), 1);
}

#[test]
fn idle_and_slow_connections_delay_no_client() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let _sidecar = pod.start_ready();
    let request = format!(
        "GET /v1/credentials HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n",
        pod.token()
    );
    let mut idle: Vec<TcpStream> =
        (0..500).map(|_| TcpStream::connect(pod.address()).unwrap()).collect();
    let _slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut connection = TcpStream::connect(pod.address()).unwrap();
            // Sends a request and never reads the response.
            connection.write_all(request.as_bytes()).unwrap();
            connection
        })
        .collect();
    let mut half: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut connection = TcpStream::connect(pod.address()).unwrap();
            connection.write_all(b"GET /v1/credentials HTTP/1.1\r\nHost: ").unwrap();
            connection
        })
        .collect();
    // A client that gives up after a second, as two SDKs do.
    let mut connection = TcpStream::connect(pod.address()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The sidecar closes connections that send no request or an incomplete one.
    let ended = |connection: &mut TcpStream| {
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        match connection.read_to_end(&mut rest) {
            Ok(_) => assert!(!String::from_utf8_lossy(&rest).contains(" 200 "), "{rest:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    };
    ended(&mut idle[0]);
    ended(&mut half[0]);
    // With more connections than the limit, a new one waits until the sidecar closes another.
    let mut flood: Vec<TcpStream> =
        (0..1100).map(|_| TcpStream::connect(pod.address()).unwrap()).collect();
    let mut late = TcpStream::connect(pod.address()).unwrap();
    late.write_all(request.as_bytes()).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    answer.clear();
    late.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let is_open = |connection: &mut TcpStream| {
        connection.set_nonblocking(true).unwrap();
        let read = connection.read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let open = flood.iter_mut().filter_map(|it| is_open(it).then_some(())).count();
    assert!(open <= 1024, "{open} connections are open, and the late one had another");
}

/// The sidecar serves the cached credentials while they are valid, and then only the reason.
#[test]
fn cached_credentials_are_served_until_they_expire() {
    let faults = [
        (Fault::Throttle, "sts-throttled"),
        (Fault::InternalError, "sts-unavailable"),
        (Fault::Garbage, "sts-unavailable"),
        (Fault::Empty, "sts-unavailable"),
        (Fault::Huge, "sts-unavailable"),
        (Fault::CloseMidBody, "sts-unavailable"),
        (Fault::Denied, "assume-role-denied"),
        (Fault::Hang, "sts-unavailable"),
    ];
    thread::scope(|threads| {
        for (fault, code) in faults {
            threads.spawn(move || last_good(fault, code));
        }
    });
}

fn last_good(fault: Fault, code: &str) {
    // A call without a response times out after 15 seconds.
    let seconds = if fault == Fault::Hang { 60 } else { 20 };
    let account = Account::open(Policies { seconds: Some(seconds), ..Policies::default() });
    let pod = account.pod();
    let sidecar = pod.start_ready();
    let struck = account.aws.inject(Target::AssumeRole, fault, Times::UntilCleared);
    let key = pod.get("/v1/credentials").1["AccessKeyId"].clone();
    assert!(key.is_string(), "{fault:?}");
    wait_until("the fault strikes", Duration::from_secs(60), || {
        let (status, body) = pod.get("/v1/credentials");
        assert_eq!((status, &body["AccessKeyId"]), (200, &key), "{fault:?}");
        (pod.status()["lastError"]["code"] == code).then_some(())
    });
    assert!(struck.fired() > 0, "{fault:?}");
    wait_until("the credentials expire", Duration::from_secs(60), || {
        let (status, body) = pod.get("/v1/credentials");
        if status == 200 {
            let expiration = body["Expiration"].as_str().unwrap();
            assert!(*expiration > *now(), "{fault:?}: {expiration}");
            return None;
        }
        assert_eq!(body["code"], code, "{fault:?}");
        assert!([403, 503].contains(&status), "{fault:?}: {status}");
        Some(())
    });
    account.aws.clear_faults();
    if fault != Fault::Denied {
        wait_until("it has recovered", Duration::from_secs(90), || {
            (pod.get("/v1/credentials").0 == 200).then_some(())
        });
        assert_eq!(pod.status()["lastError"], Value::Null);
    }
    // The sidecar logs each change once, not each attempt.
    let told = |part: &str| sidecar.log().matches(part).count();
    let recovered = usize::from(fault != Fault::Denied);
    for (part, times) in [
        (format!("\"code\":\"{code}\""), 1),
        ("session credentials expired; serving none".to_owned(), 1),
        ("\"after_failures\":true".to_owned(), recovered),
    ] {
        assert_eq!(told(&part), times, "{part}: {}", sidecar.log());
    }
}

#[test]
fn faulty_responses_are_reported_by_code() {
    let cases = [
        (Target::AssumeRole, Fault::Nameless, "source-identity-missing", 403),
        (Target::AssumeRole, Fault::Malformed, "sts-unavailable", 503),
        (Target::PodIdentity, Fault::Hang, "base-credentials-unavailable", 503),
        (Target::PodIdentity, Fault::Denied, "base-credentials-refused", 403),
        (Target::PodIdentity, Fault::InternalError, "base-credentials-unavailable", 503),
        (Target::PodIdentity, Fault::Throttle, "base-credentials-unavailable", 503),
    ];
    // A trust policy without a condition, so that only the sidecar can notice the fault.
    let all = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];
    let trust = statements(&[allow(&all, json!({"Principal": {"AWS": BASE}}))]);
    for (target, fault, code, status) in cases {
        let account = Account::open(Policies { trust: trust.clone(), ..Policies::default() });
        account.aws.inject(target, fault, Times::UntilCleared);
        let pod = account.pod();
        let _sidecar = pod.start();
        wait_until("the status has the code", PATIENCE, || {
            (pod.status()["lastError"]["code"] == code).then_some(())
        });
        let (found, body) = pod.get("/v1/credentials");
        assert_eq!((found, &body["code"]), (status, &json!(code)), "{fault:?}");
    }
}

/// The kubelet stops a probe after five seconds, and writes its output into the pod's events.
#[test]
fn the_probe_waits_a_limited_time_for_the_sidecar() {
    let account = Account::open(Policies::default());
    let (pod, started) = (account.pod(), std::time::Instant::now());
    let sidecar = thread::scope(|threads| {
        let late = threads.spawn(|| {
            thread::sleep(Duration::from_secs(1));
            pod.start()
        });
        assert_eq!(pod.probe().status.code(), Some(0), "the sidecar starts in time");
        late.join().unwrap()
    });
    assert!(started.elapsed() >= Duration::from_secs(1));
    drop(sidecar);
    let started = std::time::Instant::now();
    let probed = pod.probe();
    assert_eq!(probed.status.code(), Some(3));
    let said = String::from_utf8(probed.stderr).unwrap();
    assert!(said.contains("the sidecar does not listen on port"), "{said}");
    // The probe stopped by itself, not by the kubelet and without output.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_rotated_projected_token_is_read_again() {
    for (source, audience, other, code) in [
        ("podIdentity", EKS, STS, "base-credentials-refused"),
        ("irsa", STS, EKS, "base-credentials-refused"),
    ] {
        rotation(source, audience, other, code);
    }
}

fn rotation(source: &'static str, audience: &str, other: &str, code: &str) {
    let account = Account::open(Policies { seconds: Some(9), ..Policies::default() });
    let mut template = account.template();
    (template.source, template.base_role) = (source, BASE);
    let pod = account.pod_of(&template);
    let brief = Duration::from_secs(3);
    pod.project(&account.mint(&template.name, audience, brief));
    let _sidecar = pod.start_ready();
    let key = pod.get("/v1/credentials").1["AccessKeyId"].clone();
    // The first token is expired when the next credentials are due.
    pod.project(&account.mint(&template.name, audience, Duration::from_secs(600)));
    wait_until("there are new ones", PATIENCE, || {
        let (status, body) = pod.get("/v1/credentials");
        (status == 200 && body["AccessKeyId"] != key).then_some(())
    });
    // Without a valid token there are no new credentials.
    pod.project(&account.mint(&template.name, other, Duration::from_secs(600)));
    wait_until("it is refused", PATIENCE, || {
        (pod.status()["lastError"]["code"] == code).then_some(())
    });
}

#[test]
fn a_sidecar_exits_on_sigterm_and_the_next_reuses_its_token() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let mut sidecar = pod.start_ready();
    let token = pod.token();
    assert_eq!(token.len(), 64);
    sidecar.terminate();
    let status = wait_until("it has ended", PATIENCE, || sidecar.ended());
    assert_eq!(status.code(), Some(0));
    assert!(sidecar.log().contains("\"message\":\"stopped\",\"finished\":true"));
    let _sidecar = pod.start_ready();
    // Agents that have read the token can continue to use it.
    assert_eq!(pod.token(), token);
}

#[test]
fn an_invalid_environment_is_reported() {
    let run = |environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        let output = command.arg("sidecar").env_clear().envs(environment.iter().copied()).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let session = [
        ("FAB_SESSION_ROLE_ARN", BROKER),
        ("FAB_SESSION_ID", "s"),
        ("FAB_SESSION_TENANT", "acme"),
        ("FAB_SESSION_IDENTITY", "agent.acme.s"),
        ("FAB_SESSION_DURATION", "3600"),
    ];
    let serving = [
        ("FAB_SESSION_PORT", "7413"),
        ("FAB_SESSION_START_GATE", "credentials"),
        ("FAB_SESSION_TOKEN_FILE", "/nowhere/token"),
    ];
    let base = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_REGION", "eu-west-1")];
    let region = ("AWS_REGION", "eu-west-1");
    let bundles =
        ["/nowhere.pem", "/dev/null"].map(|path| [base[0], region, ("SSL_CERT_FILE", path)]);
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&[Variables<'_>], i32, &str); 8] = [
        (&[], 2, "FAB_SESSION_ROLE_ARN is not set"),
        (&[&session], 2, "FAB_SESSION_PORT is not set"),
        (&[&session, &serving], 2, "no source of base credentials is set"),
        (&[&session, &serving, &base[..1]], 2, "AWS_REGION is not set"),
        (&[&session, &serving, &bundles[0]], 2, "(PEM) from SSL_CERT_FILE /nowhere.pem: "),
        (&[&session, &serving, &bundles[1]], 2, "/dev/null: no certificate found"),
        (&[&session, &serving, &base], 3, "cannot write the token file /nowhere/token"),
        (&[&session, &[("FAB_SESSION_ID", "t")]], 2, "FAB_SESSION_IDENTITY is agent.acme.s, but"),
    ];
    for (environment, code, said) in cases {
        let (status, output) = run(&environment.concat());
        assert_eq!(status, Some(code), "{output}");
        assert!(output.contains(said), "{output}");
    }
}

/// The call goes through a proxy, which sees the host name.
#[test]
fn the_sidecar_calls_the_sts_endpoint_of_its_region() {
    let cases = [
        ("eu-west-1", None, "sts.eu-west-1.amazonaws.com:443"),
        (
            "us-east-1",
            Some(("AWS_USE_FIPS_ENDPOINT", "true")),
            "sts-fips.us-east-1.amazonaws.com:443",
        ),
        ("eu-west-1", Some(("AWS_USE_DUALSTACK_ENDPOINT", "true")), "sts.eu-west-1.api.aws:443"),
        ("cn-north-1", None, "sts.cn-north-1.amazonaws.com.cn:443"),
        (
            "eu-west-1",
            Some(("AWS_ENDPOINT_URL_STS", "https://vpce-1.sts.example")),
            "vpce-1.sts.example:443",
        ),
    ];
    for (region, more, want) in cases {
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = process::own_directory();
        let mut command = without_a_pod(directory.path());
        command
            .env("AWS_ACCESS_KEY_ID", "AKIA")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", region)
            .env("HTTPS_PROXY", format!("http://{}", proxy.local_addr().unwrap()))
            .envs(more);
        let _sidecar = process::Process::start("sidecar", directory.path(), &command);
        proxy.set_nonblocking(true).unwrap();
        let (mut asked, _) = wait_until("the sidecar connects", PATIENCE, || proxy.accept().ok());
        asked.set_nonblocking(false).unwrap();
        let mut head = [0; 256];
        let read = asked.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..read]);
        assert!(head.starts_with(&format!("CONNECT {want} ")), "{region} {more:?}: {head}");
    }
}

/// A proxy would read the token, which is sent without TLS. The test above is the control: with
/// the same variables the call to STS goes through the proxy.
#[test]
fn the_base_token_is_never_sent_to_a_proxy() {
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let agent = TcpListener::bind((host.trim_matches(['[', ']']), 0)).unwrap();
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = process::own_directory();
        let token = directory.path().join("base");
        fs::write(&token, "the-base-token").unwrap();
        let port = agent.local_addr().unwrap().port();
        let mut command = without_a_pod(directory.path());
        command
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token)
            .env(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                format!("http://{host}:{port}/v1/credentials"),
            );
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            let url = format!("http://{}", proxy.local_addr().unwrap());
            command.env(variable, &url).env(variable.to_lowercase(), &url);
        }
        let _sidecar = process::Process::start("sidecar", directory.path(), &command);
        for listener in [&agent, &proxy] {
            listener.set_nonblocking(true).unwrap();
        }
        let (mut asked, _) = wait_until(host, PATIENCE, || agent.accept().ok());
        asked.set_nonblocking(false).unwrap();
        let mut head = [0; 1024];
        let read = asked.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..read]);
        assert!(
            head.starts_with("GET /v1/credentials ") && head.contains("the-base-token"),
            "{head}"
        );
        assert!(proxy.accept().is_err(), "{host}: the proxy was called");
    }
}

/// Test clusters and private endpoints have a certificate that no public CA signed.
#[test]
fn sts_is_trusted_by_the_configured_ca_bundle() {
    let account = Account::open(Policies::default());
    let tls = tls::Tls::before(account.address());
    let mut template = account.template();
    template.env = vec![("AWS_ENDPOINT_URL_STS", tls.endpoint())];
    let pod = account.pod_of(&template);
    let sidecar = pod.start();
    wait_until("the certificate is rejected", PATIENCE, || {
        (pod.status()["lastError"]["code"] == "sts-unavailable").then_some(())
    });
    assert_eq!(account.assumed(), 0);
    drop(sidecar);
    template.env.push(("SSL_CERT_FILE", tls.authority().display().to_string()));
    let pod = account.pod_of(&template);
    let _sidecar = pod.start_ready();
    assert_eq!(pod.get("/v1/credentials").0, 200);
    assert_eq!(account.assumed(), 1);
}

/// A proxy that inspects TLS has a certificate for STS by its own CA. `HTTPS_PROXY` leads there.
#[test]
fn sts_behind_an_inspecting_proxy_needs_the_ca_of_the_config() {
    let account = Account::open(Policies::default());
    let local = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let inspecting = tls::Tls::on(local, &["sts.eu-west-1.amazonaws.com"], account.address());
    let proxy = connect_proxy(inspecting.address());
    let mut template = account.template();
    template.env = vec![
        ("AWS_ENDPOINT_URL_STS", "https://sts.eu-west-1.amazonaws.com".to_owned()),
        ("HTTPS_PROXY", format!("http://{proxy}")),
    ];
    // The controls: without a CA, and with another one.
    let other = tls::Tls::before(account.address());
    for ca in [None, Some(other.authority())] {
        template.ca = ca.map(|file| fs::read_to_string(file).unwrap());
        let pod = account.pod_of(&template);
        let _sidecar = pod.start();
        let error = wait_until("the certificate is rejected", PATIENCE, || {
            Some(pod.status()["lastError"].clone()).filter(|error| error.is_object())
        });
        assert_eq!(error["code"], "sts-unavailable", "{error}");
        assert_eq!(account.assumed(), 0);
    }
    template.ca = Some(fs::read_to_string(inspecting.authority()).unwrap());
    let pod = account.pod_of(&template);
    let _sidecar = pod.start_ready();
    assert_eq!(pod.get("/v1/credentials").0, 200);
    assert_eq!(account.assumed(), 1);
}

/// Starts a proxy that leads each CONNECT to the target, whatever host it names.
fn connect_proxy(target: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                assert!(head.starts_with(b"CONNECT sts.eu-west-1.amazonaws.com:443 "));
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let mut server = TcpStream::connect(target).unwrap();
                let mut back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
                let _ = std::io::copy(&mut client, &mut server);
                let _ = server.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    address
}

/// The other process stands for an agent that runs as the sidecar's uid in its PID namespace.
#[test]
fn processes_of_the_same_user_cannot_read_its_memory() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let directory = pod.directory.path();
    // Root can read all memory, unless it has no capabilities.
    let user: &[&str] = match fs::metadata("/proc/self").unwrap().uid() {
        0 => &["setpriv", "--inh-caps=-all", "--bounding-set=-all"],
        _ => &[],
    };
    let run = |words: &[&str], environment: &[(String, String)]| {
        let words = [user, words].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().envs(environment.iter().cloned());
        command.env("PATH", "/usr/bin:/bin").stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let reads = |pid: u32, file: &str| {
        let path = format!("/proc/{pid}/{file}");
        run(&["head", "--bytes=1", &path], &[]).status().unwrap().success()
    };
    // A path outside of the container's mounts.
    let token = directory.join("token/token");
    let mut environment = pod.sidecar_environment();
    environment.retain(|(name, _)| name != "FAB_SESSION_TOKEN_FILE");
    environment.push(("FAB_SESSION_TOKEN_FILE".to_owned(), token.display().to_string()));
    let binary = env!("CARGO_BIN_EXE_fab-session-injector");
    let mut sidecar = run(&[binary, "sidecar"], &environment).spawn().unwrap();
    let mut control = run(&["sleep", "60"], &[]).spawn().unwrap();
    wait_until("the token file exists", PATIENCE, || token.exists().then_some(()));
    wait_until("the control can be read", PATIENCE, || {
        reads(control.id(), "environ").then_some(())
    });
    let pid = sidecar.id();
    let seen: Vec<&str> =
        ["environ", "mem", "maps", "auxv"].into_iter().filter(|file| reads(pid, file)).collect();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for process in [&mut sidecar, &mut control] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert_eq!(seen, Vec::<&str>::new());
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
}

#[test]
fn no_output_of_the_sidecar_has_a_secret() {
    let account = Account::open(Policies::default());
    let keys = account.base_session();
    let mut static_keys = account.template();
    static_keys.source = "environment";
    static_keys.env = vec![
        ("AWS_ACCESS_KEY_ID", keys.access_key_id.clone()),
        ("AWS_SECRET_ACCESS_KEY", keys.secret_access_key.clone()),
        ("AWS_SESSION_TOKEN", keys.session_token.clone()),
    ];
    let mut web_identity = account.template();
    (web_identity.source, web_identity.base_role) = ("irsa", BASE);
    let mut secrets = vec![keys.secret_access_key, keys.session_token];
    let mut said = String::new();
    for (template, target) in [
        (account.template(), Target::AssumeRole),
        (static_keys, Target::AssumeRole),
        // The first call to STS requests base credentials.
        (web_identity, Target::Sts),
    ] {
        let faults =
            [Fault::Denied, Fault::Malformed, Fault::CloseMidBody, Fault::Garbage, Fault::Empty]
                .map(|fault| account.aws.inject(target, fault, Times::Next(1)));
        let pod = account.pod_of(&template);
        let sidecar = pod.start();
        for (failures, struck) in (1..).zip(&faults) {
            wait_until("the fault strikes", Duration::from_secs(60), || {
                let reached = pod.status()["failures"].as_u64() >= Some(failures);
                // The SDK itself retries the call for web identity credentials.
                (struck.fired() > 0 && (reached || target == Target::Sts)).then_some(())
            });
            said += &pod.status().to_string();
            // Only a response with status 200 may contain secrets.
            let (status, body) = pod.get("/v1/credentials");
            said += &if status == 200 { String::new() } else { body.to_string() };
            said += &String::from_utf8(pod.probe().stdout).unwrap();
        }
        wait_until("it is ready", PATIENCE, || pod.probe().status.success().then_some(()));
        let body = pod.get("/v1/credentials").1;
        for key in ["SecretAccessKey", "Token"] {
            secrets.push(body[key].as_str().unwrap().to_owned());
        }
        secrets.push(pod.token());
        secrets.push(fs::read_to_string(pod.directory.path().join("base/token")).unwrap());
        said += &pod.status().to_string();
        said += &pod.exchange("GET /v1/credentials HTTP/1.1\r\nHost: localhost\r\n\r\n");
        said += &sidecar.log();
    }
    assert!(said.contains("agent.acme.fab-coder-x7k2p"), "{said}");
    assert!(secrets.len() == 14 && secrets.iter().all(|secret| secret.len() >= 40));
    for secret in secrets {
        assert!(!said.contains(&secret[..20]), "{secret} is in:\n{said}");
    }
    for part in ["SecretAccessKey", "SessionToken"] {
        assert!(!said.contains(part), "{said}");
    }
}

/// Each SDK runs in its own process, with only the environment and the files of its container.
/// All of them share one pod, through a refresh, a restart and outages.
#[test]
fn real_sdks_work_through_refresh_restart_and_outage() {
    let account = Account::open(Policies { seconds: Some(30), ..Policies::default() });
    let pod = account.pod();
    let mut sidecar = pod.start_ready();
    let mut clients = CLIENTS.map(|name| Client::start(name, pod.agent(&client::words(name))));
    let key = || pod.get("/v1/credentials").1["AccessKeyId"].as_str().map(str::to_owned);
    let renewed = |old: &Option<String>| {
        wait_until("there are new credentials", Duration::from_secs(90), || {
            key().filter(|key| Some(key) != old.as_ref())
        })
    };
    let all = |clients: &mut [Client], when: &str| {
        clients.iter_mut().for_each(Client::ask);
        for client in clients {
            let arn =
                client.answer().unwrap_or_else(|error| panic!("{} {when}: {error}", client.name));
            assert!(arn.ends_with(":assumed-role/prod-acme-broker/fab-coder-x7k2p"), "{arn}");
        }
    };
    all(&mut clients, "at the start");
    let old = key();
    renewed(&old);
    all(&mut clients, "after a refresh");

    sidecar.terminate();
    wait_until("it has ended", PATIENCE, || sidecar.ended());
    let _sidecar = pod.start_ready();
    all(&mut clients, "after a restart");

    // An outage that is shorter than the remaining lifetime.
    let old = Some(renewed(&key()));
    let throttled = account.aws.inject(Target::AssumeRole, Fault::Throttle, Times::UntilCleared);
    wait_until("a call is throttled", PATIENCE, || (throttled.fired() > 0).then_some(()));
    all(&mut clients, "in a short outage");
    account.aws.clear_faults();
    renewed(&old);
    all(&mut clients, "after a short outage");

    // A longer outage: the sidecar serves nothing, and no SDK uses expired credentials.
    let down = account.aws.inject(Target::AssumeRole, Fault::InternalError, Times::UntilCleared);
    wait_until("the credentials expire", Duration::from_secs(60), || key().is_none().then_some(()));
    assert!(down.fired() > 0);
    // The sidecar stops two seconds before the expiry of the credentials that agents have.
    thread::sleep(Duration::from_secs(3));
    clients.iter_mut().for_each(Client::ask);
    for client in &clients {
        assert!(client.answer().is_err(), "{} has no credentials", client.name);
    }
    account.aws.clear_faults();
    renewed(&None);
    all(&mut clients, "after a long outage");

    // CloudTrail shows, for each SDK, one name with several access keys.
    for name in CLIENTS {
        let calls: Vec<Value> = account
            .events("GetCallerIdentity")
            .into_iter()
            .filter(|event| event["userAgent"].as_str().is_some_and(|by| by.contains(agent(name))))
            .filter(|event| event["errorCode"].is_null())
            .collect();
        let keys: BTreeSet<&str> = calls
            .iter()
            .map(|event| event["userIdentity"]["accessKeyId"].as_str().unwrap())
            .collect();
        assert!(calls.len() >= 6 && keys.len() >= 3, "{name}: {} {keys:?}", calls.len());
        for call in &calls {
            assert_eq!(source_identity(call), "agent.acme.fab-coder-x7k2p", "{name}");
        }
    }
}

/// As in a container with `envFrom`, in which the kubelet cannot expand the references.
#[test]
fn a_reference_to_no_variable_excludes_no_host() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let _sidecar = pod.start_ready();
    let hosts = "$(NO_PROXY),$(no_proxy),127.0.0.1,localhost";
    // Nothing listens there.
    let proxy = "http://127.0.0.1:9";
    let set = [
        format!("NO_PROXY={hosts}"),
        format!("no_proxy={hosts}"),
        format!("HTTP_PROXY={proxy}"),
        format!("http_proxy={proxy}"),
    ];
    for name in CLIENTS {
        let words = [&["env".to_owned()], &set[..], &client::words(name)].concat();
        let arn = Client::start(name, pod.agent(&words)).call().unwrap();
        assert!(arn.contains("/prod-acme-broker/"), "{name}: {arn}");
    }
}

/// It does not read the file of the token, nor do Debian 12's packages of the CLI (2.9) and of the
/// SDK for Ruby (3.168), which were tried by hand.
#[test]
fn a_cli_that_is_too_old_shows_the_remedy() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let _sidecar = pod.start_ready();
    let words = client::words("cli-old");
    let said = Client::start("cli-old", pod.agent(&words)).call().unwrap_err();
    assert!(said.contains("update the AWS SDK or CLI"), "{said}");
    assert_eq!(account.events("GetCallerIdentity").len(), 0);
    // The control: the token is all that it lacks.
    let token = format!("AWS_CONTAINER_AUTHORIZATION_TOKEN={}", pod.token());
    let words = [&["env".to_owned(), token][..], &words].concat();
    let arn = Client::start("cli-old", pod.agent(&words)).call().unwrap();
    assert!(arn.contains("/prod-acme-broker/"), "{arn}");
}

/// Without the injected variables there are no session credentials. With other credentials the
/// call shows the owner of those.
#[test]
fn no_call_has_the_session_without_the_injected_variables() {
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let _sidecar = pod.start_ready();
    let base = account.base_session();
    let keys = [
        ("AWS_ACCESS_KEY_ID", base.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", base.secret_access_key),
        ("AWS_SESSION_TOKEN", base.session_token),
    ];
    let keys = keys.map(|(name, value)| format!("{name}={value}"));
    let mut without: Vec<(Client, Client, Client)> = CLIENTS
        .into_iter()
        .map(|name| {
            let words = client::words(name);
            let lacking = |variable| Client::start(name, pod.agent_without(variable, &words));
            let with_base = [&["env".to_owned()], &keys[..], &words].concat();
            (
                lacking("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
                lacking("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
                Client::start(name, pod.agent(&with_base)),
            )
        })
        .collect();
    for (no_token, no_endpoint, with_base) in &mut without {
        assert!(no_token.call().is_err(), "{}: without the token", no_token.name);
        assert!(no_endpoint.call().is_err(), "{}: without the endpoint", no_endpoint.name);
        let arn = with_base.call().unwrap();
        assert!(arn.contains(":assumed-role/prod-acme-tenant/"), "{arn}");
    }
    let calls = account.events("GetCallerIdentity");
    assert_eq!(calls.len(), CLIENTS.len(), "only those with the base credentials arrived");
    assert!(calls.iter().all(|call| source_identity(call).is_empty()));
    assert!(pod.status()["refused"]["token-wrong"].as_u64() >= Some(CLIENTS.len() as u64));
}

/// Each row is a control without the webhook: this SDK uses other credentials than the sidecar's.
/// The webhook refuses a pod with any of its variables, or removes them.
#[test]
fn each_listed_variable_wins_over_the_endpoint() {
    /// Whether the call has the base role, or fails because the SDK found something else first.
    #[derive(Clone, Copy, PartialEq)]
    enum Wins {
        Base,
        Nothing,
    }
    use Wins::{Base, Nothing};
    let account = Account::open(Policies::default());
    let pod = account.pod();
    let _sidecar = pod.start_ready();
    let Credentials { access_key_id: key, secret_access_key: secret, session_token: token, .. } =
        &account.base_session();
    let home = process::own_directory();
    let file = |name: &str, text: String| {
        fs::create_dir_all(home.path().join(".aws")).unwrap();
        fs::write(home.path().join(name), text).unwrap();
        home.path().join(name).to_str().unwrap().to_owned()
    };
    let profile = |name: &str| {
        format!(
            "[{name}]\naws_access_key_id={key}\naws_secret_access_key={secret}\naws_session_token={token}\n"
        )
    };
    file(".aws/credentials", profile("own"));
    let file_of_keys = file("keys", profile("default"));
    let old_file = file("old", format!("AWSAccessKeyId={key}\nAWSSecretKey={secret}\n"));
    let boto_file = file(
        "boto",
        format!("[Credentials]\naws_access_key_id={key}\naws_secret_access_key={secret}\n"),
    );
    let pod_token =
        file("token", account.mint(&account.template().name, STS, Duration::from_secs(3600)));
    let home = ("HOME", home.path().to_str().unwrap().to_owned());
    let amazon_keys = [
        ("AMAZON_ACCESS_KEY_ID", key.clone()),
        ("AMAZON_SECRET_ACCESS_KEY", secret.clone()),
        ("AMAZON_SESSION_TOKEN", token.clone()),
    ];
    let short_keys = [
        ("AWS_ACCESS_KEY", key.clone()),
        ("AWS_SECRET_KEY", secret.clone()),
        ("AWS_SESSION_TOKEN", token.clone()),
    ];
    let (key, secret, token) = (key.clone(), secret.clone(), token.clone());
    let own = |name| vec![(name, "own".to_owned()), home.clone()];
    let java = |name, options: String| vec![(name, options)];
    let keys = format!(
        "-Daws.accessKeyId={key} -Daws.secretAccessKey={secret} -Daws.sessionToken={token}"
    );
    let keys_of_v1 =
        format!("-Daws.accessKeyId={key} -Daws.secretKey={secret} -Daws.sessionToken={token}");
    let relative = vec![("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x".to_owned())];
    type Variables<'a> = Vec<(&'a str, String)>;
    let cases: Vec<(&'static str, Variables<'_>, Wins)> = vec![
        (
            "boto3",
            vec![
                ("AWS_ACCESS_KEY_ID", key),
                ("AWS_SECRET_ACCESS_KEY", secret),
                ("AWS_SECURITY_TOKEN", token),
            ],
            Base,
        ),
        ("go", short_keys.to_vec(), Base),
        ("go-v1", short_keys.to_vec(), Base),
        ("java-v1", short_keys.to_vec(), Base),
        ("javascript-v2", amazon_keys.to_vec(), Base),
        ("boto3", own("AWS_PROFILE"), Base),
        ("boto3", own("AWS_DEFAULT_PROFILE"), Base),
        ("cli", own("AWS_PROFILE"), Base),
        ("go", own("AWS_DEFAULT_PROFILE"), Base),
        ("java", own("AWS_PROFILE"), Base),
        ("javascript", own("AWS_PROFILE"), Base),
        ("kotlin", own("AWS_PROFILE"), Base),
        ("rust", own("AWS_PROFILE"), Base),
        ("boto3", vec![("AWS_SHARED_CREDENTIALS_FILE", file_of_keys.clone())], Base),
        ("javascript", vec![("AWS_SHARED_CREDENTIALS_FILE", file_of_keys.clone())], Base),
        ("boto3", vec![("AWS_CONFIG_FILE", file_of_keys.clone())], Base),
        ("rust", vec![("AWS_CONFIG_FILE", file_of_keys.clone())], Base),
        ("boto3", vec![("AWS_CREDENTIAL_FILE", old_file)], Nothing),
        ("boto3", vec![("BOTO_CONFIG", boto_file)], Nothing),
        ("java-v1", vec![("AWS_CREDENTIAL_PROFILES_FILE", file_of_keys.clone())], Base),
        ("java-v1", java("JAVA_TOOL_OPTIONS", keys_of_v1), Base),
        ("kotlin", java("JAVA_TOOL_OPTIONS", keys.clone()), Base),
        (
            "kotlin",
            java(
                "JAVA_TOOL_OPTIONS",
                "-Daws.containerCredentialsFullUri=http://127.0.0.1:9".to_owned(),
            ),
            Nothing,
        ),
        ("java", java("JAVA_TOOL_OPTIONS", keys.clone()), Base),
        ("java", java("JDK_JAVA_OPTIONS", keys.clone()), Base),
        ("java", java("_JAVA_OPTIONS", keys), Base),
        (
            "java",
            java("JAVA_TOOL_OPTIONS", format!("-Daws.sharedCredentialsFile={file_of_keys}")),
            Base,
        ),
        ("java", java("JAVA_TOOL_OPTIONS", format!("-Daws.configFile={file_of_keys}")), Base),
        (
            "java",
            vec![("JAVA_TOOL_OPTIONS", "-Daws.profile=own".to_owned()), home.clone()],
            Base,
        ),
        (
            "java",
            java(
                "JAVA_TOOL_OPTIONS",
                format!("-Daws.roleArn={BASE} -Daws.webIdentityTokenFile={pod_token}"),
            ),
            Base,
        ),
        (
            "java",
            java(
                "JAVA_TOOL_OPTIONS",
                "-Daws.containerCredentialsPath=/x -Daws.containerServiceEndpoint=http://127.0.0.1:9"
                    .to_owned(),
            ),
            Nothing,
        ),
        (
            "java",
            java(
                "JAVA_TOOL_OPTIONS",
                "-Daws.containerCredentialsFullUri=http://127.0.0.1:9".to_owned(),
            ),
            Nothing,
        ),
        (
            "java",
            java("JAVA_TOOL_OPTIONS", "-Daws.containerAuthorizationToken=own".to_owned()),
            Nothing,
        ),
        (
            "java",
            java("JAVA_TOOL_OPTIONS", "-Daws.containerAuthorizationTokenFile=/dev/null".to_owned()),
            Nothing,
        ),
        ("java", vec![("AWS_CONTAINER_AUTHORIZATION_TOKEN", "own".to_owned())], Nothing),
        ("javascript", relative.clone(), Nothing),
        ("javascript-v2", relative, Nothing),
        ("javascript-v2", vec![("AWS_CONTAINER_AUTHORIZATION_TOKEN", "own".to_owned())], Nothing),
        (
            "boto3",
            vec![
                ("AWS_ROLE_ARN", BASE.to_owned()),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", pod_token),
            ],
            Base,
        ),
        // What moves the home directory changes nothing by itself.
        ("boto3", vec![home], Nothing),
    ];
    let controls = cases.len() - 1;
    let tenant = Tenant::new(Config::parse("").unwrap());
    for (index, (name, variables, wins)) in cases.into_iter().enumerate() {
        let set = variables.iter().map(|(name, value)| format!("{name}={value}"));
        let words = ["env".to_owned()].into_iter().chain(set).chain(client::words(name)).collect();
        let words: Vec<String> = words;
        let said = Client::start(name, pod.agent(&words)).call();
        let names: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
        let is_base =
            said.as_ref().is_ok_and(|arn| arn.contains(":assumed-role/prod-acme-tenant/"));
        let is_ours = said.as_ref().is_ok_and(|arn| arn.contains("/prod-acme-broker/"));
        if index == controls {
            assert!(is_ours, "{name} {names:?}: {said:?}");
            continue;
        }
        assert_eq!((is_base, is_ours), (wins == Base, false), "{name} {variables:?}: {said:?}");
        for (variable, value) in variables.iter().filter(|(name, _)| *name != "HOME") {
            let env = json!([{"name": variable, "value": value}]);
            let agent = json!({"name": "agent", "image": "i", "env": env});
            let pod = json!({"metadata": {"name": "a"}, "spec": {"serviceAccountName": "tenant-runtime", "containers": [agent]}});
            match tenant.decide(&pod, "admin") {
                (Decision::Refuse(refusal), _) => assert_eq!(refusal.code(), "static-credentials"),
                (_, operations) => {
                    let mut pod = pod;
                    json_patch::patch(&mut pod, &operations).unwrap();
                    let agent = &pod["spec"]["containers"][0]["env"];
                    let names = agent.as_array().unwrap().iter().map(|entry| &entry["name"]);
                    assert!(names.into_iter().all(|name| name != variable), "{variable} stays");
                }
            }
        }
    }
}

/// Returns the start of the SDK's user agent.
fn agent(client: &str) -> &str {
    match client {
        "boto3" => "Boto3/",
        "cli" => "aws-cli/",
        "go" => "aws-sdk-go-v2/",
        "go-v1" => "aws-sdk-go/1.",
        "java" => "aws-sdk-java/2.",
        "java-v1" => "aws-sdk-java/1.",
        "javascript" => "aws-sdk-js/",
        "javascript-v2" => "aws-sdk-nodejs/2.",
        "kotlin" => "aws-sdk-kotlin/",
        _ => "aws-sdk-rust/",
    }
}

fn source_identity(event: &Value) -> &str {
    event["userIdentity"]["sessionContext"]["sourceIdentity"].as_str().unwrap_or_default()
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

const PATIENCE: Duration = Duration::from_secs(30);
/// Audiences of projected tokens, for EKS Pod Identity and for web identities.
const EKS: &str = "pods.eks.amazonaws.com";
const STS: &str = "sts.amazonaws.com";
