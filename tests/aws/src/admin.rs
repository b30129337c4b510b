//! Routes under `/_strict/`, by which tests control the binary.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    aws::Aws,
    failure,
    fault::{Fault, Injected, Target, Times},
};

/// The body of `PUT /_strict/faults`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    target: TargetName,
    fault: FaultName,
    /// Delay of the fault `slow`.
    seconds: Option<f64>,
    /// Until cleared, if absent.
    times: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FaultName {
    CloseMidBody,
    Denied,
    Empty,
    Garbage,
    Hang,
    Huge,
    InternalError,
    Malformed,
    Nameless,
    Slow,
    Throttle,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum TargetName {
    AssumeRole,
    AssumeRoleWithWebIdentity,
    PodIdentity,
    Sts,
}

/// Returns the response, or None if the request is for AWS.
pub(crate) fn answer(aws: &Aws, request: &Request<Bytes>) -> Option<Response<Bytes>> {
    let path = request.uri().path().strip_prefix("/_strict/")?;
    let (get, put, delete) = (&Method::GET, &Method::PUT, &Method::DELETE);
    Some(match (request.method(), path) {
        (method, "health") if method == get => json_answer(&json!({"healthy": true})),
        (method, "events") if method == get => json_answer(&json!({"Records": aws.events()})),
        (method, "events") if method == delete => {
            aws.clear_events();
            json_answer(&json!({}))
        }
        (method, "faults") if method == get => json_answer(&faults(aws)),
        (method, "faults") if method == put => put_fault(aws, request.body()),
        (method, "faults") if method == delete => {
            let faults = faults(aws);
            aws.clear_faults();
            json_answer(&faults)
        }
        _ => failure::answer(StatusCode::NOT_FOUND, "text/plain", "no such route\n"),
    })
}

fn put_fault(aws: &Aws, body: &[u8]) -> Response<Bytes> {
    let refused = |why: String| failure::answer(StatusCode::BAD_REQUEST, "text/plain", why + "\n");
    let Wanted { target, fault, seconds, times } = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return refused(error.to_string()),
    };
    let delay = seconds.map(Duration::try_from_secs_f64);
    let fault = match (fault, delay) {
        (FaultName::Slow, Some(Ok(delay))) => Fault::Slow(delay),
        (FaultName::Slow, _) => return refused("slow needs seconds, 0 or more".to_owned()),
        (_, Some(_)) => return refused("only slow takes seconds".to_owned()),
        (FaultName::CloseMidBody, None) => Fault::CloseMidBody,
        (FaultName::Denied, None) => Fault::Denied,
        (FaultName::Empty, None) => Fault::Empty,
        (FaultName::Garbage, None) => Fault::Garbage,
        (FaultName::Hang, None) => Fault::Hang,
        (FaultName::Huge, None) => Fault::Huge,
        (FaultName::InternalError, None) => Fault::InternalError,
        (FaultName::Malformed, None) => Fault::Malformed,
        (FaultName::Nameless, None) => Fault::Nameless,
        (FaultName::Throttle, None) => Fault::Throttle,
    };
    let target = match target {
        TargetName::AssumeRole => Target::AssumeRole,
        TargetName::AssumeRoleWithWebIdentity => Target::AssumeRoleWithWebIdentity,
        TargetName::PodIdentity => Target::PodIdentity,
        TargetName::Sts => Target::Sts,
    };
    aws.inject(target, fault, times.map_or(Times::UntilCleared, Times::Next));
    json_answer(&faults(aws))
}

fn faults(aws: &Aws) -> Value {
    let one = |injected: Injected| {
        json!({
            "target": format!("{:?}", injected.target()),
            "fault": format!("{:?}", injected.fault()),
            "fired": injected.fired(),
        })
    };
    Value::Array(aws.faults().into_iter().map(one).collect())
}

fn json_answer(body: &Value) -> Response<Bytes> {
    failure::answer(StatusCode::OK, "application/json", body.to_string())
}
