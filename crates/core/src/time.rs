//! Points in time as milliseconds since the Unix epoch, in UTC.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Milliseconds since 1970-01-01T00:00:00Z. Stored as a number, shown as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The point `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    /// This point moved forward, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// This point moved back, saturating.
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// RFC 3339 in UTC, in whole seconds: what is less is cut off.
    pub fn rfc3339_seconds(self) -> String {
        let text = self.to_string();
        match text.split_once('.') {
            Some((seconds, _)) => format!("{seconds}Z"),
            None => text,
        }
    }

    /// The calendar day in UTC, as `YYYY-MM-DD`.
    pub fn day(self) -> String {
        self.to_string()[..10].to_owned()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339, such as `2026-11-20T09:30:00Z`.
    fn from_str(text: &str) -> Result<Self> {
        text.parse::<jiff::Timestamp>()
            .map(|timestamp| Self(timestamp.as_millisecond()))
            .map_err(|error| {
                Error::invalid(format!("\"{text}\" is not a time such as 2026-11-20T09:30:00Z"))
                    .with_source(error)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_both_ways_and_stops_at_its_ends() {
        let time = Timestamp::from_millis(5000);
        assert_eq!(time.as_millis(), 5000);
        let second = Duration::from_secs(1);
        assert_eq!(time.plus(second), Timestamp::from_millis(6000));
        assert_eq!(time.minus(second), Timestamp::from_millis(4000));
        assert_eq!(time.since(Timestamp::from_millis(4000)), second);
        assert_eq!(time.since(Timestamp::from_millis(6000)), Duration::ZERO);
        let (first, last) = (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX));
        assert_eq!(time.plus(Duration::MAX), last);
        assert_eq!(first.minus(second), first);
        assert_eq!(
            Timestamp::default().minus(Duration::MAX),
            Timestamp::from_millis(-i64::MAX)
        );
    }

    #[test]
    fn round_trips_as_rfc_3339() {
        let time: Timestamp = "2026-11-20T09:30:00.250Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-20T09:30:00.250Z");
        assert_eq!(time.rfc3339_seconds(), "2026-11-20T09:30:00Z");
        assert_eq!(time.day(), "2026-11-20");
        assert!(
            "yesterday"
                .parse::<Timestamp>()
                .unwrap_err()
                .to_string()
                .contains("yesterday")
        );
    }
}
