use std::{fmt, str::FromStr};

/// The URL at which sidecars get their tokens from the session issuer: `https://HOST[:PORT]/PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerEndpoint {
    host: String,
    port: u16,
    path: String,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not a valid issuer endpoint: expected https://HOST[:PORT]/PATH with a DNS name and without a query"
)]
pub struct NotAnIssuerEndpoint;

impl IssuerEndpoint {
    /// Returns the DNS name, which the issuer's certificate must have.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Omits the default port of https.
impl fmt::Display for IssuerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path } = self;
        match port {
            &HTTPS => write!(f, "https://{host}{path}"),
            port => write!(f, "https://{host}:{port}{path}"),
        }
    }
}

impl FromStr for IssuerEndpoint {
    type Err = NotAnIssuerEndpoint;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let rest = s.strip_prefix("https://").ok_or(NotAnIssuerEndpoint)?;
        let (authority, path) = rest.split_once('/').ok_or(NotAnIssuerEndpoint)?;
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| NotAnIssuerEndpoint)?),
            None => (authority, HTTPS),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        if port == 0 || !is_dns_name(host) || !path.chars().all(is_plain) {
            return Err(NotAnIssuerEndpoint);
        }
        Ok(Self { host: host.to_owned(), port, path: format!("/{path}") })
    }
}

/// Returns whether the text is a DNS name of at most 253 characters (RFC 1123).
fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(super::is_dns_label)
}

const HTTPS: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_https_url() {
        for text in [
            "https://fab-issuer.fab-system.svc/v1/token",
            "https://localhost:8443/v1/token",
            "https://issuer/",
        ] {
            let endpoint: IssuerEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        let endpoint: IssuerEndpoint = "https://a.b:443/v1".parse().unwrap();
        assert_eq!((endpoint.host(), endpoint.port(), endpoint.path()), ("a.b", 443, "/v1"));
        for text in [
            "",
            "http://a/v1",
            "https://a",
            "https:///v1",
            "https://a:0/v1",
            "https://a:x/v1",
            "https://user@a/v1",
            "https://a/v1?q",
            "https://a/$(X)",
            "https://A_b/v1",
        ] {
            assert!(text.parse::<IssuerEndpoint>().is_err(), "{text}");
        }
    }
}
