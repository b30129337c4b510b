//! The JSON objects that commands print. Their fields are API: docs/json.md.

use serde::Serialize;

/// An object with its version and kind in front.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versioned<'f, F> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    fields: &'f F,
}

/// Returns the object as JSON text, with a line break at its end. `fields` are those of an object.
pub(super) fn object(kind: &'static str, fields: &impl Serialize) -> String {
    let object = Versioned { api_version: API_VERSION, kind, fields };
    // Serialization cannot fail: the fields are strings, booleans, maps and lists of them.
    let text = serde_json::to_string_pretty(&object).unwrap_or_default();
    format!("{text}\n")
}

const API_VERSION: &str = "session.fab.nanohype.dev/v1";
