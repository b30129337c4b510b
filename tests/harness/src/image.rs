//! The unpacked archive of `make image`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{process::own_directory, root};

/// Path of the CA certificates.
pub const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

pub struct Image {
    pub archive: PathBuf,
    /// The image configuration.
    pub config: Value,
    /// Contains the archive, and the image's only layer below `root`.
    directory: TempDir,
}

impl Image {
    /// Unpacks the archive into a temporary directory.
    pub fn unpack() -> Self {
        let archive = archive();
        let directory = own_directory();
        let path = directory.path();
        let blob = |descriptor: &Value| {
            path.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
        };
        extract(&archive, path);
        let index = json(&path.join("index.json"));
        let manifest = json(&blob(&index["manifests"][0]));
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1);
        fs::create_dir(path.join("root")).unwrap();
        extract(&blob(&layers[0]), &path.join("root"));
        let config = json(&blob(&manifest["config"]))["config"].clone();
        Self { archive, config, directory }
    }

    /// Returns the unpacked file of a path in the image.
    pub fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path.trim_start_matches('/'))
    }

    /// Returns the paths of all files and empty directories.
    pub fn paths(&self) -> Vec<String> {
        let root = self.at("/");
        let found = Command::new("find")
            .arg(&root)
            .args(["!", "-type", "d", "-o", "-empty"])
            .output()
            .unwrap();
        let mut paths: Vec<String> = String::from_utf8(found.stdout)
            .unwrap()
            .lines()
            .map(|line| format!("/{}", Path::new(line).strip_prefix(&root).unwrap().display()))
            .collect();
        paths.sort();
        paths
    }
}

fn archive() -> PathBuf {
    let directory = root().join("target/image");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    // As image/build reads it.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = ")).unwrap();
    let version = version.trim_matches('"');
    let archive = directory.join(format!("fab-session-injector-{version}-{architecture}.tar"));
    assert!(archive.exists(), "no {}: run `make e2e`, which builds it", archive.display());
    archive
}

fn extract(archive: &Path, directory: &Path) {
    let extracted = Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(directory)
        .status();
    assert!(extracted.unwrap().success(), "{} is no archive", archive.display());
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
