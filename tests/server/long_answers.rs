//! A response of AWS or of the node's Pod Identity agent that does not end is given up after
//! 1 MiB, and is named like any other that cannot be read.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use harness::{
    process::{Process, own_directory, wait_until},
    sidecar::pod::without_a_pod,
    webhook::{
        load::config_with_ssm,
        server::{Server, make_certificate},
    },
};

/// Answers every request with status 200 and spaces, as many as the client takes.
struct Endless {
    address: SocketAddr,
    /// The bytes that the client of each response took.
    taken: Receiver<usize>,
}

impl Endless {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, taken) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = sender.send(answer(stream));
            }
        });
        Self { address, taken }
    }

    /// Waits for a whole call, then returns the most bytes that a client took.
    fn taken(&self) -> usize {
        let first = self.taken.recv_timeout(PATIENCE).expect("a call ends");
        self.taken.try_iter().fold(first, usize::max)
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
        let mut command = without_a_pod(directory.path());
        command.env("AWS_REGION", "eu-west-1").env("AWS_ENDPOINT_URL_STS", &url);
        match source {
            "pod-identity" => command
                .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/v1/credentials"))
                .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
            "sts" => command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b"),
            _ => command
                .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/base")
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
        };
        let sidecar = Process::start("sidecar", directory.path(), &command);
        wait_until("the failure is logged", PATIENCE, || {
            sidecar.log().contains(code).then_some(())
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
    let config = config_with_ssm(directory.path(), endless.address);
    let arguments = ["--shutdown-delay=0", "--config", config.to_str().unwrap()];
    let server = Server::start_with(directory, &tls, &arguments);
    let taken = endless.taken();
    assert!(taken < MOST, "{taken} bytes");
    let memory = server.memory("VmHWM:");
    assert!(memory < 64 * 1024, "{memory} KiB");
}
