//! The sidecar and the agent of an injected pod, with an AWS account of one tenant.

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aws_config::BehaviorVersion;
use aws_sdk_sts::error::DisplayErrorContext;
use serde_json::{Value, json};
use strict_aws::{
    Association, Aws, Cluster, Role, Server, World,
    tokens::{Issuer, Pod as TokenPod},
};

use crate::{Error, Process, free_address, program};

const BASE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-tenant";
pub(crate) const BROKER: &str =
    "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker";
/// The pod's UID, which the API server would assign.
pub(crate) const POD_UID: &str = "0d2c2a52-7a3c-4a0e-9d6e-0c6f3c1b8a55";

/// Starts the pod's sidecar, makes a call as its agent, and prints CloudTrail's event of the call.
pub(crate) fn run(pod: &Value, directory: &Path) -> Result<(), Error> {
    let issuer = Issuer::new("https://oidc.eks.eu-west-1.amazonaws.com/id/DEMO")?;
    let aws = Arc::new(account(&issuer)?);
    let server = Server::start(Arc::clone(&aws))?;
    let endpoint = server.endpoint();
    println!("AWS is a stand-in at {endpoint}. Its roles have the policies that `iam` prints.");

    // The kubelet would project this token and mount both.
    let (base_token, token) = (directory.join("base-token"), directory.join("token"));
    fs::write(&base_token, base_token_of(pod, &issuer))?;
    let _ = fs::remove_file(&token);
    let port = free_address()?.port().to_string();

    let mut sidecar = Command::new(program()?);
    sidecar
        .arg("sidecar")
        .env_clear()
        .envs(variables(&pod["spec"]["initContainers"][0], pod))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &base_token)
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{endpoint}/v1/credentials"))
        .env("AWS_ENDPOINT_URL_STS", &endpoint)
        .env("FAB_SESSION_PORT", &port)
        .env("FAB_SESSION_TOKEN_FILE", &token);
    let log = directory.join("sidecar.log");
    let _sidecar = Process::start(&mut sidecar, &log)?;
    wait_for(&log, "session credentials issued")?;
    println!("The sidecar got session credentials by AssumeRole with a SourceIdentity.");

    call_of_agent(pod, &token, &port, &endpoint)?;
    print_event(&aws)
}

/// Makes a call in the agent's container, with the credentials of the sidecar.
pub(crate) fn call_of_agent(
    pod: &Value,
    token: &Path,
    port: &str,
    endpoint: &str,
) -> Result<(), Error> {
    let agent = Command::new(env::current_exe()?)
        .arg("agent")
        .env_clear()
        .envs(variables(&pod["spec"]["containers"][0], pod))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token)
        .env(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("http://127.0.0.1:{port}/v1/credentials"),
        )
        .env("AWS_ENDPOINT_URL_STS", endpoint)
        .status()?;
    if !agent.success() {
        return Err("the agent's call failed; see the sidecar's log in target/demo".into());
    }
    Ok(())
}

/// Prints CloudTrail's event of the agent's call.
pub(crate) fn print_event(aws: &Aws) -> Result<(), Error> {
    let events = aws.events();
    let event = events.iter().rev().find(|event| event["eventName"] == "GetCallerIdentity");
    let event = event.ok_or("the AWS stand-in recorded no call of the agent")?;
    println!("\n== CloudTrail's event of that call.\n");
    println!("{}", serde_json::to_string_pretty(event)?);
    let identity = &event["userIdentity"]["sessionContext"]["sourceIdentity"];
    println!("\nsourceIdentity: {}", identity.as_str().ok_or("the event has no sourceIdentity")?);
    Ok(())
}

/// Calls sts:GetCallerIdentity as any agent's SDK would: by its default chain, from its
/// environment alone.
pub(crate) async fn call_as_the_agent() -> Result<(), Error> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let call = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await;
    let identity = call.map_err(|error| DisplayErrorContext(error).to_string())?;
    println!(
        "The agent called sts:GetCallerIdentity with the AWS SDK for Rust, as {}.",
        identity.arn().unwrap_or_default()
    );
    Ok(())
}

/// Returns an account with the tenant's two roles, as `iam` describes them.
fn account(issuer: &Issuer) -> Result<Aws, Error> {
    let pod_identity = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": {"Service": "pods.eks.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:TagSession"],
    }]});
    let base = Role::new(BASE).trust(pod_identity).policy(document("base-role-policy")?);
    let broker = Role::new(BROKER).trust(document("session-role-trust")?);
    let world = World::new("111122223333", "eu-west-1")
        .cluster(Cluster::new("prod", issuer.url(), issuer.jwks()))
        .role(base)
        .role(broker)
        .association(Association::new("tenants-acme", "tenant-runtime", BASE));
    Ok(Aws::new(world)?)
}

/// Returns a document that `iam` prints.
fn document(name: &str) -> Result<Value, Error> {
    let output = Command::new(program()?)
        .args(["iam", "--cluster=prod", "--tenant=acme", "--base-role", BASE])
        .args(["--session-role", BROKER, "--only", name])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn base_token_of(pod: &Value, issuer: &Issuer) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let mut claims = TokenPod::new("tenants-acme", "tenant-runtime", name);
    claims.uid = POD_UID.to_owned();
    issuer.mint(&claims, "pods.eks.amazonaws.com", now(), Duration::from_secs(3600))
}

/// Returns the variables of a container as the kubelet resolves them: fields of the pod, and
/// `$(NAME)` of preceding variables.
pub(crate) fn variables(container: &Value, pod: &Value) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for variable in container["env"].as_array().into_iter().flatten() {
        let value = match &*text(&variable["valueFrom"]["fieldRef"]["fieldPath"]) {
            "metadata.uid" => POD_UID.to_owned(),
            "metadata.name" => text(&pod["metadata"]["name"]),
            _ => variables.iter().fold(text(&variable["value"]), |value, (name, known)| {
                value.replace(&format!("$({name})"), known)
            }),
        };
        variables.push((text(&variable["name"]), value));
    }
    variables
}

pub(crate) fn wait_for(log: &Path, message: &str) -> Result<(), Error> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if fs::read_to_string(log)?.contains(message) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{message:?} did not appear within 30 s in {}", log.display()).into())
}

#[allow(clippy::disallowed_methods, reason = "the sidecar uses the same clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
