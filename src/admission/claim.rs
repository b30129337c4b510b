//! What a review says of its pod: which kind of agent it is, if any, and which session.

use super::{
    pod::Pod,
    refusal::{Refusal, shown},
};
use crate::{
    config::{
        COMPONENT_LABEL, Config, Creator, Credentials, Matched, SANDBOX_LABEL, SessionSource,
    },
    session::{SessionId, SessionName},
};

/// What a pod is to us.
pub(super) enum Claim<'c> {
    Agent(Matched<'c>),
    Exempt(Matched<'c>),
    /// Not one of ours.
    Stranger,
}

/// Whose word the session's name is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NamedBy {
    /// The config's: so is every session of the component.
    Component,
    /// A listed creator's, in an annotation or a label of the pod.
    Creator { what: &'static str, key: &'static str },
    /// Nobody's, though a listed creator might have named one.
    Nobody,
    /// Nobody's that counts: the creator is not a listed one.
    Unlisted,
}

pub(super) fn claim<'c>(pod: &Pod<'_>, config: &'c Config) -> Result<Claim<'c>, Refusal> {
    let matched = config.component_of(pod);
    if let Some(matched) =
        matched.filter(|matched| matched.component.credentials == Credentials::Exempt)
    {
        return Ok(Claim::Exempt(matched));
    }
    // A value that no component has may be a typing error, and then the pod is an agent; as is
    // one that says so of itself, and matches none for want of something else.
    if let Some(value) = pod.label(COMPONENT_LABEL) {
        let mut components = config.components.iter();
        let is_named = components.any(|other| other.names_value(COMPONENT_LABEL, value));
        if matched.is_none() || !is_named {
            return Err(Refusal::UnknownComponent { value: shown(value) });
        }
    }
    Ok(matched.map_or(Claim::Stranger, Claim::Agent))
}

/// Which session the pod is, and who says so. Only a listed creator's word counts; the tenant's own pods are
/// told apart by what the API server gives them.
pub(super) fn session(
    pod: &Pod<'_>,
    creator: Creator<'_>,
    source: SessionSource,
    config: &Config,
) -> Result<(SessionId, NamedBy), Refusal> {
    match source {
        SessionSource::PodName => Ok((SessionId::PodName, NamedBy::Component)),
        SessionSource::PodUid => Ok((SessionId::PodUid, NamedBy::Component)),
        SessionSource::CreatorOrUid if config.may_name_sessions(creator) => {
            // In a second round our own placeholder stands there, which is nobody's word.
            let annotation = pod.annotation(SESSION_ID_ANNOTATION);
            let annotation = annotation.filter(|text| *text != SessionId::PodUid.to_string());
            if let Some(text) = annotation {
                return known(text, "annotation", SESSION_ID_ANNOTATION);
            }
            match pod.label(SANDBOX_LABEL) {
                Some(text) => known(text, "label", SANDBOX_LABEL),
                None => Ok((SessionId::PodUid, NamedBy::Nobody)),
            }
        }
        SessionSource::CreatorOrUid => Ok((SessionId::PodUid, NamedBy::Unlisted)),
    }
}

fn known(
    text: &str,
    what: &'static str,
    key: &'static str,
) -> Result<(SessionId, NamedBy), Refusal> {
    let name: SessionName =
        text.parse().map_err(|rule| Refusal::SessionIllegal { what, key, rule })?;
    Ok((SessionId::Known(name), NamedBy::Creator { what, key }))
}

pub(super) const SESSION_ID_ANNOTATION: &str = "fab.nanohype.dev/session-id";
