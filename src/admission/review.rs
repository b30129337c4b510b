//! The AdmissionReview: reads the request and writes the response.
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>

use std::{borrow::Cow, fmt, marker::PhantomData};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{decide::Outcome, pod::Text, refusal::Refusal};

/// The fields of a review that the webhook reads.
///
/// It is untrusted input: any client that reaches the port may have sent it. A field of the wrong
/// type counts as absent, so that the response can still carry the uid.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request<'a> {
    #[serde(borrow, default, deserialize_with = "or_absent")]
    pub(super) uid: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_absent")]
    pub(super) operation: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_absent")]
    pub(super) namespace: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_absent")]
    pub(super) resource: Object<Resource<'a>>,
    #[serde(borrow, default, deserialize_with = "or_absent")]
    pub(super) sub_resource: Text<'a>,
    #[serde(default, deserialize_with = "or_absent")]
    pub(super) dry_run: Scalar<bool>,
    #[serde(borrow, default, deserialize_with = "or_absent")]
    pub(super) user_info: Object<UserInfo<'a>>,
    #[serde(borrow, default)]
    pub(super) object: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
pub(super) struct Resource<'a> {
    #[serde(borrow, default)]
    pub(super) group: Text<'a>,
    #[serde(borrow, default)]
    pub(super) version: Text<'a>,
    #[serde(borrow, default)]
    pub(super) resource: Text<'a>,
}

#[derive(Default, Deserialize)]
pub(super) struct UserInfo<'a> {
    #[serde(borrow, default)]
    pub(super) username: Text<'a>,
}

/// A struct that is read only from a JSON object. serde's derived code also reads it from a list,
/// by the order of the fields.
#[derive(Default)]
pub(super) struct Object<T>(pub(super) T);

/// Why a body is not a valid AdmissionReview.
#[derive(Debug, thiserror::Error)]
pub enum NotAReview {
    #[error("the body is not an AdmissionReview: {0}")]
    Json(#[source] serde_json::Error),
    #[error("the uid of the AdmissionReview has more than {LONGEST_UID} bytes")]
    LongUid,
    #[error("the AdmissionReview has no request with a uid")]
    NoRequest,
    #[error("expected kind {KIND} of {API_VERSION}")]
    Version,
}

pub(super) fn parse(body: &[u8]) -> Result<Request<'_>, NotAReview> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope<'a> {
        #[serde(borrow, default)]
        api_version: Cow<'a, str>,
        #[serde(borrow, default)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        request: Option<Object<Request<'a>>>,
    }
    let Object(Envelope { api_version, kind, request }) =
        serde_json::from_slice(body).map_err(NotAReview::Json)?;
    if api_version != API_VERSION || kind != KIND {
        return Err(NotAReview::Version);
    }
    let request = request.map(|Object(request)| request);
    match request.filter(|request| !request.uid.is_empty()) {
        None => Err(NotAReview::NoRequest),
        Some(request) if request.uid.len() > LONGEST_UID => Err(NotAReview::LongUid),
        Some(request) => Ok(request),
    }
}

fn or_absent<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfObject(PhantomData))
    }
}

/// A boolean or an integer. serde's own implementations copy a string that they find instead into
/// their error, at any length.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Scalar<T>(pub(super) T);

impl<'de> Deserialize<'de> for Scalar<bool> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfBool;
        impl Visitor<'_> for OfBool {
            type Value = Scalar<bool>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Scalar(value))
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfBool)
    }
}

impl<'de> Deserialize<'de> for Scalar<i64> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfNumber;
        impl Visitor<'_> for OfNumber {
            type Value = Scalar<i64>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                i64::try_from(value).map(Scalar).map_err(E::custom)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfNumber)
    }
}

/// Error for a string in place of another type. The messages of serde and serde_json contain the
/// complete string. serde_json writes its own error for all calls except `deserialize_any`.
pub(super) const TEXT: &str = "found a string, expected another type";

/// Returns the bytes of the response. In `audit`, `apply` is false: the response neither changes
/// nor refuses the pod.
pub(super) fn respond(uid: &str, outcome: &Outcome, apply: bool) -> Vec<u8> {
    let refusal = outcome.refusal().filter(|_| apply);
    let answer = Review {
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
struct Review<'a> {
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

/// The audit annotations, with keys without prefix. The API server puts the webhook's name and a
/// '/' in front of each, and drops a key that already has a '/'.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct AuditAnnotations<'a> {
    pub(super) decision: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) component: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source_identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role_arn: Option<&'a str>,
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
        if refusal.may_heal() {
            let details = Some(Details { retry_after_seconds: 1 });
            Self { code: 503, reason: "ServiceUnavailable", message, details }
        } else {
            Self { code: 403, reason: "Forbidden", message, details: None }
        }
    }
}

/// Maximum length of a uid, in bytes. The API server sends UUIDs of 36 characters.
const LONGEST_UID: usize = 253;
/// Initial capacity of a response, in bytes. The patch of a pod with one container has 6 KiB, in
/// Base64 8 KiB.
const USUAL_BYTES: usize = 10 * 1024;
/// Maximum length of a uid in an annotation's key: the key's name has at most 63 characters. The
/// API server's uids have 36.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/#syntax-and-character-set>
const LONGEST_IN_KEY: usize = 63 - "review-".len();
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
