//! Two pods with one uid on a node. The kernel limits epoll watches per user
//! (`fs.epoll.max_user_watches`), so one pod can use up all of them. The test shows the attack, and
//! what protects sidecar and webhook from it: another uid, or a user namespace.
//!
//! Needs root: it starts programs as other users, and lowers the kernel's limit meanwhile. The
//! attack then needs a second and 10 MiB, instead of a minute and 1 GiB.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use harness::{
    process::{Process, free_port, get, own_directory, wait_until},
    sidecar::account::{Account, Policies},
    webhook::client::{Client, Protocol},
};
use rustls::version::TLS13;
use tokio::time::timeout;

/// The user of a pod.
#[derive(Clone, Copy, Debug)]
enum User {
    /// A user of the node, the default for pods.
    Shared(u32),
    /// A user in the pod's user namespace, which is a different one for the kernel.
    Own(u32),
}

#[test]
fn a_pod_with_the_sidecars_uid_can_exhaust_its_connections() {
    use User::{Own, Shared};
    let cases = [
        (Shared(SIDECAR), Shared(64018), true),
        (Shared(SIDECAR), Shared(SIDECAR), false),
        // One of the two has `hostUsers: false`.
        (Shared(SIDECAR), Own(SIDECAR), true),
        (Own(SIDECAR), Shared(SIDECAR), true),
    ];
    for (user, hog, want) in cases {
        let account = Account::open(Policies::default());
        let pod = account.pod();
        let env = pod.sidecar_environment();
        let mut words: Vec<String> =
            env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.extend(["/run/program", "sidecar"].map(str::to_owned));
        let command = container(user, pod.directory.path(), PROGRAM.as_ref(), &words);
        let sidecar = Process::start("sidecar", pod.directory.path(), &command);
        let is_answered = || {
            let is_answered = pod.get("/v1/credentials").0 == 200;
            if !is_answered && sidecar.log().contains(NONE_LEFT) {
                // The sidecar of a new pod does not start either.
                let mut next = container(user, pod.directory.path(), PROGRAM.as_ref(), &words);
                let next = next.output().unwrap();
                let said = [next.stdout, next.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(said.contains("cannot start the runtime"), "{}: {said}", next.status);
            }
            is_answered
        };
        attack(&format!("{user:?}"), &sidecar, hog, is_answered, want);
    }
}

#[test]
fn a_pod_with_the_webhooks_uid_can_exhaust_its_connections() {
    use User::{Own, Shared};
    let cases = [
        // A common user of images.
        (Shared(WEBHOOK), Shared(65532), true),
        (Shared(WEBHOOK), Shared(WEBHOOK), false),
        (Own(WEBHOOK), Shared(WEBHOOK), true),
    ];
    for (user, hog, want) in cases {
        let directory = own_directory();
        let path = directory.path();
        let make = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make");
        assert!(Command::new(make).arg(path.join("tls")).status().unwrap().success());
        let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(path).status();
        assert!(readable.unwrap().success());
        for file in ["namespaces.yaml", "roles.yaml"] {
            let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo").join(file);
            fs::copy(example, path.join(file)).unwrap();
        }
        let [address, health] = [(), ()].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let words = [
            "AWS_REGION=eu-west-1",
            "/run/program",
            "webhook",
            &format!("--listen={address}"),
            &format!("--health-listen={health}"),
            "--tls-certificate=/run/files/tls/tls.crt",
            "--tls-key=/run/files/tls/tls.key",
            "--namespaces=/run/files/namespaces.yaml",
            "--roles=/run/files/roles.yaml",
        ]
        .map(str::to_owned);
        let command = container(user, path, PROGRAM.as_ref(), &words);
        let webhook = Process::start("webhook", path, &command);
        wait_until("the webhook is ready", PATIENCE, || {
            get(health, "/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
        let authority = fs::read(path.join("tls/ca.crt")).unwrap();
        let review = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reviews/runtime.json");
        let review = fs::read(review).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let is_answered = || {
            let ask = async {
                let mut client =
                    Client::connect(address, &authority, Protocol::Http1, &[&TLS13]).await?;
                client.post("/enabled?timeout=5s", "application/json", review.clone()).await
            };
            let answer = runtime.block_on(async { timeout(Duration::from_secs(5), ask).await });
            answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
        };
        attack(&format!("{user:?}"), &webhook, hog, is_answered, want);
    }
}

/// Checks whether new connections get a response while a pod of the user `hog` has all watches, and
/// that they get one before and after it.
fn attack(what: &str, attacked: &Process, hog: User, is_answered: impl Fn() -> bool, want: bool) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _lowered = Lowered::to(50_000);
    let served = || is_answered().then_some(());
    wait_until(&format!("{what} is answered"), PATIENCE, served);
    let directory = own_directory();
    let program = hog_program(directory.path());
    let words = ["/run/program".to_owned()];
    let command = container(hog, directory.path(), &program, &words);
    let mut process = Process::start("hog", directory.path(), &command);
    let log = directory.path().join("hog.log");
    let said = process.wait_until("the hog has all watches of its user", PATIENCE, || {
        Some(fs::read_to_string(&log).unwrap()).filter(|said| said.contains("has no watch left"))
    });
    // Its uid inside its user namespace.
    let (User::Shared(uid) | User::Own(uid)) = hog;
    assert!(said.contains(&format!("user {uid} has")), "{said}");
    for _ in 0..3 {
        assert_eq!(is_answered(), want, "{what}, and a hog as {hog:?}\n{}", attacked.log());
    }
    assert_eq!(attacked.log().contains(NONE_LEFT), !want, "{}", attacked.log());
    process.kill();
    wait_until(&format!("{what} is answered again"), PATIENCE, served);
}

/// The lowered kernel limit per user, until it is dropped.
struct Lowered(String);

impl Lowered {
    fn to(watches: u32) -> Self {
        let before = fs::read_to_string(LIMIT).unwrap();
        fs::write(LIMIT, watches.to_string()).expect("root may lower the limit");
        Self(before)
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        fs::write(LIMIT, &self.0).unwrap();
    }
}

fn hog_program(directory: &Path) -> PathBuf {
    let program = directory.join("hog");
    let made = Command::new("cc")
        .args(["-O1", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/shared_user/hog.c"))
        .status();
    assert!(made.unwrap().success());
    program
}

fn container(user: User, directory: &Path, program: &Path, words: &[String]) -> Command {
    let (host, uid) = match user {
        User::Shared(uid) => (uid, uid),
        // The kubelet gives each pod 65536 users, from 65536 on.
        User::Own(uid) => (2 * 65536 + uid, uid),
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/shared_user/container");
    let mut command = Command::new(script);
    command.args([host, uid].map(|uid| uid.to_string())).arg(directory).arg(program).args(words);
    command
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_fab-session-injector");
/// Default of the config.
const SIDECAR: u32 = 64017;
/// Default of the chart.
const WEBHOOK: u32 = 61017;
const LIMIT: &str = "/proc/sys/fs/epoll/max_user_watches";
/// The message of ENOSPC.
const NONE_LEFT: &str = "No space left on device";
const PATIENCE: Duration = Duration::from_secs(60);
