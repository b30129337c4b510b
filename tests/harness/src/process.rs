//! Processes of a test. Each runs below a leash process, which stops it when the test process
//! exits for any reason.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{root, scratch};

/// A process of a test.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The leash stops the process when this pipe is closed.
    leash: Option<ChildStdin>,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts `command` without input and with all its output in `directory/name.log`.
    pub fn start(name: &str, directory: &Path, command: &Command) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        let mut leashed = Command::new(root().join("tests/harness/leash"));
        leashed.arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => leashed.env(variable, value),
                None => leashed.env_remove(variable),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            leashed.current_dir(directory);
        }
        let mut child = leashed
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let leash = child.stdin.take();
        Self { child, leash, log, name: name.to_owned() }
    }

    /// Returns the current output of the process.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Returns the exit status, if the process has exited.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends SIGTERM, as the kubelet does, and does not wait.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "{} has ended already", self.name);
    }

    /// Returns a memory line of the process's status, in KiB.
    pub fn memory(&self, key: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns the CPU time that the process has used.
    pub fn cpu(&self) -> Duration {
        let times = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().flatten();
        // The first number: time on the CPU, in nanoseconds.
        let of_thread = |entry: std::fs::DirEntry| {
            let text = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
        };
        Duration::from_nanos(times.map(of_thread).sum())
    }

    /// Returns the id of the process below the leash.
    fn id(&self) -> u32 {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let program = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
            let read = |name| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
            // The leash has another child, a copy of itself.
            String::from_utf8_lossy(&read("status")).contains(&parent)
                && !command.contains("tests/harness/leash")
        });
        let name = program.unwrap_or_else(|| panic!("{} has ended", self.name)).file_name();
        name.to_str().unwrap().parse().unwrap()
    }

    /// Like the function of this name, but fails as soon as the process exits, with the end of its
    /// log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut probe: impl FnMut() -> Option<T>,
    ) -> T {
        let answer = ask_until(timeout, || match probe() {
            Some(found) => Some(Ok(found)),
            None => self.ended().map(Err),
        });
        match answer {
            Some(Ok(found)) => found,
            Some(Err(status)) => {
                panic!("{} ended ({status}) before {what}\n{}", self.name, self.tail())
            }
            None => panic!("waited {timeout:?} until {what}, in vain\n{}", self.tail()),
        }
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("--- the end of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

impl Process {
    /// Sends SIGKILL: a test does not need the shutdown, which is slow for an API server.
    pub fn kill(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            let _ = leash.write_all(b"now\n");
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Calls `probe` repeatedly until it returns a value. `what` completes the sentence "waited 5s
/// until ...".
pub fn wait_until<T>(what: &str, timeout: Duration, probe: impl FnMut() -> Option<T>) -> T {
    ask_until(timeout, probe).unwrap_or_else(|| panic!("waited {timeout:?} until {what}, in vain"))
}

/// Returns a new directory below target/ whose name has the id of this process. A killed test
/// leaves its directory behind; the next test removes it.
pub fn own_directory() -> TempDir {
    let parent = scratch();
    let processes = Path::new("/proc");
    for entry in std::fs::read_dir(&parent).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(OWNED_BY).and_then(|rest| rest.split('-').next());
        let ended = owner.is_some_and(|owner| !processes.join(owner).exists());
        if ended && processes.join("self").exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{OWNED_BY}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).unwrap()
}

/// Returns a free port of 127.0.0.1.
///
/// It is below the range of ephemeral ports of Linux (32768 and up): the API server alone opens
/// about a hundred of those while others start. A test process takes one port after the other, so
/// that the port of a stopped program stays free for its next start.
pub fn free_port() -> u16 {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    // A prime number, so that processes with consecutive ids begin far apart.
    let first = std::process::id() as usize * 7919;
    (0..20_000)
        .map(|_| first + TAKEN.fetch_add(1, Ordering::Relaxed))
        .map(|n| u16::try_from(12_000 + n % 20_000).unwrap())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of twenty thousand ports is free")
}

/// Returns an environment variable, which a test has in place of a command line.
#[allow(clippy::disallowed_methods, reason = "a test has no command line")]
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Returns the address of this machine at which API servers call the servers of the tests:
/// `FAB_TEST_ADDRESS`, or 127.0.0.1.
pub fn address() -> Ipv4Addr {
    match variable("FAB_TEST_ADDRESS") {
        Some(address) => address
            .to_str()
            .and_then(|address| address.parse().ok())
            .expect("FAB_TEST_ADDRESS is no IPv4 address"),
        None => Ipv4Addr::LOCALHOST,
    }
}

/// Returns the path of a program that `tests/setup` built.
pub fn program(name: &str) -> PathBuf {
    let path = |name| variable(name).map(PathBuf::from);
    let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
    [path("FAB_TEST_BIN"), cache.map(|cache| cache.join("fab-session-injector/bin"))]
        .into_iter()
        .flatten()
        .map(|directory| directory.join(name))
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("no {name}: run `make test`, which builds it, or tests/setup"))
}

/// Returns the raw response of the port without TLS; empty without a response.
pub fn get(address: std::net::SocketAddr, path: &str) -> String {
    use std::io::Read;
    let mut answer = String::new();
    if let Ok(mut connection) = std::net::TcpStream::connect(address) {
        let _ = connection.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = write!(
            connection,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        let _ = connection.read_to_string(&mut answer);
    }
    answer
}

fn ask_until<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        sleep(PROBE_INTERVAL);
    }
}

const OWNED_BY: &str = "owned-by-";

const PROBE_INTERVAL: Duration = Duration::from_millis(50);

const TAIL_LINES: usize = 20;
