//! Compares an existing pod with the pod that the webhook would make now.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    CONTAINER_NAME, Decision, Explained, Gives, ROLE_ARN_ANNOTATION, Refusal, explain_text,
    refusals::WantedRefusals,
};
use crate::{
    config::{Config, CredentialsMode, Glob, IssuerCa, Matched, Matcher},
    json::Json,
    namespaces::{Namespace, Namespaces},
    roles::{Role, Roles, Source},
    session::{RoleArn, env::ISSUER_CA},
};

/// The drift of an existing pod.
#[derive(Clone, Debug)]
pub struct Drift {
    pub status: DriftStatus,
    /// The user rule of the config under which the pod differs least. A pod does not record the
    /// user that requested it, so all rules are tried. `None`: no rule gives a smaller difference.
    pub assumed_creator: Option<Glob>,
    /// A user rule whose pods stay unchanged, if the pod differs: such a user may have requested
    /// it.
    pub possible_exemption: Option<Glob>,
}

/// The result of the comparison. `explain` prints these names, so they are API.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status", content = "paths")]
pub enum DriftStatus {
    /// The webhook would change nothing.
    UpToDate,
    /// The webhook would change these paths.
    Changed(Vec<String>),
    /// The pod has terminated, or terminates within minutes.
    Ended,
    /// The pod has a sidecar that a new pod would not get.
    Orphaned,
    /// The pod has no sidecar, and a new pod would get one.
    NotInjected,
    /// A new pod would be refused.
    WouldBeRefused(#[serde(skip_serializing)] Refusal),
}

/// Compares a pod with the pod that the webhook would make now.
///
/// Faults outside the pod do not count. The comparison assumes that the namespace enforces the
/// config's `podSecurity`. It uses the published role, or without a usable one the role in the
/// pod's annotation.
///
/// Without `creator`, the pod counts as unchanged if it is unchanged for one of the users that may
/// have requested it.
pub fn drift(
    pod: Json<'_>,
    creator: Option<&str>,
    namespace: &Namespace,
    roles: &Roles,
    config: &Config,
) -> Drift {
    let alone = |status| Drift { status, assumed_creator: None, possible_exemption: None };
    if has_ended(pod) {
        return alone(DriftStatus::Ended);
    }
    let secured = Namespace { pod_security: config.pod_security, ..namespace.clone() };
    let comparison = Comparison {
        pod,
        namespace: &namespace.name,
        namespaces: &Namespaces::default().with(secured),
        roles: &known_role(pod, namespace, roles),
        config: &as_deployed(pod, config),
    };
    let (status, _) = comparison.compare(creator.unwrap_or_default());
    if creator.is_some() || status == DriftStatus::UpToDate {
        return alone(status);
    }
    let creators = || config.components.iter().flat_map(|component| &component.creators);
    let listed = config.session_creators.iter().chain(creators());
    let mut nearest = alone(status);
    for glob in listed {
        let (status, left_alone) = comparison.compare(glob.example());
        if !left_alone && status.distance() < nearest.status.distance() {
            nearest = Drift { assumed_creator: Some(glob.clone()), ..alone(status) };
        }
        if nearest.status == DriftStatus::UpToDate {
            break;
        }
    }
    if nearest.status.is_in_order() {
        return nearest;
    }
    let exempts =
        |glob: &&Glob| comparison.compare(glob.example()) == (DriftStatus::UpToDate, true);
    Drift { possible_exemption: creators().find(exempts).cloned(), ..nearest }
}

/// Returns the credential sidecar of a pod.
pub fn sidecar(pod: Json<'_>) -> Option<Json<'_>> {
    named(pod.at("spec").at("initContainers"), CONTAINER_NAME)
}

/// Returns the first variable of this name of the pod's sidecar.
pub fn sidecar_variable<'a>(pod: Json<'a>, name: &str) -> Option<Json<'a>> {
    named(sidecar(pod)?.at("env"), name)
}

fn named<'a>(list: Json<'a>, name: &str) -> Option<Json<'a>> {
    list.items().find(|item| item.at("name").string().is_some_and(|found| found == name))
}

impl DriftStatus {
    /// Returns the number of differences, to order results.
    fn distance(&self) -> usize {
        match self {
            Self::UpToDate => 0,
            Self::Changed(places) => places.len(),
            Self::Ended | Self::Orphaned | Self::NotInjected | Self::WouldBeRefused(_) => {
                usize::MAX
            }
        }
    }

    /// Returns whether the pod needs no action.
    pub fn is_in_order(&self) -> bool {
        matches!(self, Self::UpToDate | Self::Ended | Self::Orphaned)
    }
}

struct Comparison<'p> {
    pod: Json<'p>,
    namespace: &'p str,
    namespaces: &'p Namespaces,
    roles: &'p Roles,
    config: &'p Config,
}

impl Comparison<'_> {
    /// Returns the result, and whether the pod stays unchanged because of `creator`.
    fn compare(&self, creator: &str) -> (DriftStatus, bool) {
        let Self { pod, namespace, namespaces, roles, config } = self;
        let (pod_text, wanted) = (Some(pod.raw()), WantedRefusals::First);
        let Explained { decision, matched, operations, .. } =
            explain_text(pod_text, creator, namespace, namespaces, roles, config, wanted);
        let left_alone = matched.is_some_and(|Matched { component, matcher }| {
            matches!(matcher, Matcher::Creator(_))
                && matches!(component.credentials, CredentialsMode::Env | CredentialsMode::Exempt)
        });
        let has_sidecar = sidecar(*pod).is_some();
        let status = match decision {
            Decision::Pass(_) if has_sidecar => DriftStatus::Orphaned,
            Decision::Pass(_) => DriftStatus::UpToDate,
            Decision::Refuse(refusal) => DriftStatus::WouldBeRefused(refusal),
            Decision::Inject(_) if operations.is_empty() => DriftStatus::UpToDate,
            Decision::Inject(injection)
                if !has_sidecar && matches!(injection.gives, Gives::Sidecar(..)) =>
            {
                DriftStatus::NotInjected
            }
            Decision::Inject(_) => {
                let places = operations.iter().map(|operation| operation.path().to_string());
                DriftStatus::Changed(places.collect())
            }
        };
        (status, left_alone)
    }
}

/// Returns whether the pod has terminated or terminates soon. A deleted pod runs until the end of
/// its grace period, which may take years.
pub fn has_ended(pod: Json<'_>) -> bool {
    let [metadata, status] = pod.members(["metadata", "status"]);
    let phase = status.at("phase").string().unwrap_or_default();
    let grace: Option<u64> = metadata.at("deletionGracePeriodSeconds").text().parse().ok();
    matches!(&*phase, "Failed" | "Succeeded")
        || grace.is_some_and(|seconds| seconds <= ENDS_WITHIN_SECONDS)
}

/// Returns the config with what the pod's sidecar has and the caller need not know: the region, if
/// the config sets none, because the webhook then uses its own; and the CA of the session issuer,
/// because a pod keeps the one that it was created with.
fn as_deployed(pod: Json<'_>, config: &Config) -> Config {
    let value = |name: &str| sidecar_variable(pod, name)?.at("value").string();
    let region = || value("AWS_REGION")?.parse().ok();
    let ca = || value(ISSUER_CA)?.parse().ok();
    let mut config = Config { region: config.region.clone().or_else(region), ..config.clone() };
    if let (Some(issuer), Some(ca)) = (&mut config.issuer, ca()) {
        issuer.ca = IssuerCa::Known(ca);
    }
    config
}

/// Returns the role of the namespace's tenant: the published one, else that of the pod's
/// annotation, else a placeholder.
fn known_role(pod: Json<'_>, namespace: &Namespace, roles: &Roles) -> Roles {
    let annotations = || pod.at("metadata").at("annotations");
    let own = || annotations().at(ROLE_ARN_ANNOTATION).string()?.parse().ok();
    let role = |tenant| match roles.role(tenant) {
        Some(Role::Known(role)) => Some(role.clone()),
        Some(Role::NotFound | Role::Unreachable(_) | Role::Unusable(_)) | None => {
            own().or_else(|| UNKNOWN_ROLE.parse::<RoleArn>().ok())
        }
    };
    let known = namespace.tenant.as_ref().ok().and_then(|tenant| {
        let role = role(tenant)?;
        Some((tenant.clone(), Role::Known(role).into()))
    });
    Roles::new(Source::None, known.into_iter().collect::<HashMap<_, _>>())
}

/// Maximum grace period of a pod that counts as terminated, in seconds: ten times the default.
const ENDS_WITHIN_SECONDS: u64 = 300;
/// Role of a pod that has none, if the tenant's role is unknown. The comparison then only depends
/// on whether the pod has a sidecar.
const UNKNOWN_ROLE: &str = "arn:aws:iam::000000000000:role/unknown";

#[cfg(test)]
mod tests {
    use json_patch::patch;
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::{admission::explain, config::PodSecurity, namespaces::Mode, roles::Cause};

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

    fn roles(role: Role) -> Roles {
        let known = HashMap::from([("acme".parse().unwrap(), role.into())]);
        Roles::new(Source::None, known)
    }

    fn known(role: &str) -> Roles {
        roles(Role::Known(role.parse().unwrap()))
    }

    fn agent() -> Value {
        json!({
            "metadata": {"name": "a", "labels": {"agents.nanohype.dev/agentsandbox": "coder-1"}},
            "spec": {"serviceAccountName": "tenant-runtime", "containers": [{"name": "agent", "image": "i"}]},
        })
    }

    fn drift(
        pod: &Value,
        creator: Option<&str>,
        namespace: &Namespace,
        roles: &Roles,
        config: &Config,
    ) -> Drift {
        let text = to_raw_value(pod).unwrap();
        super::drift((&*text).into(), creator, namespace, roles, config)
    }

    /// Returns the agent's pod as the webhook makes it for this user.
    fn injected(creator: &str, config: &Config) -> Value {
        let mut pod = agent();
        let namespaces = Namespaces::default().with(namespace());
        let explained = explain(&pod, creator, "tenants-acme", &namespaces, &known(ROLE), config);
        patch(&mut pod, &explained.operations).unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["name"], CONTAINER_NAME);
        pod
    }

    /// Returns the result, and the user rule that it assumes.
    fn stands(pod: &Value, config: &Config) -> (DriftStatus, String) {
        let Drift { status, assumed_creator, possible_exemption } =
            drift(pod, None, &namespace(), &known(ROLE), config);
        assert!(possible_exemption.is_none(), "{possible_exemption:?}");
        (status, assumed_creator.map(|glob| glob.to_string()).unwrap_or_default())
    }

    #[test]
    fn a_pod_is_up_to_date_for_a_possible_requesting_user() {
        let config = config("region: eu-west-1\n");
        let no_rule = (DriftStatus::UpToDate, String::new());
        assert_eq!(stands(&injected("", &config), &config), no_rule);
        let listed = (DriftStatus::UpToDate, OPERATOR.to_owned());
        assert_eq!(stands(&injected(OPERATOR, &config), &config), listed);
        let pod = injected(OPERATOR, &config);
        // A later change does not change the assumed user.
        let next = known(&format!("{ROLE}-next"));
        let Drift { status, assumed_creator, possible_exemption: _ } =
            drift(&pod, None, &namespace(), &next, &config);
        assert!(matches!(status, DriftStatus::Changed(_)), "{status:?}");
        assert_eq!(assumed_creator.unwrap().to_string(), OPERATOR);
        let jane = drift(&pod, Some("jane"), &namespace(), &known(ROLE), &config);
        assert!(matches!(jane.status, DriftStatus::Changed(_)), "{jane:?}");
        assert_eq!(stands(&agent(), &config).0, DriftStatus::NotInjected);
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
            (json!({"status": {"phase": "Succeeded"}}), DriftStatus::Ended),
            (json!({"status": {"phase": "Failed"}}), DriftStatus::Ended),
            (deleted(30), DriftStatus::Ended),
            (deleted(315_360_000), DriftStatus::NotInjected),
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
        assert_eq!(
            stands(&injected(mine, &config), &config),
            (DriftStatus::UpToDate, mine.to_owned())
        );
    }

    #[test]
    fn an_account_of_the_namespace_is_not_assumed() {
        let of = |glob: &str, creator: &str| {
            let config = config(&format!("region: eu-west-1\nsessionCreators: ['{glob}']\n"));
            stands(&injected(creator, &config), &config)
        };
        let elsewhere = "system:serviceaccount:tenants-acmes:operator";
        for glob in ["system:serviceaccount:tenants-acme*:operator", "system:serviceaccount:*"] {
            assert_eq!(of(glob, elsewhere), (DriftStatus::UpToDate, glob.to_owned()), "{glob}");
        }
        let own = "system:serviceaccount:tenants-acme:operator";
        for glob in ["system:serviceaccount:tenants-acme:*", own, "system:serviceaccount:*"] {
            assert_eq!(of(glob, own), (DriftStatus::UpToDate, String::new()), "{glob}");
        }
    }

    /// A service account of the pod's own namespace matches no user rule, so such a rule exempts no
    /// pod.
    #[test]
    fn an_account_of_the_namespace_gives_no_exemption() {
        for (glob, possible_exemption) in [
            ("system:serviceaccount:tenants-acme:*", false),
            ("system:serviceaccount:tenants-acme*:jobs", true),
        ] {
            let config = config(&format!(
                "region: eu-west-1\ncomponents: [{{name: jobs, creators: ['{glob}'], credentials: exempt}}, {{name: rest, fenced: true}}]\n",
            ));
            let drift = drift(&agent(), None, &namespace(), &known(ROLE), &config);
            assert_eq!(drift.status, DriftStatus::NotInjected, "{glob}");
            assert_eq!(drift.possible_exemption.is_some(), possible_exemption, "{glob}");
        }
    }

    #[test]
    fn faults_outside_the_pod_do_not_change_its_status() {
        let config = config("region: eu-west-1\n");
        let (pod, bare) = (injected("", &config), agent());
        let lax = Namespace { pod_security: PodSecurity::Privileged, ..namespace() };
        let unread = roles(Role::Unreachable(Cause::Denied));
        for (namespace, roles) in
            [(&lax, known(ROLE)), (&namespace(), unread), (&namespace(), roles(Role::NotFound))]
        {
            let of = |pod: &Value| drift(pod, None, namespace, &roles, &config).status;
            assert_eq!(of(&pod), DriftStatus::UpToDate, "{roles:?}");
            assert_eq!(of(&bare), DriftStatus::NotInjected, "{roles:?}");
        }
        let next = drift(&pod, None, &namespace(), &known(&format!("{ROLE}-next")), &config);
        assert!(matches!(next.status, DriftStatus::Changed(_)), "{next:?}");
    }

    #[test]
    fn a_pod_keeps_its_region_if_the_config_has_none() {
        let pod = injected("", &config("region: eu-west-1\n"));
        assert_eq!(stands(&pod, &config("{}")).0, DriftStatus::UpToDate);
        let other = stands(&pod, &config("region: eu-central-1\n")).0;
        assert!(matches!(other, DriftStatus::Changed(_)), "{other:?}");
    }

    #[test]
    fn an_exempt_creator_is_a_possible_exemption() {
        let config = config(
            "region: eu-west-1\ncomponents: [{name: jobs, creators: ['system:serviceaccount:jobs:*'], credentials: exempt}, {name: rest, fenced: true}]\n",
        );
        let of = |pod: &Value| drift(pod, None, &namespace(), &known(ROLE), &config);
        let Drift { status, assumed_creator, possible_exemption } = of(&agent());
        assert_eq!((status, assumed_creator.is_none()), (DriftStatus::NotInjected, true));
        assert_eq!(possible_exemption.unwrap().to_string(), "system:serviceaccount:jobs:*");
        // A pod of such a user has no sidecar, and this one has.
        let mut old = injected("", &config);
        old["spec"]["initContainers"][0]["image"] = json!("sidecar:old");
        let Drift { status, assumed_creator: _, possible_exemption } = of(&old);
        assert!(
            matches!(status, DriftStatus::Changed(_)) && possible_exemption.is_none(),
            "{possible_exemption:?}"
        );
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
            let Drift { status, assumed_creator, possible_exemption } =
                drift(&agent(), None, &namespace(), &known(ROLE), &config);
            assert_eq!(
                (status, assumed_creator.is_none()),
                (DriftStatus::NotInjected, true),
                "{text}"
            );
            assert!(possible_exemption.is_some(), "{text}");
        }
    }
}
