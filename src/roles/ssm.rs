//! SSM Parameter Store as publisher of role ARNs.

use std::{collections::HashMap, error::Error, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ssm::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_parameters::GetParametersError,
    types::{Parameter, ParameterType},
};

use super::{
    Cause,
    publisher::{Published, Publisher, ReadError},
};
use crate::config::Ssm;

/// Reads the Parameter Store of one account. The SDK does not retry: [`super::refresher`] does, so
/// that the metrics count every call that AWS counts.
#[derive(Clone, Debug)]
pub struct ParameterStore(Client);

impl ParameterStore {
    /// Returns a client. `shared` is the SDK's default configuration: credentials, region,
    /// endpoint, FIPS and dual-stack.
    pub fn new(shared: &aws_config::SdkConfig, ssm: &Ssm) -> Self {
        let timeouts =
            aws_sdk_ssm::config::timeout::TimeoutConfig::builder().connect_timeout(CONNECT).build();
        let mut config = aws_sdk_ssm::config::Builder::from(shared)
            .retry_config(aws_sdk_ssm::config::retry::RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = &ssm.region {
            config = config.region(aws_sdk_ssm::config::Region::new(region.as_str().to_owned()));
        }
        if let Some(endpoint) = &ssm.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Self(Client::from_conf(config.build()))
    }
}

impl Publisher for ParameterStore {
    async fn ask(&self, names: Vec<String>) -> Result<Vec<Published>, ReadError> {
        let call = self.0.get_parameters().set_names(Some(names.clone())).with_decryption(false);
        let answer = call.send().await.map_err(|error| failure(&error))?;
        let mut found: HashMap<String, Published> = HashMap::new();
        for parameter in answer.parameters.unwrap_or_default() {
            if let Some(name) = parameter.name.clone() {
                found.insert(name, published(parameter));
            }
        }
        Ok(names.iter().map(|name| found.get(name).cloned().unwrap_or(Published::Absent)).collect())
    }
}

/// Converts a parameter by its type.
fn published(parameter: Parameter) -> Published {
    match parameter.r#type {
        Some(ParameterType::String) => Published::Text(parameter.value.unwrap_or_default()),
        Some(ParameterType::SecureString) => Published::SecureString,
        _ => Published::OtherType,
    }
}

/// Classifies an error by its code:
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/CommonErrors.html>
fn failure(error: &SdkError<GetParametersError>) -> ReadError {
    let cause = match error {
        SdkError::ServiceError(service) => match service.err().code() {
            Some("AccessDeniedException") => Cause::Denied,
            Some("RequestLimitExceeded" | "Throttling" | "ThrottlingException") => Cause::Throttled,
            Some("ValidationException") => return ReadError::Names,
            _ => Cause::Failed,
        },
        _ if layers(error).any(|layer| layer.is::<CredentialsError>()) => Cause::NoCredentials,
        _ => Cause::NoAnswer,
    };
    ReadError::Unreachable { cause, detail: detail(error) }
}

/// Returns code and message of AWS, or the chain of errors. The body of a response that cannot be
/// parsed is not shown, because it may contain published values.
fn detail(error: &SdkError<GetParametersError>) -> String {
    let text = match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("no code");
            let status = service.raw().status().as_u16();
            format!("{code} (HTTP {status}): {}", service.err().message().unwrap_or_default())
        }
        SdkError::ResponseError(answer) => {
            format!("cannot parse the response (HTTP {})", answer.raw().status().as_u16())
        }
        _ => layers(error).map(ToString::to_string).collect::<Vec<String>>().join(": "),
    };
    text.chars().take(LONGEST_DETAIL).collect()
}

/// Iterates over an error and its causes.
fn layers(error: &SdkError<GetParametersError>) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: Option<&(dyn Error + 'static)> = Some(error);
    std::iter::successors(first, |layer| (**layer).source())
}

/// Maximum length of a detail in the log, in characters.
const LONGEST_DETAIL: usize = 500;
/// Time limit of connecting. The refresher limits the whole call.
const CONNECT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

    /// A credentials provider without credentials, like the SDK's default chain if no source has
    /// any.
    #[derive(Debug)]
    struct Nobody;

    impl ProvideCredentials for Nobody {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("none")))
        }
    }

    async fn asked(shared: &aws_config::SdkConfig) -> ReadError {
        let config = "cluster: prod\nroles: {ssm: {endpoint: 'http://127.0.0.1:9'}}";
        let ssm = Config::parse(config).unwrap().roles.ssm.unwrap();
        ParameterStore::new(shared, &ssm).ask(vec!["/x".to_owned()]).await.unwrap_err()
    }

    #[tokio::test]
    async fn missing_credentials_differ_from_a_missing_response() {
        let builder = || {
            aws_config::SdkConfig::builder()
                .behavior_version(aws_config::BehaviorVersion::latest())
                .region(aws_config::Region::new("eu-west-1"))
        };
        let without = builder().credentials_provider(SharedCredentialsProvider::new(Nobody));
        let with = builder().credentials_provider(SharedCredentialsProvider::new(
            aws_credential_types::Credentials::new("a", "b", None, None, "test"),
        ));
        for (shared, want) in [(without, Cause::NoCredentials), (with, Cause::NoAnswer)] {
            let failure = asked(&shared.build()).await;
            assert!(
                matches!(&failure, ReadError::Unreachable { cause, .. } if *cause == want),
                "{failure:?}"
            );
        }
    }
}
