//! A Kubernetes API server as a verifier of the issuer's JWTs: it reads the files of `issuer
//! export` over HTTPS, at the URL of the issuer.

use std::{
    io::{Read, Write, copy},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use harness::{
    control_plane::{Additions, ControlPlane},
    file_server,
    process::wait_until,
    program,
    tls::Tls,
};

use super::*;

/// Starts a forward proxy that takes each connection for the issuer's host to `target`.
fn proxy_to(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || lead(stream, target));
        }
    });
    address
}

fn lead(mut stream: TcpStream, target: SocketAddr) -> std::io::Result<u64> {
    let mut head = [0; 1024];
    let length = stream.read(&mut head)?;
    if !head[..length].starts_with(b"CONNECT issuer.example.com:443 ") {
        return stream.write(b"HTTP/1.1 403 Forbidden\r\n\r\n").map(|_| 0);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let mut behind = TcpStream::connect(target)?;
    let (mut from, mut to) = (stream.try_clone()?, behind.try_clone()?);
    thread::spawn(move || copy(&mut from, &mut to));
    copy(&mut behind, &mut stream)
}

/// Writes the files of the issuer with this key, as `issuer export` does.
fn export(signer: &Signer, directory: &std::path::Path) {
    let key = STANDARD.encode(signer.pair.to_pkcs8v1().unwrap().as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    fs::write(directory.join("key.pem"), pem).unwrap();
    let config = json!({
        "cluster": "prod",
        "roles": {"ssm": {}, "allow": {"accounts": ["111122223333"]}},
        "issuer": {
            "url": ISSUER,
            "endpoint": "https://injector-issuer.fab-system.svc/v1/token",
            "caFile": "ca.crt",
            "keys": [{"file": directory.join("key.pem"), "state": "signing"}],
        },
    });
    fs::write(directory.join("config.yaml"), config.to_string()).unwrap();
    let exported = Command::new(program())
        .args(["issuer", "export", "--config=config.yaml", "--out=published/prod"])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
}

/// The users of a cluster that accepts the issuer's JWTs.
struct Users(ControlPlane);

impl Users {
    /// Returns the user of a JWT, or why it is none.
    fn of(&self, jwt: &str) -> Result<Value, String> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": jwt},
        });
        let create = ["create", "--filename=-"];
        let status = self.0.kubectl(&create).stdin(&review.to_string()).json()["status"].clone();
        match status["authenticated"] == true {
            true => Ok(status["user"].clone()),
            false => Err(status["error"].as_str().unwrap_or_default().to_owned()),
        }
    }
}

#[test]
fn a_kube_apiserver_accepts_only_the_untouched_jwt() {
    let (signer, other) = (Signer::new(), Signer::new());
    let directory = tempfile::tempdir().unwrap();
    export(&signer, directory.path());
    let files = directory.path().join("published");
    let files = file_server::serve(Ipv4Addr::LOCALHOST.into(), files);
    let tls = Tls::on((Ipv4Addr::LOCALHOST, 0).into(), &["issuer.example.com"], files);
    let claim = |name: &str| json!({"valueExpression": format!("claims['{name}']")});
    let with_key = |key: &str, mut mapping: Value| {
        mapping["key"] = key.into();
        mapping
    };
    let authentication = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {
                "url": ISSUER,
                "certificateAuthority": fs::read_to_string(tls.authority()).unwrap(),
                "audiences": [CLIENT_ID],
            },
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "session:"},
                "groups": {"expression": "claims['https://aws.amazon.com/roles']"},
                "uid": {"claim": "jti"},
                "extra": [
                    with_key("test.example/identity", claim("https://aws.amazon.com/source_identity")),
                    with_key("test.example/namespace", json!({"valueExpression":
                        "claims['https://aws.amazon.com/tags'].principal_tags['kubernetes-namespace']"})),
                ],
            },
        }],
    });
    let proxy = format!("http://{}", proxy_to(tls.address()));
    let users = Users(ControlPlane::start_with(Additions {
        authentication: Some(authentication),
        proxy: Some(proxy),
    }));
    let user = wait_until("it has the published keys", Duration::from_secs(60), || {
        users.of(&signer.jwt(now())).ok()
    });
    assert_eq!(user["username"], "session:agent.acme.fab-coder-x7k2p");
    assert_eq!(user["extra"]["test.example/identity"], json!(["agent.acme.fab-coder-x7k2p"]));
    assert_eq!(user["extra"]["test.example/namespace"], json!(["tenants-acme"]));
    let groups = user["groups"].as_array().unwrap();
    assert!(groups.contains(&json!("arn:aws:iam::111122223333:role/prod-acme-broker")), "{user}");

    let jwt = signer.jwt(now());
    let (header, claims) = (part(&jwt, 0), part(&jwt, 1));
    assert_eq!(users.of(&signer.sign(&header, &claims)).unwrap()["uid"], claims["jti"]);
    let with = |part: &Value, key: &str, value: Value| {
        let mut changed = part.clone();
        changed[key] = value;
        changed
    };
    let parts: Vec<&str> = jwt.split('.').collect();
    let foreign = encoded(&with(&claims, "sub", "agent.acme.other".into()));
    let signature = "failed to verify signature";
    for (what, jwt, wanted) in [
        ("claims", format!("{}.{foreign}.{}", parts[0], parts[2]), signature),
        ("signature", format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86)), signature),
        ("another key", other.sign(&header, &claims), signature),
        ("another kid", signer.sign(&with(&header, "kid", "1".into()), &claims), signature),
        ("another key and its kid", other.jwt(now()), signature),
        (
            "another audience",
            signer.sign(&header, &with(&claims, "aud", "sts.amazonaws.com".into())),
            "expected audience",
        ),
        (
            "another issuer",
            signer.sign(&header, &with(&claims, "iss", "https://issuer.example.com".into())),
            // No verifier is asked.
            "invalid bearer token",
        ),
        ("expired", signer.jwt(now() - Duration::from_secs(180)), "token is expired"),
    ] {
        let said = users.of(&jwt).expect_err(what);
        assert!(said.contains(wanted), "{what}: {said}");
    }
    // The control: none of these has made it refuse what it accepts.
    assert!(users.of(&signer.jwt(now())).is_ok());
}
