//! Fills the snapshot of opted-in namespaces from the API server. Looks up a namespace that a
//! review names before the watch reports it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use k8s_openapi::{
    api::core::v1::Namespace as KubernetesNamespace, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::{Deserialize, Deserializer};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{Namespace, NamespaceName, Namespaces, OPT_IN_LABEL};
use crate::config::TenantRule;

/// Name and labels of a namespace. Its other metadata, which can be 1 MiB long, is skipped.
#[derive(Clone, Debug, Deserialize)]
struct Labelled {
    #[serde(deserialize_with = "name_and_labels")]
    metadata: ObjectMeta,
}

fn name_and_labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct NameAndLabels {
        name: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        resource_version: Option<String>,
        uid: Option<String>,
    }
    let NameAndLabels { name, labels, resource_version, uid } =
        NameAndLabels::deserialize(deserializer)?;
    Ok(ObjectMeta { name, labels, resource_version, uid, ..ObjectMeta::default() })
}

impl Resource for Labelled {
    type DynamicType = ();
    type Scope = <KubernetesNamespace as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        KubernetesNamespace::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        KubernetesNamespace::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        KubernetesNamespace::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        KubernetesNamespace::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Watches namespaces until the process ends. The first complete list sets `synced`; each call that
/// fails calls `failed`.
pub async fn watch(
    client: kube::Client,
    rule: TenantRule,
    snapshot: watch::Sender<Arc<Namespaces>>,
    synced: watch::Sender<bool>,
    failed: impl Fn(),
) {
    let api: Api<Labelled> = Api::all(client);
    let selector = watcher::Config::default()
        .labels(&format!("{OPT_IN_LABEL} in (audit,enabled)"))
        .page_size(PAGE);
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
                failed();
                if !broken {
                    tracing::warn!(%error, "namespace watch failed; serving cached namespaces");
                    broken = true;
                }
                continue;
            }
        };
        if broken {
            tracing::info!("namespace watch restored");
            broken = false;
        }
        snapshot.send_replace(Arc::new(known.values().cloned().collect()));
        if complete {
            synced.send_replace(true);
        }
    }
}

/// Looks up namespaces that the snapshot lacks. Any client of the webhook port can invent names, so
/// calls to the API server are rate-limited and sequential, and their results are cached.
#[derive(Debug)]
pub struct Lookup {
    /// None: there is no API server.
    api: Option<Api<Labelled>>,
    rule: TenantRule,
    snapshot: watch::Receiver<Arc<Namespaces>>,
    asked: Mutex<CachedLookups>,
}

/// Cache and rate limit of the calls.
#[derive(Debug)]
struct CachedLookups {
    /// Results by name, with the time of their call. None: the namespace does not exist.
    answers: HashMap<String, (Instant, Option<Namespace>)>,
    tokens: u32,
    filled: Instant,
}

impl Lookup {
    /// Returns a lookup in the snapshot, and in the API server of `client` if there is one.
    pub fn new(
        client: Option<kube::Client>,
        rule: TenantRule,
        snapshot: watch::Receiver<Arc<Namespaces>>,
    ) -> Self {
        let asked =
            CachedLookups { answers: HashMap::new(), tokens: BURST, filled: Instant::now() };
        Self { api: client.map(Api::all), rule, snapshot, asked: Mutex::new(asked) }
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> Arc<Namespaces> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Returns the namespace, opted in or not. None: it does not exist, or the lookup did not
    /// finish in time.
    pub async fn find(&self, name: &str, deadline: Instant) -> Option<Namespace> {
        let asked = Instant::now();
        let api = self.api.as_ref().filter(|_| name.parse::<NamespaceName>().is_ok())?;
        if let Some(namespace) = self.wait(name, deadline.min(Instant::now() + WAIT)).await {
            return Some(namespace);
        }
        timeout_at(deadline, self.ask(api, name, asked)).await.ok().flatten()
    }

    /// Waits for the watch, which is usually only milliseconds behind the namespace's first pod.
    async fn wait(&self, name: &str, until: Instant) -> Option<Namespace> {
        let mut snapshot = self.snapshot.clone();
        let found =
            timeout_at(until, snapshot.wait_for(|namespaces| namespaces.find(name).is_some()))
                .await;
        found.ok()?.ok()?.find(name).cloned()
    }

    /// Returns the namespace from the cache or from the API server. `since` is when the review
    /// arrived.
    async fn ask(&self, api: &Api<Labelled>, name: &str, since: Instant) -> Option<Namespace> {
        // Locked during the call, so that a second lookup of the same name finds its result.
        let mut asked = self.asked.lock().await;
        let now = Instant::now();
        asked.answers.retain(|_, (at, _)| now < *at + REMEMBERED);
        if let Some((at, answer)) = asked.answers.get(name) {
            // A cached "not opted in" is used only if its call started after the review arrived:
            // the namespace may have opted in since.
            let opted_in = answer.as_ref().is_some_and(|namespace| namespace.mode.is_some());
            return answer.clone().filter(|_| opted_in || *at >= since);
        }
        if !asked.may_ask(now) {
            return None;
        }
        let answer = match timeout(CALL, api.get_opt(name)).await {
            Ok(Ok(found)) => found.map(|namespace| read(&namespace, &self.rule)),
            Ok(Err(error)) => {
                tracing::warn!(namespace = name, %error, "cannot read namespace");
                return None;
            }
            Err(_) => return None,
        };
        asked.answers.insert(name.to_owned(), (now, answer.clone()));
        answer
    }
}

impl CachedLookups {
    /// Takes a token from the bucket: [`BURST`] tokens at most, [`PER_SECOND`] new ones per second.
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

fn read(namespace: &Labelled, rule: &TenantRule) -> Namespace {
    let labels = namespace.labels();
    Namespace::read(&namespace.name_any(), |key| labels.get(key).map(String::as_str), rule)
}

/// Maximum number of calls at once.
const BURST: u32 = 10;
/// Maximum number of calls per second, after a burst.
const PER_SECOND: u32 = 5;
/// Time limit of one call.
const CALL: Duration = Duration::from_secs(1);
/// Namespaces per page of a list. etcd stores up to 1.5 MiB for each.
const PAGE: u32 = 10;
/// How long a result is cached.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Maximum wait for the watch.
const WAIT: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Mutex as StdMutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    use hyper::{Request, Response, Uri};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::time::sleep;

    use super::*;
    use crate::{config::Config, namespaces::Mode};

    /// A stand-in for the API server: its namespaces, and the names that were requested.
    #[derive(Clone, Default)]
    struct Server(Arc<StdMutex<ServerState>>);

    #[derive(Default)]
    struct ServerState {
        namespaces: HashMap<String, Value>,
        asked: Vec<String>,
        hangs: bool,
        fails: bool,
    }

    impl Server {
        fn client(&self) -> kube::Client {
            let server = self.clone();
            let answer = move |request: Request<Body>| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request.uri()).await) }
            };
            kube::Client::new(tower::service_fn(answer), "default")
        }

        async fn answer(&self, uri: &Uri) -> Response<Body> {
            let name = uri.path().strip_prefix("/api/v1/namespaces").unwrap();
            let name = name.trim_start_matches('/').to_owned();
            let watches = uri.query().is_some_and(|query| query.contains("watch=true"));
            let hangs = self.0.lock().unwrap().hangs || watches;
            if hangs {
                std::future::pending::<()>().await;
            }
            let mut state = self.0.lock().unwrap();
            state.asked.push(name.clone());
            let (status, body) = match state.namespaces.get(&name) {
                _ if state.fails => (500, status(500)),
                None if name.is_empty() => {
                    let items: Vec<&Value> = state.namespaces.values().collect();
                    (
                        200,
                        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "1"}, "items": items}),
                    )
                }
                None => (404, status(404)),
                Some(namespace) => (200, namespace.clone()),
            };
            Response::builder()
                .status(status)
                .body(Body::from(body.to_string().into_bytes()))
                .unwrap()
        }

        fn create(&self, name: &str, labels: &Value) {
            let namespace = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name, "labels": labels}});
            self.0.lock().unwrap().namespaces.insert(name.to_owned(), namespace);
        }

        /// Returns the names that were requested since the last call.
        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap().asked)
        }
    }

    fn status(code: u16) -> Value {
        let reason = if code == 404 { "NotFound" } else { "InternalError" };
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "", "reason": reason, "code": code})
    }

    fn enabled() -> Value {
        json!({OPT_IN_LABEL: "enabled"})
    }

    struct Asking {
        server: Server,
        lookup: Lookup,
        snapshot: watch::Sender<Arc<Namespaces>>,
    }

    impl Asking {
        fn new() -> Self {
            let server = Server::default();
            let (snapshot, namespaces) = watch::channel(Arc::default());
            let lookup = Lookup::new(Some(server.client()), Config::default().tenant, namespaces);
            Self { server, lookup, snapshot }
        }

        /// Looks a name up as a review with a time limit of 3 s does.
        async fn find(&self, name: &str) -> Option<Namespace> {
            self.lookup.find(name, Instant::now() + Duration::from_secs(3)).await
        }

        /// Looks up all names at once, and returns the number of calls.
        async fn calls_for(&self, names: impl Iterator<Item = String>) -> usize {
            let names: Vec<String> = names.collect();
            let finds = names.iter().map(|name| self.find(name));
            let found = futures_util::future::join_all(finds).await;
            assert!(found.iter().all(Option::is_none));
            self.server.asked().len()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_of_unknown_names_are_rate_limited() {
        let asking = Asking::new();
        let names = |round: &'static str| (0..50).map(move |n| format!("{round}-{n}"));
        // The bucket is full again after the wait for the watch.
        assert_eq!(asking.calls_for(names("a")).await, 10);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(asking.calls_for(names("b")).await, 5);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(asking.calls_for(names("c")).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_name_is_not_looked_up() {
        let asking = Asking::new();
        let names = ["", "A", "a.b", "../pods", "a/b", "a?watch=true", &"a".repeat(64)];
        assert_eq!(asking.calls_for(names.into_iter().map(str::to_owned)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_namespace_is_looked_up_once_in_five_seconds() {
        let asking = Asking::new();
        let one = || std::iter::repeat_n("ghost".to_owned(), 20);
        assert_eq!(asking.calls_for(one()).await, 1, "together");
        assert_eq!(asking.calls_for(one()).await, 0, "soon after");
        sleep(REMEMBERED).await;
        assert_eq!(asking.calls_for(one()).await, 1, "later");
        // A namespace that was created meanwhile is found after the cache expires.
        asking.server.create("ghost", &enabled());
        assert_eq!(asking.find("ghost").await, None);
        sleep(REMEMBERED).await;
        assert_eq!(asking.find("ghost").await.unwrap().mode, Some(Mode::Enabled));
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_opted_in_namespace_is_cached_for_later_reviews() {
        let asking = Asking::new();
        asking.server.create("in", &enabled());
        asking.server.create("out", &json!({}));
        for name in ["in", "out"] {
            let mode = (name == "in").then_some(Mode::Enabled);
            assert_eq!(asking.find(name).await.unwrap().mode, mode, "{name}");
        }
        assert_eq!(asking.server.asked(), ["in", "out"]);
        assert_eq!(asking.find("in").await.unwrap().mode, Some(Mode::Enabled));
        assert_eq!(asking.find("out").await, None, "it may have opted in since");
        assert_eq!(asking.server.asked(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_from_the_watch_is_not_looked_up() {
        let asking = Asking::new();
        let label = |key: &str| (key == OPT_IN_LABEL).then_some("enabled");
        let namespace = Namespace::read("late", label, &Config::default().tenant);
        let snapshot = asking.snapshot.clone();
        tokio::spawn(async move {
            sleep(WAIT / 2).await;
            snapshot.send_replace(Arc::new([namespace].into_iter().collect()));
        });
        assert_eq!(asking.find("late").await.unwrap().mode, Some(Mode::Enabled));
        assert_eq!(asking.server.asked(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_lookup_waits_beyond_its_deadline() {
        let asking = Asking::new();
        asking.server.0.lock().unwrap().hangs = true;
        let before = Instant::now();
        // The second lookup waits for the call of the first, which takes 1 s.
        let deadline = before + Duration::from_millis(900);
        let finds = ["a", "b"].map(|name| asking.lookup.find(name, deadline));
        assert_eq!(futures_util::future::join_all(finds).await, [None, None]);
        assert!(before.elapsed() <= Duration::from_millis(901), "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_watch_is_counted_and_restarted() {
        let server = Server::default();
        server.create("in", &enabled());
        server.0.lock().unwrap().fails = true;
        let errors = Arc::new(AtomicU64::new(0));
        let (snapshot, namespaces) = watch::channel(Arc::default());
        let (synced, mut complete) = watch::channel(false);
        let failed = {
            let errors = Arc::clone(&errors);
            move || {
                errors.fetch_add(1, Ordering::Relaxed);
            }
        };
        let rule = Config::default().tenant;
        tokio::spawn(watch(server.client(), rule, snapshot, synced, failed));
        sleep(Duration::from_secs(30)).await;
        assert!(errors.load(Ordering::Relaxed) > 1);
        assert!(!*complete.borrow());
        server.0.lock().unwrap().fails = false;
        complete.wait_for(|complete| *complete).await.unwrap();
        assert!(namespaces.borrow().find("in").is_some());
    }
}
