//! How a pod that is there compares with what a new one would become.

use std::{collections::HashMap, path::PathBuf};

use serde_json::Value;

use super::{CONTAINER_NAME, Decision, Explained, Gives, ROLE_ARN_ANNOTATION, Refusal, explain};
use crate::{
    config::{Config, Credentials, Glob},
    directory::{Directory, Role, Source},
    namespaces::{Namespace, Namespaces},
    session::RoleArn,
};

/// What one finds who decides on a pod once more.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Under whom it was judged, since who created a pod is recorded nowhere on it. Empty: nobody
    /// in particular.
    pub creator: String,
    pub compared: Compared,
    /// Who may have created it, if it is not as made, and whose pods are left alone.
    pub excused: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Compared {
    /// Deciding on it again changes nothing.
    AsMade,
    /// These places would be changed.
    Differs(Vec<String>),
    /// It runs no more, or not for long.
    Ended,
    /// It has a sidecar that a new one would not get.
    LeftOver,
    /// It has no sidecar, and a new one would get one.
    NoSidecar,
    /// A new one would not be let in.
    Refused(Refusal),
}

/// Judges a pod for what it is, and not for what is wrong around it: as if its namespace enforced
/// what the config asks for, and under the role that is published, or as long as none is known,
/// under the one that it has.
///
/// Where `creator` is not given, the pod is in order if it is so for one of those who may have
/// created it.
pub fn standing(
    pod: &Value,
    creator: Option<&str>,
    namespace: &Namespace,
    directory: &Directory,
    config: &Config,
) -> Standing {
    let again = Again {
        pod,
        namespace: &Namespace { pod_security: config.pod_security, ..namespace.clone() },
        directory: &roles(pod, namespace, directory),
        config: &as_deployed(pod, config),
    };
    let under = |creator: String| {
        let compared = again.compare(&creator);
        Standing { creator, compared, excused: None }
    };
    if has_ended(pod) {
        return Standing {
            creator: creator.unwrap_or_default().to_owned(),
            compared: Compared::Ended,
            excused: None,
        };
    }
    if let Some(creator) = creator {
        return under(creator.to_owned());
    }
    let nobody = under(String::new());
    if nobody.compared == Compared::AsMade {
        return nobody;
    }
    let mut listed = creators(config).map(|glob| under(glob.example()));
    if let Some(standing) = listed.find(|standing| standing.compared == Compared::AsMade) {
        return standing;
    }
    if nobody.compared.is_in_order() {
        return nobody;
    }
    let excused = open_to(config).find(|glob| again.compare(&glob.example()).is_in_order());
    Standing { excused: excused.map(ToString::to_string), ..nobody }
}

/// The credential sidecar of a pod.
pub fn sidecar(pod: &Value) -> Option<&Value> {
    let containers = pod["spec"]["initContainers"].as_array()?;
    containers.iter().find(|container| container["name"] == CONTAINER_NAME)
}

impl Compared {
    /// Whether nothing has to be done about it.
    pub fn is_in_order(&self) -> bool {
        matches!(self, Self::AsMade | Self::Ended | Self::LeftOver)
    }
}

struct Again<'p> {
    pod: &'p Value,
    namespace: &'p Namespace,
    directory: &'p Directory,
    config: &'p Config,
}

impl Again<'_> {
    fn compare(&self, creator: &str) -> Compared {
        let Self { pod, namespace, directory, config } = self;
        let namespaces = Namespaces::default().with((*namespace).clone());
        let name = &namespace.name;
        let Explained { decision, operations, .. } =
            explain(pod, creator, name, &namespaces, directory, config);
        let has_sidecar = sidecar(pod).is_some();
        match decision {
            Decision::Pass(_) if has_sidecar => Compared::LeftOver,
            Decision::Pass(_) => Compared::AsMade,
            Decision::Refuse(refusal) => Compared::Refused(refusal),
            Decision::Inject(_) if operations.is_empty() => Compared::AsMade,
            Decision::Inject(injection)
                if !has_sidecar && matches!(injection.gives, Gives::Sidecar(_)) =>
            {
                Compared::NoSidecar
            }
            Decision::Inject(_) => {
                let places = operations.iter().map(|operation| operation.path().to_string());
                Compared::Differs(places.collect())
            }
        }
    }
}

/// Those whose word or whose pods another rule is for.
fn creators(config: &Config) -> impl Iterator<Item = &Glob> {
    let closed = config.components.iter().filter(|component| !is_open(component.credentials));
    config.session_creators.iter().chain(closed.flat_map(|component| &component.creators))
}

/// Those whose pods keep their base credentials, whatever else they are.
fn open_to(config: &Config) -> impl Iterator<Item = &Glob> {
    let open = config.components.iter().filter(|component| is_open(component.credentials));
    open.flat_map(|component| &component.creators)
}

fn is_open(credentials: Credentials) -> bool {
    matches!(credentials, Credentials::Env | Credentials::Exempt)
}

fn has_ended(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Failed" | "Succeeded") || !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Where the config says no region, pods were given the webhook's own, which they still have.
fn as_deployed(pod: &Value, config: &Config) -> Config {
    let given = || {
        let variables = sidecar(pod)?["env"].as_array()?;
        let region = variables.iter().find(|variable| variable["name"] == "AWS_REGION")?;
        region["value"].as_str()?.parse().ok()
    };
    Config { region: config.region.clone().or_else(given), ..config.clone() }
}

fn roles(pod: &Value, namespace: &Namespace, directory: &Directory) -> Directory {
    let own = || pod["metadata"]["annotations"][ROLE_ARN_ANNOTATION].as_str()?.parse().ok();
    let role = |tenant| match directory.role(tenant) {
        Some(Role::Known(role)) => Some(role.clone()),
        Some(Role::NotFound | Role::Unreachable(_) | Role::Unusable(_)) | None => {
            own().or_else(|| NOBODY.parse::<RoleArn>().ok())
        }
    };
    let known = namespace.tenant.as_ref().ok().and_then(|tenant| {
        let role = role(tenant)?;
        Some((tenant.clone(), Role::Known(role).into()))
    });
    Directory::new(Source::File(PathBuf::new()), known.into_iter().collect::<HashMap<_, _>>())
}

/// Of a pod without a role, whose tenant's role nobody knows; only whether there is a sidecar
/// matters then.
const NOBODY: &str = "arn:aws:iam::000000000000:role/unknown";

#[cfg(test)]
mod tests {
    use json_patch::patch;
    use serde_json::json;

    use super::*;
    use crate::{config::PodSecurity, directory::Cause, namespaces::Mode};

    const ROLE: &str = "arn:aws:iam::111122223333:role/acme";
    const OPERATOR: &str = "system:serviceaccount:eks-agent-platform:operator";

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    fn namespace() -> Namespace {
        Namespace {
            mode: Some(Mode::Enabled),
            pod_security: PodSecurity::Restricted,
            ..Namespace::read("tenants-acme", |_| None, &Config::default().tenant)
        }
    }

    fn directory(role: Role) -> Directory {
        let known = HashMap::from([("acme".parse().unwrap(), role.into())]);
        Directory::new(Source::Nowhere, known)
    }

    fn known(role: &str) -> Directory {
        directory(Role::Known(role.parse().unwrap()))
    }

    fn agent() -> Value {
        json!({
            "metadata": {"name": "a", "labels": {"agents.nanohype.dev/agentsandbox": "coder-1"}},
            "spec": {"serviceAccountName": "tenant-runtime", "containers": [{"name": "agent", "image": "i"}]},
        })
    }

    /// As the webhook makes it of what this creator creates.
    fn injected(creator: &str, config: &Config) -> Value {
        let mut pod = agent();
        let namespaces = Namespaces::default().with(namespace());
        let explained = explain(&pod, creator, "tenants-acme", &namespaces, &known(ROLE), config);
        patch(&mut pod, &explained.operations).unwrap();
        assert!(sidecar(&pod).is_some());
        pod
    }

    fn stands(pod: &Value, config: &Config) -> (Compared, String) {
        let Standing { creator, compared, excused } =
            standing(pod, None, &namespace(), &known(ROLE), config);
        assert_eq!(excused, None);
        (compared, creator)
    }

    #[test]
    fn a_pod_is_in_order_for_whoever_may_have_created_it() {
        let config = config("region: eu-west-1\n");
        let nobody = (Compared::AsMade, String::new());
        assert_eq!(stands(&injected("", &config), &config), nobody);
        let listed = (Compared::AsMade, OPERATOR.to_owned());
        assert_eq!(stands(&injected(OPERATOR, &config), &config), listed);
        let pod = injected(OPERATOR, &config);
        let jane = standing(&pod, Some("jane"), &namespace(), &known(ROLE), &config);
        assert!(matches!(jane.compared, Compared::Differs(_)), "{jane:?}");
        assert_eq!(stands(&agent(), &config).0, Compared::NoSidecar);
        let mut ended = agent();
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(stands(&ended, &config).0, Compared::Ended);
    }

    #[test]
    fn a_component_by_its_creator_is_tried_too() {
        let mine = "system:serviceaccount:mine:job";
        let config = config(
            "region: eu-west-1\nfencedServiceAccounts: [other]\ncomponents: [{name: mine, creators: ['system:serviceaccount:mine:job']}, {name: rest, fenced: true}]\n",
        );
        assert_eq!(stands(&injected(mine, &config), &config), (Compared::AsMade, mine.to_owned()));
    }

    #[test]
    fn what_is_wrong_around_it_is_not_its_fault_and_no_excuse() {
        let config = config("region: eu-west-1\n");
        let (pod, bare) = (injected("", &config), agent());
        let lax = Namespace { pod_security: PodSecurity::Privileged, ..namespace() };
        let unread = directory(Role::Unreachable(Cause::Denied));
        for (namespace, directory) in
            [(&lax, known(ROLE)), (&namespace(), unread), (&namespace(), directory(Role::NotFound))]
        {
            let of = |pod: &Value| standing(pod, None, namespace, &directory, &config).compared;
            assert_eq!(of(&pod), Compared::AsMade, "{directory:?}");
            assert_eq!(of(&bare), Compared::NoSidecar, "{directory:?}");
        }
        let next = standing(&pod, None, &namespace(), &known(&format!("{ROLE}-next")), &config);
        assert!(matches!(next.compared, Compared::Differs(_)), "{next:?}");
    }

    #[test]
    fn a_region_that_only_the_webhook_knows_is_the_pods_own() {
        let pod = injected("", &config("region: eu-west-1\n"));
        assert_eq!(stands(&pod, &config("{}")).0, Compared::AsMade);
        let other = stands(&pod, &config("region: eu-central-1\n")).0;
        assert!(matches!(other, Compared::Differs(_)), "{other:?}");
    }

    #[test]
    fn whose_pods_are_left_alone_excuses_it() {
        let config = config(
            "region: eu-west-1\ncomponents: [{name: jobs, creators: ['system:serviceaccount:jobs:*'], credentials: exempt}, {name: rest, fenced: true}]\n",
        );
        let Standing { compared, excused, creator } =
            standing(&agent(), None, &namespace(), &known(ROLE), &config);
        assert!(!compared.is_in_order(), "{compared:?}");
        let want = (Some("system:serviceaccount:jobs:*"), "");
        assert_eq!((excused.as_deref(), &*creator), want);
    }
}
