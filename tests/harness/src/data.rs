//! Cases that are data: lists in YAML files, and the change of an object that a case has.

use std::fs;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::root;

/// Returns the cases of all files of a directory in the repository, in the order of their names.
/// Each case comes with the path of its file, for messages.
pub fn cases<T: DeserializeOwned>(directory: &str) -> Vec<(String, T)> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
        .into_iter()
        .flat_map(|name| {
            let file = format!("{directory}/{}", name.to_str().unwrap());
            let text = fs::read_to_string(root().join(&file)).unwrap();
            let cases: Vec<T> =
                serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
            cases.into_iter().map(move |case| (file.clone(), case))
        })
        .collect()
}

/// Applies operations of a JSON patch (RFC 6902). In their paths, the name of an item can stand in
/// place of its index: `/spec/containers/agent/image`.
pub fn patch(object: &mut Value, operations: &[Value]) {
    for operation in operations {
        let mut indexed = operation.clone();
        for key in ["from", "path"] {
            if let Some(path) = operation.get(key) {
                indexed[key] = by_index(object, path.as_str().unwrap()).into();
            }
        }
        let indexed: json_patch::PatchOperation = serde_json::from_value(indexed).unwrap();
        json_patch::patch(object, &[indexed])
            .unwrap_or_else(|error| panic!("{operation}: {error}"));
    }
}

/// Returns the path with an index in place of each name. The first of several items counts.
fn by_index(object: &Value, path: &str) -> String {
    let mut indexed = String::new();
    for key in path.split('/').skip(1) {
        let items = object.pointer(&indexed).and_then(Value::as_array);
        let index = items.and_then(|items| items.iter().position(|item| item["name"] == key));
        indexed.push('/');
        indexed.push_str(&index.map_or_else(|| key.to_owned(), |index| index.to_string()));
    }
    indexed
}
