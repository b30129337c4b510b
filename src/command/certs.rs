//! `certs`: issues and rotates the serving certificate, and publishes its CA bundle. It writes one
//! Secret, and the `caBundle` fields of one webhook configuration.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use zeroize::Zeroizing;

use super::{CommandError, bind, now, runtime, terminated, until};
use crate::{
    certificates::{self, PublishedBundles, SecretData, Step},
    cli::{Certs, VERSION},
    serve::{
        Transport,
        health::{self, Readiness},
        serve,
    },
    telemetry::{CertificateMetrics, log},
};

pub(super) fn run(arguments: Certs) -> Result<ExitCode, CommandError> {
    log::start();
    runtime()?.block_on(run_async(arguments))
}

async fn run_async(arguments: Certs) -> Result<ExitCode, CommandError> {
    let Certs { health_listen, namespace, secret, service, webhook_configuration } = arguments;
    let namespace = namespace.as_str().to_owned();
    let client = Client::try_default()
        .await
        .context("cannot find an API server: set KUBECONFIG or run in a pod")
        .map_err(CommandError::Internal)?;
    let metrics = CertificateMetrics::default();
    let (readiness, [in_order]) = Readiness::new(["certificate"]);
    let health = bind(health_listen).await?;
    let (stop, stopped) = watch::channel(false);
    let observe = {
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        move || metrics.render(readiness.lacks().is_empty())
    };
    tokio::spawn(serve(
        health,
        Transport::Plain,
        health::LIMITS,
        health::router(readiness, observe),
        until(stopped),
        Duration::ZERO,
    ));
    let host = format!("{service}.{namespace}.svc");
    tracing::info!(
        version = VERSION,
        %host,
        %secret,
        webhook_configuration,
        "managing the certificate"
    );
    let mut controller = CertificateController {
        secrets: Api::namespaced(client.clone(), &namespace),
        configurations: Api::all(client.clone()),
        changes: Box::pin(changes(client, &namespace, &secret, webhook_configuration.as_deref())),
        names: Names { host, namespace, secret, webhook_configuration },
        published: None,
        metrics,
    };
    let mut in_order = Some(in_order);
    let ordered = move || {
        if let Some(latch) = in_order.take() {
            latch.release();
        }
    };
    tokio::select! {
        signalled = terminated() => signalled?,
        () = controller.keep(ordered) => {}
    }
    stop.send_replace(true);
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The Secret is valid, but no object has a `caBundle`.
#[derive(Debug, thiserror::Error)]
#[error(
    "MutatingWebhookConfiguration {0} does not exist, so API servers do not call the webhook: re-run \
     `helm upgrade`"
)]
struct NoConfiguration(String);

struct CertificateController<C> {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    /// Yields an item when the Secret or the webhook configuration changes.
    changes: C,
    names: Names,
    /// The bundle that all webhooks of the configuration have, and since when.
    published: Option<(String, SystemTime)>,
    metrics: CertificateMetrics,
}

#[derive(Clone)]
struct Names {
    host: String,
    namespace: String,
    secret: String,
    /// None: clients keep the CA that they started with.
    webhook_configuration: Option<String>,
}

impl<C: Stream<Item = ()> + Unpin> CertificateController<C> {
    /// Manages the certificate until the process ends. Calls `ordered` when nothing is left to do.
    async fn keep(&mut self, mut ordered: impl FnMut()) {
        let mut failing: Option<String> = None;
        // Steps and failures in a row. Another client may undo each step, so the pauses grow.
        let mut unrest = 0_u32;
        loop {
            let step = timeout(STEP, self.take_step()).await;
            let step = step
                .unwrap_or_else(|_| Err(anyhow!("no response from the API server in {STEP:?}")));
            let rest = match step {
                Ok(Some(rest)) => {
                    if failing.take().is_some() {
                        tracing::info!("certificate management recovered");
                    }
                    ordered();
                    Some(rest.min(LOOK_AGAIN))
                }
                Ok(None) => None,
                // Another client wrote in between: read again.
                Err(error) if is_conflict(&error) => continue,
                Err(error) => {
                    // The Secret is valid, which is all that the webhook waits for. Argo CD
                    // creates the configuration only after that, in a later sync wave.
                    if error.is::<NoConfiguration>() {
                        ordered();
                    }
                    self.metrics.failure();
                    let text = format!("{error:#}");
                    if failing.as_ref() != Some(&text) {
                        tracing::error!(error = %text, "cannot manage the certificate");
                        failing = Some(text);
                    }
                    None
                }
            };
            let Some(rest) = rest else {
                unrest = (unrest + 1).min(MOST_UNREST);
                sleep(FIRST_PAUSE * 2_u32.pow(unrest)).await;
                continue;
            };
            // Waits for a change, or until the next check is due.
            let started = Instant::now();
            let _ = timeout(rest, self.changes.next()).await;
            if started.elapsed() >= QUIET {
                unrest = 0;
            }
        }
    }

    /// Does the next step. Some: there is none for this long.
    async fn take_step(&mut self) -> anyhow::Result<Option<Duration>> {
        let Names { host, namespace, secret: name, webhook_configuration } = &self.names.clone();
        let secret = self
            .secrets
            .get_opt(name)
            .await
            .with_context(|| format!("cannot read Secret {namespace}/{name}"))?
            .ok_or_else(|| {
                anyhow!(
                    "Secret {namespace}/{name} does not exist, and certs may not create it: \
                     re-run `helm upgrade`"
                )
            })?;
        let stored = stored(&secret);
        self.metrics
            .holds(since_1970(stored.authority_ends()), since_1970(stored.certificate_ends()));
        let step = match webhook_configuration.clone() {
            Some(name) => self.rotation_step(&stored, &name).await?,
            None => Some(certificates::plan_pinned(&stored, host, now())?),
        };
        match step {
            // The CA was published.
            None | Some(Step::Publish(_)) => Ok(None),
            Some(Step::WaitUntil(then)) => Ok(Some(then.duration_since(now()).unwrap_or_default())),
            Some(Step::Store(stored, reason)) => {
                self.secrets
                    .patch(name, &PatchParams::default(), &Patch::Merge(store(&secret, &stored)))
                    .await
                    .with_context(|| format!("cannot write Secret {namespace}/{name}"))?;
                self.metrics.secret_updated();
                tracing::info!(%reason, "Secret updated");
                Ok(None)
            }
        }
    }

    /// Returns the next step for the webhook. None: this step published the CA.
    async fn rotation_step(
        &mut self,
        stored: &SecretData,
        webhook_configuration: &str,
    ) -> anyhow::Result<Option<Step>> {
        let configuration =
            self.configurations.get_opt(webhook_configuration).await.with_context(|| {
                format!("cannot read MutatingWebhookConfiguration {webhook_configuration}")
            })?;
        let bundles = configuration.as_ref().map(bundles).unwrap_or_default();
        let now = now();
        let agreed = !bundles.is_empty() && bundles.iter().all(|is| *is == stored.authorities);
        match &self.published {
            Some((text, _)) if agreed && *text == stored.authorities => {}
            _ => self.published = agreed.then(|| (stored.authorities.clone(), now)),
        }
        let published =
            PublishedBundles { bundles, since: self.published.as_ref().map(|(_, since)| *since) };
        match (certificates::plan(stored, &published, &self.names.host, now)?, configuration) {
            (Step::WaitUntil(_) | Step::Publish(_), None) => {
                Err(NoConfiguration(webhook_configuration.to_owned()).into())
            }
            (Step::Publish(bundle), Some(configuration)) => {
                self.configurations
                    .patch(
                        webhook_configuration,
                        &PatchParams::default(),
                        &Patch::Strategic(publish(&configuration, &bundle)),
                    )
                    .await
                    .with_context(|| {
                        format!("cannot write MutatingWebhookConfiguration {webhook_configuration}")
                    })?;
                self.metrics.webhook_configuration_updated();
                tracing::info!("caBundle updated");
                Ok(None)
            }
            (step, _) => Ok(Some(step)),
        }
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409)
}

/// Returns a stream that yields an item when the Secret or the webhook configuration changes.
fn changes(
    client: Client,
    namespace: &str,
    secret: &str,
    configuration: Option<&str>,
) -> impl Stream<Item = ()> + use<> {
    let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
    let configurations: Api<PartialObjectMeta<MutatingWebhookConfiguration>> = Api::all(client);
    let of_configuration =
        configuration.map(|name| watch_object(configurations, name).default_backoff().map(|_| ()));
    stream::select(
        watch_object(secrets, secret).default_backoff().map(|_| ()),
        stream::iter(of_configuration).flatten(),
    )
}

fn since_1970(at: Option<SystemTime>) -> Option<u64> {
    at?.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn stored(secret: &Secret) -> SecretData {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes
            .and_then(|ByteString(bytes)| String::from_utf8(bytes.clone()).ok())
            .unwrap_or_default()
    };
    SecretData {
        authorities: text(AUTHORITIES),
        authority_key: Zeroizing::new(text(AUTHORITY_KEY)),
        certificate: text(CERTIFICATE),
        key: Zeroizing::new(text(KEY)),
    }
}

/// Returns the patch of the Secret. It contains the `resourceVersion` that was read, so that a
/// concurrent write causes a conflict.
fn store(secret: &Secret, stored: &SecretData) -> Value {
    let SecretData { authorities, authority_key, certificate, key } = stored;
    let mut data = Map::new();
    for (name, text) in [
        (AUTHORITIES, authorities),
        (AUTHORITY_KEY, authority_key),
        (CERTIFICATE, certificate),
        (KEY, key),
    ] {
        if !text.is_empty() {
            data.insert(name.to_owned(), json!(ByteString(text.as_bytes().to_vec())));
        }
    }
    json!({"metadata": {"resourceVersion": secret.metadata.resource_version}, "data": data})
}

/// Returns the `caBundle` of each webhook.
fn bundles(configuration: &MutatingWebhookConfiguration) -> Vec<String> {
    let webhooks = configuration.webhooks.iter().flatten();
    let bundle = |bundle: &Option<ByteString>| {
        let bytes = bundle.as_ref().map(|ByteString(bytes)| bytes.clone());
        bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    webhooks.map(|webhook| bundle(&webhook.client_config.ca_bundle)).collect()
}

/// Returns the strategic merge patch that sets each `caBundle`. The API server merges the list of
/// webhooks by name, so all other fields keep their owners and values.
fn publish(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Value {
    let bundle = json!(ByteString(bundle.as_bytes().to_vec()));
    let webhooks: Vec<Value> = configuration
        .webhooks
        .iter()
        .flatten()
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    json!({
        "metadata": {"resourceVersion": configuration.metadata.resource_version},
        "webhooks": webhooks,
    })
}

/// Keys of the Secret. The webhook mounts the last two, whose names are those of a TLS Secret:
/// <https://kubernetes.io/docs/concepts/configuration/secret/#tls-secrets>.
const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Maximum interval between two checks. It covers what the watches do not report: expiry, and their
/// own failures.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Time limit of one step, which takes up to three API calls.
const STEP: Duration = Duration::from_secs(30);
/// Time without changes after which the pauses start at their minimum again.
const QUIET: Duration = Duration::from_secs(5);
/// First pause after a step or a failure. Each further one doubles it, up to 8 s.
const FIRST_PAUSE: Duration = Duration::from_millis(30);
/// Maximum number of doublings.
const MOST_UNREST: u32 = 8;
