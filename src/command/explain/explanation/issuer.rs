//! What the session issuer would answer the sidecar of a pod.

use serde::Serialize;
use serde_json::{Value, value::to_raw_value};

use super::SeenByIssuer;
use crate::{
    admission,
    check::Seen,
    config::Config,
    issuer::{CallerPod, TokenFacts, TokenRefusal, decide, tenant_of},
    json::Json,
    namespaces::Namespace,
    roles::Roles,
    session::env,
};

/// The answer of the session issuer. The fields that do not belong to it are `null`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssuerAnswer {
    /// `token`, `refusal` or `unknown`.
    pub(super) answer: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) message: Option<String>,
    pub(super) source_identity: Option<String>,
    pub(super) role_arn: Option<String>,
}

impl IssuerAnswer {
    /// Decides on a stored pod. `None`: its sidecar does not ask the issuer.
    pub(super) fn of(
        pod: &Value,
        namespace: &Namespace,
        roles: &Roles,
        config: &Config,
        seen: &SeenByIssuer,
    ) -> Option<Self> {
        let SeenByIssuer { guard_since, sandbox } = seen;
        let issuer = config.issuer.as_ref()?;
        // A parsed pod can be written as JSON.
        let pod = to_raw_value(pod).ok()?;
        let pod = Json::from(&*pod);
        admission::sidecar_variable(pod, env::ISSUER)?;
        let facts = TokenFacts::of_pod(pod)?;
        let since = match guard_since {
            Seen::Known(since) => *since,
            Seen::Hidden(_) => None,
        };
        let session = match sandbox {
            Some(Seen::Known(session)) => session.clone().map(Some),
            Some(Seen::Hidden(_)) | None => Ok(None),
        };
        let decided = tenant_of(&facts, Some(namespace)).and_then(|tenant| {
            let pod = CallerPod::of(&facts, Some(pod), issuer)?;
            decide(&facts, tenant, &pod, roles, since, session?)
        });
        let none = Self {
            answer: "unknown",
            code: None,
            message: None,
            source_identity: None,
            role_arn: None,
        };
        if let Some(Seen::Hidden(why)) = &seen.sandbox {
            let message = format!("cannot read the Sandbox of the pod, or its guard: {why}");
            return Some(Self { message: Some(message), ..none });
        }
        Some(match (decided, guard_since) {
            (Ok(grant), _) => Self {
                answer: "token",
                source_identity: Some(grant.identity.to_string()),
                role_arn: Some(grant.role.to_string()),
                ..none
            },
            (Err(TokenRefusal::GuardMissing), Seen::Hidden(why)) => {
                let message = format!("cannot read the guard's binding: {why}");
                Self { message: Some(message), ..none }
            }
            // The issuer has other AWS credentials.
            (Err(TokenRefusal::RoleUnavailable { place, .. }), _) => {
                let message = format!("this shell cannot read {place}; the issuer may have a role");
                Self { message: Some(message), ..none }
            }
            (Err(refusal), _) => Self {
                answer: "refusal",
                code: Some(refusal.code()),
                message: Some(refusal.to_string()),
                ..none
            },
        })
    }

    pub(super) fn is_refusal(&self) -> bool {
        // A pod of a pool waits for its claim.
        self.answer == "refusal" && self.code != Some("unbound")
    }

    pub(super) fn text(&self) -> String {
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        let message = of(&self.message);
        match (self.answer, self.code) {
            ("token", _) => format!(
                "gives a token for {} and {}",
                of(&self.source_identity),
                of(&self.role_arn)
            ),
            (_, Some(code)) => format!("refuses a token [{code}]: {message}"),
            (_, None) => format!("unknown: {message}"),
        }
    }
}
