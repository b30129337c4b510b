//! The memory budget of responses that clients have not read yet.
//!
//! The kernel takes a response of usual size within microseconds, and the response leaves the
//! budget. The response to a client that does not read stays. If the budget is full, a new
//! response drops the oldest one: the connection of the oldest is closed.
//!
//! Without it, 160 unread responses of 1.9 MiB hold 162 MiB, and with it 44 MiB (release build,
//! `unread_responses_stay_within_their_budget`). The webhook accepts 256 connections, and has 256
//! MiB.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use tokio::time::Instant;

use crate::{serve::Connection, telemetry::Metrics};

/// The budget.
#[derive(Clone, Debug)]
pub(super) struct ResponseBudget {
    metrics: Metrics,
    state: Arc<Mutex<ResponseBudgetState>>,
}

#[derive(Debug)]
struct ResponseBudgetState {
    /// Bytes of the budget that are free.
    free: usize,
    /// Unread responses, in the order of their creation.
    answers: BTreeMap<u64, UnreadResponse>,
    next: u64,
}

/// An unread response.
#[derive(Debug)]
struct UnreadResponse {
    bytes: usize,
    since: Instant,
    connection: Connection,
}

/// The bytes of one response. They count until the last slice of them is dropped.
struct Counted {
    bytes: Vec<u8>,
    number: u64,
    budget: ResponseBudget,
}

impl ResponseBudget {
    pub(super) fn new(bytes: usize, metrics: Metrics) -> Self {
        let state = ResponseBudgetState { free: bytes, answers: BTreeMap::new(), next: 0 };
        Self { metrics, state: Arc::new(Mutex::new(state)) }
    }

    /// Counts `bytes` until they are written or `connection` ends, and returns them. Closes the
    /// connections of older responses if the budget is full.
    pub(super) fn hold(&self, bytes: Vec<u8>, connection: Connection) -> Bytes {
        let size = bytes.len() + OVERHEAD_BYTES;
        let mut state = self.state();
        for pushed_out in state.evict_for(size, Instant::now()) {
            self.metrics.unread_response();
            pushed_out.connection.cut();
        }
        let number = state.enter(size, Instant::now(), connection);
        drop(state);
        Bytes::from_owner(Counted { bytes, number, budget: self.clone() })
    }

    /// Locks the state. Every change is complete before the lock is released, so a poisoned lock
    /// can be used.
    fn state(&self) -> MutexGuard<'_, ResponseBudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResponseBudgetState {
    /// Drops responses that are too old, and as many more as `bytes` needs. Returns them.
    fn evict_for(&mut self, bytes: usize, now: Instant) -> Vec<UnreadResponse> {
        let mut pushed_out = Vec::new();
        while let Some(oldest) = self.answers.first_entry()
            && (bytes > self.free || now > oldest.get().since + LONGEST)
        {
            self.free += oldest.get().bytes;
            pushed_out.push(oldest.remove());
        }
        pushed_out
    }

    fn enter(&mut self, bytes: usize, since: Instant, connection: Connection) -> u64 {
        // A response that is larger than the whole budget takes the whole budget.
        let bytes = bytes.min(self.free);
        self.free -= bytes;
        let number = self.next;
        self.next += 1;
        self.answers.insert(number, UnreadResponse { bytes, since, connection });
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
        self.budget.state().leave(self.number);
    }
}

/// Maximum age of an unread response, even if the budget is not full. An API server waits 30 s at
/// most for a webhook, and 5 s for this one (`timeoutSeconds` in the chart).
const LONGEST: Duration = Duration::from_secs(10);
/// Memory of a response in addition to its body, in bytes: its HTTP/2 stream and headers.
const OVERHEAD_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 10 * (OVERHEAD_BYTES + 100);

    async fn is_cut(connection: &Connection) -> bool {
        tokio::time::timeout(Duration::from_millis(1), connection.is_cut()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_was_read_frees_its_budget() {
        let budget = ResponseBudget::new(BUDGET, Metrics::default());
        let connection = Connection::default();
        for _ in 0..100 {
            let bytes = budget.hold(vec![b'x'; 100], connection.clone());
            let piece = bytes.slice(50..);
            drop(bytes);
            assert_eq!(budget.state().free, BUDGET - OVERHEAD_BYTES - 100);
            drop(piece);
        }
        assert_eq!(budget.state().free, BUDGET);
        assert!(!is_cut(&connection).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_response_evicts_as_many_old_ones_as_it_needs() {
        let budget = ResponseBudget::new(BUDGET, Metrics::default());
        let connections: Vec<Connection> = (0..11).map(|_| Connection::default()).collect();
        let mut held = Vec::new();
        for connection in &connections {
            held.push(budget.hold(vec![b'x'; 100], connection.clone()));
        }
        let large = Connection::default();
        held.push(budget.hold(vec![b'x'; 2 * (OVERHEAD_BYTES + 100)], large.clone()));
        for (n, connection) in connections.iter().enumerate() {
            assert_eq!(is_cut(connection).await, n < 4, "{n}");
        }
        assert!(!is_cut(&large).await);
        // Dropped responses left the budget already; they must not free their bytes twice.
        drop(held);
        assert_eq!(budget.state().free, BUDGET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_not_read_is_evicted_after_a_time() {
        let budget = ResponseBudget::new(BUDGET, Metrics::default());
        let (old, new) = (Connection::default(), Connection::default());
        let _held = budget.hold(vec![b'x'; 100], old.clone());
        tokio::time::advance(LONGEST).await;
        let _also = budget.hold(vec![b'x'; 100], new.clone());
        assert!(!is_cut(&old).await);
        tokio::time::advance(Duration::from_millis(1)).await;
        drop(budget.hold(vec![b'x'; 100], new.clone()));
        assert!(is_cut(&old).await && !is_cut(&new).await);
    }
}
