//! Reads the objects of a cluster for `check` and `explain`.

use std::{error::Error, fmt, io::ErrorKind, pin::pin, time::Duration};

use anyhow::{Context, anyhow};
use axum::http;
use futures_util::AsyncReadExt;
use kube::{
    Client,
    api::{GetParams, ListParams, PostParams},
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::{Request, Status},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, value::RawValue};

use super::{CommandError, environment};
use crate::check::{Objects, Seen};

#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    server: String,
    /// The context of the command line.
    context: Option<String>,
}

impl fmt::Debug for Cluster {
    /// Omits the client, which contains credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// Connects to the cluster of the kubeconfig context, as kubectl does; in a pod without a
    /// kubeconfig, with its service account.
    pub(super) async fn connect(context: Option<&str>) -> Result<Self, CommandError> {
        let mut config = match context {
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.to_owned()),
                    ..KubeConfigOptions::default()
                };
                kube::Config::from_kubeconfig(&options).await.map_err(|error| {
                    let why = told(&error);
                    CommandError::Input(anyhow!("cannot use --context {context}: {why}"))
                })?
            }
            None => kube::Config::infer().await.map_err(|error| no_cluster(&error))?,
        };
        let server = config.cluster_url.to_string();
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        // The client would repeat a request for minutes while an API server or a webhook answers
        // 429, 503 or 504, and a creation might then make several pods.
        config.default_retry = false;
        let client = Client::try_from(config)
            .context("cannot create the Kubernetes client")
            .map_err(CommandError::Internal)?;
        Ok(Self { client, server, context: context.map(str::to_owned) })
    }

    /// Returns the namespace of the kubeconfig context.
    pub(super) fn default_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Reads a Deployment.
    pub(super) async fn deployment(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Seen<Option<Value>>, CommandError> {
        self.get(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), name).await
    }

    /// Lists the objects, page by page.
    pub(super) async fn list(
        &self,
        path: &str,
        which: ListParams,
    ) -> Result<Seen<Objects>, CommandError> {
        let mut found = Objects::default();
        let mut length = 0;
        let mut page = which.limit(PAGE);
        loop {
            let request =
                Request::new(path).list(&page).context(BUILD).map_err(CommandError::Internal)?;
            let answer = self.fetch(request).await;
            if let (Err(error), Some(limit @ 2..)) = (&answer, page.limit)
                && is_too_long(error)
            {
                page.limit = Some((limit / 10).max(1));
                continue;
            }
            let next = answer.and_then(|answer| {
                length += answer.len();
                found.add(&answer).map_err(kube::Error::SerdeError)
            });
            match self.seen(next, path)? {
                _ if length > LONGEST_LIST => {
                    return Ok(Seen::Hidden(format!(
                        "{path} has more than {} MiB of objects, the limit for one list; use kubectl get to see them",
                        LONGEST_LIST >> 20
                    )));
                }
                Seen::Known(Some(Some(next))) => page = page.continue_token(&next),
                // An API server without this kind has no objects of it.
                Seen::Known(Some(None) | None) => return Ok(Seen::Known(found)),
                Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
            }
        }
    }

    /// Reads an object; for `check` as [`RawValue`] if a tenant may have written it.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        name: &str,
    ) -> Result<Seen<Option<T>>, CommandError> {
        let request = Request::new(path).get(name, &GetParams::default());
        self.request(request.context(BUILD).map_err(CommandError::Internal)?, path).await
    }

    /// Sends the request, and reads the response.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        request: http::Request<Vec<u8>>,
        path: &str,
    ) -> Result<Seen<Option<T>>, CommandError> {
        let answer = self.send(request).await;
        let parse = |answer: Box<RawValue>| serde_json::from_str(answer.get());
        self.seen(answer.and_then(|answer| parse(answer).map_err(kube::Error::SerdeError)), path)
    }

    pub(super) async fn send(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> kube::Result<Box<RawValue>> {
        let answer = self.fetch(request).await?;
        serde_json::from_slice(&answer).map_err(kube::Error::SerdeError)
    }

    /// Returns the response, which has at most [`LONGEST_ANSWER`] bytes: tenants control the size
    /// of objects.
    async fn fetch(&self, request: http::Request<Vec<u8>>) -> kube::Result<Vec<u8>> {
        let answer = pin!(self.client.request_stream(request).await?);
        let mut most = answer.take(LONGEST_ANSWER + 1);
        let mut text = Vec::new();
        let read = most.read_to_end(&mut text).await;
        read.map_err(|error| kube::Error::Service(error.into()))?;
        if most.limit() == 0 {
            return Err(kube::Error::Service(AnswerTooLong.into()));
        }
        Ok(text)
    }

    /// Creates the object. Returns the created object, or the status with which the API server
    /// denied it.
    pub(super) async fn create(
        &self,
        path: &str,
        object: &Value,
    ) -> Result<Result<Box<RawValue>, Status>, CommandError> {
        let object = object.to_string().into_bytes();
        let request = Request::new(path).create(&PostParams::default(), object);
        match self.send(request.context(BUILD).map_err(CommandError::Internal)?).await {
            Ok(created) => Ok(Ok(created)),
            Err(kube::Error::Api(status)) => Ok(Err(*status)),
            Err(error) => Err(self.unanswered(&error, path)),
        }
    }

    /// Known(None): the object does not exist (404). Hidden: access is denied (403), or a tenant made
    /// the response unreadable.
    fn seen<T>(
        &self,
        answer: kube::Result<T>,
        path: &str,
    ) -> Result<Seen<Option<T>>, CommandError> {
        match answer {
            Ok(answer) => Ok(Seen::Known(Some(answer))),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Seen::Hidden(status.message)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Seen::Known(None)),
            Err(error) if is_too_long(&error) => {
                Ok(Seen::Hidden(format!("cannot read {path}: {AnswerTooLong}")))
            }
            Err(kube::Error::SerdeError(error)) => {
                Ok(Seen::Hidden(format!("cannot read {path}: {error}")))
            }
            Err(error) => Err(self.unanswered(&error, path)),
        }
    }

    /// Returns the address of the API server and the context, for errors. The client does not know
    /// the current context, so the kubeconfig is read again.
    fn place(&self) -> String {
        let server = &self.server;
        match self.context.clone().or_else(current_context) {
            Some(context) => format!("{} (context {context})", server.trim_end_matches('/')),
            None => server.clone(),
        }
    }

    fn unanswered(&self, error: &kube::Error, path: &str) -> CommandError {
        let place = self.place();
        CommandError::Internal(match error {
            kube::Error::Api(status) if status.code == 401 => anyhow!(
                "the API server {place} does not accept the credentials of the kubeconfig: log in again, or choose another context with --context"
            ),
            kube::Error::Api(status) => {
                anyhow!(
                    "{path}: the API server {place} responded {}: {}",
                    status.code,
                    status.message
                )
            }
            error => anyhow!(
                "cannot reach the API server {place}: {}; try kubectl cluster-info, or choose another context with --context",
                root_cause(error)
            ),
        })
    }
}

/// Returns the last cause of an error: those above it repeat it.
fn root_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn no_cluster(error: &InferConfigError) -> CommandError {
    let kubeconfig = error.source().and_then(|source| source.downcast_ref::<KubeconfigError>());
    let why = match (kubeconfig, environment("KUBERNETES_SERVICE_HOST")) {
        (Some(kubeconfig), None) => told(kubeconfig),
        // In a pod, also says why its service account cannot be used.
        (_, _) => error.to_string(),
    };
    CommandError::Input(anyhow!("no cluster: {why}; set KUBECONFIG or --context"))
}

/// The message of most of these errors contains that of their source.
fn told(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, path) if error.kind() == ErrorKind::NotFound => {
            format!("the kubeconfig {} does not exist", path.display())
        }
        KubeconfigError::ReadConfig(error, path) => {
            format!("cannot read the kubeconfig {}: {error}", path.display())
        }
        KubeconfigError::Parse(error) => {
            format!("the kubeconfig is not valid YAML: {}", error.without_snippet())
        }
        error => error.to_string(),
    }
}

fn current_context() -> Option<String> {
    Kubeconfig::read().ok()?.current_context
}

#[derive(Debug, thiserror::Error)]
#[error("the response has more than {} MiB, the limit for one response", LONGEST_ANSWER >> 20)]
struct AnswerTooLong;

fn is_too_long(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(error) if error.is::<AnswerTooLong>())
}

/// Parameters of a list without a selector.
pub(super) fn all() -> ListParams {
    ListParams::default()
}

pub(super) const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
pub(super) const CORE: &str = "/api/v1";
pub(super) const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
/// Number of objects in one response. It is reduced if the response is too long.
const PAGE: u32 = 500;
/// Maximum length of one response in bytes. etcd stores objects of at most 1.5 MiB, and 500 typical
/// pods have 8 MiB.
const LONGEST_ANSWER: u64 = 16 << 20;
/// Maximum length of all responses of one list in bytes: eight thousand typical pods.
const LONGEST_LIST: usize = 128 << 20;
/// Context of an error that a request cannot be built.
const BUILD: &str = "cannot build the request";
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    fn of_client(client: Client) -> Cluster {
        Cluster { client, server: String::new(), context: None }
    }

    /// An API server with `count` pods of 1 MiB, which returns as many per page as requested.
    fn with_pods(count: usize) -> Cluster {
        let pods = move |request: http::Request<Body>| async move {
            let number = |key: &str| {
                let pairs = request.uri().query().unwrap_or_default().split('&');
                pairs.filter_map(|pair| pair.strip_prefix(key)?.parse::<usize>().ok()).next()
            };
            let (limit, start) = (number("limit="), number("continue=").unwrap_or(0));
            let end = (start + limit.unwrap_or(count)).min(count);
            let item =
                format!(r#"{{"metadata":{{"annotations":{{"a":"{}"}}}}}}"#, "x".repeat(1 << 20));
            let items = vec![item; end - start].join(",");
            let next = if end < count { end.to_string() } else { String::new() };
            let list = format!(
                r#"{{"kind":"PodList","metadata":{{"continue":"{next}"}},"items":[{items}]}}"#
            );
            Ok::<_, Infallible>(http::Response::new(Body::from(list.into_bytes())))
        };
        of_client(Client::new(service_fn(pods), "default"))
    }

    #[tokio::test]
    async fn long_objects_are_read_in_smaller_pages() {
        let Seen::Known(pods) = with_pods(20).list("/pods", all()).await.unwrap() else {
            panic!("20 MiB are below the limit of a list")
        };
        assert_eq!(pods.of_kind("Pod").count(), 20);
    }

    #[tokio::test]
    async fn a_deeply_nested_object_can_be_listed() {
        let answer = |_: http::Request<Body>| async move {
            let nested = format!("{}0{}", "{\"f:x\":".repeat(200), "}".repeat(200));
            let list = format!(
                r#"{{"kind":"PodList","items":[{{"metadata":{{"managedFields":{nested},"name":"a"}}}}]}}"#
            );
            Ok::<_, Infallible>(http::Response::new(Body::from(list.into_bytes())))
        };
        let client = Client::new(service_fn(answer), "default");
        let cluster = of_client(client);
        let pods = cluster.list("/pods", all()).await.unwrap();
        let names: Vec<_> = pods.iter().map(|pod| pod.at("metadata").at("name").text()).collect();
        assert_eq!(names, ["\"a\""]);
    }

    #[tokio::test]
    async fn a_list_above_the_limit_is_reported_and_not_read() {
        let Seen::Hidden(why) = with_pods(140).list("/pods", all()).await.unwrap() else {
            panic!("140 MiB were read")
        };
        assert!(why.contains("more than 128 MiB") && why.contains("/pods"), "{why}");
    }
}
