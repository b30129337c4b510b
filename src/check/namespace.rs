//! Checks the labels and service accounts of the opted-in namespaces.

use std::borrow::Cow;

use super::{CheckId, Findings, Objects, Seen, objects::name};
use crate::{
    admission::{self, Refusal},
    config::{Config, Creator, PodProperties, PodSecurity},
    json::Json,
    namespaces::{Mode, Namespace, OPERATOR_LABEL, OPT_IN_LABEL, POD_SECURITY_LABEL},
};

/// Checks the labels of all namespaces for values without effect.
pub(super) fn check_opt_in(namespaces: &Seen<Objects>, config: &Config) -> Findings {
    let mut found = Findings::default();
    let namespaces = namespaces.or_report(CheckId::NamespaceLabel, "namespaces", &mut found);
    let Some(namespaces) = namespaces else { return found };
    let (mut opted_in, mut all) = (0, 0);
    for object in namespaces.iter() {
        let namespace = read(object, config);
        check_spelling(object, &namespace, &mut found);
        opted_in += usize::from(namespace.mode.is_some());
        all += 1;
    }
    if found.iter().all(|finding| finding.check != CheckId::NamespaceLabel) {
        match (opted_in, all) {
            (0, all) => {
                let message = format!("0 of {all} are opted in, so the webhook receives no pods");
                found.warning(CheckId::NamespaceLabel, "namespaces", message);
            }
            (count, all) => {
                let message = format!(
                    "{count} of {all} are opted in, and no opt-in label has an invalid value"
                );
                found.ok(CheckId::NamespaceLabel, "namespaces", message);
            }
        }
    }
    found
}

/// Checks the labels and the service accounts of an opted-in namespace.
pub(super) fn check_namespace(
    namespace: &Namespace,
    accounts: &Seen<Objects>,
    config: &Config,
) -> Findings {
    let mut found = Findings::default();
    check_labels(namespace, config, &mut found);
    check_service_accounts(namespace, accounts, config, &mut found);
    found
}

/// Returns the namespaces whose pods API servers send to the webhook.
pub fn opted_in<'v>(
    namespaces: &'v Seen<Objects>,
    config: &'v Config,
) -> impl Iterator<Item = Namespace> + 'v {
    let read = namespaces.iter().map(|namespace| read(namespace, config));
    read.filter(|namespace| namespace.mode.is_some())
}

/// Returns the namespaces with the label of an enabled namespace.
pub fn as_enabled(namespaces: &Objects) -> Objects {
    let enabled = |object: Json<'_>| {
        let mut object = object.tree();
        object["metadata"]["labels"][OPT_IN_LABEL] = Mode::Enabled.as_str().into();
        object
    };
    Objects::of("Namespace", &namespaces.iter().map(enabled).collect::<Vec<_>>())
}

pub(super) fn read(object: Json<'_>, config: &Config) -> Namespace {
    Namespace::read(&name(object), |key| label(object, key), &config.tenant)
}

/// Returns the value of a label. A value has no character that JSON escapes.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>
pub(super) fn label<'a>(object: Json<'a>, key: &str) -> Option<&'a str> {
    match object.at("metadata").at("labels").at(key).string()? {
        Cow::Borrowed(value) => Some(value),
        Cow::Owned(_) => None,
    }
}

fn check_spelling(object: Json<'_>, namespace: &Namespace, found: &mut Findings) {
    let mistyped = |key: &str| label(object, key).filter(|value| !MEANT_OFF.contains(value));
    let subject = subject(namespace);
    if namespace.mode.is_none() {
        if let Some(value) = mistyped(OPT_IN_LABEL) {
            let message =
                format!("{OPT_IN_LABEL}={value} is invalid, so the namespace is not opted in");
            found.error(CheckId::NamespaceLabel, subject, message);
        }
        return;
    }
    if let (Some(value), false) = (mistyped(OPERATOR_LABEL), namespace.operator_kept) {
        let message =
            format!("{OPERATOR_LABEL}={value} has no effect; the only valid value is keep");
        found.error(CheckId::OperatorLabel, &*subject, message);
    }
    if let Some(value) = label(object, POD_SECURITY_LABEL)
        && value.parse::<PodSecurity>().is_err()
    {
        let message = format!(
            "{POD_SECURITY_LABEL}={value} is invalid; valid values are privileged, baseline and restricted"
        );
        found.error(CheckId::PodSecurity, subject, message);
    }
}

fn check_labels(namespace: &Namespace, config: &Config, found: &mut Findings) {
    let subject = subject(namespace);
    match (without_tenant(namespace, config), &namespace.tenant) {
        (Some(refusal), _) => found.refused(CheckId::Tenant, &*subject, &refusal),
        (None, Ok(tenant)) => {
            let mode = namespace.mode.map_or("", Mode::as_str);
            let message = format!(
                "{mode}, tenant {tenant}, session names of up to {} characters",
                tenant.remaining_length()
            );
            found.ok(CheckId::Tenant, &*subject, message);
        }
        (None, Err(_)) => {}
    }
    match admission::pod_security_refusal(namespace, config) {
        Some(refusal) => found.refused(CheckId::PodSecurity, &*subject, &refusal),
        None => {
            let message = format!("enforces {}", namespace.pod_security);
            found.ok(CheckId::PodSecurity, &*subject, message);
        }
    }
    if namespace.operator_kept {
        found.warning(
            CheckId::OperatorLabel,
            &*subject,
            "pods that set FAB_OPERATOR keep their base credentials and are not attributed to a session",
        );
    }
}

fn check_service_accounts(
    namespace: &Namespace,
    accounts: &Seen<Objects>,
    config: &Config,
    found: &mut Findings,
) {
    let subject = subject(namespace);
    let Some(accounts) = accounts.or_report(CheckId::ServiceAccount, &subject, found) else {
        return;
    };
    let is_ours = |account: &Cow<'_, str>| {
        config.component_of(&Bare { account, creator: Creator::new("", &namespace.name) }).is_some()
    };
    let ours: Vec<Cow<'_, str>> = accounts.iter().map(name).filter(is_ours).collect();
    if ours.is_empty() {
        found.warning(
            CheckId::ServiceAccount,
            subject,
            "has no fenced service account and none that a component names",
        );
    } else {
        found.ok(
            CheckId::ServiceAccount,
            subject,
            format!("service accounts of agents: {}", ours.join(", ")),
        );
    }
}

/// Returns the refusal of every agent pod because of the namespace's tenant. The Pod Security
/// Standard is ignored: it has a check of its own, and the webhook reports only the first problem.
pub(super) fn without_tenant(namespace: &Namespace, config: &Config) -> Option<Refusal> {
    let secured = Namespace { pod_security: config.pod_security, ..namespace.clone() };
    admission::namespace_refusal(&secured, config)
}

/// A pod of which only the service account and the requesting user are known.
pub(super) struct Bare<'v> {
    pub(super) account: &'v str,
    pub(super) creator: Creator<'v>,
}

impl PodProperties for Bare<'_> {
    fn creator(&self) -> Creator<'_> {
        self.creator
    }

    fn label(&self, _: &str) -> Option<&str> {
        None
    }

    fn service_account(&self) -> &str {
        self.account
    }
}

pub(super) fn subject(namespace: &Namespace) -> String {
    format!("namespace {}", namespace.name)
}

/// Values that mean that the label is off on purpose.
const MEANT_OFF: [&str; 6] = ["", "disabled", "false", "no", "none", "off"];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::namespaces::POD_SECURITY_VERSION_LABEL;

    #[test]
    fn an_old_version_of_the_standard_is_named_with_its_label() {
        let labels = |version: &str| json!({OPT_IN_LABEL: "enabled", POD_SECURITY_LABEL: "restricted", POD_SECURITY_VERSION_LABEL: version});
        let pod_security = |version: &str| {
            let object = json!({"metadata": {"name": "tenants-a", "labels": labels(version)}});
            let object = to_raw_value(&object).unwrap();
            let config = Config::default();
            let mut found = Findings::default();
            check_labels(&read((&*object).into(), &config), &config, &mut found);
            let it = found.iter().find(|finding| finding.check == CheckId::PodSecurity).unwrap();
            it.message.clone()
        };
        let message = pod_security("v1.21");
        assert!(
            message.contains("pins version v1.21") && message.contains("enforce-version=latest"),
            "{message}"
        );
        assert_eq!(pod_security("v1.22"), "enforces restricted");
    }

    #[test]
    fn a_mistyped_other_label_hides_no_count_of_namespaces() {
        let labels = json!({OPT_IN_LABEL: "enabled", OPERATOR_LABEL: "kept"});
        let object = json!({"metadata": {"name": "a", "labels": labels}});
        let namespaces = Seen::Known(Objects::of("Namespace", &[object]));
        let found = check_opt_in(&namespaces, &Config::default());
        let found: Vec<_> = found.iter().map(|it| (it.check, &*it.message)).collect();
        assert_eq!(found[0].0, CheckId::OperatorLabel);
        let counted = "1 of 1 are opted in, and no opt-in label has an invalid value";
        assert_eq!(found[1], (CheckId::NamespaceLabel, counted));
    }

    #[test]
    fn labels_without_effect_are_reported() {
        let cases: [(Value, &[&str]); 12] = [
            (
                json!({OPT_IN_LABEL: "enable"}),
                &[
                    "namespace-label: fab.nanohype.dev/session-injection=enable is invalid, so the namespace is not",
                ],
            ),
            (json!({OPT_IN_LABEL: "off"}), &[]),
            (json!({OPT_IN_LABEL: "enabled"}), &[]),
            (json!({OPT_IN_LABEL: "enabled", OPERATOR_LABEL: "keep"}), &[]),
            (json!({OPT_IN_LABEL: "enabled", OPERATOR_LABEL: "false"}), &[]),
            (json!({OPT_IN_LABEL: "enabled", OPERATOR_LABEL: ""}), &[]),
            (
                json!({OPT_IN_LABEL: "enabled", OPERATOR_LABEL: "kept"}),
                &[
                    "operator-label: fab.nanohype.dev/operator=kept has no effect; the only valid value is keep",
                ],
            ),
            (
                json!({OPT_IN_LABEL: "audit", OPERATOR_LABEL: "Keep"}),
                &["operator-label: fab.nanohype.dev/operator=Keep has no effect"],
            ),
            (json!({OPERATOR_LABEL: "kept"}), &[]),
            (json!({OPT_IN_LABEL: "enabled", POD_SECURITY_LABEL: "baseline"}), &[]),
            (
                json!({OPT_IN_LABEL: "enabled", POD_SECURITY_LABEL: "Restricted"}),
                &[
                    "pod-security: pod-security.kubernetes.io/enforce=Restricted is invalid; valid values are",
                ],
            ),
            (json!({POD_SECURITY_LABEL: "Restricted"}), &[]),
        ];
        for (labels, want) in cases {
            let object =
                to_raw_value(&json!({"metadata": {"name": "a", "labels": labels}})).unwrap();
            let object = Json::from(&*object);
            let mut found = Findings::default();
            check_spelling(object, &read(object, &Config::default()), &mut found);
            let found: Vec<String> =
                found.iter().map(|it| format!("{}: {}", it.check, it.message)).collect();
            assert_eq!(found.len(), want.len(), "{object:?}: {found:?}");
            for (message, begins) in found.iter().zip(want) {
                assert!(message.starts_with(begins), "{message}");
            }
        }
    }
}
