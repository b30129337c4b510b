//! Reads the request of an AdmissionReview.
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    guarded,
    pod_fields::{PodFields, PodJson, PodText},
};
use crate::json::{Object, Scalar, Text};

/// The fields of a review that the webhook reads.
///
/// It is untrusted input: any client that reaches the port may have sent it. A field of the wrong
/// type counts as absent, so that the response can still carry the uid.
#[derive(Deserialize)]
#[serde(bound(deserialize = "O: Deserialize<'de>"), rename_all = "camelCase")]
pub(super) struct Request<'a, O = PodJson<'a>> {
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
    #[serde(default = "Option::default")]
    pub(super) object: Option<O>,
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

#[derive(Deserialize)]
#[serde(bound(deserialize = "O: Deserialize<'de>"), rename_all = "camelCase")]
struct Envelope<'a, O> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    request: Option<Object<Request<'a, O>>>,
}

/// Reads the pod together with the review. If that fails, it reads the review alone, so that the
/// response can carry the uid.
pub(super) fn parse(body: &[u8]) -> Result<Request<'_>, NotAReview> {
    let text = std::str::from_utf8(body).ok();
    let at_once =
        || serde_json::from_str::<Object<Envelope<'_, Object<PodFields<'_>>>>>(text?).ok();
    let Envelope { api_version, kind, request } = match guarded(at_once).flatten() {
        Some(Object(envelope)) => envelope.with(|Object(fields)| {
            PodJson::Read(fields, PodText::Review(text.unwrap_or_default()))
        }),
        None => {
            let Object(envelope) = serde_json::from_slice::<Object<Envelope<'_, &RawValue>>>(body)
                .map_err(NotAReview::Json)?;
            // A text that is not UTF-8 was not read at once.
            envelope.with(|object| match text {
                Some(_) => PodJson::Unreadable(object),
                None => guarded(|| PodJson::of(object)).unwrap_or(PodJson::Unreadable(object)),
            })
        }
    };
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

impl<'a, O> Envelope<'a, O> {
    fn with<P>(self, object_of: impl FnOnce(O) -> P) -> Envelope<'a, P> {
        let Self { api_version, kind, request } = self;
        let request = request.map(|Object(request)| {
            let Request {
                uid,
                operation,
                namespace,
                resource,
                sub_resource,
                dry_run,
                user_info,
                object,
            } = request;
            Object(Request {
                uid,
                operation,
                namespace,
                resource,
                sub_resource,
                dry_run,
                user_info,
                object: object.map(object_of),
            })
        });
        Envelope { api_version, kind, request }
    }
}

fn or_absent<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

/// Maximum length of a uid, in bytes. The API server sends UUIDs of 36 characters.
const LONGEST_UID: usize = 253;
pub(super) const API_VERSION: &str = "admission.k8s.io/v1";
pub(super) const KIND: &str = "AdmissionReview";
