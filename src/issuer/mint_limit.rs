//! The rate at which one replica signs JWTs: for a pod, for a namespace, and for all.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{namespaces::NamespaceName, session::PodUid};

/// Counts the JWTs of a replica. Its memory is bounded, because a pod is forgotten when its limit
/// is as for a new pod, and only a JWT makes a pod known.
#[derive(Debug)]
pub struct MintLimit {
    rates: Rates,
    all: Bucket,
    namespaces: Buckets,
    pods: Buckets,
}

/// The JWT is not signed now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limited {
    pub by: LimitedBy,
    /// Time after which the limit allows another JWT.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LimitedBy {
    All,
    Namespace,
    Pod,
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    pod: Rate,
    namespace: Rate,
    all: Rate,
}

/// So many at once, and afterwards one in each interval.
#[derive(Clone, Copy, Debug)]
struct Rate {
    at_once: u32,
    interval: Duration,
}

/// One count, which is the time at which all of `at_once` are available again.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Instant,
}

#[derive(Debug, Default)]
struct Buckets {
    by_name: HashMap<String, Bucket>,
    /// Number of buckets at which those that are full again are removed.
    clean_at: usize,
}

impl MintLimit {
    pub fn new(now: Instant) -> Self {
        Self::of(MINTS, now)
    }

    /// Returns the limit of requests that wait for a claim, which sign nothing.
    pub fn of_reads(now: Instant) -> Self {
        Self::of(READS, now)
    }

    fn of(rates: Rates, now: Instant) -> Self {
        Self {
            rates,
            all: Bucket { full_at: now },
            namespaces: Buckets::default(),
            pods: Buckets::default(),
        }
    }

    /// Takes one JWT for the pod. A refused one counts for no limit.
    pub fn take(
        &mut self,
        pod: &PodUid,
        namespace: &NamespaceName,
        now: Instant,
    ) -> Result<(), Limited> {
        let (pod, namespace) = (pod.as_str(), namespace.as_str());
        let rates = self.rates;
        let pod_after = self.pods.of(pod, now).after_one(rates.pod, now, LimitedBy::Pod)?;
        let namespace_after = self.namespaces.of(namespace, now).after_one(
            rates.namespace,
            now,
            LimitedBy::Namespace,
        )?;
        self.all = self.all.after_one(rates.all, now, LimitedBy::All)?;
        self.namespaces.set(namespace, namespace_after, now);
        self.pods.set(pod, pod_after, now);
        Ok(())
    }

    /// Counts a JWT of [`Self::take`] as one that was not signed, by a failure of others than the
    /// pod: it takes [`FAILED`] of the pod's limit. For namespace and all it counts as any other,
    /// because its calls of the API server were made: a pod that causes failures costs no more of
    /// them than the namespace may.
    pub fn fail(&mut self, pod: &PodUid) {
        if let Some(bucket) = self.pods.by_name.get_mut(pod.as_str())
            && let Some(full_at) =
                bucket.full_at.checked_sub(self.rates.pod.interval.saturating_sub(FAILED))
        {
            bucket.full_at = full_at;
        }
    }
}

impl Bucket {
    fn after_one(self, rate: Rate, now: Instant, by: LimitedBy) -> Result<Self, Limited> {
        let full_at = self.full_at.max(now) + rate.interval;
        match full_at.checked_duration_since(now + rate.interval * rate.at_once) {
            None | Some(Duration::ZERO) => Ok(Self { full_at }),
            Some(retry_after) => Err(Limited { by, retry_after }),
        }
    }
}

impl Buckets {
    fn of(&self, name: &str, now: Instant) -> Bucket {
        self.by_name.get(name).copied().unwrap_or(Bucket { full_at: now })
    }

    fn set(&mut self, name: &str, bucket: Bucket, now: Instant) {
        if let Some(known) = self.by_name.get_mut(name) {
            *known = bucket;
            return;
        }
        if self.by_name.len() >= self.clean_at {
            self.by_name.retain(|_, bucket| bucket.full_at > now);
            // Twice as many as now, so that each new bucket costs two steps on average.
            self.clean_at = (2 * self.by_name.len()).max(FEW);
        }
        self.by_name.insert(name.to_owned(), bucket);
    }
}

/// A pod needs one JWT in each session of 15 minutes or more. Three at once allow its sidecar to
/// restart.
const POD: Rate = Rate { at_once: 3, interval: Duration::from_secs(20) };
/// A sidecar pauses for 1 to 60 seconds after a failure, so a pod that waits for the end of an outage
/// is not limited, too.
const FAILED: Duration = Duration::from_secs(2);
/// 200 pods that start at once; then 20 a second, with which 72,000 sessions are renewed each hour.
const NAMESPACE: Rate = Rate { at_once: 200, interval: Duration::from_millis(50) };
/// 400 pods that start at once; then 100 a second. With [`POD`], whose buckets are full after a
/// minute, at most 6,400 pods are known.
const ALL: Rate = Rate { at_once: 400, interval: Duration::from_millis(10) };
const MINTS: Rates = Rates { pod: POD, namespace: NAMESPACE, all: ALL };
/// A sidecar asks once in 30 seconds, or once in 8 if it may not wait. 2,000 pods of a namespace that
/// start at once, and then 100 a second; one read of the API server each.
const READS: Rates = Rates {
    pod: Rate { at_once: 5, interval: Duration::from_secs(2) },
    namespace: Rate { at_once: 2000, interval: Duration::from_millis(10) },
    all: Rate { at_once: 4000, interval: Duration::from_millis(5) },
};
/// Number of buckets below which none is removed.
const FEW: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(number: u32) -> PodUid {
        format!("0e1c7c2b-8a52-4c4f-9d0e-{number:012x}").parse().unwrap()
    }

    fn namespace(number: u32) -> NamespaceName {
        format!("tenants-{number}").parse().unwrap()
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_pod_gets_three_at_once_and_then_one_in_20_seconds() {
        let start = Instant::now();
        let mut limit = MintLimit::new(start);
        let mut take = |after: f64| limit.take(&pod(1), &namespace(1), start + seconds(after));
        let refused = |after| Err(Limited { by: LimitedBy::Pod, retry_after: seconds(after) });
        assert_eq!([take(0.0), take(0.0), take(0.0)], [Ok(()); 3]);
        assert_eq!(take(0.0), refused(20.0));
        assert_eq!(take(15.0), refused(5.0));
        assert_eq!([take(20.0), take(40.0)], [Ok(()); 2]);
        assert_eq!(take(40.0), refused(20.0));
        assert_eq!([take(100.0), take(100.0), take(100.0)], [Ok(()); 3]);
        assert_eq!(take(100.0), refused(20.0));
        // The clock of a suspended machine may be read in any order.
        assert_eq!(take(1.0), refused(119.0));
        assert_eq!(limit.take(&pod(2), &namespace(1), start + seconds(100.0)), Ok(()));
    }

    #[test]
    fn a_failed_jwt_counts_less_for_its_pod_only() {
        let start = Instant::now();
        let mut limit = MintLimit::new(start);
        let taken = (0..100).filter(|_| {
            let is_taken = limit.take(&pod(1), &namespace(1), start).is_ok();
            if is_taken {
                limit.fail(&pod(1));
            }
            is_taken
        });
        // Each failure takes 2 s of 60 s, of which 20 s must be free.
        assert_eq!(taken.count(), 21);
        // Other pods of the namespace have what is left of 200.
        let others = (2..1000).filter(|it| limit.take(&pod(*it), &namespace(1), start).is_ok());
        assert_eq!(others.count(), 200 - 21);
        // A sidecar whose requests fail for ten minutes gets its JWT at once afterwards.
        for second in 0..100 {
            let now = start + seconds(f64::from(second) * 6.0);
            assert_eq!(limit.take(&pod(3000), &namespace(2), now), Ok(()), "{second}");
            limit.fail(&pod(3000));
        }
        let after = start + seconds(600.0);
        assert!((0..3).all(|_| limit.take(&pod(3000), &namespace(2), after).is_ok()));
        // One that is not known, because it was refused.
        limit.fail(&pod(4000));
    }

    #[test]
    fn a_namespace_takes_nothing_from_others() {
        let start = Instant::now();
        let mut limit = MintLimit::new(start);
        let taken = (0..1000).filter(|it| limit.take(&pod(*it), &namespace(1), start).is_ok());
        assert_eq!(taken.count(), 200);
        assert_eq!(limit.take(&pod(2000), &namespace(2), start), Ok(()));
        let refused = Limited { by: LimitedBy::Namespace, retry_after: seconds(0.05) };
        assert_eq!(limit.take(&pod(3000), &namespace(1), start), Err(refused));
        // Refused JWTs did not use up the pod's limit.
        let later = start + seconds(10.0);
        assert!((0..3).all(|_| limit.take(&pod(3000), &namespace(1), later).is_ok()));
    }

    #[test]
    fn all_namespaces_together_have_a_limit() {
        let start = Instant::now();
        let mut limit = MintLimit::new(start);
        let mut taken = 0;
        for step in 0..1000 {
            let now = start + Duration::from_millis(10) * step;
            for number in 0..10 {
                let number = step * 10 + number;
                match limit.take(&pod(number), &namespace(number), now) {
                    Ok(()) => taken += 1,
                    Err(limited) => assert_eq!(limited.by, LimitedBy::All),
                }
            }
        }
        assert_eq!(taken, 400 + 999);
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut limit = MintLimit::new(start);
        let mut most = 0;
        for step in 0..60_000 {
            let now = start + Duration::from_millis(10) * step;
            let _ = limit.take(&pod(2 * step), &namespace(step), now);
            let _ = limit.take(&pod(2 * step + 1), &namespace(step), now);
            most = most.max(limit.pods.by_name.len()).max(limit.namespaces.by_name.len());
        }
        assert!(most <= 2 * 6400, "{most}");
        let later = start + Duration::from_secs(3600);
        assert_eq!(limit.take(&pod(1), &namespace(1), later), Ok(()));
        limit.pods.clean_at = 0;
        assert_eq!(limit.take(&pod(2), &namespace(1), later), Ok(()));
        assert_eq!(limit.pods.by_name.len(), 2);
    }
}
