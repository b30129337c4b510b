//! Keeps the snapshot of namespaces up to date.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    admission,
    command::{CommandError, files},
    config::Config,
    namespaces::{
        Mode, Namespaces,
        watch::{Lookup, watch as watch_namespaces},
    },
    serve::health::Latch,
    session::TenantName,
    telemetry::Metrics,
};

/// Starts the task that keeps the snapshot of namespaces up to date. Returns access to it, and the
/// tenants of all opted-in namespaces.
pub(super) async fn follow(
    manifests: Option<&Path>,
    config: &Arc<Config>,
    synced: Latch,
    metrics: &Metrics,
    tasks: &mut JoinSet<()>,
) -> Result<(Lookup, watch::Receiver<HashSet<TenantName>>), CommandError> {
    let (snapshot, namespaces) = watch::channel(Arc::new(Namespaces::default()));
    let client = match manifests {
        Some(path) => {
            let read = read_namespaces(path, config).map_err(CommandError::Input)?;
            snapshot.send_replace(Arc::new(read));
            synced.release();
            // Keeps the sender alive, so that the snapshot stays valid.
            tasks.spawn(async move { snapshot.closed().await });
            None
        }
        None => {
            let client = kube::Client::try_default()
                .await
                .context(
                    "cannot find an API server to watch namespaces: set KUBECONFIG, run in a pod, \
                     or use --namespaces FILE",
                )
                .map_err(CommandError::Internal)?;
            let (first, mut complete) = watch::channel(false);
            let failed = {
                let metrics = metrics.clone();
                move || metrics.namespace_watch_error()
            };
            let rule = config.tenant.clone();
            tasks.spawn(watch_namespaces(client.clone(), rule, snapshot, first, failed));
            tokio::spawn(async move {
                if complete.wait_for(|complete| *complete).await.is_ok() {
                    synced.release();
                }
            });
            Some(client)
        }
    };
    let (tenants, wanted) = watch::channel(HashSet::new());
    tasks.spawn(check_namespaces(namespaces.clone(), Arc::clone(config), metrics.clone(), tenants));
    Ok((Lookup::new(client, config.tenant.clone(), namespaces), wanted))
}

/// Checks the labels of each namespace as soon as it opts in. Logs and counts misconfigured
/// namespaces, and publishes the tenants of all opted-in ones.
async fn check_namespaces(
    mut namespaces: watch::Receiver<Arc<Namespaces>>,
    config: Arc<Config>,
    metrics: Metrics,
    tenants: watch::Sender<HashSet<TenantName>>,
) {
    let mut logged: HashMap<String, String> = HashMap::new();
    loop {
        let snapshot = Arc::clone(&namespaces.borrow_and_update());
        let mut misconfigured: BTreeMap<&'static str, usize> = BTreeMap::new();
        let mut reasons = HashMap::new();
        for namespace in snapshot.iter() {
            if let Some(refusal) = admission::namespace_refusal(namespace, &config) {
                *misconfigured.entry(refusal.code()).or_default() += 1;
                let reason = refusal.to_string();
                if logged.get(&namespace.name) != Some(&reason) {
                    tracing::warn!(
                        namespace = namespace.name,
                        reason,
                        "namespace is misconfigured"
                    );
                }
                reasons.insert(namespace.name.clone(), reason);
            }
        }
        logged = reasons;
        let count = |mode| snapshot.iter().filter(|namespace| namespace.mode == Some(mode)).count();
        let modes = [Mode::Audit, Mode::Enabled].map(|mode| (mode.as_str(), count(mode)));
        metrics.namespaces(&modes, &misconfigured.into_iter().collect::<Vec<_>>());
        tenants.send_replace(
            snapshot.iter().filter_map(|namespace| namespace.tenant.clone().ok()).collect(),
        );
        if namespaces.changed().await.is_err() {
            return;
        }
    }
}

fn read_namespaces(path: &Path, config: &Config) -> anyhow::Result<Namespaces> {
    let objects = files::objects(&path.display().to_string(), &files::text(path)?)?;
    let namespaces = files::namespaces(&objects, config)?;
    if namespaces.is_empty() {
        bail!("{} contains no Namespace", path.display());
    }
    Ok(namespaces.into_iter().collect())
}
