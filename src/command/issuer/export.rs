//! `issuer export`: writes the two public files of the issuer.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::keys::Keys;
use crate::{
    cli::{IssuerExport, PublicFile},
    command::{CommandError, files, print, runtime},
    config::{IssuerKey, IssuerSettings, KeySource, KeyState},
    issuer::{discovery_document, discovery_url, jwks_document, keys_url},
    session::{CaBundle, DISCOVERY_FILE, KEYS_FILE},
};

pub(super) fn run(arguments: IssuerExport) -> Result<ExitCode, CommandError> {
    let IssuerExport { config, out, only } = arguments;
    let config = files::config(Some(&config)).map_err(CommandError::Input)?;
    let issuer = config.issuer.as_ref();
    let issuer =
        issuer.context("the config has no section issuer; set it").map_err(CommandError::Input)?;
    let trusted: Vec<&str> = config.aws_ca_bundle.iter().map(CaBundle::as_str).collect();
    let keys = runtime()?.block_on(Keys::load(&issuer.keys, &trusted));
    let keys = keys.map_err(CommandError::Input)?;
    let documents = Documents::of(issuer, &keys);
    let text = match (only, out) {
        (Some(PublicFile::Discovery), _) => documents.discovery,
        (Some(PublicFile::Keys), _) => documents.keys,
        (None, out) => {
            let out = out.context("no --out").map_err(CommandError::Input)?;
            documents.write(&out).map_err(CommandError::Input)?;
            report(issuer, &keys, &out)
        }
    };
    print(&text)
}

/// The texts of the files.
struct Documents {
    issuer: String,
    discovery: String,
    keys: String,
}

impl Documents {
    fn of(issuer: &IssuerSettings, keys: &Keys) -> Self {
        Self {
            issuer: issuer.url.to_string(),
            discovery: format!("{:#}\n", discovery_document(&issuer.url)),
            keys: format!("{:#}\n", jwks_document(keys.public())),
        }
    }

    /// Writes both files. Each replaces its old version at once, and an error before the last step
    /// changes neither.
    fn write(&self, out: &Path) -> anyhow::Result<()> {
        self.check_owner(out)?;
        let (discovery, keys) = (out.join(DISCOVERY_FILE), out.join(KEYS_FILE));
        for parent in [&discovery, &keys].into_iter().filter_map(|file| file.parent()) {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create directory {}", parent.display()))?;
        }
        let discovery = Staged::write(discovery, &self.discovery)?;
        let keys = Staged::write(keys, &self.keys)?;
        // The discovery document is the same for all keys of an issuer.
        discovery.publish()?;
        keys.publish()
    }

    /// Refuses the directory of another issuer, whose keys would be replaced.
    fn check_owner(&self, out: &Path) -> anyhow::Result<()> {
        let path = out.join(DISCOVERY_FILE);
        if !path.exists() {
            return Ok(());
        }
        let name = path.display();
        let document: Value = serde_json::from_str(&files::text(&path)?)
            .with_context(|| format!("{name} is not JSON; remove it, or choose another --out"))?;
        match document["issuer"].as_str() {
            Some(issuer) if issuer == self.issuer => Ok(()),
            Some(other) => bail!("{name} is of the issuer {other}; choose another --out"),
            None => bail!("{name} names no issuer; remove it, or choose another --out"),
        }
    }
}

/// A complete file beside the one that it will replace. It is removed unless it is published.
struct Staged {
    file: PathBuf,
    staged: PathBuf,
}

impl Staged {
    fn write(file: PathBuf, text: &str) -> anyhow::Result<Self> {
        let staged = Self { staged: file.with_extension("new"), file };
        let write = || {
            let mut file = File::create(&staged.staged)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", staged.staged.display()))?;
        Ok(staged)
    }

    fn publish(self) -> anyhow::Result<()> {
        fs::rename(&self.staged, &self.file)
            .with_context(|| format!("cannot replace {}", self.file.display()))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `publish` there is none.
        let _ = fs::remove_file(&self.staged);
    }
}

/// Returns what to do with the files.
fn report(issuer: &IssuerSettings, keys: &Keys, out: &Path) -> String {
    let mut report = String::new();
    let mut line = |line: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(report, "{line}");
    };
    line(&format!("Keys of the issuer {}:", issuer.url));
    for (key, public) in issuer.keys.iter().zip(keys.public()) {
        let IssuerKey { source, state } = key;
        let state = match state {
            KeyState::Next => "next",
            KeyState::Old => "old",
            KeyState::Signing => "signing",
        };
        let source = match source {
            KeySource::File(path) => path.display().to_string(),
            KeySource::Kms(arn) => arn.to_string(),
        };
        line(&format!("  {}  {state:<7}  {source}", public.id()));
    }
    line("");
    line("Upload in this order, with the content type application/json:");
    let files = [(KEYS_FILE, keys_url(&issuer.url)), (DISCOVERY_FILE, discovery_url(&issuer.url))];
    for (number, (file, url)) in (1..).zip(files) {
        line(&format!("  {number}. {} to {url}", out.join(file).display()));
    }
    line("");
    line(
        "To rotate: upload a next key an hour before it signs, and keep an old key for an hour after.",
    );
    report
}
