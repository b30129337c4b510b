//! The version of the Pod Security Standards that a namespace pins with a label.

use std::{fmt, str::FromStr};

use crate::config::PodSecurity;

/// A pinned version whose `restricted` counts as `baseline`, because it leaves containers the
/// capability NET_RAW.
///
/// `restricted` drops all capabilities since v1.22. The sidecar relies on further checks, which are
/// older: those of `baseline` (host namespaces, hostPath, privileged, added capabilities) since
/// v1.0, the volume types since v1.0, `allowPrivilegeEscalation` since v1.8, the seccomp profile
/// since v1.19. The sidecar does not rely on agents that run as non-root: since v1.35 a pod with
/// `hostUsers: false` may run as root. That root has no capabilities, and is no user of the node.
/// Source: `MinimumVersion` of each check in k8s.io/pod-security-admission v0.37.2,
/// policy/check_*.go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OldStandard {
    minor: u32,
}

/// The label pins no version before v1.22.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a version before v1.22")]
pub struct NotOld;

/// Reads the label as the API server does (`ParseVersion` in k8s.io/pod-security-admission,
/// api/helpers.go): anything but `v1.N` counts as the latest version.
impl FromStr for OldStandard {
    type Err = NotOld;

    fn from_str(label: &str) -> Result<Self, Self::Err> {
        let minor = label.strip_prefix("v1.").ok_or(NotOld)?;
        let is_canonical = minor == "0" || !minor.starts_with('0');
        if !is_canonical || !minor.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotOld);
        }
        match minor.parse() {
            Ok(minor) if minor < WITHOUT_NET_RAW => Ok(Self { minor }),
            _ => Err(NotOld),
        }
    }
}

impl OldStandard {
    /// Returns the level that a namespace of this version enforces.
    pub(super) fn weaken(level: PodSecurity) -> PodSecurity {
        level.min(PodSecurity::Baseline)
    }
}

impl fmt::Display for OldStandard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}", self.minor)
    }
}

/// The first minor version in which `restricted` drops all capabilities:
/// check_capabilities_restricted.go of the module above. The chart's guard has the same number.
const WITHOUT_NET_RAW: u32 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_before_1_22_is_old() {
        let cases = [
            ("v1.0", true),
            ("v1.8", true),
            ("v1.19", true),
            ("v1.21", true),
            ("v1.22", false),
            ("v1.23", false),
            ("v1.100", false),
            ("v1.4294967296", false),
            ("latest", false),
            // For the API server these mean the latest version.
            ("", false),
            ("v1.", false),
            ("v1.00", false),
            ("v1.021", false),
            ("v1.+1", false),
            ("v1.-1", false),
            ("v1.1 ", false),
            ("v1.21.0", false),
            ("V1.21", false),
            ("1.21", false),
            ("v2.1", false),
            ("v0.1", false),
        ];
        for (value, want) in cases {
            assert_eq!(value.parse::<OldStandard>().is_ok(), want, "{value:?}");
        }
    }
}
