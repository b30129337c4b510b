//! A stand-in for SSM Parameter Store, for what moto lacks: denials, quotas and faults. Each error
//! is one that AWS documents.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::stand_in::StandIn;

/// A fault of the stand-in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// IAM allows the caller to read nothing.
    Denied,
    /// No response.
    Hang,
    /// HTTP 500.
    InternalError,
    /// 200 with a body that is cut off after a part of the values.
    Malformed,
    /// A correct response after this time.
    Slow(Duration),
    /// The error for too many calls.
    Throttled,
}

/// A running stand-in. Once dropped, it accepts no connections.
pub struct ParameterStore {
    /// Address of its HTTP server.
    pub address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
    /// Stops the server when dropped.
    _server: StandIn,
}

#[derive(Debug)]
struct Shelf {
    /// Type and value of each parameter, by name.
    parameters: HashMap<String, (String, String)>,
    /// Names that IAM denies to the caller.
    denied: Vec<String>,
    fault: Option<Fault>,
    /// Calls per second of all callers.
    /// <https://docs.aws.amazon.com/general/latest/gr/ssm.html>
    quota: f64,
    tokens: f64,
    filled: Instant,
    /// Time, number of names and whether it was throttled, for each call.
    calls: Vec<(Instant, usize, bool)>,
    /// Number of further calls with an invalid signing time.
    expired: usize,
}

impl ParameterStore {
    /// Starts on 127.0.0.1, with a quota in calls per second.
    pub fn start(quota: f64) -> Self {
        Self::on(Ipv4Addr::LOCALHOST, quota)
    }

    /// Starts on an address that is reachable from outside this machine.
    pub fn on(address: Ipv4Addr, quota: f64) -> Self {
        let shelf = Arc::new(Mutex::new(Shelf {
            parameters: HashMap::new(),
            denied: Vec::new(),
            fault: None,
            quota,
            tokens: quota,
            filled: Instant::now(),
            calls: Vec::new(),
            expired: 0,
        }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shelf));
        let server = StandIn::start(address, router);
        Self { address: server.address, shelf, _server: server }
    }

    /// Returns the endpoint for AWS clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Creates or replaces a parameter.
    pub fn put(&self, name: &str, value: &str) {
        let parameter = ("String".to_owned(), value.to_owned());
        self.shelf().parameters.insert(name.to_owned(), parameter);
    }

    /// Denies a parameter to all callers.
    pub fn deny(&self, name: &str) {
        self.shelf().denied.push(name.to_owned());
    }

    /// Sets or ends a fault.
    pub fn fail(&self, fault: Option<Fault>) {
        self.shelf().fault = fault;
    }

    /// Returns the calls: time, number of names, whether it was throttled.
    pub fn calls(&self) -> Vec<(Instant, usize, bool)> {
        self.shelf().calls.clone()
    }

    /// Returns the number of calls that were rejected for their signing time.
    pub fn expired(&self) -> usize {
        self.shelf().expired
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap()
    }
}

async fn answer(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request) -> Response {
    let signed = request.headers().get("x-amz-date").and_then(|date| date.to_str().ok());
    let signed = signed.map(str::to_owned).unwrap_or_default();
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let fault = shelf.lock().unwrap().fault;
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Slow(delay)) => sleep(delay).await,
        _ => {}
    }
    let mut shelf = shelf.lock().unwrap();
    let (status, body) = if is_of_now(&signed) {
        shelf.get_parameters(&body, fault)
    } else {
        shelf.expired += 1;
        error("InvalidSignatureException", "Signature expired")
    };
    (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}

impl Shelf {
    /// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html>
    fn get_parameters(&mut self, body: &[u8], fault: Option<Fault>) -> (StatusCode, Bytes) {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let names: Vec<String> =
            request["Names"].as_array().into_iter().flatten().map(text).collect();
        let throttled = fault == Some(Fault::Throttled) || !self.has_quota();
        self.calls.push((Instant::now(), names.len(), throttled));
        // https://docs.aws.amazon.com/systems-manager/latest/APIReference/CommonErrors.html
        if throttled {
            return error("ThrottlingException", "Rate exceeded");
        }
        if fault == Some(Fault::InternalError) {
            let (_, body) = error("InternalServerError", "An error occurred on the server side.");
            return (StatusCode::INTERNAL_SERVER_ERROR, body);
        }
        if names.is_empty() || names.len() > 10 {
            return error(
                "ValidationException",
                "1 validation error detected: Value at 'names' failed to satisfy constraint: Member must have length less than or equal to 10",
            );
        }
        let denied = |name: &&String| fault == Some(Fault::Denied) || self.denied.contains(name);
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
        if let Some(name) = names.iter().find(denied) {
            return error(
                "AccessDeniedException",
                &format!(
                    "User: arn:aws:sts::111122223333:assumed-role/webhook/s is not authorized to perform: ssm:GetParameters on resource: arn:aws:ssm:eu-west-1:111122223333:parameter{name} because no identity-based policy allows the ssm:GetParameters action"
                ),
            );
        }
        let (found, invalid): (Vec<&String>, Vec<&String>) =
            names.iter().partition(|name| self.parameters.contains_key(*name));
        let found: Vec<Value> = found
            .into_iter()
            .map(|name| {
                let (kind, value) = &self.parameters[name];
                json!({"Name": name, "Type": kind, "Value": value, "Version": 1, "DataType": "text"})
            })
            .collect();
        let mut body = json!({"Parameters": found, "InvalidParameters": invalid}).to_string();
        if fault == Some(Fault::Malformed) {
            body.truncate(body.len() - 10);
        }
        (StatusCode::OK, body.into())
    }

    fn has_quota(&mut self) -> bool {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * self.quota;
        (self.tokens, self.filled) = ((self.tokens + gained).min(self.quota), now);
        let has = self.tokens >= 1.0;
        self.tokens -= if has { 1.0 } else { 0.0 };
        has
    }
}

/// Returns whether a call was signed within five minutes of the current time.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>
fn is_of_now(signed: &str) -> bool {
    let signed =
        DateTime::strptime("%Y%m%dT%H%M%SZ", signed).and_then(|at| at.to_zoned(TimeZone::UTC));
    let apart = signed.map(|at| Timestamp::now().duration_since(at.timestamp()).abs());
    apart.is_ok_and(|apart| apart <= SignedDuration::from_mins(5))
}

fn error(code: &str, message: &str) -> (StatusCode, Bytes) {
    (StatusCode::BAD_REQUEST, json!({"__type": code, "message": message}).to_string().into())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
