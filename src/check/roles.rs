//! Checks the tenants' session roles: whether they are published and can be assumed.

use std::{borrow::Cow, collections::BTreeSet};

use super::{
    AwsFacts, CheckId, Checks, Findings, Objects, Seen, Trial, base_credentials, iam, issuer,
    issuer_trust,
    namespace::{self, Bare},
    objects::name,
};
use crate::{
    admission,
    config::{Config, Creator, CredentialsMode, SessionTransport},
    roles::{Cause, Role, Roles},
    session::{StartGate, TenantName},
};

pub(super) fn check_roles(checks: &Checks<'_>) -> Findings {
    let mut found = Findings::default();
    let Checks { aws, config, revocations, roles, tenants, transports, trials, .. } = checks;
    for (namespace, trial) in trials {
        check_trial(namespace, trial, &mut found);
    }
    let Some(roles) = roles else { return found };
    for tenant in tenants {
        check_publication(tenant, roles, &mut found);
    }
    let Some(AwsFacts { assumed, chains, providers }) = aws else { return found };
    if let Some(issuer) = &config.issuer {
        found.extend(issuer::check_providers(issuer, providers));
    }
    for tenant in tenants {
        if let (Some(Role::Known(role)), Some(chain)) = (roles.role(tenant), chains.get(tenant)) {
            if transports.has(tenant, SessionTransport::RoleChain) {
                found.extend(iam::check_policies(tenant, role, chain, &config.base_credentials));
                found.extend(base_credentials::check_base_trust(tenant, chain, config));
            }
            if let Some(issuer) = &config.issuer
                && transports.has(tenant, SessionTransport::WebIdentity)
            {
                found.extend(issuer_trust::check_trust(tenant, role, chain, issuer));
            }
            found.extend(revocations.check(tenant, role, chain));
        }
    }
    let Some(assumed) = assumed else {
        if !tenants.is_empty() && trials.is_empty() {
            found.unknown(CheckId::AssumeRole, "AWS", NOT_TRIED);
        }
        return found;
    };
    for (tenant, assumed) in
        tenants.iter().filter_map(|tenant| Some((tenant, assumed.get(tenant)?)))
    {
        let subject = format!("tenant {tenant}");
        match assumed {
            Ok(()) => found.ok(
                CheckId::AssumeRole,
                subject,
                "STS issues credentials with its SourceIdentity",
            ),
            // A permanent failure is an error; a transient one means that a service did not answer.
            Err(failure) if failure.reason.is_permanent() => {
                found.failed(CheckId::AssumeRole, subject, failure);
            }
            Err(failure) => found.unreachable(CheckId::AssumeRole, subject, failure.to_string()),
        }
    }
    found
}

/// Returns the tenants of the opted-in namespaces, without those whose name is invalid or too long.
pub fn tenants(namespaces: &Seen<Objects>, config: &Config) -> BTreeSet<TenantName> {
    let workable = namespace::opted_in(namespaces, config)
        .filter(|namespace| namespace::without_tenant(namespace, config).is_none());
    workable.filter_map(|namespace| namespace.tenant.ok()).collect()
}

/// Returns a service account of the namespace for the test pod: one that makes a pod without
/// labels, created by `creator`, an agent pod that waits for its credentials.
pub fn service_account_to_try(
    accounts: &Seen<Objects>,
    creator: Creator<'_>,
    config: &Config,
) -> Option<String> {
    let is_one = |account: &Cow<'_, str>| {
        config.component_of(&Bare { account, creator }).is_some_and(|matched| {
            matched.component.credentials == CredentialsMode::Sidecar
                && matched.component.start_gate == StartGate::Credentials
        })
    };
    accounts.iter().map(name).find(is_one).map(Cow::into_owned)
}

fn check_trial(namespace: &str, trial: &Trial, found: &mut Findings) {
    let subject = format!("namespace {namespace}");
    match trial {
        Trial::Bare => {
            let message =
                "a test pod was created without a sidecar: the API server did not call the webhook";
            found.error(CheckId::WebhookMissing, subject, message);
        }
        Trial::Deleted => {
            let message = "a test pod was deleted before its result was known; run check again";
            found.unknown(CheckId::AssumeRole, subject, message);
        }
        Trial::Ended => found.ok(CheckId::AssumeRole, subject, "a test pod got its credentials"),
        // Users with RBAC for events of the namespace may have changed this event.
        Trial::Held(event) => {
            let message = format!("the sidecar of a test pod has no credentials; event: {event:?}");
            found.error(CheckId::AssumeRole, subject, message);
        }
        Trial::Refused(why) => {
            let message = format!("the API server denied a test pod: {why}");
            found.error(CheckId::AssumeRole, subject, message);
        }
        Trial::Unanswered(why) => {
            let message =
                format!("the API server did not process the creation of a test pod: {why}");
            found.unreachable(CheckId::AssumeRole, subject, message);
        }
        Trial::Untried(why) => found.unknown(CheckId::AssumeRole, subject, why),
        Trial::Waiting(why) => {
            found.unknown(CheckId::AssumeRole, subject, format!("a test pod did not start: {why}"));
        }
    }
}

fn check_publication(tenant: &TenantName, roles: &Roles, found: &mut Findings) {
    let subject = format!("tenant {tenant}");
    match (roles.role(tenant), admission::role_refusal(tenant, roles)) {
        (Some(Role::Known(role)), _) => {
            found.ok(
                CheckId::RoleParameter,
                subject,
                format!("{role}, from {}", roles.location(tenant)),
            );
        }
        // The credentials of this shell failed, which need not be the webhook's.
        (Some(Role::Unreachable(cause)), _) => {
            let place = roles.location(tenant);
            match cause {
                Cause::Denied | Cause::NoCredentials => {
                    let message = format!(
                        "the AWS credentials of this shell are missing or not authorized to read {place}"
                    );
                    found.unknown(CheckId::RoleParameter, subject, message);
                }
                Cause::Failed | Cause::NoAnswer | Cause::Throttled => {
                    let message = format!("cannot read {place}: {cause}{OF_THIS_SHELL}");
                    found.unreachable(CheckId::RoleParameter, subject, message);
                }
            }
        }
        (_, Some(refusal)) if !refusal.is_transient() => {
            found.refused(CheckId::RoleParameter, subject, &refusal);
        }
        (_, _) => {
            let message = format!("cannot read {}: timed out", roles.location(tenant));
            found.unreachable(CheckId::RoleParameter, subject, message);
        }
    }
}

/// Appended to a cause, which has no more detail.
const OF_THIS_SHELL: &str = " (in the region of this shell; --skip-aws skips this check)";
const NOT_TRIED: &str = "not checked whether roles can be assumed; use --as-pod, or --assume-role with the AWS credentials of this shell";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        check::Level,
        roles::{Source, Unusable},
    };

    /// Returns level, code and `unreachable` of the finding for a tenant with this role.
    fn found(role: Option<Role>) -> (Level, Option<&'static str>, bool) {
        let tenant: TenantName = "acme".parse().unwrap();
        let entries: HashMap<_, _> =
            role.map(|role| (tenant.clone(), role.into())).into_iter().collect();
        let template = "/roles/{tenant}".parse().unwrap();
        let mut found = Findings::default();
        check_publication(&tenant, &Roles::new(Source::Ssm(template), entries), &mut found);
        let finding = found.iter().next().unwrap();
        assert_eq!(found.iter().count(), 1);
        assert!(finding.message.contains("/roles/acme"), "{finding}");
        (finding.level, finding.code, finding.unreachable)
    }

    #[test]
    fn aws_failures_are_unknown_and_invalid_roles_are_errors() {
        let known = Role::Known("arn:aws:iam::111122223333:role/r".parse().unwrap());
        let cases = [
            (Some(known), (Level::Ok, None, false)),
            (Some(Role::NotFound), (Level::Error, Some("role-missing"), false)),
            (
                Some(Role::Unusable(Unusable::SecureString)),
                (Level::Error, Some("role-secure-string"), false),
            ),
            (Some(Role::Unreachable(Cause::Denied)), (Level::Unknown, None, false)),
            (Some(Role::Unreachable(Cause::NoCredentials)), (Level::Unknown, None, false)),
            (Some(Role::Unreachable(Cause::NoAnswer)), (Level::Unknown, None, true)),
            (Some(Role::Unreachable(Cause::Throttled)), (Level::Unknown, None, true)),
            (None, (Level::Unknown, None, true)),
        ];
        for (role, want) in cases {
            assert_eq!(found(role.clone()), want, "{role:?}");
        }
    }
}
