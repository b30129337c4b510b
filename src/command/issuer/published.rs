//! Reads the issuer's published keys, as STS does. A key signs only while it is seen there.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, SharedHttpConnector},
    orchestrator::HttpRequest,
};
use http_body_util::BodyExt;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::keys::Keys;
use crate::{
    issuer::{KEYS_FILE, PublishedKeys},
    telemetry::IssuerMetrics,
};

/// Why a published file could not be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::command) enum Unread {
    #[error("{0}")]
    NoAnswer(String),
    #[error("{0}")]
    Refused(String),
}

/// Whether the signing key is published.
#[derive(Debug)]
pub(super) struct PublishedFiles {
    url: String,
    keys: Arc<Keys>,
    has_signing_key: ArcSwap<bool>,
    metrics: IssuerMetrics,
}

impl PublishedFiles {
    /// `url`: the issuer's URL, or where its files are read instead.
    pub(super) fn new(url: String, keys: Arc<Keys>, metrics: IssuerMetrics) -> Self {
        let url = format!("{}/{KEYS_FILE}", url.trim_end_matches('/'));
        Self { url, keys, has_signing_key: ArcSwap::from_pointee(false), metrics }
    }

    pub(super) fn has_signing_key(&self) -> bool {
        **self.has_signing_key.load()
    }

    /// Reads the keys now, and again each [`TICK`]; each [`RETRY`] until the signing key is there.
    /// A read that fails changes nothing.
    pub(super) async fn follow(self: Arc<Self>, connector: SharedHttpConnector) {
        let mut ticks = interval(RETRY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged: Option<String> = None;
        let mut rounds = 0_u32;
        loop {
            ticks.tick().await;
            rounds = rounds.wrapping_add(1);
            let is_due = rounds % (TICK.as_secs() / RETRY.as_secs()) as u32 == 1;
            if self.has_signing_key() && !is_due {
                continue;
            }
            let text = match self.read(&connector).await {
                Ok(published) => self.compare(&published),
                Err(why) => {
                    self.metrics.published_keys_unread();
                    Some(format!("cannot read {}: {why}", self.url))
                }
            };
            let text = text.unwrap_or_default();
            if logged.as_ref() != Some(&text) {
                if text.is_empty() {
                    tracing::info!(url = self.url, "the published keys are correct");
                } else {
                    tracing::error!(problem = text, "published keys");
                }
                logged = Some(text);
            }
        }
    }

    async fn read(&self, connector: &SharedHttpConnector) -> Result<PublishedKeys, String> {
        let text = read(connector, &self.url).await.map_err(|unread| unread.to_string())?;
        PublishedKeys::parse(&text).map_err(|error| error.to_string())
    }

    /// Records whether the signing key is there. Returns what is wrong.
    fn compare(&self, published: &PublishedKeys) -> Option<String> {
        let own = self.keys.public();
        let foreign = published.foreign(own);
        let found = published.has(self.keys.signing());
        self.has_signing_key.store(Arc::new(found == Ok(true)));
        self.metrics.published_keys(found == Ok(true), foreign.len());
        let url = &self.url;
        let id = self.keys.signing().id().as_str();
        if let Some(key) = foreign.first() {
            let id = key.id.as_deref().unwrap_or("(none)");
            let id: String = id.chars().take(LONGEST_ID).collect();
            return Some(format!(
                "{url} has a key that is none of the config's (kid {id}): its owner can name any session. Remove it, and find the user that wrote the file"
            ));
        }
        match found {
            Ok(true) => None,
            Ok(false) => Some(format!("{url} lacks the signing key (kid {id})")),
            Err(why) => {
                Some(format!("STS does not accept the signing key (kid {id}) in {url}: {why}"))
            }
        }
    }
}

/// Reads a published file, within the time that STS allows. It follows no redirection.
pub(in crate::command) async fn read(
    connector: &SharedHttpConnector,
    url: &str,
) -> Result<Vec<u8>, Unread> {
    let no_answer = |error: &dyn std::error::Error| Unread::NoAnswer(causes(error));
    let late = || Unread::NoAnswer("no response in time".to_owned());
    let request = HttpRequest::get(url).map_err(|error| no_answer(&error))?;
    let read = async {
        let response = connector.call(request).await.map_err(|error| no_answer(&error))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(Unread::Refused(format!("HTTP {status}")));
        }
        let body = response.into_body().collect().await;
        Ok(body.map_err(|error| no_answer(&*error))?.to_bytes().to_vec())
    };
    timeout(ANSWER, read).await.map_err(|_| late())?
}

/// Returns the error with its causes: the connector's own text does not say why.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Interval between two reads.
const TICK: Duration = Duration::from_secs(60);
/// Interval while the signing key is not published.
const RETRY: Duration = Duration::from_secs(5);
/// Time limit of a response with its body. STS allows 5 s.
const ANSWER: Duration = Duration::from_secs(5);
/// Maximum length of a foreign key's ID in the log, in characters.
const LONGEST_ID: usize = 64;
