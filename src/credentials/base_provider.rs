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

use crate::session::{RoleSessionName, base::Base};

/// Returns the provider of the base credentials. It reads token files again at each use. For
/// `Environment` and `PodIdentity` the SDK itself reads the variables that [`Base::read`] found.
pub fn provider(
    base: Base,
    config: &ProviderConfig,
    name: &RoleSessionName,
) -> SharedCredentialsProvider {
    match base {
        Base::Environment => {
            SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
        }
        Base::PodIdentity { uri: _, token_file: _ } => SharedCredentialsProvider::new(
            EcsCredentialsProvider::builder().configure(config).build(),
        ),
        Base::WebIdentity { role, token_file } => SharedCredentialsProvider::new(
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
