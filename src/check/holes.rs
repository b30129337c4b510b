//! Whether the config is the release's, and what it leaves open on purpose.

use super::{Findings, Link, Text, webhook::NOT_SAID};
use crate::config::{Component, Config, Credentials, PodSecurity};

/// Matchers and guard were rendered from the text that was installed.
pub(super) fn is_as_installed(text: &Text, found: &mut Findings) {
    let Some(live) = &text.live else { return };
    let place = &*text.place;
    let Some(installed) = text.installed.or_tell(Link::ConfigEdited, place, found) else { return };
    match installed {
        Some(installed) if installed == live => {
            found.ok(Link::ConfigEdited, place, "as the release brought it");
        }
        Some(_) => found.broken(Link::ConfigEdited, place, "is not as the release brought it"),
        None => found.unseen(Link::ConfigEdited, place, NOT_SAID),
    }
}

pub(super) fn judge(config: &Config, found: &mut Findings) {
    let open = config.components.iter().filter_map(|component| Some((component, kind(component)?)));
    let mut closed = true;
    for (component, kind) in open {
        closed = false;
        let pods = pods_of(component);
        found.note(
            Link::ComponentHole,
            CONFIG,
            format!("component {} is {kind}: pods of {pods} keep base credentials", component.name),
        );
    }
    if closed {
        found.ok(Link::ComponentHole, CONFIG, "no component is env or exempt");
    }
    match config.pod_security {
        PodSecurity::Restricted => {
            found.ok(Link::PodSecurityLowered, CONFIG, "podSecurity is restricted");
        }
        lowered => found.note(
            Link::PodSecurityLowered,
            CONFIG,
            format!("podSecurity is {lowered}, so pods may look into their sidecar"),
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
        found.ok(Link::RoleLists, CONFIG, "roles.allow names partitions, accounts and paths");
    } else {
        found.note(
            Link::RoleLists,
            CONFIG,
            format!("roles.allow takes any role by {}, whoever published it", empty.join(", ")),
        );
    }
}

fn kind(component: &Component) -> Option<&'static str> {
    match component.credentials {
        Credentials::Env => Some("env"),
        Credentials::Exempt => Some("exempt"),
        Credentials::Nothing | Credentials::Sidecar => None,
    }
}

fn pods_of(component: &Component) -> String {
    let accounts = component.service_accounts.iter().map(|glob| format!("service account {glob}"));
    let creators = component.creators.iter().map(|glob| format!("creator {glob}"));
    accounts.chain(creators).collect::<Vec<_>>().join(", ")
}

const CONFIG: &str = "config";
