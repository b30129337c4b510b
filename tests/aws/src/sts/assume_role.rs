//! AssumeRole: a session of one role starts a session of another role.
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>

use std::time::{Duration, SystemTime};

use super::{parameters::Parameters, requested_tags::invalid_parameter};
use crate::{
    arn::RoleArn,
    authorization::{access_denied, context_of, of_session},
    failure::{Code, Failure},
    moment,
    policy::{Action, Key},
    session::Session,
    world::StandingWorld,
};

/// An allowed session and its expiration.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) session: Session,
    pub(crate) expiration: SystemTime,
}

pub(crate) fn decide(
    world: &StandingWorld,
    caller: &Session,
    parameters: &Parameters,
    now: SystemTime,
) -> Result<Grant, Failure> {
    let Parameters {
        role_arn,
        role_session_name,
        duration_seconds,
        source_identity,
        external_id,
        tags,
    } = parameters;
    check_role_arn(role_arn)?;
    let arn = caller.arn();
    let Some(role) = world.roles.get(role_arn) else {
        // The error is the same whether or not the role exists.
        return Err(access_denied(&arn, Action::AssumeRole, role_arn, None));
    };
    // Every caller is a role session, so every call is role chaining.
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining
    let seconds = duration_seconds.unwrap_or(3600);
    if seconds > 3600 {
        return Err(Failure::new(
            Code::ValidationError,
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by \
             role chaining.",
        ));
    }
    // A source identity is inherited, and cannot be changed.
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html#id_credentials_temp_control-access_monitor-chain
    let identity = match (&caller.source_identity, source_identity) {
        (Some(held), Some(asked)) if held != asked => {
            return Err(access_denied(&arn, Action::SetSourceIdentity, role_arn, None));
        }
        (Some(held), _) => Some(held.clone()),
        (None, asked) => asked.clone(),
    };
    let inherited = caller.tags.transitive();
    if tags.iter().any(|tag| inherited.find(&tag.key).is_some()) {
        return Err(invalid_parameter(
            "One of the specified transitive tag keys can't be set because it conflicts with a \
             transitive tag key from the calling session.",
        ));
    }

    let mut context = context_of(caller);
    context.set(Key::RoleSessionName, role_session_name);
    if let Some(external_id) = external_id {
        context.set(Key::ExternalId, external_id);
    }
    if let Some(identity) = &identity {
        context.set(Key::RequestedSourceIdentity, identity);
    }
    context.set_requested_tags(tags);
    let actions = [
        Some(Action::AssumeRole),
        identity.is_some().then_some(Action::SetSourceIdentity),
        // Required for inherited tags too.
        // https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html
        (!tags.is_empty() || !inherited.is_empty()).then_some(Action::TagSession),
    ];
    for action in actions.into_iter().flatten() {
        of_session(caller, role, action, &context).map_err(|denial| {
            access_denied(&arn, action, role_arn, (!world.terse).then_some(denial))
        })?;
    }

    let session = Session {
        created: now,
        federated: None,
        name: role_session_name.clone(),
        role: role.clone(),
        source_identity: identity,
        tags: tags.iter().chain(inherited.iter()).cloned().collect(),
    };
    Ok(Grant { session, expiration: expiration(world, seconds, now) })
}

pub(crate) fn expiration(world: &StandingWorld, seconds: u64, now: SystemTime) -> SystemTime {
    let granted = world.session_seconds.unwrap_or(seconds);
    moment::whole_seconds(now) + Duration::from_secs(granted)
}

pub(super) fn check_role_arn(role_arn: &str) -> Result<(), Failure> {
    match role_arn.parse::<RoleArn>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(Code::ValidationError, format!("{role_arn} is invalid"))),
    }
}
