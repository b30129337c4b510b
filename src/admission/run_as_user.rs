//! The user that a container runs as, by its pod.

use super::{
    pod::Pod,
    pod_fields::Container,
    refusal::{Refusal, shown},
};
use crate::json::Scalar;

/// Refuses a container that runs as the sidecar's user.
///
/// The kernel counts epoll watches, pending signals and more per user and not per pod. A pod of the
/// sidecar's user can keep every sidecar of its node from accepting connections
/// (`fs.epoll.max_user_watches`). Groups are not compared: they have no such limits and give no
/// access to files of the sidecar, since its token is readable by all and no agent mounts its other
/// volumes. The user of an image does not appear in a pod.
pub(super) fn refuse_same(
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
