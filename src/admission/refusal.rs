//! Refusals: a code that never changes its meaning, a sentence and a remedy.

use std::{borrow::Cow, fmt};

use super::names::ON_BEHALF_OF_ANNOTATION;
use crate::{
    config::{COMPONENT_LABEL, PodSecurity, TENANT_LABEL},
    namespaces::{
        NoTenant, OPERATOR_LABEL, OldStandard, POD_SECURITY_LABEL, POD_SECURITY_VERSION_LABEL,
        TRANSPORT_LABEL,
    },
    roles::{Cause, Unusable},
    session::{NotASessionName, NotOnBehalfOf, TenantName},
    terminal::harmless,
};

/// The reason why a pod is refused. The text is for the requesting user, the code for metrics and
/// alerts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    AwsTokenVolume { volume: String, audience: String },
    FabOperator { container: String },
    HostNamespace { field: &'static str },
    Internal,
    IssuerMissing { namespace: String },
    IssuerTokenVolume { volume: String, audience: String },
    NamespaceUnknown { namespace: String },
    NotAPodCreation { found: String },
    OldPodSecurity { namespace: String, pinned: OldStandard, wanted: PodSecurity },
    OnBehalfOfIllegal { rule: NotOnBehalfOf },
    PatchTooCostly { operations: usize, most: usize },
    PatchTooLarge { most: usize },
    PodNetwork { what: &'static str, key: &'static str },
    PodSecurity { namespace: String, enforced: PodSecurity, wanted: PodSecurity },
    PortTaken { container: String, port: u16 },
    ReservedAnnotation { key: &'static str },
    ReservedName { what: &'static str, name: String, component: String },
    ReservedVolume { container: String, volume: String },
    RoleDenied { place: String },
    RoleMissing { place: String },
    RoleUnavailable { tenant: TenantName, place: String, cause: Option<Cause> },
    RoleUnusable { place: String, unusable: Unusable },
    SessionIllegal { what: &'static str, key: &'static str, rule: NotASessionName },
    SessionTooLong { tenant: TenantName, needed: usize },
    SidecarUser { container: String, field: &'static str, uid: u32 },
    StaticCredentials { container: String, variable: String },
    TenantMissing { namespace: String, reason: NoTenant },
    TenantTooLong { tenant: TenantName, session: String, longest: usize },
    TokenPathTaken { container: String, path: String },
    TooManyContainers { found: usize, most: usize },
    TooManyItems { what: String },
    UnknownComponent { value: String },
    UnreadablePod { place: String },
    Windows,
}

impl Refusal {
    pub fn code(&self) -> &'static str {
        match self {
            Self::AwsTokenVolume { .. } => "aws-token-volume",
            Self::FabOperator { .. } => "fab-operator",
            Self::HostNamespace { .. } => "host-namespace",
            Self::Internal => "internal",
            Self::IssuerMissing { .. } => "issuer-missing",
            Self::IssuerTokenVolume { .. } => "issuer-token-volume",
            Self::NamespaceUnknown { .. } => "namespace-unknown",
            Self::NotAPodCreation { .. } => "not-a-pod-creation",
            Self::OnBehalfOfIllegal { .. } => "on-behalf-of-illegal",
            Self::PatchTooCostly { .. } => "patch-too-costly",
            Self::PatchTooLarge { .. } => "patch-too-large",
            Self::PodNetwork { .. } => "pod-network",
            Self::OldPodSecurity { .. } | Self::PodSecurity { .. } => "pod-security",
            Self::PortTaken { .. } => "port-taken",
            Self::ReservedAnnotation { .. } => "reserved-annotation",
            Self::ReservedName { .. } => "reserved-name",
            Self::ReservedVolume { .. } => "reserved-volume",
            Self::RoleDenied { .. } => "role-denied",
            Self::RoleMissing { .. } => "role-missing",
            Self::RoleUnavailable { .. } => "role-unavailable",
            Self::RoleUnusable { unusable: Unusable::Malformed(_), .. } => "role-malformed",
            Self::RoleUnusable { unusable: Unusable::NotAllowed { .. }, .. } => "role-not-allowed",
            Self::RoleUnusable { unusable: Unusable::SecureString, .. } => "role-secure-string",
            Self::RoleUnusable { unusable: Unusable::WrongType, .. } => "role-wrong-type",
            Self::SessionIllegal { .. } => "session-illegal",
            Self::SessionTooLong { .. } => "session-too-long",
            Self::SidecarUser { .. } => "sidecar-user",
            Self::StaticCredentials { .. } => "static-credentials",
            Self::TenantMissing { .. } => "tenant-missing",
            Self::TenantTooLong { .. } => "tenant-too-long",
            Self::TokenPathTaken { .. } => "token-path-taken",
            Self::TooManyContainers { .. } => "too-many-containers",
            Self::TooManyItems { .. } => "too-many-items",
            Self::UnknownComponent { .. } => "unknown-component",
            Self::UnreadablePod { .. } => "unreadable-pod",
            Self::Windows => "windows",
        }
    }

    /// Returns whether the same request may succeed a second later without any change (HTTP 503).
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Internal
                | Self::NamespaceUnknown { .. }
                | Self::RoleDenied { .. }
                | Self::RoleUnavailable { .. }
        )
    }

    /// Returns the cause, without code and remedy.
    pub fn sentence(&self) -> String {
        clipped(&fmt::from_fn(|f| self.tell(f)).to_string())
    }

    /// Returns what to do about it, as an imperative or a command.
    pub fn remedy(&self) -> String {
        match self {
            Self::AwsTokenVolume { .. } => {
                "remove the volume; agent pods get their AWS credentials from the credential sidecar".to_owned()
            }
            Self::FabOperator { .. } => {
                format!("remove the variable from the pod template; or ask the platform team to set the namespace label {OPERATOR_LABEL}=keep: such pods keep their base credentials, and their calls are not attributed to a session")
            }
            Self::HostNamespace { field: "shareProcessNamespace" } => {
                "remove the field, with which containers see each other's processes; for kubectl debug --copy-to, add --share-processes=false".to_owned()
            }
            Self::HostNamespace { .. } => "remove the field; it exposes credentials to other containers or to the node".to_owned(),
            Self::Internal => "see the webhook's log, and report the bug together with the pod's manifest".to_owned(),
            Self::IssuerMissing { namespace } => {
                format!("kubectl label namespace {namespace} {TRANSPORT_LABEL}-; or set the section issuer of the config")
            }
            Self::IssuerTokenVolume { .. } => "remove the volume; only the credential sidecar may have this token".to_owned(),
            Self::NamespaceUnknown { .. } => "retry; if the error persists, see the webhook's log for failures of the namespace watch".to_owned(),
            Self::NotAPodCreation { .. } => "restore the chart's webhook configuration".to_owned(),
            Self::OldPodSecurity { namespace, wanted, .. } => {
                format!("kubectl label namespace {namespace} {POD_SECURITY_LABEL}={wanted} {POD_SECURITY_VERSION_LABEL}=latest --overwrite")
            }
            Self::OnBehalfOfIllegal { .. } => "correct the annotation in the controller that creates the pod".to_owned(),
            Self::PatchTooCostly { .. } => "remove duplicate variables, mounts and volumes from the pod template, or split the work over more pods".to_owned(),
            Self::PatchTooLarge { .. } => "shorten the container names of the pod, and its variables for regions and proxies".to_owned(),
            Self::PodNetwork { what, .. } => {
                format!("remove the {what} from the pod template; or ask the platform team to set baseCredentials.source: irsa, with which the sidecar sends its token over TLS")
            }
            Self::PodSecurity { namespace, wanted, .. } => {
                format!("kubectl label namespace {namespace} {POD_SECURITY_LABEL}={wanted} --overwrite")
            }
            Self::PortTaken { .. } => "use another port in the container, or set another sidecar.port in the config".to_owned(),
            Self::ReservedAnnotation { .. } => "remove the annotation from the pod and from the object from which a controller creates it; only users in sessionCreators of the config may name a session by an annotation, or say on whose behalf it runs, for a component with session: creator-or-uid".to_owned(),
            Self::ReservedName { .. } => "choose another name".to_owned(),
            Self::ReservedVolume { .. } => "remove the mount; the webhook adds the mounts that the container needs".to_owned(),
            Self::RoleDenied { .. } => "grant ssm:GetParameters on this parameter to the webhook's IAM role".to_owned(),
            Self::RoleMissing { .. } => "publish the ARN of the tenant's session-broker role there (the chart's value staticRoles is the static role file), or remove the opt-in label of the namespace".to_owned(),
            Self::RoleUnavailable { .. } => "retry; if the error persists, see the webhook's log for SSM errors".to_owned(),
            Self::RoleUnusable { unusable, .. } => match unusable {
                Unusable::Malformed(_) => "publish the ARN of an IAM role".to_owned(),
                Unusable::NotAllowed { list } => format!("publish another role, or extend roles.allow.{list} in the config"),
                Unusable::SecureString | Unusable::WrongType => "publish it as type String; an ARN is not a secret".to_owned(),
            },
            Self::SessionIllegal { .. } => "correct the session name in the controller that creates the pod".to_owned(),
            Self::SessionTooLong { .. } => "choose a shorter pod name, or set session: pod-uid for the component in the config".to_owned(),
            Self::SidecarUser { .. } => "set runAsUser to a different UID".to_owned(),
            Self::StaticCredentials { .. } => "remove it from the pod template".to_owned(),
            Self::TenantMissing { namespace, .. } => {
                format!("kubectl label namespace {namespace} {TENANT_LABEL}=<platform> --overwrite")
            }
            Self::TenantTooLong { .. } => format!("set a shorter tenant in the namespace label {TENANT_LABEL}"),
            Self::TokenPathTaken { .. } => "mount the volume at another path".to_owned(),
            Self::TooManyContainers { .. } => "split the work over more pods".to_owned(),
            Self::TooManyItems { .. } => "remove duplicate or unused entries from this list".to_owned(),
            Self::UnknownComponent { .. } => "correct the label's value, or remove the label".to_owned(),
            Self::UnreadablePod { .. } => "correct the pod; kubectl create --dry-run=client --validate=strict names the invalid field, such as a number in place of a string".to_owned(),
            Self::Windows => "run the agent on Linux; the credential sidecar is available for Linux only".to_owned(),
        }
    }
}

/// Writes `sentence [code]: remedy`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]: {}", self.sentence(), self.code(), harmless(&self.remedy()))
    }
}

/// Returns the first [`LONGEST_SENTENCE`] characters of the text as one line, with control
/// characters escaped. The API server validates names only after the webhook, so the text may
/// contain any name.
pub(super) fn clipped(text: &str) -> String {
    let start: String = text.chars().take(LONGEST_SENTENCE).collect();
    let escaped = match harmless(&start) {
        Cow::Borrowed(_) => None,
        Cow::Owned(escaped) => Some(escaped.chars().take(LONGEST_SENTENCE).collect()),
    };
    escaped.unwrap_or(start)
}

/// Returns the first [`LONGEST_NAME`] characters of a name. This also bounds its escaped form.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

impl Refusal {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AwsTokenVolume { volume, audience } => {
                write!(
                    f,
                    "volume {volume:?} projects a service account token for the audience {audience}, which AWS exchanges for base credentials"
                )
            }
            Self::FabOperator { container } => {
                write!(f, "container {container:?} sets FAB_OPERATOR")
            }
            Self::HostNamespace { field } => write!(f, "the pod sets {field}"),
            Self::Internal => write!(f, "the webhook cannot evaluate this pod: internal error"),
            Self::IssuerMissing { namespace } => write!(
                f,
                "namespace {namespace:?} has the label {TRANSPORT_LABEL}=web-identity, but the webhook's config has no session issuer"
            ),
            Self::IssuerTokenVolume { volume, audience } => write!(
                f,
                "volume {volume:?} projects a service account token for the audience {audience}, by which a pod proves itself to the session issuer"
            ),
            Self::NamespaceUnknown { namespace } => {
                write!(f, "namespace {namespace:?} is not in the webhook's cache yet")
            }
            Self::NotAPodCreation { found } => {
                write!(f, "expected CREATE of pods, got {found}")
            }
            Self::OldPodSecurity { namespace, pinned, wanted } => write!(
                f,
                "namespace {namespace:?} pins version {pinned} of the Pod Security Standards, whose level {wanted} allows NET_RAW; agent pods need v1.22 or later"
            ),
            Self::OnBehalfOfIllegal { rule } => {
                write!(f, "the annotation {ON_BEHALF_OF_ANNOTATION} {rule}")
            }
            Self::PatchTooCostly { operations, most } => {
                write!(f, "the pod needs a patch of {operations} operations; the limit is {most}")
            }
            Self::PatchTooLarge { most } => write!(
                f,
                "the patch for the pod is larger than {most} bytes, the default limit of etcd for one object"
            ),
            Self::PodNetwork { what, key } => write!(
                f,
                "the pod's {what} {key} lets a network plugin redirect the pod's connections; the credential sidecar sends the base token without TLS"
            ),
            Self::PodSecurity { namespace, enforced, wanted } => write!(
                f,
                "namespace {namespace:?} enforces the Pod Security Standard {enforced}; agent pods need {wanted}"
            ),
            Self::PortTaken { container, port } => {
                write!(
                    f,
                    "container {container:?} declares port {port}, which is reserved for the credential sidecar"
                )
            }
            Self::ReservedAnnotation { key: key @ ON_BEHALF_OF_ANNOTATION } => {
                write!(f, "the annotation {key} is reserved for trusted creators")
            }
            Self::ReservedAnnotation { key } => {
                write!(
                    f,
                    "the annotation {key} is reserved for the webhook, which writes it itself"
                )
            }
            Self::ReservedName { what, name, component } => {
                write!(
                    f,
                    "the {what} name {name} is reserved for the credential sidecar; this pod of component {component} gets no sidecar"
                )
            }
            Self::ReservedVolume { container, volume } => {
                write!(
                    f,
                    "container {container:?} mounts {volume}, which is reserved for the credential sidecar"
                )
            }
            Self::RoleDenied { place } => {
                write!(f, "the webhook's IAM role is not authorized to read {place}")
            }
            Self::RoleMissing { place } => write!(f, "there is no {place}"),
            Self::RoleUnavailable { tenant: _, place, cause: Some(cause) } => {
                write!(f, "cannot read {place}: {cause}")
            }
            Self::RoleUnavailable { tenant: _, place, cause: None } => {
                write!(f, "cannot read {place}: timed out")
            }
            Self::RoleUnusable { place, unusable } => match unusable {
                Unusable::Malformed(rule) => write!(f, "{place} is not the ARN of a role: {rule}"),
                Unusable::NotAllowed { list } => {
                    write!(
                        f,
                        "{place} names a role that roles.allow.{list} in the config does not allow"
                    )
                }
                Unusable::SecureString => write!(f, "{place} has type SecureString, not String"),
                Unusable::WrongType => write!(f, "{place} does not have type String"),
            },
            Self::SessionIllegal { what, key, rule } => {
                write!(f, "the session name in {what} {key} {rule}")
            }
            Self::SessionTooLong { tenant, needed } => write!(
                f,
                "the pod name takes {needed} characters; a SourceIdentity of tenant {tenant} has {} characters for the session",
                tenant.remaining_length()
            ),
            Self::SidecarUser { container, field, uid } => write!(
                f,
                "container {container:?} runs as UID {uid} ({field}), which is reserved for the credential sidecar"
            ),
            Self::StaticCredentials { container, variable } => {
                write!(
                    f,
                    "container {container:?} sets {variable}, which takes precedence over the session credentials"
                )
            }
            Self::TenantMissing { namespace, reason: NoTenant::Absent } => {
                write!(f, "namespace {namespace:?} has no tenant label")
            }
            Self::TenantMissing { namespace, reason: NoTenant::Malformed { value, rule } } => {
                write!(f, "the tenant {value:?} of namespace {namespace:?} {rule}")
            }
            Self::TenantTooLong { tenant, session, longest } => write!(
                f,
                "tenant {tenant} has {} characters; at most {longest} fit beside {session} in a SourceIdentity of 64 characters",
                tenant.as_str().len()
            ),
            Self::TokenPathTaken { container, path } => {
                write!(
                    f,
                    "container {container:?} mounts a volume at {path:?}, which is reserved for the session token"
                )
            }
            Self::TooManyContainers { found, most } => {
                write!(f, "the pod has {found} containers; the limit for agent pods is {most}")
            }
            Self::TooManyItems { what } => f.write_str(what),
            Self::UnknownComponent { value } => {
                write!(f, "no component matches the pod's label {COMPONENT_LABEL}={value:?}")
            }
            Self::UnreadablePod { place } => {
                write!(f, "cannot decode {place}: it does not match the Pod API schema")
            }
            Self::Windows => write!(f, "the pod requests a Windows node"),
        }
    }
}

/// Maximum length of a name in a sentence, in characters: that of the name of a Kubernetes object.
const LONGEST_NAME: usize = 253;
/// Maximum length of a sentence, in characters: several times that of the longest one with valid
/// names.
const LONGEST_SENTENCE: usize = 1024;
