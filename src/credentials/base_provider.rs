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
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::retry::ErrorKind;
use http_body_util::BodyExt;

use crate::session::{RoleSessionName, base_credentials::BaseSource};

/// An error response of the node's Pod Identity agent, with its text. The SDK's own error has the
/// status only.
#[derive(Debug, thiserror::Error)]
#[error("the Pod Identity agent responds with HTTP {status} {sentence}")]
pub(super) struct AgentError {
    status: u16,
    sentence: String,
}

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

/// Returns a client for the node's Pod Identity agent that keeps the text of an error response.
pub fn agent_client(client: SharedHttpClient) -> SharedHttpClient {
    SharedHttpClient::new(AgentClient(client))
}

impl AgentError {
    async fn read(response: HttpResponse, token: Option<&str>) -> Self {
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map(|body| body.to_bytes());
        let text = String::from_utf8_lossy(body.as_deref().unwrap_or_default()).into_owned();
        // A response that repeats the request would show the base token.
        let text = match token {
            Some(token) if !token.is_empty() => text.replace(token, "(token)"),
            _ => text,
        };
        let words = text.split(|c: char| c.is_whitespace() || c.is_control());
        let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        Self { status, sentence: line.chars().take(LONGEST_SENTENCE).collect() }
    }

    /// Returns whether the agent or EKS rejects the pod's request. A status such as 404 (no
    /// association, which EKS creates with a delay), 429 or 500 may be temporary.
    /// <https://docs.aws.amazon.com/eks/latest/APIReference/API_auth_AssumeRoleForPodIdentity.html#API_auth_AssumeRoleForPodIdentity_Errors>
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.status, 400 | 401 | 403)
    }

    /// Returns how the SDK should retry it, as it would retry the status.
    fn kind(&self) -> Option<ErrorKind> {
        match self.status {
            429 => Some(ErrorKind::ThrottlingError),
            500.. => Some(ErrorKind::ServerError),
            _ => None,
        }
    }
}

/// An HTTP client that makes an [`AgentError`] of each error response.
#[derive(Debug)]
struct AgentClient(SharedHttpClient);

#[derive(Debug)]
struct AgentConnector(SharedHttpConnector);

impl HttpClient for AgentClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(AgentConnector(self.0.http_connector(settings, components)))
    }
}

impl HttpConnector for AgentConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let token = request.headers().get("authorization").map(str::to_owned);
        let response = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let response = response.await?;
            if response.status().is_success() {
                return Ok(response);
            }
            let error = AgentError::read(response, token.as_deref()).await;
            let kind = error.kind();
            Err(ConnectorError::other(error.into(), kind))
        })
    }
}

/// Maximum length of the agent's text, in characters: many times that of its sentences.
const LONGEST_SENTENCE: usize = 512;
