//! Session credentials with a token of the session issuer: AssumeRoleWithWebIdentity.
//!
//! The issuer decides on role and SourceIdentity. The sidecar accepts only those of its environment,
//! which the webhook wrote. If the environment names no session yet, the issuer may wait with its
//! answer, and the sidecar accepts the first SourceIdentity of its tenant, and no other afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_sts::{
    Client, error::SdkError,
    operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};
use tokio::time::{Instant, timeout};

use super::{
    Assume, AssumeRoleError, Credentials, Reason,
    denial::lacks_keys,
    issuer_client::{IssuedToken, IssuerClient},
    sts::{ErrorResponse, in_time, issued, one_call},
};
use crate::session::SidecarSession;

/// Requests credentials of one session, with a token of the session issuer.
#[derive(Debug)]
pub struct WebIdentity {
    sts: Client,
    issuer: IssuerClient,
    session: Arc<SidecarSession>,
    /// Whether the issuer has said that the session has no name yet.
    waits: AtomicBool,
}

impl WebIdentity {
    /// Takes region, endpoint, FIPS and dual-stack from `config`. The calls are not signed.
    pub fn new(config: &SdkConfig, issuer: IssuerClient, session: Arc<SidecarSession>) -> Self {
        let sts = Client::new(&one_call(config));
        Self { sts, issuer, session, waits: AtomicBool::new(false) }
    }

    /// Returns how long the issuer may wait for the session's name. The first request does not wait,
    /// so that the agent learns at once why there are no credentials.
    fn wait(&self) -> Option<Duration> {
        let waits = self.waits.load(Ordering::Relaxed);
        let wait = if waits { WAIT } else { Duration::ZERO };
        self.session.bound().is_none().then_some(wait)
    }

    async fn assume_now(&self, wait: Option<Duration>) -> Result<Credentials, Reason> {
        let limit = ISSUER + wait.unwrap_or_default();
        let asked = Instant::now();
        let token = timeout(limit, self.issuer.token(wait)).await;
        let late =
            |_| Reason::IssuerUnavailable { detail: format!("no response within {limit:?}") };
        let IssuedToken { token, role, source_identity, role_session_name, duration_seconds } =
            match token.map_err(late)? {
                Err(Reason::NotBound { .. }) => {
                    self.waits.store(true, Ordering::Relaxed);
                    let waited = asked.elapsed() * 2 >= wait.unwrap_or_default();
                    return Err(Reason::NotBound { waited });
                }
                token => token?,
            };
        let contradicts = |what, found| Err(Reason::IssuerContradicts { what, found });
        if *role != *self.session.role().as_str() {
            return contradicts("role", role);
        }
        let was_bound = self.session.bound().is_some();
        let Some(identity) = self.session.accept(&source_identity) else {
            return contradicts("SourceIdentity", source_identity);
        };
        if !was_bound {
            tracing::info!(source_identity = identity.as_str(), "the session is bound");
        }
        let lifetime = Duration::from_secs(duration_seconds.into());
        let answer = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(self.session.role().as_str())
            .role_session_name(role_session_name)
            .web_identity_token(token.expose())
            .duration_seconds(i32::try_from(duration_seconds).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        if answer.source_identity() != Some(identity.as_str()) {
            return Err(Reason::IdentityMissing);
        }
        issued(answer.credentials, lifetime)
    }
}

impl Assume for WebIdentity {
    async fn assume(&self) -> Result<Credentials, AssumeRoleError> {
        let wait = self.wait();
        let credentials = in_time(wait.unwrap_or_default(), self.assume_now(wait)).await;
        credentials.map_err(|reason| self.failure(reason))
    }

    fn is_in_same_pod(&self) -> bool {
        self.issuer.is_in_same_pod()
    }

    fn failure(&self, reason: Reason) -> AssumeRoleError {
        let identity = self.session.identity_for_people();
        AssumeRoleError { role: self.session.role().clone(), identity, reason }
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
/// How long the issuer may wait for the name of a session. The pod that waits has one connection to
/// the issuer.
const WAIT: Duration = Duration::from_secs(30);
