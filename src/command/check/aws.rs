//! Collects the facts of AWS for `check`, with the AWS credentials of the shell. Only reads, except
//! that `--assume-role` assumes roles.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::anyhow;
use aws_config::SdkConfig;
use aws_sdk_iam::{Client, error::SdkError};
use futures_util::stream::{self, StreamExt};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    check::{self, AwsFacts, Boundary, Chain, Held, Providers, Seen, Transports},
    command::{
        CommandError,
        aws_shell::{PATIENCE, lacks_credentials},
        iam_roles::{self, IamError},
    },
    config::{Config, SessionTransport},
    credentials::{self, Assume, sts::Sts},
    policies::provider_arn,
    revocation::Inline,
    roles::{Role, Roles},
    session::{KnownSession, RoleArn, TenantName},
};

/// The tenants whose roles are read.
#[derive(Debug)]
pub(super) struct TenantsToRead<'t> {
    pub(super) tenants: &'t BTreeSet<TenantName>,
    pub(super) transports: &'t Transports,
    /// Whether to assume the roles of tenants with base roles.
    pub(super) assume_role: bool,
}

/// Reads the IAM policies of the tenants' roles, and the providers of the session issuer; assumes
/// the roles, if wanted. `progress` is called before each step.
pub(super) async fn look(
    shell: &SdkConfig,
    roles: &Roles,
    wanted: &TenantsToRead<'_>,
    config: &Config,
    progress: impl Fn(&str),
) -> Result<AwsFacts, CommandError> {
    let TenantsToRead { tenants, transports, assume_role } = wanted;
    let lacking = lacks_credentials(shell).await;
    let assumed = match (assume_role, lacking) {
        (true, Some(why)) => return Err(CommandError::Input(anyhow!("--assume-role: {why}"))),
        (true, None) => {
            let with_base = tenants
                .iter()
                .filter(|tenant| transports.has(tenant, SessionTransport::RoleChain))
                .cloned()
                .collect();
            Some(assume(shell, roles, &with_base, config, &progress).await)
        }
        (false, _) => None,
    };
    let chains = chains(shell, roles, tenants, lacking, &progress).await;
    let issued = known(roles, tenants)
        .filter(|(tenant, _)| transports.has(tenant, SessionTransport::WebIdentity));
    let providers = match &config.issuer {
        Some(issuer) => {
            let arn = |role| provider_arn(&issuer.url, role);
            providers(shell, issued.map(|(tenant, role)| (arn(role), chains.get(tenant)))).await
        }
        None => Providers::new(),
    };
    Ok(AwsFacts { assumed, chains, providers })
}

/// Assumes the role of each tenant as a sidecar does, for the session [`SESSION`].
async fn assume(
    shell: &SdkConfig,
    roles: &Roles,
    tenants: &BTreeSet<TenantName>,
    config: &Config,
    progress: &impl Fn(&str),
) -> HashMap<TenantName, Result<(), credentials::AssumeRoleError>> {
    let assumed = known(roles, tenants).filter_map(|(tenant, role)| {
        let session = KnownSession {
            tenant: tenant.clone(),
            name: SESSION.parse().ok()?,
            role: role.clone(),
            duration: config.sidecar.duration,
        };
        let sts = sts(shell, session)?;
        Some(async move {
            progress(&format!("the role of tenant {tenant}"));
            (tenant.clone(), sts.assume().await.map(drop))
        })
    });
    stream::iter(assumed).buffer_unordered(AT_ONCE).collect().await
}

/// Returns the tenants whose roles are known, and the roles.
fn known<'d>(
    roles: &'d Roles,
    tenants: &'d BTreeSet<TenantName>,
) -> impl Iterator<Item = (&'d TenantName, &'d RoleArn)> {
    tenants.iter().filter_map(|tenant| match roles.role(tenant) {
        Some(Role::Known(role)) => Some((tenant, role)),
        _ => None,
    })
}

fn sts(shell: &SdkConfig, session: KnownSession) -> Option<Sts> {
    Some(Sts::new(shell, shell.credentials_provider()?, session))
}

/// Reads the policies of each known role and of the roles that it trusts. `lacking`: the reason why
/// IAM cannot be called.
async fn chains(
    shell: &SdkConfig,
    roles: &Roles,
    tenants: &BTreeSet<TenantName>,
    lacking: Option<&str>,
    progress: &impl Fn(&str),
) -> HashMap<TenantName, Chain> {
    let iam = Client::new(shell);
    let chains = known(roles, tenants).map(|(tenant, role)| {
        let iam = &iam;
        async move {
            progress(&format!("the policies of tenant {tenant}"));
            let chain = match lacking {
                Some(why) => {
                    Chain { base_roles: Vec::new(), session_role: Seen::Hidden(why.to_owned()) }
                }
                None => chain(iam, role).await,
            };
            (tenant.clone(), chain)
        }
    });
    stream::iter(chains).buffer_unordered(AT_ONCE).collect().await
}

async fn chain(iam: &Client, role: &RoleArn) -> Chain {
    let session_role = held(iam, role).await;
    let mut base_roles = Vec::new();
    if let Seen::Known(session_role) = &session_role {
        for base in check::principals(&session_role.trust) {
            let held = held(iam, &base).await;
            base_roles.push((base, held));
        }
    }
    Chain { base_roles, session_role }
}

async fn held(iam: &Client, role: &RoleArn) -> Seen<Held> {
    match timeout(PATIENCE, read(iam, role)).await {
        Ok(Ok(held)) => Seen::Known(held),
        Ok(Err(why)) => Seen::Hidden(why.to_string()),
        Err(_) => Seen::Hidden("IAM did not answer in time".to_owned()),
    }
}

/// Reads the session issuer's provider in each account whose roles can be read. IAM reads only those
/// of the account of the credentials.
async fn providers(
    shell: &SdkConfig,
    wanted: impl Iterator<Item = (String, Option<&Chain>)>,
) -> Providers {
    let mut readable: BTreeMap<String, Option<&str>> = BTreeMap::new();
    for (arn, chain) in wanted {
        let lacking = match chain.map(|chain| &chain.session_role) {
            Some(Seen::Known(_)) => None,
            Some(Seen::Hidden(why)) => Some(&**why),
            None => Some("the roles of its account were not read"),
        };
        let known = readable.entry(arn).or_insert(lacking);
        *known = known.and(lacking);
    }
    let iam = Client::new(shell);
    let mut providers = Providers::new();
    for (arn, lacking) in readable {
        let provider = match lacking {
            Some(why) => Seen::Hidden(why.to_owned()),
            None => provider(&iam, &arn).await,
        };
        providers.insert(arn, provider);
    }
    providers
}

/// Returns the client IDs of the provider. None: there is no such provider.
async fn provider(iam: &Client, arn: &str) -> Seen<Option<Vec<String>>> {
    let call = iam.get_open_id_connect_provider().open_id_connect_provider_arn(arn).send();
    match timeout(PATIENCE, call).await {
        Ok(Ok(provider)) => Seen::Known(Some(provider.client_id_list.unwrap_or_default())),
        Ok(Err(SdkError::ServiceError(error))) if error.err().is_no_such_entity_exception() => {
            Seen::Known(None)
        }
        Ok(Err(error)) => Seen::Hidden(IamError::from(error).to_string()),
        Err(_) => Seen::Hidden("IAM did not answer in time".to_owned()),
    }
}

/// Reads the role and all of its policies.
async fn read(iam: &Client, role: &RoleArn) -> Result<Held, IamError> {
    let found = iam_roles::role(iam, role).await?;
    let longest_session = iam_roles::longest_session(&found);
    let inline = iam_roles::inline_policies(iam, role).await?;
    let mut policies: Vec<Value> = inline.iter().map(|(_, text)| parsed(text)).collect();
    let mut attached =
        iam.list_attached_role_policies().role_name(role.name()).into_paginator().items().send();
    while let Some(policy) = attached.next().await {
        policies.push(managed(iam, policy?.policy_arn.as_deref().unwrap_or_default()).await?);
    }
    let boundary = found.permissions_boundary.and_then(|it| it.permissions_boundary_arn);
    let boundary = match boundary {
        Some(arn) => Some(Boundary { document: managed(iam, &arn).await?, arn }),
        None => None,
    };
    let tags = found.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value));
    let trust = document(found.assume_role_policy_document.as_deref().unwrap_or_default());
    let inline = inline.iter().map(|(name, text)| (&**name, &**text));
    let revoked = Inline::read(inline).map(|it| it.revoked);
    Ok(Held { boundary, longest_session, policies, revoked, tags: tags.collect(), trust })
}

/// Reads the default version of a managed policy, which is the one in effect.
async fn managed(iam: &Client, arn: &str) -> Result<Value, IamError> {
    let policy = iam.get_policy().policy_arn(arn).send().await?;
    let version = policy.policy.and_then(|policy| policy.default_version_id).unwrap_or_default();
    let call = iam.get_policy_version().policy_arn(arn).version_id(version);
    let version = call.send().await?.policy_version;
    Ok(document(&version.and_then(|version| version.document).unwrap_or_default()))
}

/// Parses a policy document as IAM returns it. Null if it is not JSON.
fn document(text: &str) -> Value {
    parsed(&iam_roles::decoded(text))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Name of the session. In CloudTrail, the SourceIdentity is `agent.<tenant>.check`.
const SESSION: &str = "check";
/// Maximum number of concurrent calls. IAM answers a few calls per second; the SDK retries
/// throttled ones.
const AT_ONCE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn iam_documents_are_url_decoded() {
        let text = "%7B%22Action%22%3A%20%22sts%3A%2A%22%2C%20%22Sid%22%3A%22a%25%22%7D";
        assert_eq!(document(text), json!({"Action": "sts:*", "Sid": "a%"}));
        assert_eq!(document("{\"a\": 1}"), json!({"a": 1}));
        assert_eq!(document("%7"), Value::Null);
    }
}
