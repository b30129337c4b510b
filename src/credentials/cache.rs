//! A cache of one set of session credentials, refreshed before they expire.
//!
//! One task makes all calls, so at most one call is in progress, whatever the number of clients.
//! Credentials are valid only by both clocks: the wall clock, which AWS and the agent's SDK use,
//! and the time since they were issued. A wall clock that is set back extends no lifetime. Timers
//! stop while a machine is suspended, so the task checks the wall clock every [`LOOK`], and a
//! client that finds credentials due wakes it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{Assume, AssumeRoleError, Credentials, Reason, RetryPace};

/// Read access to the cache, for the endpoint.
#[derive(Clone)]
pub struct CacheHandle {
    state: watch::Receiver<CacheState>,
    wake: Arc<Notify>,
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    is_in_same_pod: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// A snapshot of the cache.
#[derive(Clone, Debug, Default)]
pub struct CacheState {
    pub issued: Option<Arc<Issued>>,
    /// The last attempt, if it failed.
    pub failed: Option<Arc<Failed>>,
    /// Number of attempts.
    pub assumed: u64,
    pub failures: u64,
    /// Start of the next attempt; none while one is in progress.
    next: Option<Instant>,
}

#[derive(Debug)]
pub struct Issued {
    pub credentials: Credentials,
    /// Wall-clock time of their replacement.
    pub due: SystemTime,
    due_since_start: Instant,
    dead_since_start: Instant,
}

#[derive(Debug)]
pub struct Failed {
    pub failure: AssumeRoleError,
    pub at: SystemTime,
}

/// Returns a handle to the cache and the task that fills it; the caller runs the task. `now`
/// reads the wall clock, and `random` gives the jitter.
pub fn start<A: Assume>(
    assume: A,
    now: impl Fn() -> SystemTime + Send + Sync + 'static,
    random: fastrand::Rng,
) -> (CacheHandle, impl Future<Output = ()> + Send) {
    let (sender, state) = watch::channel(CacheState::default());
    let assume = Arc::new(assume);
    let is_in_same_pod = {
        let assume = Arc::clone(&assume);
        Arc::new(move || assume.is_in_same_pod())
    };
    let handle = CacheHandle { state, wake: Arc::default(), now: Arc::new(now), is_in_same_pod };
    let task = CredentialCache {
        assume,
        state: sender,
        wake: Arc::clone(&handle.wake),
        now: Arc::clone(&handle.now),
        random,
        lives: false,
    };
    (handle, task.run())
}

impl CacheHandle {
    /// Returns whether this process is still in the pod of its session.
    pub fn is_in_same_pod(&self) -> bool {
        (self.is_in_same_pod)()
    }

    /// Returns credentials that are valid now. Without any, it waits up to `patience` for the
    /// attempt that is in progress or due; it does not wait for a later one. Then it returns the
    /// last failure (none: no attempt has finished yet).
    pub async fn credentials(
        &self,
        patience: Duration,
    ) -> Result<Arc<Issued>, Option<Arc<Failed>>> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.clone();
        loop {
            let CacheState { issued, failed, next, .. } = state.borrow_and_update().clone();
            if let Some(issued) = issued {
                let (wall, since_start) = ((self.now)(), Instant::now());
                let is_in_same_pod = self.is_in_same_pod();
                if issued.is_due(wall, since_start) || !is_in_same_pod {
                    self.wake.notify_one();
                }
                if issued.is_good(wall, since_start) && is_in_same_pod {
                    return Ok(issued);
                }
            }
            let in_vain = next.is_some_and(|next| next > deadline) && failed.is_some();
            if in_vain || !matches!(timeout_at(deadline, state.changed()).await, Ok(Ok(()))) {
                return Err(failed);
            }
        }
    }

    /// Returns the current snapshot. Its credentials may have expired.
    pub fn state(&self) -> CacheState {
        self.state.borrow().clone()
    }

    /// Returns how long the cached credentials are valid; zero without any.
    pub fn remaining(&self) -> Duration {
        let state = self.state();
        state.issued.map_or(Duration::ZERO, |issued| issued.remaining((self.now)(), Instant::now()))
    }
}

impl fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl Issued {
    /// `wall` and `since_start` are the start of the STS call. The lifetime counts from there,
    /// however late the response arrives.
    fn new(credentials: Credentials, wall: SystemTime, since_start: Instant, share: f64) -> Self {
        let life = credentials.remaining(wall).min(credentials.asked);
        let used = life.mul_f64(share);
        Self {
            credentials,
            due: wall + used,
            due_since_start: since_start + used,
            dead_since_start: since_start + life,
        }
    }

    fn remaining(&self, wall: SystemTime, since_start: Instant) -> Duration {
        self.credentials.remaining(wall).min(self.dead_since_start.duration_since(since_start))
    }

    fn is_good(&self, wall: SystemTime, since_start: Instant) -> bool {
        self.remaining(wall, since_start) > SHORTEST_USABLE_LIFETIME
    }

    fn is_due(&self, wall: SystemTime, since_start: Instant) -> bool {
        wall >= self.due || since_start >= self.due_since_start
    }
}

struct CredentialCache<A> {
    assume: Arc<A>,
    state: watch::Sender<CacheState>,
    wake: Arc<Notify>,
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    random: fastrand::Rng,
    /// Whether there are credentials whose expiry has not been logged.
    lives: bool,
}

impl<A: Assume> CredentialCache<A> {
    async fn run(mut self) {
        let mut in_a_row = 0;
        let mut polled = false;
        loop {
            let asked = ((self.now)(), Instant::now());
            let answer = self.assume.assume().await;
            match answer.and_then(|credentials| self.require_lifetime(credentials)) {
                Ok(credentials) => {
                    (in_a_row, self.lives) = (0, true);
                    let share = share(&mut self.random);
                    let issued = Arc::new(Issued::new(credentials, asked.0, asked.1, share));
                    self.tell_issued(&issued, asked.1.elapsed());
                    self.state.send_modify(|state| {
                        state.assumed += 1;
                        state.failed = None;
                        state.next = Some(issued.due_since_start);
                        state.issued = Some(Arc::clone(&issued));
                    });
                    self.until_due(&issued).await;
                }
                Err(failure) => {
                    let pace = failure.reason.pace();
                    let polls = pace == RetryPace::Poll;
                    // Polls are no failures, after which the next request would come later.
                    if polled && !polls {
                        in_a_row = 0;
                    }
                    polled = polls;
                    let pause = pause(in_a_row, pace, &mut self.random);
                    in_a_row = if pace == RetryPace::Now { 0 } else { in_a_row + 1 };
                    // A pod that waits for its claim has not failed.
                    let has_failed = matches!(pace, RetryPace::Quick | RetryPace::Slow);
                    self.tell_failure(&failure, pause);
                    let (at, next) = ((self.now)(), Instant::now() + pause);
                    let is_dropped = failure.reason == Reason::PodChanged;
                    self.lives &= !is_dropped;
                    self.state.send_modify(|state| {
                        state.issued = state.issued.take().filter(|_| !is_dropped);
                        state.assumed += 1;
                        state.failures += u64::from(has_failed);
                        state.failed = Some(Arc::new(Failed { failure, at }));
                        state.next = Some(next);
                    });
                    self.rest(at + pause, next).await;
                }
            }
            self.state.send_modify(|state| state.next = None);
        }
    }

    /// Rejects credentials that are expired or expire within [`SHORTEST_USABLE_LIFETIME`].
    fn require_lifetime(&self, credentials: Credentials) -> Result<Credentials, AssumeRoleError> {
        if credentials.remaining((self.now)()) > SHORTEST_USABLE_LIFETIME {
            return Ok(credentials);
        }
        Err(self.assume.failure(Reason::ClockSkewed))
    }

    async fn until_due(&self, issued: &Issued) {
        loop {
            let (wall, since_start) = ((self.now)(), Instant::now());
            if issued.is_due(wall, since_start) || !self.assume.is_in_same_pod() {
                return;
            }
            let left = issued.due.duration_since(wall).unwrap_or_default();
            let left = left.min(issued.due_since_start.duration_since(since_start)).min(LOOK);
            tokio::select! {
                () = sleep(left) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Waits from a failure until the next attempt. Logs it if the cached credentials expire.
    async fn rest(&mut self, until: SystemTime, until_since_start: Instant) {
        loop {
            let (wall, since_start) = ((self.now)(), Instant::now());
            let mut wake = until_since_start.min(since_start + LOOK);
            let issued = self.state.borrow().issued.clone();
            if issued.is_some() && !self.assume.is_in_same_pod() {
                return;
            }
            if let Some(issued) = issued.filter(|_| self.lives) {
                if issued.is_good(wall, since_start) {
                    wake = wake.min(
                        since_start + issued.remaining(wall, since_start)
                            - SHORTEST_USABLE_LIFETIME,
                    );
                } else {
                    self.lives = false;
                    let access_key_id = &issued.credentials.access_key_id;
                    tracing::error!(access_key_id, "session credentials expired; serving none");
                }
            }
            if wall >= until || since_start >= until_since_start {
                return;
            }
            tokio::select! {
                () = sleep_until(wake) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn tell_issued(&self, issued: &Issued, took: Duration) {
        let state = self.state.borrow();
        let access_key_id = &issued.credentials.access_key_id;
        let life = issued.credentials.remaining((self.now)()).as_secs();
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let after_failures = state.failed.is_some();
        tracing::info!(access_key_id, life, millis, after_failures, "session credentials issued");
    }

    /// Logs successive failures with one code once, not each attempt.
    fn tell_failure(&self, failure: &AssumeRoleError, pause: Duration) {
        let state = self.state.borrow();
        let code = failure.reason.code();
        if state.failed.as_ref().is_none_or(|failed| failed.failure.reason.code() != code) {
            if let Reason::NotBound { .. } = failure.reason {
                tracing::info!(identity = failure.identity, "no SandboxClaim has the pod yet");
                return;
            }
            let next = pause.as_secs();
            tracing::error!(code, next, error = %failure, "no new session credentials");
        }
    }
}

fn share(random: &mut fastrand::Rng) -> f64 {
    SHARE.0 + random.f64() * (SHARE.1 - SHARE.0)
}

/// Returns the pause before the next attempt: a floor, which limits the number of calls, plus
/// full jitter below a bound that doubles.
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
fn pause(in_a_row: u32, pace: RetryPace, random: &mut fastrand::Rng) -> Duration {
    let (floor, most) = match pace {
        RetryPace::Now => return NOW.mul_f64(random.f64()),
        RetryPace::Poll => POLL,
        RetryPace::Quick => QUICK,
        RetryPace::Slow => SLOW,
    };
    let bound = floor.saturating_mul(1 << in_a_row.min(16)).min(most - floor);
    floor + bound.mul_f64(random.f64())
}

/// Minimum and maximum share of their lifetime after which credentials are replaced. Two thirds of
/// an hour leave 20 minutes; SDKs request new credentials when 5 to 15 minutes are left.
const SHARE: (f64, f64) = (0.6, 2.0 / 3.0);
/// Minimum remaining lifetime. A request that is signed with less may reach AWS too late.
const SHORTEST_USABLE_LIFETIME: Duration = Duration::from_secs(2);
/// Maximum time between two checks of the wall clock.
const LOOK: Duration = Duration::from_secs(30);
/// Maximum of the pause after a request that waited.
const NOW: Duration = Duration::from_millis(250);
/// Floor and maximum of the pause if the issuer does not let the pod wait.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Floor and maximum of the pause after a transient failure.
const QUICK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Floor and maximum of the pause after a permanent failure. A denial may be temporary: a new
/// policy takes time to reach all of IAM, which is eventually consistent.
const SLOW: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::credentials::Secret;

    const HOUR: Duration = Duration::from_secs(3600);

    fn credentials(expiration: SystemTime) -> Credentials {
        Credentials {
            access_key_id: "ASIA".to_owned(),
            secret_access_key: Secret::new("secret".to_owned()),
            session_token: Secret::new("token".to_owned()),
            expiration,
            asked: HOUR,
        }
    }

    /// Issues credentials for an hour of its own clock, after a delay of `takes`.
    struct TimedSts {
        clock: SystemTime,
        since: Instant,
        takes: Duration,
    }

    impl Assume for TimedSts {
        async fn assume(&self) -> Result<Credentials, AssumeRoleError> {
            let asked = self.since.elapsed();
            sleep(self.takes).await;
            Ok(credentials(self.clock + asked + HOUR))
        }

        fn failure(&self, reason: Reason) -> AssumeRoleError {
            AssumeRoleError {
                role: "arn:aws:iam::111122223333:role/r".parse().unwrap(),
                identity: "agent.acme.s".to_owned(),
                reason,
            }
        }
    }

    fn of(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn credentials_are_due_and_dead_by_either_clock() {
        let (wall, since_start) = (SystemTime::UNIX_EPOCH, Instant::now());
        let issued = Issued::new(credentials(wall + HOUR), wall, since_start, 0.5);
        let early = HOUR.mul_f64(0.4);
        for (by_wall, by_start, is_due, is_good) in [
            (early, early, false, true),
            (HOUR / 2, early, true, true),
            (early, HOUR / 2, true, true),
            (HOUR, early, true, false),
            (early, HOUR, true, false),
        ] {
            let (wall, since_start) = (wall + by_wall, since_start + by_start);
            assert_eq!(issued.is_due(wall, since_start), is_due, "{by_wall:?} {by_start:?}");
            assert_eq!(issued.is_good(wall, since_start), is_good, "{by_wall:?} {by_start:?}");
        }
    }

    #[test]
    fn credentials_are_due_after_60_to_67_percent_of_their_life() {
        let (wall, since_start) = (SystemTime::UNIX_EPOCH, Instant::now());
        let mut random = fastrand::Rng::with_seed(1);
        let mut all = Vec::new();
        for _ in 0..1000 {
            let issued =
                Issued::new(credentials(wall + HOUR), wall, since_start, share(&mut random));
            let due = issued.due.duration_since(wall).unwrap();
            assert_eq!(issued.due_since_start - since_start, due);
            assert!(HOUR.mul_f64(0.6) <= due && due <= HOUR.mul_f64(2.0 / 3.0), "{due:?}");
            all.push(due);
        }
        // The values cover the whole range.
        all.sort_unstable();
        assert!(all[0] < of(2165.0) && all[999] > of(2395.0), "{:?} {:?}", all[0], all[999]);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_random() {
        let mut random = fastrand::Rng::with_seed(2);
        // Failures before, the pace of the failure, floor and maximum of the pause.
        for (in_a_row, pace, floor, most) in [
            (0, RetryPace::Quick, 1.0, 2.0),
            (1, RetryPace::Quick, 1.0, 3.0),
            (3, RetryPace::Quick, 1.0, 9.0),
            (100, RetryPace::Quick, 1.0, 60.0),
            (0, RetryPace::Slow, 15.0, 30.0),
            (1, RetryPace::Slow, 15.0, 45.0),
            (100, RetryPace::Slow, 15.0, 300.0),
            (0, RetryPace::Poll, 1.0, 2.0),
            (100, RetryPace::Poll, 1.0, 8.0),
            (100, RetryPace::Now, 0.0, 0.25),
        ] {
            let mut all: Vec<Duration> =
                (0..1000).map(|_| pause(in_a_row, pace, &mut random)).collect();
            all.sort_unstable();
            let slack = (most - floor) / 50.0;
            assert!(of(floor) <= all[0] && all[0] < of(floor + slack), "{in_a_row} {:?}", all[0]);
            assert!(of(most - slack) < all[999] && all[999] <= of(most), "{in_a_row} {all:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_expired_by_the_nodes_clock_are_not_served() {
        let (clock, since) = (SystemTime::UNIX_EPOCH + HOUR * 1000, Instant::now());
        let issuer = TimedSts { clock, since, takes: Duration::ZERO };
        let shown = move || clock + since.elapsed() + HOUR - SHORTEST_USABLE_LIFETIME;
        let (handle, task) = start(issuer, shown, fastrand::Rng::with_seed(4));
        tokio::spawn(task);
        let failed = handle.credentials(of(0.9)).await.unwrap_err().unwrap();
        assert_eq!(failed.failure.reason, Reason::ClockSkewed);
        assert_eq!(handle.remaining(), Duration::ZERO);
    }

    /// Issues credentials until the process is in another pod.
    struct Movable {
        sts: TimedSts,
        is_moved: Arc<AtomicBool>,
    }

    impl Assume for Movable {
        async fn assume(&self) -> Result<Credentials, AssumeRoleError> {
            match self.is_in_same_pod() {
                true => self.sts.assume().await,
                false => Err(self.failure(Reason::PodChanged)),
            }
        }

        fn is_in_same_pod(&self) -> bool {
            !self.is_moved.load(Ordering::Relaxed)
        }

        fn failure(&self, reason: Reason) -> AssumeRoleError {
            self.sts.failure(reason)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_dropped_in_another_pod() {
        for is_asked in [true, false] {
            let (clock, since) = (SystemTime::UNIX_EPOCH + HOUR * 1000, Instant::now());
            let is_moved = Arc::new(AtomicBool::new(false));
            let sts = TimedSts { clock, since, takes: Duration::ZERO };
            let movable = Movable { sts, is_moved: Arc::clone(&is_moved) };
            let now = move || clock + since.elapsed();
            let (handle, task) = start(movable, now, fastrand::Rng::with_seed(5));
            tokio::spawn(task);
            assert!(handle.credentials(of(0.9)).await.is_ok());
            is_moved.store(true, Ordering::Relaxed);
            if is_asked {
                let failed = handle.credentials(of(0.9)).await.unwrap_err().unwrap();
                assert_eq!(failed.failure.reason, Reason::PodChanged);
            } else {
                sleep(LOOK + of(1.0)).await;
            }
            assert!(handle.state().issued.is_none(), "{is_asked}");
            assert_eq!(handle.remaining(), Duration::ZERO);
        }
    }

    /// STS responds ten seconds late, and the node's clock is five minutes slow. The credentials
    /// are still valid for no longer than an hour from the start of the call.
    #[tokio::test(start_paused = true)]
    async fn a_late_response_or_a_slow_clock_extends_no_lifetime() {
        let (clock, since) = (SystemTime::UNIX_EPOCH + HOUR * 1000, Instant::now());
        let issuer = TimedSts { clock, since, takes: of(10.0) };
        let shown = move || clock + since.elapsed() - of(300.0);
        let (handle, task) = start(issuer, shown, fastrand::Rng::with_seed(3));
        let task = tokio::spawn(task);
        let first = handle.credentials(HOUR).await.unwrap();
        task.abort();
        sleep(HOUR - of(2.5) - since.elapsed()).await;
        assert!(handle.credentials(Duration::ZERO).await.is_ok());
        sleep(of(0.5)).await;
        assert!(handle.credentials(Duration::ZERO).await.is_err(), "{first:?}");
    }
}
