//! InvokeModel of Bedrock: only the policies are evaluated, there are no models.
//! <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html>

use bytes::Bytes;
use http::{Method, Request};

use crate::{
    authorization::{access_denied, context_of, of_caller},
    failure::Failure,
    policy::{Action, Context, Key},
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

/// Returns an error if the caller may not invoke the model. An id is that of a foundation model or
/// of a system-defined inference profile; all others are named by ARN.
///
/// A call of a profile needs permission for the profile, and for its model in each region to which
/// it routes; these permissions have the condition key `bedrock:InferenceProfileArn`.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonbedrock.html>
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-prereq.html>
pub(crate) fn decide(world: &StandingWorld, caller: &Session, model: &str) -> Result<(), Failure> {
    let region = &world.region;
    let profile = model.split_once('.').filter(|(start, _)| GEOGRAPHIES.contains(start));
    let Some((_, routed_to)) = profile else {
        let resource = match model {
            arn if arn.starts_with("arn:") => arn.to_owned(),
            id => format!("arn:aws:bedrock:{region}::foundation-model/{id}"),
        };
        return may_invoke(world, caller, &resource, &context_of(caller));
    };
    let account = caller.role.arn.account();
    let profile = format!("arn:aws:bedrock:{region}:{account}:inference-profile/{model}");
    may_invoke(world, caller, &profile, &context_of(caller))?;
    let mut context = context_of(caller);
    context.set(Key::InferenceProfileArn, profile);
    for region in [region, OTHER_REGION] {
        let resource = format!("arn:aws:bedrock:{region}::foundation-model/{routed_to}");
        may_invoke(world, caller, &resource, &context)?;
    }
    Ok(())
}

fn may_invoke(
    world: &StandingWorld,
    caller: &Session,
    resource: &str,
    context: &Context,
) -> Result<(), Failure> {
    let action = Action::InvokeModel;
    of_caller(caller, resource, action, context).map_err(|denial| {
        access_denied(&caller.arn(), action, resource, (!world.terse).then_some(denial))
    })
}

/// First parts of the ids of the profiles that exist here.
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html>
const GEOGRAPHIES: [&str; 3] = ["eu", "global", "us"];
/// A region besides the world's to which each profile routes.
const OTHER_REGION: &str = "eu-north-1";
