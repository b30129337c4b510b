//! Reasons for missing session credentials: a stable code, a message and a remedy.

use std::fmt;

use super::denial::{Action, Denial, Policy};
use crate::session::RoleArn;

/// A failed request for session credentials. Its text is for the owner of the agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssumeRoleError {
    pub role: RoleArn,
    /// The SourceIdentity for display. It may not be bound yet.
    pub identity: String,
    pub reason: Reason,
}

/// How soon a failed request is repeated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryPace {
    /// At once: the request itself waited.
    Now,
    /// After seconds: the issuer lets no more pods wait.
    Poll,
    /// After a second, and then more slowly: the failure may be temporary.
    Quick,
    /// Slowly: the failure is permanent until a change is made.
    Slow,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The base credentials have expired.
    BaseExpired { detail: String },
    /// The pod's service account has no role, or may not assume it.
    BaseRefused { detail: String },
    /// The source of base credentials returned none; this may be temporary.
    BaseUnavailable { detail: String },
    /// The issued credentials are expired by the node's clock.
    ClockSkewed,
    /// STS denied the call.
    Denied { denial: Denial, sentence: String },
    /// The issued credentials do not carry the session's SourceIdentity.
    IdentityMissing,
    /// STS reports that the issuer's token is expired.
    IssuedTokenExpired { detail: String },
    /// STS rejects the issuer's token.
    IssuedTokenRefused { code: String, detail: String },
    /// The issuer decided on another role or SourceIdentity than the webhook.
    IssuerContradicts { what: &'static str, found: String },
    /// STS cannot get the public keys of the issuer; this may be temporary.
    IssuerKeysUnavailable { detail: String },
    /// The issuer refuses the pod a token.
    IssuerRefused { code: String, detail: String },
    /// The issuer returned no token; this may be temporary.
    IssuerUnavailable { detail: String },
    /// No SandboxClaim has the pod yet. `waited`: the issuer responded after the time to wait.
    NotBound { waited: bool },
    /// The file with the pod's token has that of another pod than at the start.
    PodChanged,
    /// The session tags, including those of the base credentials, exceed the limit of STS.
    TagsTooLarge { detail: String },
    /// STS is not active in this region for the account.
    RegionDisabled { detail: String },
    /// STS rejected the call as invalid.
    Rejected { code: String, detail: String },
    /// STS rejected the signature: the node's clock is wrong, or a proxy changes requests.
    SignatureRefused { code: String, detail: String },
    /// STS sent no response, or one that cannot be parsed.
    StsUnavailable { detail: String },
    /// STS throttled the call.
    Throttled { detail: String },
    /// STS denied a call with the issuer's token.
    WebIdentityDenied { detail: String },
}

impl Reason {
    pub fn code(&self) -> &'static str {
        match self {
            Self::BaseExpired { .. } => "base-credentials-expired",
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
            Self::IssuedTokenExpired { .. } => "issued-token-expired",
            Self::IssuedTokenRefused { .. } => "issued-token-refused",
            Self::IssuerContradicts { .. } => "issuer-contradicts",
            Self::IssuerKeysUnavailable { .. } => "issuer-keys-unavailable",
            Self::IssuerRefused { .. } => "issuer-refused",
            Self::IssuerUnavailable { .. } => "issuer-unavailable",
            Self::NotBound { .. } => "not-bound",
            Self::PodChanged => "pod-changed",
            Self::RegionDisabled { .. } => "region-disabled",
            Self::Rejected { .. } => "assume-role-rejected",
            Self::SignatureRefused { .. } => "signature-refused",
            Self::StsUnavailable { .. } => "sts-unavailable",
            Self::TagsTooLarge { .. } => "session-tags-too-large",
            Self::Throttled { .. } => "sts-throttled",
            Self::WebIdentityDenied { .. } => "web-identity-denied",
        }
    }

    pub(super) fn pace(&self) -> RetryPace {
        match self {
            Self::NotBound { waited: true } => RetryPace::Now,
            Self::NotBound { waited: false } => RetryPace::Poll,
            _ if self.is_permanent() => RetryPace::Slow,
            _ => RetryPace::Quick,
        }
    }

    /// Returns whether the failure is permanent until a change is made.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::BaseRefused { .. }
            | Self::Denied { .. }
            | Self::IdentityMissing
            | Self::IssuedTokenRefused { .. }
            | Self::IssuerContradicts { .. }
            | Self::IssuerRefused { .. }
            | Self::PodChanged
            | Self::RegionDisabled { .. }
            | Self::Rejected { .. }
            | Self::TagsTooLarge { .. }
            | Self::WebIdentityDenied { .. } => true,
            Self::BaseExpired { .. }
            | Self::BaseUnavailable { .. }
            | Self::ClockSkewed
            | Self::IssuedTokenExpired { .. }
            | Self::IssuerKeysUnavailable { .. }
            | Self::IssuerUnavailable { .. }
            | Self::NotBound { .. }
            | Self::SignatureRefused { .. }
            | Self::StsUnavailable { .. }
            | Self::Throttled { .. } => false,
        }
    }
}

impl AssumeRoleError {
    fn remedy(&self) -> String {
        let Self { role, identity, reason } = self;
        match reason {
            Reason::BaseExpired { .. } => "the sidecar retries with new base credentials; if the error persists, compare the node's clock with AWS".to_owned(),
            Reason::BaseRefused { .. } => {
                "set up the base role of the pod's service account (EKS Pod Identity association, or web identity in the role's trust policy)".to_owned()
            }
            Reason::BaseUnavailable { .. } => {
                "the sidecar retries; if the error persists, create the EKS Pod Identity association of the pod's service account, and check the Pod Identity agent on the node and the network policies to it and to STS".to_owned()
            }
            Reason::ClockSkewed => "correct the node's clock".to_owned(),
            Reason::Denied { denial, .. } => remedy_of(*denial, role, identity),
            Reason::IdentityMissing => "check AWS_ENDPOINT_URL_STS: its endpoint is not STS, because STS sets the SourceIdentity or denies the call".to_owned(),
            Reason::IssuedTokenExpired { .. } => "the sidecar retries with a new token; if the error persists, compare the clock of the issuer's node with AWS".to_owned(),
            Reason::IssuedTokenRefused { .. } => "compare URL, client ID and keys of the IAM OIDC provider with the section issuer of the config, and the published files with those of `fab-session-injector issuer export`; if STS says that the token is issued in the future, correct the clock of the issuer's node".to_owned(),
            Reason::IssuerContradicts { .. } => "replace the pod; the tenant's role or the pod's session has changed since the pod was created".to_owned(),
            Reason::IssuerKeysUnavailable { .. } => "the sidecar retries; if the error persists, check that the two files of `fab-session-injector issuer export` are public at the URL of the issuer".to_owned(),
            Reason::IssuerRefused { .. } => "do what the issuer's message says, then replace the pod if it is the pod's own fault".to_owned(),
            Reason::IssuerUnavailable { .. } => "the sidecar retries; if the error persists, check the pods of the session issuer, and allow this pod DNS of the cluster and TCP to them (port 8443 in the chart)".to_owned(),
            Reason::NotBound { .. } => "create a SandboxClaim for the warm pool; until then the pod has no session".to_owned(),
            Reason::PodChanged => "replace the pod; a container restored from a checkpoint cannot use the session of the original pod".to_owned(),
            Reason::RegionDisabled { .. } => "activate STS for the region in the IAM account settings, or choose another region".to_owned(),
            Reason::Rejected { .. } => "compare the role's maximum session duration and the webhook's config with the error".to_owned(),
            Reason::SignatureRefused { .. } => "compare the node's clock with AWS, and check for a proxy that changes requests".to_owned(),
            Reason::StsUnavailable { .. } => "the sidecar retries; if the error persists, allow the pod TCP 443 to STS in its region, and check what may respond in its place (a proxy, AWS_ENDPOINT_URL_STS)".to_owned(),
            Reason::TagsTooLarge { .. } => {
                "shorten the names that become tags, or with base credentials create the Pod Identity association with session tags disabled".to_owned()
            }
            Reason::Throttled { .. } => "the sidecar retries; if the error persists, raise the request quota of STS for the account".to_owned(),
            Reason::WebIdentityDenied { .. } => format!("in the trust policy of {role}, allow the IAM OIDC provider of the issuer sts:AssumeRoleWithWebIdentity, sts:SetSourceIdentity and sts:TagSession, with conditions that {identity} meets; `fab-session-injector iam --transport web-identity` prints it"),
        }
    }
}

/// Returns the remedy for a denial. STS often does not name the policy type; the remedy then
/// lists every policy that can deny the action.
fn remedy_of(denial: Denial, role: &RoleArn, identity: &str) -> String {
    let action = denial.action.unwrap_or(Action::AssumeRole);
    let trust = match action {
        Action::AssumeRole => format!(
            "in the trust policy of {role}, allow the base role sts:AssumeRole, sts:SetSourceIdentity and (with Pod Identity) sts:TagSession, with conditions that {identity} meets"
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
        "allow {action} on {role} in the permissions boundary of the base role, and remove any deny of it there"
    );
    match denial.policy {
        Some(Policy::Boundary) => boundary,
        Some(Policy::Identity) => identity_based,
        Some(Policy::Organization) => {
            format!("allow {action} on {role} in the control policies of the organization")
        }
        Some(Policy::Session) => {
            format!("allow {action} on {role} in the session policy of the base credentials")
        }
        Some(Policy::Trust) => trust,
        Some(Policy::VpcEndpoint) => {
            format!("allow {action} on {role} in the policy of the VPC endpoint for STS")
        }
        None => format!("check that the role {role} exists; {trust}; {identity_based}; {boundary}"),
    }
}

impl fmt::Display for AssumeRoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, identity, reason } = self;
        write!(f, "cannot get credentials of {role} for SourceIdentity {identity}: ")?;
        match reason {
            Reason::BaseExpired { detail } => {
                write!(f, "STS reports that the base credentials are expired: {detail}")
            }
            Reason::BaseRefused { detail } => {
                write!(f, "AWS rejects the pod's token or the base credentials: {detail}")
            }
            Reason::BaseUnavailable { detail } => {
                write!(f, "no base credentials are available: {detail}")
            }
            Reason::ClockSkewed => {
                f.write_str("the issued credentials are expired by the node's clock")
            }
            Reason::Denied { sentence, .. } => write!(f, "STS denies the call: {sentence}"),
            Reason::IdentityMissing => {
                f.write_str("the issued credentials do not carry it and are not served")
            }
            Reason::IssuedTokenExpired { detail } => {
                write!(f, "STS reports that the issuer's token is expired: {detail}")
            }
            Reason::IssuedTokenRefused { code, detail } => {
                write!(f, "STS rejects the issuer's token ({code}): {detail}")
            }
            Reason::IssuerContradicts { what, found } => {
                write!(f, "the session issuer answers with the {what} {found}")
            }
            Reason::IssuerKeysUnavailable { detail } => {
                write!(f, "STS cannot get the public keys of the session issuer: {detail}")
            }
            Reason::IssuerRefused { code, detail } => {
                write!(f, "the session issuer refuses the pod ({code}): {detail}")
            }
            Reason::IssuerUnavailable { detail } => {
                write!(f, "no token of the session issuer: {detail}")
            }
            Reason::NotBound { .. } => f.write_str("no SandboxClaim has the pod's Sandbox yet"),
            Reason::PodChanged => f.write_str("the token file names another pod than at the start"),
            Reason::RegionDisabled { detail } => {
                write!(f, "STS is not active in this region for the account: {detail}")
            }
            Reason::Rejected { code, detail } => write!(f, "STS responds with {code}: {detail}"),
            Reason::SignatureRefused { code, detail } => {
                write!(f, "STS rejects the signature ({code}): {detail}")
            }
            Reason::StsUnavailable { detail } => write!(f, "the call to STS failed: {detail}"),
            Reason::TagsTooLarge { detail } => {
                write!(f, "the session tags exceed the size limit of STS: {detail}")
            }
            Reason::Throttled { detail } => {
                write!(f, "STS throttles the account's calls: {detail}")
            }
            Reason::WebIdentityDenied { detail } => write!(f, "STS denies the call: {detail}"),
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
                "]: allow sts:AssumeRole on arn:aws:iam::111122223333:role/broker in the permissions boundary",
            ),
            ("an unknown message".to_owned(), "assume-role-denied", "trust policy"),
        ];
        for (sentence, code, remedy) in cases {
            let failure = AssumeRoleError {
                role: role.parse().unwrap(),
                identity: "agent.acme.s".to_owned(),
                reason: Reason::Denied { denial: denial(&sentence), sentence: sentence.clone() },
            };
            let text = failure.to_string();
            assert_eq!(failure.reason.code(), code, "{sentence}");
            for part in [role, "agent.acme.s", &*sentence, code, remedy] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(failure.reason.is_permanent());
        }
    }
}
