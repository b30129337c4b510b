//! Required AWS resources of one tenant: policies and a parameter that admit the sessions of that
//! tenant only. They use the same names as webhook and sidecar.

mod terraform;

use std::{fmt, str::FromStr};

use serde_json::{Value, json};

pub use self::terraform::terraform;
use crate::session::{RoleArn, SourceIdentity, TenantName};

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
    pub session_role: RoleArn,
    pub region: String,
    /// The name of the parameter from which the webhook reads the session role.
    pub parameter: String,
    /// The names of all such parameters, with `*` for the tenant.
    pub parameters: String,
    pub restrict_to: RestrictTo,
    /// Whether to include [`Name::DenyWithoutSourceIdentity`], which stops running pods.
    pub deny_without_source_identity: bool,
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
#[error("expected tenant, pod-uid or pod-name")]
pub struct NotARestriction;

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected one of {}", Name::ALL.map(Name::as_str).join(", "))]
pub struct NotADocument;

/// Returns the documents in the order in which to create them; the deny only if it is requested.
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
        // A boundary is one policy for all tenants; this is one statement of it.
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
            // Claude Code lists the profiles when it starts.
            json!({
                "Sid": "ListProfiles",
                "Effect": "Allow",
                "Action": "bedrock:ListInferenceProfiles",
                "Resource": "*",
            }),
            // A further role would keep the SourceIdentity, but have other permissions.
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

/// Returns the trust policy of the session role.
///
/// sts:TagSession is a separate statement: a condition on sts:SourceIdentity never matches it. EKS
/// Pod Identity's session tags are transitive: they are passed to each role that is assumed.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>
fn trust(account: &Account) -> Value {
    let principals =
        json!({"AWS": account.base_roles.iter().map(RoleArn::as_str).collect::<Vec<_>>()});
    let tenant = &account.tenant;
    let condition = match account.restrict_to {
        RestrictTo::Tenant => {
            json!({"StringLike": {"sts:SourceIdentity": SourceIdentity::text(tenant, "*")}})
        }
        RestrictTo::PodName => restrict_to_tag(account, "kubernetes-pod-name"),
        RestrictTo::PodUid => restrict_to_tag(account, "kubernetes-pod-uid"),
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

    /// Returns where to apply the document, and what it does.
    pub fn remark(self) -> &'static str {
        match self {
            Self::BaseRolePolicy => {
                "An identity policy of each base role (the role of the service account that agents run as)."
            }
            Self::BoundaryStatement => {
                "If base roles have a permissions boundary: the boundary must allow this, and must not deny \
                 sts:AssumeRole on the session role (a Deny needs NotResource with the session role)."
            }
            Self::DenyWithoutSourceIdentity => {
                "The last step. An identity policy of each base role: base credentials can only assume \
                 the session role. It immediately stops every pod of these roles that runs without a \
                 session: agents created before the namespace was enabled, and exempt pods such as a \
                 model gateway (give these a service account of their own first)."
            }
            Self::Parameter => {
                "The SSM parameter from which the webhook reads the session role; the input of ssm:PutParameter."
            }
            Self::SessionRolePolicy => {
                "The permissions of agents, to be completed. Agents lose the other permissions of the base \
                 role, such as those for buckets or tables, unless they are added here."
            }
            Self::SessionRoleTrust => {
                "The trust policy of the session role: the base roles may assume it, only with a SourceIdentity of the tenant."
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

impl fmt::Display for RestrictTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodName => "pod-name",
            Self::PodUid => "pod-uid",
            Self::Tenant => "tenant",
        })
    }
}

impl FromStr for RestrictTo {
    type Err = NotARestriction;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "pod-name" => Ok(Self::PodName),
            "pod-uid" => Ok(Self::PodUid),
            "tenant" => Ok(Self::Tenant),
            _ => Err(NotARestriction),
        }
    }
}

/// The actions that trust policy and identity policy must allow to assume a role with a
/// SourceIdentity and the session tags of EKS Pod Identity.
pub(crate) const ASSUME: [&str; 3] = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];
