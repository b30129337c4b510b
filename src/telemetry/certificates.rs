//! What `certs` counts.

use std::sync::Arc;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

/// What keeping the certificate comes to.
#[derive(Clone, Debug)]
pub struct CertificateMetrics(Arc<Registered>);

#[derive(Debug)]
struct Registered {
    registry: Registry,
    ready: Gauge,
    authority_expiry: Gauge,
    certificate_expiry: Gauge,
    stored: Counter,
    published: Counter,
    failures: Counter,
}

impl Default for CertificateMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fab_session_injector_certs");
        let ready = Gauge::default();
        registry.register("ready", "Whether /readyz says so", ready.clone());
        let authority_expiry = Gauge::default();
        registry.register_with_unit(
            "authority_expiry_timestamp",
            "When the authority ends that signs, since 1970",
            Unit::Seconds,
            authority_expiry.clone(),
        );
        let certificate_expiry = Gauge::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate in the Secret ends, since 1970",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        let stored = Counter::default();
        registry.register("stored", "Changes of the Secret", stored.clone());
        let published = Counter::default();
        registry.register("published", "Changes of the webhook configuration", published.clone());
        let failures = Counter::default();
        registry.register("failures", "Looks and changes that failed", failures.clone());
        Self(Arc::new(Registered {
            registry,
            ready,
            authority_expiry,
            certificate_expiry,
            stored,
            published,
            failures,
        }))
    }
}

impl CertificateMetrics {
    /// When authority and certificate end, in seconds since 1970; None: there is none.
    pub fn holds(&self, authority: Option<u64>, certificate: Option<u64>) {
        let whole = |at: Option<u64>| at.and_then(|at| at.try_into().ok()).unwrap_or(0);
        self.0.authority_expiry.set(whole(authority));
        self.0.certificate_expiry.set(whole(certificate));
    }

    pub fn stored(&self) {
        self.0.stored.inc();
    }

    pub fn published(&self) {
        self.0.published.inc();
    }

    pub fn failure(&self) {
        self.0.failures.inc();
    }

    /// OpenMetrics text.
    pub fn render(&self, ready: bool) -> String {
        self.0.ready.set(ready.into());
        let mut rendered = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut rendered, &self.0.registry);
        rendered
    }
}
