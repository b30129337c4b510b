//! Which release of the chart a cluster has, and what its webhook goes by.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet};

use super::{
    Failure,
    cluster::{CORE, Cluster},
    files, snapshots,
};
use crate::{
    check::{self, Seen},
    cli::Installation,
    config::Config,
    directory::{Directory, Source, file, keeper::Handle},
    session::TenantName,
};

pub(super) struct Installed {
    /// With the region that the Deployment gives the webhook, where the text says none.
    pub(super) config: Config,
    /// All MutatingWebhookConfigurations.
    pub(super) configurations: Seen<Vec<Value>>,
    pub(super) release: Release,
}

/// What the chart brought as the release.
pub(super) struct Release {
    pub(super) namespace: String,
    /// Of the release's own objects.
    pub(super) name: String,
    /// The ConfigMap with config and static roles. None: it was not found, but the service was.
    pub(super) data: Option<Value>,
}

/// `file` takes the place of the release's config.
pub(super) async fn find(
    cluster: &Cluster,
    which: &Installation,
    file: Option<&Path>,
) -> Result<Installed, Failure> {
    let configurations = cluster.configurations().await?;
    let release = release(cluster, which, &configurations).await?;
    let mut config = match file {
        Some(file) => files::config(Some(file)),
        None => config_of(&release),
    }
    .map_err(Failure::Input)?;
    if config.region.is_none() {
        let region = cluster.region(&release).await?;
        config.region = region.and_then(|region| region.parse().ok());
    }
    Ok(Installed { config, configurations, release })
}

/// The one that the command line names; else whose service API servers call; else the one whose
/// label a ConfigMap has, which anybody may give to theirs.
async fn release(
    cluster: &Cluster,
    which: &Installation,
    configurations: &Seen<Vec<Value>>,
) -> Result<Release, Failure> {
    let called = match configurations {
        Seen::Known(configurations) => check::service(configurations),
        Seen::Hidden(_) => None,
    };
    let Installation { context: _, release: name, release_namespace: namespace } = which;
    if let (Some((namespace, name)), None, None) = (called, name, namespace) {
        let maps = format!("{CORE}/namespaces/{namespace}/configmaps");
        let data = match cluster.get(&maps, &name).await? {
            Seen::Known(Some(map)) => Some(map["data"].clone()),
            Seen::Known(None) | Seen::Hidden(_) => None,
        };
        return Ok(Release { namespace, name, data });
    }
    let mut selector = PART_OF.to_owned();
    if let Some(name) = name {
        selector.push_str(&format!(",{INSTANCE}={name}"));
    }
    let maps = match namespace {
        Some(namespace) => format!("{CORE}/namespaces/{}/configmaps", namespace.as_str()),
        None => format!("{CORE}/configmaps"),
    };
    let maps = match cluster.list(&maps, &selector).await? {
        Seen::Known(maps) => maps,
        Seen::Hidden(why) => return Err(Failure::Input(anyhow!("{NO_RELEASE}: {why}"))),
    };
    let configs: Vec<&Value> = maps.iter().filter(|map| map["data"][ROLES].is_string()).collect();
    let title = |map: &Value| {
        let metadata = &map["metadata"];
        let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
        (text("namespace"), text("name"))
    };
    match configs[..] {
        [] => Err(Failure::Input(anyhow!(NO_RELEASE))),
        [map] => {
            let (namespace, name) = title(map);
            Ok(Release { namespace, name, data: Some(map["data"].clone()) })
        }
        [first, second, ..] => {
            let ((namespace, name), (other_namespace, other)) = (title(first), title(second));
            Err(Failure::Input(anyhow!(
                "there is more than one release, {namespace}/{name} and {other_namespace}/{other}; \
                 choose by --release or --release-namespace"
            )))
        }
    }
}

/// As the webhook of the release reads it.
fn config_of(release: &Release) -> anyhow::Result<Config> {
    let Release { namespace, name, data } = release;
    let data = data.as_ref().ok_or_else(|| {
        anyhow!("ConfigMap {namespace}/{name} is not there, or may not be read; give --config FILE")
    })?;
    let text = data[CONFIG].as_str().unwrap_or_default();
    Config::parse(text).with_context(|| format!("ConfigMap {namespace}/{name}, {CONFIG}"))
}

/// The roles of tenants, as the webhook learns them, but with the credentials of this shell.
/// `release` is where the config came from, if not from a file.
pub(super) async fn roles(
    config: &Config,
    release: Option<&Release>,
    wanted: watch::Receiver<HashSet<TenantName>>,
    tasks: &mut JoinSet<()>,
) -> Result<Handle, Failure> {
    let mut config = config.clone();
    // Beside SSM it is a backup, under a path of the webhook's own.
    let file = config.roles.file.take_if(|_| config.roles.ssm.is_some() || release.is_some());
    let (Some(_), Some(release), None) = (file, release, &config.roles.ssm) else {
        return snapshots::follow_roles(&config, wanted, tasks).await;
    };
    let Release { namespace, name, data } = release;
    let roles = match data {
        Some(data) => {
            let text = data[ROLES].as_str().unwrap_or_default();
            file::parse(text, &config.roles.allowed)
                .with_context(|| format!("ConfigMap {namespace}/{name}, {ROLES}"))
                .map_err(Failure::Input)?
        }
        None => HashMap::new(),
    };
    Ok(fixed(Directory::new(Source::File(PathBuf::from(ROLES)), roles)))
}

pub(super) fn fixed(directory: Directory) -> Handle {
    Handle::fixed(Arc::new(ArcSwap::from_pointee(directory)))
}

/// All objects of the chart have it, whatever the release and its names are.
const PART_OF: &str = "app.kubernetes.io/part-of=fab-session-injector";
const INSTANCE: &str = "app.kubernetes.io/instance";
/// Of the ConfigMap.
pub(super) const CONFIG: &str = "config.yaml";
const ROLES: &str = "roles.yaml";
const NO_RELEASE: &str = "no release of the chart was found: no webhook configuration names its service, and no \
                          ConfigMap has its label, or you may read neither; install it, or say where it \
                          is by --release-namespace";
