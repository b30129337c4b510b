//! Why the issuer gives no token: a code that never changes its meaning, a sentence and a remedy.

use std::{borrow::Cow, fmt};

use crate::{config::TENANT_LABEL, namespaces::OPT_IN_LABEL, session::TenantName};

/// The text is for the owner of the agent, the code for metrics and alerts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenRefusal {
    AccountDiffers {
        pod: String,
    },
    /// The API server cannot be asked.
    ApiUnavailable {
        detail: String,
    },
    /// Too many requests of this pod, its namespace or all.
    Busy,
    /// The SandboxClaim of the pod's Sandbox does not exist any more.
    ClaimGone {
        pod: String,
    },
    GuardMissing,
    /// The signing key is not in the published files yet, or no more.
    KeyUnpublished,
    /// The key's service cannot sign.
    KeyUnavailable,
    NamespaceNotEnabled {
        namespace: String,
    },
    NoSession {
        why: &'static str,
    },
    /// The pod's sidecar is not the webhook's.
    NotInjected {
        why: &'static str,
    },
    PodGone {
        pod: String,
    },
    PredatesGuard {
        pod: String,
    },
    /// The guard has no rules about Sandboxes.
    SandboxGuardMissing,
    /// The Sandbox of the pod is older than the guard's rules about Sandboxes.
    SandboxPredatesGuard {
        pod: String,
    },
    /// The tenant's role is another one than that which the pod's sidecar assumes.
    RoleChanged {
        pod: String,
        role: String,
    },
    RoleUnavailable {
        place: String,
    },
    RoleUnusable {
        place: String,
    },
    /// The pod does not run the Sandbox that its reference names.
    SandboxGone {
        why: &'static str,
    },
    TenantMissing {
        namespace: String,
    },
    TenantTooLong {
        tenant: TenantName,
    },
    /// The request has no token of a pod for this issuer.
    TokenInvalid {
        why: String,
    },
    /// The API server does not accept the token any more.
    TokenRejected,
    /// The pod's Sandbox is in a warm pool.
    Unbound {
        pod: String,
    },
}

impl TokenRefusal {
    pub fn code(&self) -> &'static str {
        match self {
            Self::AccountDiffers { .. } => "account-differs",
            Self::ApiUnavailable { .. } => "api-unavailable",
            Self::Busy => "busy",
            Self::ClaimGone { .. } => "claim-gone",
            Self::GuardMissing | Self::SandboxGuardMissing => "guard-missing",
            Self::KeyUnpublished => "key-unpublished",
            Self::KeyUnavailable => "key-unavailable",
            Self::NamespaceNotEnabled { .. } => "namespace-not-enabled",
            Self::NoSession { .. } => "no-session",
            Self::NotInjected { .. } => "not-injected",
            Self::PodGone { .. } => "pod-gone",
            Self::PredatesGuard { .. } | Self::SandboxPredatesGuard { .. } => "predates-guard",
            Self::RoleChanged { .. } => "role-changed",
            Self::RoleUnavailable { .. } => "role-unavailable",
            Self::RoleUnusable { .. } => "role-unusable",
            Self::SandboxGone { .. } => "sandbox-gone",
            Self::TenantMissing { .. } => "tenant-missing",
            Self::TenantTooLong { .. } => "tenant-too-long",
            Self::TokenInvalid { .. } => "token-invalid",
            Self::TokenRejected => "token-rejected",
            Self::Unbound { .. } => "unbound",
        }
    }

    /// Returns the HTTP status: 401 for the token, 403 for the pod, 409 for a pod without a session,
    /// and 503 for what may be over soon. A client must not take the issuer's limit for one of AWS, so none is 429.
    pub fn status(&self) -> u16 {
        match self {
            Self::TokenInvalid { .. } | Self::TokenRejected => 401,
            Self::AccountDiffers { .. }
            | Self::ClaimGone { .. }
            | Self::NamespaceNotEnabled { .. }
            | Self::NoSession { .. }
            | Self::NotInjected { .. }
            | Self::PodGone { .. }
            | Self::PredatesGuard { .. }
            | Self::RoleChanged { .. }
            | Self::RoleUnusable { .. }
            | Self::SandboxGone { .. }
            | Self::SandboxPredatesGuard { .. }
            | Self::TenantMissing { .. }
            | Self::TenantTooLong { .. } => 403,
            Self::Unbound { .. } => 409,
            Self::ApiUnavailable { .. }
            | Self::Busy
            | Self::GuardMissing
            | Self::KeyUnpublished
            | Self::KeyUnavailable
            | Self::RoleUnavailable { .. }
            | Self::SandboxGuardMissing => 503,
        }
    }

    fn remedy(&self) -> Cow<'static, str> {
        let text = match self {
            Self::AccountDiffers { .. } | Self::NotInjected { .. } | Self::NoSession { .. } => {
                "create the pod again through the webhook, and compare it with explain"
            }
            Self::ApiUnavailable { .. } => "retry; if the error persists, see the issuer's log",
            Self::Busy => "retry later; a pod needs one token for each renewal of its credentials",
            Self::ClaimGone { .. } => "create a new claim; this pod gets no further credentials",
            Self::GuardMissing => {
                "set guard.enabled: true in the chart; without the guard a tenant could name a session"
            }
            Self::KeyUnpublished => {
                "put the files of `fab-session-injector issuer export` at the URL of the issuer"
            }
            Self::KeyUnavailable => {
                "retry; if the error persists, allow the issuer's role kms:Sign, and see its log"
            }
            Self::NamespaceNotEnabled { .. } => {
                return format!(
                    "set the namespace label {OPT_IN_LABEL}=enabled, or delete the pod"
                )
                .into();
            }
            Self::PodGone { .. } => "nothing: this pod does not run any more",
            Self::PredatesGuard { .. } => {
                "replace the pod; a session's name or tag is trusted only if the guard checked it"
            }
            Self::RoleChanged { .. } => {
                "replace the pod; it keeps its credentials until they expire"
            }
            Self::RoleUnavailable { .. } => {
                "retry; if the error persists, see the issuer's log for SSM errors"
            }
            Self::RoleUnusable { .. } => {
                "publish the ARN of the tenant's session-broker role there, which roles.allow accepts"
            }
            Self::SandboxGone { .. } => {
                "delete the pod; its controller creates another if the Sandbox exists"
            }
            Self::SandboxGuardMissing => {
                "re-run helm upgrade with a component of session sandbox-claim and delete the Sandbox, or delete the pod if there is no such component any more"
            }
            Self::SandboxPredatesGuard { .. } => "delete the Sandbox; its pool creates another",
            Self::TenantMissing { .. } | Self::TenantTooLong { .. } => {
                return format!("set a valid tenant in the namespace label {TENANT_LABEL}").into();
            }
            Self::TokenInvalid { .. } => {
                "send the token that the kubelet projects for the audience of the issuer"
            }
            Self::TokenRejected => "use the current token; the kubelet renews it in its file",
            Self::Unbound { .. } => "create a SandboxClaim for the pool; retry afterwards",
        };
        text.into()
    }
}

/// Writes `sentence: remedy`. The code is a field of its own.
impl fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AccountDiffers { pod } => {
                write!(f, "pod {pod:?} does not run as the service account of the token")
            }
            Self::ApiUnavailable { detail } => {
                write!(f, "the API server does not answer: {detail}")
            }
            Self::Busy => f.write_str("too many requests for tokens"),
            Self::ClaimGone { pod } => {
                write!(f, "the SandboxClaim of pod {pod:?} is deleted")
            }
            Self::GuardMissing => f.write_str(
                "the pod's session has a name or a tag, and no guard checked which user gave it",
            ),
            Self::KeyUnpublished => {
                f.write_str("the issuer's signing key is not in its published keys")
            }
            Self::KeyUnavailable => f.write_str("the issuer's key cannot sign"),
            Self::NamespaceNotEnabled { namespace } => {
                write!(f, "namespace {namespace} is not enabled for injection")
            }
            Self::NoSession { why } => f.write_str(why),
            Self::NotInjected { why } => {
                write!(f, "the pod is not as the webhook injects it: {why}")
            }
            Self::PodGone { pod } => {
                write!(f, "the pod {pod:?} of this token does not run any more")
            }
            Self::PredatesGuard { pod } => write!(
                f,
                "the session of pod {pod:?} has a name or a tag, but the pod was created before the guard's rule about it, or within a minute after"
            ),
            Self::RoleChanged { pod, role } => write!(
                f,
                "the role of the tenant is now {role}, and the sidecar of pod {pod:?} assumes another one"
            ),
            Self::RoleUnavailable { place } => write!(f, "cannot read {place}"),
            Self::RoleUnusable { place } => write!(f, "there is no usable {place}"),
            Self::SandboxGone { why } => {
                write!(f, "cannot use the Sandbox of the pod: {why}")
            }
            Self::SandboxGuardMissing => f.write_str(
                "the pod's session comes with a SandboxClaim, and the guard does not protect the references of Sandboxes",
            ),
            Self::SandboxPredatesGuard { pod } => write!(
                f,
                "the Sandbox of pod {pod:?} was created before the guard's rules about Sandboxes, or within a minute after"
            ),
            Self::TenantMissing { namespace } => {
                write!(f, "namespace {namespace} has no valid tenant")
            }
            Self::TenantTooLong { tenant } => {
                write!(f, "tenant {tenant} is too long beside the session's name")
            }
            Self::TokenInvalid { why } => {
                write!(f, "the request has no valid token of a pod: {why}")
            }
            Self::TokenRejected => f.write_str("the API server does not accept the token"),
            Self::Unbound { pod } => {
                write!(f, "no SandboxClaim has the Sandbox of pod {pod:?} yet")
            }
        }?;
        write!(f, ": {}", self.remedy())
    }
}
