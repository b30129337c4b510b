//! AssumeRoleWithWebIdentity: a token starts a session. The call is not signed.
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>

use std::time::SystemTime;

use super::{
    Form,
    assume_role::{Grant, check_role_arn, expiration},
    parameters::Parameters,
};
use crate::{
    authorization::of_other,
    failure::{Code, Failure, escaped},
    policy::{Action, Caller, Context, Key},
    session::Session,
    tags::Tags,
    tokens::{Claims, Disbelief, believe},
    world::{StandingCluster, StandingWorld},
};

/// The subject of the call's token.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) claims: Claims,
    pub(crate) provider: String,
}

/// Returns the subject of the call's token.
pub(crate) fn subject(
    world: &StandingWorld,
    form: &Form,
    now: SystemTime,
) -> Result<Subject, Failure> {
    let token = form.find("WebIdentityToken").ok_or_else(|| {
        Failure::new(
            Code::ValidationError,
            "1 validation error detected: Value null at 'webIdentityToken' failed to satisfy \
             constraint: Member must not be null",
        )
    })?;
    let Some(cluster) = &world.cluster else {
        return Err(no_provider("the token's issuer"));
    };
    let claims = believe(token, &cluster.issuer, &cluster.keys, AUDIENCE, now).map_err(refused)?;
    Ok(Subject { claims, provider: world.provider_arn(cluster) })
}

pub(crate) fn decide(
    world: &StandingWorld,
    subject: &Subject,
    parameters: &Parameters,
    now: SystemTime,
) -> Result<Grant, Failure> {
    let not_authorized = || {
        let action = Action::AssumeRoleWithWebIdentity;
        Failure::new(Code::AccessDenied, format!("Not authorized to perform {action}"))
    };
    check_role_arn(&parameters.role_arn)?;
    let role = world.roles.get(&parameters.role_arn).ok_or_else(not_authorized)?;
    let seconds = parameters.duration_seconds.unwrap_or(3600);
    if seconds > role.max_session_duration {
        return Err(Failure::new(
            Code::ValidationError,
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ));
    }
    let mut context = Context::default();
    context.set(Key::RoleSessionName, &parameters.role_session_name);
    context.set(Key::TokenAudience, &subject.claims.audience);
    context.set(Key::TokenSubject, &subject.claims.subject);
    let caller = Caller::Federated(&subject.provider);
    of_other(&caller, role, Action::AssumeRoleWithWebIdentity, &context)
        .map_err(|_| not_authorized())?;
    let session = Session {
        created: now,
        name: parameters.role_session_name.clone(),
        role: role.clone(),
        source_identity: None,
        tags: Tags::default(),
    };
    Ok(Grant { session, expiration: expiration(world, seconds, now) })
}

/// Returns the elements that AssumeRole does not return.
pub(crate) fn elements(subject: &Subject, cluster: Option<&StandingCluster>) -> String {
    format!(
        "    <SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken>\n    \
         <Audience>{}</Audience>\n    <Provider>{}</Provider>\n",
        escaped(&subject.claims.subject),
        escaped(&subject.claims.audience),
        escaped(cluster.map_or("", |cluster| cluster.provider())),
    )
}

/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors>
fn refused(disbelief: Disbelief) -> Failure {
    let invalid = |sentence: &str| Failure::new(Code::InvalidIdentityToken, sentence);
    match disbelief {
        Disbelief::Audience => invalid("Incorrect token audience"),
        Disbelief::Expired { at, now } => Failure::new(
            Code::ExpiredWebIdentity,
            format!(
                "Token expired: current date/time {now} must be before the expiration date/time \
                 {at}"
            ),
        ),
        Disbelief::Issuer(issuer) => no_provider(&issuer),
        Disbelief::NotAToken => invalid("The ID Token provided is not a valid JWT."),
        Disbelief::NotYet => invalid("The token is not valid yet"),
        Disbelief::Signature => invalid("The signature of the token is invalid"),
        Disbelief::UnknownKey => invalid(
            "Couldn't retrieve verification key from your identity provider, please reference \
             AssumeRoleWithWebIdentity documentation for requirements",
        ),
    }
}

fn no_provider(issuer: &str) -> Failure {
    Failure::new(
        Code::InvalidIdentityToken,
        format!("No OpenIDConnect provider found in your account for {issuer}"),
    )
}

const AUDIENCE: &str = "sts.amazonaws.com";
