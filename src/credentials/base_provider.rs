//! Base credentials: credentials of the pod's service account. With them the sidecar assumes the
//! session-broker role.
//!
//! Only the source that the environment names is used: no profile and no instance metadata.

use aws_config::{
    ecs::EcsCredentialsProvider,
    environment::EnvironmentVariableCredentialsProvider,
    provider_config::ProviderConfig,
    web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider},
};
use aws_sdk_sts::config::SharedCredentialsProvider;

use crate::session::{RoleSessionName, base_credentials::BaseSource};

/// Returns the provider of the base credentials. It reads token files again at each use. For
/// `Environment` and `PodIdentity` the SDK itself reads the variables that [`BaseSource::read`] found.
pub fn provider(
    base: BaseSource,
    config: &ProviderConfig,
    name: &RoleSessionName,
) -> SharedCredentialsProvider {
    match base {
        BaseSource::Environment => {
            SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
        }
        BaseSource::PodIdentity { uri: _, token_file: _ } => SharedCredentialsProvider::new(
            EcsCredentialsProvider::builder().configure(config).build(),
        ),
        BaseSource::WebIdentity { role, token_file } => SharedCredentialsProvider::new(
            WebIdentityTokenCredentialsProvider::builder()
                .static_configuration(StaticConfiguration {
                    web_identity_token_file: token_file.into(),
                    role_arn: role,
                    session_name: name.to_string(),
                })
                .configure(config)
                .build(),
        ),
    }
}
