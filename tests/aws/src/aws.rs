//! The AWS stand-in: takes requests and the time, returns responses. It does no I/O.

mod pod;
mod query;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::HOST, header::USER_AGENT};
use serde_json::{Value, json};

use crate::{
    authorization, bedrock, eks,
    event::{Event, Who},
    failure::{Failure, Protocol, answer},
    fault::{self, Fault, Faults, Injected, Target, Times},
    keys::Keys,
    provider::{Outage, Publication},
    session::{Credentials, Session, Sessions},
    signature::{Signature, invalid_client_token_id},
    sts::{
        Form, Operation,
        assume_role::{self, Grant},
    },
    tags::Tags,
    world::{NotAWorld, StandingWorld, World},
};

/// The AWS stand-in. Its world is constant, except for tags and inline policies of roles and for
/// what the issuers of OIDC providers publish; its sessions, events and faults change.
#[derive(Debug)]
pub struct Aws {
    world: StandingWorld,
    state: Mutex<State>,
}

/// What the server sends.
#[derive(Debug)]
pub enum Answer {
    /// The response, after a delay.
    After(Duration, Response<Bytes>),
    /// The head and a part of the body; then the server closes the connection.
    CloseAfter(Response<Bytes>),
    /// Nothing; the connection stays open.
    Hang,
    Response(Response<Bytes>),
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Value>,
    faults: Faults,
    keys: Keys,
    sessions: Sessions,
}

/// The type of a call.
#[derive(Debug)]
enum Call {
    Other,
    PodIdentity,
    Sts {
        form: Form,
        /// Whether the source identity is ignored.
        nameless: bool,
    },
}

impl Aws {
    pub fn new(world: World) -> Result<Self, NotAWorld> {
        Ok(Self { world: world.stand()?, state: Mutex::default() })
    }

    /// Returns the response to `request` at the time `now`.
    pub fn answer(&self, request: &Request<Bytes>, now: SystemTime) -> Answer {
        let call = Call::of(request);
        let request_id = self.state().keys.uuid();
        let fault = self.state().faults.strike(&call.targets());
        let canned = fault.and_then(|fault| match &call {
            Call::Other => None,
            Call::PodIdentity => fault::of_pod_identity(fault, &request_id),
            Call::Sts { form, nameless: _ } => {
                let caller = self.caller_arn(request.headers());
                let role_arn = form.find("RoleArn").unwrap_or("*");
                let target = call.targets().first().copied().unwrap_or(Target::Sts);
                fault::of_sts(fault, target, &caller, role_arn, &request_id)
            }
        });
        let recorded = Recorded { request, request_id: &request_id, now };
        match (canned, fault) {
            (Some(canned), _) => Answer::Response(canned),
            (None, Some(Fault::Hang)) => Answer::Hang,
            (None, Some(Fault::Slow(delay))) => Answer::After(delay, self.serve(&call, &recorded)),
            (None, Some(Fault::CloseMidBody)) => Answer::CloseAfter(self.serve(&call, &recorded)),
            (None, Some(Fault::Malformed)) => {
                Answer::Response(fault::malformed(self.serve(&call, &recorded)))
            }
            (None, Some(Fault::Nameless)) => {
                Answer::Response(self.serve(&call.nameless(), &recorded))
            }
            (None, _) => Answer::Response(self.serve(&call, &recorded)),
        }
    }

    /// Returns the CloudTrail events, oldest first. Calls that a fault failed are not included.
    pub fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    pub fn clear_events(&self) {
        self.state().events.clear();
    }

    /// Publishes the discovery document and the key set of an OIDC provider's issuer. STS reads
    /// both at each call; AWS does not document how long it caches them. Returns false if no
    /// provider has this URL.
    pub fn publish(&self, url: &str, discovery: Value, jwks: Value) -> bool {
        self.world.publish(url, Publication::Documents { discovery, jwks })
    }

    /// Lets STS find nothing at the URL of an OIDC provider's issuer, until
    /// [`publish`](Self::publish) is called. Returns false if no provider has this URL.
    pub fn interrupt(&self, url: &str, outage: Outage) -> bool {
        self.world.publish(url, Publication::None(outage))
    }

    /// Adds `fault` for calls of `target`. If there are several, the oldest active one applies.
    pub fn inject(&self, target: Target, fault: Fault, times: Times) -> Injected {
        self.state().faults.add(target, fault, times)
    }

    pub fn faults(&self) -> Vec<Injected> {
        self.state().faults.list()
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Returns credentials of a role for one hour, as for a service that assumed it, without an
    /// evaluation of policies. Returns None if there is no such role.
    pub fn open_session(&self, role_arn: &str, name: &str, now: SystemTime) -> Option<Credentials> {
        let role = Arc::clone(self.world.roles.get(role_arn)?);
        let name = name.to_owned();
        let tags = Tags::default();
        let session =
            Session { created: now, federated: None, name, role, source_identity: None, tags };
        let expiration = assume_role::expiration(&self.world, 3600, now);
        Some(self.open(Grant { session, expiration }).0)
    }

    /// Tags a role, also for its open sessions. Returns false if there is no such role.
    pub fn tag_role(&self, role_arn: &str, key: &str, value: &str) -> bool {
        let role = self.world.roles.get(role_arn);
        role.inspect(|role| role.tag(key, value)).is_some()
    }

    /// Adds or replaces an inline policy of a role. It applies to all later calls of the role's
    /// sessions, at once; AWS takes up to some minutes.
    pub fn put_role_policy(
        &self,
        role_arn: &str,
        name: &str,
        document: &Value,
    ) -> Result<(), NotAWorld> {
        self.world.put_role_policy(role_arn, name, Some(document))
    }

    pub fn delete_role_policy(&self, role_arn: &str, name: &str) -> Result<(), NotAWorld> {
        self.world.put_role_policy(role_arn, name, None)
    }

    fn serve(&self, call: &Call, recorded: &Recorded<'_>) -> Response<Bytes> {
        match call {
            Call::Other => self.other(recorded),
            Call::PodIdentity => self.pod_identity(recorded),
            Call::Sts { form, nameless } => self.sts(recorded, form, *nameless),
        }
    }

    /// Handles calls of other services. A call with a valid signature gets `{}`, unless a policy
    /// denies the caller all calls; the caller of InvokeModel needs the permission.
    fn other(&self, call: &Recorded<'_>) -> Response<Bytes> {
        let Recorded { request, request_id, now } = *call;
        let caller = self.authenticate(request, None, now);
        let signature = Signature::read(request.headers());
        let service = signature.as_ref().map_or("unknown", |signature| &signature.service);
        let access_key_id = access_key_id(request.headers());
        let who = match &caller {
            Ok(caller) => {
                Who::Session { session: &caller.session, access_key_id: &caller.access_key_id }
            }
            Err(_) => Who::Unknown { access_key_id: access_key_id.as_deref() },
        };
        let model = bedrock::invoked(request).filter(|_| service == "bedrock");
        let outcome = caller.as_ref().map_err(Clone::clone).and_then(|caller| match &model {
            Some(model) => bedrock::decide(&self.world, &caller.session, model),
            None => self.decide_other(&caller.session, service, request),
        });
        let elements = match &outcome {
            Ok(()) => Ok(Value::Null),
            Err(failure) => Err((failure.code.name(Protocol::Json), failure.sentence.as_str())),
        };
        let source = format!("{service}.amazonaws.com");
        let name = model.map_or_else(|| operation_of(request), |_| "InvokeModel".to_owned());
        self.record(call, &source, &name, who, Value::Null, elements);
        match outcome {
            Ok(_) => {
                let body = eks::answer(&self.world, request).filter(|_| service == "eks");
                answer(
                    StatusCode::OK,
                    "application/json",
                    body.unwrap_or_else(|| json!({})).to_string(),
                )
            }
            Err(failure) => failure.response(Protocol::Json, request_id),
        }
    }

    fn decide_other(
        &self,
        caller: &Session,
        service: &str,
        request: &Request<Bytes>,
    ) -> Result<(), Failure> {
        authorization::of_other_action(caller).map_err(|denial| {
            let action = format!("{service}:{}", operation_of(request));
            let reason = (!self.world.terse).then_some(denial);
            authorization::access_denied(&caller.arn(), action, "*", reason)
        })
    }

    fn authenticate(
        &self,
        request: &Request<Bytes>,
        service: Option<&str>,
        now: SystemTime,
    ) -> Result<Authenticated, Failure> {
        let signature = Signature::read(request.headers())?;
        let found = self.state().sessions.find(&signature.access_key_id);
        let (credentials, session) = found.ok_or_else(invalid_client_token_id)?;
        let service = service.unwrap_or(&signature.service);
        signature.verify(request, &credentials, &self.world.region, service, now)?;
        Ok(Authenticated { session, access_key_id: signature.access_key_id })
    }

    fn open(&self, grant: Grant) -> (Credentials, Session) {
        let Grant { session, expiration } = grant;
        let mut state = self.state();
        let State { events: _, faults: _, keys, sessions } = &mut *state;
        (sessions.open(session.clone(), expiration, keys), session)
    }

    fn record(
        &self,
        call: &Recorded<'_>,
        source: &str,
        name: &str,
        who: Who<'_>,
        asked: Value,
        outcome: Result<Value, (&str, &str)>,
    ) {
        let user_agent = call.request.headers().get(USER_AGENT);
        let event = Event {
            at: call.now,
            region: &self.world.region,
            account: &self.world.account,
            source: source.to_owned(),
            name: name.to_owned(),
            who,
            request: asked,
            outcome,
            request_id: call.request_id,
            user_agent: user_agent.and_then(|agent| agent.to_str().ok()),
        };
        let mut state = self.state();
        let event_id = state.keys.uuid();
        state.events.push(event.into_value(&event_id));
    }

    /// Returns the ARN of the caller, for the message of a denial by a fault.
    fn caller_arn(&self, headers: &HeaderMap) -> String {
        let session = access_key_id(headers).and_then(|id| self.state().sessions.find(&id));
        session.map_or_else(|| "anonymous".to_owned(), |(_, session)| session.arn())
    }

    /// Every change is complete when the lock is released, so a poisoned lock is safe.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug)]
struct Authenticated {
    session: Arc<Session>,
    access_key_id: String,
}

/// The parts of a call that its event needs.
#[derive(Clone, Copy, Debug)]
struct Recorded<'a> {
    request: &'a Request<Bytes>,
    request_id: &'a str,
    now: SystemTime,
}

impl Call {
    fn of(request: &Request<Bytes>) -> Self {
        if request.uri().path() == "/v1/credentials" {
            return Self::PodIdentity;
        }
        let form = Form::read(request);
        let headers = request.headers();
        let scoped = Signature::read(headers).is_ok_and(|signature| signature.service == "sts");
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if scoped || host.starts_with("sts.") || Operation::is_asked_by(&form) {
            return Self::Sts { form, nameless: false };
        }
        Self::Other
    }

    /// Returns the call without its source identity.
    fn nameless(self) -> Self {
        match self {
            Self::Sts { form, nameless: _ } => {
                Self::Sts { form: form.without("SourceIdentity"), nameless: true }
            }
            call => call,
        }
    }

    fn targets(&self) -> Vec<Target> {
        match self {
            Self::Other => vec![],
            Self::PodIdentity => vec![Target::PodIdentity],
            Self::Sts { form, nameless: _ } => match form.find("Action") {
                Some("AssumeRole") => vec![Target::AssumeRole, Target::Sts],
                Some("AssumeRoleWithWebIdentity") => {
                    vec![Target::AssumeRoleWithWebIdentity, Target::Sts]
                }
                _ => vec![Target::Sts],
            },
        }
    }
}

fn access_key_id(headers: &HeaderMap) -> Option<String> {
    Signature::read(headers).ok().map(|signature| signature.access_key_id)
}

/// Returns the `Action`, or the part of `X-Amz-Target` after the dot, or method and path.
fn operation_of(request: &Request<Bytes>) -> String {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    if let Some(target) = target {
        return target.rsplit('.').next().unwrap_or(target).to_owned();
    }
    match Form::read(request).find("Action") {
        Some(action) => action.to_owned(),
        None => format!("{} {}", request.method(), request.uri().path()),
    }
}
