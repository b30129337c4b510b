//! The names of the documents.

use std::{fmt, str::FromStr};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Name {
    BaseRolePolicy,
    BaseRoleTrust,
    BoundaryStatement,
    BucketPolicy,
    DenyWithoutSourceIdentity,
    IssuerPolicy,
    OidcProvider,
    Parameter,
    SessionRole,
    SessionRolePolicy,
    SessionRoleTrust,
    WebhookPolicy,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected one of {}", Name::ALL.map(Name::as_str).join(", "))]
pub struct NotADocument;

impl Name {
    pub const ALL: [Self; 12] = [
        Self::OidcProvider,
        Self::SessionRole,
        Self::SessionRoleTrust,
        Self::SessionRolePolicy,
        Self::BaseRoleTrust,
        Self::BaseRolePolicy,
        Self::BoundaryStatement,
        Self::DenyWithoutSourceIdentity,
        Self::Parameter,
        Self::WebhookPolicy,
        Self::IssuerPolicy,
        Self::BucketPolicy,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BaseRolePolicy => "base-role-policy",
            Self::BaseRoleTrust => "base-role-trust",
            Self::BoundaryStatement => "boundary-statement",
            Self::BucketPolicy => "bucket-policy",
            Self::DenyWithoutSourceIdentity => "deny-without-source-identity",
            Self::IssuerPolicy => "issuer-policy",
            Self::OidcProvider => "oidc-provider",
            Self::Parameter => "parameter",
            Self::SessionRole => "session-role",
            Self::SessionRolePolicy => "session-role-policy",
            Self::SessionRoleTrust => "session-role-trust",
            Self::WebhookPolicy => "webhook-policy",
        }
    }

    /// Returns where to apply the document, and what it does.
    pub(super) fn remark(self) -> &'static str {
        match self {
            Self::BaseRolePolicy => {
                "An identity policy of each base role (the role of the service account that agents run as)."
            }
            Self::BaseRoleTrust => {
                "For IRSA: the trust policy of each base role. Only tokens of these service accounts may assume it."
            }
            Self::BoundaryStatement => {
                "If base roles have a permissions boundary: the boundary must allow this, and must not deny \
                 sts:AssumeRole on the session role (a Deny needs NotResource with the session role). The \
                 statement allows and stops nothing that runs: add it before the namespace is enabled."
            }
            Self::BucketPolicy => {
                "The policy of the bucket with the issuer's public files: everyone may read the two files, and no user may \
                 delete the bucket. It replaces the bucket's whole policy."
            }
            Self::DenyWithoutSourceIdentity => {
                "The last step. An identity policy of each base role: base credentials can only assume \
                 the session role. It immediately stops every pod of these roles that runs without a \
                 session: agents created before the namespace was enabled, and exempt pods such as a \
                 model gateway (give these a service account of their own first). check names these pods."
            }
            Self::IssuerPolicy => {
                "An identity policy of the session issuer's own role. Who has it can name every session of every tenant."
            }
            Self::OidcProvider => {
                "The OIDC provider of the session issuer, once in each account of session roles; the input of \
                 iam:CreateOpenIDConnectProvider. Upload the files of `fab-session-injector issuer export` first."
            }
            Self::Parameter => {
                "The SSM parameter from which the webhook reads the session role; the input of ssm:PutParameter. \
                 Another value changes the role of new pods. Running pods keep theirs."
            }
            Self::SessionRole => {
                "The session role with its trust policy, tags and permissions boundary; the input of iam:CreateRole."
            }
            Self::SessionRolePolicy => {
                "The permissions of agents, to be completed. Agents lose the other permissions of the base \
                 role, such as those for buckets or tables, unless they are added here."
            }
            Self::SessionRoleTrust => {
                "The trust policy of the session role: the base roles may assume it, only with a SourceIdentity of the tenant. \
                 It replaces the role's whole trust policy: a principal that it does not name cannot \
                 assume the role any more, and its sessions end with their credentials, after an hour at most. \
                 Name each base role in use, and compare with aws iam get-role first."
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
