//! The issuer's keys.

use std::fmt;

use anyhow::{Context, anyhow};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

use crate::{
    command::files,
    config::{Key, KeySource, KeyState},
    issuer::{PublicKey, Signature, SigningInput},
};

/// All keys of the config, of which one signs.
pub(super) struct Keys {
    signing: PublicKey,
    pair: EcdsaKeyPair,
    public: Vec<PublicKey>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.public).finish()
    }
}

impl Keys {
    pub(super) async fn load(keys: &[Key], _: &[&str]) -> anyhow::Result<Self> {
        let mut public = Vec::new();
        let mut signing = None;
        for key in keys {
            let KeySource::File(path) = &key.source else {
                return Err(anyhow!("KMS"));
            };
            let text = files::text(path)?;
            let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
                .map_err(|_| anyhow!("{} is no PKCS #8 key in PEM", path.display()))?;
            let own = PublicKey::of_private_key(der.secret_pkcs8_der())
                .with_context(|| format!("key {}", path.display()))?;
            if key.state == KeyState::Signing {
                let pair = EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    der.secret_pkcs8_der(),
                )
                .map_err(|_| anyhow!("{} is no key of P-256", path.display()))?;
                signing = Some((own.clone(), pair));
            }
            public.push(own);
        }
        let (signing, pair) = signing.context("no key signs")?;
        Ok(Self { signing, pair, public })
    }

    pub(super) fn signing(&self) -> &PublicKey {
        &self.signing
    }

    pub(super) fn public(&self) -> Vec<PublicKey> {
        self.public.clone()
    }

    pub(super) async fn sign(&self, input: &SigningInput) -> anyhow::Result<Signature> {
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes());
        let signature = signature.map_err(|_| anyhow!("the key cannot sign"))?;
        Ok(Signature::from_fixed(signature.as_ref())?)
    }
}
