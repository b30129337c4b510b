//! The command line. Each value is parsed by its noun.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::Region,
    namespaces::NamespaceName,
    policies::{self, HeldTo},
    session::{RoleArn, TenantName},
};

/// Gives agent pods AWS credentials that carry the session's own name.
#[derive(Debug, Parser)]
#[command(name = "fab-session-injector", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep the webhook's serving certificate, and the trust of API servers in it
    ///
    /// Fills one Secret, which the chart makes, and the caBundle of one webhook configuration,
    /// renews both ahead of time, and mends them. Exit codes: 0 stopped by a signal; 2 the input
    /// is wrong; 3 our failure.
    #[command(after_long_help = CERTS_EXAMPLES)]
    Certs(Certs),
    /// Look at all that must hold, in the cluster and in AWS, for sessions to have their names
    ///
    /// Reads, and changes nothing; but --as-pod creates pods and deletes them, and --assume-role
    /// takes credentials from STS. What it may not see it names. Config and names are those of
    /// the chart's release in the cluster. Exit codes: 0 all holds, or what does not is only worth
    /// knowing; 1 something is broken; 2 the input is wrong; 3 our failure, or nobody answers; 141
    /// whoever reads the output has gone.
    #[command(after_long_help = CHECK_EXAMPLES)]
    Check(Check),
    /// Print what a shell completes of this command line
    ///
    /// Exit codes: 0 done; 2 the input is wrong; 141 whoever reads the output has gone.
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions(Completions),
    /// Say what becomes of a pod, and why
    ///
    /// Decides as the webhook does, and says by what: component and what of it matched, the
    /// session and who named it, the role and where it is published; or which rule passed the pod
    /// by, or refused it. Exit codes: 0 fine; 1 a pod is refused, or one of the cluster is not what
    /// the webhook would make of it (in audit neither counts: 0); 2 the input is wrong; 3 our
    /// failure, or what it takes to decide is not reachable, or hangs on who created the pod (--as
    /// says who); 141 whoever reads the output has gone.
    #[command(after_long_help = EXPLAIN_EXAMPLES)]
    Explain(Explain),
    /// Print what AWS is to hold for one tenant: trust, policies, and the parameter
    ///
    /// Prints a JSON array of documents, each with its name, where it goes and what to know about
    /// it; one policy alone with --only, as `aws iam` takes it; or a file for Terraform. The one
    /// policy that stops pods that run is printed only with --deny-without-source-identity. Exit
    /// codes: 0 done; 2 the input is wrong; 3 our failure; 141 whoever reads the output has gone.
    #[command(after_long_help = IAM_EXAMPLES)]
    Iam(Iam),
    /// Show what the webhook would do to manifests, without a cluster
    ///
    /// Exit codes: 0 done; 1 a pod is refused (in audit none is: 0); 2 the input is wrong; 3 our
    /// failure; 141 whoever reads the output has gone.
    #[command(after_long_help = INJECT_EXAMPLES)]
    Inject(Inject),
    /// Ask the sidecar of this container whether the agent may start (its startup probe)
    ///
    /// Takes all it needs from the environment that the webhook gives the sidecar. Exit codes: 0
    /// ready; 1 not ready, for the printed reason; 2 the environment is wrong; 3 nobody answers.
    #[command(after_long_help = PROBE_EXAMPLES)]
    Probe,
    /// Serve session credentials to the containers of this pod
    ///
    /// Takes all it needs from the environment that the webhook gives the sidecar. Exit codes: 0
    /// stopped by a signal; 2 the environment is wrong; 3 our failure.
    #[command(after_long_help = SIDECAR_EXAMPLES)]
    Sidecar,
    /// Serve admission reviews
    ///
    /// Exit codes: 0 stopped by a signal; 2 the input is wrong; 3 our failure.
    #[command(after_long_help = WEBHOOK_EXAMPLES)]
    Webhook(Webhook),
}

#[derive(Args, Debug)]
pub struct Certs {
    /// The namespace of the Secret and of the service
    #[arg(long, value_name = "NAME")]
    pub namespace: NamespaceName,
    /// The Secret that holds authority and certificate: ca.crt, ca.key, tls.crt, tls.key
    #[arg(long, value_name = "NAME")]
    pub secret: String,
    /// The service under which API servers call the webhook
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// The MutatingWebhookConfiguration that says whom API servers trust
    #[arg(long, value_name = "NAME")]
    pub webhook_configuration: String,
    /// Where /livez, /readyz and /metrics are served, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    pub health_listen: SocketAddr,
}

#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    pub installation: Installation,
    /// Go by this config file, instead of the release's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Look at this namespace of agents only
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// Assume each tenant's role, with the AWS credentials of this shell: they must be its base
    /// role's
    #[arg(long, conflicts_with = "skip_aws")]
    pub assume_role: bool,
    /// Start a pod in each enabled namespace, as an agent of its own service account, to see whether
    /// it gets credentials, and delete it
    #[arg(long, conflicts_with = "assume_role")]
    pub as_pod: bool,
    /// Ask AWS nothing
    #[arg(long)]
    pub skip_aws: bool,
    /// How findings are printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// Which of the clusters, and which release of the chart in it.
#[derive(Args, Debug)]
pub struct Installation {
    /// The context of the kubeconfig; its current one without it
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The Helm release, where it is not the one whose webhook API servers call
    #[arg(long, value_name = "NAME")]
    pub release: Option<String>,
    /// The namespace of the release; without it that of the webhook configuration's service, else of
    /// the account that the chart's ClusterRoleBindings name
    #[arg(long, value_name = "NAME")]
    pub release_namespace: Option<NamespaceName>,
}

#[derive(Args, Debug)]
pub struct Completions {
    /// Whose completions
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Fish,
    Zsh,
}

#[derive(Args, Debug)]
pub struct Explain {
    /// A pod of the cluster, by the kubeconfig that kubectl takes
    #[arg(
        value_name = "POD",
        required_unless_present = "filename",
        conflicts_with_all = ["filename", "tenant"]
    )]
    pub pod: Option<PodName>,
    #[command(flatten)]
    pub installation: Installation,
    /// Manifests in YAML or JSON, without a cluster: pods, workloads with a pod template, lists; -
    /// is standard input; at most 64 MiB each; may be repeated
    #[arg(
        short,
        long,
        value_name = "FILE|-",
        conflicts_with_all = ["context", "release", "release_namespace"]
    )]
    pub filename: Vec<PathBuf>,
    /// The pod's namespace; without it the kubeconfig's, or the manifest's own
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// The roles of tenants, as YAML: `roles: {<tenant>: <role ARN>}`; without it they are read as
    /// the config says
    #[arg(long, value_name = "FILE")]
    pub roles: Option<PathBuf>,
    /// The tenant of the manifest's namespace, whatever its labels and its name say
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<TenantName>,
    /// Who creates the pods, as the API server knows them (userInfo.username)
    #[arg(long = "as", value_name = "USERNAME")]
    pub creator: Option<String>,
    /// The AWS region for agents and sidecars (not for SSM), instead of the config's
    #[arg(long, value_name = "REGION")]
    pub region: Option<Region>,
    /// The webhook's config file; without it the release's, or for manifests the defaults
    #[arg(long, value_name = "FILE", conflicts_with_all = ["release", "release_namespace"])]
    pub config: Option<PathBuf>,
    /// How it is said
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// JSON, for programs
    Json,
    Text,
}

#[derive(Args, Debug)]
pub struct Iam {
    /// The tenant, as SourceIdentity and parameter name it
    #[arg(long, value_name = "NAME")]
    pub tenant: TenantName,
    /// A role whose credentials agents' pods have today, of their service account; may be repeated
    #[arg(long = "base-role", value_name = "ARN", required = true)]
    pub base_roles: Vec<RoleArn>,
    /// The role that sessions assume: the tenant's session-broker role
    #[arg(long, value_name = "ARN")]
    pub session_role: RoleArn,
    /// The cluster's name, which the parameter's name holds, where no config says it
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    pub cluster: Option<String>,
    /// The namespace of the tenant's agents; tenants-<tenant> without it
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// The region of the parameters; every one without it
    #[arg(long, value_name = "REGION")]
    pub region: Option<Region>,
    /// What AWS holds a session's name to: tenant, pod-uid or pod-name; the last two only with
    /// EKS Pod Identity, and the same `session` in the config
    #[arg(long, value_name = "WHAT", default_value = "tenant")]
    pub held_to: HeldTo,
    /// The webhook's config file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print only this document, as AWS takes it
    #[arg(long, value_name = "DOCUMENT", conflicts_with = "terraform")]
    pub only: Option<policies::Name>,
    /// Print resources for Terraform's AWS provider
    #[arg(long)]
    pub terraform: bool,
    /// Add the policy deny-without-source-identity, which stops at once every pod of these base
    /// roles that runs without a session: apply it last, after `enabled` and after the last such
    /// pod is gone
    #[arg(long)]
    pub deny_without_source_identity: bool,
}

#[derive(Args, Debug)]
pub struct Inject {
    /// Manifests in YAML or JSON: pods, workloads with a pod template, lists; - is standard input;
    /// at most 64 MiB
    #[arg(short, long, value_name = "FILE|-")]
    pub filename: PathBuf,
    /// The roles of tenants, as YAML: `roles: {<tenant>: <role ARN>}`
    #[arg(long, value_name = "FILE")]
    pub roles: PathBuf,
    /// The namespace in which the pods would be created
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// The tenant of that namespace, whatever its labels and its name say
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<TenantName>,
    /// Who would create the pods, as the API server knows them (userInfo.username)
    #[arg(long = "as", value_name = "USERNAME", default_value = "")]
    pub creator: String,
    /// The AWS region for agents and sidecars, instead of the config's
    #[arg(long, value_name = "REGION")]
    pub region: Option<Region>,
    /// The webhook's config file; the defaults without it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the difference instead of the manifest
    #[arg(long, conflicts_with = "patch")]
    pub diff: bool,
    /// Print the JSON patch of each object instead of the manifest
    #[arg(long)]
    pub patch: bool,
}

#[derive(Args, Debug)]
pub struct Webhook {
    /// The config file; the defaults without it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where reviews are served, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are served, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    pub health_listen: SocketAddr,
    /// The serving certificate and its chain, as PEM; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: PathBuf,
    /// The certificate's private key, as PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: PathBuf,
    /// A static role file, instead of the config's
    #[arg(long, value_name = "FILE")]
    pub roles: Option<PathBuf>,
    /// Namespace manifests to go by, instead of an API server's (for trials without a cluster)
    #[arg(long, value_name = "FILE")]
    pub namespaces: Option<PathBuf>,
    /// How many seconds to go on serving after SIGTERM, while clients learn of it
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub linger: u64,
}

/// What a pod may be called: a DNS subdomain (RFC 1123). kubectl prints `pod/` before it.
#[derive(Clone, Debug)]
pub struct PodName(String);

#[derive(Clone, Debug, thiserror::Error)]
#[error("not the name of a pod: want 1 to 253 characters of a-z, 0-9, '-' and '.'")]
pub struct NotAPodName;

impl PodName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodName {
    type Err = NotAPodName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let name = s.strip_prefix("pod/").unwrap_or(s);
        let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.');
        if !(1..=253).contains(&name.len()) || !name.chars().all(plain) || name.starts_with('.') {
            return Err(NotAPodName);
        }
        Ok(Self(name.to_owned()))
    }
}

/// Lines of at most 98 characters, since help is cut at 100.
const CERTS_EXAMPLES: &str = "Examples:
  fab-session-injector certs --namespace fab-system --secret fab-session-injector-tls \\
    --service fab-session-injector --webhook-configuration fab-session-injector";
const CHECK_EXAMPLES: &str = "Examples:
  fab-session-injector check
  fab-session-injector check --context staging -n tenants-acme --skip-aws
  fab-session-injector check -n tenants-acme --as-pod -o json";
const COMPLETIONS_EXAMPLES: &str = "Examples:
  fab-session-injector completions bash > fab-session-injector.bash
  fab-session-injector completions zsh > _fab-session-injector
  fab-session-injector completions fish > fab-session-injector.fish";
const EXPLAIN_EXAMPLES: &str = "Examples:
  fab-session-injector explain session-a -n tenants-acme
  fab-session-injector explain -f job.yaml -n tenants-acme --roles roles.yaml
  fab-session-injector explain -f job.yaml -n fab --tenant acme --roles roles.yaml -o json
  fab-session-injector explain -f job.yaml -n tenants-acme --roles roles.yaml \\
    --as system:serviceaccount:eks-agent-platform:operator";
const IAM_EXAMPLES: &str = "Examples:
  fab-session-injector iam --cluster prod --tenant acme \\
    --base-role arn:aws:iam::111122223333:role/prod-acme-tenant \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker
  fab-session-injector iam --config webhook.yaml --tenant acme --only session-role-trust \\
    --base-role arn:aws:iam::111122223333:role/prod-acme-tenant \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker";
const INJECT_EXAMPLES: &str = "Examples:
  fab-session-injector inject -f job.yaml --roles roles.yaml --namespace tenants-acme \\
    --region eu-west-1 --diff
  fab-session-injector inject -f - --roles roles.yaml --namespace fab --tenant acme --patch \\
    < job.yaml";
const PROBE_EXAMPLES: &str = "Examples:
  fab-session-injector probe";
const SIDECAR_EXAMPLES: &str = "Examples:
  fab-session-injector sidecar";
const WEBHOOK_EXAMPLES: &str = "Examples:
  fab-session-injector webhook --config webhook.yaml \\
    --tls-certificate tls.crt --tls-key tls.key
  fab-session-injector webhook --roles roles.yaml --namespaces namespaces.yaml \\
    --listen 127.0.0.1:8443 --tls-certificate tls.crt --tls-key tls.key";
