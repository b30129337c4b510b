//! Calls of STS: authorization, new sessions, and events.

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::{Aws, Recorded, access_key_id};
use crate::{
    event::{self, Who},
    failure::{Code, Failure, Protocol},
    sts::{self, Form, Operation, assume_role, parameters::Parameters, web_identity},
    tags::Tags,
};

/// The response of a call, and the parts of it in the event.
struct Done {
    operation: Operation,
    result: String,
    elements: Value,
}

impl Aws {
    /// `nameless`: the source identity of a token is ignored. That of a form is not in it.
    pub(super) fn sts(&self, call: &Recorded<'_>, form: &Form, nameless: bool) -> Response<Bytes> {
        let asked = Operation::read(form);
        if asked == Ok(Operation::AssumeRoleWithWebIdentity) {
            return self.web_identity(call, form, nameless);
        }
        let caller = self.authenticate(call.request, Some("sts"), call.now);
        let parameters = Parameters::read(form);
        let outcome = caller.clone().and_then(|caller| match asked? {
            operation @ Operation::AssumeRole => {
                let parameters = parameters.as_ref().map_err(Clone::clone)?;
                let grant =
                    assume_role::decide(&self.world, &caller.session, parameters, call.now)?;
                let (credentials, session) = self.open(grant);
                Ok(Done {
                    operation,
                    result: sts::granted(&credentials, &session),
                    elements: event::given(&credentials, &session),
                })
            }
            operation => {
                let result = sts::caller_identity(&caller.session);
                Ok(Done { operation, result, elements: Value::Null })
            }
        });
        let name = form.find("Action").unwrap_or("Unknown");
        let asked = match name {
            "AssumeRole" => parameters.as_ref().map_or(Value::Null, event::asked),
            _ => Value::Null,
        };
        let access_key_id = access_key_id(call.request.headers());
        let who = match &caller {
            Ok(caller) => {
                Who::Session { session: &caller.session, access_key_id: &caller.access_key_id }
            }
            Err(_) => Who::Unknown { access_key_id: access_key_id.as_deref() },
        };
        self.conclude(call, name, who, asked, outcome)
    }

    fn web_identity(&self, call: &Recorded<'_>, form: &Form, nameless: bool) -> Response<Bytes> {
        let operation = Operation::AssumeRoleWithWebIdentity;
        let mut subject = web_identity::subject(&self.world, form, call.now);
        if nameless && let Ok(subject) = &mut subject {
            subject.claims.source_identity = None;
        }
        // A source identity and tags can only come from the token.
        let (source_identity, tags) = match &subject {
            Ok(subject) => (subject.claims.source_identity.clone(), subject.tags.clone()),
            Err(_) => (None, Tags::default()),
        };
        let parameters = Parameters::read(form).map(|parameters| Parameters {
            source_identity,
            tags,
            ..parameters
        });
        let decide = || {
            let parameters = parameters.as_ref().map_err(Clone::clone)?;
            let subject = subject.as_ref().map_err(Clone::clone)?;
            let grant = web_identity::decide(&self.world, subject, parameters, call.now)?;
            let (credentials, session) = self.open(grant);
            let more = web_identity::elements(subject);
            Ok(Done {
                operation,
                result: sts::granted(&credentials, &session) + &more,
                elements: event::given_to(subject, &credentials, &session),
            })
        };
        let outcome = decide();
        let who = subject.as_ref().map_or(Who::Unknown { access_key_id: None }, Who::WebIdentity);
        let asked = parameters.as_ref().map_or(Value::Null, event::asked);
        self.conclude(call, operation.name(), who, asked, outcome)
    }

    fn conclude(
        &self,
        call: &Recorded<'_>,
        name: &str,
        who: Who<'_>,
        asked: Value,
        outcome: Result<Done, Failure>,
    ) -> Response<Bytes> {
        let elements = match &outcome {
            Ok(done) => Some(Ok(done.elements.clone())),
            // CloudTrail has no event of such a call.
            // https://repost.aws/knowledge-center/iam-sts-invalididentitytoken
            Err(failure) if failure.code == Code::InvalidIdentityToken => None,
            Err(failure) => {
                let is_web_identity = name == Operation::AssumeRoleWithWebIdentity.name();
                let sentence = match failure.code {
                    Code::AccessDenied if is_web_identity => UNKNOWN_ERROR,
                    _ => failure.sentence.as_str(),
                };
                Some(Err((failure.code.name(Protocol::Query), sentence)))
            }
        };
        if let Some(elements) = elements {
            self.record(call, "sts.amazonaws.com", name, who, asked, elements);
        }
        match outcome {
            Ok(Done { operation, result, elements: _ }) => {
                operation.response(&result, call.request_id)
            }
            Err(failure) => failure.response(Protocol::Query, call.request_id),
        }
    }
}

/// The message that CloudTrail has for each denial of AssumeRoleWithWebIdentity, as published by
/// users of AWS. The response has another.
const UNKNOWN_ERROR: &str = "An unknown error occurred";
