//! Validity periods of certificates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

/// The validity period of a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) begins: SystemTime,
    pub(super) ends: SystemTime,
}

impl Validity {
    /// Returns the validity period. None: the certificate cannot be parsed.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        Some(Self { begins: begins(certificate)?, ends: ends(certificate)? })
    }

    /// Reports whether the certificate is valid at this time.
    pub(super) fn holds(self, now: SystemTime) -> bool {
        self.begins <= now && now < self.ends
    }
}

/// Returns the validity period of the first certificate in a PEM text.
pub(super) fn of_pem(text: &str) -> Option<Validity> {
    Validity::of(&CertificateDer::from_pem_slice(text.as_bytes()).ok()?)
}

/// Returns the expiry of a certificate. The library has no accessor for it, so this verifies the
/// certificate at the latest possible time: the error contains the expiry.
pub fn ends(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    match verification_error(certificate, u64::MAX)? {
        CertificateError::ExpiredContext { not_after, .. } => instant(not_after),
        _ => None,
    }
}

/// Returns when a certificate becomes valid, from the error of a verification at time 0.
fn begins(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    match verification_error(certificate, 0)? {
        CertificateError::NotValidYetContext { not_before, .. } => instant(not_before),
        _ => None,
    }
}

/// Reports whether a certificate may sign others. The library has no accessor for it, but rejects a
/// CA certificate as a server certificate before it searches the issuer. A certificate without
/// extensions (X.509 v1) counts as a CA.
pub(super) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let begins = begins(certificate).and_then(|begins| begins.duration_since(UNIX_EPOCH).ok());
    begins.is_none_or(|begins| {
        matches!(
            verification_error(certificate, begins.as_secs()),
            Some(CertificateError::Other(_))
        )
    })
}

/// Verifies the certificate at a time, in seconds since 1970, without any trusted CA. Returns the
/// error.
fn verification_error(certificate: &CertificateDer<'_>, at: u64) -> Option<CertificateError> {
    let verified = verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate).ok()?,
        &RootCertStore::empty(),
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(at)),
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
    );
    match verified {
        Err(Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn instant(time: UnixTime) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()))
}

/// Returns the certificates of a PEM text, each unchanged.
pub(super) fn pem_blocks(text: &str) -> impl Iterator<Item = String> {
    text.split_inclusive("-----END CERTIFICATE-----\n")
        .filter(|block| block.ends_with("-----END CERTIFICATE-----\n"))
        .map(str::to_owned)
}
