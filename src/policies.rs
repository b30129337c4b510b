//! What AWS is to hold, so that sessions of one tenant work and nothing else does: policies
//! from the same names that webhook and sidecar use.

mod terraform;

use std::{fmt, str::FromStr};

use serde_json::{Value, json};

pub use self::terraform::terraform;
use crate::session::{RoleArn, SourceIdentity, TenantName};

/// Whom the policies are for.
#[derive(Clone, Debug)]
pub struct Account {
    pub tenant: TenantName,
    /// The cluster's name for EKS, if it is known. Like the namespace of the tenant's agents, EKS
    /// Pod Identity puts it into a tag.
    pub cluster: Option<String>,
    pub namespace: String,
    /// The roles of the service accounts that agents run as.
    pub base_roles: Vec<RoleArn>,
    pub session_role: RoleArn,
    pub region: String,
    /// The name of the parameter in which the webhook looks for the session role.
    pub parameter: String,
    /// The names of all such parameters, with `*` for the tenant.
    pub parameters: String,
    pub held_to: HeldTo,
    /// Whether [`Name::DenyWithoutSourceIdentity`] is among the documents: it stops pods that run.
    pub deny_without_source_identity: bool,
}

/// What AWS holds a session's name to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeldTo {
    /// The pod's name, which EKS Pod Identity tells STS (with `session: pod-name`).
    PodName,
    /// The pod's uid, which EKS Pod Identity tells STS (with `session: pod-uid`).
    PodUid,
    /// The tenant: any session of it.
    Tenant,
}

/// One policy, or what is to be made besides.
#[derive(Clone, Debug)]
pub struct Document {
    pub name: Name,
    pub body: Value,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Name {
    BaseRolePolicy,
    BoundaryStatement,
    DenyWithoutSourceIdentity,
    Parameter,
    SessionRolePolicy,
    SessionRoleTrust,
    WebhookPolicy,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is tenant, pod-uid and pod-name")]
pub struct NotAHold;

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is {}", Name::ALL.map(Name::as_str).join(", "))]
pub struct NotADocument;

/// Returns the documents in the order in which they are to be made; the deny only if it was asked
/// for.
pub fn documents(account: &Account) -> Vec<Document> {
    let is_asked_for = |name: &Name| {
        *name != Name::DenyWithoutSourceIdentity || account.deny_without_source_identity
    };
    let names = Name::ALL.into_iter().filter(is_asked_for);
    names.map(|name| Document { name, body: body(name, account) }).collect()
}

fn body(name: Name, account: &Account) -> Value {
    let session_role = account.session_role.as_str();
    match name {
        Name::BaseRolePolicy => policy(&[json!({
            "Sid": "AssumeSessionRole",
            "Effect": "Allow",
            "Action": ASSUME,
            "Resource": session_role,
        })]),
        // A boundary is one policy for all tenants, and this a statement of it.
        Name::BoundaryStatement => json!({
            "Sid": "AssumeSessionRoles",
            "Effect": "Allow",
            "Action": ASSUME,
            "Resource": session_role,
        }),
        Name::DenyWithoutSourceIdentity => policy(&[json!({
            "Sid": "NothingWithoutSession",
            "Effect": "Deny",
            "NotAction": ASSUME,
            "Resource": "*",
            "Condition": {"Null": {"aws:SourceIdentity": "true"}},
        })]),
        Name::Parameter => json!({
            "Name": account.parameter,
            "Type": "String",
            "Value": session_role,
        }),
        Name::SessionRolePolicy => policy(&[
            json!({
                "Sid": "Models",
                "Effect": "Allow",
                "Action": ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"],
                "Resource": [
                    format!("arn:{}:bedrock:*::foundation-model/*", account.session_role.partition()),
                    format!(
                        "arn:{}:bedrock:*:{}:inference-profile/*",
                        account.session_role.partition(),
                        account.session_role.account()
                    ),
                ],
            }),
            // Its name would go along, but not what it may do.
            json!({
                "Sid": "NoFurtherRoles",
                "Effect": "Deny",
                "Action": ["sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithSAML"],
                "Resource": "*",
            }),
        ]),
        Name::SessionRoleTrust => trust(account),
        Name::WebhookPolicy => policy(&[json!({
            "Sid": "ReadSessionRoles",
            "Effect": "Allow",
            "Action": "ssm:GetParameters",
            "Resource": format!(
                "arn:{}:ssm:{}:{}:parameter/{}",
                account.session_role.partition(),
                account.region,
                account.session_role.account(),
                account.parameters.trim_start_matches('/'),
            ),
        })]),
    }
}

/// sts:TagSession stands alone: a condition on sts:SourceIdentity is never fulfilled for it,
/// and EKS Pod Identity's tags are passed on to each role that is assumed.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>
fn trust(account: &Account) -> Value {
    let principals =
        json!({"AWS": account.base_roles.iter().map(RoleArn::as_str).collect::<Vec<_>>()});
    let tenant = &account.tenant;
    let condition = match account.held_to {
        HeldTo::Tenant => {
            json!({"StringLike": {"sts:SourceIdentity": SourceIdentity::text(tenant, "*")}})
        }
        HeldTo::PodName => held_to_tag(account, "kubernetes-pod-name"),
        HeldTo::PodUid => held_to_tag(account, "kubernetes-pod-uid"),
    };
    policy(&[
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
    ])
}

fn held_to_tag(account: &Account, tag: &str) -> Value {
    let own = SourceIdentity::text(&account.tenant, &format!("${{aws:PrincipalTag/{tag}}}"));
    let mut held = json!({
        "sts:SourceIdentity": own,
        "aws:PrincipalTag/kubernetes-namespace": account.namespace,
    });
    if let Some(cluster) = &account.cluster {
        held["aws:PrincipalTag/eks-cluster-name"] = json!(cluster);
    }
    json!({"StringEquals": held})
}

fn policy(statements: &[Value]) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

impl Name {
    pub const ALL: [Self; 7] = [
        Self::SessionRoleTrust,
        Self::SessionRolePolicy,
        Self::BaseRolePolicy,
        Self::BoundaryStatement,
        Self::DenyWithoutSourceIdentity,
        Self::Parameter,
        Self::WebhookPolicy,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BaseRolePolicy => "base-role-policy",
            Self::BoundaryStatement => "boundary-statement",
            Self::DenyWithoutSourceIdentity => "deny-without-source-identity",
            Self::Parameter => "parameter",
            Self::SessionRolePolicy => "session-role-policy",
            Self::SessionRoleTrust => "session-role-trust",
            Self::WebhookPolicy => "webhook-policy",
        }
    }

    /// Where it goes, and what to know about it.
    pub fn remark(self) -> &'static str {
        match self {
            Self::BaseRolePolicy => {
                "An identity policy of each base role, the role of the service account that agents run as."
            }
            Self::BoundaryStatement => {
                "If base roles have a permissions boundary: it must allow this, and must not deny \
                 sts:AssumeRole on the session role (a Deny needs NotResource with it)."
            }
            Self::DenyWithoutSourceIdentity => {
                "The last step. An identity policy of each base role: its own credentials do nothing \
                 but assume. It stops at once every pod of these roles that runs without a session: \
                 agents created before the namespace was enabled, and pods such as a model gateway \
                 that is exempt (give these an account of their own first)."
            }
            Self::Parameter => {
                "The parameter in which the webhook finds the session role; the input of ssm:PutParameter."
            }
            Self::SessionRolePolicy => {
                "What agents may do: a start. Whatever the base role may do besides, such as buckets \
                 or tables, is lost unless it is added here."
            }
            Self::SessionRoleTrust => {
                "The trust policy of the session role: the base roles, and only with a SourceIdentity of the tenant."
            }
            Self::WebhookPolicy => "An identity policy of the webhook's own role.",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Name {
    type Err = NotADocument;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|name| name.as_str() == s).ok_or(NotADocument)
    }
}

impl fmt::Display for HeldTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodName => "pod-name",
            Self::PodUid => "pod-uid",
            Self::Tenant => "tenant",
        })
    }
}

impl FromStr for HeldTo {
    type Err = NotAHold;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "pod-name" => Ok(Self::PodName),
            "pod-uid" => Ok(Self::PodUid),
            "tenant" => Ok(Self::Tenant),
            _ => Err(NotAHold),
        }
    }
}

/// What it takes to assume a role with a SourceIdentity from EKS Pod Identity, on both sides.
pub(crate) const ASSUME: [&str; 3] = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];
