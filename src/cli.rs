//! The command line. Each value is parsed by its noun.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{
    check,
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
    Certs(Certs),
    /// Look at all that must hold, in the cluster and in AWS, for sessions to have their names
    ///
    /// Reads, and changes nothing (but for --as-pod). What it may not see it names. Config and names are those of the
    /// chart's release in the cluster. Exit codes: 0 all holds, or what does not is only worth
    /// knowing; 1 something is broken; 2 the input is wrong; 3 our failure, or nobody answers; 141
    /// whoever reads the output has gone.
    Check(Check),
    /// Print what AWS is to hold for one tenant: trust, policies, and the parameter
    Iam(Iam),
    /// Show what the webhook would do to manifests, without a cluster
    Inject(Inject),
    /// Ask the sidecar of this container whether the agent may start (its startup probe)
    ///
    /// Takes all it needs from the environment that the webhook gives the sidecar. Exit codes: 0
    /// ready; 1 not ready, for the printed reason; 2 the environment is wrong; 3 nobody answers.
    Probe,
    /// Serve session credentials to the containers of this pod
    ///
    /// Takes all it needs from the environment that the webhook gives the sidecar.
    Sidecar,
    /// Serve admission reviews
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
#[command(after_help = CHECK_EXAMPLES)]
pub struct Check {
    /// Go by this config file, instead of the release's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The context of the kubeconfig; its current one without it
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Look at this namespace of agents only
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// The Helm release, where there is more than one
    #[arg(long, value_name = "NAME")]
    pub release: Option<String>,
    /// The namespace of the release, where others may not be listed
    #[arg(long, value_name = "NAME")]
    pub release_namespace: Option<NamespaceName>,
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
    /// How findings are printed: text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: check::Format,
}

/// Exit codes: 0 done; 2 the input is wrong; 3 our failure.
///
/// Prints a JSON array of documents, each with its name, where it goes and what to know about
/// it; one policy alone with --only, as `aws iam` takes it; or a file for Terraform.
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
}

/// Exit codes: 0 done; 1 a pod is refused; 2 the input is wrong; 3 our failure; 141 whoever
/// reads the output has gone.
#[derive(Args, Debug)]
pub struct Inject {
    /// Manifests in YAML or JSON: pods, workloads with a pod template, lists; - is standard input
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
    /// The AWS region for agents and sidecars
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

const CHECK_EXAMPLES: &str = "\
Examples:
  # All of it, by the kubeconfig and the AWS credentials of this shell
  fab-session-injector check
  # One tenant, in another cluster, and nothing of AWS
  fab-session-injector check --context staging --namespace tenants-acme --skip-aws
  # What is broken, for a program
  fab-session-injector check -o json | jq '.findings[] | select(.level == \"broken\")'";
