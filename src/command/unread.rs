//! The answers that clients have not read yet.
//!
//! Who reads has its answer out of here within microseconds, since the kernel takes what is of
//! a usual size. Who does not read would have it stay. So there is so much room for all of
//! them, and whoever comes pushes out the oldest, by an end of its connection.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use tokio::time::Instant;

use crate::serve::Connection;

#[derive(Clone, Debug)]
pub(super) struct Unread {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// By the order in which they came.
    answers: BTreeMap<u64, Answer>,
    next: u64,
}

#[derive(Debug)]
struct Answer {
    bytes: usize,
    since: Instant,
    connection: Connection,
}

/// The bytes of one answer. They are counted until the last piece of them is gone.
struct Counted {
    bytes: Vec<u8>,
    number: u64,
    unread: Unread,
}

impl Unread {
    pub(super) fn new(room: usize) -> Self {
        let state = State { free: room, answers: BTreeMap::new(), next: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The same bytes, which leave when they are written or `connection` ends.
    pub(super) fn hold(&self, bytes: Vec<u8>, connection: Connection) -> Bytes {
        let number = self.state().enter(bytes.len() + BESIDE, Instant::now(), connection);
        Bytes::from_owner(Counted { bytes, number, unread: self.clone() })
    }

    /// Each change is whole before the lock is left, so a panic elsewhere spoils nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, bytes: usize, now: Instant, connection: Connection) -> u64 {
        while let Some(oldest) = self.answers.first_entry()
            && (bytes > self.free || now > oldest.get().since + LONGEST)
        {
            let pushed_out = oldest.remove();
            self.free += pushed_out.bytes;
            pushed_out.connection.cut();
        }
        // One that is larger than all of the room takes all of it.
        let bytes = bytes.min(self.free);
        self.free -= bytes;
        let number = self.next;
        self.next += 1;
        self.answers.insert(number, Answer { bytes, since: now, connection });
        number
    }

    fn leave(&mut self, number: u64) {
        if let Some(answer) = self.answers.remove(&number) {
            self.free += answer.bytes;
        }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.unread.state().leave(self.number);
    }
}

/// How long an answer may stay, though there is room. An API server waits for no review longer
/// than 30 s, and for ours 5 s.
const LONGEST: Duration = Duration::from_secs(10);
/// What an answer takes beside its bytes, in bytes: a stream of HTTP/2 and its head.
const BESIDE: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 10 * (BESIDE + 100);

    async fn is_cut(connection: &Connection) -> bool {
        tokio::time::timeout(Duration::from_millis(1), connection.is_cut()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_has_left() {
        let unread = Unread::new(ROOM);
        let connection = Connection::default();
        for _ in 0..100 {
            let bytes = unread.hold(vec![b'x'; 100], connection.clone());
            let piece = bytes.slice(50..);
            drop(bytes);
            assert_eq!(unread.state().free, ROOM - BESIDE - 100);
            drop(piece);
        }
        assert_eq!(unread.state().free, ROOM);
        assert!(!is_cut(&connection).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_pushes_out_as_many_of_the_oldest_as_it_needs() {
        let unread = Unread::new(ROOM);
        let connections: Vec<Connection> = (0..11).map(|_| Connection::default()).collect();
        let mut held = Vec::new();
        for connection in &connections {
            held.push(unread.hold(vec![b'x'; 100], connection.clone()));
        }
        let large = Connection::default();
        held.push(unread.hold(vec![b'x'; 2 * (BESIDE + 100)], large.clone()));
        for (n, connection) in connections.iter().enumerate() {
            assert_eq!(is_cut(connection).await, n < 4, "{n}");
        }
        assert!(!is_cut(&large).await);
        // Those that were pushed out are counted no more, and so not twice.
        drop(held);
        assert_eq!(unread.state().free, ROOM);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_reads_goes_though_there_is_room() {
        let unread = Unread::new(ROOM);
        let (old, new) = (Connection::default(), Connection::default());
        let _held = unread.hold(vec![b'x'; 100], old.clone());
        tokio::time::advance(LONGEST).await;
        let _also = unread.hold(vec![b'x'; 100], new.clone());
        assert!(!is_cut(&old).await);
        tokio::time::advance(Duration::from_millis(1)).await;
        drop(unread.hold(vec![b'x'; 100], new.clone()));
        assert!(is_cut(&old).await && !is_cut(&new).await);
    }
}
