//! Which role each tenant's sessions assume, as a snapshot.
//!
//! Nothing here does I/O, except in [`ssm`] and [`keeper`], which fill the snapshot.

mod agenda;
pub mod file;
pub mod keeper;
mod pace;
pub mod ssm;

use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc, time::Instant};

use crate::{
    config::{Allowed, ParameterTemplate},
    session::{NotARoleArn, RoleArn, TenantName},
};

/// An immutable snapshot. A tenant that is not in it was not asked for yet.
#[derive(Clone, Debug)]
pub struct Directory {
    entries: HashMap<TenantName, Entry>,
    source: Source,
}

/// What was learnt of one tenant.
#[derive(Clone, Debug)]
pub struct Entry {
    pub role: Arc<Role>,
    /// False where it is too old to be believed, and only remembered to be counted.
    pub believed: bool,
    /// When SSM said so. None: a file does.
    pub learnt: Option<Instant>,
}

/// What is known of a tenant's role.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    Known(RoleArn),
    /// The source was asked and has none.
    NotFound,
    /// The source could not be asked, and nothing is remembered.
    Unreachable(Cause),
    Unusable(Unusable),
}

/// Why SSM gave no answer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// The webhook's own role may not read the parameter.
    Denied,
    /// SSM answered with another error.
    Failed,
    NoAnswer,
    /// There was nothing to ask with.
    NoCredentials,
    Throttled,
}

/// Why a published value is not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unusable {
    Malformed(NotARoleArn),
    /// A valid ARN which the config's list of this name does not have.
    NotAllowed {
        list: &'static str,
    },
    /// A secret type for a value that is none; it would need a key of KMS.
    SecureString,
    /// StringList.
    WrongType,
}

/// Where roles are published.
#[derive(Clone, Debug)]
pub enum Source {
    /// A static role file.
    File(PathBuf),
    /// No source is configured.
    Nowhere,
    Ssm(ParameterTemplate),
}

impl Directory {
    pub fn new(source: Source, entries: HashMap<TenantName, Entry>) -> Self {
        Self { entries, source }
    }

    pub fn role(&self, tenant: &TenantName) -> Option<&Role> {
        match (self.entries.get(tenant).filter(|entry| entry.believed), &self.source) {
            (Some(entry), _) => Some(&entry.role),
            (None, Source::Ssm(_)) => None,
            // A file is read whole: what is not in it does not exist.
            (None, Source::File(_) | Source::Nowhere) => Some(&Role::NotFound),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&TenantName, &Entry)> {
        self.entries.iter()
    }

    /// Where the tenant's role is to be published, for people.
    pub fn place(&self, tenant: &TenantName) -> String {
        match &self.source {
            Source::File(path) => {
                format!("role for tenant {tenant} in the static role file {}", path.display())
            }
            Source::Nowhere => {
                format!("source of roles for tenant {tenant} (config: roles.ssm or roles.file)")
            }
            Source::Ssm(template) => format!("SSM parameter {}", template.of(tenant)),
        }
    }
}

impl Role {
    /// What a published text is worth.
    pub fn judge(text: &str, allowed: &Allowed) -> Self {
        match text.parse() {
            Err(rule) => Self::Unusable(Unusable::Malformed(rule)),
            Ok(role) => match allowed.refuses(&role) {
                Some(list) => Self::Unusable(Unusable::NotAllowed { list }),
                None => Self::Known(role),
            },
        }
    }
}

/// As a file says it.
impl From<Role> for Entry {
    fn from(role: Role) -> Self {
        Self { role: Arc::new(role), believed: true, learnt: None }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "access denied",
            Self::Failed => "an error",
            Self::NoAnswer => "no answer",
            Self::NoCredentials => "the webhook has no AWS credentials",
            Self::Throttled => "throttled",
        })
    }
}
