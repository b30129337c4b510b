//! Policies: parses documents and evaluates them for one action.
//!
//! A document with an element that is not evaluated here is an error when it is parsed. No
//! element is ignored.

mod condition;
mod context;
mod pattern;
mod principal;

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

use self::{
    condition::Condition,
    pattern::{Glob, Template},
    principal::Principals,
};
pub(crate) use self::{
    context::{Context, Key},
    principal::{Caller, NamedBy},
};
use crate::arn::RoleArn;

/// The supported actions: those of STS, one of Bedrock, and all others as one. `SetSourceIdentity`
/// and `TagSession` are permissions only; there are no such calls.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    AssumeRole,
    AssumeRoleWithWebIdentity,
    InvokeModel,
    /// Any action of another service. Only `*` and `NotAction` are known to cover it.
    Other,
    SetSourceIdentity,
    TagSession,
}

/// Result of a permissions policy or a boundary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    Silent,
}

/// Result of a trust policy, with the principal type that matched the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trust {
    Allowed(NamedBy),
    Denied,
    Silent,
}

/// The providers and the roles that a document may name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary {
    /// URLs of the OIDC providers, without `https://`.
    pub(crate) issuers: BTreeSet<String>,
    pub(crate) roles: BTreeSet<RoleArn>,
}

/// The rule that a document violates, or its element that is not evaluated here.
#[derive(Debug, thiserror::Error)]
pub enum NotAPolicy {
    #[error("{key} has multiple values and needs ForAllValues or ForAnyValue")]
    ManyValued { key: String },
    #[error("{element} is missing")]
    Missing { element: &'static str },
    #[error("the condition operator {0:?} is not supported")]
    Operator(String),
    #[error("Invalid principal in policy: {0:?}")]
    Principal(String),
    #[error("Has prohibited field {0}")]
    Prohibited(&'static str),
    #[error("{element} is malformed: {found}")]
    Shape { element: &'static str, found: String },
    #[error("the condition key {0:?} is not supported")]
    UnknownKey(String),
    #[error("the statement element {0:?} is not supported")]
    UnknownElement(String),
    #[error("Version must be 2012-10-17, because other versions have no policy variables")]
    Version,
}

/// A permissions policy or a permissions boundary.
#[derive(Clone, Debug)]
pub(crate) struct Policy(Vec<(Statement, Resources)>);

/// A role's trust policy.
#[derive(Clone, Debug)]
pub(crate) struct TrustPolicy(Vec<(Statement, Principals)>);

#[derive(Clone, Debug)]
struct Statement {
    allows: bool,
    actions: Actions,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
enum Actions {
    AllBut(Vec<Glob>),
    These(Vec<Glob>),
}

#[derive(Clone, Debug)]
enum Resources {
    AllBut(Vec<Template>),
    These(Vec<Template>),
}

impl Action {
    pub(crate) const ALL: [Self; 6] = [
        Self::AssumeRole,
        Self::AssumeRoleWithWebIdentity,
        Self::InvokeModel,
        Self::Other,
        Self::SetSourceIdentity,
        Self::TagSession,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AssumeRole => "sts:AssumeRole",
            Self::AssumeRoleWithWebIdentity => "sts:AssumeRoleWithWebIdentity",
            Self::InvokeModel => "bedrock:InvokeModel",
            Self::Other => "*",
            Self::SetSourceIdentity => "sts:SetSourceIdentity",
            Self::TagSession => "sts:TagSession",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Policy {
    pub(crate) fn read(document: &Value, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        let read = |statement: &Map<String, Value>| {
            if statement.contains_key("Principal") {
                return Err(NotAPolicy::Prohibited("Principal"));
            }
            let resources = Resources::read(statement)?;
            Ok((Statement::read(statement, vocabulary)?, resources))
        };
        statements(document)?.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// A deny takes precedence over an allow.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>
    pub(crate) fn verdict(&self, action: Action, resource: &str, context: &Context) -> Verdict {
        let Self(statements) = self;
        let speaking = statements
            .iter()
            .filter(|(_, resources)| resources.cover(resource, action, context))
            .filter(|(statement, _)| statement.speaks_of(action, context));
        let mut verdict = Verdict::Silent;
        for (statement, _) in speaking {
            if !statement.allows {
                return Verdict::Denied;
            }
            verdict = Verdict::Allowed;
        }
        verdict
    }
}

impl TrustPolicy {
    pub(crate) fn read(document: &Value, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        let read = |statement: &Map<String, Value>| {
            for element in ["Resource", "NotResource"] {
                if statement.contains_key(element) {
                    return Err(NotAPolicy::Prohibited(element));
                }
            }
            let principals = Principals::read(statement.get("Principal"), vocabulary)?;
            Ok((Statement::read(statement, vocabulary)?, principals))
        };
        statements(document)?.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// A deny takes precedence. If several principals match, the most specific one counts.
    pub(crate) fn verdict(&self, caller: &Caller<'_>, action: Action, context: &Context) -> Trust {
        let Self(statements) = self;
        let speaking = statements
            .iter()
            .filter(|(statement, _)| statement.speaks_of(action, context))
            .filter_map(|(statement, principals)| Some((statement, principals.name(caller)?)));
        let mut trust = Trust::Silent;
        for (statement, by) in speaking {
            trust = match trust {
                _ if !statement.allows => return Trust::Denied,
                Trust::Allowed(before) => Trust::Allowed(before.max(by)),
                Trust::Denied | Trust::Silent => Trust::Allowed(by),
            };
        }
        trust
    }
}

impl Statement {
    fn read(statement: &Map<String, Value>, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        if let Some(element) = statement.keys().find(|key| !ELEMENTS.contains(&key.as_str())) {
            return Err(NotAPolicy::UnknownElement(element.clone()));
        }
        let allows = match statement.get("Effect").and_then(Value::as_str) {
            Some("Allow") => true,
            Some("Deny") => false,
            _ => return Err(NotAPolicy::Missing { element: "Effect: Allow or Deny" }),
        };
        let actions = match (statement.get("Action"), statement.get("NotAction")) {
            (Some(these), None) => Actions::These(globs("Action", these)?),
            (None, Some(all_but)) => Actions::AllBut(globs("NotAction", all_but)?),
            _ => return Err(NotAPolicy::Missing { element: "Action or NotAction (exactly one)" }),
        };
        // A statement on other actions never applies here, and has their condition keys.
        let is_asked = Action::ALL.iter().any(|action| actions.cover(*action));
        let conditions = match statement.get("Condition") {
            Some(block) if is_asked => condition::read(block, vocabulary)?,
            _ => Vec::new(),
        };
        Ok(Self { allows, actions, conditions })
    }

    fn speaks_of(&self, action: Action, context: &Context) -> bool {
        self.actions.cover(action)
            && self.conditions.iter().all(|condition| condition.holds(action, context))
    }
}

impl Actions {
    /// Compares actions case-insensitively.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_action.html>
    fn cover(&self, action: Action) -> bool {
        let name = action.name().to_ascii_lowercase();
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(&name));
        match self {
            Self::AllBut(globs) => !any(globs),
            Self::These(globs) => any(globs),
        }
    }
}

impl Resources {
    fn read(statement: &Map<String, Value>) -> Result<Self, NotAPolicy> {
        let templates = |element, value| {
            strings(element, value)?.into_iter().map(Template::read).collect::<Result<Vec<_>, _>>()
        };
        match (statement.get("Resource"), statement.get("NotResource")) {
            (Some(these), None) => templates("Resource", these).map(Self::These),
            (None, Some(all_but)) => templates("NotResource", all_but).map(Self::AllBut),
            _ => Err(NotAPolicy::Missing { element: "Resource or NotResource (exactly one)" }),
        }
    }

    fn cover(&self, resource: &str, action: Action, context: &Context) -> bool {
        let any = |templates: &[Template]| {
            let mut globs = templates.iter().filter_map(|one| one.glob(action, context));
            globs.any(|glob| glob.matches(resource))
        };
        match self {
            Self::AllBut(templates) => !any(templates),
            Self::These(templates) => any(templates),
        }
    }
}

fn statements(document: &Value) -> Result<Vec<&Map<String, Value>>, NotAPolicy> {
    if document.get("Version").and_then(Value::as_str) != Some("2012-10-17") {
        return Err(NotAPolicy::Version);
    }
    let object = |value: &'_ Value| match value {
        Value::Object(_) => Ok(()),
        other => Err(NotAPolicy::Shape { element: "Statement", found: other.to_string() }),
    };
    let list = match document.get("Statement") {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one) => vec![one],
        None => return Err(NotAPolicy::Missing { element: "Statement" }),
    };
    list.iter().try_for_each(|statement| object(statement))?;
    Ok(list.into_iter().filter_map(Value::as_object).collect())
}

fn globs(element: &'static str, value: &Value) -> Result<Vec<Glob>, NotAPolicy> {
    let patterns = strings(element, value)?;
    Ok(patterns.into_iter().map(|text| Glob::read(&text.to_ascii_lowercase())).collect())
}

/// Returns the items of one string or a list of strings.
fn strings<'a>(element: &'static str, value: &'a Value) -> Result<Vec<&'a str>, NotAPolicy> {
    let refused = || NotAPolicy::Shape { element, found: value.to_string() };
    match value {
        Value::String(one) => Ok(vec![one]),
        Value::Array(list) => list.iter().map(|one| one.as_str().ok_or_else(refused)).collect(),
        _ => Err(refused()),
    }
}

const ELEMENTS: [&str; 8] =
    ["Action", "Condition", "Effect", "NotAction", "NotResource", "Principal", "Resource", "Sid"];

#[cfg(test)]
mod tests;
