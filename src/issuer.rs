//! The session issuer, without clock and cluster: its public keys and documents, the JWT that it
//! signs for a session, the projected token by which it recognises a pod, and its rate limit.
//!
//! Nothing in a JWT is copied from a caller: [`Claims`] takes values that are valid by their type.
//! A [`Jwt`] exists only after its signature was verified with the key that its header names.

mod claims;
mod discovery;
mod jwks;
mod public_key;
mod signature;

pub use self::{
    claims::{Claims, Jwt, JwtId, SigningInput, WrongSignature},
    discovery::{DISCOVERY_FILE, KEYS_FILE, discovery_document, discovery_url, keys_url},
    jwks::{ForeignKey, NotAJwks, PublishedKeys, Unusable, jwks_document},
    public_key::{KeyId, NotAPublicKey, PublicKey},
    signature::{NotASignature, Signature},
};
