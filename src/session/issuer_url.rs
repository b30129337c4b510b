use std::{fmt, str::FromStr};

use super::tenant::is_dns_label;

/// The public URL of the session issuer: the claim `iss`, and the URL of the OIDC provider in IAM.
///
/// STS compares the two as text, to the last slash, so a value has one spelling: lower case in the
/// host, and no slash at the end. IAM allows a path, but no port and no query.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerUrl(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAnIssuerUrl {
    #[error("has {found:?} in its path; allowed are A-Z, a-z, 0-9 and -._~/")]
    Character { found: char },
    #[error("has the host {0:?}; set a DNS name in lower case, such as issuer.example.com")]
    Host(String),
    #[error("has {0} characters; the URL of an OIDC provider in IAM has at most {MOST_CHARACTERS}")]
    Length(usize),
    #[error("has a port, which the URL of an OIDC provider in IAM cannot have; remove it")]
    Port,
    #[error("has a query or a fragment; remove it")]
    Query,
    #[error("does not start with https://")]
    Scheme,
    #[error("has an empty segment, '.' or '..' in its path; remove it")]
    Segment,
    #[error("ends with '/', and STS compares it to the slash; remove the '/'")]
    Slash,
    #[error("has a user name; remove it")]
    UserName,
}

impl IssuerUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the URL without `https://`, as IAM names providers and their condition keys.
    pub fn host_and_path(&self) -> &str {
        &self.0[SCHEME.len()..]
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for IssuerUrl {
    type Err = NotAnIssuerUrl;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let rest = s.strip_prefix(SCHEME).ok_or(NotAnIssuerUrl::Scheme)?;
        if s.len() > MOST_CHARACTERS {
            return Err(NotAnIssuerUrl::Length(s.len()));
        }
        if rest.contains(['?', '#']) {
            return Err(NotAnIssuerUrl::Query);
        }
        let (host, path) =
            rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
        if host.contains('@') {
            return Err(NotAnIssuerUrl::UserName);
        }
        if host.contains(':') {
            return Err(NotAnIssuerUrl::Port);
        }
        if !is_host(host) {
            return Err(NotAnIssuerUrl::Host(host.to_owned()));
        }
        let Some(path) = path else {
            return Ok(Self(s.to_owned()));
        };
        if let Some(found) = path.chars().find(|&c| !allowed(c)) {
            return Err(NotAnIssuerUrl::Character { found });
        }
        if path.is_empty() || path.ends_with('/') {
            return Err(NotAnIssuerUrl::Slash);
        }
        if path.split('/').any(|segment| ["", ".", ".."].contains(&segment)) {
            return Err(NotAnIssuerUrl::Segment);
        }
        Ok(Self(s.to_owned()))
    }
}

/// Returns whether the text is a DNS name in lower case. The last label of an IPv4 address is a
/// number.
fn is_host(host: &str) -> bool {
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    host.len() <= 253
        && host.split('.').all(is_dns_label)
        && !host.rsplit('.').next().is_some_and(is_number)
}

/// The unreserved characters of RFC 3986, and '/'.
fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~/".contains(c)
}

/// Path of the discovery document below the issuer's URL.
/// <https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfigurationRequest>
pub const DISCOVERY_FILE: &str = ".well-known/openid-configuration";
/// Path of the JWKS below the issuer's URL.
pub const KEYS_FILE: &str = "keys.json";
const SCHEME: &str = "https://";

/// Maximum of `Url` in CreateOpenIDConnectProvider.
const MOST_CHARACTERS: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_url_has_one_spelling() {
        use NotAnIssuerUrl::*;
        let long = format!("https://issuer.example.com/{}", "a".repeat(229));
        let longest = &long[..255];
        let cases = [
            ("https://issuer.example.com", Ok(())),
            ("https://localhost", Ok(())),
            ("https://b.s3.eu-west-1.amazonaws.com/prod/Issuer_1~x", Ok(())),
            (longest, Ok(())),
            (&long, Err(Length(256))),
            ("", Err(Scheme)),
            ("issuer.example.com", Err(Scheme)),
            ("http://issuer.example.com", Err(Scheme)),
            ("HTTPS://issuer.example.com", Err(Scheme)),
            (" https://issuer.example.com", Err(Scheme)),
            ("https://", Err(Host(String::new()))),
            ("https:///prod", Err(Host(String::new()))),
            ("https://Issuer.example.com", Err(Host("Issuer.example.com".to_owned()))),
            ("https://issuer.example.com.", Err(Host("issuer.example.com.".to_owned()))),
            ("https://192.0.2.1", Err(Host("192.0.2.1".to_owned()))),
            ("https://a_b.example.com", Err(Host("a_b.example.com".to_owned()))),
            ("https://issuer.example.com:443", Err(Port)),
            ("https://[2001:db8::1]", Err(Port)),
            ("https://ada@issuer.example.com", Err(UserName)),
            ("https://issuer.example.com?x", Err(Query)),
            ("https://issuer.example.com/prod#x", Err(Query)),
            ("https://issuer.example.com/", Err(Slash)),
            ("https://issuer.example.com/prod/", Err(Slash)),
            ("https://issuer.example.com//prod", Err(Segment)),
            ("https://issuer.example.com/../prod", Err(Segment)),
            ("https://issuer.example.com/%70rod", Err(Character { found: '%' })),
            ("https://issuer.example.com/prod\n", Err(Character { found: '\n' })),
            ("https://issuer.example.com/prod x", Err(Character { found: ' ' })),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<IssuerUrl>().map(drop), want, "{input:?}");
        }
    }

    #[test]
    fn iam_names_the_provider_without_the_scheme() {
        let url: IssuerUrl = "https://issuer.example.com/prod".parse().unwrap();
        assert_eq!(url.host_and_path(), "issuer.example.com/prod");
        assert_eq!(url.to_string(), "https://issuer.example.com/prod");
    }
}
