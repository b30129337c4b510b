//! Why we said no: a code that is forever, a sentence, a remedy.

use std::{borrow::Cow, fmt};

use crate::{
    config::{COMPONENT_LABEL, PodSecurity, TENANT_LABEL},
    directory::{Cause, Unusable},
    namespaces::{
        NoTenant, OPERATOR_LABEL, OldStandard, POD_SECURITY_LABEL, POD_SECURITY_VERSION_LABEL,
    },
    session::{NotASessionName, TenantName},
    terminal::harmless,
};

/// A refused pod. Its text is for the person whose `kubectl apply` failed; its code is for
/// metrics and alerts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    AwsTokenVolume { volume: String, audience: String },
    FabOperator { container: String },
    HostNamespace { field: &'static str },
    Internal,
    NamespaceUnknown { namespace: String },
    NotAPodCreation { found: String },
    OldPodSecurity { namespace: String, pinned: OldStandard, wanted: PodSecurity },
    PatchTooCostly { operations: usize, most: usize },
    PatchTooLarge { most: usize },
    PodNetwork { what: &'static str, key: &'static str },
    PodSecurity { namespace: String, enforced: PodSecurity, wanted: PodSecurity },
    PortTaken { container: String, port: u16 },
    ReservedName { what: &'static str, name: String, component: String },
    ReservedVolume { container: String, volume: String },
    RoleDenied { place: String },
    RoleMissing { place: String },
    RoleUnavailable { place: String, cause: Option<Cause> },
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
            Self::NamespaceUnknown { .. } => "namespace-unknown",
            Self::NotAPodCreation { .. } => "not-a-pod-creation",
            Self::PatchTooCostly { .. } => "patch-too-costly",
            Self::PatchTooLarge { .. } => "patch-too-large",
            Self::PodNetwork { .. } => "pod-network",
            Self::OldPodSecurity { .. } | Self::PodSecurity { .. } => "pod-security",
            Self::PortTaken { .. } => "port-taken",
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

    /// Whether the same pod may be let in a second later, with nobody changing anything.
    pub fn may_heal(&self) -> bool {
        matches!(
            self,
            Self::Internal
                | Self::NamespaceUnknown { .. }
                | Self::RoleDenied { .. }
                | Self::RoleUnavailable { .. }
        )
    }

    /// What is wrong, alone.
    pub fn sentence(&self) -> String {
        clipped(&fmt::from_fn(|f| self.tell(f)).to_string())
    }

    pub fn remedy(&self) -> String {
        match self {
            Self::AwsTokenVolume { .. } => {
                "remove the volume; the credential sidecar brings the pod's AWS credentials".to_owned()
            }
            Self::FabOperator { .. } => {
                format!("remove the variable from the pod template; or let the platform team label the namespace {OPERATOR_LABEL}=keep, with which pods that set it keep base credentials and their calls carry no session")
            }
            Self::HostNamespace { .. } => "remove the field; credentials on loopback must stay in the pod".to_owned(),
            Self::Internal => "see the webhook's log, and report the pod that did this".to_owned(),
            Self::NamespaceUnknown { .. } => "try again; if it stays so, see the webhook's log on its watch of namespaces".to_owned(),
            Self::NotAPodCreation { .. } => "restore the webhook configuration of the chart".to_owned(),
            Self::OldPodSecurity { namespace, wanted, .. } => {
                format!("kubectl label namespace {namespace} {POD_SECURITY_LABEL}={wanted} {POD_SECURITY_VERSION_LABEL}=latest --overwrite")
            }
            Self::PatchTooCostly { .. } => "remove repeated variables, mounts and volumes from the pod template, or spread the work over more pods".to_owned(),
            Self::PatchTooLarge { .. } => "shorten the names of its containers, and its variables for regions and proxies".to_owned(),
            Self::PodNetwork { what, .. } => {
                format!("remove the {what} from the pod template; or ask the platform team to set baseCredentials.source to irsa, whose token is sent over TLS")
            }
            Self::PodSecurity { namespace, wanted, .. } => {
                format!("kubectl label namespace {namespace} {POD_SECURITY_LABEL}={wanted} --overwrite")
            }
            Self::PortTaken { .. } => "choose another port for the container, or another sidecar.port in the config".to_owned(),
            Self::ReservedName { .. } => "choose another name".to_owned(),
            Self::ReservedVolume { .. } => "remove the mount; the webhook mounts what the container needs".to_owned(),
            Self::RoleDenied { .. } => "allow ssm:GetParameters on it to the webhook's role".to_owned(),
            Self::RoleMissing { .. } => "publish the ARN of the tenant's session-broker role there (the chart's value staticRoles is the static role file), or take the namespace's opt-in label away".to_owned(),
            Self::RoleUnavailable { .. } => "try again; if it stays so, see the webhook's log on SSM".to_owned(),
            Self::RoleUnusable { unusable, .. } => match unusable {
                Unusable::Malformed(_) => "publish the ARN of an IAM role".to_owned(),
                Unusable::NotAllowed { list } => format!("publish another role, or add to roles.allow.{list} of the config"),
                Unusable::SecureString | Unusable::WrongType => "publish it as type String; an ARN is no secret".to_owned(),
            },
            Self::SessionIllegal { .. } => "let the pod's creator name the session with legal characters".to_owned(),
            Self::SessionTooLong { .. } => "choose a shorter pod name, or session: pod-uid in the config".to_owned(),
            Self::SidecarUser { .. } => "set runAsUser to a different UID".to_owned(),
            Self::StaticCredentials { .. } => "remove the variable from the pod template".to_owned(),
            Self::TenantMissing { namespace, .. } => {
                format!("kubectl label namespace {namespace} {TENANT_LABEL}=<platform> --overwrite")
            }
            Self::TenantTooLong { .. } => format!("give the namespace a shorter tenant by the label {TENANT_LABEL}"),
            Self::TokenPathTaken { .. } => "mount the volume elsewhere".to_owned(),
            Self::TooManyContainers { .. } => "spread the work over more pods".to_owned(),
            Self::TooManyItems { .. } => "remove duplicate or unused entries from this list".to_owned(),
            Self::UnknownComponent { .. } => "correct the label's value, or remove the label".to_owned(),
            Self::UnreadablePod { .. } => "correct the pod; kubectl create --dry-run=client --validate=strict names the field, such as a number where text is wanted".to_owned(),
            Self::Windows => "run the agent on Linux; the credential sidecar is a Linux program".to_owned(),
        }
    }
}

/// A sentence, the code, a remedy.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]: {}", self.sentence(), self.code(), harmless(&self.remedy()))
    }
}

/// The start of what may hold a name of any length and any characters, in one line: the API server
/// judges names after us.
pub(super) fn clipped(text: &str) -> String {
    let start: String = text.chars().take(LONGEST_SENTENCE).collect();
    let escaped = match harmless(&start) {
        Cow::Borrowed(_) => None,
        Cow::Owned(escaped) => Some(escaped.chars().take(LONGEST_SENTENCE).collect()),
    };
    escaped.unwrap_or(start)
}

/// The start of a name, for a sentence. Whatever it is escaped to then has a bound, too.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

impl Refusal {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AwsTokenVolume { volume, audience } => {
                write!(
                    f,
                    "volume {volume:?} projects a token for {audience}, which is the service account's own AWS credentials"
                )
            }
            Self::FabOperator { container } => {
                write!(f, "container {container:?} sets FAB_OPERATOR")
            }
            Self::HostNamespace { field } => write!(f, "the pod sets {field}"),
            Self::Internal => write!(f, "the webhook failed on this pod"),
            Self::NamespaceUnknown { namespace } => {
                write!(f, "namespace {namespace:?} is not known here yet")
            }
            Self::NotAPodCreation { found } => {
                write!(f, "want the creation of a pod, not {found}")
            }
            Self::OldPodSecurity { namespace, pinned, wanted } => write!(
                f,
                "namespace {namespace:?} pins Pod Security Standard {pinned}, whose level {wanted} allows NET_RAW; agent pods need v1.22 or later"
            ),
            Self::PatchTooCostly { operations, most } => {
                write!(f, "the pod needs a patch of {operations} operations; the limit is {most}")
            }
            Self::PatchTooLarge { most } => write!(
                f,
                "the patch for the pod takes more than {most} bytes, and Kubernetes stores no object of that size"
            ),
            Self::PodNetwork { what, key } => write!(
                f,
                "the pod's {what} {key} lets a network plugin redirect its connections, and the credential sidecar sends the base token without TLS"
            ),
            Self::PodSecurity { namespace, enforced, wanted } => write!(
                f,
                "namespace {namespace:?} enforces the Pod Security Standard {enforced}, and agent pods need {wanted}"
            ),
            Self::PortTaken { container, port } => {
                write!(
                    f,
                    "container {container:?} declares port {port}, which is the credential sidecar's"
                )
            }
            Self::ReservedName { what, name, component } => {
                write!(
                    f,
                    "the {what} name {name} is the credential sidecar's, and a pod of component {component} has none"
                )
            }
            Self::ReservedVolume { container, volume } => {
                write!(
                    f,
                    "container {container:?} mounts {volume}, which is the credential sidecar's"
                )
            }
            Self::RoleDenied { place } => write!(f, "the webhook may not read {place}"),
            Self::RoleMissing { place } => write!(f, "there is no {place}"),
            Self::RoleUnavailable { place, cause: Some(cause) } => {
                write!(f, "{place} cannot be read now: {cause}")
            }
            Self::RoleUnavailable { place, cause: None } => {
                write!(f, "{place} was not read in time")
            }
            Self::RoleUnusable { place, unusable } => match unusable {
                Unusable::Malformed(rule) => write!(f, "{place} is not the ARN of a role: {rule}"),
                Unusable::NotAllowed { list } => {
                    write!(
                        f,
                        "{place} holds a role that roles.allow.{list} of the config does not have"
                    )
                }
                Unusable::SecureString => write!(f, "{place} has type SecureString"),
                Unusable::WrongType => write!(f, "{place} has another type than String"),
            },
            Self::SessionIllegal { what, key, rule } => {
                write!(f, "the session's name in {what} {key} {rule}")
            }
            Self::SessionTooLong { tenant, needed } => write!(
                f,
                "the pod's name takes {needed} characters, and a SourceIdentity has {} for a session of tenant {tenant}",
                tenant.room()
            ),
            Self::SidecarUser { container, field, uid } => write!(
                f,
                "container {container:?} runs as UID {uid} ({field}), which is reserved for the credential sidecar"
            ),
            Self::StaticCredentials { container, variable } => {
                write!(
                    f,
                    "container {container:?} sets {variable}, which goes before the session's credentials"
                )
            }
            Self::TenantMissing { namespace, reason: NoTenant::Absent } => {
                write!(f, "nothing says which tenant namespace {namespace:?} belongs to")
            }
            Self::TenantMissing { namespace, reason: NoTenant::Malformed { value, rule } } => {
                write!(f, "the tenant {value:?} of namespace {namespace:?} {rule}")
            }
            Self::TenantTooLong { tenant, session, longest } => write!(
                f,
                "tenant {tenant} has {} characters, and at most {longest} leave room for {session} in a SourceIdentity of 64",
                tenant.as_str().len()
            ),
            Self::TokenPathTaken { container, path } => {
                write!(
                    f,
                    "container {container:?} mounts a volume of its own at {path:?}, where the session's token belongs"
                )
            }
            Self::TooManyContainers { found, most } => {
                write!(f, "the pod has {found} containers, and an agent pod has at most {most}")
            }
            Self::TooManyItems { what } => f.write_str(what),
            Self::UnknownComponent { value } => {
                write!(f, "no component matches the pod's label {COMPONENT_LABEL}={value:?}")
            }
            Self::UnreadablePod { place } => {
                write!(f, "{place} of the pod has not the shape that Kubernetes gives it")
            }
            Self::Windows => write!(f, "the pod runs on Windows"),
        }
    }
}

/// In characters: the longest name of a Kubernetes object.
const LONGEST_NAME: usize = 253;
/// In characters: several times the longest of ours with names as Kubernetes has them.
const LONGEST_SENTENCE: usize = 1024;
