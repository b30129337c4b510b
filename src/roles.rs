//! The role that the sessions of each tenant assume, as a snapshot.
//!
//! Only [`ssm`] and [`refresher`] do I/O: they fill the snapshot.

mod agenda;
mod cache;
pub mod file;
pub mod publisher;
mod rate_limit;
pub mod refresher;
mod schedule;
pub mod ssm;

use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc, time::Instant};

use arc_swap::ArcSwap;

use crate::{
    config::{Allowed, ParameterTemplate},
    session::{NotARoleArn, RoleArn, TenantName},
};

/// An immutable snapshot of the roles. With SSM, a tenant that is not in it was not read yet.
#[derive(Clone, Debug)]
pub struct Roles {
    entries: HashMap<TenantName, Entry>,
    source: Source,
}

/// Roles that are served while the publisher cannot be reached.
pub type Backup = Arc<ArcSwap<HashMap<TenantName, Entry>>>;

/// The cached role of one tenant.
#[derive(Clone, Debug)]
pub struct Entry {
    pub role: Arc<Role>,
    /// Whether the entry is fresh. An entry that is not is kept only for the metrics.
    pub fresh: bool,
    /// When SSM returned it. None: it comes from a role file.
    pub read_at: Option<Instant>,
}

/// The state of a tenant's role.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    Known(RoleArn),
    /// The source has no role for the tenant.
    NotFound,
    /// The source could not be read, and no role is cached.
    Unreachable(Cause),
    /// The published value is not accepted.
    Unusable(Unusable),
}

/// Why a read from SSM failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// The webhook's IAM role is not authorized to read the parameter.
    Denied,
    /// SSM returned another error.
    Failed,
    /// SSM did not respond in time.
    NoAnswer,
    /// The webhook has no AWS credentials.
    NoCredentials,
    Throttled,
}

/// Why a published value is not accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unusable {
    /// The value is not the ARN of an IAM role.
    Malformed(NotARoleArn),
    /// A valid ARN that is not in the config's list of this name.
    NotAllowed { list: &'static str },
    /// The type SecureString. An ARN is no secret, and reading it would need a KMS key.
    SecureString,
    /// The type StringList.
    WrongType,
}

/// The place where roles are published.
#[derive(Clone, Debug)]
pub enum Source {
    /// A static role file.
    File(PathBuf),
    /// No source is configured.
    None,
    Ssm(ParameterTemplate),
}

impl Roles {
    /// Returns a snapshot of these entries.
    pub fn new(source: Source, entries: HashMap<TenantName, Entry>) -> Self {
        Self { entries, source }
    }

    /// Returns the tenant's role. None: it must be looked up in SSM.
    pub fn role(&self, tenant: &TenantName) -> Option<&Role> {
        match (self.entries.get(tenant).filter(|entry| entry.fresh), &self.source) {
            (Some(entry), _) => Some(&entry.role),
            (None, Source::Ssm(_)) => None,
            // A file is complete: a tenant that is not in it has no role.
            (None, Source::File(_) | Source::None) => Some(&Role::NotFound),
        }
    }

    /// Iterates over all entries, also those that are not fresh.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantName, &Entry)> {
        self.entries.iter()
    }

    /// Returns where the tenant's role must be published, as text for messages.
    pub fn location(&self, tenant: &TenantName) -> String {
        match &self.source {
            Source::File(path) => {
                format!("role for tenant {tenant} in the static role file {}", path.display())
            }
            Source::None => {
                format!("source of roles for tenant {tenant} (config: roles.ssm or roles.file)")
            }
            Source::Ssm(template) => format!("SSM parameter {}", template.of(tenant)),
        }
    }
}

impl Role {
    /// Returns the role that a published text defines.
    pub fn from_arn(text: &str, allowed: &Allowed) -> Self {
        match text.parse() {
            Err(rule) => Self::Unusable(Unusable::Malformed(rule)),
            Ok(role) => match allowed.refuses(&role) {
                Some(list) => Self::Unusable(Unusable::NotAllowed { list }),
                None => Self::Known(role),
            },
        }
    }
}

/// Converts a role of a role file.
impl From<Role> for Entry {
    fn from(role: Role) -> Self {
        Self { role: Arc::new(role), fresh: true, read_at: None }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "access denied",
            Self::Failed => "SSM returned an error",
            Self::NoAnswer => "no answer",
            Self::NoCredentials => "the webhook has no AWS credentials",
            Self::Throttled => "throttled",
        })
    }
}
