//! Parser for messages of STS, for what its error codes do not distinguish: the denied action and
//! the reason of a denial, and the reason why a token is invalid. No other module parses such
//! messages.

use std::fmt;

/// The denied action and the type of the policy that denied it, if the message names them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denial {
    pub action: Option<Action>,
    pub policy: Option<Policy>,
}

/// Actions that an AssumeRole call with a SourceIdentity may require.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html>
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    AssumeRole,
    SetSourceIdentity,
    TagSession,
}

/// The type of the policy that denied the action.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Policy {
    /// A permissions boundary of the base role.
    Boundary,
    /// A permissions policy of the base role.
    Identity,
    /// A service or resource control policy of the organization.
    Organization,
    /// The trust policy of the session role.
    Trust,
    /// A session policy of the base credentials.
    Session,
    /// The policy of a VPC endpoint.
    VpcEndpoint,
}

/// Parses an AccessDenied message, such as `User: ARN is not authorized to perform:
/// sts:SetSourceIdentity on resource: ARN because no resource-based policy allows the
/// sts:SetSourceIdentity action`. Text that is not in the tables is ignored.
pub fn denial(sentence: &str) -> Denial {
    let named = sentence.split_once("is not authorized to perform: ").map_or("", |(_, rest)| rest);
    let named = named.split_whitespace().next().unwrap_or_default();
    Denial {
        action: ACTIONS.iter().find(|(name, _)| *name == named).map(|(_, action)| *action),
        policy: POLICIES
            .iter()
            .find(|(text, _)| sentence.contains(text))
            .map(|(_, policy)| *policy),
    }
}

/// Returns whether STS calls a token invalid because it could not get the keys of the token's
/// issuer: "Couldn't retrieve verification key from your identity provider, please reference
/// AssumeRoleWithWebIdentity documentation for requirements". The next call may succeed.
pub(super) fn lacks_keys(sentence: &str) -> bool {
    sentence.contains("retrieve verification key")
}

const ACTIONS: [(&str, Action); 3] = [
    ("sts:AssumeRole", Action::AssumeRole),
    ("sts:SetSourceIdentity", Action::SetSourceIdentity),
    ("sts:TagSession", Action::TagSession),
];

/// Names of policy types in messages: "because no ... allows" (an implicit denial) or "with an
/// explicit deny in a ...".
const POLICIES: [(&str, Policy); 8] = [
    ("identity-based policy", Policy::Identity),
    ("permissions boundary", Policy::Boundary),
    ("resource-based policy", Policy::Trust),
    ("resource control policy", Policy::Organization),
    ("role trust policy", Policy::Trust),
    ("service control policy", Policy::Organization),
    ("session policy", Policy::Session),
    ("VPC endpoint policy", Policy::VpcEndpoint),
];

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AssumeRole => "sts:AssumeRole",
            Self::SetSourceIdentity => "sts:SetSourceIdentity",
            Self::TagSession => "sts:TagSession",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str =
        "User: arn:aws:sts::111122223333:assumed-role/base/s is not authorized to perform:";
    const ROLE: &str = "on resource: arn:aws:iam::111122223333:role/broker";

    #[test]
    fn the_documented_messages_are_parsed() {
        use {Action::*, Policy::*};
        let cases = [
            (format!("{USER} sts:AssumeRole {ROLE}"), Some(AssumeRole), None),
            (format!("{USER} sts:TagSession {ROLE}"), Some(TagSession), None),
            (
                format!(
                    "{USER} sts:SetSourceIdentity {ROLE} because no resource-based policy allows the sts:SetSourceIdentity action"
                ),
                Some(SetSourceIdentity),
                Some(Trust),
            ),
            (
                format!(
                    "{USER} sts:AssumeRole {ROLE} with an explicit deny in a permissions boundary: arn:aws:iam::111122223333:policy/b"
                ),
                Some(AssumeRole),
                Some(Boundary),
            ),
            (
                format!(
                    "{USER} sts:AssumeRole {ROLE} because no identity-based policy allows the sts:AssumeRole action"
                ),
                Some(AssumeRole),
                Some(Identity),
            ),
            (
                format!(
                    "{USER} sts:AssumeRole {ROLE} with an explicit deny in a service control policy"
                ),
                Some(AssumeRole),
                Some(Organization),
            ),
            (format!("{USER} sts:AssumeRoleX {ROLE}"), None, None),
            ("Access denied".to_owned(), None, None),
        ];
        for (sentence, action, policy) in cases {
            assert_eq!(denial(&sentence), Denial { action, policy }, "{sentence}");
        }
    }
}
