//! Settings of the sidecar container.

use super::{
    image::{Image, ImageDigest},
    quantity::Quantity,
    reader::Section,
};
use crate::session::{SessionDuration, env};

#[derive(Clone, Debug)]
pub struct Sidecar {
    pub image: Image,
    pub image_pull_policy: PullPolicy,
    /// The port on the pod's loopback on which the sidecar serves credentials.
    pub port: u16,
    /// User and group of the sidecar; no agent container should have the same.
    pub uid: u32,
    pub duration: SessionDuration,
    pub resources: Resources,
    /// Additional variables of the sidecar, such as endpoints and a CA bundle in test clusters.
    pub env: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Resources {
    pub cpu_request: Quantity,
    pub memory_request: Quantity,
    pub cpu_limit: Quantity,
    pub memory_limit: Quantity,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl Sidecar {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let mut resources = section.section("resources");
        let mut requests = resources.section("requests");
        let mut limits = resources.section("limits");
        let reference = match section.text("image", "") {
            empty if empty.is_empty() => DEFAULT_IMAGE.to_owned(),
            reference => reference,
        };
        let digests: Vec<ImageDigest> = section.list("imageDigests").unwrap_or_default();
        let sidecar = Self {
            image: Image::new(reference, &digests),
            image_pull_policy: section.choice(
                "imagePullPolicy",
                PullPolicy::IfNotPresent,
                PULL_POLICIES,
            ),
            port: u16::try_from(section.number("port", 7413, 1024..=65535)).unwrap_or(7413),
            uid: u32::try_from(section.number("uid", 64017, 1..=0x7fff_ffff)).unwrap_or(64017),
            duration: section.parsed("durationSeconds", SessionDuration::default()),
            resources: Resources {
                cpu_request: requests.parsed("cpu", Quantity::of_thousandths(10)),
                memory_request: requests.parsed("memory", Quantity::of_mebibytes(32)),
                cpu_limit: limits.parsed("cpu", Quantity::of_thousandths(100)),
                memory_limit: limits.parsed("memory", Quantity::of_mebibytes(64)),
            },
            env: section.pairs("env"),
        };
        for (name, value) in &sidecar.env {
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != '=') {
                section.problem(
                    &format!("env.{name}"),
                    "not a valid variable name: expected printable ASCII characters except '='",
                );
            }
            if env::is_reserved(name) {
                section
                    .problem(&format!("env.{name}"), "the webhook sets this variable; remove it");
            }
            if value.contains("$(") {
                section.problem(
                    &format!("env.{name}"),
                    "the kubelet would expand $(; set the resulting value instead",
                );
            }
        }
        let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = &sidecar.resources;
        for (key, request, limit) in
            [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)]
        {
            if request.thousandths() > limit.thousandths() {
                requests.problem(
                    key,
                    "is more than its limit, so the API server would deny every pod; lower it",
                );
            }
        }
        limits.close();
        requests.close();
        resources.close();
        section.close();
        sidecar
    }
}

impl PullPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

const DEFAULT_IMAGE: &str =
    concat!("ghcr.io/nanohype/fab-session-injector:", env!("CARGO_PKG_VERSION"));
const PULL_POLICIES: &[(&str, PullPolicy)] = &[
    ("Always", PullPolicy::Always),
    ("IfNotPresent", PullPolicy::IfNotPresent),
    ("Never", PullPolicy::Never),
];
