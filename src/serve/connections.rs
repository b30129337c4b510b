//! The open connections of a port, and the choice of the one that a new connection closes.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The connections of one port, up to a maximum number.
///
/// If the maximum is reached, a new connection closes another one. It is a connection of the
/// address with the most connections: the oldest one without a successful response (2xx), else the
/// one whose latest successful response is the oldest. So a client that opens many connections
/// closes its own, and an API server keeps its few.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    slots: Arc<Semaphore>,
    state: Mutex<State>,
    /// Number of successful responses on this port.
    answered: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    /// Open connections, in the order of their arrival, without those that are being closed.
    open: BTreeMap<u64, (IpAddr, Connection)>,
    next: u64,
}

/// A place among the connections. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Slot {
    connection: Connection,
    connections: Connections,
    number: u64,
    _place: Option<OwnedSemaphorePermit>,
}

/// The connection of a request. It is one of the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Connection(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cut: Notify,
    /// Whether a request arrived on it.
    has_asked: AtomicBool,
    /// Number of its latest successful response, counted over the port. 0: none.
    latest: AtomicU64,
    answered: Arc<AtomicU64>,
}

impl Connections {
    /// Returns a limit of `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Shared {
            slots: Arc::new(Semaphore::new(most)),
            state: Mutex::default(),
            answered: Arc::default(),
        }))
    }

    /// Takes a place. If none is free, closes another connection first.
    pub(super) async fn enter(&self, peer: IpAddr) -> Slot {
        let Shared { slots, state: _, answered } = &*self.0;
        let free = Arc::clone(slots).try_acquire_owned();
        let place = match free {
            Ok(place) => Some(place),
            Err(_) => {
                if let Some(connection) = self.state().take_one_out() {
                    connection.cut();
                }
                // The semaphore is never closed.
                Arc::clone(slots).acquire_owned().await.ok()
            }
        };
        let connection =
            Connection(Arc::new(Inner { answered: Arc::clone(answered), ..Inner::default() }));
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, (peer, connection.clone()));
        drop(state);
        Slot { connection, connections: self.clone(), number, _place: place }
    }

    /// Locks the state. Every change is complete before the lock is released, so a poisoned lock
    /// can be used.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Removes the connection that is to be closed for a new one.
    fn take_one_out(&mut self) -> Option<Connection> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (peer, _) in self.open.values() {
            *counts.entry(*peer).or_default() += 1;
        }
        let rank = |(peer, connection): &(IpAddr, Connection)| {
            let others = self.open.len() - counts.get(peer).copied().unwrap_or_default();
            (others, connection.0.latest.load(Ordering::Relaxed))
        };
        let first = self.open.iter().min_by_key(|(_, entry)| rank(entry));
        let number = first.map(|(&number, _)| number)?;
        self.open.remove(&number).map(|(_, connection)| connection)
    }
}

impl Slot {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.state().open.remove(&self.number);
    }
}

impl Connection {
    /// Closes the connection at once, without its unfinished responses.
    pub fn cut(&self) {
        self.0.cut.notify_one();
    }

    /// Returns when the connection must be closed.
    pub async fn is_cut(&self) {
        self.0.cut.notified().await;
    }

    /// Reports whether a request arrived on the connection.
    pub(super) fn has_asked(&self) -> bool {
        self.0.has_asked.load(Ordering::Relaxed)
    }

    /// Records that a request arrived on the connection.
    pub(super) fn asks(&self) {
        self.0.has_asked.store(true, Ordering::Relaxed);
    }

    /// Records a successful response on the connection.
    pub(super) fn is_answered(&self) {
        let number = self.0.answered.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.latest.store(number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn is_cut(connection: &Connection) -> bool {
        timeout(Duration::from_millis(1), connection.is_cut()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_closes_the_least_important_one() {
        let connections = Connections::new(4);
        let mut slots = Vec::new();
        for _ in 0..4 {
            slots.push(Some(connections.enter(PEER).await));
        }
        let connection = |slots: &[Option<Slot>], index: usize| -> Connection {
            slots[index].as_ref().unwrap().connection().clone()
        };
        for index in [2, 0, 2] {
            connection(&slots, index).is_answered();
        }
        connection(&slots, 1).asks();
        let mut left = vec![0, 1, 2, 3];
        let mut new = Vec::new();
        for (index, what) in
            [(1, "oldest"), (3, "unanswered"), (0, "answered long ago"), (2, "last")]
        {
            left.retain(|other| *other != index);
            let gives_way = async {
                assert!(is_cut(&connection(&slots, index)).await, "{what}");
                for other in &left {
                    assert!(!is_cut(&connection(&slots, *other)).await, "{what}: not {other}");
                }
                // As its task does when it ends.
                slots[index] = None;
            };
            let (slot, ()) = tokio::join!(connections.enter(PEER), gives_way);
            slot.connection().is_answered();
            new.push(slot);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_with_most_connections_loses_one() {
        let connections = Connections::new(4);
        let few = connections.enter(PEER).await;
        let many = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let mut slots = Vec::new();
        for _ in 0..3 {
            let slot = connections.enter(many).await;
            slot.connection().is_answered();
            slots.push(slot);
        }
        // The client with few connections had no successful response, the other one had.
        let new = connections.enter(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        let gives_way = async {
            assert!(is_cut(slots[0].connection()).await);
            assert!(!is_cut(few.connection()).await);
            drop(slots.remove(0));
        };
        tokio::join!(new, gives_way);
    }
}
