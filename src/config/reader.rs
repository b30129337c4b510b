//! Reads a YAML tree key by key and collects every problem instead of stopping at the first.

use std::{cell::RefCell, fmt, str::FromStr};

use serde_json::{Map, Value};

/// One error in a file, and its path: `components[1].credentials: ...`.
#[derive(Debug)]
struct Problem {
    place: String,
    rule: String,
}

/// All errors in a file.
#[derive(Debug)]
pub struct Problems(Vec<Problem>);

#[derive(Default)]
pub(super) struct Reader {
    problems: RefCell<Vec<Problem>>,
}

/// A mapping while it is read. A key that is still there when it is closed is unknown.
pub(crate) struct Section<'r> {
    reader: &'r Reader,
    place: String,
    entries: Map<String, Value>,
}

/// Parses a file's text with `read`, and returns the result, or all problems.
pub(crate) fn parse<T>(text: &str, read: impl FnOnce(Section<'_>) -> T) -> Result<T, Problems> {
    let value = if text.trim().is_empty() {
        Value::Null
    } else {
        serde_saphyr::from_str(text).map_err(|error| {
            let rule = format!("invalid YAML: {error}");
            Problems(vec![Problem { place: "the file".to_owned(), rule }])
        })?
    };
    let reader = Reader::default();
    let parsed = read(reader.root(value));
    match reader.problems.into_inner() {
        problems if problems.is_empty() => Ok(parsed),
        problems => Err(Problems(problems)),
    }
}

impl std::error::Error for Problems {}

/// Writes one problem per line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.rule)
    }
}

impl Reader {
    pub(super) fn root(&self, value: Value) -> Section<'_> {
        self.open(String::new(), value)
    }

    fn open(&self, place: String, value: Value) -> Section<'_> {
        let entries = match value {
            Value::Object(entries) => entries,
            Value::Null => Map::new(),
            _ => {
                let named = if place.is_empty() { "the file" } else { &place };
                self.problem(named.to_owned(), "expected a mapping of keys to values");
                Map::new()
            }
        };
        Section { reader: self, place, entries }
    }

    fn problem(&self, place: String, rule: impl fmt::Display) {
        self.problems.borrow_mut().push(Problem { place, rule: rule.to_string() });
    }
}

impl<'r> Section<'r> {
    /// Records that `key` breaks `rule`; an empty key means the section itself.
    pub(crate) fn problem(&self, key: &str, rule: impl fmt::Display) {
        self.reader.problem(self.at(key), rule);
    }

    /// Records each key that was not read as unknown.
    pub(crate) fn close(self) {
        for key in self.entries.keys() {
            self.reader.problem(self.at(key), "unknown key; remove it or correct its spelling");
        }
    }

    /// Reports whether the key is set, also if its value is empty.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Returns a value, parsed by its type; a number is read as text.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, key: &str, default: T) -> T {
        match self.scalar(key) {
            Some(text) => text.parse().unwrap_or_else(|error| {
                self.problem(key, error);
                default
            }),
            None => default,
        }
    }

    /// Returns a value as [`Self::parsed`] does, and None for an absent or empty one.
    pub(super) fn optional<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let text = self.scalar(key).filter(|text| !text.is_empty())?;
        text.parse().map_err(|error| self.problem(key, error)).ok()
    }

    pub(super) fn text(&mut self, key: &str, default: &str) -> String {
        self.scalar(key).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn truth(&mut self, key: &str) -> bool {
        match self.take(key) {
            None => false,
            Some(Value::Bool(truth)) => truth,
            Some(_) => {
                self.problem(key, "expected true or false");
                false
            }
        }
    }

    /// Returns a number within `range`.
    pub(super) fn number(
        &mut self,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let number = match self.take(key) {
            None => return default,
            Some(value) => value.as_u64(),
        };
        number.filter(|number| range.contains(number)).unwrap_or_else(|| {
            self.problem(
                key,
                format!("expected an integer from {} to {}", range.start(), range.end()),
            );
            default
        })
    }

    /// Returns one of the named values.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(found) = self.take(key) else {
            return default;
        };
        let name = found.as_str().unwrap_or_default();
        match choices.iter().find(|(choice, _)| *choice == name) {
            Some(&(_, chosen)) => chosen,
            None => {
                let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
                self.problem(key, format!("expected one of {}", names.join(", ")));
                default
            }
        }
    }

    pub(super) fn texts(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        self.list(key).unwrap_or_else(|| default.iter().map(|&text| text.to_owned()).collect())
    }

    pub(super) fn list<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<Vec<T>> {
        let place = self.at(key);
        let items = self.array(key)?;
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match text_of(&item).map(|text| text.parse()) {
                Some(Ok(item)) => parsed.push(item),
                Some(Err(error)) => self.reader.problem(format!("{place}[{index}]"), error),
                None => self.reader.problem(format!("{place}[{index}]"), "expected a string"),
            }
        }
        Some(parsed)
    }

    pub(super) fn section(&mut self, key: &str) -> Self {
        let value = self.take(key).unwrap_or(Value::Null);
        self.reader.open(self.at(key), value)
    }

    /// Returns a section as [`Self::section`] does, and None for an absent or null one.
    pub(super) fn optional_section(&mut self, key: &str) -> Option<Self> {
        let value = self.take(key)?;
        Some(self.reader.open(self.at(key), value))
    }

    pub(super) fn sections(&mut self, key: &str) -> Option<Vec<Self>> {
        let place = self.at(key);
        let items = self.array(key)?;
        let sections = items.into_iter().enumerate();
        Some(
            sections
                .map(|(index, item)| self.reader.open(format!("{place}[{index}]"), item))
                .collect(),
        )
    }

    /// Returns a mapping with arbitrary keys.
    pub(crate) fn pairs(&mut self, key: &str) -> Vec<(String, String)> {
        let section = self.section(key);
        let mut pairs = Vec::with_capacity(section.entries.len());
        for (name, value) in &section.entries {
            match text_of(value) {
                Some(text) => pairs.push((name.clone(), text)),
                None => section.problem(name, "expected a string"),
            }
        }
        pairs
    }

    fn array(&mut self, key: &str) -> Option<Vec<Value>> {
        match self.take(key)? {
            Value::Array(items) => Some(items),
            _ => {
                self.problem(key, "expected a list");
                None
            }
        }
    }

    fn scalar(&mut self, key: &str) -> Option<String> {
        let value = self.take(key)?;
        let text = text_of(&value);
        if text.is_none() {
            self.problem(key, "expected a string");
        }
        text
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key).filter(|value| !value.is_null())
    }

    fn at(&self, key: &str) -> String {
        match (&*self.place, key) {
            (place, "") => place.to_owned(),
            ("", key) => key.to_owned(),
            (place, key) => format!("{place}.{key}"),
        }
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}
