//! Sidecars that run, each asked for its credentials all the time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use harness::{
    process::{Process, wait_until},
    sidecar::pod::Pod,
};
use serde_json::Value;

/// The sidecars of a test, in the order of their start.
#[derive(Default)]
pub(super) struct Sessions(Vec<Session>);

/// A sidecar, and what its agent sees.
pub(super) struct Session {
    name: String,
    identity: String,
    pod: Arc<Pod>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _process: Process,
}

#[derive(Default)]
struct Seen {
    is_ready: bool,
    /// Codes of the responses before the first credentials.
    codes: BTreeSet<String>,
    /// Access key IDs of all credentials.
    keys: BTreeSet<String>,
    /// Responses without credentials after the first ones.
    missed: Vec<String>,
}

impl Sessions {
    /// Starts a sidecar, and does not wait. `uid`: that of the pod, which names the session.
    pub(super) fn start(&mut self, name: &str, uid: &str, pod: Pod) -> &Session {
        let process = pod.start();
        let (pod, seen) = (Arc::new(pod), Arc::<Mutex<Seen>>::default());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (pod, seen, stop) = (Arc::clone(&pod), Arc::clone(&seen), Arc::clone(&stop));
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    ask(&pod, &seen);
                    sleep(INTERVAL);
                }
            })
        };
        let session = Session {
            name: name.to_owned(),
            identity: format!("agent.acme.{uid}"),
            pod,
            seen,
            stop,
            thread: Some(thread),
            _process: process,
        };
        self.0.push(session);
        self.0.last().unwrap()
    }

    /// Returns the sidecar that was started last.
    pub(super) fn last(&self) -> &Session {
        self.0.last().unwrap()
    }

    /// Waits until each sidecar has had credentials.
    pub(super) fn await_all(&self) {
        for session in &self.0 {
            session.await_credentials();
        }
    }

    /// Waits until each sidecar has renewed its credentials.
    pub(super) fn await_renewals(&self) {
        self.await_renewals_of(self.0.len());
    }

    /// Waits until each of the first `number` sidecars has renewed its credentials.
    pub(super) fn await_renewals_of(&self, number: usize) {
        for session in &self.0[..number] {
            wait_until(&format!("{} has renewed", session.name), PATIENCE, || {
                (session.seen().keys.len() >= 2).then_some(())
            });
        }
    }

    /// Waits until the last attempt of each sidecar succeeded.
    pub(super) fn settle(&self) {
        for session in &self.0 {
            wait_until(&format!("{} has recovered", session.name), PATIENCE, || {
                session.pod.status()["lastError"].is_null().then_some(())
            });
        }
    }

    /// Checks that no agent was ever without credentials once it had some.
    pub(super) fn are_unbroken(&self, when: &str) {
        for session in &self.0 {
            let missed = &session.seen().missed;
            assert!(missed.is_empty(), "{when}: {} had none: {missed:?}", session.name);
        }
    }

    /// Returns the number of sidecars, of credentials, and of failed attempts.
    pub(super) fn counts(&self) -> (usize, usize, u64) {
        let keys = self.0.iter().map(|session| session.seen().keys.len()).sum();
        let failures = self.0.iter().map(|it| it.pod.status()["failures"].as_u64().unwrap()).sum();
        (self.0.len(), keys, failures)
    }

    /// Checks by CloudTrail's events that all credentials have the name of their own session, and
    /// that there are no others with a name.
    pub(super) fn have_their_names(&self, events: &[Value]) {
        let named: Vec<(&str, &str)> = events
            .iter()
            .filter_map(|event| {
                let given = &event["responseElements"];
                Some((
                    given["credentials"]["accessKeyId"].as_str()?,
                    given["sourceIdentity"].as_str()?,
                ))
            })
            .collect();
        let mut identities = BTreeSet::new();
        for session in &self.0 {
            assert_eq!(session.pod.status()["sourceIdentity"], *session.identity);
            identities.insert(&*session.identity);
            for key in &session.seen().keys {
                let name = named.iter().find(|(id, _)| id == key).map(|(_, name)| *name);
                assert_eq!(name, Some(&*session.identity), "{}: {key}", session.name);
            }
        }
        for (key, name) in &named {
            assert!(identities.contains(name), "{key} has the name {name}");
        }
    }
}

impl Session {
    pub(super) fn await_credentials(&self) {
        wait_until(&format!("{} has credentials", self.name), PATIENCE, || {
            self.seen().is_ready.then_some(())
        });
    }

    /// Returns the codes that the agent got in place of its first credentials.
    pub(super) fn codes(&self) -> BTreeSet<String> {
        self.seen().codes.clone()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.seen().is_ready
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(pod: &Pod, seen: &Mutex<Seen>) {
    let (status, body) = pod.get("/v1/credentials");
    let mut seen = seen.lock().unwrap();
    if status == 200 {
        seen.is_ready = true;
        seen.keys.insert(body["AccessKeyId"].as_str().unwrap().to_owned());
    } else if seen.is_ready {
        seen.missed.push(format!("{status} {body}"));
    } else if let Some(code) = body["code"].as_str() {
        seen.codes.insert(code.to_owned());
    }
}

const INTERVAL: Duration = Duration::from_millis(200);
/// A pod's limit of tokens and the sidecar's pauses add to the duration of a fault.
const PATIENCE: Duration = Duration::from_secs(90);
