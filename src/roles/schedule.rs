//! Decides which tenants are read next, and when. Does no I/O and reads no clock.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{agenda::Agenda, rate_limit::RateLimit};
use crate::session::TenantName;

/// The next reads of all tenants.
pub(super) struct Schedule {
    /// When the sweep reads each tenant's role next.
    due: Agenda,
    /// Tenants that reviews wait for and that are in no running call.
    urgent: VecDeque<TenantName>,
    /// When to retry tenants that reviews wait for and whose last call SSM throttled.
    throttled: Agenda,
    /// Tenants of the running calls, with the time limit of the call.
    in_flight: HashMap<TenantName, Duration>,
    /// Tenants that were in a refused batch: each is read by a call of its own.
    alone: HashSet<TenantName>,
    /// Tenants whose own call was denied since the last successful call.
    denied: HashSet<TenantName>,
    /// Number of failed calls in a row.
    failures: u32,
    refresh: Duration,
    sweep: RateLimit,
    lookup: RateLimit,
}

/// One call to the publisher, for [`BATCH`] tenants at most.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Call {
    pub(super) tenants: Vec<TenantName>,
    /// A lookup has less time than a call of the sweep, for which no review waits.
    pub(super) time_limit: Duration,
}

impl Schedule {
    pub(super) fn new(calls_per_second: u32, refresh: Duration, now: Instant) -> Self {
        Self {
            due: Agenda::default(),
            urgent: VecDeque::new(),
            throttled: Agenda::default(),
            in_flight: HashMap::new(),
            alone: HashSet::new(),
            denied: HashSet::new(),
            failures: 0,
            refresh,
            sweep: RateLimit::new(calls_per_second, now),
            lookup: RateLimit::new(calls_per_second, now),
        }
    }

    /// Adds a wanted tenant that has no role yet.
    pub(super) fn add(&mut self, tenant: &TenantName, now: Instant) {
        if !self.due.has(tenant) && !self.in_flight.contains_key(tenant) {
            self.due.put(tenant.clone(), now);
        }
    }

    /// Drops all tenants that are not in `tenants`.
    pub(super) fn retain(&mut self, tenants: &HashSet<TenantName>) {
        self.due.retain(|tenant| tenants.contains(tenant));
        self.alone.retain(|tenant| tenants.contains(tenant));
    }

    /// Looks the tenant up for a review, unless a lookup of it runs or waits already. A call of the
    /// sweep may take longer than a review, so the review does not wait for it.
    pub(super) fn look_up(&mut self, tenant: TenantName) {
        let in_flight = self.in_flight.get(&tenant);
        if in_flight.is_none_or(|time_limit| *time_limit > LOOKUP)
            && !self.urgent.contains(&tenant)
            && !self.throttled.has(&tenant)
        {
            self.urgent.push_back(tenant);
        }
    }

    /// Repeats a lookup at once.
    pub(super) fn look_up_again(&mut self, tenant: TenantName) {
        self.urgent.push_back(tenant);
    }

    /// Repeats a lookup that SSM throttled, after a pause that grows with `attempts`. The pause is
    /// random, so that the retries of many tenants do not coincide.
    pub(super) fn look_up_later(&mut self, tenant: TenantName, attempts: u32, now: Instant) {
        let most = THROTTLED_FIRST * 2_u32.saturating_pow(attempts.min(3) - 1);
        self.throttled.put(tenant, now + most.mul_f64(0.5 + fastrand::f64() / 2.0));
    }

    /// Reads the tenant by a call of its own: at once if a review waits for it, else in the sweep.
    pub(super) fn read_alone(&mut self, tenant: TenantName, is_waited_for: bool, now: Instant) {
        self.alone.insert(tenant.clone());
        if is_waited_for {
            self.urgent.push_back(tenant);
        } else {
            self.due.put(tenant, now);
        }
    }

    /// Reads the tenant again when its role is due for a refresh.
    pub(super) fn refresh(&mut self, tenant: TenantName, now: Instant) {
        self.due.put(tenant, now + jittered(self.refresh));
    }

    /// Reads the tenant again soon after a failed call.
    pub(super) fn retry(&mut self, tenant: TenantName, now: Instant) {
        self.due.put(tenant, now + jittered(UNANSWERED));
    }

    /// Returns the next call that may start now, beside `running` others. Err: when to ask again. A
    /// tenant that is due soon may be read early if `is_cached` reports a role for it.
    pub(super) fn next_call(
        &mut self,
        running: usize,
        now: Instant,
        is_cached: impl Fn(&TenantName) -> bool,
    ) -> Result<Call, Instant> {
        while let Some(tenant) = self.throttled.pop_until(now) {
            self.urgent.push_back(tenant);
        }
        let mut wake = self.throttled.first().unwrap_or(now + IDLE);
        if !self.urgent.is_empty() && running < MOST_AT_ONCE {
            match self.lookup.take(now) {
                Ok(()) => {
                    let batch = self.urgent_batch();
                    return Ok(self.start(batch, LOOKUP, now, is_cached));
                }
                Err(later) => wake = wake.min(later),
            }
        }
        let Some(first) = self.due.first() else { return Err(wake) };
        if first > now {
            return Err(wake.min(first));
        }
        // The other half of the calls is reserved for lookups.
        if running >= MOST_AT_ONCE / 2 {
            return Err(wake);
        }
        match self.sweep.take(now) {
            Ok(()) => Ok(self.start(Vec::with_capacity(BATCH), SWEEP, now, is_cached)),
            Err(later) => Err(wake.min(later)),
        }
    }

    /// Fills the batch, and records its call as running.
    fn start(
        &mut self,
        mut tenants: Vec<TenantName>,
        time_limit: Duration,
        now: Instant,
        is_cached: impl Fn(&TenantName) -> bool,
    ) -> Call {
        self.fill(&mut tenants, now, is_cached);
        for tenant in &tenants {
            self.due.remove(tenant);
            self.in_flight.insert(tenant.clone(), time_limit);
        }
        self.urgent.retain(|waiting| !tenants.contains(waiting));
        Call { tenants, time_limit }
    }

    /// Returns the next batch for waiting reviews. A tenant in `alone` is a batch of its own.
    fn urgent_batch(&mut self) -> Vec<TenantName> {
        let alone = self.urgent.front().is_some_and(|first| self.alone.contains(first));
        if alone || self.is_all_denied() {
            return self.urgent.pop_front().into_iter().collect();
        }
        let together =
            self.urgent.iter().filter(|tenant| !self.alone.contains(*tenant)).take(BATCH);
        together.cloned().collect()
    }

    /// Fills the batch with tenants that are due now or soon. A call costs the same for one name or
    /// ten, and with jitter few tenants are due at the same moment.
    fn fill(
        &self,
        batch: &mut Vec<TenantName>,
        now: Instant,
        is_cached: impl Fn(&TenantName) -> bool,
    ) {
        if batch.is_empty() {
            batch.extend(self.due.first_tenant());
        }
        let alone = batch.first().is_some_and(|first| self.alone.contains(first));
        if alone || self.is_all_denied() {
            return;
        }
        let soon = self.due.until(now + self.refresh.mul_f64(JITTER)).filter(|(at, tenant)| {
            !self.alone.contains(tenant)
                && !batch.contains(tenant)
                && (*at <= now || is_cached(tenant))
        });
        let along: Vec<TenantName> =
            soon.map(|(_, tenant)| tenant.clone()).take(BATCH - batch.len()).collect();
        batch.extend(along);
    }

    /// Records the end of a call. Returns the tenants that its result concerns. If a failed call
    /// was one of the sweep, it does not concern tenants that a lookup is reading now: the result
    /// of the lookup counts.
    pub(super) fn end(&mut self, call: Call, has_failed: bool) -> Vec<TenantName> {
        let Call { mut tenants, time_limit } = call;
        for tenant in &tenants {
            if self.in_flight.get(tenant) == Some(&time_limit) {
                self.in_flight.remove(tenant);
            }
        }
        if has_failed {
            tenants.retain(|tenant| !self.in_flight.contains_key(tenant));
        }
        tenants
    }

    /// Records a successful call for these tenants. Returns the number of failed calls before it.
    pub(super) fn succeeded(&mut self, tenants: &[TenantName]) -> u32 {
        self.denied.clear();
        for tenant in tenants {
            self.alone.remove(tenant);
        }
        self.answered()
    }

    /// Records that SSM denied the tenant's own call. Returns whether this is new.
    pub(super) fn record_denied(&mut self, tenant: &TenantName) -> bool {
        let is_new = self.denied.insert(tenant.clone());
        if self.is_all_denied() {
            self.alone.clear();
        }
        is_new
    }

    /// Reports whether SSM probably denies all names. Then only calls with one name are made, until
    /// one succeeds.
    pub(super) fn is_all_denied(&self) -> bool {
        self.denied.len() >= ALL_DENIED
    }

    /// Records that a call answered, although not with values. Returns the number of failed calls
    /// before it.
    pub(super) fn answered(&mut self) -> u32 {
        std::mem::take(&mut self.failures)
    }

    /// Pauses the sweep after a failed call, longer each time. Returns whether it is the first of
    /// an outage.
    pub(super) fn slow_down(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let longest = BACKOFF_MOST.min(BACKOFF_FIRST * 2_u32.saturating_pow(self.failures.min(16)));
        self.sweep.pause(now + longest.mul_f64(fastrand::f64()));
        self.failures == 1
    }
}

/// Returns a random time from 80 % to 100 % of `time`, so that roles that were read together are
/// not read together again.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(1.0 - JITTER * fastrand::f64())
}

/// Maximum number of names of GetParameters.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html>
pub(super) const BATCH: usize = 10;
/// Number of denied tenants from which SSM probably denies all names: more than one batch.
const ALL_DENIED: usize = BATCH + 2;
/// Base of the sweep's pause after failed calls; it doubles with each one.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Maximum pause of the sweep.
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// Wake-up interval if nothing is due.
const IDLE: Duration = Duration::from_secs(3600);
/// Random share of an interval.
const JITTER: f64 = 0.2;
/// Time limit of a call for a lookup. Three calls fit into the time of a review.
const LOOKUP: Duration = Duration::from_millis(900);
/// Maximum number of running calls.
const MOST_AT_ONCE: usize = 8;
/// Time limit of a call of the sweep, for which no review waits.
const SWEEP: Duration = Duration::from_secs(5);
/// First pause of a throttled lookup. It doubles up to four times this value, so that a review
/// still gets its role if SSM stops throttling 0.5 s before the review's deadline.
const THROTTLED_FIRST: Duration = Duration::from_millis(100);
/// Maximum time until the sweep reads a tenant's role again after a failed call.
const UNANSWERED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(count: usize) -> Vec<TenantName> {
        (0..count).map(|n| format!("t{n}").parse().unwrap()).collect()
    }

    fn schedule(tenants: &[TenantName], now: Instant) -> Schedule {
        let mut schedule = Schedule::new(10, Duration::from_secs(300), now);
        tenants.iter().for_each(|tenant| schedule.add(tenant, now));
        schedule
    }

    #[tokio::test]
    async fn a_lookup_starts_before_the_sweep() {
        let (now, tenants) = (Instant::now(), tenants(BATCH + 1));
        let mut schedule = schedule(&tenants[..BATCH], now);
        schedule.look_up(tenants[BATCH].clone());
        let first = schedule.next_call(0, now, |_| false).unwrap();
        assert_eq!((&first.tenants[0], first.time_limit), (&tenants[BATCH], LOOKUP));
        assert_eq!(first.tenants.len(), BATCH, "filled with tenants that are due");
        let second = schedule.next_call(0, now, |_| false).unwrap();
        assert_eq!((second.tenants.len(), second.time_limit), (1, SWEEP));
    }

    #[tokio::test]
    async fn calls_of_one_kind_keep_their_distance() {
        let (now, tenants) = (Instant::now(), tenants(2 * BATCH));
        let mut schedule = schedule(&tenants, now);
        assert!(schedule.next_call(0, now, |_| false).is_ok());
        let later = schedule.next_call(0, now, |_| false).unwrap_err();
        // Half of ten calls per second.
        assert_eq!(later - now, Duration::from_millis(200));
        assert!(schedule.next_call(0, later, |_| false).is_ok());
    }

    #[tokio::test]
    async fn only_cached_tenants_are_read_early() {
        let (now, tenants) = (Instant::now(), tenants(3));
        let mut schedule = schedule(&tenants[..1], now);
        tenants[1..].iter().for_each(|tenant| schedule.retry(tenant.clone(), now));
        let call = schedule.next_call(0, now, |tenant| *tenant == tenants[2]).unwrap();
        assert_eq!(call.tenants, [tenants[0].clone(), tenants[2].clone()]);
    }

    #[tokio::test]
    async fn a_tenant_of_a_refused_batch_is_read_alone() {
        let (now, tenants) = (Instant::now(), tenants(3));
        let mut schedule = schedule(&tenants, now);
        let refused = schedule.next_call(0, now, |_| false).unwrap();
        for tenant in schedule.end(refused, true) {
            schedule.read_alone(tenant, false, now);
        }
        for at in 1..=3 {
            let call = schedule.next_call(0, now + at * Duration::from_secs(1), |_| true).unwrap();
            assert_eq!(call.tenants.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_failed_sweep_call_leaves_a_lookup_its_result() {
        let (now, tenants) = (Instant::now(), tenants(2));
        let mut schedule = schedule(&tenants, now);
        let sweep = schedule.next_call(0, now, |_| false).unwrap();
        schedule.look_up(tenants[0].clone());
        let lookup = schedule.next_call(0, now, |_| false).unwrap();
        assert_eq!(schedule.end(sweep, true), [tenants[1].clone()]);
        assert_eq!(schedule.end(lookup, true), [tenants[0].clone()]);
    }
}
