//! `issuer export`: writes the files that STS reads.

use std::{fs, process::ExitCode};

use anyhow::Context;

use super::keys::Keys;
use crate::{
    cli::IssuerExport,
    command::{CommandError, files, print, runtime},
    issuer::{
        DISCOVERY_FILE, KEYS_FILE, discovery_document, discovery_url, jwks_document, keys_url,
    },
    session::CaBundle,
};

pub(super) fn run(arguments: IssuerExport) -> Result<ExitCode, CommandError> {
    let IssuerExport { config, out } = arguments;
    let config = files::config(Some(&config)).map_err(CommandError::Input)?;
    let issuer = config
        .issuer
        .as_ref()
        .context("the config has no section issuer; set it")
        .map_err(CommandError::Input)?;
    let trusted: Vec<&str> = config.aws_ca_bundle.iter().map(CaBundle::as_str).collect();
    let keys =
        runtime()?.block_on(Keys::load(&issuer.keys, &trusted)).map_err(CommandError::Input)?;
    let documents = [
        (DISCOVERY_FILE, discovery_document(&issuer.url)),
        (KEYS_FILE, jwks_document(&keys.public())),
    ];
    for (name, document) in documents {
        let path = out.join(name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&out))?;
            let new = path.with_extension("new");
            fs::write(&new, format!("{document:#}\n"))?;
            fs::rename(&new, &path)
        };
        write()
            .with_context(|| format!("cannot write {}", path.display()))
            .map_err(CommandError::Internal)?;
    }
    print(&format!(
        "Upload these files, the keys first. Each must be public, over https, as application/json:\n  {} -> {}\n  {} -> {}\n",
        out.join(KEYS_FILE).display(),
        keys_url(&issuer.url),
        out.join(DISCOVERY_FILE).display(),
        discovery_url(&issuer.url),
    ))
}
