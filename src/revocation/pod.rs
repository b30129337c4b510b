use crate::{
    json::Json,
    session::{KnownSession, TenantName, env},
};

/// Returns the session of a pod by the variables of its sidecar, which do not change once the pod
/// is created. Annotations can change. A pod of a component with `credentials: env` has no sidecar,
/// and the variables in its own containers. None: the pod has no session.
pub fn session_of(
    pod: Json<'_>,
    sidecar: Option<Json<'_>>,
) -> Option<Result<KnownSession, env::NotASession>> {
    let container = sidecar.or_else(|| {
        let lists = ["initContainers", "containers"].map(|list| pod.at("spec").at(list));
        let sets = |container: &Json<'_>, name: &str| variable(*container, name).is_some();
        let has_session =
            |container: &Json<'_>| env::NAMES.iter().all(|name| sets(container, name));
        lists.into_iter().flat_map(Json::items).find(has_session)
    })?;
    let metadata = pod.at("metadata");
    Some(env::read_stored(|name| {
        let variable = variable(container, name)?;
        let field = variable.at("valueFrom").at("fieldRef").at("fieldPath").string();
        let value = match field.as_deref() {
            Some("metadata.name") => metadata.at("name"),
            Some("metadata.uid") => metadata.at("uid"),
            Some(_) => return None,
            None => variable.at("value"),
        };
        value.string().map(Into::into)
    }))
}

/// Returns the tenant of a pod whose session is that of its SandboxClaim. Such a pod does not name it.
pub fn tenant_of_unbound(sidecar: Option<Json<'_>>) -> Option<TenantName> {
    let sidecar = sidecar?;
    let value = |name: &str| Some(variable(sidecar, name)?.at("value").string()?.into_owned());
    env::read_unbound(value)?.ok().map(|session| session.tenant)
}

/// Returns the variable of this name: the last one, as for the kubelet.
fn variable<'a>(container: Json<'a>, name: &str) -> Option<Json<'a>> {
    let is_it = |variable: &Json<'_>| variable.at("name").string().is_some_and(|it| it == name);
    container.at("env").items().filter(is_it).last()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::session::{Session, SessionId, env::session_variables};

    fn pod(id: SessionId) -> Value {
        let session = Session {
            tenant: "acme".parse().unwrap(),
            id,
            role: "arn:aws:iam::111122223333:role/r".parse().unwrap(),
            duration: "3600".parse().unwrap(),
            on_behalf_of: None,
        };
        let variables = session_variables(&session).map(|variable| match variable.value {
            env::Value::Text(text) => json!({"name": variable.name, "value": text}),
            env::Value::Field(field) => {
                json!({"name": variable.name, "valueFrom": {"fieldRef": {"fieldPath": field}}})
            }
        });
        json!({"metadata": {"name": "session-a", "uid": "0d2c2a52"}, "env": variables})
    }

    fn identity(pod: &Value) -> Result<String, String> {
        let text = to_raw_value(pod).unwrap();
        let pod = Json::from(&*text);
        let session = session_of(pod, Some(pod)).unwrap().map_err(|error| error.to_string())?;
        Ok(session.source_identity().to_string())
    }

    #[test]
    fn a_stored_pod_has_the_session_of_its_sidecar() {
        let named = || SessionId::Known("fab-coder-x7k2p".parse().unwrap());
        assert_eq!(identity(&pod(named())), Ok("agent.acme.fab-coder-x7k2p".to_owned()));
        assert_eq!(identity(&pod(SessionId::PodName)), Ok("agent.acme.session-a".to_owned()));
        assert_eq!(identity(&pod(SessionId::PodUid)), Ok("agent.acme.0d2c2a52".to_owned()));
        // The sidecar of such a pod does not start, either.
        let mut other = pod(named());
        let twice = json!({"name": "FAB_SESSION_ID", "value": "other"});
        other["env"].as_array_mut().unwrap().push(twice);
        assert!(identity(&other).unwrap_err().contains("agent.acme.other"));
        assert!(identity(&json!({})).is_err());
    }

    #[test]
    fn a_pod_without_a_sidecar_has_the_session_of_its_containers() {
        let mut with = pod(SessionId::PodUid);
        with["spec"]["containers"] = json!([{"name": "proxy"}, {"env": with["env"].take()}]);
        let text = to_raw_value(&with).unwrap();
        let session = session_of((&*text).into(), None).unwrap().unwrap();
        assert_eq!(session.source_identity().to_string(), "agent.acme.0d2c2a52");
        // The old client mode: the pod brings a role, and its own code chooses the name.
        with["spec"]["containers"][1]["env"].as_array_mut().unwrap().pop();
        let text = to_raw_value(&with).unwrap();
        assert!(session_of((&*text).into(), None).is_none());
    }
}
