//! Rotation of the CA and of the serving certificate. [`plan`] computes the next step from the
//! time, the Secret and the webhook configuration. Nothing here does I/O.
//!
//! API servers always trust the CA that signed the served certificate. A new CA is stored, then
//! published in `caBundle`, and signs only after [`OVERLAP`]. The previous CA stays in `caBundle`
//! until no kubelet can still mount a certificate that it signed.

mod authority;
mod pinned;
mod trust;
mod validity;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use zeroize::Zeroizing;

use self::{authority::Authority, validity::pem_blocks};
pub use self::{
    authority::CannotSign,
    pinned::plan_pinned,
    trust::{Distrust, trust},
    validity::ends,
};

/// The data of the Secret. A key that is missing, or is not UTF-8, is an empty text.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct SecretData {
    /// The trusted CA certificates, as PEM. The first one signs.
    pub authorities: String,
    /// The key of the first CA, as PEM.
    pub authority_key: Zeroizing<String>,
    /// The serving certificate, as PEM.
    pub certificate: String,
    /// The key of the serving certificate, as PEM.
    pub key: Zeroizing<String>,
}

/// The CA certificates in the webhook configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PublishedBundles {
    /// The `caBundle` of each webhook in it, as PEM.
    pub bundles: Vec<String>,
    /// Since when all bundles equal the CA certificates of the Secret, as far as this process
    /// knows.
    pub since: Option<SystemTime>,
}

/// The next step.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    /// Write these CA certificates to each `caBundle`.
    Publish(String),
    /// Write this data to the Secret, for this reason.
    Store(Box<SecretData>, RotationReason),
    /// Nothing to do until this time.
    WaitUntil(SystemTime),
}

/// Why the Secret must change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RotationReason {
    /// There is no valid CA with its key.
    AuthorityMissing,
    /// Less than a third of the CA's lifetime remains.
    AuthorityOld,
    /// There is no valid certificate.
    CertificateMissing,
    /// Less than a third of the certificate's lifetime remains, or a former CA signed it.
    CertificateOld,
    /// No pod serves a certificate of a former CA any more.
    Superseded,
}

/// Returns the next step for the webhook that API servers call at `host`. Fails if a CA or a
/// certificate cannot be created for `host`.
pub fn plan(
    stored: &SecretData,
    published: &PublishedBundles,
    host: &str,
    now: SystemTime,
) -> Result<Step, CannotSign> {
    let (reason, former): (_, Vec<String>) = match Authority::read(stored, host, now) {
        None => {
            // The Secret may not name the CA of the served certificate any more. The published
            // bundles do, so their CAs stay trusted.
            let trusted = published.bundles.iter().flat_map(|bundle| pem_blocks(bundle));
            (
                RotationReason::AuthorityMissing,
                pem_blocks(&stored.authorities).chain(trusted).collect(),
            )
        }
        Some(authority) if authority.old_at(AUTHORITY_LIFE) <= now => {
            (RotationReason::AuthorityOld, pem_blocks(&stored.authorities).collect())
        }
        Some(authority) => return keep(stored, published, &authority, host, now),
    };
    let authority = Authority::new(host, AUTHORITY_LIFE, now)?;
    let mut former: Vec<String> = former.into_iter().filter(|former| holds(former, now)).collect();
    // The CA of the stored certificate comes first, so that the limit never removes it, however
    // often the key is lost.
    former.sort_by_key(|former| !signed(former, stored, host, now));
    let mut authorities = vec![authority.certificate.clone()];
    for former in former {
        if authorities.len() < MOST_AUTHORITIES && !authorities.contains(&former) {
            authorities.push(former);
        }
    }
    let stored = SecretData {
        authorities: authorities.concat(),
        authority_key: authority.key_pem(),
        ..stored.clone()
    };
    Ok(Step::Store(Box::new(stored), reason))
}

/// Returns the next step if the CA is valid.
fn keep(
    stored: &SecretData,
    published: &PublishedBundles,
    authority: &Authority,
    host: &str,
    now: SystemTime,
) -> Result<Step, CannotSign> {
    if published.bundles.iter().any(|bundle| *bundle != stored.authorities) {
        return Ok(Step::Publish(stored.authorities.clone()));
    }
    let trusted_since = published.since.unwrap_or(now);
    let ends = authority.expiry_if_valid(&stored.certificate, &stored.key, host, now);
    let former: Vec<String> = pem_blocks(&stored.authorities).skip(1).collect();
    let reason = match ends {
        Some(ends) if now < ends - CERTIFICATE_LIFE / 3 => {
            let shown_everywhere = ends - CERTIFICATE_LIFE + OVERLAP;
            return Ok(if former.is_empty() {
                Step::WaitUntil(authority.old_at(AUTHORITY_LIFE).min(ends - CERTIFICATE_LIFE / 3))
            } else if shown_everywhere <= now {
                let stored =
                    SecretData { authorities: authority.certificate.clone(), ..stored.clone() };
                Step::Store(Box::new(stored), RotationReason::Superseded)
            } else {
                Step::WaitUntil(shown_everywhere)
            });
        }
        Some(_) => RotationReason::CertificateOld,
        // Pods still serve a certificate of a former CA, which API servers trust.
        None if former.iter().any(|former| signed(former, stored, host, now)) => {
            if now < trusted_since + OVERLAP {
                return Ok(Step::WaitUntil(trusted_since + OVERLAP));
            }
            RotationReason::CertificateOld
        }
        None => RotationReason::CertificateMissing,
    };
    let (certificate, key) = authority.sign(host, now)?;
    Ok(Step::Store(Box::new(SecretData { certificate, key, ..stored.clone() }), reason))
}

/// Reports whether the CA signed the stored certificate, and the certificate is valid.
fn signed(authority: &str, stored: &SecretData, host: &str, now: SystemTime) -> bool {
    authority::expiry_if_valid(authority, &stored.certificate, &stored.key, host, now).is_some()
}

/// Reports whether the certificate is neither expired nor not yet valid.
fn holds(certificate: &str, now: SystemTime) -> bool {
    validity::of_pem(certificate).is_some_and(|validity| validity.holds(now))
}

impl SecretData {
    /// Returns the expiry of the CA that signs. None: there is none.
    pub fn authority_ends(&self) -> Option<SystemTime> {
        validity::of_pem(&self.authorities).map(|validity| validity.ends)
    }

    /// Returns the lifetime of the serving certificate. None: there is none.
    pub fn certificate_life(&self) -> Option<Duration> {
        let validity = validity::of_pem(&self.certificate)?;
        validity.ends.duration_since(validity.begins).ok()
    }

    /// Returns the expiry of the serving certificate. None: there is none.
    pub fn certificate_ends(&self) -> Option<SystemTime> {
        validity::of_pem(&self.certificate).map(|validity| validity.ends)
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretData")
            .field("ca_certificates", &self.authorities)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for RotationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthorityMissing => "the CA or its key is missing or invalid: new CA",
            Self::AuthorityOld => "the CA is in the last third of its lifetime: new CA",
            Self::CertificateMissing => "the certificate is missing or invalid: new certificate",
            Self::CertificateOld => "the certificate is due for renewal: new certificate",
            Self::Superseded => "no certificate of a former CA is in use: former CAs removed",
        })
    }
}

/// How long a CA is trusted before it signs, and after it stops signing. The kubelet updates a
/// mounted Secret within its sync period plus the delay of its cache, one minute each:
/// <https://kubernetes.io/docs/concepts/configuration/secret/>.
pub const OVERLAP: Duration = Duration::from_secs(600);
/// How far a CA's `notBefore` lies in the past, for API servers whose clocks are behind. A
/// certificate has the `notBefore` of its CA.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * DAY.as_secs());
const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * DAY.as_secs());
/// Maximum number of CA certificates in the Secret: the one that signs, the previous one, and those
/// that earlier repairs left.
const MOST_AUTHORITIES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "fab-session-injector.platform.svc";

    /// A cluster that carries out each step at once.
    struct SimulatedCluster {
        stored: SecretData,
        published: PublishedBundles,
        now: SystemTime,
        steps: Vec<String>,
    }

    impl SimulatedCluster {
        fn new() -> Self {
            Self {
                stored: SecretData::default(),
                published: PublishedBundles { bundles: vec![String::new(); 2], since: None },
                now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
                steps: Vec::new(),
            }
        }

        /// Carries out steps until none is left. Returns the time of the next one.
        fn settle(&mut self) -> SystemTime {
            for _ in 0..8 {
                match plan(&self.stored, &self.published, HOST, self.now).unwrap() {
                    Step::Publish(bundle) => {
                        self.published.bundles.fill(bundle);
                        self.published.since = Some(self.now);
                        self.steps.push("publish".to_owned());
                    }
                    Step::Store(stored, reason) => {
                        self.stored = *stored;
                        self.steps.push(format!("{reason:?}"));
                    }
                    Step::WaitUntil(then) => {
                        assert!(then > self.now, "a wait for the past would spin");
                        return then;
                    }
                }
            }
            panic!("no end of steps: {:?}", self.steps);
        }

        fn taken_steps(&mut self) -> Vec<String> {
            std::mem::take(&mut self.steps)
        }

        /// Reports whether an API server with the published bundle accepts the certificate.
        fn trusts(&self, certificate: &str, key: &str) -> bool {
            pem_blocks(&self.published.bundles[0]).any(|trusted| {
                authority::expiry_if_valid(&trusted, certificate, key, HOST, self.now).is_some()
            })
        }
    }

    fn settled() -> SimulatedCluster {
        let mut cluster = SimulatedCluster::new();
        cluster.settle();
        cluster.steps.clear();
        cluster
    }

    #[test]
    fn an_empty_secret_gets_a_published_ca_before_a_certificate() {
        let mut cluster = SimulatedCluster::new();
        let next = cluster.settle();
        assert_eq!(cluster.steps, ["AuthorityMissing", "publish", "CertificateMissing"]);
        assert!(cluster.trusts(&cluster.stored.certificate, &cluster.stored.key));
        // Two thirds of 30 days.
        let days = next.duration_since(cluster.now).unwrap().as_secs_f64() / 86_400.0;
        assert!((19.9..=20.0).contains(&days), "{days}");
    }

    #[test]
    fn each_certificate_is_trusted_during_18_months_of_rotations() {
        let mut cluster = SimulatedCluster::new();
        // A kubelet mounts the Secret as it was nine minutes ago.
        let mut shown: Option<SecretData> = None;
        let mut next = cluster.settle();
        let end = cluster.now + 540 * DAY;
        let (mut authorities, mut certificates) = (0, 0);
        while cluster.now < end {
            let before = cluster.stored.clone();
            cluster.now = next;
            next = cluster.settle();
            for step in cluster.taken_steps() {
                authorities += usize::from(step == "AuthorityOld");
                certificates += usize::from(step == "CertificateOld");
            }
            let lagging = shown.take().unwrap_or(before);
            assert!(cluster.trusts(&lagging.certificate, &lagging.key), "a slow kubelet");
            if next.duration_since(cluster.now).unwrap() < OVERLAP - Duration::from_secs(60) {
                shown = Some(lagging);
            }
            assert!(cluster.trusts(&cluster.stored.certificate, &cluster.stored.key));
        }
        assert_eq!(authorities, 2, "each year's is replaced after eight months");
        assert!((26..=32).contains(&certificates), "{certificates}");
        assert_eq!(pem_blocks(&cluster.stored.authorities).count(), 1, "former ones are dropped");
    }

    #[test]
    fn damaged_secrets_and_bundles_are_repaired() {
        type Break = fn(&mut SimulatedCluster);
        let other = settled().stored;
        let cases: [(&str, Break, &[&str]); 7] = [
            ("certificate gone", |c| c.stored.certificate.clear(), &["CertificateMissing"]),
            ("key replaced", |c| c.stored.key = settled().stored.key, &["CertificateMissing"]),
            (
                "certificate is not PEM",
                |c| c.stored.certificate = "mine".to_owned(),
                &["CertificateMissing"],
            ),
            (
                "bundle edited",
                |c| c.published.bundles[1] = settled().stored.authorities,
                &["publish"],
            ),
            ("bundle gone", |c| c.published.bundles[0].clear(), &["publish"]),
            ("CA key gone", |c| c.stored.authority_key.clear(), &["AuthorityMissing", "publish"]),
            (
                "all gone",
                |c| c.stored = SecretData::default(),
                &["AuthorityMissing", "publish", "CertificateMissing"],
            ),
        ];
        for (name, break_it, want) in cases {
            let mut cluster = settled();
            let served = cluster.stored.clone();
            break_it(&mut cluster);
            cluster.settle();
            assert_eq!(cluster.taken_steps(), want, "{name}");
            assert!(cluster.trusts(&cluster.stored.certificate, &cluster.stored.key), "{name}");
            assert!(
                cluster.trusts(&served.certificate, &served.key),
                "{name}: what pods still serve"
            );
            assert!(!cluster.trusts(&other.certificate, &other.key), "{name}");
            // Finally only one CA is trusted.
            for _ in 0..4 {
                cluster.now = cluster.settle();
            }
            assert_eq!(pem_blocks(&cluster.stored.authorities).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_new_ca_signs_only_after_the_overlap() {
        let mut cluster = settled();
        cluster.stored.authority_key.clear();
        let certificate = cluster.stored.certificate.clone();
        let next = cluster.settle();
        assert_eq!(next, cluster.now + OVERLAP);
        assert_eq!(cluster.stored.certificate, certificate);
        // A restarted process does not know since when.
        cluster.now += OVERLAP / 2;
        cluster.published.since = None;
        assert_eq!(cluster.settle(), cluster.now + OVERLAP);
        cluster.published.since = Some(cluster.now);
        cluster.now += OVERLAP;
        cluster.settle();
        assert_ne!(cluster.stored.certificate, certificate);
    }

    /// Such as by a tool that removes unknown keys of the Secret.
    #[test]
    fn a_ca_key_lost_repeatedly_does_not_break_trust() {
        let mut cluster = settled();
        let served = cluster.stored.clone();
        for _ in 0..2 * MOST_AUTHORITIES {
            cluster.stored.authority_key.clear();
            cluster.settle();
            assert_eq!(cluster.stored.certificate, served.certificate);
            assert!(cluster.trusts(&served.certificate, &served.key));
        }
    }

    /// Such as the clock of an API server that is 90 minutes behind.
    #[test]
    fn a_renewed_certificate_is_valid_for_slow_clocks() {
        let mut cluster = settled();
        cluster.now = cluster.settle();
        cluster.settle();
        cluster.now -= Duration::from_secs(5400);
        assert!(cluster.trusts(&cluster.stored.certificate, &cluster.stored.key));
    }

    #[test]
    fn certificates_are_renewed_after_clock_jumps() {
        let mut cluster = settled();
        // Created by a clock that was a year ahead: not yet valid for all others.
        cluster.now -= 365 * DAY;
        cluster.settle();
        assert_eq!(
            cluster.taken_steps(),
            ["AuthorityMissing", "publish", "CertificateMissing"],
            "a CA that is not yet valid is replaced"
        );
        cluster.now += 3 * 365 * DAY;
        cluster.settle();
        assert!(cluster.trusts(&cluster.stored.certificate, &cluster.stored.key));
    }

    #[test]
    fn a_ca_is_valid_for_one_host_only() {
        let cluster = settled();
        let elsewhere = "another.platform.svc";
        let Step::Store(stored, reason) =
            plan(&cluster.stored, &cluster.published, elsewhere, cluster.now).unwrap()
        else {
            panic!("the CA of another host was accepted");
        };
        assert_eq!(reason, RotationReason::AuthorityMissing);
        assert_eq!(pem_blocks(&stored.authorities).count(), 2);
    }

    #[test]
    fn no_key_is_printed() {
        let stored = settled().stored;
        assert!(stored.key.contains("PRIVATE KEY") && stored.authority_key.contains("PRIVATE KEY"));
        assert!(!format!("{stored:?}").contains("PRIVATE KEY"));
    }
}
