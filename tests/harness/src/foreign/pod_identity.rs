//! The effect of the EKS Pod Identity webhook.

use serde_json::{Value, json};

/// The effect of amazon-eks-pod-identity-webhook for a service account with an association. It
/// adds region and endpoint variables, the credential variables unless one exists, and always the
/// mount of the token. It rewrites all lists. It splits `skip-containers` at ',' and does not trim.
pub fn pod_identity(pod: &Value) -> Vec<Value> {
    const VOLUME: &str = "eks-pod-identity-token";
    const DIRECTORY: &str = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount";
    let skipped = pod["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"]
        .as_str()
        .unwrap_or_default();
    // It parses the value as CSV; with a stray quote it skips no container.
    let skipped: Vec<&str> =
        if skipped.contains('"') { Vec::new() } else { skipped.split(',').collect() };
    let mut operations = Vec::new();
    for list in ["containers", "initContainers"] {
        let Some(containers) = pod["spec"][list].as_array() else { continue };
        let mut rewritten = containers.clone();
        for container in rewritten
            .iter_mut()
            .filter(|container| !skipped.contains(&container["name"].as_str().unwrap()))
        {
            let mut env = container["env"].as_array().cloned().unwrap_or_default();
            let has = |env: &[Value], name: &str| env.iter().any(|entry| entry["name"] == name);
            for (name, value) in [
                ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
                ("AWS_DEFAULT_REGION", "eu-west-1"),
                ("AWS_REGION", "eu-west-1"),
            ] {
                if !has(&env, name) {
                    env.push(json!({"name": name, "value": value}));
                }
            }
            let credentials = [
                (
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                    "http://169.254.170.23/v1/credentials".to_owned(),
                ),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", format!("{DIRECTORY}/{VOLUME}")),
            ];
            if !credentials.iter().any(|(name, _)| has(&env, name)) {
                env.extend(credentials.map(|(name, value)| json!({"name": name, "value": value})));
            }
            container["env"] = env.into();
            let mut mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if !has(&mounts, VOLUME) {
                mounts.push(json!({"name": VOLUME, "mountPath": DIRECTORY, "readOnly": true}));
            }
            container["volumeMounts"] = mounts.into();
        }
        operations
            .push(json!({"op": "replace", "path": format!("/spec/{list}"), "value": rewritten}));
    }
    let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    if !volumes.iter().any(|volume| volume["name"] == VOLUME) {
        let token = json!({"audience": "pods.eks.amazonaws.com", "expirationSeconds": 86400, "path": VOLUME});
        volumes.push(
            json!({"name": VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}),
        );
        operations.push(json!({"op": "add", "path": "/spec/volumes", "value": volumes}));
    }
    operations
}
