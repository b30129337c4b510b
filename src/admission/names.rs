//! Names of the containers, variables and volumes that the webhook acts on. It does not
//! parse others.

use super::eks;
use crate::session::{base_credentials, env};

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
    VOLUMES.into_iter().find(|known| *known == name)
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
    let linked = TOKEN_DIRECTORY.trim_start_matches("/var");
    [TOKEN_DIRECTORY, linked].into_iter().any(|directory| {
        let mut wanted = directory.split('/').skip(1).zip(parts.iter().chain([&""; 4]));
        wanted.all(|(wanted, part)| wanted == *part)
    })
}

const VARIABLES: [&[&str]; 9] = [
    &[FAB_OPERATOR, OLD_REGION, base_credentials::TOKEN_FILE, base_credentials::URI],
    &JAVA_OPTIONS,
    &DEFAULTS,
    &NO_PROXIES,
    &REGIONS,
    &STATIC_CREDENTIALS,
    &eks::VARIABLES,
    &env::NAMES,
    &PROXIES,
];
pub(super) const DEFAULTS: [&str; 2] = [STS_ENDPOINTS, METADATA_DISABLED];
pub(super) const STS_ENDPOINTS: &str = "AWS_STS_REGIONAL_ENDPOINTS";
pub(super) const METADATA_DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
pub(super) const NO_PROXIES: [&str; 2] = ["NO_PROXY", "no_proxy"];
pub(super) const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// Variable from which JavaScript (version 2) and Ruby read the region if `AWS_REGION` is not set.
pub(super) const OLD_REGION: &str = "AMAZON_REGION";
/// Variables by which SDKs find a proxy.
pub(super) const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
pub(super) const TOKEN_VOLUME: &str = "fab-session-token";
/// Volume with the token by which the sidecar gets credentials.
pub const BASE_VOLUME: &str = "fab-session-base";
pub(super) const EMPTY_VOLUME: &str = "fab-session-empty";
pub(super) const VOLUMES: [&str; 3] = [TOKEN_VOLUME, BASE_VOLUME, EMPTY_VOLUME];
pub(super) const TOKEN_DIRECTORY: &str = "/var/run/fab-session";
pub const CONTAINER_NAME: &str = "fab-session-credentials";
pub(super) const FAB_OPERATOR: &str = "FAB_OPERATOR";
/// Annotation of a pod: the person or system for which its session runs.
pub(super) const ON_BEHALF_OF_ANNOTATION: &str = "fab.nanohype.dev/on-behalf-of";
/// Variables that AWS SDKs read before a container credential endpoint. The chart's guard has the
/// same list; docs/sidecar.md names the SDKs, and the file of each that reads the variable.
pub const STATIC_CREDENTIALS: [&str; 17] = [
    "AMAZON_ACCESS_KEY_ID",
    "AMAZON_SECRET_ACCESS_KEY",
    "AMAZON_SESSION_TOKEN",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_CONFIG_FILE",
    "AWS_CREDENTIAL_FILE",
    "AWS_CREDENTIAL_PROFILES_FILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "BOTO_CONFIG",
];
/// Variables from which a JVM reads options: HotSpot the first three, OpenJ9 also the others.
pub const JAVA_OPTIONS: [&str; 5] = [
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "IBM_JAVA_OPTIONS",
    "OPENJ9_JAVA_OPTIONS",
];
/// System properties that the AWS SDKs for Java and Kotlin read before the variables of the
/// environment. An option of a JVM sets them. The chart's guard has the same list.
///
/// `aws.containerAuthorizationToken` is also the beginning of that property's variant for a file.
pub const JAVA_PROPERTIES: [&str; 13] = [
    "aws.accessKeyId",
    "aws.bearerTokenBedrock",
    "aws.configFile",
    "aws.containerAuthorizationToken",
    "aws.containerCredentialsFullUri",
    "aws.containerCredentialsPath",
    "aws.profile",
    "aws.roleArn",
    "aws.secretAccessKey",
    "aws.secretKey",
    "aws.sessionToken",
    "aws.sharedCredentialsFile",
    "aws.webIdentityTokenFile",
];

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
