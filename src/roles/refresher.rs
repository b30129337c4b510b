//! Keeps the snapshot of roles fresh, with a steady and limited rate of calls.
//!
//! One task owns all state. It reads the roles of all opted-in namespaces in batches, before their
//! first pod, and again before they become stale (the sweep). A review whose tenant is not cached
//! causes a lookup, which takes precedence over the sweep; reviews of one tenant share it. While
//! the publisher cannot be reached, cached roles are served until they are stale.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Backup, Cause, Role, Roles, Unusable,
    cache::Cache,
    publisher::{Published, Publisher, ReadError},
    schedule::{Call, Schedule},
};
use crate::{
    config::{Allowed, ParameterTemplate, Ssm},
    session::TenantName,
};

/// Access of reviews to the roles.
#[derive(Clone, Debug)]
pub struct RolesHandle {
    snapshot: Arc<ArcSwap<Roles>>,
    lookups: mpsc::Sender<(TenantName, oneshot::Sender<()>)>,
    calls: Arc<Calls>,
}

/// Number of calls to the publisher, by outcome.
#[derive(Debug, Default)]
pub struct Calls([AtomicU64; OUTCOMES.len()]);

/// Returns access to the roles, and the task that keeps them fresh, which the caller must run. The
/// task ends when the last handle or the sender of `wanted` is dropped.
pub fn start<P: Publisher>(
    publisher: P,
    ssm: Ssm,
    allowed: Allowed,
    backup: Backup,
    wanted: watch::Receiver<HashSet<TenantName>>,
) -> (RolesHandle, impl Future<Output = ()> + Send) {
    let cache = Cache::new(&ssm, backup);
    let snapshot = Arc::new(ArcSwap::from_pointee(cache.roles()));
    let (lookups, requests) = mpsc::channel(1024);
    let calls = Arc::new(Calls::default());
    let refresher = Refresher {
        publisher: Arc::new(publisher),
        allowed,
        snapshot: Arc::clone(&snapshot),
        calls: Arc::clone(&calls),
        cache,
        schedule: Schedule::new(ssm.calls_per_second, ssm.refresh, Instant::now()),
        waiting: HashMap::new(),
        running: JoinSet::new(),
        parameter: ssm.parameter,
    };
    (RolesHandle { snapshot, lookups, calls }, refresher.run(wanted, requests))
}

impl RolesHandle {
    /// Returns access to a snapshot that needs no lookups, for role files and tests.
    pub fn fixed(snapshot: Arc<ArcSwap<Roles>>) -> Self {
        Self { snapshot, lookups: mpsc::channel(1).0, calls: Arc::default() }
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> Arc<Roles> {
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
struct Refresher<P> {
    publisher: Arc<P>,
    parameter: ParameterTemplate,
    allowed: Allowed,
    snapshot: Arc<ArcSwap<Roles>>,
    calls: Arc<Calls>,
    cache: Cache,
    schedule: Schedule,
    /// Reviews that wait for a tenant's role.
    waiting: HashMap<TenantName, Waiting>,
    running: JoinSet<(Call, CallResult)>,
}

type CallResult = Result<Vec<Published>, ReadError>;

/// The reviews that wait for one tenant.
#[derive(Default)]
struct Waiting {
    reviews: Vec<oneshot::Sender<()>>,
    attempts: u32,
}

impl<P: Publisher> Refresher<P> {
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
                Some(Ok((call, answer))) = self.running.join_next() => {
                    self.absorb(call, answer, Instant::now());
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Sets the tenants of the opted-in namespaces. Drops the roles of all others.
    fn want(&mut self, tenants: &HashSet<TenantName>, now: Instant) {
        for tenant in tenants.iter().filter(|tenant| !self.cache.has(tenant)) {
            self.schedule.add(tenant, now);
        }
        self.schedule.retain(tenants);
        self.cache.retain(|tenant| tenants.contains(tenant));
        self.publish();
    }

    /// Adds a review that waits for the tenant, and starts a lookup if none is running.
    fn wait(&mut self, tenant: TenantName, review: oneshot::Sender<()>) {
        if self.cache.is_fresh(&tenant) {
            // A review whose deadline has passed no longer waits.
            let _ = review.send(());
            return;
        }
        self.waiting.entry(tenant.clone()).or_default().reviews.push(review);
        self.schedule.look_up(tenant);
    }

    /// Starts the calls that may start now. Returns when the next ones may start.
    fn start_calls(&mut self, now: Instant) -> Instant {
        if self.cache.expire(now) {
            self.publish();
        }
        loop {
            let running = self.running.len();
            match self.schedule.next_call(running, now, |tenant| self.cache.has_role(tenant)) {
                Ok(call) => self.start(call),
                Err(wake) => return self.cache.next_expiry().map_or(wake, |at| wake.min(at)),
            }
        }
    }

    /// Starts a call, with its time limit.
    fn start(&mut self, call: Call) {
        let publisher = Arc::clone(&self.publisher);
        let names = call.tenants.iter().map(|tenant| self.parameter.of(tenant)).collect();
        self.running.spawn(async move {
            let asked = AssertUnwindSafe(publisher.ask(names)).catch_unwind();
            let failure = |cause, detail: &str| {
                Err(ReadError::Unreachable { cause, detail: detail.to_owned() })
            };
            let answer = match timeout(call.time_limit, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => failure(Cause::Failed, "a panic"),
                Err(_) => failure(Cause::NoAnswer, "no answer in time"),
            };
            (call, answer)
        });
    }

    /// Stores the result of a call.
    fn absorb(&mut self, call: Call, answer: CallResult, now: Instant) {
        self.calls.count(&answer);
        let several = call.tenants.len() > 1;
        let tenants = self.schedule.end(call, answer.is_err());
        match answer {
            Ok(published) => {
                report_recovery(self.schedule.succeeded(&tenants));
                for (tenant, published) in tenants.into_iter().zip(published) {
                    let role = role_of(&published, &self.allowed);
                    self.cache.learn(tenant.clone(), role, now);
                    self.schedule.refresh(tenant, now);
                }
            }
            // AWS refuses the whole call if one name is invalid or denied. Each name is read
            // again by a call of its own.
            Err(ReadError::Names | ReadError::Unreachable { cause: Cause::Denied, .. })
                if several =>
            {
                for tenant in tenants {
                    let is_waited_for = self.waiting.contains_key(&tenant);
                    self.schedule.read_alone(tenant, is_waited_for, now);
                }
            }
            // Only this name is invalid, so the other tenants are not affected.
            Err(ReadError::Names) => self.unanswered(tenants, Cause::Failed, now),
            Err(ReadError::Unreachable { cause: Cause::Denied, detail }) => {
                for tenant in &tenants {
                    if self.schedule.record_denied(tenant) {
                        tracing::warn!(%tenant, detail, "access denied reading tenant role");
                    }
                }
                if self.schedule.is_all_denied() {
                    self.slow_down(Cause::Denied, &detail, now);
                } else {
                    report_recovery(self.schedule.answered());
                }
                self.unanswered(tenants, Cause::Denied, now);
            }
            Err(ReadError::Unreachable { cause, detail }) => {
                self.slow_down(cause, &detail, now);
                self.unanswered(tenants, cause, now);
            }
        }
        self.publish();
        self.release();
    }

    /// Pauses the sweep after a failed call.
    fn slow_down(&mut self, cause: Cause, detail: &str, now: Instant) {
        if self.schedule.slow_down(now) {
            tracing::warn!(%cause, detail, "cannot read roles from SSM; serving cached roles");
        }
    }

    /// Keeps what is cached for the tenants of a failed call. Retries the others.
    fn unanswered(&mut self, tenants: Vec<TenantName>, cause: Cause, now: Instant) {
        for tenant in tenants {
            if self.cache.survives_failure(&tenant, now) {
                self.schedule.retry(tenant, now);
            } else {
                self.retry_or_give_up(tenant, cause, now);
            }
        }
    }

    /// Retries a failed lookup while a review still waits for it. The review's deadline limits the
    /// retries.
    fn retry_or_give_up(&mut self, tenant: TenantName, cause: Cause, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&tenant) {
            waiting.attempts += 1;
            waiting.reviews.retain(|review| !review.is_closed());
            let (attempts, is_waited_for) = (waiting.attempts, !waiting.reviews.is_empty());
            if cause == Cause::Throttled && attempts < THROTTLED_ATTEMPTS && is_waited_for {
                return self.schedule.look_up_later(tenant, attempts, now);
            }
            if attempts < ATTEMPTS && is_waited_for && cause != Cause::Denied {
                return self.schedule.look_up_again(tenant);
            }
        }
        self.cache.learn(tenant.clone(), Role::Unreachable(cause), now);
        self.schedule.retry(tenant, now);
    }

    /// Wakes the reviews whose tenant has a result.
    fn release(&mut self) {
        self.waiting.retain(|tenant, waiting| {
            if !self.cache.is_fresh(tenant) {
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
        self.snapshot.store(Arc::new(self.cache.roles()));
    }
}

/// Logs the end of an outage.
fn report_recovery(failures: u32) {
    if failures > 0 {
        tracing::info!(failures, "reading roles from SSM again");
    }
}

impl Calls {
    fn count(&self, answer: &Result<Vec<Published>, ReadError>) {
        let index = match answer {
            Ok(_) => 0,
            Err(ReadError::Names) => 1,
            Err(ReadError::Unreachable { cause: Cause::Denied, .. }) => 2,
            Err(ReadError::Unreachable { cause: Cause::Failed, .. }) => 3,
            Err(ReadError::Unreachable { cause: Cause::NoAnswer, .. }) => 4,
            Err(ReadError::Unreachable { cause: Cause::NoCredentials, .. }) => 5,
            Err(ReadError::Unreachable { cause: Cause::Throttled, .. }) => 6,
        };
        self.0[index].fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns the role that a value defines.
fn role_of(published: &Published, allowed: &Allowed) -> Role {
    match published {
        Published::Absent => Role::NotFound,
        Published::OtherType => Role::Unusable(Unusable::WrongType),
        Published::SecureString => Role::Unusable(Unusable::SecureString),
        Published::Text(text) => Role::from_arn(text, allowed),
    }
}

/// Maximum number of attempts of a lookup that gets no response or an error.
const ATTEMPTS: u32 = 3;
/// Maximum number of attempts of a throttled lookup. Even with the shortest pauses they take about
/// as long as a review has.
const THROTTLED_ATTEMPTS: u32 = 15;
/// Outcomes, in the order of [`Calls::count`].
const OUTCOMES: [&str; 7] =
    ["ok", "invalid-name", "denied", "failed", "no-answer", "no-credentials", "throttled"];

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use tokio::time::sleep;

    use super::{
        super::{Entry, schedule::BATCH},
        *,
    };

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
        failure: Option<ReadError>,
        calls: Vec<(Instant, Vec<String>)>,
    }

    impl Publisher for Store {
        async fn ask(&self, names: Vec<String>) -> Result<Vec<Published>, ReadError> {
            assert!(names.len() <= BATCH);
            self.0.lock().unwrap().calls.push((Instant::now(), names.clone()));
            sleep(Duration::from_millis(50)).await;
            let shelf = self.0.lock().unwrap();
            if let Some(failure) = &shelf.failure {
                return Err(failure.clone());
            }
            if names.iter().any(|name| shelf.illegal.contains(name)) {
                return Err(ReadError::Names);
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

        fn fail(&self, failure: Option<ReadError>) {
            self.0.lock().unwrap().failure = failure;
        }

        fn calls(&self) -> Vec<(Instant, Vec<String>)> {
            self.0.lock().unwrap().calls.clone()
        }
    }

    fn unreachable(cause: Cause) -> ReadError {
        ReadError::Unreachable { cause, detail: String::new() }
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
        handle: RolesHandle,
        wanted: watch::Sender<HashSet<TenantName>>,
        backup: Backup,
    }

    fn refresh(store: Store) -> Kept {
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
        entry.read_at.map(|read_at| Instant::now().into_std() - read_at)
    }

    fn known(name: &str) -> Option<Role> {
        Some(Role::Known(arn(name).parse().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn roles_are_prefetched_in_batches_at_a_steady_rate() {
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
        kept.store.publish("acme", &arn("acme"));
        let lookups = (0..50).map(|_| kept.handle.look_up(tenant("acme")));
        futures_util::future::join_all(lookups).await;
        assert_eq!(kept.store.calls().len(), 1);
        assert_eq!(kept.role("acme"), known("acme"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_name_does_not_affect_the_others() {
        let kept = refresh(Store::default());
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
            let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
        async fn ask(&self, _: Vec<String>) -> Result<Vec<Published>, ReadError> {
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
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
        let kept = refresh(Store::default());
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
