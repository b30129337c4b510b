//! Gives each AI-agent pod AWS credentials of its own session.
//!
//! The modules, in reading order:
//!
//! - [`session`] has tenant, session and SourceIdentity.
//! - [`config`] has the settings of the platform team.
//! - [`namespaces`] and [`roles`] have snapshots of namespaces and of tenant roles.
//! - [`admission`] goes from the bytes of a review to the bytes of its response.
//! - [`credentials`] has the credentials that the sidecar serves.
//! - [`issuer`] has the keys, the documents and the JWTs of the session issuer.
//! - [`serve`] accepts connections.
//! - [`certificates`] has the webhook's serving certificate and its CA bundle.
//! - [`manifest`] reads pods in YAML.
//! - [`policies`] prints the required AWS resources.
//! - [`revocation`] has the policy that denies revoked sessions all calls.
//! - [`check`] has the checks of an installation, in the cluster and in AWS.
//! - [`telemetry`] has log and metrics.
//! - [`json`] reads untrusted JSON.
//! - [`terminal`] escapes foreign text in output and log.
//! - [`cli`] and [`command`] have the command line and its commands.
//!
//! The path of a review: [`serve`] accepts the connection. The handler in `command::webhook` takes
//! one snapshot of the namespaces and one of the roles. [`admission::Review`] reads the envelope,
//! determines component and session, finds the role in the snapshot, and writes the patch and the
//! response. If a snapshot lacks the namespace or the role, the handler looks it up once, within
//! the review's deadline, and evaluates the review again.
//!
//! The path of a credential: [`session::env`] reads the session from the variables that the webhook
//! wrote. [`credentials::sts`] requests credentials for it, and [`credentials::cache`] holds and
//! renews them. An agent's request arrives through [`serve`] at the handler in `command::sidecar`.
//! [`credentials::wire`] checks the request and writes the response.

pub mod admission;
pub mod certificates;
pub mod check;
pub mod cli;
pub mod command;
pub mod config;
pub mod credentials;
pub mod issuer;
pub mod json;
pub mod manifest;
pub mod namespaces;
pub mod policies;
pub mod revocation;
pub mod roles;
pub mod serve;
pub mod session;
pub mod telemetry;
pub mod terminal;
