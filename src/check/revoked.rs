//! Reports the revoked sessions of each tenant.

use std::collections::BTreeSet;

use super::{AwsFacts, Chain, CheckId, Findings, Objects, Seen};
use crate::{
    admission,
    config::Config,
    revocation::{self, POLICY_NAME, Revoked},
    session::{RoleArn, SourceIdentity, TenantName},
};

/// The revoked sessions of all tenants, and which of them have a pod.
#[derive(Debug)]
pub(super) struct Revocations {
    revoked: BTreeSet<SourceIdentity>,
    with_pod: BTreeSet<SourceIdentity>,
    /// Why other sessions may have a pod, too.
    hidden: Option<&'static str>,
}

impl Revocations {
    pub(super) fn of(aws: Option<&AwsFacts>, config: &Config) -> Self {
        let has_claims = config.claim_components().next().is_some();
        let hidden = has_claims.then_some("pods of a warm pool do not name their session");
        let chains = aws.into_iter().flat_map(|aws| aws.chains.values());
        let revoked = chains.filter_map(revoked_of).flat_map(|revoked| revoked.sessions.keys());
        Self { revoked: revoked.cloned().collect(), with_pod: BTreeSet::new(), hidden }
    }

    /// Notes which revoked sessions have a pod among these.
    pub(super) fn see(&mut self, pods: &Seen<Objects>) {
        if let Seen::Hidden(_) = pods {
            self.hidden = Some("pods of a namespace cannot be read");
        }
        if self.revoked.is_empty() {
            return;
        }
        for pod in pods.iter() {
            let session = revocation::session_of(pod, admission::sidecar(pod));
            let identity = session.and_then(Result::ok).map(|session| session.source_identity());
            self.with_pod.extend(identity.filter(|identity| self.revoked.contains(identity)));
        }
    }

    pub(super) fn check(&self, tenant: &TenantName, role: &RoleArn, chain: &Chain) -> Findings {
        let mut found = Findings::default();
        let subject = format!("tenant {tenant}, {role}");
        // A hidden role is a finding of its policies.
        let Seen::Known(held) = &chain.session_role else { return found };
        match &held.revoked {
            Err(error) => {
                found.warning(CheckId::RevokedSessions, subject, error.to_string());
            }
            Ok(revoked) if revoked.is_empty() => {
                found.ok(CheckId::RevokedSessions, subject, "no session is revoked");
            }
            Ok(revoked) => {
                found.warning(CheckId::RevokedSessions, subject, self.message(revoked));
            }
        }
        found
    }

    fn message(&self, revoked: &Revoked) -> String {
        let (with, without): (Vec<&SourceIdentity>, Vec<&SourceIdentity>) =
            revoked.sessions.keys().partition(|identity| self.with_pod.contains(*identity));
        let list = |identities: &[&SourceIdentity]| {
            identities.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ")
        };
        let mut parts = vec![format!("its inline policy {POLICY_NAME} denies all calls")];
        if !with.is_empty() {
            parts.push(format!("of these sessions, whose pods still exist: {}", list(&with)));
        }
        match (&without[..], self.hidden) {
            ([], _) => {}
            (without, Some(why)) => parts.push(format!(
                "of these sessions, whose pods are not known, because {why}: {}",
                list(without)
            )),
            (without, None) => parts.push(format!(
                "of these sessions, which have no pod in the checked namespaces, so revoke --prune may remove them: {}",
                list(without)
            )),
        }
        if let Some(time) = revoked.issued_before {
            parts.push(format!("with credentials issued before {time}"));
        }
        parts.join("; ")
    }
}

fn revoked_of(chain: &Chain) -> Option<&Revoked> {
    match &chain.session_role {
        Seen::Known(held) => held.revoked.as_ref().ok(),
        Seen::Hidden(_) => None,
    }
}
