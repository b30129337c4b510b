//! The policy of revoked sessions in IAM.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_iam::{Client, error::SdkError};
use jiff::SignedDuration;
use tokio::time::timeout;

use super::protocol::PolicyStore;
use crate::{
    command::{
        aws_shell::PATIENCE,
        iam_roles::{self, IamError},
    },
    revocation::{Inline, Next, NotOurs, POLICY_NAME},
    session::{RoleArn, TenantName},
};

/// A role in IAM that exists, in the account of the credentials.
#[derive(Debug)]
pub(super) struct IamRole {
    iam: Client,
    role: RoleArn,
    pub(super) longest_session: SignedDuration,
    /// The trust policy, as text.
    trust: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RoleError {
    #[error(transparent)]
    Iam(#[from] IamError),
    /// IAM counts more characters than this program.
    #[error("IAM refuses the policy: {0}")]
    LimitExceeded(String),
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
}

impl IamRole {
    pub(super) async fn find(shell: &SdkConfig, role: &RoleArn) -> Result<Self, IamError> {
        let iam = Client::new(shell);
        let found = timeout(PATIENCE, iam_roles::role(&iam, role)).await;
        let found = found.map_err(|_| IamError::NoAnswer)??;
        let longest_session = SignedDuration::try_from(iam_roles::longest_session(&found))
            .unwrap_or(SignedDuration::MAX);
        let trust = found.assume_role_policy_document.unwrap_or_default();
        Ok(Self { iam, role: role.clone(), longest_session, trust: iam_roles::decoded(&trust) })
    }

    /// Returns whether the role may be the session role of the tenant: its trust policy allows a
    /// SourceIdentity, and names those of the tenant, or of no tenant.
    pub(super) fn may_be_of(&self, tenant: &TenantName) -> bool {
        may_be_of(&self.trust, tenant)
    }

    /// Reads the policies within [`PATIENCE`].
    pub(super) async fn look(&self) -> Result<Inline, RoleError> {
        timeout(PATIENCE, self.read()).await.map_err(|_| IamError::NoAnswer)?
    }
}

fn may_be_of(trust: &str, tenant: &TenantName) -> bool {
    // IAM ignores the case of actions.
    let actions = trust.to_ascii_lowercase();
    let sets = ["setsourceidentity", "sts:*", "sts:set*", "\"*\""];
    let names = |text: &str| trust.contains(text);
    sets.iter().any(|action| actions.contains(action))
        && (names(&format!("agent.{tenant}.")) || names("agent.*") || !names("agent."))
}

impl PolicyStore for IamRole {
    type Error = RoleError;

    async fn read(&self) -> Result<Inline, RoleError> {
        let policies = iam_roles::inline_policies(&self.iam, &self.role).await?;
        Ok(Inline::read(policies.iter().map(|(name, text)| (&**name, &**text)))?)
    }

    async fn write(&self, next: &Next) -> Result<(), RoleError> {
        let name = self.role.name();
        match next {
            Next::Delete => {
                let delete = self.iam.delete_role_policy().role_name(name);
                match delete.policy_name(POLICY_NAME).send().await {
                    // Another program deleted it since it was read.
                    Err(SdkError::ServiceError(error))
                        if error.err().is_no_such_entity_exception() => {}
                    deleted => drop(deleted.map_err(IamError::from)?),
                }
            }
            Next::Nothing => {}
            Next::Put(document) => {
                let put = self.iam.put_role_policy().role_name(name).policy_name(POLICY_NAME);
                match put.policy_document(document).send().await {
                    Err(SdkError::ServiceError(error))
                        if error.err().is_limit_exceeded_exception() =>
                    {
                        return Err(RoleError::LimitExceeded(error.err().to_string()));
                    }
                    written => drop(written.map_err(IamError::from)?),
                }
            }
        }
        Ok(())
    }
}

/// Pace of the writes. A read takes one call per inline policy of the role; IAM answers each in
/// some tenths of a second.
pub(super) const PACE: super::protocol::Pace =
    super::protocol::Pace { within: Duration::from_secs(5), settle: Duration::from_secs(6) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_without_source_identities_is_no_session_role() {
        let tenant = "acme".parse().unwrap();
        for (trust, want) in [
            (
                r#"{"Action":["sts:AssumeRole","sts:SetSourceIdentity"],"sts:SourceIdentity":"agent.acme.*"}"#,
                true,
            ),
            (r#"{"Action":"sts:setsourceidentity","sts:SourceIdentity":"agent.*"}"#, true),
            (r#"{"Action":"sts:SetSourceIdentity"}"#, true),
            (r#"{"Action":"sts:*"}"#, true),
            (r#"{"Action":["sts:SetSourceIdentity"],"sts:SourceIdentity":"agent.beta.*"}"#, false),
            // A base role with EKS Pod Identity, and one with IRSA.
            (r#"{"Action":["sts:AssumeRole","sts:TagSession"]}"#, false),
            (r#"{"Action":"sts:AssumeRoleWithWebIdentity"}"#, false),
        ] {
            assert_eq!(may_be_of(trust, &tenant), want, "{trust}");
        }
    }
}
