//! What a review says of its pod: which kind of agent it is, if any, and which session.

use super::{pod::Pod, refusal::Refusal};
use crate::{
    config::{COMPONENT_LABEL, Component, Config, Credentials, SANDBOX_LABEL, SessionSource},
    session::{SessionId, SessionName},
};

/// Which kind of agent the pod is. None: not one of ours, or exempt.
pub(super) fn component<'c>(
    pod: &Pod<'_>,
    config: &'c Config,
) -> Result<Option<&'c Component>, Refusal> {
    let component = config
        .components
        .iter()
        .find(|component| component.matches(pod, |account| config.is_fenced(account)));
    if component.is_some_and(|component| component.credentials == Credentials::Exempt) {
        return Ok(None);
    }
    // A value that no component has may be a typing error, and then the pod is an agent; as is
    // one that says so of itself, and matches none for want of something else.
    if let Some(value) = pod.label(COMPONENT_LABEL) {
        let mut components = config.components.iter();
        let is_named = components.any(|other| other.names_value(COMPONENT_LABEL, value));
        if component.is_none() || !is_named {
            return Err(Refusal::UnknownComponent { value: value.to_owned() });
        }
    }
    Ok(component)
}

/// Which session the pod is. Only a listed creator's word counts; the tenant's own pods are
/// told apart by what the API server gives them.
pub(super) fn session(
    pod: &Pod<'_>,
    creator: &str,
    source: SessionSource,
    config: &Config,
) -> Result<SessionId, Refusal> {
    match source {
        SessionSource::PodName => Ok(SessionId::PodName),
        SessionSource::PodUid => Ok(SessionId::PodUid),
        SessionSource::CreatorOrUid if config.may_name_sessions(creator) => {
            // In a second round our own placeholder stands there, which is nobody's word.
            let annotation = pod.annotation(SESSION_ID_ANNOTATION);
            let annotation = annotation.filter(|text| *text != SessionId::PodUid.to_string());
            if let Some(text) = annotation {
                return known(text, "annotation", SESSION_ID_ANNOTATION);
            }
            match pod.label(SANDBOX_LABEL) {
                Some(text) => known(text, "label", SANDBOX_LABEL),
                None => Ok(SessionId::PodUid),
            }
        }
        SessionSource::CreatorOrUid => Ok(SessionId::PodUid),
    }
}

fn known(text: &str, what: &'static str, key: &'static str) -> Result<SessionId, Refusal> {
    let name: SessionName =
        text.parse().map_err(|rule| Refusal::SessionIllegal { what, key, rule })?;
    Ok(SessionId::Known(name))
}

pub(super) const SESSION_ID_ANNOTATION: &str = "fab.nanohype.dev/session-id";
