//! The Condition element.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html>

use std::{cmp::Ordering, time::SystemTime};

use serde_json::Value;

use super::{Action, Context, Key, NotAPolicy, Vocabulary, pattern::Template, strings};
use crate::moment;

/// One key of one operator. A statement applies only if all its conditions are met.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    key: Key,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    /// `Null: true` requires an absent key.
    Absent(bool),
    Bool {
        wanted: bool,
        if_exists: bool,
    },
    Compared {
        by: Comparison,
        negated: bool,
        over: Over,
        if_exists: bool,
        values: Vec<Template>,
    },
    /// The date of the request is one of these in relation to the policy's date.
    Date {
        accepted: &'static [Ordering],
        if_exists: bool,
        date: SystemTime,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Equal,
    EqualIgnoringCase,
    Like,
}

/// The values of the request that are compared.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Over {
    All,
    Any,
    Single,
}

pub(super) fn read(block: &Value, vocabulary: &Vocabulary) -> Result<Vec<Condition>, NotAPolicy> {
    let shape =
        |found: &Value| NotAPolicy::Shape { element: "Condition", found: found.to_string() };
    let mut conditions = Vec::new();
    for (operator, keys) in block.as_object().ok_or_else(|| shape(block))? {
        for (name, wanted) in keys.as_object().ok_or_else(|| shape(keys))? {
            let key = Key::read(name, vocabulary)?;
            let test = Test::read(operator, wanted, vocabulary)?;
            if key.is_many_valued() && test.wants_a_single_value() {
                return Err(NotAPolicy::ManyValued { key: name.clone() });
            }
            let fits = match test {
                Test::Absent(_) => true,
                Test::Bool { .. } => key.is_boolean(),
                Test::Compared { .. } => !key.is_boolean() && !key.is_date(),
                Test::Date { .. } => key.is_date(),
            };
            if !fits {
                return Err(NotAPolicy::Operator(operator.clone()));
            }
            conditions.push(Condition { key, test });
        }
    }
    Ok(conditions)
}

impl Condition {
    pub(super) fn holds(&self, action: Action, context: &Context) -> bool {
        let found = context.values(&self.key, action);
        match &self.test {
            Test::Absent(absent) => found.is_none() == *absent,
            Test::Bool { wanted, if_exists } => {
                let found = found.and_then(|found| found.first()?.parse::<bool>().ok());
                found.map_or(*if_exists, |found| found == *wanted)
            }
            Test::Date { accepted, if_exists, date } => {
                let found = found.and_then(|found| moment::from_extended(found.first()?));
                found.map_or(*if_exists, |found| accepted.contains(&found.cmp(date)))
            }
            Test::Compared { by, negated, over, if_exists, values } => {
                let Some(found) = found else {
                    return *if_exists
                        || match over {
                            Over::All => true,
                            Over::Any => false,
                            // An absent key differs from every value.
                            Over::Single => *negated,
                        };
                };
                let equals =
                    |one: &String| values.iter().any(|value| by.holds(one, value, action, context));
                match over {
                    Over::All => found.iter().all(|one| equals(one) != *negated),
                    Over::Any | Over::Single => found.iter().any(|one| equals(one) != *negated),
                }
            }
        }
    }
}

impl Test {
    fn read(operator: &str, wanted: &Value, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        if operator.eq_ignore_ascii_case("Null") {
            return boolean("Null", wanted).map(Self::Absent);
        }
        let (over, rest) = match operator.split_once(':') {
            Some(("ForAllValues", rest)) => (Over::All, rest),
            Some(("ForAnyValue", rest)) => (Over::Any, rest),
            _ => (Over::Single, operator),
        };
        let (if_exists, name) = match rest.strip_suffix("IfExists") {
            Some(name) => (true, name),
            None => (false, rest),
        };
        if name == "Bool" && over == Over::Single {
            return Ok(Self::Bool { wanted: boolean("Bool", wanted)?, if_exists });
        }
        if let Some((_, accepted)) = DATES.iter().find(|(date, _)| *date == name) {
            let text = wanted.as_str().unwrap_or_default();
            let date = moment::from_extended(text).filter(|_| over == Over::Single);
            return date
                .map(|date| Self::Date { accepted, if_exists, date })
                .ok_or_else(|| NotAPolicy::Shape { element: "a date", found: wanted.to_string() });
        }
        let (by, negated) = match name {
            "StringEquals" => (Comparison::Equal, false),
            "StringNotEquals" => (Comparison::Equal, true),
            "StringEqualsIgnoreCase" => (Comparison::EqualIgnoringCase, false),
            "StringNotEqualsIgnoreCase" => (Comparison::EqualIgnoringCase, true),
            "StringLike" | "ArnLike" | "ArnEquals" => (Comparison::Like, false),
            "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => (Comparison::Like, true),
            _ => return Err(NotAPolicy::Operator(operator.to_owned())),
        };
        let values = strings("Condition", wanted)?
            .into_iter()
            .map(|text| Template::read_with(text, vocabulary))
            .collect::<Result<_, _>>()?;
        Ok(Self::Compared { by, negated, over, if_exists, values })
    }

    fn wants_a_single_value(&self) -> bool {
        matches!(
            self,
            Self::Bool { .. } | Self::Compared { over: Over::Single, .. } | Self::Date { .. }
        )
    }
}

fn boolean(element: &'static str, value: &Value) -> Result<bool, NotAPolicy> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        other => Err(NotAPolicy::Shape { element, found: other.to_string() }),
    }
}

/// `DateNotEquals` is not supported: an absent key equals no date.
const DATES: [(&str, &[Ordering]); 5] = [
    ("DateEquals", &[Ordering::Equal]),
    ("DateGreaterThan", &[Ordering::Greater]),
    ("DateGreaterThanEquals", &[Ordering::Greater, Ordering::Equal]),
    ("DateLessThan", &[Ordering::Less]),
    ("DateLessThanEquals", &[Ordering::Less, Ordering::Equal]),
];

impl Comparison {
    /// Compares a value. A policy value with an unset variable equals no value.
    fn holds(self, found: &str, value: &Template, action: Action, context: &Context) -> bool {
        let text = || value.text(action, context);
        match self {
            Self::Equal => text().is_some_and(|text| text == found),
            Self::EqualIgnoringCase => text().is_some_and(|text| text.eq_ignore_ascii_case(found)),
            Self::Like => value.glob(action, context).is_some_and(|glob| glob.matches(found)),
        }
    }
}
