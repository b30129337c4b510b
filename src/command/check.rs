//! `check`: collects the facts of the cluster and AWS, makes the checks, and prints the findings.

mod access;
mod aws;
mod base_users;
mod facts;
mod issuer;
mod preflight;
mod trial;

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
};

use anyhow::{Context, anyhow};

use super::{
    CommandError, aws_shell,
    cluster::Cluster,
    environment, files,
    installed::{self, Installed},
    now, output, print, runtime, terminated,
};
use crate::{
    check::{self, Checks, Facts, Findings, Level, ReleaseFacts, Transports},
    cli::{Check, Format},
    config::Region,
    namespaces::{Namespace, NamespaceName},
    terminal::harmless,
};

pub(super) fn run(arguments: Check) -> Result<ExitCode, CommandError> {
    let format = arguments.output;
    let running = trial::Running::default();
    let found = runtime()?.block_on(async {
        tokio::select! {
            found = run_async(arguments, &running) => found,
            ended = terminated() => {
                running.delete().await;
                ended.and(Err(CommandError::Internal(anyhow!("stopped by a signal"))))
            }
        }
    });
    clear_progress();
    let found = found?;
    let text = match format {
        Format::Json => output::object("CheckReport", &found.json()),
        Format::Text => found
            .text(paint())
            .context("cannot format the findings")
            .map_err(CommandError::Internal)?,
    };
    let printed = print(&text)?;
    Ok(if printed != ExitCode::SUCCESS {
        printed
    } else if found.has_errors() {
        ExitCode::from(1)
    } else if found.is_unreachable() {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    })
}

/// Collects the facts and makes the checks. The contents of one namespace are in memory at a time.
async fn run_async(arguments: Check, running: &trial::Running) -> Result<Findings, CommandError> {
    let Check {
        installation,
        config: file,
        namespace,
        pre,
        assume_role,
        as_pod,
        skip_aws,
        output: _,
    } = arguments;
    let cluster = Cluster::connect(installation.context.as_deref()).await?;
    show_progress("the release");
    let (config, release, facts) = if pre {
        let config = files::config(file.as_deref()).map_err(CommandError::Input)?;
        let namespace = installation.release_namespace.as_ref();
        let namespace = namespace.map_or(DEFAULT_NAMESPACE, NamespaceName::as_str);
        let preflight = preflight::read(&cluster, namespace).await?;
        (config, None, ReleaseFacts::Missing(preflight))
    } else {
        let Installed { config, configurations, release } =
            installed::find(&cluster, &installation, file.as_deref()).await?;
        let (webhook, guard, text) = cluster.installation(configurations, &release).await?;
        (
            config,
            Some(release),
            ReleaseFacts::Installed { guard, now: now(), text, webhook: Box::new(webhook) },
        )
    };
    let mut namespaces = cluster.namespaces(namespace.as_ref().map(NamespaceName::as_str)).await?;
    if pre && namespace.is_some() {
        namespaces = namespaces.map(|namespaces| check::as_enabled(&namespaces));
    }
    let kubernetes = cluster.kubernetes_versions().await?;
    let (rights, daemon_sets) = (cluster.rights().await?, cluster.daemon_sets().await?);
    let tenants = check::tenants(&namespaces, &config);
    let sandboxes = cluster.sandboxes(&config).await?;
    let shell = if skip_aws {
        None
    } else {
        show_progress("AWS");
        Some(aws_shell::shell(config.region.as_ref().map(Region::as_str)).await)
    };
    // A static role file needs no AWS. Before the installation, only a config file names roles.
    let names_roles = !pre || file.is_some();
    let roles = if names_roles && (shell.is_some() || config.roles.ssm.is_none()) {
        let from = release.as_ref().filter(|_| file.is_none());
        Some(aws_shell::roles(shell.as_ref(), &config, from, &tenants).await?)
    } else {
        None
    };
    let aws_facts = match (&shell, &roles) {
        (Some(shell), Some(roles)) => {
            let transports = Transports::of(&namespaces, &sandboxes, &config);
            let wanted =
                aws::TenantsToRead { tenants: &tenants, transports: &transports, assume_role };
            Some(aws::look(shell, roles, &wanted, &config, show_progress).await?)
        }
        _ => None,
    };
    let issuer = match &config.issuer {
        Some(settings) if !skip_aws => {
            show_progress("the session issuer");
            Some(issuer::look(settings, &config).await)
        }
        _ => None,
    };
    let opted_in: Vec<Namespace> = check::opted_in(&namespaces, &config).collect();
    let issuer_pods = match (&config.issuer, &release) {
        (Some(_), Some(release)) => Some(cluster.issuer_pods(&release.namespace).await?),
        _ => None,
    };
    let mut checks = Checks::of_cluster(Facts {
        aws: aws_facts,
        config: &config,
        daemon_sets,
        issuer,
        issuer_pods,
        roles,
        namespaces,
        sandboxes,
        release: facts,
        rights,
        kubernetes,
    });
    let username = if as_pod { Some(trial::whoami(&cluster).await?) } else { None };
    for (index, namespace) in opted_in.iter().enumerate() {
        let name = &namespace.name;
        show_progress(&format!("namespace {} of {}: {name}", index + 1, opted_in.len()));
        let contents = cluster.contents(name).await?;
        let trial = match &username {
            Some(username) => {
                show_progress(&format!("a pod in namespace {name}"));
                trial::run(&cluster, namespace, &contents, username, &config, running).await?
            }
            None => None,
        };
        checks.of_namespace(namespace, &contents, trial);
    }
    show_progress("pods that use a base role without a session");
    let (shell, only_one) = (shell.as_ref(), namespace.is_some());
    let look = base_users::look(
        &cluster,
        shell,
        config.cluster.as_deref().unwrap_or_default(),
        &opted_in,
        only_one,
        &mut checks,
    );
    let associations = look.await?;
    Ok(checks.finish(&associations))
}

/// Colours levels if stdout is a terminal and `NO_COLOR` is not set: <https://no-color.org>.
fn paint() -> impl Fn(Level, &str) -> String {
    let colour = stdout().is_terminal() && environment("NO_COLOR").is_none();
    move |level, text| {
        let code = match level {
            Level::Error => "31",
            Level::Ok => "32",
            Level::Unknown => "33",
            Level::Warning => "36",
        };
        if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Shows the current step in a line of the terminal, which the next step replaces.
fn show_progress(what: &str) {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "{CLEAR}checking {}", harmless(what));
    }
}

fn clear_progress() {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "{CLEAR}");
    }
}

/// Namespace of the release in docs/install.md.
const DEFAULT_NAMESPACE: &str = "fab-system";
/// Moves the cursor to the start of the line, and clears the line.
const CLEAR: &str = "\r\u{1b}[K";
