//! Input that AWS would refuse, or with which no session could be assumed.

use std::collections::BTreeSet;

use super::{Account, RestrictTo};
use crate::session::RoleArn;

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Contradiction {
    #[error(
        "the base roles are of several accounts, and each account has an OIDC provider of its own; run iam once for the base roles of each account"
    )]
    BaseRoleAccounts,
    #[error(
        "--restrict-to {0} compares session tags of EKS Pod Identity, which credentials of IRSA do not have, so STS would deny every session; leave it out"
    )]
    NoSessionTags(RestrictTo),
    #[error(
        "--permissions-boundary is of account {boundary}, but the session role is of account {role}; use a policy of the role's account"
    )]
    BoundaryAccount { boundary: String, role: String },
    #[error("--model is of partition {model}, but the session role is of partition {role}")]
    ModelPartition { model: String, role: String },
    #[error(
        "{0} and {1} are of two partitions, and no role can assume a role of another partition"
    )]
    Partitions(String, String),
    #[error(
        "{0} and {1} are the same role: the names of roles are unique in an account, whatever their paths and case; give each role once"
    )]
    SameRole(RoleArn, RoleArn),
    #[error("--tag {0} is given twice; IAM ignores the case of keys")]
    SameTag(String),
    #[error("the session role has {0} tags; IAM allows 50")]
    Tags(usize),
}

/// Returns the first contradiction.
pub fn contradiction(account: &Account) -> Option<Contradiction> {
    let session_role = &account.session_role;
    let partition = session_role.partition();
    let roles: Vec<&RoleArn> = account.base_roles.iter().chain([session_role]).collect();
    if let Some(other) = roles.iter().find(|role| role.partition() != partition) {
        return Some(Contradiction::Partitions(other.to_string(), session_role.to_string()));
    }
    for (index, role) in roles.iter().enumerate() {
        if let Some(same) = roles[index + 1..].iter().find(|other| is_the_same(role, other)) {
            return Some(Contradiction::SameRole((*role).clone(), (*same).clone()));
        }
    }
    if account.base_role_trust.is_some() {
        if account_of(&account.base_roles).is_none() {
            return Some(Contradiction::BaseRoleAccounts);
        }
        if account.restrict_to != RestrictTo::Tenant {
            return Some(Contradiction::NoSessionTags(account.restrict_to));
        }
    }
    if let Some(boundary) = &account.permissions_boundary {
        if boundary.partition() != partition {
            return Some(Contradiction::Partitions(boundary.to_string(), session_role.to_string()));
        }
        if let Some(other) = boundary.account().filter(|other| *other != session_role.account()) {
            let (boundary, role) = (other.to_owned(), session_role.account().to_owned());
            return Some(Contradiction::BoundaryAccount { boundary, role });
        }
    }
    let mut models = account.models.iter().filter_map(|model| model.partition());
    if let Some(model) = models.find(|model| *model != partition) {
        let (model, role) = (model.to_owned(), partition.to_owned());
        return Some(Contradiction::ModelPartition { model, role });
    }
    for (index, tag) in account.tags.iter().enumerate() {
        if account.tags[index + 1..].iter().any(|other| tag.key.is_the_same(&other.key)) {
            return Some(Contradiction::SameTag(tag.key.to_string()));
        }
    }
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    Some(account.tags.len()).filter(|count| *count > 50).map(Contradiction::Tags)
}

/// Returns the account of the cluster: that of the base roles, if they have one account.
pub fn account_of(base_roles: &[RoleArn]) -> Option<&str> {
    let accounts: BTreeSet<&str> = base_roles.iter().map(RoleArn::account).collect();
    accounts.first().copied().filter(|_| accounts.len() == 1)
}

/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html>
fn is_the_same(role: &RoleArn, other: &RoleArn) -> bool {
    role.account() == other.account() && role.name().eq_ignore_ascii_case(other.name())
}
