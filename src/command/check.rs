//! `check`: what must hold for sessions to have their names. It collects what cluster and AWS
//! hold, has it judged, and prints what was found.

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
};

use anyhow::{Context, anyhow};

use super::{
    Failure, account,
    cluster::{self, Cluster},
    environment,
    installed::{self, Installed},
    now, print, runtime, terminated, trial,
};
use crate::{
    check::{self, Facts, Level},
    cli::{Check, Format},
    namespaces::NamespaceName,
    terminal::harmless,
};

pub(super) fn run(arguments: Check) -> Result<ExitCode, Failure> {
    let format = arguments.output;
    let running = trial::Running::default();
    let facts = runtime()?.block_on(async {
        tokio::select! {
            facts = collect(arguments, &running) => facts,
            ended = terminated() => {
                running.delete().await;
                ended.and(Err(Failure::Ours(anyhow!("stopped by a signal"))))
            }
        }
    });
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

async fn collect(arguments: Check, running: &trial::Running) -> Result<Facts, Failure> {
    let Check { installation, config: file, namespace, assume_role, as_pod, skip_aws, output: _ } =
        arguments;
    let cluster = Cluster::connect(installation.context.as_deref()).await?;
    looking_at("the release");
    let Installed { config, configurations, release } =
        installed::find(&cluster, &installation, file.as_deref()).await?;
    let (webhook, guard, text) = cluster.installation(configurations, &release).await?;
    let namespaces = cluster.namespaces(namespace.as_ref().map(NamespaceName::as_str)).await?;
    let names: Vec<String> =
        check::opted_in(&namespaces, &config).map(|namespace| namespace.name).collect();
    let looking = |index, name: &str| {
        looking_at(&format!("namespace {} of {}: {name}", index + 1, names.len()));
    };
    let mut tenancies = cluster::tenancies(&cluster, &names, looking).await?;
    if as_pod {
        trial::run(&cluster, &namespaces, &mut tenancies, &config, running, looking_at).await?;
    }
    let (rights, daemon_sets) = (cluster.rights().await?, cluster.daemon_sets().await?);
    let tenants = check::tenants(&namespaces, &config);
    let shell = if skip_aws {
        None
    } else {
        looking_at("AWS");
        Some(account::shell(&config).await)
    };
    // A static file is not AWS's.
    let directory = if shell.is_some() || config.roles.ssm.is_none() {
        let from = Some(&release).filter(|_| file.is_none());
        Some(account::directory(shell.as_ref(), &config, from, &tenants).await?)
    } else {
        None
    };
    let account = match (&shell, &directory) {
        (Some(shell), Some(directory)) => {
            let look = account::look(shell, directory, &tenants, &config, assume_role, looking_at);
            Some(look.await?)
        }
        _ => None,
    };
    let now = now();
    Ok(Facts {
        account,
        config,
        daemon_sets,
        directory,
        guard,
        namespaces,
        now,
        rights,
        tenancies,
        text,
        webhook,
    })
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
        let _ = write!(stderr(), "{CLEAR}looking at {}", harmless(what));
    }
}

fn done_looking() {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "{CLEAR}");
    }
}

/// Back to the start of the line, and the line away.
const CLEAR: &str = "\r\u{1b}[K";
