//! An injected pod whose containers run as the kubelet would run them.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::account::BROKER;
use crate::{
    process::{Process, free_port, own_directory},
    program, root,
};

/// The pod to inject, and the config of the platform team.
#[derive(Clone, Debug)]
pub struct Template {
    /// `podIdentity`, `irsa` or `environment`.
    pub source: &'static str,
    /// The config's `ipFamily`. The sidecar then calls the real address of the Pod Identity agent.
    pub ip_family: Option<&'static str>,
    /// The config's section `issuer`. The sidecar then gets its tokens from it.
    pub issuer: Option<Value>,
    /// Uid of the pod.
    pub uid: String,
    /// The base role, for `irsa`.
    pub base_role: &'static str,
    /// Endpoint of all AWS services.
    pub endpoint: String,
    /// The config's `awsCaBundle`.
    pub ca: Option<String>,
    /// Further variables of the sidecar.
    pub env: Vec<(&'static str, String)>,
    /// ARN of the tenant's session-broker role.
    pub role: &'static str,
    /// The component's `session`.
    pub session: &'static str,
    /// Labels of the pod, which select the component.
    pub labels: Value,
    /// The session's name in the pod's annotation, set by a trusted creator.
    pub named: Option<&'static str>,
    /// Name of the pod.
    pub name: String,
    /// The service account of the pod.
    pub account: &'static str,
    /// The tenant, whose namespace is `tenants-<tenant>`.
    pub tenant: &'static str,
}

/// An injected pod, whose containers are processes.
#[derive(Debug)]
pub struct Pod {
    /// Contains the pod's volumes and logs.
    pub directory: TempDir,
    /// Port of the sidecar.
    pub port: u16,
    agent: Vec<(String, String)>,
    sidecar: Container,
}

#[derive(Debug)]
struct Container {
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    probe: Vec<String>,
}

impl Template {
    /// Returns a runtime pod with EKS Pod Identity and AWS at `endpoint`.
    pub fn new(endpoint: &str, role: &'static str) -> Self {
        Self {
            source: "podIdentity",
            ip_family: None,
            issuer: None,
            uid: POD_UID.to_owned(),
            base_role: "",
            endpoint: endpoint.to_owned(),
            ca: None,
            env: Vec::new(),
            role,
            session: "creator-or-uid",
            labels: json!({"agents.nanohype.dev/agentsandbox": "fab-coder-x7k2p"}),
            named: Some("fab-coder-x7k2p"),
            name: "session-fab-coder-x7k2p".to_owned(),
            account: "tenant-runtime",
            tenant: "acme",
        }
    }
}

impl Pod {
    /// Runs the `inject` command, and does with the result what the kubelet does.
    pub fn inject(template: &Template) -> Self {
        let directory = own_directory();
        let port = free_port();
        let path = directory.path();
        fs::write(path.join("config.yaml"), config(template, port)).unwrap();
        let roles = json!({"roles": {template.tenant: template.role}});
        fs::write(path.join("roles.yaml"), roles.to_string()).unwrap();
        fs::write(path.join("pod.json"), manifest(template).to_string()).unwrap();
        let creator = match template.named {
            _ if template.session == SANDBOX_CLAIM => CONTROLLER,
            Some(_) => "system:serviceaccount:eks-agent-platform:operator",
            None => "system:serviceaccount:tenants-acme:default",
        };
        let injected = Command::new(program())
            .args(["inject", "-f", "pod.json", "--roles", "roles.yaml", "--config", "config.yaml"])
            .args(["--as", creator])
            .current_dir(path)
            .output()
            .unwrap();
        assert!(injected.status.success(), "{}", String::from_utf8_lossy(&injected.stderr));
        let pod: Value = serde_saphyr::from_slice(&injected.stdout).unwrap();
        Self::run(directory, port, &pod, &template.name, &template.uid)
    }

    /// Does with a pod that an API server stores what the kubelet does. Its sidecar has another
    /// port, since the pods of a test share a network.
    pub fn stored(pod: &Value) -> Self {
        let port = free_port();
        let mut pod = pod.clone();
        let env = pod["spec"]["initContainers"][0]["env"].as_array_mut().unwrap();
        let number = env.iter_mut().find(|variable| variable["name"] == "FAB_SESSION_PORT");
        number.unwrap()["value"] = port.to_string().into();
        let text = |key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
        Self::run(own_directory(), port, &pod, &text("name"), &text("uid"))
    }

    fn run(directory: TempDir, port: u16, pod: &Value, name: &str, uid: &str) -> Self {
        let path = directory.path();
        let sidecar = &pod["spec"]["initContainers"][0];
        assert_eq!(sidecar["name"], "fab-session-credentials");
        assert_eq!(sidecar["command"], Value::Null, "the image's entry point runs");
        let sidecar = Container {
            arguments: strings(&sidecar["args"]),
            env: environment(sidecar, name, uid),
            probe: strings(&sidecar["startupProbe"]["exec"]["command"]),
        };
        let agent = environment(&pod["spec"]["containers"][0], name, uid);
        for volume in ["token", "base"] {
            fs::create_dir(path.join(volume)).unwrap();
        }
        // The mode of an emptyDir.
        fs::set_permissions(path.join("token"), fs::Permissions::from_mode(0o777)).unwrap();
        Self { directory, port, agent, sidecar }
    }

    /// Writes or rotates the projected token, as the kubelet does.
    pub fn project(&self, token: &str) {
        let base = self.directory.path().join("base");
        let version = format!("..{}", fs::read_dir(&base).unwrap().count());
        fs::create_dir(base.join(&version)).unwrap();
        fs::write(base.join(&version).join("token"), token).unwrap();
        symlink(&version, base.join("..new")).unwrap();
        fs::rename(base.join("..new"), base.join("..data")).unwrap();
        if !base.join("token").is_symlink() {
            symlink("..data/token", base.join("token")).unwrap();
        }
    }

    /// Starts the sidecar, with exactly the arguments and variables of its container.
    pub fn start(&self) -> Process {
        Process::start("sidecar", self.directory.path(), &self.sidecar_command())
    }

    /// Returns the command of the sidecar's container.
    pub fn sidecar_command(&self) -> Command {
        let program = [program().to_str().unwrap().to_owned()];
        let words = [&program[..], &self.sidecar.arguments].concat();
        container(self.directory.path(), "rw", &self.sidecar.env, &words)
    }

    /// Starts the sidecar; returns when its startup probe succeeds.
    pub fn start_ready(&self) -> Process {
        let mut process = self.start();
        process.wait_until("the sidecar is ready", Duration::from_secs(30), || {
            self.probe().status.success().then_some(())
        });
        process
    }

    /// Runs the startup probe, as the kubelet does.
    pub fn probe(&self) -> Output {
        self.probe_command().output().unwrap()
    }

    /// Returns the command of the startup probe, in the sidecar's container.
    pub fn probe_command(&self) -> Command {
        let [program, arguments @ ..] = &self.sidecar.probe[..] else { panic!("a probe") };
        assert_eq!(program, "/fab-session-injector", "the path in the image");
        let program = [crate::program().to_str().unwrap().to_owned()];
        let words = [&program[..], arguments].concat();
        container(self.directory.path(), "rw", &self.sidecar.env, &words)
    }

    /// Returns a program that runs in the agent's container.
    pub fn agent(&self, words: &[String]) -> Command {
        container(self.directory.path(), "ro", &self.agent, words)
    }

    /// Returns a program in the agent's container without one variable, as an agent can remove it.
    pub fn agent_without(&self, name: &str, words: &[String]) -> Command {
        let env: Vec<_> = self.agent.iter().filter(|(known, _)| known != name).cloned().collect();
        assert!(env.len() < self.agent.len(), "{name}");
        container(self.directory.path(), "ro", &env, words)
    }

    /// Returns the variables of the sidecar's container.
    pub fn sidecar_environment(&self) -> Vec<(String, String)> {
        self.sidecar.env.clone()
    }

    /// Returns the pod's token for the sidecar; empty without one.
    pub fn token(&self) -> String {
        fs::read_to_string(self.directory.path().join("token/token")).unwrap_or_default()
    }

    /// Returns the address of the sidecar.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Sends a request with the pod's token; returns status and body of the response.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let (port, token) = (self.port, self.token());
        let answer = self.exchange(&format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {token}\r\n\r\n"
        ));
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        (status.unwrap_or(0), serde_json::from_str(body).unwrap_or_default())
    }

    /// Sends these bytes; returns the bytes received until the sidecar closes the connection.
    pub fn exchange(&self, request: &str) -> String {
        let mut answer = Vec::new();
        if let Ok(mut connection) = TcpStream::connect(self.address()) {
            connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let _ = connection.write_all(request.as_bytes());
            let _ = connection.read_to_end(&mut answer);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Returns the sidecar's status.
    pub fn status(&self) -> Value {
        self.get("/v1/status").1
    }
}

/// Returns the sidecar of a session as a process without a pod, base credentials and region.
pub fn without_a_pod(directory: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .arg("sidecar")
        .env("FAB_SESSION_DURATION", "3600")
        .env("FAB_SESSION_ID", "s")
        .env("FAB_SESSION_IDENTITY", "agent.acme.s")
        .env("FAB_SESSION_PORT", free_port().to_string())
        .env("FAB_SESSION_ROLE_ARN", BROKER)
        .env("FAB_SESSION_START_GATE", "credentials")
        .env("FAB_SESSION_TENANT", "acme")
        .env("FAB_SESSION_TOKEN_FILE", directory.join("token"));
    command
}

fn container(directory: &Path, mode: &str, env: &[(String, String)], words: &[String]) -> Command {
    let script = root().join("tests/harness/container");
    let mut command = Command::new(script);
    command.arg(directory).arg(mode);
    command.args(env.iter().map(|(name, value)| format!("{name}={value}"))).args(words);
    command.stdin(Stdio::null());
    command
}

fn config(template: &Template, port: u16) -> String {
    let Template { source, ip_family, issuer, base_role, endpoint, ca, env, session, .. } =
        template;
    let mut variables = json!({"AWS_ENDPOINT_URL_STS": endpoint});
    if *source == "podIdentity" && ip_family.is_none() {
        variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"] =
            json!(format!("{endpoint}/v1/credentials"));
    }
    for (name, value) in env {
        variables[name] = json!(value);
    }
    let mut base = json!({"source": source});
    if let Some(family) = ip_family {
        base["ipFamily"] = json!(family);
    }
    if *source == "irsa" {
        base["roleArn"] = json!(base_role);
    }
    if issuer.is_some() {
        // Nothing answers there: the sidecar has no base credentials.
        variables.as_object_mut().unwrap().remove("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    }
    json!({
        "cluster": "prod",
        "region": "eu-west-1",
        "roles": {"allow": {"accounts": ["111122223333"]}},
        "transport": if issuer.is_some() { "webIdentity" } else { "roleChain" },
        "issuer": issuer,
        "sidecar": {"port": port, "env": variables},
        "baseCredentials": base,
        "awsCaBundle": ca,
        "components": if *session == SANDBOX_CLAIM { claim_components() } else { json!([
            {
                "name": "dispatcher",
                "selectors": ["fab.nanohype.dev/component=dispatcher"],
                "session": session,
                "startGate": "listening",
            },
            {
                "name": "runtime",
                "selectors": ["agents.nanohype.dev/agentsandbox"],
                "fenced": true,
                "session": session,
            },
        ]) },
    })
    .to_string()
}

/// Returns components whose sessions are those of SandboxClaims, for pods of [`CONTROLLER`].
pub fn claim_components() -> Value {
    json!([
        {"name": "sandbox", "creators": [CONTROLLER], "session": SANDBOX_CLAIM},
        {
            "name": "runtime",
            "selectors": ["fab.nanohype.dev/component=runtime", "agents.nanohype.dev/agentsandbox"],
            "fenced": true,
        },
    ])
}

fn manifest(template: &Template) -> Value {
    let Template { account, endpoint, labels, named, name, session, tenant, .. } = template;
    let namespace = format!("tenants-{tenant}");
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "serviceAccountName": account,
            "containers": [{
                "name": "session",
                "image": "agent",
                "env": [{"name": "AWS_ENDPOINT_URL_STS", "value": endpoint}],
            }],
        },
    });
    // The webhook refuses the annotation where it does not name the session.
    if let Some(named) = named.filter(|_| *session == "creator-or-uid") {
        pod["metadata"]["annotations"] = json!({"fab.nanohype.dev/session-id": named});
    }
    pod
}

/// Returns the variables of a container as the kubelet resolves them: fields of the pod, and
/// `$(NAME)` of preceding variables. `PATH` stands for the variables of the image.
fn environment(container: &Value, pod: &str, uid: &str) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    for variable in container["env"].as_array().unwrap() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let value = match &*text(&variable["valueFrom"]["fieldRef"]["fieldPath"]) {
            "metadata.uid" => uid.to_owned(),
            "metadata.name" => pod.to_owned(),
            _ => env.iter().fold(text(&variable["value"]), |value, (name, known)| {
                value.replace(&format!("$({name})"), known)
            }),
        };
        env.push((text(&variable["name"]), value));
    }
    env
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The `session` of a component of warm pools.
pub const SANDBOX_CLAIM: &str = "sandbox-claim";
/// The account of the controller of agent-sandbox.
pub const CONTROLLER: &str = "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
/// Uid of a pod, if the template has no other.
pub const POD_UID: &str = "0d2c2a52-7a3c-4a0e-9d6e-0c6f3c1b8a55";
