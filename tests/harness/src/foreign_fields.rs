//! The fields of a pod that are not the injector's.

use serde_json::{Map, Value};

/// Returns the pod without everything that the injector owns or may add. The rest must not differ.
pub fn without_ours(pod: &Value) -> Value {
    const ANNOTATIONS: [&str; 9] = [
        "fab.nanohype.dev/session-id",
        "fab.nanohype.dev/source-identity",
        "fab.nanohype.dev/session-role-arn",
        "fab.nanohype.dev/component",
        "eks.amazonaws.com/skip-containers",
        "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        "container.apparmor.security.beta.kubernetes.io/fab-session-credentials",
        ISTIO_EXCLUDES,
        LINKERD_GROUP,
    ];
    let mut pod = pod.clone();
    let strip = |list: Option<&mut Value>, owned: &dyn Fn(&str) -> bool| {
        let Some(list) = list else { return };
        let items = list.as_array().cloned().unwrap_or_default();
        *list = items.into_iter().filter(|item| !owned(item["name"].as_str().unwrap())).collect();
    };
    for (map, owned) in [
        ("annotations", &ANNOTATIONS[..]),
        ("labels", &["eks.amazonaws.com/skip-pod-identity-webhook"][..]),
    ] {
        let entries = pod["metadata"][map].as_object().cloned().unwrap_or_default();
        pod["metadata"][map] = entries
            .into_iter()
            .filter(|(key, _)| !owned.contains(&key.as_str()))
            .collect::<Map<_, _>>()
            .into();
    }
    let volumes = |name: &str| {
        name.starts_with("fab-session-")
            || ["eks-pod-identity-token", "aws-iam-token"].contains(&name)
    };
    strip(pod["spec"].get_mut("volumes"), &volumes);
    for list in ["containers", "initContainers"] {
        strip(pod["spec"].get_mut(list), &|name| name == "fab-session-credentials");
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if container.get("env").is_none() {
                container["env"] = Value::Null;
            }
            strip(container.get_mut("env"), &|name| {
                name.starts_with("FAB_SESSION_")
                    || name.starts_with("AWS_")
                    || name.eq_ignore_ascii_case("NO_PROXY")
            });
            strip(container.get_mut("volumeMounts"), &volumes);
        }
    }
    pod
}

/// Annotation with the ranges that Istio does not redirect.
pub const ISTIO_EXCLUDES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
/// Annotation with the group that Linkerd does not redirect.
pub const LINKERD_GROUP: &str = "config.linkerd.io/proxy-gid";
