use json_patch::jsonptr::PointerBuf;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{operations::Patch, same::is};

/// The edit of a JSON list, by the indexes of the original list.
pub(super) struct ListEdit<T> {
    pub(super) replaced: Vec<(usize, T)>,
    pub(super) removed: Vec<usize>,
    pub(super) appended: Vec<T>,
    /// Items before all others, in this order.
    pub(super) prepended: Vec<T>,
}

impl<T: Serialize> ListEdit<T> {
    /// Replaces an item that differs from the wanted one.
    pub(super) fn put(&mut self, index: usize, found: &RawValue, wanted: T) {
        if !is(found, &wanted) {
            self.replaced.push((index, wanted));
        }
    }

    /// Writes the operations on the list, or the complete list if it does not exist.
    ///
    /// Replacements come first, and removals start at the end, so that each index still refers to
    /// the item of the original list.
    pub(super) fn write(self, at: PointerBuf, exists: bool, patch: &mut Patch) {
        let Self { replaced, mut removed, appended, prepended } = self;
        if !exists {
            let items: Vec<T> = prepended.into_iter().chain(appended).collect();
            if !items.is_empty() {
                patch.add(&at, &items);
            }
            return;
        }
        for (index, value) in replaced {
            patch.replace(&at.with_trailing_token(index), &value);
        }
        removed.sort_unstable();
        for index in removed.into_iter().rev() {
            patch.remove(&at.with_trailing_token(index));
        }
        for value in appended {
            patch.add(&at.with_trailing_token("-"), &value);
        }
        for value in prepended.into_iter().rev() {
            patch.add(&at.with_trailing_token(0), &value);
        }
    }
}

impl<T> Default for ListEdit<T> {
    fn default() -> Self {
        Self {
            replaced: Vec::new(),
            removed: Vec::new(),
            appended: Vec::new(),
            prepended: Vec::new(),
        }
    }
}
