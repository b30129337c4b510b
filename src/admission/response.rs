//! Writes the response of an AdmissionReview.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};

use super::{
    outcome::{AuditAnnotations, Outcome},
    refusal::Refusal,
    review::{API_VERSION, KIND},
};

/// Returns the bytes of the response. In `audit`, `apply` is false: the response neither changes
/// nor refuses the pod.
pub(super) fn respond(uid: &str, outcome: &Outcome, apply: bool) -> Vec<u8> {
    let refusal = outcome.refusal().filter(|_| apply);
    let answer = AdmissionReview {
        api_version: API_VERSION,
        kind: KIND,
        response: Response {
            uid,
            allowed: refusal.is_none(),
            status: refusal.map(Status::of),
            warnings: if apply { outcome.warnings() } else { &[] },
            audit_annotations: Noted {
                outcome: outcome.audit_annotations(),
                review: OfReview(uid),
            },
        },
    };
    // The response has only strings, numbers and maps of strings, so this cannot fail. If it did,
    // the API server would find no response in the empty body, and deny the pod.
    let mut body = Vec::with_capacity(USUAL_BYTES);
    if serde_json::to_writer(&mut body, &answer).is_err() {
        return Vec::new();
    }
    if let Some(patch) = outcome.patch().filter(|_| apply) {
        append_patch(&mut body, &patch);
    }
    body
}

/// Appends the patch as the last field of `response`. The patch is most of the response, and Base64
/// has no character that JSON escapes, so this bypasses the JSON writer's search for one.
fn append_patch(body: &mut Vec<u8>, patch: &[u8]) {
    const END: &[u8] = b"}}";
    const START: &[u8] = br#","patchType":"JSONPatch","patch":""#;
    let encoded = patch.len().div_ceil(3) * 4;
    body.truncate(body.len().saturating_sub(END.len()));
    body.reserve(START.len() + encoded + END.len() + 1);
    body.extend_from_slice(START);
    let start = body.len();
    body.resize(start + encoded, 0);
    // The slice has exactly the length of Base64 with padding.
    let _ = STANDARD.encode_slice(patch, &mut body[start..]);
    body.push(b'"');
    body.extend_from_slice(END);
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionReview<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    audit_annotations: Noted<'a>,
}

#[derive(Serialize)]
struct Noted<'a> {
    #[serde(flatten)]
    outcome: AuditAnnotations<'a>,
    #[serde(flatten)]
    review: OfReview<'a>,
}

/// The uid of the review, which the webhook's log has as well. It is part of the key, since the API
/// server uses another uid for each invocation and keeps one value per key.
struct OfReview<'a>(&'a str);

impl Serialize for OfReview<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(uid) = self;
        let key = (uid.len() <= LONGEST_IN_KEY).then(|| format!("review-{uid}"));
        serializer.collect_map(key.map(|key| (key, "answered")))
    }
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    retry_after_seconds: u16,
}

impl Status {
    /// Returns the status of a refusal. A transient one gets 503 with `retryAfterSeconds`, which
    /// makes client-go retry the call.
    fn of(refusal: &Refusal) -> Self {
        let message = refusal.to_string();
        if refusal.is_transient() {
            let details = Some(Details { retry_after_seconds: 1 });
            Self { code: 503, reason: "ServiceUnavailable", message, details }
        } else {
            Self { code: 403, reason: "Forbidden", message, details: None }
        }
    }
}

/// Initial capacity of a response, in bytes. The patch of a pod with one container has 6 KiB, in
/// Base64 8 KiB.
const USUAL_BYTES: usize = 10 * 1024;
/// Maximum length of a uid in an annotation's key: the key's name has at most 63 characters. The
/// API server's uids have 36.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/#syntax-and-character-set>
const LONGEST_IN_KEY: usize = 63 - "review-".len();
