//! The operations of a JSON Patch (RFC 6902), written as JSON.

use json_patch::jsonptr::{Pointer, PointerBuf};
use serde::Serialize;

use super::{pod::Placed, refusal::clipped};

/// The changes of the pod, and the warnings to the requesting user.
#[derive(Debug, Default)]
pub(super) struct Patch {
    /// The operations of a JSON Patch (RFC 6902) as JSON, without the enclosing brackets.
    json: Vec<u8>,
    pub(super) warnings: Vec<String>,
    /// Whether a value could not be written as JSON. Such a patch must not be applied.
    pub(super) failed: bool,
    /// Whether the patch, or a value to be copied, is larger than [`MOST_BYTES`]. Such a patch must
    /// not be applied.
    pub(super) too_large: bool,
    /// Number of operations.
    pub(super) operations: usize,
}

impl Patch {
    pub(super) fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// Returns the complete patch.
    pub(super) fn json(&self) -> Vec<u8> {
        [b"[", self.json.as_slice(), b"]"].concat()
    }

    pub(super) fn add(&mut self, path: &Pointer, value: &impl Serialize) {
        self.write(&Operation { op: "add", path, value: Some(value) });
    }

    pub(super) fn remove(&mut self, path: &Pointer) {
        self.write::<()>(&Operation { op: "remove", path, value: None });
    }

    pub(super) fn replace(&mut self, path: &Pointer, value: &impl Serialize) {
        self.write(&Operation { op: "replace", path, value: Some(value) });
    }

    /// Adds a warning to the requesting user, unless the API server would drop it for its length.
    pub(super) fn warn(&mut self, warning: &str) {
        let length: usize = self.warnings.iter().map(String::len).sum();
        if length < MOST_WARNED {
            self.warnings.push(clipped(warning));
        }
    }

    fn write<T: Serialize>(&mut self, operation: &Operation<'_, T>) {
        self.operations += 1;
        if self.too_large {
            return;
        }
        if self.json.is_empty() {
            self.json.reserve(USUAL_BYTES);
        } else {
            self.json.push(b',');
        }
        self.failed |= serde_json::to_writer(&mut self.json, operation).is_err();
        if self.json.len() > MOST_BYTES {
            self.too_large = true;
            self.json = Vec::new();
        }
    }
}

#[derive(Serialize)]
struct Operation<'a, T> {
    op: &'static str,
    path: &'a Pointer,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a T>,
}

/// Returns the path of a list of a container.
pub(super) fn at(placed: &Placed<'_, '_>, list: &str) -> PointerBuf {
    let mut path = PointerBuf::from_tokens(["spec", placed.list.as_str()]);
    path.push_back(placed.index);
    path.push_back(list);
    path
}

/// Maximum size of a patch, in bytes: etcd's default for `--max-request-bytes`. It stores no larger
/// object.
pub(super) const MOST_BYTES: usize = 1536 * 1024;
/// Maximum length of all warnings together that the API server passes on, in characters
/// (`truncateAtTotalRunes` in its `pkg/endpoints/filters/warning.go`).
const MOST_WARNED: usize = 4096;
/// Initial capacity of a patch, in bytes. A pod with one container takes 6 KiB.
const USUAL_BYTES: usize = 8 * 1024;
