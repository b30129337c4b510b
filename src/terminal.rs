//! Text of others on a terminal.

use std::borrow::Cow;

/// The text in one line, with every character escaped that a terminal would take for a command:
/// an event, a label or an answer may have been written to be shown.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_command) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_command(c) { c.escape_default().to_string() } else { c.into() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Control characters, and those that turn the direction of writing.
/// <https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters>
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

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
