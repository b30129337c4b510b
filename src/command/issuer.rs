//! `issuer`: gives the sidecars of pods tokens for STS.

mod api_server;
mod export;
mod keys;
mod published;
mod sandboxes;
mod tokens;

use std::{collections::HashSet, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{sync::watch, task::JoinSet};

use self::{
    api_server::ApiServer,
    keys::Keys,
    published::PublishedFiles,
    sandboxes::Waiters,
    tokens::{IssuerState, RequestLimits},
};
pub(super) use self::{
    keys::public_key,
    published::{Unread, read},
};
use super::{CommandError, files, roles, terminated, tls_server::TlsServer};
use crate::{
    cli::{Issuer, IssuerCommand},
    config::Config,
    namespaces::{
        Namespaces,
        watch::{Lookup, watch as watch_namespaces},
    },
    serve::{
        Limits, Protocol,
        health::{self, Readiness},
        tls::{Certificate, Files},
    },
    session::{CaBundle, TenantName},
    telemetry::{
        IssuerMetrics,
        log::{self, Apart},
    },
};

pub(super) fn run(arguments: Issuer) -> Result<ExitCode, CommandError> {
    if let Some(IssuerCommand::Export(export)) = arguments.command {
        return export::run(export);
    }
    let log = log::start_apart().context("cannot start the log").map_err(CommandError::Internal)?;
    let ended = start(arguments, &log);
    log.finish();
    ended
}

fn start(arguments: Issuer, log: &Apart) -> Result<ExitCode, CommandError> {
    let config = files::config(arguments.config.as_deref()).map_err(CommandError::Input)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(CommandError::Internal)?;
    runtime.block_on(run_async(arguments, config, log))
}

async fn run_async(
    arguments: Issuer,
    config: Config,
    log: &Apart,
) -> Result<ExitCode, CommandError> {
    let Issuer {
        command: _,
        config: _,
        listen,
        health_listen,
        tls_certificate,
        tls_key,
        aws_ca_bundle,
        published_at,
        shutdown_delay,
    } = arguments;
    let issuer = config
        .issuer
        .clone()
        .context("the config has no section issuer; set it")
        .map_err(CommandError::Input)?;
    let (Some(certificate), Some(key)) = (tls_certificate, tls_key) else {
        return Err(CommandError::Input(anyhow!("set --tls-certificate and --tls-key")));
    };
    let files = Files { certificate, key };
    let certificate =
        Certificate::load(files).context("serving certificate").map_err(CommandError::Input)?;
    let trusted = aws_ca_bundle.as_deref().map(files::ca_certificates).transpose();
    let trusted = trusted.map_err(CommandError::Input)?;
    let ca_texts: Vec<&str> =
        config.aws_ca_bundle.iter().map(CaBundle::as_str).chain(trusted.as_deref()).collect();
    let keys = Keys::load(&issuer.keys, &ca_texts).await.map_err(CommandError::Input)?;
    let keys = Arc::new(keys);
    let client = kube::Client::try_default()
        .await
        .context("cannot find an API server: set KUBECONFIG or run in a pod")
        .map_err(CommandError::Internal)?;

    let (readiness, [namespaces_synced, keys_read]) =
        Readiness::new(["namespaces", "cluster-keys"]);
    let metrics = IssuerMetrics::default();
    let mut tasks = JoinSet::new();
    let (lookup, wanted) = follow_namespaces(&client, &config, namespaces_synced, &mut tasks);
    let roles = roles::follow(&config, trusted.as_deref(), wanted, &mut tasks).await?;
    let api_server =
        Arc::new(ApiServer::new(client.clone(), issuer.audience.clone(), metrics.clone()));
    tasks.spawn(Arc::clone(&api_server).follow(keys_read));
    let has_claims = config.claim_components().next().is_some();
    let waiters = has_claims.then(|| Arc::new(Waiters::new(client, Arc::clone(&api_server))));
    if let Some(waiters) = &waiters {
        let ends = async { drop(terminated().await) };
        tasks.spawn(Arc::clone(waiters).follow(ends));
    }
    let published = Arc::new(PublishedFiles::new(
        issuer.url.clone(),
        published_at,
        Arc::clone(&keys),
        metrics.clone(),
    ));
    tasks.spawn(Arc::clone(&published).follow(super::aws_client::connector(&ca_texts)));

    let state = Arc::new(IssuerState {
        issuer,
        lookup,
        roles,
        api_server,
        keys,
        published,
        waiters,
        limits: RequestLimits::new(),
        metrics: metrics.clone(),
    });
    let observe = {
        let (certificate, readiness, log) =
            (Arc::clone(&certificate), readiness.clone(), log.clone());
        move || metrics.render(readiness.lacks().is_empty(), certificate.ends(), log.lost())
    };
    let server = TlsServer {
        certificate,
        listen,
        health_listen,
        limits: LIMITS,
        router: tokens::router(state),
        readiness,
        shutdown_delay,
        tasks,
    };
    server.run(observe).await
}

/// Starts the watch of opted-in namespaces. Returns access to them, and their tenants.
fn follow_namespaces(
    client: &kube::Client,
    config: &Config,
    synced: health::Latch,
    tasks: &mut JoinSet<()>,
) -> (Lookup, watch::Receiver<HashSet<TenantName>>) {
    let (snapshot, namespaces) = watch::channel(Arc::new(Namespaces::default()));
    let (first, mut complete) = watch::channel(false);
    let rule = config.tenant.clone();
    tasks.spawn(watch_namespaces(client.clone(), rule.clone(), snapshot, first, || {}));
    tokio::spawn(async move {
        if complete.wait_for(|complete| *complete).await.is_ok() {
            synced.release();
        }
    });
    let (tenants, wanted) = watch::channel(HashSet::new());
    let mut changes = namespaces.clone();
    tasks.spawn(async move {
        loop {
            let snapshot = Arc::clone(&changes.borrow_and_update());
            let found = snapshot.iter().filter_map(|namespace| namespace.tenant.clone().ok());
            tenants.send_replace(found.collect());
            if changes.changed().await.is_err() {
                return;
            }
        }
    });
    (Lookup::new(Some(client.clone()), rule, namespaces), wanted)
}

/// Number of worker threads. A token takes two calls of the API server and one signature.
const THREADS: usize = 2;
const LIMITS: Limits = Limits {
    connections: 1024,
    idle: Duration::from_secs(5),
    first_request: Duration::from_secs(5),
    // A projected token has 1 to 2 KiB.
    headers: 16 * 1024,
    protocol: Protocol::OneRequest,
};
