//! The API of EKS, as far as it lists associations of EKS Pod Identity.
//! <https://docs.aws.amazon.com/eks/latest/APIReference/API_ListPodIdentityAssociations.html>
//! <https://docs.aws.amazon.com/eks/latest/APIReference/API_DescribePodIdentityAssociation.html>

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::world::{Association, StandingWorld};

/// Returns the response to a call about associations of the cluster. None: it is another call, or
/// about something that does not exist.
pub(crate) fn answer(world: &StandingWorld, request: &Request<Bytes>) -> Option<Value> {
    let parts: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let ["clusters", cluster, "pod-identity-associations", id @ ..] = &parts[..] else {
        return None;
    };
    let is_known = world.cluster.as_ref().is_some_and(|known| known.name == *cluster);
    if request.method() != Method::GET || !is_known {
        return None;
    }
    let summary = |index: usize, association: &Association| {
        json!({
            "associationArn": format!("arn:aws:eks:{}:{}:podidentityassociation/{cluster}/{}", world.region, world.account, id_of(index)),
            "associationId": id_of(index),
            "clusterName": cluster,
            "namespace": association.namespace,
            "serviceAccount": association.service_account,
        })
    };
    let mut all = world.associations.iter().enumerate();
    match id {
        [] => {
            let all: Vec<Value> =
                all.map(|(index, association)| summary(index, association)).collect();
            Some(json!({"associations": all}))
        }
        [id] => {
            let (index, association) = all.find(|(index, _)| id_of(*index) == *id)?;
            let mut found = summary(index, association);
            found["roleArn"] = association.role.clone().into();
            Some(json!({"association": found}))
        }
        _ => None,
    }
}

fn id_of(index: usize) -> String {
    format!("a-{index:017}")
}
