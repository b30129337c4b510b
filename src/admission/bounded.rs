//! Lists and maps of a pod, of which only a bounded part is read.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::json::{Each, TEXT, Text};

/// The items that the webhook acts on in a list that Kubernetes keys by `name`.
pub(super) struct Picked<T> {
    /// Index and item.
    items: Vec<(usize, T)>,
    /// Length of the complete list.
    length: usize,
    /// Whether the list has more such items than are read.
    too_many: bool,
}

/// An item of a list that [`Picked`] reads.
pub(super) trait Pick<'a>: Sized {
    /// Returns the item, or `None` if the webhook does not act on it.
    fn pick(raw: &'a RawValue) -> serde_json::Result<Option<Self>>;
}

/// A map of strings, in the order of the JSON.
pub(super) struct Pairs<'a> {
    first: Vec<(Text<'a>, Text<'a>)>,
    found: usize,
}

/// A list whose length alone is read.
#[derive(Default)]
pub(super) struct AnyList {
    pub(super) length: usize,
}

impl<T> Picked<T> {
    /// Returns the limit that the list exceeds, and the words for the items that it counts.
    pub(super) fn excess(&self, acted_on: usize) -> Option<(usize, &'static str)> {
        if self.length - self.items.len() > MOST_ITEMS {
            Some((MOST_ITEMS, ""))
        } else {
            let too_many = self.too_many || self.items.len() > acted_on;
            too_many.then_some((MOST_PICKED, " that the webhook acts on"))
        }
    }

    /// Returns the items to act on, with their indexes.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &T)> {
        self.items.iter().map(|(index, item)| (*index, item))
    }
}

impl<T> Default for Picked<T> {
    fn default() -> Self {
        Self { items: Vec::new(), length: 0, too_many: false }
    }
}

impl Pairs<'_> {
    /// Returns the limit that the map exceeds.
    pub(super) fn excess(&self) -> Option<(usize, &'static str)> {
        (self.found > MOST_ITEMS).then_some((MOST_ITEMS, ""))
    }

    pub(super) fn find(&self, key: &str) -> Option<&str> {
        self.first.iter().find(|(name, _)| **name == *key).map(|(_, value)| &**value)
    }
}

impl<'de, T: Pick<'de>> Deserialize<'de> for Picked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut picked = Self::default();
        let pick = |index, raw: &'de RawValue| {
            picked.length = index + 1;
            match T::pick(raw)? {
                None => {}
                Some(_) if picked.items.len() == MOST_PICKED + ADDED => picked.too_many = true,
                Some(item) => picked.items.push((index, item)),
            }
            Ok(())
        };
        deserializer.deserialize_any(Each(pick, PhantomData))?;
        Ok(picked)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfPairs;
        impl<'de> Visitor<'de> for OfPairs {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Pairs { first: Vec::new(), found: 0 };
                while let Some(pair) = map.next_entry()? {
                    pairs.found += 1;
                    if pairs.found <= MOST_ITEMS {
                        pairs.first.push(pair);
                    }
                }
                Ok(pairs)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfPairs)
    }
}

impl<'de> Deserialize<'de> for AnyList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut length = 0;
        let count = |index, _: IgnoredAny| {
            length = index + 1;
            Ok(())
        };
        deserializer.deserialize_any(Each(count, PhantomData))?;
        Ok(Self { length })
    }
}

/// Maximum number of items in one list that the webhook acts on. It acts on some 50 names, and an
/// ordinary list repeats none of them.
pub(super) const MOST_PICKED: usize = 128;
/// Maximum number of items that the webhook itself adds to a list. They are present at a
/// reinvocation.
pub(super) const ADDED: usize = 32;
/// Maximum length of the lists of labels, annotations, node selector entries and volumes, and of
/// the variables and mounts of a container, not counting the items that the webhook acts on.
///
/// Kubernetes has no such limits. But the API server's time for an expression of the guard that
/// iterates a list grows with the square of its length, since it searches a complete stack at each
/// step (`refValStack.drop` in cel-go's `interpreter/runtimecost.go`, 0.29). The guard's limit is
/// the sum of [`MOST_PICKED`], [`ADDED`] and this number.
pub(super) const MOST_ITEMS: usize = 1024;
