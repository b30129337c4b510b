//! Compares JSON text with a value, without building a tree of the text: the text is untrusted
//! input, and a tree may take a hundred times its length.

use std::fmt;

use serde::{
    Deserializer, Serialize,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::json::Text;

/// Returns whether `text` is equal to `wanted` as JSON. The order of an object's keys does not
/// matter. An object with a repeated key is never equal.
pub(super) fn is(text: &RawValue, wanted: &impl Serialize) -> bool {
    let Ok(wanted) = serde_json::to_value(wanted) else { return false };
    let mut text = serde_json::Deserializer::from_str(text.get());
    Same(&wanted).deserialize(&mut text).is_ok()
}

/// Reads one value and fails at the first difference.
struct Same<'v>(&'v Value);

impl Same<'_> {
    fn scalar<E: Error>(&self, found: Value) -> Result<(), E> {
        if *self.0 == found { Ok(()) } else { Err(differs()) }
    }
}

impl<'de> DeserializeSeed<'de> for Same<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Same<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the same value")
    }

    fn visit_bool<E: Error>(self, found: bool) -> Result<(), E> {
        self.scalar(found.into())
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<(), E> {
        self.scalar(found.into())
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<(), E> {
        self.scalar(found.into())
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<(), E> {
        self.scalar(found.into())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(Value::Null)
    }

    fn visit_str<E: Error>(self, found: &str) -> Result<(), E> {
        if self.0.as_str() == Some(found) { Ok(()) } else { Err(differs()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Value::Array(wanted) = self.0 else { return Err(differs()) };
        for value in wanted {
            items.next_element_seed(Same(value))?.ok_or_else(differs)?;
        }
        // A longer list differs.
        match items.next_element_seed(Nothing)? {
            Some(()) => Err(differs()),
            None => Ok(()),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Value::Object(wanted) = self.0 else { return Err(differs()) };
        let mut seen = vec![false; wanted.len()];
        while let Some(key) = entries.next_key::<Text<'_>>()? {
            let found = wanted.iter().zip(&mut seen).find(|((name, _), _)| **name == *key);
            let ((_, value), seen) = found.ok_or_else(differs)?;
            if std::mem::replace(seen, true) {
                return Err(differs());
            }
            entries.next_value_seed(Same(value))?;
        }
        if seen.contains(&false) { Err(differs()) } else { Ok(()) }
    }
}

/// Fails on any value without reading it.
struct Nothing;

impl<'de> DeserializeSeed<'de> for Nothing {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(differs())
    }
}

fn differs<E: Error>() -> E {
    E::custom("it differs")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_compared_like_parsed_json() {
        let texts = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "-1",
            "1.5",
            "1e2",
            r#""""#,
            r#""a""#,
            r#""\u0061""#,
            "[]",
            "[1]",
            "[1,2]",
            "[[1]]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":1,"b":[true,null]}"#,
            r#"{"b":[true,null],"a":1}"#,
            r#"{"a":{"b":"c"}}"#,
            r#"{"\u0061":1}"#,
            "18446744073709551615",
        ];
        for text in texts {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            for wanted in texts.map(|text| serde_json::from_str::<Value>(text).unwrap()) {
                let tree: Value = serde_json::from_str(text).unwrap();
                assert_eq!(is(raw, &wanted), tree == wanted, "{text} and {wanted}");
            }
        }
    }

    #[test]
    fn an_object_with_a_repeated_key_differs() {
        let wanted = json!({"a": 1, "b": 2});
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"a":1}"#, r#"{"a":1,"b":2,"c":3}"#] {
            assert!(!is(serde_json::from_str(text).unwrap(), &wanted), "{text}");
        }
        assert!(is(serde_json::from_str(r#" {"b":2, "a":1} "#).unwrap(), &wanted));
    }
}
