//! When things are done.

use std::time::Duration;

use chrono_tz::Tz;

use super::{Error, Resolver, Setting, setting};
use crate::schedule::{Calendar, Window};

/// When things are done.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSettings {
    /// When backups are due; `None` when people or a CronJob take them.
    pub backups: Option<Calendar>,
    /// When the repository is verified.
    pub verification: Option<Calendar>,
    /// How many percent of what was read before a verification reads again.
    pub verification_share: u8,
    /// When what has expired is removed; `None` for every hour.
    pub expiry: Option<Calendar>,
    /// So much later, at most.
    pub jitter: Duration,
    /// The hours in which heavy work may begin.
    pub window: Option<Window>,
    /// Where all that is meant.
    pub zone: Tz,
    /// An older newest backup is a finding.
    pub maximum_age: Option<Duration>,
}

/// In a nightly run, everything within ten days, for a tenth of the reading.
const VERIFICATION_SHARE_DEFAULT: u8 = 10;
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
            backups: self.calendar(&setting::BACKUP_SCHEDULE, zone)?,
            verification: self.calendar(&setting::VERIFY_SCHEDULE, zone)?,
            verification_share: self
                .parse(&setting::VERIFY_SHARE, "a number of percent from 0 to 100", |text| {
                    text.parse().ok().filter(|share| *share <= 100)
                })?
                .unwrap_or(VERIFICATION_SHARE_DEFAULT),
            expiry: self.calendar(&setting::RETENTION_SCHEDULE, zone)?,
            jitter: self.duration(&setting::SCHEDULE_JITTER)?.unwrap_or(Duration::ZERO),
            window: self.parse(&setting::SCHEDULE_WINDOW, "hours such as 22:00-06:00", Window::parse)?,
            zone,
            maximum_age: self.duration(&setting::MAXIMUM_AGE)?,
        })
    }

    fn calendar(&self, setting: &Setting, zone: Tz) -> Result<Option<Calendar>, Error> {
        let Some(value) = self.sources.get(setting)? else { return Ok(None) };
        let parsed = Calendar::parse(value.text.trim(), zone);
        parsed.map(Some).map_err(|problem| {
            let Error(sentence) = value.unexpected(CRON_EXPECTED);
            Error(format!("{sentence} ({problem})"))
        })
    }
}
