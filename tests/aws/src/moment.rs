//! Formats of times in AWS. This module never reads the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{Date, Month, OffsetDateTime, Time};

/// Returns a time as in SigV4: `20260102T030405Z`.
pub(crate) fn basic(instant: SystemTime) -> String {
    let at = OffsetDateTime::from(instant);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// Returns a time as in responses and events: `2026-01-02T03:04:05Z`.
pub(crate) fn extended(instant: SystemTime) -> String {
    let at = OffsetDateTime::from(instant);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// Parses the format of [`basic`] and no other.
pub(crate) fn from_basic(text: &str) -> Option<SystemTime> {
    let digits = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let month = Month::try_from(u8::try_from(digits(4, 6)?).ok()?).ok()?;
    let day = u8::try_from(digits(6, 8)?).ok()?;
    let date = Date::from_calendar_date(digits(0, 4)?.into(), month, day).ok()?;
    let [hour, minute, second] = [(9, 11), (11, 13), (13, 15)].map(|(from, to)| digits(from, to));
    let clock = Time::from_hms(
        u8::try_from(hour?).ok()?,
        u8::try_from(minute?).ok()?,
        u8::try_from(second?).ok()?,
    )
    .ok()?;
    let instant = SystemTime::from(OffsetDateTime::new_utc(date, clock));
    (basic(instant) == text).then_some(instant)
}

/// Parses the format of [`extended`] and no other.
pub(crate) fn from_extended(text: &str) -> Option<SystemTime> {
    let instant = from_basic(&text.replace(['-', ':'], ""))?;
    (extended(instant) == text).then_some(instant)
}

/// Returns seconds since 1970, as in tokens; 0 for an earlier time.
pub(crate) fn seconds(instant: SystemTime) -> u64 {
    instant.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Rounds down to seconds, as AWS does.
pub(crate) fn whole_seconds(instant: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(instant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_formatted_as_it_is_parsed() {
        let instant = UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        assert_eq!(basic(instant), "20260102T030405Z");
        assert_eq!(extended(instant), "2026-01-02T03:04:05Z");
        assert_eq!(from_basic("20260102T030405Z"), Some(instant));
        for text in ["", "20260102", "20261302T030405Z", "20260102T030405", "2026-01-02T03:04:05Z"]
        {
            assert_eq!(from_basic(text), None, "{text:?}");
        }
        assert_eq!(from_extended("2026-01-02T03:04:05Z"), Some(instant));
        for text in ["", "20260102T030405Z", "2026-01-02", "2026-01-02T03:04:05+00:00"] {
            assert_eq!(from_extended(text), None, "{text:?}");
        }
    }
}
