//! Metrics of `issuer`.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
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

use super::{build, whole};

/// The metrics of `issuer`. Tenants cannot choose any label value.
#[derive(Clone, Debug)]
pub struct IssuerMetrics(Arc<RegisteredIssuerMetrics>);

#[derive(Debug)]
struct RegisteredIssuerMetrics {
    registry: Registry,
    ready: Gauge,
    tokens: Family<TokenLabels, Counter>,
    duration: Histogram,
    api_calls: Family<CallLabels, Counter>,
    key_published: Gauge,
    foreign_keys: Gauge,
    published_keys_unread: Counter,
    certificate_expiry: Gauge,
    log_lines_dropped: Counter,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TokenLabels {
    code: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CallLabels {
    call: &'static str,
}

impl Default for IssuerMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fab_session_injector_issuer");
        build::register(&mut registry);
        let ready = Gauge::default();
        registry.register("ready", "Whether /readyz returns 200", ready.clone());
        let tokens = Family::default();
        registry.register(
            "tokens",
            "Requests for tokens, by refusal code; empty: a token was issued",
            tokens.clone(),
        );
        // Buckets from 1 ms to 4 s: the sidecar waits for 7 s.
        let duration = Histogram::new(exponential_buckets(0.001, 4.0, 7));
        registry.register_with_unit(
            "token_duration",
            "Time from the request headers to the response",
            Unit::Seconds,
            duration.clone(),
        );
        let api_calls = Family::default();
        registry.register("api_calls", "Calls to the API server, by kind", api_calls.clone());
        let key_published = Gauge::default();
        registry.register(
            "key_published",
            "Whether the signing key is in the published keys",
            key_published.clone(),
        );
        let foreign_keys = Gauge::default();
        registry.register(
            "foreign_keys",
            "Published keys that the config does not have, and public files that are not understood",
            foreign_keys.clone(),
        );
        let published_keys_unread = Counter::default();
        registry.register(
            "published_key_errors",
            "Failed reads of the public files",
            published_keys_unread.clone(),
        );
        let certificate_expiry = Gauge::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "Expiry of the serving certificate, in Unix time",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        let log_lines_dropped = Counter::default();
        registry.register(
            "log_lines_dropped",
            "Log lines dropped because standard error was not read in time",
            log_lines_dropped.clone(),
        );
        Self(Arc::new(RegisteredIssuerMetrics {
            registry,
            ready,
            tokens,
            duration,
            api_calls,
            key_published,
            foreign_keys,
            published_keys_unread,
            certificate_expiry,
            log_lines_dropped,
        }))
    }
}

impl IssuerMetrics {
    /// Counts one answered request. `code`: that of the refusal, or empty.
    pub fn token(&self, code: &'static str, took: Duration) {
        self.0.tokens.get_or_create(&TokenLabels { code }).inc();
        self.0.duration.observe(took.as_secs_f64());
    }

    /// Counts one call to the API server.
    pub fn api_call(&self, call: &'static str) {
        self.0.api_calls.get_or_create(&CallLabels { call }).inc();
    }

    /// Sets whether the signing key is published.
    pub fn key_published(&self, has_signing_key: bool) {
        self.0.key_published.set(has_signing_key.into());
    }

    /// Sets the number of published keys that are not the issuer's. A file that the issuer does not
    /// understand counts as one.
    pub fn foreign_keys(&self, foreign: usize) {
        self.0.foreign_keys.set(whole(foreign));
    }

    /// Counts one failed read of a public file.
    pub fn public_file_unread(&self) {
        self.0.published_keys_unread.inc();
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn render(
        &self,
        ready: bool,
        certificate_expiry: Option<SystemTime>,
        log_lines_dropped: u64,
    ) -> String {
        self.0.ready.set(ready.into());
        let expiry = certificate_expiry.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let expiry = expiry.and_then(|since| since.as_secs().try_into().ok());
        self.0.certificate_expiry.set(expiry.unwrap_or(0));
        self.0.log_lines_dropped.inner().store(log_lines_dropped, Ordering::Relaxed);
        let mut rendered = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut rendered, &self.0.registry);
        rendered
    }
}
