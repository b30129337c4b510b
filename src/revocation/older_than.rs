use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::whole_seconds;

/// A time in the past, or a duration before now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OlderThan {
    Ago(SignedDuration),
    Time(Timestamp),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotATime {
    #[error("it is in the future, so new sessions would be denied, too; set a time up to now")]
    Future,
    #[error(
        "expected a time of RFC 3339, such as 2026-11-24T08:00:00Z, or a duration before now, such as 2h"
    )]
    Malformed,
    #[error("it is before 1970")]
    TooEarly,
}

impl OlderThan {
    /// Returns the time, in whole seconds.
    pub fn at(self, now: Timestamp) -> Result<Timestamp, NotATime> {
        let time = match self {
            Self::Ago(ago) => now.checked_sub(ago).map_err(|_| NotATime::TooEarly)?,
            Self::Time(time) => time,
        };
        match whole_seconds(time) {
            time if time < Timestamp::UNIX_EPOCH => Err(NotATime::TooEarly),
            time if time > whole_seconds(now) => Err(NotATime::Future),
            time => Ok(time),
        }
    }
}

impl FromStr for OlderThan {
    type Err = NotATime;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let duration = || s.parse().map(Self::Ago).map_err(|_| NotATime::Malformed);
        s.parse().map(Self::Time).or_else(|_| duration())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_or_a_duration_is_in_the_past() {
        let now: Timestamp = "2026-11-24T08:00:00.5Z".parse().unwrap();
        let at =
            |text: &str| text.parse::<OlderThan>()?.at(now).map(|time: Timestamp| time.to_string());
        let cases = [
            ("2026-11-24T07:00:00Z", Ok("2026-11-24T07:00:00Z")),
            ("2026-11-24T09:00:00+02:00", Ok("2026-11-24T07:00:00Z")),
            ("2026-11-24T07:00:00.1Z", Ok("2026-11-24T07:00:01Z")),
            ("2h", Ok("2026-11-24T06:00:01Z")),
            ("90m", Ok("2026-11-24T06:30:01Z")),
            ("0s", Ok("2026-11-24T08:00:01Z")),
            ("2026-11-24T08:00:02Z", Err(NotATime::Future)),
            ("-2h", Err(NotATime::Future)),
            ("1969-12-31T23:59:59Z", Err(NotATime::TooEarly)),
            ("900000h", Err(NotATime::TooEarly)),
            ("2026-11-24", Err(NotATime::Malformed)),
            ("yesterday", Err(NotATime::Malformed)),
            ("2", Err(NotATime::Malformed)),
            ("", Err(NotATime::Malformed)),
        ];
        for (text, want) in cases {
            assert_eq!(at(text), want.map(str::to_owned), "{text:?}");
        }
    }
}
