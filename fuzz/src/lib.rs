//! The world of all targets: one tenant's namespace and role, the default config, and an API server
//! that applies patches.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod mutation;

use std::{collections::HashMap, fmt::Display, str::FromStr, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use fab_session_injector::{
    admission::Review,
    config::Config,
    namespaces::{Mode, Namespace, Namespaces},
    roles::{Role, Roles, Source},
};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

pub use self::mutation::mutate_pod;

/// Measures the memory of a review.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

pub struct World {
    config: Config,
    namespaces: Namespaces,
    roles: Roles,
}

pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let config = Config { region: "eu-west-1".parse().ok(), ..Config::default() };
    let namespaces = [
        ("tenants-acme", "enabled"),
        ("tenants-audited", "audit"),
        // A tenant name too long for a pod uid.
        ("tenants-of-a-name-that-is-long", "enabled"),
    ]
    .map(|(name, mode)| {
        let labels = [
            ("fab.nanohype.dev/session-injection", mode),
            ("pod-security.kubernetes.io/enforce", "restricted"),
        ];
        let label =
            |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        Namespace::read(name, label, &config.tenant)
    });
    let role = Role::Known(ROLE.parse().unwrap());
    let roles = HashMap::from([("acme".parse().unwrap(), role.into())]);
    World {
        config,
        namespaces: namespaces.into_iter().collect(),
        roles: Roles::new(Source::File("roles.yaml".into()), roles),
    }
});

/// A response of the webhook, with checks that apply to every response.
pub struct Answer {
    /// The response as the API server parses it.
    pub response: Value,
    pub patch: Option<json_patch::Patch>,
}

impl World {
    /// Returns the response; None for an invalid request.
    pub fn answer(&self, mode: Mode, body: &[u8]) -> Option<Answer> {
        let Self { config, namespaces, roles } = self;
        let answer = || {
            let review = Review::parse(body).ok()?;
            Some(review.answer(mode, namespaces, roles, config).body)
        };
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let bytes = answer();
        let took = MEMORY.peak_usage().saturating_sub(before);
        let most = memory(body.len(), bytes.as_ref().map_or(0, Vec::len));
        assert!(took <= most, "{took} bytes of memory, and at most {most}");
        let (bytes, again) = (bytes?, answer()?);
        let review = Review::parse(body).ok()?;
        assert_eq!(bytes, again, "the same review has two answers");
        let told: Value = serde_json::from_slice(&bytes).expect("an answer is JSON");
        let response = told["response"].clone();
        assert_eq!(response["uid"], review.uid(), "another's uid");
        let allowed = response["allowed"].as_bool().expect("an answer says yes or no");
        let decision = response["auditAnnotations"]["decision"].as_str().expect("a decision");
        if let Some(code) = decision.strip_prefix("refuse/") {
            let status = if allowed { None } else { response["status"]["code"].as_u64() };
            assert!(is_documented(code, status), "{code} {status:?} is not in docs/refusals.md");
        }
        let refuses = mode == Mode::Enabled && decision.starts_with("refuse/");
        assert_eq!(allowed, !refuses, "{decision}");
        let patch = response["patch"].as_str().map(|patch| {
            assert!(mode == Mode::Enabled && allowed, "a patch that nobody may apply");
            let patch = STANDARD.decode(patch).expect("a patch is Base64");
            serde_json::from_slice(&patch).expect("a patch is JSON Patch")
        });
        Some(Answer { response, patch })
    }

    /// Returns the response for a pod that `creator` creates in the tenant's namespace.
    pub fn create(&self, creator: &str, pod: &Value) -> Answer {
        let body = envelope(creator, pod);
        self.answer(Mode::Enabled, body.as_bytes()).expect("the envelope is sound")
    }
}

/// Returns the maximum memory of a review beside its body, in bytes, as in tests/bounds.rs.
fn memory(body: usize, answer: usize) -> usize {
    2 * body + 4 * answer + 256 * 1024
}

/// Returns the review that the API server sends for a pod.
pub fn envelope(creator: &str, pod: &Value) -> String {
    json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "4cbcc3bf-b587-4b52-a171-005bd10ae83c", "operation": "CREATE", "namespace": "tenants-acme",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": creator}, "object": pod,
        },
    })
    .to_string()
}

/// Returns the uid that the response must have. None: the body is an invalid request, or its uid is
/// not one of an API server.
pub fn uid(body: &Value) -> Option<&str> {
    let is_review =
        body["kind"] == "AdmissionReview" && body["apiVersion"] == "admission.k8s.io/v1";
    body["request"]["uid"].as_str().filter(|uid| is_review && (1..=253).contains(&uid.len()))
}

/// Returns whether docs/refusals.md has this code with this status.
fn is_documented(code: &str, status: Option<u64>) -> bool {
    let page = include_str!("../../docs/refusals.md");
    let Some((_, section)) = page.split_once(&format!("\n### `{code}`\n\n")) else {
        return false;
    };
    status.is_none_or(|status| section.starts_with(&format!("HTTP {status}, ")))
}

/// Checks that a parsed value is written as it was, and can be parsed again.
pub fn round_trip<T: Display + FromStr + PartialEq>(text: &str) {
    if let Ok(noun) = text.parse::<T>() {
        let written = noun.to_string();
        assert!(written.parse().is_ok_and(|again: T| again == noun), "{text:?} became {written:?}");
    }
}

/// Matches a glob by trying all possibilities.
pub fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    // Whether the glob so far matches the first n characters of the name.
    let mut reached: Vec<bool> = (0..=name.len()).map(|n| n == 0).collect();
    for part in glob {
        for n in (0..=name.len()).rev() {
            reached[n] = match part {
                '*' => reached[..=n].contains(&true),
                part => n > 0 && reached[n - 1] && name[n - 1] == part,
            };
        }
    }
    reached[name.len()]
}

pub const OPERATOR: &str = "system:serviceaccount:eks-agent-platform:operator";
pub const TENANT: &str = "system:serviceaccount:tenants-acme:tenant-runtime";
const ROLE: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker";
