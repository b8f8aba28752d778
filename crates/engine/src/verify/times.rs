//! From when to when recovery cannot go, as far as the WAL beside the damage tells.

use chrono::{DateTime, Utc};
use pgformat::{Lsn, TimelineId};
use repository::{Cluster, Record};

use super::LostTargets;
use super::cost::Lost;
use crate::Error;
use crate::catalog::Catalog;
use crate::wal::WalPath;

/// Segments without a transaction that are looked through for one.
const QUIET_SEGMENTS_MAX: usize = 64;

/// The same ranges with their times.
pub(super) async fn of(
    cluster: &Cluster,
    catalog: &Catalog,
    lost: Vec<Lost>,
) -> Result<Vec<LostTargets>, Error> {
    let mut timed = Vec::with_capacity(lost.len());
    for Lost { timeline, from, to, until } in lost {
        let finished = |record: &&Record| Some(&record.id) == until.as_ref();
        let next = catalog.backups.records.iter().find(finished).map(|record| record.finished_at);
        timed.push(LostTargets {
            timeline,
            from_lsn: from,
            to_lsn: to,
            from_time: last_transaction(cluster, catalog, timeline, from).await?,
            to_time: match next {
                Some(next) => Some(next),
                None => last_transaction(cluster, catalog, timeline, to).await?,
            },
        });
    }
    Ok(timed)
}

/// When the last transaction ended of those in the segments before `lsn`, on the way to this timeline.
async fn last_transaction(
    cluster: &Cluster,
    catalog: &Catalog,
    timeline: TimelineId,
    lsn: Lsn,
) -> Result<Option<DateTime<Utc>>, Error> {
    let size = catalog.segment_size();
    let path = catalog.path(timeline).unwrap_or_else(|| vec![crate::catalog::Step { timeline, end: None }]);
    let wal = WalPath::new(cluster, catalog, &path)?;
    // At the end of the WAL, what there is of its segment is before it.
    let whole = match catalog.coverage.timelines.get(&timeline).and_then(|covered| covered.bounds()) {
        Some(bounds) if bounds.to == lsn => size.number(size.ceil(lsn)),
        _ => size.number(lsn),
    };
    for number in (0..whole).rev().take(QUIET_SEGMENTS_MAX) {
        let facts = match wal.facts(number).await {
            // Damage is another finding's; here it says nothing.
            Err(Error::Repository(error)) if error.is_damage() => None,
            Err(Error::Repository(repository::Error::UnknownFormat { .. })) => None,
            facts => facts?,
        };
        if let Some(transactions) = facts.and_then(|facts| facts.transactions) {
            return Ok(Some(transactions.latest));
        }
    }
    Ok(None)
}
