//! A real AWS SDK in its own process, in the agent's container. It makes one signed call for each
//! line of input.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{process::program, profile};

/// A running SDK. It stops when dropped.
#[derive(Debug)]
pub struct Client {
    /// One of [`CLIENTS`], or `cli-old`, a version below the minimum.
    pub name: &'static str,
    child: Child,
    /// While it is open, the client waits for lines.
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

/// The SDKs under test, by the names of their programs.
pub const CLIENTS: [&str; 10] = [
    "boto3",
    "cli",
    "go",
    "go-v1",
    "java",
    "java-v1",
    "javascript",
    "javascript-v2",
    "kotlin",
    "rust",
];

/// Returns the command line of an SDK.
pub fn words(name: &str) -> Vec<String> {
    let program = match name {
        "rust" => profile().join("examples/client"),
        _ => program(&format!("client-{name}")),
    };
    assert!(program.exists(), "no {}: run `make test`, which builds it", program.display());
    vec![program.to_str().unwrap().to_owned()]
}

impl Client {
    /// Starts the SDK with this command.
    pub fn start(name: &'static str, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (sender, answers) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        // The thread ends with the client's output.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { name, input: child.stdin.take(), child, answers }
    }

    /// Makes the SDK call AWS, and does not wait.
    pub fn ask(&mut self) {
        self.ask_for("call");
    }

    fn ask_for(&mut self, call: &str) {
        let line = format!("{call}\n");
        self.input.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// Makes the SDK for Rust read a parameter of SSM, a call that needs a permission. STS answers
    /// GetCallerIdentity whatever the policies are.
    pub fn read(&mut self) -> Result<String, String> {
        assert_eq!(self.name, "rust");
        self.ask_for("read");
        self.answer()
    }

    /// Returns the caller's ARN as AWS reports it, or the error of the SDK.
    pub fn answer(&self) -> Result<String, String> {
        let line = self
            .answers
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("{} does not answer: {error}", self.name));
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer["arn"].as_str() {
            Some(arn) => Ok(arn.to_owned()),
            None => Err(answer["error"].as_str().unwrap_or(&line).to_owned()),
        }
    }

    /// Makes the SDK call AWS; returns the result, as [`Self::answer`] does.
    pub fn call(&mut self) -> Result<String, String> {
        self.ask();
        self.answer()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Long, since a JVM starts slowly beside nine other clients.
const PATIENCE: Duration = Duration::from_secs(90);
