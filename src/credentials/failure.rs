//! Why there are no new credentials: a code that is forever, a sentence, a remedy.

use std::fmt;

use super::denial::{Action, Denial, Policy};
use crate::session::{RoleArn, SourceIdentity};

/// One try that failed. Its text is for the person whose agent has no credentials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub role: RoleArn,
    pub identity: SourceIdentity,
    pub reason: Reason,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The base credentials that we were given have expired.
    BaseExpired,
    /// The pod's service account has no role, or may not have it.
    BaseRefused { detail: String },
    /// Whoever hands base credentials out did not, for now.
    BaseUnavailable { detail: String },
    /// What STS gave has expired already by the node's clock, or never expires.
    ClockSkewed,
    /// STS denied the call.
    Denied { denial: Denial, sentence: String },
    /// What was issued does not carry the session's SourceIdentity.
    IdentityMissing,
    /// The session tags of the base credentials leave no room for ours.
    TagsTooLarge { detail: String },
    /// STS does not serve this region for the account.
    RegionDisabled,
    /// STS found the call wrong, as it is.
    Rejected { code: String, detail: String },
    /// STS does not accept the signature: the node's clock, or what is between.
    SignatureRefused { code: String },
    /// No answer, or not one that can be read.
    StsUnavailable { detail: String },
    /// STS asks for fewer calls.
    Throttled,
}

impl Reason {
    pub fn code(&self) -> &'static str {
        match self {
            Self::BaseExpired => "base-credentials-expired",
            Self::BaseRefused { .. } => "base-credentials-refused",
            Self::BaseUnavailable { .. } => "base-credentials-unavailable",
            Self::ClockSkewed => "clock-skewed",
            Self::Denied { denial, .. } => match (denial.policy, denial.action) {
                (Some(Policy::Boundary), _) => "boundary-denied",
                (Some(Policy::Identity), _) => "base-role-denied",
                (Some(Policy::Organization), _) => "organization-denied",
                (Some(Policy::VpcEndpoint), _) => "vpc-endpoint-denied",
                (_, Some(Action::SetSourceIdentity)) => "set-source-identity-denied",
                (_, Some(Action::TagSession)) => "tag-session-denied",
                (_, Some(Action::AssumeRole) | None) => "assume-role-denied",
            },
            Self::IdentityMissing => "source-identity-missing",
            Self::RegionDisabled => "region-disabled",
            Self::Rejected { .. } => "assume-role-rejected",
            Self::SignatureRefused { .. } => "signature-refused",
            Self::StsUnavailable { .. } => "sts-unavailable",
            Self::TagsTooLarge { .. } => "session-tags-too-large",
            Self::Throttled => "sts-throttled",
        }
    }

    /// Whether somebody has to change something first. What is so is tried again slowly.
    pub fn stays(&self) -> bool {
        match self {
            Self::BaseRefused { .. }
            | Self::Denied { .. }
            | Self::IdentityMissing
            | Self::RegionDisabled
            | Self::Rejected { .. }
            | Self::TagsTooLarge { .. } => true,
            Self::BaseExpired
            | Self::BaseUnavailable { .. }
            | Self::ClockSkewed
            | Self::SignatureRefused { .. }
            | Self::StsUnavailable { .. }
            | Self::Throttled => false,
        }
    }
}

impl Failure {
    fn remedy(&self) -> String {
        let Self { role, identity, reason } = self;
        match reason {
            Reason::BaseExpired => "trying again with new ones; if it stays, compare the node's clock with AWS".to_owned(),
            Reason::BaseRefused { .. } => {
                "give the pod's service account its base role (EKS Pod Identity association, or the role's web identity trust)".to_owned()
            }
            Reason::BaseUnavailable { .. } => {
                "trying again; if it stays, create the EKS Pod Identity association of the pod's service account, and look at the agent on the node and at network policies to it and to STS".to_owned()
            }
            Reason::ClockSkewed => "set the node's clock".to_owned(),
            Reason::Denied { denial, .. } => remedy_of(*denial, role, identity),
            Reason::IdentityMissing => "look at AWS_ENDPOINT_URL_STS: what answers there is not STS, which sets the name or denies the call".to_owned(),
            Reason::RegionDisabled => "activate STS for the region in the account's settings of IAM, or choose another region".to_owned(),
            Reason::Rejected { .. } => "compare the role's maximum session duration and the webhook's config with the error".to_owned(),
            Reason::SignatureRefused { .. } => "compare the node's clock with AWS, and look for a proxy that changes requests".to_owned(),
            Reason::StsUnavailable { .. } => "trying again; if it stays, allow the pod TCP 443 to STS in its region, and look at what may answer in its place (a proxy, AWS_ENDPOINT_URL_STS)".to_owned(),
            Reason::TagsTooLarge { .. } => {
                "create the Pod Identity association with session tags disabled, or shorten the names that become tags".to_owned()
            }
            Reason::Throttled => "trying again; if it stays, raise the account's quota for AssumeRole".to_owned(),
        }
    }
}

/// A sentence without a reason is the rule: STS names one only sometimes. Then all that can
/// deny the action are listed.
fn remedy_of(denial: Denial, role: &RoleArn, identity: &SourceIdentity) -> String {
    let action = denial.action.unwrap_or(Action::AssumeRole);
    let trust = match action {
        Action::AssumeRole => format!(
            "let the trust policy of {role} name the base role and allow sts:AssumeRole, sts:SetSourceIdentity and (with Pod Identity) sts:TagSession, with conditions that {identity} meets"
        ),
        Action::SetSourceIdentity => format!(
            "allow sts:SetSourceIdentity in the trust policy of {role}, with a condition on sts:SourceIdentity that {identity} meets"
        ),
        Action::TagSession => format!(
            "allow sts:TagSession in the trust policy of {role}, in a statement without a condition on sts:SourceIdentity: the session tags of EKS Pod Identity are passed on (or create the association with session tags disabled)"
        ),
    };
    let identity_based = format!("allow {action} on {role} in a policy of the base role");
    let boundary = format!(
        "let the permissions boundary of the base role allow {action} on {role}, and deny it nowhere"
    );
    match denial.policy {
        Some(Policy::Boundary) => boundary,
        Some(Policy::Identity) => identity_based,
        Some(Policy::Organization) => {
            format!("let the organization's control policies allow {action} on {role}")
        }
        Some(Policy::Session) => {
            format!("let the session policy of the base credentials allow {action} on {role}")
        }
        Some(Policy::Trust) => trust,
        Some(Policy::VpcEndpoint) => {
            format!("let the policy of the VPC endpoint for STS allow {action} on {role}")
        }
        None => format!(
            "see that there is a role {role}; {trust}; and {identity_based}; and {boundary}"
        ),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, identity, reason } = self;
        write!(f, "no credentials of {role} for SourceIdentity {identity}: ")?;
        match reason {
            Reason::BaseExpired => f.write_str("STS says that the base credentials have expired"),
            Reason::BaseRefused { detail } => {
                write!(f, "the base credentials are refused: {detail}")
            }
            Reason::BaseUnavailable { detail } => {
                write!(f, "there are no base credentials: {detail}")
            }
            Reason::ClockSkewed => {
                f.write_str("what STS issued has no life left by the node's clock")
            }
            Reason::Denied { sentence, .. } => write!(f, "STS denies it: {sentence}"),
            Reason::IdentityMissing => {
                f.write_str("what was issued does not carry it, and is not served")
            }
            Reason::RegionDisabled => {
                f.write_str("STS is not active in this region for the account")
            }
            Reason::Rejected { code, detail } => write!(f, "STS answers {code}: {detail}"),
            Reason::SignatureRefused { code } => write!(f, "STS refuses the signature ({code})"),
            Reason::StsUnavailable { detail } => write!(f, "STS cannot be asked: {detail}"),
            Reason::TagsTooLarge { detail } => {
                write!(f, "the session tags take too much room: {detail}")
            }
            Reason::Throttled => f.write_str("STS asks for fewer calls"),
        }?;
        write!(f, " [{}]: {}", reason.code(), self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::denial;

    #[test]
    fn a_denial_names_role_identity_cause_and_remedy() {
        let user =
            "User: arn:aws:sts::111122223333:assumed-role/base/s is not authorized to perform:";
        let role = "arn:aws:iam::111122223333:role/broker";
        let cases = [
            (
                format!("{user} sts:AssumeRole on resource: {role}"),
                "assume-role-denied",
                "trust policy",
            ),
            (
                format!("{user} sts:AssumeRole on resource: {role}"),
                "assume-role-denied",
                "boundary",
            ),
            (
                format!("{user} sts:SetSourceIdentity on resource: {role}"),
                "set-source-identity-denied",
                "allow sts:SetSourceIdentity in the trust policy",
            ),
            (
                format!(
                    "{user} sts:SetSourceIdentity on resource: {role} because no identity-based policy allows the sts:SetSourceIdentity action"
                ),
                "base-role-denied",
                "]: allow sts:SetSourceIdentity on arn:aws:iam::111122223333:role/broker in a policy of the base role",
            ),
            (
                format!("{user} sts:TagSession on resource: {role}"),
                "tag-session-denied",
                "EKS Pod Identity",
            ),
            (
                format!(
                    "{user} sts:AssumeRole on resource: {role} with an explicit deny in a permissions boundary"
                ),
                "boundary-denied",
                "]: let the permissions boundary",
            ),
            ("no sentence that we know".to_owned(), "assume-role-denied", "trust policy"),
        ];
        for (sentence, code, remedy) in cases {
            let failure = Failure {
                role: role.parse().unwrap(),
                identity: "agent.acme.s".parse().unwrap(),
                reason: Reason::Denied { denial: denial(&sentence), sentence: sentence.clone() },
            };
            let text = failure.to_string();
            assert_eq!(failure.reason.code(), code, "{sentence}");
            for part in [role, "agent.acme.s", &*sentence, code, remedy] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(failure.reason.stays());
        }
    }
}
