//! How the sidecars of each namespace get session credentials, and the label that says it.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckId, Findings, Objects, Seen, namespace, sandboxes};
use crate::{
    admission::Refusal,
    config::{Config, SessionTransport},
    namespaces::{Mode, Namespace, TRANSPORT_LABEL},
    session::TenantName,
};

/// The transports of the opted-in namespaces of each tenant. A tenant has both in a migration, or if
/// only its Sandboxes use the issuer.
#[derive(Clone, Debug, Default)]
pub struct Transports(BTreeMap<TenantName, BTreeSet<SessionTransport>>);

impl Transports {
    /// `sandboxes`: those of the cluster whose pods get the session of a SandboxClaim.
    pub fn of(namespaces: &Seen<Objects>, sandboxes: &Seen<Objects>, config: &Config) -> Self {
        let homes = sandboxes::homes(sandboxes);
        let mut transports: BTreeMap<TenantName, BTreeSet<SessionTransport>> = BTreeMap::new();
        for namespace in namespace::opted_in(namespaces, config) {
            let transport = of_namespace(&namespace, config);
            if let Ok(tenant) = namespace.tenant {
                let own = transports.entry(tenant).or_default();
                own.insert(transport);
                // The pods of an audited namespace have no sidecar.
                if namespace.mode == Some(Mode::Enabled) && homes.contains(&namespace.name) {
                    own.insert(SessionTransport::WebIdentity);
                }
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
