//! AWS stand-in for tests; it rejects each call that AWS documents as rejected.
//!
//! [`World`] describes the account. [`Aws`] returns responses, a function of the request and the
//! given time; [`Server`] serves them on a socket. `signature` checks requests, `sts` handles
//! calls of STS, and `pod_identity` those of pods. Both use `authorization`, which evaluates the
//! documents of `policy`. Each call is recorded as an `event`.
//!
//! Each rule cites its AWS page. README.md lists the rules, and what is missing.

mod admin;
mod arn;
mod authorization;
mod aws;
mod bedrock;
pub mod config;
mod eks;
mod event;
mod failure;
mod fault;
mod keys;
mod moment;
mod pod_identity;
mod policy;
mod provider;
mod role;
mod server;
mod session;
mod signature;
mod sts;
mod tags;
pub mod tokens;
mod world;

pub use self::{
    arn::{NotARoleArn, RoleArn},
    aws::{Answer, Aws},
    fault::{Fault, HUGE, Injected, Target, Times},
    policy::NotAPolicy,
    provider::{NotAProvider, Outage, Provider},
    role::{NotARole, Role},
    server::Server,
    session::Credentials,
    tokens::NotAKeySet,
    world::{Association, Cluster, NotAWorld, World},
};
