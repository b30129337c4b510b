//! Whether AWS has what the tenants' sessions need.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Account, Facts, Findings, Link, Seen, Tenancy, Trial, iam, name,
    tenancy::{self, Bare},
};
use crate::{
    admission,
    config::{Config, Creator, Credentials},
    directory::{Cause, Directory, Role},
    session::{StartGate, TenantName},
};

pub(super) fn judge(facts: &Facts, found: &mut Findings) {
    let trials = facts.tenancies.iter().filter_map(|(name, it)| Some((name, it.trial.as_ref()?)));
    for (namespace, trial) in trials.clone() {
        gets_credentials(namespace, trial, found);
    }
    let tenants = tenants(&facts.namespaces, &facts.config);
    let Some(directory) = &facts.directory else { return };
    for tenant in &tenants {
        is_published(tenant, directory, found);
    }
    let Some(Account { assumed, chains }) = &facts.account else { return };
    for tenant in &tenants {
        if let (Some(Role::Known(role)), Some(chain)) = (directory.role(tenant), chains.get(tenant))
        {
            iam::judge(tenant, role, chain, &facts.config.base_credentials, found);
        }
    }
    let Some(assumed) = assumed else {
        if !tenants.is_empty() && trials.count() == 0 {
            found.unseen(Link::AssumeRole, "AWS", NOT_TRIED);
        }
        return;
    };
    for (tenant, assumed) in
        tenants.iter().filter_map(|tenant| Some((tenant, assumed.get(tenant)?)))
    {
        let subject = format!("tenant {tenant}");
        match assumed {
            Ok(()) => found.ok(Link::AssumeRole, subject, "STS gives credentials with its name"),
            // Whoever has to change something first is told so; else nobody answered.
            Err(failure) if failure.reason.stays() => {
                found.failed(Link::AssumeRole, subject, failure);
            }
            Err(failure) => found.unreachable(Link::AssumeRole, subject, failure.to_string()),
        }
    }
}

/// Those of the namespaces that opted in, but for those that no session fits.
pub fn tenants(namespaces: &Seen<Vec<Value>>, config: &Config) -> BTreeSet<TenantName> {
    let workable = tenancy::opted_in(namespaces, config)
        .filter(|namespace| tenancy::without_tenant(namespace, config).is_none());
    workable.filter_map(|namespace| namespace.tenant.ok()).collect()
}

/// The service account of the namespace with which a pod that `creator` creates is an agent that
/// waits for its credentials, whatever its labels.
pub fn account_to_try<'v>(
    tenancy: &'v Tenancy,
    creator: Creator<'_>,
    config: &Config,
) -> Option<&'v str> {
    let accounts = match &tenancy.accounts {
        Seen::Known(accounts) => &accounts[..],
        Seen::Hidden(_) => &[],
    };
    accounts.iter().map(name).find(|account| {
        config.component_of(&Bare { account, creator }).is_some_and(|matched| {
            matched.component.credentials == Credentials::Sidecar
                && matched.component.start_gate == StartGate::Credentials
        })
    })
}

fn gets_credentials(namespace: &str, trial: &Trial, found: &mut Findings) {
    let subject = format!("namespace {namespace}");
    match trial {
        Trial::Bare => {
            let says = "a pod was created there without its sidecar, so nobody asked the webhook";
            found.broken(Link::WebhookMissing, subject, says);
        }
        Trial::Ended => found.ok(Link::AssumeRole, subject, "a pod there got its credentials"),
        // Whoever may change events of the namespace may have changed this one.
        Trial::Held(says) => {
            let says = format!(
                "a pod's sidecar runs there and has no credentials; its event says {says:?}"
            );
            found.broken(Link::AssumeRole, subject, says);
        }
        Trial::Refused(says) => {
            found.broken(Link::AssumeRole, subject, format!("a pod there was not taken: {says}"));
        }
        Trial::Unanswered(says) => {
            let says = format!("whether a pod is taken there was not said: {says}");
            found.unreachable(Link::AssumeRole, subject, says);
        }
        Trial::Untried(says) => found.unseen(Link::AssumeRole, subject, says),
        Trial::Waiting(says) => {
            found.unseen(Link::AssumeRole, subject, format!("a pod there did not start: {says}"));
        }
    }
}

fn is_published(tenant: &TenantName, directory: &Directory, found: &mut Findings) {
    let subject = format!("tenant {tenant}");
    match (directory.role(tenant), admission::unpublished(tenant, directory)) {
        (Some(Role::Known(role)), _) => {
            found.ok(
                Link::RoleParameter,
                subject,
                format!("{role}, by {}", directory.place(tenant)),
            );
        }
        // Of ours, which need not be the webhook's.
        (Some(Role::Unreachable(cause)), _) => {
            let place = directory.place(tenant);
            match cause {
                Cause::Denied | Cause::NoCredentials => {
                    let says = format!("the AWS credentials of this shell do not read {place}");
                    found.unseen(Link::RoleParameter, subject, says);
                }
                Cause::Failed | Cause::NoAnswer | Cause::Throttled => {
                    let says = format!("{place} cannot be read from here: {cause}{OWN}");
                    found.unreachable(Link::RoleParameter, subject, says);
                }
            }
        }
        (_, Some(refusal)) if !refusal.may_heal() => {
            found.refused(Link::RoleParameter, subject, &refusal);
        }
        (_, _) => {
            let says = format!("{} was not read in time", directory.place(tenant));
            found.unreachable(Link::RoleParameter, subject, says);
        }
    }
}

/// The keeper tells no more of it.
const OWN: &str = " (in the region of this shell; --skip-aws does without)";
const NOT_TRIED: &str = "whether roles can be assumed was not tried; --as-pod does, or --assume-role with the credentials of this shell";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        check::Level,
        directory::{Source, Unusable},
    };

    /// What is found of a tenant of which this is known.
    fn found(role: Option<Role>) -> (Level, Option<&'static str>, bool) {
        let tenant: TenantName = "acme".parse().unwrap();
        let entries: HashMap<_, _> =
            role.map(|role| (tenant.clone(), role.into())).into_iter().collect();
        let template = "/roles/{tenant}".parse().unwrap();
        let mut found = Findings::default();
        is_published(&tenant, &Directory::new(Source::Ssm(template), entries), &mut found);
        let finding = found.iter().next().unwrap();
        assert_eq!(found.iter().count(), 1);
        assert!(finding.says.contains("/roles/acme"), "{finding}");
        (finding.level, finding.code, finding.unreachable)
    }

    #[test]
    fn what_aws_does_not_say_is_unseen_and_what_it_says_is_judged() {
        let known = Role::Known("arn:aws:iam::111122223333:role/r".parse().unwrap());
        let cases = [
            (Some(known), (Level::Ok, None, false)),
            (Some(Role::NotFound), (Level::Broken, Some("role-missing"), false)),
            (
                Some(Role::Unusable(Unusable::SecureString)),
                (Level::Broken, Some("role-secure-string"), false),
            ),
            (Some(Role::Unreachable(Cause::Denied)), (Level::Unseen, None, false)),
            (Some(Role::Unreachable(Cause::NoCredentials)), (Level::Unseen, None, false)),
            (Some(Role::Unreachable(Cause::NoAnswer)), (Level::Unseen, None, true)),
            (Some(Role::Unreachable(Cause::Throttled)), (Level::Unseen, None, true)),
            (None, (Level::Unseen, None, true)),
        ];
        for (role, want) in cases {
            assert_eq!(found(role.clone()), want, "{role:?}");
        }
    }
}
