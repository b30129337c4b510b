//! Reads the files of the commands.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    config::{Config, IssuerCa},
    manifest,
    namespaces::Namespace,
    roles::{Entry, file},
    session::{TenantName, check_ca_certificates},
};

/// Returns the config of the file, or the default config.
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

/// Returns the CA certificates of a PEM file.
pub(super) fn ca_certificates(path: &Path) -> anyhow::Result<String> {
    let text = text(path)?;
    check_ca_certificates(&text).with_context(|| format!("CA certificates {}", path.display()))?;
    Ok(text)
}

/// Returns whether the config names a file with the session issuer's CA certificates that this
/// process may read.
pub(super) fn has_issuer_ca(config: &Config) -> bool {
    config.issuer.as_ref().is_some_and(|issuer| match &issuer.ca {
        IssuerCa::File(path) => File::open(path).is_ok(),
        IssuerCa::Known(_) => false,
    })
}

/// Reads the CA certificates of the session issuer into the config, if it names a file.
pub(super) fn read_issuer_ca(config: &mut Config) -> anyhow::Result<()> {
    if let Some(issuer) = &mut config.issuer
        && let IssuerCa::File(path) = &issuer.ca
    {
        let bundle = text(path)?.parse();
        let context = || format!("CA certificates of the session issuer, {}", path.display());
        issuer.ca = IssuerCa::Known(bundle.with_context(context)?);
    }
    Ok(())
}

/// Returns the objects of a manifest. `source` is the display name of the origin of `text`.
pub(super) fn objects(source: &str, text: &str) -> anyhow::Result<Vec<Value>> {
    manifest::read(text).with_context(|| source.to_owned())
}

/// Returns the Namespaces among `objects`.
pub(super) fn namespaces(objects: &[Value], config: &Config) -> anyhow::Result<Vec<Namespace>> {
    let is_namespace =
        |object: &&Value| object["kind"] == "Namespace" && object["apiVersion"] == "v1";
    let mut found: Vec<Namespace> = Vec::new();
    for object in objects.iter().filter(is_namespace) {
        let namespace = namespace(object, config)?;
        if found.iter().any(|other| other.name == namespace.name) {
            bail!("Namespace {:?} appears twice in the input; remove one of them", namespace.name);
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

/// Returns the text of `source`, an error if it is larger than [`LARGEST_FILE`]. `name` is for
/// errors.
pub(super) fn text_of(source: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut most = source.take(LARGEST_FILE + 1);
    most.read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if most.limit() == 0 {
        bail!(
            "{name} has more than {} MiB, the limit for one file: split it into smaller files",
            LARGEST_FILE >> 20
        );
    }
    // PowerShell writes UTF-16, with a byte order mark.
    let decoded = match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes),
        _ => return String::from_utf8(bytes).with_context(|| format!("cannot read {name}")),
    };
    decoded.with_context(|| format!("cannot read {name}: it is not valid UTF-16"))
}

fn utf_16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks();
    let text = char::decode_utf16(units.iter().copied().map(unit)).collect::<Result<_, _>>().ok();
    text.filter(|_| rest.is_empty())
}

pub(super) fn namespace(object: &Value, config: &Config) -> anyhow::Result<Namespace> {
    let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) else {
        bail!("a Namespace in the input has no metadata.name; add it");
    };
    let labels = object.pointer("/metadata/labels");
    Ok(Namespace::read(name, |key| labels?.get(key)?.as_str(), &config.tenant))
}

/// Maximum length of a file in bytes: enough for ten thousand pods as kubectl prints them. This
/// length and the limit in `manifest::read` bound the memory that a file takes.
const LARGEST_FILE: u64 = 64 << 20;
