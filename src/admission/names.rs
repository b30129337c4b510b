//! Names of the variables and volumes that the webhook acts on. It skips all others unread.

use super::{
    demands::{FAB_OPERATOR, STATIC_CREDENTIALS},
    eks, sidecar,
};
use crate::session::{base, env};

/// Returns the variable's name if the webhook acts on it.
pub(super) fn of_variable(name: &str) -> Option<&'static str> {
    VARIABLES.iter().copied().flatten().copied().find(|known| *known == name)
}

/// Returns the volume's name if the webhook acts on it: those of the sidecar and of EKS.
pub(super) fn of_volume(name: &str) -> Option<&'static str> {
    of_our_volume(name).or_else(|| eks::VOLUMES.into_iter().find(|known| *known == name))
}

/// Returns the volume's name if it is one of the sidecar's.
pub(super) fn of_our_volume(name: &str) -> Option<&'static str> {
    sidecar::VOLUMES.into_iter().find(|known| *known == name)
}

/// Returns whether a volume mounted at `path` hides the session token. The kubelet resolves a
/// relative path from the root, and in most images `/var/run` is a link to `/run`.
pub(super) fn covers_token(path: &str) -> bool {
    // The token's directory has fewer parts, so deeper parts are only counted.
    let mut parts = [""; 4];
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            part => {
                if let Some(place) = parts.get_mut(depth) {
                    *place = part;
                }
                depth += 1;
            }
        }
    }
    let parts = &parts[..depth.min(parts.len())];
    let linked = sidecar::TOKEN_DIRECTORY.trim_start_matches("/var");
    [sidecar::TOKEN_DIRECTORY, linked].into_iter().any(|directory| {
        let mut wanted = directory.split('/').skip(1).zip(parts.iter().chain([&""; 4]));
        wanted.all(|(wanted, part)| wanted == *part)
    })
}

const VARIABLES: [&[&str]; 8] = [
    &[FAB_OPERATOR, base::TOKEN_FILE, base::URI],
    &DEFAULTS,
    &NO_PROXIES,
    &REGIONS,
    &STATIC_CREDENTIALS,
    &eks::VARIABLES,
    &env::NAMES,
    &sidecar::PROXIES,
];
pub(super) const DEFAULTS: [&str; 2] = [STS_ENDPOINTS, METADATA_DISABLED];
pub(super) const STS_ENDPOINTS: &str = "AWS_STS_REGIONAL_ENDPOINTS";
pub(super) const METADATA_DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
pub(super) const NO_PROXIES: [&str; 2] = ["NO_PROXY", "no_proxy"];
pub(super) const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_of_the_token_path_is_recognized() {
        let cases = [
            ("/var/run/fab-session", true),
            ("/var/run/fab-session/", true),
            ("/var/run//fab-session", true),
            ("/var/./run/fab-session", true),
            ("/var/run/x/../fab-session", true),
            ("/../../var/run/fab-session", true),
            ("var/run/fab-session", true),
            ("/run/fab-session", true),
            ("/var/run/fab-session/token", true),
            ("/run/fab-session/token/x", true),
            // The token is mounted inside these, so they do not hide it.
            ("/", false),
            ("/var/run", false),
            ("/run", false),
            ("", false),
            ("/var/run/fab-session-base", false),
            ("/var/run/fab-session/../other", false),
            ("/data/var/run/fab-session", false),
            ("/fab-session", false),
        ];
        for (path, want) in cases {
            assert_eq!(covers_token(path), want, "{path:?}");
        }
    }
}
