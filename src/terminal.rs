//! Text of others on a terminal, in outputs for programs, and in logs.

use std::{borrow::Cow, fmt::Write};

/// The text in one line, with every character escaped that a terminal would take for a command:
/// an event, a label or an answer may have been written to be shown.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_command) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_command(c) { c.escape_default().to_string() } else { c.into() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Returns the output with each character beyond ASCII that a terminal would take for a command,
/// and DEL, as its `\u` escape.
///
/// The value of JSON stays the same: outside of strings JSON is ASCII without DEL, and in a string
/// `\u` and four digits are the character. The same is true of YAML's double-quoted strings and of
/// Terraform's. Line breaks and the colours of our own stay as they are.
pub fn in_escapes(output: &str) -> Cow<'_, str> {
    // Nearly every output has none, and is only looked through for its bytes.
    if output.bytes().all(|byte| byte < DEL) || !output.chars().any(is_unescaped) {
        return Cow::Borrowed(output);
    }
    let mut escaped = String::with_capacity(output.len() + 64);
    for c in output.chars() {
        if is_unescaped(c) {
            // Writing to a String does not fail, and each of them has at most four digits.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Reports whether a serializer of JSON leaves this character in a string as it is, and a terminal
/// obeys it.
pub fn is_unescaped(c: char) -> bool {
    u32::from(c) >= u32::from(DEL) && is_command(c)
}

/// Control characters, and those that turn the direction of writing.
/// <https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters>
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

const DEL: u8 = 0x7f;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_value_and_shows_no_command() {
        for c in (0..=0xffff).filter_map(char::from_u32) {
            let text = format!("\\{c}\"a{c}");
            let json = serde_json::json!({text.as_str(): [text]}).to_string();
            let escaped = in_escapes(&json);
            assert!(!escaped.chars().any(is_command), "{c:?}: {escaped}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
                serde_json::from_str::<serde_json::Value>(&json).unwrap(),
                "{c:?}: {escaped}"
            );
        }
        let harmless = "{\n  \"\u{1b}[1m\": \"ä 日本\"\n}";
        assert!(matches!(in_escapes(harmless), Cow::Borrowed(_)));
    }

    #[test]
    fn only_what_a_terminal_obeys_is_escaped() {
        let cases = [
            ("tenant acme: \"ä\" 日本", "tenant acme: \"ä\" 日本"),
            ("no\nok  guard", "no\\nok  guard"),
            ("\u{1b}[2J\u{9b}31m\r", "\\u{1b}[2J\\u{9b}31m\\r"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ];
        for (text, want) in cases {
            assert_eq!(harmless(text), want);
        }
    }
}
