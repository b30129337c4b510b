//! A limit for log lines whose number a stranger chooses.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Admits at most [`PER_SECOND`] lines in a second, so that they displace no other lines.
#[derive(Debug)]
pub struct LogLimit(Mutex<Second>);

#[derive(Debug)]
struct Second {
    began: Instant,
    written: u32,
    /// Lines that were left out since the last admitted one.
    omitted: u64,
}

impl LogLimit {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Second { began: now, written: 0, omitted: 0 }))
    }

    /// Returns how many lines were left out since the last one, if the next line may be written.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(second.began) >= Duration::from_secs(1) {
            (second.began, second.written) = (now, 0);
        }
        if second.written == PER_SECOND {
            second.omitted += 1;
            return None;
        }
        second.written += 1;
        Some(std::mem::take(&mut second.omitted))
    }
}

/// Maximum number of lines in a second. Enough to see what arrives; a line has at most 400 bytes,
/// so a day has at most 350 MB of them.
const PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_limit_are_counted_and_left_out() {
        let start = Instant::now();
        let limit = LogLimit::new(start);
        let admitted = |millis| limit.admit(start + Duration::from_millis(millis));
        for n in 0..10 {
            assert_eq!(admitted(n), Some(0), "{n}");
        }
        assert_eq!((admitted(10), admitted(999)), (None, None));
        assert_eq!((admitted(1000), admitted(1000)), (Some(2), Some(0)));
        for _ in 0..8 {
            assert_eq!(admitted(1999), Some(0));
        }
        assert_eq!((admitted(1999), admitted(5000)), (None, Some(1)));
    }
}
