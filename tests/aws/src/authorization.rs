//! Authorization: evaluates all policies that apply to a call, in the order that AWS documents.

use std::fmt;

use crate::{
    failure::{Code, Failure},
    moment,
    policy::{Action, Caller, Context, Key, NamedBy, Policy, Trust, Verdict},
    role::StandingRole,
    session::Session,
};

/// The policy that denies a call, and how. Its `Display` is the end of the message of AWS.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Denial {
    #[error(" because no permissions boundary allows the {0} action")]
    BoundaryIsSilent(Action),
    #[error(" with an explicit deny in a permissions boundary")]
    DeniedByBoundary,
    #[error(" with an explicit deny in an identity-based policy")]
    DeniedByIdentity,
    #[error(" with an explicit deny in the role trust policy")]
    DeniedByTrust,
    #[error(" because no identity-based policy allows the {0} action")]
    IdentityIsSilent(Action),
    #[error(" because no role trust policy allows the {0} action")]
    TrustIsSilent(Action),
}

/// Returns an error if `session` is not allowed `action` on `role`.
///
/// The trust policy must always allow the action. The caller's own policies must also allow it,
/// if the trust policy names the account or the role is in another account. A trust policy that
/// names the caller's role replaces an allow of the permissions policies, but not one of the
/// boundary. A trust policy that names the session itself replaces both.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html#access_policies_boundaries-eval-logic>
///
/// For a session, both sides must allow `sts:SetSourceIdentity`, whatever the principal is.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html#id_credentials_temp_control-access_monitor-perms>
pub(crate) fn of_session(
    session: &Session,
    role: &StandingRole,
    action: Action,
    context: &Context,
) -> Result<(), Denial> {
    let (identity, boundary) = own_verdicts(session, role.arn.as_str(), action, context);
    let trust = role.trust.verdict(&Caller::Session(session), action, context);

    let named_by = match (trust, identity, boundary) {
        (Trust::Denied, _, _) => return Err(Denial::DeniedByTrust),
        (_, Verdict::Denied, _) => return Err(Denial::DeniedByIdentity),
        (_, _, Verdict::Denied) => return Err(Denial::DeniedByBoundary),
        (Trust::Silent, _, _) => return Err(Denial::TrustIsSilent(action)),
        (Trust::Allowed(named_by), _, _) => named_by,
    };
    let same_account = session.role.arn.account() == role.arn.account();
    let identity_counts =
        !same_account || named_by == NamedBy::Account || action == Action::SetSourceIdentity;
    let boundary_counts = identity_counts || named_by != NamedBy::Session;
    if identity_counts && identity != Verdict::Allowed {
        return Err(Denial::IdentityIsSilent(action));
    }
    if boundary_counts && boundary != Verdict::Allowed {
        return Err(Denial::BoundaryIsSilent(action));
    }
    Ok(())
}

/// Returns an error if `session` is not allowed `action` on a resource without its own policy.
pub(crate) fn of_caller(
    session: &Session,
    resource: &str,
    action: Action,
    context: &Context,
) -> Result<(), Denial> {
    match own_verdicts(session, resource, action, context) {
        (Verdict::Denied, _) => Err(Denial::DeniedByIdentity),
        (_, Verdict::Denied) => Err(Denial::DeniedByBoundary),
        (Verdict::Silent, _) => Err(Denial::IdentityIsSilent(action)),
        (_, Verdict::Silent) => Err(Denial::BoundaryIsSilent(action)),
        (Verdict::Allowed, Verdict::Allowed) => Ok(()),
    }
}

/// Returns an error if a policy of `session` denies all actions, also those that are not evaluated
/// here.
pub(crate) fn of_other_action(session: &Session) -> Result<(), Denial> {
    match own_verdicts(session, "*", Action::Other, &context_of(session)) {
        (Verdict::Denied, _) => Err(Denial::DeniedByIdentity),
        (_, Verdict::Denied) => Err(Denial::DeniedByBoundary),
        _ => Ok(()),
    }
}

/// Returns the verdict of all permissions policies of the caller, and that of its boundary.
fn own_verdicts(
    session: &Session,
    resource: &str,
    action: Action,
    context: &Context,
) -> (Verdict, Verdict) {
    let verdict = |policy: &Policy| policy.verdict(action, resource, context);
    let inline = session.role.inline();
    let identity = session.role.policies.iter().chain(inline.values()).map(verdict);
    let identity = identity.fold(Verdict::Silent, |sum, one| match (sum, one) {
        (Verdict::Denied, _) | (_, Verdict::Denied) => Verdict::Denied,
        (Verdict::Allowed, _) | (_, Verdict::Allowed) => Verdict::Allowed,
        (Verdict::Silent, Verdict::Silent) => Verdict::Silent,
    });
    (identity, session.role.boundary.as_ref().map_or(Verdict::Allowed, verdict))
}

/// Returns an error if a caller without its own policies is not allowed the action. The caller is
/// a service or a subject of an OIDC provider.
pub(crate) fn of_other(
    caller: &Caller<'_>,
    role: &StandingRole,
    action: Action,
    context: &Context,
) -> Result<(), Denial> {
    match role.trust.verdict(caller, action, context) {
        Trust::Allowed(_) => Ok(()),
        Trust::Denied => Err(Denial::DeniedByTrust),
        Trust::Silent => Err(Denial::TrustIsSilent(action)),
    }
}

/// Returns the condition keys of a calling session: its tags, tags of its role with other keys,
/// and its source identity.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-principal-properties>
pub(crate) fn context_of(session: &Session) -> Context {
    let mut context = Context::default();
    context.set(Key::PrincipalArn, session.role.arn.as_str());
    context.set(Key::PrincipalAccount, session.role.arn.account());
    for (key, value) in session.role.tags() {
        context.set(Key::PrincipalTag(key.to_ascii_lowercase()), value);
    }
    for tag in session.tags.iter() {
        context.set(Key::PrincipalTag(tag.key.to_ascii_lowercase()), &tag.value);
    }
    context.set(Key::TokenIssueTime, moment::extended(session.created));
    if let Some(identity) = &session.source_identity {
        context.set(Key::HeldSourceIdentity, identity);
    }
    context
}

/// Returns an AccessDenied error. `reason` is None if AWS gives no reason.
pub(crate) fn access_denied(
    caller_arn: &str,
    action: impl fmt::Display,
    resource: &str,
    reason: Option<Denial>,
) -> Failure {
    let reason = reason.map(|denial| denial.to_string()).unwrap_or_default();
    Failure::new(
        Code::AccessDenied,
        format!(
            "User: {caller_arn} is not authorized to perform: {action} on resource: \
             {resource}{reason}"
        ),
    )
}
