//! How a pod that is there compares with what a new one would become.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::{CONTAINER_NAME, Decision, Explained, Gives, ROLE_ARN_ANNOTATION, Refusal, explain};
use crate::{
    config::{Config, Credentials, Glob, Matched, Matcher},
    directory::{Directory, Role, Source},
    namespaces::{Namespace, Namespaces},
    session::RoleArn,
};

/// What one finds who decides on a pod once more.
#[derive(Clone, Debug)]
pub struct Standing {
    pub compared: Compared,
    /// The rule of the config for whose creator the pod is nearest to as made, since who created it
    /// is recorded nowhere on it. None: it is so for nobody in particular.
    pub likely: Option<Glob>,
    /// Whose pods are left alone, and who may have created it, if it is not as made.
    pub excused: Option<Glob>,
}

/// `explain` prints it as it stands here, so that the names are API.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "at")]
pub enum Compared {
    /// Deciding on it again changes nothing.
    AsMade,
    /// These places would be changed.
    Differs(Vec<String>),
    /// It runs no more, or for minutes at most.
    Ended,
    /// It has a sidecar that a new one would not get.
    LeftOver,
    /// It has no sidecar, and a new one would get one.
    NoSidecar,
    /// A new one would not be let in.
    Refused(#[serde(skip_serializing)] Refusal),
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
    let standing = |compared| Standing { compared, likely: None, excused: None };
    if has_ended(pod) {
        return standing(Compared::Ended);
    }
    let secured = Namespace { pod_security: config.pod_security, ..namespace.clone() };
    let again = Again {
        pod,
        namespace: &namespace.name,
        namespaces: &Namespaces::default().with(secured),
        directory: &roles(pod, namespace, directory),
        config: &as_deployed(pod, config),
    };
    let (compared, _) = again.compare(creator.unwrap_or_default());
    if creator.is_some() || compared == Compared::AsMade {
        return standing(compared);
    }
    let creators = || config.components.iter().flat_map(|component| &component.creators);
    let listed = config.session_creators.iter().chain(creators());
    let mut nearest = standing(compared);
    for glob in listed {
        let (compared, left_alone) = again.compare(glob.example());
        if !left_alone && compared.distance() < nearest.compared.distance() {
            nearest = Standing { likely: Some(glob.clone()), ..standing(compared) };
        }
        if nearest.compared == Compared::AsMade {
            break;
        }
    }
    if nearest.compared.is_in_order() {
        return nearest;
    }
    let excuses = |glob: &&Glob| again.compare(glob.example()) == (Compared::AsMade, true);
    Standing { excused: creators().find(excuses).cloned(), ..nearest }
}

/// The credential sidecar of a pod.
pub fn sidecar(pod: &Value) -> Option<&Value> {
    let containers = pod["spec"]["initContainers"].as_array()?;
    containers.iter().find(|container| container["name"] == CONTAINER_NAME)
}

impl Compared {
    /// From as made, and only to be compared.
    fn distance(&self) -> usize {
        match self {
            Self::AsMade => 0,
            Self::Differs(places) => places.len(),
            Self::Ended | Self::LeftOver | Self::NoSidecar | Self::Refused(_) => usize::MAX,
        }
    }

    /// Whether nothing has to be done about it.
    pub fn is_in_order(&self) -> bool {
        matches!(self, Self::AsMade | Self::Ended | Self::LeftOver)
    }
}

struct Again<'p> {
    pod: &'p Value,
    namespace: &'p str,
    namespaces: &'p Namespaces,
    directory: &'p Directory,
    config: &'p Config,
}

impl Again<'_> {
    /// And whether its creator is why the pod is left alone.
    fn compare(&self, creator: &str) -> (Compared, bool) {
        let Self { pod, namespace, namespaces, directory, config } = self;
        let Explained { decision, matched, operations, .. } =
            explain(pod, creator, namespace, namespaces, directory, config);
        let left_alone = matched.is_some_and(|Matched { component, matcher }| {
            matches!(matcher, Matcher::Creator(_))
                && matches!(component.credentials, Credentials::Env | Credentials::Exempt)
        });
        let has_sidecar = sidecar(pod).is_some();
        let compared = match decision {
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
        };
        (compared, left_alone)
    }
}

/// A pod that is deleted runs on as long as it was given to end, which may be years.
fn has_ended(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
    matches!(phase, "Failed" | "Succeeded") || grace.is_some_and(|seconds| seconds <= SOON)
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
    Directory::new(Source::Nowhere, known.into_iter().collect::<HashMap<_, _>>())
}

/// In seconds; ten times what a pod has by default.
const SOON: u64 = 300;
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

    /// And for whose creator it is as made.
    fn stands(pod: &Value, config: &Config) -> (Compared, String) {
        let Standing { compared, likely, excused } =
            standing(pod, None, &namespace(), &known(ROLE), config);
        assert!(excused.is_none(), "{excused:?}");
        (compared, likely.map(|glob| glob.to_string()).unwrap_or_default())
    }

    #[test]
    fn a_pod_is_in_order_for_whoever_may_have_created_it() {
        let config = config("region: eu-west-1\n");
        let nobody = (Compared::AsMade, String::new());
        assert_eq!(stands(&injected("", &config), &config), nobody);
        let listed = (Compared::AsMade, OPERATOR.to_owned());
        assert_eq!(stands(&injected(OPERATOR, &config), &config), listed);
        let pod = injected(OPERATOR, &config);
        // What changed since does not make it somebody else's.
        let next = known(&format!("{ROLE}-next"));
        let Standing { compared, likely, excused: _ } =
            standing(&pod, None, &namespace(), &next, &config);
        assert!(matches!(compared, Compared::Differs(_)), "{compared:?}");
        assert_eq!(likely.unwrap().to_string(), OPERATOR);
        let jane = standing(&pod, Some("jane"), &namespace(), &known(ROLE), &config);
        assert!(matches!(jane.compared, Compared::Differs(_)), "{jane:?}");
        assert_eq!(stands(&agent(), &config).0, Compared::NoSidecar);
    }

    #[test]
    fn a_pod_that_has_long_to_end_runs() {
        let config = config("region: eu-west-1\n");
        let deleted = |seconds: u64| {
            json!({"metadata": {
                "deletionTimestamp": "2026-11-01T00:00:00Z", "deletionGracePeriodSeconds": seconds,
            }})
        };
        let cases = [
            (json!({"status": {"phase": "Succeeded"}}), Compared::Ended),
            (json!({"status": {"phase": "Failed"}}), Compared::Ended),
            (deleted(30), Compared::Ended),
            (deleted(315_360_000), Compared::NoSidecar),
        ];
        for (more, want) in cases {
            let mut pod = agent();
            json_patch::merge(&mut pod, &more);
            assert_eq!(stands(&pod, &config).0, want, "{more}");
        }
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
    fn an_account_of_its_namespace_made_no_pod_as_a_listed_one() {
        let of = |glob: &str, creator: &str| {
            let config = config(&format!("region: eu-west-1\nsessionCreators: ['{glob}']\n"));
            stands(&injected(creator, &config), &config)
        };
        let elsewhere = "system:serviceaccount:tenants-acmes:operator";
        for glob in ["system:serviceaccount:tenants-acme*:operator", "system:serviceaccount:*"] {
            assert_eq!(of(glob, elsewhere), (Compared::AsMade, glob.to_owned()), "{glob}");
        }
        let own = "system:serviceaccount:tenants-acme:operator";
        for glob in ["system:serviceaccount:tenants-acme:*", own, "system:serviceaccount:*"] {
            assert_eq!(of(glob, own), (Compared::AsMade, String::new()), "{glob}");
        }
    }

    /// It would have left a pod of its own namespace alone, too, if it were on a list there.
    #[test]
    fn an_account_of_its_namespace_excuses_nothing() {
        for (glob, excused) in [
            ("system:serviceaccount:tenants-acme:*", false),
            ("system:serviceaccount:tenants-acme*:jobs", true),
        ] {
            let config = config(&format!(
                "region: eu-west-1\ncomponents: [{{name: jobs, creators: ['{glob}'], credentials: exempt}}, {{name: rest, fenced: true}}]\n",
            ));
            let standing = standing(&agent(), None, &namespace(), &known(ROLE), &config);
            assert_eq!(standing.compared, Compared::NoSidecar, "{glob}");
            assert_eq!(standing.excused.is_some(), excused, "{glob}");
        }
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
        let of = |pod: &Value| standing(pod, None, &namespace(), &known(ROLE), &config);
        let Standing { compared, likely, excused } = of(&agent());
        assert_eq!((compared, likely.is_none()), (Compared::NoSidecar, true));
        assert_eq!(excused.unwrap().to_string(), "system:serviceaccount:jobs:*");
        // They would have left it without a sidecar.
        let mut old = injected("", &config);
        old["spec"]["initContainers"][0]["image"] = json!("sidecar:old");
        let Standing { compared, likely: _, excused } = of(&old);
        assert!(matches!(compared, Compared::Differs(_)) && excused.is_none(), "{excused:?}");
    }

    /// Whoever may name sessions, or creates another component's pods, may be left alone as well.
    #[test]
    fn who_is_left_alone_is_an_excuse_and_no_proof() {
        for text in [
            "components: [{name: ci, creators: ['system:serviceaccount:ci:*'], credentials: exempt}, {name: job, creators: ['system:serviceaccount:ci:job']}, {name: rest, fenced: true}]\n",
            "sessionCreators: ['ci']\ncomponents: [{name: ci, creators: [ci], credentials: exempt}, {name: rest, fenced: true}]\n",
        ] {
            let config = config(text);
            let Standing { compared, likely, excused } =
                standing(&agent(), None, &namespace(), &known(ROLE), &config);
            assert_eq!((compared, likely.is_none()), (Compared::NoSidecar, true), "{text}");
            assert!(excused.is_some(), "{text}");
        }
    }
}
