//! AWS with the credentials of the shell, for `check` and `revoke`.

use std::{collections::BTreeSet, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use futures_util::future::join_all;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    CommandError,
    aws_client::aws_client,
    installed::{self, Release},
};
use crate::{config::Config, roles::Roles, session::TenantName};

/// Returns the AWS configuration of the environment and profile. `region` is used if it has none.
pub(super) async fn shell(region: Option<&str>) -> SdkConfig {
    let shell =
        aws_config::defaults(BehaviorVersion::latest()).http_client(aws_client([])).load().await;
    let region = shell.region().cloned().or(region.map(|region| Region::new(region.to_owned())));
    shell.into_builder().region(region).build()
}

/// Returns the reason why AWS cannot be called. None: the shell has AWS credentials.
pub(super) async fn lacks_credentials(shell: &SdkConfig) -> Option<&'static str> {
    let got = match shell.credentials_provider() {
        Some(provider) => timeout(PATIENCE, provider.provide_credentials()).await.ok(),
        None => None,
    };
    if matches!(got, Some(Ok(_))) { None } else { Some(NO_CREDENTIALS) }
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
    // A tenant without a response is missing in the snapshot.
    let _ = timeout(PATIENCE, look_ups).await;
    Ok(handle.snapshot().as_ref().clone())
}

/// Time limit of one read: three attempts to read roles, with their pauses.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
const NO_CREDENTIALS: &str = "this shell has no AWS credentials; set AWS_PROFILE, or log in";
