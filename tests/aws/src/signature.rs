//! Signature Version 4: authenticates the caller by a signature computed from the request.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Identity;
use aws_sigv4::{
    http_request::{
        PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use bytes::Bytes;
use http::{HeaderMap, Request, header::AUTHORIZATION, header::HOST};

use crate::{
    failure::{Code, Failure},
    moment,
    session::Credentials,
};

/// The fields of an Authorization header.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) access_key_id: String,
    pub(crate) region: String,
    pub(crate) service: String,
    date: String,
    signed_headers: Vec<String>,
    signature: String,
}

impl Signature {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Failure> {
        let header = headers.get(AUTHORIZATION).ok_or_else(|| {
            Failure::new(
                Code::MissingAuthenticationToken,
                "Request is missing Authentication Token",
            )
        })?;
        let header = header.to_str().unwrap_or_default();
        let incomplete = |what: &str| {
            Failure::new(Code::IncompleteSignature, format!("{what} Authorization={header}"))
        };
        let fields = header.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| {
            incomplete("Authorization header requires the algorithm AWS4-HMAC-SHA256.")
        })?;
        let field = |name: &str| {
            let found = fields.split(',').find_map(|field| field.trim().strip_prefix(name));
            found.and_then(|rest| rest.strip_prefix('=')).ok_or_else(|| {
                incomplete(&format!("Authorization header requires '{name}' parameter."))
            })
        };
        let credential: Vec<&str> = field("Credential")?.split('/').collect();
        let [access_key_id, date, region, service, "aws4_request"] = credential[..] else {
            return Err(incomplete(
                "Credential must have exactly 5 slash-delimited elements, the last aws4_request.",
            ));
        };
        let signed_headers = field("SignedHeaders")?.split(';').map(str::to_owned).collect();
        Ok(Self {
            access_key_id: access_key_id.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            date: date.to_owned(),
            signed_headers,
            signature: field("Signature")?.to_owned(),
        })
    }

    /// Checks that `credentials` signed the request, at this time. The expiry is checked last, so
    /// that only a caller with the secret learns of it.
    pub(crate) fn verify(
        &self,
        request: &Request<Bytes>,
        credentials: &Credentials,
        region: &str,
        service: &str,
        now: SystemTime,
    ) -> Result<(), Failure> {
        // Temporary credentials need the session token as well.
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_use-resources.html
        let token = request.headers().get("x-amz-security-token");
        if token.is_none_or(|token| token.as_bytes() != credentials.session_token.as_bytes()) {
            return Err(invalid_client_token_id());
        }
        let signed_at = self.signed_at(request.headers())?;
        check_skew(signed_at, now)?;
        self.check_scope(signed_at, region, service)?;
        self.check_signed_headers(request.headers())?;
        if self.recompute(request, credentials, signed_at).as_deref() != Some(&self.signature) {
            return Err(mismatch(
                "The request signature we calculated does not match the signature you provided. \
                 Check your AWS Secret Access Key and signing method. Consult the service \
                 documentation for details.",
            ));
        }
        if credentials.expiration <= now {
            return Err(Failure::new(
                Code::ExpiredToken,
                "The security token included in the request is expired",
            ));
        }
        Ok(())
    }

    fn signed_at(&self, headers: &HeaderMap) -> Result<SystemTime, Failure> {
        let date =
            headers.get("x-amz-date").and_then(|date| date.to_str().ok()).ok_or_else(|| {
                Failure::new(
                    Code::IncompleteSignature,
                    "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' \
                 header.",
                )
            })?;
        moment::from_basic(date).ok_or_else(|| {
            Failure::new(
                Code::IncompleteSignature,
                format!(
                    "Date must be in ISO-8601 'basic format'. Got '{date}'. See \
                     http://en.wikipedia.org/wiki/ISO_8601"
                ),
            )
        })
    }

    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html#signature-v4-troubleshooting-credential-scope>
    fn check_scope(
        &self,
        signed_at: SystemTime,
        region: &str,
        service: &str,
    ) -> Result<(), Failure> {
        let at = moment::basic(signed_at);
        let day = at.get(..8).unwrap_or_default();
        let mut broken = String::new();
        if self.date != day {
            broken += &format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date \
                 from HTTP: '{}' != '{day}', from '{at}'. ",
                self.date
            );
        }
        if self.region != region {
            broken += "Credential should be scoped to a valid region. ";
        }
        if self.service != service {
            broken += &format!("Credential should be scoped to correct service: '{service}'. ");
        }
        if broken.is_empty() { Ok(()) } else { Err(mismatch(broken)) }
    }

    /// Checks that the host and all `x-amz-` headers are signed.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html#create-canonical-request>
    fn check_signed_headers(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let unsigned = headers
            .keys()
            .map(http::HeaderName::as_str)
            .filter(|name| *name == HOST.as_str() || name.starts_with("x-amz-"))
            .find(|name| !self.signed_headers.iter().any(|signed| signed == name));
        let missing = self.signed_headers.iter().find(|name| !headers.contains_key(name.as_str()));
        let host = Some("host").filter(|_| !headers.contains_key(HOST));
        match host.or(unsigned).or(missing.map(String::as_str)) {
            None => Ok(()),
            Some(name) => Err(mismatch(format!(
                "'{name}' must be a 'SignedHeader' in the AWS Authorization."
            ))),
        }
    }

    /// Returns the expected signature, or None if the request cannot be signed.
    fn recompute(
        &self,
        request: &Request<Bytes>,
        credentials: &Credentials,
        signed_at: SystemTime,
    ) -> Option<String> {
        let host = request.headers().get(HOST)?.to_str().ok()?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://{host}{path}");
        let mut headers = Vec::new();
        for name in self.signed_headers.iter().filter(|name| !ADDED.contains(&name.as_str())) {
            for value in request.headers().get_all(name) {
                headers.push((name.as_str(), value.to_str().ok()?));
            }
        }
        let unsigned = request.headers().get("x-amz-content-sha256");
        let body = match unsigned.map(|value| value.as_bytes()) {
            Some(b"UNSIGNED-PAYLOAD") => SignableBody::UnsignedPayload,
            _ => SignableBody::Bytes(request.body()),
        };
        let signable =
            SignableRequest::new(request.method().as_str(), uri, headers.into_iter(), body).ok()?;
        let identity = Identity::new(
            &credentials.access_key_id,
            &credentials.secret_access_key,
            Some(credentials.session_token.clone()),
            None,
            "strict-aws",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.excluded_headers = None;
        if self.service == "s3" {
            // S3 does not normalise paths.
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(signed_at)
            .settings(settings)
            .build()
            .ok()?;
        let output = sign(signable, &parameters.into()).ok()?;
        Some(output.signature().to_owned())
    }
}

pub(crate) fn invalid_client_token_id() -> Failure {
    Failure::new(
        Code::InvalidClientTokenId,
        "The security token included in the request is invalid.",
    )
}

/// Checks that the request arrives within five minutes of its date.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html#signature-v4-troubleshooting-signature-expiration>
fn check_skew(signed_at: SystemTime, now: SystemTime) -> Result<(), Failure> {
    let (at, basic) = (moment::basic(signed_at), moment::basic(now));
    let earliest = now.checked_sub(SKEW).unwrap_or(SystemTime::UNIX_EPOCH);
    let latest = now.checked_add(SKEW).unwrap_or(now);
    if signed_at < earliest {
        let earliest = moment::basic(earliest);
        return Err(mismatch(format!(
            "Signature expired: {at} is now earlier than {earliest} ({basic} - 5 min.)"
        )));
    }
    if signed_at > latest {
        let latest = moment::basic(latest);
        return Err(mismatch(format!(
            "Signature not yet current: {at} is still later than {latest} ({basic} + 5 min.)"
        )));
    }
    Ok(())
}

fn mismatch(sentence: impl Into<String>) -> Failure {
    Failure::new(Code::SignatureDoesNotMatch, sentence)
}

/// Signed headers that the signer adds itself.
const ADDED: [&str; 2] = ["x-amz-date", "x-amz-security-token"];

const SKEW: Duration = Duration::from_secs(5 * 60);
