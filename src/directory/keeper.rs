//! Keeps the directory's snapshot fresh, at a steady and bounded rate of calls.
//!
//! One task owns all state. Tenants of opted-in namespaces are asked for in batches, ahead
//! of their first pod and again before they grow old. A review that finds its tenant missing
//! joins the one call for it, which goes before the sweep. While nobody answers, what is
//! known is served until it is stale.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Cause, Directory, Role, Source, Unusable};
use crate::{
    config::{Allowed, Ssm},
    session::TenantName,
};

/// Where role ARNs are published. One call, no retries of its own.
pub trait Publisher: Send + Sync + 'static {
    /// Answers for each name, in the order of `names` (at most [`BATCH`]).
    fn ask(
        &self,
        names: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Published>, Failure>> + Send;
}

/// What stands under one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Published {
    Absent,
    /// Any type but String and SecureString.
    OtherType,
    SecureString,
    Text(String),
}

/// Why a call answered for none of its names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// One of the names is none; the others may be asked without it.
    Names,
    Unreachable(Cause),
}

/// What the webhook's requests see of the keeper.
#[derive(Clone, Debug)]
pub struct Handle {
    snapshot: Arc<ArcSwap<Directory>>,
    lookups: mpsc::Sender<(TenantName, oneshot::Sender<()>)>,
    calls: Arc<Calls>,
}

/// How often the publisher was called, by outcome.
#[derive(Debug, Default)]
pub struct Calls([AtomicU64; OUTCOMES.len()]);

/// Roles that stand in while the publisher cannot be asked.
pub type Backup = Arc<ArcSwap<HashMap<TenantName, Arc<Role>>>>;

/// Starts the keeper. It ends when the last handle and the sender of `wanted` are gone.
pub fn start<P: Publisher>(
    publisher: P,
    ssm: Ssm,
    allowed: Allowed,
    backup: Backup,
    wanted: watch::Receiver<HashSet<TenantName>>,
) -> Handle {
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
        waiting: HashMap::new(),
        urgent: VecDeque::new(),
        in_flight: HashSet::new(),
        running: JoinSet::new(),
        sweep: Pace::new(ssm.calls_per_second, now),
        lookup: Pace::new(ssm.calls_per_second, now),
        failures: 0,
        ssm,
    };
    tokio::spawn(keeper.run(wanted, requests));
    Handle { snapshot, lookups, calls }
}

impl Handle {
    /// A snapshot that never changes, of files or tests.
    pub fn fixed(snapshot: Arc<ArcSwap<Directory>>) -> Self {
        Self { snapshot, lookups: mpsc::channel(1).0, calls: Arc::default() }
    }

    pub fn snapshot(&self) -> Arc<Directory> {
        self.snapshot.load_full()
    }

    /// Returns when the tenant was asked for, whatever came of it: the snapshot says what.
    pub async fn look_up(&self, tenant: TenantName) {
        let (answered, answer) = oneshot::channel();
        if self.lookups.send((tenant, answered)).await.is_ok() {
            // The keeper lives as long as its handles; and an answer that is lost shows as
            // a tenant that is still missing.
            let _ = answer.await;
        }
    }

    /// Calls so far, by outcome: `ok`, `names`, or a [`Cause`].
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES
            .iter()
            .zip(&self.calls.0)
            .map(|(outcome, count)| (*outcome, count.load(Ordering::Relaxed)))
    }
}

struct Keeper<P> {
    publisher: Arc<P>,
    ssm: Ssm,
    allowed: Allowed,
    backup: Backup,
    snapshot: Arc<ArcSwap<Directory>>,
    calls: Arc<Calls>,
    known: HashMap<TenantName, Known>,
    due: Agenda,
    /// Reviews that wait for a tenant.
    waiting: HashMap<TenantName, Waiting>,
    /// Tenants that reviews wait for and that no call is under way for.
    urgent: VecDeque<TenantName>,
    in_flight: HashSet<TenantName>,
    running: JoinSet<(Vec<TenantName>, Result<Vec<Published>, Failure>)>,
    sweep: Pace,
    lookup: Pace,
    /// How many calls in a row got no answer.
    failures: u32,
}

struct Known {
    role: Arc<Role>,
    /// When the publisher said so.
    since: Instant,
}

#[derive(Default)]
struct Waiting {
    reviews: Vec<oneshot::Sender<()>>,
    attempts: u32,
}

impl<P: Publisher> Keeper<P> {
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
                Some(Ok((tenants, answer))) = self.running.join_next() => {
                    self.absorb(tenants, answer, Instant::now());
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// The tenants of the opted-in namespaces, from now on.
    fn want(&mut self, tenants: &HashSet<TenantName>, now: Instant) {
        for tenant in tenants.iter().filter(|tenant| !self.known.contains_key(*tenant)) {
            if !self.due.has(tenant) && !self.in_flight.contains(tenant) {
                self.due.put(tenant.clone(), now);
            }
        }
        self.due.retain(|tenant| tenants.contains(tenant));
        self.known.retain(|tenant, _| tenants.contains(tenant));
        self.publish();
    }

    fn wait(&mut self, tenant: TenantName, review: oneshot::Sender<()>) {
        let waiting = self.waiting.entry(tenant.clone()).or_default();
        waiting.reviews.push(review);
        if waiting.reviews.len() == 1 && !self.in_flight.contains(&tenant) {
            self.urgent.push_back(tenant);
        }
    }

    /// Starts what may start now, and says when there may be more.
    fn start_calls(&mut self, now: Instant) -> Instant {
        let mut wake = now + IDLE;
        while !self.urgent.is_empty() {
            if self.running.len() >= MOST_AT_ONCE {
                break;
            }
            if let Err(later) = self.lookup.take(now) {
                wake = wake.min(later);
                break;
            }
            let count = self.urgent.len().min(BATCH);
            let mut batch: Vec<TenantName> = self.urgent.drain(..count).collect();
            self.fill(&mut batch, now);
            self.call(batch);
        }
        while let Some(first) = self.due.first() {
            if first > now {
                wake = wake.min(first);
                break;
            }
            // The sweep leaves room for reviews at all times.
            if self.running.len() >= MOST_AT_ONCE / 2 {
                break;
            }
            let mut batch = Vec::with_capacity(BATCH);
            if !self.next_is_a_call(now) {
                continue;
            }
            if let Err(later) = self.sweep.take(now) {
                wake = wake.min(later);
                break;
            }
            self.fill(&mut batch, now);
            self.call(batch);
        }
        wake
    }

    /// Whether the first that is due is to be asked for. What was believed for a short time
    /// only is forgotten instead, and asked for by the next review, or in due course.
    fn next_is_a_call(&mut self, now: Instant) -> bool {
        let Some(tenant) = self.due.first_tenant() else { return false };
        match self.known.get(&tenant).map(|known| Arc::clone(&known.role)).as_deref() {
            None | Some(Role::Known(_)) => true,
            Some(Role::NotFound | Role::Unreachable(_) | Role::Unusable(_)) => {
                self.known.remove(&tenant);
                self.due.put(tenant, now + jittered(self.ssm.refresh));
                self.publish();
                false
            }
        }
    }

    /// Takes what is due along, up to a full batch: a call costs the same for one name or ten.
    fn fill(&mut self, batch: &mut Vec<TenantName>, now: Instant) {
        while batch.len() < BATCH && self.due.first().is_some_and(|first| first <= now) {
            if !self.next_is_a_call(now) {
                continue;
            }
            let Some(tenant) = self.due.pop() else { return };
            if !batch.contains(&tenant) {
                batch.push(tenant);
            }
        }
    }

    fn call(&mut self, tenants: Vec<TenantName>) {
        for tenant in &tenants {
            self.due.remove(tenant);
            self.in_flight.insert(tenant.clone());
        }
        let publisher = Arc::clone(&self.publisher);
        let names = tenants.iter().map(|tenant| self.ssm.parameter.of(tenant)).collect();
        self.running.spawn(async move {
            let answer = publisher.ask(names).await;
            (tenants, answer)
        });
    }

    fn absorb(
        &mut self,
        tenants: Vec<TenantName>,
        answer: Result<Vec<Published>, Failure>,
        now: Instant,
    ) {
        self.calls.count(&answer);
        for tenant in &tenants {
            self.in_flight.remove(tenant);
        }
        match answer {
            Ok(published) => {
                self.answered();
                for (tenant, published) in tenants.into_iter().zip(published) {
                    let role = judge(&published, &self.allowed);
                    self.learn(tenant, role, now);
                }
            }
            // One by one, the good names get their answer.
            Err(Failure::Names) if tenants.len() > 1 => {
                self.answered();
                for tenant in tenants {
                    self.call(vec![tenant]);
                }
            }
            Err(Failure::Names) => {
                for tenant in tenants {
                    self.learn(tenant, Role::Unreachable(Cause::Failed), now);
                }
            }
            Err(Failure::Unreachable(cause)) => self.missed(tenants, cause, now),
        }
        self.publish();
        self.release();
    }

    fn answered(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "SSM answers again");
            self.failures = 0;
        }
    }

    fn learn(&mut self, tenant: TenantName, role: Role, now: Instant) {
        let again = match &role {
            Role::Known(_) => jittered(self.ssm.refresh),
            Role::NotFound | Role::Unusable(_) => self.ssm.negative,
            Role::Unreachable(_) => UNREACHABLE,
        };
        let before = self.known.get(&tenant).map(|known| Arc::clone(&known.role));
        if before.as_deref() != Some(&role) {
            match &role {
                Role::Known(role) => tracing::info!(%tenant, %role, "role of tenant"),
                Role::NotFound => tracing::warn!(%tenant, "no role is published for tenant"),
                Role::Unusable(_) => {
                    tracing::warn!(%tenant, "the role published for tenant is not usable")
                }
                Role::Unreachable(cause) => {
                    tracing::warn!(%tenant, %cause, "role of tenant cannot be read")
                }
            }
        }
        self.known.insert(tenant.clone(), Known { role: Arc::new(role), since: now });
        self.due.put(tenant, now + again);
    }

    /// Nobody answered: what is known stays until it is stale, and the sweep slows down.
    fn missed(&mut self, tenants: Vec<TenantName>, cause: Cause, now: Instant) {
        if self.failures == 0 {
            tracing::warn!(%cause, "SSM does not answer; serving what is known");
        }
        self.failures = self.failures.saturating_add(1);
        let longest = BACKOFF_MOST.min(BACKOFF_FIRST * 2_u32.saturating_pow(self.failures.min(16)));
        self.sweep.pause(now + longest.mul_f64(fastrand::f64()));
        for tenant in tenants {
            let retry = now + jittered(BACKOFF_FIRST);
            match self.known.get(&tenant) {
                Some(Known { role, since })
                    if matches!(**role, Role::Known(_)) && now < *since + self.ssm.stale =>
                {
                    self.due.put(tenant, retry);
                }
                _ => match self.backup.load().get(&tenant) {
                    Some(role) => {
                        self.known
                            .insert(tenant.clone(), Known { role: Arc::clone(role), since: now });
                        self.due.put(tenant, now + BACKUP);
                    }
                    None => self.retry_or_give_up(tenant, cause, now),
                },
            }
        }
    }

    /// While a review still waits, one lost call is tried again; its deadline bounds it.
    fn retry_or_give_up(&mut self, tenant: TenantName, cause: Cause, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&tenant) {
            waiting.attempts += 1;
            waiting.reviews.retain(|review| !review.is_closed());
            if waiting.attempts < ATTEMPTS && !waiting.reviews.is_empty() && cause != Cause::Denied
            {
                self.urgent.push_back(tenant);
                return;
            }
        }
        self.learn(tenant, Role::Unreachable(cause), now);
    }

    /// Wakes the reviews whose tenant has an answer.
    fn release(&mut self) {
        let known = &self.known;
        self.waiting.retain(|tenant, waiting| {
            if !known.contains_key(tenant) {
                return true;
            }
            for review in waiting.reviews.drain(..) {
                // A review whose deadline came first no longer listens.
                let _ = review.send(());
            }
            false
        });
    }

    fn publish(&self) {
        let roles =
            self.known.iter().map(|(tenant, known)| (tenant.clone(), Arc::clone(&known.role)));
        self.snapshot.store(Arc::new(Directory::new(
            Source::Ssm(self.ssm.parameter.clone()),
            roles.collect(),
        )));
    }
}

impl Calls {
    fn count(&self, answer: &Result<Vec<Published>, Failure>) {
        let outcome = match answer {
            Ok(_) => "ok",
            Err(Failure::Names) => "names",
            Err(Failure::Unreachable(cause)) => cause.as_str(),
        };
        if let Some((_, count)) = OUTCOMES.iter().zip(&self.0).find(|(name, _)| **name == outcome) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// When which tenant is next to be asked for; each tenant stands in it once.
#[derive(Default)]
struct Agenda {
    order: BTreeSet<(Instant, TenantName)>,
    times: HashMap<TenantName, Instant>,
}

impl Agenda {
    fn put(&mut self, tenant: TenantName, at: Instant) {
        self.remove(&tenant);
        self.order.insert((at, tenant.clone()));
        self.times.insert(tenant, at);
    }

    fn remove(&mut self, tenant: &TenantName) {
        if let Some(at) = self.times.remove(tenant) {
            self.order.remove(&(at, tenant.clone()));
        }
    }

    fn pop(&mut self) -> Option<TenantName> {
        let (_, tenant) = self.order.pop_first()?;
        self.times.remove(&tenant);
        Some(tenant)
    }

    fn first(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }

    fn first_tenant(&self) -> Option<TenantName> {
        self.order.first().map(|(_, tenant)| tenant.clone())
    }

    fn has(&self, tenant: &TenantName) -> bool {
        self.times.contains_key(tenant)
    }

    fn retain(&mut self, keep: impl Fn(&TenantName) -> bool) {
        self.order.retain(|(_, tenant)| keep(tenant));
        self.times.retain(|tenant, _| keep(tenant));
    }
}

/// At most so many calls a second, evenly.
struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), next: now }
    }

    /// Err: when to ask again.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if now < self.next {
            return Err(self.next);
        }
        self.next = now + self.interval;
        Ok(())
    }

    fn pause(&mut self, until: Instant) {
        self.next = self.next.max(until);
    }
}

fn judge(published: &Published, allowed: &Allowed) -> Role {
    match published {
        Published::Absent => Role::NotFound,
        Published::OtherType => Role::Unusable(Unusable::WrongType),
        Published::SecureString => Role::Unusable(Unusable::SecureString),
        Published::Text(text) => Role::judge(text, allowed),
    }
}

/// Between four fifths of the time and all of it, so that what was learnt together is not
/// asked for together.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(fastrand::f64().mul_add(0.2, 0.8))
}

/// How many names GetParameters takes.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html>
pub const BATCH: usize = 10;
/// How often a review's own lookup is tried; see the attempt's time-out in `ssm`.
const ATTEMPTS: u32 = 3;
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// How soon SSM is asked again for a tenant that the backup file answers for.
const BACKUP: Duration = Duration::from_secs(5);
/// Longer than anything in the agenda matters.
const IDLE: Duration = Duration::from_secs(3600);
const MOST_AT_ONCE: usize = 8;
/// How long "cannot be read" is believed: about as long as a client waits before it retries.
const UNREACHABLE: Duration = Duration::from_secs(1);
const OUTCOMES: [&str; 6] = ["ok", "names", "access denied", "an error", "no answer", "throttled"];
