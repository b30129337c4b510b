//! The objects and namespaces of `inject` and `explain` without a cluster.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{files, say};
use crate::{
    config::{Config, PodSecurity},
    manifest::{self, PodIn},
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
        })
    }

    /// Returns the namespace of this name, opted in or not.
    pub(super) fn namespace(&self, name: &str) -> Namespace {
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

    pub(super) fn say_what_they_decided(&self) {
        for namespace in self.not_opted_in.borrow().iter() {
            say(&format!(
                "unchanged: namespace {namespace} has not opted in, so its pods are left unchanged (to opt in, set its label {OPT_IN_LABEL} to enabled or audit)"
            ));
        }
        self.say_what_was_assumed();
    }

    pub(super) fn say_what_was_assumed(&self) {
        for namespace in self.assumed.borrow().iter() {
            say(&format!(
                "assumed: namespace {namespace} has the label {OPT_IN_LABEL}=enabled and enforces the Pod Security Standard restricted (add its Namespace object to the input to use its own labels)"
            ));
        }
    }
}

/// Returns the objects of a manifest, and the display name of the manifest.
pub(super) fn objects(path: &Path) -> anyhow::Result<(Vec<Value>, String)> {
    let source = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let text = if path == Path::new("-") {
        files::text_of(std::io::stdin().lock(), &source)?
    } else {
        files::text(path)?
    };
    let objects = files::objects(&source, &text)?;
    if objects.is_empty() {
        bail!("{source} contains no object");
    }
    Ok((objects, source))
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
