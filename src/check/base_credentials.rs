//! Checks that service accounts and base roles are set up for the source of base credentials that
//! the config names: EKS Pod Identity or IRSA. The webhook adds only a token for that source.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Chain, CheckId, Findings, Held, Seen,
    iam_policy::{allowed_principals, names_action, principals, principals_of, statements},
    namespace::Bare,
    objects::{Objects, name},
    transport,
};
use crate::{
    config::{
        BaseCredentials, Config, Creator, CredentialsMode, RoleArnTemplate, SessionTransport,
    },
    namespaces::Namespace,
    session::{RoleArn, TenantName},
};

/// Checks the service accounts of agents for the annotation of IRSA.
///
/// The webhook never reads this annotation: who may edit service accounts in the namespace, such as
/// the tenant, could name any role in it.
pub(super) fn check_annotations(
    namespace: &Namespace,
    accounts: &Seen<Objects>,
    config: &Config,
) -> Findings {
    let mut found = Findings::default();
    if transport::of_namespace(namespace, config) != SessionTransport::RoleChain {
        return found;
    }
    // The check of service accounts reports that they cannot be read.
    for account in accounts.iter() {
        let name = name(account);
        let Some(value) = account.at("metadata").at("annotations").at(ROLE_ANNOTATION).string()
        else {
            continue;
        };
        let bare = Bare { account: &name, creator: Creator::new("", &namespace.name) };
        let Some(component) = config.component_of(&bare).map(|matched| matched.component) else {
            continue;
        };
        if component.credentials != CredentialsMode::Sidecar {
            continue;
        }
        let message = match (&config.base_credentials, &namespace.tenant) {
            (BaseCredentials::PodIdentity(_), _) => format!(
                "has the annotation {ROLE_ANNOTATION}, but baseCredentials.source is podIdentity: its sidecars get base credentials from a Pod Identity association only"
            ),
            (BaseCredentials::Irsa(template), Ok(tenant)) => {
                let role = template.of(tenant, component);
                if value == role {
                    continue;
                }
                format!(
                    "its annotation {ROLE_ANNOTATION} names another role than baseCredentials.roleArn: its sidecars use {role}, and the annotation has no effect on them"
                )
            }
            (BaseCredentials::Irsa(_), Err(_)) | (BaseCredentials::Environment, _) => continue,
        };
        let subject = format!("service account {}/{name}", namespace.name);
        found.warning(CheckId::BaseCredentials, subject, message);
    }
    found
}

/// Checks whether the base roles of a tenant trust the source of the config.
pub(super) fn check_base_trust(tenant: &TenantName, chain: &Chain, config: &Config) -> Findings {
    let mut found = Findings::default();
    // The check of the trust policy reports that it cannot be read.
    let Seen::Known(session_role) = &chain.session_role else { return found };
    match &config.base_credentials {
        BaseCredentials::Environment => {}
        BaseCredentials::Irsa(template) => {
            let wanted = roles(template, tenant, config);
            check_named(tenant, &wanted, &session_role.trust, &mut found);
            for (role, held) in &chain.base_roles {
                let Seen::Known(held) = held else { continue };
                if wanted.contains_key(role.as_str()) && !trusts_provider(&held.trust) {
                    let message = "its trust policy does not allow sts:AssumeRoleWithWebIdentity to an OIDC provider, but baseCredentials.source is irsa";
                    found.error(CheckId::BaseCredentials, subject(tenant, role), message);
                }
            }
        }
        BaseCredentials::PodIdentity(_) => {
            // Another role in the trust policy may be the one of the association.
            let only_irsa = chain.base_roles.iter().all(|(_, held)| match held {
                Seen::Known(held) => trusts_provider(&held.trust) && !trusts_callers(&held.trust),
                Seen::Hidden(_) => false,
            });
            for (role, _) in chain.base_roles.iter().filter(|_| only_irsa) {
                let message = "its trust policy allows only an OIDC provider (IRSA), but baseCredentials.source is podIdentity, which needs sts:AssumeRole and sts:TagSession for pods.eks.amazonaws.com";
                found.error(CheckId::BaseCredentials, subject(tenant, role), message);
            }
        }
    }
    let is_known = |(_, held): &(RoleArn, Seen<Held>)| matches!(held, Seen::Known(_));
    let is_checked = !chain.base_roles.is_empty() && chain.base_roles.iter().all(is_known);
    if is_checked && found.iter().next().is_none() {
        found.ok(
            CheckId::BaseCredentials,
            format!("tenant {tenant}"),
            "no base role is set up for another source than the config's",
        );
    }
    found
}

/// Checks that the trust policy of the session role names the base roles of the config.
fn check_named(
    tenant: &TenantName,
    wanted: &BTreeMap<String, Vec<&str>>,
    trust: &Value,
    found: &mut Findings,
) {
    let named = principals(trust);
    // An account or `*` may stand for any role.
    if allowed_principals(trust).any(|principal| principal.parse::<RoleArn>().is_err()) {
        return;
    }
    let is_named = |role: &str| named.iter().any(|principal| principal.as_str() == role);
    let has_one = wanted.keys().any(|role| is_named(role));
    for (role, components) in wanted.iter().filter(|(role, _)| !is_named(role)) {
        let subject = format!("tenant {tenant}, {role}");
        let components = components.join(", ");
        let message = format!(
            "the trust policy of the session role does not name this role, which baseCredentials.roleArn gives pods of {components}"
        );
        // A tenant need not have pods of each component.
        if has_one {
            found.warning(CheckId::BaseCredentials, subject, message);
        } else {
            found.error(CheckId::BaseCredentials, subject, message);
        }
    }
}

/// Returns the base roles of a tenant by the config, each with its components.
fn roles<'c>(
    template: &RoleArnTemplate,
    tenant: &TenantName,
    config: &'c Config,
) -> BTreeMap<String, Vec<&'c str>> {
    let mut roles: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for component in config.components_with_sidecar() {
        roles.entry(template.of(tenant, component)).or_default().push(&component.name);
    }
    roles
}

/// Returns whether the trust policy allows tokens of an OIDC provider.
fn trusts_provider(trust: &Value) -> bool {
    statements(trust).any(|it| {
        it["Effect"] == "Allow"
            && names_action(it, "sts:AssumeRoleWithWebIdentity")
            && !it["Principal"]["Federated"].is_null()
    })
}

/// Returns whether the trust policy allows AssumeRole to a service, such as EKS Pod Identity, or to
/// a principal of AWS, such as the role of an association that has a target role.
fn trusts_callers(trust: &Value) -> bool {
    statements(trust).any(|it| {
        it["Effect"] == "Allow"
            && names_action(it, "sts:AssumeRole")
            && (!it["Principal"]["Service"].is_null() || principals_of(it).next().is_some())
    })
}

fn subject(tenant: &TenantName, role: &RoleArn) -> String {
    format!("tenant {tenant}, {role}")
}

/// Annotation with the role that EKS's webhook sets for the pods of a service account.
/// <https://docs.aws.amazon.com/eks/latest/userguide/associate-service-account-role.html>
pub const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::{check::Level, config::PodSecurity, namespaces::Mode, revocation::Revoked};

    const ROLES: &str = "arn:aws:iam::111122223333:role";

    fn config(base: &str) -> Config {
        Config::parse(&format!("cluster: prod\nbaseCredentials: {base}\n")).unwrap()
    }

    fn irsa(role: &str) -> Config {
        config(&format!("{{source: irsa, roleArn: '{ROLES}/{role}'}}"))
    }

    fn shown(found: &Findings) -> Vec<String> {
        let wrong = found.iter().filter(|finding| finding.level != Level::Ok);
        wrong.map(|it| format!("{} {}: {}", it.level, it.subject, it.message)).collect()
    }

    fn begin_with(found: &Findings, want: &[&str], of: &str) {
        let found = shown(found);
        assert_eq!(found.len(), want.len(), "{of}: {found:#?}");
        for (message, begins) in found.iter().zip(want) {
            assert!(message.starts_with(begins), "{of}: {message}\nwant {begins}");
        }
    }

    #[test]
    fn an_annotation_of_irsa_is_compared_with_the_config() {
        let namespace = Namespace {
            name: "tenants-acme".to_owned(),
            mode: Some(Mode::Enabled),
            tenant: Ok("acme".parse().unwrap()),
            operator_kept: false,
            transport: None,
            pod_security: PodSecurity::Restricted,
            old_standard: None,
        };
        let runtime = format!("{ROLES}/prod-acme-runtime");
        let by_component = irsa("{cluster}-{tenant}-{component}");
        let of_pod_identity = "warning service account tenants-acme/tenant-runtime: has the annotation eks.amazonaws.com/role-arn, but baseCredentials.source is podIdentity";
        let of_another = "warning service account tenants-acme/fab: its annotation eks.amazonaws.com/role-arn names another role than baseCredentials.roleArn: its sidecars use arn:aws:iam::111122223333:role/prod-acme-dispatcher,";
        let cases: [(&Config, &str, Option<&str>, &[&str]); 8] = [
            (
                &config("{source: podIdentity}"),
                "tenant-runtime",
                Some(&runtime),
                &[of_pod_identity],
            ),
            (&config("{source: podIdentity}"), "tenant-runtime", None, &[]),
            // Not a service account of agents.
            (&config("{source: podIdentity}"), "default", Some(&runtime), &[]),
            (&by_component, "tenant-runtime", Some(&runtime), &[]),
            (&by_component, "tenant-runtime", None, &[]),
            (&by_component, "fab", Some(&runtime), &[of_another]),
            (&by_component, "default", Some(&runtime), &[]),
            (&config("{source: environment}"), "tenant-runtime", Some(&runtime), &[]),
        ];
        for (config, account, role, want) in cases {
            let mut metadata = json!({"name": account});
            if let Some(role) = role {
                metadata["annotations"] = json!({ROLE_ANNOTATION: role});
            }
            let accounts =
                Seen::Known(Objects::of("ServiceAccount", &[json!({"metadata": metadata})]));
            begin_with(&check_annotations(&namespace, &accounts, config), want, account);
        }
    }

    #[test]
    fn base_roles_of_another_source_are_named() {
        let statement = |principal: Value, action: &str| json!({"Effect": "Allow", "Principal": principal, "Action": action});
        let provider = || {
            let provider = json!({"Federated": "arn:aws:iam::111122223333:oidc-provider/x"});
            statement(provider, "sts:AssumeRoleWithWebIdentity")
        };
        let of_pods = || statement(json!({"Service": "pods.eks.amazonaws.com"}), "sts:AssumeRole");
        let of_a_role = || statement(json!({"AWS": format!("{ROLES}/first")}), "sts:*");
        let only_irsa = "error tenant acme, arn:aws:iam::111122223333:role/prod-acme-runtime: its trust policy allows only an OIDC provider";
        let not_irsa = "error tenant acme, arn:aws:iam::111122223333:role/prod-acme-runtime: its trust policy does not allow sts:AssumeRoleWithWebIdentity";
        let not_named = "error tenant acme, arn:aws:iam::111122223333:role/agents: the trust policy of the session role does not name this role, which baseCredentials.roleArn gives pods of dispatcher, runtime";
        let one_not_named = "warning tenant acme, arn:aws:iam::111122223333:role/prod-acme-dispatcher: the trust policy of the session role does not name this role, which baseCredentials.roleArn gives pods of dispatcher";
        let pod_identity = config("{source: podIdentity}");
        let by_component = irsa("prod-{tenant}-{component}");
        let runtime = vec![format!("{ROLES}/prod-acme-runtime")];
        let both = vec![runtime[0].clone(), format!("{ROLES}/prod-acme-dispatcher")];
        let account = vec!["arn:aws:iam::111122223333:root".to_owned()];
        let cases: [(&Config, &[String], Value, &[&str]); 9] = [
            (&pod_identity, &runtime, json!([of_pods()]), &[]),
            (&pod_identity, &runtime, json!([of_a_role()]), &[]),
            (&pod_identity, &runtime, json!([provider(), of_pods()]), &[]),
            (&pod_identity, &runtime, json!([provider()]), &[only_irsa]),
            (&by_component, &both, json!([provider()]), &[]),
            (&by_component, &runtime, json!([provider()]), &[one_not_named]),
            (&by_component, &runtime, json!([of_pods()]), &[one_not_named, not_irsa]),
            (&irsa("agents"), &runtime, json!([of_pods()]), &[not_named]),
            (&irsa("agents"), &account, json!([]), &[]),
        ];
        for (row, (config, named, base_trust, want)) in cases.into_iter().enumerate() {
            let document = |statements: Value| json!({"Statement": statements});
            let held = |trust: Value| Held {
                boundary: None,
                longest_session: Duration::from_secs(3600),
                policies: Vec::new(),
                revoked: Ok(Revoked::default()),
                tags: BTreeMap::new(),
                trust: document(trust),
            };
            let session = held(json!([statement(json!({"AWS": named}), "sts:*")]));
            let base_roles = principals(&session.trust).into_iter();
            let chain = Chain {
                base_roles: base_roles
                    .map(|role| (role, Seen::Known(held(base_trust.clone()))))
                    .collect(),
                session_role: Seen::Known(session),
            };
            let found = check_base_trust(&"acme".parse().unwrap(), &chain, config);
            begin_with(&found, want, &row.to_string());
        }
    }
}
