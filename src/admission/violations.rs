//! The rules for agent pods: what they may not ask for.

use super::{
    bounded::Picked,
    component::SESSION_ID_ANNOTATION,
    eks, mesh,
    names::{
        BASE_VOLUME, CONTAINER_NAME, EMPTY_VOLUME, FAB_OPERATOR, JAVA_OPTIONS, JAVA_PROPERTIES,
        ON_BEHALF_OF_ANNOTATION, STATIC_CREDENTIALS, TOKEN_VOLUME, VOLUMES, covers_token,
    },
    patch::ANNOTATIONS,
    pod::{List, Pod},
    pod_fields::{Container, MOST_CONTAINERS},
    refusal::{Refusal, shown},
    refusals::{Refusals, Stop},
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

/// Checks a pod by the rules for agents of every component.
pub(super) fn check_every_agent(
    pod: &Pod<'_>,
    namespace: &Namespace,
    refusals: &mut Refusals,
) -> Result<(), Stop> {
    // At a reinvocation the sidecar is in the pod, in addition to the admitted containers.
    let found = pod.count_containers() - usize::from(pod.has_sidecar());
    if found > MOST_CONTAINERS {
        refusals.add(Refusal::TooManyContainers { found, most: MOST_CONTAINERS })?;
    }
    // Such as a part of a manifest, which another tool would merge with the rest. A regular container
    // with the name of the sidecar is removed.
    let mut regular = pod.containers().filter(|placed| placed.list == List::Containers);
    if regular.all(|placed| *placed.container.name == *CONTAINER_NAME) {
        refusals.add(Refusal::UnreadablePod { place: "spec.containers".to_owned() })?;
    }
    refusals.add_all(pod.excess().map(|what| Refusal::TooManyItems { what }))?;
    for container in agents(pod) {
        if !namespace.operator_kept && container.sets(FAB_OPERATOR) {
            refusals.add(Refusal::FabOperator { container: shown(&container.name) })?;
        }
        refusals.add_all(static_credentials(container).map(|variable| {
            let container = shown(&container.name);
            Refusal::StaticCredentials { container, variable }
        }))?;
    }
    Ok(())
}

/// Checks a pod by the rules for its kind of credentials.
pub(super) fn check_kind(
    pod: &Pod<'_>,
    component: &Component,
    credentials: CredentialsMode,
    namespace: &Namespace,
    config: &Config,
    refusals: &mut Refusals,
) -> Result<(), Stop> {
    if credentials != CredentialsMode::Sidecar {
        refusals.add_all(reserved_names(pod, component))?;
    }
    if let Some(issuer) = &config.issuer {
        let audience = std::slice::from_ref(&issuer.audience);
        refusals.add_all(token_volumes(pod, audience).map(|(volume, audience)| {
            Refusal::IssuerTokenVolume { volume, audience: audience.to_owned() }
        }))?;
    }
    if matches!(credentials, CredentialsMode::Env | CredentialsMode::Exempt) {
        return Ok(());
    }
    refusals.add_error(refuse_pod_security(namespace, config))?;
    if is_for_windows(pod) {
        refusals.add(Refusal::Windows)?;
    }
    refusals.add_all(shared_namespaces(pod))?;
    refusals.add_all(token_volumes(pod, &config.aws_audiences).map(|(volume, audience)| {
        Refusal::AwsTokenVolume { volume, audience: audience.to_owned() }
    }))?;
    if credentials == CredentialsMode::Sidecar {
        match config.credential_source(component.transport(namespace.transport, config.transport)) {
            Some(source) => refusals.add_all(mesh::own_network(pod, source))?,
            None => refusals.add(Refusal::IssuerMissing { namespace: namespace.name.clone() })?,
        }
        for container in agents(pod) {
            refusals.add_all(taken_port(container, config.sidecar.port))?;
            refusals.add_error(run_as_user::refuse_same(container, pod, config.sidecar.uid))?;
            refusals.add_all(foreign_mounts(container, config))?;
        }
    }
    Ok(())
}

/// Returns the refusal of a pod that brings an annotation of the webhook's, unless the annotation
/// is one that a trusted creator may set.
///
/// The webhook would replace or remove it. A controller that copies annotations from a template would
/// write it back, and the guard would refuse each of its updates. A pod that was injected before has
/// these annotations: at a reinvocation, or when it is compared with current injection. A pod that
/// imitates such a pod is patched, and compared by the guard, like each other.
pub(super) fn reserved_annotation(
    pod: &Pod<'_>,
    component: &Component,
    credentials: CredentialsMode,
    config: &Config,
) -> Option<Refusal> {
    let is_trusted = component.credentials == credentials
        && credentials != CredentialsMode::Nothing
        && component.session == SessionSource::CreatorOrUid
        && config.may_name_sessions(pod.creator);
    let of_creators = [SESSION_ID_ANNOTATION, ON_BEHALF_OF_ANNOTATION];
    let tag = config.takes_on_behalf_of().then_some(ON_BEHALF_OF_ANNOTATION);
    let brought = ANNOTATIONS
        .into_iter()
        .chain(tag)
        .find(|key| pod.annotation(key).is_some() && !(is_trusted && of_creators.contains(key)));
    let has_session =
        |container: &Container<'_>| env::NAMES.iter().all(|name| container.sets(name));
    let looks_injected =
        || pod.has_sidecar() || pod.containers().any(|placed| has_session(placed.container));
    brought.filter(|_| !looks_injected()).map(|key| Refusal::ReservedAnnotation { key })
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

/// Returns the container's variables that take precedence over the session credentials, and the
/// system properties that its variables set in a JVM.
fn static_credentials(container: &Container<'_>) -> impl Iterator<Item = String> {
    let variables = STATIC_CREDENTIALS.into_iter().filter(move |name| container.sets(name));
    let set = container.env.iter().flat_map(Picked::iter).map(|(_, variable)| variable);
    let of_java = set.filter(|variable| JAVA_OPTIONS.contains(&variable.name));
    let properties = of_java.flat_map(|variable| {
        let name = variable.name;
        let options = variable.value().unwrap_or_default();
        let set = move |property: &&str| options.contains(&format!("-D{property}"));
        JAVA_PROPERTIES
            .into_iter()
            .filter(set)
            .map(move |property| format!("-D{property} in {name}"))
    });
    variables.map(str::to_owned).chain(properties)
}

/// Returns all containers except the one with the sidecar's name, which the patch replaces.
fn agents<'p, 'a>(pod: &'p Pod<'a>) -> impl Iterator<Item = &'p Container<'a>> {
    pod.containers()
        .map(|placed| placed.container)
        .filter(|container| *container.name != *CONTAINER_NAME)
}

fn reserved_names(pod: &Pod<'_>, component: &Component) -> impl Iterator<Item = Refusal> {
    let container = pod.has_sidecar().then_some(("container", CONTAINER_NAME));
    let volumes = pod.spec.volumes.iter().flat_map(Picked::iter);
    let volumes = volumes
        .filter_map(|(_, volume)| VOLUMES.into_iter().find(|name| **name == *volume.name))
        .map(|name| ("volume", name));
    container.into_iter().chain(volumes).map(move |(what, name)| Refusal::ReservedName {
        what,
        name: name.to_owned(),
        component: component.name.clone(),
    })
}

fn is_for_windows(pod: &Pod<'_>) -> bool {
    let os = pod.spec.os.as_ref().map(|Object(os)| &*os.name);
    let node = pod.spec.node_selector.as_ref().and_then(|labels| labels.find("kubernetes.io/os"));
    [os, node].contains(&Some("windows"))
}

fn shared_namespaces(pod: &Pod<'_>) -> impl Iterator<Item = Refusal> {
    let fields = [
        ("hostNetwork", pod.spec.host_network),
        ("hostPID", pod.spec.host_pid),
        ("shareProcessNamespace", pod.spec.share_process_namespace),
    ];
    let set = fields.into_iter().filter(|(_, Scalar(set))| *set);
    set.map(|(field, _)| Refusal::HostNamespace { field })
}

/// Returns the volumes that project a token for one of these audiences, each with the audience. It
/// ignores the sidecar's volume, and those of the EKS webhook: the patch removes them.
fn token_volumes<'a>(
    pod: &Pod<'_>,
    audiences: &'a [String],
) -> impl Iterator<Item = (String, &'a str)> {
    let ours_or_removed = |name: &str| name == BASE_VOLUME || eks::VOLUMES.contains(&name);
    let volumes = pod.spec.volumes.iter().flat_map(Picked::iter).map(|(_, volume)| volume);
    volumes.filter(move |volume| !ours_or_removed(&volume.name)).filter_map(move |volume| {
        let is_listed = |known: &&String| volume.audiences.iter().any(|found| **found == ***known);
        let audience = audiences.iter().find(is_listed)?;
        Some((shown(&volume.name), &**audience))
    })
}

fn taken_port(container: &Container<'_>, port: u16) -> Option<Refusal> {
    let declared = container.ports.as_ref().is_some_and(|ports| ports.declare(port));
    declared.then(|| Refusal::PortTaken { container: shown(&container.name), port })
}

fn foreign_mounts(container: &Container<'_>, config: &Config) -> impl Iterator<Item = Refusal> {
    let reserved = move |volume: &str| Refusal::ReservedVolume {
        container: shown(&container.name),
        volume: volume.to_owned(),
    };
    let is_proxy = config.proxy_containers.iter().any(|name| **name == *container.name);
    let mounts = container.mounts.iter().flat_map(Picked::iter);
    let mounts = mounts.filter_map(move |(_, mount)| match mount.volume {
        Some(name @ (BASE_VOLUME | EMPTY_VOLUME)) => Some(reserved(name)),
        Some(TOKEN_VOLUME) if is_proxy || !is(mount.raw, &sidecar::agent_token_mount()) => {
            Some(reserved(TOKEN_VOLUME))
        }
        Some(TOKEN_VOLUME) => None,
        _ if is_proxy || !covers_token(&mount.path) => None,
        _ => {
            let container = shown(&container.name);
            Some(Refusal::TokenPathTaken { container, path: shown(&mount.path) })
        }
    });
    mounts.chain(container.device().map(reserved))
}
