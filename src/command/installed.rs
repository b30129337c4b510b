//! Which release of the chart a cluster has, and what its webhook goes by.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet};

use super::{
    Failure,
    cluster::{CORE, Cluster, RBAC},
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

/// The one that the command line names, or whose service API servers call, or whose account the
/// chart gave rights in the whole cluster. Other namespaces are not searched: anybody may have a
/// ConfigMap that looks like a release's.
async fn release(
    cluster: &Cluster,
    which: &Installation,
    configurations: &Seen<Vec<Value>>,
) -> Result<Release, Failure> {
    let called = match configurations {
        Seen::Known(configurations) => check::service(configurations),
        Seen::Hidden(_) => None,
    };
    let Installation { context: _, release: name, release_namespace } = which;
    let mut selector = PART_OF.to_owned();
    if let Some(name) = name {
        selector.push_str(&format!(",{INSTANCE}={name}"));
    }
    let namespace = match (release_namespace, called) {
        (None, Some((namespace, service))) if name.is_none() => {
            let maps = format!("{CORE}/namespaces/{namespace}/configmaps");
            let data = match cluster.get(&maps, &service).await? {
                Seen::Known(Some(map)) => Some(map["data"].clone()),
                Seen::Known(None) | Seen::Hidden(_) => None,
            };
            return Ok(Release { namespace, name: service, data });
        }
        (Some(namespace), _) => namespace.as_str().to_owned(),
        (None, _) => namespace_by_rights(cluster, &selector).await?,
    };
    let maps = format!("{CORE}/namespaces/{namespace}/configmaps");
    let mut maps = match cluster.list(&maps, &selector).await? {
        Seen::Known(maps) => maps,
        Seen::Hidden(why) => {
            let why = anyhow!("ConfigMaps of namespace {namespace} may not be read: {why}");
            return Err(Failure::Input(why));
        }
    };
    // The chart's test has one of its own.
    maps.retain(|map| {
        map["data"][ROLES].is_string() && map["metadata"]["annotations"][HOOK].is_null()
    });
    let title = |map: &Value| map["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match &maps[..] {
        [] => {
            let which = name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            Err(Failure::Input(anyhow!("namespace {namespace} has no release{which} of the chart")))
        }
        [map] => Ok(Release { namespace, name: title(map), data: Some(map["data"].clone()) }),
        [first, second, ..] => Err(Failure::Input(anyhow!(
            "there is more than one release in namespace {namespace}, {} and {}; choose by --release",
            title(first),
            title(second)
        ))),
    }
}

/// Of the account to which the chart's ClusterRoleBindings give rights.
async fn namespace_by_rights(cluster: &Cluster, selector: &str) -> Result<String, Failure> {
    let bindings = match cluster.list(&format!("{RBAC}/clusterrolebindings"), selector).await? {
        Seen::Known(bindings) => bindings,
        Seen::Hidden(why) => return Err(Failure::Input(anyhow!("{NO_RELEASE}: {why}"))),
    };
    let subjects = bindings.iter().flat_map(|it| it["subjects"].as_array().into_iter().flatten());
    let namespaces: BTreeSet<&str> =
        subjects.filter_map(|subject| subject["namespace"].as_str()).collect();
    match namespaces.into_iter().collect::<Vec<_>>()[..] {
        [] => Err(Failure::Input(anyhow!(NO_RELEASE))),
        [namespace] => Ok(namespace.to_owned()),
        [first, second, ..] => Err(Failure::Input(anyhow!(
            "there is more than one release, in namespaces {first} and {second}; choose by \
             --release or --release-namespace"
        ))),
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
/// <https://helm.sh/docs/topics/charts_hooks/>
const HOOK: &str = "helm.sh/hook";
const NO_RELEASE: &str = "no release of the chart was found, by a webhook configuration or by a ClusterRoleBinding; install it, \
                          or say where it is by --release-namespace";
