//! When things are done.

use std::time::Duration;

use chrono_tz::Tz;

use super::{Error, Resolver, setting};
use crate::schedule::{Calendar, Window};

/// When things are done.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSettings {
    /// When backups are due; `None` when people or a CronJob take them.
    pub backups: Option<Calendar>,
    /// So much later, at most.
    pub jitter: Duration,
    /// The hours in which heavy work may begin.
    pub window: Option<Window>,
    /// Where all that is meant.
    pub zone: Tz,
    /// An older newest backup is a finding.
    pub maximum_age: Option<Duration>,
}

const CRON_EXPECTED: &str =
    "a cron line of minute, hour, day, month and day of the week, such as \"0 2 * * *\", or @daily";

impl Resolver<'_> {
    pub(super) fn schedule(&self) -> Result<ScheduleSettings, Error> {
        let zone =
            self.parse(&setting::SCHEDULE_TIMEZONE, "a time zone such as UTC or Europe/Berlin", |text| {
                text.parse::<Tz>().ok()
            })?;
        let zone = zone.unwrap_or(Tz::UTC);
        Ok(ScheduleSettings {
            backups: self.calendar(zone)?,
            jitter: self.duration(&setting::SCHEDULE_JITTER)?.unwrap_or(Duration::ZERO),
            window: self.parse(&setting::SCHEDULE_WINDOW, "hours such as 22:00-06:00", Window::parse)?,
            zone,
            maximum_age: self.duration(&setting::MAXIMUM_AGE)?,
        })
    }

    fn calendar(&self, zone: Tz) -> Result<Option<Calendar>, Error> {
        let Some(value) = self.sources.get(&setting::BACKUP_SCHEDULE)? else { return Ok(None) };
        let parsed = Calendar::parse(value.text.trim(), zone);
        parsed.map(Some).map_err(|problem| {
            let Error(sentence) = value.unexpected(CRON_EXPECTED);
            Error(format!("{sentence} ({problem})"))
        })
    }
}
