//! When archived WAL was written, as far as the transactions in it tell.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use pgformat::{Lsn, SegmentSize, TimelineId};
use repository::Cluster;
use repository::wal::{Range, Transactions};
use serde::Serialize;

use crate::Error;
use crate::catalog::Catalog;
use crate::wal::WalPath;

/// Segments that are looked at from either end of a range for a transaction.
const SEGMENTS_MAX: u64 = 16;

/// WAL of a timeline without a gap, and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub from: Lsn,
    /// First byte after it.
    pub to: Lsn,
    /// The end of about its first transaction; null where there was none for long, or no identity opens it.
    pub earliest: Option<DateTime<Utc>>,
    /// The end of its last transaction.
    pub latest: Option<DateTime<Utc>>,
}

/// When each range of the archived WAL was written, by timeline. Ranges that were `known` before are not looked at again. Reads headers
/// only.
pub async fn written(cluster: &Cluster, catalog: &Catalog, known: &[Written]) -> Result<Vec<Written>, Error> {
    let known: BTreeMap<_, _> = known.iter().map(|one| ((one.timeline, one.from, one.to), *one)).collect();
    let mut written = Vec::new();
    for (timeline, covered) in &catalog.coverage.timelines {
        let Some(path) = catalog.path(*timeline) else { continue };
        let wal = WalPath::new(cluster, catalog, &path)?;
        for range in &covered.ranges {
            if let Some(one) = known.get(&(*timeline, range.from, range.to)) {
                written.push(*one);
                continue;
            }
            let (upwards, downwards) = ends(*range, catalog.segment_size());
            let earliest = first(&wal, upwards).await?.map(|found| found.earliest);
            let latest = first(&wal, downwards).await?.map(|found| found.latest);
            written.push(Written { timeline: *timeline, from: range.from, to: range.to, earliest, latest });
        }
    }
    Ok(written)
}

/// The numbers of the segments to look at from the start on, and from the end back.
fn ends(range: Range, size: SegmentSize) -> (Vec<u64>, Vec<u64>) {
    let (first, last) = (size.number(range.from), size.number(Lsn(range.to.0.saturating_sub(1))));
    let most = usize::try_from(SEGMENTS_MAX).unwrap_or(1);
    ((first..=last).take(most).collect(), (first..=last).rev().take(most).collect())
}

/// The transactions of the first of these segments that has any. What cannot be read tells nothing: that is for `verify` to find.
async fn first(wal: &WalPath<'_>, numbers: Vec<u64>) -> Result<Option<Transactions>, Error> {
    for number in numbers {
        let facts = match wal.facts(number).await {
            Err(Error::Repository(
                repository::Error::NoIdentity { .. } | repository::Error::WrongIdentity { .. },
            )) => return Ok(None),
            Err(Error::Repository(error)) if error.is_damage() => None,
            facts => facts?,
        };
        if let Some(found) = facts.and_then(|facts| facts.transactions) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_segments_are_looked_at_from_either_end() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let range = |from: u64, to: u64| Range { from: Lsn(from << 20), to: Lsn(to << 20) };
        assert_eq!(ends(range(3, 5), size), (vec![3, 4], vec![4, 3]));
        let (up, down) = ends(range(0, 1000), size);
        assert_eq!((up.first(), up.last(), up.len()), (Some(&0), Some(&15), 16));
        assert_eq!((down.first(), down.last()), (Some(&999), Some(&984)));
        let within = Range { from: Lsn(5 << 20), to: Lsn((5 << 20) + 100) };
        assert_eq!(ends(within, size), (vec![5], vec![5]));
    }
}
