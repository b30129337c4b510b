//! A golden: a namespace and a pod, and comments with the requesting user and the config.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// `# as: USERNAME`
    pub(crate) creator: Option<String>,
    /// `# config: FILE`
    pub(crate) config: Option<PathBuf>,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
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

    pub(crate) fn input(&self) -> PathBuf {
        self.path("yaml")
    }

    pub(crate) fn path(&self, suffix: &str) -> PathBuf {
        directory().join(format!("{}.{suffix}", self.name))
    }

    #[allow(dead_code, reason = "not every test crate writes")]
    pub(crate) fn scratch(&self, suffix: &str) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.{suffix}", self.name))
    }
}

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}
