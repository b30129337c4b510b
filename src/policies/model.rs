//! The models that the session role may invoke.

use std::str::FromStr;

use serde_json::{Value, json};

use crate::session::{RoleArn, is_account_id};

/// A foundation model or an inference profile of Bedrock, by its id or its ARN. `*` in an id
/// matches any characters, as in a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Model {
    FoundationModel(String),
    FoundationModelArn(Arn),
    /// A system-defined profile, which routes to models of several regions.
    Profile(String),
    ProfileArn(Arn),
}

/// An ARN of Bedrock.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Arn {
    text: String,
    partition: String,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAModel {
    #[error(
        "is every foundation model and no inference profile; to allow all models, leave it out"
    )]
    All,
    #[error("has {0:?}; an id of Bedrock has letters, digits and .:-, and may have *")]
    Character(char),
    #[error("is empty")]
    Empty,
    #[error(
        "is not the ARN of a foundation model, an inference profile or an application inference profile"
    )]
    Arn,
}

impl Model {
    /// Returns the id or ARN, as it was given.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::FoundationModel(id) | Self::Profile(id) => id,
            Self::FoundationModelArn(arn) | Self::ProfileArn(arn) => &arn.text,
        }
    }

    /// Returns the partition of an ARN.
    pub(super) fn partition(&self) -> Option<&str> {
        match self {
            Self::FoundationModelArn(arn) | Self::ProfileArn(arn) => Some(&arn.partition),
            Self::FoundationModel(_) | Self::Profile(_) => None,
        }
    }

    fn is_profile(&self) -> bool {
        matches!(self, Self::Profile(_) | Self::ProfileArn(_))
    }

    /// Returns the ARN. An id has any region; a profile is one of the session role's account.
    fn arn(&self, session_role: &RoleArn) -> String {
        let (partition, account) = (session_role.partition(), session_role.account());
        match self {
            Self::FoundationModel(id) => {
                format!("arn:{partition}:bedrock:*::foundation-model/{id}")
            }
            Self::Profile(id) => {
                format!("arn:{partition}:bedrock:*:{account}:inference-profile/{id}")
            }
            Self::FoundationModelArn(arn) | Self::ProfileArn(arn) => arn.text.clone(),
        }
    }
}

/// Returns the statements that allow only these models; all models if there are none.
///
/// A call of an inference profile needs permission for the profile, and for the models to which
/// the profile routes, in each of its regions. With the condition, these models cannot be invoked
/// without the profile.
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-prereq.html>
pub(super) fn statements(models: &[Model], session_role: &RoleArn) -> Vec<Value> {
    let any = [Model::FoundationModel("*".to_owned()), Model::Profile("*".to_owned())];
    if models.is_empty() {
        return vec![allow("AllModels", &arns(any.iter(), session_role))];
    }
    let mut statements = vec![allow("Models", &arns(models.iter(), session_role))];
    let profiles = arns(models.iter().filter(|model| model.is_profile()), session_role);
    if !profiles.is_empty() {
        let mut through = allow("ModelsOfProfiles", &arns(any[..1].iter(), session_role));
        through["Condition"] = json!({"StringLike": {"bedrock:InferenceProfileArn": profiles}});
        statements.push(through);
    }
    statements
}

fn arns<'m>(models: impl Iterator<Item = &'m Model>, session_role: &RoleArn) -> Vec<String> {
    models.map(|model| model.arn(session_role)).collect()
}

fn allow(sid: &str, resources: &[String]) -> Value {
    json!({
        "Sid": sid,
        "Effect": "Allow",
        "Action": ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"],
        "Resource": resources,
    })
}

impl FromStr for Model {
    type Err = NotAModel;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.starts_with("arn:") {
            return of_arn(s).ok_or(NotAModel::Arn);
        }
        if s.is_empty() {
            return Err(NotAModel::Empty);
        }
        if s.chars().all(|c| c == '*') {
            return Err(NotAModel::All);
        }
        if let Some(found) = s.chars().find(|&c| !is_allowed(c)) {
            return Err(NotAModel::Character(found));
        }
        let geography = s.split_once('.').map(|(geography, _)| geography);
        Ok(match geography {
            Some(geography) if GEOGRAPHIES.contains(&geography) => Self::Profile(s.to_owned()),
            _ => Self::FoundationModel(s.to_owned()),
        })
    }
}

/// Parses `arn:<partition>:bedrock:<region>:<account>:<kind>/<id>`.
fn of_arn(s: &str) -> Option<Model> {
    let mut parts = s.splitn(6, ':').skip(1);
    let (partition, service, region) = (parts.next()?, parts.next()?, parts.next()?);
    let (account, (kind, id)) = (parts.next()?, parts.next()?.split_once('/')?);
    let is_region = !region.is_empty() && region.chars().all(|c| c == '*' || is_allowed(c));
    let is_bedrock = partition.starts_with("aws") && service == "bedrock" && is_region;
    if !is_bedrock || id.is_empty() || !id.chars().all(is_allowed) {
        return None;
    }
    let arn = Arn { text: s.to_owned(), partition: partition.to_owned() };
    match kind {
        "foundation-model" if account.is_empty() => Some(Model::FoundationModelArn(arn)),
        "inference-profile" | "application-inference-profile" if is_account_id(account) => {
            Some(Model::ProfileArn(arn))
        }
        _ => None,
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".:-*".contains(c)
}

/// First parts of the ids of system-defined profiles. A profile of another geography can be named
/// by its ARN.
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html>
const GEOGRAPHIES: [&str; 8] = ["apac", "au", "ca", "eu", "global", "jp", "us", "us-gov"];

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::111122223333:role/prod-acme-broker";

    #[test]
    fn a_model_is_an_id_or_an_arn_of_bedrock() {
        let cases = [
            (
                "anthropic.claude-x-v1:0",
                "arn:aws:bedrock:*::foundation-model/anthropic.claude-x-v1:0",
            ),
            ("minimax.minimax-m2.1", "arn:aws:bedrock:*::foundation-model/minimax.minimax-m2.1"),
            ("anthropic.*", "arn:aws:bedrock:*::foundation-model/anthropic.*"),
            ("eu.anthropic.x", "arn:aws:bedrock:*:111122223333:inference-profile/eu.anthropic.x"),
            ("us-gov.a.x", "arn:aws:bedrock:*:111122223333:inference-profile/us-gov.a.x"),
        ];
        for (id, want) in cases {
            let model: Model = id.parse().unwrap();
            assert_eq!(model.arn(&ROLE.parse().unwrap()), want);
        }
        for arn in [
            "arn:aws:bedrock:eu-west-1::foundation-model/anthropic.x",
            "arn:aws:bedrock:*:111122223333:inference-profile/sa.anthropic.x",
            "arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/a1b2",
        ] {
            let model: Model = arn.parse().unwrap();
            assert_eq!(model.arn(&ROLE.parse().unwrap()), arn);
            assert_eq!(model.is_profile(), arn.contains("profile"), "{arn}");
        }
        for wrong in [
            "arn:aws:bedrock:eu-west-1:111122223333:foundation-model/a",
            "arn:aws:bedrock:eu-west-1::inference-profile/a",
            "arn:aws:bedrock:eu-west-1:111122223333:guardrail/a",
            "arn:aws:bedrock:eu-west-1::foundation-model/",
            "arn:aws:s3:::bucket/a",
        ] {
            assert_eq!(wrong.parse::<Model>(), Err(NotAModel::Arn), "{wrong}");
        }
        assert_eq!("".parse::<Model>(), Err(NotAModel::Empty));
        assert_eq!("*".parse::<Model>(), Err(NotAModel::All));
        assert_eq!("a b".parse::<Model>(), Err(NotAModel::Character(' ')));
        assert_eq!("${x}".parse::<Model>(), Err(NotAModel::Character('$')));
    }
}
