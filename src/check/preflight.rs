//! The checks before the chart is installed.

use super::{
    CheckId, Findings, Objects, Seen,
    objects::name,
    webhook::{CONFIGURATION, EKS},
};
use crate::json::Json;

/// Facts about the cluster that an installation depends on.
#[derive(Debug)]
pub struct Preflight {
    /// All MutatingWebhookConfigurations.
    pub configurations: Seen<Objects>,
    /// Namespace of the release.
    pub namespace: String,
    /// The quotas of that namespace.
    pub quotas: Seen<Objects>,
    /// Permissions that Helm needs and the user lacks, such as `create secrets`.
    pub refused: Seen<Vec<String>>,
}

pub(super) fn check_preflight(preflight: &Preflight) -> Findings {
    let mut found = Findings::default();
    check_rights(preflight, &mut found);
    check_quotas(preflight, &mut found);
    check_configurations(&preflight.configurations, &mut found);
    found.unknown(
        CheckId::WebhookReachable,
        "API server",
        "whether API servers reach the webhook's port (ports.webhook, by default 8443) can only be tried with the webhook: use `check --as-pod` after the installation; on an overlay network that the control plane does not reach, set hostNetwork",
    );
    found
}

fn check_rights(Preflight { namespace, refused, .. }: &Preflight, found: &mut Findings) {
    const ID: CheckId = CheckId::InstallRights;
    let subject = format!("namespace {namespace}");
    let Some(refused) = refused.or_report(ID, &subject, found) else { return };
    if refused.is_empty() {
        found.ok(ID, subject, "this user may create all objects of the chart");
    } else {
        found.error(ID, subject, format!("this user may not {}", refused.join(", ")));
    }
}

/// A quota on CPU limits refuses each pod without one, and the webhook's has none.
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/>
fn check_quotas(Preflight { namespace, quotas, .. }: &Preflight, found: &mut Findings) {
    const ID: CheckId = CheckId::InstallQuota;
    let subject = format!("namespace {namespace}");
    let Some(quotas) = quotas.or_report(ID, &subject, found) else { return };
    let is_for_all = |quota: &Json<'_>| {
        let spec = quota.at("spec");
        spec.at("scopes").items().next().is_none() && !spec.at("scopeSelector").is_object()
    };
    let mut fits = true;
    for quota in quotas.iter().filter(is_for_all) {
        if quota.at("spec").at("hard").at("limits.cpu").string().is_some() {
            fits = false;
            let message = format!(
                "ResourceQuota {} has limits.cpu, so it refuses the chart's pods unless their resources set a CPU limit",
                name(quota)
            );
            found.warning(ID, &*subject, message);
        }
    }
    if fits {
        found.ok(ID, subject, "no ResourceQuota refuses the chart's pods for a missing limit");
    }
}

fn check_configurations(configurations: &Seen<Objects>, found: &mut Findings) {
    let Some(all) = configurations.or_report(CheckId::WebhookOrder, CONFIGURATION, found) else {
        return;
    };
    let mut names: Vec<_> = all.iter().map(name).collect();
    if names.iter().any(|name| name == CONFIGURATION) {
        found.warning(
            CheckId::WebhookMissing,
            CONFIGURATION,
            "exists already: run `check` without --pre for an installed release",
        );
        return;
    }
    names.push(CONFIGURATION.into());
    names.sort_unstable();
    let order = names.join(", ");
    let message = if names.iter().any(|name| name == EKS) {
        format!("API servers will call webhooks in this order: {order}")
    } else {
        format!("API servers will call webhooks in this order: {order}; there is no {EKS}")
    };
    found.ok(CheckId::WebhookOrder, CONFIGURATION, message);
}
