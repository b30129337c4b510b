//! Two wall clocks on tokio's paused time: the true time, and the time that the machine shows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_smithy_async::time::TimeSource;
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<State>);

#[derive(Debug)]
struct State {
    start: Instant,
    /// Seconds by which the machine's clock is wrong.
    skew: AtomicI64,
    /// Seconds of suspension, during which timers stopped.
    suspended: AtomicU64,
}

/// A time source with the true time.
#[derive(Clone, Debug)]
pub(crate) struct Truth(pub(crate) Clock);

impl Clock {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        Self(Arc::new(State { start, skew: AtomicI64::new(0), suspended: AtomicU64::new(0) }))
    }

    pub(crate) fn truth(&self) -> SystemTime {
        let suspended = Duration::from_secs(self.0.suspended.load(Ordering::Relaxed));
        UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.0.start.elapsed() + suspended
    }

    pub(crate) fn shown(&self) -> SystemTime {
        let skew = self.0.skew.load(Ordering::Relaxed);
        let by = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { self.truth() - by } else { self.truth() + by }
    }

    pub(crate) fn skew(&self, seconds: i64) {
        self.0.skew.store(seconds, Ordering::Relaxed);
    }

    pub(crate) fn suspend(&self, time: Duration) {
        self.0.suspended.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        self.shown()
    }
}

impl TimeSource for Truth {
    fn now(&self) -> SystemTime {
        self.0.truth()
    }
}
