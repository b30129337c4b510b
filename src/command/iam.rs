//! `iam`: what AWS is to hold for one tenant.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::{Failure, files, offline::say, print};
use crate::{
    cli::Iam,
    config::{Component, Config, Credentials, SessionSource},
    policies::{self, Account, HeldTo, Name},
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
        deny_without_source_identity,
    } = arguments;
    if only == Some(Name::DenyWithoutSourceIdentity) && !deny_without_source_identity {
        return Err(Failure::Input(anyhow!(
            "--only deny-without-source-identity needs the flag --deny-without-source-identity: {STOPS} \
             {LAST}"
        )));
    }
    let config = match &cluster {
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
    if let Some(list) = config.roles.allowed.refuses(&session_role) {
        return Err(Failure::Input(anyhow!(
            "the webhook would not take --session-role: the config's roles.allow.{list} does not have it"
        )));
    }
    if cluster.is_none() && contradict(held_to, &config) {
        return Err(Failure::Input(anyhow!(
            "--held-to {held_to} lets in no pod of a component with another session, and the config has \
             one: set session: {held_to} for each component with credentials: sidecar"
        )));
    }
    let account = Account {
        cluster: cluster.clone(),
        parameter: ssm.parameter.of(&tenant),
        parameters: ssm.parameter.of_all(),
        namespace: namespace.map_or_else(
            || format!("{}{tenant}", config.tenant.namespace_prefix),
            |namespace| namespace.as_str().to_owned(),
        ),
        region: region
            .or_else(|| ssm.region.clone())
            .or(config.region.clone())
            .map_or_else(|| "*".to_owned(), |region| region.as_str().to_owned()),
        tenant,
        base_roles,
        session_role,
        held_to,
        deny_without_source_identity,
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
    let has_the_deny = only.is_none_or(|only| only == Name::DenyWithoutSourceIdentity);
    if deny_without_source_identity && has_the_deny {
        say(STOPS);
        say(LAST);
    }
    print(&output)
}

/// Only where the config says which components there are: its defaults hold no name to a pod.
fn contradict(held_to: HeldTo, config: &Config) -> bool {
    let session = match held_to {
        HeldTo::Tenant => return false,
        HeldTo::PodName => SessionSource::PodName,
        HeldTo::PodUid => SessionSource::PodUid,
    };
    let with_sidecar = |component: &&Component| component.credentials == Credentials::Sidecar;
    config.components.iter().filter(with_sidecar).any(|component| component.session != session)
}

const STOPS: &str = "The policy deny-without-source-identity stops every pod of these base roles that runs without a session, as soon as it is applied, including agents created before the namespace was `enabled`.";
const LAST: &str =
    "Apply it last: after `enabled`, and after the last pod without a session is gone.";
