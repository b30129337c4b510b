//! Finds a pod of a workload, as `kubectl logs` does: by the workload's selector.

use anyhow::anyhow;
use kube::api::ListParams;
use serde_json::Value;

use super::get;
use crate::{
    check::Seen,
    cli::WorkloadKind,
    command::{
        CommandError,
        cluster::{CORE, Cluster},
        say,
    },
};

/// Returns the name of the workload's newest pod: older ones may be of an earlier template.
pub(super) async fn newest_pod(
    cluster: &Cluster,
    kind: WorkloadKind,
    namespace: &str,
    name: &str,
) -> Result<String, CommandError> {
    let (group, objects) = kind.api();
    let workload = format!("{}/{name}", kind.as_str());
    let object = get(cluster, &format!("{group}/namespaces/{namespace}/{objects}"), name).await?;
    let selector = selector(&object["spec"]["selector"]).ok_or_else(|| {
        CommandError::Input(anyhow!("{workload} selects no pods by labels; name the pod"))
    })?;
    let path = format!("{CORE}/namespaces/{namespace}/pods");
    let pods = match cluster.list(&path, ListParams::default().labels(&selector)).await? {
        Seen::Known(pods) => pods,
        Seen::Hidden(why) => {
            return Err(CommandError::Internal(anyhow!(
                "cannot list the pods of {workload}: {why}"
            )));
        }
    };
    // Times of RFC 3339 in UTC: their order is that of their text.
    let pod = pods.iter().map(|pod| pod.at("metadata")).max_by_key(|metadata| {
        let text = |key| metadata.at(key).string().unwrap_or_default().into_owned();
        (text("creationTimestamp"), text("name"))
    });
    let pod = pod.and_then(|metadata| metadata.at("name").string()).ok_or_else(|| {
        CommandError::Input(anyhow!(
            "{workload} has no pod, for example because its pods are refused; explain its template: \
             kubectl get {workload} --namespace {namespace} -o yaml | fab-session-injector explain -f -"
        ))
    })?;
    say(&format!("the newest pod of {workload} is pod/{pod}"));
    Ok(pod.into_owned())
}

/// Returns the label selector as a parameter of a request. None: it selects nothing, or every pod.
fn selector(selector: &Value) -> Option<String> {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let expressions = expressions.map(|expression| {
        let key = expression["key"].as_str()?;
        let values = expression["values"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let values = values.join(",");
        match expression["operator"].as_str()? {
            "In" => Some(format!("{key} in ({values})")),
            "NotIn" => Some(format!("{key} notin ({values})")),
            "Exists" => Some(key.to_owned()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    });
    let requirements: Vec<String> = labels.chain(expressions).collect::<Option<_>>()?;
    (!requirements.is_empty()).then(|| requirements.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_is_written_as_a_parameter() {
        let all = json!({
            "matchLabels": {"app": "agents", "tier": "a"},
            "matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
                {"key": "team", "operator": "NotIn", "values": ["x"]},
                {"key": "set", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        });
        let want = "app=agents,tier=a,zone in (a,b),team notin (x),set,!old";
        assert_eq!(selector(&all).as_deref(), Some(want));
        for none in [json!(null), json!({}), json!({"matchLabels": {}})] {
            assert_eq!(selector(&none), None, "{none}");
        }
    }
}
