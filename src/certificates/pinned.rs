//! The certificate of a server whose clients keep the CA that they started with.

use std::time::{Duration, SystemTime};

use super::{
    CERTIFICATE_LIFE, CannotSign, DAY, RotationReason, SecretData, Step, authority::Authority,
};

/// Returns the next step for the session issuer at `host`.
///
/// A sidecar trusts the CA of its variables, which never change. So the CA has one key, and lives
/// for ten years. A renewed CA has the same key and name: a client that trusts the previous one
/// accepts its certificates, because a trust anchor is a name and a key (RFC 5280, section 6.1.1).
/// Nothing is published, so [`Step::Publish`] does not occur. Fails if a certificate cannot be
/// created.
pub fn plan_pinned(stored: &SecretData, host: &str, now: SystemTime) -> Result<Step, CannotSign> {
    let authority = match Authority::read(stored, host, now) {
        Some(authority) if now < authority.old_at(LIFE) => authority,
        found => {
            let reason = match found {
                Some(_) => RotationReason::AuthorityOld,
                None => RotationReason::AuthorityMissing,
            };
            let authority = Authority::renewed(stored, host, LIFE, now)?;
            let stored = SecretData {
                authorities: authority.certificate.clone(),
                authority_key: authority.key_pem(),
                ..stored.clone()
            };
            return Ok(Step::Store(Box::new(stored), reason));
        }
    };
    let reason = match authority.expiry_if_valid(&stored.certificate, &stored.key, host, now) {
        Some(ends) if now < ends - CERTIFICATE_LIFE / 3 => {
            return Ok(Step::WaitUntil(authority.old_at(LIFE).min(ends - CERTIFICATE_LIFE / 3)));
        }
        Some(_) => RotationReason::CertificateOld,
        None => RotationReason::CertificateMissing,
    };
    let (certificate, key) = authority.sign(host, now)?;
    Ok(Step::Store(Box::new(SecretData { certificate, key, ..stored.clone() }), reason))
}

/// Lifetime of the CA: longer than that of any pod.
const LIFE: Duration = Duration::from_secs(3650 * DAY.as_secs());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::authority::expiry_if_valid;

    const HOST: &str = "fab-session-injector-issuer.platform.svc";

    /// Carries out steps until none is left. Returns the time of the next one.
    fn settle(stored: &mut SecretData, now: SystemTime) -> SystemTime {
        for _ in 0..4 {
            match plan_pinned(stored, HOST, now).unwrap() {
                Step::Store(next, _) => *stored = *next,
                Step::WaitUntil(then) => return then,
                Step::Publish(_) => panic!("nothing is published"),
            }
        }
        panic!("no end of steps");
    }

    #[test]
    fn the_first_ca_is_trusted_for_all_renewals() {
        let mut stored = SecretData::default();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut now = start;
        let mut next = settle(&mut stored, now);
        let first = stored.authorities.clone();
        let mut authorities = 0;
        while now < start + LIFE * 9 / 10 {
            now = next;
            let before = stored.authorities.clone();
            next = settle(&mut stored, now);
            assert!(next > now);
            authorities += usize::from(before != stored.authorities);
            let SecretData { certificate, key, .. } = &stored;
            let ends = expiry_if_valid(&first, certificate, key, HOST, now);
            assert!(ends.is_some(), "a pod with the first CA");
            assert_eq!(stored.authorities.matches("BEGIN CERTIFICATE").count(), 1);
        }
        assert_eq!(authorities, 1, "after two thirds of ten years");
    }

    #[test]
    fn a_lost_certificate_keeps_the_key_of_the_ca() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut stored = SecretData::default();
        settle(&mut stored, now);
        let first = stored.authorities.clone();
        stored.authorities.clear();
        stored.certificate.clear();
        settle(&mut stored, now + DAY);
        let SecretData { certificate, key, .. } = &stored;
        assert!(expiry_if_valid(&first, certificate, key, HOST, now + DAY).is_some());
        // Without its key there is no way back: pods have to be replaced.
        stored.authority_key = zeroize::Zeroizing::new(String::new());
        settle(&mut stored, now + DAY);
        let SecretData { certificate, key, .. } = &stored;
        assert!(expiry_if_valid(&first, certificate, key, HOST, now + DAY).is_none());
    }
}
