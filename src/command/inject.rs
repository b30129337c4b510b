//! `inject`: what the webhook would do to manifests, by the same decision, without a cluster.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Write as _,
    io::{IsTerminal, Read, Write, stderr, stdout},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, bail};
use json_patch::PatchOperation;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::{Failure, environment, files, print};
use crate::{
    admission::{self, Decision},
    cli::Inject,
    config::{Config, PodSecurity},
    directory::{Directory, Source},
    manifest::{self, PodIn},
    namespaces::{Mode, Namespace, NamespaceName, Namespaces, OPT_IN_LABEL},
    session::TenantName,
};

pub(super) fn run(arguments: &Inject) -> Result<ExitCode, Failure> {
    let mut config = files::config(arguments.config.as_deref()).map_err(Failure::Input)?;
    if arguments.region.is_some() {
        config.region.clone_from(&arguments.region);
    }
    let roles = files::roles(&arguments.roles, &config).map_err(Failure::Input)?;
    let directory = Directory::new(Source::File(arguments.roles.clone()), roles);
    let source = match arguments.filename.as_path() {
        path if path == Path::new("-") => "standard input".to_owned(),
        path => path.display().to_string(),
    };
    let objects = read_objects(&arguments.filename, &source).map_err(Failure::Input)?;
    let namespaces = Assumed::read(&objects, arguments, &config).map_err(Failure::Input)?;

    let mut output = String::new();
    let mut refused = false;
    let (mut pods, mut injected_pods) = (0, 0);
    for object in &objects {
        let found = PodIn::find(object);
        pods += usize::from(found.is_some());
        let (operations, refusal) = match &found {
            None => (Vec::new(), None),
            Some(found) => injected(object, found, arguments, &namespaces, &directory, &config)
                .map_err(Failure::Input)?,
        };
        injected_pods += usize::from(!operations.is_empty());
        if let Some(refusal) = refusal {
            refused = true;
            say(&format!("{}: {refusal}", manifest::title(object)));
        }
        render(object, operations, arguments, &mut output).map_err(Failure::Ours)?;
    }
    let has_region = config.sidecar.env.iter().any(|(name, _)| name == "AWS_REGION");
    if injected_pods > 0 && config.region.is_none() && !has_region {
        say(
            "no region is given, by the config or by --region: the sidecar as it stands here would not start",
        );
    }
    if pods == 0 {
        say(&format!("{source} holds no pod and no pod template; its objects pass as they are"));
    }
    namespaces.say_what_they_decided();
    if refused {
        return Ok(ExitCode::from(1));
    }
    print(&output)
}

/// The operations on one object, and why it is refused, if it is.
fn injected(
    object: &Value,
    found: &PodIn,
    arguments: &Inject,
    namespaces: &Assumed,
    directory: &Directory,
    config: &Config,
) -> anyhow::Result<(Vec<PatchOperation>, Option<admission::Refusal>)> {
    let namespace = match (&arguments.namespace, found.namespace()) {
        (Some(name), _) => name.clone(),
        (None, Some(text)) => text
            .parse()
            .with_context(|| format!("{}: metadata.namespace {text:?}", manifest::title(object)))?,
        (None, None) => {
            bail!("{} names no namespace; give one by --namespace", manifest::title(object))
        }
    };
    let namespace = NamespaceName::as_str(&namespace);
    let snapshot = namespaces.snapshot(namespace);
    let (decision, operations, warnings) =
        admission::decide(&found.pod, &arguments.creator, namespace, &snapshot, directory, config);
    for warning in warnings {
        say(&format!("warning: {}: {warning}", manifest::title(object)));
    }
    if snapshot.find(namespace).is_some_and(|namespace| namespace.mode == Some(Mode::Audit)) {
        let would = match &decision {
            Decision::Inject(injection) => injection.gives.as_str().to_owned(),
            Decision::Pass => "pass".to_owned(),
            Decision::Refuse(refusal) => format!("refuse: {refusal}"),
        };
        say(&format!(
            "audit: {} stays as it is; enabled, it would be: {would}",
            manifest::title(object)
        ));
        return Ok((Vec::new(), None));
    }
    Ok(match decision {
        Decision::Inject(_) => (found.lift(object, operations), None),
        Decision::Pass => (Vec::new(), None),
        Decision::Refuse(refusal) => (Vec::new(), Some(refusal)),
    })
}

fn render(
    object: &Value,
    operations: Vec<PatchOperation>,
    arguments: &Inject,
    output: &mut String,
) -> anyhow::Result<()> {
    if arguments.patch {
        if !operations.is_empty() {
            let entry = json!({"object": manifest::title(object), "patch": operations});
            writeln!(output, "{}", serde_json::to_string_pretty(&entry)?)?;
        }
        return Ok(());
    }
    let before = manifest::write(object)?;
    let mut changed = object.clone();
    json_patch::patch(&mut changed, &operations)
        .context("the patch does not apply to its own object")?;
    let after = manifest::write(&changed)?;
    if arguments.diff {
        if before != after {
            difference(&manifest::title(object), &before, &after, in_colour(), output)?;
        }
    } else {
        if !output.is_empty() {
            output.push_str("---\n");
        }
        output.push_str(&after);
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

/// <https://no-color.org>
fn in_colour() -> bool {
    stdout().is_terminal() && environment("NO_COLOR").is_none()
}

/// What offline runs know of namespaces: what the input says, else that the one in question
/// is opted in and enforces what agent pods need.
struct Assumed {
    from_input: Vec<Namespace>,
    tenant: Option<TenantName>,
    config: Config,
    /// Namespaces of pods that the input has no object of.
    assumed: RefCell<BTreeSet<String>>,
    /// Namespaces of pods that did not opt in, as the input says.
    not_opted_in: RefCell<BTreeSet<String>>,
}

impl Assumed {
    fn read(objects: &[Value], arguments: &Inject, config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            from_input: files::namespaces(objects, config)?,
            tenant: arguments.tenant.clone(),
            config: config.clone(),
            assumed: RefCell::default(),
            not_opted_in: RefCell::default(),
        })
    }

    fn snapshot(&self, name: &str) -> Namespaces {
        let said = self.from_input.iter().find(|namespace| namespace.name == name).cloned();
        let mut namespace = said.unwrap_or_else(|| {
            self.assumed.borrow_mut().insert(name.to_owned());
            Namespace {
                mode: Some(Mode::Enabled),
                pod_security: PodSecurity::Restricted,
                ..Namespace::read(name, |_| None, &self.config.tenant)
            }
        });
        if namespace.mode.is_none() {
            self.not_opted_in.borrow_mut().insert(name.to_owned());
        }
        if let Some(tenant) = &self.tenant {
            namespace.tenant = Ok(tenant.clone());
        }
        Namespaces::default().with(namespace)
    }

    fn say_what_they_decided(&self) {
        for namespace in self.not_opted_in.borrow().iter() {
            say(&format!(
                "passed: namespace {namespace} did not opt in, so its pods pass as they are (the label {OPT_IN_LABEL} would say enabled or audit)"
            ));
        }
        for namespace in self.assumed.borrow().iter() {
            say(&format!(
                "assumed: namespace {namespace} has the label {OPT_IN_LABEL}=enabled and enforces the Pod Security Standard restricted (a Namespace object in the input says otherwise)"
            ));
        }
    }
}

fn read_objects(path: &Path, source: &str) -> anyhow::Result<Vec<Value>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        text
    } else {
        files::text(path)?
    };
    let objects = files::objects(source, &text)?;
    if objects.is_empty() {
        bail!("{source} holds no object");
    }
    Ok(objects)
}

/// Beside the output, for people. A closed standard error is theirs to close.
fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_colours_for_a_terminal() {
        let mut output = String::new();
        difference("Pod/a", "a: 1\nb: 2\n", "a: 1\nb: 3\n", true, &mut output).unwrap();
        assert!(
            output.contains("\u{1b}[31m-b: 2\u{1b}[0m\n\u{1b}[32m+b: 3\u{1b}[0m\n"),
            "{output:?}"
        );
        assert!(output.contains("\n a: 1\n"), "{output:?}");
    }
}
