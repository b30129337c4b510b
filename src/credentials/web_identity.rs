//! Session credentials with a token of the session issuer: AssumeRoleWithWebIdentity.
//!
//! The issuer decides on role and SourceIdentity. The sidecar accepts only those of its environment,
//! which the webhook wrote.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sts::{
    Client, error::SdkError,
    operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};
use tokio::time::timeout;

use super::{
    Assume, AssumeRoleError, Credentials, Reason,
    denial::lacks_keys,
    issuer_client::{IssuedToken, IssuerClient},
    sts::{ErrorResponse, in_time, issued, one_call},
};
use crate::session::KnownSession;

/// Requests credentials of one session, with a token of the session issuer.
#[derive(Debug)]
pub struct WebIdentity {
    sts: Client,
    issuer: IssuerClient,
    session: KnownSession,
}

impl WebIdentity {
    /// Takes region, endpoint, FIPS and dual-stack from `config`. The calls are not signed.
    pub fn new(config: &SdkConfig, issuer: IssuerClient, session: KnownSession) -> Self {
        Self { sts: Client::new(&one_call(config)), issuer, session }
    }

    async fn assume_now(&self) -> Result<Credentials, Reason> {
        let token = timeout(ISSUER, self.issuer.token()).await;
        let late =
            |_| Reason::IssuerUnavailable { detail: format!("no response within {ISSUER:?}") };
        let IssuedToken { token, role, source_identity, role_session_name, duration_seconds } =
            token.map_err(late)??;
        let wanted = self.session.source_identity();
        for (what, found, wanted) in [
            ("role", &*role, self.session.role.as_str()),
            ("SourceIdentity", &*source_identity, wanted.as_str()),
        ] {
            if found != wanted {
                let found = found.to_owned();
                return Err(Reason::IssuerContradicts { what, found });
            }
        }
        let asked = Duration::from_secs(duration_seconds.into());
        let answer = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(self.session.role.as_str())
            .role_session_name(role_session_name)
            .web_identity_token(token.expose())
            .duration_seconds(i32::try_from(duration_seconds).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        if answer.source_identity() != Some(wanted.as_str()) {
            return Err(Reason::IdentityMissing);
        }
        issued(answer.credentials, asked)
    }
}

impl Assume for WebIdentity {
    async fn assume(&self) -> Result<Credentials, AssumeRoleError> {
        in_time(self.assume_now()).await.map_err(|reason| self.failure(reason))
    }

    fn failure(&self, reason: Reason) -> AssumeRoleError {
        AssumeRoleError::of(&self.session, reason)
    }
}

/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors>
fn failure(error: &SdkError<AssumeRoleWithWebIdentityError>) -> Reason {
    let response = match ErrorResponse::of(error) {
        Ok(response) => response,
        Err(reason) => return reason,
    };
    let ErrorResponse { code, detail, .. } = &response;
    let (code, detail) = (code.clone(), detail.clone());
    match &*code {
        "AccessDenied" | "AccessDeniedException" => Reason::WebIdentityDenied { detail },
        "ExpiredToken" | "ExpiredTokenException" => Reason::IssuedTokenExpired { detail },
        // STS could not get the public keys of the issuer; this may be temporary.
        "IDPCommunicationError" => Reason::IssuerKeysUnavailable { detail },
        "InvalidIdentityToken" | "InvalidIdentityTokenException" if lacks_keys(&detail) => {
            Reason::IssuerKeysUnavailable { detail }
        }
        "IDPRejectedClaim"
        | "IDPRejectedClaimException"
        | "InvalidIdentityToken"
        | "InvalidIdentityTokenException" => Reason::IssuedTokenRefused { code, detail },
        "PackedPolicyTooLarge" | "PackedPolicyTooLargeException" => Reason::TagsTooLarge { detail },
        _ => response.other(),
    }
}

/// Time limit for the token of the issuer, including DNS and TLS.
const ISSUER: Duration = Duration::from_secs(7);
