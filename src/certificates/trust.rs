//! What API servers make of the certificate that the webhook serves.

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

/// Why a certificate is not believed, whether or not it holds at the time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Distrust {
    #[error("the authority that signed the certificate has not begun yet")]
    AuthorityAhead,
    #[error("the authority that signed the certificate has ended")]
    AuthorityEnded,
    /// Go believes it as any other, but our library refuses to judge it.
    #[error(
        "the certificate is that of an authority (CA:TRUE), and who signed it is not judged here"
    )]
    AuthorityServed,
    #[error("the caBundle holds no authority")]
    NoAuthority,
    #[error("there is no certificate")]
    NoCertificate,
    #[error("no authority of the caBundle has signed the certificate")]
    OtherAuthority,
    #[error("the certificate is for another host")]
    OtherHost,
    #[error("the certificate is not one of a server, by its extended key usage")]
    OtherPurpose,
}

/// When the certificate ends, for those who trust the bundle and call the host. Both are PEM, and
/// the certificate may bring the ones between it and its authority.
///
/// As Go does it, by which API servers are built: each authority must hold as well, and what is in
/// the bundle itself needs none. <https://pkg.go.dev/crypto/x509#Certificate.Verify>
pub fn trust(
    bundle: &str,
    certificate: &str,
    host: &str,
    now: SystemTime,
) -> Result<SystemTime, Distrust> {
    // One that is none vouches for nobody.
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
    // While it held: that it has ended is another matter.
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

/// What is wrong other than that nobody signed it, as far as it is of the certificate or of those
/// between it and its authority. The certificate itself holds at the time.
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
        super::{DAY, Published, Step, Stored, plan},
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

    /// A certificate, and whom it makes for others.
    struct Made {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    /// For these days from now, for these purposes, signed by the one or by itself.
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
    fn a_certificate_is_believed_for_its_host_by_its_authority() {
        let (ours, other) = (stored(HOST), stored(HOST));
        let both = format!("{}{}", other.authorities, ours.authorities);
        let ends = ours.certificate_ends().unwrap();
        let judge = |bundle: &str, certificate: &str, host, now| {
            trust(bundle, certificate, host, now).map(|at| at == ends)
        };
        let (authorities, certificate) = (&*ours.authorities, &*ours.certificate);
        assert_eq!(judge(authorities, certificate, HOST, now()), Ok(true));
        assert_eq!(judge(&both, certificate, HOST, now()), Ok(true));
        assert_eq!(judge(authorities, certificate, HOST, days_on(40)), Ok(true), "it has ended");
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

    /// What Go's crypto/x509 said of chains like these.
    #[test]
    fn each_authority_must_hold_and_a_certificate_may_vouch_for_itself() {
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
            ("authority ended", (ended.pem.clone(), leaf((-3, 9), &ended)), Err(AuthorityEnded)),
            ("both ended", (ended.pem.clone(), leaf((-3, -2), &ended)), Err(AuthorityEnded)),
            ("authority ahead", (ahead.pem.clone(), leaf((-3, 9), &ahead)), Err(AuthorityAhead)),
            ("both ahead", (ahead.pem.clone(), leaf((1, 9), &ahead)), Err(AuthorityAhead)),
            ("another has ended", (renewed, leaf((-3, 9), &holds)), Ok(())),
            ("certificate ahead", (holds.pem.clone(), leaf((1, 9), &holds)), Ok(())),
            ("between", (holds.pem.clone(), chained((-5, 9), &holds)), Ok(())),
            ("between ended", (holds.pem.clone(), chained((-5, -1), &holds)), Err(AuthorityEnded)),
            ("between ahead", (holds.pem.clone(), chained((1, 5), &holds)), Err(AuthorityAhead)),
            ("root ended", (ended.pem.clone(), chained((-5, 9), &ended)), Err(AuthorityEnded)),
            ("its own", own(IsCa::NoCa, (-3, 9), &[]), Ok(())),
            ("its own, CA:FALSE", own(IsCa::ExplicitNoCa, (-3, 9), &[]), Ok(())),
            ("its own, CA:TRUE", own(AUTHORITY, (-3, 9), &[]), Ok(())),
            ("its own, CA:TRUE, ended", own(AUTHORITY, (-3, -2), &[]), Ok(())),
            ("its own, ended", own(IsCa::NoCa, (-3, -2), &[]), Ok(())),
            ("pinned, its authority is not", (strange.clone(), strange), Ok(())),
            (
                "another's own",
                (holds.pem.clone(), own(IsCa::NoCa, (-3, 9), &[]).0),
                Err(OtherAuthority),
            ),
            (
                "no authority",
                (no_authority.pem.clone(), leaf((-3, 9), &no_authority)),
                Err(OtherAuthority),
            ),
            (
                "an authority's",
                (holds.pem.clone(), under(AUTHORITY, (-3, 9), &holds).pem),
                Err(AuthorityServed),
            ),
            ("a client's", own(IsCa::NoCa, (-3, 9), &[Purpose::ClientAuth]), Err(OtherPurpose)),
        ];
        for (name, (bundle, certificate), want) in cases {
            assert_eq!(trust(&bundle, &certificate, HOST, now()).map(drop), want, "{name}");
        }
    }
}
