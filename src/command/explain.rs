//! `explain`: what becomes of a pod, and why, by the webhook's own decision.

use std::{collections::HashSet, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use kube::{
    Client,
    core::{Request, params::GetParams},
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    Failure,
    explanation::{Creator, Explanation, Subject, Verdict},
    files,
    offline::{self, Assumed, say},
    print, snapshots,
};
use crate::{
    admission::{self, Explained, Missing},
    cli::{Explain, Format, PodName},
    config::Config,
    directory::{Directory, Source, keeper::Handle},
    manifest::PodIn,
    namespaces::{Namespace, NamespaceName, Namespaces},
};

pub(super) fn run(arguments: &Explain) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Ours)?;
    runtime.block_on(run_async(arguments))
}

async fn run_async(arguments: &Explain) -> Result<ExitCode, Failure> {
    let mut config = files::config(arguments.config.as_deref()).map_err(Failure::Input)?;
    if arguments.region.is_some() {
        config.region.clone_from(&arguments.region);
    }
    let mut tasks = JoinSet::new();
    let (_wanted, nobody) = watch::channel(HashSet::new());
    let roles = match &arguments.roles {
        Some(path) => from_file(path, &config).map_err(Failure::Input)?,
        None if config.roles.ssm.is_none() && config.roles.file.is_none() => {
            return Err(Failure::Input(anyhow!(
                "nothing says where roles are published: give --roles, or by --config the webhook's config file"
            )));
        }
        None => snapshots::follow_roles(&config, nobody, &mut tasks).await?,
    };
    let judge = Judge { config: &config, roles };
    let explanations = match &arguments.pod {
        Some(pod) => vec![judge.standing(pod, arguments).await?],
        None => judge.proposed(arguments).await?,
    };
    let output: String = match arguments.output {
        Format::Json => explanations.iter().map(Explanation::json).collect(),
        Format::Text => explanations.iter().map(ToString::to_string).collect(),
    };
    let printed = print(&output)?;
    let worst = explanations.iter().map(Explanation::verdict).max();
    Ok(match worst {
        _ if printed != ExitCode::SUCCESS => printed,
        Some(Verdict::Wrong) => ExitCode::from(1),
        Some(Verdict::Undecided) => ExitCode::from(3),
        Some(Verdict::Fine) | None => ExitCode::SUCCESS,
    })
}

fn from_file(path: &Path, config: &Config) -> anyhow::Result<Handle> {
    let directory = Directory::new(Source::File(path.to_owned()), files::roles(path, config)?);
    Ok(Handle::fixed(Arc::new(ArcSwap::from_pointee(directory))))
}

/// What decisions go by.
struct Judge<'c> {
    config: &'c Config,
    roles: Handle,
}

impl Judge<'_> {
    /// A pod of the cluster, as it stands there.
    async fn standing(&self, pod: &PodName, arguments: &Explain) -> Result<Explanation, Failure> {
        let client = Client::try_default()
            .await
            .context("no API server to ask for the pod")
            .map_err(Failure::Ours)?;
        let name = match &arguments.namespace {
            Some(name) => name.as_str().to_owned(),
            None => client.default_namespace().to_owned(),
        };
        let object = get(&client, "/api/v1/namespaces", &name).await?;
        let namespace = files::namespace(&object, self.config).map_err(Failure::Ours)?;
        let pods = format!("/api/v1/namespaces/{name}/pods");
        let pod = get(&client, &pods, pod.as_str()).await?;

        let judged = async |creator: Creator| {
            let explained = self.explain(&pod, creator.as_str(), &namespace).await;
            let (pod, roles) = (Subject::Standing(&pod), self.roles.snapshot());
            Explanation::new(pod, &namespace, creator, explained, &roles)
        };
        if let Some(creator) = &arguments.creator {
            return Ok(judged(Creator::Given(creator.clone())).await);
        }
        // Who created a pod is recorded nowhere on it. Where that decides over the session's
        // name, what stands on the pod shows whether it was a listed creator.
        let by_nobody = judged(Creator::Unknown).await;
        if !by_nobody.hangs_on_creator() {
            return Ok(by_nobody);
        }
        for glob in &self.config.session_creators {
            let by_listed = judged(Creator::Likely(glob.example())).await;
            if by_listed.stands_as_made() {
                return Ok(by_listed);
            }
        }
        Ok(by_nobody)
    }

    /// The pods and pod templates of a manifest, if somebody created them.
    async fn proposed(&self, arguments: &Explain) -> Result<Vec<Explanation>, Failure> {
        let mut explanations = Vec::new();
        for path in &arguments.filename {
            let before = explanations.len();
            let (objects, source) = offline::objects(path).map_err(Failure::Input)?;
            let assumed = Assumed::read(&objects, arguments.tenant.as_ref(), self.config)
                .map_err(Failure::Input)?;
            for object in &objects {
                let Some(found) = PodIn::find(object) else { continue };
                let name = offline::namespace_of(object, &found, arguments.namespace.as_ref())
                    .map_err(Failure::Input)?;
                explanations.push(self.one(object, &found, &name, &assumed, arguments).await);
            }
            if explanations.len() == before {
                say(&format!("{source} holds no pod and no pod template"));
            }
            assumed.say_what_was_assumed();
        }
        Ok(explanations)
    }

    async fn one(
        &self,
        object: &Value,
        found: &PodIn,
        name: &NamespaceName,
        assumed: &Assumed,
        arguments: &Explain,
    ) -> Explanation {
        let creator = arguments.creator.clone().map_or(Creator::Unknown, Creator::Given);
        let namespace = assumed.namespace(name.as_str());
        let explained = self.explain(&found.pod, creator.as_str(), &namespace).await;
        let (object, roles) = (Subject::Proposed(object), self.roles.snapshot());
        Explanation::new(object, &namespace, creator, explained, &roles)
    }

    /// As a review is answered: a role that is missing is looked up once.
    async fn explain(&self, pod: &Value, creator: &str, namespace: &Namespace) -> Explained<'_> {
        let (name, namespaces) = (&namespace.name, Namespaces::default().with(namespace.clone()));
        let once = || {
            let roles = self.roles.snapshot();
            admission::explain(pod, creator, name, &namespaces, &roles, self.config)
        };
        let explained = once();
        let Some(Missing::Role(tenant)) = explained.missing else { return explained };
        // What it did not bring in time is refused as unknown.
        let _ = timeout(LOOKUP, self.roles.look_up(tenant)).await;
        once()
    }
}

async fn get(client: &Client, path: &str, name: &str) -> Result<Value, Failure> {
    let what = format!("{path}/{name}");
    let request = Request::new(path)
        .get(name, &GetParams::default())
        .map_err(|error| Failure::Ours(anyhow!(error).context(format!("cannot ask for {what}"))))?;
    match timeout(CALL, client.request::<Value>(request)).await {
        Ok(Ok(object)) => Ok(object),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            Err(Failure::Input(anyhow!("the cluster has no {what}")))
        }
        Ok(Err(error)) => Err(Failure::Ours(anyhow!(error).context(format!("cannot read {what}")))),
        Err(_) => Err(Failure::Ours(anyhow!("the API server does not answer within {CALL:?}"))),
    }
}

/// As long as a review's.
const LOOKUP: Duration = Duration::from_secs(3);
/// A person waits for it.
const CALL: Duration = Duration::from_secs(15);
