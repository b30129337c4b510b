//! The messages of the sidecar, each as the program writes it for a response of AWS or a request
//! of a client.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::LazyLock,
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fab_session_injector::issuer::TokenRefusal;
use harness::{
    process::{Process, free_port, own_directory, wait_until},
    sidecar::pod::without_a_pod,
    tls::Tls,
};
use serde_json::{Value, json};

/// An error response of the sidecar.
pub(super) struct Said {
    pub(super) code: String,
    pub(super) status: u16,
    pub(super) message: String,
}

/// The responses of AWS to the calls of a sidecar: status and body.
struct Aws {
    /// Of what comes before the session credentials: the node's Pod Identity agent, STS for a web
    /// identity, or the session issuer.
    base: Answer,
    assume_role: Answer,
}

enum Answer {
    /// The connection closes.
    Nothing,
    Text(u16, String),
    /// No response until the sidecar stops.
    Wait,
}

/// Failures to get session credentials, in the order of the page's examples.
pub(super) static FAILURES: LazyLock<Vec<Said>> = LazyLock::new(|| {
    let cases = cases();
    thread::scope(|threads| {
        let running: Vec<_> =
            cases.iter().map(|(source, aws)| threads.spawn(|| failure(source, aws))).collect();
        running.into_iter().map(|case| case.join().unwrap()).collect()
    })
});

/// Requests that the sidecar refuses, and one that comes before the first credentials.
pub(super) static REQUESTS: LazyLock<Vec<Said>> = LazyLock::new(|| {
    let aws = Aws { base: Answer::Wait, assume_role: Answer::Wait };
    thread::scope(|threads| {
        let sidecar = Sidecar::start("podIdentity", &aws, threads);
        let host = format!("Host: 127.0.0.1:{}", sidecar.port);
        let token = format!("Authorization: {}", sidecar.token());
        let url = format!("GET http://127.0.0.1:{}/v1/credentials", sidecar.port);
        let cases: [(&str, [&str; 2]); 6] = [
            (&url, [&host, &token]),
            ("GET /v1/credentials", ["Host: evil.example", &token]),
            ("POST /v1/credentials", [&host, &token]),
            ("GET /elsewhere", [&host, &token]),
            ("GET /v1/credentials", [&host, "Authorization: own"]),
            ("GET /v1/credentials", [&host, &token]),
        ];
        cases.map(|(line, headers)| sidecar.said(line, &headers)).into()
    })
});

fn cases() -> Vec<(&'static str, Aws)> {
    let role = "arn:aws:iam::111122223333:role/prod-acme-broker";
    let agent = |status, text: &str| {
        let base = Answer::Text(status, text.to_owned());
        ("podIdentity", Aws { base, assume_role: Answer::Nothing })
    };
    let web_identity = |status, code, message| {
        let base = Answer::Text(status, sts_error(code, message));
        ("irsa", Aws { base, assume_role: Answer::Nothing })
    };
    let assume_role = |answer| {
        let base = Answer::Text(200, BASE.to_owned());
        ("podIdentity", Aws { base, assume_role: answer })
    };
    let error =
        |status, code, message: &str| assume_role(Answer::Text(status, sts_error(code, message)));
    let denied = |action: &str, why: &str| {
        error(
            403,
            "AccessDenied",
            &format!(
                "User: arn:aws:sts::111122223333:assumed-role/base/s is not authorized to perform: {action} on resource: {role}{why}"
            ),
        )
    };
    let issuer = |status, body: Value, assume_role| {
        ("issuer", Aws { base: Answer::Text(status, body.to_string()), assume_role })
    };
    let refused = |refusal: TokenRefusal| {
        let body = json!({"code": refusal.code(), "message": refusal.to_string()});
        issuer(refusal.status(), body, Answer::Nothing)
    };
    let issued = |role: &str| {
        json!({
            "token": ISSUED,
            "role": role,
            "sourceIdentity": IDENTITY,
            "roleSessionName": "coder-1",
            "durationSeconds": 3600,
        })
    };
    let rejected = |status, code, message| {
        issuer(200, issued(role), Answer::Text(status, sts_error(code, message)))
    };
    vec![
        rejected(
            400,
            "ExpiredTokenException",
            "Token expired: current date/time 1796000400 must be before the expiration date/time 1796000060",
        ),
        rejected(400, "InvalidIdentityToken", "Incorrect token audience"),
        issuer(200, issued("arn:aws:iam::111122223333:role/prod-acme-new"), Answer::Nothing),
        rejected(
            400,
            "InvalidIdentityToken",
            "Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements",
        ),
        refused(TokenRefusal::PredatesGuard { pod: "coder-1".to_owned() }),
        refused(TokenRefusal::KeyUnpublished),
        ("issuer", Aws { base: Answer::Nothing, assume_role: Answer::Nothing }),
        rejected(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
        ("late", refused(TokenRefusal::Unbound { pod: "pool-x1".to_owned() }).1),
        ("restored", Aws { base: Answer::Nothing, assume_role: Answer::Nothing }),
        error(403, "ExpiredToken", "The security token included in the request is expired"),
        agent(
            400,
            "(AccessDeniedException): Unauthorized Exception! EKS does not have permissions to assume the associated role.\n",
        ),
        web_identity(
            400,
            "InvalidIdentityToken",
            "No OpenIDConnect provider found in your account for https://oidc.eks.eu-west-1.amazonaws.com/id/TEST",
        ),
        agent(
            404,
            "(ResourceNotFoundException): The specified resource could not be found., fault: client\n",
        ),
        web_identity(
            400,
            "InvalidIdentityToken",
            "Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements",
        ),
        assume_role(Answer::Text(200, assumed("2020-01-01T00:00:00Z", IDENTITY))),
        denied("sts:AssumeRole", ""),
        denied(
            "sts:AssumeRole",
            " because no identity-based policy allows the sts:AssumeRole action",
        ),
        denied("sts:AssumeRole", " with an explicit deny in a permissions boundary"),
        denied("sts:AssumeRole", " with an explicit deny in a service control policy"),
        denied(
            "sts:AssumeRole",
            " because no VPC endpoint policy allows the sts:AssumeRole action",
        ),
        denied("sts:SetSourceIdentity", ""),
        denied("sts:TagSession", ""),
        assume_role(Answer::Text(200, assumed("2999-01-01T00:00:00Z", ""))),
        error(
            403,
            "RegionDisabledException",
            "STS is not activated in this region for account:111122223333. Your account administrator can activate STS in this region using the IAM Console.",
        ),
        error(
            400,
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ),
        error(
            403,
            "SignatureDoesNotMatch",
            "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z (20260101T001500Z - 5 min.)\n\nThe Canonical String for this request should have been\n'POST\nx-amz-security-token:base-session-token'",
        ),
        error(
            500,
            "InternalFailure",
            "The request processing has failed because of an unknown error.",
        ),
        error(
            400,
            "PackedPolicyTooLarge",
            "Packed size of session tags consumes 104% of allotted space.",
        ),
        error(400, "Throttling", "Rate exceeded"),
    ]
}

fn failure(source: &str, aws: &Aws) -> Said {
    thread::scope(|threads| {
        let sidecar = Sidecar::start(source, aws, threads);
        let host = format!("Host: 127.0.0.1:{}", sidecar.port);
        let token = format!("Authorization: {}", sidecar.token());
        let said = wait_until("the sidecar reports a failure", PATIENCE, || {
            let said = sidecar.said("GET /v1/credentials", &[&host, &token]);
            // It has read the token of its own pod.
            if source == "restored" && said.code == "issuer-unavailable" {
                fs::write(sidecar.directory.path().join("projected"), token_of(1)).unwrap();
                return None;
            }
            (said.code != "starting").then_some(said)
        });
        let secrets =
            ["base-session-token", "base-secret", "own-secret", "own-token", ISSUED, TOKEN];
        for secret in secrets {
            assert!(!said.message.contains(secret), "{}", said.message);
            assert!(!sidecar.process.log().contains(secret), "{}", sidecar.process.log());
        }
        said
    })
}

struct Sidecar {
    directory: tempfile::TempDir,
    port: u16,
    process: Process,
    aws: SocketAddr,
    /// In front of the session issuer, which is called by TLS only.
    _tls: Option<Tls>,
}

impl Sidecar {
    fn start<'scope>(
        source: &'scope str,
        aws: &'scope Aws,
        threads: &'scope thread::Scope<'scope, '_>,
    ) -> Self {
        let directory = own_directory();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        threads.spawn(move || serve(&listener, source, aws));
        let projected = directory.path().join("projected");
        let own = if source == "restored" { token_of(0) } else { TOKEN.to_owned() };
        fs::write(&projected, own).unwrap();
        let port = free_port();
        let mut command = without_a_pod(directory.path());
        command
            .env("FAB_SESSION_PORT", port.to_string())
            .env("FAB_SESSION_ID", "coder-1")
            .env("FAB_SESSION_IDENTITY", IDENTITY)
            .env("FAB_SESSION_ROLE_ARN", "arn:aws:iam::111122223333:role/prod-acme-broker")
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_ENDPOINT_URL_STS", format!("http://{address}"));
        let tls = ["issuer", "late", "restored"].contains(&source).then(|| Tls::before(address));
        if source == "late" {
            let marker = "<sandbox claim>";
            command
                .env("FAB_SESSION_ID", marker)
                .env("FAB_SESSION_IDENTITY", format!("agent.acme.{marker}"));
        }
        if let Some(tls) = &tls {
            let ca = fs::read_to_string(tls.authority()).unwrap();
            let endpoint = format!("https://localhost:{}/v1/token", tls.address().port());
            command
                .env("FAB_SESSION_ISSUER", endpoint)
                .env("FAB_SESSION_ISSUER_CA", ca)
                .env("FAB_SESSION_ISSUER_TOKEN_FILE", &projected);
        } else if source == "irsa" {
            command
                .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/base")
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", &projected);
        } else {
            command
                .env(
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                    format!("http://{address}/v1/credentials"),
                )
                .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &projected);
        }
        let process = Process::start("sidecar", directory.path(), &command);
        let sidecar = Self { directory, port, process, aws: address, _tls: tls };
        wait_until("the sidecar listens", PATIENCE, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        sidecar
    }

    fn token(&self) -> String {
        fs::read_to_string(self.directory.path().join("token")).unwrap()
    }

    /// Returns the error response to a request.
    fn said(&self, line: &str, headers: &[&str]) -> Said {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("{line} HTTP/1.1\r\n{}\r\n\r\n", headers.join("\r\n"));
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        Said { code: text("code"), status, message: text("message") }
    }
}

impl Drop for Sidecar {
    /// Ends the sidecar, then the thread of its AWS.
    fn drop(&mut self) {
        self.process.kill();
        let _ = TcpStream::connect(self.aws).and_then(|mut end| end.write_all(b"END\r\n\r\n"));
    }
}

/// Answers one call after the other, until a request says END.
fn serve(listener: &TcpListener, source: &str, aws: &Aws) {
    let mut waiting = Vec::new();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = read(&mut connection);
        if request.starts_with("END") {
            return;
        }
        let is_base = request.starts_with("GET ")
            || request.starts_with("POST /v1/token ")
            || source == "irsa" && request.contains("WebIdentity");
        match if is_base { &aws.base } else { &aws.assume_role } {
            Answer::Nothing => {}
            Answer::Wait => waiting.push(connection),
            Answer::Text(status, body) => {
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} Any\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _ = connection.write_all(format!("{head}{body}").as_bytes());
            }
        }
    }
}

/// Reads a request with its body.
fn read(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match connection.read(&mut part) {
            Ok(0) | Err(_) => return text,
            Ok(read) => request.extend_from_slice(&part[..read]),
        }
    }
}

/// Returns the token of a pod, as far as the sidecar reads it.
fn token_of(pod: u8) -> String {
    let uid = format!("0e1c7c2b-8a52-4c4f-9d0e-{pod:012}");
    let claims = json!({"kubernetes.io": {"pod": {"uid": uid}}});
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn sts_error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    )
}

fn assumed(expiration: &str, identity: &str) -> String {
    let identity = match identity {
        "" => String::new(),
        identity => format!("<SourceIdentity>{identity}</SourceIdentity>"),
    };
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>{identity}<Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>own-secret</SecretAccessKey><SessionToken>own-token</SessionToken><Expiration>{expiration}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
}

const IDENTITY: &str = "agent.acme.coder-1";
const TOKEN: &str = "the.projected.token";
const ISSUED: &str = "the.issued.token";
const BASE: &str = r#"{"AccessKeyId":"ASIABASE","SecretAccessKey":"base-secret","Token":"base-session-token","Expiration":"2999-01-01T00:00:00Z"}"#;
const PATIENCE: Duration = Duration::from_secs(60);
