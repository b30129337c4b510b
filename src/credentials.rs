//! The session's credentials: how they are got, kept fresh and handed out.
//!
//! A value that leaves this room has not expired, and carries the session's SourceIdentity. A
//! secret leaves it only by [`Secret::expose`].

pub mod base;
pub mod cache;
mod denial;
mod failure;
mod secret;
pub mod sts;
pub mod token;
pub mod wire;

use std::time::{Duration, SystemTime};

pub use self::{
    denial::{Denial, denial},
    failure::{Failure, Reason},
    secret::Secret,
};

/// One set of session credentials, as STS issued it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Not a secret: CloudTrail shows it on each call.
    pub access_key_id: String,
    pub secret_access_key: Secret<String>,
    pub session_token: Secret<String>,
    pub expiration: SystemTime,
    /// The life that was asked for. They have no longer one, whatever a clock says.
    pub asked: Duration,
}

/// Whoever can make new credentials of the session.
pub trait Assume: Send + Sync + 'static {
    /// One try, bounded in time, with no retries of its own.
    fn assume(&self) -> impl Future<Output = Result<Credentials, Failure>> + Send;

    /// Says of which role and identity the credentials are that there are not.
    fn failure(&self, reason: Reason) -> Failure;
}

impl Credentials {
    /// How long they are good for at the wall clock's `now`.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.expiration.duration_since(now).unwrap_or_default()
    }
}
