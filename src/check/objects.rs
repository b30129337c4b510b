//! The objects of a list, as text: tenants decide how many they are and what they contain.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::json::Json;

/// A list of objects, which takes the memory of its JSON.
#[derive(Clone, Debug, Default)]
pub struct Objects(Vec<Page>);

/// A part of the list, with objects of one kind.
#[derive(Clone, Debug)]
struct Page {
    kind: String,
    items: Box<RawValue>,
}

impl Objects {
    /// Returns a list of objects of one kind.
    pub fn of<T: Serialize>(kind: &str, objects: &[T]) -> Self {
        // Objects from JSON can be written as JSON.
        let items = to_raw_value(objects).unwrap_or_default();
        Self(vec![Page { kind: kind.to_owned(), items }])
    }

    /// Adds a response of the API server. Returns the token of the next page, or None after the
    /// last one.
    pub fn add(&mut self, response: &[u8]) -> serde_json::Result<Option<String>> {
        let page: &RawValue = serde_json::from_slice(response)?;
        let page = Json::from(page);
        // Items of a list have no kind of their own.
        let kind = page.at("kind").string().unwrap_or_default();
        let kind = kind.strip_suffix("List").unwrap_or_default().to_owned();
        self.0.push(Page { kind, items: page.at("items").raw().to_owned() });
        let next = page.at("metadata").at("continue").string();
        Ok(next.filter(|token| !token.is_empty()).map(Cow::into_owned))
    }

    pub fn iter(&self) -> impl Iterator<Item = Json<'_>> {
        self.0.iter().flat_map(|page| Json::from(&*page.items).items())
    }

    /// Returns the objects of one kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = Json<'_>> {
        let pages = self.0.iter().filter(move |page| page.kind == kind);
        pages.flat_map(|page| Json::from(&*page.items).items())
    }

    /// Returns both lists as one.
    pub fn beside(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// Returns the name of an object.
pub(super) fn name(object: Json<'_>) -> Cow<'_, str> {
    object.at("metadata").at("name").string().unwrap_or_default()
}
