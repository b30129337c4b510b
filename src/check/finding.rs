//! The findings of `check`, and how they are printed.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::id::CheckId;
use crate::{admission::Refusal, credentials, issuer::TokenRefusal, terminal::harmless};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// The check failed, and sessions are affected.
    Error,
    Ok,
    /// The check could not be made.
    Unknown,
    /// A deviation that may be intended or may go away by itself.
    Warning,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    pub check: CheckId,
    pub level: Level,
    /// The object in the cluster or in AWS.
    pub subject: String,
    /// The code that the webhook, the sidecar or the session issuer uses for the same problem.
    pub code: Option<&'static str>,
    /// Contains the remedy if there is a code.
    pub message: String,
    /// The check could not be made because a service did not answer.
    pub unreachable: bool,
}

/// The findings of one run, in the order of [`CheckId::ALL`].
#[derive(Clone, Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Returns the findings of several checks.
    pub(super) fn of(checks: impl IntoIterator<Item = Self>) -> Self {
        Self(checks.into_iter().flat_map(|findings| findings.0).collect())
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns the findings of one namespace whose texts have [`MOST_TEXT`] bytes, and one finding
    /// for all others of the same check and level.
    pub(super) fn shortened(self, subject: &str) -> Self {
        let mut text = 0;
        let mut kept = Vec::new();
        let mut others: Vec<(CheckId, Level, usize)> = Vec::new();
        for finding in self.0 {
            text += finding.subject.len() + finding.message.len();
            let Finding { check, level, .. } = finding;
            if text <= MOST_TEXT {
                kept.push(finding);
            } else if let Some((_, _, count)) =
                others.iter_mut().find(|(id, of, _)| (*id, *of) == (check, level))
            {
                *count += 1;
            } else {
                others.push((check, level, 1));
            }
        }
        let mut shortened = Self(kept);
        for (check, level, count) in others {
            let message = format!("{count} more findings of this check are not shown");
            shortened.add(check, level, subject.to_owned(), message);
        }
        shortened
    }

    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    pub fn has_errors(&self) -> bool {
        self.count(Level::Error) > 0
    }

    /// Returns whether a check could not be made because a service did not answer.
    pub fn is_unreachable(&self) -> bool {
        self.iter().any(|finding| finding.unreachable)
    }

    /// Returns one line for each finding, and a summary line. `paint` colours a level.
    pub fn text(&self, paint: impl Fn(Level, &str) -> String) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for finding in self.iter() {
            let level = paint(finding.level, &format!("{:<7}", finding.level));
            let rest = finding.to_string();
            writeln!(text, "{level}  {:<22}  {}", finding.check, harmless(&rest))?;
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        writeln!(
            text,
            "{errors} error{}, {} unknown, {warnings} warning{}",
            plural(errors),
            self.count(Level::Unknown),
            plural(warnings)
        )?;
        Ok(text)
    }

    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check.as_str(),
                    "level": finding.level.as_str(),
                    "subject": finding.subject,
                    "message": finding.message,
                    "remedy": finding.remedy(),
                    "code": finding.code,
                    "unreachable": finding.unreachable,
                })
            })
            .collect();
        json!({"errors": self.count(Level::Error), "findings": findings})
    }

    pub(super) fn in_order(mut self) -> Self {
        let place = |check| CheckId::ALL.iter().position(|other| *other == check);
        self.0.sort_by_key(|finding| place(finding.check));
        self
    }

    pub(super) fn ok(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.add(check, Level::Ok, subject.into(), message.into());
    }

    pub(super) fn warning(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.add(check, Level::Warning, subject.into(), message.into());
    }

    pub(super) fn error(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.add(check, Level::Error, subject.into(), message.into());
    }

    pub(super) fn unknown(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.add(check, Level::Unknown, subject.into(), message.into());
    }

    /// Adds a check that could not be made because a service did not answer.
    pub(super) fn unreachable(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.add(check, Level::Unknown, subject.into(), message.into()).unreachable = true;
    }

    /// Adds a refusal of the webhook.
    pub(super) fn refused(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        refusal: &Refusal,
    ) {
        self.add(check, Level::Error, subject.into(), refusal.to_string()).code =
            Some(refusal.code());
    }

    /// Adds a refusal of the session issuer.
    pub(super) fn denied(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        refusal: &TokenRefusal,
    ) {
        self.add(check, Level::Error, subject.into(), refusal.to_string()).code =
            Some(refusal.code());
    }

    /// Adds a failure of the sidecar to get session credentials.
    pub(super) fn failed(
        &mut self,
        check: CheckId,
        subject: impl Into<String>,
        failure: &credentials::AssumeRoleError,
    ) {
        self.add(check, Level::Error, subject.into(), failure.to_string()).code =
            Some(failure.reason.code());
    }

    fn add(
        &mut self,
        check: CheckId,
        level: Level,
        mut subject: String,
        mut message: String,
    ) -> &mut Finding {
        cut(&mut subject);
        cut(&mut message);
        self.0.push_mut(Finding { check, level, subject, code: None, message, unreachable: false })
    }

    fn count(&self, level: Level) -> usize {
        self.iter().filter(|finding| finding.level == level).count()
    }
}

impl Finding {
    /// Returns the remedy of an error. None if there is a code: the message then contains the
    /// remedy.
    pub fn remedy(&self) -> Option<&'static str> {
        (self.level == Level::Error && self.code.is_none()).then(|| self.check.about().remedy)
    }
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The subject, the message and, for an error, the remedy.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)?;
        match self.remedy() {
            Some(remedy) => write!(f, ": {remedy}"),
            None => Ok(()),
        }
    }
}

/// Cuts a text that is longer than [`LONGEST`].
pub(super) fn cut(text: &mut String) {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push_str(CUT);
        text.shrink_to_fit();
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Maximum length of a message or a subject, in bytes. Tenants control a part of some messages.
pub(super) const LONGEST: usize = 64 << 10;
/// Maximum length of the texts of one namespace's findings, in bytes: thousands of usual ones.
const MOST_TEXT: usize = 1 << 20;
const CUT: &str = " ... (the rest is not shown)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_marks_unreachable_findings() {
        let mut found = Findings::default();
        found.unknown(CheckId::RoleTrust, "a role", "access denied");
        found.unreachable(CheckId::AssumeRole, "a tenant", "STS did not answer");
        let json = found.json();
        let value = |index: usize, key: &str| json["findings"][index][key].clone();
        assert_eq!([0, 1].map(|index| value(index, "unreachable")), [json!(false), json!(true)]);
        assert_eq!([0, 1].map(|index| value(index, "level")), [json!("unknown"), json!("unknown")]);
        assert_eq!(json["errors"], 0);
        assert!(found.is_unreachable() && !found.has_errors());
    }

    #[test]
    fn very_many_findings_of_a_namespace_are_counted() {
        let mut found = Findings::default();
        for _ in 0..100 {
            found.error(CheckId::PodOutdated, "pod a/b", "x".repeat(LONGEST));
            found.ok(CheckId::Rbac, "namespace a", "x");
        }
        let found = found.shortened("namespace a");
        let text: usize = found.iter().map(|it| it.subject.len() + it.message.len()).sum();
        assert!(text < MOST_TEXT + 200, "{text}");
        assert!(found.has_errors());
        let last: Vec<String> = found.iter().map(|it| format!("{} {it}", it.level)).collect();
        assert_eq!(
            last[last.len() - 2..],
            [
                "error namespace a: 85 more findings of this check are not shown: re-create the pod",
                "ok namespace a: 85 more findings of this check are not shown",
            ]
        );
    }

    #[test]
    fn a_very_long_message_is_cut() {
        let mut found = Findings::default();
        found.error(CheckId::Rbac, "namespace a", "é".repeat(LONGEST));
        found.error(CheckId::Rbac, "namespace a", "x".repeat(LONGEST));
        let [cut, whole] = &found.iter().map(|it| &*it.message).collect::<Vec<_>>()[..] else {
            panic!("{found:?}")
        };
        assert!(cut.len() < LONGEST + 50 && cut.ends_with("é ... (the rest is not shown)"));
        assert_eq!(whole.len(), LONGEST);
    }

    #[test]
    fn a_summary_counts_the_levels() {
        let mut found = Findings::default();
        let text = |found: &Findings| found.text(|_, level| level.to_owned()).unwrap();
        assert_eq!(text(&found), "0 errors, 0 unknown, 0 warnings\n");
        found.error(CheckId::PodOutdated, "pod a/b", "differs");
        found.warning(CheckId::Quota, "namespace a", "is full");
        assert_eq!(
            text(&found),
            "error    pod-outdated            pod a/b: differs: re-create the pod\n\
             warning  quota                   namespace a: is full\n\
             1 error, 0 unknown, 1 warning\n"
        );
        assert_eq!(found.json()["errors"], 1);
    }
}
