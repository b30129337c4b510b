//! Collects the facts of AWS for `check`, with the AWS credentials of the shell. Only reads, except
//! that `--assume-role` assumes roles.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use anyhow::anyhow;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_iam::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use futures_util::{
    future::join_all,
    stream::{self, StreamExt},
};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    check::{self, AwsFacts, Boundary, Chain, Held, Seen},
    command::{
        CommandError,
        aws_client::aws_client,
        installed::{self, Release},
    },
    config::Config,
    credentials::{self, Assume, sts::Sts},
    roles::{Role, Roles},
    session::{KnownSession, RoleArn, TenantName},
};

/// Returns the AWS configuration of the environment and profile. If it has no region, that of the
/// agents is used.
pub(super) async fn shell(config: &Config) -> SdkConfig {
    let shell =
        aws_config::defaults(BehaviorVersion::latest()).http_client(aws_client()).load().await;
    let agents = config.region.as_ref().map(|region| Region::new(region.as_str().to_owned()));
    let region = shell.region().cloned().or(agents);
    shell.into_builder().region(region).build()
}

/// Reads the tenants' roles. `release`: None if the config is from a file. Static roles need no
/// `shell`.
pub(super) async fn roles(
    shell: Option<&SdkConfig>,
    config: &Config,
    release: Option<&Release>,
    tenants: &BTreeSet<TenantName>,
) -> Result<Roles, CommandError> {
    let mut config = config.clone();
    if let Some(ssm) = &mut config.roles.ssm
        && ssm.region.is_none()
    {
        ssm.region = shell.and_then(SdkConfig::region).and_then(|it| it.as_ref().parse().ok());
    }
    let mut tasks = JoinSet::new();
    let (_wanted, wanted) = watch::channel(tenants.iter().cloned().collect());
    let handle = installed::roles(&config, release, wanted, &mut tasks).await?;
    let look_ups = join_all(tenants.iter().map(|tenant| handle.look_up(tenant.clone())));
    // A tenant without a response is missing in the snapshot, and becomes an unknown finding.
    let _ = timeout(PATIENCE, look_ups).await;
    Ok(handle.snapshot().as_ref().clone())
}

/// Reads the IAM policies of the tenants' roles and, with `assume_role`, assumes the roles.
/// `progress` is called before each step.
pub(super) async fn look(
    shell: &SdkConfig,
    roles: &Roles,
    tenants: &BTreeSet<TenantName>,
    config: &Config,
    assume_role: bool,
    progress: impl Fn(&str),
) -> Result<AwsFacts, CommandError> {
    let lacking = lacks_credentials(shell).await;
    let assumed = match (assume_role, lacking) {
        (true, Some(why)) => return Err(CommandError::Input(anyhow!("--assume-role: {why}"))),
        (true, None) => Some(assume(shell, roles, tenants, config, &progress).await),
        (false, _) => None,
    };
    let chains = chains(shell, roles, tenants, lacking, &progress).await;
    Ok(AwsFacts { assumed, chains })
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

/// Returns the reason why AWS cannot be called. None: the shell has AWS credentials.
async fn lacks_credentials(shell: &SdkConfig) -> Option<&'static str> {
    let got = match shell.credentials_provider() {
        Some(provider) => timeout(PATIENCE, provider.provide_credentials()).await.ok(),
        None => None,
    };
    if matches!(got, Some(Ok(_))) { None } else { Some(NO_CREDENTIALS) }
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
        Ok(Err(why)) => Seen::Hidden(why),
        Err(_) => Seen::Hidden("IAM did not answer in time".to_owned()),
    }
}

/// Reads the role and all of its policies. The error is the message for the finding.
async fn read(iam: &Client, role: &RoleArn) -> Result<Held, String> {
    let name = role.path_and_name().rsplit('/').next().unwrap_or_default();
    let response = iam.get_role().role_name(name).send().await.map_err(|error| said(&error))?;
    let found = response.role.ok_or("the response of IAM has no role")?;
    if found.arn != role.as_str() {
        return Err(format!("the role of this name in IAM has another ARN: {}", found.arn));
    }
    let mut policies = Vec::new();
    let mut inline = iam.list_role_policies().role_name(name).into_paginator().items().send();
    while let Some(policy) = inline.next().await {
        let policy = policy.map_err(|error| said(&error))?;
        let policy = iam.get_role_policy().role_name(name).policy_name(policy).send().await;
        policies.push(document(&policy.map_err(|error| said(&error))?.policy_document));
    }
    let mut attached =
        iam.list_attached_role_policies().role_name(name).into_paginator().items().send();
    while let Some(policy) = attached.next().await {
        let policy = policy.map_err(|error| said(&error))?;
        policies.push(managed(iam, policy.policy_arn.as_deref().unwrap_or_default()).await?);
    }
    let boundary = found.permissions_boundary.and_then(|it| it.permissions_boundary_arn);
    let boundary = match boundary {
        Some(arn) => Some(Boundary { document: managed(iam, &arn).await?, arn }),
        None => None,
    };
    let tags = found.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value));
    let trust = document(found.assume_role_policy_document.as_deref().unwrap_or_default());
    Ok(Held { boundary, policies, tags: tags.collect(), trust })
}

/// Reads the default version of a managed policy, which is the one in effect.
async fn managed(iam: &Client, arn: &str) -> Result<Value, String> {
    let policy = iam.get_policy().policy_arn(arn).send().await.map_err(|error| said(&error))?;
    let version = policy.policy.and_then(|policy| policy.default_version_id).unwrap_or_default();
    let call = iam.get_policy_version().policy_arn(arn).version_id(version);
    let version = call.send().await.map_err(|error| said(&error))?.policy_version;
    Ok(document(&version.and_then(|version| version.document).unwrap_or_default()))
}

/// Parses a policy document. IAM returns it URL-encoded. Null if it is not JSON.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_GetRole.html>
fn document(text: &str) -> Value {
    let json: Vec<u8> = percent_decode_str(text).collect();
    serde_json::from_slice(&json).unwrap_or_default()
}

fn said<E: ProvideErrorMetadata>(error: &SdkError<E>) -> String {
    match error {
        SdkError::ServiceError(response) => {
            let code = response.err().code().unwrap_or("no code");
            format!("IAM returned {code}: {}", response.err().message().unwrap_or_default())
        }
        _ => "IAM did not answer".to_owned(),
    }
}

/// Name of the session. In CloudTrail, the SourceIdentity is `agent.<tenant>.check`.
const SESSION: &str = "check";
const NO_CREDENTIALS: &str = "this shell has no AWS credentials; set AWS_PROFILE, or log in";
/// Maximum number of concurrent calls. IAM answers a few calls per second; the SDK retries
/// throttled ones.
const AT_ONCE: usize = 4;
/// Time limit of one read: three attempts to read roles, with their pauses.
const PATIENCE: Duration = Duration::from_secs(15);

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
