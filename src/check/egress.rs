//! Whether the network policies of a namespace let the sidecars of running pods reach the session
//! issuer, DNS and STS.
//!
//! The policies of a pod add up: a connection is allowed if one of them allows it, or if none is
//! about egress. <https://kubernetes.io/docs/concepts/services-networking/network-policies/>

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::core::labels::{Selector, SelectorExt};
use serde_json::value::RawValue;

use super::{CheckId, Findings, NamespaceContents, Objects, Seen, objects::name};
use crate::{
    admission,
    json::Json,
    namespaces::Namespace,
    session::{IssuerEndpoint, env},
};

/// The pods of the session issuer, and the labels of their namespace.
#[derive(Debug)]
pub struct IssuerPods {
    pub namespace: Seen<Option<Box<RawValue>>>,
    pub pods: Seen<Objects>,
}

/// A pod to which a connection goes.
#[derive(Debug)]
struct Destination {
    namespace: Labels,
    pod: Labels,
    addresses: Vec<IpAddr>,
    /// The port named [`PORT`].
    port: i32,
}

/// A pod that uses the session issuer, and what the policies that select it allow.
struct User {
    name: String,
    labels: Labels,
    /// Whether it has other DNS servers than the cluster's, in which the issuer is a Service.
    has_other_dns: bool,
    /// The names of the first policies that limit its egress.
    policies: Vec<String>,
    allowed: AllowedEgress,
}

#[derive(Clone, Copy, Default)]
struct AllowedEgress {
    issuer: bool,
    dns: bool,
    sts: bool,
}

type Labels = BTreeMap<String, String>;

/// Checks the running pods of a namespace that use the session issuer.
pub(super) fn check_egress(
    namespace: &Namespace,
    contents: &NamespaceContents,
    issuer: Option<&IssuerPods>,
) -> Findings {
    let mut found = Findings::default();
    let Some(issuer) = issuer else { return found };
    let users = contents.pods.iter().filter(|pod| uses_issuer(*pod)).map(User::of);
    let users = users.filter(|user| user.labels.len() <= MOST_LABELS).take(MOST_PODS);
    let mut users: Vec<User> = users.collect();
    if users.is_empty() {
        return found;
    }
    for user in users.iter().filter(|user| user.has_other_dns) {
        let subject = format!("pod {}/{}", namespace.name, user.name);
        let message = "does not use the cluster's DNS (dnsPolicy), so its sidecar may not find the session issuer, which is a Service of the cluster";
        found.warning(CheckId::Egress, subject, message);
    }
    let subject = format!("namespace {}", namespace.name);
    let policies = &contents.network_policies;
    let Some(policies) = policies.or_report(CheckId::Egress, &subject, &mut found) else {
        return found;
    };
    issuer.namespace.or_report(CheckId::Egress, &subject, &mut found);
    issuer.pods.or_report(CheckId::Egress, &subject, &mut found);
    let issuers = issuer.destinations();
    let is_known = matches!((&issuer.namespace, &issuer.pods), (Seen::Known(_), Seen::Known(_)));
    if issuers.is_empty() && is_known {
        let message = "the session issuer has no pod with which network policies can be compared";
        found.unknown(CheckId::Egress, &*subject, message);
    }
    // One at a time, because a tenant chooses their number and length.
    for policy in policies.iter() {
        let parsed: Result<NetworkPolicy, _> = serde_json::from_str(policy.text());
        let Some(spec) = parsed.ok().and_then(|policy| policy.spec) else { continue };
        if !is_about_egress(&spec) {
            continue;
        }
        let selector = spec.pod_selector.clone().unwrap_or_default();
        if selector.match_expressions.as_ref().is_some_and(|all| all.len() > MOST_EXPRESSIONS) {
            let subject = format!("NetworkPolicy {}/{}", namespace.name, name(policy));
            let message = "its podSelector has too many expressions, so it is not evaluated";
            found.unknown(CheckId::Egress, subject, message);
            continue;
        }
        let Ok(selector) = Selector::try_from(selector) else { continue };
        let rules = spec.egress.as_deref().unwrap_or_default();
        let allowed = AllowedEgress::of(rules, &issuers);
        for user in users.iter_mut().filter(|user| selector.matches(&user.labels)) {
            user.allowed = user.allowed.or(allowed);
            if user.policies.len() < MOST_NAMES {
                user.policies.push(name(policy).into_owned());
            }
        }
    }
    for user in users.iter().filter(|user| !user.policies.is_empty()) {
        let missing = user.allowed.missing();
        if missing.is_empty() {
            continue;
        }
        let message = format!(
            "no network policy allows egress to {}; the policies that select the pod: {}",
            missing.join(", "),
            user.policies.join(", ")
        );
        let subject = format!("pod {}/{}", namespace.name, user.name);
        found.error(CheckId::Egress, subject, message);
    }
    if found.iter().next().is_none() {
        let message = "network policies let the sidecars reach the session issuer, DNS and STS";
        found.ok(CheckId::Egress, subject, message);
    }
    found
}

impl User {
    fn of(pod: Json<'_>) -> Self {
        let sidecar = admission::sidecar(pod).into_iter();
        let variables = sidecar.flat_map(|it| it.at("env").items()).filter_map(|variable| {
            Some((variable.at("name").string()?, variable.at("value").string().unwrap_or_default()))
        });
        let (mut has_other_address, mut is_service) = (false, false);
        for (name, value) in variables {
            has_other_address |= OTHER_ADDRESSES.contains(&&*name);
            let endpoint: Option<IssuerEndpoint> = value.parse().ok();
            is_service |= name == env::ISSUER
                && endpoint.is_some_and(|it| it.host().split('.').nth(2) == Some("svc"));
        }
        let dns = pod.at("spec").at("dnsPolicy").string().unwrap_or_default();
        Self {
            name: name(pod).into_owned(),
            labels: labels(pod),
            has_other_dns: is_service && ["Default", "None"].contains(&&*dns),
            policies: Vec::new(),
            allowed: AllowedEgress { sts: has_other_address, ..AllowedEgress::default() },
        }
    }
}

impl AllowedEgress {
    /// Returns what the rules of a policy allow.
    fn of(rules: &[NetworkPolicyEgressRule], issuers: &[Destination]) -> Self {
        let to_issuer = |rule| issuers.iter().any(|issuer| issuer.is_allowed(rule));
        let is_public = |rule| is_to_outside(rule) && allows_port(rule, "TCP", 443, None);
        Self {
            // Without a running issuer there is nothing to compare with.
            issuer: issuers.is_empty() || rules.iter().any(to_issuer),
            dns: rules.iter().any(|rule| is_to_cluster(rule) && allows_port(rule, "UDP", 53, None)),
            sts: rules.iter().any(is_public),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            issuer: self.issuer || other.issuer,
            dns: self.dns || other.dns,
            sts: self.sts || other.sts,
        }
    }

    fn missing(self) -> Vec<&'static str> {
        let all = [
            (self.issuer, "the session issuer (TCP 8443 of its pods in the chart)"),
            (self.dns, "DNS (UDP 53)"),
            (self.sts, "STS (TCP 443)"),
        ];
        all.into_iter().filter(|(is_allowed, _)| !is_allowed).map(|(_, what)| what).collect()
    }
}

fn uses_issuer(pod: Json<'_>) -> bool {
    let has = |it: Json<'_>| it.at("name").string().is_some_and(|name| name == env::ISSUER);
    let sidecar = admission::sidecar(pod);
    // The policies are not about pods in the node's network.
    pod.at("spec").at("hostNetwork").text() != "true"
        && !admission::has_ended(pod)
        && sidecar.is_some_and(|sidecar| sidecar.at("env").items().any(has))
}

impl IssuerPods {
    fn destinations(&self) -> Vec<Destination> {
        let (Seen::Known(Some(namespace)), Seen::Known(pods)) = (&self.namespace, &self.pods)
        else {
            return Vec::new();
        };
        let namespace = labels(Json::from(&**namespace));
        let destination = |pod: Json<'_>| {
            let containers = pod.at("spec").at("containers").items();
            let mut ports = containers.flat_map(|it| it.at("ports").items());
            let port = ports.find(|it| it.at("name").string().is_some_and(|name| name == PORT))?;
            let addresses = pod.at("status").at("podIPs").items();
            Some(Destination {
                namespace: namespace.clone(),
                pod: labels(pod),
                addresses: addresses.filter_map(|it| it.at("ip").string()?.parse().ok()).collect(),
                port: port.at("containerPort").text().parse().ok()?,
            })
        };
        pods.iter().filter_map(destination).collect()
    }
}

impl Destination {
    fn is_allowed(&self, rule: &NetworkPolicyEgressRule) -> bool {
        let peers = rule.to.as_deref().unwrap_or_default();
        allows_port(rule, "TCP", self.port, Some(PORT))
            && (peers.is_empty() || peers.iter().any(|peer| self.is_peer(peer)))
    }

    fn is_peer(&self, peer: &NetworkPolicyPeer) -> bool {
        if let Some(block) = &peer.ip_block {
            return self.addresses.iter().any(|address| contains(block, *address));
        }
        // Without a namespaceSelector, the peer is in the policy's own namespace.
        let is_namespace =
            peer.namespace_selector.as_ref().is_some_and(|it| selects(it, &self.namespace));
        is_namespace && peer.pod_selector.as_ref().is_none_or(|it| selects(it, &self.pod))
    }
}

fn is_about_egress(policy: &NetworkPolicySpec) -> bool {
    match &policy.policy_types {
        Some(types) if !types.is_empty() => types.iter().any(|it| it == "Egress"),
        _ => policy.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

/// Reports whether a rule may be about addresses outside of the cluster.
fn is_to_outside(rule: &NetworkPolicyEgressRule) -> bool {
    let peers = rule.to.as_deref().unwrap_or_default();
    peers.is_empty() || peers.iter().any(|peer| peer.ip_block.is_some())
}

/// Reports whether a rule may be about the DNS servers of the cluster. A block of all public
/// addresses, as in the default policy of agent-sandbox, is not.
fn is_to_cluster(rule: &NetworkPolicyEgressRule) -> bool {
    let peers = rule.to.as_deref().unwrap_or_default();
    let has_private = |block: &IPBlock| {
        !block.cidr.ends_with("/0") || PRIVATE.iter().any(|address| contains(block, *address))
    };
    // Without a namespaceSelector, the peer is in the policy's own namespace.
    let is_elsewhere = |peer: &NetworkPolicyPeer| match &peer.ip_block {
        Some(block) => has_private(block),
        None => peer.namespace_selector.is_some(),
    };
    peers.is_empty() || peers.iter().any(is_elsewhere)
}

fn allows_port(
    rule: &NetworkPolicyEgressRule,
    protocol: &str,
    port: i32,
    named: Option<&str>,
) -> bool {
    let allows = |it: &NetworkPolicyPort| {
        let is_number = |first: i32| (first..=it.end_port.unwrap_or(first)).contains(&port);
        it.protocol.as_deref().unwrap_or("TCP") == protocol
            && match &it.port {
                None => true,
                Some(IntOrString::Int(first)) => is_number(*first),
                // A name is looked up in the pod to which the connection goes. That of DNS is not
                // known here.
                Some(IntOrString::String(name)) => named.is_none_or(|named| named == name),
            }
    };
    let ports = rule.ports.as_deref().unwrap_or_default();
    ports.is_empty() || ports.iter().any(allows)
}

fn contains(block: &IPBlock, address: IpAddr) -> bool {
    let excluded = block.except.iter().flatten().any(|cidr| is_in(cidr, address));
    is_in(&block.cidr, address) && !excluded
}

/// Reports whether the address is in the range, in the notation of RFC 4632 or RFC 4291.
fn is_in(cidr: &str, address: IpAddr) -> bool {
    let Some((start, length)) = cidr.split_once('/') else { return false };
    let (Ok(start), Ok(length)) = (start.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    match (start, address) {
        (IpAddr::V4(start), IpAddr::V4(address)) => {
            let difference = u64::from(start.to_bits() ^ address.to_bits());
            length <= 32 && difference >> (32 - length) == 0
        }
        (IpAddr::V6(start), IpAddr::V6(address)) => {
            let difference = start.to_bits() ^ address.to_bits();
            length <= 128 && difference.checked_shr(128 - length).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn labels(object: Json<'_>) -> Labels {
    serde_json::from_str(object.at("metadata").at("labels").text()).unwrap_or_default()
}

/// The first and last addresses of the private networks (RFC 1918), of NodeLocal DNSCache, and one of
/// IPv6 (RFC 4193).
const PRIVATE: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(10, 255, 255, 255)),
    IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(172, 31, 255, 255)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 255, 255)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 1)),
];
/// Variables by which the sidecar reaches STS at an address that is not known here.
const OTHER_ADDRESSES: [&str; 5] =
    ["ALL_PROXY", "AWS_ENDPOINT_URL_STS", "HTTPS_PROXY", "all_proxy", "https_proxy"];
/// Name of the container port of the chart at which the issuer gives tokens.
const PORT: &str = "https";
/// Maximum number of pods of a namespace, and of labels of a pod. Their copies take 24 MiB.
const MOST_PODS: usize = 500;
const MOST_LABELS: usize = 128;
/// Maximum number of expressions of a selector that is evaluated.
const MOST_EXPRESSIONS: usize = 100;
/// Maximum number of policies that a finding names.
const MOST_NAMES: usize = 3;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::{check::Level, config::Config, namespaces::OPT_IN_LABEL};

    fn objects(kind: &str, objects: &[Value]) -> Seen<Objects> {
        Seen::Known(Objects::of(kind, objects))
    }

    /// Returns what is found with these specs of network policies.
    fn found(policies: &[Value]) -> Vec<String> {
        found_with(policies, &json!({}))
    }

    /// Returns what is found, with these fields of the pod.
    fn found_with(policies: &[Value], more: &Value) -> Vec<String> {
        let label = |key: &str| (key == OPT_IN_LABEL).then_some("enabled");
        let namespace = Namespace::read("tenants-acme", label, &Config::default().tenant);
        let pod = |name: &str, more: &Value| {
            let mut pod = json!({
                "metadata": {"name": name, "namespace": "tenants-acme", "labels": {"app": "agent"}},
                "spec": {"initContainers": [{
                    "name": "fab-session-credentials",
                    "env": [{"name": "FAB_SESSION_ISSUER", "value": "https://i.fab-system.svc/v1/token"}],
                }]},
            });
            pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            pod
        };
        let policies: Vec<Value> =
            policies.iter().map(|spec| json!({"metadata": {"name": "p"}, "spec": spec})).collect();
        let none = || objects("ServiceAccount", &[]);
        let contents = NamespaceContents {
            accounts: none(),
            limit_ranges: none(),
            network_policies: objects("NetworkPolicy", &policies),
            pods: objects("Pod", &[pod("a", more), pod("host", &json!({"hostNetwork": true}))]),
            quotas: none(),
            rights: none(),
        };
        let issuer = json!({
            "metadata": {"labels": {"app.kubernetes.io/component": "issuer"}},
            "spec": {"containers": [{"ports": [{"name": "https", "containerPort": 8443}, {"name": "health", "containerPort": 8081}]}]},
            "status": {"podIPs": [{"ip": "10.1.2.3"}, {"ip": "fd00::5"}]},
        });
        let system = json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "fab-system"}}});
        let issuer = IssuerPods {
            namespace: Seen::Known(Some(to_raw_value(&system).unwrap())),
            pods: objects("Pod", &[issuer]),
        };
        let found = check_egress(&namespace, &contents, Some(&issuer));
        let wrong = found.iter().filter(|finding| finding.level != Level::Ok);
        wrong.map(|it| format!("{}: {}", it.subject, it.message)).collect()
    }

    fn egress(rules: &Value) -> Value {
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": rules})
    }

    #[test]
    fn only_policies_that_close_a_way_are_found() {
        let public = json!({"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]}}]});
        let issuer = json!({
            "to": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "fab-system"}},
                "podSelector": {"matchExpressions": [{"key": "app.kubernetes.io/component", "operator": "In", "values": ["issuer"]}]},
            }],
            "ports": [{"port": 8443}],
        });
        let dns =
            json!({"to": [{"namespaceSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]});
        let all = json!([public, issuer, dns]);
        let closed = |way: &str| {
            vec![format!(
                "pod tenants-acme/a: no network policy allows egress to {way}; the policies that select the pod: p"
            )]
        };
        let [to_issuer, to_dns, to_sts] = [
            "the session issuer (TCP 8443 of its pods in the chart)",
            "DNS (UDP 53)",
            "STS (TCP 443)",
        ];
        let change = |rule: usize, pointer: &str, value: Value| {
            let mut rules = all.clone();
            *rules[rule].pointer_mut(pointer).unwrap() = value;
            egress(&rules)
        };
        let of_others =
            json!({"podSelector": {"matchLabels": {"app": "other"}}, "policyTypes": ["Egress"]});
        let ingress = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
        let untyped = json!({"podSelector": {}, "ingress": [{}]});
        let cases: Vec<(Vec<Value>, Vec<String>)> = vec![
            (vec![], vec![]),
            (vec![egress(&json!([{}]))], vec![]),
            (vec![egress(&all)], vec![]),
            (vec![of_others.clone(), ingress, untyped], vec![]),
            // The default policy of agent-sandbox, and with a rule for the issuer.
            (vec![egress(&json!([public]))], closed(&format!("{to_issuer}, {to_dns}"))),
            (vec![egress(&json!([public, issuer]))], closed(to_dns)),
            // The policies add up.
            (vec![egress(&json!([public])), egress(&json!([issuer, dns]))], vec![]),
            (vec![egress(&json!([public, dns])), of_others], closed(to_issuer)),
            (vec![egress(&json!([]))], closed(&format!("{to_issuer}, {to_dns}, {to_sts}"))),
            // Without types, a policy with egress rules limits egress.
            (vec![json!({"podSelector": {}, "egress": [dns, public]})], closed(to_issuer)),
            (
                vec![egress(&json!([{"to": public["to"], "ports": [{"port": 443}]}, issuer]))],
                closed(to_dns),
            ),
            (vec![egress(&json!([issuer, dns]))], closed(to_sts)),
            (vec![change(1, "/ports/0/port", json!("https"))], vec![]),
            (vec![change(1, "/ports/0/port", json!("health"))], closed(to_issuer)),
            (vec![change(1, "/ports/0", json!({"port": 8000, "endPort": 8500}))], vec![]),
            (
                vec![change(1, "/ports/0", json!({"port": 8000, "endPort": 8442}))],
                closed(to_issuer),
            ),
            (
                vec![change(1, "/ports/0", json!({"port": 8443, "protocol": "UDP"}))],
                closed(to_issuer),
            ),
            (
                vec![change(1, "/to/0/namespaceSelector/matchLabels", json!({"a": "b"}))],
                closed(to_issuer),
            ),
            (vec![change(1, "/to/0", json!({"podSelector": {}}))], closed(to_issuer)),
            (vec![change(1, "/to/0", json!({"ipBlock": {"cidr": "10.1.2.0/24"}}))], vec![]),
            (
                vec![change(1, "/to/0", json!({"ipBlock": {"cidr": "10.1.3.0/24"}}))],
                closed(to_issuer),
            ),
            (vec![change(1, "/to/0", json!({"ipBlock": {"cidr": "fd00::/8"}}))], vec![]),
            (
                vec![change(
                    1,
                    "/to/0",
                    json!({"ipBlock": {"cidr": "fd00::/8", "except": ["fd00::/64"]}}),
                )],
                closed(to_issuer),
            ),
        ];
        for (policies, want) in cases {
            assert_eq!(found(&policies), want, "{policies:#?}");
        }
    }

    #[test]
    fn other_dns_servers_than_the_clusters_are_found() {
        for (policy, is_found) in [("ClusterFirst", false), ("Default", true), ("None", true)] {
            let found = found_with(&[], &json!({"dnsPolicy": policy}));
            assert_eq!(found.len(), usize::from(is_found), "{policy}: {found:?}");
        }
    }

    #[test]
    fn a_range_has_its_first_and_last_address() {
        let is_in = |cidr: &str, address: &str| super::is_in(cidr, address.parse().unwrap());
        for (cidr, within, without) in [
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            ("::/0", "ffff::", "0.0.0.0"),
            ("fd00:ec2::/32", "fd00:ec2:ffff::1", "fd00:ec3::"),
            ("fd00::5/128", "fd00::5", "fd00::4"),
        ] {
            assert!(is_in(cidr, within) && !is_in(cidr, without), "{cidr}");
        }
        assert!(
            ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", ""]
                .iter()
                .all(|it| !is_in(it, "10.0.0.0"))
        );
    }
}
