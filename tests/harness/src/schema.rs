//! The JSON Schema of the objects that the program prints.

use std::fs;

use serde_json::{Value, json};

use crate::root;

/// Returns the schema: docs/output.schema.json.
pub fn schema() -> Value {
    let text = fs::read_to_string(root().join("docs/output.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Returns the violations of the schema by an object.
pub fn violations(object: &Value) -> Vec<String> {
    let whole = schema();
    // The violations of one kind say more than that no kind matches.
    let kind = object["kind"].as_str().unwrap_or("CommandError");
    let of_kind = json!({
        "$schema": whole["$schema"], "$ref": format!("#/$defs/{kind}"), "$defs": whole["$defs"],
    });
    let validator = jsonschema::validator_for(&of_kind).unwrap();
    let violations = validator.iter_errors(object);
    violations.map(|it| format!("{}: {it}", it.instance_path())).collect()
}

/// Checks an object that the program printed.
pub fn check(object: &Value) {
    let violations = violations(object);
    assert!(violations.is_empty(), "{violations:#?}\n{object:#}");
}
