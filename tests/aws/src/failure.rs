//! Errors of AWS: a code and a message, in the format of the service's protocol.

use bytes::Bytes;
use http::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::json;

/// An error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) sentence: String,
}

/// The common error codes of the services, and those of STS.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Code {
    AccessDenied,
    ExpiredToken,
    /// The token of an identity provider is expired, not credentials.
    ExpiredWebIdentity,
    IdpCommunicationError,
    IncompleteSignature,
    InternalFailure,
    InvalidAction,
    InvalidClientTokenId,
    InvalidIdentityToken,
    InvalidParameterValue,
    MissingAuthenticationToken,
    /// AWS supports this; the AWS stand-in does not.
    NotImplemented,
    PackedPolicyTooLarge,
    SignatureDoesNotMatch,
    Throttling,
    ValidationError,
}

/// The format of a service's errors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    /// JSON with `__type`, as in SSM and Bedrock.
    Json,
    /// XML, as in STS.
    Query,
}

impl Failure {
    pub(crate) fn new(code: Code, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }

    pub(crate) fn response(&self, protocol: Protocol, request_id: &str) -> Response<Bytes> {
        let status = self.code.status();
        let code = self.code.name(protocol);
        let mut response = match protocol {
            Protocol::Json => {
                let body = json!({"__type": code, "message": self.sentence}).to_string();
                answer(status, "application/x-amz-json-1.1", body)
            }
            Protocol::Query => {
                let fault = if status.is_server_error() { "Receiver" } else { "Sender" };
                let sentence = escaped(&self.sentence);
                answer(
                    status,
                    "text/xml",
                    format!(
                        "<ErrorResponse xmlns=\"{NAMESPACE}\">\n  <Error>\n    \
                         <Type>{fault}</Type>\n    <Code>{code}</Code>\n    \
                         <Message>{sentence}</Message>\n  </Error>\n  \
                         <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n"
                    ),
                )
            }
        };
        if let Ok(id) = request_id.parse() {
            response.headers_mut().insert("x-amzn-requestid", id);
        }
        response
    }
}

impl Code {
    /// Returns the code for a JSON service; some codes differ there.
    /// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/CommonErrors.html>
    pub(crate) fn name(self, protocol: Protocol) -> &'static str {
        match (self, protocol) {
            (Self::AccessDenied, Protocol::Json) => "AccessDeniedException",
            (Self::AccessDenied, Protocol::Query) => "AccessDenied",
            (Self::ExpiredToken, Protocol::Json) | (Self::ExpiredWebIdentity, _) => {
                "ExpiredTokenException"
            }
            (Self::ExpiredToken, Protocol::Query) => "ExpiredToken",
            (Self::IdpCommunicationError, _) => "IDPCommunicationError",
            (Self::IncompleteSignature, Protocol::Json) => "IncompleteSignatureException",
            (Self::IncompleteSignature, Protocol::Query) => "IncompleteSignature",
            (Self::InternalFailure, _) => "InternalFailure",
            (Self::InvalidAction, _) => "InvalidAction",
            (Self::InvalidClientTokenId, Protocol::Json) => "UnrecognizedClientException",
            (Self::InvalidClientTokenId, Protocol::Query) => "InvalidClientTokenId",
            (Self::InvalidIdentityToken, _) => "InvalidIdentityToken",
            (Self::InvalidParameterValue, _) => "InvalidParameterValue",
            (Self::MissingAuthenticationToken, Protocol::Json) => {
                "MissingAuthenticationTokenException"
            }
            (Self::MissingAuthenticationToken, Protocol::Query) => "MissingAuthenticationToken",
            (Self::NotImplemented, _) => "NotImplementedHere",
            (Self::PackedPolicyTooLarge, _) => "PackedPolicyTooLarge",
            (Self::SignatureDoesNotMatch, Protocol::Json) => "InvalidSignatureException",
            (Self::SignatureDoesNotMatch, Protocol::Query) => "SignatureDoesNotMatch",
            (Self::Throttling, _) => "ThrottlingException",
            (Self::ValidationError, Protocol::Json) => "ValidationException",
            (Self::ValidationError, Protocol::Query) => "ValidationError",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::AccessDenied
            | Self::ExpiredToken
            | Self::InvalidClientTokenId
            | Self::MissingAuthenticationToken
            | Self::SignatureDoesNotMatch => StatusCode::FORBIDDEN,
            Self::ExpiredWebIdentity
            | Self::IdpCommunicationError
            | Self::IncompleteSignature
            | Self::InvalidAction
            | Self::InvalidIdentityToken
            | Self::InvalidParameterValue
            | Self::PackedPolicyTooLarge
            | Self::Throttling
            | Self::ValidationError => StatusCode::BAD_REQUEST,
            Self::InternalFailure => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        }
    }
}

pub(crate) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// Returns text escaped for XML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(crate) const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_format_of_its_protocol() {
        let failure = Failure::new(Code::ExpiredToken, "a < b");
        let cases = [
            (Protocol::Json, "\"__type\":\"ExpiredTokenException\""),
            (Protocol::Query, "<Code>ExpiredToken</Code>\n    <Message>a &lt; b</Message>"),
        ];
        for (protocol, want) in cases {
            let response = failure.response(protocol, "an-id");
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!(response.headers()["x-amzn-requestid"], "an-id");
            let body = String::from_utf8_lossy(response.body());
            assert!(body.contains(want), "{body}");
        }
    }
}
