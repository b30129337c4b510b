//! Revoked sessions of a role: the inline policy that denies their calls, and the changes of it.
//!
//! Does no I/O. The policy is the only record: a session is revoked while its SourceIdentity is in
//! it, whatever credentials the session gets.

mod change;
mod document;
mod inline;
mod older_than;
mod pod;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};

pub use self::{
    change::{Change, Next, PresentSessions},
    inline::{Inline, NotOurs, TooLong},
    older_than::{NotATime, OlderThan},
    pod::{session_of, tenant_of_unbound},
};
use crate::session::{SessionId, SessionName, SourceIdentity, TenantName};

/// The content of the policy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Revoked {
    /// The revoked sessions. The time is when `--prune` first found no pod of the session.
    pub sessions: BTreeMap<SourceIdentity, Option<Timestamp>>,
    /// All credentials of the role that were issued before this time are revoked.
    pub issued_before: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the tenant's name leaves {0} characters of a SourceIdentity, so no session has this name")]
pub struct DoesNotFit(usize);

impl Revoked {
    /// Returns the revocation of these sessions.
    pub fn of(sessions: &BTreeSet<SourceIdentity>, issued_before: Option<Timestamp>) -> Self {
        Self { sessions: sessions.iter().map(|it| (it.clone(), None)).collect(), issued_before }
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.issued_before.is_none()
    }
}

/// Returns the SourceIdentity of a session.
pub fn identity(tenant: &TenantName, session: &SessionName) -> Result<SourceIdentity, DoesNotFit> {
    let length = tenant.remaining_length();
    // A name that is not cut may be that of a pod, which is shorter than one of a trusted creator.
    if session.as_str().len() > length && !SessionId::Known(session.clone()).fits(tenant) {
        return Err(DoesNotFit(length));
    }
    Ok(SourceIdentity::of(tenant, session))
}

/// Rounds up to whole seconds, the precision of times in a policy: a later time denies more and
/// keeps an entry longer.
fn whole_seconds(time: Timestamp) -> Timestamp {
    let round = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
    // Fails only at the end of the range, thousands of years from now.
    time.round(round).unwrap_or(time)
}

/// Name of the inline policy. Policies of other names are never changed.
pub const POLICY_NAME: &str = "fab-session-injector-revoked";

/// Maximum number of characters of all inline policies of a role together, without white space.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
pub const LIMIT: usize = 10_240;

/// Maximum difference between two clocks whose signed requests AWS accepts: each may be five
/// minutes wrong.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>
const SKEW: SignedDuration = SignedDuration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_name_gives_the_source_identity_of_its_pod() {
        let of = |tenant: &str, session: &str| {
            let (tenant, session) = (tenant.parse().unwrap(), session.parse().unwrap());
            identity(&tenant, &session).map(|identity| identity.to_string())
        };
        assert_eq!(of("acme", "fab-coder-x7k2p"), Ok("agent.acme.fab-coder-x7k2p".to_owned()));
        // 57 - 46 characters are too few for a name that is cut.
        let long = "t".repeat(46);
        assert_eq!(of(&long, "eleven-char"), Ok(format!("agent.{long}.eleven-char")));
        assert_eq!(of(&long, "twelve-chars"), Err(DoesNotFit(11)));
        let cut = of("acme", &"s".repeat(60)).unwrap();
        assert_eq!(cut.len(), 64);
        assert!(cut.starts_with("agent.acme.sss"), "{cut}");
    }
}
