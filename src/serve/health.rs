//! The health port: liveness, readiness and metrics over plain HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{StatusCode, header},
    routing::get,
};

use super::{Limits, Protocol};

/// Limits of the health port. Its clients are the kubelet and a few scrapers, which send one
/// request per connection.
pub const LIMITS: Limits = Limits {
    connections: 512,
    idle: Duration::from_secs(5),
    first_request: Duration::from_secs(5),
    headers: 16 * 1024,
    protocol: Protocol::OneRequest,
};

/// Named conditions that must be met before the process is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<ReadinessState>);

#[derive(Debug, Default)]
struct ReadinessState {
    conditions: Vec<Condition>,
    stopping: AtomicBool,
}

#[derive(Debug)]
struct Condition {
    name: &'static str,
    holds: AtomicBool,
}

/// Marks one condition as met, permanently.
#[derive(Debug)]
pub struct Latch {
    state: Arc<ReadinessState>,
    index: usize,
}

impl Readiness {
    /// Returns the conditions of these names, and one latch for each.
    pub fn new<const N: usize>(names: [&'static str; N]) -> (Self, [Latch; N]) {
        let conditions = names
            .into_iter()
            .map(|name| Condition { name, holds: AtomicBool::new(false) })
            .collect();
        let state = Arc::new(ReadinessState { conditions, stopping: AtomicBool::new(false) });
        let latches = std::array::from_fn(|index| Latch { state: Arc::clone(&state), index });
        (Self(state), latches)
    }

    /// Makes the process permanently not ready, for shutdown.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Reports whether [`Readiness::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// Returns the names of the conditions that are not met, or `stopping`. Empty: ready.
    pub fn lacks(&self) -> Vec<&'static str> {
        if self.is_stopping() {
            return vec!["stopping"];
        }
        let lacking =
            self.0.conditions.iter().filter(|condition| !condition.holds.load(Ordering::Relaxed));
        lacking.map(|condition| condition.name).collect()
    }
}

impl Latch {
    /// Marks the condition as met.
    pub fn release(self) {
        if let Some(condition) = self.state.conditions.get(self.index) {
            condition.holds.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns the router of `/livez`, `/readyz`, and `/metrics` in the OpenMetrics text format.
pub fn router(
    readiness: Readiness,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    let ready = move || {
        let lacking = readiness.lacks();
        async move {
            match lacking.as_slice() {
                [] => (StatusCode::OK, "ready\n".to_owned()),
                lacking => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("not ready: {}\n", lacking.join(", ")),
                ),
            }
        }
    };
    let metrics = move || {
        let text = metrics();
        async move { ([(header::CONTENT_TYPE, OPEN_METRICS)], text) }
    };
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

/// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
