//! Tests of the rules, each with a case that is allowed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bedrock;
mod boundary;
mod caller;
mod chain;
mod events;
mod faults;
mod pod_identity;
mod signature;
mod tags;
mod trust;
mod web_identity;
