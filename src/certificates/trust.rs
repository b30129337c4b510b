//! What API servers make of the certificate that the webhook serves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{
    RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{ends, validity};

/// Why a certificate is not believed, whatever the time is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Distrust {
    #[error("the caBundle holds no authority")]
    NoAuthority,
    #[error("there is no certificate")]
    NoCertificate,
    #[error("no authority of the caBundle has signed the certificate")]
    OtherAuthority,
    #[error("the certificate is for another host")]
    OtherHost,
}

/// When the certificate ends, for those who trust the bundle and call the host. Both are PEM, and
/// the certificate may bring the ones between it and its authority.
pub fn trust(
    bundle: &str,
    certificate: &str,
    host: &str,
    now: SystemTime,
) -> Result<SystemTime, Distrust> {
    let mut trusted = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()).flatten() {
        // One that is none vouches for nobody.
        let _ = trusted.add(authority);
    }
    if trusted.is_empty() {
        return Err(Distrust::NoAuthority);
    }
    let mut chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).flatten();
    let leaf = chain.next().ok_or(Distrust::NoCertificate)?;
    let between: Vec<CertificateDer<'_>> = chain.collect();
    let parsed = ParsedCertificate::try_from(&leaf).map_err(|_| Distrust::NoCertificate)?;
    let validity = validity::of_pem(certificate).ok_or(Distrust::NoCertificate)?;
    // While it held: that it has ended is another matter.
    let at = now.clamp(validity.begins, validity.ends.max(validity.begins));
    let at = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &trusted,
        &between,
        UnixTime::since_unix_epoch(at),
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
    )
    .map_err(|_| Distrust::OtherAuthority)?;
    let name = ServerName::try_from(host).map_err(|_| Distrust::OtherHost)?;
    verify_server_name(&parsed, &name).map_err(|_| Distrust::OtherHost)?;
    ends(&leaf).ok_or(Distrust::NoCertificate)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Published, Step, Stored, plan},
        *,
    };

    const HOST: &str = "fab-session-injector.platform.svc";

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn stored(host: &str) -> Stored {
        let mut stored = Stored::default();
        let mut published = Published { bundles: vec![String::new()], since: Some(now()) };
        loop {
            match plan(&stored, &published, host, now()).unwrap() {
                Step::Publish(bundle) => published.bundles = vec![bundle],
                Step::Store(next, _) => stored = *next,
                Step::WaitUntil(_) => return stored,
            }
        }
    }

    #[test]
    fn a_certificate_is_believed_for_its_host_by_its_authority() {
        let (ours, other) = (stored(HOST), stored(HOST));
        let both = format!("{}{}", other.authorities, ours.authorities);
        let year = Duration::from_secs(365 * 86_400);
        let ends = ours.certificate_ends().unwrap();
        let judge = |bundle: &str, certificate: &str, host, now| {
            trust(bundle, certificate, host, now).map(|at| at == ends)
        };
        let (authorities, certificate) = (&*ours.authorities, &*ours.certificate);
        assert_eq!(judge(authorities, certificate, HOST, now()), Ok(true));
        assert_eq!(judge(&both, certificate, HOST, now()), Ok(true));
        assert_eq!(judge(authorities, certificate, HOST, now() + year), Ok(true), "it has ended");
        let cases = [
            (&*other.authorities, certificate, HOST, Distrust::OtherAuthority),
            ("", certificate, HOST, Distrust::NoAuthority),
            ("no PEM", certificate, HOST, Distrust::NoAuthority),
            (authorities, "", HOST, Distrust::NoCertificate),
            (authorities, certificate, "another.platform.svc", Distrust::OtherHost),
        ];
        for (bundle, certificate, host, want) in cases {
            assert_eq!(trust(bundle, certificate, host, now()), Err(want), "{want}");
        }
    }
}
