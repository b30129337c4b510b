//! Whom API servers trust, and which certificate the webhook serves: what is to be done next,
//! as a function of the time and of what the cluster holds. Nothing here does I/O.
//!
//! At each moment the certificate that is served was signed by an authority that API servers
//! already trust. A new authority is stored, then published, and signs only when it has been
//! trusted for [`OVERLAP`]; the one before it is trusted until no kubelet can show its
//! certificates any more.

mod authority;
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
    trust::{Distrust, trust},
    validity::ends,
};

/// What the Secret holds, as far as it is text; an empty text is one that is missing.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Stored {
    /// The authorities that are trusted, as PEM. The first one signs.
    pub authorities: String,
    /// The key of the first authority, as PEM.
    pub authority_key: Zeroizing<String>,
    /// The serving certificate, as PEM.
    pub certificate: String,
    /// The key of the serving certificate, as PEM.
    pub key: Zeroizing<String>,
}

/// Whom the webhook configuration tells API servers to trust.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Published {
    /// The bundle of each webhook in it, as PEM.
    pub bundles: Vec<String>,
    /// Since when it is known to say what the Secret holds.
    pub since: Option<SystemTime>,
}

/// What is to be done next.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    /// API servers are to trust these authorities.
    Publish(String),
    /// The Secret is to hold this, for the reason.
    Store(Box<Stored>, Reason),
    /// All is in order, until then.
    WaitUntil(SystemTime),
}

/// Why the Secret changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// There is no authority whose certificates hold.
    AuthorityMissing,
    /// The authority ends in less than a third of its life.
    AuthorityOld,
    /// There is no certificate that holds.
    CertificateMissing,
    /// The certificate ends in less than a third of its life, or its authority is about to go.
    CertificateOld,
    /// No certificate of a former authority is served any more.
    Superseded,
}

/// Decides what is to be done for the webhook that is called at `host`.
pub fn plan(
    stored: &Stored,
    published: &Published,
    host: &str,
    now: SystemTime,
) -> Result<Step, CannotSign> {
    let (reason, former): (_, Vec<String>) = match Authority::read(stored, host, now) {
        None => {
            // Nobody says any more who signed what is served at present, but who is trusted.
            let trusted = published.bundles.iter().flat_map(|bundle| pem_blocks(bundle));
            (Reason::AuthorityMissing, pem_blocks(&stored.authorities).chain(trusted).collect())
        }
        Some(authority) if authority.old_at() <= now => {
            (Reason::AuthorityOld, pem_blocks(&stored.authorities).collect())
        }
        Some(authority) => return keep(stored, published, &authority, host, now),
    };
    let authority = Authority::new(host, now)?;
    let mut former: Vec<String> = former.into_iter().filter(|former| holds(former, now)).collect();
    // Whoever signed what pods show is not to be cut off, however often a key is lost.
    former.sort_by_key(|former| !signed(former, stored, host, now));
    let mut authorities = vec![authority.certificate.clone()];
    for former in former {
        if authorities.len() < MOST_AUTHORITIES && !authorities.contains(&former) {
            authorities.push(former);
        }
    }
    let stored = Stored {
        authorities: authorities.concat(),
        authority_key: authority.key_pem(),
        ..stored.clone()
    };
    Ok(Step::Store(Box::new(stored), reason))
}

/// With an authority that is sound.
fn keep(
    stored: &Stored,
    published: &Published,
    authority: &Authority,
    host: &str,
    now: SystemTime,
) -> Result<Step, CannotSign> {
    if published.bundles.iter().any(|bundle| *bundle != stored.authorities) {
        return Ok(Step::Publish(stored.authorities.clone()));
    }
    let trusted_since = published.since.unwrap_or(now);
    let ends = authority.judge(&stored.certificate, &stored.key, host, now);
    let former: Vec<String> = pem_blocks(&stored.authorities).skip(1).collect();
    let reason = match ends {
        Some(ends) if now < ends - CERTIFICATE_LIFE / 3 => {
            let shown_everywhere = ends - CERTIFICATE_LIFE + OVERLAP;
            return Ok(if former.is_empty() {
                Step::WaitUntil(authority.old_at().min(ends - CERTIFICATE_LIFE / 3))
            } else if shown_everywhere <= now {
                let stored =
                    Stored { authorities: authority.certificate.clone(), ..stored.clone() };
                Step::Store(Box::new(stored), Reason::Superseded)
            } else {
                Step::WaitUntil(shown_everywhere)
            });
        }
        Some(_) => Reason::CertificateOld,
        // Pods still show what a former authority signed, and are believed.
        None if former.iter().any(|former| signed(former, stored, host, now)) => {
            if now < trusted_since + OVERLAP {
                return Ok(Step::WaitUntil(trusted_since + OVERLAP));
            }
            Reason::CertificateOld
        }
        None => Reason::CertificateMissing,
    };
    let (certificate, key) = authority.sign(host, now)?;
    Ok(Step::Store(Box::new(Stored { certificate, key, ..stored.clone() }), reason))
}

/// Whether what is stored was signed by the authority.
fn signed(authority: &str, stored: &Stored, host: &str, now: SystemTime) -> bool {
    authority::judge(authority, &stored.certificate, &stored.key, host, now).is_some()
}

fn holds(certificate: &str, now: SystemTime) -> bool {
    validity::of_pem(certificate).is_some_and(|validity| validity.holds(now))
}

impl Stored {
    /// When the authority ends that signs. None: there is none.
    pub fn authority_ends(&self) -> Option<SystemTime> {
        validity::of_pem(&self.authorities).map(|validity| validity.ends)
    }

    /// How long the serving certificate lives in all. None: there is none.
    pub fn certificate_life(&self) -> Option<Duration> {
        let validity = validity::of_pem(&self.certificate)?;
        validity.ends.duration_since(validity.begins).ok()
    }

    /// When the serving certificate ends. None: there is none.
    pub fn certificate_ends(&self) -> Option<SystemTime> {
        validity::of_pem(&self.certificate).map(|validity| validity.ends)
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("authorities", &self.authorities)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthorityMissing => "there is no sound authority",
            Self::AuthorityOld => "the authority is in the last third of its life",
            Self::CertificateMissing => "there is no certificate of this authority that holds",
            Self::CertificateOld => "the certificate is to be replaced ahead of its end",
            Self::Superseded => "no certificate of a former authority is served any more",
        })
    }
}

/// How long an authority is trusted before it signs, and after it has stopped. The kubelet
/// brings a changed Secret within its sync period and the delay of its cache, which are a
/// minute each: <https://kubernetes.io/docs/concepts/configuration/secret/>.
pub const OVERLAP: Duration = Duration::from_secs(600);
/// For clocks that are behind ours. A certificate begins with its authority.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * DAY.as_secs());
const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * DAY.as_secs());
/// The one that signs, the one before it, and what repairs have left.
const MOST_AUTHORITIES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "fab-session-injector.platform.svc";

    /// A cluster in which each step is carried out at once.
    struct Cluster {
        stored: Stored,
        published: Published,
        now: SystemTime,
        steps: Vec<String>,
    }

    impl Cluster {
        fn new() -> Self {
            Self {
                stored: Stored::default(),
                published: Published { bundles: vec![String::new(); 2], since: None },
                now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
                steps: Vec::new(),
            }
        }

        /// Until there is nothing to do; says until when.
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

        /// What an API server that trusts the published bundle says of the served certificate.
        fn believes(&self, certificate: &str, key: &str) -> bool {
            pem_blocks(&self.published.bundles[0]).any(|trusted| {
                authority::judge(&trusted, certificate, key, HOST, self.now).is_some()
            })
        }
    }

    fn settled() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.settle();
        cluster.steps.clear();
        cluster
    }

    #[test]
    fn an_empty_secret_is_filled_in_the_order_of_trust() {
        let mut cluster = Cluster::new();
        let next = cluster.settle();
        assert_eq!(cluster.steps, ["AuthorityMissing", "publish", "CertificateMissing"]);
        assert!(cluster.believes(&cluster.stored.certificate, &cluster.stored.key));
        // Two thirds of 30 days.
        let days = next.duration_since(cluster.now).unwrap().as_secs_f64() / 86_400.0;
        assert!((19.9..=20.0).contains(&days), "{days}");
    }

    #[test]
    fn a_year_and_a_half_of_rotations_is_believed_at_each_moment() {
        let mut cluster = Cluster::new();
        // A kubelet shows what the Secret held nine minutes ago.
        let mut shown: Option<Stored> = None;
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
            assert!(cluster.believes(&lagging.certificate, &lagging.key), "by a kubelet that lags");
            if next.duration_since(cluster.now).unwrap() < OVERLAP - Duration::from_secs(60) {
                shown = Some(lagging);
            }
            assert!(cluster.believes(&cluster.stored.certificate, &cluster.stored.key));
        }
        assert_eq!(authorities, 2, "each year's is replaced after eight months");
        assert!((26..=32).contains(&certificates), "{certificates}");
        assert_eq!(pem_blocks(&cluster.stored.authorities).count(), 1, "former ones are dropped");
    }

    #[test]
    fn what_somebody_broke_is_mended() {
        type Break = fn(&mut Cluster);
        let other = settled().stored;
        let cases: [(&str, Break, &[&str]); 7] = [
            ("certificate gone", |c| c.stored.certificate.clear(), &["CertificateMissing"]),
            ("key is another's", |c| c.stored.key = settled().stored.key, &["CertificateMissing"]),
            (
                "certificate is no PEM",
                |c| c.stored.certificate = "mine".to_owned(),
                &["CertificateMissing"],
            ),
            (
                "bundle edited",
                |c| c.published.bundles[1] = settled().stored.authorities,
                &["publish"],
            ),
            ("bundle gone", |c| c.published.bundles[0].clear(), &["publish"]),
            (
                "authority's key gone",
                |c| c.stored.authority_key.clear(),
                &["AuthorityMissing", "publish"],
            ),
            (
                "all gone",
                |c| c.stored = Stored::default(),
                &["AuthorityMissing", "publish", "CertificateMissing"],
            ),
        ];
        for (name, break_it, want) in cases {
            let mut cluster = settled();
            let served = cluster.stored.clone();
            break_it(&mut cluster);
            cluster.settle();
            assert_eq!(cluster.taken_steps(), want, "{name}");
            assert!(cluster.believes(&cluster.stored.certificate, &cluster.stored.key), "{name}");
            assert!(
                cluster.believes(&served.certificate, &served.key),
                "{name}: what pods still show"
            );
            assert!(!cluster.believes(&other.certificate, &other.key), "{name}");
            // And in the end only one is trusted.
            for _ in 0..4 {
                cluster.now = cluster.settle();
            }
            assert_eq!(pem_blocks(&cluster.stored.authorities).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_new_authority_signs_only_when_it_has_been_trusted_for_a_while() {
        let mut cluster = settled();
        cluster.stored.authority_key.clear();
        let certificate = cluster.stored.certificate.clone();
        let next = cluster.settle();
        assert_eq!(next, cluster.now + OVERLAP);
        assert_eq!(cluster.stored.certificate, certificate);
        // A process that starts anew does not know since when.
        cluster.now += OVERLAP / 2;
        cluster.published.since = None;
        assert_eq!(cluster.settle(), cluster.now + OVERLAP);
        cluster.published.since = Some(cluster.now);
        cluster.now += OVERLAP;
        cluster.settle();
        assert_ne!(cluster.stored.certificate, certificate);
    }

    /// As whatever prunes the keys that it does not know makes it happen.
    #[test]
    fn a_key_that_is_lost_again_and_again_cuts_nobody_off() {
        let mut cluster = settled();
        let served = cluster.stored.clone();
        for _ in 0..2 * MOST_AUTHORITIES {
            cluster.stored.authority_key.clear();
            cluster.settle();
            assert_eq!(cluster.stored.certificate, served.certificate);
            assert!(cluster.believes(&served.certificate, &served.key));
        }
    }

    /// Of whoever goes by a clock that is an hour and a half behind.
    #[test]
    fn a_renewed_certificate_is_believed_by_clocks_that_are_behind() {
        let mut cluster = settled();
        cluster.now = cluster.settle();
        cluster.settle();
        cluster.now -= Duration::from_secs(5400);
        assert!(cluster.believes(&cluster.stored.certificate, &cluster.stored.key));
    }

    #[test]
    fn clocks_that_jump_are_survived() {
        let mut cluster = settled();
        // Made by a clock that was a year ahead: nobody else would believe it yet.
        cluster.now -= 365 * DAY;
        cluster.settle();
        assert_eq!(
            cluster.taken_steps(),
            ["AuthorityMissing", "publish", "CertificateMissing"],
            "an authority that begins later is none"
        );
        cluster.now += 3 * 365 * DAY;
        cluster.settle();
        assert!(cluster.believes(&cluster.stored.certificate, &cluster.stored.key));
    }

    #[test]
    fn an_authority_speaks_for_one_host_only() {
        let cluster = settled();
        let elsewhere = "another.platform.svc";
        let Step::Store(stored, reason) =
            plan(&cluster.stored, &cluster.published, elsewhere, cluster.now).unwrap()
        else {
            panic!("the authority was taken for another host's");
        };
        assert_eq!(reason, Reason::AuthorityMissing);
        assert_eq!(pem_blocks(&stored.authorities).count(), 2);
    }

    #[test]
    fn no_key_is_printed() {
        let stored = settled().stored;
        assert!(stored.key.contains("PRIVATE KEY") && stored.authority_key.contains("PRIVATE KEY"));
        assert!(!format!("{stored:?}").contains("PRIVATE KEY"));
    }
}
