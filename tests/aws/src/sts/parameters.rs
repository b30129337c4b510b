//! Validates the parameters of calls that assume a role, before policies are evaluated.
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html#API_AssumeRole_RequestParameters>

use super::{Form, requested_tags};
use crate::{
    failure::{Code, Failure},
    tags::Tags,
};

/// Valid parameters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Parameters {
    pub(crate) role_arn: String,
    pub(crate) role_session_name: String,
    pub(crate) duration_seconds: Option<u64>,
    pub(crate) source_identity: Option<String>,
    pub(crate) external_id: Option<String>,
    pub(crate) tags: Tags,
}

impl Parameters {
    pub(crate) fn read(form: &Form) -> Result<Self, Failure> {
        for parameter in
            ["Policy", "PolicyArns.member.1.arn", "ProviderId", "SerialNumber", "TokenCode"]
        {
            if form.find(parameter).is_some() {
                let sentence = format!("{parameter} is not supported by the AWS stand-in");
                return Err(Failure::new(Code::NotImplemented, sentence));
            }
        }
        let mut broken = Broken::default();
        let role_arn = broken.required(form, "RoleArn", "roleArn", 20, 2048);
        let role_session_name = broken.required(form, "RoleSessionName", "roleSessionName", 2, 64);
        broken.charset("roleSessionName", role_session_name.as_deref());
        let source_identity = form.find("SourceIdentity").map(str::to_owned);
        broken.source_identity(source_identity.as_deref());
        let external_id = form.find("ExternalId").map(str::to_owned);
        broken.length("externalId", external_id.as_deref(), 2, 1224);
        let duration_seconds = broken.duration(form.find("DurationSeconds"));
        broken.into_failure()?;
        Ok(Self {
            role_arn: role_arn.unwrap_or_default(),
            role_session_name: role_session_name.unwrap_or_default(),
            duration_seconds,
            source_identity,
            external_id,
            tags: requested_tags::read(form)?,
        })
    }
}

/// The rules that a request violates; AWS reports all of them in one error.
#[derive(Debug, Default)]
pub(super) struct Broken(Vec<String>);

impl Broken {
    pub(super) fn add(&mut self, value: Option<&str>, member: &str, rule: &str) {
        let value = value.map_or("null".to_owned(), |value| format!("'{value}'"));
        self.0.push(format!("Value {value} at '{member}' failed to satisfy constraint: {rule}"));
    }

    fn required(
        &mut self,
        form: &Form,
        name: &str,
        member: &str,
        least: usize,
        most: usize,
    ) -> Option<String> {
        let value = form.find(name).map(str::to_owned);
        if value.is_none() {
            self.add(None, member, "Member must not be null");
        }
        self.length(member, value.as_deref(), least, most);
        value
    }

    pub(super) fn length(&mut self, member: &str, value: Option<&str>, least: usize, most: usize) {
        let length = value.map_or(least, |value| value.chars().count());
        if length < least {
            let rule = format!("Member must have length greater than or equal to {least}");
            self.add(value, member, &rule);
        }
        if length > most {
            let rule = format!("Member must have length less than or equal to {most}");
            self.add(value, member, &rule);
        }
    }

    pub(super) fn source_identity(&mut self, value: Option<&str>) {
        self.length("sourceIdentity", value, 2, 64);
        // This also excludes the reserved prefix `aws:`, since ':' is not in the set.
        self.charset("sourceIdentity", value);
    }

    fn charset(&mut self, member: &str, value: Option<&str>) {
        let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if value.is_some_and(|value| !value.chars().all(legal)) {
            let rule = "Member must satisfy regular expression pattern: [\\w+=,.@-]*";
            self.add(value, member, rule);
        }
    }

    fn duration(&mut self, value: Option<&str>) -> Option<u64> {
        let text = value?;
        let seconds = text.parse::<u64>().unwrap_or_default();
        if seconds < 900 {
            let rule = "Member must have value greater than or equal to 900";
            self.add(value, "durationSeconds", rule);
        }
        if seconds > 43_200 {
            let rule = "Member must have value less than or equal to 43200";
            self.add(value, "durationSeconds", rule);
        }
        Some(seconds)
    }

    pub(super) fn into_failure(self) -> Result<(), Failure> {
        let Self(broken) = self;
        let count = broken.len();
        if count == 0 {
            return Ok(());
        }
        let noun = if count == 1 { "error" } else { "errors" };
        let sentence = format!("{count} validation {noun} detected: {}", broken.join("; "));
        Err(Failure::new(Code::ValidationError, sentence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_validated_as_by_sts() {
        let long = "a".repeat(64);
        let too_long = "a".repeat(65);
        let cases = [
            ("RoleSessionName", "ab", None),
            ("RoleSessionName", "a", Some("greater than or equal to 2")),
            ("RoleSessionName", &long, None),
            ("RoleSessionName", &too_long, Some("less than or equal to 64")),
            ("RoleSessionName", "a/b", Some("pattern: [\\w+=,.@-]*")),
            ("SourceIdentity", "agent.acme.s_+=,@-", None),
            ("SourceIdentity", "agent:acme:s", Some("'sourceIdentity' failed")),
            ("SourceIdentity", "aws:me", Some("'sourceIdentity' failed")),
            ("SourceIdentity", "", Some("greater than or equal to 2")),
            ("SourceIdentity", "é-é", Some("pattern")),
            ("DurationSeconds", "900", None),
            ("DurationSeconds", "899", Some("greater than or equal to 900")),
            ("DurationSeconds", "43200", None),
            ("DurationSeconds", "43201", Some("less than or equal to 43200")),
            ("DurationSeconds", "1h", Some("greater than or equal to 900")),
            ("RoleArn", "arn", Some("greater than or equal to 20")),
            ("ExternalId", "x", Some("greater than or equal to 2")),
            ("Policy", "{}", Some("not supported")),
        ];
        for (name, value, want) in cases {
            let found = Parameters::read(&form(&[(name, value)]));
            match want {
                None => assert!(found.is_ok(), "{name} {value:?}: {found:?}"),
                Some(want) => {
                    let sentence = found.unwrap_err().sentence;
                    assert!(sentence.contains(want), "{name} {value:?}: {sentence}");
                }
            }
        }
    }

    #[test]
    fn all_invalid_parameters_are_reported_at_once() {
        let failure = Parameters::read(&Form::default()).unwrap_err();
        assert_eq!(failure.code, Code::ValidationError);
        assert_eq!(
            failure.sentence,
            "2 validation errors detected: Value null at 'roleArn' failed to satisfy constraint: \
             Member must not be null; Value null at 'roleSessionName' failed to satisfy \
             constraint: Member must not be null"
        );
    }

    /// Adds the required parameters that are not given.
    fn form(pairs: &[(&str, &str)]) -> Form {
        let required =
            [("RoleArn", "arn:aws:iam::111122223333:role/a"), ("RoleSessionName", "session")];
        let missing = required.iter().filter(|(name, _)| pairs.iter().all(|(it, _)| it != name));
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Form(missing.chain(pairs).map(owned).collect())
    }
}
