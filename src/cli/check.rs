use std::path::PathBuf;

use clap::Args;

use super::Format;
use crate::namespaces::NamespaceName;

#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    pub installation: Installation,
    /// Use this config file instead of the release's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check only this namespace of agents
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// Check the cluster before the chart is installed; with --namespace, as if that namespace were
    /// enabled
    #[arg(long, conflicts_with_all = ["release", "as_pod"])]
    pub pre: bool,
    /// Assume each tenant's role with the current AWS credentials, which must be those of its base
    /// role
    #[arg(long, conflicts_with = "skip_aws")]
    pub assume_role: bool,
    /// Start an agent pod in each enabled namespace, with a service account of that namespace; wait
    /// until it has credentials; then delete it
    #[arg(long, conflicts_with = "assume_role")]
    pub as_pod: bool,
    /// Skip all AWS API calls
    #[arg(long)]
    pub skip_aws: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// Selects a cluster, and a release of the chart in it.
#[derive(Args, Debug)]
pub struct Installation {
    /// kubeconfig context (default: current context)
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Helm release (default: the one whose webhook API servers call)
    #[arg(long, value_name = "NAME")]
    pub release: Option<String>,
    /// Namespace of the release (default: that of the webhook configuration's service, else that of
    /// the service account in the chart's ClusterRoleBindings)
    #[arg(long, value_name = "NAME")]
    pub release_namespace: Option<NamespaceName>,
}

pub(super) const CHECK_EXAMPLES: &str = "Examples:
  fab-session-injector check
  fab-session-injector check --context staging -n tenants-acme --skip-aws
  fab-session-injector check -n tenants-acme --as-pod -o json";
