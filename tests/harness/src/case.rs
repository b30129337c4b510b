//! A golden: a namespace and a pod, and comments with the requesting user and the config.

use std::{fs, path::PathBuf};

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

    /// Returns the path of a test's own file.
    pub fn scratch(&self, suffix: &str) -> PathBuf {
        scratch().join(format!("{}.{suffix}", self.name))
    }
}

/// Returns the directory of the goldens.
pub fn directory() -> PathBuf {
    root().join("tests/golden")
}
