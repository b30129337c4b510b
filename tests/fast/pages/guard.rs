//! The guard's messages, read from the chart's templates, the only place that contains them.

use std::fs;

/// A message of the guard. `…` replaces text of the request.
pub(crate) struct Denial {
    pub(crate) code: String,
    pub(crate) policy: String,
    pub(crate) sentence: String,
    pub(crate) remedy: String,
}

pub(crate) fn denials() -> Vec<Denial> {
    let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/fab-session-injector/templates");
    let read = |name: &str| fs::read_to_string(format!("{templates}/{name}")).unwrap();
    let template = ["guard.yaml", "_guard-issuer.tpl", "guard-sandboxes.yaml"].map(read).concat();
    let mut policy = "";
    let mut denials: Vec<Denial> = Vec::new();
    let lines: Vec<&str> = template.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if let Some(name) = line.strip_prefix("  name: ") {
            policy = name;
        }
        let text = without_helm(&message(line, &lines[index + 1..]));
        let is_plain = line.trim_start().starts_with("message: ");
        let said = if is_plain { text } else { literals(&text) };
        if !said.contains(" [guard-") {
            continue;
        }
        let (sentence, rest) = said.split_once(" [").unwrap();
        let (code, remedy) = rest.split_once("]: ").unwrap();
        // The fallback message of a messageExpression that fails.
        let is_listed = |denial: &Denial| denial.code == code && denial.policy == policy;
        if is_plain && denials.iter().any(is_listed) {
            continue;
        }
        denials.push(Denial {
            code: code.to_owned(),
            policy: policy.to_owned(),
            sentence: sentence.to_owned(),
            remedy: remedy.to_owned(),
        });
    }
    denials
}

/// Returns the message that begins in this line, or behind it: of a validation, or of a rule of
/// `refusal`, whose condition ends with `?` and whose message with `:`.
fn message(line: &str, rest: &[&str]) -> String {
    let rest = rest.iter().map(|line| line.trim());
    let line = line.trim_start();
    if line.ends_with(" ?") {
        let mut all: Vec<&str> = Vec::new();
        for line in rest {
            match line.strip_suffix(" :") {
                Some(last) => {
                    all.push(last);
                    break;
                }
                None => all.push(line),
            }
        }
        return all.join(" ");
    }
    let keys = ["message: ", "messageExpression: "];
    match keys.iter().find_map(|key| line.strip_prefix(key)) {
        Some("|-") => {
            let text = rest.take_while(|line| !line.starts_with("reason:"));
            text.collect::<Vec<_>>().join(" ")
        }
        Some(text) => text.trim_matches('\'').replace("''", "'"),
        None => String::new(),
    }
}

/// Returns the texts of a concatenation in CEL, with `…` for its other terms.
fn literals(expression: &str) -> String {
    let mut said = String::new();
    let (mut depth, mut in_text, mut in_term) = (0, false, false);
    let mut characters = expression.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, in_text) {
            ('\\', true) => {
                let escaped = characters.next().unwrap();
                if depth == 0 {
                    said.push(escaped);
                }
            }
            ('"', _) => {
                in_text = !in_text;
                in_term &= depth > 0;
            }
            (_, true) if depth == 0 => said.push(character),
            (_, true) => {}
            ('(' | '[', false) => depth += 1,
            (')' | ']', false) => depth -= 1,
            (' ' | '+', false) => {}
            (_, false) => {}
        }
        let is_term = !in_text && !" +\"".contains(character);
        if is_term && !in_term && !said.ends_with('…') {
            said.push('…');
            in_term = true;
        }
    }
    said
}

fn without_helm(text: &str) -> String {
    let mut parts = text.split("{{");
    let mut said = parts.next().unwrap().to_owned();
    for part in parts {
        said.push('…');
        said.push_str(part.split_once("}}").unwrap().1);
    }
    said
}
