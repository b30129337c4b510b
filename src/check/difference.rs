//! Compares an object in the cluster with the one rendered by the release.

use serde_json::Value;

/// Returns each field of `live` that differs from `installed`. Defaults that the API server sets
/// are ignored.
pub(super) fn differences(installed: &Value, live: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", installed, live, &mut found);
    found
}

fn walk(place: &str, installed: &Value, live: &Value, found: &mut Vec<String>) {
    match (installed, live) {
        (Value::Object(wanted), Value::Object(present)) => {
            for (key, value) in wanted {
                let live = present.get(key).unwrap_or(&Value::Null);
                walk(&below(place, key), value, live, found);
            }
            for (key, value) in present.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                if !is_filled_in(key, value) {
                    found.push(format!("{} was added", below(place, key)));
                }
            }
        }
        (Value::Array(wanted), Value::Array(present)) if wanted.len() == present.len() => {
            for (index, (wanted, present)) in wanted.iter().zip(present).enumerate() {
                walk(&format!("{place}[{index}]"), wanted, present, found);
            }
        }
        _ if installed == live || is_empty(installed) && is_empty(live) => {}
        _ => found.push(match (short(installed), short(live)) {
            (Some(was), Some(is)) => format!("{place} is {is} instead of {was}"),
            _ => format!("{place} differs"),
        }),
    }
}

fn below(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

fn is_filled_in(key: &str, value: &Value) -> bool {
    is_empty(value) || DEFAULTS.iter().any(|(name, default)| *name == key && value == default)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Returns the value as JSON. None if it is too long for one line, such as a CEL expression.
fn short(value: &Value) -> Option<String> {
    let text = value.to_string();
    (text.len() <= LONGEST_SHOWN).then_some(text)
}

/// Defaults that the API server sets in webhooks and policies.
/// <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>
/// <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>
const DEFAULTS: [(&str, &str); 2] = [("matchPolicy", "Equivalent"), ("scope", "*")];
/// In bytes of JSON.
const LONGEST_SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_of_the_api_server_are_not_differences() {
        let installed = json!({"a": [{"b": 1}], "c": []});
        let live = json!({"a": [{"b": 1, "objectSelector": {}}], "matchPolicy": "Equivalent"});
        assert_eq!(differences(&installed, &live), Vec::<String>::new());
    }

    #[test]
    fn each_difference_has_its_path() {
        let installed = json!({"a": [{"b": 1}], "c": "x", "d": {"e": true}, "f": [1]});
        let live =
            json!({"a": [{"b": 2}], "c": "y".repeat(80), "d": {}, "f": [1, 2], "g": {"h": 1}});
        let want = [
            "a[0].b is 2 instead of 1",
            "c differs",
            "d.e is null instead of true",
            "f is [1,2] instead of [1]",
            "g was added",
        ];
        assert_eq!(differences(&installed, &live), want);
    }
}
