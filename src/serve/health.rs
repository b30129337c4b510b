//! Whether this process is alive, ready, and what it counted: on a plain port of its own.

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

/// For a kubelet and a few who look at the counts, each with one request.
pub const LIMITS: Limits = Limits {
    connections: 512,
    idle: Duration::from_secs(5),
    first_request: Duration::from_secs(5),
    headers: 16 * 1024,
    protocol: Protocol::OneRequest,
};

/// Things that must be there before the process is ready, by name.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    conditions: Vec<Condition>,
    stopping: AtomicBool,
}

#[derive(Debug)]
struct Condition {
    name: &'static str,
    holds: AtomicBool,
}

/// Fulfils one condition, for good.
#[derive(Debug)]
pub struct Latch {
    state: Arc<State>,
    index: usize,
}

impl Readiness {
    pub fn new<const N: usize>(names: [&'static str; N]) -> (Self, [Latch; N]) {
        let conditions = names
            .into_iter()
            .map(|name| Condition { name, holds: AtomicBool::new(false) })
            .collect();
        let state = Arc::new(State { conditions, stopping: AtomicBool::new(false) });
        let latches = std::array::from_fn(|index| Latch { state: Arc::clone(&state), index });
        (Self(state), latches)
    }

    /// Not ready from here on.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// What is waited for.
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
    pub fn release(self) {
        if let Some(condition) = self.state.conditions.get(self.index) {
            condition.holds.store(true, Ordering::Relaxed);
        }
    }
}

/// `/livez`, `/readyz`, and `/metrics` in the OpenMetrics text format.
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
