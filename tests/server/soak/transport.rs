//! An HTTP client for the SDK without a network: it passes requests to the strict AWS.

use std::{fmt, sync::Arc, time::Duration};

use aws_credential_types::provider::{self, error::CredentialsError, future};
use aws_sdk_sts::config::{Credentials, ProvideCredentials};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    },
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::body::SdkBody;
use axum::body::Bytes;
use axum::http::{HeaderValue, Request, Response, header};
use serde_json::Value;
use strict_aws::{
    Answer, Aws,
    tokens::{Issuer, Pod as TokenPod},
};
use tokio::time::sleep;

use super::clock::Clock;

#[derive(Clone)]
pub(crate) struct Transport {
    aws: Arc<Aws>,
    clock: Clock,
}

/// The node's Pod Identity agent, called with a token that is always fresh.
pub(crate) struct PodIdentity {
    transport: Transport,
    issuer: Issuer,
    pod: TokenPod,
}

impl Transport {
    pub(crate) fn new(aws: Arc<Aws>, clock: Clock) -> Self {
        Self { aws, clock }
    }

    pub(crate) fn base(&self, issuer: Issuer, pod: TokenPod) -> PodIdentity {
        PodIdentity { transport: self.clone(), issuer, pod }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ConnectorError> {
        match self.aws.answer(&request, self.clock.truth()) {
            Answer::Response(response) => Ok(response),
            Answer::After(time, response) => {
                sleep(time).await;
                Ok(response)
            }
            Answer::CloseAfter(_) => Err(ConnectorError::io("closed in mid-body".into())),
            Answer::Hang => std::future::pending().await,
        }
    }
}

impl HttpClient for Transport {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let user = |error| ConnectorError::user(Box::new(error));
            let mut request = request
                .try_into_http1x()
                .map_err(user)?
                .map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
            // HTTP clients add this header.
            let host = request.uri().host().unwrap_or_default();
            let host = HeaderValue::from_str(host).unwrap();
            request.headers_mut().entry(header::HOST).or_insert(host);
            let response = this.exchange(request).await?;
            HttpResponse::try_from(response.map(|body| SdkBody::from(body.to_vec()))).map_err(user)
        })
    }
}

impl ProvideCredentials for PodIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let Self { transport, issuer, pod } = self;
            let hour = Duration::from_secs(3600);
            let token = issuer.mint(pod, "pods.eks.amazonaws.com", transport.clock.truth(), hour);
            let request = Request::get("http://169.254.170.23/v1/credentials")
                .header(header::HOST, "169.254.170.23")
                .header(header::AUTHORIZATION, token)
                .body(Bytes::new())
                .unwrap();
            let answer =
                transport.exchange(request).await.map_err(CredentialsError::provider_error)?;
            if !answer.status().is_success() {
                let status = answer.status().to_string();
                return Err(CredentialsError::provider_error(status));
            }
            read(answer.body())
        })
    }
}

fn read(body: &[u8]) -> provider::Result {
    let body: Value = serde_json::from_slice(body).map_err(CredentialsError::provider_error)?;
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let (key, secret) = (text("AccessKeyId"), text("SecretAccessKey"));
    Ok(Credentials::new(key, secret, Some(text("Token")), None, "test"))
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl fmt::Debug for PodIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodIdentity")
    }
}
