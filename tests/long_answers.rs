//! A response of AWS or of the node's Pod Identity agent that does not end is given up after
//! 1 MiB, and is named like any other that cannot be read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{
    process::{Process, free_port, own_directory, wait_until},
    webhook::server::{Server, make_certificate},
};
use serde_json::json;

/// Answers every request with status 200 and spaces, as many as the client takes.
struct Endless {
    address: SocketAddr,
    most: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
}

impl Endless {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (most, answered) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&most), Arc::clone(&answered));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counts.0.fetch_max(answer(stream), Ordering::SeqCst);
                counts.1.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, most, answered }
    }

    /// Waits for a whole call, then returns the most bytes that a client took.
    fn taken(&self) -> usize {
        wait_until("a call has ended", PATIENCE, || {
            (self.answered.load(Ordering::SeqCst) > 0).then_some(())
        });
        self.most.load(Ordering::SeqCst)
    }
}

/// Returns how many bytes the client, and the kernel for it, took.
fn answer(mut stream: TcpStream) -> usize {
    let mut request = [0; 16 * 1024];
    if stream.read(&mut request).unwrap_or_default() == 0 {
        return 0;
    }
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    let mut taken = 0;
    let mut piece: &[u8] = head;
    while taken < END && stream.write_all(piece).is_ok() {
        taken += piece.len();
        piece = &SPACES;
    }
    taken
}

static SPACES: [u8; 64 * 1024] = [b' '; 64 * 1024];
/// The server ends here, so that a client without a limit fails the test and not the machine.
const END: usize = 256 * 1024 * 1024;
/// 1 MiB that the client reads, and what the kernel buffers for both ends of a connection on
/// loopback (`net.ipv4.tcp_rmem` and `tcp_wmem`: 6 MiB and 4 MiB).
const MOST: usize = 12 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn an_endless_response_to_the_sidecar_is_given_up() {
    for (source, code) in [
        ("pod-identity", "base-credentials-unavailable"),
        ("sts", "sts-unavailable"),
        ("web-identity", "base-credentials-unavailable"),
    ] {
        let endless = Endless::start();
        let url = format!("http://{}", endless.address);
        let directory = own_directory();
        let token = directory.path().join("base");
        std::fs::write(&token, "a.b.c").unwrap();
        let port = free_port().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
        command
            .arg("sidecar")
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_ENDPOINT_URL_STS", &url)
            .env("FAB_SESSION_DURATION", "3600")
            .env("FAB_SESSION_ID", "s")
            .env("FAB_SESSION_IDENTITY", "agent.acme.s")
            .env("FAB_SESSION_PORT", &port)
            .env("FAB_SESSION_ROLE_ARN", "arn:aws:iam::111122223333:role/broker")
            .env("FAB_SESSION_START_GATE", "credentials")
            .env("FAB_SESSION_TENANT", "acme")
            .env("FAB_SESSION_TOKEN_FILE", directory.path().join("token"));
        match source {
            "pod-identity" => command
                .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/v1/credentials"))
                .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
            "sts" => command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b"),
            _ => command
                .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/base")
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
        };
        let mut sidecar = Process::start("sidecar", directory.path(), &command);
        sidecar.wait_until("the failure is logged", PATIENCE, || {
            let log = std::fs::read_to_string(directory.path().join("sidecar.log")).unwrap();
            log.contains(code).then_some(())
        });
        let taken = endless.taken();
        assert!(taken < MOST, "{source}: {taken} bytes");
    }
}

#[test]
fn an_endless_response_of_ssm_is_given_up() {
    let endless = Endless::start();
    let directory = own_directory();
    let tls = directory.path().join("tls");
    make_certificate(&tls, &[]);
    let config = directory.path().join("config.yaml");
    let endpoint = format!("http://{}", endless.address);
    let ssm =
        json!({"cluster": "prod", "roles": {"ssm": {"endpoint": endpoint, "region": "eu-west-1"}}});
    std::fs::write(&config, ssm.to_string()).unwrap();
    let arguments = ["--shutdown-delay=0", "--config", config.to_str().unwrap()];
    let server = Server::start_with(directory, &tls, &arguments);
    let taken = endless.taken();
    assert!(taken < MOST, "{taken} bytes");
    let memory = server.memory("VmHWM:");
    assert!(memory < 64 * 1024, "{memory} KiB");
}
