//! `iam`: what AWS is to hold for one tenant.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::{Failure, files, print};
use crate::{
    cli::Iam,
    config::Config,
    policies::{self, Account},
};

pub(super) fn run(arguments: Iam) -> Result<ExitCode, Failure> {
    let Iam {
        tenant,
        base_roles,
        session_role,
        cluster,
        namespace,
        region,
        held_to,
        config,
        only,
        terraform,
    } = arguments;
    let config = match cluster {
        Some(cluster) => {
            Config::parse(&json!({"cluster": cluster, "roles": {"ssm": {}}}).to_string())
                .context("--cluster")
        }
        None => files::config(config.as_deref()),
    };
    let config = config.map_err(Failure::Input)?;
    let ssm = config.roles.ssm.as_ref().ok_or_else(|| {
        Failure::Input(anyhow!("the config has no roles.ssm, so there is no parameter to publish"))
    })?;
    let account = Account {
        parameter: ssm.parameter.of(&tenant),
        parameters: ssm.parameter.of_all(),
        namespace: namespace.map_or_else(
            || format!("{}{tenant}", config.tenant.namespace_prefix),
            |namespace| namespace.as_str().to_owned(),
        ),
        region: region
            .or(config.region)
            .map_or_else(|| "*".to_owned(), |region| region.as_str().to_owned()),
        tenant,
        base_roles,
        session_role,
        held_to,
    };
    let documents = policies::documents(&account);
    let output = if terraform {
        policies::terraform(&account)
    } else if let Some(only) = only {
        let found = documents.iter().find(|document| document.name == only);
        found.map(|document| format!("{:#}\n", document.body)).unwrap_or_default()
    } else {
        let documents: Vec<Value> = documents
            .iter()
            .map(|document| {
                json!({
                    "name": document.name.as_str(),
                    "remark": document.name.remark(),
                    "document": document.body,
                })
            })
            .collect();
        format!("{:#}\n", Value::from(documents))
    };
    print(&output)
}
