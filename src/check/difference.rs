//! What somebody changed in an object since it was installed.

use serde_json::Value;

/// Each place in which `live` is not what was installed. What an API server fills in by itself
/// is no difference.
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
                    found.push(format!("{} was not there", below(place, key)));
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
            (Some(was), Some(is)) => format!("{place} is {is}, and was {was}"),
            _ => format!("{place} was changed"),
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

/// An expression is nothing for one line.
fn short(value: &Value) -> Option<String> {
    let text = value.to_string();
    (text.len() <= LONGEST_SHOWN).then_some(text)
}

/// <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>
/// <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>
const DEFAULTS: [(&str, &str); 2] = [("matchPolicy", "Equivalent"), ("scope", "*")];
const LONGEST_SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_api_server_fills_in_is_no_difference() {
        let installed = json!({"a": [{"b": 1}], "c": []});
        let live = json!({"a": [{"b": 1, "objectSelector": {}}], "matchPolicy": "Equivalent"});
        assert_eq!(differences(&installed, &live), Vec::<String>::new());
    }

    #[test]
    fn each_change_has_its_place() {
        let installed = json!({"a": [{"b": 1}], "c": "x", "d": {"e": true}, "f": [1]});
        let live =
            json!({"a": [{"b": 2}], "c": "y".repeat(80), "d": {}, "f": [1, 2], "g": {"h": 1}});
        let want = [
            "a[0].b is 2, and was 1",
            "c was changed",
            "d.e is null, and was true",
            "f is [1,2], and was [1]",
            "g was not there",
        ];
        assert_eq!(differences(&installed, &live), want);
    }
}
