//! A pod for reading, over the JSON that came: nothing is copied, nothing is lost.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::config;

/// A pod whose parts that we look at have the shapes that Kubernetes gives them.
pub(super) struct Pod<'a> {
    pub(super) name: &'a str,
    pub(super) generate_name: &'a str,
    pub(super) labels: Option<&'a Map<String, Value>>,
    pub(super) annotations: Option<&'a Map<String, Value>>,
    pub(super) service_account: &'a str,
    /// Regular containers, then init containers, each in the order of its list.
    pub(super) containers: Vec<Container<'a>>,
    pub(super) has_init_containers: bool,
    /// None where the pod has no list of volumes.
    pub(super) volumes: Option<Vec<Named<'a>>>,
    pub(super) spec: &'a Map<String, Value>,
    creator: &'a str,
}

pub(super) struct Container<'a> {
    pub(super) list: &'static str,
    pub(super) index: usize,
    pub(super) name: &'a str,
    /// None where the container has no such list.
    pub(super) env: Option<Vec<Named<'a>>>,
    pub(super) mounts: Option<Vec<Named<'a>>>,
    pub(super) raw: &'a Value,
}

/// An item of a list that Kubernetes keys by `name`.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) raw: &'a Value,
}

impl<'a> Pod<'a> {
    pub(super) fn read(object: &'a Value, creator: &'a str) -> Result<Self, Refusal> {
        let object = map(object, "the whole")?;
        let metadata = map(object.get("metadata").unwrap_or(&Value::Null), "metadata")?;
        let spec = map(object.get("spec").unwrap_or(&Value::Null), "spec")?;
        let mut containers = read_containers(spec, "containers")?.unwrap_or_default();
        let init_containers = read_containers(spec, "initContainers")?;
        let has_init_containers = init_containers.is_some();
        containers.extend(init_containers.unwrap_or_default());
        let service_account = text(spec, "serviceAccountName", "spec")?;
        Ok(Self {
            name: text(metadata, "name", "metadata")?,
            generate_name: text(metadata, "generateName", "metadata")?,
            labels: texts(metadata, "labels")?,
            annotations: texts(metadata, "annotations")?,
            // The API server's own default, which is not there yet in a manifest on disk.
            service_account: if service_account.is_empty() { "default" } else { service_account },
            containers,
            has_init_containers,
            volumes: named_list(spec, "volumes", "spec")?,
            spec,
            creator,
        })
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(key)?.as_str()
    }

    pub(super) fn is_true(&self, field: &str) -> bool {
        self.spec.get(field).and_then(Value::as_bool) == Some(true)
    }

    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        self.labels?.get(key)?.as_str()
    }
}

impl config::Pod for Pod<'_> {
    fn creator(&self) -> &str {
        self.creator
    }

    fn label(&self, key: &str) -> Option<&str> {
        Pod::label(self, key)
    }

    fn service_account(&self) -> &str {
        self.service_account
    }
}

fn read_containers<'a>(
    spec: &'a Map<String, Value>,
    list: &'static str,
) -> Result<Option<Vec<Container<'a>>>, Refusal> {
    let Some(items) = named_list(spec, list, "spec")? else {
        return Ok(None);
    };
    let mut containers = Vec::with_capacity(items.len());
    for (index, Named { name, raw }) in items.into_iter().enumerate() {
        let fields = map(raw, list)?;
        containers.push(Container {
            list,
            index,
            name,
            env: named_list(fields, "env", name)?,
            mounts: named_list(fields, "volumeMounts", name)?,
            raw,
        });
    }
    Ok(Some(containers))
}

fn named_list<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
    within: &str,
) -> Result<Option<Vec<Named<'a>>>, Refusal> {
    let place = || format!("{within}.{key}");
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let named = items.iter().map(|raw| match raw.get("name").and_then(Value::as_str) {
                Some(name) => Ok(Named { name, raw }),
                None => {
                    Err(Refusal::UnreadablePod { place: place(), wanted: "a list of named things" })
                }
            });
            named.collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(Refusal::UnreadablePod { place: place(), wanted: "a list" }),
    }
}

fn texts<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Refusal> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(entries)) if entries.values().all(Value::is_string) => Ok(Some(entries)),
        Some(_) => Err(Refusal::UnreadablePod {
            place: format!("metadata.{key}"),
            wanted: "a mapping of text to text",
        }),
    }
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str, within: &str) -> Result<&'a str, Refusal> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Refusal::UnreadablePod { place: format!("{within}.{key}"), wanted: "text" }),
    }
}

fn map<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, Refusal> {
    value
        .as_object()
        .ok_or_else(|| Refusal::UnreadablePod { place: place.to_owned(), wanted: "a mapping" })
}
