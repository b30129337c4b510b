//! Checks whether the config is as rendered by the release, and which exceptions it configures.

use super::{CheckId, ConfigText, Findings, Objects, Seen, objects, webhook::NOT_SAID};
use crate::config::{Component, Config, CredentialsMode, PodSecurity};

/// The match conditions and the guard are rendered from the same values as the installed text.
pub(super) fn check_as_installed(text: &ConfigText) -> Findings {
    let mut found = Findings::default();
    let Some(live) = &text.live else { return found };
    let place = &*text.place;
    let Some(installed) = text.installed.or_report(CheckId::ConfigEdited, place, &mut found) else {
        return found;
    };
    match installed {
        Some(installed) if installed == live => {
            found.ok(CheckId::ConfigEdited, place, "as rendered by the release");
        }
        Some(_) => {
            found.error(
                CheckId::ConfigEdited,
                place,
                "differs from the config rendered by the release",
            );
        }
        None => found.unknown(CheckId::ConfigEdited, place, NOT_SAID),
    }
    found
}

/// Checks whether a policy engine may pin the sidecar's image to a digest that the guard does not
/// know.
pub(super) fn check_image(configurations: &Seen<Objects>, config: &Config) -> Findings {
    let mut found = Findings::default();
    let image = config.sidecar.image.as_str();
    if config.sidecar.image.has_digest() {
        found.ok(
            CheckId::SidecarImage,
            CONFIG,
            format!(
                "the sidecar's image {image} has a digest, or config.sidecar.imageDigests lists one"
            ),
        );
        return found;
    }
    let Some(all) = configurations.or_report(CheckId::SidecarImage, CONFIG, &mut found) else {
        return found;
    };
    let names: Vec<_> = all.iter().map(objects::name).collect();
    let engine = names.iter().find(|name| ENGINES.iter().any(|engine| name.starts_with(engine)));
    match engine {
        Some(engine) => found.warning(
            CheckId::SidecarImage,
            CONFIG,
            format!("{engine} may add a digest to the sidecar's image {image}, which has none"),
        ),
        None => found.ok(CheckId::SidecarImage, CONFIG, "no known policy engine pins images"),
    }
    found
}

pub(super) fn check_exceptions(config: &Config) -> Findings {
    let mut found = Findings::default();
    let open = config.components.iter().filter_map(|component| Some((component, kind(component)?)));
    let mut closed = true;
    for (component, kind) in open {
        closed = false;
        let pods = pods_of(component);
        found.warning(
            CheckId::ComponentUnattributed,
            CONFIG,
            format!(
                "component {} is {kind}: pods of {pods} keep their base credentials",
                component.name
            ),
        );
    }
    if closed {
        found.ok(CheckId::ComponentUnattributed, CONFIG, "no component is env or exempt");
    }
    match config.pod_security {
        PodSecurity::Restricted => {
            found.ok(CheckId::PodSecurityLowered, CONFIG, "podSecurity is restricted");
        }
        lowered => found.warning(
            CheckId::PodSecurityLowered,
            CONFIG,
            format!(
                "podSecurity is {lowered}, so a pod's containers may be able to read the traffic, files or memory of its sidecar"
            ),
        ),
    }
    let allowed = &config.roles.allowed;
    let lists = [
        ("partitions", &allowed.partitions),
        ("accounts", &allowed.accounts),
        ("pathPrefixes", &allowed.path_prefixes),
    ];
    let empty: Vec<&str> =
        lists.into_iter().filter(|(_, list)| list.is_empty()).map(|(name, _)| name).collect();
    if empty.is_empty() {
        found.ok(
            CheckId::RoleAllowList,
            CONFIG,
            "roles.allow restricts partitions, accounts and path prefixes",
        );
    } else {
        found.warning(
            CheckId::RoleAllowList,
            CONFIG,
            format!(
                "roles.allow does not restrict {} of published role ARNs: an empty list accepts all",
                empty.join(", ")
            ),
        );
    }
    found
}

fn kind(component: &Component) -> Option<&'static str> {
    match component.credentials {
        CredentialsMode::Env => Some("env"),
        CredentialsMode::Exempt => Some("exempt"),
        CredentialsMode::Nothing | CredentialsMode::Sidecar => None,
    }
}

fn pods_of(component: &Component) -> String {
    let accounts = component.service_accounts.iter().map(|glob| format!("service account {glob}"));
    let creators = component.creators.iter().map(|glob| format!("requesting user {glob}"));
    accounts.chain(creators).collect::<Vec<_>>().join(", ")
}

const CONFIG: &str = "config";
/// Beginnings of the names of mutating webhook configurations of policy engines that can pin images.
const ENGINES: [&str; 4] = [
    "digester-mutating-webhook-configuration",
    "gatekeeper-mutating-webhook-configuration",
    "kyverno-resource-mutating-webhook-cfg",
    "policy.sigstore.dev",
];
