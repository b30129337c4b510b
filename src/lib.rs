//! Gives agent pods AWS credentials that carry the session's own name.
//!
//! The rooms, in reading order: [`session`] (who a pod may become), [`config`] (what the
//! platform team decided), [`namespaces`] and [`directory`] (snapshots of the world),
//! [`admission`] (review bytes in, review bytes out), [`credentials`] (what the sidecar hands
//! out), [`serve`] (connections), [`certificates`] (what the webhook serves and who trusts it),
//! [`manifest`] (pods in YAML), [`policies`] (what AWS is to hold), [`check`] (what a cluster and
//! AWS do hold), [`telemetry`] (log and metrics), [`terminal`] (text of others), [`cli`] and
//! [`command`] (the shell).
//!
//! A review comes in through [`serve`], reaches the handler in `command::webhook`, which
//! takes one snapshot each of namespaces and roles, and goes as bytes through
//! [`admission::Review`]: the envelope is read, the pod's claim judged, the role looked up in
//! the snapshot, the patch written, the answer wrapped. What a snapshot lacks the handler
//! looks up once, inside the deadline, and asks again.
//!
//! A credential is got by [`credentials::sts`], for the session that [`session::env`] read from
//! what the webhook had written there, and kept by [`credentials::cache`]. An agent's request
//! comes in through [`serve`] and reaches the handler in `command::endpoint`;
//! [`credentials::wire`] judges it and writes the answer.

pub mod admission;
pub mod certificates;
pub mod check;
pub mod cli;
pub mod command;
pub mod config;
pub mod credentials;
pub mod directory;
pub mod manifest;
pub mod namespaces;
pub mod policies;
pub mod serve;
pub mod session;
pub mod telemetry;
pub mod terminal;
