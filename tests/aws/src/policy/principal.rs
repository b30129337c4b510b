//! The Principal element of a trust policy.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html>

use serde_json::Value;

use super::{NotAPolicy, Vocabulary, strings};
use crate::{
    arn::{RoleArn, is_account},
    session::Session,
};

/// Who asks.
#[derive(Debug)]
pub(crate) enum Caller<'a> {
    /// Who shows a token of this OIDC provider, by its ARN.
    Federated(&'a str),
    Service(&'a str),
    Session(&'a Session),
}

/// How a trust policy names the caller that it allows, from the widest to the most exact.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum NamedBy {
    Account,
    Role,
    Session,
    /// A service or a provider, which has no policies of its own.
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
    /// `arn:aws:iam::<account>:user/<name>`; nobody here is one.
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

    /// How these name the caller, most exactly, if they do.
    pub(super) fn name(&self, caller: &Caller<'_>) -> Option<NamedBy> {
        match self {
            // Limited like a role that is named: the boundary still counts.
            Self::Everyone => Some(NamedBy::Role),
            Self::These(principals) => principals.iter().filter_map(|one| one.names(caller)).max(),
        }
    }
}

impl Principal {
    /// IAM turns the ARN of a role into its id when the policy is saved, so it must exist.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html#principal-roles>
    fn read(kind: &str, name: &str, vocabulary: &Vocabulary) -> Result<Self, NotAPolicy> {
        let refused = || NotAPolicy::Principal(name.to_owned());
        match kind {
            "AWS" if name == "*" => Ok(Self::Everyone),
            // A part of an ARN cannot be a wildcard here.
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
