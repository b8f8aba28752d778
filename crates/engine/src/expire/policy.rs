//! What is asked to be kept.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;

/// What is asked to be kept. The default is everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Every moment since so long ago can be restored, as far as it ever could.
    pub window: Option<Duration>,
    /// So many of the newest backups, with all WAL behind the oldest of them.
    pub backups: Option<usize>,
    /// At least so many of the newest backups, however old they are.
    pub minimum: usize,
    /// Where only the last days need to be restored to any moment: backups of the window that are older keep the WAL alone that
    /// makes them consistent.
    pub wal_window: Option<Duration>,
    /// The newest backup of each of so many days, weeks, months and years that have one. They keep the WAL alone that makes
    /// them consistent.
    pub periods: Vec<(Every, usize)>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { window: None, backups: None, minimum: 1, wal_window: None, periods: Vec::new() }
    }
}

impl Policy {
    /// Whether nothing ever goes.
    pub fn keeps_everything(&self) -> bool {
        self.window.is_none() && self.backups.is_none()
    }
}

/// A period of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday, as ISO 8601 counts.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Every {
    /// The period that holds a moment, as people write it: `2026-11-23`, `2026-W48`, `2026-11`, `2026`.
    pub fn of(self, at: DateTime<Utc>) -> String {
        match self {
            Every::Day => at.format("%Y-%m-%d").to_string(),
            Every::Week => format!("{}-W{:02}", at.iso_week().year(), at.iso_week().week()),
            Every::Month => at.format("%Y-%m").to_string(),
            Every::Year => at.format("%Y").to_string(),
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Every::Day => "day",
            Every::Week => "week",
            Every::Month => "month",
            Every::Year => "year",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_those_of_the_calendar() {
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(Every::Day.of(at("2026-11-23T23:59:59Z")), "2026-11-23");
        assert_eq!(Every::Week.of(at("2026-11-23T00:00:00Z")), "2026-W48");
        assert_eq!(
            Every::Week.of(at("2027-01-03T00:00:00Z")),
            "2026-W53",
            "a Sunday of the old year's last week"
        );
        assert_eq!(Every::Month.of(at("2026-11-23T00:00:00Z")), "2026-11");
        assert_eq!(Every::Year.of(at("2026-11-23T00:00:00Z")), "2026");
    }
}
