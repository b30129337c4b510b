//! Access to the roles of tenants, from SSM or a static role file.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{CommandError, aws_client::aws_client, files};
use crate::{
    config::Config,
    roles::{
        Backup, Entry, Roles, Source,
        refresher::{self, RolesHandle},
        ssm::ParameterStore,
    },
    session::{CaBundle, TenantName},
};

/// Starts the tasks that keep the snapshot of roles up to date. Returns access to it.
/// `trusted`: CA certificates (PEM) for AWS, in addition to those of the config.
pub(super) async fn follow(
    config: &Config,
    trusted: Option<&str>,
    wanted: watch::Receiver<HashSet<TenantName>>,
    tasks: &mut JoinSet<()>,
) -> Result<RolesHandle, CommandError> {
    let Some(ssm) = config.roles.ssm.clone() else {
        let roles = Roles::new(Source::None, HashMap::new());
        let snapshot = Arc::new(ArcSwap::from_pointee(roles));
        if let Some(path) = &config.roles.file {
            let (source, followed) = (Source::File(path.clone()), Arc::clone(&snapshot));
            let publish = move |roles| followed.store(Arc::new(Roles::new(source.clone(), roles)));
            follow_file(path, config, publish, tasks).map_err(CommandError::Input)?;
        }
        return Ok(RolesHandle::fixed(snapshot));
    };
    let backup: Backup = Arc::default();
    if let Some(path) = &config.roles.file {
        let followed = Arc::clone(&backup);
        let publish = move |roles| followed.store(Arc::new(roles));
        follow_file(path, config, publish, tasks).map_err(CommandError::Input)?;
    }
    let shared = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .http_client(aws_client(config.aws_ca_bundle.iter().map(CaBundle::as_str).chain(trusted)))
        .load()
        .await;
    let store = ParameterStore::new(&shared, &ssm);
    let (handle, refresher) =
        refresher::start(store, ssm, config.roles.allowed.clone(), backup, wanted);
    tasks.spawn(refresher);
    Ok(handle)
}

/// Returns access to roles that do not change.
pub(super) fn fixed(roles: Roles) -> RolesHandle {
    RolesHandle::fixed(Arc::new(ArcSwap::from_pointee(roles)))
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
