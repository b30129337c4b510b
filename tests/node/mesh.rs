//! Tests which listener gets the base token if a network plugin, for example of a mesh, configures
//! the pod's network. The real sidecar runs in a network namespace with the plugins' own rules for
//! the injected pod. Needs root, iptables and iproute2.

mod network;
mod rules;

use std::{collections::HashMap, process::Command};

use fab_session_injector::{
    admission::{Decision, OWN_NETWORK, Refusal},
    config::Config,
};
use harness::{
    process::{Process, own_directory},
    tenant::Tenant,
};
use serde_json::{Value, json};

use network::{Network, volumes};
use rules::Rules;

#[test]
fn without_a_mesh_the_node_agent_gets_the_base_token() {
    let reached = reach(&inject(&pod(json!({}), &[])).unwrap(), None, 15001);
    assert_eq!(reached, Reached::Agent);
}

#[test]
fn istios_plugin_sends_no_base_token_to_the_tenant() {
    let status = ("sidecar.istio.io/status", "own");
    let traffic = |key: &str| format!("traffic.sidecar.istio.io/{key}");
    let (ports, ranges) = (traffic("includeOutboundPorts"), traffic("includeOutboundIPRanges"));
    let (excludes, mode) =
        (traffic("excludeOutboundIPRanges"), "sidecar.istio.io/interceptionMode");
    let attempts: [&[(&str, &str)]; 5] = [
        &[status],
        &[status, (&excludes, "10.0.0.0/8,192.168.0.0/16")],
        &[status, (&ports, "80,443")],
        &[status, (&ranges, "169.254.170.23/32,169.254.0.0/16")],
        &[
            status,
            (&excludes, ""),
            (&ports, "80"),
            (&ranges, "169.254.170.23/32"),
            (mode, "TPROXY"),
        ],
    ];
    let proxy =
        json!({"name": "istio-proxy", "image": "own", "securityContext": {"runAsUser": 1337}});
    for annotations in attempts {
        let written = pod(proxy.clone(), annotations);
        let injected = inject(&written).unwrap();
        assert_eq!(
            reach(&injected, rules::istio(&injected), 15001),
            Reached::Agent,
            "{annotations:?}"
        );
        // The control: the rules of the pod without the injection.
        assert_eq!(
            reach(&injected, rules::istio(&written), 15001),
            Reached::Tenant,
            "{annotations:?}"
        );
    }
}

#[test]
fn linkerds_plugin_sends_no_base_token_to_the_tenant() {
    let config = |key: &str| format!("config.linkerd.io/{key}");
    let (user, group, subnets) = (config("proxy-uid"), config("proxy-gid"), config("skip-subnets"));
    let attempts: [&[(&str, &str)]; 3] = [
        &[],
        &[(&user, "1337"), (&group, "1337")],
        // Despite its name, it is about connections to the pod.
        &[(&subnets, "169.254.170.23/32")],
    ];
    for annotations in attempts {
        let written = pod(json!({"name": "linkerd-proxy", "image": "own"}), annotations);
        let injected = inject(&written).unwrap();
        let reached = reach(&injected, rules::linkerd(&injected), 4140);
        assert_eq!(reached, Reached::Agent, "{annotations:?}");
        let reached = reach(&injected, rules::linkerd(&written), 4140);
        assert_eq!(reached, Reached::Tenant, "{annotations:?}");
    }
}

/// While ztunnel is down, any container of the pod can listen on its port of the pod's loopback.
#[test]
fn ambient_mode_would_send_the_base_token_to_the_tenant() {
    let plain = inject(&pod(json!({}), &[])).unwrap();
    assert_eq!(reach(&plain, Some(rules::ambient()), 15001), Reached::Tenant);

    let mut captured = pod(json!({}), &[]);
    captured["metadata"]["labels"] = json!({"istio.io/dataplane-mode": "ambient"});
    assert_eq!(inject(&captured).unwrap_err().code(), "pod-network");
}

#[test]
fn a_pod_with_the_agent_address_would_get_the_base_token() {
    let plain = inject(&pod(json!({}), &[])).unwrap();
    let network = Network::new();
    network.add_address("169.254.170.23/32");
    assert_eq!(reach_in(&network, &plain, 80), Reached::Tenant);

    for key in OWN_NETWORK {
        assert_eq!(inject(&pod(json!({}), &[(key, "own")])).unwrap_err().code(), "pod-network");
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reached {
    Agent,
    Tenant,
}

/// Returns the listener that gets the request for base credentials, with these rules.
fn reach(injected: &Value, rules: Option<Rules>, port: u16) -> Reached {
    let network = Network::new();
    if let Some(rules) = rules {
        network.restore(&rules);
    }
    reach_in(&network, injected, port)
}

/// Returns the listener that gets the base token: the node's agent, or the tenant on this port.
fn reach_in(network: &Network, injected: &Value, port: u16) -> Reached {
    let (agent, tenant) = (network.agent(), network.tenant(port));
    let directory = own_directory();
    volumes(directory.path(), TOKEN);
    let mut sidecar = start(network, directory.path(), injected);
    let patience = std::time::Duration::from_secs(30);
    let asked = sidecar.wait_until("base credentials are asked for", patience, || {
        let both = [(&agent, Reached::Agent), (&tenant, Reached::Tenant)];
        both.into_iter()
            .find_map(|(listener, who)| Some((listener.requests().first()?.clone(), who)))
    });
    let (request, who) = asked;
    assert!(request.contains("GET /v1/credentials"), "{request}");
    assert!(request.to_lowercase().contains(&format!("authorization: {TOKEN}")), "{request}");
    sidecar.kill();
    let other = if who == Reached::Agent { &tenant } else { &agent };
    assert_eq!(other.requests(), Vec::<String>::new(), "both were asked");
    who
}

/// Starts the program as the kubelet starts the injected container.
fn start(network: &Network, directory: &std::path::Path, injected: &Value) -> Process {
    let sidecar = &injected["spec"]["initContainers"][0];
    let sidecar = match sidecar["name"].as_str() {
        Some("fab-session-credentials") => sidecar,
        _ => &injected["spec"]["initContainers"][1],
    };
    let context = &sidecar["securityContext"];
    assert_eq!(context["runAsUser"], context["runAsGroup"]);
    let mut command =
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/mesh/container"));
    command.arg(&network.pod).arg(directory).arg(context["runAsUser"].to_string());
    command.arg(env!("CARGO_BIN_EXE_fab-session-injector"));
    for variable in sidecar["env"].as_array().unwrap() {
        let value = variable["value"].as_str().unwrap_or("0d2c2a52-7a3c-4a0e-9d6e-0c6f3c1b8a55");
        let value = value.replace("$(FAB_SESSION_ID)", "0d2c2a52-7a3c-4a0e-9d6e-0c6f3c1b8a55");
        command.arg(format!("{}={value}", variable["name"].as_str().unwrap()));
    }
    command.arg("/run/program");
    command.args(sidecar["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()));
    Process::start("sidecar", directory, &command)
}

/// Returns an agent pod of the tenant with another container and these annotations.
fn pod(beside: Value, annotations: &[(&str, &str)]) -> Value {
    let annotations: HashMap<_, _> = annotations.iter().copied().collect();
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "tenants-acme", "annotations": annotations},
        "spec": {
            "serviceAccountName": "tenant-runtime",
            "containers": [{"name": "agent", "image": "agent"}],
        },
    });
    if beside["name"].is_string() {
        pod["spec"]["containers"].as_array_mut().unwrap().push(beside);
    }
    pod
}

/// Returns the injected pod.
fn inject(pod: &Value) -> Result<Value, Refusal> {
    // STS must not be reachable in the pod's network.
    let config =
        "{region: eu-west-1, sidecar: {env: {AWS_ENDPOINT_URL_STS: 'http://127.0.0.1:9'}}}";
    let config = Config::parse(config).unwrap();
    match Tenant::new(config).decide(pod, "somebody") {
        (Decision::Refuse(refusal), _) => Err(refusal),
        (Decision::Inject(_), operations) => {
            let mut injected = pod.clone();
            json_patch::patch(&mut injected, &operations).unwrap();
            Ok(injected)
        }
        (Decision::Pass(why), _) => panic!("{why:?}"),
    }
}

const TOKEN: &str = "the-base-token";
