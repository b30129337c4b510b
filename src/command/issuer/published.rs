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
    issuer::{PublishedKeys, problems_of_discovery},
    session::{DISCOVERY_FILE, IssuerUrl, KEYS_FILE},
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

/// The public files, and whether the signing key is in them.
#[derive(Debug)]
pub(super) struct PublishedFiles {
    issuer: IssuerUrl,
    /// The issuer's URL, or where its files are read instead.
    place: String,
    keys: Arc<Keys>,
    has_signing_key: ArcSwap<bool>,
    metrics: IssuerMetrics,
}

/// The result of a check of a public file.
struct FileCheck {
    /// Keys that are not the issuer's. A file that is not understood may have one.
    foreign: usize,
    /// The problems; empty if there are none.
    problems: Vec<String>,
}

impl PublishedFiles {
    /// `place`: where the files are read if not at the issuer's URL.
    pub(super) fn new(
        issuer: IssuerUrl,
        place: Option<String>,
        keys: Arc<Keys>,
        metrics: IssuerMetrics,
    ) -> Self {
        let place = place.unwrap_or_else(|| issuer.to_string());
        let place = place.trim_end_matches('/').to_owned();
        Self { issuer, place, keys, has_signing_key: ArcSwap::from_pointee(false), metrics }
    }

    pub(super) fn has_signing_key(&self) -> bool {
        **self.has_signing_key.load()
    }

    /// Reads the files now, and again each [`TICK`]; each [`RETRY`] until the signing key is there.
    /// A read that fails changes nothing.
    pub(super) async fn follow(self: Arc<Self>, connector: SharedHttpConnector) {
        let mut ticks = interval(RETRY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged: Option<String> = None;
        let mut foreign = [0, 0];
        let mut rounds = 0_u32;
        loop {
            ticks.tick().await;
            rounds = rounds.wrapping_add(1);
            let is_due = rounds % (TICK.as_secs() / RETRY.as_secs()) as u32 == 1;
            if self.has_signing_key() && !is_due {
                continue;
            }
            let mut problems = Vec::new();
            let checks = [self.keys(&connector).await, self.discovery(&connector).await];
            for (foreign, check) in foreign.iter_mut().zip(checks) {
                match check {
                    Ok(check) => {
                        *foreign = check.foreign;
                        problems.extend(check.problems);
                    }
                    Err(why) => {
                        self.metrics.public_file_unread();
                        problems.push(why);
                    }
                }
            }
            self.metrics.foreign_keys(foreign.iter().sum());
            let text = problems.join("; ");
            if logged.as_ref() != Some(&text) {
                if text.is_empty() {
                    tracing::info!(url = self.place, "the published keys are correct");
                } else {
                    tracing::error!(problem = text, "published keys");
                }
                logged = Some(text);
            }
        }
    }

    async fn read(
        &self,
        connector: &SharedHttpConnector,
        file: &str,
    ) -> Result<(String, Vec<u8>), String> {
        let url = format!("{}/{file}", self.place);
        let text = read(connector, &url).await;
        let text = text.map_err(|why| format!("cannot read {url}: {why}"))?;
        Ok((url, text))
    }

    /// Checks whether the signing key is published, and counts foreign keys.
    async fn keys(&self, connector: &SharedHttpConnector) -> Result<FileCheck, String> {
        let (url, text) = self.read(connector, KEYS_FILE).await?;
        let published = match PublishedKeys::parse(&text) {
            Ok(published) => published,
            Err(error) => return Ok(FileCheck::not_understood(&url, &[error.to_string()])),
        };
        let foreign = published.foreign(self.keys.public());
        let found = published.has(self.keys.signing());
        self.has_signing_key.store(Arc::new(found == Ok(true)));
        self.metrics.key_published(found == Ok(true));
        let id = self.keys.signing().id().as_str();
        let mut problems = Vec::new();
        if let Some(key) = foreign.first() {
            let id = key.id.as_deref().unwrap_or("(none)");
            let id: String = id.chars().take(LONGEST_ID).collect();
            problems.push(format!(
                "{url} has a key that is none of the config's (kid {id}): its owner can name any session. Remove it, and find the user that wrote the file"
            ));
        }
        match found {
            Ok(true) => {}
            Ok(false) => problems.push(format!("{url} lacks the signing key (kid {id})")),
            Err(why) => problems
                .push(format!("STS does not accept the signing key (kid {id}) in {url}: {why}")),
        }
        Ok(FileCheck { foreign: foreign.len(), problems })
    }

    /// Checks whether the discovery document names the issuer's keys.
    async fn discovery(&self, connector: &SharedHttpConnector) -> Result<FileCheck, String> {
        let (url, text) = self.read(connector, DISCOVERY_FILE).await?;
        Ok(match &problems_of_discovery(&self.issuer, &text)[..] {
            [] => FileCheck { foreign: 0, problems: Vec::new() },
            problems => FileCheck::not_understood(&url, problems),
        })
    }
}

impl FileCheck {
    fn not_understood(url: &str, problems: &[String]) -> Self {
        let why = problems.join(", ");
        let problem = format!(
            "{url}: {why}: STS may find a key that is none of the config's, whose owner can name any session. Publish the files of issuer export, and find the user that wrote this one"
        );
        Self { foreign: 1, problems: vec![problem] }
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
        let mut body = response.into_body();
        let mut text = Vec::new();
        while text.len() <= LONGEST_FILE
            && let Some(frame) = body.frame().await
        {
            let frame = frame.map_err(|error| no_answer(&*error))?;
            text.extend(frame.into_data().unwrap_or_default());
        }
        Ok(text)
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
/// Length from which a file is not read further, in bytes. It is then too long for each of the two.
const LONGEST_FILE: usize = 256 * 1024;
/// Maximum length of a foreign key's ID in the log, in characters.
const LONGEST_ID: usize = 64;
