//! Reads roles and their inline policies from IAM, for `check` and `revoke`.

use std::time::Duration;

use aws_sdk_iam::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types,
};
use percent_encoding::percent_decode_str;

use crate::session::RoleArn;

/// Why IAM could not be read or changed. `Display` is a sentence for findings.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum IamError {
    #[error("IAM did not answer")]
    NoAnswer,
    #[error("the response of IAM has no role")]
    NoRole,
    #[error("the role of this name in IAM has another ARN: {0}")]
    OtherArn(String),
    #[error("IAM returned {code}: {message}")]
    Refused { code: String, message: String },
    /// A later call may succeed.
    #[error("IAM returned {code}: {message}")]
    Unavailable { code: String, message: String },
}

impl<E: ProvideErrorMetadata> From<SdkError<E>> for IamError {
    fn from(error: SdkError<E>) -> Self {
        let SdkError::ServiceError(response) = error else { return Self::NoAnswer };
        let (error, status) = (response.err(), response.raw().status());
        let code = error.code().map_or_else(|| format!("HTTP {}", status.as_u16()), str::to_owned);
        let message = error.message().unwrap_or("without a reason").to_owned();
        if code == THROTTLING || status.is_server_error() {
            return Self::Unavailable { code, message };
        }
        Self::Refused { code, message }
    }
}

/// Reads the role. A role of this name in the account of the credentials may have another path, or
/// the account may be another one.
pub(super) async fn role(iam: &Client, role: &RoleArn) -> Result<types::Role, IamError> {
    let response = iam.get_role().role_name(role.name()).send().await?;
    let found = response.role.ok_or(IamError::NoRole)?;
    if found.arn != role.as_str() {
        return Err(IamError::OtherArn(found.arn));
    }
    Ok(found)
}

/// Returns the maximum session duration of the role.
pub(super) fn longest_session(role: &types::Role) -> Duration {
    let seconds = role.max_session_duration.and_then(|seconds| u64::try_from(seconds).ok());
    Duration::from_secs(seconds.unwrap_or_default()).max(SHORTEST)
}

/// Reads the inline policies of the role: names, and documents as text.
pub(super) async fn inline_policies(
    iam: &Client,
    role: &RoleArn,
) -> Result<Vec<(String, String)>, IamError> {
    let mut policies = Vec::new();
    let mut names = iam.list_role_policies().role_name(role.name()).into_paginator().items().send();
    while let Some(name) = names.next().await {
        let name = name?;
        let get = iam.get_role_policy().role_name(role.name()).policy_name(&name).send().await;
        match get {
            Ok(policy) => policies.push((name, decoded(&policy.policy_document))),
            // It was deleted since it was listed.
            Err(SdkError::ServiceError(error)) if error.err().is_no_such_entity_exception() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(policies)
}

/// Returns the text of a policy document. IAM returns it URL-encoded.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_GetRole.html>
pub(super) fn decoded(document: &str) -> String {
    percent_decode_str(document).decode_utf8_lossy().into_owned()
}

/// Minimum of a role's MaxSessionDuration.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html>
const SHORTEST: Duration = Duration::from_secs(3600);

/// <https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html>
const THROTTLING: &str = "Throttling";
