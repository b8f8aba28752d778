//! Cron lines, time zones, and the hours in which heavy work may run.

use chrono::{DateTime, NaiveTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Hours of a day, which may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: NaiveTime,
    to: NaiveTime,
}

/// When something is to happen.
///
/// In the hour that daylight saving time leaves out, a line with a fixed time comes at the first moment behind the gap, and one
/// with steps or wildcards leaves it out; in the hour that comes twice, a fixed time comes once. As cron itself has it.
#[derive(Debug, Clone)]
pub struct Calendar {
    text: String,
    cron: Cron,
    zone: Tz,
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Calendar) -> bool {
        (&self.text, self.zone) == (&other.text, other.zone)
    }
}

impl Calendar {
    /// Reads a line of five fields, or a word such as `@daily`. The error is a sentence about the line.
    pub fn parse(text: &str, zone: Tz) -> Result<Calendar, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| error.to_string())?;
        let calendar = Calendar { text: text.to_owned(), cron, zone };
        match calendar.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(calendar),
            None => Err("no day is ever like that".to_owned()),
        }
    }

    /// The last moment it named, up to now.
    pub fn last(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.cron.find_previous_occurrence(&now.with_timezone(&self.zone), true);
        Some(found.ok()?.to_utc())
    }

    /// The next moment it names, after now.
    pub fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.cron.find_next_occurrence(&now.with_timezone(&self.zone), false);
        Some(found.ok()?.to_utc())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Window {
    /// Reads `22:00-06:00`.
    pub fn parse(text: &str) -> Option<Window> {
        let (from, to) = text.split_once('-')?;
        let time = |text: &str| NaiveTime::parse_from_str(text.trim(), "%H:%M").ok();
        let window = Window { from: time(from)?, to: time(to)? };
        (window.from != window.to).then_some(window)
    }

    /// Whether a moment lies in it.
    pub fn holds(&self, at: DateTime<Utc>, zone: Tz) -> bool {
        let time = at.with_timezone(&zone).time();
        match self.from < self.to {
            true => self.from <= time && time < self.to,
            false => self.from <= time || time < self.to,
        }
    }

    /// When it next opens, after `at`.
    pub fn opens(&self, at: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        let local = at.with_timezone(&zone);
        let days = (0..3).filter_map(|days| local.date_naive().checked_add_days(chrono::Days::new(days)));
        let openings = days.filter_map(|day| {
            // Where daylight saving time leaves the moment out, the hour behind it is as good.
            let late = day.and_time(self.from).checked_add_signed(chrono::Duration::hours(1))?;
            let found = zone.from_local_datetime(&day.and_time(self.from)).earliest();
            found.or_else(|| zone.from_local_datetime(&late.with_second(0)?).earliest())
        });
        let next = openings.map(|opening| opening.to_utc()).find(|opening| *opening > at);
        next.unwrap_or(at + chrono::Duration::days(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn calendar(text: &str, zone: &str) -> Calendar {
        Calendar::parse(text, zone.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_moments_a_line_names() {
        let nightly = calendar("30 2 * * *", "UTC");
        assert_eq!(nightly.last(at("2026-05-02T02:29:59Z")), Some(at("2026-05-01T02:30:00Z")));
        assert_eq!(nightly.last(at("2026-05-02T02:30:00Z")), Some(at("2026-05-02T02:30:00Z")), "now counts");
        assert_eq!(nightly.next(at("2026-05-02T02:30:00Z")), Some(at("2026-05-03T02:30:00Z")));
        // PostDock's own, which its authors surely meant otherwise.
        let postdock = calendar("*/30 */5 * * *", "UTC");
        assert_eq!(postdock.next(at("2026-05-02T00:30:00Z")), Some(at("2026-05-02T05:00:00Z")));
        assert_eq!(
            calendar("@daily", "UTC").next(at("2026-05-02T02:30:00Z")),
            Some(at("2026-05-03T00:00:00Z"))
        );
    }

    #[test]
    fn a_time_zone_and_its_gaps() {
        let berlin = calendar("30 2 * * *", "Europe/Berlin");
        assert_eq!(berlin.next(at("2026-01-10T12:00:00Z")), Some(at("2026-01-11T01:30:00Z")));
        assert_eq!(berlin.next(at("2026-07-10T12:00:00Z")), Some(at("2026-07-11T00:30:00Z")));
        // On 2026-03-29 there is no 02:30; on 2026-10-25 there are two.
        let in_the_gap = berlin.next(at("2026-03-28T12:00:00Z")).unwrap();
        assert_eq!(in_the_gap, at("2026-03-29T01:00:00Z"), "the first moment behind the gap");
        let first = berlin.next(at("2026-10-24T12:00:00Z")).unwrap();
        let second = berlin.next(first).unwrap();
        assert!(second - first > chrono::Duration::hours(20), "once: {first} and {second}");
    }

    #[test]
    fn the_29th_of_february() {
        let leap = calendar("0 0 29 2 *", "UTC");
        assert_eq!(leap.next(at("2026-05-02T00:00:00Z")), Some(at("2028-02-29T00:00:00Z")));
    }

    #[test]
    fn lines_that_cannot_be() {
        for text in ["", "daily", "60 * * * *", "* * * *", "0 0 30 2 *", "* * * * * *", "0 0 * * * 2027"] {
            assert!(Calendar::parse(text, Tz::UTC).is_err(), "{text}");
        }
    }

    #[test]
    fn windows() {
        let night = Window::parse("22:00-06:00").unwrap();
        let noon = Window::parse("11:30 - 13:00").unwrap();
        for (window, time, holds) in [
            (night, "2026-05-02T23:00:00Z", true),
            (night, "2026-05-02T05:59:00Z", true),
            (night, "2026-05-02T06:00:00Z", false),
            (noon, "2026-05-02T12:00:00Z", true),
            (noon, "2026-05-02T11:00:00Z", false),
        ] {
            assert_eq!(window.holds(at(time), Tz::UTC), holds, "{time}");
        }
        assert_eq!(night.opens(at("2026-05-02T12:00:00Z"), Tz::UTC), at("2026-05-02T22:00:00Z"));
        assert_eq!(noon.opens(at("2026-05-02T13:00:00Z"), Tz::UTC), at("2026-05-03T11:30:00Z"));
        let berlin: Tz = "Europe/Berlin".parse().unwrap();
        assert_eq!(noon.opens(at("2026-07-02T13:00:00Z"), berlin), at("2026-07-03T09:30:00Z"));
        for text in ["", "22:00", "22:00-22:00", "25:00-06:00", "a-b"] {
            assert_eq!(Window::parse(text), None, "{text}");
        }
    }
}
