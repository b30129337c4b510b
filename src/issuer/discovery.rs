//! The discovery document, from which STS learns the address of the keys.

use serde_json::{Value, json};

use crate::session::IssuerUrl;

/// Returns the discovery document.
///
/// Its members are those that IAM names, and the two that OpenID Connect requires of an issuer that
/// does not log users in.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html>,
/// <https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata>
pub fn discovery_document(issuer: &IssuerUrl) -> Value {
    json!({
        "issuer": issuer.as_str(),
        "jwks_uri": keys_url(issuer),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "claims_supported": ["iss", "sub", "aud", "iat", "exp", "jti"],
    })
}

/// Returns the URL of the discovery document.
/// <https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfigurationRequest>
pub fn discovery_url(issuer: &IssuerUrl) -> String {
    format!("{issuer}/{DISCOVERY_FILE}")
}

/// Returns the URL of the keys.
pub fn keys_url(issuer: &IssuerUrl) -> String {
    format!("{issuer}/{KEYS_FILE}")
}

/// Path of the discovery document below the issuer's URL.
pub const DISCOVERY_FILE: &str = ".well-known/openid-configuration";
/// Path of the JWKS below the issuer's URL.
pub const KEYS_FILE: &str = "keys.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_discovery_document_names_issuer_and_keys() {
        for url in ["https://issuer.example.com", "https://issuer.example.com/prod"] {
            let issuer = url.parse().unwrap();
            assert_eq!(discovery_url(&issuer), format!("{url}/.well-known/openid-configuration"));
            assert_eq!(
                discovery_document(&issuer),
                json!({
                    "issuer": url,
                    "jwks_uri": format!("{url}/keys.json"),
                    "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                    "claims_supported": ["iss", "sub", "aud", "iat", "exp", "jti"],
                })
            );
        }
    }
}
