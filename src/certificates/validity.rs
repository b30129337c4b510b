//! When a certificate begins and ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

/// The time in which a certificate holds. One that cannot be read never does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) begins: SystemTime,
    pub(super) ends: SystemTime,
}

impl Validity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        Some(Self { begins: begins(certificate)?, ends: ends(certificate)? })
    }

    pub(super) fn holds(self, now: SystemTime) -> bool {
        self.begins <= now && now < self.ends
    }
}

/// Of the first certificate in the text.
pub(super) fn of_pem(text: &str) -> Option<Validity> {
    Validity::of(&CertificateDer::from_pem_slice(text.as_bytes()).ok()?)
}

/// When a certificate ends: the library has no accessor, but asked whether it holds at the end
/// of time, it says since when not.
pub fn ends(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    match judge(certificate, u64::MAX)? {
        CertificateError::ExpiredContext { not_after, .. } => instant(not_after),
        _ => None,
    }
}

fn begins(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    match judge(certificate, 0)? {
        CertificateError::NotValidYetContext { not_before, .. } => instant(not_before),
        _ => None,
    }
}

/// Whether it may sign others: the library has no accessor, but refuses an authority as a server's
/// certificate before it looks for who signed it. Of one without extensions (X.509 v1) anything is
/// believed.
pub(super) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let begins = begins(certificate).and_then(|begins| begins.duration_since(UNIX_EPOCH).ok());
    begins.is_none_or(|begins| {
        matches!(judge(certificate, begins.as_secs()), Some(CertificateError::Other(_)))
    })
}

fn judge(certificate: &CertificateDer<'_>, at: u64) -> Option<CertificateError> {
    let judged = verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate).ok()?,
        &RootCertStore::empty(),
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(at)),
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
    );
    match judged {
        Err(Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn instant(time: UnixTime) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()))
}

/// The blocks of a PEM text, each as it stands there.
pub(super) fn pem_blocks(text: &str) -> impl Iterator<Item = String> {
    text.split_inclusive("-----END CERTIFICATE-----\n")
        .filter(|block| block.ends_with("-----END CERTIFICATE-----\n"))
        .map(str::to_owned)
}
