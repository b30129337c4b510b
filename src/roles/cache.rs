//! The cached roles, and how long each is fresh. Does no I/O and reads no clock.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{Backup, Entry, Role, Roles, Source, agenda::Agenda};
use crate::{config::Ssm, session::TenantName};

/// The roles that reviews use.
pub(super) struct Cache {
    entries: HashMap<TenantName, Entry>,
    /// When a result that is cached for a short time expires.
    expiry: Agenda,
    backup: Backup,
    negative: Duration,
    stale: Duration,
    source: Source,
}

impl Cache {
    pub(super) fn new(ssm: &Ssm, backup: Backup) -> Self {
        Self {
            entries: HashMap::new(),
            expiry: Agenda::default(),
            backup,
            negative: ssm.negative,
            stale: ssm.stale,
            source: Source::Ssm(ssm.parameter.clone()),
        }
    }

    /// Returns a snapshot of all entries.
    pub(super) fn roles(&self) -> Roles {
        Roles::new(self.source.clone(), self.entries.clone())
    }

    pub(super) fn has(&self, tenant: &TenantName) -> bool {
        self.entries.contains_key(tenant)
    }

    pub(super) fn is_fresh(&self, tenant: &TenantName) -> bool {
        self.entries.get(tenant).is_some_and(|entry| entry.fresh)
    }

    /// Reports whether the entry is the ARN of a role.
    pub(super) fn has_role(&self, tenant: &TenantName) -> bool {
        self.entries.get(tenant).is_some_and(|entry| matches!(*entry.role, Role::Known(_)))
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&TenantName) -> bool) {
        self.expiry.retain(&keep);
        self.entries.retain(|tenant, _| keep(tenant));
    }

    /// Expires the results that are cached for a short time. Returns whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut changed = false;
        while let Some(tenant) = self.expiry.pop_until(now) {
            if let Some(entry) = self.entries.get_mut(&tenant) {
                entry.fresh = false;
                changed = true;
            }
        }
        changed
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiry.first()
    }

    /// Caches a result. Logs it if it differs from the cached one.
    pub(super) fn learn(&mut self, tenant: TenantName, role: Role, now: Instant) {
        if self.entries.get(&tenant).is_none_or(|entry| *entry.role != role) {
            match &role {
                Role::Known(role) => tracing::info!(%tenant, %role, "tenant role updated"),
                Role::NotFound => tracing::warn!(%tenant, "tenant role missing"),
                Role::Unusable(_) => tracing::warn!(%tenant, "tenant role invalid"),
                Role::Unreachable(cause) => {
                    tracing::warn!(%tenant, %cause, "cannot read tenant role")
                }
            }
        }
        let fresh = match &role {
            Role::Known(_) => None,
            Role::NotFound | Role::Unusable(_) => Some(self.negative),
            Role::Unreachable(_) => Some(UNREACHABLE),
        };
        let entry = Entry { read_at: Some(now.into_std()), ..role.into() };
        self.remember(tenant.clone(), entry);
        if let Some(fresh) = fresh {
            self.expiry.put(tenant, now + fresh);
        }
    }

    /// Keeps the cached role until it is stale, then the role of the backup. Returns whether there
    /// is one.
    pub(super) fn survives_failure(&mut self, tenant: &TenantName, now: Instant) -> bool {
        let is_served = |entry: &Entry| {
            matches!(*entry.role, Role::Known(_))
                && entry.read_at.is_some_and(|read_at| now.into_std() < read_at + self.stale)
        };
        if self.entries.get(tenant).is_some_and(is_served) {
            return true;
        }
        let backup = self.backup.load().get(tenant).cloned();
        if let Some(entry) = backup {
            self.remember(tenant.clone(), entry);
            return true;
        }
        false
    }

    /// Caches an entry until it is replaced.
    fn remember(&mut self, tenant: TenantName, entry: Entry) {
        self.expiry.remove(&tenant);
        self.entries.insert(tenant, entry);
    }
}

/// How long [`Role::Unreachable`] is cached: about as long as a client waits before it retries.
const UNREACHABLE: Duration = Duration::from_secs(1);
