//! Calls of pods for credentials.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use super::{Aws, Recorded};
use crate::{
    event::{self, Who},
    failure::answer,
    pod_identity::{self, Refusal},
};

impl Aws {
    /// Records two events, as AWS does: the pod's call of EKS, and the AssumeRole call of EKS.
    pub(super) fn pod_identity(&self, call: &Recorded<'_>) -> Response<Bytes> {
        let Recorded { request, request_id, now } = *call;
        let claimant = pod_identity::claimant(&self.world, request.headers(), now);
        let outcome = claimant.and_then(|claimant| {
            let uuid = self.state().keys.uuid();
            let name = pod_identity::session_name(&claimant, &uuid);
            let mut asked = json!({
                "roleArn": claimant.association.role,
                "roleSessionName": name,
            });
            let grant = pod_identity::decide(&self.world, &claimant, name, now);
            let granted = grant.map(|grant| self.open(grant));
            if let Ok((_, session)) = &granted {
                event::add_tags(&mut asked, &session.tags);
            }
            let elements = match &granted {
                Ok((credentials, session)) => Ok(event::given(credentials, session)),
                Err(refusal) => Err(("AccessDenied", refusal.sentence.as_str())),
            };
            let who = Who::Service(pod_identity::SERVICE);
            self.record(call, "sts.amazonaws.com", "AssumeRole", who, asked, elements);
            granted
        });
        let elements = match &outcome {
            Ok((credentials, session)) => Ok(event::given(credentials, session)),
            Err(Refusal { status: _, code, sentence }) => {
                Err((code.unwrap_or("InvalidRequestException"), sentence.as_str()))
            }
        };
        let who = Who::Service(pod_identity::SERVICE);
        let asked = self.world.cluster.as_ref().map(|it| json!({"clusterName": it.name}));
        let (source, name) = ("eks-auth.amazonaws.com", "AssumeRoleForPodIdentity");
        self.record(call, source, name, who, asked.unwrap_or_default(), elements);
        match outcome {
            Ok((credentials, _)) => {
                let body = pod_identity::body(&credentials, &self.world.account);
                answer(StatusCode::OK, "application/json", body.to_string())
            }
            Err(refusal) => {
                let text = refusal.text(request_id);
                answer(refusal.status, "text/plain; charset=utf-8", text)
            }
        }
    }
}
