use std::str::FromStr;

use super::{PodName, pod_name::NotAPodName};

/// A pod of the cluster, or a workload that has pods. Parsing accepts the spellings of kubectl:
/// `NAME`, `pod/NAME`, `deploy/NAME`.
#[derive(Clone, Debug)]
pub enum PodOrWorkload {
    Pod(PodName),
    Workload { kind: WorkloadKind, name: PodName },
}

/// A kind of object that selects its pods by labels, as kubectl spells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WorkloadKind {
    DaemonSet,
    Deployment,
    Job,
    ReplicaSet,
    StatefulSet,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum NotAPodOrWorkload {
    #[error(transparent)]
    Name(#[from] NotAPodName),
    #[error(
        "kind {0:?} is not supported: expected pod, deployment, statefulset, daemonset, replicaset or job"
    )]
    Kind(String),
}

impl FromStr for PodOrWorkload {
    type Err = NotAPodOrWorkload;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let Some((kind, name)) = s.split_once('/') else { return Ok(Self::Pod(s.parse()?)) };
        if ["po", "pod", "pods"].contains(&kind) {
            return Ok(Self::Pod(name.parse()?));
        }
        let mut kinds = WorkloadKind::ALL.into_iter();
        match kinds.find(|known| known.spellings().contains(&kind)) {
            Some(kind) => Ok(Self::Workload { kind, name: name.parse()? }),
            None => Err(NotAPodOrWorkload::Kind(kind.to_owned())),
        }
    }
}

impl WorkloadKind {
    const ALL: [Self; 5] =
        [Self::DaemonSet, Self::Deployment, Self::Job, Self::ReplicaSet, Self::StatefulSet];

    /// Returns the kind in lower case, as kubectl prints it.
    pub fn as_str(self) -> &'static str {
        self.spellings()[0]
    }

    /// Returns the API group's path, and the name of the objects in it.
    pub fn api(self) -> (&'static str, &'static str) {
        match self {
            Self::DaemonSet => ("/apis/apps/v1", "daemonsets"),
            Self::Deployment => ("/apis/apps/v1", "deployments"),
            Self::Job => ("/apis/batch/v1", "jobs"),
            Self::ReplicaSet => ("/apis/apps/v1", "replicasets"),
            Self::StatefulSet => ("/apis/apps/v1", "statefulsets"),
        }
    }

    /// Returns the names that kubectl accepts.
    fn spellings(self) -> &'static [&'static str] {
        match self {
            Self::DaemonSet => &["daemonset", "daemonsets", "ds", "daemonset.apps"],
            Self::Deployment => &["deployment", "deployments", "deploy", "deployment.apps"],
            Self::Job => &["job", "jobs", "job.batch"],
            Self::ReplicaSet => &["replicaset", "replicasets", "rs", "replicaset.apps"],
            Self::StatefulSet => &["statefulset", "statefulsets", "sts", "statefulset.apps"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_workloads_are_named_as_for_kubectl() {
        let cases = [
            ("agent-a", "pod agent-a"),
            ("pod/agent-a", "pod agent-a"),
            ("po/agent-a", "pod agent-a"),
            ("deploy/agents", "deployment agents"),
            ("deployment.apps/agents", "deployment agents"),
            ("sts/agents", "statefulset agents"),
            ("job/agents", "job agents"),
            ("service/agents", "kind \"service\" is not supported"),
            ("cronjob/agents", "kind \"cronjob\" is not supported"),
            ("deploy/", "not a valid name"),
            ("Agents", "not a valid name"),
            ("deploy/a/b", "not a valid name"),
        ];
        for (text, want) in cases {
            let said = match text.parse::<PodOrWorkload>() {
                Ok(PodOrWorkload::Pod(name)) => format!("pod {}", name.as_str()),
                Ok(PodOrWorkload::Workload { kind, name }) => {
                    format!("{} {}", kind.as_str(), name.as_str())
                }
                Err(error) => error.to_string(),
            };
            assert!(said.starts_with(want), "{text}: {said}");
        }
    }
}
