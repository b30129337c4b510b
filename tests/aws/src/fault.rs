//! Faults on demand: what goes wrong, where, and how often.

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
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The connection closes in the middle of an answer that is otherwise right.
    CloseMidBody,
    /// 403, though no policy says so.
    Denied,
    /// 200 and no body.
    Empty,
    /// 200 and a body that is no answer.
    Garbage,
    /// No answer, ever.
    Hang,
    /// 200 and [`HUGE`] bytes.
    Huge,
    /// 500.
    InternalError,
    /// The right answer, but for its expiration, which is no time.
    Malformed,
    /// AssumeRole as if no `SourceIdentity` had been asked for: what an endpoint may do that is
    /// not AWS.
    Nameless,
    /// The right answer, that much later.
    Slow(Duration),
    /// AWS's answer to who calls too often.
    Throttle,
}

/// Which calls a fault strikes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    AssumeRole,
    PodIdentity,
    /// Any call to STS.
    Sts,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Times {
    Next(u64),
    UntilCleared,
}

/// A fault that was asked for; it outlives its being cleared.
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

    /// How many calls it has struck.
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

    /// The first fault that is not spent and strikes one of these; now it has.
    pub(crate) fn strike(&self, targets: &[Target]) -> Option<Fault> {
        let struck = self.0.iter().find(|it| targets.contains(&it.0.target) && !it.is_spent())?;
        struck.0.fired.fetch_add(1, Ordering::Relaxed);
        Some(struck.0.fault)
    }
}

/// What STS answers; nothing where the fault is no answer of its own.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>
pub(crate) fn of_sts(
    fault: Fault,
    caller: &str,
    role_arn: &str,
    request_id: &str,
) -> Option<Response<Bytes>> {
    let failure = match fault {
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

/// What the node's agent answers.
pub(crate) fn of_pod_identity(fault: Fault, request_id: &str) -> Option<Response<Bytes>> {
    let (status, code, sentence) = match fault {
        Fault::Denied => (StatusCode::FORBIDDEN, Some("AccessDeniedException"), "Access denied"),
        Fault::InternalError => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Some("InternalServerException"),
            "These errors are usually caused by a server-side issue.",
        ),
        // The agent's own limit.
        Fault::Throttle => (StatusCode::TOO_MANY_REQUESTS, None, "Too Many Requests"),
        _ => return odd(fault, "application/json"),
    };
    let refusal = Refusal { status, code, sentence: sentence.to_owned() };
    Some(answer(status, "text/plain; charset=utf-8", refusal.text(request_id)))
}

/// An answer whose expiration cannot be read, whichever protocol it speaks.
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

/// Far more than any answer of AWS.
pub const HUGE: usize = 10 << 20;
