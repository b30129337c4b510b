//! IAM roles: as a test describes them, and with parsed documents.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::{
    arn::RoleArn,
    keys::role_id,
    policy::{NotAPolicy, Policy, TrustPolicy, Vocabulary},
};

/// A description of a role. [`crate::Aws::new`] returns its errors.
#[derive(Clone, Debug)]
pub struct Role {
    pub(crate) arn: String,
    pub(crate) trust: Value,
    pub(crate) policies: Vec<Value>,
    pub(crate) boundary: Option<Value>,
    pub(crate) max_session_duration: u64,
    pub(crate) tags: Vec<(String, String)>,
}

/// A role with parsed documents.
#[derive(Debug)]
pub(crate) struct StandingRole {
    pub(crate) arn: RoleArn,
    pub(crate) id: String,
    pub(crate) trust: TrustPolicy,
    pub(crate) policies: Vec<Policy>,
    /// Inline policies, by name. They can change, and apply to later calls of running sessions.
    inline: Mutex<BTreeMap<String, Policy>>,
    pub(crate) boundary: Option<Policy>,
    pub(crate) max_session_duration: u64,
    /// Tags of the role itself, which are principal tags of its sessions. They may change.
    tags: Mutex<Vec<(String, String)>>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotARole {
    #[error("its permissions boundary is not a valid policy")]
    Boundary(#[source] NotAPolicy),
    #[error("its inline policy {name} is not a valid policy")]
    Inline { name: String, source: NotAPolicy },
    #[error("its MaxSessionDuration is {0}; IAM accepts 3600 to 43200")]
    MaxSessionDuration(u64),
    #[error("its policy {index} is not a valid policy")]
    Policy { index: usize, source: NotAPolicy },
    #[error("its trust policy is not a valid policy")]
    Trust(#[source] NotAPolicy),
}

impl Role {
    pub fn new(arn: impl Into<String>) -> Self {
        Self {
            arn: arn.into(),
            trust: Value::Null,
            policies: Vec::new(),
            boundary: None,
            max_session_duration: 3600,
            tags: Vec::new(),
        }
    }

    /// Sets the permissions boundary.
    #[must_use]
    pub fn boundary(self, document: Value) -> Self {
        Self { boundary: Some(document), ..self }
    }

    #[must_use]
    pub fn max_session_duration(self, seconds: u64) -> Self {
        Self { max_session_duration: seconds, ..self }
    }

    /// Adds a permissions policy.
    #[must_use]
    pub fn policy(mut self, document: Value) -> Self {
        self.policies.push(document);
        self
    }

    /// Adds a tag of the role itself.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((key.into(), value.into()));
        self
    }

    /// Sets the trust policy. A role without one is an error.
    #[must_use]
    pub fn trust(self, document: Value) -> Self {
        Self { trust: document, ..self }
    }

    pub(crate) fn stand(
        self,
        arn: RoleArn,
        vocabulary: &Vocabulary,
    ) -> Result<StandingRole, NotARole> {
        let Self { arn: _, trust, policies, boundary, max_session_duration, tags } = self;
        if !(3600..=43_200).contains(&max_session_duration) {
            return Err(NotARole::MaxSessionDuration(max_session_duration));
        }
        let policies = policies.iter().enumerate().map(|(index, document)| {
            Policy::read(document, vocabulary).map_err(|source| NotARole::Policy { index, source })
        });
        let boundary = boundary.map(|document| Policy::read(&document, vocabulary));
        Ok(StandingRole {
            id: role_id(arn.as_str()),
            arn,
            trust: TrustPolicy::read(&trust, vocabulary).map_err(NotARole::Trust)?,
            policies: policies.collect::<Result<_, _>>()?,
            inline: Mutex::default(),
            boundary: boundary.transpose().map_err(NotARole::Boundary)?,
            max_session_duration,
            tags: Mutex::new(tags),
        })
    }
}

impl StandingRole {
    pub(crate) fn tags(&self) -> Vec<(String, String)> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn tag(&self, key: &str, value: &str) {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        tags.retain(|(known, _)| !known.eq_ignore_ascii_case(key));
        tags.push((key.to_owned(), value.to_owned()));
    }

    /// Every change is complete when the lock is released, so a poisoned lock is safe.
    pub(crate) fn inline(&self) -> MutexGuard<'_, BTreeMap<String, Policy>> {
        self.inline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
