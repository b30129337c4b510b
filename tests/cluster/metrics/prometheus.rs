//! A real Prometheus on 127.0.0.1.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use harness::process::{Process, free_port, own_directory, program};

/// A Prometheus that ends when dropped, or with the test process.
#[derive(Debug)]
pub(crate) struct Prometheus {
    /// Dropping it ends the process.
    _process: Process,
    port: u16,
    /// Directory of its data and log.
    _directory: TempDir,
}

/// The client certificate of an API server's administrator, as PEM.
#[derive(Debug)]
pub(crate) struct Administrator {
    pub(crate) address: String,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes `targets` and kube-state-metrics each second and the API
    /// server each 2 s, and evaluates `rules`. All series have the label `cluster="prod"`.
    pub(crate) fn start(
        targets: &[SocketAddr],
        kube_state_metrics: SocketAddr,
        api_server: &Administrator,
        rules: &Value,
    ) -> Self {
        let directory = own_directory();
        let write = |file: &str, text: &[u8]| fs::write(directory.path().join(file), text).unwrap();
        write("rules.yaml", rules.to_string().as_bytes());
        write("admin.crt", &api_server.certificate);
        write("admin.key", &api_server.key);
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        let cluster = json!({"cluster": "prod"});
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "injector", "static_configs": [{"targets": targets, "labels": cluster}]},
                {
                    // As kube-prometheus-stack does: its series have the labels namespace and pod,
                    // as the target has.
                    "job_name": "kube-state-metrics", "honor_labels": true,
                    "static_configs": [{
                        "targets": [kube_state_metrics.to_string()],
                        "labels": {"cluster": "prod", "namespace": "monitoring", "pod": "kube-state-metrics-0"},
                    }],
                },
                {
                    // Its response has some megabytes.
                    "job_name": "apiserver", "scrape_interval": "2s", "scheme": "https",
                    "tls_config": {"cert_file": "admin.crt", "key_file": "admin.key", "insecure_skip_verify": true},
                    "static_configs": [{"targets": [api_server.address], "labels": cluster}],
                },
            ],
        });
        write("prometheus.yaml", config.to_string().as_bytes());
        let port = free_port();
        let mut command = Command::new(program("prometheus"));
        command
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(directory.path());
        let mut process = Process::start("prometheus", directory.path(), &command);
        process.wait_until("Prometheus is ready", Duration::from_secs(60), || {
            ask(port, "/-/ready").starts_with("HTTP/1.0 200").then_some(())
        });
        Self { _process: process, port, _directory: directory }
    }

    /// Evaluates the expression now. Returns the result, or the error of Prometheus.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        self.data(&format!("/api/v1/query?query={}", escaped(expression)))
            .map(|data| data["result"].as_array().unwrap().clone())
    }

    /// Returns all series that match the selector, including past ones.
    pub(crate) fn series(&self, selector: &str) -> Vec<Value> {
        let data = self.data(&format!("/api/v1/series?match[]={}", escaped(selector)));
        data.unwrap().as_array().unwrap().clone()
    }

    /// Returns the labels of the alerts that are firing now.
    pub(crate) fn firing(&self) -> Vec<Value> {
        let firing = self.query(r#"ALERTS{alertstate="firing"}"#).unwrap();
        firing.into_iter().map(|mut alert| alert["metric"].take()).collect()
    }

    /// Returns the alerts that are firing or have fired.
    pub(crate) fn fired(&self) -> BTreeSet<String> {
        let fired = self.series(r#"ALERTS{alertstate="firing"}"#);
        fired.iter().map(|alert| alert["alertname"].as_str().unwrap().to_owned()).collect()
    }

    fn data(&self, path: &str) -> Result<Value, String> {
        let answer = ask(self.port, path);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut body: Value = serde_json::from_str(body).unwrap();
        match body["status"].as_str() {
            Some("success") => Ok(body["data"].take()),
            _ => Err(body["error"].to_string()),
        }
    }
}

/// Runs `promtool` in the directory.
pub(crate) fn promtool(directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program("promtool"));
    let output = command.args(arguments).current_dir(directory).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// Sends an HTTP/1.0 request, whose response is not chunked. Returns an empty text without a
/// response.
fn ask(port: u16, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut connection) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        let _ = write!(connection, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let _ = connection.read_to_string(&mut answer);
    }
    answer
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
