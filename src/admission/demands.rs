//! What an agent pod asks for that it may not have.

use std::path::{self, Path, PathBuf};

use serde_json::Value;

use super::{
    eks,
    list::is,
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
        && pod.containers().any(|placed| sets(placed.container, FAB_OPERATOR));
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
    // In a second round ours is there, once, beside as many as were let in.
    let has_ours = pod.containers().any(|placed| *placed.container.name == *CONTAINER_NAME);
    let found = pod.containers().count() - usize::from(has_ours);
    if found > MOST_CONTAINERS {
        return Err(Refusal::TooManyContainers { found, most: MOST_CONTAINERS });
    }
    for container in agents(pod) {
        if !namespace.operator_kept && sets(container, FAB_OPERATOR) {
            return Err(Refusal::FabOperator { container: container.name.to_string() });
        }
        if let Some(variable) =
            STATIC_CREDENTIALS.into_iter().find(|variable| sets(container, variable))
        {
            return Err(Refusal::StaticCredentials {
                container: container.name.to_string(),
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
    shares_nothing(pod)?;
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
    pod.containers()
        .map(|placed| placed.container)
        .filter(|container| *container.name != *CONTAINER_NAME)
}

fn sets(container: &Container<'_>, variable: &str) -> bool {
    container.env.iter().flatten().any(|entry| *entry.name == *variable)
}

fn no_name_of_ours(pod: &Pod<'_>, component: &Component) -> Result<(), Refusal> {
    let reserved = |what, name: &str| Refusal::ReservedName {
        what,
        name: name.to_owned(),
        component: component.name.clone(),
    };
    if pod.containers().any(|placed| *placed.container.name == *CONTAINER_NAME) {
        return Err(reserved("container", CONTAINER_NAME));
    }
    match pod.spec.volumes.iter().flatten().find(|volume| sidecar::VOLUMES.contains(&&*volume.name))
    {
        Some(volume) => Err(reserved("volume", &volume.name)),
        None => Ok(()),
    }
}

fn on_linux(pod: &Pod<'_>) -> Result<(), Refusal> {
    let os = pod.spec.os.as_ref().map(|os| &*os.name);
    let node = pod.spec.node_selector.as_ref().and_then(|labels| labels.find("kubernetes.io/os"));
    if [os, node].contains(&Some("windows")) {
        return Err(Refusal::Windows);
    }
    Ok(())
}

fn shares_nothing(pod: &Pod<'_>) -> Result<(), Refusal> {
    let fields = [
        ("hostNetwork", pod.spec.host_network),
        ("hostPID", pod.spec.host_pid),
        ("shareProcessNamespace", pod.spec.share_process_namespace),
    ];
    match fields.into_iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(Refusal::HostNamespace { field }),
        None => Ok(()),
    }
}

/// A token with an audience of AWS's is as good as the role of the service account. The
/// volumes of the EKS webhook are left out here, since they are taken off the pod, and ours.
fn no_aws_token(pod: &Pod<'_>, audiences: &[String]) -> Result<(), Refusal> {
    let ours_or_removed = |name: &str| name == BASE_VOLUME || eks::VOLUMES.contains(&name);
    for volume in pod.spec.volumes.iter().flatten().filter(|volume| !ours_or_removed(&volume.name))
    {
        for audience in volume.token_audiences()? {
            if audiences.contains(&audience) {
                return Err(Refusal::AwsTokenVolume { volume: volume.name.to_string(), audience });
            }
        }
    }
    Ok(())
}

fn port_is_free(container: &Container<'_>, port: u16) -> Result<(), Refusal> {
    let ours = Some(i64::from(port));
    if container
        .ports
        .iter()
        .any(|declared| declared.container_port == ours || declared.host_port == ours)
    {
        return Err(Refusal::PortTaken { container: container.name.to_string(), port });
    }
    Ok(())
}

fn mounts_are_ours(container: &Container<'_>, config: &Config) -> Result<(), Refusal> {
    let reserved = |volume: &str| Refusal::ReservedVolume {
        container: container.name.to_string(),
        volume: volume.to_owned(),
    };
    let is_proxy = config.proxy_containers.iter().any(|name| **name == *container.name);
    for mount in container.mounts.iter().flatten() {
        match &*mount.name {
            name @ (BASE_VOLUME | EMPTY_VOLUME) => return Err(reserved(name)),
            TOKEN_VOLUME if is_proxy || !is(&mount.whole(), &sidecar::agent_token_mount()) => {
                return Err(reserved(TOKEN_VOLUME));
            }
            TOKEN_VOLUME => {}
            _ if is_proxy => {}
            _ => {
                let whole = mount.whole();
                let path = whole.get("mountPath").and_then(Value::as_str).unwrap_or_default();
                if covers_token(path) {
                    let container = container.name.to_string();
                    return Err(Refusal::TokenPathTaken { container, path: path.to_owned() });
                }
            }
        }
    }
    match container.volume_devices.iter().find(|device| sidecar::VOLUMES.contains(&&*device.name)) {
        Some(device) => Err(reserved(&device.name)),
        None => Ok(()),
    }
}

/// Whether something that is mounted there lies over the token. The kubelet takes a relative
/// path from the root, and in most images `/var/run` is a link to `/run`.
fn covers_token(path: &str) -> bool {
    let mut place = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            path::Component::Normal(name) => place.push(name),
            path::Component::ParentDir => {
                place.pop();
            }
            path::Component::CurDir | path::Component::Prefix(_) | path::Component::RootDir => {}
        }
    }
    let linked = sidecar::TOKEN_DIRECTORY.trim_start_matches("/var");
    place.starts_with(sidecar::TOKEN_DIRECTORY) || place.starts_with(linked)
}

/// Each gets a kilobyte of variables, and the answer must be written in time: a pod of
/// thousands would hold up the pods of all tenants.
const MOST_CONTAINERS: usize = 256;
const FAB_OPERATOR: &str = "FAB_OPERATOR";
/// Variables that AWS SDKs ask before a container credential endpoint; the Java SDK knows the
/// keys and the profile file by second names, and boto the session token. The chart's guard has
/// the same list.
pub const STATIC_CREDENTIALS: [&str; 12] = [
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_CONFIG_FILE",
    "AWS_CREDENTIAL_PROFILES_FILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_tokens_however_it_is_written() {
        let cases = [
            ("/var/run/fab-session", true),
            ("/var/run/fab-session/", true),
            ("/var/run//fab-session", true),
            ("/var/./run/fab-session", true),
            ("/var/run/x/../fab-session", true),
            ("/../../var/run/fab-session", true),
            ("var/run/fab-session", true),
            ("/run/fab-session", true),
            ("/var/run/fab-session/token", true),
            ("/run/fab-session/token/x", true),
            // Ours is mounted into what is mounted above it.
            ("/", false),
            ("/var/run", false),
            ("/run", false),
            ("", false),
            ("/var/run/fab-session-base", false),
            ("/var/run/fab-session/../other", false),
            ("/data/var/run/fab-session", false),
            ("/fab-session", false),
        ];
        for (path, want) in cases {
            assert_eq!(covers_token(path), want, "{path:?}");
        }
    }
}
