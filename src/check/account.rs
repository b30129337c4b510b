//! Whether AWS has what the tenants' sessions need.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Account, Facts, Findings, Link, Seen, tenancy};
use crate::{
    admission,
    config::Config,
    directory::{Cause, Directory, Role},
    session::TenantName,
};

pub(super) fn judge(facts: &Facts, found: &mut Findings) {
    let Some(Account { assumed, directory }) = &facts.account else { return };
    let tenants = tenants(&facts.namespaces, &facts.config);
    for tenant in &tenants {
        is_published(tenant, directory, found);
    }
    let Some(assumed) = assumed else {
        if !tenants.is_empty() {
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
    let namespaces = match namespaces {
        Seen::Known(namespaces) => &namespaces[..],
        Seen::Hidden(_) => &[],
    };
    let workable = tenancy::opted_in(namespaces, config)
        .filter(|namespace| tenancy::without_tenant(namespace, config).is_none());
    workable.filter_map(|namespace| namespace.tenant.ok()).collect()
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
            let says = format!("{} cannot be read from here: {cause}", directory.place(tenant));
            match cause {
                Cause::Denied => found.unseen(Link::RoleParameter, subject, says),
                Cause::Failed | Cause::NoAnswer | Cause::Throttled => {
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

const NOT_TRIED: &str = "whether roles can be assumed was not tried; --assume-role does, with the credentials of this shell";
