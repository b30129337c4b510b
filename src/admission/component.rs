//! Determines the component of a pod and the name of its session.

use super::{
    names::ON_BEHALF_OF_ANNOTATION,
    pod::Pod,
    refusal::{Refusal, shown},
};
use crate::{
    config::{
        COMPONENT_LABEL, Component, Config, CredentialsMode, Matched, SANDBOX_LABEL, SessionSource,
        SessionTransport,
    },
    session::{OnBehalfOf, SessionId, SessionName},
};

/// The component of a pod.
pub(super) enum PodKind<'c> {
    Agent(Matched<'c>),
    Exempt(Matched<'c>),
    /// No component matches.
    NotAnAgent,
}

/// The source of a session's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NamedBy {
    /// The config: it sets the pod's name or UID for every session of the component.
    Component,
    /// A trusted creator, in an annotation or a label of the pod.
    Creator { what: &'static str, key: &'static str },
    /// The pod's UID: the trusted creator named no session.
    Unnamed,
    /// The pod's UID: the requesting user is no trusted creator.
    UntrustedCreator,
}

/// Returns the component of the pod. It refuses a pod with an unknown component label.
pub(super) fn kind<'c>(pod: &Pod<'_>, config: &'c Config) -> Result<PodKind<'c>, Refusal> {
    let matched = config.component_of(pod);
    if let Some(matched) =
        matched.filter(|matched| matched.component.credentials == CredentialsMode::Exempt)
    {
        return Ok(PodKind::Exempt(matched));
    }
    // A value that no component has may be a typing error of an agent. A pod whose value is known,
    // but which matches no component, is an agent as well: another part of the selector is missing.
    if let Some(value) = pod.label(COMPONENT_LABEL) {
        let mut components = config.components.iter();
        let is_named = components.any(|other| other.names_value(COMPONENT_LABEL, value));
        if matched.is_none() || !is_named {
            return Err(Refusal::UnknownComponent { value: shown(value) });
        }
    }
    Ok(matched.map_or(PodKind::NotAnAgent, PodKind::Agent))
}

/// Returns the pod's session and the source of its name. Only a trusted creator names a session.
/// The session of any other pod is the UID or the name that the API server assigns.
pub(super) fn session(
    pod: &Pod<'_>,
    source: SessionSource,
    config: &Config,
) -> Result<(SessionId, NamedBy), Refusal> {
    match source {
        SessionSource::PodName => Ok((SessionId::PodName, NamedBy::Component)),
        SessionSource::PodUid => Ok((SessionId::PodUid, NamedBy::Component)),
        SessionSource::SandboxClaim => Ok((SessionId::SandboxClaim, NamedBy::Component)),
        SessionSource::CreatorOrUid if config.may_name_sessions(pod.creator) => {
            // At a reinvocation the annotation may hold the webhook's own placeholder, which names
            // no session.
            let annotation = pod.annotation(SESSION_ID_ANNOTATION);
            let annotation = annotation.filter(|text| *text != SessionId::PodUid.to_string());
            if let Some(text) = annotation {
                return known(text, "annotation", SESSION_ID_ANNOTATION);
            }
            match pod.label(SANDBOX_LABEL) {
                Some(text) => known(text, "label", SANDBOX_LABEL),
                None => Ok((SessionId::PodUid, NamedBy::Unnamed)),
            }
        }
        SessionSource::CreatorOrUid => Ok((SessionId::PodUid, NamedBy::UntrustedCreator)),
    }
}

/// Returns on whose behalf the session runs, as a trusted creator says. Only the session issuer has
/// a use for it.
pub(super) fn on_behalf_of(
    pod: &Pod<'_>,
    component: &Component,
    transport: SessionTransport,
    config: &Config,
) -> Result<Option<OnBehalfOf>, Refusal> {
    let counts = config.takes_on_behalf_of()
        && transport == SessionTransport::WebIdentity
        && component.credentials == CredentialsMode::Sidecar
        && component.session == SessionSource::CreatorOrUid
        && config.may_name_sessions(pod.creator);
    let annotation = pod.annotation(ON_BEHALF_OF_ANNOTATION).filter(|_| counts);
    let value = annotation.map(str::parse).transpose();
    value.map_err(|rule| Refusal::OnBehalfOfIllegal { rule })
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
