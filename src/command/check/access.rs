//! Asks the API server what the current user may do.

use kube::core::Status;
use serde_json::{Value, json};

use crate::{
    command::{CommandError, cluster::Cluster},
    json::Json,
};

/// Returns whether the current user may make a request with these `resourceAttributes`, or the
/// status with which the API server denied the review. It stores nothing.
/// <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access>
pub(super) async fn may(
    cluster: &Cluster,
    attributes: Value,
) -> Result<Result<bool, Status>, CommandError> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    });
    let answer =
        cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
    Ok(answer.map(|answer| Json::from(&*answer).at("status").at("allowed").text() == "true"))
}
