//! The objects and namespaces of `inject` and `explain` without a cluster.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::stdin,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{files, say};
use crate::{
    config::{Config, PodSecurity},
    manifest::{self, Maker, PodIn},
    namespaces::{Mode, Namespace, NamespaceName, OPT_IN_LABEL},
    session::TenantName,
};

/// The namespaces of an offline run. One without an object in the input is assumed to be `enabled`
/// and to enforce `restricted`.
pub(super) struct Assumed {
    from_input: Vec<Namespace>,
    tenant: Option<TenantName>,
    config: Config,
    /// Namespaces of pods without an object in the input.
    assumed: RefCell<BTreeSet<String>>,
    /// Namespaces of pods that have not opted in, by their object in the input.
    not_opted_in: RefCell<BTreeSet<String>>,
    /// The opt-in labels of the namespaces in the input.
    labels: BTreeMap<String, String>,
}

impl Assumed {
    pub(super) fn read(
        objects: &[Value],
        tenant: Option<&TenantName>,
        config: &Config,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            from_input: files::namespaces(objects, config)?,
            tenant: tenant.cloned(),
            config: config.clone(),
            assumed: RefCell::default(),
            not_opted_in: RefCell::default(),
            labels: objects.iter().filter_map(opt_in_label).collect(),
        })
    }

    /// Returns the namespace of this name, opted in or not.
    pub(super) fn namespace(&self, name: &str) -> Namespace {
        if name == NEVER_CALLED {
            say(&format!(
                "warning: API servers do not call the webhook for pods of {name}; the output shows the result in another namespace"
            ));
        }
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
        namespace
    }

    /// Says which namespaces of the input left pods unchanged, and what was assumed of others.
    pub(super) fn say_what_they_decided(&self) {
        for namespace in self.not_opted_in.borrow().iter() {
            let label = match self.labels.get(namespace) {
                Some(value) => format!("has {OPT_IN_LABEL}={value}, which has no effect"),
                None => "has not opted in".to_owned(),
            };
            say(&format!(
                "unchanged: namespace {namespace} {label}, so its pods are left unchanged (to opt in, set its label {OPT_IN_LABEL} to enabled or audit)"
            ));
        }
        for namespace in self.assumed.borrow().iter() {
            say(&format!(
                "assumed: namespace {namespace} has the label {OPT_IN_LABEL}=enabled and enforces the Pod Security Standard restricted (add its Namespace object to the input to use its own labels)"
            ));
        }
    }
}

/// Returns name and opt-in label of a Namespace that has the label.
fn opt_in_label(object: &Value) -> Option<(String, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let label = text(&object["metadata"]["labels"][OPT_IN_LABEL])?;
    (object["kind"] == "Namespace").then_some((text(&object["metadata"]["name"])?, label))
}

/// Returns the objects of the manifests. A directory stands for its JSON and YAML files, in the order
/// of their names, as for kubectl.
pub(super) fn objects(paths: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for path in paths {
        let before = all.len();
        for file in files_of(path)? {
            all.extend(objects_of(&file)?);
        }
        if all.len() == before {
            bail!("{} contains no object", source_of(path));
        }
    }
    Ok(all)
}

fn source_of(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn files_of(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let name = path.display();
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {name}"))?;
    let is_manifest = |path: &PathBuf| {
        let extension = path.extension().and_then(OsStr::to_str);
        extension.is_some_and(|extension| ["json", "yaml", "yml"].contains(&extension))
    };
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot read {name}"))?;
    found.retain(is_manifest);
    found.sort();
    if found.is_empty() {
        bail!("{name} contains no file *.json, *.yaml or *.yml");
    }
    Ok(found)
}

fn objects_of(path: &Path) -> anyhow::Result<Vec<Value>> {
    let source = source_of(path);
    let text = if path == Path::new("-") {
        files::text_of(stdin().lock(), &source)?
    } else {
        files::text(path)?
    };
    files::objects(&source, &text)
}

/// The parts of the input that the result does not cover.
#[derive(Default)]
pub(super) struct Coverage {
    pods: usize,
    assumed: Vec<String>,
    without: Vec<String>,
}

impl Coverage {
    /// Notes the pods that were found in an object, and where their controller may make them
    /// otherwise. `creator` is the user of `--as`, or empty.
    pub(super) fn see(&mut self, object: &Value, found: &[PodIn], creator: &str) {
        self.pods += found.len();
        let title = manifest::title(object);
        for pod in found {
            match pod.maker() {
                Maker::User => {}
                Maker::Controller(user) if user == creator || creator.is_empty() => {}
                Maker::Controller(user) => self.assumed.push(format!(
                    "warning: the pods of {title} are created by {user}, not by {creator}; set --as to it"
                )),
                Maker::Other => self.assumed.push(format!(
                    "assumed: the pods of {title} are as in {}; the controller that creates them may set other labels, annotations and fields",
                    pod.path()
                )),
            }
        }
        if found.is_empty() && object["kind"] != "Namespace" {
            self.without.push(title);
        }
    }

    pub(super) fn say(&self) {
        for line in &self.assumed {
            say(line);
        }
        if self.pods == 0 {
            say("the input contains no pod and no pod template");
        }
        if !self.without.is_empty() {
            let without = self.without.join(", ");
            say(&format!("not evaluated, because no pod was found in them: {without}"));
        }
    }
}

/// Returns kind and name of the object, with the path of the pod if its controller is unknown: such
/// an object may have several.
pub(super) fn title(object: &Value, found: &PodIn) -> String {
    let title = manifest::title(object);
    match found.maker() {
        Maker::Other => format!("{title} {}", found.path()),
        Maker::Controller(_) | Maker::User => title,
    }
}

/// Returns the namespace of a pod in `object`: that of the command line, else the object's own.
pub(super) fn namespace_of(
    object: &Value,
    found: &PodIn,
    given: Option<&NamespaceName>,
) -> anyhow::Result<NamespaceName> {
    match (given, found.namespace()) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(text)) => text
            .parse()
            .with_context(|| format!("{}: metadata.namespace {text:?}", manifest::title(object))),
        (None, None) => {
            bail!("{} has no metadata.namespace; set --namespace", manifest::title(object))
        }
    }
}

/// The namespace that the chart's webhook configuration excludes, besides that of the release.
const NEVER_CALLED: &str = "kube-system";
