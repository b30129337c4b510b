//! Compares an existing pod with the pod that the webhook would make now.

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

/// The drift of an existing pod.
#[derive(Clone, Debug)]
pub struct Standing {
    pub compared: Compared,
    /// The user rule of the config under which the pod differs least. A pod does not record the
    /// user that requested it, so all rules are tried. `None`: no rule gives a smaller difference.
    pub likely: Option<Glob>,
    /// A user rule whose pods stay unchanged, if the pod differs: such a user may have requested
    /// it.
    pub excused: Option<Glob>,
}

/// The result of the comparison. `explain` prints these names, so they are API.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status", content = "paths")]
pub enum Compared {
    /// The webhook would change nothing.
    #[serde(rename = "up-to-date")]
    AsMade,
    /// The webhook would change these paths.
    #[serde(rename = "changed")]
    Differs(Vec<String>),
    /// The pod has terminated, or terminates within minutes.
    Ended,
    /// The pod has a sidecar that a new pod would not get.
    #[serde(rename = "orphaned")]
    LeftOver,
    /// The pod has no sidecar, and a new pod would get one.
    #[serde(rename = "not-injected")]
    NoSidecar,
    /// A new pod would be refused.
    #[serde(rename = "would-be-refused")]
    Refused(#[serde(skip_serializing)] Refusal),
}

/// Compares a pod with the pod that the webhook would make now.
///
/// Faults outside the pod do not count. The comparison assumes that the namespace enforces the
/// config's `podSecurity`. It uses the published role, or without a usable one the role in the
/// pod's annotation.
///
/// Without `creator`, the pod counts as unchanged if it is unchanged for one of the users that may
/// have requested it.
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

/// Returns the credential sidecar of a pod.
pub fn sidecar(pod: &Value) -> Option<&Value> {
    let containers = pod["spec"]["initContainers"].as_array()?;
    containers.iter().find(|container| container["name"] == CONTAINER_NAME)
}

impl Compared {
    /// Returns the number of differences, to order results.
    fn distance(&self) -> usize {
        match self {
            Self::AsMade => 0,
            Self::Differs(places) => places.len(),
            Self::Ended | Self::LeftOver | Self::NoSidecar | Self::Refused(_) => usize::MAX,
        }
    }

    /// Returns whether the pod needs no action.
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
    /// Returns the result, and whether the pod stays unchanged because of `creator`.
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

/// Returns whether the pod has terminated or terminates soon. A deleted pod runs until the end of
/// its grace period, which may take years.
fn has_ended(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
    matches!(phase, "Failed" | "Succeeded") || grace.is_some_and(|seconds| seconds <= SOON)
}

/// Returns the config with the region of the pod's sidecar if it sets none: the webhook then uses
/// its own region, which the caller does not know.
fn as_deployed(pod: &Value, config: &Config) -> Config {
    let given = || {
        let variables = sidecar(pod)?["env"].as_array()?;
        let region = variables.iter().find(|variable| variable["name"] == "AWS_REGION")?;
        region["value"].as_str()?.parse().ok()
    };
    Config { region: config.region.clone().or_else(given), ..config.clone() }
}

/// Returns the role of the namespace's tenant: the published one, else that of the pod's
/// annotation, else a placeholder.
fn roles(pod: &Value, namespace: &Namespace, directory: &Directory) -> Directory {
    let own = || pod["metadata"]["annotations"][ROLE_ARN_ANNOTATION].as_str()?.parse().ok();
    let role = |tenant| match directory.role(tenant) {
        Some(Role::Known(role)) => Some(role.clone()),
        Some(Role::NotFound | Role::Unreachable(_) | Role::Unusable(_)) | None => {
            own().or_else(|| UNKNOWN_ROLE.parse::<RoleArn>().ok())
        }
    };
    let known = namespace.tenant.as_ref().ok().and_then(|tenant| {
        let role = role(tenant)?;
        Some((tenant.clone(), Role::Known(role).into()))
    });
    Directory::new(Source::Nowhere, known.into_iter().collect::<HashMap<_, _>>())
}

/// Maximum grace period of a pod that counts as terminated, in seconds: ten times the default.
const SOON: u64 = 300;
/// Role of a pod that has none, if the tenant's role is unknown. The comparison then only depends
/// on whether the pod has a sidecar.
const UNKNOWN_ROLE: &str = "arn:aws:iam::000000000000:role/unknown";

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

    /// Returns the agent's pod as the webhook makes it for this user.
    fn injected(creator: &str, config: &Config) -> Value {
        let mut pod = agent();
        let namespaces = Namespaces::default().with(namespace());
        let explained = explain(&pod, creator, "tenants-acme", &namespaces, &known(ROLE), config);
        patch(&mut pod, &explained.operations).unwrap();
        assert!(sidecar(&pod).is_some());
        pod
    }

    /// Returns the result, and the user rule that it assumes.
    fn stands(pod: &Value, config: &Config) -> (Compared, String) {
        let Standing { compared, likely, excused } =
            standing(pod, None, &namespace(), &known(ROLE), config);
        assert!(excused.is_none(), "{excused:?}");
        (compared, likely.map(|glob| glob.to_string()).unwrap_or_default())
    }

    #[test]
    fn a_pod_is_up_to_date_for_a_possible_requesting_user() {
        let config = config("region: eu-west-1\n");
        let no_rule = (Compared::AsMade, String::new());
        assert_eq!(stands(&injected("", &config), &config), no_rule);
        let listed = (Compared::AsMade, OPERATOR.to_owned());
        assert_eq!(stands(&injected(OPERATOR, &config), &config), listed);
        let pod = injected(OPERATOR, &config);
        // A later change does not change the assumed user.
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
    fn a_pod_with_a_long_grace_period_counts_as_running() {
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
    fn the_creators_of_a_component_are_tried_too() {
        let mine = "system:serviceaccount:mine:job";
        let config = config(
            "region: eu-west-1\nfencedServiceAccounts: [other]\ncomponents: [{name: mine, creators: ['system:serviceaccount:mine:job']}, {name: rest, fenced: true}]\n",
        );
        assert_eq!(stands(&injected(mine, &config), &config), (Compared::AsMade, mine.to_owned()));
    }

    #[test]
    fn an_account_of_the_namespace_is_not_assumed() {
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

    /// A service account of the pod's own namespace matches no user rule, so such a rule excuses no
    /// pod.
    #[test]
    fn an_account_of_the_namespace_gives_no_exemption() {
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
    fn faults_outside_the_pod_do_not_change_its_status() {
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
    fn a_pod_keeps_its_region_if_the_config_has_none() {
        let pod = injected("", &config("region: eu-west-1\n"));
        assert_eq!(stands(&pod, &config("{}")).0, Compared::AsMade);
        let other = stands(&pod, &config("region: eu-central-1\n")).0;
        assert!(matches!(other, Compared::Differs(_)), "{other:?}");
    }

    #[test]
    fn an_exempt_creator_is_a_possible_exemption() {
        let config = config(
            "region: eu-west-1\ncomponents: [{name: jobs, creators: ['system:serviceaccount:jobs:*'], credentials: exempt}, {name: rest, fenced: true}]\n",
        );
        let of = |pod: &Value| standing(pod, None, &namespace(), &known(ROLE), &config);
        let Standing { compared, likely, excused } = of(&agent());
        assert_eq!((compared, likely.is_none()), (Compared::NoSidecar, true));
        assert_eq!(excused.unwrap().to_string(), "system:serviceaccount:jobs:*");
        // A pod of such a user has no sidecar, and this one has.
        let mut old = injected("", &config);
        old["spec"]["initContainers"][0]["image"] = json!("sidecar:old");
        let Standing { compared, likely: _, excused } = of(&old);
        assert!(matches!(compared, Compared::Differs(_)) && excused.is_none(), "{excused:?}");
    }

    /// The pods of a user that may name sessions, or that creates another component's pods, may
    /// stay unchanged as well.
    #[test]
    fn a_creator_of_other_pods_is_still_a_possible_exemption() {
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
