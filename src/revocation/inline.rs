//! The inline policies of a role, and their size.

use serde_json::Value;

use super::{LIMIT, POLICY_NAME, Revoked};

/// The inline policies of a role.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inline {
    /// Empty if the role has no policy of the name [`POLICY_NAME`].
    pub revoked: Revoked,
    /// Number of characters of the policy of revoked sessions.
    own: usize,
    /// Number of characters of the other policies.
    others: usize,
}

/// The policy has another form. It is never changed: a part of it could be lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "its inline policy {POLICY_NAME} does not have the form that revoke writes: restore the policy, or copy it to another name and delete it"
)]
pub struct NotOurs;

/// The policies do not fit into the role.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "its inline policies would have {needed} characters, and IAM accepts {LIMIT}; its other policies have {others}: run revoke --prune, or revoke all older credentials with --older-than, or replace other inline policies by managed ones"
)]
pub struct TooLong {
    pub needed: usize,
    pub others: usize,
}

impl Inline {
    /// Reads the policies, by name. Documents are as IAM stores them, without URL encoding.
    pub fn read<'p>(
        policies: impl IntoIterator<Item = (&'p str, &'p str)>,
    ) -> Result<Self, NotOurs> {
        let mut inline = Self { revoked: Revoked::default(), own: 0, others: 0 };
        for (name, document) in policies {
            if name == POLICY_NAME {
                inline.own = characters(document);
                let document: Value = serde_json::from_str(document).map_err(|_| NotOurs)?;
                inline.revoked = Revoked::read(&document).ok_or(NotOurs)?;
            } else {
                inline.others += characters(document);
            }
        }
        Ok(inline)
    }

    /// Returns the number of characters that IAM counts.
    pub fn used(&self) -> usize {
        self.own + self.others
    }

    /// Returns how many more sessions can be revoked, for names of the maximum length.
    pub fn remaining_sessions(&self) -> usize {
        let first = if self.revoked.sessions.is_empty() { FIRST } else { 0 };
        LIMIT.saturating_sub(self.used() + RESERVE + first) / NAME
    }

    /// Returns the document, or an error if it does not fit beside the other policies with
    /// `reserve` characters.
    pub(super) fn fit(&self, revoked: &Revoked, reserve: usize) -> Result<String, TooLong> {
        let document = revoked.document().to_string();
        let needed = characters(&document) + self.others + reserve;
        if needed > LIMIT {
            return Err(TooLong { needed, others: self.others });
        }
        Ok(document)
    }
}

impl Revoked {
    /// Returns an error if the document alone is longer than IAM accepts.
    pub fn check_length(&self) -> Result<(), TooLong> {
        let alone = Inline { revoked: Self::default(), own: 0, others: 0 };
        alone.fit(self, 0).map(drop)
    }
}

/// IAM does not count white space.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
fn characters(document: &str) -> usize {
    document.chars().filter(|c| !c.is_whitespace()).count()
}

/// Characters of a statement without names, which is the longest for sessions without a pod.
const STATEMENT: usize = 160;
/// Characters of a document with one statement without names.
const FIRST: usize = 170;
/// Characters that new sessions leave free. `--prune` needs one more statement, so that it works in
/// a full policy.
pub(super) const RESERVE: usize = STATEMENT;
/// Characters of the longest SourceIdentity in a list: 64, two quotes and a comma.
const NAME: usize = 67;

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(count: usize) -> Revoked {
        let name = |index| format!("agent.acme.{index:053}").parse().unwrap();
        Revoked::of(&(0..count).map(name).collect(), None)
    }

    fn inline(revoked: &Revoked, others: usize) -> Inline {
        let own = revoked.document().to_string();
        let other = "x".repeat(others);
        let own = Some((POLICY_NAME, &*own)).filter(|_| !revoked.is_empty());
        Inline::read(own.into_iter().chain([("other", &*other)])).unwrap()
    }

    #[test]
    fn white_space_and_names_of_policies_do_not_count() {
        let own = format!("{:#}\n", revoked(2).document());
        let read = Inline::read([(POLICY_NAME, &*own), ("a", "{ \"a\" : 1 }\n")]).unwrap();
        assert_eq!(read.revoked, revoked(2));
        assert_eq!(read.used(), revoked(2).document().to_string().len() + 7);
    }

    #[test]
    fn the_remaining_sessions_fit_and_one_more_does_not() {
        for (count, others) in [(0, 0), (0, 3000), (5, 0), (100, 1000)] {
            let inline = inline(&revoked(count), others);
            let remaining = inline.remaining_sessions();
            assert!(inline.fit(&revoked(count + remaining), RESERVE).is_ok(), "{count} {others}");
            // The estimate is at most two names too low.
            let more = inline.fit(&revoked(count + remaining + 3), RESERVE);
            assert!(more.is_err(), "{count} {others}: {remaining}");
        }
        assert_eq!(inline(&revoked(0), LIMIT).remaining_sessions(), 0);
    }

    /// docs/revoke.md has this number.
    #[test]
    fn an_empty_role_has_space_for_147_sessions() {
        assert_eq!(inline(&Revoked::default(), 0).remaining_sessions(), 147);
    }

    #[test]
    fn the_reserve_is_one_statement_of_marked_sessions() {
        let mut marked = revoked(2);
        let before = marked.document().to_string().len();
        if let Some(last) = marked.sessions.values_mut().next() {
            *last = Some("2026-11-24T08:00:00Z".parse().unwrap());
        }
        let statement = marked.document().to_string().len() - before;
        assert!(
            (statement - 20..=statement + 20).contains(&RESERVE) && statement <= RESERVE,
            "{statement}"
        );
    }

    #[test]
    fn a_policy_of_another_form_is_an_error() {
        for document in ["", "{}", "null", r#"{"Version":"2012-10-17","Statement":[]}"#] {
            let read = Inline::read([(POLICY_NAME, document)]);
            let is_empty = document.contains("[]");
            assert_eq!(read.is_err(), !is_empty, "{document}");
        }
    }
}
