use std::time::Duration;

use tokio::time::Instant;

/// At most so many calls a second, evenly.
pub(super) struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// Half of the rate: sweep and lookups each have a pace, and share it.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(2) / per_second.max(1), next: now }
    }

    /// Err: when to ask again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if now < self.next {
            return Err(self.next);
        }
        self.next = now + self.interval;
        Ok(())
    }

    pub(super) fn pause(&mut self, until: Instant) {
        self.next = self.next.max(until);
    }
}
