//! `inject`: shows how the webhook changes manifests, without a cluster, by the same decision.

use std::{
    fmt::Write as _,
    io::{IsTerminal, stdout},
    process::ExitCode,
};

use anyhow::Context;
use json_patch::PatchOperation;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::{
    CommandError, environment, files,
    offline::{self, Assumed, Coverage},
    output, print, say,
};
use crate::{
    admission::{self, Decision, Explained, Gives, Refusal},
    cli::Inject,
    config::{Config, SessionTransport},
    manifest::{self, PodIn},
    namespaces::{Mode, Namespaces},
    roles::{Roles, Source},
    terminal::harmless,
};

pub(super) fn run(arguments: &Inject) -> Result<ExitCode, CommandError> {
    let mut config = files::config(arguments.config.as_deref()).map_err(CommandError::Input)?;
    if arguments.region.is_some() {
        config.region.clone_from(&arguments.region);
    }
    // The file is the webhook's, and need not be on this machine.
    if files::has_issuer_ca(&config) {
        files::read_issuer_ca(&mut config).map_err(CommandError::Input)?;
    }
    let roles = files::roles(&arguments.roles, &config).map_err(CommandError::Input)?;
    let roles = Roles::new(Source::File(arguments.roles.clone()), roles);
    let objects = offline::objects(&arguments.filename).map_err(CommandError::Input)?;
    let namespaces =
        Assumed::read(&objects, arguments.tenant.as_ref(), &config).map_err(CommandError::Input)?;

    let mut printed = String::new();
    let mut refused = false;
    let (mut sidecars, mut has_issuer) = (false, false);
    let mut coverage = Coverage::default();
    for object in &objects {
        let mut operations = Vec::new();
        let pods = PodIn::find(object);
        coverage.see(object, &pods, &arguments.creator);
        for found in &pods {
            let outcome = injected(object, found, arguments, &namespaces, &roles, &config)
                .map_err(CommandError::Input)?;
            match outcome {
                Injected::Patched { operations: patch, sidecar } => {
                    operations.extend(patch);
                    sidecars |= sidecar.is_some();
                    has_issuer |= sidecar == Some(SessionTransport::WebIdentity);
                }
                Injected::Refused(refusals) => {
                    refused = true;
                    for refusal in refusals {
                        say(&format!("{}: {refusal}", offline::title(object, found)));
                    }
                }
                Injected::Unchanged => {}
            }
        }
        render(object, operations, arguments, &mut printed).map_err(CommandError::Internal)?;
    }
    if has_issuer && config.issuer.as_ref().is_some_and(|issuer| issuer.ca.known().is_none()) {
        say(
            "FAB_SESSION_ISSUER_CA is empty in this output, because the file in issuer.caFile is not readable here; the webhook sets it",
        );
    }
    let has_region = config.sidecar.env.iter().any(|(name, _)| name == "AWS_REGION");
    if sidecars && config.region.is_none() && !has_region {
        say(
            "no region is set, so the sidecar in this output cannot start; set --region or the config key region",
        );
    }
    coverage.say();
    namespaces.say_what_they_decided();
    if refused {
        return Ok(ExitCode::from(1));
    }
    print(&printed)
}

/// The result for one pod of an object.
enum Injected {
    /// `sidecar`: the transport of the sidecar, if the pod gets one.
    Patched {
        operations: Vec<PatchOperation>,
        sidecar: Option<SessionTransport>,
    },
    Refused(Vec<Refusal>),
    Unchanged,
}

fn injected(
    object: &Value,
    found: &PodIn,
    arguments: &Inject,
    namespaces: &Assumed,
    roles: &Roles,
    config: &Config,
) -> anyhow::Result<Injected> {
    let namespace = offline::namespace_of(object, found, arguments.namespace.as_ref())?;
    let namespace = namespace.as_str();
    let known = namespaces.namespace(namespace);
    let is_audit = known.mode == Some(Mode::Audit);
    let snapshot = Namespaces::default().with(known);
    let explained =
        admission::explain(&found.pod, &arguments.creator, namespace, &snapshot, roles, config);
    let refusals: Vec<Refusal> = explained.refusals().cloned().collect();
    let Explained { decision, further: _, matched: _, operations, warnings } = explained;
    for warning in warnings {
        say(&format!("warning: {}: {warning}", offline::title(object, found)));
    }
    if is_audit {
        let say_would = |would: &str| {
            let title = manifest::title(object);
            say(&format!("audit: {title} is left unchanged; if enabled: {would}"));
        };
        match &decision {
            Decision::Inject(injection) => say_would(injection.gives.as_str()),
            Decision::Pass(_) => say_would("pass"),
            Decision::Refuse(_) => {
                refusals.iter().for_each(|refusal| say_would(&format!("refuse: {refusal}")));
            }
        }
        return Ok(Injected::Unchanged);
    }
    Ok(match decision {
        Decision::Inject(injection) => Injected::Patched {
            operations: found.lift(object, operations),
            sidecar: match injection.gives {
                Gives::Sidecar(_, transport) => Some(transport),
                Gives::Env(_) | Gives::Keep | Gives::Nothing => None,
            },
        },
        Decision::Pass(_) => Injected::Unchanged,
        Decision::Refuse(_) => Injected::Refused(refusals),
    })
}

fn render(
    object: &Value,
    operations: Vec<PatchOperation>,
    arguments: &Inject,
    printed: &mut String,
) -> anyhow::Result<()> {
    if arguments.patch {
        if !operations.is_empty() {
            let entry = json!({"object": manifest::title(object), "patch": operations});
            printed.push_str(&output::object("ObjectPatch", &entry));
        }
        return Ok(());
    }
    let before = manifest::write(object)?;
    let mut changed = object.clone();
    json_patch::patch(&mut changed, &operations)
        .context("cannot apply the patch to its own object")?;
    let after = manifest::write(&changed)?;
    if arguments.diff {
        if before != after {
            difference(&manifest::title(object), &before, &after, in_colour(), printed)?;
        }
    } else {
        if !printed.is_empty() {
            printed.push_str("---\n");
        }
        printed.push_str(&after);
    }
    Ok(())
}

fn difference(
    title: &str,
    before: &str,
    after: &str,
    colour: bool,
    output: &mut String,
) -> anyhow::Result<()> {
    let paint = |code: &str, text: &str| {
        if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    let title = harmless(title);
    writeln!(output, "{}", paint("1", &format!("--- {title}\n+++ {title}, injected")))?;
    let diff = TextDiff::from_lines(before, after);
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        writeln!(output, "{}", paint("36", &hunk.header().to_string()))?;
        for change in hunk.iter_changes() {
            let line = change.value().trim_end_matches('\n');
            let line = match change.tag() {
                ChangeTag::Delete => paint("31", &format!("-{line}")),
                ChangeTag::Equal => format!(" {line}"),
                ChangeTag::Insert => paint("32", &format!("+{line}")),
            };
            writeln!(output, "{line}")?;
        }
    }
    Ok(())
}

/// Reports whether output may be coloured: <https://no-color.org>
fn in_colour() -> bool {
    stdout().is_terminal() && environment("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_has_colours_on_a_terminal() {
        let mut output = String::new();
        difference("Pod/a", "a: 1\nb: 2\n", "a: 1\nb: 3\n", true, &mut output).unwrap();
        assert!(
            output.contains("\u{1b}[31m-b: 2\u{1b}[0m\n\u{1b}[32m+b: 3\u{1b}[0m\n"),
            "{output:?}"
        );
        assert!(output.contains("\n a: 1\n"), "{output:?}");
    }
}
