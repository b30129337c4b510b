//! `explain`: the webhook's decision for a pod, and the reasons.

mod explanation;
mod sandbox;
mod workload;

use std::{collections::HashSet, path::Path, process::ExitCode, time::Duration};

use anyhow::anyhow;
use jiff::Timestamp;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use self::explanation::{Explanation, RequestingUser, SeenByIssuer, Subject, Verdict};
use super::{
    CommandError,
    cluster::{ADMISSION, CORE, Cluster},
    files,
    installed::{self, Installed, Release},
    offline::{self, Assumed, Coverage},
    output, print, roles, runtime, say,
};
use crate::{
    admission::{self, Explained, Missing},
    check::Seen,
    cli::{Explain, Format, PodOrWorkload},
    config::{Component, Config, Matched, Matcher},
    issuer::GuardRule,
    json::Json,
    manifest::{Maker, PodIn},
    namespaces::{Namespace, NamespaceName, Namespaces, OPT_IN_LABEL, TRANSPORT_LABEL},
    roles::{Roles, Source, refresher::RolesHandle},
    session::TenantName,
};

pub(super) fn run(arguments: &Explain) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(run_async(arguments))
}

async fn run_async(arguments: &Explain) -> Result<ExitCode, CommandError> {
    // Tasks in `learner` update roles until it is dropped. No tenant is wanted: each role is looked
    // up when a pod needs it.
    let (_sender, wanted) = watch::channel(HashSet::new());
    let mut learner = Learner { tasks: JoinSet::new(), wanted };
    let explanations = match &arguments.pod {
        Some(pod) => vec![existing(pod, arguments, &mut learner).await?],
        None => {
            let config = files::config(arguments.config.as_deref()).map_err(CommandError::Input)?;
            Explainer::new(config, None, arguments, &mut learner).await?.proposed(arguments).await?
        }
    };
    let text: String = match arguments.output {
        Format::Json => explanations.iter().map(|it| output::object("Explanation", it)).collect(),
        Format::Text => explanations.iter().map(ToString::to_string).collect(),
    };
    let printed = print(&text)?;
    let worst = explanations.iter().map(Explanation::verdict).max();
    Ok(match worst {
        _ if printed != ExitCode::SUCCESS => printed,
        Some(Verdict::Wrong) => ExitCode::from(1),
        Some(Verdict::Undecided) => ExitCode::from(3),
        Some(Verdict::Fine) | None => ExitCode::SUCCESS,
    })
}

/// Explains a pod of the cluster, and compares it with current injection.
async fn existing(
    pod: &PodOrWorkload,
    arguments: &Explain,
    learner: &mut Learner,
) -> Result<Explanation, CommandError> {
    let cluster = Cluster::connect(arguments.installation.context.as_deref()).await?;
    let (config, release) = match &arguments.config {
        Some(file) => (files::config(Some(file)).map_err(CommandError::Input)?, None),
        None => {
            let Installed { config, configurations: _, release } =
                installed::find(&cluster, &arguments.installation, None).await?;
            (config, Some(release))
        }
    };
    let explainer = Explainer::new(config, release.as_ref(), arguments, learner).await?;
    let name =
        arguments.namespace.as_ref().map_or(cluster.default_namespace(), NamespaceName::as_str);
    let object = get(&cluster, &format!("{CORE}/namespaces"), name).await?;
    let namespace = files::namespace(&object, &explainer.config).map_err(CommandError::Internal)?;
    let label = object["metadata"]["labels"][OPT_IN_LABEL].as_str();
    if let (None, Some(label)) = (namespace.mode, label) {
        say(&format!(
            "namespace {name} has {OPT_IN_LABEL}={label}, which has no effect; valid values are enabled and audit"
        ));
    }
    let label = object["metadata"]["labels"][TRANSPORT_LABEL].as_str();
    if let (None, Some(label)) = (namespace.transport, label) {
        say(&format!(
            "namespace {name} has {TRANSPORT_LABEL}={label}, which has no effect; valid values are role-chain and web-identity"
        ));
    }
    let pod = match pod {
        PodOrWorkload::Pod(pod) => pod.as_str().to_owned(),
        PodOrWorkload::Workload { kind, name: workload } => {
            workload::newest_pod(&cluster, *kind, name, workload.as_str()).await?
        }
    };
    let pod = get(&cluster, &format!("{CORE}/namespaces/{name}/pods"), &pod).await?;
    let seen = SeenByIssuer {
        guard_since: match &explainer.config.issuer {
            Some(issuer) => guard(&cluster, &GuardRule::of_audience(&issuer.audience)).await?,
            None => Seen::Known(None),
        },
        sandbox: sandbox::session(&cluster, &pod, &explainer.config).await?,
    };
    Ok(explainer.existing(&pod, &namespace, arguments.creator.as_deref(), seen).await)
}

/// Returns since when a rule of the guard denies.
async fn guard(
    cluster: &Cluster,
    rule: &GuardRule,
) -> Result<Seen<Option<Timestamp>>, CommandError> {
    let get = async |kind: &str, name: &str| -> Result<Seen<Option<Box<RawValue>>>, CommandError> {
        cluster.get(&format!("{ADMISSION}/{kind}"), name).await
    };
    let policy = get("validatingadmissionpolicies", rule.policy).await?;
    let binding = get("validatingadmissionpolicybindings", &rule.binding).await?;
    Ok(match (policy, binding) {
        (Seen::Hidden(why), _) | (_, Seen::Hidden(why)) => Seen::Hidden(why),
        (Seen::Known(policy), Seen::Known(binding)) => {
            let both = policy.zip(binding);
            Seen::Known(both.and_then(|(policy, binding)| {
                rule.since(Json::from(&*policy), Json::from(&*binding))
            }))
        }
    })
}

async fn get(cluster: &Cluster, path: &str, name: &str) -> Result<Value, CommandError> {
    match cluster.get(path, name).await? {
        Seen::Known(Some(object)) => Ok(object),
        Seen::Known(None) => {
            let what = path.trim_start_matches(CORE).trim_start_matches('/');
            Err(CommandError::Input(anyhow!("{what}/{name} does not exist in the cluster")))
        }
        Seen::Hidden(why) => {
            Err(CommandError::Internal(anyhow!("cannot read {path}/{name}: {why}")))
        }
    }
}

fn from_file(path: &Path, config: &Config) -> anyhow::Result<RolesHandle> {
    let roles = files::roles(path, config)?;
    Ok(roles::fixed(Roles::new(Source::File(path.to_owned()), roles)))
}

/// The tasks that update roles, and the tenants whose roles are wanted.
struct Learner {
    tasks: JoinSet<()>,
    wanted: watch::Receiver<HashSet<TenantName>>,
}

/// The inputs of a decision that are the same for all pods.
struct Explainer {
    config: Config,
    roles: RolesHandle,
}

impl Explainer {
    /// `release` is the release that the config is from. None: it is from a file, or the default.
    async fn new(
        mut config: Config,
        release: Option<&Release>,
        arguments: &Explain,
        learner: &mut Learner,
    ) -> Result<Self, CommandError> {
        if arguments.region.is_some() {
            config.region.clone_from(&arguments.region);
        }
        let Learner { tasks, wanted } = learner;
        let wanted = wanted.clone();
        let roles = match (&arguments.roles, release) {
            (Some(path), _) => from_file(path, &config).map_err(CommandError::Input)?,
            (None, _) if config.roles.ssm.is_none() && config.roles.file.is_none() => {
                return Err(CommandError::Input(anyhow!(NO_ROLES)));
            }
            (None, Some(_)) => installed::roles(&config, release, wanted, tasks).await?,
            (None, None) => roles::follow(&config, None, wanted, tasks).await?,
        };
        Ok(Self { config, roles })
    }

    async fn existing(
        &self,
        pod: &Value,
        namespace: &Namespace,
        given: Option<&str>,
        seen: SeenByIssuer,
    ) -> Explanation {
        // The comparison needs the role of the tenant for every requesting user.
        if let (Some(_), Ok(tenant)) = (namespace.mode, &namespace.tenant) {
            let _ = timeout(LOOKUP, self.roles.look_up(tenant.clone())).await;
        }
        let roles = self.roles.snapshot();
        // A parsed pod can be written as JSON.
        let text = to_raw_value(pod).unwrap_or_default();
        let drift = admission::drift((&*text).into(), given, namespace, &roles, &self.config);
        let (creator, name) = match (given, &drift.assumed_creator) {
            (Some(name), _) => (RequestingUser::Given(name.to_owned()), name.to_owned()),
            (None, Some(glob)) => {
                (RequestingUser::Assumed(glob.to_string()), glob.example().to_owned())
            }
            (None, None) => (RequestingUser::Unknown, String::new()),
        };
        let explained = self.explain(pod, &name, namespace).await;
        let subject = Subject::Existing { pod, drift, seen };
        Explanation::new(subject, namespace, creator, explained, &roles, &self.config)
    }

    /// Explains the pods and pod templates of the manifests, as if they were created now.
    async fn proposed(&self, arguments: &Explain) -> Result<Vec<Explanation>, CommandError> {
        let mut explanations = Vec::new();
        let objects = offline::objects(&arguments.filename).map_err(CommandError::Input)?;
        let assumed = Assumed::read(&objects, arguments.tenant.as_ref(), &self.config)
            .map_err(CommandError::Input)?;
        let creator = arguments.creator.as_deref().unwrap_or_default();
        let mut coverage = Coverage::default();
        for object in &objects {
            let pods = PodIn::find(object);
            coverage.see(object, &pods, creator);
            for found in &pods {
                let name = offline::namespace_of(object, found, arguments.namespace.as_ref())
                    .map_err(CommandError::Input)?;
                explanations.push(self.one(object, found, &name, &assumed, arguments).await);
            }
        }
        coverage.say();
        assumed.say_what_they_decided();
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
        let creator =
            arguments.creator.clone().map_or(RequestingUser::Unknown, RequestingUser::Given);
        let namespace = assumed.namespace(name.as_str());
        let explained = self.explain(&found.pod, creator.as_str(), &namespace).await;
        let possible = match &creator {
            RequestingUser::Unknown if namespace.mode.is_some() => {
                self.before(explained.matched, found)
            }
            RequestingUser::Assumed(_) | RequestingUser::Given(_) | RequestingUser::Unknown => {
                Vec::new()
            }
        };
        let (object, roles) = (Subject::Proposed(object, possible), self.roles.snapshot());
        Explanation::new(object, &namespace, creator, explained, &roles, &self.config)
    }

    /// Returns the components before the matched one that a requesting user makes match: any user,
    /// or the controller that creates the pods of the object.
    fn before<'c>(&'c self, matched: Option<Matched<'_>>, found: &PodIn) -> Vec<Matched<'c>> {
        let is_matched = |component: &&Component| {
            matched.is_some_and(|matched| matched.component.name == component.name)
        };
        let before = self.config.components.iter().take_while(|component| !is_matched(component));
        let possible = before.flat_map(|component| {
            let globs = component.creators.iter();
            globs.map(move |glob| Matched { component, matcher: Matcher::Creator(glob) })
        });
        let may_create = |matched: &Matched<'_>| match (found.maker(), matched.matcher) {
            (Maker::Controller(user), Matcher::Creator(glob)) => glob.matches(user),
            (Maker::Controller(_) | Maker::Other | Maker::User, _) => true,
        };
        possible.filter(may_create).collect()
    }

    /// Decides as for a review: a missing role is looked up once.
    async fn explain(&self, pod: &Value, creator: &str, namespace: &Namespace) -> Explained<'_> {
        let (name, namespaces) = (&namespace.name, Namespaces::default().with(namespace.clone()));
        let once = || {
            let roles = self.roles.snapshot();
            admission::explain(pod, creator, name, &namespaces, &roles, &self.config)
        };
        let explained = once();
        let Some(Missing::Role(tenant)) = explained.missing() else { return explained };
        // A role that is not read in time counts as unknown, and the pod is refused.
        let _ = timeout(LOOKUP, self.roles.look_up(tenant)).await;
        once()
    }
}

/// Time limit of one lookup, the same as for a review.
const LOOKUP: Duration = Duration::from_secs(3);
const NO_ROLES: &str =
    "no source of roles is configured: set --roles, or set --config to the webhook's config file";
