//! The command line. The type of each value parses it.

mod check;
mod explain;
mod inject;
mod issuer;
mod pod_name;
mod pod_or_workload;
mod revoke;
mod webhook;

use std::{env::args_os, error::Error, ffi::OsStr, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};

use self::{
    check::CHECK_EXAMPLES, explain::EXPLAIN_EXAMPLES, inject::INJECT_EXAMPLES,
    issuer::ISSUER_EXAMPLES, revoke::REVOKE_EXAMPLES, webhook::WEBHOOK_EXAMPLES,
};
pub use self::{
    check::{Check, Installation},
    explain::Explain,
    inject::Inject,
    issuer::{Issuer, IssuerCommand, IssuerExport, PublicFile},
    pod_name::PodName,
    pod_or_workload::{PodOrWorkload, WorkloadKind},
    revoke::{Revoke, RevokeFormat},
    webhook::Webhook,
};
use crate::{
    config::Region,
    namespaces::NamespaceName,
    policies::{
        self, AccountId, Model, OidcIssuer, PolicyArn, RestrictTo, ServiceAccountPattern, Tag,
        TagKey,
    },
    session::{RoleArn, TenantName},
};

/// Injects a credential sidecar into agent pods, so that each AWS call shows tenant and session.
#[derive(Debug, Parser)]
#[command(
    name = "fab-session-injector",
    version = VERSION,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Issue and rotate the webhook's serving certificate and CA bundle
    ///
    /// Writes CA and certificate to one Secret, which the chart creates, and the CA to the caBundle
    /// of one webhook configuration. Renews CA and certificate before they expire, and restores
    /// Secret and caBundle when they change. Exit codes: 0 stopped by a signal; 2 invalid input; 3
    /// internal error.
    #[command(after_long_help = CERTS_EXAMPLES, display_order = 12)]
    Certs(Certs),
    /// Check the installation: webhook, guard, namespaces, IAM and SSM
    ///
    /// Read-only, except that --as-pod creates and deletes test pods and --assume-role calls
    /// sts:AssumeRole. Checks without permission are reported as unknown. Config and names are
    /// those of the chart's release in the cluster. Exit codes: 0 no errors; 1 errors found; 2
    /// invalid input; 3 internal error or API unreachable; 141 stdout closed (SIGPIPE).
    #[command(after_long_help = CHECK_EXAMPLES, display_order = 1)]
    Check(Check),
    /// Generate shell completions
    ///
    /// Exit codes: 0 done; 2 invalid input; 141 stdout closed (SIGPIPE).
    #[command(after_long_help = COMPLETIONS_EXAMPLES, display_order = 6)]
    Completions(Completions),
    /// Explain the webhook's decision for a pod
    ///
    /// Makes the same decision as the webhook and prints the reasons: the matching component and
    /// selector, the session and who named it, the role and its source; or the rule by which the
    /// pod is left unchanged, or all rules that refuse it. Exit codes: 0 no errors; 1 a pod is
    /// refused, a pod of the cluster differs from current injection (in audit neither counts: 0),
    /// or the session issuer refuses it a token; 2 invalid input; 3 internal error, an API is unreachable, or the result depends on the
    /// unknown requesting user (set --as); 141 stdout closed (SIGPIPE).
    #[command(after_long_help = EXPLAIN_EXAMPLES, display_order = 2)]
    Explain(Explain),
    /// Print the IAM policies and the SSM parameter that a tenant needs
    ///
    /// Prints a JSON array of documents, each with its name, the AWS accounts in which to apply it,
    /// and a remark. With --only it prints one document, as the AWS CLI accepts it; with -o aws-cli
    /// a shell script that creates them; with -o terraform calls of the Terraform modules of this
    /// version. With static roles, it leaves out the documents about the parameter. Only
    /// --deny-without-source-identity adds the one policy that stops running pods. Exit codes: 0
    /// done; 2 invalid input; 3 internal error; 141 stdout closed (SIGPIPE).
    #[command(after_long_help = IAM_EXAMPLES, display_order = 4)]
    Iam(Iam),
    /// Show how the webhook changes manifests, without a cluster
    ///
    /// The printed manifests do not have the comments of the input. Standard error names each object
    /// without a pod.
    ///
    /// Exit codes: 0 done; 1 a pod is refused (in audit none is: 0); 2 invalid input; 3 internal
    /// error; 141 stdout closed (SIGPIPE).
    #[command(after_long_help = INJECT_EXAMPLES, display_order = 3)]
    Inject(Inject),
    /// Serve tokens of sessions to sidecars (session issuer)
    ///
    /// A sidecar sends the projected token of its pod, and gets a JWT that STS exchanges for
    /// credentials of the pod's session. Reads namespaces, pods and one binding of the guard from
    /// the API server, and writes nothing. Exit codes: 0 stopped by a signal; 2 invalid input; 3
    /// internal error.
    #[command(
        after_long_help = ISSUER_EXAMPLES,
        args_conflicts_with_subcommands = true,
        display_order = 13,
        subcommand_negates_reqs = true
    )]
    Issuer(Issuer),
    /// Ask the sidecar in this container whether the agent may start (startup probe)
    ///
    /// Reads all settings from the environment variables that the webhook sets. Exit codes: 0
    /// ready; 1 not ready, for the printed reason; 2 invalid environment; 3 the sidecar does not
    /// respond.
    #[command(after_long_help = PROBE_EXAMPLES, display_order = 15)]
    Probe,
    /// Revoke sessions: deny all AWS calls of their SourceIdentity
    ///
    /// Prints the inline policy of the session role as JSON, or with -o terraform as a resource.
    /// With --apply it writes the policy to IAM with the current AWS credentials, beside what is
    /// revoked already. It does not stop the pod. Exit codes: 0 done; 1 the change is not
    /// confirmed, because the policy is full, has another form, or other programs change it at the
    /// same time (--list shows the result); 2 invalid input, or AWS denies the call; 3 internal
    /// error, or an API is unreachable; 141 stdout closed (SIGPIPE).
    #[command(after_long_help = REVOKE_EXAMPLES, display_order = 5)]
    Revoke(Revoke),
    /// Serve session credentials to the containers of this pod
    ///
    /// Reads all settings from the environment variables that the webhook sets. Exit codes: 0
    /// stopped by a signal; 2 invalid environment; 3 internal error.
    #[command(after_long_help = SIDECAR_EXAMPLES, display_order = 14)]
    Sidecar,
    /// Serve admission reviews
    ///
    /// Exit codes: 0 stopped by a signal; 2 invalid input; 3 internal error.
    #[command(after_long_help = WEBHOOK_EXAMPLES, display_order = 11)]
    Webhook(Webhook),
}

impl Cli {
    /// Parses the arguments of the process. Prints help or an error, and exits, as they require.
    pub fn of_arguments() -> Self {
        let mut command = Self::grouped();
        let program = args_os().next().map(PathBuf::from);
        if program.is_some_and(|path| path.file_name() == Some(OsStr::new(KUBECTL_PLUGIN))) {
            command = command.bin_name("kubectl fab-session");
        }
        let matches = command.get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Returns the command line, whose help lists the commands in two groups.
    pub fn grouped() -> clap::Command {
        let command = Self::command();
        let lines = |of_containers: bool| -> String {
            let mut commands: Vec<&clap::Command> = command
                .get_subcommands()
                .filter(|command| CONTAINERS.contains(&command.get_name()) == of_containers)
                .collect();
            commands.sort_by_key(|command| command.get_display_order());
            let line = |command: &&clap::Command| {
                let about = command.get_about().map(ToString::to_string).unwrap_or_default();
                format!("  {:<12}{about}\n", command.get_name())
            };
            commands.iter().map(line).collect()
        };
        let template = format!(
            "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\nCommands:\n{}\nCommands in containers, which the chart and the webhook start:\n{}\nOptions:\n{{options}}",
            lines(false),
            lines(true),
        );
        command.help_template(template)
    }
}

impl Command {
    /// Returns whether the command prints JSON instead of text.
    pub fn prints_json(&self) -> bool {
        match self {
            Self::Check(Check { output, .. }) | Self::Explain(Explain { output, .. }) => {
                matches!(output, Format::Json)
            }
            Self::Revoke(Revoke { output, .. }) => matches!(output, Some(RevokeFormat::Json)),
            Self::Inject(Inject { patch, .. }) => *patch,
            Self::Certs(_)
            | Self::Completions(_)
            | Self::Iam(_)
            | Self::Issuer(_)
            | Self::Probe
            | Self::Sidecar
            | Self::Webhook(_) => false,
        }
    }
}

#[derive(Args, Debug)]
pub struct Certs {
    /// Namespace of the Secret and of the service
    #[arg(long, value_name = "NAME")]
    pub namespace: NamespaceName,
    /// Secret with CA and serving certificate: ca.crt, ca.key, tls.crt, tls.key
    #[arg(long, value_name = "NAME")]
    pub secret: String,
    /// Service through which API servers call the webhook
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// MutatingWebhookConfiguration whose caBundle is updated. Without it, the certificate is that of
    /// the session issuer: its CA lives for ten years, and is renewed with its key
    #[arg(long, value_name = "NAME")]
    pub webhook_configuration: Option<String>,
    /// Address of /livez, /readyz and /metrics, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8081")]
    pub health_listen: SocketAddr,
}

#[derive(Args, Debug)]
pub struct Completions {
    /// Shell to generate completions for
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Fish,
    Zsh,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// JSON, for programs
    Json,
    Text,
}

#[derive(Args, Debug)]
pub struct Iam {
    /// Tenant, as it appears in SourceIdentity and parameter name
    #[arg(long, value_name = "NAME")]
    pub tenant: TenantName,
    /// Base role, the role of the service account that agents run as; may be repeated; none with
    /// --transport web-identity
    #[arg(long = "base-role", value_name = "ARN")]
    pub base_roles: Vec<RoleArn>,
    /// How sidecars get the session: from base roles, or from the session issuer of --config, or
    /// both during a migration
    #[arg(long, value_name = "WHAT", default_value = "role-chain")]
    pub transport: IamTransport,
    /// Session-broker role of the tenant, which sessions assume
    #[arg(long, value_name = "ARN")]
    pub session_role: RoleArn,
    /// Name of the cluster, a part of the parameter's name; set this or --config
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    pub cluster: Option<String>,
    /// Namespace of the tenant's agents (default: the prefix tenants- and the tenant)
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// Region of the parameters (default: the config's, else all regions)
    #[arg(long, value_name = "REGION")]
    pub region: Option<Region>,
    /// Restrict SourceIdentity in the trust policy to the tenant, the pod UID or the pod name; the
    /// last two need EKS Pod Identity, and the same `session` in the config
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "tenant",
        value_parser = one_of::<RestrictTo>(RestrictTo::ALL.map(RestrictTo::as_str))
    )]
    pub restrict_to: RestrictTo,
    /// AWS account of the cluster, in which the webhook reads parameters (default: the account of
    /// the base roles; without any that of the issuer's key in KMS, else of the session role)
    #[arg(long, value_name = "ACCOUNT")]
    pub cluster_account: Option<AccountId>,
    /// OIDC issuer of the cluster, for IRSA: adds base-role-trust, the trust policy of the base roles
    #[arg(long, value_name = "URL", requires = "service_accounts")]
    pub oidc_issuer: Option<OidcIssuer>,
    /// Service account of the namespace whose tokens the base roles accept, for IRSA; may have *;
    /// may be repeated
    #[arg(long = "service-account", value_name = "NAME", requires = "oidc_issuer")]
    pub service_accounts: Vec<ServiceAccountPattern>,
    /// Tag of the session role; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<Tag>,
    /// Permissions boundary of the session role
    #[arg(long, value_name = "ARN")]
    pub permissions_boundary: Option<PolicyArn>,
    /// Model that agents may invoke: a foundation model or an inference profile, by its id or its
    /// ARN; an id may have *; may be repeated (default: all models)
    #[arg(long = "model", value_name = "ID|ARN")]
    pub models: Vec<Model>,
    /// Tag of a base role that suspends its tenant: the trust policy then allows no new session
    #[arg(long, value_name = "KEY")]
    pub suspended_tag: Option<TagKey>,
    /// Config file of the webhook
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print only this document, as the AWS CLI accepts it
    #[arg(
        long,
        value_name = "DOCUMENT",
        value_parser = one_of::<policies::Name>(policies::Name::ALL.map(policies::Name::as_str))
    )]
    pub only: Option<policies::Name>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub output: IamFormat,
    /// Add the policy deny-without-source-identity, which immediately stops every pod of these base
    /// roles that runs without a session: apply it last, after `enabled` and after the last such
    /// pod is gone
    #[arg(long)]
    pub deny_without_source_identity: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum IamTransport {
    /// The session role trusts base roles
    RoleChain,
    /// The session role trusts the session issuer
    WebIdentity,
    /// The session role trusts both
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum IamFormat {
    /// A shell script with calls of the AWS CLI
    AwsCli,
    /// A list of documents
    Json,
    /// Calls of the Terraform modules of this version
    Terraform,
}

/// Returns a parser that accepts these values only; help and completions name them.
fn one_of<T>(values: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: Error + Send + Sync + 'static> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(values).try_map(|text| text.parse::<T>())
}

/// The name by which kubectl starts the program for `kubectl fab-session`.
/// <https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/>
const KUBECTL_PLUGIN: &str = "kubectl-fab_session";
/// The commands that run in containers.
const CONTAINERS: [&str; 5] = ["certs", "issuer", "probe", "sidecar", "webhook"];
/// Lines have at most 98 characters, because help is wrapped at 100.
const CERTS_EXAMPLES: &str = "Examples:
  fab-session-injector certs --namespace fab-system --secret fab-session-injector-tls \\
    --service fab-session-injector --webhook-configuration fab-session-injector";
const COMPLETIONS_EXAMPLES: &str = "Examples:
  fab-session-injector completions bash > fab-session-injector.bash
  fab-session-injector completions zsh > _fab-session-injector
  fab-session-injector completions fish > fab-session-injector.fish";
const IAM_EXAMPLES: &str = "Examples:
  fab-session-injector iam --cluster prod --tenant acme \\
    --base-role arn:aws:iam::111122223333:role/prod-acme-tenant \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker
  fab-session-injector iam --config webhook.yaml --tenant acme --only session-role-trust \\
    --base-role arn:aws:iam::111122223333:role/prod-acme-tenant \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker
  fab-session-injector iam --cluster prod --tenant acme --region eu-west-1 -o aws-cli \\
    --base-role arn:aws:iam::111122223333:role/prod-acme-tenant \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker
  fab-session-injector iam --cluster prod --tenant acme --only base-role-trust \\
    --oidc-issuer https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE \\
    --service-account tenant-runtime \\
    --base-role arn:aws:iam::111122223333:role/prod-acme-tenant \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker
  fab-session-injector iam --cluster prod --tenant acme --tag PlatformId=prod-acme \\
    --permissions-boundary arn:aws:iam::111122223333:policy/tenant-boundary \\
    --model eu.anthropic.claude-sonnet-4-5-20250929-v1:0 --suspended-tag suspended \\
    --base-role arn:aws:iam::111122223333:role/prod-acme-tenant \\
    --session-role arn:aws:iam::111122223333:role/prod-acme-broker";
const PROBE_EXAMPLES: &str = "Examples:
  fab-session-injector probe";
const SIDECAR_EXAMPLES: &str = "Examples:
  fab-session-injector sidecar";
/// Version of the program. `image/build` sets FAB_VERSION, which has the commit, too.
pub const VERSION: &str = match option_env!("FAB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
