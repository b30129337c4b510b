//! The user that a container runs as, as far as its pod says so.

use super::{
    pod::{Container, Pod},
    refusal::{Refusal, shown},
    review::Scalar,
};

/// Refuses a container of the sidecar's user.
///
/// The kernel counts watches of epoll, pending signals and more by user and not by pod: a pod of
/// the sidecar's user keeps every sidecar of its node from accepting connections
/// (`fs.epoll.max_user_watches`). A group has no such limits, and opens no file of the sidecar: the
/// token is for all to read, and no agent mounts the other volumes. So groups are not compared. The
/// user that an image brings does not appear in a pod.
pub(super) fn is_another(
    container: &Container<'_>,
    pod: &Pod<'_>,
    uid: u32,
) -> Result<(), Refusal> {
    let own = container.security_context.0.run_as_user;
    let of_pod = pod.spec.security_context.0.run_as_user.map(|Scalar(user)| user);
    let (user, field) = match own {
        Some(Scalar(user)) => (Some(user), "securityContext.runAsUser"),
        None => (of_pod, "spec.securityContext.runAsUser"),
    };
    if user == Some(i64::from(uid)) {
        let container = shown(&container.name);
        return Err(Refusal::SidecarUser { container, field, uid });
    }
    Ok(())
}
