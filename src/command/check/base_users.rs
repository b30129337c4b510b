//! Reads which service accounts have a base role, and the pods of those in other namespaces: by the
//! annotation of IAM roles for service accounts, and by the associations of EKS Pod Identity.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use aws_config::SdkConfig;
use aws_sdk_eks::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::timeout;

use crate::{
    check::{Associations, Checks, ROLE_ANNOTATION, Seen, ServiceAccount},
    command::{
        CommandError,
        aws_shell::PATIENCE,
        cluster::{CORE, Cluster, all},
    },
    namespaces::Namespace,
};

/// Reads the service accounts with a base role, and passes the pods of those outside of `opted_in`
/// to `checks`. Returns the roles by associations. `only_one`: only one namespace is checked.
pub(super) async fn look(
    cluster: &Cluster,
    shell: Option<&SdkConfig>,
    cluster_name: &str,
    opted_in: &[Namespace],
    only_one: bool,
    checks: &mut Checks<'_>,
) -> Result<Seen<Associations>, CommandError> {
    let base_roles = checks.base_roles();
    let is_opted_in = |namespace: &str| opted_in.iter().any(|it| it.name == namespace);
    let associations = match shell {
        Some(shell) if checks.may_have_associations() => {
            let associated: BTreeSet<ServiceAccount> = checks.associated().cloned().collect();
            let is_wanted = |account: &ServiceAccount| {
                associated.contains(account) || !only_one && !is_opted_in(&account.namespace)
            };
            read(shell, cluster_name, is_wanted).await
        }
        Some(_) | None => Seen::Known(Associations::new()),
    };
    if only_one || base_roles.is_empty() {
        return Ok(associations);
    }
    let mut users: BTreeMap<String, BTreeSet<ServiceAccount>> = BTreeMap::new();
    let mut add = |account: &ServiceAccount, role: &str| {
        if base_roles.contains(role) && !is_opted_in(&account.namespace) {
            users.entry(account.namespace.clone()).or_default().insert(account.clone());
        }
    };
    if let Seen::Known(associations) = &associations {
        associations.iter().for_each(|(account, role)| add(account, role));
    }
    match cluster.list(&format!("{CORE}/serviceaccounts"), all()).await? {
        Seen::Known(accounts) => {
            for account in accounts.iter() {
                let metadata = account.at("metadata");
                let text = |key| metadata.at(key).string().unwrap_or_default().into_owned();
                if let Some(role) = metadata.at("annotations").at(ROLE_ANNOTATION).string() {
                    let name = text("name");
                    add(&ServiceAccount { namespace: text("namespace"), name }, &role);
                }
            }
        }
        Seen::Hidden(why) => checks.without_accounts(why),
    }
    for (namespace, accounts) in users {
        let pods = cluster.list(&format!("{CORE}/namespaces/{namespace}/pods"), all()).await?;
        checks.of_other_namespace(&namespace, &pods, &accounts);
    }
    Ok(associations)
}

/// Reads the associations of these service accounts.
async fn read(
    shell: &SdkConfig,
    cluster: &str,
    is_wanted: impl Fn(&ServiceAccount) -> bool,
) -> Seen<Associations> {
    if cluster.is_empty() {
        return Seen::Hidden(format!("{UNKNOWN}; the config has no cluster: set it"));
    }
    let eks = Client::new(shell);
    match timeout(PATIENCE, read_all(&eks, cluster, is_wanted)).await {
        Ok(Ok(associations)) => Seen::Known(associations),
        Ok(Err(why)) => Seen::Hidden(format!("{UNKNOWN}: {why:#}")),
        Err(_) => Seen::Hidden(format!("{UNKNOWN}: EKS did not answer in time")),
    }
}

async fn read_all(
    eks: &Client,
    cluster: &str,
    is_wanted: impl Fn(&ServiceAccount) -> bool,
) -> anyhow::Result<Associations> {
    let list = eks.list_pod_identity_associations().cluster_name(cluster);
    let mut pages = list.into_paginator().items().send();
    let mut wanted = Vec::new();
    while let Some(association) = pages.next().await {
        let association = association.map_err(refused)?;
        let account = ServiceAccount {
            namespace: association.namespace.unwrap_or_default(),
            name: association.service_account.unwrap_or_default(),
        };
        if is_wanted(&account) {
            wanted.push((account, association.association_id.unwrap_or_default()));
        }
    }
    // The list has no roles.
    let described = wanted.into_iter().map(|(account, id)| async move {
        let describe = eks.describe_pod_identity_association().cluster_name(cluster);
        let described = describe.association_id(id).send().await.map_err(refused)?;
        let role = described.association.and_then(|association| association.role_arn);
        anyhow::Ok((account, role.unwrap_or_default()))
    });
    stream::iter(described).buffer_unordered(AT_ONCE).try_collect().await
}

fn refused<E: ProvideErrorMetadata + std::error::Error + 'static>(
    error: SdkError<E>,
) -> anyhow::Error {
    let SdkError::ServiceError(response) = &error else {
        return anyhow!("EKS did not answer: {}", DisplayErrorContext(&error));
    };
    let (code, message) = (response.err().code(), response.err().message());
    anyhow!("EKS returned {}: {}", code.unwrap_or("an error"), message.unwrap_or("no reason"))
}

/// Maximum number of concurrent calls.
const AT_ONCE: usize = 4;
const UNKNOWN: &str = "cannot read the associations of EKS Pod Identity, so it is unknown which pods use a base role by one";
