//! The keys of the issuer: loaded from files or from KMS, all or none.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use aws_config::{BehaviorVersion, Region};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use aws_sdk_kms::{
    Client,
    config::timeout::TimeoutConfig,
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec},
};
use futures_util::future::try_join_all;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

use crate::{
    command::{aws_client::aws_client, files},
    config::{IssuerKey, KeyArn, KeySource, KeyState},
    issuer::{PublicKey, Signature, SigningInput},
};

/// The keys of a config: all are published, and one signs.
#[derive(Debug)]
pub(super) struct Keys {
    public: Vec<PublicKey>,
    signing: PublicKey,
    signer: Signer,
}

#[derive(Debug)]
enum Signer {
    File(EcdsaKeyPair),
    Kms { client: Client, key: KeyArn },
}

/// Why KMS could not be called. `Display` is a sentence for log and terminal.
#[derive(Debug, thiserror::Error)]
enum KmsError {
    #[error("KMS did not answer")]
    NoAnswer,
    #[error("KMS returned {code}: {message}")]
    Refused { code: String, message: String },
    #[error("the response of KMS is incomplete")]
    Response,
}

impl Keys {
    /// Loads the keys. `trusted`: CA certificates (PEM) for AWS, in addition to those of the system.
    ///
    /// Each key is loaded, also one that only waits to sign: a key that cannot be used is found now
    /// and not at the rotation.
    pub(super) async fn load(keys: &[IssuerKey], trusted: &[&str]) -> anyhow::Result<Self> {
        let loaded = keys.iter().enumerate().map(|(index, key)| async move {
            load(&key.source, trusted).await.with_context(|| format!("issuer.keys[{index}]"))
        });
        let mut public: Vec<PublicKey> = Vec::with_capacity(keys.len());
        let mut signing = None;
        for (index, (key, (public_key, signer))) in
            keys.iter().zip(try_join_all(loaded).await?).enumerate()
        {
            if let Some(same) = public.iter().position(|other| *other == public_key) {
                bail!("issuer.keys[{index}]: is the same key as issuer.keys[{same}]; remove one");
            }
            if key.state == KeyState::Signing {
                signing = Some((public_key.clone(), signer));
            }
            public.push(public_key);
        }
        let (signing, signer) =
            signing.context("issuer.keys: no key has the state signing; set it for one key")?;
        Ok(Self { public, signing, signer })
    }

    /// Returns the public half of all keys, in the order of the config.
    pub(super) fn public(&self) -> &[PublicKey] {
        &self.public
    }

    /// Returns the public half of the key that signs.
    pub(super) fn signing(&self) -> &PublicKey {
        &self.signing
    }

    /// Signs with the key of [`Self::signing`].
    pub(super) async fn sign(&self, input: &SigningInput) -> anyhow::Result<Signature> {
        match &self.signer {
            Signer::File(pair) => {
                let signature = pair.sign(&SystemRandom::new(), input.as_bytes());
                let signature = signature.map_err(|_| anyhow!("cannot sign with the key file"))?;
                Ok(Signature::from_fixed(signature.as_ref())?)
            }
            Signer::Kms { client, key } => {
                let signed = client
                    .sign()
                    .key_id(key.as_str())
                    .message(Blob::new(input.digest()))
                    .message_type(MessageType::Digest)
                    .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
                    .send()
                    .await
                    .map_err(KmsError::from)
                    .with_context(|| format!("kms:Sign with key {key}"))?;
                let der = signed.signature.ok_or(KmsError::Response)?;
                Signature::from_der(der.as_ref()).with_context(|| format!("signature of key {key}"))
            }
        }
    }
}

/// Reads the public half of a key.
pub(in crate::command) async fn public_key(
    source: &KeySource,
    trusted: &[&str],
) -> anyhow::Result<PublicKey> {
    load(source, trusted).await.map(|(public, _)| public)
}

async fn load(source: &KeySource, trusted: &[&str]) -> anyhow::Result<(PublicKey, Signer)> {
    match source {
        KeySource::File(path) => of_file(path),
        KeySource::Kms(key) => of_kms(key, trusted).await,
    }
}

fn of_file(path: &Path) -> anyhow::Result<(PublicKey, Signer)> {
    let text = zeroize::Zeroizing::new(files::text(path)?);
    let what = || format!("key file {}", path.display());
    let pem = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes());
    let pem = pem.map_err(|_| anyhow!(NO_KEY)).with_context(what)?;
    let der = pem.secret_pkcs8_der();
    let public = PublicKey::of_private_key(der)
        .map_err(|why| anyhow!("{why}; {CREATE}"))
        .with_context(what)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der);
    let pair = pair.map_err(|error| anyhow!(error)).with_context(what)?;
    Ok((public, Signer::File(pair)))
}

async fn of_kms(key: &KeyArn, trusted: &[&str]) -> anyhow::Result<(PublicKey, Signer)> {
    let shared = aws_config::defaults(BehaviorVersion::latest())
        .http_client(aws_client(trusted.iter().copied()))
        .region(Region::new(key.region().to_owned()))
        .load()
        .await;
    let config = aws_sdk_kms::config::Builder::from(&shared).timeout_config(within(SIGN));
    let client = Client::from_conf(config.build());
    let at_load = aws_sdk_kms::config::Builder::new().timeout_config(within(LOAD));
    let call = client.get_public_key().key_id(key.as_str());
    let found = call.customize().config_override(at_load).send().await;
    let found = found.map_err(|error| {
        let error = KmsError::from(error);
        let remedy = error.remedy();
        anyhow!(error).context(format!("cannot read KMS key {key}; {remedy}"))
    })?;
    let wrong = |rule: &str| {
        anyhow!(
            "KMS key {key} {rule}; create one with the key spec ECC_NIST_P256 and the usage SIGN_VERIFY"
        )
    };
    // Without a spec, the public key tells the curve.
    if let Some(other) = found.key_spec().filter(|spec| **spec != KeySpec::EccNistP256) {
        return Err(wrong(&format!("has the key spec {}", other.as_str())));
    }
    match found.key_usage() {
        Some(KeyUsageType::SignVerify) => {}
        other => {
            let found = other.map_or("unknown", KeyUsageType::as_str);
            return Err(wrong(&format!("has the usage {found}")));
        }
    }
    let spki = found.public_key.ok_or(KmsError::Response)?;
    let public = PublicKey::from_spki(spki.as_ref())
        .map_err(|_| wrong("has a public key that is not of the curve P-256"))?;
    Ok((public, Signer::Kms { client, key: key.clone() }))
}

/// Returns timeouts with which a second attempt fits into the limit.
fn within(limit: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(limit / 2)
        .operation_timeout(limit)
        .build()
}

impl KmsError {
    fn remedy(&self) -> &'static str {
        match self {
            Self::NoAnswer => "set AWS credentials, and allow connections to KMS",
            Self::Refused { code, .. } if code == "AccessDeniedException" => {
                "grant kms:GetPublicKey and kms:Sign on this key to the issuer's IAM role"
            }
            Self::Refused { code, .. } if code == "NotFoundException" => {
                "set the ARN of a key that exists in issuer.keys"
            }
            Self::Refused { code, .. }
                if ["DisabledException", "KMSInvalidStateException"].contains(&&**code) =>
            {
                "enable the key, or remove it from issuer.keys"
            }
            Self::Refused { .. } | Self::Response => "try again, and check the key in KMS",
        }
    }
}

impl<E: ProvideErrorMetadata> From<SdkError<E>> for KmsError {
    fn from(error: SdkError<E>) -> Self {
        let SdkError::ServiceError(response) = error else { return Self::NoAnswer };
        let (error, status) = (response.err(), response.raw().status());
        let code = error.code().map_or_else(|| format!("HTTP {}", status.as_u16()), str::to_owned);
        let message = error.message().unwrap_or("without a reason").to_owned();
        Self::Refused { code, message }
    }
}

const NO_KEY: &str = "it has no PEM block PRIVATE KEY; create the key with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, or convert one with `openssl pkcs8 -topk8 -nocrypt`";
const CREATE: &str =
    "create one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`";

/// Time limit of a signature. The sidecar waits 7 seconds for its token, and other calls come before
/// the signature.
const SIGN: Duration = Duration::from_secs(3);
/// Time limit of a public key at start, which includes the search for AWS credentials.
const LOAD: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(1);
