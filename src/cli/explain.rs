use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{Format, Installation, PodOrWorkload};
use crate::{config::Region, namespaces::NamespaceName, session::TenantName};

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("subject").args(["pod", "filename"]).required(true)))]
pub struct Explain {
    /// Pod of the cluster, or TYPE/NAME of a workload, whose newest pod is explained; uses the same
    /// kubeconfig as kubectl
    #[arg(value_name = "POD", conflicts_with = "tenant")]
    pub pod: Option<PodOrWorkload>,
    #[command(flatten)]
    pub installation: Installation,
    /// Manifests in YAML or JSON, read without a cluster: pods, objects with a pod template, lists; a
    /// directory stands for its *.json, *.yaml and *.yml files; - is standard input; at most 64 MiB
    /// each; may be repeated
    #[arg(
        short,
        long,
        value_name = "FILE|-",
        conflicts_with_all = ["context", "release", "release_namespace"]
    )]
    pub filename: Vec<PathBuf>,
    /// Namespace of the pod (default: the kubeconfig's; for manifests the object's own)
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// YAML file with the roles of tenants: `roles: {<tenant>: <role ARN>}` (default: the source
    /// that the config names)
    #[arg(long, value_name = "FILE")]
    pub roles: Option<PathBuf>,
    /// Tenant of the manifest's namespace; takes precedence over its labels and its name
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<TenantName>,
    /// Requesting user: the user that creates the pods (userInfo.username)
    #[arg(long = "as", value_name = "USERNAME")]
    pub creator: Option<String>,
    /// AWS region for agents and sidecars (not for SSM), instead of the config's
    #[arg(long, value_name = "REGION")]
    pub region: Option<Region>,
    /// Config file of the webhook (default: the release's; for manifests built-in defaults)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["release", "release_namespace"])]
    pub config: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

pub(super) const EXPLAIN_EXAMPLES: &str = "Examples:
  fab-session-injector explain session-a -n tenants-acme
  fab-session-injector explain deploy/agents -n tenants-acme
  fab-session-injector explain -f job.yaml -n tenants-acme --roles roles.yaml
  fab-session-injector explain -f job.yaml -n fab --tenant acme --roles roles.yaml -o json
  fab-session-injector explain -f job.yaml -n tenants-acme --roles roles.yaml \\
    --as system:serviceaccount:eks-agent-platform:operator";
