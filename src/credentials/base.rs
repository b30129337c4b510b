//! The credentials of the pod's service account, which the session's role is assumed with.
//!
//! Nothing is tried but the one way that the environment names: no profile and no instance
//! metadata.

use aws_config::{
    ecs::EcsCredentialsProvider,
    environment::EnvironmentVariableCredentialsProvider,
    provider_config::ProviderConfig,
    web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider},
};
use aws_sdk_sts::config::SharedCredentialsProvider;

use crate::session::{RoleSessionName, base::Base};

/// Files are read anew at each use. For the first two the SDK takes the rest from the
/// environment itself, by the names that [`Base::read`] has found there.
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
