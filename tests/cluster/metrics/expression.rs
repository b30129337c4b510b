//! Selectors of a PromQL expression.

/// Returns the selectors of a valid expression, such as `up{job="a"}`.
pub(crate) fn selectors(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_alphabetic() || first == '_' {
            let (name, after) = split_where(rest, |c| !(c.is_ascii_alphanumeric() || c == '_'));
            let after = after.trim_start();
            rest = match (name, after.chars().next()) {
                ("by" | "without" | "on" | "ignoring", _) => past(after, ')'),
                ("and" | "bool" | "offset" | "or" | "unless", _) => after,
                // A function, or an aggregation.
                (_, Some('(')) => after,
                _ if after.starts_with("by ") || after.starts_with("without ") => after,
                (_, Some('{')) => {
                    let after_labels = past(after, '}');
                    let labels = &after[..after.len() - after_labels.len()];
                    found.push(format!("{name}{labels}"));
                    after_labels
                }
                _ => {
                    found.push(name.to_owned());
                    after
                }
            };
        } else if first.is_ascii_digit() {
            // A number, with the unit of a duration.
            rest = split_where(rest, |c| !(c.is_ascii_alphanumeric() || c == '.')).1;
        } else if first == '[' {
            rest = past(rest, ']');
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

fn split_where(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// Returns the text after the first `bracket`. Label values contain no brackets.
fn past(text: &str, bracket: char) -> &str {
    text.split_once(bracket).unwrap().1
}

#[test]
fn the_series_of_an_expression_are_found() {
    let cases: [(&str, &[&str]); 5] = [
        ("absent(a_ready == 1)", &["a_ready"]),
        (
            r#"sum by (code, b) (increase(a_total{mode="x",code=~"p|q"}[5m])) > 0"#,
            &[r#"a_total{mode="x",code=~"p|q"}"#],
        ),
        (
            r#"sum(a{b="c"} unless d offset 1h) > 0 or (e > 0) - time() < 7 * 86400"#,
            &[r#"a{b="c"}"#, "d", "e"],
        ),
        ("histogram_quantile(0.99, sum by (le) (rate(a_bucket[1m30s])))", &["a_bucket"]),
        ("1e3 + 2", &[]),
    ];
    for (expression, want) in cases {
        assert_eq!(selectors(expression), want, "{expression}");
    }
}
