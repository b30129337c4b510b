//! What `check` looks at in a cluster. It reads, and but for a pod that it is asked to try it
//! changes nothing.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, anyhow};
use axum::http;
use kube::{
    Client,
    api::{DeleteParams, GetParams, ListParams, PostParams},
    config::KubeConfigOptions,
    core::Request,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Failure;
use crate::{
    check::{Guard, Seen, Tenancy, Text, Trial, Webhook},
    config::{Config, Resources},
    manifest,
};

pub(super) struct Cluster(Client);

/// What the chart brought as the release.
pub(super) struct Release {
    pub(super) namespace: String,
    /// Of the release's own objects.
    pub(super) name: String,
    /// The ConfigMap with config and static roles. None: it was not found, but the service was.
    pub(super) data: Option<Value>,
}

impl Cluster {
    /// As kubectl finds it; in a pod, by its service account.
    pub(super) async fn connect(context: Option<&str>) -> Result<Self, Failure> {
        let mut config = match context {
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.to_owned()),
                    ..KubeConfigOptions::default()
                };
                kube::Config::from_kubeconfig(&options)
                    .await
                    .with_context(|| format!("--context {context}"))
                    .map_err(Failure::Input)?
            }
            None => kube::Config::infer()
                .await
                .context("no cluster to look at; set KUBECONFIG, or give --context")
                .map_err(Failure::Input)?,
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        let client = Client::try_from(config).context("cluster").map_err(Failure::Ours)?;
        Ok(Self(client))
    }

    /// The release that the labels name. None: there is none that we may see.
    pub(super) async fn release(
        &self,
        name: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Option<Release>, Failure> {
        let mut selector = PART_OF.to_owned();
        if let Some(name) = name {
            selector.push_str(&format!(",{INSTANCE}={name}"));
        }
        let path = match namespace {
            Some(namespace) => format!("{CORE}/namespaces/{namespace}/configmaps"),
            None => format!("{CORE}/configmaps"),
        };
        let Seen::Known(maps) = self.list(&path, &selector).await? else { return Ok(None) };
        let mut configs = maps.into_iter().filter(|map| map["data"][ROLES].is_string());
        let Some(found) = configs.next() else { return Ok(None) };
        let title = |map: &Value| {
            let metadata = &map["metadata"];
            let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
            (text("namespace"), text("name"))
        };
        let (namespace, name) = title(&found);
        if let Some(other) = configs.next() {
            let (other_namespace, other) = title(&other);
            return Err(Failure::Input(anyhow!(
                "there is more than one release, {namespace}/{name} and {other_namespace}/{other}; \
                 choose by --release or --release-namespace"
            )));
        }
        Ok(Some(Release { namespace, name, data: Some(found["data"].clone()) }))
    }

    pub(super) async fn configurations(&self) -> Result<Seen<Vec<Value>>, Failure> {
        self.list(&format!("{ADMISSION}/mutatingwebhookconfigurations"), "").await
    }

    /// Of the webhook, the guard and the config: what is there, and what the release brought.
    pub(super) async fn installation(
        &self,
        configurations: Seen<Vec<Value>>,
        release: &Release,
    ) -> Result<(Webhook, Guard, Text), Failure> {
        let Release { namespace, name, data } = release;
        let within = format!("{CORE}/namespaces/{namespace}");
        let installed =
            self.get(&format!("{within}/configmaps"), &format!("{name}-installed")).await?;
        let documents = |key: &str| {
            installed.clone().map(|map| {
                // Of what the release has not, it says nothing.
                manifest::read(map?["data"][key].as_str().unwrap_or_default()).ok()
            })
        };
        let webhook = Webhook {
            configurations,
            endpoints: self
                .list(
                    &format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
                    &format!("{SERVICE_NAME}={name}"),
                )
                .await?,
            installed: documents("webhook.yaml").map(|documents| documents?.into_iter().next()),
            secret: self.serving_secret(release).await?,
        };
        let policies = self.list(&format!("{ADMISSION}/validatingadmissionpolicies"), "").await?;
        let bindings =
            self.list(&format!("{ADMISSION}/validatingadmissionpolicybindings"), "").await?;
        let guard =
            Guard { objects: policies.beside(bindings), installed: documents("guard.yaml") };
        let text = |map: &Value| map["data"][CONFIG].as_str().map(str::to_owned);
        let text = Text {
            live: data.as_ref().and_then(|data| data[CONFIG].as_str()).map(str::to_owned),
            installed: installed.map(|map| map.as_ref().and_then(text)),
        };
        Ok((webhook, guard, text))
    }

    /// The region that the Deployment gives the webhook.
    pub(super) async fn region(&self, release: &Release) -> Result<Option<String>, Failure> {
        let Seen::Known(Some(deployment)) = self.deployment(release).await? else {
            return Ok(None);
        };
        let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
        let variables = containers
            .into_iter()
            .flatten()
            .flat_map(|container| container["env"].as_array().into_iter().flatten());
        let mut region = variables.filter(|variable| variable["name"] == "AWS_REGION");
        Ok(region.next().and_then(|variable| variable["value"].as_str()).map(str::to_owned))
    }

    pub(super) async fn namespaces(&self, only: Option<&str>) -> Result<Seen<Vec<Value>>, Failure> {
        let namespaces = format!("{CORE}/namespaces");
        let Some(name) = only else { return self.list(&namespaces, "").await };
        match self.get(&namespaces, name).await? {
            Seen::Known(Some(namespace)) => Ok(Seen::Known(vec![namespace])),
            Seen::Known(None) => {
                Err(Failure::Input(anyhow!("--namespace {name}: there is no such namespace")))
            }
            Seen::Hidden(why) => Ok(Seen::Hidden(why)),
        }
    }

    pub(super) async fn tenancy(&self, namespace: &str) -> Result<Tenancy, Failure> {
        let of = async |group: &str, kind: &str| {
            self.list(&format!("{group}/namespaces/{namespace}/{kind}"), "").await
        };
        let (accounts, limit_ranges, pods, quotas, roles, bindings) = tokio::try_join!(
            of(CORE, "serviceaccounts"),
            of(CORE, "limitranges"),
            of(CORE, "pods"),
            of(CORE, "resourcequotas"),
            of(RBAC, "roles"),
            of(RBAC, "rolebindings"),
        )?;
        let rights = roles.beside(bindings);
        Ok(Tenancy { accounts, limit_ranges, pods, quotas, rights, trial: None })
    }

    /// What holds in every namespace.
    pub(super) async fn rights(&self) -> Result<Seen<Vec<Value>>, Failure> {
        let all = async |kind: &str| self.list(&format!("{RBAC}/{kind}"), "").await;
        let (roles, bindings) = tokio::try_join!(all("clusterroles"), all("clusterrolebindings"))?;
        Ok(roles.beside(bindings))
    }

    /// Starts a pod that ends once its sidecar lets it start, and deletes it.
    pub(super) async fn try_pod(
        &self,
        namespace: &str,
        account: &str,
        config: &Config,
    ) -> Result<Trial, Failure> {
        let path = format!("{CORE}/namespaces/{namespace}/pods");
        let pod = pod_to_try(account, config).to_string().into_bytes();
        let request = Request::new(&path).create(&PostParams::default(), pod);
        let request = request.context("request").map_err(Failure::Ours)?;
        let name = match self.0.request::<Value>(request).await {
            Ok(pod) => pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            Err(kube::Error::Api(status)) => return Ok(Trial::Refused(status.message)),
            Err(error) => {
                let error = anyhow!(error).context(format!("the API server was asked for {path}"));
                return Err(Failure::Ours(error));
            }
        };
        let trial = self.follow_pod(namespace, &name).await;
        let request = Request::new(&path).delete(&name, &DeleteParams::default());
        if let Ok(request) = request {
            // It ends by itself, and this is not what is looked at.
            let _ = self.0.request::<Value>(request).await;
        }
        trial
    }

    async fn follow_pod(&self, namespace: &str, name: &str) -> Result<Trial, Failure> {
        let within = format!("{CORE}/namespaces/{namespace}");
        let deadline = Instant::now() + START;
        loop {
            let pod = self.get(&format!("{within}/pods"), name).await?;
            let events = self.events_of(&format!("{within}/events"), name).await?;
            let status = match &pod {
                Seen::Known(pod) => pod.as_ref().map_or(&Value::Null, |pod| &pod["status"]),
                Seen::Hidden(why) => return Ok(Trial::Waiting(why.clone())),
            };
            if status["phase"] == "Succeeded" {
                return Ok(Trial::Ended);
            }
            if let Some(says) = held(&events) {
                return Ok(Trial::Held(says));
            }
            if Instant::now() >= deadline {
                let last = events.last().and_then(|event| event["message"].as_str());
                let phase = status["phase"].as_str().unwrap_or("gone");
                return Ok(Trial::Waiting(format!("{phase}; {}", last.unwrap_or("no event"))));
            }
            sleep(PAUSE).await;
        }
    }

    async fn events_of(&self, path: &str, pod: &str) -> Result<Vec<Value>, Failure> {
        let of_pod = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        let request = Request::new(path).list(&of_pod).context("request").map_err(Failure::Ours)?;
        match self.ask(request, path).await? {
            Seen::Known(Some(mut list)) => Ok(match list["items"].take() {
                Value::Array(events) => events,
                _ => Vec::new(),
            }),
            // Then only how the pod ends is known.
            Seen::Known(None) | Seen::Hidden(_) => Ok(Vec::new()),
        }
    }

    /// The one that the Deployment mounts.
    async fn serving_secret(&self, release: &Release) -> Result<Seen<Option<Value>>, Failure> {
        let deployment = match self.deployment(release).await? {
            Seen::Known(Some(deployment)) => deployment,
            Seen::Known(None) => {
                let Release { namespace, name, data: _ } = release;
                let says = format!("no Deployment {namespace}/{name} says which Secret it is in");
                return Ok(Seen::Hidden(says));
            }
            Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
        };
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array();
        let mut names = volumes
            .into_iter()
            .flatten()
            .filter_map(|volume| volume["secret"]["secretName"].as_str());
        let Some(name) = names.next() else { return Ok(Seen::Known(None)) };
        let path = format!("{CORE}/namespaces/{}/secrets", release.namespace);
        let secret = self.get(&path, name).await?;
        // Keys are for those who need them.
        Ok(secret.map(|secret| {
            let mut secret = secret?;
            if let Some(data) = secret["data"].as_object_mut() {
                data.retain(|key, _| key == CERTIFICATE);
            }
            Some(secret)
        }))
    }

    async fn deployment(&self, release: &Release) -> Result<Seen<Option<Value>>, Failure> {
        let path = format!("/apis/apps/v1/namespaces/{}/deployments", release.namespace);
        self.get(&path, &release.name).await
    }

    /// Every object, each with its kind, which a list leaves out.
    async fn list(&self, path: &str, selector: &str) -> Result<Seen<Vec<Value>>, Failure> {
        let mut found = Vec::new();
        let mut page = ListParams::default().labels(selector).limit(PAGE);
        loop {
            let request =
                Request::new(path).list(&page).context("request").map_err(Failure::Ours)?;
            let mut list: Value = match self.ask(request, path).await? {
                Seen::Known(Some(list)) => list,
                // An API server that has no such kind has none of them.
                Seen::Known(None) => return Ok(Seen::Known(found)),
                Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
            };
            let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List"));
            let kind = Value::from(kind);
            if let Value::Array(items) = list["items"].take() {
                found.extend(items.into_iter().map(|mut item| {
                    item["kind"] = kind.clone();
                    item
                }));
            }
            match list["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => page = page.continue_token(next),
                _ => return Ok(Seen::Known(found)),
            }
        }
    }

    async fn get(&self, path: &str, name: &str) -> Result<Seen<Option<Value>>, Failure> {
        let request = Request::new(path).get(name, &GetParams::default());
        self.ask(request.context("request").map_err(Failure::Ours)?, path).await
    }

    /// None: there is no such thing.
    async fn ask(
        &self,
        request: http::Request<Vec<u8>>,
        path: &str,
    ) -> Result<Seen<Option<Value>>, Failure> {
        match self.0.request(request).await {
            Ok(answer) => Ok(Seen::Known(Some(answer))),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Seen::Hidden(status.message)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Seen::Known(None)),
            Err(error) => {
                let error = anyhow!(error).context(format!("the API server was asked for {path}"));
                Err(Failure::Ours(error))
            }
        }
    }
}

/// Of each that opted in, what is in it. `looking` is told which is next.
pub(super) async fn tenancies(
    cluster: &Cluster,
    names: &[String],
    mut looking: impl FnMut(usize, &str),
) -> Result<HashMap<String, Tenancy>, Failure> {
    let mut tenancies = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        looking(index, name);
        tenancies.insert(name.clone(), cluster.tenancy(name).await?);
    }
    Ok(tenancies)
}

/// As `restricted` wants it. It does nothing, and ends by itself, whatever becomes of us.
fn pod_to_try(account: &str, config: &Config) -> Value {
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } =
        &config.sidecar.resources;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "fab-check-"},
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "activeDeadlineSeconds": 2 * START.as_secs(),
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "agent",
                "image": config.sidecar.image,
                "imagePullPolicy": config.sidecar.image_pull_policy.as_str(),
                "args": ["--version"],
                "resources": {
                    "requests": {"cpu": cpu_request.as_str(), "memory": memory_request.as_str()},
                    "limits": {"cpu": cpu_limit.as_str(), "memory": memory_limit.as_str()},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": true,
                },
            }],
        },
    })
}

/// What the probe of its sidecar said the third time: the first failure may pass.
fn held(events: &[Value]) -> Option<String> {
    let unhealthy: Vec<&Value> =
        events.iter().filter(|event| event["reason"] == "Unhealthy").collect();
    let times: u64 = unhealthy.iter().map(|event| event["count"].as_u64().unwrap_or(1)).sum();
    let message = unhealthy.last()?["message"].as_str()?;
    (times >= 3).then(|| message.to_owned())
}

/// All objects of the chart have it, whatever the release and its names are.
const PART_OF: &str = "app.kubernetes.io/part-of=fab-session-injector";
const INSTANCE: &str = "app.kubernetes.io/instance";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Of the ConfigMap.
pub(super) const CONFIG: &str = "config.yaml";
pub(super) const ROLES: &str = "roles.yaml";
/// Of the Secret.
const CERTIFICATE: &str = "tls.crt";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const CORE: &str = "/api/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
/// Objects in one answer.
const PAGE: u32 = 500;
const CONNECT: Duration = Duration::from_secs(5);
/// For a pod to be scheduled, its image pulled and its sidecar's first credentials.
const START: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(30);
