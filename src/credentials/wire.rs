//! The container credentials protocol, as AWS SDKs speak it: who may ask, and what is answered.
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::{net::Ipv4Addr, time::SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Credentials, token::Token};
use crate::session::{RoleArn, env::CREDENTIALS_PATH};

/// What of a request decides about it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The values of `Authorization`.
    pub authorizations: &'a [&'a [u8]],
    /// The values of `Host`.
    pub hosts: &'a [&'a [u8]],
    /// The request's target names a host itself, as a request to a proxy does.
    pub is_absolute: bool,
    pub method: &'a str,
    pub path: &'a str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    Credentials,
    Status,
}

/// Why a request gets nothing. The order is that in which a request is judged: who has no
/// token learns nothing of what there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Refused {
    /// A proxy is asked, which this is not.
    Absolute,
    /// The name by which a page or a prompt reached loopback, after its DNS answer changed.
    Host,
    Method,
    Path,
    Token,
}

impl Asked<'_> {
    pub fn judge(&self, port: u16, token: &Token) -> Result<Wanted, Refused> {
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
            STATUS_PATH => Ok(Wanted::Status),
            _ => Err(Refused::Path),
        }
    }
}

/// The SDK of the C runtime leaves the port away.
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

    /// None that an SDK tries again: nothing will be different. Not 404, which some take for
    /// an endpoint of another kind.
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
            Self::Absolute => "this is no proxy: add 127.0.0.1 to NO_PROXY and no_proxy",
            Self::Host => "the Host header must be 127.0.0.1, localhost or [::1]",
            Self::Method => "only GET is answered",
            Self::Path => "there is nothing at this path",
            Self::Token => {
                "the Authorization header must be the content of the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names"
            }
        }
    }
}

/// The 200 answer. `Expiration` is UTC with a `Z`, which all SDKs read.
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
    // With room for all of it, so that no shorter copy stays behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST));
    // Text and numbers always become JSON.
    let _ = serde_json::to_writer(&mut *bytes, &body);
    bytes
}

/// The same twice, since SDKs differ in how they spell the keys.
pub fn error_body(code: &str, message: &str) -> Vec<u8> {
    serde_json::json!({"code": code, "message": message, "Code": code, "Message": message})
        .to_string()
        .into_bytes()
}

/// What `/v1/status` answers; it holds no secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub source_identity: String,
    pub role_arn: String,
    /// Of the credentials that are served now; none: there are none.
    pub access_key_id: Option<String>,
    pub expiration: Option<String>,
    pub remaining_seconds: u64,
    pub last_error: Option<LastError>,
    /// How often STS was asked, and how often in vain.
    pub assumed: u64,
    pub failures: u64,
    /// Requests that were answered with credentials, that there were none for, and that were
    /// refused, by code.
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

/// RFC 3339 to the second before.
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

pub const STATUS_PATH: &str = "/v1/status";
/// The C runtime's SDK reads no longer answer.
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
    fn only_a_local_get_with_the_token_gets_an_answer() {
        let token = token();
        let right = token.expose().as_bytes();
        let hosts: &[&[u8]] = &[b"127.0.0.1:7413"];
        let good = Asked {
            authorizations: &[right],
            hosts,
            is_absolute: false,
            method: "GET",
            path: CREDENTIALS_PATH,
        };
        let bearer = [b"Bearer ", right].concat();
        let cases: &[(Asked<'_>, _)] = &[
            (good, Ok(Wanted::Credentials)),
            (Asked { path: STATUS_PATH, ..good }, Ok(Wanted::Status)),
            (Asked { hosts: &[b"127.0.0.1"], ..good }, Ok(Wanted::Credentials)),
            (Asked { hosts: &[b"LOCALHOST:7413"], ..good }, Ok(Wanted::Credentials)),
            (Asked { hosts: &[b"[::1]"], ..good }, Ok(Wanted::Credentials)),
            (Asked { path: "/", ..good }, Err(Refused::Path)),
            (Asked { path: "/v1/credentials/", ..good }, Err(Refused::Path)),
            (Asked { method: "POST", ..good }, Err(Refused::Method)),
            (Asked { method: "HEAD", ..good }, Err(Refused::Method)),
            (Asked { method: "OPTIONS", ..good }, Err(Refused::Method)),
            (Asked { is_absolute: true, ..good }, Err(Refused::Absolute)),
            (Asked { hosts: &[], ..good }, Err(Refused::Host)),
            (Asked { hosts: &[b"evil"], ..good }, Err(Refused::Host)),
            (Asked { hosts: &[b"evil:7413"], ..good }, Err(Refused::Host)),
            (Asked { hosts: &[b"127.0.0.1.evil"], ..good }, Err(Refused::Host)),
            (Asked { hosts: &[b"127.0.0.1:80"], ..good }, Err(Refused::Host)),
            (Asked { hosts: &[b"127.0.0.1", b"evil"], ..good }, Err(Refused::Host)),
            (Asked { authorizations: &[], ..good }, Err(Refused::Token)),
            (Asked { authorizations: &[b""], ..good }, Err(Refused::Token)),
            (Asked { authorizations: &[&bearer], ..good }, Err(Refused::Token)),
            (Asked { authorizations: &[right, right], ..good }, Err(Refused::Token)),
            (Asked { authorizations: &[], path: "/", ..good }, Err(Refused::Token)),
        ];
        for (asked, want) in cases {
            assert_eq!(asked.judge(7413, &token), *want, "{asked:?}");
        }
    }

    #[test]
    fn a_body_is_what_every_sdk_reads() {
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
