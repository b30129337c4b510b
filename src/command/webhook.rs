//! `webhook`: starts the admission server, and keeps namespaces, roles and certificate up to date.

mod body_budget;
mod namespaces;
mod response_budget;
mod reviews;

use std::{
    num::NonZero,
    process::ExitCode,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use tokio::task::JoinSet;

use self::reviews::WebhookState;
use super::{CommandError, environment, files, roles, tls_server::TlsServer};
use crate::{
    cli::Webhook,
    config::Config,
    roles::{Role, refresher::RolesHandle},
    serve::{
        Limits,
        health::Readiness,
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
    let log = log.clone();
    let observe = {
        let (certificate, readiness) = (Arc::clone(&certificate), readiness.clone());
        move || metrics.render(observed(&certificate, &readiness, &roles, &log))
    };
    let server = TlsServer {
        certificate,
        listen,
        health_listen,
        limits: Limits::default(),
        router: reviews::router(state),
        readiness,
        shutdown_delay,
        tasks,
    };
    server.run(observe).await
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
