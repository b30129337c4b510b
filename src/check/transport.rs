//! How the sidecars of each namespace get session credentials, and the label that says it.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckId, Findings, Objects, Seen, namespace};
use crate::{
    admission::Refusal,
    config::{Config, SessionTransport},
    namespaces::{Namespace, TRANSPORT_LABEL},
    session::TenantName,
};

/// The transports of the opted-in namespaces of each tenant. In a migration, a tenant has both.
#[derive(Clone, Debug, Default)]
pub struct Transports(BTreeMap<TenantName, BTreeSet<SessionTransport>>);

impl Transports {
    pub fn of(namespaces: &Seen<Objects>, config: &Config) -> Self {
        let mut transports: BTreeMap<TenantName, BTreeSet<SessionTransport>> = BTreeMap::new();
        for namespace in namespace::opted_in(namespaces, config) {
            let transport = of_namespace(&namespace, config);
            if let Ok(tenant) = namespace.tenant {
                transports.entry(tenant).or_default().insert(transport);
            }
        }
        Self(transports)
    }

    pub fn has(&self, tenant: &TenantName, transport: SessionTransport) -> bool {
        self.0.get(tenant).is_some_and(|transports| transports.contains(&transport))
    }
}

/// Returns the transport of new pods of the namespace.
pub(super) fn of_namespace(namespace: &Namespace, config: &Config) -> SessionTransport {
    namespace.transport.unwrap_or(config.transport)
}

/// Checks the label of the opted-in namespaces.
pub(super) fn check_labels(namespaces: &Seen<Objects>, config: &Config) -> Findings {
    let mut found = Findings::default();
    // The check of the opt-in label reports that they cannot be read.
    for object in namespaces.iter() {
        let namespace = namespace::read(object, config);
        let label = namespace::label(object, TRANSPORT_LABEL);
        let (Some(_), Some(label)) = (namespace.mode, label) else { continue };
        let subject = namespace::subject(&namespace);
        match namespace.transport {
            None => {
                let message = format!(
                    "{TRANSPORT_LABEL}={label} is invalid, so new pods have the transport of the config, {}",
                    config.transport
                );
                found.error(CheckId::TransportLabel, subject, message);
            }
            Some(transport) if config.credential_source(transport).is_none() => {
                let refusal = Refusal::IssuerMissing { namespace: namespace.name };
                found.refused(CheckId::TransportLabel, subject, &refusal);
            }
            Some(transport) => {
                let message = format!("{TRANSPORT_LABEL}={transport}");
                found.ok(CheckId::TransportLabel, subject, message);
            }
        }
    }
    found
}
