//! Condition keys of a request, and the actions for which each key is present.

use std::collections::BTreeMap;

use super::{Action, NotAPolicy, Vocabulary};
use crate::tags::Tags;

/// A condition key. Names are case-insensitive.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html>
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_iam-condition-keys.html>
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Key {
    /// `sts:ExternalId`
    ExternalId,
    /// `aws:SourceIdentity` of the calling session.
    HeldSourceIdentity,
    /// `bedrock:InferenceProfileArn`
    InferenceProfileArn,
    /// `aws:PrincipalAccount`
    PrincipalAccount,
    /// `aws:PrincipalArn`; for a session, the ARN of its role.
    PrincipalArn,
    /// `aws:PrincipalTag/<key>`
    PrincipalTag(String),
    /// `aws:RequestTag/<key>`
    RequestTag(String),
    /// `sts:SourceIdentity`, requested for the new session.
    RequestedSourceIdentity,
    /// `sts:RoleAuthorizedByIdp`, whether the web identity token names the role.
    RoleAuthorizedByIdp,
    /// `sts:RoleSessionName`
    RoleSessionName,
    /// `aws:SourceAccount`, on behalf of which a service calls.
    SourceAccount,
    /// `aws:SourceArn`, on behalf of which a service calls.
    SourceArn,
    /// `aws:TagKeys`
    TagKeys,
    /// `aws:TokenIssueTime`, when the caller's credentials were issued.
    TokenIssueTime,
    /// `<issuer>:aud`
    TokenAudience(String),
    /// `<issuer>:amr`
    TokenMethods(String),
    /// `<issuer>:sub`
    TokenSubject(String),
    /// `sts:TransitiveTagKeys`
    TransitiveTagKeys,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Context(BTreeMap<Key, Vec<String>>);

impl Key {
    pub(super) fn read(text: &str, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        let name = text.to_ascii_lowercase();
        if let Some(tag) = name.strip_prefix("aws:principaltag/") {
            return Ok(Self::PrincipalTag(tag.to_owned()));
        }
        if let Some(tag) = name.strip_prefix("aws:requesttag/") {
            return Ok(Self::RequestTag(tag.to_owned()));
        }
        for issuer in &vocabulary.issuers {
            match text.strip_prefix(issuer.as_str()) {
                Some(":amr") => return Ok(Self::TokenMethods(issuer.clone())),
                Some(":aud") => return Ok(Self::TokenAudience(issuer.clone())),
                Some(":sub") => return Ok(Self::TokenSubject(issuer.clone())),
                _ => {}
            }
        }
        match name.as_str() {
            "aws:principalaccount" => Ok(Self::PrincipalAccount),
            "aws:principalarn" => Ok(Self::PrincipalArn),
            "aws:sourceaccount" => Ok(Self::SourceAccount),
            "aws:sourcearn" => Ok(Self::SourceArn),
            "aws:sourceidentity" => Ok(Self::HeldSourceIdentity),
            "bedrock:inferenceprofilearn" => Ok(Self::InferenceProfileArn),
            "aws:tagkeys" => Ok(Self::TagKeys),
            "aws:tokenissuetime" => Ok(Self::TokenIssueTime),
            "sts:externalid" => Ok(Self::ExternalId),
            "sts:roleauthorizedbyidp" => Ok(Self::RoleAuthorizedByIdp),
            "sts:rolesessionname" => Ok(Self::RoleSessionName),
            "sts:sourceidentity" => Ok(Self::RequestedSourceIdentity),
            "sts:transitivetagkeys" => Ok(Self::TransitiveTagKeys),
            _ => Err(NotAPolicy::UnknownKey(text.to_owned())),
        }
    }

    /// Returns whether the key can have multiple values in one request.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html>
    pub(super) fn is_many_valued(&self) -> bool {
        matches!(self, Self::TagKeys | Self::TokenMethods(_) | Self::TransitiveTagKeys)
    }

    /// Returns whether the value is true or false, which only `Bool` compares.
    pub(super) fn is_boolean(&self) -> bool {
        *self == Self::RoleAuthorizedByIdp
    }

    /// Returns whether the values are dates, which only date operators compare.
    pub(super) fn is_date(&self) -> bool {
        *self == Self::TokenIssueTime
    }

    /// Returns whether the key is present for this action. AWS lists the keys of STS and of the
    /// request for each action; the caller's own keys are always present. So
    /// `sts:SourceIdentity` is always absent for `sts:TagSession`, and `sts:RoleAuthorizedByIdp` for
    /// all actions but one.
    ///
    /// The list has the keys of well-known issuers only, and those only for
    /// AssumeRoleWithWebIdentity. AWS's own examples compare them for the other permissions too: the
    /// first of these pages for SetSourceIdentity, the second for TagSession.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html#id_credentials_temp_control-access_monitor-control-access>
    /// <https://docs.aws.amazon.com/cognito/latest/developerguide/using-afac-with-cognito-identity-pools.html>
    /// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html#awssecuritytokenservice-actions-as-permissions>
    fn counts_for(&self, action: Action) -> bool {
        use Action::{
            AssumeRole, AssumeRoleWithWebIdentity, InvokeModel, SetSourceIdentity, TagSession,
        };
        match self {
            Self::HeldSourceIdentity
            | Self::PrincipalAccount
            | Self::PrincipalArn
            | Self::PrincipalTag(_)
            | Self::SourceAccount
            | Self::SourceArn
            | Self::TokenIssueTime => true,
            Self::ExternalId => action == AssumeRole,
            Self::InferenceProfileArn => action == InvokeModel,
            Self::RequestTag(_) | Self::TagKeys | Self::TransitiveTagKeys => {
                matches!(action, AssumeRole | AssumeRoleWithWebIdentity | TagSession)
            }
            Self::RequestedSourceIdentity => {
                matches!(action, AssumeRole | AssumeRoleWithWebIdentity | SetSourceIdentity)
            }
            Self::RoleAuthorizedByIdp => action == AssumeRoleWithWebIdentity,
            Self::RoleSessionName => matches!(action, AssumeRole | AssumeRoleWithWebIdentity),
            Self::TokenAudience(_) | Self::TokenMethods(_) | Self::TokenSubject(_) => {
                matches!(action, AssumeRoleWithWebIdentity | SetSourceIdentity | TagSession)
            }
        }
    }
}

impl Context {
    pub(crate) fn set(&mut self, key: Key, value: impl Into<String>) {
        self.0.insert(key, vec![value.into()]);
    }

    pub(crate) fn set_all(&mut self, key: Key, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        if !values.is_empty() {
            self.0.insert(key, values);
        }
    }

    /// Sets the keys of the tags for a new session.
    pub(crate) fn set_requested_tags(&mut self, tags: &Tags) {
        for tag in tags.iter() {
            self.set(Key::RequestTag(tag.key.to_ascii_lowercase()), &tag.value);
        }
        let keys = tags.iter().map(|tag| tag.key.clone());
        self.set_all(Key::TagKeys, keys);
        let transitive = tags.iter().filter(|tag| tag.transitive).map(|tag| tag.key.clone());
        self.set_all(Key::TransitiveTagKeys, transitive);
    }

    /// Returns the values of the key, or None if it is absent for this action.
    pub(super) fn values(&self, key: &Key, action: Action) -> Option<&[String]> {
        self.0.get(key).filter(|_| key.counts_for(action)).map(Vec::as_slice)
    }

    pub(super) fn one(&self, key: &Key, action: Action) -> Option<&str> {
        match self.values(key, action)? {
            [one] => Some(one),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_has_its_condition_keys() {
        use Action::{AssumeRole, AssumeRoleWithWebIdentity, SetSourceIdentity, TagSession};
        let cases: [(Key, &[Action]); 10] = [
            (Key::ExternalId, &[AssumeRole]),
            (Key::InferenceProfileArn, &[Action::InvokeModel]),
            (Key::PrincipalTag("k".to_owned()), &Action::ALL),
            (Key::RequestTag("k".to_owned()), &[AssumeRole, AssumeRoleWithWebIdentity, TagSession]),
            (
                Key::RequestedSourceIdentity,
                &[AssumeRole, AssumeRoleWithWebIdentity, SetSourceIdentity],
            ),
            (Key::HeldSourceIdentity, &Action::ALL),
            (Key::RoleSessionName, &[AssumeRole, AssumeRoleWithWebIdentity]),
            (Key::RoleAuthorizedByIdp, &[AssumeRoleWithWebIdentity]),
            (
                Key::TokenSubject("oidc.test/id".to_owned()),
                &[AssumeRoleWithWebIdentity, SetSourceIdentity, TagSession],
            ),
            (Key::TransitiveTagKeys, &[AssumeRole, AssumeRoleWithWebIdentity, TagSession]),
        ];
        for (key, listed) in cases {
            for action in Action::ALL {
                assert_eq!(key.counts_for(action), listed.contains(&action), "{key:?} {action}");
            }
        }
    }

    #[test]
    fn condition_keys_are_case_insensitive() {
        let issuers = ["oidc.test", "oidc.test/id"].map(str::to_owned).into();
        let vocabulary = Vocabulary { issuers, ..Default::default() };
        let cases = [
            ("STS:sourceidentity", Some(Key::RequestedSourceIdentity)),
            ("aws:SourceIdentity", Some(Key::HeldSourceIdentity)),
            ("aws:PrincipalTag/Team", Some(Key::PrincipalTag("team".to_owned()))),
            ("oidc.test/id:sub", Some(Key::TokenSubject("oidc.test/id".to_owned()))),
            ("oidc.test:sub", Some(Key::TokenSubject("oidc.test".to_owned()))),
            ("oidc.test/other:sub", None),
            ("oidc.test/id/:sub", None),
            ("oidc.test/id:amr", Some(Key::TokenMethods("oidc.test/id".to_owned()))),
            ("oidc.test/id:email", None),
            ("aws:SourceIdentitty", None),
        ];
        for (text, want) in cases {
            assert_eq!(Key::read(text, &vocabulary).ok(), want, "{text:?}");
        }
    }
}
