//! AssumeRoleWithWebIdentity: a token starts a session. The call is not signed.
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>

use std::time::SystemTime;

use super::{
    Form,
    assume_role::{Grant, check_role_arn, expiration},
    parameters::Parameters,
};
use crate::{
    arn::RoleArn,
    authorization::of_other,
    failure::{Code, Failure, escaped},
    policy::{Action, Caller, Context, Key},
    provider::Outage,
    session::Session,
    tags::Tags,
    tokens::{Claims, Disbelief, Token},
    world::StandingWorld,
};

/// The subject of the call's token.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) claims: Claims,
    /// The URL of the issuer without `https://`, as in condition keys.
    pub(crate) issuer: String,
    /// The ARN of the provider.
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
    let token = Token::read(token).map_err(refused)?;
    let issuer = token.issuer().ok_or_else(|| refused(Disbelief::Missing("iss")))?;
    // The provider is in the account of the role.
    // https://repost.aws/knowledge-center/iam-oidc-idp-federation
    let role = form.find("RoleArn").and_then(|role| role.parse::<RoleArn>().ok());
    let account = role.as_ref().map_or(&*world.account, RoleArn::account);
    let Some(provider) = world.provider(account, issuer) else {
        return Err(refused(Disbelief::Issuer(issuer.to_owned())));
    };
    let published = world.fetch(&provider.url).map_err(|outage| match outage {
        Outage::Missing => refused(Disbelief::UnknownKey),
        Outage::Unreachable => Failure::new(
            Code::IdpCommunicationError,
            "The request could not be fulfilled because the identity provider (IDP) that was \
             asked to verify the incoming identity token could not be reached.",
        ),
    })?;
    let (algorithms, keys) = (&published.algorithms, &published.keys);
    let claims =
        Claims::read(&token, &provider.client_ids, algorithms, keys, now).map_err(refused)?;
    Ok(Subject { claims, issuer: provider.name().to_owned(), provider: provider.arn() })
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
    let Subject { claims, issuer, provider } = subject;
    let mut context = Context::default();
    context.set(Key::RoleSessionName, &parameters.role_session_name);
    context.set(Key::TokenAudience(issuer.clone()), &claims.audience);
    context.set(Key::TokenSubject(issuer.clone()), &claims.subject);
    let caller = Caller::Federated(provider);
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

/// Returns the elements that AssumeRole does not return. AWS's page says that the provider is the
/// claim `iss`; AWS returns the ARN, as its example of an event shows.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/cloudtrail-integration.html>
pub(crate) fn elements(subject: &Subject) -> String {
    let Subject { claims, issuer: _, provider } = subject;
    format!(
        "    <SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken>\n    \
         <Audience>{}</Audience>\n    <Provider>{}</Provider>\n",
        escaped(&claims.subject),
        escaped(&claims.audience),
        escaped(provider),
    )
}

/// Returns the error of an invalid token. The messages are those that radkawar/stackd got from AWS.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors>
fn refused(disbelief: Disbelief) -> Failure {
    let code = match disbelief {
        Disbelief::Expired { .. } => Code::ExpiredWebIdentity,
        _ => Code::InvalidIdentityToken,
    };
    let sentence = match disbelief {
        Disbelief::Audience | Disbelief::Signature => {
            "The web identity token provided could not be validated. See the \
             AssumeRoleWithWebIdentity documentation for requirements."
                .to_owned()
        }
        Disbelief::Empty(claim) => format!("Claim is not allowed to be empty: {claim}"),
        Disbelief::Expired { at, now } => format!(
            "Token expired: current date/time {now} must be before the expiration date/time {at}"
        ),
        Disbelief::Future(at) => format!("Token issued in the future: {at}"),
        Disbelief::Issuer(issuer) => {
            format!("No OpenIDConnect provider found in your account for {issuer}")
        }
        Disbelief::Missing(claim) => format!("Missing a required claim: {claim}"),
        Disbelief::NotAToken => "The ID Token provided is not a valid JWT. (You may see this \
                                 error if you sent an Access Token)"
            .to_owned(),
        Disbelief::NotYet { at, now } => format!(
            "Token not yet valid: current date/time {now} must be after or equal to the \
             not-before date/time {at}"
        ),
        Disbelief::SecondAudience => "Token audience contains more than one audience while \
                                      authorized party is not present"
            .to_owned(),
        Disbelief::Timestamp => "Invalid timestamp in token claims.".to_owned(),
        // AWS has two spaces here.
        Disbelief::UnknownKey => "Couldn't retrieve verification key from your identity \
                                  provider,  please reference AssumeRoleWithWebIdentity \
                                  documentation for requirements"
            .to_owned(),
    };
    Failure::new(code, sentence)
}
