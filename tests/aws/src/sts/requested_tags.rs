//! The session tags that a call or a web identity token requests.

use super::{Form, parameters::Broken};
use crate::{
    failure::{Code, Failure},
    tags::{Tag, Tags},
};

pub(super) fn read(form: &Form) -> Result<Tags, Failure> {
    let (keys, values) = (form.members("Tags", ".Key"), form.members("Tags", ".Value"));
    let pairs: Vec<_> = keys.into_iter().zip(values).collect();
    let transitive = form.members("TransitiveTagKeys", "");
    check(&pairs, &transitive.into_iter().flatten().collect::<Vec<_>>())
}

/// Returns the tags, if they are valid. A missing key or value is None.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html#id_session-tags_operations>
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags.html#id_tags_rules>
pub(super) fn check(
    pairs: &[(Option<&str>, Option<&str>)],
    transitive: &[&str],
) -> Result<Tags, Failure> {
    let mut broken = Broken::default();
    for (member, count) in [("tags", pairs.len()), ("transitiveTagKeys", transitive.len())] {
        if count > 50 {
            broken.add(
                Some(&count.to_string()),
                member,
                "Member must have length less than or equal to 50",
            );
        }
    }
    let mut tags = Tags::default();
    for (index, (key, value)) in pairs.iter().enumerate() {
        let member = |part: &str| format!("tags.{}.member.{part}", index + 1);
        let (Some(key), Some(value)) = (key, value) else {
            broken.add(None, &member("key"), "Member must not be null");
            continue;
        };
        broken.length(&member("key"), Some(key), 1, 128);
        broken.length(&member("value"), Some(value), 0, 256);
        for (part, text) in [("key", key), ("value", value)] {
            if !text.chars().all(is_legal_in_a_tag) {
                let rule = "Member must satisfy regular expression pattern: [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]+";
                broken.add(Some(text), &member(part), rule);
            }
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid_parameter("The tag key prefix aws: is reserved for internal use"));
        }
        if tags.find(key).is_some() {
            return Err(invalid_parameter(
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
            ));
        }
        let transitive = transitive.iter().any(|name| name.eq_ignore_ascii_case(key));
        tags.add(Tag { key: (*key).to_owned(), value: (*value).to_owned(), transitive });
    }
    broken.into_failure()?;
    if transitive.iter().any(|name| tags.find(name).is_none()) {
        return Err(invalid_parameter(
            "The specified transitive tag key must be included in the requested tags.",
        ));
    }
    Ok(tags)
}

pub(super) fn invalid_parameter(sentence: &str) -> Failure {
    Failure::new(Code::InvalidParameterValue, sentence)
}

fn is_legal_in_a_tag(c: char) -> bool {
    c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requested_tags_have_limits() {
        let many = |count: usize| -> String {
            let one =
                |index| format!("Tags.member.{index}.Key=k{index}&Tags.member.{index}.Value=");
            (1..=count).map(one).collect::<Vec<_>>().join("&")
        };
        let one = |key: &str| format!("Tags.member.1.Key={key}&Tags.member.1.Value=v");
        let valued = |value: String| format!("Tags.member.1.Key=k&Tags.member.1.Value={value}");
        let with = |more: &str| format!("{}&{more}", one("a"));
        let cases = [
            (String::new(), None),
            (many(50), None),
            (many(51), Some("less than or equal to 50")),
            (one(&"k".repeat(128)), None),
            (one(&"k".repeat(129)), Some("less than or equal to 128")),
            (one(""), Some("greater than or equal to 1")),
            (valued("v".repeat(256)), None),
            (valued("v".repeat(257)), Some("less than or equal to 256")),
            (one("a*b"), Some("pattern")),
            (one("\u{e4} b"), None),
            (one("AWS:x"), Some("reserved")),
            ("Tags.member.1.Key=a".to_owned(), Some("must not be null")),
            (with("TransitiveTagKeys.member.1=A"), None),
            (with("TransitiveTagKeys.member.1=b"), Some("transitive tag key")),
            (with("Tags.member.2.Key=b&Tags.member.2.Value="), None),
            (with("Tags.member.2.Key=A&Tags.member.2.Value="), Some("Duplicate tag keys")),
        ];
        for (text, want) in cases {
            let form = Form(form_urlencoded::parse(text.as_bytes()).into_owned().collect());
            match (read(&form), want) {
                (Ok(_), None) => {}
                (Err(failure), Some(want)) => {
                    assert!(failure.sentence.contains(want), "{text}: {}", failure.sentence);
                }
                (found, want) => panic!("{text}: {found:?}, not {want:?}"),
            }
        }
    }
}
