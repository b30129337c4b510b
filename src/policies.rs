//! Required AWS resources of one tenant: policies and a parameter that admit the sessions of that
//! tenant only. They use the same names as webhook and sidecar.

mod aws_cli;
mod base_role_trust;
mod contradiction;
mod issuer_trust;
mod model;
mod name;
mod policy_arn;
mod tag;
mod terraform;

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde_json::{Value, json};

pub use self::{
    aws_cli::aws_cli,
    base_role_trust::{BaseRoleTrust, OidcIssuer, ServiceAccountPattern},
    contradiction::{Contradiction, account_of, contradiction},
    issuer_trust::{IssuerTrust, names_bucket, provider_arn, token_tags},
    model::Model,
    name::Name,
    policy_arn::PolicyArn,
    tag::{Tag, TagKey},
    terraform::{terraform, terraform_of_inline_policy},
};
use crate::session::{RoleArn, SourceIdentity, TenantName, is_account_id};

/// The names and roles in the policies of one tenant.
#[derive(Clone, Debug)]
pub struct Account {
    pub tenant: TenantName,
    /// The cluster's name in EKS, if it is known. EKS Pod Identity puts it into a session tag, as
    /// it does the namespace of the tenant's agents.
    pub cluster: Option<String>,
    pub namespace: String,
    /// The roles of the service accounts that agents run as.
    pub base_roles: Vec<RoleArn>,
    /// The session issuer that the session role trusts, instead of the base roles or beside them.
    pub issuer: Option<IssuerTrust>,
    /// The tokens that the base roles accept. None: the base roles are not for IRSA.
    pub base_role_trust: Option<BaseRoleTrust>,
    pub session_role: RoleArn,
    /// The account of the cluster, in which the webhook reads parameters.
    pub cluster_account: AccountId,
    /// The parameter from which the webhook reads the session role. None: it reads a static role
    /// file.
    pub parameter: Option<Parameter>,
    pub restrict_to: RestrictTo,
    /// Tags of the session role.
    pub tags: Vec<Tag>,
    /// The permissions boundary of the session role.
    pub permissions_boundary: Option<PolicyArn>,
    /// The models that agents may invoke. Empty: all.
    pub models: Vec<Model>,
    /// The tag of a base role with which its tenant gets no new session.
    pub suspended_tag: Option<TagKey>,
    /// Whether to include [`Name::DenyWithoutSourceIdentity`], which stops running pods.
    pub deny_without_source_identity: bool,
}

/// The parameter with the session role.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub name: String,
    /// The names of the parameters of all tenants, with `*` for the tenant.
    pub names: String,
    /// The region of these parameters, or `*`.
    pub region: String,
}

/// The SourceIdentities that the trust policy of the session role allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestrictTo {
    /// Only the pod's name, which EKS Pod Identity passes to STS (with `session: pod-name`).
    PodName,
    /// Only the pod's UID, which EKS Pod Identity passes to STS (with `session: pod-uid`).
    PodUid,
    /// Any session of the tenant.
    Tenant,
}

/// One policy, or another resource to create.
#[derive(Clone, Debug)]
pub struct Document {
    pub name: Name,
    /// The AWS accounts in which to apply it.
    pub accounts: Vec<String>,
    pub body: Value,
}

/// An AWS account: twelve digits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccountId(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected an AWS account: 12 digits")]
pub struct NotAnAccountId;

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected one of {}", RestrictTo::ALL.map(RestrictTo::as_str).join(", "))]
pub struct NotARestriction;

/// Returns the documents in the order in which to create them; the deny and the trust of base roles
/// only if they are requested, and those about parameters only if the webhook reads one.
pub fn documents(account: &Account) -> Vec<Document> {
    let is_asked_for = |name: &Name| match name {
        Name::BaseRoleTrust => account.base_role_trust.is_some(),
        Name::DenyWithoutSourceIdentity => account.deny_without_source_identity,
        Name::BaseRolePolicy | Name::BoundaryStatement => !account.base_roles.is_empty(),
        Name::BucketPolicy | Name::IssuerPolicy | Name::OidcProvider => account.issuer.is_some(),
        _ => true,
    };
    let names = Name::ALL.into_iter().filter(is_asked_for);
    names
        .filter_map(|name| {
            let body = body(name, account)?;
            Some(Document { name, accounts: accounts(name, account), body })
        })
        .collect()
}

/// Returns where the document applies: a role is changed in its own account, and the webhook reads
/// parameters in the cluster's.
fn accounts(name: Name, account: &Account) -> Vec<String> {
    match name {
        Name::OidcProvider
        | Name::SessionRole
        | Name::SessionRolePolicy
        | Name::SessionRoleTrust => {
            vec![account.session_role.account().to_owned()]
        }
        Name::BaseRolePolicy
        | Name::BaseRoleTrust
        | Name::BoundaryStatement
        | Name::DenyWithoutSourceIdentity => {
            let accounts: BTreeSet<&str> =
                account.base_roles.iter().map(RoleArn::account).collect();
            accounts.into_iter().map(str::to_owned).collect()
        }
        Name::BucketPolicy | Name::IssuerPolicy | Name::Parameter | Name::WebhookPolicy => {
            vec![account.cluster_account.as_str().to_owned()]
        }
    }
}

/// Returns the document. None: it is about parameters, and the webhook reads none, or about a bucket,
/// and the issuer's URL names none.
fn body(name: Name, account: &Account) -> Option<Value> {
    let session_role = account.session_role.as_str();
    Some(match name {
        Name::BaseRolePolicy => policy(&[json!({
            "Sid": "AssumeSessionRole",
            "Effect": "Allow",
            "Action": ASSUME,
            "Resource": session_role,
        })]),
        Name::BaseRoleTrust => base_role_trust::body(account),
        // A boundary is one policy for all tenants; this is one statement of it.
        Name::BoundaryStatement => json!({
            "Sid": "AssumeSessionRoles",
            "Effect": "Allow",
            "Action": ASSUME,
            "Resource": session_role,
        }),
        Name::BucketPolicy => issuer_trust::bucket_policy(account.issuer.as_ref()?)?,
        Name::DenyWithoutSourceIdentity => policy(&[json!({
            "Sid": "NothingWithoutSession",
            "Effect": "Deny",
            "NotAction": ASSUME,
            "Resource": "*",
            "Condition": {"Null": {"aws:SourceIdentity": "true"}},
        })]),
        Name::IssuerPolicy => issuer_trust::permissions(account.issuer.as_ref()?, account)?,
        Name::OidcProvider => issuer_trust::provider(account.issuer.as_ref()?),
        Name::Parameter => json!({
            "Name": account.parameter.as_ref()?.name,
            "Type": "String",
            "Value": session_role,
        }),
        Name::SessionRole => session_role_request(account),
        Name::SessionRolePolicy => {
            let mut statements = model::statements(&account.models, &account.session_role);
            // Claude Code lists the profiles when it starts.
            statements.push(json!({
                "Sid": "ListProfiles",
                "Effect": "Allow",
                "Action": "bedrock:ListInferenceProfiles",
                "Resource": "*",
            }));
            // A further role would keep the SourceIdentity, but have other permissions.
            statements.push(json!({
                "Sid": "NoFurtherRoles",
                "Effect": "Deny",
                "Action": ["sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithSAML"],
                "Resource": "*",
            }));
            policy(&statements)
        }
        Name::SessionRoleTrust => trust(account),
        Name::WebhookPolicy => {
            policy(&[issuer_trust::read_parameters(account.parameter.as_ref()?, account)])
        }
    })
}

/// Returns the input of iam:CreateRole.
fn session_role_request(account: &Account) -> Value {
    let mut request = json!({
        "RoleName": account.session_role.name(),
        "Path": path(&account.session_role),
        "AssumeRolePolicyDocument": trust(account).to_string(),
        "MaxSessionDuration": max_session_duration(account),
    });
    if let Some(boundary) = &account.permissions_boundary {
        request["PermissionsBoundary"] = json!(boundary.as_str());
    }
    if !account.tags.is_empty() {
        let tag = |tag: &Tag| json!({"Key": tag.key.as_str(), "Value": tag.value});
        request["Tags"] = account.tags.iter().map(tag).collect();
    }
    request
}

/// Returns the trust policy of the session role.
///
/// sts:TagSession is a separate statement: a condition on sts:SourceIdentity never matches it. EKS
/// Pod Identity's session tags are transitive: they are passed to each role that is assumed.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>
fn trust(account: &Account) -> Value {
    let mut statements = Vec::new();
    if !account.base_roles.is_empty() {
        statements.extend(trust_in_base_roles(account));
    }
    if let Some(issuer) = &account.issuer {
        statements.extend(issuer_trust::trust(issuer, account));
    }
    policy(&statements)
}

fn trust_in_base_roles(account: &Account) -> [Value; 2] {
    let principals =
        json!({"AWS": account.base_roles.iter().map(RoleArn::as_str).collect::<Vec<_>>()});
    let tenant = &account.tenant;
    let mut condition = match account.restrict_to {
        RestrictTo::Tenant => {
            json!({"StringLike": {"sts:SourceIdentity": SourceIdentity::text(tenant, "*")}})
        }
        RestrictTo::PodName => restrict_to_tag(account, "kubernetes-pod-name"),
        RestrictTo::PodUid => restrict_to_tag(account, "kubernetes-pod-uid"),
    };
    // The tag is one of the base role, so it stops all of its pods.
    if let Some(key) = &account.suspended_tag {
        condition["Null"] = json!({format!("aws:PrincipalTag/{key}"): "true"});
    }
    [
        json!({
            "Sid": "SessionsOfTenant",
            "Effect": "Allow",
            "Principal": principals,
            "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
            "Condition": condition,
        }),
        json!({
            "Sid": "TagsOfPodIdentity",
            "Effect": "Allow",
            "Principal": principals,
            "Action": "sts:TagSession",
        }),
    ]
}

/// Returns the condition that SourceIdentity equals a session tag of EKS Pod Identity.
fn restrict_to_tag(account: &Account, tag: &str) -> Value {
    let own = SourceIdentity::text(&account.tenant, &format!("${{aws:PrincipalTag/{tag}}}"));
    let mut tags = json!({
        "sts:SourceIdentity": own,
        "aws:PrincipalTag/kubernetes-namespace": account.namespace,
    });
    if let Some(cluster) = &account.cluster {
        tags["aws:PrincipalTag/eks-cluster-name"] = json!(cluster);
    }
    json!({"StringEquals": tags})
}

fn policy(statements: &[Value]) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn max_session_duration(account: &Account) -> u64 {
    account.issuer.as_ref().map_or(0, |issuer| issuer.session_seconds).max(ROLE_CHAINING)
}

fn path(role: &RoleArn) -> &str {
    let full = role.path_and_name();
    &full[..full.len() - role.name().len()]
}

impl Account {
    /// Returns where to apply the document, and what it does.
    pub fn remark(&self, name: Name) -> String {
        match name {
            Name::SessionRoleTrust if self.issuer.is_some() => format!(
                "{} The session issuer is trusted for SourceIdentities of the tenant{}.",
                Self::REPLACES,
                if self.base_roles.is_empty() { "" } else { ", and so are the base roles" }
            ),
            Name::SessionRolePolicy if self.models.is_empty() => {
                format!("{} {}", name.remark(), Self::ALL_MODELS)
            }
            _ => name.remark().to_owned(),
        }
    }

    const REPLACES: &str = "The trust policy of the session role. It replaces the role's whole trust policy: a \
         principal that it does not name cannot assume the role any more, and its sessions end with their \
         credentials. Compare with aws iam get-role first.";
    /// What the policy of the session role allows without a list of models.
    pub const ALL_MODELS: &str =
        "It allows every foundation model and inference profile of Bedrock; --model restricts it.";
}

impl AccountId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountId {
    type Err = NotAnAccountId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if !is_account_id(s) {
            return Err(NotAnAccountId);
        }
        Ok(Self(s.to_owned()))
    }
}

impl RestrictTo {
    pub const ALL: [Self; 3] = [Self::Tenant, Self::PodUid, Self::PodName];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodName => "pod-name",
            Self::PodUid => "pod-uid",
            Self::Tenant => "tenant",
        }
    }
}

impl fmt::Display for RestrictTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RestrictTo {
    type Err = NotARestriction;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|it| it.as_str() == s).ok_or(NotARestriction)
    }
}

/// The actions that trust policy and identity policy must allow to assume a role with a
/// SourceIdentity and the session tags of EKS Pod Identity.
pub(crate) const ASSUME: [&str; 3] = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];

/// Seconds; the maximum for a role that an assumed role assumes.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining>
const ROLE_CHAINING: u64 = 3600;
