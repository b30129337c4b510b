//! The container credentials protocol of the AWS SDKs: checks of requests, and response bodies.
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::{net::Ipv4Addr, time::SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Credentials, token::Token};
use crate::session::{
    RoleArn, SidecarSession,
    env::{CREDENTIALS_PATH, SESSION_PATH},
};

/// The parts of a request that decide about it.
#[derive(Clone, Copy, Debug)]
pub struct CredentialsRequest<'a> {
    /// The values of `Authorization`.
    pub authorizations: &'a [&'a [u8]],
    /// The values of `Host`.
    pub hosts: &'a [&'a [u8]],
    /// Whether the request target is an absolute URI, as in a request to a proxy.
    pub is_absolute: bool,
    pub method: &'a str,
    pub path: &'a str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    Credentials,
    /// The name of the session.
    Session,
    Status,
}

/// Reasons to refuse a request. The token is checked before the path, so that a client without
/// the token does not learn which paths exist.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Refused {
    /// The request is for a proxy; the sidecar is not one.
    Absolute,
    /// The Host header is not loopback. DNS rebinding lets a page or a prompt send such requests.
    Host,
    Method,
    Path,
    Token,
}

impl CredentialsRequest<'_> {
    pub fn authorize(&self, port: u16, token: &Token) -> Result<Wanted, Refused> {
        let Self { authorizations, hosts, is_absolute, method, path } = self;
        if *is_absolute {
            return Err(Refused::Absolute);
        }
        if !matches!(hosts, [host] if is_loopback(host, port)) {
            return Err(Refused::Host);
        }
        if *method != "GET" {
            return Err(Refused::Method);
        }
        if !matches!(authorizations, [presented] if token.opens(presented)) {
            return Err(Refused::Token);
        }
        match *path {
            CREDENTIALS_PATH => Ok(Wanted::Credentials),
            SESSION_PATH => Ok(Wanted::Session),
            STATUS_PATH => Ok(Wanted::Status),
            _ => Err(Refused::Path),
        }
    }
}

/// The SDK of the C runtime omits the port.
fn is_loopback(host: &[u8], port: u16) -> bool {
    let port = format!(":{port}");
    let host = host.strip_suffix(port.as_bytes()).unwrap_or(host);
    let literal = Ipv4Addr::LOCALHOST.to_string();
    [literal.as_bytes(), b"localhost", b"[::1]"]
        .iter()
        .any(|allowed| host.eq_ignore_ascii_case(allowed))
}

impl Refused {
    pub const ALL: [Self; 5] = [Self::Absolute, Self::Host, Self::Method, Self::Path, Self::Token];

    /// Returns a status that SDKs do not retry, since a retry gets the same result. Never 404,
    /// from which some SDKs conclude that this is another kind of endpoint.
    pub fn status(self) -> u16 {
        match self {
            Self::Absolute | Self::Path => 400,
            Self::Host => 403,
            Self::Method => 405,
            Self::Token => 401,
        }
    }

    pub fn code(self) -> &'static str {
        match self {
            Self::Absolute => "not-a-proxy",
            Self::Host => "host-not-loopback",
            Self::Method => "method-not-get",
            Self::Path => "no-such-path",
            Self::Token => "token-wrong",
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::Absolute => "the sidecar is not a proxy: add 127.0.0.1 to NO_PROXY and no_proxy",
            Self::Host => "the Host header must be 127.0.0.1, localhost or [::1]",
            Self::Method => "the method must be GET",
            Self::Path => "the path does not exist",
            Self::Token => {
                "the Authorization header must be the content of the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names: update the AWS SDK or CLI if it does not read this variable"
            }
        }
    }
}

/// Returns the body of a 200 response. `Expiration` is UTC with a `Z`, which all SDKs parse.
pub fn credentials_body(credentials: &Credentials, role: &RoleArn) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body<'a> {
        access_key_id: &'a str,
        secret_access_key: &'a str,
        token: &'a str,
        expiration: String,
        account_id: &'a str,
    }
    let Credentials { access_key_id, secret_access_key, session_token, expiration, asked: _ } =
        credentials;
    let body = Body {
        access_key_id,
        secret_access_key: secret_access_key.expose(),
        token: session_token.expose(),
        expiration: utc(*expiration),
        account_id: role.account(),
    };
    // Large enough for the whole body, so that growing leaves no copy in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST));
    // Text and numbers always serialise.
    let _ = serde_json::to_writer(&mut *bytes, &body);
    bytes
}

/// Returns the body that names the session, or `None` if it has no name yet. It contains no secret.
pub fn session_body(session: &SidecarSession) -> Option<Vec<u8>> {
    let bound = session.bound()?;
    let body = serde_json::json!({
        "state": "bound",
        "sessionId": bound.name.as_str(),
        "sourceIdentity": bound.identity.as_str(),
        "roleArn": session.role().as_str(),
    });
    Some(body.to_string().into_bytes())
}

/// Returns the body of an error. Each value appears twice, since SDKs expect different keys.
pub fn error_body(code: &str, message: &str) -> Vec<u8> {
    serde_json::json!({"code": code, "message": message, "Code": code, "Message": message})
        .to_string()
        .into_bytes()
}

/// The response body of `/v1/status`. It contains no secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarStatus {
    pub source_identity: String,
    pub role_arn: String,
    /// The access key ID of the credentials that are served now, if there are any.
    pub access_key_id: Option<String>,
    pub expiration: Option<String>,
    pub remaining_seconds: u64,
    pub last_error: Option<LastError>,
    /// Number of attempts to get credentials, and of those that failed.
    pub assumed: u64,
    pub failures: u64,
    /// Number of requests that got credentials, that got none because there were none, and that
    /// were refused (by code).
    pub served: u64,
    pub unavailable: u64,
    pub refused: std::collections::BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LastError {
    pub at: String,
    pub code: String,
    pub message: String,
}

/// Returns the time as RFC 3339, rounded down to the second.
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

pub const STATUS_PATH: &str = "/v1/status";
/// Maximum size of a body: the SDK of the C runtime rejects a longer response.
const LARGEST: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::credentials::Secret;

    fn token() -> Token {
        Token::keep(&tempfile::tempdir().unwrap().path().join("token"), &[0xab; 32]).unwrap()
    }

    #[test]
    fn only_a_local_get_with_the_token_is_served() {
        let token = token();
        let right = token.expose().as_bytes();
        let hosts: &[&[u8]] = &[b"127.0.0.1:7413"];
        let good = CredentialsRequest {
            authorizations: &[right],
            hosts,
            is_absolute: false,
            method: "GET",
            path: CREDENTIALS_PATH,
        };
        let bearer = [b"Bearer ", right].concat();
        let cases: &[(CredentialsRequest<'_>, _)] = &[
            (good, Ok(Wanted::Credentials)),
            (CredentialsRequest { path: STATUS_PATH, ..good }, Ok(Wanted::Status)),
            (CredentialsRequest { path: SESSION_PATH, ..good }, Ok(Wanted::Session)),
            (CredentialsRequest { hosts: &[b"127.0.0.1"], ..good }, Ok(Wanted::Credentials)),
            (CredentialsRequest { hosts: &[b"LOCALHOST:7413"], ..good }, Ok(Wanted::Credentials)),
            (CredentialsRequest { hosts: &[b"[::1]"], ..good }, Ok(Wanted::Credentials)),
            (CredentialsRequest { path: "/", ..good }, Err(Refused::Path)),
            (CredentialsRequest { path: "/v1/credentials/", ..good }, Err(Refused::Path)),
            (CredentialsRequest { method: "POST", ..good }, Err(Refused::Method)),
            (CredentialsRequest { method: "HEAD", ..good }, Err(Refused::Method)),
            (CredentialsRequest { method: "OPTIONS", ..good }, Err(Refused::Method)),
            (CredentialsRequest { is_absolute: true, ..good }, Err(Refused::Absolute)),
            (CredentialsRequest { hosts: &[], ..good }, Err(Refused::Host)),
            (CredentialsRequest { hosts: &[b"evil"], ..good }, Err(Refused::Host)),
            (CredentialsRequest { hosts: &[b"evil:7413"], ..good }, Err(Refused::Host)),
            (CredentialsRequest { hosts: &[b"127.0.0.1.evil"], ..good }, Err(Refused::Host)),
            (CredentialsRequest { hosts: &[b"127.0.0.1:80"], ..good }, Err(Refused::Host)),
            (CredentialsRequest { hosts: &[b"127.0.0.1", b"evil"], ..good }, Err(Refused::Host)),
            (CredentialsRequest { authorizations: &[], ..good }, Err(Refused::Token)),
            (CredentialsRequest { authorizations: &[b""], ..good }, Err(Refused::Token)),
            (CredentialsRequest { authorizations: &[&bearer], ..good }, Err(Refused::Token)),
            (CredentialsRequest { authorizations: &[right, right], ..good }, Err(Refused::Token)),
            (CredentialsRequest { authorizations: &[], path: "/", ..good }, Err(Refused::Token)),
        ];
        for (asked, want) in cases {
            assert_eq!(asked.authorize(7413, &token), *want, "{asked:?}");
        }
    }

    #[test]
    fn the_body_has_the_format_of_all_sdks() {
        let credentials = Credentials {
            access_key_id: "ASIAEXAMPLE".to_owned(),
            secret_access_key: Secret::new("secret/\"".to_owned()),
            session_token: Secret::new("token==".to_owned()),
            expiration: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_999),
            asked: Duration::from_secs(3600),
        };
        let role = "arn:aws:iam::111122223333:role/r".parse().unwrap();
        assert_eq!(
            String::from_utf8(credentials_body(&credentials, &role).to_vec()).unwrap(),
            r#"{"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"secret/\"","Token":"token==","Expiration":"2026-01-01T00:00:00Z","AccountId":"111122223333"}"#,
        );
    }
}
