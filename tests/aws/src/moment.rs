//! How AWS writes an instant. The clock is never read here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{Date, Month, OffsetDateTime, Time};

/// `20260102T030405Z`, as SigV4 writes it.
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

/// `2026-01-02T03:04:05Z`, as answers and events write it.
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

/// The reverse of [`basic`], which takes nothing else.
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

/// Seconds since 1970, as tokens count; 0 for what lies before.
pub(crate) fn seconds(instant: SystemTime) -> u64 {
    instant.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// AWS hands out whole seconds.
pub(crate) fn whole_seconds(instant: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(instant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_it_is_read() {
        let instant = UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        assert_eq!(basic(instant), "20260102T030405Z");
        assert_eq!(extended(instant), "2026-01-02T03:04:05Z");
        assert_eq!(from_basic("20260102T030405Z"), Some(instant));
        for text in ["", "20260102", "20261302T030405Z", "20260102T030405", "2026-01-02T03:04:05Z"]
        {
            assert_eq!(from_basic(text), None, "{text:?}");
        }
    }
}
