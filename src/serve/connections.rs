//! The open connections of a port, and the choice of the one that a new connection closes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The connections of one port, up to a maximum number.
///
/// If the maximum is reached, a new connection closes another one. A network is an IPv4 address or
/// an IPv6 /64, which one host can have. The choice:
///
/// 1. the network with the most connections;
/// 2. in it, the address with the most connections;
/// 3. from this address, the connections without a [`PendingDecision`]; if each has one, all;
/// 4. among these, the oldest one without a successful response (2xx), else the one whose latest
///    successful response is the oldest.
///
/// So a client that opens many connections closes its own, and an API server keeps its few.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    slots: Arc<Semaphore>,
    state: Mutex<OpenConnections>,
    /// Number of successful responses on this port.
    answered: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct OpenConnections {
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
    /// Number of its requests with a [`PendingDecision`].
    deciding: AtomicUsize,
}

/// The decision of a request that was read whole, until this is dropped. A client cannot prolong it.
#[derive(Debug)]
pub struct PendingDecision<'c>(&'c Connection);

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
        state.open.insert(number, (peer.to_canonical(), connection.clone()));
        drop(state);
        Slot { connection, connections: self.clone(), number, _place: place }
    }

    /// Locks the state. Every change is complete before the lock is released, so a poisoned lock
    /// can be used.
    fn state(&self) -> MutexGuard<'_, OpenConnections> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    /// Removes the connection that is to be closed for a new one.
    fn take_one_out(&mut self) -> Option<Connection> {
        let mut networks: HashMap<IpAddr, usize> = HashMap::new();
        let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
        for (peer, _) in self.open.values() {
            *networks.entry(network(*peer)).or_default() += 1;
            *addresses.entry(*peer).or_default() += 1;
        }
        let rank = |(peer, Connection(inner)): &(IpAddr, Connection)| {
            (
                Reverse(networks.get(&network(*peer))),
                Reverse(addresses.get(peer)),
                inner.deciding.load(Ordering::Relaxed) > 0,
                inner.latest.load(Ordering::Relaxed),
            )
        };
        let first = self.open.iter().min_by_key(|(_, entry)| rank(entry));
        let number = first.map(|(&number, _)| number)?;
        self.open.remove(&number).map(|(_, connection)| connection)
    }
}

/// Returns the address without the part that a client can choose.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
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

    /// Starts the decision of a request that was read whole.
    pub fn decides(&self) -> PendingDecision<'_> {
        self.0.deciding.fetch_add(1, Ordering::Relaxed);
        PendingDecision(self)
    }

    /// Records a successful response on the connection.
    pub(super) fn is_answered(&self) {
        let number = self.0.answered.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.latest.store(number, Ordering::Relaxed);
    }
}

impl Drop for PendingDecision<'_> {
    fn drop(&mut self) {
        let Self(Connection(inner)) = self;
        inner.deciding.fetch_sub(1, Ordering::Relaxed);
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

    /// Opens these connections and then one more. Returns the index of the one that is closed.
    async fn closed(open: &[(&str, &str)]) -> usize {
        let connections = Connections::new(open.len());
        let mut slots = Vec::new();
        for (peer, _) in open {
            slots.push(connections.enter(peer.parse().unwrap()).await);
        }
        let mut decisions = Vec::new();
        for ((_, state), slot) in open.iter().zip(&slots) {
            match *state {
                "answered" => slot.connection().is_answered(),
                "deciding" => decisions.push(slot.connection().decides()),
                "decided" => drop(slot.connection().decides()),
                _ => {}
            }
        }
        let enters = timeout(Duration::from_millis(1), connections.enter(PEER)).await;
        assert!(enters.is_err(), "no place is free");
        let mut closed = Vec::new();
        for (index, slot) in slots.iter().enumerate() {
            if is_cut(slot.connection()).await {
                closed.push(index);
            }
        }
        let [index] = closed[..] else { panic!("{open:?}: {closed:?}") };
        index
    }

    /// In each case another rule would close the first connection.
    #[tokio::test(start_paused = true)]
    async fn the_client_with_most_connections_loses_one() {
        // An address has the most.
        let open = [("10.0.0.1", ""), ("10.0.0.2", "answered"), ("10.0.0.2", "answered")];
        assert_eq!(closed(&open).await, 1);
        // A /64 has the most, with one connection from each address.
        let open = [
            ("2001:db8:0:1::1", ""),
            ("2001:db8:0:1::1", ""),
            ("2001:db8:0:2::1", "answered"),
            ("2001:db8:0:2:ffff::2", "answered"),
            ("2001:db8:0:2:ffff:ffff:ffff:ffff", "answered"),
        ];
        assert_eq!(closed(&open).await, 2);
        // An address in the /64 has the most.
        let open = [
            ("2001:db8::1", ""),
            ("10.0.0.1", ""),
            ("10.0.0.1", ""),
            ("2001:db8::2", "answered"),
            ("2001:db8::2", "answered"),
        ];
        assert_eq!(closed(&open).await, 3);
        // IPv4 addresses as IPv6 addresses are all in one /64, and are no network.
        let open = [
            ("::ffff:10.0.0.1", ""),
            ("::ffff:10.0.0.2", ""),
            ("::ffff:10.0.0.3", ""),
            ("10.0.0.4", "answered"),
            ("10.0.0.4", "answered"),
        ];
        assert_eq!(closed(&open).await, 3);
        // In both forms it is one address.
        let open = [("10.0.0.1", ""), ("10.0.0.2", "answered"), ("::ffff:10.0.0.2", "answered")];
        assert_eq!(closed(&open).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_decision_is_closed_last() {
        let one = "10.0.0.1";
        assert_eq!(closed(&[(one, "deciding"), (one, "answered"), (one, "answered")]).await, 1);
        assert_eq!(closed(&[(one, "decided"), (one, "answered")]).await, 0);
        assert_eq!(closed(&[(one, "deciding"), (one, "deciding")]).await, 0);
        // It does not protect the address with most connections.
        let other = ("10.0.0.2", "");
        assert_eq!(closed(&[other, (one, "deciding"), (one, "deciding")]).await, 1);
    }
}
