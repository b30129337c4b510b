//! The rules that mesh plugins add to a pod's network, and their conditions on the pod: for IPv4,
//! and only those that apply to outgoing connections.

use serde_json::Value;

/// Input for iptables-restore.
pub(crate) type Rules = String;

/// istio-cni 1.30.3: `cni/pkg/plugin/plugin.go` (`doAddRun`), `kubernetes.go` (`ExtractPodInfo`)
/// and `sidecar_redirect.go` (`NewRedirect`); rules as its
/// `cni/pkg/plugin/testdata/basic.txt.golden` and `include-exclude-ip.txt.golden`.
pub(crate) fn istio(pod: &Value) -> Option<Rules> {
    let proxy = containers(pod).find(|container| container["name"] == "istio-proxy")?;
    let init = containers(pod).any(|container| container["name"] == "istio-init");
    if init || annotation(pod, "sidecar.istio.io/status").is_none() {
        return None;
    }
    let id = |field: &str| proxy["securityContext"][field].as_u64().unwrap_or(1337);
    let traffic = |key: &str| annotation(pod, &format!("traffic.sidecar.istio.io/{key}"));
    let mut rules = vec![
        "-N ISTIO_REDIRECT".to_owned(),
        "-N ISTIO_IN_REDIRECT".to_owned(),
        "-N ISTIO_OUTPUT".to_owned(),
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001".to_owned(),
        "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006".to_owned(),
        "-A OUTPUT -j ISTIO_OUTPUT".to_owned(),
    ];
    let mut output = |rule: String| rules.push(format!("-A ISTIO_OUTPUT {rule}"));
    for port in list(traffic("excludeOutboundPorts").unwrap_or("15020")) {
        output(format!("-p tcp --dport {port} -j RETURN"));
    }
    output("-o lo -s 127.0.0.6/32 -j RETURN".to_owned());
    for owner in
        [format!("--uid-owner {}", id("runAsUser")), format!("--gid-owner {}", id("runAsGroup"))]
    {
        output(format!(
            "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner {owner} -j ISTIO_IN_REDIRECT"
        ));
        output(format!("-o lo -m owner ! {owner} -j RETURN"));
        output(format!("-m owner {owner} -j RETURN"));
    }
    output("-d 127.0.0.1/32 -j RETURN".to_owned());
    for range in list(traffic("excludeOutboundIPRanges").unwrap_or_default()) {
        assert!(is_prefix(range), "istio's plugin would not start the pod: {range:?}");
        output(format!("-d {range} -j RETURN"));
    }
    for port in list(traffic("includeOutboundPorts").unwrap_or_default()) {
        output(format!("-p tcp --dport {port} -j ISTIO_REDIRECT"));
    }
    match traffic("includeOutboundIPRanges").unwrap_or("*") {
        "*" => output("-j ISTIO_REDIRECT".to_owned()),
        ranges => list(ranges).for_each(|range| output(format!("-d {range} -j ISTIO_REDIRECT"))),
    }
    Some(restore(&rules))
}

/// linkerd-cni 1.6.8: `cni-plugin/main.go` (`cmdAdd`) and `pkg/iptables/iptables.go`
/// (`addOutgoingTrafficRules`) of linkerd2-proxy-init, with the values of the chart linkerd2-cni.
pub(crate) fn linkerd(pod: &Value) -> Option<Rules> {
    containers(pod).find(|container| container["name"] == "linkerd-proxy")?;
    if containers(pod).any(|container| container["name"] == "linkerd-init") {
        return None;
    }
    let config = |key: &str| annotation(pod, &format!("config.linkerd.io/{key}"));
    let mut rules = vec![
        "-N PROXY_INIT_OUTPUT".to_owned(),
        "-A OUTPUT -j PROXY_INIT_OUTPUT".to_owned(),
        "-N PROXY_INIT_REDIRECT".to_owned(),
        "-A PREROUTING -j PROXY_INIT_REDIRECT".to_owned(),
    ];
    // For connections to the pod.
    for subnet in list(config("skip-subnets").unwrap_or_default()) {
        rules.push(format!("-A PROXY_INIT_REDIRECT -p all -s {subnet} -j RETURN"));
    }
    rules.push("-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143".to_owned());
    let mut output = |rule: String| rules.push(format!("-A PROXY_INIT_OUTPUT {rule}"));
    output(format!("-m owner --uid-owner {} -j RETURN", config("proxy-uid").unwrap_or("2102")));
    if let Some(group) = config("proxy-gid") {
        output(format!("-m owner --gid-owner {group} -j RETURN"));
    }
    output("-o lo -j RETURN".to_owned());
    if let Some(ports) = config("skip-outbound-ports") {
        output(format!("-p tcp --match multiport --dports {ports} -j RETURN"));
    }
    output("-p tcp -j REDIRECT --to-port 4140".to_owned());
    Some(restore(&rules))
}

/// Istio 1.30.3 in ambient mode: `cni/pkg/iptables/testdata/default.golden`.
pub(crate) fn ambient() -> Rules {
    restore(
        &[
            "-N ISTIO_OUTPUT",
            "-A OUTPUT -j ISTIO_OUTPUT",
            "-A ISTIO_OUTPUT -d 169.254.7.127 -p tcp -m tcp -j ACCEPT",
            "-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
            "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT",
            "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001",
        ]
        .map(str::to_owned),
    )
}

fn restore(rules: &[String]) -> Rules {
    format!("*nat\n{}\nCOMMIT\n", rules.join("\n"))
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten()
}

fn annotation<'p>(pod: &'p Value, key: &str) -> Option<&'p str> {
    pod["metadata"]["annotations"][key].as_str()
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(move |_| !text.is_empty())
}

fn is_prefix(range: &str) -> bool {
    let Some((address, length)) = range.split_once('/') else { return false };
    address.parse::<std::net::Ipv4Addr>().is_ok() && length.parse::<u8>().is_ok_and(|l| l <= 32)
}
