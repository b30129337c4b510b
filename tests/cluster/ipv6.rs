//! A cluster whose addresses are of IPv6: the API server calls the webhook over it, and the sidecar
//! gets base credentials over it.

use std::{
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use harness::{
    process::wait_until,
    root,
    sidecar::account::{Account, Policies},
    world::{World, agent, role, variable},
};
use serde_json::{Value, json};

const NAMESPACE: &str = "tenants-acme";

/// The API server has an address and Services of IPv6, and calls the webhook at an address of IPv6.
#[test]
fn an_ipv6_cluster_injects_and_guards() {
    let world = World::start_ipv6(&[("config.baseCredentials.ipFamily", "ipv6")]);
    world.publish("acme", &role("acme"));
    let service = world.cluster.kubectl(&["get", "service", "kubernetes"]).json();
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6"]));
    world.namespace(NAMESPACE, "enabled", "acme", &[]);

    let created = world.create(&agent(NAMESPACE, "a"), None).unwrap();
    let sidecar = created.container("fab-session-credentials");
    let uri = variable(sidecar, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    assert_eq!(uri, Some(&json!("http://[fd00:ec2::23]/v1/credentials")));
    // Loopback has its IPv4 address in each cluster, and old SDKs accept only that.
    let uri = variable(created.container("agent"), "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    assert_eq!(uri, Some(&json!("http://127.0.0.1:7413/v1/credentials")));
    let excluded = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
    assert_eq!(created.pod["metadata"]["annotations"][excluded], "fd00:ec2::23/128");

    // The guard expects the same. What the webhook writes in other clusters is refused.
    let mut other = created.pod.clone();
    for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        other["metadata"].as_object_mut().unwrap().shift_remove(key);
    }
    other["metadata"]["name"] = json!("other");
    let ipv4 = other.to_string().replace("[fd00:ec2::23]", "169.254.170.23");
    let without_webhook = ["delete", "mutatingwebhookconfiguration", "fab-session-injector"];
    assert!(world.cluster.kubectl(&without_webhook).run().ok);
    let ipv4: Value = serde_json::from_str(&ipv4).unwrap();
    let said = wait_until("the API server does not call the webhook", PATIENCE, || {
        world.create(&ipv4, None).err()
    });
    let wanted = "variables: AWS_CONTAINER_CREDENTIALS_FULL_URI [guard-sidecar-env]";
    assert!(said.contains(wanted), "{said}");
    world.create(&other, None).unwrap();
}

/// A Service may have any address of IPv6, such as that of the Pod Identity agent: nodes would send
/// base tokens to its pods. The guard refuses it in every namespace.
#[test]
fn no_service_takes_the_agents_ipv6_address() {
    let world = World::start_ipv6(&[("config.baseCredentials.ipFamily", "ipv6")]);
    world.cluster.create_namespace("elsewhere", &[]);
    let service = |name: &str, address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "elsewhere"},
            "spec": {"externalIPs": [address], "ports": [{"port": 80}], "selector": {"app": "own"}},
        })
    };
    let create = |service: &Value| {
        let create = ["create", "--filename=-"];
        world.cluster.kubectl(&create).stdin(&service.to_string()).run()
    };
    let probe = service("probe", "fd00:ec2::23");
    wait_until("the guard refuses", PATIENCE, || {
        let outcome = world
            .cluster
            .kubectl(&["create", "--dry-run=server", "--filename=-"])
            .stdin(&probe.to_string())
            .run();
        outcome.stderr.contains("[guard-service]").then_some(())
    });
    for address in ["fd00:ec2::23", "fd00:0ec2:0:0::23", "FD00:EC2::0.0.0.35"] {
        let outcome = create(&service("catches", address));
        assert!(!outcome.ok && outcome.stderr.contains("[guard-service]"), "{}", outcome.stderr);
    }
    // The controls: another address, and another part of the address.
    for (name, address) in [("own", "fd00:ec2::24"), ("old", "203.0.113.23")] {
        let outcome = create(&service(name, address));
        assert!(outcome.ok, "{}", outcome.stderr);
    }
    let mut balanced = service("balanced", "203.0.113.24");
    balanced["spec"]["type"] = json!("LoadBalancer");
    assert!(create(&balanced).ok);
    let patch = |name: &str, kind: &str, change: &Value| {
        let patch = format!("--patch={change}");
        let arguments = ["patch", "service", name, "--namespace=elsewhere", kind, &patch];
        world.cluster.kubectl(&arguments).run()
    };
    let status =
        |address: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
    let external = json!({"spec": {"externalIPs": ["fd00:ec2::23"]}});
    for (name, kind, change) in [
        ("balanced", "--subresource=status", status("fd00:ec2::23")),
        ("own", "--type=merge", external),
    ] {
        let outcome = patch(name, kind, &change);
        assert!(!outcome.ok && outcome.stderr.contains("[guard-service]"), "{}", outcome.stderr);
    }
    // Spellings that kube-proxy reads as the same address. API servers since 1.36 refuse them as
    // invalid by themselves.
    for address in ["fd00:00ec2::23", "fd00:ec2::00023", "fd00:ec2::0.0.0.035"] {
        let spelled = json!({"spec": {"externalIPs": [address]}});
        let outcome = patch("own", "--type=merge", &spelled);
        let is_refused =
            ["[guard-service]", "Invalid value"].iter().any(|it| outcome.stderr.contains(it));
        assert!(!outcome.ok && is_refused, "{address}: {}", outcome.stderr);
    }
    let outcome = patch("balanced", "--subresource=status", &status("fd00:ec2::24"));
    assert!(outcome.ok, "{}", outcome.stderr);
    // The control: without the policy the API server accepts the address.
    let binding = ["delete", "validatingadmissionpolicybinding", "fab-session-injector-services"];
    assert!(world.cluster.kubectl(&binding).run().ok);
    wait_until("the API server accepts the address", PATIENCE, || {
        create(&service("catches", "fd00:ec2::23")).ok.then_some(())
    });
    let policy = ["get", "validatingadmissionpolicy", "fab-session-injector-services"];
    let checked = wait_until("the policy is type-checked", PATIENCE, || {
        let status = world.cluster.kubectl(&policy).json()["status"].clone();
        status.get("typeChecking").cloned()
    });
    assert_eq!(checked, json!({}));
}

/// The sidecar runs in a network with the IPv6 address of the node's Pod Identity agent.
#[test]
fn base_credentials_come_over_ipv6() {
    let account = Account::open(Policies::default());
    let mut template = account.template();
    template.endpoint = "http://[fd00:ec2::23]".to_owned();
    template.ip_family = Some("ipv6");
    let outcome = run(&account, &template);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    assert_eq!(account.assumed(), 1);
    assert_eq!(account.events("AssumeRoleForPodIdentity").len(), 1);

    // The control: the address of clusters with IPv4 is not in that network.
    template.ip_family = Some("ipv4");
    let outcome = run(&account, &template);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    let said = String::from_utf8(outcome.stdout).unwrap();
    assert!(said.contains("Pod Identity agent") || said.contains("base credentials"), "{said}");
    assert_eq!(account.assumed(), 1);
}

fn run(account: &Account, template: &harness::sidecar::pod::Template) -> Output {
    let pod = account.pod_of(template);
    // The path of a socket has at most 107 bytes.
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("aws");
    serve(&socket, account.address());
    let words = |command: &Command| {
        let text = |word: &std::ffi::OsStr| word.to_str().unwrap().to_owned();
        let mut words = vec![text(command.get_program())];
        words.extend(command.get_args().map(text));
        json!(words).to_string()
    };
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(root().join("tests/cluster/ipv6/pod"))
        .arg(&socket)
        .args([words(&pod.sidecar_command()), words(&pod.probe_command())])
        .output()
        .unwrap()
}

/// Leads connections of the Unix socket to the address. A network namespace does not separate
/// sockets of files.
fn serve(socket: &Path, address: SocketAddr) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(address).unwrap();
            thread::spawn(move || relay(client, server));
        }
    });
}

fn relay(mut client: UnixStream, mut server: TcpStream) {
    let (mut to_client, mut from_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.flush();
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Write);
}

const PATIENCE: Duration = Duration::from_secs(20);
