//! Writes YAML that a terminal shows as it is.

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_saphyr::DoubleQuoted;

use crate::terminal::{in_escapes, is_unescaped};

/// Returns one document in YAML.
///
/// Text with a character that a terminal would interpret as a command is double-quoted, and the
/// character is escaped. If a key has such a character, the document is written as JSON, which is
/// valid YAML: the serializer cannot be made to quote a key. No key of Kubernetes has one.
pub fn write(object: &Value) -> Result<String, serde_saphyr::SerializeError> {
    let mut text = if has_such_a_key(object) {
        format!("{object:#}")
    } else {
        serde_saphyr::to_string(&Quoted(object))?
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(in_escapes(&text).into_owned())
}

/// An object whose text is double-quoted where it needs an escape that the serializer would omit.
struct Quoted<'v>(&'v Value);

impl Serialize for Quoted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => serializer.collect_seq(items.iter().map(Quoted)),
            Value::Object(entries) => {
                serializer.collect_map(entries.iter().map(|(key, entry)| (key, Quoted(entry))))
            }
            Value::String(text) if text.chars().any(is_unescaped) => {
                DoubleQuoted(text).serialize(serializer)
            }
            other => other.serialize(serializer),
        }
    }
}

fn has_such_a_key(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_such_a_key),
        Value::Object(entries) => entries
            .iter()
            .any(|(key, entry)| key.chars().any(is_unescaped) || has_such_a_key(entry)),
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => false,
    }
}
