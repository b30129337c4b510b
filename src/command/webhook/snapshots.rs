//! Fills the snapshots of namespaces and roles that decisions use, and keeps them up to date.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{Failure, aws_client::aws_client, files};
use crate::{
    admission,
    config::Config,
    directory::{
        Directory, Entry, Source,
        keeper::{self, Backup, Handle},
        ssm::ParameterStore,
    },
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
pub(super) async fn follow_namespaces(
    manifests: Option<&Path>,
    config: &Arc<Config>,
    synced: Latch,
    metrics: &Metrics,
    tasks: &mut JoinSet<()>,
) -> Result<(Lookup, watch::Receiver<HashSet<TenantName>>), Failure> {
    let (snapshot, namespaces) = watch::channel(Arc::new(Namespaces::default()));
    let client = match manifests {
        Some(path) => {
            let read = read_namespaces(path, config).map_err(Failure::Input)?;
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
                .map_err(Failure::Ours)?;
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
    tasks.spawn(judge_namespaces(namespaces.clone(), Arc::clone(config), metrics.clone(), tenants));
    Ok((Lookup::new(client, config.tenant.clone(), namespaces), wanted))
}

/// Checks the labels of each namespace as soon as it opts in. Logs and counts misconfigured
/// namespaces, and publishes the tenants of all opted-in ones.
async fn judge_namespaces(
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
            if let Some(refusal) = admission::unworkable(namespace, &config) {
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

/// Starts the tasks that keep the snapshot of roles up to date. Returns access to it.
pub(super) async fn follow_roles(
    config: &Config,
    wanted: watch::Receiver<HashSet<TenantName>>,
    tasks: &mut JoinSet<()>,
) -> Result<Handle, Failure> {
    let Some(ssm) = config.roles.ssm.clone() else {
        let directory = Directory::new(Source::Nowhere, HashMap::new());
        let snapshot = Arc::new(ArcSwap::from_pointee(directory));
        if let Some(path) = &config.roles.file {
            let (source, followed) = (Source::File(path.clone()), Arc::clone(&snapshot));
            let publish =
                move |roles| followed.store(Arc::new(Directory::new(source.clone(), roles)));
            follow_file(path, config, publish, tasks).map_err(Failure::Input)?;
        }
        return Ok(Handle::fixed(snapshot));
    };
    let backup: Backup = Arc::default();
    if let Some(path) = &config.roles.file {
        let followed = Arc::clone(&backup);
        let publish = move |roles| followed.store(Arc::new(roles));
        follow_file(path, config, publish, tasks).map_err(Failure::Input)?;
    }
    let shared = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .http_client(aws_client())
        .load()
        .await;
    let store = ParameterStore::new(&shared, &ssm);
    let (handle, keeper) = keeper::start(store, ssm, config.roles.allowed.clone(), backup, wanted);
    tasks.spawn(keeper);
    Ok(handle)
}

/// Publishes the roles of the role file now, and again each [`FILE_TICK`]. If the file becomes
/// invalid, the previous roles stay.
fn follow_file(
    path: &Path,
    config: &Config,
    publish: impl Fn(HashMap<TenantName, Entry>) + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    publish(files::roles(path, config)?);
    let (path, config) = (path.to_owned(), config.clone());
    tasks.spawn(async move {
        let mut ticks = interval(FILE_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged = String::new();
        loop {
            ticks.tick().await;
            match files::roles(&path, &config) {
                Ok(roles) => {
                    logged.clear();
                    publish(roles);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if logged != error {
                        tracing::warn!(error, "invalid role file; keeping the previous roles");
                        logged = error;
                    }
                }
            }
        }
    });
    Ok(())
}

/// Interval between two reads of the role file. The kubelet takes about a minute to update a
/// mounted ConfigMap.
const FILE_TICK: Duration = Duration::from_secs(5);
