//! Compares the versions of the API server and of kubelets with what the product requires.

use std::collections::BTreeMap;

use super::{CheckId, Findings, Seen};

/// The versions of Kubernetes' programs, such as `v1.35.4-eks-1a2b3c4`.
#[derive(Debug)]
pub struct KubernetesVersions {
    pub api_server: Seen<String>,
    /// The nodes of each version of the kubelet.
    pub kubelets: Seen<BTreeMap<String, Nodes>>,
}

/// Nodes whose kubelets have the same version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nodes {
    pub count: usize,
    /// The name of one of them.
    pub first: String,
}

pub(super) fn check_kubernetes(versions: &KubernetesVersions) -> Findings {
    let mut found = Findings::default();
    if let Some(version) = versions.api_server.or_report(ID, API_SERVER, &mut found) {
        match minor_and_patch(version) {
            Some((minor, _)) if minor < OLDEST => found.error(
                ID,
                API_SERVER,
                format!("{version} is older than 1.{OLDEST}, the first version that is supported"),
            ),
            _ => found.ok(ID, API_SERVER, version.clone()),
        }
    }
    let Some(kubelets) = versions.kubelets.or_report(ID, KUBELETS, &mut found) else {
        return found;
    };
    for (version, Nodes { count, first }) in kubelets {
        if let Some(fault) = fault_of(version) {
            let nodes = if *count == 1 {
                format!("node {first} has")
            } else {
                format!("{count} nodes, such as {first}, have")
            };
            let remedy = match fault.fixed_in {
                Some(patch) => format!("1.{}.{patch}", fault.minor),
                None => format!("1.{}", fault.minor + 1),
            };
            let message = format!("{nodes} {version}: {}; fixed in {remedy}", fault.effect);
            found.warning(ID, KUBELETS, message);
        }
    }
    if !found.iter().any(|finding| finding.subject == KUBELETS) {
        let versions: Vec<&str> = kubelets.keys().map(String::as_str).collect();
        let versions = if versions.is_empty() { "no nodes".into() } else { versions.join(", ") };
        found.ok(ID, KUBELETS, versions);
    }
    found
}

fn fault_of(version: &str) -> Option<&'static Fault> {
    let (minor, patch) = minor_and_patch(version)?;
    FAULTS.iter().find(|fault| {
        fault.minor == minor && fault.fixed_in.is_none_or(|fixed_in| patch < fixed_in)
    })
}

/// Returns N and M of `v1.N.M`, which a vendor's suffix may follow.
fn minor_and_patch(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("v1.")?.splitn(2, '.');
    let minor = numbers.next()?.parse().ok()?;
    let patch = numbers.next()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some((minor, patch))
}

/// A fault of kubelets that affects pods with a native sidecar.
#[derive(Debug)]
struct Fault {
    minor: u32,
    /// None: this minor version was never fixed.
    fixed_in: Option<u32>,
    effect: &'static str,
}

/// <https://github.com/kubernetes/kubernetes/issues/132826>, and its regression
/// <https://github.com/kubernetes/kubernetes/issues/136910>. The patch versions come from
/// pkg/kubelet/prober/worker.go of each release.
const FAULTS: [Fault; 4] = [
    Fault { minor: 32, fixed_in: None, effect: HANGS },
    Fault { minor: 33, fixed_in: Some(6), effect: HANGS },
    Fault { minor: 34, fixed_in: Some(2), effect: HANGS },
    Fault { minor: 35, fixed_in: Some(4), effect: STAYS_DOWN },
];
const HANGS: &str = "if the sidecar's first start fails, a pod with `restartPolicy: Never` can wait forever (kubernetes/kubernetes#132826)";
const STAYS_DOWN: &str = "a container that fails after a restart of the kubelet may not be restarted in a pod with a sidecar (kubernetes/kubernetes#136910)";

const ID: CheckId = CheckId::KubernetesVersion;
const API_SERVER: &str = "API server";
const KUBELETS: &str = "kubelets";
/// The minor version of Chart.yaml's `kubeVersion`.
const OLDEST: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn levels(api_server: &str, kubelet: &str) -> Vec<Level> {
        let nodes = Nodes { count: 2, first: "node-a".to_owned() };
        let found = check_kubernetes(&KubernetesVersions {
            api_server: Seen::Known(api_server.to_owned()),
            kubelets: Seen::Known(BTreeMap::from([(kubelet.to_owned(), nodes)])),
        });
        found.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn versions_with_a_known_fault_are_found() {
        use Level::{Error, Ok, Warning};
        for (api_server, kubelet, expected) in [
            ("v1.37.2", "v1.37.2", [Ok, Ok]),
            ("v1.31.9-eks-1a2b3c4", "v1.37.2", [Error, Ok]),
            ("v1.32.0-eks-1a2b3c4", "v1.32.13-eks-1a2b3c4", [Ok, Warning]),
            ("v1.33.4-gke.1000000", "v1.33.5-gke.1000000", [Ok, Warning]),
            ("v1.33.4", "v1.33.6", [Ok, Ok]),
            ("v1.34.4", "v1.34.1-eks-1a2b3c4", [Ok, Warning]),
            ("v1.34.4", "v1.34.2", [Ok, Ok]),
            ("v1.35.4", "v1.35.3+k3s1", [Ok, Warning]),
            ("v1.35.4", "v1.35.4", [Ok, Ok]),
            ("unknown", "unknown", [Ok, Ok]),
        ] {
            assert_eq!(levels(api_server, kubelet), expected, "{api_server} {kubelet}");
        }
    }

    #[test]
    fn the_oldest_version_is_that_of_the_chart() {
        let chart = include_str!("../../charts/fab-session-injector/Chart.yaml");
        assert!(chart.contains(&format!("kubeVersion: \">=1.{OLDEST}.0-0\"")));
    }
}
