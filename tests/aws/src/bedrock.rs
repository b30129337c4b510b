//! InvokeModel of Bedrock: only the policies are evaluated, there are no models.
//! <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html>

use bytes::Bytes;
use http::{Method, Request};

use crate::{
    authorization::{access_denied, context_of, of_caller},
    failure::Failure,
    policy::Action,
    session::Session,
    world::StandingWorld,
};

/// Returns the model of an InvokeModel request.
pub(crate) fn invoked(request: &Request<Bytes>) -> Option<String> {
    if request.method() != Method::POST {
        return None;
    }
    let model = request.uri().path().strip_prefix("/model/")?.strip_suffix("/invoke")?;
    // A model ID has no character that a form would decode differently.
    form_urlencoded::parse(model.as_bytes()).next().map(|(model, _)| model.into_owned())
}

/// Returns the ARN of a model. An ID is that of a foundation model; all others are named by ARN.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonbedrock.html>
pub(crate) fn decide(world: &StandingWorld, caller: &Session, model: &str) -> Result<(), Failure> {
    let resource = match model {
        arn if arn.starts_with("arn:") => arn.to_owned(),
        id => format!("arn:aws:bedrock:{}::foundation-model/{id}", world.region),
    };
    let action = Action::InvokeModel;
    of_caller(caller, &resource, action, &context_of(caller)).map_err(|denial| {
        access_denied(&caller.arn(), action, &resource, (!world.terse).then_some(denial))
    })
}
