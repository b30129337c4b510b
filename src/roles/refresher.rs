//! Keeps the snapshot of roles fresh, with a steady and limited rate of calls.
//!
//! One task owns all state. It reads the roles of all opted-in namespaces in batches, before their
//! first pod, and again before they become stale (the sweep). A review whose tenant is not cached
//! causes a lookup, which takes precedence over the sweep; reviews of one tenant share it. While
//! the publisher cannot be reached, cached roles are served until they are stale.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{Cause, Directory, Entry, Role, Source, Unusable, agenda::Agenda, pace::Pace};
use crate::{
    config::{Allowed, Ssm},
    session::TenantName,
};

/// A service that publishes role ARNs.
pub trait Publisher: Send + Sync + 'static {
    /// Reads the values of `names` ([`BATCH`] at most) with one call and without retries. Returns
    /// them in the order of `names`.
    fn ask(
        &self,
        names: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Published>, Failure>> + Send;
}

/// The value of one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Published {
    /// The name does not exist.
    Absent,
    /// A type other than String and SecureString.
    OtherType,
    SecureString,
    /// A String.
    Text(String),
}

/// Why a call returned no values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// One of the names is not a valid parameter name.
    Names,
    /// The publisher returned an error, or no response.
    Unreachable { cause: Cause, detail: String },
}

/// Access of reviews to the roles.
#[derive(Clone, Debug)]
pub struct Handle {
    snapshot: Arc<ArcSwap<Directory>>,
    lookups: mpsc::Sender<(TenantName, oneshot::Sender<()>)>,
    calls: Arc<Calls>,
}

/// Number of calls to the publisher, by outcome.
#[derive(Debug, Default)]
pub struct Calls([AtomicU64; OUTCOMES.len()]);

/// Roles that are served while the publisher cannot be reached.
pub type Backup = Arc<ArcSwap<HashMap<TenantName, Entry>>>;

/// Returns access to the roles, and the task that keeps them fresh, which the caller must run. The
/// task ends when the last handle or the sender of `wanted` is dropped.
pub fn start<P: Publisher>(
    publisher: P,
    ssm: Ssm,
    allowed: Allowed,
    backup: Backup,
    wanted: watch::Receiver<HashSet<TenantName>>,
) -> (Handle, impl Future<Output = ()> + Send) {
    let snapshot = Arc::new(ArcSwap::from_pointee(Directory::new(
        Source::Ssm(ssm.parameter.clone()),
        HashMap::new(),
    )));
    let (lookups, requests) = mpsc::channel(1024);
    let calls = Arc::new(Calls::default());
    let now = Instant::now();
    let keeper = Keeper {
        publisher: Arc::new(publisher),
        allowed,
        backup,
        snapshot: Arc::clone(&snapshot),
        calls: Arc::clone(&calls),
        known: HashMap::new(),
        due: Agenda::default(),
        doubt: Agenda::default(),
        waiting: HashMap::new(),
        urgent: VecDeque::new(),
        throttled: Agenda::default(),
        in_flight: HashMap::new(),
        running: JoinSet::new(),
        alone: HashSet::new(),
        sweep: Pace::new(ssm.calls_per_second, now),
        lookup: Pace::new(ssm.calls_per_second, now),
        failures: 0,
        denied: HashSet::new(),
        ssm,
    };
    (Handle { snapshot, lookups, calls }, keeper.run(wanted, requests))
}

impl Handle {
    /// Returns access to a snapshot that needs no lookups, for role files and tests.
    pub fn fixed(snapshot: Arc<ArcSwap<Directory>>) -> Self {
        Self { snapshot, lookups: mpsc::channel(1).0, calls: Arc::default() }
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> Arc<Directory> {
        self.snapshot.load_full()
    }

    /// Looks up the tenant's role. Returns after the lookup; the snapshot then has the result.
    pub async fn look_up(&self, tenant: TenantName) {
        let (answered, answer) = oneshot::channel();
        if self.lookups.send((tenant, answered)).await.is_ok() {
            // The task lives as long as its handles. If a result is lost, the snapshot still lacks
            // the tenant.
            let _ = answer.await;
        }
    }

    /// Returns the number of calls by outcome.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES
            .iter()
            .zip(&self.calls.0)
            .map(|(outcome, count)| (*outcome, count.load(Ordering::Relaxed)))
    }
}

/// State of the task.
struct Keeper<P> {
    publisher: Arc<P>,
    ssm: Ssm,
    allowed: Allowed,
    backup: Backup,
    snapshot: Arc<ArcSwap<Directory>>,
    calls: Arc<Calls>,
    known: HashMap<TenantName, Entry>,
    /// When the sweep reads each tenant's role next.
    due: Agenda,
    /// When a result that is cached for a short time expires.
    doubt: Agenda,
    /// Reviews that wait for a tenant's role.
    waiting: HashMap<TenantName, Waiting>,
    /// Tenants that reviews wait for and that are in no running call.
    urgent: VecDeque<TenantName>,
    /// When to retry tenants that reviews wait for and whose last call SSM throttled.
    throttled: Agenda,
    /// Tenants of the running calls, with the time limit of the call.
    in_flight: HashMap<TenantName, Duration>,
    running: JoinSet<Answered>,
    /// Tenants that were in a refused batch: each is read by a call of its own.
    alone: HashSet<TenantName>,
    sweep: Pace,
    lookup: Pace,
    /// Number of failed calls in a row.
    failures: u32,
    /// Tenants whose own call was denied since the last successful call.
    denied: HashSet<TenantName>,
}

/// A finished call.
struct Answered {
    tenants: Vec<TenantName>,
    /// The time limit of the call.
    patience: Duration,
    answer: Result<Vec<Published>, Failure>,
}

/// The reviews that wait for one tenant.
#[derive(Default)]
struct Waiting {
    reviews: Vec<oneshot::Sender<()>>,
    attempts: u32,
}

impl<P: Publisher> Keeper<P> {
    /// Runs the task.
    async fn run(
        mut self,
        mut wanted: watch::Receiver<HashSet<TenantName>>,
        mut requests: mpsc::Receiver<(TenantName, oneshot::Sender<()>)>,
    ) {
        let tenants = wanted.borrow_and_update().clone();
        self.want(&tenants, Instant::now());
        loop {
            let wake = self.start_calls(Instant::now());
            tokio::select! {
                request = requests.recv() => match request {
                    Some((tenant, review)) => self.wait(tenant, review),
                    None => return,
                },
                changed = wanted.changed() => match changed {
                    Ok(()) => {
                        let tenants = wanted.borrow_and_update().clone();
                        self.want(&tenants, Instant::now());
                    }
                    Err(_) => return,
                },
                Some(Ok(Answered { tenants, patience, answer })) = self.running.join_next() => {
                    let several = tenants.len() > 1;
                    let tenants = self.land(tenants, patience, &answer);
                    self.absorb(tenants, several, answer, Instant::now());
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Sets the tenants of the opted-in namespaces. Drops the roles of all others.
    fn want(&mut self, tenants: &HashSet<TenantName>, now: Instant) {
        for tenant in tenants.iter().filter(|tenant| !self.known.contains_key(*tenant)) {
            if !self.due.has(tenant) && !self.in_flight.contains_key(tenant) {
                self.due.put(tenant.clone(), now);
            }
        }
        self.due.retain(|tenant| tenants.contains(tenant));
        self.doubt.retain(|tenant| tenants.contains(tenant));
        self.known.retain(|tenant, _| tenants.contains(tenant));
        self.alone.retain(|tenant| tenants.contains(tenant));
        self.publish();
    }

    /// Adds a review that waits for the tenant, and starts a lookup if none is running.
    fn wait(&mut self, tenant: TenantName, review: oneshot::Sender<()>) {
        if self.known.get(&tenant).is_some_and(|known| known.believed) {
            // A review whose deadline has passed no longer waits.
            let _ = review.send(());
            return;
        }
        let waiting = self.waiting.entry(tenant.clone()).or_default();
        waiting.reviews.push(review);
        // A call of the sweep may take longer than a review, so the review does not wait for it.
        let in_flight = self.in_flight.get(&tenant);
        if in_flight.is_none_or(|patience| *patience > LOOKUP)
            && !self.urgent.contains(&tenant)
            && !self.throttled.has(&tenant)
        {
            self.urgent.push_back(tenant);
        }
    }

    /// Expires the results that are cached for a short time.
    fn forget(&mut self, now: Instant) {
        let mut changed = false;
        while let Some(tenant) = self.doubt.pop_until(now) {
            if let Some(known) = self.known.get_mut(&tenant) {
                known.believed = false;
                changed = true;
            }
        }
        if changed {
            self.publish();
        }
    }

    /// Starts the calls that may start now. Returns when the next ones may start.
    fn start_calls(&mut self, now: Instant) -> Instant {
        self.forget(now);
        while let Some(tenant) = self.throttled.pop_until(now) {
            self.urgent.push_back(tenant);
        }
        let mut wake = now + IDLE;
        for first in [self.doubt.first(), self.throttled.first()].into_iter().flatten() {
            wake = wake.min(first);
        }
        while !self.urgent.is_empty() {
            if self.running.len() >= MOST_AT_ONCE {
                break;
            }
            if let Err(later) = self.lookup.take(now) {
                wake = wake.min(later);
                break;
            }
            let mut batch = self.urgent_batch();
            self.fill(&mut batch, now);
            self.call(batch, LOOKUP);
        }
        while let Some(first) = self.due.first() {
            if first > now {
                wake = wake.min(first);
                break;
            }
            // The other half of the calls is reserved for lookups.
            if self.running.len() >= MOST_AT_ONCE / 2 {
                break;
            }
            let mut batch = Vec::with_capacity(BATCH);
            if let Err(later) = self.sweep.take(now) {
                wake = wake.min(later);
                break;
            }
            self.fill(&mut batch, now);
            self.call(batch, SWEEP);
        }
        wake
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
    fn fill(&mut self, batch: &mut Vec<TenantName>, now: Instant) {
        if batch.is_empty() {
            batch.extend(self.due.first_tenant());
        }
        let alone = batch.first().is_some_and(|first| self.alone.contains(first));
        if alone || self.is_all_denied() {
            return;
        }
        let soon = self.due.until(now + self.ssm.refresh.mul_f64(JITTER)).filter(|(at, tenant)| {
            let ahead = || {
                self.known.get(tenant).is_some_and(|known| matches!(*known.role, Role::Known(_)))
            };
            !self.alone.contains(tenant) && !batch.contains(tenant) && (*at <= now || ahead())
        });
        let along: Vec<TenantName> =
            soon.map(|(_, tenant)| tenant.clone()).take(BATCH - batch.len()).collect();
        batch.extend(along);
    }

    /// Starts a call for the tenants, with a time limit.
    fn call(&mut self, tenants: Vec<TenantName>, patience: Duration) {
        for tenant in &tenants {
            self.due.remove(tenant);
            self.in_flight.insert(tenant.clone(), patience);
        }
        self.urgent.retain(|waiting| !tenants.contains(waiting));
        let publisher = Arc::clone(&self.publisher);
        let names = tenants.iter().map(|tenant| self.ssm.parameter.of(tenant)).collect();
        self.running.spawn(async move {
            let asked = AssertUnwindSafe(publisher.ask(names)).catch_unwind();
            let failure = |cause, detail: &str| {
                Err(Failure::Unreachable { cause, detail: detail.to_owned() })
            };
            let answer = match timeout(patience, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => failure(Cause::Failed, "a panic"),
                Err(_) => failure(Cause::NoAnswer, "no answer in time"),
            };
            Answered { tenants, patience, answer }
        });
    }

    /// Removes a finished call from the running ones. Returns the tenants that its result concerns.
    /// If a failed call was one of the sweep, it does not concern tenants that a lookup is reading
    /// now: the result of the lookup counts.
    fn land(
        &mut self,
        mut tenants: Vec<TenantName>,
        patience: Duration,
        answer: &Result<Vec<Published>, Failure>,
    ) -> Vec<TenantName> {
        for tenant in &tenants {
            if self.in_flight.get(tenant) == Some(&patience) {
                self.in_flight.remove(tenant);
            }
        }
        if answer.is_err() {
            tenants.retain(|tenant| !self.in_flight.contains_key(tenant));
        }
        tenants
    }

    /// Stores the result of a call. `several`: the call had more than one name.
    fn absorb(
        &mut self,
        tenants: Vec<TenantName>,
        several: bool,
        answer: Result<Vec<Published>, Failure>,
        now: Instant,
    ) {
        self.calls.count(&answer);
        match answer {
            Ok(published) => {
                self.answered();
                self.denied.clear();
                for (tenant, published) in tenants.into_iter().zip(published) {
                    self.alone.remove(&tenant);
                    let role = judge(&published, &self.allowed);
                    self.learn(tenant, role, now);
                }
            }
            // AWS refuses the whole call if one name is invalid or denied. Each name is read
            // again by a call of its own.
            Err(Failure::Names | Failure::Unreachable { cause: Cause::Denied, .. }) if several => {
                self.ask_alone(tenants, now);
            }
            // Only this name is invalid, so the other tenants are not affected.
            Err(Failure::Names) => self.unanswered(tenants, Cause::Failed, now),
            Err(Failure::Unreachable { cause: Cause::Denied, detail }) => {
                for tenant in tenants.iter().filter(|tenant| !self.denied.contains(*tenant)) {
                    tracing::warn!(%tenant, detail, "access denied reading tenant role");
                }
                self.denied.extend(tenants.iter().cloned());
                if self.is_all_denied() {
                    self.alone.clear();
                    self.slow_down(Cause::Denied, &detail, now);
                } else {
                    self.answered();
                }
                self.unanswered(tenants, Cause::Denied, now);
            }
            Err(Failure::Unreachable { cause, detail }) => {
                self.slow_down(cause, &detail, now);
                self.unanswered(tenants, cause, now);
            }
        }
        self.publish();
        self.release();
    }

    /// Reports whether SSM probably denies all names. Then only calls with one name are made, until
    /// one succeeds.
    fn is_all_denied(&self) -> bool {
        self.denied.len() >= ALL_DENIED
    }

    /// Reads each tenant's role by a call of its own.
    fn ask_alone(&mut self, tenants: Vec<TenantName>, now: Instant) {
        for tenant in tenants {
            self.alone.insert(tenant.clone());
            if self.waiting.contains_key(&tenant) {
                self.urgent.push_back(tenant);
            } else {
                self.due.put(tenant, now);
            }
        }
    }

    /// Ends an outage.
    fn answered(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "reading roles from SSM again");
            self.failures = 0;
        }
    }

    /// Caches a result, logs it if it changed, and schedules the next read.
    fn learn(&mut self, tenant: TenantName, role: Role, now: Instant) {
        let (believed, again) = match &role {
            Role::Known(_) => (None, jittered(self.ssm.refresh)),
            Role::NotFound | Role::Unusable(_) => {
                (Some(self.ssm.negative), jittered(self.ssm.refresh))
            }
            Role::Unreachable(_) => (Some(UNREACHABLE), jittered(UNANSWERED)),
        };
        if self.known.get(&tenant).is_none_or(|known| *known.role != role) {
            match &role {
                Role::Known(role) => tracing::info!(%tenant, %role, "tenant role updated"),
                Role::NotFound => tracing::warn!(%tenant, "tenant role missing"),
                Role::Unusable(_) => tracing::warn!(%tenant, "tenant role invalid"),
                Role::Unreachable(cause) => {
                    tracing::warn!(%tenant, %cause, "cannot read tenant role")
                }
            }
        }
        self.remember(tenant.clone(), Entry { learnt: Some(now.into_std()), ..role.into() });
        self.due.put(tenant.clone(), now + again);
        if let Some(believed) = believed {
            self.doubt.put(tenant, now + believed);
        }
    }

    /// Caches an entry until it is replaced.
    fn remember(&mut self, tenant: TenantName, known: Entry) {
        self.doubt.remove(&tenant);
        self.known.insert(tenant, known);
    }

    /// Pauses the sweep after a failed call, longer each time.
    fn slow_down(&mut self, cause: Cause, detail: &str, now: Instant) {
        if self.failures == 0 {
            tracing::warn!(%cause, detail, "cannot read roles from SSM; serving cached roles");
        }
        self.failures = self.failures.saturating_add(1);
        let longest = BACKOFF_MOST.min(BACKOFF_FIRST * 2_u32.saturating_pow(self.failures.min(16)));
        self.sweep.pause(now + longest.mul_f64(fastrand::f64()));
    }

    /// Keeps the cached roles until they are stale. Then uses the backup, if it has the tenant.
    fn unanswered(&mut self, tenants: Vec<TenantName>, cause: Cause, now: Instant) {
        for tenant in tenants {
            let fresh = |known: &Entry| {
                matches!(*known.role, Role::Known(_))
                    && known.learnt.is_some_and(|learnt| now.into_std() < learnt + self.ssm.stale)
            };
            if self.known.get(&tenant).is_some_and(fresh) {
                self.due.put(tenant, now + jittered(UNANSWERED));
                continue;
            }
            let backup = self.backup.load().get(&tenant).cloned();
            match backup {
                Some(entry) => {
                    self.remember(tenant.clone(), entry);
                    self.due.put(tenant, now + jittered(UNANSWERED));
                }
                None => self.retry_or_give_up(tenant, cause, now),
            }
        }
    }

    /// Retries a failed lookup while a review still waits for it. The review's deadline limits the
    /// retries.
    fn retry_or_give_up(&mut self, tenant: TenantName, cause: Cause, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&tenant) {
            waiting.attempts += 1;
            waiting.reviews.retain(|review| !review.is_closed());
            if cause == Cause::Throttled
                && waiting.attempts < THROTTLED_ATTEMPTS
                && !waiting.reviews.is_empty()
            {
                // A random pause, so that the retries of many tenants do not coincide.
                let most = THROTTLED_FIRST * 2_u32.saturating_pow(waiting.attempts.min(3) - 1);
                self.throttled.put(tenant, now + most.mul_f64(0.5 + fastrand::f64() / 2.0));
                return;
            }
            if waiting.attempts < ATTEMPTS && !waiting.reviews.is_empty() && cause != Cause::Denied
            {
                self.urgent.push_back(tenant);
                return;
            }
        }
        self.learn(tenant, Role::Unreachable(cause), now);
    }

    /// Wakes the reviews whose tenant has a result.
    fn release(&mut self) {
        let known = &self.known;
        self.waiting.retain(|tenant, waiting| {
            if !known.get(tenant).is_some_and(|known| known.believed) {
                return true;
            }
            for review in waiting.reviews.drain(..) {
                // A review whose deadline has passed no longer waits.
                let _ = review.send(());
            }
            false
        });
    }

    /// Replaces the snapshot.
    fn publish(&self) {
        let source = Source::Ssm(self.ssm.parameter.clone());
        self.snapshot.store(Arc::new(Directory::new(source, self.known.clone())));
    }
}

impl Calls {
    fn count(&self, answer: &Result<Vec<Published>, Failure>) {
        let index = match answer {
            Ok(_) => 0,
            Err(Failure::Names) => 1,
            Err(Failure::Unreachable { cause: Cause::Denied, .. }) => 2,
            Err(Failure::Unreachable { cause: Cause::Failed, .. }) => 3,
            Err(Failure::Unreachable { cause: Cause::NoAnswer, .. }) => 4,
            Err(Failure::Unreachable { cause: Cause::NoCredentials, .. }) => 5,
            Err(Failure::Unreachable { cause: Cause::Throttled, .. }) => 6,
        };
        self.0[index].fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns the role that a value defines.
fn judge(published: &Published, allowed: &Allowed) -> Role {
    match published {
        Published::Absent => Role::NotFound,
        Published::OtherType => Role::Unusable(Unusable::WrongType),
        Published::SecureString => Role::Unusable(Unusable::SecureString),
        Published::Text(text) => Role::judge(text, allowed),
    }
}

/// Returns a random time from 80 % to 100 % of `time`, so that roles that were read together are
/// not read together again.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(1.0 - JITTER * fastrand::f64())
}

/// Maximum number of names of GetParameters.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html>
pub const BATCH: usize = 10;
/// Number of denied tenants from which SSM probably denies all names: more than one batch.
const ALL_DENIED: usize = BATCH + 2;
/// Maximum number of attempts of a lookup that gets no response or an error.
const ATTEMPTS: u32 = 3;
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
/// Maximum number of attempts of a throttled lookup. Even with the shortest pauses they take about
/// as long as a review has.
const THROTTLED_ATTEMPTS: u32 = 15;
/// First pause of a throttled lookup. It doubles up to four times this value, so that a review
/// still gets its role if SSM stops throttling 0.5 s before the review's deadline.
const THROTTLED_FIRST: Duration = Duration::from_millis(100);
/// Time limit of a call of the sweep, for which no review waits.
const SWEEP: Duration = Duration::from_secs(5);
/// Maximum time until the sweep reads a tenant's role again after a failed call.
const UNANSWERED: Duration = Duration::from_secs(5);
/// How long [`Role::Unreachable`] is cached: about as long as a client waits before it retries.
const UNREACHABLE: Duration = Duration::from_secs(1);
/// Outcomes, in the order of [`Calls::count`].
const OUTCOMES: [&str; 7] =
    ["ok", "invalid-name", "denied", "failed", "no-answer", "no-credentials", "throttled"];

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::sleep;

    use super::*;

    /// A stand-in for Parameter Store, for what moto lacks: delays, and the errors that AWS
    /// documents for invalid names, missing permissions and throttling.
    #[derive(Clone, Default)]
    struct Store(Arc<Mutex<Shelf>>);

    #[derive(Default)]
    struct Shelf {
        published: HashMap<String, Published>,
        /// Names for which IAM refuses the whole call.
        denied: HashSet<String>,
        /// Invalid names.
        illegal: HashSet<String>,
        failure: Option<Failure>,
        calls: Vec<(Instant, Vec<String>)>,
    }

    impl Publisher for Store {
        async fn ask(&self, names: Vec<String>) -> Result<Vec<Published>, Failure> {
            assert!(names.len() <= BATCH);
            self.0.lock().unwrap().calls.push((Instant::now(), names.clone()));
            sleep(Duration::from_millis(50)).await;
            let shelf = self.0.lock().unwrap();
            if let Some(failure) = &shelf.failure {
                return Err(failure.clone());
            }
            if names.iter().any(|name| shelf.illegal.contains(name)) {
                return Err(Failure::Names);
            }
            if names.iter().any(|name| shelf.denied.contains(name)) {
                return Err(unreachable(Cause::Denied));
            }
            Ok(names
                .iter()
                .map(|name| shelf.published.get(name).cloned().unwrap_or(Published::Absent))
                .collect())
        }
    }

    impl Store {
        fn publish(&self, tenant: &str, arn: &str) {
            self.0
                .lock()
                .unwrap()
                .published
                .insert(format!("/p/{tenant}"), Published::Text(arn.to_owned()));
        }

        fn fail(&self, failure: Option<Failure>) {
            self.0.lock().unwrap().failure = failure;
        }

        fn calls(&self) -> Vec<(Instant, Vec<String>)> {
            self.0.lock().unwrap().calls.clone()
        }
    }

    fn unreachable(cause: Cause) -> Failure {
        Failure::Unreachable { cause, detail: String::new() }
    }

    fn tenant(name: &str) -> TenantName {
        name.parse().unwrap()
    }

    fn arn(name: &str) -> String {
        format!("arn:aws:iam::111122223333:role/{name}")
    }

    fn ssm() -> Ssm {
        Ssm {
            parameter: "/p/{tenant}".parse().unwrap(),
            region: None,
            endpoint: None,
            calls_per_second: 10,
            refresh: Duration::from_secs(300),
            stale: Duration::from_secs(86_400),
            negative: Duration::from_secs(10),
        }
    }

    struct Kept {
        store: Store,
        handle: Handle,
        wanted: watch::Sender<HashSet<TenantName>>,
        backup: Backup,
    }

    fn keep(store: Store) -> Kept {
        let (wanted, wanting) = watch::channel(HashSet::new());
        let backup = Backup::default();
        let (handle, task) =
            start(store.clone(), ssm(), Allowed::default(), Arc::clone(&backup), wanting);
        tokio::spawn(task);
        Kept { store, handle, wanted, backup }
    }

    impl Kept {
        fn want(&self, tenants: impl IntoIterator<Item = String>) {
            self.wanted.send_replace(tenants.into_iter().map(|name| tenant(&name)).collect());
        }

        fn role(&self, name: &str) -> Option<Role> {
            self.handle.snapshot().role(&tenant(name)).cloned()
        }
    }

    /// Returns the time since SSM last returned the role. None: the role comes from a file.
    fn age(kept: &Kept) -> Option<Duration> {
        let snapshot = kept.handle.snapshot();
        let (_, entry) = snapshot.iter().next().unwrap();
        entry.learnt.map(|learnt| Instant::now().into_std() - learnt)
    }

    fn known(name: &str) -> Option<Role> {
        Some(Role::Known(arn(name).parse().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn roles_are_prefetched_in_batches_at_a_steady_rate() {
        let kept = keep(Store::default());
        let names: Vec<String> = (0..205).map(|n| format!("t{n}")).collect();
        for name in &names {
            kept.store.publish(name, &arn(name));
        }
        kept.want(names.clone());
        sleep(Duration::from_secs(10)).await;
        let calls = kept.store.calls();
        assert_eq!(calls.len(), 21);
        for pair in calls.windows(2) {
            assert!(
                pair[1].0 - pair[0].0 >= Duration::from_millis(190),
                "more than 5 calls per second"
            );
        }
        for name in &names {
            assert_eq!(kept.role(name), known(name));
        }
        // The batches are full again, although no two tenants are due at the same moment.
        sleep(Duration::from_secs(1200)).await;
        let refreshes = kept.store.calls().len() - calls.len();
        assert!((21 * 4..=21 * 6).contains(&refreshes), "{refreshes} calls in four refreshes");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_few_while_all_are_denied_and_recovery_is_quick() {
        let kept = keep(Store::default());
        let names: Vec<String> = (0..500).map(|n| format!("t{n}")).collect();
        for name in &names {
            kept.store.publish(name, &arn(name));
        }
        kept.store.fail(Some(unreachable(Cause::Denied)));
        kept.want(names.clone());
        sleep(Duration::from_secs(600)).await;
        let denied = kept.store.calls().len();
        // About 60 calls until ALL_DENIED is reached, then one after each pause, 15 s on average.
        assert!(denied < 150, "{denied} calls in ten minutes");
        kept.store.fail(None);
        sleep(Duration::from_secs(30 + 500 / 10 / 5 + 10)).await;
        for name in &names {
            assert_eq!(kept.role(name), known(name), "{name}");
        }
        let calls = kept.store.calls().len() - denied;
        assert!(calls < 80, "{calls} calls for 500 tenants");
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_lookup_is_retried_while_its_review_waits() {
        let kept = keep(Store::default());
        kept.store.publish("acme", &arn("acme"));
        kept.store.fail(Some(unreachable(Cause::Throttled)));
        let store = kept.store.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(2300)).await;
            store.fail(None);
        });
        let look = kept.handle.look_up(tenant("acme"));
        timeout(Duration::from_secs(3), look).await.unwrap();
        assert_eq!(kept.role("acme"), known("acme"));
        let calls = kept.store.calls().len();
        assert!((4..=14).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_takes_precedence_over_the_sweep() {
        let kept = keep(Store::default());
        kept.want((0..1000).map(|n| format!("t{n}")));
        sleep(Duration::from_secs(1)).await;
        kept.store.publish("late", &arn("late"));
        let before = Instant::now();
        kept.handle.look_up(tenant("late")).await;
        assert!(before.elapsed() < Duration::from_millis(500));
        assert_eq!(kept.role("late"), known("late"));
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_reviews_of_one_tenant_make_one_call() {
        let kept = keep(Store::default());
        kept.store.publish("acme", &arn("acme"));
        let lookups = (0..50).map(|_| kept.handle.look_up(tenant("acme")));
        futures_util::future::join_all(lookups).await;
        assert_eq!(kept.store.calls().len(), 1);
        assert_eq!(kept.role("acme"), known("acme"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_name_does_not_affect_the_others() {
        let kept = keep(Store::default());
        let names: Vec<String> = (0..10).map(|n| format!("t{n}")).collect();
        for name in &names {
            kept.store.publish(name, &arn(name));
        }
        kept.store.0.lock().unwrap().denied.insert("/p/t3".to_owned());
        kept.want(names.clone());
        sleep(Duration::from_secs(10)).await;
        for name in names.iter().filter(|name| *name != "t3") {
            assert_eq!(kept.role(name), known(name), "{name}");
        }
        let singles = kept.store.calls();
        assert!(singles[1..].iter().all(|(_, names)| names.len() == 1));
        // The denied tenant keeps its own call; the others share a call again.
        kept.store.0.lock().unwrap().calls.clear();
        sleep(Duration::from_secs(300)).await;
        let calls = kept.store.calls();
        assert!(
            calls.iter().all(|(_, names)| names.len() == 1 || !names.contains(&"/p/t3".to_owned())),
            "{calls:?}"
        );
        kept.handle.look_up(tenant("t3")).await;
        assert_eq!(kept.role("t3"), Some(Role::Unreachable(Cause::Denied)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_name_slows_no_other_and_keeps_its_cached_role() {
        for denied in [true, false] {
            let kept = keep(Store::default());
            let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
            for name in &names {
                kept.store.publish(name, &arn(name));
            }
            kept.want(names.clone());
            sleep(Duration::from_secs(5)).await;
            {
                let mut shelf = kept.store.0.lock().unwrap();
                if denied { &mut shelf.denied } else { &mut shelf.illegal }
                    .insert("/p/t3".to_owned());
            }
            for name in names.iter().filter(|name| *name != "t3") {
                kept.store.publish(name, &arn(&format!("{name}-new")));
            }
            sleep(Duration::from_secs(600)).await;
            for name in names.iter().filter(|name| *name != "t3") {
                assert_eq!(kept.role(name), known(&format!("{name}-new")), "{name}");
            }
            assert_eq!(kept.role("t3"), known("t3"), "served while it is fresh");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_result_is_cached_briefly_in_an_outage() {
        let kept = keep(Store::default());
        kept.store.fail(Some(unreachable(Cause::NoAnswer)));
        kept.want((0..100).map(|n| format!("t{n}")));
        sleep(Duration::from_secs(600)).await;
        kept.handle.look_up(tenant("t7")).await;
        assert_eq!(kept.role("t7"), Some(Role::Unreachable(Cause::NoAnswer)));
        kept.store.fail(None);
        kept.store.publish("t7", &arn("t7"));
        sleep(Duration::from_millis(1100)).await;
        kept.handle.look_up(tenant("t7")).await;
        assert_eq!(kept.role("t7"), known("t7"));
    }

    struct Hangs;

    impl Publisher for Hangs {
        async fn ask(&self, _: Vec<String>) -> Result<Vec<Published>, Failure> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_does_not_wait_for_a_hanging_sweep_call() {
        let (wanted, wanting) = watch::channel(HashSet::from([tenant("acme")]));
        let backup = Entry::from(Role::Known(arn("backup").parse().unwrap()));
        let backup = Arc::new(ArcSwap::from_pointee(HashMap::from([(tenant("acme"), backup)])));
        let (handle, task) = start(Hangs, ssm(), Allowed::default(), backup, wanting);
        tokio::spawn(task);
        sleep(Duration::from_millis(100)).await;
        timeout(Duration::from_secs(1), handle.look_up(tenant("acme"))).await.unwrap();
        assert_eq!(handle.snapshot().role(&tenant("acme")).cloned(), known("backup"));
        drop(wanted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_call_times_out() {
        let (_wanted, wanting) = watch::channel(HashSet::new());
        let (handle, task) = start(Hangs, ssm(), Allowed::default(), Backup::default(), wanting);
        tokio::spawn(task);
        let before = Instant::now();
        handle.look_up(tenant("acme")).await;
        assert!(before.elapsed() < Duration::from_secs(5));
        assert_eq!(
            handle.snapshot().role(&tenant("acme")),
            Some(&Role::Unreachable(Cause::NoAnswer))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cached_role_is_served_until_it_is_stale() {
        let kept = keep(Store::default());
        kept.store.publish("acme", &arn("acme"));
        kept.want(["acme".to_owned()]);
        sleep(Duration::from_secs(1)).await;
        kept.store.fail(Some(unreachable(Cause::Throttled)));
        sleep(Duration::from_secs(86_000)).await;
        assert_eq!(kept.role("acme"), known("acme"));
        assert!(age(&kept).unwrap() > Duration::from_secs(85_000), "age of the last response");
        let asked = kept.store.calls().len();
        assert!(asked < 86_000 / 5, "{asked} calls during the outage");
        sleep(Duration::from_secs(1000)).await;
        kept.handle.look_up(tenant("acme")).await;
        assert_eq!(kept.role("acme"), Some(Role::Unreachable(Cause::Throttled)));
        kept.store.fail(None);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(kept.role("acme"), known("acme"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_role_is_cached_for_a_while() {
        let kept = keep(Store::default());
        kept.want(["acme".to_owned()]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(kept.role("acme"), Some(Role::NotFound));
        kept.store.publish("acme", &arn("acme"));
        sleep(Duration::from_secs(8)).await;
        assert_eq!(kept.role("acme"), Some(Role::NotFound));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(kept.role("acme"), None, "the next review looks it up");
        assert_eq!(kept.handle.snapshot().iter().count(), 1, "still counted");
        kept.handle.look_up(tenant("acme")).await;
        assert_eq!(kept.role("acme"), known("acme"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_call_is_retried_while_a_review_waits() {
        let kept = keep(Store::default());
        kept.store.publish("acme", &arn("acme"));
        kept.store.fail(Some(unreachable(Cause::NoAnswer)));
        let store = kept.store.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(60)).await;
            store.fail(None);
        });
        kept.handle.look_up(tenant("acme")).await;
        assert_eq!(kept.role("acme"), known("acme"));
        assert_eq!(kept.store.calls().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_role_file_is_used_while_ssm_does_not_respond() {
        let kept = keep(Store::default());
        let role = |name: &str| {
            HashMap::from([(tenant("acme"), Entry::from(Role::Known(arn(name).parse().unwrap())))])
        };
        kept.backup.store(Arc::new(role("backup")));
        kept.store.fail(Some(unreachable(Cause::NoAnswer)));
        kept.want(["acme".to_owned()]);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(kept.role("acme"), known("backup"));
        assert_eq!(age(&kept), None);
        kept.backup.store(Arc::new(role("changed")));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(kept.role("acme"), known("changed"));
        kept.store.publish("acme", &arn("published"));
        kept.store.fail(None);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(kept.role("acme"), known("published"));
        assert!(age(&kept).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_without_a_namespace_is_forgotten() {
        let kept = keep(Store::default());
        kept.want(["acme".to_owned(), "beta".to_owned()]);
        sleep(Duration::from_secs(1)).await;
        kept.want(["beta".to_owned()]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(kept.role("acme"), None);
        assert_eq!(kept.handle.snapshot().iter().count(), 1);
        kept.store.0.lock().unwrap().calls.clear();
        sleep(Duration::from_secs(1000)).await;
        assert!(kept.store.calls().iter().all(|(_, names)| names == &["/p/beta".to_owned()]));
    }
}
