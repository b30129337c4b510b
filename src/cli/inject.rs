use std::path::PathBuf;

use clap::Args;

use crate::{config::Region, namespaces::NamespaceName, session::TenantName};

#[derive(Args, Debug)]
pub struct Inject {
    /// Manifests in YAML or JSON: pods, objects with a pod template, lists; a directory stands for
    /// its *.json, *.yaml and *.yml files; - is standard input; at most 64 MiB each; may be repeated
    #[arg(short, long, value_name = "FILE|-", required = true)]
    pub filename: Vec<PathBuf>,
    /// YAML file with the roles of tenants: `roles: {<tenant>: <role ARN>}`
    #[arg(long, value_name = "FILE")]
    pub roles: PathBuf,
    /// Namespace in which the pods would be created (default: the object's own)
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// Tenant of that namespace; takes precedence over its labels and its name
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<TenantName>,
    /// Requesting user: the user that would create the pods (userInfo.username)
    #[arg(long = "as", value_name = "USERNAME", default_value = "")]
    pub creator: String,
    /// AWS region for agents and sidecars, instead of the config's
    #[arg(long, value_name = "REGION")]
    pub region: Option<Region>,
    /// Config file of the webhook (default: built-in defaults)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the difference instead of the manifest
    #[arg(long, conflicts_with = "patch")]
    pub diff: bool,
    /// Print the JSON patch of each object instead of the manifest
    #[arg(long)]
    pub patch: bool,
}

pub(super) const INJECT_EXAMPLES: &str = "Examples:
  fab-session-injector inject -f job.yaml --roles roles.yaml --namespace tenants-acme \\
    --region eu-west-1 --diff
  fab-session-injector inject -f - --roles roles.yaml --namespace fab --tenant acme --patch \\
    < job.yaml";
