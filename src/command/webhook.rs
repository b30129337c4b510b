//! `webhook`: starts the admission server, and keeps namespaces, roles and certificate up to date.

mod body_budget;
mod namespaces;
mod response_budget;
mod reviews;

use std::{
    num::NonZero,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_rustls::TlsAcceptor;

use self::reviews::WebhookState;
use super::{CommandError, bind, environment, files, now, roles, terminated, until};
use crate::{
    cli::{VERSION, Webhook},
    config::Config,
    roles::{Role, refresher::RolesHandle},
    serve::{
        Limits, Transport,
        health::{self, Readiness},
        serve,
        tls::{Certificate, Files},
    },
    telemetry::{
        Metrics, Observed,
        log::{self, Apart},
    },
};

pub(super) fn run(arguments: Webhook) -> Result<ExitCode, CommandError> {
    let log = log::start_apart().context("cannot start the log").map_err(CommandError::Internal)?;
    let ended = start(arguments, &log);
    log.finish();
    ended
}

fn start(arguments: Webhook, log: &Apart) -> Result<ExitCode, CommandError> {
    let mut config = files::config(arguments.config.as_deref()).map_err(CommandError::Input)?;
    files::read_issuer_ca(&mut config).map_err(CommandError::Input)?;
    if config.region.is_none() {
        let region = environment("AWS_REGION").map(|region| region.parse().context("AWS_REGION"));
        config.region = region.transpose().map_err(CommandError::Input)?;
    }
    if config.region.is_none() && !config.sidecar.env.iter().any(|(name, _)| name == "AWS_REGION") {
        tracing::warn!(
            "no region is set, so no sidecar can start; set the config key region or AWS_REGION"
        );
    }
    if let Some(roles) = &arguments.roles {
        config.roles.ssm = None;
        config.roles.file = Some(roles.clone());
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_THREADS))
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(CommandError::Internal)?;
    runtime.block_on(run_async(arguments, config, log))
}

async fn run_async(
    arguments: Webhook,
    config: Config,
    log: &Apart,
) -> Result<ExitCode, CommandError> {
    let Webhook {
        config: _,
        listen,
        health_listen,
        tls_certificate,
        tls_key,
        aws_ca_bundle,
        roles: _,
        namespaces,
        shutdown_delay,
    } = arguments;
    let files = Files { certificate: tls_certificate, key: tls_key };
    let certificate =
        Certificate::load(files).context("serving certificate").map_err(CommandError::Input)?;
    let trusted = aws_ca_bundle.as_deref().map(files::ca_certificates).transpose();
    let trusted = trusted.map_err(CommandError::Input)?;
    let (readiness, [namespaces_synced]) = Readiness::new(["namespaces"]);
    let metrics = Metrics::default();
    let config = Arc::new(config);
    let mut tasks = JoinSet::new();

    let (lookup, wanted) =
        namespaces::follow(namespaces.as_deref(), &config, namespaces_synced, &metrics, &mut tasks)
            .await?;
    let roles = roles::follow(&config, trusted.as_deref(), wanted, &mut tasks).await?;

    let state = Arc::new(WebhookState::new(
        config,
        lookup,
        roles.clone(),
        metrics.clone(),
        readiness.clone(),
    ));
    let tls = certificate.server_config().context("TLS").map_err(CommandError::Internal)?;
    let reviews = bind(listen).await?;
    let health = bind(health_listen).await?;
    tasks.spawn(Arc::clone(&certificate).follow(now));
    let log = log.clone();
    let observe = {
        let readiness = readiness.clone();
        move || metrics.render(observed(&certificate, &readiness, &roles, &log))
    };

    let (stop, stopped) = watch::channel(false);
    let health_router = health::router(readiness.clone(), observe);
    let health = tokio::spawn(serve(
        health,
        Transport::Plain,
        health::LIMITS,
        health_router,
        until(stopped.clone()),
        HEALTH_GRACE,
    ));
    let transport = Transport::Tls(TlsAcceptor::from(Arc::new(tls)));
    let reviews = tokio::spawn(serve(
        reviews,
        transport,
        Limits::default(),
        reviews::router(state),
        until(stopped),
        GRACE,
    ));
    tracing::info!(version = VERSION, %listen, %health_listen, "serving");

    tokio::select! {
        signalled = terminated() => signalled?,
        // Each task keeps one snapshot up to date. Decisions from an old snapshot would be wrong,
        // so the process exits and the kubelet restarts it.
        _ = tasks.join_next() => {
            return Err(CommandError::Internal(anyhow!("a background task exited unexpectedly")));
        }
    }
    tracing::info!("shutting down");
    readiness.stop();
    sleep(Duration::from_secs(shutdown_delay)).await;
    stop.send_replace(true);
    let finished = reviews.await.unwrap_or(false);
    health.abort();
    tracing::info!(finished, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Returns the values that the metrics read at a scrape.
fn observed(
    certificate: &Certificate,
    readiness: &Readiness,
    roles: &RolesHandle,
    log: &Apart,
) -> Observed {
    let mut states = [("known", 0), ("missing", 0), ("unreachable", 0), ("unusable", 0)];
    let snapshot = roles.snapshot();
    for (_, entry) in snapshot.iter() {
        let index = match *entry.role {
            Role::Known(_) => 0,
            Role::NotFound => 1,
            Role::Unreachable(_) => 2,
            Role::Unusable(_) => 3,
        };
        states[index].1 += 1;
    }
    let (loaded, failed) = certificate.reloads();
    let served = || snapshot.iter().filter(|(_, entry)| matches!(*entry.role, Role::Known(_)));
    let since_1970 = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok();
    Observed {
        certificate_expiry: certificate.ends().and_then(since_1970).map(|since| since.as_secs()),
        certificate_reloads: [("loaded", loaded), ("failed", failed)],
        log_lines_dropped: log.lost(),
        oldest_role: served().filter_map(|(_, entry)| entry.read_at).min().map(|at| at.elapsed()),
        ready: readiness.lacks().is_empty(),
        role_calls: roles.calls().collect(),
        roles: states.to_vec(),
        roles_from_file: served().filter(|(_, entry)| entry.read_at.is_none()).count(),
    }
}

/// Maximum number of worker threads. Each needs memory for the pod that it evaluates. One thread
/// answers thousands of reviews per second.
const MOST_THREADS: usize = 4;
/// Time limit at shutdown for requests in flight. A review ends within 3 s after its body arrived,
/// and bodies are small.
const GRACE: Duration = Duration::from_secs(10);
/// The same for the health port.
const HEALTH_GRACE: Duration = Duration::from_secs(1);
