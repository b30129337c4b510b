//! Reads the objects of a cluster that `check` inspects.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use axum::http::{Request, header::ACCEPT};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    check::{
        ConfigText, Guard, IssuerPods, KubernetesVersions, NamespaceContents, Nodes, Objects, Seen,
        WebhookFacts,
    },
    command::{
        CommandError,
        cluster::{ADMISSION, CORE, Cluster, RBAC, all},
        installed::{CONFIG, Release},
    },
    config::{COMPONENT_OF_APP, Config},
    issuer::SANDBOX_API,
    manifest,
};

impl Cluster {
    /// Reads webhook, guard and config: as they are in the cluster, and as rendered by the release.
    pub(super) async fn installation(
        &self,
        configurations: Seen<Objects>,
        release: &Release,
    ) -> Result<(WebhookFacts, Guard, ConfigText), CommandError> {
        let Release { namespace, name, data } = release;
        let within = format!("{CORE}/namespaces/{namespace}");
        let installed: Seen<Option<Value>> =
            self.get(&format!("{within}/configmaps"), &format!("{name}-installed")).await?;
        let documents = |key: &str| {
            installed.clone().map(|map| {
                // A key is missing if the release does not have the object.
                manifest::read(map?["data"][key].as_str().unwrap_or_default()).ok()
            })
        };
        let deployment = self.deployment(namespace, name).await?;
        let webhook = WebhookFacts {
            configurations,
            endpoints: self
                .list(
                    &format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
                    all().labels(&format!("{SERVICE_NAME}={name}")),
                )
                .await?,
            installed: documents("webhook.yaml").map(|documents| documents?.into_iter().next()),
            certs_deployment: self.deployment(namespace, &format!("{name}-certs")).await?,
            secret: self.serving_secret(release, &deployment).await?,
            deployment,
        };
        let policies =
            self.list(&format!("{ADMISSION}/validatingadmissionpolicies"), all()).await?;
        let bindings =
            self.list(&format!("{ADMISSION}/validatingadmissionpolicybindings"), all()).await?;
        let guard =
            Guard { objects: policies.beside(bindings), installed: documents("guard.yaml") };
        let text = |map: &Value| map["data"][CONFIG].as_str().map(str::to_owned);
        let text = ConfigText {
            live: data.as_ref().and_then(|data| data[CONFIG].as_str()).map(str::to_owned),
            installed: installed.map(|map| map.as_ref().and_then(text)),
            place: format!("ConfigMap {namespace}/{name}"),
        };
        Ok((webhook, guard, text))
    }

    pub(super) async fn namespaces(
        &self,
        only: Option<&str>,
    ) -> Result<Seen<Objects>, CommandError> {
        let namespaces = format!("{CORE}/namespaces");
        let Some(name) = only else { return self.list(&namespaces, all()).await };
        match self.get::<Box<RawValue>>(&namespaces, name).await? {
            Seen::Known(Some(namespace)) => Ok(Seen::Known(Objects::of("Namespace", &[namespace]))),
            Seen::Known(None) => {
                Err(CommandError::Input(anyhow!("--namespace {name}: no such namespace")))
            }
            Seen::Hidden(why) => Ok(Seen::Hidden(why)),
        }
    }

    /// Reads the pods of the session issuer. `namespace`: that of the release.
    pub(super) async fn issuer_pods(&self, namespace: &str) -> Result<IssuerPods, CommandError> {
        let pods = format!("{CORE}/namespaces/{namespace}/pods");
        let of_issuer = all().labels(&format!("{COMPONENT_OF_APP}=issuer"));
        let namespaces = format!("{CORE}/namespaces");
        let (namespace, pods) =
            tokio::try_join!(self.get(&namespaces, namespace), self.list(&pods, of_issuer))?;
        Ok(IssuerPods { namespace, pods })
    }

    /// Reads the Sandboxes of agent-sandbox whose pods get the session of a SandboxClaim.
    pub(super) async fn sandboxes(&self, config: &Config) -> Result<Seen<Objects>, CommandError> {
        if config.claim_components().next().is_none() {
            return Ok(Seen::Known(Objects::default()));
        }
        self.list(&format!("{SANDBOX_API}/sandboxes"), all()).await
    }

    /// Reads the contents of a namespace.
    pub(super) async fn contents(
        &self,
        namespace: &str,
    ) -> Result<NamespaceContents, CommandError> {
        let of = async |group: &str, kind: &str| {
            self.list(&format!("{group}/namespaces/{namespace}/{kind}"), all()).await
        };
        let (accounts, limit_ranges, network_policies, pods, quotas, roles, bindings) = tokio::try_join!(
            of(CORE, "serviceaccounts"),
            of(CORE, "limitranges"),
            of("/apis/networking.k8s.io/v1", "networkpolicies"),
            of(CORE, "pods"),
            of(CORE, "resourcequotas"),
            of(RBAC, "roles"),
            of(RBAC, "rolebindings"),
        )?;
        let rights = roles.beside(bindings);
        Ok(NamespaceContents { accounts, limit_ranges, network_policies, pods, quotas, rights })
    }

    /// Reads the versions of the API server and of all kubelets.
    pub(super) async fn kubernetes_versions(&self) -> Result<KubernetesVersions, CommandError> {
        let api_server: Seen<Option<Value>> = self.get("", "version").await?;
        let version = |answer: Option<Value>| {
            let answer = answer.unwrap_or_default();
            answer["gitVersion"].as_str().unwrap_or("unknown").to_owned()
        };
        // A Table has one short row per node; a Node has many kilobytes.
        let request = Request::get(NODES)
            .header(ACCEPT, TABLE)
            .body(Vec::new())
            .context("cannot build the request")
            .map_err(CommandError::Internal)?;
        let nodes: Seen<Option<Table>> = self.request(request, NODES).await?;
        let kubelets = nodes.map(|table| table.map_or_else(BTreeMap::new, Table::kubelets));
        Ok(KubernetesVersions { api_server: api_server.map(version), kubelets })
    }

    pub(super) async fn daemon_sets(&self) -> Result<Seen<Objects>, CommandError> {
        self.list("/apis/apps/v1/daemonsets", all()).await
    }

    /// Reads ClusterRoles and ClusterRoleBindings.
    pub(super) async fn rights(&self) -> Result<Seen<Objects>, CommandError> {
        let of = async |kind: &str| self.list(&format!("{RBAC}/{kind}"), all()).await;
        let (roles, bindings) = tokio::try_join!(of("clusterroles"), of("clusterrolebindings"))?;
        Ok(roles.beside(bindings))
    }

    /// Reads the Secret that the Deployment mounts, without the private key.
    async fn serving_secret(
        &self,
        release: &Release,
        deployment: &Seen<Option<Value>>,
    ) -> Result<Seen<Option<Value>>, CommandError> {
        let Release { namespace, name, data: _ } = release;
        let deployment = match deployment {
            Seen::Known(Some(deployment)) => deployment,
            Seen::Known(None) => {
                let why = format!(
                    "the Deployment {namespace}/{name}, which names the Secret, does not exist"
                );
                return Ok(Seen::Hidden(why));
            }
            Seen::Hidden(why) => return Ok(Seen::Hidden(why.clone())),
        };
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array();
        let mut names = volumes
            .into_iter()
            .flatten()
            .filter_map(|volume| volume["secret"]["secretName"].as_str());
        let Some(name) = names.next() else { return Ok(Seen::Known(None)) };
        let path = format!("{CORE}/namespaces/{namespace}/secrets");
        let secret: Seen<Option<Value>> = self.get(&path, name).await?;
        // Drops the private key, which no check needs.
        Ok(secret.map(|secret| {
            let mut secret = secret?;
            if let Some(data) = secret["data"].as_object_mut() {
                data.retain(|key, _| key == CERTIFICATE);
            }
            Some(secret)
        }))
    }
}

/// The nodes as `kubectl get nodes` shows them.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    #[serde(default)]
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Row {
    cells: Vec<Value>,
}

impl Table {
    fn kubelets(self) -> BTreeMap<String, Nodes> {
        let column = |name: &str| self.column_definitions.iter().position(|it| it.name == name);
        let (name, version) = (column("Name"), column("Version"));
        let mut kubelets: BTreeMap<String, Nodes> = BTreeMap::new();
        for Row { cells } in &self.rows {
            let cell = |column: Option<usize>| {
                column.and_then(|column| cells.get(column)?.as_str()).unwrap_or("unknown")
            };
            let first = || Nodes { count: 0, first: cell(name).to_owned() };
            kubelets.entry(cell(version).to_owned()).or_insert_with(first).count += 1;
        }
        kubelets
    }
}

const NODES: &str = "/api/v1/nodes?includeObject=None";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Key of the Secret.
const CERTIFICATE: &str = "tls.crt";
