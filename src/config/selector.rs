use std::{fmt, str::FromStr};

/// A label selector in a subset of kubectl's syntax: `key` (the label is set) and `key=value`,
/// joined by ',' if all must match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Requirement {
    key: String,
    value: Option<String>,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotASelector {
    #[error("a requirement is empty; expected key or key=value, joined by ','")]
    Empty,
    #[error("{0:?} is not key or key=value; use separate components instead of other operators")]
    Operator(String),
}

impl Selector {
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.0.iter().all(|Requirement { key, value }| match (label(key), value) {
            (Some(found), Some(wanted)) => found == wanted,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        })
    }

    /// Reports whether this selector names `value` as a value of the label `key`.
    pub(super) fn names(&self, key: &str, value: &str) -> bool {
        let mut requirements = self.0.iter().filter(|requirement| requirement.key == key);
        requirements
            .any(|requirement| requirement.value.as_deref().is_none_or(|named| named == value))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, value }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{key}")?;
            if let Some(value) = value {
                write!(f, "={value}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = NotASelector;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Requirement {
    type Err = NotASelector;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (key, value) = match s.trim().split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (s.trim(), None),
        };
        if key.is_empty() {
            return Err(NotASelector::Empty);
        }
        let stray = |text: &str| text.contains(|c: char| c.is_whitespace() || "!=()".contains(c));
        if stray(key) || value.as_deref().is_some_and(stray) {
            return Err(NotASelector::Operator(s.to_owned()));
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_matches_if_all_requirements_match() {
        let labels = [("app", "agent"), ("tier", "")];
        let label =
            |key: &str| labels.iter().find(|(name, _)| *name == key).map(|&(_, value)| value);
        let cases = [
            ("app", true),
            ("app=agent", true),
            ("app=agent,tier", true),
            ("tier=", true),
            ("app=", false),
            ("app=agents", false),
            ("app,none", false),
        ];
        for (text, want) in cases {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(label), want, "{text:?}");
            assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn a_selector_with_unsupported_syntax_is_rejected() {
        for text in ["", "a,", "=b", "!a", "a!=b", "a==b", "a in (b)", "a notin (b,c)"] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
