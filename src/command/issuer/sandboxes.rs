//! The Sandboxes of agent-sandbox: the session of a pod that runs one, and the requests that wait for
//! a SandboxClaim.
//!
//! Nothing of a Sandbox is stored. The watch only wakes requests; a read decides.

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, WatchEvent, WatchParams},
};
use tokio::{
    sync::{Notify, Semaphore, futures::OwnedNotified},
    time::{Instant, sleep, timeout_at},
};

use super::api_server::ApiServer;
use crate::{
    issuer::{
        CLAIM_API, GuardRule, MintLimit, OwnedSandbox, SANDBOX_API, SandboxOwner, SandboxReference,
        SandboxSession, TokenFacts, TokenRefusal, is_in_pool,
    },
    json::Json,
};

/// Reads the session of a pod that runs a Sandbox: the UID of its claim, or that of the pod.
pub(super) async fn session(
    api_server: &ApiServer,
    facts: &TokenFacts,
    pod: Json<'_>,
) -> Result<SandboxSession, TokenRefusal> {
    let reference = SandboxReference::of_pod(facts, pod)?;
    let path = resource(SANDBOX_API, facts, "sandboxes");
    let sandbox = api_server.metadata(&path, &reference.name, "sandbox").await?;
    let sandbox = OwnedSandbox::of(facts, &reference, sandbox.as_deref().map(Json::from))?;
    let claim = match &sandbox.owner {
        SandboxOwner::NoOwner => None,
        SandboxOwner::Claim(claim) => {
            let path = resource(CLAIM_API, facts, "sandboxclaims");
            api_server.metadata(&path, &claim.name, "sandboxclaim").await?
        }
    };
    let guard_since = api_server.guard_since(&GuardRule::of_sandboxes()).await?;
    sandbox.session(facts, claim.as_deref().map(Json::from), guard_since)
}

fn resource(api: &str, facts: &TokenFacts, resource: &str) -> String {
    format!("{api}/namespaces/{}/{resource}", facts.namespace.as_str())
}

/// The requests that wait until a claim gets the pod's Sandbox. Each has a connection of its own, so
/// their number is bounded.
pub(super) struct Waiters {
    client: Client,
    api_server: Arc<ApiServer>,
    limit: Mutex<MintLimit>,
    /// Reads of requests that wait. A pool may have more of them than tokens are signed at once.
    reads: Semaphore,
    waiting: Mutex<WaitingRequests>,
}

#[derive(Default)]
struct WaitingRequests {
    /// By namespace and name of the Sandbox, which are those of the pod.
    by_sandbox: HashMap<(String, String), Waiter>,
    /// Whether this process ends.
    is_over: bool,
}

#[derive(Default)]
struct Waiter {
    wake: Arc<Notify>,
    requests: usize,
}

impl WaitingRequests {
    /// Returns the number of requests of these namespaces.
    fn count(&self, is_counted: impl Fn(&String) -> bool) -> usize {
        let counted = self.by_sandbox.iter().filter(|((namespace, _), _)| is_counted(namespace));
        counted.map(|(_, waiter)| waiter.requests).sum()
    }

    /// Adds a request. Returns what wakes it, or `None` if too many wait.
    fn enter(&mut self, key: &(String, String)) -> Option<Arc<Notify>> {
        if self.is_over {
            return None;
        }
        if self.count(|_| true) >= MOST_WAITING
            || self.count(|namespace| *namespace == key.0) >= MOST_OF_NAMESPACE
        {
            return None;
        }
        let waiter = self.by_sandbox.entry(key.clone()).or_default();
        let has_room = waiter.requests < MOST_OF_ONE;
        waiter.requests += usize::from(has_room);
        has_room.then(|| Arc::clone(&waiter.wake))
    }
}

/// The place of a request among those that wait. Its end frees the place.
struct Place<'w> {
    waiters: &'w Waiters,
    key: (String, String),
    wake: Arc<Notify>,
}

impl Waiters {
    pub(super) fn new(client: Client, api_server: Arc<ApiServer>) -> Self {
        let limit = Mutex::new(MintLimit::of_reads(Instant::now().into_std()));
        let reads = Semaphore::new(MOST_READS);
        Self { client, api_server, limit, reads, waiting: Mutex::default() }
    }

    /// Returns once the pod's Sandbox is in no pool any more, as far as its name says: only a token
    /// that was reviewed proves more. It costs one read of the Sandbox, and one for each of its
    /// changes.
    pub(super) async fn until_bound(
        &self,
        facts: &TokenFacts,
        wait: Duration,
    ) -> Result<(), TokenRefusal> {
        let unbound = || TokenRefusal::Unbound { pod: facts.pod_name.to_string() };
        {
            let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now().into_std();
            limit.take(&facts.pod_uid, &facts.namespace, now).map_err(|_| TokenRefusal::Busy)?;
        }
        let deadline = Instant::now() + wait.min(LONGEST);
        let place = if wait.is_zero() { None } else { self.enter(facts) };
        let path = resource(SANDBOX_API, facts, "sandboxes");
        loop {
            // Before the read, so that no change after it is missed.
            let changed = place.as_ref().map(Place::changed);
            // The metadata, of which a tenant chooses the length, is not kept while the request waits.
            let is_in_pool = {
                let _permit = self.reads.acquire().await;
                let sandbox = self.api_server.metadata(&path, &facts.pod_name, "sandbox").await?;
                sandbox.is_some_and(|sandbox| is_in_pool(Json::from(&*sandbox)))
            };
            if !is_in_pool {
                return Ok(());
            }
            let changed = changed.ok_or_else(unbound)?;
            timeout_at(deadline, changed).await.map_err(|_| unbound())?;
            if self.lock().is_over {
                return Err(unbound());
            }
        }
    }

    /// Returns the place of a new request, or `None` if too many wait.
    fn enter(&self, facts: &TokenFacts) -> Option<Place<'_>> {
        let key = (facts.namespace.as_str().to_owned(), facts.pod_name.as_str().to_owned());
        let wake = self.lock().enter(&key)?;
        Some(Place { waiters: self, key, wake })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WaitingRequests> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the Sandboxes until the process ends. `ends`: when it begins to end.
    pub(super) async fn follow(self: Arc<Self>, ends: impl Future<Output = ()> + Send) {
        let mut ends = pin!(ends);
        let mut is_broken = false;
        loop {
            let watched = tokio::select! {
                watched = self.watch() => watched,
                () = &mut ends => {
                    self.lock().is_over = true;
                    self.wake_all();
                    // Other tasks and requests go on for some seconds.
                    return std::future::pending().await;
                }
            };
            if let Err(error) = &watched
                && !is_broken
            {
                tracing::warn!(%error, "watch of Sandboxes failed; sessions may be bound late");
            }
            is_broken = watched.is_err();
            // A change in between was not seen.
            self.wake_all();
            sleep(RETRY).await;
        }
    }

    async fn watch(&self) -> anyhow::Result<()> {
        let api: Api<DynamicObject> = Api::all_with(
            self.client.clone(),
            &ApiResource {
                group: "agents.x-k8s.io".to_owned(),
                version: "v1beta1".to_owned(),
                api_version: "agents.x-k8s.io/v1beta1".to_owned(),
                kind: "Sandbox".to_owned(),
                plural: "sandboxes".to_owned(),
            },
        );
        let since = self.api_server.version_of_sandboxes().await?;
        let parameters = WatchParams::default().timeout(WATCH_SECONDS);
        let mut events = pin!(api.watch_metadata(&parameters, &since).await?);
        self.wake_all();
        while let Some(event) = events.next().await {
            let event = match event {
                // A tenant can write metadata that the client does not parse.
                Err(kube::Error::SerdeError(_)) => {
                    self.wake_all();
                    sleep(RETRY).await;
                    continue;
                }
                event => event?,
            };
            match event {
                WatchEvent::Added(object)
                | WatchEvent::Modified(object)
                | WatchEvent::Deleted(object) => {
                    let metadata = object.metadata;
                    // The pool and its controller write the status often.
                    let owners = metadata.owner_references.unwrap_or_default();
                    if owners.iter().any(|owner| {
                        owner.controller == Some(true) && owner.kind == "SandboxWarmPool"
                    }) {
                        continue;
                    }
                    let key =
                        (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
                    if let Some(waiter) = self.lock().by_sandbox.get(&key) {
                        waiter.wake.notify_waiters();
                    }
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            }
        }
        Ok(())
    }

    fn wake_all(&self) {
        for waiter in self.lock().by_sandbox.values() {
            waiter.wake.notify_waiters();
        }
    }
}

impl Place<'_> {
    fn changed(&self) -> OwnedNotified {
        Arc::clone(&self.wake).notified_owned()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(waiter) = waiting.by_sandbox.get_mut(&self.key) {
            waiter.requests -= 1;
            if waiter.requests == 0 {
                waiting.by_sandbox.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiters")
    }
}

/// Maximum number of requests that wait: half of the connections of a replica, so that waiting pods
/// leave the others to pods that have a session.
const MOST_WAITING: usize = 512;
/// The same for one namespace, so that a large pool of one tenant leaves places to others.
const MOST_OF_NAMESPACE: usize = 256;
/// Maximum number of reads in progress of requests that wait, of the 16 calls that the issuer makes
/// at once.
const MOST_READS: usize = 4;
/// Maximum number of requests that wait for one Sandbox. A sidecar has one; a second one may follow
/// while the first one's connection is broken.
const MOST_OF_ONE: usize = 2;
/// Maximum time that a request waits. A sidecar prefers 30 s.
const LONGEST: Duration = Duration::from_secs(60);
/// Time after which the API server ends a watch.
const WATCH_SECONDS: u32 = 290;
/// Pause between two watches.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_of_one_namespace_leaves_places_to_others() {
        let mut waiting = WaitingRequests::default();
        let mut enter = |namespace: &str, number: usize| {
            waiting.enter(&(namespace.to_owned(), format!("pool-{number}"))).is_some()
        };
        assert!((0..MOST_OF_NAMESPACE).all(|number| enter("a", number)));
        assert!(!enter("a", MOST_OF_NAMESPACE));
        assert!(!enter("a", 0), "a second request for the same Sandbox");
        assert!((0..MOST_WAITING - MOST_OF_NAMESPACE - 2).all(|number| enter("b", number)));
        assert!(enter("b", 0), "a second request for the same Sandbox");
        assert!(!enter("b", 0), "a third one");
        assert!(enter("c", 0));
        assert!(!enter("d", 0), "all places are taken");
        waiting.is_over = true;
        assert!(waiting.enter(&("a".to_owned(), "pool-1".to_owned())).is_none());
    }
}
