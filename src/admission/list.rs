use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use super::patch::Patch;

/// What becomes of a JSON list, in terms of the indexes that it came with.
#[derive(Default)]
pub(super) struct ListEdit {
    pub(super) replaced: Vec<(usize, Value)>,
    pub(super) removed: Vec<usize>,
    pub(super) appended: Vec<Value>,
    pub(super) prepended: Option<Value>,
}

impl ListEdit {
    /// Replaces an item that is not as wanted.
    pub(super) fn put(&mut self, index: usize, found: &Value, wanted: Value) {
        if *found != wanted {
            self.replaced.push((index, wanted));
        }
    }

    /// Replacements come first and removals from the end, so that each index still means
    /// what it meant in the list that came.
    pub(super) fn write(self, at: PointerBuf, exists: bool, patch: &mut Patch) {
        let Self { replaced, mut removed, appended, prepended } = self;
        if !exists {
            let items: Vec<Value> = prepended.into_iter().chain(appended).collect();
            if !items.is_empty() {
                patch.add(at, Value::Array(items));
            }
            return;
        }
        for (index, value) in replaced {
            patch.replace(at.with_trailing_token(index), value);
        }
        removed.sort_unstable();
        for index in removed.into_iter().rev() {
            patch.remove(at.with_trailing_token(index));
        }
        for value in appended {
            patch.add(at.with_trailing_token("-"), value);
        }
        if let Some(value) = prepended {
            patch.add(at.with_trailing_token(0), value);
        }
    }
}
