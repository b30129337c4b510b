//! Values of a JSON text, read in place.

use std::{borrow::Cow, fmt, iter};

use serde::{
    Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::Text;

/// A JSON value, read in place: the text is untrusted input, and a tree may take a hundred times
/// its length.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    /// Returns the value of a key of an object; of a repeated key the last one. Null if there is
    /// none. It reads the text to its end, as [`Self::members`] does for several keys.
    pub fn at(self, key: &str) -> Self {
        let [value] = self.members([key]);
        value
    }

    /// Returns the values of several keys of an object, each as [`Self::at`] does.
    pub fn members<const N: usize>(self, keys: [&str; N]) -> [Self; N] {
        let found = serde_json::Deserializer::from_str(self.text()).deserialize_any(Members(keys));
        found.unwrap_or([RawValue::NULL; N]).map(Self)
    }

    /// Returns the items of a list. Empty for another value.
    pub fn items(self) -> impl Iterator<Item = Self> {
        let mut rest = self.text().strip_prefix('[').unwrap_or_default();
        iter::from_fn(move || {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter();
            let value = values.next()?.ok()?;
            rest = rest[values.byte_offset()..].trim_start();
            rest = rest.strip_prefix(',').unwrap_or_default();
            Some(Self(value))
        })
    }

    /// Returns the value of a string.
    pub fn string(self) -> Option<Cow<'a, str>> {
        serde_json::from_str(self.text()).ok().map(|Text(string)| string)
    }

    pub fn is_object(self) -> bool {
        self.text().starts_with('{')
    }

    pub fn is_list(self) -> bool {
        self.text().starts_with('[')
    }

    /// Returns the text of the value, without spaces around it.
    pub fn text(self) -> &'a str {
        self.0.get()
    }

    /// Parses the whole value. For a trusted one only.
    pub fn tree(self) -> Value {
        serde_json::from_str(self.text()).unwrap_or_default()
    }

    pub fn raw(self) -> &'a RawValue {
        self.0
    }
}

impl<'a> From<&'a RawValue> for Json<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Self(raw)
    }
}

/// Finds the values of keys.
struct Members<'k, const N: usize>([&'k str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [&'de RawValue; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut found = [RawValue::NULL; N];
        while let Some(key) = entries.next_key::<Text<'_>>()? {
            let value = entries.next_value()?;
            if let Some(index) = self.0.iter().position(|wanted| **wanted == *key) {
                found[index] = value;
            }
        }
        Ok(found)
    }

    /// The default method copies the string into its error.
    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok([RawValue::NULL; N])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 16] = [
        "null",
        "true",
        "-1.5e3",
        r#""""#,
        r#""a\"\u00e9\n""#,
        "[]",
        "[ ]",
        "[1,2]",
        " [ 1 , \"a,]\" , [ [ ] , 2 ] , { \"a\" : 1 } , null ] ",
        "{}",
        "{ }",
        r#"{"a":1,"b":2}"#,
        r#"{"\u0061":[1]}"#,
        r#"{"a":1,"a":"2"}"#,
        r#" { "b" : { "a" : [ ] } , "a" : { "b" : 3 } } "#,
        r#"[{"a":[{"a":true}]}]"#,
    ];

    fn is_same(json: Json<'_>, tree: &Value) {
        assert_eq!(json.tree(), *tree);
        assert_eq!(json.string().as_deref(), tree.as_str());
        assert_eq!(json.is_object(), tree.is_object());
        assert_eq!(json.is_list(), tree.is_array());
        for key in ["a", "b", "c"] {
            let value = json.at(key);
            assert_eq!(json.members(["x", key])[1].text(), value.text());
            assert_eq!(value.tree(), tree[key], "{key} of {tree}");
            if tree[key].is_object() || tree[key].is_array() {
                is_same(value, &tree[key]);
            }
        }
        let items: Vec<Json<'_>> = json.items().collect();
        let wanted = tree.as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(items.len(), wanted.len(), "{tree}");
        for (item, wanted) in items.into_iter().zip(wanted) {
            is_same(item, wanted);
        }
    }

    #[test]
    fn json_in_place_has_the_values_of_its_tree() {
        for text in TEXTS {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            is_same(raw.into(), &serde_json::from_str(text).unwrap());
        }
    }

    #[test]
    fn deeply_nested_json_can_be_read() {
        let text = format!("{{\"a\":{}{},\"b\":1}}", "[".repeat(9999), "]".repeat(9999));
        let raw: &RawValue = serde_json::from_str(&text).unwrap();
        let json = Json::from(raw);
        assert_eq!(json.at("b").text(), "1");
        assert_eq!(json.at("a").items().count(), 1);
    }
}
