//! Changes of the policy of revoked sessions.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{Inline, Revoked, SKEW, TooLong, inline::RESERVE, whole_seconds};
use crate::session::{SessionName, SourceIdentity};

/// A change. It can be made again on a policy that changed meanwhile, and has no effect the second
/// time.
#[derive(Clone, Debug)]
pub enum Change {
    /// Removes entries that have no effect any more.
    Prune {
        present: PresentSessions,
        now: Timestamp,
        /// The role's maximum session duration.
        longest: SignedDuration,
    },
    Revoke(Revoked),
}

/// The sessions that may get new credentials.
#[derive(Clone, Debug, Default)]
pub struct PresentSessions {
    /// Those with a pod in the cluster.
    pub of_pods: BTreeSet<SourceIdentity>,
    /// UIDs of SandboxClaims. Their pods come and go, and do not name the session.
    pub of_claims: BTreeSet<SessionName>,
}

/// The next call of IAM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    Delete,
    Nothing,
    /// Writes the document.
    Put(String),
}

impl PresentSessions {
    fn contains(&self, identity: &SourceIdentity) -> bool {
        self.of_pods.contains(identity)
            || identity.session().is_some_and(|session| self.of_claims.contains(&session))
    }
}

impl Change {
    /// Returns the call that makes this change on the policy.
    pub fn next(&self, inline: &Inline) -> Result<Next, TooLong> {
        let old = &inline.revoked;
        let (mut new, reserve) = match self {
            Self::Prune { present, now, longest } => (pruned(old, present, *now, *longest), 0),
            Self::Revoke(revoked) => (old.clone().with(revoked), RESERVE),
        };
        if new == *old {
            return Ok(Next::Nothing);
        }
        if new.is_empty() {
            return Ok(Next::Delete);
        }
        match (self, inline.fit(&new, reserve)) {
            (Self::Prune { now, .. }, Err(_)) => {
                // Each time of a mark is one statement. A later time only keeps entries longer.
                let marks = new.sessions.values_mut().filter(|gone| gone.is_some());
                marks.for_each(|gone| *gone = Some(whole_seconds(*now)));
                inline.fit(&new, reserve).map(Next::Put)
            }
            (_, fits) => fits.map(Next::Put),
        }
    }
}

impl Revoked {
    /// Returns both. A session that is revoked again has no mark, because it may have a new pod. Of
    /// two times, the later one denies all that the other one denies.
    fn with(mut self, other: &Self) -> Self {
        self.sessions.extend(other.sessions.clone());
        self.issued_before = self.issued_before.max(other.issued_before);
        self
    }
}

/// Returns the entries that still have an effect.
///
/// A pod that was there shortly before its mark may have got credentials of the maximum duration
/// just then. While a pod is there, its sidecar gets new credentials, so the entry stays.
fn pruned(
    old: &Revoked,
    present: &PresentSessions,
    now: Timestamp,
    longest: SignedDuration,
) -> Revoked {
    let now = whole_seconds(now);
    let has_ended = |last: Timestamp| now.duration_since(last) > longest + SKEW;
    let sessions = old.sessions.iter().filter_map(|(identity, gone)| {
        let gone = match gone {
            _ if present.contains(identity) => None,
            Some(gone) if has_ended(*gone) => return None,
            gone => Some(gone.unwrap_or(now)),
        };
        Some((identity.clone(), gone))
    });
    Revoked {
        sessions: sessions.collect(),
        issued_before: old.issued_before.filter(|time| !has_ended(*time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{LIMIT, POLICY_NAME};

    const NOW: &str = "2026-11-24T12:00:00Z";
    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn names(names: &[&str]) -> BTreeSet<SourceIdentity> {
        names.iter().map(|name| format!("agent.acme.{name}").parse().unwrap()).collect()
    }

    fn revoked(entries: &[(&str, Option<&str>)]) -> Revoked {
        let entry = |(name, gone): &(&str, Option<&str>)| {
            (format!("agent.acme.{name}").parse().unwrap(), gone.map(time))
        };
        Revoked { sessions: entries.iter().map(entry).collect(), issued_before: None }
    }

    /// Returns the policy after the change, with other policies of this length.
    fn after(old: &Revoked, change: &Change, others: usize) -> Result<Revoked, TooLong> {
        let own = old.document().to_string();
        let own = Some((POLICY_NAME, &*own)).filter(|_| !old.is_empty());
        let other = "x".repeat(others);
        let inline = Inline::read(own.into_iter().chain([("other", &*other)])).unwrap();
        Ok(match change.next(&inline)? {
            Next::Delete => Revoked::default(),
            Next::Nothing => old.clone(),
            Next::Put(document) => Inline::read([(POLICY_NAME, &*document)]).unwrap().revoked,
        })
    }

    fn pods(present: &[&str]) -> PresentSessions {
        PresentSessions { of_pods: names(present), of_claims: BTreeSet::new() }
    }

    fn prune(present: &[&str], now: &str) -> Change {
        Change::Prune { present: pods(present), now: time(now), longest: HOUR }
    }

    #[test]
    fn a_revocation_adds_and_the_second_one_changes_nothing() {
        let gone = "2026-11-24T11:00:00Z";
        let old = revoked(&[("a", None), ("b", Some(gone)), ("c", Some(gone))]);
        let mut change = Revoked::of(&names(&["b", "d"]), Some(time("2026-11-24T09:00:00Z")));
        let new = after(&old, &Change::Revoke(change.clone()), 0).unwrap();
        let mut want = revoked(&[("a", None), ("b", None), ("c", Some(gone)), ("d", None)]);
        want.issued_before = change.issued_before;
        assert_eq!(new, want);
        assert_eq!(after(&new, &Change::Revoke(change.clone()), 0).unwrap(), want);
        // The later time denies more.
        change.issued_before = Some(time("2026-11-24T08:00:00Z"));
        assert_eq!(after(&new, &Change::Revoke(change.clone()), 0).unwrap(), want);
        change.issued_before = Some(time("2026-11-24T10:00:00Z"));
        want.issued_before = change.issued_before;
        assert_eq!(after(&new, &Change::Revoke(change), 0).unwrap(), want);
    }

    #[test]
    fn an_entry_goes_only_after_pod_and_longest_session() {
        let old = revoked(&[("a", None), ("b", None)]);
        let marked = after(&old, &prune(&["a"], NOW), 0).unwrap();
        assert_eq!(marked, revoked(&[("a", None), ("b", Some(NOW))]));
        for (now, present, want) in [
            // Not before one hour and the difference of two clocks.
            ("2026-11-24T13:10:00Z", ["a"], revoked(&[("a", None), ("b", Some(NOW))])),
            ("2026-11-24T13:10:01Z", ["a"], revoked(&[("a", None)])),
            // A pod with the session's name was created meanwhile.
            (
                "2026-11-24T13:10:01Z",
                ["b"],
                revoked(&[("a", Some("2026-11-24T13:10:01Z")), ("b", None)]),
            ),
            // This clock is behind the other one.
            ("2026-11-24T11:00:00Z", ["a"], revoked(&[("a", None), ("b", Some(NOW))])),
        ] {
            assert_eq!(
                after(&marked, &prune(&present, now), 0).unwrap(),
                want,
                "{now} {present:?}"
            );
        }
        // A claim has the session's name, with or without a pod.
        let uid = "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
        let of_claims = [uid.parse().unwrap()].into();
        let present = PresentSessions { of_claims, ..pods(&[]) };
        let claimed = Change::Prune { present, now: time("2026-11-24T14:00:00Z"), longest: HOUR };
        assert_eq!(
            after(&revoked(&[(uid, Some(NOW)), ("b", Some(NOW))]), &claimed, 0).unwrap(),
            revoked(&[(uid, None)])
        );
        let last = revoked(&[("b", Some(NOW))]);
        assert!(after(&last, &prune(&[], "2026-11-24T14:00:00Z"), 0).unwrap().is_empty());
        // A role with longer sessions.
        let longer = Change::Prune {
            present: pods(&[]),
            now: time("2026-11-24T23:00:00Z"),
            longest: SignedDuration::from_hours(12),
        };
        assert_eq!(after(&last, &longer, 0).unwrap(), last);
    }

    #[test]
    fn a_time_goes_after_the_longest_session() {
        let old = Revoked::of(&BTreeSet::new(), Some(time(NOW)));
        assert_eq!(after(&old, &prune(&[], "2026-11-24T13:10:00Z"), 0).unwrap(), old);
        assert!(after(&old, &prune(&[], "2026-11-24T13:10:01Z"), 0).unwrap().is_empty());
    }

    #[test]
    fn a_full_policy_is_an_error_and_can_be_pruned() {
        let all: Vec<String> = (0..200).map(|index| format!("{index:053}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let many = |count: usize| Change::Revoke(Revoked::of(&names(&all[..count]), None));
        let mut full = Revoked::default();
        let fits = (0..200).take_while(|count| {
            after(&Revoked::default(), &many(*count), 1000).map(|new| full = new).is_ok()
        });
        let fits = fits.count() - 1;
        let refused = after(&full, &many(fits + 1), 1000).unwrap_err();
        assert!(refused.needed > LIMIT && refused.others == 1000, "{refused:?}");

        // Each of these marks would be a statement of its own.
        for (index, gone) in full.sessions.values_mut().enumerate() {
            *gone = (index % 2 == 0).then(|| time(NOW));
        }
        let marked = after(&full, &prune(&[], "2026-11-24T12:30:00Z"), 1000).unwrap();
        let marks: BTreeSet<_> = marked.sessions.values().collect();
        assert_eq!(marks, [&Some(time("2026-11-24T12:30:00Z"))].into());
        assert_eq!(marked.sessions.len(), fits);
    }
}
