//! moto as AWS, mainly for its parameter store.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

pub use crate::cloud::REGION;
use crate::process::{Process, free_port, own_directory, program};

/// A moto server. It stops when dropped, or when the test process exits.
#[derive(Debug)]
pub struct Moto {
    /// Stops the process when dropped.
    _process: Process,
    port: u16,
    /// The directory of its log.
    _directory: TempDir,
}

impl Moto {
    /// Starts moto; returns when it answers.
    pub fn start() -> Self {
        let directory = own_directory();
        let port = free_port();
        let mut command = Command::new(program("moto_server"));
        command.args(["--host=127.0.0.1", &format!("--port={port}")]);
        command.env("MOTO_ACCOUNT_ID", ACCOUNT);
        let mut process = Process::start("moto", directory.path(), &command);
        // Waits for a response: the port may accept connections before moto does, because a process
        // that another thread is starting still has the socket of the port probe.
        process.wait_until("moto answers", Duration::from_secs(60), || {
            let answer = exchange(port, "GET /moto-api/ HTTP/1.0\r\n\r\n").ok()?;
            (status(&answer) == Some("200")).then_some(())
        });
        Self { _process: process, port, _directory: directory }
    }

    /// Returns the endpoint for AWS clients; any credentials are accepted.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Creates or replaces a parameter. `kind` is "String", "StringList" or "SecureString".
    pub fn put_parameter(&self, name: &str, value: &str, kind: &str) {
        self.call(
            "PutParameter",
            &json!({"Name": name, "Value": value, "Type": kind, "Overwrite": true}),
        );
    }

    /// Deletes a parameter.
    pub fn delete_parameter(&self, name: &str) {
        self.call("DeleteParameter", &json!({"Name": name}));
    }

    /// Makes one call of the parameter store.
    fn call(&self, operation: &str, arguments: &Value) {
        self.json("ssm", &format!("AmazonSSM.{operation}"), arguments);
    }

    /// Makes one call of KMS; returns the response.
    pub fn kms(&self, operation: &str, arguments: &Value) -> Value {
        self.json("kms", &format!("TrentService.{operation}"), arguments)
    }

    /// Makes one call in the JSON protocol, without a valid signature: moto reads only the region
    /// and the service of it.
    fn json(&self, service: &str, target: &str, arguments: &Value) -> Value {
        let body = arguments.to_string();
        let request = format!(
            "POST / HTTP/1.1\r\n\
             Host: 127.0.0.1:{port}\r\n\
             Authorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0\r\n\
             Connection: close\r\n\
             Content-Length: {length}\r\n\
             Content-Type: application/x-amz-json-1.1\r\n\
             X-Amz-Target: {target}\r\n\
             \r\n\
             {body}",
            port = self.port,
            length = body.len(),
        );
        let answer = exchange(self.port, &request).unwrap();
        assert_eq!(status(&answer), Some("200"), "{target} {arguments}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_default()
    }
}

impl Moto {
    /// Makes one call of IAM in the query protocol; returns the response.
    /// <https://docs.aws.amazon.com/IAM/latest/APIReference/CommonParameters.html>
    pub fn iam(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        let all = [("Action", action), ("Version", "2010-05-08")];
        let pairs = all.iter().chain(parameters);
        let pairs: Vec<String> =
            pairs.map(|(key, value)| format!("{key}={}", escaped(value))).collect();
        let body = pairs.join("&");
        let request = format!(
            "POST / HTTP/1.1\r\n\
             Host: 127.0.0.1:{port}\r\n\
             Authorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0\r\n\
             Connection: close\r\n\
             Content-Length: {length}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\
             \r\n\
             {body}",
            port = self.port,
            length = body.len(),
        );
        let answer = exchange(self.port, &request).unwrap();
        assert_eq!(status(&answer), Some("200"), "{action} {parameters:?}: {answer}");
        answer
    }

    /// Makes moto evaluate the IAM policies of the callers of all further calls.
    pub fn enforce_policies(&self) {
        let answer =
            exchange(self.port, "POST /moto-api/reset-auth HTTP/1.0\r\nContent-Length: 1\r\n\r\n0");
        assert_eq!(status(&answer.unwrap()), Some("200"));
    }
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn exchange(port: u16, request: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.write_all(request.as_bytes())?;
    io::read_to_string(connection)
}

fn status(answer: &str) -> Option<&str> {
    answer.split(' ').nth(1)
}

/// The account of the roles, as in the strict AWS.
const ACCOUNT: &str = "111122223333";
