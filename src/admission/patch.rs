//! Writes the JSON Patch of a decision.
//!
//! It edits lists item by item and rewrites none, so fields that the webhook does not know survive.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use serde_json::value::RawValue;

use super::{
    bounded::{Pairs, Picked},
    component::SESSION_ID_ANNOTATION,
    decision::Gives,
    eks, env,
    list_edit::ListEdit,
    mesh,
    names::{CONTAINER_NAME, EMPTY_VOLUME, ON_BEHALF_OF_ANNOTATION, TOKEN_VOLUME},
    operations::{MOST_BYTES, Patch, at},
    pod::{List, Placed, Pod},
    refusal::Refusal,
    sidecar,
};
use crate::{
    config::{COMPONENT_LABEL, Component, Config, CredentialSource, SessionTransport},
    session::Session,
};

pub(super) fn patch(
    pod: &Pod<'_>,
    component: &Component,
    gives: &Gives,
    config: &Config,
) -> Result<Patch, Refusal> {
    let mut patch = Patch::default();
    let source = match gives {
        Gives::Sidecar(_, transport) => config.credential_source(*transport),
        Gives::Env(_) | Gives::Keep | Gives::Nothing => None,
    };
    for placed in pod.containers().filter(|placed| *placed.container.name != *CONTAINER_NAME) {
        env::edit(&placed, gives, config, &mut patch);
        mounts(&placed, gives, config, &mut patch);
    }
    volumes(pod, gives, source, &mut patch);
    if let (Gives::Sidecar(session, _), Some(source)) = (gives, source) {
        put_sidecar(pod, session, source, component, config, &mut patch);
    }
    labels(pod, gives, &mut patch);
    annotations(pod, component, gives, source, config, &mut patch);
    match patch {
        Patch { too_large: true, .. } => Err(Refusal::PatchTooLarge { most: MOST_BYTES }),
        Patch { operations, .. } if operations > MOST_OPERATIONS => {
            Err(Refusal::PatchTooCostly { operations, most: MOST_OPERATIONS })
        }
        Patch { failed: true, .. } => Err(Refusal::Internal),
        patch => Ok(patch),
    }
}

fn mounts(placed: &Placed<'_, '_>, gives: &Gives, config: &Config, patch: &mut Patch) {
    if gives.leaves_base_credentials() {
        return;
    }
    let present = placed.container.mounts.as_ref();
    let mounts = || present.into_iter().flat_map(Picked::iter);
    let mut edit = ListEdit::default();
    let of_eks = |volume: Option<&str>| volume.is_some_and(|name| eks::VOLUMES.contains(&name));
    edit.removed.extend(mounts().filter(|(_, mount)| of_eks(mount.volume)).map(|(index, _)| index));
    let has_token = mounts().any(|(_, mount)| mount.volume == Some(TOKEN_VOLUME));
    if matches!(gives, Gives::Sidecar(..)) && !placed.container.is_proxy(config) && !has_token {
        edit.appended.push(sidecar::agent_token_mount());
    }
    edit.write(at(placed, "volumeMounts"), present.is_some(), patch);
}

fn volumes(pod: &Pod<'_>, gives: &Gives, source: Option<CredentialSource<'_>>, patch: &mut Patch) {
    if gives.leaves_base_credentials() {
        return;
    }
    let present = pod.spec.volumes.as_ref();
    let mut edit = ListEdit::default();
    let under = |name: &str| -> Vec<(usize, &RawValue)> {
        let volumes = present.into_iter().flat_map(Picked::iter);
        let found = volumes.filter(|(_, volume)| *volume.name == *name);
        found.map(|(index, volume)| (index, volume.raw)).collect()
    };
    let indexes = |volumes: &[(usize, &RawValue)]| -> Vec<usize> {
        volumes.iter().map(|(index, _)| *index).collect()
    };
    for name in eks::VOLUMES {
        edit.removed.extend(indexes(&under(name)));
    }
    if let Some(source) = source {
        for (name, wanted) in sidecar::volumes(source) {
            match (under(name).as_slice(), wanted) {
                ([], None) => {}
                ([], Some(wanted)) => edit.appended.push(wanted),
                (all, None) => edit.removed.extend(indexes(all)),
                ([(first, raw), others @ ..], Some(wanted)) => {
                    edit.removed.extend(indexes(others));
                    edit.put(*first, raw, wanted);
                }
            }
        }
    }
    edit.write(PointerBuf::from_tokens(["spec", "volumes"]), present.is_some(), patch);
}

/// Puts the sidecar before all init containers except those in `proxyContainers`, so that it serves
/// when the first container of the agent starts.
fn put_sidecar(
    pod: &Pod<'_>,
    session: &Session,
    source: CredentialSource<'_>,
    component: &Component,
    config: &Config,
    patch: &mut Patch,
) {
    let mut regular = ListEdit::<()>::default();
    let mut init = ListEdit::default();
    let mut before_agents = true;
    let mut found = false;
    for placed in pod.containers() {
        if *placed.container.name != *CONTAINER_NAME {
            before_agents &= placed.list == List::Containers || placed.container.is_proxy(config);
            continue;
        }
        match placed.list {
            List::Containers => regular.removed.push(placed.index),
            List::InitContainers if before_agents && !found => {
                found = true;
                let existing = pod.text(&placed).unwrap_or(RawValue::NULL);
                let wanted = sidecar::container(session, source, component, config, Some(existing));
                init.put(placed.index, existing, wanted);
            }
            List::InitContainers => init.removed.push(placed.index),
        }
    }
    if !found {
        init.prepended.push(sidecar::container(session, source, component, config, None));
    }
    regular.write(PointerBuf::from_tokens(["spec", "containers"]), true, patch);
    init.write(
        PointerBuf::from_tokens(["spec", "initContainers"]),
        pod.has_init_containers(),
        patch,
    );
}

fn labels(pod: &Pod<'_>, gives: &Gives, patch: &mut Patch) {
    if !gives.leaves_base_credentials() && pod.label(eks::SKIP_LABEL).is_none() {
        set(
            "labels",
            pod.metadata.labels.as_ref(),
            &[(eks::SKIP_LABEL, Some("true".to_owned()))],
            patch,
        );
    }
}

fn annotations(
    pod: &Pod<'_>,
    component: &Component,
    gives: &Gives,
    source: Option<CredentialSource<'_>>,
    config: &Config,
    patch: &mut Patch,
) {
    let mut wanted: Vec<(&str, Option<String>)> = Vec::with_capacity(9);
    match gives.session() {
        Some(session) => {
            wanted.push((SESSION_ID_ANNOTATION, Some(session.id.to_string())));
            wanted.push((SOURCE_IDENTITY_ANNOTATION, Some(session.identity_for_people())));
            wanted.push((ROLE_ARN_ANNOTATION, Some(session.role.to_string())));
            wanted.push((COMPONENT_LABEL, Some(component.name.clone())));
        }
        // Only the webhook sets these. A pod without a session has none of them.
        None => wanted.extend(ANNOTATIONS.map(|key| (key, None))),
    }
    if !gives.leaves_base_credentials() {
        wanted.push((eks::SKIP_ANNOTATION, Some(all_containers(pod, gives))));
    }
    let has_no_tags = matches!(gives, Gives::Sidecar(_, SessionTransport::RoleChain));
    if has_no_tags
        && config.takes_on_behalf_of()
        && pod.annotation(ON_BEHALF_OF_ANNOTATION).is_some()
    {
        patch.warn(&format!(
            "the annotation {ON_BEHALF_OF_ANNOTATION} has no effect with the transport role-chain"
        ));
    }
    if let Some(source) = source {
        wanted.push((sidecar::APPARMOR_ANNOTATION, None));
        wanted.push((SAFE_TO_EVICT_ANNOTATION, Some(safe_to_evict(pod, patch))));
        wanted
            .extend(mesh::annotations(pod, source, config).map(|(key, value)| (key, Some(value))));
    }
    set("annotations", pod.metadata.annotations.as_ref(), &wanted, patch);
}

fn all_containers(pod: &Pod<'_>, gives: &Gives) -> String {
    let ours = matches!(gives, Gives::Sidecar(..)).then_some(CONTAINER_NAME);
    let names = pod.containers().map(|placed| placed.container).map(|container| &*container.name);
    let others = names.filter(|name| *name != CONTAINER_NAME);
    ours.into_iter().chain(others).collect::<Vec<_>>().join(",")
}

/// Returns the pod's list of volumes that are safe to evict, with the sidecar's volumes in memory.
/// They hold no data to preserve, so they must not keep the cluster autoscaler from removing the
/// node.
fn safe_to_evict(pod: &Pod<'_>, patch: &mut Patch) -> String {
    let listed = pod.annotation(SAFE_TO_EVICT_ANNOTATION).unwrap_or_default();
    patch.too_large |= listed.len() > MOST_BYTES;
    let listed = if patch.too_large { "" } else { listed };
    let ours = [TOKEN_VOLUME, EMPTY_VOLUME];
    let ours = ours.into_iter().filter(|ours| !listed.split(',').any(|volume| volume == *ours));
    let mut volumes = String::with_capacity(listed.len() + 64);
    for volume in listed.split(',').filter(|volume| !volume.is_empty()).chain(ours) {
        if !volumes.is_empty() {
            volumes.push(',');
        }
        volumes.push_str(volume);
    }
    volumes
}

/// Sets or removes entries of `metadata.<map>`.
fn set(
    map: &str,
    present: Option<&Pairs<'_>>,
    wanted: &[(&str, Option<String>)],
    patch: &mut Patch,
) {
    let at = PointerBuf::from_tokens(["metadata", map]);
    let Some(present) = present else {
        let entries: BTreeMap<&str, &String> =
            wanted.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?))).collect();
        if !entries.is_empty() {
            patch.add(&at, &entries);
        }
        return;
    };
    for (key, value) in wanted {
        let path = || at.with_trailing_token(*key);
        match (present.find(key), value) {
            (None, None) => {}
            (None, Some(value)) => patch.add(&path(), value),
            (Some(_), None) => patch.remove(&path()),
            (Some(found), Some(value)) if found == value => {}
            (Some(_), Some(value)) => patch.replace(&path(), value),
        }
    }
}

/// Maximum number of operations: the number that the API server accepts from a client
/// (`maxJSONPatchOperations` in its `pkg/endpoints/handlers/patch.go`). For a webhook it has no
/// limit. Each operation may move a complete list, whose length has a limit as well
/// ([`MOST_ITEMS`](super::bounded::MOST_ITEMS)).
const MOST_OPERATIONS: usize = 10_000;
/// Annotation of a pod with the role that its sidecar assumes.
pub const ROLE_ARN_ANNOTATION: &str = "fab.nanohype.dev/session-role-arn";
const SAFE_TO_EVICT_ANNOTATION: &str =
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// The annotations of a pod with a session.
pub(super) const ANNOTATIONS: [&str; 4] =
    [SESSION_ID_ANNOTATION, SOURCE_IDENTITY_ANNOTATION, ROLE_ARN_ANNOTATION, COMPONENT_LABEL];
const SOURCE_IDENTITY_ANNOTATION: &str = "fab.nanohype.dev/source-identity";
