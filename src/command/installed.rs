//! Finds the release of the chart in a cluster, its config and its roles.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use kube::api::ListParams;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet};

use super::{
    CommandError,
    cluster::{ADMISSION, CORE, Cluster, RBAC, all},
    files, roles,
};
use crate::{
    check::{self, Objects, Seen},
    cli::Installation,
    config::Config,
    json::Json,
    roles::{Roles, Source, file, refresher::RolesHandle},
    session::TenantName,
};

pub(super) struct Installed {
    /// The config. If it has no region, it gets the one that the Deployment sets for the webhook.
    pub(super) config: Config,
    /// All MutatingWebhookConfigurations.
    pub(super) configurations: Seen<Objects>,
    pub(super) release: Release,
}

/// A release of the chart.
pub(super) struct Release {
    pub(super) namespace: String,
    /// The name of the release's objects.
    pub(super) name: String,
    /// The data of the ConfigMap with config and static roles. None: only the service was found.
    pub(super) data: Option<Value>,
}

/// Finds the release. If `file` is set, the config is read from it instead of the release.
pub(super) async fn find(
    cluster: &Cluster,
    which: &Installation,
    file: Option<&Path>,
) -> Result<Installed, CommandError> {
    let configurations =
        cluster.list(&format!("{ADMISSION}/mutatingwebhookconfigurations"), all()).await?;
    let release = release(cluster, which, &configurations).await?;
    let mut config = match file {
        Some(file) => files::config(Some(file)),
        None => config_of(&release),
    }
    .map_err(CommandError::Input)?;
    if config.region.is_none() {
        let region = region(cluster, &release).await?;
        config.region = region.and_then(|region| region.parse().ok());
    }
    Ok(Installed { config, configurations, release })
}

/// Returns the release that the command line names. Else the release whose service API servers
/// call. Else the release whose service account the chart's ClusterRoleBindings name. Other
/// namespaces are not searched: a tenant may create a ConfigMap that looks like a release's.
async fn release(
    cluster: &Cluster,
    which: &Installation,
    configurations: &Seen<Objects>,
) -> Result<Release, CommandError> {
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
            let data = match cluster.get::<Value>(&maps, &service).await? {
                Seen::Known(Some(map)) => Some(map["data"].clone()),
                Seen::Known(None) | Seen::Hidden(_) => None,
            };
            return Ok(Release { namespace, name: service, data });
        }
        (Some(namespace), _) => namespace.as_str().to_owned(),
        (None, _) => namespace_by_rights(cluster, &selector).await?,
    };
    let maps = format!("{CORE}/namespaces/{namespace}/configmaps");
    let maps = match cluster.list(&maps, labelled(&selector)).await? {
        Seen::Known(maps) => maps,
        Seen::Hidden(why) => {
            let why = anyhow!(
                "cannot read ConfigMaps of namespace {namespace}; use --config FILE with the webhook's config: {why}"
            );
            return Err(CommandError::Input(why));
        }
    };
    // Skips the ConfigMap of the chart's test, which is a Helm hook.
    let maps = maps.iter().filter(|map| {
        let hook = map.at("metadata").at("annotations").at(HOOK);
        map.at("data").at(ROLES).string().is_some() && hook.string().is_none()
    });
    let title = |map: &Value| map["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match &maps.map(Json::tree).collect::<Vec<_>>()[..] {
        [] => {
            let which = name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            Err(CommandError::Input(anyhow!(
                "namespace {namespace} has no release{which} of the chart"
            )))
        }
        [map] => Ok(Release { namespace, name: title(map), data: Some(map["data"].clone()) }),
        [first, second, ..] => Err(CommandError::Input(anyhow!(
            "more than one release in namespace {namespace}: {} and {}; choose one with --release",
            title(first),
            title(second)
        ))),
    }
}

/// Returns the region that the Deployment sets for the webhook.
async fn region(cluster: &Cluster, release: &Release) -> Result<Option<String>, CommandError> {
    let Release { namespace, name, data: _ } = release;
    let Seen::Known(Some(deployment)) = cluster.deployment(namespace, name).await? else {
        return Ok(None);
    };
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
    let variables = containers
        .into_iter()
        .flatten()
        .flat_map(|container| container["env"].as_array().into_iter().flatten());
    let mut region = variables.filter(|variable| variable["name"] == "AWS_REGION");
    Ok(region.next().and_then(|variable| variable["value"].as_str()).map(str::to_owned))
}

/// Returns the namespace of the service account that the chart's ClusterRoleBindings name.
async fn namespace_by_rights(cluster: &Cluster, selector: &str) -> Result<String, CommandError> {
    let bindings = format!("{RBAC}/clusterrolebindings");
    let bindings = match cluster.list(&bindings, labelled(selector)).await? {
        Seen::Known(bindings) => bindings,
        Seen::Hidden(why) => {
            return Err(CommandError::Input(anyhow!("{NO_RELEASE}, or --config: {why}")));
        }
    };
    // The chart's binding for people names service accounts of any namespace.
    let is_for_pods = |binding: &Json<'_>| {
        let role = binding.at("roleRef").at("name").string();
        !role.is_some_and(|role| role.ends_with(VIEWER))
    };
    let bindings = bindings.iter().filter(is_for_pods);
    let subjects = bindings.flat_map(|binding| binding.at("subjects").items());
    let namespaces: BTreeSet<_> =
        subjects.filter_map(|subject| subject.at("namespace").string()).collect();
    match &namespaces.into_iter().collect::<Vec<_>>()[..] {
        [] => Err(CommandError::Input(anyhow!(NO_RELEASE))),
        [namespace] => Ok(namespace.to_string()),
        [first, second, ..] => Err(CommandError::Input(anyhow!(
            "more than one release, in namespaces {first} and {second}; choose one with \
             --release or --release-namespace"
        ))),
    }
}

fn labelled(selector: &str) -> ListParams {
    ListParams::default().labels(selector)
}

/// Parses the config of the release, as the webhook does.
fn config_of(release: &Release) -> anyhow::Result<Config> {
    let Release { namespace, name, data } = release;
    let data = data.as_ref().ok_or_else(|| {
        anyhow!("ConfigMap {namespace}/{name} does not exist or cannot be read; use --config FILE")
    })?;
    let text = data[CONFIG].as_str().unwrap_or_default();
    Config::parse(text).with_context(|| format!("ConfigMap {namespace}/{name}, {CONFIG}"))
}

/// Returns access to the roles of tenants, which are read as the webhook reads them, but with the
/// AWS credentials of this shell. `release`: None if the config is from a file.
pub(super) async fn roles(
    config: &Config,
    release: Option<&Release>,
    wanted: watch::Receiver<HashSet<TenantName>>,
    tasks: &mut JoinSet<()>,
) -> Result<RolesHandle, CommandError> {
    let mut config = config.clone();
    // With SSM, the file is a backup, and its path is one in the webhook's pod.
    let file = config.roles.file.take_if(|_| config.roles.ssm.is_some() || release.is_some());
    let (Some(_), Some(release), None) = (file, release, &config.roles.ssm) else {
        return roles::follow(&config, None, wanted, tasks).await;
    };
    let Release { namespace, name, data } = release;
    let roles = match data {
        Some(data) => {
            let text = data[ROLES].as_str().unwrap_or_default();
            file::parse(text, &config.roles.allowed)
                .with_context(|| format!("ConfigMap {namespace}/{name}, {ROLES}"))
                .map_err(CommandError::Input)?
        }
        None => HashMap::new(),
    };
    Ok(roles::fixed(Roles::new(Source::File(PathBuf::from(ROLES)), roles)))
}

/// Label of all objects of the chart, independent of the release and its names.
const PART_OF: &str = "app.kubernetes.io/part-of=fab-session-injector";
/// The end of the name of the chart's role for people.
const VIEWER: &str = "-viewer";
const INSTANCE: &str = "app.kubernetes.io/instance";
/// Key of the ConfigMap.
pub(super) const CONFIG: &str = "config.yaml";
const ROLES: &str = "roles.yaml";
/// <https://helm.sh/docs/topics/charts_hooks/>
const HOOK: &str = "helm.sh/hook";
const NO_RELEASE: &str = "no release of the chart was found by a webhook configuration or a ClusterRoleBinding; install the chart, \
                          or set --release-namespace";
