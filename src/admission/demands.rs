//! What an agent pod asks for that it may not have.

use serde_json::Value;

use super::{
    eks,
    pod::{Container, Pod},
    refusal::Refusal,
    sidecar::{self, BASE_VOLUME, CONTAINER_NAME, EMPTY_VOLUME, TOKEN_VOLUME},
};
use crate::{
    config::{Component, Config, Credentials},
    namespaces::Namespace,
};

/// What the pod gets: its component's, or the old client mode where the platform team keeps
/// it for the namespace and the pod asks for it.
pub(super) fn credentials(
    pod: &Pod<'_>,
    component: &Component,
    namespace: &Namespace,
) -> Credentials {
    let old_client = namespace.operator_kept
        && pod.containers.iter().any(|container| sets(container, FAB_OPERATOR));
    match component.credentials {
        Credentials::Sidecar if old_client => Credentials::Env,
        credentials => credentials,
    }
}

pub(super) fn refuse_excess(
    pod: &Pod<'_>,
    component: &Component,
    credentials: Credentials,
    namespace: &Namespace,
    config: &Config,
) -> Result<(), Refusal> {
    for container in agents(pod) {
        if !namespace.operator_kept && sets(container, FAB_OPERATOR) {
            return Err(Refusal::FabOperator { container: container.name.to_owned() });
        }
        if let Some(variable) =
            STATIC_CREDENTIALS.into_iter().find(|variable| sets(container, variable))
        {
            return Err(Refusal::StaticCredentials {
                container: container.name.to_owned(),
                variable: variable.to_owned(),
            });
        }
    }
    if credentials != Credentials::Sidecar {
        no_name_of_ours(pod, component)?;
    }
    if matches!(credentials, Credentials::Env | Credentials::Exempt) {
        return Ok(());
    }
    enforces(namespace, config)?;
    on_linux(pod)?;
    if let Some(field) = SHARED_NAMESPACES.into_iter().find(|field| pod.is_true(field)) {
        return Err(Refusal::HostNamespace { field });
    }
    no_aws_token(pod, &config.aws_audiences)?;
    if credentials == Credentials::Sidecar {
        for container in agents(pod) {
            port_is_free(container, config.sidecar.port)?;
            mounts_are_ours(container, config)?;
        }
    }
    Ok(())
}

/// In a pod that shares its network and volumes with the sidecar, NET_RAW, NET_ADMIN,
/// privileged and hostPath read everything; the standard `restricted` has none of them.
pub(super) fn enforces(namespace: &Namespace, config: &Config) -> Result<(), Refusal> {
    let (enforced, wanted) = (namespace.pod_security, config.pod_security);
    if enforced < wanted {
        return Err(Refusal::PodSecurity { namespace: namespace.name.clone(), enforced, wanted });
    }
    Ok(())
}

/// All containers but the one under our name, which is replaced whole.
fn agents<'p, 'a>(pod: &'p Pod<'a>) -> impl Iterator<Item = &'p Container<'a>> {
    pod.containers.iter().filter(|container| container.name != CONTAINER_NAME)
}

fn sets(container: &Container<'_>, variable: &str) -> bool {
    container.env.iter().flatten().any(|entry| entry.name == variable)
}

fn no_name_of_ours(pod: &Pod<'_>, component: &Component) -> Result<(), Refusal> {
    let reserved = |what, name: &str| Refusal::ReservedName {
        what,
        name: name.to_owned(),
        component: component.name.clone(),
    };
    if pod.containers.iter().any(|container| container.name == CONTAINER_NAME) {
        return Err(reserved("container", CONTAINER_NAME));
    }
    match pod.volumes.iter().flatten().find(|volume| sidecar::VOLUMES.contains(&volume.name)) {
        Some(volume) => Err(reserved("volume", volume.name)),
        None => Ok(()),
    }
}

fn on_linux(pod: &Pod<'_>) -> Result<(), Refusal> {
    let os = pod.spec.get("os").and_then(|os| os.get("name"));
    let node = pod.spec.get("nodeSelector").and_then(|labels| labels.get("kubernetes.io/os"));
    if [os, node].contains(&Some(&Value::from("windows"))) {
        return Err(Refusal::Windows);
    }
    Ok(())
}

/// A token with an audience of AWS's is as good as the role of the service account. The
/// volumes of the EKS webhook are left out here, since they are taken off the pod, and ours.
fn no_aws_token(pod: &Pod<'_>, audiences: &[String]) -> Result<(), Refusal> {
    let ours_or_removed = |name| name == BASE_VOLUME || eks::VOLUMES.contains(&name);
    for volume in pod.volumes.iter().flatten().filter(|volume| !ours_or_removed(volume.name)) {
        let sources = volume.raw.get("projected").and_then(|projected| projected.get("sources"));
        for source in sources.and_then(Value::as_array).into_iter().flatten() {
            let token = source.get("serviceAccountToken").and_then(|token| token.get("audience"));
            if let Some(audience) = token.and_then(Value::as_str)
                && audiences.iter().any(|listed| listed == audience)
            {
                return Err(Refusal::AwsTokenVolume {
                    volume: volume.name.to_owned(),
                    audience: audience.to_owned(),
                });
            }
        }
    }
    Ok(())
}

fn port_is_free(container: &Container<'_>, port: u16) -> Result<(), Refusal> {
    let ports = container.raw.get("ports").and_then(Value::as_array);
    let taken = ports.into_iter().flatten().any(|declared| {
        ["containerPort", "hostPort"]
            .into_iter()
            .any(|field| declared.get(field).and_then(Value::as_u64) == Some(port.into()))
    });
    if taken {
        return Err(Refusal::PortTaken { container: container.name.to_owned(), port });
    }
    Ok(())
}

fn mounts_are_ours(container: &Container<'_>, config: &Config) -> Result<(), Refusal> {
    let token_mount = sidecar::agent_token_mount();
    let is_proxy = config.proxy_containers.iter().any(|name| name == container.name);
    let mounts = container.mounts.iter().flatten();
    let devices =
        container.raw.get("volumeDevices").and_then(Value::as_array).into_iter().flatten();
    let devices = devices.filter_map(|device| device.get("name").and_then(Value::as_str));
    for mount in mounts {
        let reserved = match mount.name {
            BASE_VOLUME | EMPTY_VOLUME => true,
            TOKEN_VOLUME => is_proxy || *mount.raw != token_mount,
            _ => false,
        };
        if reserved {
            return Err(Refusal::ReservedVolume {
                container: container.name.to_owned(),
                volume: mount.name.to_owned(),
            });
        }
        let path = mount.raw.get("mountPath").and_then(Value::as_str).unwrap_or_default();
        if mount.name != TOKEN_VOLUME
            && !is_proxy
            && path.trim_end_matches('/') == sidecar::TOKEN_DIRECTORY
        {
            return Err(Refusal::TokenPathTaken {
                container: container.name.to_owned(),
                path: path.to_owned(),
            });
        }
    }
    match devices.into_iter().find(|name| sidecar::VOLUMES.contains(name)) {
        Some(volume) => Err(Refusal::ReservedVolume {
            container: container.name.to_owned(),
            volume: volume.to_owned(),
        }),
        None => Ok(()),
    }
}

const FAB_OPERATOR: &str = "FAB_OPERATOR";
const SHARED_NAMESPACES: [&str; 3] = ["hostNetwork", "hostPID", "shareProcessNamespace"];
/// Variables that AWS SDKs ask before a container credential endpoint; the Java SDK knows the
/// keys by second names, and boto the session token.
const STATIC_CREDENTIALS: [&str; 11] = [
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_CONFIG_FILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
];
