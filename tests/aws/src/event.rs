//! Events as CloudTrail shows them. An event never contains a secret.
//! <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference.html>

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::{
    moment,
    session::{Credentials, Session},
    sts::{parameters::Parameters, web_identity::Subject},
    tags::Tags,
};

/// One call.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) at: SystemTime,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    pub(crate) source: String,
    pub(crate) name: String,
    pub(crate) who: Who<'a>,
    pub(crate) request: Value,
    /// Response elements, or an error code and its message.
    pub(crate) outcome: Result<Value, (&'a str, &'a str)>,
    pub(crate) request_id: &'a str,
    pub(crate) user_agent: Option<&'a str>,
}

/// The caller.
/// <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-user-identity.html>
#[derive(Debug)]
pub(crate) enum Who<'a> {
    Service(&'a str),
    Session { session: &'a Session, access_key_id: &'a str },
    Unknown { access_key_id: Option<&'a str> },
    WebIdentity(&'a Subject),
}

impl Event<'_> {
    pub(crate) fn into_value(self, event_id: &str) -> Value {
        let Self {
            at,
            region,
            account,
            source,
            name,
            who,
            request,
            outcome,
            request_id,
            user_agent,
        } = self;
        let mut event = json!({
            "awsRegion": region,
            "eventCategory": "Management",
            "eventID": event_id,
            "eventName": name,
            "eventSource": source,
            "eventTime": moment::extended(at),
            "eventType": "AwsApiCall",
            "eventVersion": "1.11",
            "recipientAccountId": account,
            "requestID": request_id,
            "requestParameters": request,
            "responseElements": null,
            "userAgent": user_agent,
            "userIdentity": who.identity(),
        });
        match outcome {
            Ok(elements) => event["responseElements"] = elements,
            Err((code, sentence)) => {
                event["errorCode"] = code.into();
                event["errorMessage"] = sentence.into();
            }
        }
        event
    }
}

impl Who<'_> {
    fn identity(&self) -> Value {
        match self {
            Self::Service(service) => json!({"type": "AWSService", "invokedBy": service}),
            Self::Session { session, access_key_id } => {
                let mut context = json!({
                    "sessionIssuer": {
                        "type": "Role",
                        "principalId": session.role.id,
                        "arn": session.role.arn.as_str(),
                        "accountId": session.role.arn.account(),
                        "userName": session.role.arn.name(),
                    },
                    "attributes": {
                        "creationDate": moment::extended(session.created),
                        "mfaAuthenticated": "false",
                    },
                });
                if let Some(identity) = &session.source_identity {
                    context["sourceIdentity"] = identity.as_str().into();
                }
                if let Some(provider) = &session.federated {
                    context["webIdFederationData"] =
                        json!({"federatedProvider": provider, "attributes": {}});
                }
                json!({
                    "type": "AssumedRole",
                    "principalId": session.principal_id(),
                    "arn": session.arn(),
                    "accountId": session.role.arn.account(),
                    "accessKeyId": access_key_id,
                    "sessionContext": context,
                })
            }
            Self::Unknown { access_key_id } => {
                json!({"type": "Unknown", "accessKeyId": access_key_id})
            }
            Self::WebIdentity(Subject { claims, issuer: _, provider, tags: _ }) => json!({
                "type": "WebIdentityUser",
                "principalId": format!("{provider}:{}:{}", claims.audience, claims.subject),
                "userName": claims.subject,
                "identityProvider": provider,
            }),
        }
    }
}

/// Returns the request parameters of a call that assumes a role.
pub(crate) fn asked(parameters: &Parameters) -> Value {
    let Parameters {
        role_arn,
        role_session_name,
        duration_seconds,
        source_identity,
        external_id,
        tags,
    } = parameters;
    let mut asked = json!({"roleArn": role_arn, "roleSessionName": role_session_name});
    if let Some(seconds) = duration_seconds {
        asked["durationSeconds"] = (*seconds).into();
    }
    if let Some(identity) = source_identity {
        asked["sourceIdentity"] = identity.as_str().into();
    }
    if let Some(external_id) = external_id {
        asked["externalId"] = external_id.as_str().into();
    }
    add_tags(&mut asked, tags);
    asked
}

pub(crate) fn add_tags(asked: &mut Value, tags: &Tags) {
    if tags.is_empty() {
        return;
    }
    let pairs: Map<String, Value> =
        tags.iter().map(|tag| (tag.key.clone(), tag.value.as_str().into())).collect();
    let transitive: Vec<&str> =
        tags.iter().filter(|tag| tag.transitive).map(|tag| tag.key.as_str()).collect();
    asked["principalTags"] = pairs.into();
    asked["transitiveTagKeys"] = transitive.into();
}

/// Returns the response elements: access key, expiration and session.
pub(crate) fn given(credentials: &Credentials, session: &Session) -> Value {
    let mut given = json!({
        "credentials": {
            "accessKeyId": credentials.access_key_id,
            "expiration": moment::extended(credentials.expiration),
        },
        "assumedRoleUser": {
            "assumedRoleId": session.principal_id(),
            "arn": session.arn(),
        },
    });
    if let Some(identity) = &session.source_identity {
        given["sourceIdentity"] = identity.as_str().into();
    }
    given
}

/// Returns the response elements of a call with a web identity token.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/cloudtrail-integration.html#cloudtrail-integration_examples-sts-api>
pub(crate) fn given_to(subject: &Subject, credentials: &Credentials, session: &Session) -> Value {
    let Subject { claims, issuer: _, provider, tags: _ } = subject;
    let mut given = given(credentials, session);
    given["audience"] = claims.audience.as_str().into();
    given["provider"] = provider.as_str().into();
    given["subjectFromWebIdentityToken"] = claims.subject.as_str().into();
    given
}
