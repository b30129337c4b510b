//! Keeps service meshes and other network plugins away from the base token.
//!
//! With EKS Pod Identity the sidecar sends the base token without TLS. Network plugins redirect a
//! pod's connections by its annotations and labels, which the tenant writes. Istio and Linkerd
//! redirect them to a container of the tenant, and an annotation excludes the connection to the
//! node's agent. The other plugins redirect them to any address and have no such annotation, so the
//! webhook refuses the pod.

use super::{eks, pod::Pod, refusal::Refusal};
use crate::config::{BaseCredentials, Config, CredentialSource, IpFamily};

/// Returns the annotations that keep the plugins of Istio and Linkerd off the connection to the
/// node's Pod Identity agent, each with its value.
pub(super) fn annotations<'p>(
    pod: &'p Pod<'_>,
    source: CredentialSource<'_>,
    config: &Config,
) -> impl Iterator<Item = (&'static str, String)> + use<'p> {
    let family = sent_in_clear(source);
    let istio =
        family.map(|family| (ISTIO_EXCLUDES, with_agent(pod.annotation(ISTIO_EXCLUDES), family)));
    let linkerd = family
        .filter(|_| pod.containers().any(|placed| *placed.container.name == *LINKERD_PROXY))
        .map(|_| (LINKERD_GROUP, config.sidecar.uid.to_string()));
    [istio, linkerd].into_iter().flatten()
}

/// Returns the refusals of a pod that sets its own addresses, routes or redirections in a network
/// plugin.
pub(super) fn own_network(
    pod: &Pod<'_>,
    source: CredentialSource<'_>,
) -> impl Iterator<Item = Refusal> {
    let sent_in_clear = sent_in_clear(source).is_some();
    let annotated = OWN_NETWORK.into_iter().filter(move |key| pod.annotation(key).is_some());
    let captured = pod.label(AMBIENT_LABEL).is_some_and(|mode| mode != NOT_AMBIENT);
    let labelled = captured.then_some(("label", AMBIENT_LABEL));
    let settings = annotated.map(|key| ("annotation", key)).chain(labelled);
    settings.filter(move |_| sent_in_clear).map(|(what, key)| Refusal::PodNetwork { what, key })
}

/// Returns the IP family of the agent to which the base token is sent without TLS: only that of EKS
/// Pod Identity.
fn sent_in_clear(source: CredentialSource<'_>) -> Option<IpFamily> {
    match source {
        CredentialSource::Base(BaseCredentials::PodIdentity(family)) => Some(*family),
        CredentialSource::Base(BaseCredentials::Environment | BaseCredentials::Irsa(_))
        | CredentialSource::Issuer(_) => None,
    }
}

/// Returns the list of ranges with the address of the node's Pod Identity agent in front.
///
/// All other ranges stay as they are, also malformed ones: the plugin gives a pod with a malformed
/// list no network, with or without the address.
fn with_agent(listed: Option<&str>, family: IpFamily) -> String {
    let length = match family {
        IpFamily::V4 => 32,
        IpFamily::V6 => 128,
    };
    let agent = format!("{}/{length}", eks::pod_identity_address(family));
    match listed {
        None | Some("") => agent,
        // Exceeds the limit for all annotations of a pod together: the API server denies the pod.
        Some(listed) if listed.len() > LONGEST => listed.chars().take(LONGEST + 1).collect(),
        Some(listed) if listed.split(',').any(|range| range == agent) => listed.to_owned(),
        Some(listed) => format!("{agent},{listed}"),
    }
}

/// Annotation with the ranges that Istio's plugin does not redirect: prefixes joined by ',', which
/// it does not trim.
///
/// One malformed range makes the plugin fail the pod (`validateCIDRList` in Istio 1.14 to 1.30,
/// `cni/pkg/plugin`). Its rules for these ranges precede all that redirect
/// (`tools/istio-iptables/pkg/capture/run.go`, likewise `tools/istio-nftables`).
const ISTIO_EXCLUDES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
/// Maximum size of all annotations of an object, in bytes: `TotalAnnotationSizeLimitB` in
/// Kubernetes' `pkg/apis/core/validation`.
const LONGEST: usize = 256 * 1024;
/// Name of the container by which Linkerd's plugin recognizes a pod to redirect
/// (`cni-plugin/main.go` of linkerd2-proxy-init).
const LINKERD_PROXY: &str = "linkerd-proxy";
/// Annotation with the group whose connections Linkerd's plugin does not redirect, since 1.5.0.
///
/// The plugin recognizes the proxy's own connections by their user. The other annotations do not
/// fit: `config.linkerd.io/skip-subnets` is about connections *to* the pod, and
/// `skip-outbound-ports` would take all of port 80 out of the mesh.
const LINKERD_GROUP: &str = "config.linkerd.io/proxy-gid";
/// Label that adds a pod to Istio's ambient mode.
///
/// All of the pod's connections then go to a port of its own loopback, and no annotation excludes
/// an address (`cni/pkg/iptables` of Istio 1.30).
pub const AMBIENT_LABEL: &str = "istio.io/dataplane-mode";
/// Value of [`AMBIENT_LABEL`] that excludes a pod.
pub const NOT_AMBIENT: &str = "none";
/// Annotations by which a pod sets its own network. The chart's guard has the same list.
///
/// - Calico: any address (`cni-plugin/pkg/k8s/k8s.go`, if `ip_addrs_no_ipam` is on).
/// - Consul: the complete redirection (`control-plane/cni/main.go`).
/// - Multus: addresses and a default route, or another network (`pkg/k8sclient`).
/// - Kuma: a redirection, with ports and users that further annotations name (`app/cni/pkg/cni`).
/// - Istio: the mark of an ambient pod. A node agent that starts writes the redirection of each pod
///   with it, whatever the labels are (`cni/pkg/nodeagent` from 1.29 on).
pub const OWN_NETWORK: [&str; 6] = [
    "ambient.istio.io/redirection",
    "cni.projectcalico.org/ipAddrsNoIpam",
    "consul.hashicorp.com/redirect-traffic-config",
    "k8s.v1.cni.cncf.io/networks",
    "kuma.io/sidecar-injected",
    "v1.multus-cni.io/default-network",
];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::{super::pod_fields::PodJson, *};
    use crate::config::Creator;

    #[test]
    fn istio_excludes_the_agent_address_and_the_pods_ranges() {
        let agent = "169.254.170.23/32";
        let added = |listed: &str| format!("{agent},{listed}");
        let cases = [
            (None, agent.to_owned()),
            (Some(""), agent.to_owned()),
            (Some(agent), agent.to_owned()),
            (Some("10.0.0.0/8,169.254.170.23/32"), "10.0.0.0/8,169.254.170.23/32".to_owned()),
            (Some("10.0.0.0/8"), added("10.0.0.0/8")),
            // A wider range covers the address, which only the plugin evaluates.
            (Some("169.254.0.0/16"), added("169.254.0.0/16")),
            // Near misses.
            (Some("169.254.170.23"), added("169.254.170.23")),
            (Some("169.254.170.23/3"), added("169.254.170.23/3")),
            (Some("1169.254.170.23/32"), added("1169.254.170.23/32")),
            (Some("169.254.170.23/322"), added("169.254.170.23/322")),
            (Some("169.254.170.23/32 "), added("169.254.170.23/32 ")),
            (Some(" 169.254.170.23/32"), added(" 169.254.170.23/32")),
            (Some("169.254.170.23/32\n"), added("169.254.170.23/32\n")),
            (Some("::ffff:169.254.170.23/128"), added("::ffff:169.254.170.23/128")),
            // Values that the plugin rejects stay as they are.
            (Some("*"), added("*")),
            (Some(","), added(",")),
            (Some("10.0.0.0/8, 192.168.0.0/16"), added("10.0.0.0/8, 192.168.0.0/16")),
        ];
        for (listed, want) in cases {
            let found = with_agent(listed, IpFamily::V4);
            assert_eq!(found, want, "{listed:?}");
            assert_eq!(with_agent(Some(&found), IpFamily::V4), found, "{listed:?} twice");
        }
        let of_ipv6 = with_agent(Some("10.0.0.0/8"), IpFamily::V6);
        assert_eq!(of_ipv6, "fd00:ec2::23/128,10.0.0.0/8");
        assert_eq!(with_agent(Some(&of_ipv6), IpFamily::V6), of_ipv6);
    }

    #[test]
    fn linkerd_gets_a_group_only_with_its_proxy_container() {
        let pod = |lists: Value| json!({"metadata": {}, "spec": lists});
        let agent = json!({"name": "agent"});
        let proxy = json!({"name": "linkerd-proxy"});
        let cases = [
            (json!({"containers": [agent]}), None),
            (json!({"containers": [agent, {"name": "linkerd-proxy-x"}]}), None),
            (json!({"containers": [agent, proxy]}), Some("64017")),
            (json!({"containers": [agent], "initContainers": [proxy]}), Some("64017")),
        ];
        let config = Config::default();
        for (lists, want) in cases {
            let found = with_pod(&pod(lists.clone()), |pod| {
                annotations(pod, base(&config), &config).collect::<Vec<_>>()
            });
            assert_eq!(found[0], (ISTIO_EXCLUDES, "169.254.170.23/32".to_owned()), "{lists}");
            let group = found.get(1).map(|(key, value)| (*key, value.as_str()));
            assert_eq!(group, want.map(|group| (LINKERD_GROUP, group)), "{lists}");
        }
    }

    #[test]
    fn a_pod_that_selects_its_network_is_refused() {
        let mut cases = vec![
            (json!({}), None),
            (json!({"annotations": {"k8s.v1.cni.cncf.io/network-status": "[]"}}), None),
            (json!({"labels": {AMBIENT_LABEL: "none"}}), None),
            (json!({"labels": {AMBIENT_LABEL: "ambient"}}), Some(("label", AMBIENT_LABEL))),
            (json!({"labels": {AMBIENT_LABEL: ""}}), Some(("label", AMBIENT_LABEL))),
        ];
        for key in OWN_NETWORK {
            cases.push((json!({"annotations": {key: ""}}), Some(("annotation", key))));
            let both = json!({"annotations": {key: "x"}, "labels": {AMBIENT_LABEL: "ambient"}});
            cases.push((both, Some(("annotation", key))));
        }
        let config = Config::default();
        for (metadata, want) in cases {
            let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "agent"}]}});
            let found = with_pod(&pod, |pod| own_network(pod, base(&config)).next());
            let want = want.map(|(what, key)| Refusal::PodNetwork { what, key });
            assert_eq!(found, want, "{metadata}");
        }
    }

    #[test]
    fn a_base_token_over_tls_needs_no_mesh_settings() {
        for source in [
            "{source: environment}",
            "{source: irsa, roleArn: 'arn:aws:iam::111122223333:role/base'}",
        ] {
            let config = Config::parse(&format!("baseCredentials: {source}")).unwrap();
            let annotated = json!({"k8s.v1.cni.cncf.io/networks": "x"});
            let pod = json!({
                "metadata": {"annotations": annotated},
                "spec": {"containers": [{"name": "linkerd-proxy"}]},
            });
            with_pod(&pod, |pod| {
                assert_eq!(annotations(pod, base(&config), &config).count(), 0, "{source}");
                assert_eq!(own_network(pod, base(&config)).count(), 0, "{source}");
            });
        }
    }

    fn base(config: &Config) -> CredentialSource<'_> {
        CredentialSource::Base(&config.base_credentials)
    }

    fn with_pod<T>(pod: &Value, look: impl FnOnce(&Pod<'_>) -> T) -> T {
        let raw = to_raw_value(pod).unwrap();
        look(&Pod::of(&PodJson::of(&raw), Creator::new("", "")).unwrap())
    }
}
