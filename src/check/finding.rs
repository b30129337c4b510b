//! What was found, and how it is told.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::link::Link;
use crate::{admission::Refusal, credentials, terminal::harmless};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// It does not hold, and sessions suffer from it.
    Broken,
    /// Worth knowing.
    Note,
    Ok,
    /// It could not be looked at.
    Unseen,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    pub link: Link,
    pub level: Level,
    /// Of what in the cluster or in AWS it is.
    pub subject: String,
    /// The code under which webhook or sidecar say the same.
    pub code: Option<&'static str>,
    /// Holds its own remedy where there is a code.
    pub says: String,
    /// It could not be looked at since nobody answered.
    pub unreachable: bool,
}

/// What one walk found, in the order of the links.
#[derive(Clone, Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    pub fn is_broken(&self) -> bool {
        self.iter().any(|finding| finding.level == Level::Broken)
    }

    /// Whether something was not looked at since nobody answered.
    pub fn is_unreachable(&self) -> bool {
        self.iter().any(|finding| finding.unreachable)
    }

    /// For people: one line for each, and what it comes to. `paint` colours a level.
    pub fn text(&self, paint: impl Fn(Level, &str) -> String) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for finding in self.iter() {
            let level = paint(finding.level, &format!("{:<6}", finding.level));
            let says = finding.to_string();
            writeln!(text, "{level}  {:<20}  {}", finding.link, harmless(&says))?;
        }
        let count = |level| self.iter().filter(|finding| finding.level == level).count();
        writeln!(
            text,
            "{} broken, {} unseen, {} to know",
            count(Level::Broken),
            count(Level::Unseen),
            count(Level::Note)
        )?;
        Ok(text)
    }

    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .iter()
            .map(|finding| {
                json!({
                    "link": finding.link.as_str(),
                    "level": finding.level.as_str(),
                    "subject": finding.subject,
                    "code": finding.code,
                    "says": finding.says,
                    "remedy": finding.remedy(),
                    "unreachable": finding.unreachable,
                })
            })
            .collect();
        json!({"findings": findings, "broken": self.is_broken()})
    }

    pub(super) fn in_order(mut self) -> Self {
        let place = |link| Link::ALL.iter().position(|other| *other == link);
        self.0.sort_by_key(|finding| place(finding.link));
        self
    }

    pub(super) fn ok(&mut self, link: Link, subject: impl Into<String>, says: impl Into<String>) {
        self.add(link, Level::Ok, subject.into(), says.into());
    }

    pub(super) fn note(&mut self, link: Link, subject: impl Into<String>, says: impl Into<String>) {
        self.add(link, Level::Note, subject.into(), says.into());
    }

    pub(super) fn broken(
        &mut self,
        link: Link,
        subject: impl Into<String>,
        says: impl Into<String>,
    ) {
        self.add(link, Level::Broken, subject.into(), says.into());
    }

    pub(super) fn unseen(
        &mut self,
        link: Link,
        subject: impl Into<String>,
        says: impl Into<String>,
    ) {
        self.add(link, Level::Unseen, subject.into(), says.into());
    }

    /// Nobody answered.
    pub(super) fn unreachable(
        &mut self,
        link: Link,
        subject: impl Into<String>,
        says: impl Into<String>,
    ) {
        self.add(link, Level::Unseen, subject.into(), says.into()).unreachable = true;
    }

    /// What the webhook says of it.
    pub(super) fn refused(&mut self, link: Link, subject: impl Into<String>, refusal: &Refusal) {
        self.add(link, Level::Broken, subject.into(), refusal.to_string()).code =
            Some(refusal.code());
    }

    /// What the sidecar says of it.
    pub(super) fn failed(
        &mut self,
        link: Link,
        subject: impl Into<String>,
        failure: &credentials::Failure,
    ) {
        self.add(link, Level::Broken, subject.into(), failure.to_string()).code =
            Some(failure.reason.code());
    }

    fn add(&mut self, link: Link, level: Level, subject: String, says: String) -> &mut Finding {
        self.0.push_mut(Finding { link, level, subject, code: None, says, unreachable: false })
    }
}

impl Finding {
    /// Of what is broken; a code brings its own, in what is said.
    pub fn remedy(&self) -> Option<&'static str> {
        (self.level == Level::Broken && self.code.is_none()).then(|| self.link.about().remedy)
    }
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Note => "note",
            Self::Ok => "ok",
            Self::Unseen => "unseen",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A sentence and, of what is broken, a remedy.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.says)?;
        match self.remedy() {
            Some(remedy) => write!(f, ": {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_what_is_unseen_since_nobody_answered() {
        let mut found = Findings::default();
        found.unseen(Link::RoleTrust, "a role", "may not be read");
        found.unreachable(Link::AssumeRole, "a tenant", "STS did not answer");
        let json = found.json();
        let told = |index: usize, key: &str| json["findings"][index][key].clone();
        assert_eq!([0, 1].map(|index| told(index, "unreachable")), [json!(false), json!(true)]);
        assert_eq!([0, 1].map(|index| told(index, "level")), [json!("unseen"), json!("unseen")]);
        assert!(found.is_unreachable() && !found.is_broken());
    }
}
