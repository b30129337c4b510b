//! Tenants ordered by time.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use crate::session::TenantName;

/// Tenants, each with one time, in the order of their times.
#[derive(Default)]
pub(super) struct Agenda {
    order: BTreeSet<(Instant, TenantName)>,
    times: HashMap<TenantName, Instant>,
}

impl Agenda {
    /// Sets the tenant's time.
    pub(super) fn put(&mut self, tenant: TenantName, at: Instant) {
        self.remove(&tenant);
        self.order.insert((at, tenant.clone()));
        self.times.insert(tenant, at);
    }

    pub(super) fn remove(&mut self, tenant: &TenantName) {
        if let Some(at) = self.times.remove(tenant) {
            self.order.remove(&(at, tenant.clone()));
        }
    }

    /// Iterates over the tenants until the time `last`.
    pub(super) fn until(&self, last: Instant) -> impl Iterator<Item = &(Instant, TenantName)> {
        self.order.iter().take_while(move |(at, _)| *at <= last)
    }

    /// Returns the earliest time.
    pub(super) fn first(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }

    /// Removes and returns the first tenant, if its time is `now` or earlier.
    pub(super) fn pop_until(&mut self, now: Instant) -> Option<TenantName> {
        let tenant = self.order.first().filter(|(at, _)| *at <= now)?.1.clone();
        self.remove(&tenant);
        Some(tenant)
    }

    pub(super) fn first_tenant(&self) -> Option<TenantName> {
        self.order.first().map(|(_, tenant)| tenant.clone())
    }

    pub(super) fn has(&self, tenant: &TenantName) -> bool {
        self.times.contains_key(tenant)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&TenantName) -> bool) {
        self.order.retain(|(_, tenant)| keep(tenant));
        self.times.retain(|tenant, _| keep(tenant));
    }
}
