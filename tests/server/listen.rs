//! The addresses at which the webhook listens, in clusters of each IP family.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use harness::{
    process::{Process, free_port, get, own_directory},
    root,
    webhook::server::{command, make_certificate},
};

/// Starts the webhook on `[::]`. `wrapper` is a program that runs it. Returns the responses of the
/// health port at the loopback addresses of IPv4 and of IPv6.
fn responses(wrapper: Option<&str>) -> [bool; 2] {
    let directory = own_directory();
    let tls = directory.path().join("tls");
    make_certificate(&tls, &[]);
    let everywhere = |port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let port = free_port();
    let inner = command(
        directory.path(),
        &tls,
        everywhere(free_port()),
        everywhere(port),
        &["--shutdown-delay=0"],
    );
    let mut webhook = match wrapper {
        None => Process::start("webhook", directory.path(), &inner),
        Some(wrapper) => {
            let mut outer = Command::new(root().join("tests/server/listen").join(wrapper));
            outer.arg(inner.get_program()).args(inner.get_args()).current_dir(directory.path());
            outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            Process::start("webhook", directory.path(), &outer)
        }
    };
    let answers = |address: SocketAddr| get(address, "/readyz").starts_with("HTTP/1.1 200");
    let [v4, v6] = [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
    webhook
        .wait_until("the webhook is ready", Duration::from_secs(30), || answers(v4).then_some(()));
    [answers(v4), answers(v6)]
}

#[test]
fn one_port_serves_clients_of_ipv4_and_of_ipv6() {
    assert_eq!(responses(None), [true, true]);
}

/// `[::]` is the address of the chart in every cluster, also on nodes without IPv6.
#[test]
fn a_node_without_ipv6_serves_clients_of_ipv4() {
    assert_eq!(responses(Some("without_ipv6")), [true, false]);
}
