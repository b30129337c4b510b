//! HTTP handler of the sidecar. It serves credentials from the cache.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    credentials::{
        Reason,
        cache::{CacheHandle, Failed},
        token::Token,
        wire::{self, CredentialsRequest, LastError, Refused, SidecarStatus, Wanted},
    },
    session::SidecarSession,
};

/// Returns the router. One handler receives all paths and methods, and checks them.
pub(super) fn router(state: Arc<SidecarState>) -> Router {
    Router::new().fallback(answer).with_state(state)
}

/// State of the handler.
#[derive(Debug)]
pub(super) struct SidecarState {
    pub(super) cache: CacheHandle,
    pub(super) counts: Counts,
    pub(super) port: u16,
    pub(super) session: Arc<SidecarSession>,
    pub(super) token: Token,
}

/// Numbers of requests, which the status response shows.
#[derive(Debug, Default)]
pub(super) struct Counts {
    served: AtomicU64,
    /// Requests that were answered without credentials.
    unavailable: AtomicU64,
    /// Refused requests by reason, in the order of [`Refused::ALL`].
    refused: [AtomicU64; Refused::ALL.len()],
}

async fn answer(State(state): State<Arc<SidecarState>>, request: Request) -> Response {
    match authorize(&state, &request) {
        Ok(Wanted::Credentials) => credentials(&state).await,
        Ok(Wanted::Session) if !state.cache.is_in_same_pod() => error(
            403,
            "pod-changed",
            "the token file names another pod than at the start; replace the pod",
        ),
        Ok(Wanted::Session) => match wire::session_body(&state.session) {
            Some(body) => json(StatusCode::OK, body),
            None => unbound(&state),
        },
        Ok(Wanted::Status) => {
            json(StatusCode::OK, serde_json::to_vec(&status(&state)).unwrap_or_default())
        }
        Err(refused) => {
            state.counts.refuse(refused);
            error(refused.status(), refused.code(), refused.message())
        }
    }
}

fn authorize(state: &SidecarState, request: &Request) -> Result<Wanted, Refused> {
    let values = |name: HeaderName| all(request.headers(), &name);
    let asked = CredentialsRequest {
        authorizations: &values(header::AUTHORIZATION),
        hosts: &values(header::HOST),
        is_absolute: request.uri().authority().is_some(),
        method: request.method().as_str(),
        path: request.uri().path(),
    };
    asked.authorize(state.port, &state.token)
}

fn all<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(|value| value.as_bytes()).collect()
}

/// The response about a session that has no name yet: why it gets none, if more than a claim is
/// missing.
fn unbound(state: &SidecarState) -> Response {
    match state.cache.state().failed {
        Some(failed) if !matches!(failed.failure.reason, Reason::NotBound { .. }) => {
            failure(&failed)
        }
        Some(_) | None => error(
            503,
            "not-bound",
            "no SandboxClaim has the pod's Sandbox yet; try again once it is claimed",
        ),
    }
}

async fn credentials(state: &SidecarState) -> Response {
    match state.cache.credentials(PATIENCE).await {
        Ok(issued) => {
            state.counts.served.fetch_add(1, Ordering::Relaxed);
            let body = wire::credentials_body(&issued.credentials, state.session.role());
            json(StatusCode::OK, Bytes::from_owner(body))
        }
        Err(failed) => {
            state.counts.unavailable.fetch_add(1, Ordering::Relaxed);
            let Some(failed) = failed else {
                return error(
                    503,
                    "starting",
                    "the sidecar is requesting the first session credentials; try again",
                );
            };
            failure(&failed)
        }
    }
}

fn failure(failed: &Failed) -> Response {
    let reason = &failed.failure.reason;
    // SDKs do not retry a 4xx at once. They send the next request with their next call.
    let status = if reason.is_permanent() { 403 } else { 503 };
    error(status, reason.code(), &failed.failure.to_string())
}

fn status(state: &SidecarState) -> SidecarStatus {
    let SidecarState { cache, counts, port: _, session, token: _ } = state;
    let state = cache.state();
    let remaining = cache.remaining();
    let issued = state.issued.filter(|_| remaining > Duration::ZERO);
    let expiration = |time: SystemTime| wire::utc(time);
    SidecarStatus {
        source_identity: session.identity_for_people(),
        role_arn: session.role().to_string(),
        access_key_id: issued.as_ref().map(|issued| issued.credentials.access_key_id.clone()),
        expiration: issued.as_ref().map(|issued| expiration(issued.credentials.expiration)),
        remaining_seconds: remaining.as_secs(),
        last_error: state.failed.as_deref().map(last_error),
        assumed: state.assumed,
        failures: state.failures,
        served: counts.served.load(Ordering::Relaxed),
        unavailable: counts.unavailable.load(Ordering::Relaxed),
        refused: Refused::ALL
            .iter()
            .zip(&counts.refused)
            .map(|(refused, count)| (refused.code().to_owned(), count.load(Ordering::Relaxed)))
            .collect(),
    }
}

fn last_error(failed: &Failed) -> LastError {
    let Failed { failure, at } = failed;
    LastError {
        at: wire::utc(*at),
        code: failure.reason.code().to_owned(),
        message: failure.to_string(),
    }
}

impl Counts {
    fn refuse(&self, refused: Refused) {
        let counts = Refused::ALL.iter().zip(&self.refused);
        for (_, count) in counts.filter(|(other, _)| **other == refused) {
            // Only the first refusal of each kind is logged. The status response has the number.
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                let (code, reason) = (refused.code(), refused.message());
                tracing::warn!(code, reason, "refused a request to the credential endpoint");
            }
        }
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    json(status, wire::error_body(code, message))
}

/// Returns a JSON response. One SDK parses an error only with exactly this content type.
fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.into()).into_response()
}

/// Maximum time that a request waits for credentials. Two SDKs time out after 1 s.
const PATIENCE: Duration = Duration::from_millis(900);
