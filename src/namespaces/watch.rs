//! Fills the snapshot of opted-in namespaces from the API server, and looks up the one that
//! a review names before the watch has brought it.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace as KubernetesNamespace;
use kube::{
    Api, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{Namespace, Namespaces, OPT_IN_LABEL};
use crate::{config::TenantRule, session::is_dns_label};

type Metadata = PartialObjectMeta<KubernetesNamespace>;

/// Watches until the process ends. The first complete list makes `synced` true.
pub async fn watch(
    client: kube::Client,
    rule: TenantRule,
    snapshot: watch::Sender<Arc<Namespaces>>,
    synced: watch::Sender<bool>,
) {
    let api: Api<Metadata> = Api::all(client);
    let selector = watcher::Config::default().labels(&format!("{OPT_IN_LABEL} in (audit,enabled)"));
    let mut events = pin!(watcher::watcher(api, selector).default_backoff());
    let mut known: HashMap<String, Namespace> = HashMap::new();
    let mut listed: HashMap<String, Namespace> = HashMap::new();
    let mut broken = false;
    while let Some(event) = events.next().await {
        let complete = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(namespace)) => {
                listed.insert(namespace.name_any(), read(&namespace, &rule));
                continue;
            }
            Ok(Event::InitDone) => {
                known = std::mem::take(&mut listed);
                true
            }
            Ok(Event::Apply(namespace)) => {
                known.insert(namespace.name_any(), read(&namespace, &rule));
                false
            }
            Ok(Event::Delete(namespace)) => {
                known.remove(&namespace.name_any());
                false
            }
            Err(error) => {
                if !broken {
                    tracing::warn!(%error, "the watch of namespaces broke; serving what is known");
                    broken = true;
                }
                continue;
            }
        };
        if broken {
            tracing::info!("the watch of namespaces goes on");
            broken = false;
        }
        snapshot.send_replace(Arc::new(known.values().cloned().collect()));
        if complete {
            synced.send_replace(true);
        }
    }
}

/// Finds a namespace that the snapshot lacks. Whoever can send reviews can invent names, so
/// the API server is asked seldom, once at a time, and its answer is remembered.
#[derive(Debug)]
pub struct Lookup {
    /// None: there is no API server to ask.
    api: Option<Api<Metadata>>,
    rule: TenantRule,
    snapshot: watch::Receiver<Arc<Namespaces>>,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    answers: HashMap<String, (Instant, Option<Namespace>)>,
    tokens: u32,
    filled: Instant,
}

impl Lookup {
    pub fn new(
        client: Option<kube::Client>,
        rule: TenantRule,
        snapshot: watch::Receiver<Arc<Namespaces>>,
    ) -> Self {
        let asked = Asked { answers: HashMap::new(), tokens: BURST, filled: Instant::now() };
        Self { api: client.map(Api::all), rule, snapshot, asked: Mutex::new(asked) }
    }

    pub fn snapshot(&self) -> Arc<Namespaces> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// The namespace, opted in or not. None: it does not exist, or nobody could say so in time.
    pub async fn find(&self, name: &str, deadline: Instant) -> Option<Namespace> {
        let asked = Instant::now();
        let api = self.api.as_ref().filter(|_| is_dns_label(name))?;
        if let Some(namespace) = self.wait(name, deadline.min(Instant::now() + WAIT)).await {
            return Some(namespace);
        }
        timeout_at(deadline, self.ask(api, name, asked)).await.ok().flatten()
    }

    /// The watch is usually a moment behind the namespace's first pod, and no more.
    async fn wait(&self, name: &str, until: Instant) -> Option<Namespace> {
        let mut snapshot = self.snapshot.clone();
        let found =
            timeout_at(until, snapshot.wait_for(|namespaces| namespaces.find(name).is_some()))
                .await;
        found.ok()?.ok()?.find(name).cloned()
    }

    async fn ask(&self, api: &Api<Metadata>, name: &str, since: Instant) -> Option<Namespace> {
        // Held over the call: a second question for the same name finds the answer.
        let mut asked = self.asked.lock().await;
        let now = Instant::now();
        asked.answers.retain(|_, (at, _)| now < *at + REMEMBERED);
        if let Some((at, answer)) = asked.answers.get(name) {
            // Only what was answered after the review came may say that a namespace did not
            // opt in: the API server, which sent it, may know better by now.
            let opted_in = answer.as_ref().is_some_and(|namespace| namespace.mode.is_some());
            return answer.clone().filter(|_| opted_in || *at >= since);
        }
        if !asked.may_ask(now) {
            return None;
        }
        let answer = match timeout(CALL, api.get_opt(name)).await {
            Ok(Ok(found)) => found.map(|namespace| read(&namespace, &self.rule)),
            Ok(Err(error)) => {
                tracing::warn!(namespace = name, %error, "namespace cannot be read");
                return None;
            }
            Err(_) => return None,
        };
        asked.answers.insert(name.to_owned(), (now, answer.clone()));
        answer
    }
}

impl Asked {
    /// A bucket of [`BURST`] that fills by [`PER_SECOND`].
    fn may_ask(&mut self, now: Instant) -> bool {
        let seconds = now.duration_since(self.filled).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(BURST).saturating_mul(PER_SECOND);
            self.tokens = self.tokens.saturating_add(more).min(BURST);
            self.filled = now;
        }
        let may = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        may
    }
}

fn read(namespace: &Metadata, rule: &TenantRule) -> Namespace {
    let labels = namespace.labels();
    Namespace::read(&namespace.name_any(), |key| labels.get(key).map(String::as_str), rule)
}

const BURST: u32 = 10;
const PER_SECOND: u32 = 5;
const CALL: Duration = Duration::from_secs(1);
const REMEMBERED: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_millis(300);
