//! What is asked to be kept.

use std::time::Duration;

use engine::expire::{Every, Policy};

use super::{Error, Resolver, setting};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A century.
const DAYS_MAX: usize = 36_525;
const BACKUPS_MAX: usize = 100_000;

impl Resolver<'_> {
    pub(super) fn retention(&self) -> Result<Policy, Error> {
        let days = |setting| Ok::<_, Error>(self.count(setting, DAYS_MAX)?.map(in_days));
        let periods = [
            (Every::Day, &setting::RETENTION_DAILY),
            (Every::Week, &setting::RETENTION_WEEKLY),
            (Every::Month, &setting::RETENTION_MONTHLY),
            (Every::Year, &setting::RETENTION_YEARLY),
        ];
        let mut policy = Policy {
            window: days(&setting::RETENTION_DAYS)?,
            backups: self.count(&setting::RETENTION_BACKUPS, BACKUPS_MAX)?,
            minimum: self.count(&setting::RETENTION_MINIMUM, BACKUPS_MAX)?.unwrap_or(1),
            wal_window: days(&setting::RETENTION_WAL_DAYS)?,
            periods: Vec::new(),
        };
        for (every, setting) in periods {
            policy.periods.extend(self.count(setting, BACKUPS_MAX)?.map(|number| (every, number)));
        }
        check(&policy)?;
        Ok(policy)
    }
}

fn in_days(days: usize) -> Duration {
    DAY * u32::try_from(days).unwrap_or(u32::MAX)
}

/// Settings that make no sense together.
fn check(policy: &Policy) -> Result<(), Error> {
    let asks_for_more = !policy.periods.is_empty() || policy.wal_window.is_some();
    if policy.keeps_everything() && asks_for_more {
        return Err(Error::new(
            "retention.wal_days, daily, weekly, monthly and yearly say what else is kept, or less of it: set \
             retention.days (BACKUP_RETENTION_DAYS) or retention.backups, too"
                .to_owned(),
        ));
    }
    match (policy.window, policy.wal_window) {
        (Some(window), Some(wal_window)) if wal_window > window => Err(Error::new(format!(
            "retention.wal_days is {}, and retention.days only {}: WAL alone restores nothing; make retention.days as long",
            wal_window.as_secs() / DAY.as_secs(),
            window.as_secs() / DAY.as_secs()
        ))),
        _ => Ok(()),
    }
}
