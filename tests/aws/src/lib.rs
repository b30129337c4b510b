//! An AWS for tests that refuses what the real one documents that it refuses.
//!
//! [`World`] says what exists; [`Aws`] answers requests, a function of the request and of the
//! time that it is given; [`Server`] is the same on a socket. A request is read by `signature`,
//! a call of STS by `sts`, a pod's by `pod_identity`; both ask `authorization`, which reads the
//! documents of `policy`. Whatever happened is an `event`.
//!
//! Each rule cites the page of AWS that has it. README.md lists the rules, and what is missing.

mod admin;
mod arn;
mod authorization;
mod aws;
mod bedrock;
pub mod config;
mod event;
mod failure;
mod fault;
mod keys;
mod moment;
mod pod_identity;
mod policy;
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
    role::{NotARole, Role},
    server::Server,
    session::Credentials,
    tokens::NotAKeySet,
    world::{Association, Cluster, NotAWorld, World},
};
