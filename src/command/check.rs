//! `check`: collects the facts of the cluster and AWS, makes the checks, and prints the findings.

mod aws;
mod trial;

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
};

use anyhow::{Context, anyhow};

use super::{
    CommandError,
    cluster::{self, Cluster},
    environment,
    installed::{self, Installed},
    now, print, runtime, terminated,
};
use crate::{
    check::{self, Facts, Level},
    cli::{Check, Format},
    namespaces::NamespaceName,
    terminal::harmless,
};

pub(super) fn run(arguments: Check) -> Result<ExitCode, CommandError> {
    let format = arguments.output;
    let running = trial::Running::default();
    let facts = runtime()?.block_on(async {
        tokio::select! {
            facts = collect(arguments, &running) => facts,
            ended = terminated() => {
                running.delete().await;
                ended.and(Err(CommandError::Internal(anyhow!("stopped by a signal"))))
            }
        }
    });
    clear_progress();
    let found = check::findings(&facts?);
    let output = match format {
        Format::Json => format!("{:#}\n", found.json()),
        Format::Text => found
            .text(paint())
            .context("cannot format the findings")
            .map_err(CommandError::Internal)?,
    };
    let printed = print(&output)?;
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

async fn collect(arguments: Check, running: &trial::Running) -> Result<Facts, CommandError> {
    let Check { installation, config: file, namespace, assume_role, as_pod, skip_aws, output: _ } =
        arguments;
    let cluster = Cluster::connect(installation.context.as_deref()).await?;
    show_progress("the release");
    let Installed { config, configurations, release } =
        installed::find(&cluster, &installation, file.as_deref()).await?;
    let (webhook, guard, text) = cluster.installation(configurations, &release).await?;
    let namespaces = cluster.namespaces(namespace.as_ref().map(NamespaceName::as_str)).await?;
    let names: Vec<String> =
        check::opted_in(&namespaces, &config).map(|namespace| namespace.name).collect();
    let progress = |index, name: &str| {
        show_progress(&format!("namespace {} of {}: {name}", index + 1, names.len()));
    };
    let mut contents = cluster::contents(&cluster, &names, progress).await?;
    if as_pod {
        trial::run(&cluster, &namespaces, &mut contents, &config, running, show_progress).await?;
    }
    let (rights, daemon_sets) = (cluster.rights().await?, cluster.daemon_sets().await?);
    let tenants = check::tenants(&namespaces, &config);
    let shell = if skip_aws {
        None
    } else {
        show_progress("AWS");
        Some(aws::shell(&config).await)
    };
    // A static role file needs no AWS.
    let roles = if shell.is_some() || config.roles.ssm.is_none() {
        let from = Some(&release).filter(|_| file.is_none());
        Some(aws::roles(shell.as_ref(), &config, from, &tenants).await?)
    } else {
        None
    };
    let account = match (&shell, &roles) {
        (Some(shell), Some(roles)) => {
            let look = aws::look(shell, roles, &tenants, &config, assume_role, show_progress);
            Some(look.await?)
        }
        _ => None,
    };
    let now = now();
    Ok(Facts {
        account,
        config,
        daemon_sets,
        roles,
        guard,
        namespaces,
        now,
        rights,
        contents,
        text,
        webhook,
    })
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

/// Moves the cursor to the start of the line, and clears the line.
const CLEAR: &str = "\r\u{1b}[K";
