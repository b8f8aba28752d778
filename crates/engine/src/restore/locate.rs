//! Finding targets in the WAL, so that what cannot be reached is refused before hours of replay.

use chrono::{DateTime, Utc};
use futures::StreamExt;
use pgformat::{Lsn, SegmentSize};
use repository::wal::WalFacts;

use super::Target;
use crate::Error;
use crate::wal::{Event, WalPath, What};

/// Headers that are read at once.
const HEADERS_IN_FLIGHT: usize = 16;
/// Segments without any transaction that are looked through for an earlier one.
const QUIET_SEGMENTS_MAX: u64 = 1024;

/// A target that is looked for in the WAL.
pub(super) struct Sought<'a> {
    pub(super) target: &'a Target,
    pub(super) exclusive: bool,
}

impl Sought<'_> {
    /// Whether the segment may hold it, by its header.
    fn may_be_in(&self, facts: &WalFacts) -> bool {
        match self.target {
            Target::Time(time) => {
                facts.transactions.as_ref().is_some_and(|all| self.is_past(all.latest, *time))
            }
            Target::Xid(xid) => {
                facts.transactions.as_ref().is_some_and(|all| all.xid_min <= *xid && *xid <= all.xid_max)
            }
            Target::Name(name) => facts.restore_points.iter().any(|point| point.name == *name),
            Target::Newest | Target::Lsn(_) | Target::Immediate => false,
        }
    }

    /// Whether recovery stops at this record: PostgreSQL's recoveryStopsBefore and recoveryStopsAfter.
    fn stops_at(&self, event: &Event) -> bool {
        match (self.target, &event.what) {
            (Target::Time(time), What::Transaction(_)) => self.is_past(event.time, *time),
            (Target::Xid(xid), What::Transaction(found)) => found == xid,
            (Target::Name(name), What::RestorePoint(found)) => found == name,
            _ => false,
        }
    }

    fn is_past(&self, found: DateTime<Utc>, target: DateTime<Utc>) -> bool {
        if self.exclusive { found >= target } else { found > target }
    }
}

/// The first record at which recovery stops, among those that end after `consistent` and before `end`.
pub(super) async fn find(
    wal: &WalPath<'_>,
    sought: &Sought<'_>,
    size: SegmentSize,
    consistent: Lsn,
    end: Lsn,
) -> Result<Option<Event>, Error> {
    let numbers = size.number(consistent)..=size.number(Lsn(end.0.saturating_sub(1)));
    let mut facts = futures::stream::iter(numbers)
        .map(|number| async move { Ok::<_, Error>((number, wal.facts(number).await?)) })
        .buffered(HEADERS_IN_FLIGHT);
    while let Some(found) = facts.next().await {
        let (number, facts) = found?;
        if !facts.is_some_and(|facts| sought.may_be_in(&facts)) {
            continue;
        }
        let events = wal.events(number).await?;
        let hit = events
            .into_iter()
            .find(|event| event.end > consistent && event.end <= end && sought.stops_at(event));
        if hit.is_some() {
            return Ok(hit);
        }
    }
    Ok(None)
}

/// The time of the latest transaction that ended at or before `lsn`, looking back to `start` and, where there was
/// none, some way beyond. `None` where none was found.
pub(super) async fn latest_before(
    wal: &WalPath<'_>,
    size: SegmentSize,
    start: Lsn,
    lsn: Lsn,
) -> Result<Option<DateTime<Utc>>, Error> {
    let last = size.number(Lsn(lsn.0.saturating_sub(1)));
    let events = wal.events(last).await?;
    let transactions =
        events.iter().filter(|event| event.end <= lsn && matches!(event.what, What::Transaction(_)));
    let mut latest = transactions.map(|event| event.time).max();
    let must = size.number(start);
    for number in (last.saturating_sub(QUIET_SEGMENTS_MAX).min(must)..last).rev() {
        if number < must && latest.is_some() {
            break;
        }
        match wal.facts(number).await? {
            Some(facts) => latest = latest.max(facts.transactions.map(|all| all.latest)),
            None if number < must => break,
            None => {}
        }
    }
    Ok(latest)
}
