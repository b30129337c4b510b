//! Fault injection: which fault, in which calls, and how often.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::{
    authorization::access_denied,
    failure::{Code, Failure, Protocol, answer},
    pod_identity::Refusal,
    policy::Action,
    sts::web_identity::not_authorized,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The connection closes in the middle of an otherwise valid response.
    CloseMidBody,
    /// 403, although no policy denies the call.
    Denied,
    /// 200 and no body.
    Empty,
    /// 200 and a body that is not a response of AWS.
    Garbage,
    /// No response.
    Hang,
    /// 200 and [`HUGE`] bytes.
    Huge,
    /// 500.
    InternalError,
    /// A valid response, except that its expiration is not a time.
    Malformed,
    /// The source identity of the request or of the token is ignored, as an endpoint may do that is
    /// not AWS.
    Nameless,
    /// A valid response, after this delay.
    Slow(Duration),
    /// The throttling error of AWS.
    Throttle,
}

/// The calls to which a fault applies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    AssumeRole,
    AssumeRoleWithWebIdentity,
    PodIdentity,
    /// Any call to STS.
    Sts,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Times {
    Next(u64),
    UntilCleared,
}

/// An injected fault. Its counter is still available after the fault is cleared.
#[derive(Clone, Debug)]
pub struct Injected(Arc<Slot>);

#[derive(Debug)]
struct Slot {
    target: Target,
    fault: Fault,
    times: Times,
    fired: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Injected>);

impl Injected {
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// Returns the number of calls that failed by it.
    pub fn fired(&self) -> u64 {
        self.0.fired.load(Ordering::Relaxed)
    }

    pub fn target(&self) -> Target {
        self.0.target
    }

    fn is_spent(&self) -> bool {
        matches!(self.0.times, Times::Next(times) if self.fired() >= times)
    }
}

impl Faults {
    pub(crate) fn add(&mut self, target: Target, fault: Fault, times: Times) -> Injected {
        let injected = Injected(Arc::new(Slot { target, fault, times, fired: AtomicU64::new(0) }));
        self.0.push(injected.clone());
        injected
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn list(&self) -> Vec<Injected> {
        self.0.clone()
    }

    /// Returns the first active fault for one of these targets, and counts it.
    pub(crate) fn strike(&self, targets: &[Target]) -> Option<Fault> {
        let struck = self.0.iter().find(|it| targets.contains(&it.0.target) && !it.is_spent())?;
        struck.0.fired.fetch_add(1, Ordering::Relaxed);
        Some(struck.0.fault)
    }
}

/// Returns the response of STS, or None for a fault without its own response.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>
pub(crate) fn of_sts(
    fault: Fault,
    target: Target,
    caller: &str,
    role_arn: &str,
    request_id: &str,
) -> Option<Response<Bytes>> {
    let failure = match fault {
        Fault::Denied if target == Target::AssumeRoleWithWebIdentity => {
            not_authorized(Action::AssumeRoleWithWebIdentity)
        }
        Fault::Denied => access_denied(caller, Action::AssumeRole, role_arn, None),
        Fault::InternalError => Failure::new(
            Code::InternalFailure,
            "The request processing has failed because of an unknown error, exception or failure.",
        ),
        Fault::Throttle => Failure::new(Code::Throttling, "Rate exceeded"),
        _ => return odd(fault, "text/xml"),
    };
    Some(failure.response(Protocol::Query, request_id))
}

/// Returns the response of the node's Pod Identity agent.
pub(crate) fn of_pod_identity(fault: Fault, request_id: &str) -> Option<Response<Bytes>> {
    let (status, code, sentence) = match fault {
        Fault::Denied => (StatusCode::FORBIDDEN, Some("AccessDeniedException"), "Access denied"),
        Fault::InternalError => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Some("InternalServerException"),
            "These errors are usually caused by a server-side issue.",
        ),
        // The agent's own rate limit.
        Fault::Throttle => (StatusCode::TOO_MANY_REQUESTS, None, "Too Many Requests"),
        _ => return odd(fault, "application/json"),
    };
    let refusal = Refusal { status, code, sentence: sentence.to_owned() };
    Some(answer(status, "text/plain; charset=utf-8", refusal.text(request_id)))
}

/// Returns the response with an invalid expiration, in JSON or XML.
pub(crate) fn malformed(response: Response<Bytes>) -> Response<Bytes> {
    response.map(|body| {
        let text = String::from_utf8_lossy(&body);
        let text = text.replace("<Expiration>", "<Expiration>soon, ");
        text.replace("\"Expiration\":\"", "\"Expiration\":\"soon, ").into()
    })
}

fn odd(fault: Fault, content_type: &'static str) -> Option<Response<Bytes>> {
    let body = match fault {
        Fault::Empty => Bytes::new(),
        Fault::Garbage => Bytes::from_static(b"<html><body>It works!</body>\xff\xfe{"),
        Fault::Huge => Bytes::from(vec![b' '; HUGE]),
        _ => return None,
    };
    Some(answer(StatusCode::OK, content_type, body))
}

/// Size of a huge body, far larger than any response of AWS.
pub const HUGE: usize = 10 << 20;
