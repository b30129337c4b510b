//! How a change of the policy is written to IAM, which has no conditional write.
//!
//! A call of PutRolePolicy replaces the whole policy. If two programs read it at the same time, the
//! second write removes the entries of the first one. Each run therefore
//!
//! - ends its write at most [`Pace::within`] after the start of its read, or reads again, and
//! - waits [`Pace::settle`], which is longer, reads again, and writes again what is missing.
//!
//! A write that removes an entry started its read before that entry was written, so it ends less
//! than `settle` later, and the second read shows it. IAM may apply a write that timed out later,
//! and a read may not return the last write. IAM promises that only eventually:
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency>

use std::{fmt, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::revocation::{Change, Inline, Next, TooLong};

/// The inline policies of one role.
pub(super) trait PolicyStore {
    type Error;

    async fn read(&self) -> Result<Inline, Self::Error>;
    async fn write(&self, next: &Next) -> Result<(), Self::Error>;
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Maximum time from the start of a read to the end of the write.
    pub(super) within: Duration,
    /// Time from a write to the next read; longer than `within`.
    pub(super) settle: Duration,
}

/// The policies before and after.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) before: Inline,
    pub(super) after: Inline,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum NotApplied<E> {
    /// Other programs changed the policy at the same time, again and again.
    Contended,
    Store(E),
    TooLong(TooLong),
    /// IAM did not answer in time.
    TooSlow,
}

/// The reason for another attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Retry {
    Missing,
    Slow,
}

/// Makes the change. `tell` is called before each further attempt.
pub(super) async fn make<S: PolicyStore>(
    store: &S,
    change: &Change,
    pace: Pace,
    tell: impl Fn(Retry),
) -> Result<Done, NotApplied<S::Error>> {
    let mut before = None;
    let mut last = NotApplied::Contended;
    for _ in 0..ATTEMPTS {
        let start = Instant::now();
        let Ok(read) = timeout(pace.within, store.read()).await else {
            tell(Retry::Slow);
            last = NotApplied::TooSlow;
            continue;
        };
        let after = read.map_err(NotApplied::Store)?;
        let is_first = before.is_none();
        let before = before.get_or_insert_with(|| after.clone());
        let next = change.next(&after).map_err(NotApplied::TooLong)?;
        if next == Next::Nothing {
            return Ok(Done { before: before.clone(), after });
        }
        if !is_first {
            tell(Retry::Missing);
        }
        match timeout_at(start + pace.within, store.write(&next)).await {
            Ok(written) => {
                written.map_err(NotApplied::Store)?;
                last = NotApplied::Contended;
            }
            // IAM may still make the change: it counts as written.
            Err(_) => last = NotApplied::TooSlow,
        }
        // Programs that started together do not write together again.
        let more = if is_first { Duration::ZERO } else { pace.within.mul_f64(fastrand::f64()) };
        sleep(pace.settle + more).await;
    }
    Err(last)
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "the policy in IAM lacks the change: another program has overwritten it, or IAM does not show it yet; writing it again"
            }
            Self::Slow => "IAM did not answer in time; reading again",
        })
    }
}

/// Maximum number of reads: about two minutes.
const ATTEMPTS: usize = 12;

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

    use futures_util::future::join_all;
    use jiff::Timestamp;

    use super::*;
    use crate::{
        revocation::{POLICY_NAME, PresentSessions, Revoked},
        session::SourceIdentity,
    };

    const PACE: Pace = Pace { within: Duration::from_secs(5), settle: Duration::from_secs(6) };

    /// IAM with one policy. Reads and writes take effect after a random time below the limit.
    #[derive(Clone, Default)]
    struct SimulatedIam {
        policy: Rc<RefCell<Option<String>>>,
        /// Milliseconds of the longest call.
        longest: u64,
        writes: Rc<RefCell<usize>>,
    }

    impl SimulatedIam {
        async fn delay(&self) {
            sleep(Duration::from_millis(fastrand::u64(0..=self.longest))).await;
        }

        fn names(&self) -> BTreeSet<SourceIdentity> {
            self.inline().revoked.sessions.into_keys().collect()
        }

        fn inline(&self) -> Inline {
            let policy = self.policy.borrow();
            Inline::read(policy.as_deref().map(|text| (POLICY_NAME, text))).unwrap()
        }
    }

    impl PolicyStore for SimulatedIam {
        type Error = ();

        async fn read(&self) -> Result<Inline, ()> {
            self.delay().await;
            let read = self.inline();
            self.delay().await;
            Ok(read)
        }

        async fn write(&self, next: &Next) -> Result<(), ()> {
            self.delay().await;
            *self.policy.borrow_mut() = match next {
                Next::Put(document) => Some(document.clone()),
                Next::Delete | Next::Nothing => None,
            };
            *self.writes.borrow_mut() += 1;
            self.delay().await;
            Ok(())
        }
    }

    fn revoke(names: &[String]) -> Change {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        Change::Revoke(Revoked::of(&names, None))
    }

    /// Starts programs within some seconds. Returns how many of their entries are missing at the
    /// end, although each program succeeded.
    async fn lost(pace: Pace, programs: usize) -> usize {
        let iam = SimulatedIam { longest: 1200, ..SimulatedIam::default() };
        let names: Vec<String> = (0..programs).map(|it| format!("agent.acme.{it}")).collect();
        let runs = names.iter().map(|name| {
            let (iam, change) = (iam.clone(), revoke(std::slice::from_ref(name)));
            async move {
                sleep(Duration::from_millis(fastrand::u64(0..4000))).await;
                make(&iam, &change, pace, |_| {}).await.unwrap();
            }
        });
        join_all(runs).await;
        programs - iam.names().len()
    }

    #[tokio::test(start_paused = true)]
    async fn programs_at_once_lose_no_entry() {
        for _ in 0..50 {
            assert_eq!(lost(PACE, 5).await, 0);
        }
        // The control: without the wait, entries are lost.
        let hasty = Pace { settle: Duration::ZERO, ..PACE };
        let mut missing = 0;
        for _ in 0..50 {
            missing += lost(hasty, 5).await;
        }
        assert!(missing > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_entry_is_written_again_and_reported() {
        let iam = SimulatedIam::default();
        let change = revoke(&["agent.acme.a".to_owned()]);
        let retries = RefCell::new(Vec::new());
        let run = make(&iam, &change, PACE, |retry| retries.borrow_mut().push(retry));
        let other = async {
            sleep(Duration::from_secs(3)).await;
            *iam.policy.borrow_mut() = None;
        };
        let (done, ()) = tokio::join!(run, other);
        assert!(done.unwrap().before.revoked.is_empty());
        assert_eq!(*retries.borrow(), [Retry::Missing]);
        assert_eq!((iam.names().len(), *iam.writes.borrow()), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_always_loses_gives_up() {
        let iam = SimulatedIam::default();
        let change = revoke(&["agent.acme.a".to_owned()]);
        let removes = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                *iam.policy.borrow_mut() = None;
            }
        };
        tokio::select! {
            result = make(&iam, &change, PACE, |_| {}) => {
                assert_eq!(result.unwrap_err(), NotApplied::Contended);
            }
            () = removes => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_read_is_not_followed_by_a_write() {
        let iam = SimulatedIam { longest: 60_000_000, ..SimulatedIam::default() };
        let change = revoke(&["agent.acme.a".to_owned()]);
        let result = make(&iam, &change, PACE, |_| {}).await;
        assert_eq!(result.unwrap_err(), NotApplied::TooSlow);
        assert_eq!(*iam.writes.borrow(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn prune_ends_after_its_second_read() {
        let iam = SimulatedIam::default();
        *iam.policy.borrow_mut() = Some(
            Revoked::of(&["agent.acme.a".parse().unwrap()].into(), None).document().to_string(),
        );
        let now: Timestamp = "2026-11-24T12:00:00.5Z".parse().unwrap();
        let prune = |now| Change::Prune {
            present: PresentSessions::default(),
            now,
            longest: jiff::SignedDuration::from_hours(1),
        };
        make(&iam, &prune(now), PACE, |_| {}).await.unwrap();
        assert_eq!((iam.names().len(), *iam.writes.borrow()), (1, 1));
        let later = now + jiff::SignedDuration::from_hours(2);
        make(&iam, &prune(later), PACE, |_| {}).await.unwrap();
        assert_eq!(*iam.policy.borrow(), None);
    }
}
