//! HTTP handler of the issuer: from a pod's token to a token for STS.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    api_server::ApiServer,
    keys::Keys,
    published::PublishedFiles,
    sandboxes::{self, Waiters},
};
use crate::{
    command::now,
    config::IssuerSettings,
    issuer::{
        CallerPod, Claims, Grant, GuardRule, Jwt, JwtId, MintLimit, TokenFacts, TokenRefusal,
        decide, tenant_of,
    },
    json::Json,
    namespaces::watch::Lookup,
    roles::refresher::RolesHandle,
    session::OnBehalfOf,
    telemetry::{IssuerMetrics, log_limit::LogLimit},
};

/// Returns the router of the issuer's port.
pub(super) fn router(state: Arc<IssuerState>) -> Router {
    Router::new().route("/v1/token", post(answer)).with_state(state)
}

/// State of the handler.
#[derive(Debug)]
pub(super) struct IssuerState {
    pub(super) issuer: IssuerSettings,
    pub(super) lookup: Lookup,
    pub(super) roles: RolesHandle,
    pub(super) api_server: Arc<ApiServer>,
    pub(super) keys: Arc<Keys>,
    pub(super) published: Arc<PublishedFiles>,
    /// Requests that wait for a claim. None: no component has such a session.
    pub(super) waiters: Option<Arc<Waiters>>,
    pub(super) limits: RequestLimits,
    pub(super) metrics: IssuerMetrics,
}

/// The limits of requests, and of the log lines about those that are no request of a pod.
#[derive(Debug)]
pub(super) struct RequestLimits {
    mints: Mutex<MintLimit>,
    invalid: LogLimit,
}

impl RequestLimits {
    pub(super) fn new() -> Self {
        let start = Instant::now().into_std();
        Self { mints: Mutex::new(MintLimit::new(start)), invalid: LogLimit::new(start) }
    }
}

async fn answer(State(state): State<Arc<IssuerState>>, request: Request) -> Response {
    let (started, answer) = token(&state, request.headers(), Instant::now()).await;
    let took = started.elapsed();
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    match answer {
        Ok((facts, grant, id, jwt)) => {
            state.metrics.token("", took);
            let TokenFacts { namespace, pod_name, pod_uid, credential_id, .. } = &facts;
            tracing::info!(
                namespace = namespace.as_str(),
                pod = pod_name.as_str(),
                pod_uid = pod_uid.as_str(),
                credential_id,
                source_identity = grant.identity.as_str(),
                on_behalf_of = grant.on_behalf_of.as_ref().map(OnBehalfOf::as_str),
                role = grant.role.as_str(),
                jti = %id,
                kid = state.keys.signing().id().as_str(),
                micros,
                "token"
            );
            json_response(
                StatusCode::OK,
                &json!({
                    "token": jwt.expose(),
                    "role": grant.role.as_str(),
                    "sourceIdentity": grant.identity.as_str(),
                    "roleSessionName": grant.role_session_name.as_str(),
                    "durationSeconds": state.issuer.duration.as_secs(),
                }),
            )
        }
        Err((refusal, facts)) => {
            state.metrics.token(refusal.code(), took);
            let code = refusal.code();
            let message = refusal.to_string();
            // The holder of one token, also of a stolen or old one, chooses how often these occur.
            let is_of_holder = matches!(
                refusal,
                TokenRefusal::Busy | TokenRefusal::KeyUnpublished | TokenRefusal::TokenRejected
            );
            match facts {
                // Each pod of a pool asks all the time.
                _ if matches!(refusal, TokenRefusal::Unbound { .. }) => {}
                Some(facts) if !is_of_holder => tracing::warn!(
                    namespace = facts.namespace.as_str(),
                    pod = facts.pod_name.as_str(),
                    pod_uid = facts.pod_uid.as_str(),
                    code,
                    error = message,
                    micros,
                    "no token"
                ),
                _ => {
                    if let Some(omitted) = state.limits.invalid.admit(Instant::now().into_std()) {
                        tracing::warn!(code, error = message, omitted, "invalid request");
                    }
                }
            }
            let status = StatusCode::from_u16(refusal.status());
            let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            json_response(status, &json!({"code": code, "message": message}))
        }
    }
}

/// A token with the facts of its pod, or a refusal. The refusal has the pod if the signature of the
/// pod's token is the API server's.
type Decided = Result<(TokenFacts, Grant, JwtId, Jwt), (TokenRefusal, Option<TokenFacts>)>;

/// Decides on a request. Returns when the decision began: the time for which the request waited for
/// a claim is not the issuer's.
async fn token(state: &IssuerState, headers: &HeaderMap, arrived: Instant) -> (Instant, Decided) {
    let (token, facts) = match caller(state, headers).await {
        Ok(caller) => caller,
        Err(refusal) => return (arrived, Err((refusal, None))),
    };
    let mut started = arrived;
    if let (Some(waiters), Some(wait)) = (&state.waiters, wait(headers)) {
        let bound = waiters.until_bound(&facts, wait).await;
        started = Instant::now();
        if let Err(refusal) = bound {
            return (started, Err((refusal, Some(facts))));
        }
    }
    let out_of_time =
        |_| Err(TokenRefusal::ApiUnavailable { detail: "no decision in time".to_owned() });
    let minted = timeout_at(started + WHOLE, mint(state, token, &facts, started)).await;
    let decided = match minted.unwrap_or_else(out_of_time) {
        Ok((grant, id, jwt)) => Ok((facts, grant, id, jwt)),
        Err(refusal) => {
            // None of these is before the limit counts the request.
            if matches!(
                refusal,
                TokenRefusal::ApiUnavailable { .. }
                    | TokenRefusal::KeyUnavailable
                    | TokenRefusal::RoleUnavailable { .. }
            ) {
                let mut limit = state.limits.mints.lock().unwrap_or_else(PoisonError::into_inner);
                limit.fail(&facts.pod_uid);
            }
            Err((refusal, Some(facts)))
        }
    };
    (started, decided)
}

/// Returns the pod's token and its facts, by the signature only.
async fn caller<'h>(
    state: &IssuerState,
    headers: &'h HeaderMap,
) -> Result<(&'h str, TokenFacts), TokenRefusal> {
    let token = bearer(headers)?;
    Ok((token, state.api_server.check(token).await?))
}

fn bearer(headers: &HeaderMap) -> Result<&str, TokenRefusal> {
    let invalid = |why: &str| TokenRefusal::TokenInvalid { why: why.to_owned() };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(invalid("expected one header Authorization"));
    };
    let value = value.to_str().map_err(|_| invalid("the header Authorization is not ASCII"))?;
    value.strip_prefix("Bearer ").ok_or_else(|| invalid("expected Authorization: Bearer TOKEN"))
}

/// Returns how long the client may wait (RFC 7240). None: it does not say so.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = preferences.flat_map(|value| value.split(','));
    let seconds = preferences.find_map(|preference| preference.trim().strip_prefix("wait="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

async fn mint(
    state: &IssuerState,
    token: &str,
    facts: &TokenFacts,
    started: Instant,
) -> Result<(Grant, JwtId, Jwt), TokenRefusal> {
    let IssuerState { issuer, lookup, roles, api_server, keys, published, limits, .. } = state;
    if !published.has_signing_key() {
        return Err(TokenRefusal::KeyUnpublished);
    }
    // Before any call, so that a pod that asks all the time costs none.
    {
        let mut limit = limits.mints.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now().into_std();
        limit.take(&facts.pod_uid, &facts.namespace, now).map_err(|_| TokenRefusal::Busy)?;
    }
    api_server.review(token, facts).await?;
    let deadline = started + LONGEST;
    let snapshot = lookup.snapshot();
    let found = match snapshot.find(facts.namespace.as_str()) {
        Some(namespace) => Some(namespace.clone()),
        None => lookup.find(facts.namespace.as_str(), deadline).await,
    };
    let tenant = tenant_of(facts, found.as_ref())?;
    if roles.snapshot().role(tenant).is_none() {
        // Without a result the decision says that the role is unavailable.
        let _ = timeout_at(deadline, roles.look_up(tenant.clone())).await;
    }
    let grant = {
        let stored = api_server.pod(facts).await?;
        let pod = stored.pod.as_deref().map(Json::from);
        let checked = CallerPod::of(facts, pod, issuer)?;
        let guard_since = if checked.relies_on_guard() {
            api_server.guard_since(&[GuardRule::of_audience(&issuer.audience)]).await?
        } else {
            None
        };
        // Without a component of such sessions the issuer may not read Sandboxes.
        if checked.has_session_of_sandbox() && state.waiters.is_none() {
            return Err(TokenRefusal::SandboxGuardMissing);
        }
        let session = match pod {
            Some(pod) if checked.has_session_of_sandbox() => {
                Some(sandboxes::session(api_server, facts, pod).await?)
            }
            _ => None,
        };
        decide(facts, tenant, &checked, &roles.snapshot(), guard_since, session)?
    };
    let id = JwtId::of_random(random()?);
    let claims = Claims {
        issuer: &issuer.url,
        client_id: &issuer.client_id,
        source_identity: &grant.identity,
        role: &grant.role,
        namespace: &facts.namespace,
        pod_uid: &facts.pod_uid,
        on_behalf_of: grant.on_behalf_of.as_ref(),
        id,
    };
    let input = claims.to_sign(keys.signing(), now());
    let unavailable = |error: String| {
        tracing::error!(error, "cannot sign");
        TokenRefusal::KeyUnavailable
    };
    let signature = keys.sign(&input).await.map_err(|error| unavailable(format!("{error:#}")))?;
    let jwt = input.signed_with(&signature).map_err(|error| unavailable(error.to_string()))?;
    Ok((grant, id, jwt))
}

fn random() -> Result<[u8; 16], TokenRefusal> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|_| TokenRefusal::KeyUnavailable)?;
    Ok(bytes)
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
}

/// Maximum time for look-ups.
const LONGEST: Duration = Duration::from_secs(3);
/// Maximum time for a response. The sidecar waits for 7 s.
const WHOLE: Duration = Duration::from_secs(6);
