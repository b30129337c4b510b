//! The STS client: AssumeRole with a SourceIdentity, and the reasons of its errors.

use std::{
    error::Error,
    io,
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::{
    Client,
    config::{ProvideCredentials, SharedCredentialsProvider, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::{assume_role, assume_role_with_web_identity::AssumeRoleWithWebIdentityError},
};
use tokio::time::timeout;

use super::{
    Assume, AssumeRoleError, Credentials, Reason, Secret, base_provider::AgentError, denial,
    denial::lacks_keys,
};
use crate::session::KnownSession;

/// Requests credentials of one session from STS.
#[derive(Debug)]
pub struct Sts {
    config: SdkConfig,
    base: SharedCredentialsProvider,
    session: KnownSession,
}

impl Sts {
    /// Takes region, endpoint, FIPS and dual-stack from `config`. Its credentials are not used.
    pub fn new(config: &SdkConfig, base: SharedCredentialsProvider, session: KnownSession) -> Self {
        let config = one_call(config).to_builder().credentials_provider(base.clone()).build();
        Self { config, base, session }
    }

    async fn assume_now(&self) -> Result<Credentials, Reason> {
        let KnownSession { tenant: _, name: _, role, duration } = &self.session;
        // Requested here and not by the SDK, so that their failure differs from one of STS. And
        // requested each time, since they may expire before the session credentials.
        let base = timeout(BASE, self.base.provide_credentials()).await;
        let late = |_| Reason::BaseUnavailable { detail: format!("no response within {BASE:?}") };
        let base = base.map_err(late)?.map_err(|error| base_failure(&error))?;
        let config = aws_sdk_sts::config::Builder::from(&self.config)
            .credentials_provider(SharedCredentialsProvider::new(base));
        let answer = Client::from_conf(config.build())
            .assume_role()
            .role_arn(role.as_str())
            .role_session_name(self.session.role_session_name().as_str())
            .source_identity(self.session.source_identity().as_str())
            .duration_seconds(duration.seconds().into())
            .send()
            .await
            .map_err(|error| sts_failure(&error))?;
        let wanted = self.session.source_identity();
        if answer.source_identity() != Some(wanted.as_str()) {
            return Err(Reason::IdentityMissing);
        }
        issued(answer.credentials, Duration::from_secs(duration.seconds().into()))
    }
}

impl Assume for Sts {
    async fn assume(&self) -> Result<Credentials, AssumeRoleError> {
        in_time(Duration::ZERO, self.assume_now()).await.map_err(|reason| self.failure(reason))
    }

    fn failure(&self, reason: Reason) -> AssumeRoleError {
        let KnownSession { role, .. } = &self.session;
        let identity = self.session.source_identity().to_string();
        AssumeRoleError { role: role.clone(), identity, reason }
    }
}

/// Returns the settings of a client that calls once. The cache decides about each call, so the SDK
/// makes no further ones.
pub(super) fn one_call(config: &SdkConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).build();
    config
        .to_builder()
        .retry_config(aws_sdk_sts::config::retry::RetryConfig::disabled())
        .timeout_config(timeouts)
        .build()
}

/// Returns the result of a request within [`WHOLE`], and a further time for which it waits itself.
pub(super) async fn in_time(
    further: Duration,
    request: impl Future<Output = Result<Credentials, Reason>>,
) -> Result<Credentials, Reason> {
    let whole = WHOLE + further;
    let late = || Reason::StsUnavailable { detail: format!("no response within {whole:?}") };
    timeout(whole, request).await.unwrap_or_else(|_| Err(late()))
}

/// Returns the credentials of a response, or why they are incomplete.
pub(super) fn issued(
    issued: Option<aws_sdk_sts::types::Credentials>,
    asked: Duration,
) -> Result<Credentials, Reason> {
    let lacks = |what| Reason::StsUnavailable { detail: format!("the response has no {what}") };
    let issued = issued.ok_or_else(|| lacks("credentials"))?;
    let expiration = SystemTime::try_from(issued.expiration).map_err(|_| lacks("expiration"))?;
    if [&issued.access_key_id, &issued.secret_access_key, &issued.session_token]
        .into_iter()
        .any(String::is_empty)
    {
        return Err(lacks("complete credentials"));
    }
    Ok(Credentials {
        access_key_id: issued.access_key_id,
        secret_access_key: Secret::new(issued.secret_access_key),
        session_token: Secret::new(issued.session_token),
        expiration,
        asked,
    })
}

/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html#API_AssumeRole_Errors>
/// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>
fn sts_failure(error: &SdkError<assume_role::AssumeRoleError>) -> Reason {
    let ErrorResponse { status, code, detail } = match ErrorResponse::of(error) {
        Ok(response) => response,
        Err(reason) => return reason,
    };
    match &*code {
        "ExpiredToken" | "ExpiredTokenException" => Reason::BaseExpired { detail },
        "AccessDenied" | "AccessDeniedException" => {
            Reason::Denied { denial: denial(&detail), sentence: detail }
        }
        "IncompleteSignature"
        | "InvalidSignatureException"
        | "RequestExpired"
        | "SignatureDoesNotMatch" => {
            // The lines after the first repeat the signed request, with the session token.
            let detail = detail.lines().next().unwrap_or_default().to_owned();
            Reason::SignatureRefused { code, detail }
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" => {
            Reason::BaseRefused { detail: format!("{code}: {detail}") }
        }
        "PackedPolicyTooLarge" | "PackedPolicyTooLargeException" => Reason::TagsTooLarge { detail },
        _ => ErrorResponse { status, code, detail }.other(),
    }
}

/// An error response of STS.
pub(super) struct ErrorResponse {
    status: u16,
    pub(super) code: String,
    pub(super) detail: String,
}

impl ErrorResponse {
    /// Returns the response, or the reason if there is none, or if it is one of any STS call.
    pub(super) fn of<E: ProvideErrorMetadata + Error + 'static>(
        error: &SdkError<E>,
    ) -> Result<Self, Reason> {
        let (status, error) = match error {
            SdkError::ServiceError(answer) => (answer.raw().status().as_u16(), answer.err()),
            // The body may contain credentials, so no text shows it.
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                let detail = format!("the response (HTTP {status}) cannot be parsed");
                return Err(Reason::StsUnavailable { detail });
            }
            _ => return Err(Reason::StsUnavailable { detail: chain(error) }),
        };
        let code = error.code().unwrap_or_default().to_owned();
        let detail = error.message().unwrap_or_default().to_owned();
        match whatever_was_asked(&code, &detail) {
            Some(reason) => Err(reason),
            None => Ok(Self { status, code, detail }),
        }
    }

    /// Returns the reason for a code that the caller does not know.
    pub(super) fn other(self) -> Reason {
        let Self { status, code, detail } = self;
        if (400..500).contains(&status) && !code.is_empty() {
            return Reason::Rejected { code, detail };
        }
        let parts = [format!("HTTP {status}"), code, detail];
        let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
        let said = parts.into_iter().filter(|part| !part.is_empty());
        Reason::StsUnavailable { detail: said.collect::<Vec<_>>().join(" ") }
    }
}

/// Returns the reason of an error that any STS call can return.
fn whatever_was_asked(code: &str, detail: &str) -> Option<Reason> {
    let detail = detail.to_owned();
    match code {
        "RegionDisabled" | "RegionDisabledException" => Some(Reason::RegionDisabled { detail }),
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException" => Some(Reason::Throttled { detail }),
        _ => None,
    }
}

/// Returns the reason why there are no base credentials. The web identity provider calls STS too;
/// the error that it wraps distinguishes a rejected call from a missing response.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors>
fn base_failure(error: &CredentialsError) -> Reason {
    let mut causes = std::iter::successors(error.source(), |&error| error.source());
    if let Some(answer) = causes.find_map(<dyn Error>::downcast_ref::<AgentError>) {
        let detail = answer.to_string();
        return if answer.is_refusal() {
            Reason::BaseRefused { detail }
        } else {
            Reason::BaseUnavailable { detail }
        };
    }
    let cause = error.source();
    if let Some(SdkError::ServiceError(answer)) =
        cause.and_then(<dyn Error>::downcast_ref::<SdkError<AssumeRoleWithWebIdentityError>>)
        && let Some(code) = answer.err().code()
    {
        let message = answer.err().message().unwrap_or_default();
        let detail = format!("{code}: {message}");
        let is_refusal = answer.raw().status().is_client_error();
        return whatever_was_asked(code, message).unwrap_or(match code {
            "ExpiredToken" | "ExpiredTokenException" => {
                Reason::BaseExpired { detail: message.to_owned() }
            }
            // STS could not get the keys of the cluster's issuer; this may be temporary.
            "IDPCommunicationError" => Reason::BaseUnavailable { detail },
            "InvalidIdentityToken" if lacks_keys(message) => Reason::BaseUnavailable { detail },
            _ if is_refusal => Reason::BaseRefused { detail },
            _ => Reason::BaseUnavailable { detail },
        });
    }
    let detail = match cause.and_then(<dyn Error>::downcast_ref::<io::Error>) {
        Some(error) => format!("cannot read the token file: {error}"),
        None => chain(error),
    };
    Reason::BaseUnavailable { detail }
}

/// Returns the messages of an error and of its causes, without the details of `Debug`.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let layer = error.to_string();
        if !text.ends_with(&layer) {
            text = format!("{text}: {layer}");
        }
        cause = error.source();
    }
    text
}

const CONNECT: Duration = Duration::from_secs(3);
/// Time limit for base credentials, including the retries of their provider.
const BASE: Duration = Duration::from_secs(7);
/// Time limit for base credentials, or the issuer's token, and the call of STS together. Both take milliseconds, and a client
/// that waits at the start gives up after a second or two.
const WHOLE: Duration = Duration::from_secs(15);
