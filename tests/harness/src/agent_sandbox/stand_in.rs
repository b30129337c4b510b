//! A stand-in for the controller of agent-sandbox. It has what the tests use: templates with their
//! network policy, warm pools, claims, suspension, and the labels, annotations and references of the
//! objects.

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::{Map, Value, json};

use crate::api_server::ApiServer;

/// The controller. It reads all objects at each step, and keeps nothing in memory.
pub(super) struct StandIn;

/// The objects of all namespaces.
struct Seen {
    templates: Vec<Value>,
    pools: Vec<Value>,
    claims: Vec<Value>,
    sandboxes: Vec<Value>,
    pods: Vec<Value>,
    policies: Vec<Value>,
}

impl StandIn {
    /// Brings each object one step nearer to its wanted state.
    pub(super) async fn reconcile(&self, client: &ApiServer) {
        let Some(mut seen) = Seen::read(client).await else { return };
        for template in &seen.templates {
            self.template(client, template, &seen.policies).await;
        }
        for pool in &seen.pools {
            self.pool(client, pool, &seen).await;
        }
        let mut adopted = BTreeSet::new();
        for claim in seen.claims.clone() {
            self.claim(client, claim, &mut seen, &mut adopted).await;
        }
        for sandbox in &seen.sandboxes {
            self.sandbox(client, sandbox, &seen).await;
        }
    }

    /// Creates the network policy that a template without one of its own has.
    async fn template(&self, client: &ApiServer, template: &Value, policies: &[Value]) {
        let spec = &template["spec"];
        if is_deleted(template) || spec["networkPolicyManagement"] == "Unmanaged" {
            return;
        }
        let name = format!("{}-network-policy", name_of(template));
        if policies.iter().any(|it| is_beside(it, template) && name_of(it) == name) {
            return;
        }
        let own = &spec["networkPolicy"];
        let router = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agent-sandbox-system"}},
            "podSelector": {"matchLabels": {"app": "sandbox-router"}},
        });
        let public = json!([
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]}},
            {"ipBlock": {"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]}},
        ]);
        let (ingress, egress) = match own {
            Value::Null => (json!([{"from": [router]}]), json!([{"to": public}])),
            own => (own["ingress"].clone(), own["egress"].clone()),
        };
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "name": name,
                "namespace": namespace_of(template),
                "ownerReferences": [reference(template)],
            },
            "spec": {
                "podSelector": {"matchLabels": {TEMPLATE_LABEL: hash(name_of(template))}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": ingress,
                "egress": egress,
            },
        });
        self.send(client, Method::POST, &plural(&policy), &policy).await;
    }

    /// Creates the Sandboxes that a pool lacks, and takes those with its label and no controller.
    async fn pool(&self, client: &ApiServer, pool: &Value, seen: &Seen) {
        if is_deleted(pool) {
            return;
        }
        let mut members = 0;
        for sandbox in seen.of_pool(pool).filter(|it| !is_deleted(it)) {
            match controller(sandbox) {
                Some(owner) if owner["uid"] == pool["metadata"]["uid"] => members += 1,
                Some(_) => {}
                None => {
                    let mut orphan = sandbox.clone();
                    orphan["metadata"]["ownerReferences"] = json!([reference(pool)]);
                    self.send(client, Method::PUT, &path(&orphan), &orphan).await;
                    members += 1;
                }
            }
        }
        let Some(template) = seen.template_of(pool) else { return };
        let wanted = pool["spec"]["replicas"].as_i64().unwrap_or(1);
        for _ in members..wanted {
            let mut sandbox = from_template(template);
            let metadata = &mut sandbox["metadata"];
            metadata["generateName"] = format!("{}-", name_of(pool)).into();
            metadata["namespace"] = namespace_of(pool).into();
            metadata["labels"][POOL_LABEL] = hash(name_of(pool)).into();
            metadata["labels"][CREATED_BY] = "controller".into();
            metadata["labels"][LAUNCH_LABEL] = "warm".into();
            metadata["ownerReferences"] = json!([reference(pool)]);
            let pod = &mut sandbox["spec"]["podTemplate"]["metadata"];
            if pod["annotations"][SAFE_TO_EVICT].is_null() {
                pod["annotations"][SAFE_TO_EVICT] = "true".into();
            }
            self.send(client, Method::POST, &plural(&sandbox), &sandbox).await;
        }
    }

    /// Binds a claim to a Sandbox of its pool, or creates one of its own name.
    async fn claim(
        &self,
        client: &ApiServer,
        mut claim: Value,
        seen: &mut Seen,
        adopted: &mut BTreeSet<String>,
    ) {
        if is_deleted(&claim) {
            return;
        }
        if let Some(key) = restricted(&claim) {
            let message = format!("restricted system domain: {key:?}");
            self.claim_status(client, &claim, None, "InvalidMetadata", &message).await;
            return;
        }
        let uid = claim["metadata"]["uid"].clone();
        let bound = seen.sandboxes.iter().position(|it| {
            is_beside(it, &claim) && controller(it).is_some_and(|owner| owner["uid"] == uid)
        });
        if let Some(at) = bound {
            self.follow(client, &claim, &mut seen.sandboxes[at], &seen.templates, &seen.pools)
                .await;
            let sandbox = seen.sandboxes[at].clone();
            self.claim_status(client, &claim, Some(&sandbox), "", "").await;
            return;
        }
        let pool_name =
            claim["spec"]["warmPoolRef"]["name"].as_str().unwrap_or_default().to_owned();
        let of_pool = |pool: &&Value| is_beside(pool, &claim) && name_of(pool) == pool_name;
        let Some(pool) = seen.pools.iter().find(of_pool).cloned() else {
            self.claim_status(client, &claim, None, "WarmPoolNotFound", "no such pool").await;
            return;
        };
        let is_own = |it: &Value| {
            controller(it).is_some_and(|owner| owner["uid"] == pool["metadata"]["uid"])
        };
        let assigned = claim["metadata"]["annotations"][ASSIGNED].as_str().map(str::to_owned);
        let is_cold = !is_empty(&claim["spec"]["env"]);
        let candidate = seen.of_pool(&pool).find(|it| {
            let has_network = !is_empty(&it["status"]["podIPs"]);
            let is_it = assigned.as_deref().is_none_or(|name| name == name_of(it));
            is_own(it)
                && !is_deleted(it)
                && has_network
                && is_it
                && !is_cold
                && !adopted.contains(it["metadata"]["uid"].as_str().unwrap())
        });
        if let Some(candidate) = candidate.cloned() {
            // The claim first. Both updates have the resource version, so of two claims one wins.
            if claim["metadata"]["annotations"].is_null() {
                claim["metadata"]["annotations"] = json!({});
            }
            claim["metadata"]["annotations"][ASSIGNED] = name_of(&candidate).into();
            if self.send(client, Method::PUT, &path(&claim), &claim).await.is_none() {
                return;
            }
            adopted.insert(candidate["metadata"]["uid"].as_str().unwrap().to_owned());
            let mut taken = candidate;
            let labels = taken["metadata"]["labels"].as_object_mut().unwrap();
            for key in [POOL_LABEL, CREATED_BY] {
                labels.shift_remove(key);
            }
            labels.insert(CLAIM_LABEL.to_owned(), uid);
            taken["metadata"]["ownerReferences"] = json!([reference(&claim)]);
            let template = seen.template_of(&pool);
            taken["spec"]["podTemplate"]["metadata"] = pod_metadata(template, &claim);
            self.send(client, Method::PUT, &path(&taken), &taken).await;
            return;
        }
        if seen.sandboxes.iter().any(|it| is_beside(it, &claim) && name_of(it) == name_of(&claim)) {
            let message = "a sandbox of this name is not controlled by the claim";
            self.claim_status(client, &claim, None, "ReconcilerError", message).await;
            return;
        }
        // A pool whose pods have no address yet is waited for.
        let is_pending =
            seen.of_pool(&pool).any(|it| is_own(it) && is_empty(&it["status"]["podIPs"]));
        if is_pending && !is_cold && age(&claim) < GRACE_SECONDS {
            return;
        }
        let Some(template) = seen.template_of(&pool) else { return };
        let mut sandbox = from_template(template);
        let metadata = &mut sandbox["metadata"];
        metadata["name"] = name_of(&claim).into();
        metadata["namespace"] = namespace_of(&claim).into();
        metadata["labels"][CLAIM_LABEL] = uid;
        metadata["labels"][LAUNCH_LABEL] = "cold".into();
        metadata["ownerReferences"] = json!([reference(&claim)]);
        let template = Some(template);
        sandbox["spec"]["podTemplate"]["metadata"] = pod_metadata(template, &claim);
        if let Some(env) = claim["spec"]["env"].as_array() {
            let container = &mut sandbox["spec"]["podTemplate"]["spec"]["containers"][0];
            let present = container["env"].as_array().cloned().unwrap_or_default();
            container["env"] = [present, env.clone()].concat().into();
        }
        self.send(client, Method::POST, &plural(&sandbox), &sandbox).await;
    }

    /// Copies changed metadata of the claim to the template of its Sandbox.
    async fn follow(
        &self,
        client: &ApiServer,
        claim: &Value,
        sandbox: &mut Value,
        templates: &[Value],
        pools: &[Value],
    ) {
        let of_claim = |it: &&Value| {
            is_beside(it, claim) && it["metadata"]["name"] == claim["spec"]["warmPoolRef"]["name"]
        };
        let template = pools.iter().find(of_claim).and_then(|pool| template_of(pool, templates));
        let wanted = pod_metadata(template, claim);
        if sandbox["spec"]["podTemplate"]["metadata"] != wanted && !is_deleted(sandbox) {
            sandbox["spec"]["podTemplate"]["metadata"] = wanted;
            if let Some(stored) = self.send(client, Method::PUT, &path(sandbox), sandbox).await {
                *sandbox = stored;
            }
        }
    }

    /// Creates, takes, changes or deletes the pod of a Sandbox.
    async fn sandbox(&self, client: &ApiServer, sandbox: &Value, seen: &Seen) {
        if is_deleted(sandbox) {
            return;
        }
        let named = sandbox["metadata"]["annotations"][POD_NAME].as_str();
        let name = named.unwrap_or_else(|| name_of(sandbox));
        let own = hash(name_of(sandbox));
        let pod = seen.pods.iter().find(|it| is_beside(it, sandbox) && name_of(it) == name);
        let suspended = sandbox["spec"]["operatingMode"] == "Suspended";
        let mut wanted_name = Some(name);
        let mut error = None;
        match pod {
            None if suspended => wanted_name = None,
            None => {
                let pod = new_pod(sandbox);
                error = self.try_send(client, Method::POST, &plural(&pod), &pod).await.err();
                wanted_name = error.is_none().then_some(name_of(sandbox)).or(named);
            }
            Some(pod) => match controller(pod) {
                Some(owner) if owner["uid"] != sandbox["metadata"]["uid"] => {
                    error = Some(format!("pod {name:?} has another controller"));
                    wanted_name = None;
                }
                None if suspended => wanted_name = None,
                None if pod["metadata"]["labels"]["agents.x-k8s.io/adoptable"] != "true"
                    && pod["metadata"]["labels"][NAME_LABEL] != own =>
                {
                    error = Some(format!("cannot adopt unowned pod {name:?}"));
                }
                Some(_) if suspended => {
                    if !is_deleted(pod) {
                        self.send(client, Method::DELETE, &path(pod), &json!({})).await;
                    }
                }
                _ => {
                    let changed = followed(pod, sandbox);
                    if changed != *pod {
                        let sent = self.try_send(client, Method::PUT, &path(pod), &changed).await;
                        error = sent.err();
                    }
                }
            },
        }
        let mut current = sandbox.clone();
        if current["metadata"]["annotations"][POD_NAME].as_str() != wanted_name {
            let change = json!({"metadata": {"annotations": {POD_NAME: wanted_name}}});
            match self.send(client, Method::PATCH, &path(&current), &change).await {
                Some(stored) => current = stored,
                None => return,
            }
        }
        let is_own = |pod: &&Value| {
            controller(pod).is_some_and(|it| it["uid"] == current["metadata"]["uid"])
        };
        let pod = pod.filter(is_own);
        let ready = pod.is_some_and(|pod| pod["status"]["phase"] == "Running") && error.is_none();
        let reason = match (&error, suspended, ready) {
            (Some(_), ..) => "ReconcilerError",
            (None, true, _) => "SandboxSuspended",
            (None, false, true) => "DependenciesReady",
            (None, false, false) => "DependenciesNotReady",
        };
        let ips = pod.map_or(Value::Null, |pod| pod["status"]["podIPs"].clone());
        let ips: Vec<&Value> = ips.as_array().into_iter().flatten().map(|it| &it["ip"]).collect();
        let status = json!({
            "podIPs": ips,
            "conditions": [condition(ready && !suspended, reason, error.as_deref().unwrap_or_default())],
        });
        self.put_status(client, &current, &status).await;
    }

    async fn claim_status(
        &self,
        client: &ApiServer,
        claim: &Value,
        sandbox: Option<&Value>,
        reason: &str,
        message: &str,
    ) {
        let of_sandbox = sandbox.map(|it| it["status"]["conditions"][0].clone());
        let condition = match of_sandbox {
            Some(found) if found.is_object() => found,
            Some(_) => condition(false, "SandboxNotReady", ""),
            None => condition(false, reason, message),
        };
        let bound = sandbox.map(|it| {
            let ips = it["status"]["podIPs"].as_array().cloned().unwrap_or_default();
            json!({"name": name_of(it), "podIPs": ips})
        });
        let status = json!({"conditions": [condition], "sandbox": bound.unwrap_or(json!({}))});
        self.put_status(client, claim, &status).await;
    }

    /// Replaces the status, if it differs.
    async fn put_status(&self, client: &ApiServer, object: &Value, status: &Value) {
        if object["status"] != *status {
            let mut changed = object.clone();
            changed["status"] = status.clone();
            self.send(client, Method::PUT, &format!("{}/status", path(object)), &changed).await;
        }
    }

    async fn send(
        &self,
        client: &ApiServer,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Option<Value> {
        self.try_send(client, method, path, body).await.ok()
    }

    /// Returns the stored object, or the message of the API server.
    async fn try_send(
        &self,
        client: &ApiServer,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let answer = client.send(method, path, body.to_string()).await;
        let answer = answer.map_err(|error| error.to_string());
        let answer = answer
            .and_then(|it| serde_json::from_slice::<Value>(&it).map_err(|error| error.to_string()));
        match answer {
            Ok(stored) if stored["kind"] != "Status" || stored["status"] == "Success" => Ok(stored),
            Ok(status) => Err(status["message"].as_str().unwrap_or_default().to_owned()),
            Err(error) => Err(error),
        }
    }
}

impl Seen {
    async fn read(client: &ApiServer) -> Option<Self> {
        let mut lists = Vec::new();
        for path in [
            "/apis/extensions.agents.x-k8s.io/v1beta1/sandboxtemplates",
            "/apis/extensions.agents.x-k8s.io/v1beta1/sandboxwarmpools",
            "/apis/extensions.agents.x-k8s.io/v1beta1/sandboxclaims",
            "/apis/agents.x-k8s.io/v1beta1/sandboxes",
            "/api/v1/pods",
            "/apis/networking.k8s.io/v1/networkpolicies",
        ] {
            let answer = client.send(Method::GET, path, String::new()).await.ok()?;
            let mut list: Value = serde_json::from_slice(&answer).ok()?;
            let of_item = list["kind"].as_str()?.strip_suffix("List")?.to_owned();
            let version = list["apiVersion"].clone();
            let Value::Array(mut items) = list["items"].take() else { return None };
            for item in &mut items {
                item["kind"] = of_item.clone().into();
                item["apiVersion"] = version.clone();
            }
            items.sort_by_key(|it| it["metadata"]["creationTimestamp"].to_string());
            lists.push(items);
        }
        let [templates, pools, claims, sandboxes, pods, policies] =
            <[Vec<Value>; 6]>::try_from(lists).ok()?;
        Some(Self { templates, pools, claims, sandboxes, pods, policies })
    }

    /// Returns the Sandboxes with the label of the pool.
    fn of_pool<'s>(&'s self, pool: &'s Value) -> impl Iterator<Item = &'s Value> {
        let own = hash(name_of(pool));
        self.sandboxes
            .iter()
            .filter(move |it| is_beside(it, pool) && it["metadata"]["labels"][POOL_LABEL] == own)
    }

    fn template_of(&self, pool: &Value) -> Option<&Value> {
        template_of(pool, &self.templates)
    }
}

fn template_of<'s>(pool: &Value, templates: &'s [Value]) -> Option<&'s Value> {
    let name = &pool["spec"]["sandboxTemplateRef"]["name"];
    templates.iter().find(|it| is_beside(it, pool) && it["metadata"]["name"] == *name)
}

/// Returns a Sandbox without name and owner.
fn from_template(template: &Value) -> Value {
    let mut pod = template["spec"]["podTemplate"].clone();
    if pod["metadata"].is_null() {
        pod["metadata"] = json!({});
    }
    let spec = &mut pod["spec"];
    if spec["automountServiceAccountToken"].is_null() {
        spec["automountServiceAccountToken"] = false.into();
    }
    let is_default = template["spec"]["networkPolicy"].is_null()
        && template["spec"]["networkPolicyManagement"] != "Unmanaged";
    if is_default && spec["dnsPolicy"].is_null() {
        spec["dnsPolicy"] = "None".into();
        spec["dnsConfig"] = json!({"nameservers": ["8.8.8.8", "1.1.1.1"]});
    }
    json!({
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": {
            "annotations": {"agents.x-k8s.io/sandbox-template-ref": name_of(template)},
            "labels": {TEMPLATE_LABEL: hash(name_of(template))},
        },
        "spec": {"podTemplate": pod},
    })
}

/// Returns the metadata of the pod template of a claimed Sandbox.
fn pod_metadata(template: Option<&Value>, claim: &Value) -> Value {
    let mut metadata =
        template.map_or(json!({}), |it| it["spec"]["podTemplate"]["metadata"].clone());
    if metadata.is_null() {
        metadata = json!({});
    }
    if let Some(template) = template {
        metadata["labels"][TEMPLATE_LABEL] = hash(name_of(template)).into();
    }
    metadata["labels"][CLAIM_LABEL] = claim["metadata"]["uid"].clone();
    for map in ["annotations", "labels"] {
        let added = claim["spec"]["additionalPodMetadata"][map].as_object();
        for (key, value) in added.into_iter().flatten() {
            metadata[map][key] = value.clone();
        }
    }
    metadata
}

fn new_pod(sandbox: &Value) -> Value {
    let template = &sandbox["spec"]["podTemplate"];
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name_of(sandbox),
            "namespace": namespace_of(sandbox),
            "ownerReferences": [reference(sandbox)],
        },
        "spec": template["spec"],
    });
    followed(&pod, sandbox)
}

/// Returns the pod with the reference, the labels and the annotations that its Sandbox gives it.
fn followed(pod: &Value, sandbox: &Value) -> Value {
    let mut pod = pod.clone();
    if controller(&pod).is_none() {
        pod["metadata"]["ownerReferences"] = json!([reference(sandbox)]);
    }
    let template = &sandbox["spec"]["podTemplate"]["metadata"];
    for (map, list) in [("labels", PROPAGATED_LABELS), ("annotations", PROPAGATED_ANNOTATIONS)] {
        let wanted: Map<String, Value> = template[map]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| !is_reserved(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let before = pod["metadata"]["annotations"][list].as_str().unwrap_or_default().to_owned();
        for key in before.split(',').filter(|key| !key.is_empty() && !wanted.contains_key(*key)) {
            if let Some(present) = pod["metadata"][map].as_object_mut() {
                present.shift_remove(key);
            }
        }
        let mut keys: Vec<&str> = wanted.keys().map(String::as_str).collect();
        keys.sort_unstable();
        pod["metadata"]["annotations"][list] = keys.join(",").into();
        for (key, value) in wanted {
            pod["metadata"][map][key] = value;
        }
    }
    let labels = &sandbox["metadata"]["labels"];
    let is_of = |kind: &str| controller(sandbox).is_some_and(|owner| owner["kind"] == kind);
    let from_sandbox = [
        (POOL_LABEL, is_of("SandboxWarmPool")),
        (TEMPLATE_LABEL, is_of("SandboxWarmPool") || is_of("SandboxClaim")),
        (CREATED_BY, true),
    ];
    pod["metadata"]["labels"][NAME_LABEL] = hash(name_of(sandbox)).into();
    let own = pod["metadata"]["labels"].as_object_mut().unwrap();
    for (key, counts) in from_sandbox {
        match &labels[key] {
            Value::String(value) if counts => own.insert(key.to_owned(), value.clone().into()),
            _ => own.shift_remove(key),
        };
    }
    pod
}

/// Returns the annotation of the claim that no pod may get from it.
fn restricted(claim: &Value) -> Option<&String> {
    let annotations = claim["spec"]["additionalPodMetadata"]["annotations"].as_object()?;
    annotations.keys().find(|key| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let domains = ["kubernetes.io", "k8s.io", "agents.x-k8s.io"];
        **key != SAFE_TO_EVICT
            && domains.iter().any(|it| domain == *it || domain.ends_with(&format!(".{it}")))
    })
}

fn is_reserved(key: &str) -> bool {
    key.starts_with("agents.x-k8s.io/") || key.starts_with("extensions.agents.x-k8s.io/")
}

/// Returns a controller reference to the object.
fn reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

fn controller(object: &Value) -> Option<&Value> {
    let references = object["metadata"]["ownerReferences"].as_array()?;
    references.iter().find(|it| it["controller"] == true)
}

fn condition(is_true: bool, reason: &str, message: &str) -> Value {
    json!({
        "type": "Ready",
        "status": if is_true { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// Returns the age of the object in seconds.
fn age(object: &Value) -> i64 {
    let created = object["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    let created: jiff::Timestamp = created.parse().unwrap_or_default();
    jiff::Timestamp::now().as_second() - created.as_second()
}

fn is_beside(object: &Value, other: &Value) -> bool {
    object["metadata"]["namespace"] == other["metadata"]["namespace"]
}

fn is_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// Returns the 32-bit FNV-1a hash of a name in hexadecimal digits.
fn hash(name: &str) -> String {
    let mix = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    format!("{:08x}", name.bytes().fold(0x811c_9dc5, mix))
}

/// Returns the path of the object's list in its namespace.
fn plural(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let root = if version == "v1" { "/api" } else { "/apis" };
    let kind = match object["kind"].as_str().unwrap() {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        "Sandbox" => "sandboxes".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    format!("{root}/{version}/namespaces/{}/{kind}", namespace_of(object))
}

fn path(object: &Value) -> String {
    format!("{}/{}", plural(object), name_of(object))
}

/// Returns types, account and rights. The rights are those of a release.
pub(super) fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = [
        ("agents.x-k8s.io", "Sandbox", "sandboxes"),
        ("extensions.agents.x-k8s.io", "SandboxClaim", "sandboxclaims"),
        ("extensions.agents.x-k8s.io", "SandboxTemplate", "sandboxtemplates"),
        ("extensions.agents.x-k8s.io", "SandboxWarmPool", "sandboxwarmpools"),
    ]
    .into_iter()
    .map(|(group, kind, plural)| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group,
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "scope": "Namespaced",
                "versions": [{
                    "name": "v1beta1",
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": true,
                    }},
                }],
            },
        })
    })
    .collect();
    let all = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let rules = json!([
        {"apiGroups": [""], "resources": ["persistentvolumeclaims", "pods", "services"], "verbs": all},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
        {"apiGroups": ["agents.x-k8s.io"], "resources": ["sandboxes"], "verbs": all},
        {
            "apiGroups": ["extensions.agents.x-k8s.io"],
            "resources": ["sandboxclaims", "sandboxtemplates", "sandboxwarmpools"],
            "verbs": all,
        },
        {
            "apiGroups": ["agents.x-k8s.io", "extensions.agents.x-k8s.io"],
            "resources": ["*/finalizers", "*/status"],
            "verbs": ["get", "patch", "update"],
        },
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": all},
    ]);
    let subject =
        json!({"kind": "ServiceAccount", "name": super::ACCOUNT, "namespace": super::NAMESPACE});
    let role = "agent-sandbox-controller";
    objects.extend([
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": super::NAMESPACE}}),
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": super::ACCOUNT, "namespace": super::NAMESPACE},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role},
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        }),
    ]);
    objects
}

/// Label of Sandboxes and pods: the hash of the Sandbox's name.
const NAME_LABEL: &str = "agents.x-k8s.io/sandbox-name-hash";
const POOL_LABEL: &str = "agents.x-k8s.io/warm-pool-sandbox";
const TEMPLATE_LABEL: &str = "agents.x-k8s.io/sandbox-template-ref-hash";
const CLAIM_LABEL: &str = "agents.x-k8s.io/claim-uid";
const CREATED_BY: &str = "agents.x-k8s.io/created-by";
const LAUNCH_LABEL: &str = "agents.x-k8s.io/launch-type";
/// Annotation of a claim: the name of its Sandbox.
const ASSIGNED: &str = "agents.x-k8s.io/sandbox-name";
/// Annotation of a Sandbox: the name of its pod.
const POD_NAME: &str = "agents.x-k8s.io/pod-name";
const PROPAGATED_LABELS: &str = "agents.x-k8s.io/propagated-labels";
const PROPAGATED_ANNOTATIONS: &str = "agents.x-k8s.io/propagated-annotations";
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// How long a claim waits for a pool whose pods have no address yet.
const GRACE_SECONDS: i64 = 2;
