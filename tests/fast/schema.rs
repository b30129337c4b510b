//! Tests the JSON Schema of the objects that the program prints. Other modules check each object
//! that they read with it.

use std::{collections::BTreeSet, fs};

use harness::{
    root,
    schema::{schema, violations},
};
use serde_json::{Value, json};

/// The fields are API, so the page documents all of them.
#[test]
fn the_page_lists_every_field_and_value() {
    let page = fs::read_to_string(root().join("docs/json.md")).unwrap();
    let schema = schema();
    let mut names = BTreeSet::new();
    collect(&schema["$defs"], &mut names);
    assert!(names.len() > 50, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/json.md does not have `{name}`");
    }
    let kinds = schema["$defs"].as_object().unwrap().iter();
    for (kind, _) in kinds.filter(|(_, it)| !it["properties"]["kind"].is_null()) {
        assert!(page.contains(&format!("\n## `{kind}`\n")), "{kind}");
    }
}

/// Collects the names of fields and their values, except those of a JSON Patch, which RFC 6902
/// defines.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries.iter().filter(|(key, _)| *key != "Operation") {
                match (&**key, value) {
                    ("properties", Value::Object(fields)) => names.extend(fields.keys().cloned()),
                    ("enum", Value::Array(values)) => {
                        names.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    ("const", Value::String(value)) => drop(names.insert(value.clone())),
                    _ => {}
                }
                collect(value, names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        _ => {}
    }
}

#[test]
fn an_object_with_other_fields_violates_the_schema() {
    let version = "session.fab.nanohype.dev/v1";
    let error =
        |fields: Value| json!({"apiVersion": version, "kind": "CommandError", "error": fields});
    let right = error(json!({"exitCode": 2, "message": "m"}));
    assert_eq!(violations(&right), [""; 0]);
    for wrong in [
        error(json!({"exitCode": 2})),
        error(json!({"exitCode": 4, "message": "m"})),
        error(json!({"exitCode": 2, "message": "m", "more": 1})),
        json!({"kind": "CommandError", "error": {"exitCode": 2, "message": "m"}}),
        json!({"apiVersion": "v1", "kind": "CommandError", "error": {"exitCode": 2, "message": "m"}}),
        json!({"apiVersion": version, "kind": "CheckReport", "errors": 0, "findings": [{}]}),
    ] {
        assert!(!violations(&wrong).is_empty(), "{wrong}");
    }
}
