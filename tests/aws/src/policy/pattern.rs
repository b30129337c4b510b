//! Wildcards and policy variables.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html>

use super::{Action, Context, Key, NotAPolicy, Vocabulary};

/// Text in which `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Glob(Vec<Token>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Token {
    Any,
    Literal(char),
    One,
}

/// A value in a policy, with variables `${key}` and `${key, 'default'}` from the context of the
/// request.
#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Variable { key: Key, default: Option<String> },
}

impl Glob {
    pub(super) fn read(text: &str) -> Self {
        Self(text.chars().map(Token::wild).collect())
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        matches(&self.0, &text)
    }
}

impl Token {
    fn wild(c: char) -> Self {
        match c {
            '*' => Self::Any,
            '?' => Self::One,
            c => Self::Literal(c),
        }
    }
}

impl Template {
    /// Parses a resource, which can have variables of the principal only.
    pub(super) fn read(text: &str) -> Result<Self, NotAPolicy> {
        Self::read_with(text, &Vocabulary::default())
    }

    pub(super) fn read_with(text: &str, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            let refused = || NotAPolicy::Shape { element: "a variable", found: text.to_owned() };
            let (inner, after) = behind.split_once('}').ok_or_else(refused)?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(match inner.split_once(',') {
                None => Part::Variable { key: Key::read(inner.trim(), vocabulary)?, default: None },
                Some((key, default)) => {
                    let key = Key::read(key.trim(), vocabulary)?;
                    let quoted = default.trim();
                    let bare = quoted.strip_prefix('\'').and_then(|it| it.strip_suffix('\''));
                    Part::Variable { key, default: Some(bare.ok_or_else(refused)?.to_owned()) }
                }
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// Returns the pattern with its variables replaced, or None if a variable has neither a value
    /// nor a default. A `*` in the value of a variable is not a wildcard.
    pub(super) fn glob(&self, action: Action, context: &Context) -> Option<Glob> {
        self.fill(action, context, Token::wild).map(Glob)
    }

    /// Returns the text with its variables replaced, for comparisons without wildcards.
    pub(super) fn text(&self, action: Action, context: &Context) -> Option<String> {
        let tokens = self.fill(action, context, Token::Literal)?;
        let literal = |token: &Token| match token {
            Token::Literal(c) => *c,
            Token::Any => '*',
            Token::One => '?',
        };
        Some(tokens.iter().map(literal).collect())
    }

    fn fill(
        &self,
        action: Action,
        context: &Context,
        token: impl Fn(char) -> Token,
    ) -> Option<Vec<Token>> {
        let mut tokens = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => tokens.extend(text.chars().map(&token)),
                Part::Variable { key, default } => {
                    let value = context.one(key, action).or(default.as_deref())?;
                    tokens.extend(value.chars().map(Token::Literal));
                }
            }
        }
        Some(tokens)
    }
}

/// Returns whether text matches. Backtracking to the last `*` is enough, since an earlier one need
/// not match more.
fn matches(tokens: &[Token], text: &[char]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while let Some(c) = text.get(read) {
        match tokens.get(at) {
            Some(Token::Any) => {
                star = Some((at, read));
                at += 1;
            }
            Some(Token::One) => (at, read) = (at + 1, read + 1),
            Some(Token::Literal(literal)) if literal == c => (at, read) = (at + 1, read + 1),
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (at, read) = (star_at + 1, taken + 1);
            }
        }
    }
    tokens.get(at..).is_some_and(|rest| rest.iter().all(|token| *token == Token::Any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_iam() {
        let cases = [
            ("agent.acme.*", "agent.acme.s", true),
            ("agent.acme.*", "agent.acme2.s", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*c", "abxbc", true),
            ("*b*c", "abxb", false),
            ("abc", "abcd", false),
        ];
        for (glob, text, want) in cases {
            assert_eq!(Glob::read(glob).matches(text), want, "{glob:?} {text:?}");
        }
    }

    #[test]
    fn variables_are_replaced_as_text() {
        let mut context = Context::default();
        context.set(Key::PrincipalTag("ns".to_owned()), "team-*");
        let cases = [
            ("${aws:PrincipalTag/ns}", Some("team-*")),
            ("x-${aws:PrincipalTag/NS}-y", Some("x-team-*-y")),
            ("${aws:PrincipalTag/other}", None),
            ("${aws:PrincipalTag/other, 'none'}", Some("none")),
        ];
        for (text, want) in cases {
            let template = Template::read(text).unwrap();
            let filled = template.text(Action::AssumeRole, &context);
            assert_eq!(filled.as_deref(), want, "{text:?}");
        }
        let glob = Template::read("${aws:PrincipalTag/ns}").unwrap();
        let glob = glob.glob(Action::AssumeRole, &context).unwrap();
        assert!(glob.matches("team-*") && !glob.matches("team-a"));
        for text in ["${aws:Nope}", "${aws:PrincipalTag/ns", "${aws:PrincipalTag/ns, none}"] {
            assert!(Template::read(text).is_err(), "{text:?}");
        }
    }
}
