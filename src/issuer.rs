//! The session issuer, without clock and cluster: its public keys and documents, the JWT that it
//! signs for a session, the projected token by which it recognises a pod, and its rate limit.
//!
//! Nothing in a JWT is copied from a caller: [`Claims`] takes values that are valid by their type.
//! A [`Jwt`] exists only after its signature was verified with the key that its header names.

mod claims;
mod cluster_keys;
mod decision;
mod discovery;
mod guard;
mod jwks;
mod mint_limit;
mod object_name;
mod projected_token;
mod public_key;
mod refusal;
mod sandbox;
mod signature;

pub use self::{
    claims::{Claims, Jwt, JwtId, SigningInput, WrongSignature},
    cluster_keys::{ClusterKeys, NotClusterKeys},
    decision::{CallerPod, Grant, decide, tenant_of},
    discovery::{discovery_document, discovery_url, keys_url, problems_of_discovery},
    guard::{GuardRule, created, is_evaluated, youngest},
    jwks::{ForeignKey, NotAJwks, PublishedKeys, UnusableKey, jwks_document},
    mint_limit::{Limited, LimitedBy, MintLimit},
    object_name::{NotAnObjectName, ObjectName},
    projected_token::{NotAProjectedToken, TokenCheck, TokenFacts},
    public_key::{KeyId, NotAPublicKey, PublicKey},
    refusal::TokenRefusal,
    sandbox::{
        CLAIM_API, CLAIM_GROUP, OwnedSandbox, SANDBOX_API, SandboxOwner, SandboxReference,
        SandboxSession, is_in_pool,
    },
    signature::{NotASignature, Signature},
};
