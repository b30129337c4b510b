//! The facts of IAM that `check` reads about a tenant's roles.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::Seen;
use crate::{
    revocation::{NotOurs, Revoked},
    session::RoleArn,
};

/// The policies of one role, as IAM stores them.
#[derive(Clone, Debug)]
pub struct Held {
    pub boundary: Option<Boundary>,
    /// The maximum session duration.
    pub longest_session: Duration,
    /// Inline and attached policies.
    pub policies: Vec<Value>,
    /// The sessions that `revoke` denied.
    pub revoked: Result<Revoked, NotOurs>,
    pub tags: BTreeMap<String, String>,
    pub trust: Value,
}

/// A permissions boundary.
#[derive(Clone, Debug)]
pub struct Boundary {
    pub arn: String,
    pub document: Value,
}

/// The session role of a tenant, and the base roles that its trust policy names.
#[derive(Debug)]
pub struct Chain {
    pub base_roles: Vec<(RoleArn, Seen<Held>)>,
    pub session_role: Seen<Held>,
}

impl Boundary {
    /// Returns the policy's path and name, which another account may have too.
    pub(super) fn name(&self) -> &str {
        self.arn.split_once(":policy/").map_or(&*self.arn, |(_, name)| name)
    }
}
