use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::{Installation, PodName};
use crate::{
    namespaces::NamespaceName,
    revocation::OlderThan,
    session::{RoleArn, SessionName, SourceIdentity, TenantName},
};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(WHAT))]
pub struct Revoke {
    /// Tenant of the sessions (default: that of --source-identity or of --pod)
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<TenantName>,
    /// Name of a session; may be repeated
    #[arg(long = "session", value_name = "NAME")]
    pub sessions: Vec<SessionName>,
    /// SourceIdentity of a session, from a CloudTrail event; may be repeated
    #[arg(long = "source-identity", value_name = "TEXT")]
    pub source_identities: Vec<SourceIdentity>,
    /// Pod of the cluster, whose session is revoked; uses the same kubeconfig as kubectl; may be
    /// repeated
    #[arg(long = "pod", value_name = "NAME")]
    pub pods: Vec<PodName>,
    /// Namespace of --pod (default: the kubeconfig's)
    #[arg(short, long, value_name = "NAME", requires = "pods")]
    pub namespace: Option<NamespaceName>,
    /// Revoke all credentials of the role that were issued before this time of RFC 3339, or this
    /// duration before now, such as 2h; credentials that a sidecar gets later are valid
    #[arg(long, value_name = "TIME")]
    pub older_than: Option<OlderThan>,
    /// Session-broker role (default: that of --pod, else the published one)
    #[arg(long, value_name = "ARN")]
    pub session_role: Option<RoleArn>,
    /// Name of the cluster, a part of the name of the parameter with the role
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub cluster: Option<String>,
    /// Config file of the webhook, which names the source of the role (default: the release's)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub installation: Installation,
    /// Write the policy to IAM
    #[arg(long)]
    pub apply: bool,
    /// Print what is revoked
    #[arg(long, conflicts_with_all = CHANGES)]
    pub list: bool,
    /// Remove entries from the policy, each only when no pod and no SandboxClaim of the cluster has the session and
    /// its longest credentials have expired: the first run marks the entry, a later one removes it
    #[arg(long, conflicts_with_all = CHANGES, conflicts_with = "list")]
    pub prune: bool,
    /// Output format of the policy: json (default) or terraform; of --list: text (default) or json
    #[arg(short, long, value_name = "FORMAT", conflicts_with_all = ["apply", "prune"])]
    pub output: Option<RevokeFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RevokeFormat {
    /// The policy, or an object for programs
    Json,
    /// A resource for the AWS provider
    Terraform,
    Text,
}

const WHAT: [&str; 6] = ["sessions", "source_identities", "pods", "older_than", "list", "prune"];
const CHANGES: [&str; 6] =
    ["sessions", "source_identities", "pods", "namespace", "older_than", "apply"];

pub(super) const REVOKE_EXAMPLES: &str = "Examples:
  fab-session-injector revoke --tenant acme --session fab-coder-x7k2p
  fab-session-injector revoke --source-identity agent.acme.fab-coder-x7k2p -o terraform \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker
  fab-session-injector revoke --pod session-fab-coder-x7k2p -n tenants-acme --apply
  fab-session-injector revoke --tenant acme --older-than 2026-11-24T08:00:00Z --apply
  fab-session-injector revoke --tenant acme --list -o json
  fab-session-injector revoke --tenant acme --prune";
