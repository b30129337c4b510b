//! The memory that reviews under way take together.
//!
//! Each takes a place when it begins, and then [`FACTOR`] bytes for each byte of its body that has
//! arrived, not for what is promised. When all places are taken, the oldest review gives way to a
//! new one at once. When all bytes are taken, the oldest gives way once it has had [`FAIR`] time. A
//! usual review arrives and is answered within milliseconds, so a client that sends many which do
//! not end, or which wait for something, loses its own.

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

#[derive(Debug)]
pub(super) struct Room {
    state: Mutex<State>,
    /// Notifies waiting bodies when a place is free.
    left: Notify,
}

/// A body that has arrived. Its place is free again when it goes.
#[derive(Debug)]
pub(super) struct Whole<'r> {
    pub(super) bytes: Bytes,
    place: Place<'r>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotRead {
    /// The client ended it in the middle.
    BrokeOff,
    /// It had to give way to others.
    Crowded,
    Late,
    TooLong,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// By the order in which they came.
    bodies: BTreeMap<u64, Taken>,
    next: u64,
    /// How many there may be.
    places: usize,
    /// Those that were told to give way, and have not yet.
    leaving: usize,
}

/// What one body takes.
#[derive(Debug)]
struct Taken {
    bytes: usize,
    since: Instant,
    gives_way: bool,
    told: Arc<Notify>,
}

struct Place<'r> {
    room: &'r Room,
    number: u64,
    told: Arc<Notify>,
}

impl Room {
    /// Room for so many bytes of memory, and so many reviews.
    pub(super) fn new(bytes: usize, places: usize) -> Self {
        let state = State { free: bytes, bodies: BTreeMap::new(), next: 0, places, leaving: 0 };
        Self { state: Mutex::new(state), left: Notify::new() }
    }

    /// All of `body`, of `most` bytes, by the deadline.
    pub(super) async fn read(
        &self,
        mut body: Body,
        most: usize,
        deadline: Instant,
    ) -> Result<Whole<'_>, NotRead> {
        if body.size_hint().lower() > most as u64 {
            return Err(NotRead::TooLong);
        }
        let place = self.enter();
        let all = async {
            // Copied, since a piece of one byte would keep the whole buffer that it came in.
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
            // What is whole at the moment when it has to give way is whole.
            biased;
            read = timeout_at(deadline, all) => read.unwrap_or(Err(NotRead::Late))?,
            () = place.told.notified() => return Err(NotRead::Crowded),
        };
        Ok(Whole { bytes, place })
    }

    fn enter(&self) -> Place<'_> {
        let mut state = self.state();
        if state.bodies.len() - state.leaving >= state.places {
            state.send_away_the_oldest();
        }
        let number = state.next;
        state.next += 1;
        let told = Arc::new(Notify::new());
        let taken =
            Taken { bytes: 0, since: Instant::now(), gives_way: false, told: Arc::clone(&told) };
        state.bodies.insert(number, taken);
        Place { room: self, number, told }
    }

    /// Each change is whole before the lock is left, so a panic elsewhere spoils nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Whole<'_> {
    /// Returns when it has to give way.
    pub(super) async fn gives_way(&self) {
        self.place.told.notified().await;
    }
}

impl State {
    /// Takes `bytes` for the body `number`, or says when to ask again.
    fn take(&mut self, number: u64, bytes: usize, now: Instant) -> Result<(), Instant> {
        if bytes <= self.free
            && let Some(own) = self.bodies.get_mut(&number)
        {
            self.free -= bytes;
            own.bytes += bytes;
            return Ok(());
        }
        // One at a time; and one that takes nothing would leave nothing.
        let mut oldest = self.bodies.values_mut().filter(|body| body.bytes > 0);
        match oldest.next() {
            Some(body) if body.gives_way => {}
            Some(body) if body.since + FAIR > now => return Err(body.since + FAIR),
            Some(body) => {
                body.tell_to_leave();
                self.leaving += 1;
            }
            None => {}
        }
        Err(now + FAIR)
    }

    fn send_away_the_oldest(&mut self) {
        if let Some(oldest) = self.bodies.values_mut().find(|body| !body.gives_way) {
            oldest.tell_to_leave();
            self.leaving += 1;
        }
    }
}

impl Taken {
    /// Tells the review to give way.
    fn tell_to_leave(&mut self) {
        self.gives_way = true;
        self.told.notify_one();
    }
}

impl Place<'_> {
    async fn grow(&self, bytes: usize) {
        loop {
            let left = self.room.left.notified();
            let taken = self.room.state().take(self.number, bytes, Instant::now());
            let Err(again) = taken else { return };
            tokio::select! {
                () = left => {}
                () = sleep_until(again) => {}
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.room.state();
        if let Some(taken) = state.bodies.remove(&self.number) {
            state.free += taken.bytes;
            state.leaving -= usize::from(taken.gives_way);
        }
        drop(state);
        self.room.left.notify_waiters();
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The memory that a body takes, in its own lengths: itself, twice that while it grows, and what
/// reading it takes (`tests/bounds.rs`).
pub(super) const FACTOR: usize = 4;
/// How long a body may stay before it gives way to others. The largest takes a tenth of a second
/// to arrive in a network of a gigabit.
const FAIR: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures_util::{StreamExt, stream};

    const MOST: usize = 1000;

    /// Sends so many bytes and then nothing more.
    fn stalled(bytes: usize) -> Body {
        let sent = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b' '; bytes]))]);
        Body::from_stream(sent.chain(stream::pending()))
    }

    fn within(time: Duration) -> Instant {
        Instant::now() + time
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_whole_and_leaves_its_place() {
        let room = Room::new(MOST * FACTOR, 10);
        for _ in 0..3 {
            let body = Body::from(vec![b'x'; MOST]);
            let whole = room.read(body, MOST, within(FAIR)).await.unwrap();
            assert_eq!((whole.bytes.len(), room.state().free), (MOST, 0));
            drop(whole);
            assert_eq!(room.state().free, MOST * FACTOR);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_long_or_too_late_or_breaks_off_is_not_read() {
        let broken = stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::other("x"))]);
        let chunks = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b"12345")));
        let cases = [
            (Body::from(vec![b'x'; MOST + 1]), NotRead::TooLong),
            (Body::from_stream(chunks), NotRead::TooLong),
            (Body::from_stream(broken), NotRead::BrokeOff),
            (stalled(10), NotRead::Late),
        ];
        let room = Room::new(2 * MOST * FACTOR, 10);
        for (body, want) in cases {
            assert_eq!(room.read(body, MOST, within(FAIR)).await.unwrap_err(), want);
            assert_eq!(room.state().free, 2 * MOST * FACTOR, "{want:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_when_the_room_is_full_and_nobody_else() {
        let room = Room::new(MOST * FACTOR, 10);
        let long = within(Duration::from_secs(60));
        let waits = room.read(Body::from(vec![b'x'; 300]), MOST, long).await.unwrap();
        let stalls = room.read(stalled(700), MOST, long);
        let begun = Instant::now();
        let good = async {
            sleep_until(begun + Duration::from_millis(1)).await;
            let first = room.read(Body::from(vec![b'x'; 300]), MOST, long).await.unwrap();
            let took = (begun.elapsed(), first.bytes.len());
            let second = room.read(Body::from(vec![b'x'; 600]), MOST, long).await.unwrap();
            (took, (begun.elapsed(), second.bytes.len()))
        };
        // It is answered by what is known, and leaves.
        let answered = async {
            waits.gives_way().await;
            drop(waits);
        };
        let ((), stalled, (first, second)) = tokio::join!(answered, stalls, good);
        assert_eq!(stalled.unwrap_err(), NotRead::Crowded);
        for (took, _) in [first, second] {
            assert!(took < FAIR + Duration::from_millis(10), "{took:?}");
        }
        assert_eq!((first.1, second.1), (300, 600));
        assert_eq!(room.state().free, MOST * FACTOR);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_its_place_to_a_new_one_at_once() {
        const PLACES: usize = 3;
        let room = Room::new(MOST * FACTOR, PLACES);
        let long = within(Duration::from_secs(60));
        let begun = Instant::now();
        let flood =
            futures_util::future::join_all((0..20).map(|_| room.read(stalled(1), MOST, long)));
        let good = async {
            // Behind the flood, and before what it has not sent yet.
            sleep_until(begun + Duration::from_millis(1)).await;
            assert_eq!(room.state().bodies.len(), PLACES);
            let whole = room.read(Body::from(vec![b'x'; 300]), MOST, long).await.unwrap();
            assert_eq!(whole.bytes.len(), 300);
            begun.elapsed()
        };
        let flood = timeout_at(within(Duration::from_millis(5)), flood);
        let (flood, took) = tokio::join!(flood, good);
        assert!(flood.is_err() && took < Duration::from_millis(3), "{took:?}");
        let state = room.state();
        assert_eq!((state.bodies.len(), state.leaving), (0, 0));
    }
}
