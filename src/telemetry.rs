//! The log and the metrics. The metrics of the webhook are spelled here, those of `certs` and
//! `issuer` in `telemetry/`.

mod build;
mod certs;
mod issuer;
pub mod log;
pub mod log_limit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

pub use self::{certs::CertificateMetrics, issuer::IssuerMetrics};

/// The webhook's metrics. Tenants cannot choose any label value.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<RegisteredMetrics>);

/// Values that are read at a scrape, because other types count them.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Expiry of the serving certificate, in seconds since 1970. None: it cannot be parsed.
    pub certificate_expiry: Option<u64>,
    /// Reloads by outcome.
    pub certificate_reloads: [(&'static str, u64); 2],
    pub log_lines_dropped: u64,
    /// Time since SSM last confirmed the role with the oldest confirmation.
    pub oldest_role: Option<Duration>,
    pub ready: bool,
    /// Calls to SSM by outcome.
    pub role_calls: Vec<(&'static str, u64)>,
    /// Tenants by state of their role.
    pub roles: Vec<(&'static str, usize)>,
    /// Tenants whose role comes from the static role file.
    pub roles_from_file: usize,
}

#[derive(Debug)]
struct RegisteredMetrics {
    registry: Registry,
    ready: Gauge,
    reviews: Family<ReviewLabels, Counter>,
    rejected: Family<StatusLabels, Counter>,
    unread_responses: Counter,
    duration: Histogram,
    namespaces: Family<ModeLabels, Gauge>,
    misconfigured: Family<CodeLabels, Gauge>,
    watch_errors: Counter,
    roles: Family<StateLabels, Gauge>,
    roles_from_file: Gauge,
    oldest_role: Gauge<f64, AtomicU64>,
    role_calls: Family<OutcomeLabels, Counter>,
    certificate_expiry: Gauge,
    certificate_reloads: Family<OutcomeLabels, Counter>,
    log_lines_dropped: Counter,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReviewLabels {
    mode: &'static str,
    decision: &'static str,
    code: &'static str,
    component: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StatusLabels {
    status: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ModeLabels {
    mode: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fab_session_injector");
        build::register(&mut registry);
        let ready = Gauge::default();
        registry.register("ready", "Whether /readyz returns 200", ready.clone());
        let reviews = Family::default();
        registry.register(
            "reviews",
            "Reviews answered, by mode, decision, refusal code and component",
            reviews.clone(),
        );
        let rejected = Family::default();
        // increase() needs the series from the start: a first sample of 1 is no increase.
        for status in REJECTIONS {
            let _ = rejected.get_or_create(&StatusLabels { status });
        }
        registry.register(
            "rejected_requests",
            "Invalid requests to the webhook port, by HTTP status",
            rejected.clone(),
        );
        let unread_responses = Counter::default();
        registry.register(
            "unread_responses",
            "Responses dropped because their client did not read them",
            unread_responses.clone(),
        );
        // Buckets from 50 us to 3.3 s: a review takes 3 s at most.
        let duration = Histogram::new(exponential_buckets(0.000_05, 4.0, 9));
        registry.register_with_unit(
            "review_duration",
            "Time from the request headers of a review to its response",
            Unit::Seconds,
            duration.clone(),
        );
        let namespaces = Family::default();
        registry.register("namespaces", "Opted-in namespaces, by mode", namespaces.clone());
        let misconfigured = Family::default();
        registry.register(
            "misconfigured_namespaces",
            "Opted-in namespaces whose labels cause refusals of agent pods, by refusal code",
            misconfigured.clone(),
        );
        let watch_errors = Counter::default();
        registry.register(
            "namespace_watch_errors",
            "Failed list and watch calls for namespaces",
            watch_errors.clone(),
        );
        let roles = Family::default();
        registry.register("roles", "Tenants, by state of their role", roles.clone());
        let roles_from_file = Gauge::default();
        registry.register(
            "roles_from_file",
            "Tenants whose role comes from the static role file",
            roles_from_file.clone(),
        );
        let oldest_role = Gauge::<f64, AtomicU64>::default();
        registry.register_with_unit(
            "oldest_role_age",
            "Time since SSM last confirmed the role with the oldest confirmation",
            Unit::Seconds,
            oldest_role.clone(),
        );
        let role_calls = Family::default();
        registry.register("role_calls", "Calls to SSM, by outcome", role_calls.clone());
        let certificate_expiry = Gauge::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "Expiry of the serving certificate, in Unix time",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        let certificate_reloads = Family::default();
        registry.register(
            "certificate_reloads",
            "Reloads of the serving certificate, by outcome",
            certificate_reloads.clone(),
        );
        let log_lines_dropped = Counter::default();
        registry.register(
            "log_lines_dropped",
            "Log lines dropped because standard error was not read in time",
            log_lines_dropped.clone(),
        );
        Self(Arc::new(RegisteredMetrics {
            registry,
            ready,
            reviews,
            rejected,
            unread_responses,
            duration,
            namespaces,
            misconfigured,
            watch_errors,
            roles,
            roles_from_file,
            oldest_role,
            role_calls,
            certificate_expiry,
            certificate_reloads,
            log_lines_dropped,
        }))
    }
}

impl Metrics {
    /// Counts one answered review.
    pub fn review(
        &self,
        mode: &'static str,
        decision: &'static str,
        code: &'static str,
        component: Option<&str>,
        took: Duration,
    ) {
        let component = component.unwrap_or_default().to_owned();
        self.0.reviews.get_or_create(&ReviewLabels { mode, decision, code, component }).inc();
        self.0.duration.observe(took.as_secs_f64());
    }

    /// Counts one invalid request.
    pub fn rejected(&self, status: u16) {
        self.0.rejected.get_or_create(&StatusLabels { status }).inc();
    }

    /// Counts one response that was dropped because its client did not read it.
    pub fn unread_response(&self) {
        self.0.unread_responses.inc();
    }

    /// Counts one failed list or watch call for namespaces.
    pub fn namespace_watch_error(&self) {
        self.0.watch_errors.inc();
    }

    /// Sets the number of opted-in namespaces in each mode, and of misconfigured ones for each
    /// refusal code.
    pub fn namespaces(
        &self,
        modes: &[(&'static str, usize)],
        misconfigured: &[(&'static str, usize)],
    ) {
        for &(mode, count) in modes {
            self.0.namespaces.get_or_create(&ModeLabels { mode }).set(whole(count));
        }
        self.0.misconfigured.clear();
        for &(code, count) in misconfigured {
            self.0.misconfigured.get_or_create(&CodeLabels { code }).set(whole(count));
        }
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn render(&self, observed: Observed) -> String {
        let Observed {
            certificate_expiry,
            certificate_reloads,
            log_lines_dropped,
            oldest_role,
            ready,
            role_calls,
            roles,
            roles_from_file,
        } = observed;
        self.0.ready.set(ready.into());
        self.0
            .certificate_expiry
            .set(certificate_expiry.and_then(|at| at.try_into().ok()).unwrap_or(0));
        self.0.oldest_role.set(oldest_role.unwrap_or_default().as_secs_f64());
        self.0.log_lines_dropped.inner().store(log_lines_dropped, Ordering::Relaxed);
        self.0.roles_from_file.set(whole(roles_from_file));
        for (state, count) in roles {
            self.0.roles.get_or_create(&StateLabels { state }).set(whole(count));
        }
        for (outcome, count) in role_calls {
            self.0
                .role_calls
                .get_or_create(&OutcomeLabels { outcome })
                .inner()
                .store(count, Ordering::Relaxed);
        }
        for (outcome, count) in certificate_reloads {
            let counter = self.0.certificate_reloads.get_or_create(&OutcomeLabels { outcome });
            counter.inner().store(count, Ordering::Relaxed);
        }
        let mut rendered = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut rendered, &self.0.registry);
        rendered
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// HTTP statuses of invalid requests.
const REJECTIONS: [u16; 5] = [400, 408, 413, 415, 503];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observed_values_are_rendered_at_the_scrape() {
        let metrics = Metrics::default();
        metrics.namespace_watch_error();
        let observed = Observed {
            certificate_expiry: Some(1_577_923_200),
            oldest_role: Some(Duration::from_millis(1500)),
            ready: true,
            roles: vec![("known", 3)],
            roles_from_file: 2,
            ..Observed::default()
        };
        let rendered = metrics.render(observed);
        for line in [
            "fab_session_injector_ready 1",
            concat!(
                "fab_session_injector_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "fab_session_injector_rejected_requests_total{status=\"408\"} 0",
            "fab_session_injector_namespace_watch_errors_total 1",
            "fab_session_injector_roles{state=\"known\"} 3",
            "fab_session_injector_roles_from_file 2",
            "fab_session_injector_oldest_role_age_seconds 1.5",
            "fab_session_injector_certificate_expiry_timestamp_seconds 1577923200",
        ] {
            assert!(rendered.lines().any(|found| found == line), "{line} not in\n{rendered}");
        }
    }
}
