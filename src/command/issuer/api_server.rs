//! What the issuer asks of the API server: its token keys, TokenReviews, pods, and the age of the
//! guard's binding.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use axum::http;
use futures_util::AsyncReadExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{
    Api, Client,
    api::{GetParams, ListParams, PostParams},
    core::Request,
};
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    command::now,
    issuer::{
        ClusterKeys, GuardRule, ObjectName, SANDBOX_API, TokenCheck, TokenFacts, TokenRefusal,
        youngest,
    },
    json::Json,
    serve::health::Latch,
    telemetry::IssuerMetrics,
};

/// Access to the API server, with its token keys cached.
pub(super) struct ApiServer {
    client: Client,
    audience: String,
    keys: ArcSwapOption<ClusterKeys>,
    /// When the keys were read last. Locked during a read, so that one is under way at a time.
    read_at: Mutex<Option<Instant>>,
    /// Since when each rule of the guard holds, by its policy.
    rules: Mutex<HashMap<&'static str, (Instant, Option<Timestamp>)>>,
    calls: Semaphore,
    /// Pods in memory: a tenant decides how long one is.
    pods: Semaphore,
    metrics: IssuerMetrics,
}

/// A stored pod. None: there is none. At most [`MOST_PODS`] exist at once.
pub(super) struct StoredPod<'s> {
    pub(super) pod: Option<Box<RawValue>>,
    _permit: Option<SemaphorePermit<'s>>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiServer")
    }
}

impl ApiServer {
    pub(super) fn new(client: Client, audience: String, metrics: IssuerMetrics) -> Self {
        Self {
            client,
            audience,
            keys: ArcSwapOption::empty(),
            read_at: Mutex::new(None),
            rules: Mutex::default(),
            calls: Semaphore::new(MOST_CALLS),
            pods: Semaphore::new(MOST_PODS),
            metrics,
        }
    }

    /// Reads the token keys now, and again each [`KEYS_TICK`]. The first time releases `read`.
    pub(super) async fn follow(self: Arc<Self>, read: Latch) {
        let mut read = Some(read);
        let mut failed = false;
        let mut ticks = interval(KEYS_RETRY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut read_at = self.read_at.lock().await;
            let is_fresh = read_at.is_some_and(|at| at.elapsed() < KEYS_TICK);
            if is_fresh && !failed {
                continue;
            }
            failed = !self.read_keys(&mut read_at).await;
            if !failed && let Some(latch) = read.take() {
                latch.release();
            }
        }
    }

    /// Returns the facts of a token, by its signature only. A key that is not known yet is looked
    /// up, at most once in [`KEYS_PAUSE`].
    pub(super) async fn check(&self, token: &str) -> Result<TokenFacts, TokenRefusal> {
        let check = || match &*self.keys.load() {
            Some(keys) => TokenCheck::of(token, &self.audience, keys, now()),
            None => TokenCheck::UnknownKey,
        };
        let mut found = check();
        // Any client can send such a token, so none waits for a read that is under way.
        if found == TokenCheck::UnknownKey
            && let Ok(mut read_at) = self.read_at.try_lock()
            && read_at.is_none_or(|at| at.elapsed() >= KEYS_PAUSE)
        {
            self.read_keys(&mut read_at).await;
            found = check();
        }
        match found {
            TokenCheck::Valid(facts) => Ok(*facts),
            TokenCheck::Refused(why) => Err(TokenRefusal::TokenInvalid { why: why.to_string() }),
            TokenCheck::UnknownKey => Err(TokenRefusal::ApiUnavailable {
                detail: "its keys for tokens do not have the key of this one".to_owned(),
            }),
        }
    }

    async fn read_keys(&self, read_at: &mut Option<Instant>) -> bool {
        *read_at = Some(Instant::now());
        let read = self.text(Request::new("/openid/v1").get("jwks", &GetParams::default())).await;
        let keys = read.and_then(|text| {
            ClusterKeys::parse(text.as_bytes()).map_err(|error| error.to_string())
        });
        match keys {
            Ok(keys) => {
                self.keys.store(Some(Arc::new(keys)));
                true
            }
            Err(error) => {
                tracing::warn!(error, "cannot read the API server's keys for tokens");
                false
            }
        }
    }

    /// Has the API server confirm the token, and that it is the pod's of the facts.
    pub(super) async fn review(&self, token: &str, facts: &TokenFacts) -> Result<(), TokenRefusal> {
        let _permit = self.calls.acquire().await;
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        self.metrics.api_call("tokenreview");
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = timeout(CALL, api.create(&PostParams::default(), &review)).await;
        let status = answer
            .map_err(|_| unavailable("no response to a TokenReview in time"))?
            .map_err(|error| unavailable(&api_error(&error)))?
            .status
            .ok_or_else(|| unavailable("a TokenReview without a status"))?;
        let user = status.user.unwrap_or_default();
        let has_extra = |key: &str, wanted: &str| {
            let values = user.extra.as_ref().and_then(|extra| extra.get(key));
            matches!(values.map(Vec::as_slice), Some([value]) if value == wanted)
        };
        let TokenFacts { namespace, service_account, pod_name, pod_uid, credential_id: _ } = facts;
        let account =
            format!("system:serviceaccount:{}:{}", namespace.as_str(), service_account.as_str());
        let is_ours = status.authenticated == Some(true)
            && status.audiences.as_deref() == Some(std::slice::from_ref(&self.audience))
            && user.username.as_deref() == Some(&*account)
            && has_extra("authentication.kubernetes.io/pod-name", pod_name.as_str())
            && has_extra("authentication.kubernetes.io/pod-uid", pod_uid.as_str());
        if is_ours { Ok(()) } else { Err(TokenRefusal::TokenRejected) }
    }

    /// Reads the pod. None: there is none.
    pub(super) async fn pod(&self, facts: &TokenFacts) -> Result<StoredPod<'_>, TokenRefusal> {
        let permit = self.pods.acquire().await.ok();
        let path = format!("/api/v1/namespaces/{}/pods", facts.namespace.as_str());
        self.metrics.api_call("pod");
        let request = Request::new(path).get(facts.pod_name.as_str(), &GetParams::default());
        let pod = match self.answer(request, LONGEST_OBJECT).await? {
            None => None,
            Some(text) => RawValue::from_string(text)
                .map(Some)
                .map_err(|_| unavailable("a pod that is not JSON"))?,
        };
        Ok(StoredPod { pod, _permit: permit })
    }

    /// Reads the metadata of an object of agent-sandbox. None: there is none. `path`: the API, the
    /// namespace and the resource.
    pub(super) async fn metadata(
        &self,
        path: &str,
        name: &ObjectName,
        call: &'static str,
    ) -> Result<Option<Box<RawValue>>, TokenRefusal> {
        let _permit = self.calls.acquire().await;
        self.metrics.api_call(call);
        let request = Request::new(path).get_metadata(name.as_str(), &GetParams::default());
        let not_json = |_| unavailable("an object that is not JSON");
        let answer = self.answer(request, LONGEST_METADATA).await?;
        answer.map(RawValue::from_string).transpose().map_err(not_json)
    }

    /// Returns the version of the list of Sandboxes, from which a watch begins.
    pub(super) async fn version_of_sandboxes(&self) -> anyhow::Result<String> {
        let one = ListParams::default().limit(1);
        let request = Request::new(format!("{SANDBOX_API}/sandboxes")).list_metadata(&one);
        let text = self.text(request).await.map_err(anyhow::Error::msg)?;
        let list: &RawValue = serde_json::from_str(&text)?;
        let version = Json::from(list).at("metadata").at("resourceVersion").string();
        Ok(version.unwrap_or_default().into_owned())
    }

    /// Returns since when all these rules of the guard hold. None: one does not.
    pub(super) async fn guard_since(
        &self,
        rules: &[GuardRule],
    ) -> Result<Option<Timestamp>, TokenRefusal> {
        let mut sinces = Vec::new();
        for rule in rules {
            sinces.push(self.rule_since(rule).await?);
        }
        Ok(youngest(sinces))
    }

    /// Returns since when a rule of the guard holds. None: it does not. Cached for
    /// [`BINDING_LIFE`].
    async fn rule_since(&self, rule: &GuardRule) -> Result<Option<Timestamp>, TokenRefusal> {
        // While the API server does not answer, each request would wait for those before it.
        let slow = |_| unavailable("no response about the guard's rules in time");
        let mut cached = timeout(CALL, self.rules.lock()).await.map_err(slow)?;
        if let Some((at, since)) = cached.get(rule.policy)
            && at.elapsed() < BINDING_LIFE
        {
            return Ok(*since);
        }
        self.metrics.api_call("guard");
        let read = async |path: &str, name: &str| {
            let request = Request::new(path).get(name, &GetParams::default());
            self.answer(request, LONGEST_OBJECT).await.map(Option::unwrap_or_default)
        };
        let policy = read(POLICIES, rule.policy).await?;
        let binding = read(BINDINGS, &rule.binding).await?;
        let json = |text| serde_json::from_str::<&RawValue>(text).ok();
        let since = json(&policy)
            .zip(json(&binding))
            .and_then(|(policy, binding)| rule.since(policy.into(), binding.into()));
        cached.insert(rule.policy, (Instant::now(), since));
        Ok(since)
    }

    async fn answer(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        most: u64,
    ) -> Result<Option<String>, TokenRefusal> {
        let request = request.map_err(|_| unavailable("an invalid request"))?;
        match timeout(CALL, self.fetch(request, most)).await {
            Ok(answer) => answer,
            Err(_) => Err(unavailable("no response in time")),
        }
    }

    /// Returns the response, which has at most this number of bytes.
    async fn fetch(
        &self,
        request: http::Request<Vec<u8>>,
        most: u64,
    ) -> Result<Option<String>, TokenRefusal> {
        let answer = match self.client.request_stream(request).await {
            Ok(answer) => answer,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(error) => return Err(unavailable(&api_error(&error))),
        };
        let answer = pin!(answer);
        let mut limited = answer.take(most + 1);
        let mut text = String::new();
        let read = limited.read_to_string(&mut text).await;
        read.map_err(|_| unavailable("an incomplete response"))?;
        if limited.limit() == 0 {
            return Err(unavailable("an object that is too long"));
        }
        Ok(Some(text))
    }

    async fn text(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<String, String> {
        match self.answer(request, LONGEST_OBJECT).await {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err("it has none".to_owned()),
            Err(refusal) => Err(refusal.to_string()),
        }
    }
}

fn unavailable(detail: &str) -> TokenRefusal {
    TokenRefusal::ApiUnavailable { detail: detail.to_owned() }
}

/// Returns the text of an error, without the request.
fn api_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("HTTP {}: {}", status.code, status.message),
        error => error.to_string(),
    }
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
/// Maximum length of an object, in bytes: etcd stores 1.5 MiB, in which a response escapes some
/// characters to six bytes.
const LONGEST_OBJECT: u64 = 4 * 1024 * 1024;
/// Maximum length of the metadata of a Sandbox or a claim, in bytes. The API server allows 256 KiB of
/// annotations, of which a response escapes some characters, and the guard 128 owner references.
const LONGEST_METADATA: u64 = 1024 * 1024;
/// Maximum number of pods in memory.
const MOST_PODS: usize = 4;
/// Maximum number of calls under way.
const MOST_CALLS: usize = 16;
/// Time limit of one call.
const CALL: Duration = Duration::from_secs(3);
/// Age at which the token keys are read again.
const KEYS_TICK: Duration = Duration::from_secs(300);
/// Pause after a read that failed.
const KEYS_RETRY: Duration = Duration::from_secs(1);
/// Minimum pause between two reads for unknown keys, which any client can send.
const KEYS_PAUSE: Duration = Duration::from_secs(10);
/// How long the age of the binding is cached.
const BINDING_LIFE: Duration = Duration::from_secs(10);
