//! The HTTP client of every AWS SDK client: a response is read up to [`LONGEST_RESPONSE`].

use aws_smithy_http_client::{
    Builder, Connector, ConnectorBuilder,
    proxy::ProxyConfig,
    tls::{self, TlsContext, TrustStore},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpClient, SharedHttpConnector,
        },
        orchestrator::HttpRequest,
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
};
use aws_smithy_types::{body::SdkBody, config_bag::ConfigBag};
use http_body_util::Limited;

/// Returns the SDK's own HTTPS client, with its proxies from the environment, and with the limit. It
/// trusts the CAs of the system, and those in the given PEM texts.
pub(super) fn aws_client<'t>(trusted: impl IntoIterator<Item = &'t str>) -> SharedHttpClient {
    let add = |store: TrustStore, pem: &str| store.with_pem_certificate(pem);
    bounded(ProxyConfig::from_env(), trusted.into_iter().fold(TrustStore::default(), add))
}

/// Returns the same client without proxies. It is for the node's Pod Identity agent, which gets
/// the base token without TLS: a proxy would read it.
pub(super) fn direct_client() -> SharedHttpClient {
    bounded(ProxyConfig::disabled(), TrustStore::default())
}

/// Returns the connector of such a client, for a file on the internet. The caller limits the time.
pub(super) fn connector(trusted: &[&str]) -> SharedHttpConnector {
    let add = |store: TrustStore, pem: &&str| store.with_pem_certificate(*pem);
    let trusted = trusted.iter().fold(TrustStore::default(), add);
    let connector = over_tls(ProxyConfig::from_env(), trusted, None, None);
    SharedHttpConnector::new(BoundedConnector(SharedHttpConnector::new(connector)))
}

fn bounded(proxies: ProxyConfig, trusted: TrustStore) -> SharedHttpClient {
    let inner = Builder::new().build_with_connector_fn(move |settings, components| {
        over_tls(proxies.clone(), trusted.clone(), settings.cloned(), components)
    });
    SharedHttpClient::new(Bounded(inner))
}

fn over_tls(
    proxies: ProxyConfig,
    trusted: TrustStore,
    settings: Option<HttpConnectorSettings>,
    components: Option<&RuntimeComponents>,
) -> Connector {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
    let mut connector = ConnectorBuilder::default().tls_provider(provider);
    // Building a context cannot fail.
    if let Ok(context) = TlsContext::builder().with_trust_store(trusted).build() {
        connector.set_tls_context(context);
    }
    connector.set_connector_settings(settings);
    connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
    connector.set_proxy_config(Some(proxies));
    connector.build()
}

#[derive(Debug)]
struct Bounded(SharedHttpClient);

impl HttpClient for Bounded {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(BoundedConnector(self.0.http_connector(settings, components)))
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

#[derive(Debug)]
struct BoundedConnector(SharedHttpConnector);

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let response = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let bound = |body| SdkBody::from_body_1_x(Limited::new(body, LONGEST_RESPONSE));
            Ok(response.await?.map(bound))
        })
    }
}

/// Maximum length of a response, in bytes. The longest documented one is of `GetParameters`: 10
/// values of 8 KiB, whose characters JSON escapes to at most six bytes each, are 480 KiB.
/// <https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html>
/// Policies of IAM, which `check` reads, have at most 10,240 characters.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
const LONGEST_RESPONSE: usize = 1024 * 1024;
