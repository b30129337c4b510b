//! The links of the chain, each with its name, what breaks it, and what to do then.

use std::fmt;

/// One thing that must hold for an agent's calls to carry its session's name, or that whoever
/// relies on them should know.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Link {
    AssumeRole,
    BaseRole,
    CaBundle,
    Certificate,
    ComponentHole,
    ConfigEdited,
    Endpoints,
    GuardEdited,
    GuardMissing,
    GuardOff,
    LimitRange,
    NamespaceLabel,
    NetworkPlugin,
    OperatorKept,
    PermissionsLost,
    PodOutdated,
    PodRefused,
    PodSecurityLowered,
    PodWithoutSidecar,
    Pss,
    Quota,
    Rights,
    RoleLists,
    RoleParameter,
    RoleTrust,
    Rollout,
    ServiceAccount,
    Tenant,
    WebhookEdited,
    WebhookMissing,
    WebhookOrder,
}

/// What the docs' table says of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct About {
    pub id: &'static str,
    pub cause: &'static str,
    pub remedy: &'static str,
}

impl Link {
    /// In the order in which the chain is walked: from the API server to the pod, then AWS.
    pub const ALL: [Self; 31] = [
        Self::ConfigEdited,
        Self::ComponentHole,
        Self::PodSecurityLowered,
        Self::RoleLists,
        Self::WebhookMissing,
        Self::WebhookOrder,
        Self::WebhookEdited,
        Self::CaBundle,
        Self::Certificate,
        Self::Endpoints,
        Self::Rollout,
        Self::GuardOff,
        Self::GuardMissing,
        Self::GuardEdited,
        Self::NetworkPlugin,
        Self::NamespaceLabel,
        Self::Tenant,
        Self::Pss,
        Self::OperatorKept,
        Self::ServiceAccount,
        Self::Quota,
        Self::LimitRange,
        Self::PodWithoutSidecar,
        Self::PodOutdated,
        Self::PodRefused,
        Self::Rights,
        Self::RoleParameter,
        Self::RoleTrust,
        Self::BaseRole,
        Self::AssumeRole,
        Self::PermissionsLost,
    ];

    pub fn as_str(self) -> &'static str {
        self.about().id
    }

    pub fn about(self) -> About {
        let (id, cause, remedy) = match self {
            Self::AssumeRole => (
                "assume-role",
                "The tenant's role cannot be assumed with a SourceIdentity of the tenant.",
                "do what is said; where it is about AWS, `iam` prints the policies that it takes",
            ),
            Self::BaseRole => (
                "base-role",
                "A role that the session role trusts is not let assume it with a SourceIdentity, by a policy of its own or by its permissions boundary; the statement is quoted. Unseen where the trust policy names no role, but an account or anybody.",
                "give it what `iam` prints as base-role-policy and boundary-statement",
            ),
            Self::CaBundle => (
                "ca-bundle",
                "API servers do not trust the certificate that the webhook serves: there is no `caBundle`, it has another authority, or one that has ended or not begun, or the certificate is for another host.",
                "see the log of the certs deployment, or put the authority of the served certificate into the webhook configuration",
            ),
            Self::Certificate => (
                "certificate",
                "The serving certificate has ended or not begun, or ends in less than nine days (or three tenths of a short life), by when each mode has renewed it.",
                "see the log of the certs deployment, or of cert-manager; renew a certificate of your own",
            ),
            Self::ComponentHole => (
                "component-hole",
                "A component of the config is `env` or `exempt`: its pods keep their base credentials.",
                "nothing, if it is meant so; else give the component credentials: sidecar",
            ),
            Self::ConfigEdited => (
                "config-edited",
                "The ConfigMap with the config is not as the release brought it, so that the webhook, once it starts anew, does not agree with the guard and with what API servers send it.",
                "change the chart's values instead, and bring the release again (helm upgrade --force-conflicts; Helm 3 takes no such flag)",
            ),
            Self::Endpoints => (
                "endpoints",
                "No replica of the webhook is ready, so API servers reach nobody.",
                "kubectl get pods in the release's namespace, and see why none is ready",
            ),
            Self::GuardEdited => (
                "guard-edited",
                "A policy or binding of the guard is not as the release brought it, so webhook and guard may not agree on what an agent is.",
                "delete that object, and bring the release again (helm upgrade)",
            ),
            Self::GuardMissing => (
                "guard-missing",
                "A policy or binding of the guard is not there, so what it refuses is let in.",
                "bring the release again (helm upgrade)",
            ),
            Self::GuardOff => (
                "guard-off",
                "The release has no guard: pods are judged only when they are created, and only by the webhook.",
                "set guard.enabled=true in the chart's values",
            ),
            Self::LimitRange => (
                "limit-range",
                "A LimitRange of the namespace does not take the sidecar's requests and limits.",
                "let the LimitRange take them, or change sidecar.resources of the config",
            ),
            Self::NamespaceLabel => (
                "namespace-label",
                "A namespace has the opt-in label with a value that opts in to nothing, such as `true`. A note where none opted in.",
                "let the label say enabled or audit, or take it away",
            ),
            Self::NetworkPlugin => (
                "network-plugin",
                "With `baseCredentials.source: podIdentity`: a DaemonSet of a plugin that redirects connections by what is written on a pod (istio, linkerd, Kuma, Consul, Multus, ztunnel), or an opted-in namespace in istio's ambient mode.",
                "see whether the threat model covers the plugin; else set baseCredentials.source to irsa",
            ),
            Self::OperatorKept => (
                "operator-kept",
                "The namespace keeps `FAB_OPERATOR`: pods that set it keep base credentials, and their calls carry no session. Broken where the label says anything but `keep`, which keeps nothing.",
                "let the operator label say keep as long as a pod sets FAB_OPERATOR, and take it away then",
            ),
            Self::PermissionsLost => (
                "permissions-lost",
                "What a base role may do and the session role may not, by the names of actions: agents cannot do it any more.",
                "add to the session role's policies what agents need",
            ),
            Self::PodOutdated => (
                "pod-outdated",
                "A running pod's sidecar, or what the webhook gives besides, is not what it would give today.",
                "create the pod anew",
            ),
            Self::PodRefused => (
                "pod-refused",
                "A running pod of an agent would be refused if it were created today.",
                "do what the code's remedy says, and create the pod anew",
            ),
            Self::PodSecurityLowered => (
                "pod-security-lowered",
                "The config asks less of namespaces than the Pod Security Standard `restricted`, so that pods may look into their sidecar.",
                "set podSecurity: restricted in the config",
            ),
            Self::PodWithoutSidecar => (
                "pod-without-sidecar",
                "A running agent pod has no sidecar, most often since it was created before the namespace opted in.",
                "create the pod anew",
            ),
            Self::Pss => (
                "pss",
                "The namespace does not enforce the Pod Security Standard that the config asks for, pins a version of it before v1.22, or its label is mistyped.",
                "let the namespace enforce the standard that podSecurity of the config names",
            ),
            Self::Quota => (
                "quota",
                "A ResourceQuota of the namespace is smaller than what one sidecar takes. A note where only less is left of it now: it empties as pods end.",
                "raise the quota by the sidecars' requests and limits",
            ),
            Self::Rights => (
                "rights",
                "Users that may make tokens of service accounts there, impersonate them, or patch, exec, resize or bind pods; broken where it is everybody. Unseen in a namespace where ClusterRoles may not be read.",
                "take the right from whoever does not need it; the guard refuses what would reach the sidecar",
            ),
            Self::RoleLists => (
                "role-lists",
                "A list of `roles.allow` is empty, so that any role is taken which somebody publishes.",
                "list the account and the path of the session-broker roles in roles.allow",
            ),
            Self::RoleParameter => (
                "role-parameter",
                "The tenant's role is not published, or not as the webhook takes it.",
                "do what the code's remedy says",
            ),
            Self::RoleTrust => (
                "role-trust",
                "The trust policy of the session role lets no role assume it under the tenant's names, or not with the tags of EKS Pod Identity; the statement is quoted.",
                "give the session role what `iam` prints as session-role-trust",
            ),
            Self::Rollout => (
                "rollout",
                "A Deployment of the release is not there, or not all its replicas are as it says and ready, such as where an image cannot be pulled: what serves is what was before, and the guard asks for what is new already.",
                "kubectl get pods in the release's namespace, and see why the new ones are not ready",
            ),
            Self::ServiceAccount => (
                "service-account",
                "No service account of the namespace is a fenced one or one that a component names.",
                "create it, or list the account that carries base credentials in fencedServiceAccounts of the config",
            ),
            Self::Tenant => (
                "tenant",
                "Nothing says which tenant the namespace belongs to, or its name leaves no room for the session.",
                "do what the code's remedy says",
            ),
            Self::WebhookEdited => (
                "webhook-edited",
                "The webhook configuration is not as the release brought it, in more than `caBundle`.",
                "bring the release again (helm upgrade --force-conflicts; Helm 3 takes no such flag)",
            ),
            Self::WebhookMissing => (
                "webhook-missing",
                "The webhook configuration, or one of its two webhooks, is not there, or a pod that was tried came without its sidecar: nobody asks the webhook.",
                "bring the release again (helm upgrade)",
            ),
            Self::WebhookOrder => (
                "webhook-order",
                "API servers call webhooks in the order of their configurations' names, and ours must come before `pod-identity-webhook`.",
                "bring the release again (helm upgrade), and delete the configuration with the other name",
            ),
        };
        About { id, cause, remedy }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_link_has_a_name_of_its_own_and_is_walked_once() {
        let links: HashSet<Link> = Link::ALL.into_iter().collect();
        let names: HashSet<&str> = Link::ALL.into_iter().map(Link::as_str).collect();
        assert_eq!((links.len(), names.len()), (Link::ALL.len(), Link::ALL.len()));
    }
}
