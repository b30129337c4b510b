//! Checks whether the controls of the platform reach the session role: the tags by which it meters
//! and filters calls, and the permissions boundary. Both are those of the base role.

use super::{CheckId, Findings, iam_policy::tags_that_deny, iam_role::Held};

pub(super) fn check_controls(subject: &str, base: &Held, session: &Held, found: &mut Findings) {
    // A tag that suspends the tenant is one of the base role only.
    let suspending = tags_that_deny(&session.trust);
    let is_compared = |key: &str| {
        let mut others = [NAME].into_iter().chain(suspending.iter().map(String::as_str));
        !key.starts_with(OF_AWS) && !others.any(|other| key.eq_ignore_ascii_case(other))
    };
    let mut wrong = Vec::new();
    for (key, value) in base.tags.iter().filter(|(key, _)| is_compared(key)) {
        // IAM compares keys without regard to case.
        let own = session.tags.iter().find(|(own, _)| own.eq_ignore_ascii_case(key));
        match own.map(|(_, value)| value) {
            Some(own) if own == value => {}
            Some(own) => wrong.push(format!("has the tag {key}={own} instead of {value}")),
            None => wrong.push(format!("lacks the tag {key}={value}")),
        }
    }
    if let Some(boundary) = &base.boundary {
        match &session.boundary {
            Some(own) if own.name() == boundary.name() => {}
            Some(own) => wrong.push(format!("has the permissions boundary {}", own.arn)),
            None => wrong.push("has no permissions boundary".to_owned()),
        }
    }
    if wrong.is_empty() {
        let message = "the session role has its tags and permissions boundary";
        found.ok(CheckId::SessionRoleControls, subject, message);
        return;
    }
    let boundary =
        base.boundary.as_ref().map(|boundary| format!("; the boundary is {}", boundary.arn));
    let message = format!("the session role {}{}", wrong.join(", "), boundary.unwrap_or_default());
    found.warning(CheckId::SessionRoleControls, subject, message);
}

/// Tags that only AWS sets, such as those of CloudFormation.
const OF_AWS: &str = "aws:";
/// Tag that the console shows as the name.
const NAME: &str = "Name";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        check::{Boundary, Level},
        revocation::Revoked,
    };

    fn held(tags: &[(&str, &str)], boundary: Option<&str>, trust: Value) -> Held {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let boundary = boundary.map(|arn| Boundary { arn: arn.to_owned(), document: Value::Null });
        Held {
            boundary,
            longest_session: Duration::from_secs(3600),
            policies: Vec::new(),
            revoked: Ok(Revoked::default()),
            tags: tags.collect(),
            trust,
        }
    }

    #[test]
    fn tags_and_boundary_of_the_base_role_are_compared() {
        const BOUNDARY: &str = "arn:aws:iam::111122223333:policy/b";
        let suspended = json!({"Statement": {
            "Effect": "Allow",
            "Condition": {"Null": {"aws:PrincipalTag/Suspended": "true"}},
        }});
        let platform = [("PlatformId", "p"), ("Name", "base"), ("aws:x", "y"), ("suspended", "")];
        let cases = [
            (held(&[], None, Value::Null), held(&[], None, Value::Null), None),
            (
                held(&platform, Some(BOUNDARY), Value::Null),
                held(&platform[..1], Some("arn:aws:iam::444455556666:policy/b"), suspended.clone()),
                None,
            ),
            (
                held(&platform[..1], None, Value::Null),
                held(&[("PlatformId", "q")], None, Value::Null),
                Some("the session role has the tag PlatformId=q instead of p"),
            ),
            (
                held(&platform[..1], Some(BOUNDARY), Value::Null),
                held(&[], None, suspended),
                Some(
                    "the session role lacks the tag PlatformId=p, has no permissions boundary; the boundary is arn:aws:iam::111122223333:policy/b",
                ),
            ),
            (
                held(&platform[3..], None, Value::Null),
                held(&[], None, Value::Null),
                Some("the session role lacks the tag suspended="),
            ),
        ];
        for (base, session, want) in cases {
            let mut found = Findings::default();
            check_controls("s", &base, &session, &mut found);
            let [finding] = &found.iter().collect::<Vec<_>>()[..] else { panic!("{found:?}") };
            let level = if want.is_some() { Level::Warning } else { Level::Ok };
            assert_eq!(finding.level, level, "{finding}");
            if let Some(want) = want {
                assert_eq!(finding.message, want);
            }
        }
    }
}
