//! SSM Parameter Store as a place where role ARNs are published.

use std::{collections::HashMap, error::Error, time::Duration};

use aws_sdk_ssm::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_parameters::GetParametersError,
    types::{Parameter, ParameterType},
};

use super::{
    Cause,
    keeper::{Failure, Published, Publisher},
};
use crate::config::Ssm;

/// Asks one account's Parameter Store. The keeper does the retrying, so that each call that
/// AWS counts is one that we count.
#[derive(Clone, Debug)]
pub struct ParameterStore(Client);

impl ParameterStore {
    /// `shared` is the SDK's default chain: credentials, region, endpoint, FIPS, dual-stack.
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
    async fn ask(&self, names: Vec<String>) -> Result<Vec<Published>, Failure> {
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

fn published(parameter: Parameter) -> Published {
    match parameter.r#type {
        Some(ParameterType::String) => Published::Text(parameter.value.unwrap_or_default()),
        Some(ParameterType::SecureString) => Published::SecureString,
        _ => Published::OtherType,
    }
}

/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/CommonErrors.html>
fn failure(error: &SdkError<GetParametersError>) -> Failure {
    let cause = match error {
        SdkError::ServiceError(service) => match service.err().code() {
            Some("AccessDeniedException") => Cause::Denied,
            Some("RequestLimitExceeded" | "Throttling" | "ThrottlingException") => Cause::Throttled,
            Some("ValidationException") => return Failure::Names,
            _ => Cause::Failed,
        },
        _ => Cause::NoAnswer,
    };
    Failure::Unreachable { cause, detail: detail(error) }
}

/// What AWS said, or each layer that failed. An answer that cannot be read is not shown: it
/// holds what is published.
fn detail(error: &SdkError<GetParametersError>) -> String {
    let text = match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("no code");
            let status = service.raw().status().as_u16();
            format!("{code} (HTTP {status}): {}", service.err().message().unwrap_or_default())
        }
        SdkError::ResponseError(answer) => {
            format!("its answer (HTTP {}) cannot be read", answer.raw().status().as_u16())
        }
        _ => {
            let first: Option<&(dyn Error + 'static)> = Some(error);
            let layers = std::iter::successors(first, |layer| (**layer).source());
            layers.map(ToString::to_string).collect::<Vec<String>>().join(": ")
        }
    };
    text.chars().take(LONGEST_DETAIL).collect()
}

/// In characters; a log line is one for a person.
const LONGEST_DETAIL: usize = 500;
/// The keeper bounds the call as a whole.
const CONNECT: Duration = Duration::from_secs(2);
