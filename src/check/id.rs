//! The checks of `check`: the id, the cause and the remedy of each.

use std::fmt;

/// A check: a condition without which calls of agents are not attributed to their session, or a
/// deviation that the platform team should know.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CheckId {
    AssumeRole,
    BaseCredentials,
    BaseRole,
    CaBundle,
    Certificate,
    ComponentUnattributed,
    ConfigEdited,
    Egress,
    Endpoints,
    GuardDisabled,
    GuardEdited,
    GuardMissing,
    InstallQuota,
    InstallRights,
    IssuerCa,
    IssuerFiles,
    IssuerGuard,
    IssuerProvider,
    IssuerTrust,
    KubernetesVersion,
    LimitRange,
    NamespaceLabel,
    NetworkPlugin,
    OperatorLabel,
    PermissionsLost,
    PodOutdated,
    PodPredatesGuard,
    PodRefused,
    PodSecurity,
    PodSecurityLowered,
    PodUnattributed,
    PodWithoutSidecar,
    Quota,
    Rbac,
    RevokedSessions,
    RoleAllowList,
    RoleParameter,
    RoleTrust,
    Rollout,
    ServiceAccount,
    SessionDuration,
    SessionRoleControls,
    SidecarImage,
    Tenant,
    TransportLabel,
    Version,
    WebhookEdited,
    WebhookMissing,
    WebhookOrder,
    WebhookReachable,
}

/// The row of a check in the table of docs/check.md.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct About {
    pub id: &'static str,
    pub cause: &'static str,
    pub remedy: &'static str,
}

impl CheckId {
    /// The order of the report: from the API server to the pod, then AWS.
    pub const ALL: [Self; 50] = [
        Self::KubernetesVersion,
        Self::InstallRights,
        Self::InstallQuota,
        Self::WebhookReachable,
        Self::ConfigEdited,
        Self::ComponentUnattributed,
        Self::PodSecurityLowered,
        Self::RoleAllowList,
        Self::SidecarImage,
        Self::WebhookMissing,
        Self::WebhookOrder,
        Self::WebhookEdited,
        Self::CaBundle,
        Self::Certificate,
        Self::Endpoints,
        Self::Rollout,
        Self::Version,
        Self::GuardDisabled,
        Self::GuardMissing,
        Self::GuardEdited,
        Self::IssuerGuard,
        Self::IssuerFiles,
        Self::NetworkPlugin,
        Self::NamespaceLabel,
        Self::Tenant,
        Self::TransportLabel,
        Self::PodSecurity,
        Self::OperatorLabel,
        Self::ServiceAccount,
        Self::BaseCredentials,
        Self::Quota,
        Self::LimitRange,
        Self::PodWithoutSidecar,
        Self::PodOutdated,
        Self::PodRefused,
        Self::PodPredatesGuard,
        Self::IssuerCa,
        Self::Egress,
        Self::Rbac,
        Self::RoleParameter,
        Self::IssuerProvider,
        Self::IssuerTrust,
        Self::SessionDuration,
        Self::RoleTrust,
        Self::BaseRole,
        Self::AssumeRole,
        Self::PermissionsLost,
        Self::SessionRoleControls,
        Self::PodUnattributed,
        Self::RevokedSessions,
    ];

    pub fn as_str(self) -> &'static str {
        self.about().id
    }

    pub fn about(self) -> About {
        let (id, cause, remedy) = match self {
            Self::AssumeRole => (
                "assume-role",
                "The session role cannot be assumed with a SourceIdentity of the tenant. A `warning` if a running sidecar has no credentials yet.",
                "follow the remedy in the message; `iam` prints the required policies",
            ),
            Self::BaseCredentials => (
                "base-credentials",
                "Service accounts or base roles are set up for another source of base credentials than the config's `baseCredentials`: an annotation of IRSA with `podIdentity`, or a base role that trusts only the other source. Or the session role does not trust the base role of `baseCredentials.roleArn`.",
                "set `baseCredentials` in the config to the source that the base roles trust; for `podIdentity` create an association for the service account; for `irsa` replace the trust policy of the base role with base-role-trust, which `iam` prints",
            ),
            Self::BaseRole => (
                "base-role",
                "A base role is not allowed to assume the session role with a SourceIdentity, by its identity policies or its permissions boundary. The blocking statement is shown. `unknown` if the trust policy names no role, but an account or `*`.",
                "give the base role the policy base-role-policy, and its permissions boundary the statement boundary-statement; `iam` prints both",
            ),
            Self::CaBundle => (
                "ca-bundle",
                "API servers do not trust the webhook's serving certificate: there is no `caBundle`, the bundle holds a different, expired or not yet valid CA, or the certificate's SAN does not match.",
                "check the log of the certs Deployment, or put the CA of the serving certificate into the webhook configuration",
            ),
            Self::Certificate => (
                "certificate",
                "The serving certificate is missing, expired, not yet valid, or within nine days of expiry (for a short lifetime: in its last three tenths). Each certificate mode renews earlier, so renewal failed.",
                "check the log of the certs Deployment or of cert-manager; renew a certificate that you manage yourself",
            ),
            Self::ComponentUnattributed => (
                "component-unattributed",
                "A component of the config is `env` or `exempt`: its pods keep their base credentials and are not attributed to a session.",
                "if this is not intended, set `credentials: sidecar` for the component",
            ),
            Self::ConfigEdited => (
                "config-edited",
                "The ConfigMap with the config differs from the one rendered by the release. After its next restart, the webhook disagrees with the guard and with the match conditions of the webhook configuration.",
                "change the chart values and run `helm upgrade --force-conflicts` (with Helm 3: without the flag)",
            ),
            Self::Egress => (
                "egress",
                "Only with a session issuer: the network policies of a running pod do not allow its sidecar egress to the session issuer, DNS or STS. A `warning` if the pod does not use the cluster's DNS.",
                "add a network policy that allows this egress, such as `sandbox-session` in examples/agent-sandbox-warm-pool.yaml; for a `warning`, set `dnsPolicy: ClusterFirst` in the pod template",
            ),
            Self::Endpoints => (
                "endpoints",
                "No replica of the webhook is ready, so API servers cannot reach the webhook.",
                "run `kubectl get pods` in the release's namespace, and find out why no replica is ready",
            ),
            Self::GuardDisabled => (
                "guard-disabled",
                "The release has no guard: only the webhook checks pods, and only when they are created.",
                "set `guard.enabled=true` in the chart values",
            ),
            Self::GuardEdited => (
                "guard-edited",
                "A policy or binding of the guard differs from the one rendered by the release, so the webhook and the guard may disagree on which pods are agents.",
                "re-run `helm upgrade --force-conflicts` (with Helm 3: without the flag). If the finding remains, correct the field with `kubectl edit`, or delete the object and re-run `helm upgrade`. With a session issuer, do not delete `fab-session-injector-issuer-pods`, `-issuer-tokens`, `-sandbox-pods`, `-sandboxes` or a binding of theirs: running sessions with a name would get no further credentials, or tenants could request tokens of their pods meanwhile",
            ),
            Self::GuardMissing => (
                "guard-missing",
                "A policy or binding of the guard is missing, so requests that it refuses are admitted.",
                "re-run `helm upgrade`",
            ),
            Self::InstallQuota => (
                "install-quota",
                "Only with `--pre`: a ResourceQuota of the release's namespace refuses the chart's pods unless they have a CPU limit. By default they have none.",
                "set `resources.limits.cpu`, `certs.resources.limits.cpu` and `test.resources.limits.cpu` in the chart values, or choose another namespace",
            ),
            Self::InstallRights => (
                "install-rights",
                "Only with `--pre`: the user may not create all objects of the chart.",
                "install the chart as a user with these permissions, such as one with the ClusterRole cluster-admin",
            ),
            Self::IssuerCa => (
                "issuer-ca",
                "Only with a session issuer and `issuer.caBundle`: a running pod does not have each CA certificate of the config. Its sidecar gets no token when the issuer serves a certificate of the missing one.",
                "replace the pod before the issuer serves such a certificate",
            ),
            Self::IssuerFiles => (
                "issuer-files",
                "Only with a session issuer: STS cannot use its published files. They cannot be read at the issuer's URL, name another issuer or other keys, or lack a key of the config (a `warning` if the key does not sign now). Or they have a key that is none of the config's: its owner can name any session. `unknown` if the server does not answer, or a key of the config cannot be read here.",
                "publish the files that `issuer export` writes; for a foreign key, first find out who wrote it, and remove the client ID from the provider",
            ),
            Self::IssuerGuard => (
                "issuer-guard",
                "Only with a session issuer: the binding of the guard's policy `fab-session-injector-issuer-pods` is missing, does not deny, or leaves namespaces out, or with `session: sandbox-claim` that of a policy for Sandboxes, so no rule of the guard says who may name a session. The issuer refuses pods whose session has a name (`guard-missing`).",
                "set `guard.enabled=true` in the chart values and run `helm upgrade`; then replace pods whose session has a name",
            ),
            Self::IssuerProvider => (
                "issuer-provider",
                "Only with a session issuer: the account of a session role has no IAM OIDC provider for the issuer's URL, or the provider lacks the client ID of the config.",
                "create the provider; `iam --transport web-identity` prints it as oidc-provider",
            ),
            Self::IssuerTrust => (
                "issuer-trust",
                "Only with a session issuer: the trust policy of the session role does not allow the issuer the sessions of the tenant, or allows more: names of other tenants, other client IDs, or tokens that do not name the role. A `warning` if it also allows a base role, whose credentials can set any name of the tenant, or another identity provider.",
                "replace the trust policy with session-role-trust, with the same flags of `iam` as before; `iam --transport both` prints it while pods of the tenant use base credentials, and then `--transport web-identity`",
            ),
            Self::KubernetesVersion => (
                "kubernetes-version",
                "The API server is older than Kubernetes 1.32. A `warning` if kubelets have a fault with which a pod with a sidecar may not start, or not start again.",
                "upgrade the control plane; for a `warning`, the nodes",
            ),
            Self::LimitRange => (
                "limit-range",
                "A LimitRange of the namespace does not allow the sidecar's requests and limits.",
                "change the LimitRange, or `sidecar.resources` in the config",
            ),
            Self::NamespaceLabel => (
                "namespace-label",
                "The opt-in label of a namespace has a value that does not opt the namespace in, such as `true`. A `warning` if no namespace is opted in.",
                "set the label to `enabled` or `audit`, or remove it",
            ),
            Self::NetworkPlugin => (
                "network-plugin",
                "Only with `baseCredentials.source: podIdentity`: a DaemonSet belongs to a plugin that redirects the connections of a pod by its labels or annotations (Istio, Linkerd, Kuma, Consul, Multus, ztunnel), or an opted-in namespace is in Istio's ambient mode.",
                "check whether the threat model covers the plugin; otherwise set `baseCredentials.source` to `irsa`",
            ),
            Self::OperatorLabel => (
                "operator-label",
                "The operator label of the namespace is `keep`: pods of components with `sidecar` that set `FAB_OPERATOR` keep their base credentials and are not attributed to a session. An `error` if the label has another value, because only `keep` has an effect.",
                "set the operator label to `keep` while a pod sets `FAB_OPERATOR`, and remove the label afterwards",
            ),
            Self::PermissionsLost => (
                "permissions-lost",
                "The base role allows actions that the session role does not allow, so agents lose them. Only the names of actions are compared.",
                "add the actions that agents need to the policies of the session role",
            ),
            Self::PodOutdated => (
                "pod-outdated",
                "The running pod differs from what the webhook would inject now.",
                "re-create the pod",
            ),
            Self::PodPredatesGuard => (
                "pod-predates-guard",
                "A running pod whose session has a name, or a Sandbox with `session: sandbox-claim`, was created before the guard's rule about it, or within a minute after. The session issuer refuses the pod new credentials.",
                "replace the pod; finish the work of a Sandbox, and delete it",
            ),
            Self::PodRefused => (
                "pod-refused",
                "A running agent pod would be refused if it were created now.",
                "follow the remedy in the message, and re-create the pod",
            ),
            Self::PodSecurity => (
                "pod-security",
                "The namespace does not enforce the Pod Security Standard that the config requires, pins a version of it before v1.22, or its label has an invalid value.",
                "set the namespace's Pod Security label to the standard in `podSecurity` of the config",
            ),
            Self::PodSecurityLowered => (
                "pod-security-lowered",
                "The config requires less of namespaces than the Pod Security Standard `restricted`, so a pod's containers may be able to read the traffic, files or memory of its sidecar.",
                "set `podSecurity: restricted` in the config",
            ),
            Self::PodUnattributed => (
                "pod-unattributed",
                "A running pod uses a base role without a session, also in a namespace that is not opted in. The policy `deny-without-source-identity` of the base role stops such pods. A `warning` if the role does not have it yet.",
                "delete the deny policy, until these pods are replaced or have a service account with another role",
            ),
            Self::PodWithoutSidecar => (
                "pod-without-sidecar",
                "A running agent pod has no sidecar, usually because it was created before its namespace opted in.",
                "re-create the pod",
            ),
            Self::Quota => (
                "quota",
                "A ResourceQuota of the namespace is smaller than what one sidecar requires. A `warning` if only its unused part is too small now. That part grows when pods end.",
                "raise the quota by the requests and limits of the sidecars",
            ),
            Self::Rbac => (
                "rbac",
                "Users may create tokens of service accounts, impersonate service accounts or users, or change, exec into, attach to, resize or bind pods. An `error` if every user, every service account or an anonymous user may. `unknown` in a namespace whose RoleBindings refer to ClusterRoles that cannot be read.",
                "revoke the permission from users that do not need it; the guard refuses requests that would reach the sidecar",
            ),
            Self::RevokedSessions => (
                "revoked-sessions",
                "Sessions of the tenant are revoked: an inline policy of the session role denies all of their calls. The message names the sessions with a pod in the checked namespaces, and those without one. Or the policy does not have the form that `revoke` writes.",
                "delete the pods of revoked sessions; run `revoke --prune` when their pods are gone",
            ),
            Self::RoleAllowList => (
                "role-allow-list",
                "A list of `roles.allow` is empty, so it does not restrict which published role ARNs the webhook accepts.",
                "add the partition, the account and the path of the session-broker roles to `roles.allow`",
            ),
            Self::RoleParameter => (
                "role-parameter",
                "The tenant's session role is not published, or the webhook does not accept the published value.",
                "follow the remedy in the message",
            ),
            Self::RoleTrust => (
                "role-trust",
                "The trust policy of the session role does not allow a base role to assume it with a SourceIdentity of the tenant, or with the session tags of EKS Pod Identity. The message has the blocking statement.",
                "replace the trust policy with session-role-trust, with the same flags of `iam` as before; with a session issuer `iam --transport both` prints it, else `iam`",
            ),
            Self::Rollout => (
                "rollout",
                "A Deployment of the release is missing, or not all of its replicas are up to date and available, for example because an image cannot be pulled. The previous replicas serve, but the guard already enforces the new release.",
                "run `kubectl get pods` in the release's namespace, and find out why the new replicas are not ready",
            ),
            Self::ServiceAccount => (
                "service-account",
                "The namespace has no fenced service account and none that a component names.",
                "create the service account, or add the one that has base credentials to `fencedServiceAccounts` in the config",
            ),
            Self::SessionDuration => (
                "session-duration",
                "Only with a session issuer: the maximum session duration of the session role is shorter than `issuer.durationSeconds` of the config. A `warning` if it is longer: a stolen token can get credentials for that long.",
                "set the role's maximum session duration to `issuer.durationSeconds`, but at least 3600 (`aws iam update-role --max-session-duration`)",
            ),
            Self::SessionRoleControls => (
                "session-role-controls",
                "The session role lacks a tag or the permissions boundary of its base role. Controls that use them, such as budgets by a tag, do not apply to the calls of sessions.",
                "give the session role the tags and the boundary; `iam` takes them as `--tag` and `--permissions-boundary`",
            ),
            Self::SidecarImage => (
                "sidecar-image",
                "A policy engine that can pin images (Digester, Gatekeeper, Kyverno, Sigstore policy-controller) is installed, and the sidecar's image has no digest. If the engine adds one, the guard refuses the pod with `guard-image`.",
                "set `image.digest` in the chart values, or list the digest in `config.sidecar.imageDigests`",
            ),
            Self::Tenant => (
                "tenant",
                "The namespace has no valid tenant, or the tenant's name is too long to fit into a SourceIdentity with the session.",
                "follow the remedy in the message",
            ),
            Self::TransportLabel => (
                "transport-label",
                "The transport label of a namespace has a value without effect, or it is `web-identity` and the config has no session issuer, so each agent pod is refused.",
                "set the label to `role-chain` or `web-identity`, or remove it",
            ),
            Self::Version => (
                "version",
                "This program, the chart, the webhook's image and the running sidecars have different versions, by labels and the tags of images. `check` and `explain` compare pods with what their own version would inject.",
                "use the program of the chart's version; after an upgrade, replace pods with an older sidecar",
            ),
            Self::WebhookEdited => (
                "webhook-edited",
                "The webhook configuration differs from the one rendered by the release, in fields other than `caBundle`, or in an annotation that the release renders: without `cert-manager.io/inject-ca-from` cert-manager no longer updates `caBundle`.",
                "re-run `helm upgrade --force-conflicts` (with Helm 3: without the flag)",
            ),
            Self::WebhookMissing => (
                "webhook-missing",
                "The webhook configuration or one of its two webhooks is missing, or a test pod was created without a sidecar: API servers do not call the webhook.",
                "re-run `helm upgrade`",
            ),
            Self::WebhookOrder => (
                "webhook-order",
                "API servers call webhooks in the order of the names of their configurations. The injector's configuration must come before `pod-identity-webhook`.",
                "re-run `helm upgrade`, and delete the configuration with the other name",
            ),
            Self::WebhookReachable => (
                "webhook-reachable",
                "Only with `--pre`, and always `unknown`: whether API servers reach the webhook's port (`ports.webhook`, by default 8443).",
                "use `check --as-pod` after the installation",
            ),
        };
        About { id, cause, remedy }
    }
}

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_check_is_listed_once_with_a_unique_id() {
        let ids: HashSet<CheckId> = CheckId::ALL.into_iter().collect();
        let names: HashSet<&str> = CheckId::ALL.into_iter().map(CheckId::as_str).collect();
        assert_eq!((ids.len(), names.len()), (CheckId::ALL.len(), CheckId::ALL.len()));
    }
}
