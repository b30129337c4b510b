//! A golden: a namespace and a pod, and comments with the requesting user and the config.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::{root, scratch};

/// A golden.
#[derive(Debug)]
pub struct Case {
    /// Name of the golden's file, without its suffix.
    pub name: String,
    /// `# as: USERNAME`
    pub creator: Option<String>,
    /// `# config: FILE`
    pub config: Option<PathBuf>,
}

impl Case {
    /// Returns all goldens in the order of their names.
    pub fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for entry in fs::read_dir(directory()).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            let Some(name) =
                file.strip_suffix(".yaml").filter(|name| !name.contains('.') && *name != "roles")
            else {
                continue;
            };
            let text = fs::read_to_string(&path).unwrap();
            let said =
                |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
            cases.push(Self {
                name: name.to_owned(),
                creator: said("# as: "),
                config: said("# config: ").map(|file| directory().join(file)),
            });
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    /// Returns the path of the input.
    pub fn input(&self) -> PathBuf {
        self.path("yaml")
    }

    /// Returns the path of one of the golden's files.
    pub fn path(&self, suffix: &str) -> PathBuf {
        directory().join(format!("{}.{suffix}", self.name))
    }

    /// Returns the golden's namespace under another name, with the service accounts of all goldens.
    pub fn home(&self, name: &str) -> Vec<Value> {
        let mut namespace = objects(&format!("{}.yaml", self.name)).swap_remove(0);
        let was = namespace["metadata"]["name"].as_str().unwrap().to_owned();
        namespace["metadata"]["name"] = name.into();
        // The tenant comes from the original name, since the new name has none.
        if let Some(tenant) = was.strip_prefix("tenants-") {
            let labels = namespace["metadata"]["labels"].as_object_mut().unwrap();
            labels.entry("agents.nanohype.dev/platform").or_insert_with(|| tenant.into());
        }
        let account = |account| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": name}});
        std::iter::once(namespace).chain(ACCOUNTS.map(account)).collect()
    }

    /// Returns the path of a test's own file.
    pub fn scratch(&self, suffix: &str) -> PathBuf {
        scratch().join(format!("{}.{suffix}", self.name))
    }
}

/// Returns the directory of the goldens.
pub fn directory() -> PathBuf {
    root().join("tests/golden")
}

/// Returns the objects in a file of the goldens: a namespace and a pod.
pub fn objects(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(directory().join(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

/// The service accounts of all goldens, beside `default`.
const ACCOUNTS: [&str; 5] =
    ["tenant-runtime", "tenant-runtime-x-tenants-acme-x-vcluster", "fab", "exempted", "legacy"];
