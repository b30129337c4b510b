//! A steady stream of pod creations, and their results.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::api_server::{ApiServer, NotCreated};

/// A running stream. It stops when dropped.
pub struct Stream {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    thread: Option<JoinHandle<()>>,
}

/// The results of a stream.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Admitted with their sidecar.
    pub injected: usize,
    /// Admitted without it, which must never happen.
    pub bare: usize,
    /// Not admitted, by refusal code; `webhook` or `api-server` if that was unreachable.
    pub refused: BTreeMap<String, usize>,
    /// The first full message of the API server.
    pub said: Option<String>,
    /// Duration of the slowest creation.
    pub slowest: Duration,
}

impl Stream {
    /// Creates `pod` every `every`, with generated names.
    pub fn start(kubeconfig: &Path, pod: Value, every: Duration) -> Self {
        Self::to(ApiServer::of(kubeconfig), pod, every)
    }

    /// Creates `pod` every `every` with this client.
    pub fn to(api_server: ApiServer, pod: Value, every: Duration) -> Self {
        let api_server = Arc::new(api_server);
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopping, shared) = (Arc::clone(&stop), Arc::clone(&tally));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut ticks = interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                let mut calls = JoinSet::new();
                while !stopping.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    while calls.try_join_next().is_some() {}
                    calls.spawn(create(Arc::clone(&api_server), pod.clone(), Arc::clone(&shared)));
                }
                calls.join_all().await;
            });
        });
        Self { stop, tally, thread: Some(thread) }
    }

    /// Returns the number of results since the last call of [`Self::take`].
    pub fn count(&self) -> usize {
        let Tally { injected, bare, refused, .. } = &*self.tally.lock().unwrap();
        injected + bare + refused.values().sum::<usize>()
    }

    /// Returns the results since the last call.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *self.tally.lock().unwrap())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn create(api_server: Arc<ApiServer>, pod: Value, tally: Arc<Mutex<Tally>>) {
    let begun = Instant::now();
    let created = api_server.create(&pod).await;
    let took = begun.elapsed();
    let mut tally = tally.lock().unwrap();
    tally.slowest = tally.slowest.max(took);
    if let Err(NotCreated::Refused(message)) = &created {
        tally.said.get_or_insert_with(|| message.clone());
    }
    let refusal = match created {
        Ok(pod) => {
            match pod["spec"]["initContainers"][0]["name"] == "fab-session-credentials" {
                true => tally.injected += 1,
                false => tally.bare += 1,
            }
            return;
        }
        Err(NotCreated::Refused(message)) if message.contains("failed calling webhook") => {
            "webhook".to_owned()
        }
        Err(NotCreated::Refused(message)) => code(&message),
        Err(NotCreated::NoAnswer(_)) => "api-server".to_owned(),
    };
    *tally.refused.entry(refusal).or_default() += 1;
}

/// Returns the code in brackets after the message.
fn code(message: &str) -> String {
    let code = message.split_once('[').and_then(|(_, rest)| rest.split_once("]:"));
    code.map_or_else(|| message.to_owned(), |(code, _)| code.to_owned())
}
