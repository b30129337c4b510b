//! The Principal element of a trust policy.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html>

use serde_json::Value;

use super::{NotAPolicy, Vocabulary, strings};
use crate::{
    arn::{RoleArn, is_account},
    session::Session,
};

/// The caller.
#[derive(Debug)]
pub(crate) enum Caller<'a> {
    /// A caller with a token of the OIDC provider with this ARN.
    Federated(&'a str),
    Service(&'a str),
    Session(&'a Session),
}

/// The principal type that matched the caller, from the widest to the most specific.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum NamedBy {
    Account,
    Role,
    Session,
    /// A service or an OIDC provider, which have no policies.
    Other,
}

#[derive(Clone, Debug)]
pub(super) enum Principals {
    Everyone,
    These(Vec<Principal>),
}

#[derive(Clone, Debug)]
pub(super) enum Principal {
    Account(String),
    Everyone,
    Federated(String),
    Role(RoleArn),
    Service(String),
    /// `arn:aws:sts::<account>:assumed-role/<role>/<session>`
    Session(String),
    /// `arn:aws:iam::<account>:user/<name>`; the AWS stand-in has no users.
    User,
}

impl Principals {
    pub(super) fn read(
        element: Option<&Value>,
        vocabulary: &Vocabulary,
    ) -> Result<Self, NotAPolicy> {
        let kinds = match element {
            None => return Err(NotAPolicy::Missing { element: "Principal" }),
            Some(Value::String(text)) if text == "*" => return Ok(Self::Everyone),
            Some(Value::Object(kinds)) => kinds,
            Some(other) => return Err(NotAPolicy::Principal(other.to_string())),
        };
        let mut principals = Vec::new();
        for (kind, names) in kinds {
            for name in strings("Principal", names)? {
                principals.push(Principal::read(kind, name, vocabulary)?);
            }
        }
        Ok(Self::These(principals))
    }

    /// Returns the most specific principal type that matches the caller.
    pub(super) fn name(&self, caller: &Caller<'_>) -> Option<NamedBy> {
        match self {
            Self::Everyone if matches!(caller, Caller::Federated(_)) => None,
            // As for a role principal, the boundary still applies.
            Self::Everyone => Some(NamedBy::Role),
            Self::These(principals) => principals.iter().filter_map(|one| one.names(caller)).max(),
        }
    }
}

impl Principal {
    /// Parses a principal. A role must exist, since IAM replaces its ARN by its ID on save.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html#principal-roles>
    fn read(kind: &str, name: &str, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        let refused = || NotAPolicy::Principal(name.to_owned());
        match kind {
            "AWS" if name == "*" => Ok(Self::Everyone),
            // A wildcard cannot be a part of an ARN in a Principal.
            _ if name.contains(['*', '?']) => Err(refused()),
            "AWS" if is_account(name) => Ok(Self::Account(name.to_owned())),
            "AWS" if name.starts_with("arn:aws:sts::") && name.contains(":assumed-role/") => {
                Ok(Self::Session(name.to_owned()))
            }
            "AWS" if name.starts_with("arn:aws:iam::") && name.contains(":user/") => Ok(Self::User),
            "AWS" => {
                let rest = name.strip_prefix("arn:aws:iam::").ok_or_else(refused)?;
                if let Some(account) = rest.strip_suffix(":root").filter(|it| is_account(it)) {
                    return Ok(Self::Account(account.to_owned()));
                }
                let role: RoleArn = name.parse().map_err(|_| refused())?;
                if !vocabulary.roles.contains(&role) {
                    return Err(refused());
                }
                Ok(Self::Role(role))
            }
            "Federated" => Ok(Self::Federated(name.to_owned())),
            "Service" if name.ends_with(".amazonaws.com") => Ok(Self::Service(name.to_owned())),
            _ => Err(refused()),
        }
    }

    fn names(&self, caller: &Caller<'_>) -> Option<NamedBy> {
        match (self, caller) {
            // Measured by radkawar/stackd: only its provider names a caller with a token.
            (Self::Everyone, Caller::Federated(_)) => None,
            (Self::Everyone, _) => Some(NamedBy::Role),
            (Self::Account(account), Caller::Session(session)) => {
                (session.role.arn.account() == account).then_some(NamedBy::Account)
            }
            (Self::Role(role), Caller::Session(session)) => {
                (session.role.arn == *role).then_some(NamedBy::Role)
            }
            (Self::Session(arn), Caller::Session(session)) => {
                (session.arn() == *arn).then_some(NamedBy::Session)
            }
            (Self::Federated(provider), Caller::Federated(caller)) => {
                (provider == caller).then_some(NamedBy::Other)
            }
            (Self::Service(service), Caller::Service(caller)) => {
                (service == caller).then_some(NamedBy::Other)
            }
            _ => None,
        }
    }
}
