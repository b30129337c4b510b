//! Reads a world from a YAML file, for the binary.

use std::{
    fs, io,
    path::{Component, Path},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{Association, Cluster, Outage, Provider, Role, World};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    account: String,
    region: String,
    cluster: Option<ClusterSection>,
    #[serde(default)]
    providers: Vec<ProviderSection>,
    #[serde(default)]
    roles: Vec<RoleSection>,
    #[serde(default)]
    associations: Vec<AssociationSection>,
    session_seconds: Option<u64>,
    #[serde(default)]
    terse: bool,
}

/// Needs exactly one of `jwks` and `jwksFile`, a path relative to the YAML file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ClusterSection {
    name: String,
    issuer: String,
    jwks: Option<Value>,
    jwks_file: Option<String>,
}

/// `directory` is relative to the YAML file. It has the files that the issuer publishes:
/// `.well-known/openid-configuration`, and the key set at the path that this document names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProviderSection {
    url: String,
    client_ids: Vec<String>,
    directory: String,
    account: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RoleSection {
    arn: String,
    trust: Value,
    #[serde(default)]
    policies: Vec<Value>,
    boundary: Option<Value>,
    max_session_duration: Option<u64>,
    #[serde(default)]
    tags: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AssociationSection {
    namespace: String,
    service_account: String,
    role: String,
    #[serde(default)]
    disable_session_tags: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum NotAConfig {
    #[error("the cluster needs exactly one of jwks and jwksFile")]
    Jwks,
    #[error("{path} is not JSON")]
    Json { path: String, source: serde_json::Error },
    #[error("cannot read {path}")]
    Unreadable { path: String, source: io::Error },
    #[error("the file is invalid")]
    Yaml(#[source] Box<serde_saphyr::Error>),
}

/// Returns the world that the file describes.
pub fn read(path: &Path) -> Result<World, NotAConfig> {
    parse(&text_of(path)?, path.parent().unwrap_or(Path::new("")))
}

/// `base` is the base of a relative `jwksFile` and `directory`.
pub fn parse(yaml: &str, base: &Path) -> Result<World, NotAConfig> {
    let File { account, region, cluster, providers, roles, associations, session_seconds, terse } =
        serde_saphyr::from_str(yaml).map_err(|error| NotAConfig::Yaml(Box::new(error)))?;
    let mut world = World::new(account, region);
    if let Some(ClusterSection { name, issuer, jwks, jwks_file }) = cluster {
        let jwks = match (jwks, jwks_file) {
            (Some(jwks), None) => jwks,
            (None, Some(file)) => json_of(&base.join(file))?,
            _ => return Err(NotAConfig::Jwks),
        };
        world = world.cluster(Cluster::new(name, issuer, jwks));
    }
    for ProviderSection { url, client_ids, directory, account } in providers {
        let directory = base.join(directory);
        let provider =
            Provider::new(url, client_ids).files(move |path| published(&directory, path));
        world = world.provider(account.into_iter().fold(provider, Provider::account));
    }
    for RoleSection { arn, trust, policies, boundary, max_session_duration, tags } in roles {
        let mut role = Role::new(arn).trust(trust);
        role = policies.into_iter().fold(role, Role::policy);
        role = boundary.into_iter().fold(role, Role::boundary);
        role = max_session_duration.into_iter().fold(role, Role::max_session_duration);
        role = tags.into_iter().fold(role, |role, (key, value)| role.tag(key, value));
        world = world.role(role);
    }
    for AssociationSection { namespace, service_account, role, disable_session_tags } in
        associations
    {
        let association = Association::new(namespace, service_account, role);
        world = world.association(if disable_session_tags {
            association.disable_session_tags()
        } else {
            association
        });
    }
    world = session_seconds.into_iter().fold(world, World::session_seconds);
    Ok(if terse { world.terse() } else { world })
}

/// Returns a file of a directory. No directory: the issuer is out of reach.
fn published(directory: &Path, path: &str) -> Result<Vec<u8>, Outage> {
    if !directory.is_dir() {
        return Err(Outage::Unreachable);
    }
    let mut parts = Path::new(path).components();
    if !parts.all(|part| matches!(part, Component::Normal(_))) {
        return Err(Outage::Missing);
    }
    fs::read(directory.join(path)).map_err(|_| Outage::Missing)
}

fn json_of(path: &Path) -> Result<Value, NotAConfig> {
    serde_json::from_str(&text_of(path)?)
        .map_err(|source| NotAConfig::Json { path: path.display().to_string(), source })
}

fn text_of(path: &Path) -> Result<String, NotAConfig> {
    fs::read_to_string(path)
        .map_err(|source| NotAConfig::Unreadable { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Aws, tokens::Issuer};

    #[test]
    fn a_config_file_describes_a_valid_world() {
        let jwks = Issuer::new("https://oidc.test/id").unwrap().jwks();
        let yaml = format!(
            r#"
account: "111122223333"
region: eu-west-1
cluster:
  name: dev
  issuer: https://oidc.test/id
  jwks: {jwks}
roles:
  - arn: arn:aws:iam::111122223333:role/base
    trust:
      Version: "2012-10-17"
      Statement:
        - Effect: Allow
          Principal: {{Service: pods.eks.amazonaws.com}}
          Action: ["sts:AssumeRole", "sts:TagSession"]
    policies:
      - Version: "2012-10-17"
        Statement: {{Effect: Allow, Action: "sts:*", Resource: "*"}}
    maxSessionDuration: 7200
    tags: {{Team: acme}}
associations:
  - namespace: tenants-acme
    serviceAccount: tenant-runtime
    role: arn:aws:iam::111122223333:role/base
    disableSessionTags: true
sessionSeconds: 60
terse: true
"#
        );
        let here = Path::new("");
        Aws::new(parse(&yaml, here).unwrap()).unwrap();
        let cases = [
            ("terse: true", "terser: true"),
            ("maxSessionDuration", "maxDuration"),
            ("serviceAccount", "account"),
            ("  jwks:", "  jwksFile: x\n  jwks:"),
        ];
        for (right, wrong) in cases {
            assert!(parse(&yaml.replace(right, wrong), here).is_err(), "{wrong}");
        }
        // Valid YAML of an invalid world.
        let cases = [
            ("maxSessionDuration: 7200", "maxSessionDuration: 900"),
            ("pods.eks.amazonaws.com", "pods"),
            ("https://oidc", "http://oidc"),
            ("\"111122223333\"", "\"1111\""),
            ("    role: arn:aws:iam::111122223333:role/base", "    role: other"),
        ];
        for (right, wrong) in cases {
            let world = parse(&yaml.replace(right, wrong), here).unwrap();
            assert!(Aws::new(world).is_err(), "{wrong}");
        }
    }
}
