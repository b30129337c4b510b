//! Finds running pods that use a base role without a session. The policy
//! `deny-without-source-identity` stops them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::{
    AwsFacts, Chain, CheckId, Findings, Held, Objects, Seen,
    iam_policy::{statements, strings},
    objects::name,
};
use crate::{
    admission,
    config::IpFamily,
    json::Json,
    session::{RoleArn, base_credentials, env},
};

/// A service account.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceAccount {
    pub namespace: String,
    pub name: String,
}

/// The roles of service accounts by an association of EKS Pod Identity.
pub type Associations = HashMap<ServiceAccount, String>;

/// The running pods with base credentials and without a session.
#[derive(Debug, Default)]
pub(super) struct Unattributed {
    pods: BTreeMap<(ServiceAccount, RoleOrigin), Vec<String>>,
    /// The namespaces whose pods could not be read, and the reasons.
    hidden: Vec<(String, String)>,
}

/// The source of a pod's base credentials, as EKS's webhook writes it into the pod.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum RoleOrigin {
    /// EKS Pod Identity: the role is that of the account's association.
    Association,
    /// IAM roles for service accounts: the role is in the pod.
    Role(String),
}

impl Unattributed {
    /// Notes the pods of a namespace; with `only`, those of these service accounts.
    pub(super) fn see(
        &mut self,
        namespace: &str,
        pods: &Seen<Objects>,
        only: Option<&BTreeSet<ServiceAccount>>,
    ) {
        if let (Seen::Hidden(why), Some(_)) = (pods, only) {
            self.hidden.push((namespace.to_owned(), why.clone()));
        }
        for pod in pods.iter() {
            let Some(source) = source(pod) else { continue };
            let account = ServiceAccount { namespace: namespace.to_owned(), name: account(pod) };
            if only.is_none_or(|only| only.contains(&account)) {
                self.pods.entry((account, source)).or_default().push(name(pod).into_owned());
            }
        }
    }

    /// Returns the service accounts whose role is that of an association.
    pub(super) fn associated(&self) -> impl Iterator<Item = &ServiceAccount> {
        let accounts = self.pods.keys().filter(|(_, source)| *source == RoleOrigin::Association);
        accounts.map(|(account, _)| account)
    }

    pub(super) fn check(&self, aws: &AwsFacts, associations: &Seen<Associations>) -> Findings {
        let mut found = Findings::default();
        let roles = match associations {
            Seen::Known(roles) => Some(roles),
            Seen::Hidden(why) => {
                found.unknown(CheckId::PodUnattributed, "EKS", why.clone());
                None
            }
        };
        for (namespace, why) in &self.hidden {
            let subject = format!("namespace {namespace}");
            found.unknown(CheckId::PodUnattributed, subject, why.clone());
        }
        for (base, held) in base_roles(aws) {
            let users = self.pods.iter().filter(|((account, source), _)| match source {
                RoleOrigin::Association => roles
                    .and_then(|roles| roles.get(account))
                    .is_some_and(|role| role == base.as_str()),
                RoleOrigin::Role(role) => role == base.as_str(),
            });
            let users: Vec<_> = users.collect();
            for ((ServiceAccount { namespace, name }, _), pods) in &users {
                let subject = format!("namespace {namespace}, {base}");
                let pods = listed(pods);
                let who = format!("run without a session as service account {name}: {pods}");
                if stops_pods_without_session(held) {
                    let message = format!("{STOPPED}; these pods {who}");
                    found.error(CheckId::PodUnattributed, subject, message);
                } else {
                    let message = format!("these pods {who}; {WOULD_STOP}");
                    found.warning(CheckId::PodUnattributed, subject, message);
                }
            }
            if users.is_empty() && roles.is_some() {
                let message = "no running pod was found that uses it without a session";
                found.ok(CheckId::PodUnattributed, base.to_string(), message);
            }
        }
        found
    }
}

/// Returns the base roles whose policies are known, each once.
pub(super) fn base_roles(aws: &AwsFacts) -> impl Iterator<Item = (&RoleArn, &Held)> {
    let all = aws.chains.values().flat_map(|Chain { base_roles, .. }| base_roles);
    let known = all.filter_map(|(role, held)| match held {
        Seen::Known(held) => Some((role.as_str(), (role, held))),
        Seen::Hidden(_) => None,
    });
    known.collect::<BTreeMap<_, _>>().into_values()
}

/// Returns whether a trust policy lets EKS Pod Identity assume the role.
pub(super) fn trusts_pod_identity(held: &Held) -> bool {
    let mut services = statements(&held.trust).flat_map(|it| strings(&it["Principal"]["Service"]));
    services.any(|service| service == POD_IDENTITY)
}

/// Returns whether a policy of the role denies calls without a SourceIdentity.
fn stops_pods_without_session(held: &Held) -> bool {
    let boundary = held.boundary.as_ref().map(|boundary| &boundary.document);
    let documents = held.policies.iter().chain(boundary);
    documents.flat_map(statements).any(|statement| {
        let conditions = statement["Condition"]["Null"].as_object().into_iter().flatten();
        let mut absent = conditions.filter(|(_, value)| strings(value).any(|it| it == "true"));
        statement["Effect"] == "Deny"
            && absent.any(|(key, _)| key.eq_ignore_ascii_case("aws:SourceIdentity"))
    })
}

/// Returns where the pod gets base credentials. None: it has none, has a session, or is
/// completed.
fn source(pod: Json<'_>) -> Option<RoleOrigin> {
    if admission::has_ended(pod) || admission::sidecar(pod).is_some() {
        return None;
    }
    let spec = pod.at("spec");
    let containers = spec.at("containers").items().chain(spec.at("initContainers").items());
    let agents = [IpFamily::V4, IpFamily::V6].map(admission::pod_identity_host);
    let (mut association, mut role) = (false, None);
    for container in containers {
        let mut of_session = env::NAMES.to_vec();
        for variable in container.at("env").items() {
            let Some(name) = variable.at("name").string() else { continue };
            let value = variable.at("value").string().unwrap_or_default();
            of_session.retain(|needed| *needed != name);
            match &*name {
                base_credentials::WEB_IDENTITY_ROLE => role = Some(value.into_owned()),
                base_credentials::URI => {
                    association |= agents.iter().any(|agent| value.contains(agent));
                }
                _ => {}
            }
        }
        // A component with `env`: its code assumes the session role itself.
        if of_session.is_empty() {
            return None;
        }
    }
    role.map(RoleOrigin::Role).or(association.then_some(RoleOrigin::Association))
}

fn account(pod: Json<'_>) -> String {
    let name = pod.at("spec").at("serviceAccountName").string();
    name.filter(|name| !name.is_empty()).map_or_else(|| "default".to_owned(), Cow::into_owned)
}

fn listed(pods: &[String]) -> String {
    let shown = pods.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match pods.len() {
        0..=SHOWN => shown,
        all => format!("{shown} and {} more", all - SHOWN),
    }
}

/// Maximum number of pods that one finding names.
const SHOWN: usize = 5;
/// The service that assumes roles for EKS Pod Identity.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-role.html>
const POD_IDENTITY: &str = "pods.eks.amazonaws.com";
const STOPPED: &str = "the role has a policy that denies calls without a SourceIdentity, such as deny-without-source-identity";
const WOULD_STOP: &str = "the policy deny-without-source-identity would stop them: replace agents of enabled namespaces, and give other pods a service account with another role";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn source_of(pod: &Value) -> Option<RoleOrigin> {
        source((&*to_raw_value(pod).unwrap()).into())
    }

    #[test]
    fn only_running_pods_with_base_credentials_count() {
        let with = |variables: Value| json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "env": variables}]}});
        let role = json!({"name": "AWS_ROLE_ARN", "value": "r"});
        let endpoint = |host: &str| json!({"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": format!("http://{host}/v1/credentials")});
        let of_role = Some(RoleOrigin::Role("r".to_owned()));
        let mut ended = with(json!([role]));
        ended["status"]["phase"] = "Succeeded".into();
        let mut injected = with(json!([]));
        injected["spec"]["initContainers"] =
            json!([{"name": "fab-session-credentials", "env": [endpoint("169.254.170.23")]}]);
        let mut init = with(json!([]));
        init["spec"]["initContainers"] = json!([{"name": "i", "env": [role]}]);
        let mut of_session: Vec<Value> =
            env::NAMES.iter().map(|name| json!({"name": name, "value": "x"})).collect();
        of_session.push(role.clone());
        let of_session = json!(of_session);
        let cases = [
            (with(json!([])), None),
            (with(json!([role])), of_role.clone()),
            (init, of_role.clone()),
            (with(json!([endpoint("169.254.170.23")])), Some(RoleOrigin::Association)),
            (with(json!([endpoint("[fd00:ec2::23]")])), Some(RoleOrigin::Association)),
            (with(json!([endpoint("127.0.0.1:7413")])), None),
            // SDKs read the web identity first.
            (with(json!([endpoint("169.254.170.23"), role])), of_role.clone()),
            (with(json!([role, {"name": "FAB_SESSION_ROLE_ARN", "value": "r"}])), of_role.clone()),
            (with(of_session), None),
            (ended, None),
            (injected, None),
        ];
        for (pod, want) in cases {
            assert_eq!(source_of(&pod), want, "{pod}");
        }
    }

    #[test]
    fn a_long_list_of_pods_is_cut() {
        let pods: Vec<String> = (0..7).map(|n| format!("p{n}")).collect();
        assert_eq!(listed(&pods[..2]), "p0, p1");
        assert_eq!(listed(&pods), "p0, p1, p2, p3, p4 and 2 more");
    }
}
