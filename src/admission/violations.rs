//! Refuses agent pods that ask for something that agents may not have.

use super::{
    bounded::Picked,
    component::SESSION_ID_ANNOTATION,
    eks, mesh,
    names::{
        BASE_VOLUME, CONTAINER_NAME, EMPTY_VOLUME, FAB_OPERATOR, JAVA_OPTIONS, JAVA_PROPERTIES,
        STATIC_CREDENTIALS, TOKEN_VOLUME, VOLUMES, covers_token,
    },
    patch::ANNOTATIONS,
    pod::{Container, List, MOST_CONTAINERS, Pod},
    refusal::{Refusal, shown},
    run_as_user,
    same::is,
    sidecar,
};
use crate::{
    config::{Component, Config, CredentialsMode, PodSecurity, SessionSource},
    json::{Object, Scalar},
    namespaces::Namespace,
    session::env,
};

/// Refuses a pod that exceeds a limit, or asks for something that its kind of credentials rules
/// out.
pub(super) fn refuse_excess(
    pod: &Pod<'_>,
    component: &Component,
    credentials: CredentialsMode,
    namespace: &Namespace,
    config: &Config,
) -> Result<(), Refusal> {
    // At a reinvocation the sidecar is in the pod, in addition to the admitted containers.
    let found = pod.count_containers() - usize::from(pod.has_sidecar());
    if found > MOST_CONTAINERS {
        return Err(Refusal::TooManyContainers { found, most: MOST_CONTAINERS });
    }
    // Such as a part of a manifest, which another tool would merge with the rest.
    if !pod.containers().any(|placed| placed.list == List::Containers) {
        return Err(Refusal::UnreadablePod { place: "spec.containers".to_owned() });
    }
    if let Some(what) = pod.excess() {
        return Err(Refusal::TooManyItems { what });
    }
    for container in agents(pod) {
        if !namespace.operator_kept && container.sets(FAB_OPERATOR) {
            return Err(Refusal::FabOperator { container: shown(&container.name) });
        }
        if let Some(variable) = static_credentials(container) {
            let container = shown(&container.name);
            return Err(Refusal::StaticCredentials { container, variable });
        }
    }
    if credentials != CredentialsMode::Sidecar {
        refuse_reserved_names(pod, component)?;
    }
    if matches!(credentials, CredentialsMode::Env | CredentialsMode::Exempt) {
        return Ok(());
    }
    refuse_pod_security(namespace, config)?;
    refuse_other_os(pod)?;
    refuse_shared_namespaces(pod)?;
    refuse_aws_tokens(pod, &config.aws_audiences)?;
    if credentials == CredentialsMode::Sidecar {
        mesh::refuse_own_network(pod, config)?;
        for container in agents(pod) {
            refuse_taken_port(container, config.sidecar.port)?;
            run_as_user::refuse_same(container, pod, config.sidecar.uid)?;
            refuse_foreign_mounts(container, config)?;
        }
    }
    Ok(())
}

/// Refuses a pod that brings an annotation of the webhook's, unless the annotation names its session.
///
/// The webhook would replace or remove it. A controller that copies annotations from a template would
/// write it back, and the guard would refuse each of its updates. A pod that was injected before has
/// these annotations: at a reinvocation, or when it is compared with current injection. A pod that
/// imitates such a pod is patched, and compared by the guard, like each other.
pub(super) fn refuse_annotations(
    pod: &Pod<'_>,
    component: &Component,
    credentials: CredentialsMode,
    config: &Config,
) -> Result<(), Refusal> {
    let names_session = component.credentials == credentials
        && credentials != CredentialsMode::Nothing
        && component.session == SessionSource::CreatorOrUid
        && config.may_name_sessions(pod.creator);
    let brought = ANNOTATIONS.into_iter().find(|key| {
        pod.annotation(key).is_some() && !(names_session && *key == SESSION_ID_ANNOTATION)
    });
    let has_session =
        |container: &Container<'_>| env::NAMES.iter().all(|name| container.sets(name));
    let looks_injected =
        || pod.has_sidecar() || pod.containers().any(|placed| has_session(placed.container));
    match brought {
        Some(key) if !looks_injected() => Err(Refusal::ReservedAnnotation { key }),
        Some(_) | None => Ok(()),
    }
}

/// Refuses a namespace that enforces less than the config's `podSecurity`.
///
/// Agents share network and volumes with the sidecar. With NET_RAW, NET_ADMIN, privileged or
/// hostPath an agent reads all of its data. The level `restricted` allows none of them.
pub(super) fn refuse_pod_security(namespace: &Namespace, config: &Config) -> Result<(), Refusal> {
    let (enforced, wanted) = (namespace.pod_security, config.pod_security);
    let name = || namespace.name.clone();
    if let Some(pinned) = namespace.old_standard
        && enforced < wanted
        && wanted == PodSecurity::Restricted
    {
        return Err(Refusal::OldPodSecurity { namespace: name(), pinned, wanted });
    }
    if enforced < wanted {
        return Err(Refusal::PodSecurity { namespace: name(), enforced, wanted });
    }
    Ok(())
}

/// Returns the container's first variable that takes precedence over the session credentials, or
/// the system property that one sets in a JVM.
fn static_credentials(container: &Container<'_>) -> Option<String> {
    if let Some(name) = STATIC_CREDENTIALS.into_iter().find(|name| container.sets(name)) {
        return Some(name.to_owned());
    }
    container.env.iter().flat_map(Picked::iter).find_map(|(_, variable)| {
        if !JAVA_OPTIONS.contains(&variable.name) {
            return None;
        }
        let options = variable.value()?;
        let set = JAVA_PROPERTIES.into_iter().find(|name| options.contains(&format!("-D{name}")));
        set.map(|property| format!("-D{property} in {}", variable.name))
    })
}

/// Returns all containers except the one with the sidecar's name, which the patch replaces.
fn agents<'p, 'a>(pod: &'p Pod<'a>) -> impl Iterator<Item = &'p Container<'a>> {
    pod.containers()
        .map(|placed| placed.container)
        .filter(|container| *container.name != *CONTAINER_NAME)
}

fn refuse_reserved_names(pod: &Pod<'_>, component: &Component) -> Result<(), Refusal> {
    let reserved = |what, name: &str| Refusal::ReservedName {
        what,
        name: name.to_owned(),
        component: component.name.clone(),
    };
    if pod.has_sidecar() {
        return Err(reserved("container", CONTAINER_NAME));
    }
    let volumes = pod.spec.volumes.iter().flat_map(Picked::iter);
    match volumes.map(|(_, volume)| &*volume.name).find(|name| VOLUMES.contains(name)) {
        Some(volume) => Err(reserved("volume", volume)),
        None => Ok(()),
    }
}

fn refuse_other_os(pod: &Pod<'_>) -> Result<(), Refusal> {
    let os = pod.spec.os.as_ref().map(|Object(os)| &*os.name);
    let node = pod.spec.node_selector.as_ref().and_then(|labels| labels.find("kubernetes.io/os"));
    if [os, node].contains(&Some("windows")) {
        return Err(Refusal::Windows);
    }
    Ok(())
}

fn refuse_shared_namespaces(pod: &Pod<'_>) -> Result<(), Refusal> {
    let fields = [
        ("hostNetwork", pod.spec.host_network),
        ("hostPID", pod.spec.host_pid),
        ("shareProcessNamespace", pod.spec.share_process_namespace),
    ];
    match fields.into_iter().find(|(_, Scalar(set))| *set) {
        Some((field, _)) => Err(Refusal::HostNamespace { field }),
        None => Ok(()),
    }
}

/// Refuses a volume that projects a token for an audience of AWS, which AWS exchanges for the role
/// of the service account. It ignores the sidecar's volume, and those of the EKS webhook: the patch
/// removes them.
fn refuse_aws_tokens(pod: &Pod<'_>, audiences: &[String]) -> Result<(), Refusal> {
    let ours_or_removed = |name: &str| name == BASE_VOLUME || eks::VOLUMES.contains(&name);
    let volumes = pod.spec.volumes.iter().flat_map(Picked::iter).map(|(_, volume)| volume);
    for volume in volumes.filter(|volume| !ours_or_removed(&volume.name)) {
        let of_aws = |known: &&String| volume.audiences.iter().any(|found| **found == ***known);
        if let Some(audience) = audiences.iter().find(of_aws) {
            return Err(Refusal::AwsTokenVolume {
                volume: shown(&volume.name),
                audience: audience.clone(),
            });
        }
    }
    Ok(())
}

fn refuse_taken_port(container: &Container<'_>, port: u16) -> Result<(), Refusal> {
    if container.ports.as_ref().is_some_and(|ports| ports.declare(port)) {
        return Err(Refusal::PortTaken { container: shown(&container.name), port });
    }
    Ok(())
}

fn refuse_foreign_mounts(container: &Container<'_>, config: &Config) -> Result<(), Refusal> {
    let reserved = |volume: &str| Refusal::ReservedVolume {
        container: shown(&container.name),
        volume: volume.to_owned(),
    };
    let is_proxy = config.proxy_containers.iter().any(|name| **name == *container.name);
    for (_, mount) in container.mounts.iter().flat_map(Picked::iter) {
        match mount.volume {
            Some(name @ (BASE_VOLUME | EMPTY_VOLUME)) => return Err(reserved(name)),
            Some(TOKEN_VOLUME) if is_proxy || !is(mount.raw, &sidecar::agent_token_mount()) => {
                return Err(reserved(TOKEN_VOLUME));
            }
            Some(TOKEN_VOLUME) => {}
            _ if is_proxy || !covers_token(&mount.path) => {}
            _ => {
                let container = shown(&container.name);
                return Err(Refusal::TokenPathTaken { container, path: shown(&mount.path) });
            }
        }
    }
    match container.device() {
        Some(device) => Err(reserved(device)),
        None => Ok(()),
    }
}
