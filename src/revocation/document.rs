//! The policy document of revoked sessions.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::{Value, json};

use super::Revoked;
use crate::session::SourceIdentity;

impl Revoked {
    /// Returns the policy document. It must not be empty: IAM accepts no policy without statements.
    pub fn document(&self) -> Value {
        let mut by_mark: BTreeMap<Option<Timestamp>, Vec<&str>> = BTreeMap::new();
        for (identity, gone) in &self.sessions {
            by_mark.entry(*gone).or_default().push(identity.as_str());
        }
        let sessions = by_mark.into_iter().map(|(gone, identities)| {
            let sid =
                gone.map_or_else(|| SESSIONS.to_owned(), |gone| GONE.to_owned() + &basic(gone));
            deny(&sid, json!({"StringEquals": {"aws:SourceIdentity": identities}}))
        });
        let credentials = self.issued_before.map(|time| {
            deny(CREDENTIALS, json!({"DateLessThan": {"aws:TokenIssueTime": time.to_string()}}))
        });
        let statements: Vec<Value> = sessions.chain(credentials).collect();
        json!({"Version": "2012-10-17", "Statement": statements})
    }

    /// Reads a document of this form. None: it has another form, and a change could lose a part of
    /// it.
    pub(super) fn read(document: &Value) -> Option<Self> {
        let mut read = Self::default();
        for statement in document["Statement"].as_array()? {
            let condition = &statement["Condition"];
            let sid = statement["Sid"].as_str()?;
            if sid == CREDENTIALS {
                let time = condition["DateLessThan"]["aws:TokenIssueTime"].as_str()?;
                read.issued_before = Some(time.parse().ok()?);
                continue;
            }
            let gone = match sid.strip_prefix(GONE) {
                Some(time) => Some(from_basic(time)?),
                None => None,
            };
            for identity in condition["StringEquals"]["aws:SourceIdentity"].as_array()? {
                let identity: SourceIdentity = identity.as_str()?.parse().ok()?;
                read.sessions.insert(identity, gone);
            }
        }
        // Each other element, value or order makes a difference here.
        (read.document() == *document).then_some(read)
    }
}

fn deny(sid: &str, condition: Value) -> Value {
    json!({"Sid": sid, "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
}

/// Returns the time without the characters that IAM does not accept in a Sid.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_sid.html>
fn basic(time: Timestamp) -> String {
    time.strftime(BASIC).to_string()
}

fn from_basic(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(BASIC, text).ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(time.timestamp())
}

const BASIC: &str = "%Y%m%dT%H%M%SZ";
/// The Sids. The second one ends with a time.
const SESSIONS: &str = "RevokedSessions";
const GONE: &str = "RevokedSessionsWithoutPodSince";
const CREDENTIALS: &str = "RevokedCredentials";

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, option, prelude::*};

    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (0_i64..4_000_000_000).prop_map(|second| Timestamp::from_second(second).unwrap())
    }

    fn revoked() -> impl Strategy<Value = Revoked> {
        let identity = "agent\\.[a-z]{1,8}\\.[A-Za-z0-9_.,+=@-]{1,40}";
        let identity = identity.prop_map(|text| text.parse::<SourceIdentity>().unwrap());
        let marks = prop_oneof![Just(None), option::of(time())];
        (btree_map(identity, marks, 0..8), option::of(time()))
            .prop_map(|(sessions, issued_before)| Revoked { sessions, issued_before })
    }

    proptest! {
        #[test]
        fn a_document_is_read_as_it_was_written(revoked in revoked()) {
            let document = revoked.document();
            let text: Value = serde_json::from_str(&document.to_string()).unwrap();
            prop_assert_eq!(Revoked::read(&text), Some(revoked));
        }
    }

    #[test]
    fn the_document_denies_each_call_of_the_sessions() {
        let gone = "2026-11-24T08:00:00Z".parse().unwrap();
        let revoked = Revoked {
            sessions: [
                ("agent.acme.b", None),
                ("agent.acme.a", None),
                ("agent.acme.c", Some(gone)),
            ]
            .map(|(identity, gone)| (identity.parse().unwrap(), gone))
            .into(),
            issued_before: Some("2026-11-24T07:00:00Z".parse().unwrap()),
        };
        let deny = |sid: &str, condition: Value| json!({"Sid": sid, "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition});
        let names = |names: &[&str]| json!({"StringEquals": {"aws:SourceIdentity": names}});
        let want = json!({"Version": "2012-10-17", "Statement": [
            deny("RevokedSessions", names(&["agent.acme.a", "agent.acme.b"])),
            deny("RevokedSessionsWithoutPodSince20261124T080000Z", names(&["agent.acme.c"])),
            deny(
                "RevokedCredentials",
                json!({"DateLessThan": {"aws:TokenIssueTime": "2026-11-24T07:00:00Z"}}),
            ),
        ]});
        assert_eq!(revoked.document(), want);
    }

    #[test]
    fn a_document_of_another_form_is_not_read() {
        let own = Revoked::of(
            &["agent.acme.a", "agent.acme.b"].map(|it| it.parse().unwrap()).into(),
            Some("2026-11-24T07:00:00Z".parse().unwrap()),
        );
        let own = own.document();
        assert!(Revoked::read(&own).is_some());
        let edits: [(&str, Value); 10] = [
            ("/Version", json!("2008-10-17")),
            ("/Statement", json!({})),
            ("/Statement/0/Effect", json!("Allow")),
            ("/Statement/0/Action", json!("s3:*")),
            ("/Statement/0/Sid", json!("Other")),
            ("/Statement/0/Condition/StringEquals/aws:SourceIdentity", json!("agent.acme.a")),
            ("/Statement/0/Condition/StringEquals/aws:SourceIdentity/0", json!("agent.acme.*")),
            ("/Statement/0/Condition/StringEquals", json!({"aws:userid": "a"})),
            ("/Statement/1/Condition/DateLessThan/aws:TokenIssueTime", json!("2026-11-24")),
            ("/Statement/1/Resource", json!(["*"])),
        ];
        for (place, value) in edits {
            let mut edited = own.clone();
            *edited.pointer_mut(place).unwrap() = value;
            assert_eq!(Revoked::read(&edited), None, "{place}");
        }
        let mut more = own.clone();
        more["Id"] = json!("x");
        assert_eq!(Revoked::read(&more), None);
        let mut more = own;
        more["Statement"].as_array_mut().unwrap().push(
            json!({"Sid": "Mine", "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}),
        );
        assert_eq!(Revoked::read(&more), None);
    }
}
