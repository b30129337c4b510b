//! The memory budget of all reviews in progress.
//!
//! A review takes one place when it begins. Each byte of its body takes [`FACTOR`] bytes of the
//! budget when it arrives; `Content-Length` takes nothing. If all places are taken, a new review
//! ends the oldest one at once. If all bytes are taken, the oldest review ends once it has had
//! [`PROTECTED_TIME`]. A usual review is received and answered within milliseconds. So a client that
//! sends many slow or incomplete reviews loses its own reviews first.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

/// The budget.
#[derive(Debug)]
pub(super) struct BodyBudget {
    state: Mutex<BodyBudgetState>,
    /// Notifies waiting bodies when a review ends.
    left: Notify,
}

/// A complete body. Dropping it frees its place and its bytes.
#[derive(Debug)]
pub(super) struct ReadBody<'r> {
    pub(super) bytes: Bytes,
    place: Reservation<'r>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotRead {
    /// The client ended the body early.
    BrokeOff,
    /// The budget was full, and this review was the oldest.
    Crowded,
    /// The deadline passed.
    Late,
    /// The body is longer than the limit.
    TooLong,
}

#[derive(Debug)]
struct BodyBudgetState {
    /// Bytes of the budget that are free.
    free: usize,
    /// Reviews in progress, in the order of their arrival.
    bodies: BTreeMap<u64, Share>,
    next: u64,
    /// Maximum number of reviews in progress.
    places: usize,
    /// Number of reviews that were ordered to end and have not ended yet.
    leaving: usize,
}

/// The share of one review.
#[derive(Debug)]
struct Share {
    bytes: usize,
    since: Instant,
    /// Whether it was ordered to end.
    gives_way: bool,
    told: Arc<Notify>,
}

/// The place of one review. Dropping it frees the place.
struct Reservation<'r> {
    budget: &'r BodyBudget,
    number: u64,
    told: Arc<Notify>,
}

impl BodyBudget {
    /// Returns a budget of `bytes` bytes and `places` reviews.
    pub(super) fn new(bytes: usize, places: usize) -> Self {
        let state =
            BodyBudgetState { free: bytes, bodies: BTreeMap::new(), next: 0, places, leaving: 0 };
        Self { state: Mutex::new(state), left: Notify::new() }
    }

    /// Reads a body of at most `most` bytes until the deadline.
    pub(super) async fn read(
        &self,
        mut body: Body,
        most: usize,
        deadline: Instant,
    ) -> Result<ReadBody<'_>, NotRead> {
        if body.size_hint().lower() > most as u64 {
            return Err(NotRead::TooLong);
        }
        let place = self.enter();
        let all = async {
            // Copied: a frame of one byte keeps the whole receive buffer alive.
            let mut bytes: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame.map_err(|_| NotRead::BrokeOff)?.into_data() else {
                    continue;
                };
                if bytes.len() + frame.len() > most {
                    return Err(NotRead::TooLong);
                }
                place.grow(frame.len() * FACTOR).await;
                bytes.extend_from_slice(&frame);
            }
            bytes.shrink_to_fit();
            Ok(Bytes::from(bytes))
        };
        let bytes = tokio::select! {
            // A body that is complete when its review is ordered to end is still evaluated.
            biased;
            read = timeout_at(deadline, all) => read.unwrap_or(Err(NotRead::Late))?,
            () = place.told.notified() => return Err(NotRead::Crowded),
        };
        Ok(ReadBody { bytes, place })
    }

    /// Takes a place. If none is free, orders the oldest review to end.
    fn enter(&self) -> Reservation<'_> {
        let mut state = self.state();
        if state.bodies.len() - state.leaving >= state.places {
            state.send_away_the_oldest();
        }
        let number = state.next;
        state.next += 1;
        let told = Arc::new(Notify::new());
        let taken =
            Share { bytes: 0, since: Instant::now(), gives_way: false, told: Arc::clone(&told) };
        state.bodies.insert(number, taken);
        Reservation { budget: self, number, told }
    }

    /// Locks the state. Every change is complete before the lock is released, so a poisoned lock
    /// can be used.
    fn state(&self) -> MutexGuard<'_, BodyBudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadBody<'_> {
    /// Returns when the review must end.
    pub(super) async fn gives_way(&self) {
        self.place.told.notified().await;
    }
}

impl BodyBudgetState {
    /// Takes `bytes` for the body `number`. Err: when to try again.
    fn take(&mut self, number: u64, bytes: usize, now: Instant) -> Result<(), Instant> {
        if bytes <= self.free
            && let Some(own) = self.bodies.get_mut(&number)
        {
            self.free -= bytes;
            own.bytes += bytes;
            return Ok(());
        }
        // One review at a time. A review without bytes would free none.
        let mut oldest = self.bodies.values_mut().filter(|body| body.bytes > 0);
        match oldest.next() {
            Some(body) if body.gives_way => {}
            Some(body) if body.since + PROTECTED_TIME > now => {
                return Err(body.since + PROTECTED_TIME);
            }
            Some(body) => {
                body.tell_to_leave();
                self.leaving += 1;
            }
            None => {}
        }
        Err(now + PROTECTED_TIME)
    }

    /// Orders the oldest review to end that was not ordered to yet.
    fn send_away_the_oldest(&mut self) {
        if let Some(oldest) = self.bodies.values_mut().find(|body| !body.gives_way) {
            oldest.tell_to_leave();
            self.leaving += 1;
        }
    }
}

impl Share {
    /// Orders the review to end.
    fn tell_to_leave(&mut self) {
        self.gives_way = true;
        self.told.notify_one();
    }
}

impl Reservation<'_> {
    /// Takes `bytes` more, and waits for them if necessary.
    async fn grow(&self, bytes: usize) {
        loop {
            let left = self.budget.left.notified();
            let taken = self.budget.state().take(self.number, bytes, Instant::now());
            let Err(again) = taken else { return };
            tokio::select! {
                () = left => {}
                () = sleep_until(again) => {}
            }
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        if let Some(taken) = state.bodies.remove(&self.number) {
            state.free += taken.bytes;
            state.leaving -= usize::from(taken.gives_way);
        }
        drop(state);
        self.budget.left.notify_waiters();
    }
}

impl fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Memory of a body, as a multiple of its length: the body itself, twice its length while its
/// buffer grows, and the parsed review (measured by `tests/bounds.rs`).
pub(super) const FACTOR: usize = 4;
/// Minimum time of a review before a full budget ends it. The largest body takes 0.1 s to arrive
/// on a network of 1 Gbit/s.
const PROTECTED_TIME: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures_util::{StreamExt, stream};

    const MOST: usize = 1000;

    /// Returns a body that sends `bytes` bytes and then never ends.
    fn stalled(bytes: usize) -> Body {
        let sent = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b' '; bytes]))]);
        Body::from_stream(sent.chain(stream::pending()))
    }

    fn within(time: Duration) -> Instant {
        Instant::now() + time
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_completely_and_frees_its_budget() {
        let budget = BodyBudget::new(MOST * FACTOR, 10);
        for _ in 0..3 {
            let body = Body::from(vec![b'x'; MOST]);
            let whole = budget.read(body, MOST, within(PROTECTED_TIME)).await.unwrap();
            assert_eq!((whole.bytes.len(), budget.state().free), (MOST, 0));
            drop(whole);
            assert_eq!(budget.state().free, MOST * FACTOR);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_too_long_too_late_or_cut_off_is_not_read() {
        let broken = stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::other("x"))]);
        let chunks = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b"12345")));
        let cases = [
            (Body::from(vec![b'x'; MOST + 1]), NotRead::TooLong),
            (Body::from_stream(chunks), NotRead::TooLong),
            (Body::from_stream(broken), NotRead::BrokeOff),
            (stalled(10), NotRead::Late),
        ];
        let budget = BodyBudget::new(2 * MOST * FACTOR, 10);
        for (body, want) in cases {
            assert_eq!(budget.read(body, MOST, within(PROTECTED_TIME)).await.unwrap_err(), want);
            assert_eq!(budget.state().free, 2 * MOST * FACTOR, "{want:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_oldest_body_yields_when_the_budget_is_full() {
        let budget = BodyBudget::new(MOST * FACTOR, 10);
        let long = within(Duration::from_secs(60));
        let waits = budget.read(Body::from(vec![b'x'; 300]), MOST, long).await.unwrap();
        let stalls = budget.read(stalled(700), MOST, long);
        let begun = Instant::now();
        let good = async {
            sleep_until(begun + Duration::from_millis(1)).await;
            let first = budget.read(Body::from(vec![b'x'; 300]), MOST, long).await.unwrap();
            let took = (begun.elapsed(), first.bytes.len());
            let second = budget.read(Body::from(vec![b'x'; 600]), MOST, long).await.unwrap();
            (took, (begun.elapsed(), second.bytes.len()))
        };
        // It is answered from the current snapshots, and ends.
        let answered = async {
            waits.gives_way().await;
            drop(waits);
        };
        let ((), stalled, (first, second)) = tokio::join!(answered, stalls, good);
        assert_eq!(stalled.unwrap_err(), NotRead::Crowded);
        for (took, _) in [first, second] {
            assert!(took < PROTECTED_TIME + Duration::from_millis(10), "{took:?}");
        }
        assert_eq!((first.1, second.1), (300, 600));
        assert_eq!(budget.state().free, MOST * FACTOR);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_body_yields_its_slot_to_a_new_one_at_once() {
        const PLACES: usize = 3;
        let budget = BodyBudget::new(MOST * FACTOR, PLACES);
        let long = within(Duration::from_secs(60));
        let begun = Instant::now();
        let flood =
            futures_util::future::join_all((0..20).map(|_| budget.read(stalled(1), MOST, long)));
        let good = async {
            // After the start of the flood, and before its end.
            sleep_until(begun + Duration::from_millis(1)).await;
            assert_eq!(budget.state().bodies.len(), PLACES);
            let whole = budget.read(Body::from(vec![b'x'; 300]), MOST, long).await.unwrap();
            assert_eq!(whole.bytes.len(), 300);
            begun.elapsed()
        };
        let flood = timeout_at(within(Duration::from_millis(5)), flood);
        let (flood, took) = tokio::join!(flood, good);
        assert!(flood.is_err() && took < Duration::from_millis(3), "{took:?}");
        let state = budget.state();
        assert_eq!((state.bodies.len(), state.leaving), (0, 0));
    }
}
