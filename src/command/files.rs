//! What the commands read from files.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    config::Config,
    directory::{Entry, file},
    manifest,
    namespaces::Namespace,
    session::TenantName,
};

/// The config file, or the defaults.
pub(super) fn config(path: Option<&Path>) -> anyhow::Result<Config> {
    match path {
        None => Ok(Config::default()),
        Some(path) => {
            Config::parse(&text(path)?).with_context(|| format!("config file {}", path.display()))
        }
    }
}

pub(super) fn roles(path: &Path, config: &Config) -> anyhow::Result<HashMap<TenantName, Entry>> {
    file::parse(&text(path)?, &config.roles.allowed)
        .with_context(|| format!("role file {}", path.display()))
}

/// The objects of a manifest. `text` is what came from `source`, which is for people.
pub(super) fn objects(source: &str, text: &str) -> anyhow::Result<Vec<Value>> {
    manifest::read(text).with_context(|| source.to_owned())
}

/// The Namespaces among `objects`.
pub(super) fn namespaces(objects: &[Value], config: &Config) -> anyhow::Result<Vec<Namespace>> {
    let is_namespace =
        |object: &&Value| object["kind"] == "Namespace" && object["apiVersion"] == "v1";
    let mut found: Vec<Namespace> = Vec::new();
    for object in objects.iter().filter(is_namespace) {
        let namespace = namespace(object, config)?;
        if found.iter().any(|other| other.name == namespace.name) {
            bail!("Namespace {:?} stands twice in the input; keep one of them", namespace.name);
        }
        found.push(namespace);
    }
    Ok(found)
}

pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    text_of(file, &name)
}

/// Returns what comes from `source`, which is called `name`, if it is no more than
/// [`LARGEST_FILE`].
pub(super) fn text_of(source: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut most = source.take(LARGEST_FILE + 1);
    most.read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if most.limit() == 0 {
        bail!(
            "{name} has more than {} MiB, the most that is read at once: split it into smaller files",
            LARGEST_FILE >> 20
        );
    }
    String::from_utf8(bytes).with_context(|| format!("cannot read {name}"))
}

pub(super) fn namespace(object: &Value, config: &Config) -> anyhow::Result<Namespace> {
    let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) else {
        bail!("a Namespace in the input has no metadata.name");
    };
    let labels = object.pointer("/metadata/labels");
    Ok(Namespace::read(name, |key| labels?.get(key)?.as_str(), &config.tenant))
}

/// In bytes: manifests of ten thousand pods as kubectl prints them. The memory that a file takes is
/// bounded by its length and by what `manifest::read` takes of it.
const LARGEST_FILE: u64 = 64 << 20;
