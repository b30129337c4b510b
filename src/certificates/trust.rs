//! Verification of the serving certificate as API servers do it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{
    ends,
    validity::{self, Validity, is_authority},
};

/// Why API servers do not trust a certificate, apart from its own validity period.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Distrust {
    #[error("the CA that signed the certificate is not yet valid")]
    AuthorityAhead,
    #[error("the CA that signed the certificate is expired")]
    AuthorityEnded,
    /// Go verifies it like any other certificate; the library used here does not.
    #[error("the certificate is a CA certificate (CA:TRUE), whose issuer cannot be verified here")]
    AuthorityServed,
    #[error("the caBundle contains no CA certificate")]
    NoAuthority,
    #[error("there is no certificate, or it cannot be parsed")]
    NoCertificate,
    #[error("no CA of the caBundle signed the certificate")]
    OtherAuthority,
    #[error("the certificate's SAN does not match")]
    OtherHost,
    #[error("the certificate's extended key usage does not allow server authentication")]
    OtherPurpose,
}

/// Returns the expiry of a certificate that clients of `host` trust if they trust `bundle`. Both
/// are PEM. The certificate may be followed by intermediate certificates.
///
/// The rules are those of Go, in which API servers are written: each CA of the chain must be valid,
/// and a certificate that is itself in the bundle needs no CA.
/// <https://pkg.go.dev/crypto/x509#Certificate.Verify>
///
/// An expired or not yet valid certificate is no error here: the caller compares the expiry.
pub fn trust(
    bundle: &str,
    certificate: &str,
    host: &str,
    now: SystemTime,
) -> Result<SystemTime, Distrust> {
    // What cannot be parsed is no CA.
    let authorities: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(bundle.as_bytes())
        .flatten()
        .filter(|authority| RootCertStore::empty().add(authority.clone()).is_ok())
        .collect();
    if authorities.is_empty() {
        return Err(Distrust::NoAuthority);
    }
    let mut chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).flatten();
    let leaf = chain.next().ok_or(Distrust::NoCertificate)?;
    let between: Vec<CertificateDer<'_>> = chain.collect();
    let parsed = ParsedCertificate::try_from(&leaf).map_err(|_| Distrust::NoCertificate)?;
    let validity = validity::of_pem(certificate).ok_or(Distrust::NoCertificate)?;
    // At a time when the certificate itself is valid: its expiry is not checked here.
    let at = now.clamp(validity.begins, validity.ends.max(validity.begins));
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
    let signed_by = |is_meant: &dyn Fn(Validity) -> bool| {
        let mut trusted = RootCertStore::empty();
        let meant =
            |it: &&CertificateDer<'_>| is_authority(it) && Validity::of(it).is_none_or(is_meant);
        trusted.add_parsable_certificates(authorities.iter().filter(meant).cloned());
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &trusted,
            &between,
            at,
            aws_lc_rs::default_provider().signature_verification_algorithms.all,
        )
    };
    match signed_by(&|authority| authority.holds(now)).map_err(reason) {
        Ok(()) => {}
        Err(Some(distrust @ Distrust::OtherPurpose)) => return Err(distrust),
        Err(_) if authorities.contains(&leaf) => {}
        Err(_) if is_authority(&leaf) => return Err(Distrust::AuthorityServed),
        Err(Some(distrust)) => return Err(distrust),
        Err(None) if signed_by(&|authority| authority.ends <= now).is_ok() => {
            return Err(Distrust::AuthorityEnded);
        }
        Err(None) if signed_by(&|authority| now < authority.begins).is_ok() => {
            return Err(Distrust::AuthorityAhead);
        }
        Err(None) => return Err(Distrust::OtherAuthority),
    }
    let name = ServerName::try_from(host).map_err(|_| Distrust::OtherHost)?;
    verify_server_name(&parsed, &name).map_err(|_| Distrust::OtherHost)?;
    ends(&leaf).ok_or(Distrust::NoCertificate)
}

/// Returns the reason for a verification error, if it is the certificate's purpose or the validity
/// of an intermediate certificate. The certificate itself is valid at the time of verification.
fn reason(error: Error) -> Option<Distrust> {
    use CertificateError::{
        Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidYet,
        NotValidYetContext,
    };
    let Error::InvalidCertificate(error) = error else { return None };
    match error {
        Expired | ExpiredContext { .. } => Some(Distrust::AuthorityEnded),
        InvalidPurpose | InvalidPurposeContext { .. } => Some(Distrust::OtherPurpose),
        NotValidYet | NotValidYetContext { .. } => Some(Distrust::AuthorityAhead),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa,
        Issuer, KeyPair,
    };

    use super::{
        super::{DAY, PublishedBundles, SecretData, Step, plan},
        *,
    };

    const HOST: &str = "fab-session-injector.platform.svc";
    const AUTHORITY: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn days_on(days: i32) -> SystemTime {
        let time = DAY * days.unsigned_abs();
        if days < 0 { now() - time } else { now() + time }
    }

    fn stored(host: &str) -> SecretData {
        let mut stored = SecretData::default();
        let mut published = PublishedBundles { bundles: vec![String::new()], since: Some(now()) };
        loop {
            match plan(&stored, &published, host, now()).unwrap() {
                Step::Publish(bundle) => published.bundles = vec![bundle],
                Step::Store(next, _) => stored = *next,
                Step::WaitUntil(_) => return stored,
            }
        }
    }

    /// A certificate, and the issuer that signs with its key.
    struct Made {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    /// Creates a certificate that is valid between two days from now, for these purposes, signed by
    /// `by` or by itself.
    fn made(
        is_ca: IsCa,
        (from, until): (i32, i32),
        purposes: &[Purpose],
        by: Option<&Made>,
    ) -> Made {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        parameters
            .distinguished_name
            .push(DnType::CommonName, format!("{:?}", key.public_key_raw()));
        (parameters.not_before, parameters.not_after) =
            (days_on(from).into(), days_on(until).into());
        (parameters.is_ca, parameters.extended_key_usages) = (is_ca, purposes.to_vec());
        let certificate = match by {
            Some(Made { issuer, .. }) => parameters.signed_by(&key, issuer),
            None => parameters.self_signed(&key),
        };
        Made { pem: certificate.unwrap().pem(), issuer: Issuer::new(parameters, key) }
    }

    #[test]
    fn a_certificate_is_trusted_for_its_host_by_its_ca() {
        let (ours, other) = (stored(HOST), stored(HOST));
        let both = format!("{}{}", other.authorities, ours.authorities);
        let ends = ours.certificate_ends().unwrap();
        let compare = |bundle: &str, certificate: &str, host, now| {
            trust(bundle, certificate, host, now).map(|at| at == ends)
        };
        let (authorities, certificate) = (&*ours.authorities, &*ours.certificate);
        assert_eq!(compare(authorities, certificate, HOST, now()), Ok(true));
        assert_eq!(compare(&both, certificate, HOST, now()), Ok(true));
        assert_eq!(compare(authorities, certificate, HOST, days_on(40)), Ok(true), "expired");
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

    /// The expected results are those of Go's crypto/x509 for such chains.
    #[test]
    fn each_ca_in_a_chain_is_checked_and_self_signed_is_allowed() {
        use Distrust::{
            AuthorityAhead, AuthorityEnded, AuthorityServed, OtherAuthority, OtherPurpose,
        };
        let root = |days| made(AUTHORITY, days, &[], None);
        let under = |is_ca, days, by: &Made| made(is_ca, days, &[], Some(by));
        let leaf = |days, by: &Made| under(IsCa::NoCa, days, by).pem;
        let (holds, ended, ahead) = (root((-9, 9)), root((-9, -1)), root((1, 9)));
        let chained = |days, root: &Made| {
            let between = under(AUTHORITY, days, root);
            format!("{}{}", leaf((-3, 9), &between), between.pem)
        };
        let own = |is_ca, days, purposes: &[Purpose]| {
            let own = made(is_ca, days, purposes, None).pem;
            (own.clone(), own)
        };
        let renewed = format!("{}{}", ended.pem, holds.pem);
        let (strange, no_authority) = (leaf((-3, 9), &holds), made(IsCa::NoCa, (-9, 9), &[], None));
        let cases = [
            ("CA expired", (ended.pem.clone(), leaf((-3, 9), &ended)), Err(AuthorityEnded)),
            ("both expired", (ended.pem.clone(), leaf((-3, -2), &ended)), Err(AuthorityEnded)),
            ("CA in the future", (ahead.pem.clone(), leaf((-3, 9), &ahead)), Err(AuthorityAhead)),
            ("both in the future", (ahead.pem.clone(), leaf((1, 9), &ahead)), Err(AuthorityAhead)),
            ("another CA expired", (renewed, leaf((-3, 9), &holds)), Ok(())),
            ("certificate in the future", (holds.pem.clone(), leaf((1, 9), &holds)), Ok(())),
            ("intermediate", (holds.pem.clone(), chained((-5, 9), &holds)), Ok(())),
            (
                "intermediate expired",
                (holds.pem.clone(), chained((-5, -1), &holds)),
                Err(AuthorityEnded),
            ),
            (
                "intermediate in the future",
                (holds.pem.clone(), chained((1, 5), &holds)),
                Err(AuthorityAhead),
            ),
            ("root expired", (ended.pem.clone(), chained((-5, 9), &ended)), Err(AuthorityEnded)),
            ("self-signed", own(IsCa::NoCa, (-3, 9), &[]), Ok(())),
            ("self-signed, CA:FALSE", own(IsCa::ExplicitNoCa, (-3, 9), &[]), Ok(())),
            ("self-signed, CA:TRUE", own(AUTHORITY, (-3, 9), &[]), Ok(())),
            ("self-signed, CA:TRUE, expired", own(AUTHORITY, (-3, -2), &[]), Ok(())),
            ("self-signed, expired", own(IsCa::NoCa, (-3, -2), &[]), Ok(())),
            ("in the bundle without its CA", (strange.clone(), strange), Ok(())),
            (
                "self-signed, not in the bundle",
                (holds.pem.clone(), own(IsCa::NoCa, (-3, 9), &[]).0),
                Err(OtherAuthority),
            ),
            (
                "signed by a certificate that is no CA",
                (no_authority.pem.clone(), leaf((-3, 9), &no_authority)),
                Err(OtherAuthority),
            ),
            (
                "CA certificate served",
                (holds.pem.clone(), under(AUTHORITY, (-3, 9), &holds).pem),
                Err(AuthorityServed),
            ),
            (
                "client certificate",
                own(IsCa::NoCa, (-3, 9), &[Purpose::ClientAuth]),
                Err(OtherPurpose),
            ),
        ];
        for (name, (bundle, certificate), want) in cases {
            assert_eq!(trust(&bundle, &certificate, HOST, now()).map(drop), want, "{name}");
        }
    }
}
