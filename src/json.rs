//! Readers of untrusted JSON. They build no tree, and copy no string into an error.

mod view;

use std::{borrow::Cow, collections::HashSet, fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

pub use self::view::Json;

/// A struct that is read only from a JSON object. serde's derived code also reads it from a list,
/// by the order of the fields.
#[derive(Default)]
pub(crate) struct Object<T>(pub(crate) T);

/// A JSON string, borrowed if it has no escapes.
#[derive(Default)]
pub(crate) struct Text<'a>(Cow<'a, str>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfObject(PhantomData))
    }
}

/// A JSON text in which no object has a key twice, in upper or lower case. Readers differ in which
/// of the two they take.
pub(crate) struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfAny;
        impl<'de> Visitor<'de> for OfAny {
            type Value = Unambiguous;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unambiguous, A::Error> {
                let mut keys = HashSet::new();
                while let Some((key, Unambiguous)) = map.next_entry::<String, Unambiguous>()? {
                    if !keys.insert(key.to_lowercase()) {
                        return Err(A::Error::custom("an object has a key twice"));
                    }
                }
                Ok(Unambiguous)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unambiguous, A::Error> {
                while let Some(Unambiguous) = list.next_element()? {}
                Ok(Unambiguous)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_unit<E>(self) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }
        }
        deserializer.deserialize_any(OfAny)
    }
}

/// A boolean or an integer. serde's own implementations copy a string that they find instead into
/// their error, at any length.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Scalar<T>(pub(crate) T);

impl<'de> Deserialize<'de> for Scalar<bool> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfBool;
        impl Visitor<'_> for OfBool {
            type Value = Scalar<bool>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Scalar(value))
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfBool)
    }
}

impl<'de> Deserialize<'de> for Scalar<i64> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfNumber;
        impl Visitor<'_> for OfNumber {
            type Value = Scalar<i64>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                i64::try_from(value).map(Scalar).map_err(E::custom)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfNumber)
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText;
        impl<'de> Visitor<'de> for OfText {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(OfText)
    }
}

/// Calls a function for each item of a list, and keeps no item.
pub(crate) struct Each<F, T>(pub(crate) F, pub(crate) PhantomData<T>);

impl<'de, T, F> Visitor<'de> for Each<F, T>
where
    T: Deserialize<'de>,
    F: FnMut(usize, T) -> serde_json::Result<()>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(item) = items.next_element()? {
            (self.0)(index, item).map_err(A::Error::custom)?;
            index += 1;
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(TEXT))
    }
}

pub(crate) fn each<'a, T: Deserialize<'a>>(
    list: &'a RawValue,
    f: impl FnMut(usize, T) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    serde_json::Deserializer::from_str(list.get()).deserialize_any(Each(f, PhantomData))
}

/// Reads null as absent, as Kubernetes does.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Error for a string in place of another type. The messages of serde and serde_json contain the
/// complete string. serde_json writes its own error for all calls except `deserialize_any`.
pub(crate) const TEXT: &str = "found a string, expected another type";
