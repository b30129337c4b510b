//! Session credentials: requested from STS, refreshed before they expire, served to the agent.
//!
//! Credentials that leave this module have not expired and carry the session's SourceIdentity. A
//! secret leaves it only through [`Secret::expose`].

mod assume_role_error;
pub mod base_provider;
pub mod cache;
mod denial;
pub mod issuer_client;
mod pod_token;
mod secret;
pub mod sts;
pub mod token;
pub mod web_identity;
pub mod wire;

use std::time::{Duration, SystemTime};

pub use self::{
    assume_role_error::{AssumeRoleError, Reason, RetryPace},
    denial::{Denial, denial},
    secret::Secret,
};

/// One set of session credentials, as STS issued it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Not a secret: CloudTrail records it with each call.
    pub access_key_id: String,
    pub secret_access_key: Secret<String>,
    pub session_token: Secret<String>,
    pub expiration: SystemTime,
    /// The requested lifetime. The credentials are never used for longer, even if a clock is wrong.
    pub asked: Duration,
}

/// A source of new session credentials.
pub trait Assume: Send + Sync + 'static {
    /// Requests credentials once, within a time limit and without retries.
    fn assume(&self) -> impl Future<Output = Result<Credentials, AssumeRoleError>> + Send;

    /// Returns whether this process is still in the pod of its session. Otherwise its credentials are
    /// dropped.
    fn is_in_same_pod(&self) -> bool {
        true
    }

    /// Returns a failure with this reason, and with the role and identity of the session.
    fn failure(&self, reason: Reason) -> AssumeRoleError;
}

impl Credentials {
    /// Returns the time until expiration at the wall-clock time `now`; zero if expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.expiration.duration_since(now).unwrap_or_default()
    }
}
