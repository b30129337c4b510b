//! HTTP handlers of the webhook port. They read a review, look up what its decision lacks, and
//! return the response.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::time::{Instant, timeout_at};

use super::{
    body_budget::{BodyBudget, FACTOR, NotRead, ReadBody},
    response_budget::ResponseBudget,
};
use crate::{
    admission::{Answer, Missing, Review},
    config::Config,
    namespaces::{Mode, Namespaces, watch::Lookup},
    roles::refresher::RolesHandle,
    serve::{Connection, health::Readiness},
    telemetry::{Metrics, log_limit::LogLimit},
};

/// Returns the router with one path for each webhook of the configuration.
pub(super) fn router(state: Arc<WebhookState>) -> Router {
    let handler = |mode| {
        move |State(state): State<Arc<WebhookState>>, request: Request| async move {
            review(&state, mode, request).await
        }
    };
    Router::new()
        .route("/enabled", post(handler(Mode::Enabled)))
        .route("/audit", post(handler(Mode::Audit)))
        .with_state(state)
}

/// State that the handlers share.
#[derive(Debug)]
pub(super) struct WebhookState {
    config: Arc<Config>,
    lookup: Lookup,
    roles: RolesHandle,
    metrics: Metrics,
    readiness: Readiness,
    body_budget: BodyBudget,
    response_budget: ResponseBudget,
    invalid_requests: LogLimit,
}

impl WebhookState {
    pub(super) fn new(
        config: Arc<Config>,
        lookup: Lookup,
        roles: RolesHandle,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Self {
        let (body_budget, response_budget) = (
            BodyBudget::new(BODY_BYTES, MOST_REVIEWS),
            ResponseBudget::new(RESPONSE_BYTES, metrics.clone()),
        );
        let invalid_requests = LogLimit::new(Instant::now().into_std());
        Self {
            config,
            lookup,
            roles,
            metrics,
            readiness,
            body_budget,
            response_budget,
            invalid_requests,
        }
    }
}

async fn review(state: &WebhookState, mode: Mode, mut request: Request) -> Response {
    let started = Instant::now();
    let connection = request.extensions_mut().remove::<Connection>().unwrap_or_default();
    let deadline = started + budget(request.uri());
    match answer(state, mode, request, deadline, &connection).await {
        Ok((answer, record)) => {
            let Answer { body, decision, code, component, pod, missing: _ } = answer;
            let Record { uid, namespace, dry_run } = record;
            let took = started.elapsed();
            state.metrics.review(mode.as_str(), decision, code, component.as_deref(), took);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            tracing::info!(
                uid,
                namespace,
                pod,
                mode = mode.as_str(),
                decision,
                code,
                component,
                dry_run,
                micros,
                "review"
            );
            let body = state.response_budget.hold(body, connection);
            let mut response = ([(header::CONTENT_TYPE, JSON)], body).into_response();
            // The client opens its next connection to another replica, so that it sends no review
            // on a connection that is about to close.
            if state.readiness.is_stopping() {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Err((status, text)) => {
            state.metrics.rejected(status.as_u16());
            if let Some(omitted) = state.invalid_requests.admit(Instant::now().into_std()) {
                tracing::warn!(status = status.as_u16(), reason = text, omitted, "invalid request");
            }
            let text = format!("{text}\n").into_bytes();
            let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (status, headers, state.response_budget.hold(text, connection)).into_response()
        }
    }
}

/// Fields of a review's log line.
struct Record {
    uid: String,
    namespace: String,
    dry_run: bool,
}

async fn answer(
    state: &WebhookState,
    mode: Mode,
    request: Request,
    deadline: Instant,
    connection: &Connection,
) -> Result<(Answer, Record), (StatusCode, String)> {
    let WebhookState {
        config,
        lookup,
        roles,
        metrics: _,
        readiness: _,
        body_budget,
        response_budget: _,
        invalid_requests: _,
    } = state;
    let body =
        read_body(request, body_budget, deadline.max(Instant::now() + SHORTEST_BODY_TIME)).await?;
    // The review is parsed again after each lookup: while it waits, it takes no more than its bytes.
    let decide = |namespaces: &Namespaces| {
        let review = Review::parse(&body.bytes)
            .map_err(|error| (StatusCode::BAD_REQUEST, clipped(&error.to_string())))?;
        let answer = review.answer(mode, namespaces, &roles.snapshot(), config);
        let record = Record {
            uid: clipped(review.uid()),
            namespace: clipped(review.namespace()),
            dry_run: review.is_dry_run(),
        };
        Ok((answer, record))
    };
    let mut namespaces = lookup.snapshot();
    let _decision = connection.decides();
    let (mut answer, record) = decide(&namespaces)?;
    // The namespace and the role can be missing. Each is looked up once. If a lookup does not
    // finish in time, the pod is refused with 503.
    let complete = async {
        for _ in 0..2 {
            match answer.missing.take() {
                None => break,
                Some(Missing::Namespace(name)) => match lookup.find(&name, deadline).await {
                    Some(namespace) => namespaces = Arc::new(namespaces.with(namespace)),
                    None => break,
                },
                Some(Missing::Role(tenant)) => {
                    if timeout_at(deadline, roles.look_up(tenant)).await.is_err() {
                        break;
                    }
                }
            }
            let Ok((next, _)) = decide(&namespaces) else { break };
            answer = next;
        }
    };
    tokio::select! {
        () = complete => {}
        () = body.gives_way() => {}
    }
    Ok((answer, record))
}

/// Returns the start of a client's text, so that log lines stay short.
fn clipped(text: &str) -> String {
    text.chars().take(LONGEST_NAME).collect()
}

async fn read_body(
    request: Request,
    body_budget: &BodyBudget,
    deadline: Instant,
) -> Result<ReadBody<'_>, (StatusCode, String)> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case(JSON));
    if !is_json {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("unsupported Content-Type: expected {JSON}"),
        ));
    }
    body_budget.read(request.into_body(), MOST_BYTES, deadline).await.map_err(|not_read| {
        match not_read {
            NotRead::BrokeOff => {
                (StatusCode::BAD_REQUEST, "the client ended the body early".to_owned())
            }
            NotRead::Crowded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many reviews at once: this one was the oldest with an incomplete body"
                    .to_owned(),
            ),
            NotRead::Late => {
                (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())
            }
            NotRead::TooLong => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is too long: the limit is {MOST_BYTES} bytes"),
            ),
        }
    })
}

/// Returns the time limit of a review. `?timeout=` is how long the API server waits, rounded up to
/// whole seconds; so the webhook must answer one second earlier.
fn budget(uri: &Uri) -> Duration {
    let pairs = uri.query().unwrap_or_default().split('&');
    let seconds = pairs
        .filter_map(|pair| pair.strip_prefix("timeout="))
        .filter_map(|value| value.strip_suffix('s')?.parse::<u64>().ok())
        .next();
    match seconds {
        Some(seconds) => LONGEST.min(Duration::from_secs(seconds.saturating_sub(1))),
        None => LONGEST,
    }
}

const JSON: &str = "application/json";
/// Minimum time for a body, even if `?timeout=` is shorter.
const SHORTEST_BODY_TIME: Duration = Duration::from_secs(1);
/// Maximum time for a review.
const LONGEST: Duration = Duration::from_secs(3);
/// Maximum length of the name of a Kubernetes object.
const LONGEST_NAME: usize = 253;
/// Memory limit of all reviews in progress, in bytes: two of the largest, or thousands of usual
/// ones.
const BODY_BYTES: usize = 2 * MOST_BYTES * FACTOR;
/// Maximum number of reviews in progress. Each takes about 8 KiB before its body arrives, most of
/// it for its stream in the HTTP library.
const MOST_REVIEWS: usize = 2048;
/// Memory limit of all responses that clients have not read yet, in bytes: eight of the largest.
const RESPONSE_BYTES: usize = 16 * 1024 * 1024;
/// Maximum length of a body, in bytes. The API server accepts requests of 3 MiB, and a review can
/// contain the object twice.
const MOST_BYTES: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_leaves_the_api_server_a_second() {
        let cases = [
            ("/enabled", 3),
            ("/enabled?timeout=5s", 3),
            ("/enabled?timeout=3s", 2),
            ("/enabled?timeout=1s", 0),
            ("/enabled?timeout=0s", 0),
            ("/enabled?timeout=30s", 3),
            ("/enabled?a=b&timeout=2s", 1),
            ("/enabled?timeout=soon", 3),
        ];
        for (uri, seconds) in cases {
            assert_eq!(budget(&uri.parse().unwrap()), Duration::from_secs(seconds), "{uri}");
        }
    }
}
