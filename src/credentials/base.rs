//! The credentials of the pod's service account, which the session's role is assumed with.
//!
//! There are exactly three ways to them, and the environment that the webhook wrote says which
//! one it is: nothing else is tried, no profile and no instance metadata.

use std::path::PathBuf;

use aws_config::{
    ecs::EcsCredentialsProvider,
    environment::EnvironmentVariableCredentialsProvider,
    provider_config::ProviderConfig,
    web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider},
};
use aws_sdk_sts::config::SharedCredentialsProvider;

use crate::session::RoleSessionName;

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Base {
    /// Static keys of the environment (test clusters).
    Environment,
    /// EKS Pod Identity: the container endpoint with its token file.
    PodIdentity,
    /// IAM roles for service accounts: a web identity token file and a role.
    WebIdentity { role: String, token_file: PathBuf },
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotABase {
    #[error(
        "no way to base credentials is set: want {URI} with {TOKEN_FILE}, or {WEB_IDENTITY_FILE} with {WEB_IDENTITY_ROLE}, or {ACCESS_KEY}"
    )]
    Absent,
    #[error("{0} is set, but not {1}")]
    Half(&'static str, &'static str),
    #[error("{0} and {1} are both set, and only one can be meant")]
    Two(&'static str, &'static str),
}

impl Base {
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, NotABase> {
        let half = |has, lacks| match variable(lacks) {
            Some(value) => Ok(value),
            None => Err(NotABase::Half(has, lacks)),
        };
        match (variable(URI), variable(WEB_IDENTITY_FILE)) {
            (Some(_), Some(_)) => Err(NotABase::Two(URI, WEB_IDENTITY_FILE)),
            (Some(_), None) => half(URI, TOKEN_FILE).map(|_| Self::PodIdentity),
            (None, Some(token_file)) => Ok(Self::WebIdentity {
                role: half(WEB_IDENTITY_FILE, WEB_IDENTITY_ROLE)?,
                token_file: token_file.into(),
            }),
            (None, None) if variable(ACCESS_KEY).is_some() => Ok(Self::Environment),
            (None, None) => Err(NotABase::Absent),
        }
    }

    /// Files are read anew at each use. The first two take the rest from the environment
    /// themselves, by the names that [`Self::read`] has found there.
    pub fn provider(
        self,
        config: &ProviderConfig,
        name: &RoleSessionName,
    ) -> SharedCredentialsProvider {
        match self {
            Self::Environment => {
                SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
            }
            Self::PodIdentity => SharedCredentialsProvider::new(
                EcsCredentialsProvider::builder().configure(config).build(),
            ),
            Self::WebIdentity { role, token_file } => SharedCredentialsProvider::new(
                WebIdentityTokenCredentialsProvider::builder()
                    .static_configuration(StaticConfiguration {
                        web_identity_token_file: token_file,
                        role_arn: role,
                        session_name: name.to_string(),
                    })
                    .configure(config)
                    .build(),
            ),
        }
    }
}

const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
const URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const WEB_IDENTITY_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const WEB_IDENTITY_ROLE: &str = "AWS_ROLE_ARN";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_which_one_it_is() {
        let web = Base::WebIdentity { role: "r".to_owned(), token_file: "/t".into() };
        let cases: [(&[(&str, &str)], _); 7] = [
            (
                &[(URI, "http://169.254.170.23/v1/credentials"), (TOKEN_FILE, "/t")],
                Ok(Base::PodIdentity),
            ),
            (&[(WEB_IDENTITY_FILE, "/t"), (WEB_IDENTITY_ROLE, "r")], Ok(web)),
            (&[(ACCESS_KEY, "AKIA")], Ok(Base::Environment)),
            // Static keys do not get in where the webhook wrote another way.
            (&[(ACCESS_KEY, "AKIA"), (URI, "u"), (TOKEN_FILE, "/t")], Ok(Base::PodIdentity)),
            (&[(URI, "u")], Err(NotABase::Half(URI, TOKEN_FILE))),
            (&[(URI, "u"), (WEB_IDENTITY_FILE, "/t")], Err(NotABase::Two(URI, WEB_IDENTITY_FILE))),
            (&[], Err(NotABase::Absent)),
        ];
        for (variables, want) in cases {
            let found = Base::read(|name| {
                variables
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            });
            assert_eq!(found, want, "{variables:?}");
        }
    }
}
