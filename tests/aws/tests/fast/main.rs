//! Tests of the rules, each with a case that is allowed; and of the server, with the real SDK.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bedrock;
mod boundary;
mod caller;
mod chain;
mod claims;
mod events;
mod faults;
mod pod_identity;
mod provider;
mod revocation;
mod server;
mod signature;
mod tags;
mod times;
mod trust;
mod web_identity;
