//! Escapes foreign text for terminals, outputs for programs, and logs.

use std::{borrow::Cow, fmt::Write};

/// Returns the text in one line, with every character escaped that a terminal would interpret as a
/// command. An attacker may have written an event, a label or a response to be printed.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_command) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_command(c) { c.escape_default().to_string() } else { c.into() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Returns the output with DEL, and each character beyond ASCII that a terminal would interpret as
/// a command, as its `\u` escape.
///
/// The value of JSON stays the same: outside of strings JSON is ASCII without DEL, and in a string
/// `\u` and four digits are the character. The same is true for double-quoted strings of YAML and
/// Terraform. Line breaks and colour codes are left unchanged.
pub fn in_escapes(output: &str) -> Cow<'_, str> {
    // Most outputs have only ASCII without DEL; a search by bytes is fast.
    if output.bytes().all(|byte| byte < DEL) || !output.chars().any(is_unescaped) {
        return Cow::Borrowed(output);
    }
    let mut escaped = String::with_capacity(output.len() + 64);
    for c in output.chars() {
        if is_unescaped(c) {
            // Writing to a String cannot fail. Each of these characters has at most four digits.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Reports whether a JSON serializer writes this character unescaped, and a terminal interprets it
/// as a command.
pub fn is_unescaped(c: char) -> bool {
    u32::from(c) >= u32::from(DEL) && is_command(c)
}

/// Reports whether this is a control character, or one that changes the text direction.
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
    fn escaped_json_keeps_its_value() {
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
    fn only_terminal_commands_are_escaped() {
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
