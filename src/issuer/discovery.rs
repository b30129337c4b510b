//! The discovery document, from which STS learns the address of the keys.

use serde_json::{Value, json, value::RawValue};

use crate::{
    json::{Json, Unambiguous},
    session::{DISCOVERY_FILE, IssuerUrl, KEYS_FILE},
};

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

/// Returns why STS does not find the issuer's keys by a published discovery document; empty: it does.
/// The text is untrusted.
pub fn problems_of_discovery(issuer: &IssuerUrl, text: &[u8]) -> Vec<String> {
    let document = serde_json::from_slice::<&RawValue>(text);
    let (Ok(document), Ok(Unambiguous), true) =
        (document, serde_json::from_slice(text), text.is_ascii())
    else {
        return vec!["is not JSON of ASCII without duplicate members".to_owned()];
    };
    let document = Json::from(document);
    let members = [("issuer", issuer.to_string()), ("jwks_uri", keys_url(issuer))];
    let wrong = members.into_iter().filter_map(|(member, wanted)| {
        let value = document.at(member).string();
        if value.as_deref() == Some(&*wanted) {
            return None;
        }
        // The value is foreign text.
        let value = value.map_or("missing".to_owned(), |value| {
            format!("{:?}", value.chars().take(LONGEST_VALUE).collect::<String>())
        });
        Some(format!("its member {member} is {value}, not {wanted:?}"))
    });
    wrong.collect()
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

/// Maximum length of a foreign URL in a message, in characters: that of an IAM OIDC provider's.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html>
const LONGEST_VALUE: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_document_with_this_issuer_and_these_keys_is_right() {
        let issuer: IssuerUrl = "https://issuer.example.com/prod".parse().unwrap();
        let problems = |text: &str| problems_of_discovery(&issuer, text.as_bytes()).join("; ");
        let right = discovery_document(&issuer).to_string();
        assert_eq!(problems(&right), "");
        let own = "https://issuer.example.com/prod/keys.json";
        for (from, to) in [
            (own, "https://issuer.example.com/prod/keys.json?"),
            (own, "https://other.example.com/prod/keys.json"),
            ("{", "{\"jwks_uri\": \"https://other.example.com/keys.json\", "),
            ("\"issuer\"", "\"issuers\""),
            ("{", "{\"JWKS_URI\": \"https://other.example.com/keys.json\", "),
            ("public", "pub\u{1f511}"),
            ("}", ""),
        ] {
            let wrong = right.replacen(from, to, 1);
            assert_ne!(problems(&wrong), "", "{wrong}");
        }
        let missing = problems("{}");
        assert!(missing.contains("jwks_uri is missing, not \"https"), "{missing}");
    }

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
