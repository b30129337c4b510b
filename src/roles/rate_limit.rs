//! A rate limit.

use std::time::Duration;

use tokio::time::Instant;

/// Limits calls per second, evenly spaced.
pub(super) struct RateLimit {
    interval: Duration,
    next: Instant,
}

impl RateLimit {
    /// Returns a limit of half of `per_second`: sweep and lookups have one limit each.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(2) / per_second.max(1), next: now }
    }

    /// Takes one call. Err: when to try again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if now < self.next {
            return Err(self.next);
        }
        self.next = now + self.interval;
        Ok(())
    }

    /// Allows no call before `until`.
    pub(super) fn pause(&mut self, until: Instant) {
        self.next = self.next.max(until);
    }
}
