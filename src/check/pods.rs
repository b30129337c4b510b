//! Whether the pods that run are what the webhook would make of them today.

use std::{collections::HashMap, path::PathBuf};

use json_patch::PatchOperation;
use serde_json::Value;

use super::{Facts, Findings, Link, Tenancy, items, name, tenancy::subject};
use crate::{
    admission::{self, CONTAINER_NAME, Decision, Gives, ROLE_ARN_ANNOTATION, Refusal},
    config::{Config, Credentials, Glob},
    directory::{Directory, Role, Source},
    namespaces::{Mode, Namespace, Namespaces},
    session::{RoleArn, TenantName},
};

pub(super) fn judge(namespace: &Namespace, tenancy: &Tenancy, facts: &Facts, found: &mut Findings) {
    let subject = subject(namespace);
    let Some(pods) = tenancy.pods.or_tell(Link::PodWithoutSidecar, &subject, found) else {
        return;
    };
    // An audit gives nobody a sidecar, and without a tenant nobody gets one.
    let (Some(Mode::Enabled), Ok(tenant)) = (namespace.mode, &namespace.tenant) else { return };
    let mut wrong = 0;
    for pod in pods.iter().filter(|pod| is_running(pod)) {
        let role = facts.account.as_ref().and_then(|account| account.directory.role(tenant));
        let again = Again { pod, namespace, tenant, role };
        let Some((link, says)) = again.decide(&creators(&facts.config), &facts.config) else {
            continue;
        };
        wrong += 1;
        let subject = format!("pod {}/{}", namespace.name, name(pod));
        let excused = open_to(&facts.config)
            .find(|glob| again.decide(&[glob.example()], &facts.config).is_none());
        match (says, excused) {
            (Says::Refusal(refusal), None) => found.refused(link, subject, &refusal),
            (Says::Text(text), None) => found.broken(link, subject, text),
            (_, Some(glob)) => {
                let says =
                    format!("nobody knows whether {glob} created it, whose pods are left alone");
                found.unseen(link, subject, says);
            }
        }
    }
    if wrong == 0 {
        let says = format!("{} pods are what they would be today", pods.len());
        found.ok(Link::PodWithoutSidecar, subject, says);
    }
}

/// Who created a pod is not kept: the pod is in order if it is so for one of those who may have.
fn creators(config: &Config) -> Vec<String> {
    let named = config.session_creators.iter().map(Glob::example);
    std::iter::once(String::new()).chain(named).collect()
}

/// Those whose pods keep their base credentials, whatever else they are.
fn open_to(config: &Config) -> impl Iterator<Item = &Glob> {
    let open = config.components.iter().filter(|component| {
        matches!(component.credentials, Credentials::Env | Credentials::Exempt)
    });
    open.flat_map(|component| &component.creators)
}

fn is_running(pod: &Value) -> bool {
    let ended = ["Failed", "Succeeded"];
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    !ended.contains(&phase) && pod["metadata"]["deletionTimestamp"].is_null()
}

/// A pod that exists, about which is decided once more.
struct Again<'f> {
    pod: &'f Value,
    namespace: &'f Namespace,
    tenant: &'f TenantName,
    /// What is known of the tenant's role.
    role: Option<&'f Role>,
}

enum Says {
    Refusal(Refusal),
    Text(String),
}

impl Again<'_> {
    /// What is wrong with it, if anything is.
    fn decide(&self, creators: &[String], config: &Config) -> Option<(Link, Says)> {
        let mut config = config.clone();
        if config.region.is_none() {
            // The webhook's own then, which nobody knows here.
            config.region = self.variable("AWS_REGION").and_then(|region| region.parse().ok());
        }
        let namespaces = Namespaces::default().with(self.namespace.clone());
        let directory = self.directory();
        let mut first = None;
        for creator in creators {
            let name = &self.namespace.name;
            let (decision, operations, _) =
                admission::decide(self.pod, creator, name, &namespaces, &directory, &config);
            let wrong = self.judge(decision, &operations, &config)?;
            first = first.or(Some(wrong));
        }
        first
    }

    fn judge(
        &self,
        decision: Decision,
        operations: &[PatchOperation],
        config: &Config,
    ) -> Option<(Link, Says)> {
        let sidecar = self.sidecar();
        match decision {
            Decision::Pass(_) => None,
            Decision::Inject(_) if operations.is_empty() => None,
            Decision::Inject(injection)
                if sidecar.is_none() && matches!(injection.gives, Gives::Sidecar(_)) =>
            {
                Some((Link::PodWithoutSidecar, Says::Text("has no sidecar".to_owned())))
            }
            Decision::Inject(_) => {
                let image = sidecar.and_then(|sidecar| sidecar["image"].as_str());
                Some((Link::PodOutdated, Says::Text(outdated(image, operations, config))))
            }
            // Said of the namespace and its tenant already.
            Decision::Refuse(
                Refusal::PodSecurity { .. }
                | Refusal::RoleDenied { .. }
                | Refusal::RoleMissing { .. }
                | Refusal::RoleUnavailable { .. }
                | Refusal::RoleUnusable { .. }
                | Refusal::TenantMissing { .. }
                | Refusal::TenantTooLong { .. },
            ) => None,
            Decision::Refuse(refusal) => Some((Link::PodRefused, Says::Refusal(refusal))),
        }
    }

    fn sidecar(&self) -> Option<&Value> {
        let mut containers = items(&self.pod["spec"], "initContainers");
        containers.find(|container| container["name"] == CONTAINER_NAME)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let variable = items(self.sidecar()?, "env").find(|variable| variable["name"] == name);
        variable?["value"].as_str()
    }

    /// Where the role is not known, the pod's own: that it is not is said of the tenant.
    fn directory(&self) -> Directory {
        let own = self.pod["metadata"]["annotations"][ROLE_ARN_ANNOTATION].as_str();
        let own = || own.and_then(|role| role.parse::<RoleArn>().ok());
        let stand_in = || NOBODY.parse().ok();
        let role = match self.role {
            Some(Role::Known(role)) => Some(role.clone()),
            Some(Role::NotFound | Role::Unreachable(_) | Role::Unusable(_)) | None => {
                own().or_else(stand_in)
            }
        };
        let entries: HashMap<_, _> =
            role.map(|role| (self.tenant.clone(), Role::Known(role).into())).into_iter().collect();
        Directory::new(Source::File(PathBuf::new()), entries)
    }
}

fn outdated(image: Option<&str>, operations: &[PatchOperation], config: &Config) -> String {
    let wanted = &config.sidecar.image;
    match image {
        Some(image) if image != wanted => {
            format!("its sidecar runs {image}, and would run {wanted} today")
        }
        _ => {
            let places: Vec<String> =
                operations.iter().map(|operation| operation.path().to_string()).collect();
            format!("would be changed today at {}", places.join(", "))
        }
    }
}

/// Of a tenant whose role nobody knows; only whether there is a sidecar matters then.
const NOBODY: &str = "arn:aws:iam::000000000000:role/unknown";
