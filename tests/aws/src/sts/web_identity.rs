//! AssumeRoleWithWebIdentity: a token starts a session. The call is not signed.
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>

use std::time::SystemTime;

use super::{
    Form,
    assume_role::{Grant, check_role_arn, expiration},
    parameters::{Broken, Parameters},
    requested_tags,
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
    pub(crate) tags: Tags,
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
    let mut broken = Broken::default();
    broken.source_identity(claims.source_identity.as_deref());
    broken.into_failure().map_err(|_| refused(Disbelief::SourceIdentity))?;
    let pairs: Vec<_> =
        claims.tags.iter().map(|(key, value)| (Some(&**key), Some(&**value))).collect();
    let transitive: Vec<_> = claims.transitive_tag_keys.iter().map(String::as_str).collect();
    let tags = requested_tags::check(&pairs, &transitive)?;
    Ok(Subject { claims, issuer: provider.name().to_owned(), provider: provider.arn(), tags })
}

pub(crate) fn decide(
    world: &StandingWorld,
    subject: &Subject,
    parameters: &Parameters,
    now: SystemTime,
) -> Result<Grant, Failure> {
    let Subject { claims, issuer, provider, tags } = subject;
    check_role_arn(&parameters.role_arn)?;
    // The claim limits the token before the role is known.
    let is_other = |roles: &Vec<String>| !roles.contains(&parameters.role_arn);
    if claims.roles.as_ref().is_some_and(is_other) {
        return Err(refused(Disbelief::OtherRole));
    }
    let role = world.roles.get(&parameters.role_arn);
    let role = role.ok_or_else(|| not_authorized(Action::AssumeRoleWithWebIdentity))?;
    let seconds = parameters.duration_seconds.unwrap_or(3600);
    if seconds > role.max_session_duration {
        return Err(Failure::new(
            Code::ValidationError,
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ));
    }
    let packed = packed_percentage(subject);
    if packed > 100 {
        return Err(Failure::new(
            Code::PackedPolicyTooLarge,
            format!("Packed size of session tags consumes {packed}% of allotted space."),
        ));
    }
    let mut context = Context::default();
    context.set(Key::RoleSessionName, &parameters.role_session_name);
    context.set(Key::TokenAudience(issuer.clone()), &claims.audience);
    context.set(Key::TokenSubject(issuer.clone()), &claims.subject);
    context.set_all(Key::TokenMethods(issuer.clone()), claims.methods.clone());
    context.set(Key::RoleAuthorizedByIdp, claims.roles.is_some().to_string());
    if let Some(identity) = &claims.source_identity {
        context.set(Key::RequestedSourceIdentity, identity);
    }
    context.set_requested_tags(tags);
    let actions = [
        Some(Action::AssumeRoleWithWebIdentity),
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html#id_credentials_temp_control-access_monitor-perms
        claims.source_identity.is_some().then_some(Action::SetSourceIdentity),
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html#id_session-tags_permissions-required
        (!tags.is_empty()).then_some(Action::TagSession),
    ];
    // The call is not signed, so there is no identity whose policies would be evaluated.
    let caller = Caller::Federated(provider);
    for action in actions.into_iter().flatten() {
        of_other(&caller, role, action, &context).map_err(|_| not_authorized(action))?;
    }
    let session = Session {
        created: now,
        federated: Some(provider.clone()),
        name: parameters.role_session_name.clone(),
        role: role.clone(),
        source_identity: claims.source_identity.clone(),
        tags: tags.clone(),
    };
    Ok(Grant { session, expiration: expiration(world, seconds, now) })
}

/// Returns the elements that AssumeRole does not return. AWS's page says that the provider is the
/// claim `iss`; AWS returns the ARN, as its example of an event shows.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/cloudtrail-integration.html>
pub(crate) fn elements(subject: &Subject) -> String {
    let Subject { claims, issuer: _, provider, tags: _ } = subject;
    format!(
        "    <PackedPolicySize>{}</PackedPolicySize>\n    \
         <SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken>\n    \
         <Audience>{}</Audience>\n    <Provider>{}</Provider>\n",
        packed_percentage(subject),
        escaped(&claims.subject),
        escaped(&claims.audience),
        escaped(provider),
    )
}

/// Returns the part of the space for session policies and tags that the call takes, in percent.
///
/// AWS does not document the algorithm. This estimate agrees with what radkawar/stackd measured: 24
/// for a subject of 0 or 1 characters, 25 for 13, 34 for 300; for 13, 26 with a source identity of
/// 12, and 25 with one tag of 15.
fn packed_percentage(subject: &Subject) -> usize {
    let Subject { claims, issuer: _, provider: _, tags } = subject;
    let identity = claims.source_identity.as_ref().map_or(0, |identity| 14 + identity.len());
    let tags: usize = tags.iter().map(|tag| 8 + tag.key.len() + tag.value.len()).sum();
    (741 + claims.subject.len() + identity + tags) / 30
}

pub(crate) fn not_authorized(action: Action) -> Failure {
    Failure::new(Code::AccessDenied, format!("Not authorized to perform {action}"))
}

/// Returns the error of an invalid token. The messages are those that radkawar/stackd got from AWS.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors>
fn refused(disbelief: Disbelief) -> Failure {
    let code = match disbelief {
        Disbelief::Expired { .. } => Code::ExpiredWebIdentity,
        Disbelief::TagsInClaims => Code::NotImplemented,
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
        Disbelief::NoRole => "The roles claim contains no valid role ARNs".to_owned(),
        Disbelief::NotAToken => "The ID Token provided is not a valid JWT. (You may see this \
                                 error if you sent an Access Token)"
            .to_owned(),
        Disbelief::NotYet { at, now } => format!(
            "Token not yet valid: current date/time {now} must be after or equal to the \
             not-before date/time {at}"
        ),
        Disbelief::OtherRole => {
            "The target role ARN is not present in the roles claim of the identity token".to_owned()
        }
        Disbelief::PrincipalTags => {
            "principal_tags passed in claim is not in correct format.".to_owned()
        }
        Disbelief::Roles => "The roles claim is not in a supported format".to_owned(),
        Disbelief::SecondAudience => "Token audience contains more than one audience while \
                                      authorized party is not present"
            .to_owned(),
        // Invented.
        Disbelief::SourceIdentity => "The source identity claim is invalid.".to_owned(),
        Disbelief::Tags => "Session tags passed in claim are not in correct format.".to_owned(),
        Disbelief::TagsInClaims => {
            "one claim for each tag is not supported by the AWS stand-in".to_owned()
        }
        Disbelief::Timestamp => "Invalid timestamp in token claims.".to_owned(),
        // AWS has two spaces here.
        Disbelief::UnknownKey => "Couldn't retrieve verification key from your identity \
                                  provider,  please reference AssumeRoleWithWebIdentity \
                                  documentation for requirements"
            .to_owned(),
    };
    Failure::new(code, sentence)
}
