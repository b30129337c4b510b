//! Gives agent pods AWS credentials that carry the session's own name.
//!
//! The rooms, in reading order: [`session`] (who a pod may become), [`config`] (what the
//! platform team decided), [`namespaces`] and [`directory`] (snapshots of the world),
//! [`admission`] (review bytes in, review bytes out), [`serve`] (connections), [`manifest`]
//! (pods in YAML), [`telemetry`] (log and metrics), [`cli`] and [`command`] (the shell).
//!
//! A review comes in through [`serve`], reaches the handler in `command::webhook`, which
//! takes one snapshot each of namespaces and roles, and goes as bytes through
//! [`admission::Review`]: the envelope is read, the pod's claim judged, the role looked up in
//! the snapshot, the patch written, the answer wrapped. What a snapshot lacks the handler
//! looks up once, inside the deadline, and asks again.

pub mod admission;
pub mod cli;
pub mod command;
pub mod config;
pub mod directory;
pub mod manifest;
pub mod namespaces;
pub mod serve;
pub mod session;
pub mod telemetry;
