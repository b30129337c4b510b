//! The Query protocol of STS: forms as requests, XML as responses.
//! <https://docs.aws.amazon.com/STS/latest/APIReference/Welcome.html>

pub(crate) mod assume_role;
pub(crate) mod parameters;
mod requested_tags;
pub(crate) mod web_identity;

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::{
    failure::{Code, Failure, NAMESPACE, answer, escaped},
    moment,
    session::{Credentials, Session},
};

/// Parameters of a call, in their original order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    AssumeRole,
    AssumeRoleWithWebIdentity,
    GetCallerIdentity,
}

impl Form {
    /// Reads the body, or the query if there is no body.
    pub(crate) fn read(request: &Request<Bytes>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let bytes =
            if request.body().is_empty() { query.as_bytes() } else { request.body().as_ref() };
        Self(form_urlencoded::parse(bytes).into_owned().collect())
    }

    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(found, _)| found != name);
        self
    }

    /// Returns the values of `Name.member.1`, `Name.member.2` and so on, each with the suffix.
    pub(crate) fn members(&self, name: &str, suffix: &str) -> Vec<Option<&str>> {
        let is_there = |index: &usize| {
            let prefix = format!("{name}.member.{index}");
            self.0.iter().any(|(found, _)| {
                found
                    .strip_prefix(&prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        (1..)
            .take_while(is_there)
            .map(|index| self.find(&format!("{name}.member.{index}{suffix}")))
            .collect()
    }
}

impl Operation {
    pub(crate) fn read(form: &Form) -> Result<Self, Failure> {
        let action = form.find("Action").unwrap_or_default();
        let version = form.find("Version").unwrap_or_default();
        let named = Self::ALL.into_iter().find(|operation| operation.name() == action);
        named.filter(|_| version == "2011-06-15").ok_or_else(|| {
            Failure::new(
                Code::InvalidAction,
                format!("Could not find operation {action} for version {version}"),
            )
        })
    }

    /// Returns whether the form is an operation of STS.
    pub(crate) fn is_asked_by(form: &Form) -> bool {
        let action = form.find("Action").unwrap_or_default();
        Self::ALL.into_iter().any(|operation| operation.name() == action)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AssumeRole => "AssumeRole",
            Self::AssumeRoleWithWebIdentity => "AssumeRoleWithWebIdentity",
            Self::GetCallerIdentity => "GetCallerIdentity",
        }
    }

    const ALL: [Self; 3] =
        [Self::AssumeRole, Self::AssumeRoleWithWebIdentity, Self::GetCallerIdentity];

    /// Returns the response of a successful call.
    pub(crate) fn response(self, result: &str, request_id: &str) -> Response<Bytes> {
        let name = self.name();
        let mut response = answer(
            StatusCode::OK,
            "text/xml",
            format!(
                "<{name}Response xmlns=\"{NAMESPACE}\">\n  <{name}Result>\n{result}  \
                 </{name}Result>\n  <ResponseMetadata>\n    <RequestId>{request_id}</RequestId>\n  \
                 </ResponseMetadata>\n</{name}Response>\n"
            ),
        );
        if let Ok(id) = request_id.parse() {
            response.headers_mut().insert("x-amzn-requestid", id);
        }
        response
    }
}

/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>
pub(crate) fn caller_identity(session: &Session) -> String {
    format!(
        "    <Arn>{}</Arn>\n    <UserId>{}</UserId>\n    <Account>{}</Account>\n",
        escaped(&session.arn()),
        escaped(&session.principal_id()),
        session.role.arn.account()
    )
}

/// Returns the elements that both calls that assume a role return.
pub(crate) fn granted(credentials: &Credentials, session: &Session) -> String {
    let identity = session.source_identity.as_deref().map(escaped);
    let identity = identity
        .map(|identity| format!("    <SourceIdentity>{identity}</SourceIdentity>\n"))
        .unwrap_or_default();
    format!(
        "    <AssumedRoleUser>\n      <AssumedRoleId>{}</AssumedRoleId>\n      \
         <Arn>{}</Arn>\n    </AssumedRoleUser>\n    <Credentials>\n      \
         <AccessKeyId>{}</AccessKeyId>\n      <SecretAccessKey>{}</SecretAccessKey>\n      \
         <SessionToken>{}</SessionToken>\n      <Expiration>{}</Expiration>\n    \
         </Credentials>\n{identity}",
        escaped(&session.principal_id()),
        escaped(&session.arn()),
        credentials.access_key_id,
        credentials.secret_access_key,
        credentials.session_token,
        moment::extended(credentials.expiration),
    )
}
