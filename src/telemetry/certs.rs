//! Metrics of `certs`.

use std::sync::Arc;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::build;

/// The metrics of `certs`.
#[derive(Clone, Debug)]
pub struct CertificateMetrics(Arc<RegisteredCertsMetrics>);

#[derive(Debug)]
struct RegisteredCertsMetrics {
    registry: Registry,
    ready: Gauge,
    ca_expiry: Gauge,
    certificate_expiry: Gauge,
    secret_updates: Counter,
    webhook_configuration_updates: Counter,
    failures: Counter,
}

impl Default for CertificateMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fab_session_injector_certs");
        build::register(&mut registry);
        let ready = Gauge::default();
        registry.register("ready", "Whether /readyz returns 200", ready.clone());
        let ca_expiry = Gauge::default();
        registry.register_with_unit(
            "ca_expiry_timestamp",
            "Expiry of the CA that signs, in Unix time; 0: none",
            Unit::Seconds,
            ca_expiry.clone(),
        );
        let certificate_expiry = Gauge::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "Expiry of the certificate in the Secret, in Unix time; 0: none",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        let secret_updates = Counter::default();
        registry.register("secret_updates", "Updates of the Secret", secret_updates.clone());
        let webhook_configuration_updates = Counter::default();
        registry.register(
            "webhook_configuration_updates",
            "Updates of the webhook configuration",
            webhook_configuration_updates.clone(),
        );
        let failures = Counter::default();
        registry.register(
            "failures",
            "Failed attempts to read or update the Secret or the webhook configuration",
            failures.clone(),
        );
        Self(Arc::new(RegisteredCertsMetrics {
            registry,
            ready,
            ca_expiry,
            certificate_expiry,
            secret_updates,
            webhook_configuration_updates,
            failures,
        }))
    }
}

impl CertificateMetrics {
    /// Sets the expiry of CA and certificate, in seconds since 1970. None: there is none.
    pub fn holds(&self, ca: Option<u64>, certificate: Option<u64>) {
        let whole = |at: Option<u64>| at.and_then(|at| at.try_into().ok()).unwrap_or(0);
        self.0.ca_expiry.set(whole(ca));
        self.0.certificate_expiry.set(whole(certificate));
    }

    /// Counts one update of the Secret.
    pub fn secret_updated(&self) {
        self.0.secret_updates.inc();
    }

    /// Counts one update of the webhook configuration.
    pub fn webhook_configuration_updated(&self) {
        self.0.webhook_configuration_updates.inc();
    }

    /// Counts one failed attempt.
    pub fn failure(&self) {
        self.0.failures.inc();
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn render(&self, ready: bool) -> String {
        self.0.ready.set(ready.into());
        let mut rendered = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut rendered, &self.0.registry);
        rendered
    }
}
