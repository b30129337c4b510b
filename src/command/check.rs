//! `check`: what must hold for sessions to have their names. It collects what cluster and AWS
//! hold, has it judged, and prints what was found.

use std::{
    collections::{HashMap, HashSet},
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::{
    Failure, account,
    cluster::{self, CONFIG, Cluster, Release},
    environment, files, now, print,
};
use crate::{
    check::{self, Account, Facts, Level, Seen, Tenancy},
    cli::{Check, Format},
    config::Config,
    namespaces::{Mode, NamespaceName},
    session::TenantName,
};

pub(super) fn run(arguments: Check) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Ours)?;
    let format = arguments.output;
    let facts = runtime.block_on(collect(arguments));
    done_looking();
    let found = check::findings(&facts?);
    let output = match format {
        Format::Json => format!("{:#}\n", found.json()),
        Format::Text => found.text(paint()).context("findings").map_err(Failure::Ours)?,
    };
    let printed = print(&output)?;
    Ok(if printed != ExitCode::SUCCESS {
        printed
    } else if found.is_broken() {
        ExitCode::from(1)
    } else if found.is_unreachable() {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    })
}

async fn collect(arguments: Check) -> Result<Facts, Failure> {
    let Check {
        config: file,
        context,
        namespace,
        release,
        release_namespace,
        assume_role,
        as_pod,
        skip_aws,
        output: _,
    } = arguments;
    let cluster = Cluster::connect(context.as_deref()).await?;
    looking_at("the release");
    let release = cluster
        .release(release.as_deref(), release_namespace.as_ref().map(NamespaceName::as_str))
        .await?;
    let configurations = cluster.configurations().await?;
    let mut config = match &file {
        Some(file) => files::config(Some(file)).map_err(Failure::Input)?,
        None => config_of(release.as_ref()).map_err(Failure::Input)?,
    };
    let release = match (release, &configurations) {
        (Some(release), _) => release,
        (None, Seen::Known(configurations)) => called(configurations).map_err(Failure::Input)?,
        (None, Seen::Hidden(why)) => return Err(Failure::Input(anyhow!("{NO_RELEASE}: {why}"))),
    };
    if config.region.is_none() {
        let region = cluster.region(&release).await?;
        config.region = region.and_then(|region| region.parse().ok());
    }
    let (webhook, guard, text) = cluster.installation(configurations, &release).await?;
    let namespaces = cluster.namespaces(namespace.as_ref().map(NamespaceName::as_str)).await?;
    let names: Vec<String> =
        check::opted_in(&namespaces, &config).map(|namespace| namespace.name).collect();
    let looking = |index, name: &str| {
        looking_at(&format!("namespace {} of {}: {name}", index + 1, names.len()));
    };
    let mut tenancies = cluster::tenancies(&cluster, &names, looking).await?;
    if as_pod {
        try_pods(&cluster, &namespaces, &mut tenancies, &config).await?;
    }
    let rights = cluster.rights().await?;
    let account = if skip_aws {
        None
    } else {
        looking_at("AWS");
        let tenants: HashSet<TenantName> =
            check::tenants(&namespaces, &config).into_iter().collect();
        let shell = account::shell(&config).await;
        let directory =
            account::directory(&shell, &config, file.is_some(), &release, &tenants).await?;
        let chains = account::chains(&shell, &directory, &tenants).await;
        let assumed = if assume_role {
            Some(account::assume(&shell, &directory, &tenants, &config).await)
        } else {
            None
        };
        Some(Account { assumed, chains, directory })
    };
    Ok(Facts { account, config, guard, namespaces, now: now(), rights, tenancies, text, webhook })
}

/// As the webhook of the release reads it.
fn config_of(release: Option<&Release>) -> anyhow::Result<Config> {
    let data = release.and_then(|release| Some((release, release.data.as_ref()?)));
    let (Release { namespace, name, .. }, data) = data.ok_or_else(|| anyhow!(NO_RELEASE))?;
    let text = data[CONFIG].as_str().unwrap_or_default();
    Config::parse(text).with_context(|| format!("ConfigMap {namespace}/{name}, {CONFIG}"))
}

/// Where there is only the webhook configuration: its service has the name of all the rest.
fn called(configurations: &[Value]) -> anyhow::Result<Release> {
    let (namespace, name) = check::service(configurations).ok_or_else(|| anyhow!(NO_RELEASE))?;
    Ok(Release { namespace, name, data: None })
}

/// One after the other, where a pod would be injected.
async fn try_pods(
    cluster: &Cluster,
    namespaces: &Seen<Vec<Value>>,
    tenancies: &mut HashMap<String, Tenancy>,
    config: &Config,
) -> Result<(), Failure> {
    for namespace in check::opted_in(namespaces, config) {
        if namespace.mode != Some(Mode::Enabled) {
            continue;
        }
        let namespace = namespace.name;
        let Some(tenancy) = tenancies.get_mut(&namespace) else { continue };
        let Some(account) = check::account_to_try(tenancy, config) else { continue };
        looking_at(&format!("a pod in namespace {namespace}"));
        tenancy.trial = Some(cluster.try_pod(&namespace, account, config).await?);
    }
    Ok(())
}

/// <https://no-color.org>
fn paint() -> impl Fn(Level, &str) -> String {
    let colour = stdout().is_terminal() && environment("NO_COLOR").is_none();
    move |level, text| {
        let code = match level {
            Level::Broken => "31",
            Level::Note => "36",
            Level::Ok => "32",
            Level::Unseen => "33",
        };
        if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Says what is looked at now, in one line of a terminal that the next one replaces.
fn looking_at(what: &str) {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "{CLEAR}looking at {what}");
    }
}

fn done_looking() {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "{CLEAR}");
    }
}

/// Back to the start of the line, and the line away.
const CLEAR: &str = "\r\u{1b}[K";
const NO_RELEASE: &str = "there is no ConfigMap of a release of the chart, or it may not be read; \
                          give its --release-namespace, or --config FILE";
