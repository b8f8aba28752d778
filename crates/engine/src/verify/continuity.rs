//! Whether all WAL is there that should be.

use pgformat::SegmentName;
use repository::Cluster;
use repository::wal::{Range, WalObject};

use super::notes::{About, Note};
use crate::Error;
use crate::catalog::Catalog;

/// Whether all WAL that backups need is there, and no other WAL is missing without a word.
pub(super) fn look(cluster: &Cluster, catalog: &Catalog) -> Result<Vec<Note>, Error> {
    let coverage = &catalog.coverage;
    let mut found = Vec::new();
    for record in &catalog.backups.records {
        let covered = coverage.timelines.get(&record.timeline);
        let end = covered.and_then(|covered| covered.end_from(record.start_lsn));
        if end.is_none_or(|end| end < record.stop_lsn) {
            let what = format!(
                "WAL of timeline {} from {} to {} is not all there",
                record.timeline, record.start_lsn, record.stop_lsn
            );
            let about = About::Backups(vec![record.id.clone()]);
            found.push(Note { key: cluster.record_key(&record.id)?, what, about });
        }
    }
    for (timeline, covered) in &coverage.timelines {
        for gap in covered.unexplained_gaps() {
            let size = catalog.segment_size();
            let name = SegmentName::containing(*timeline, gap.from, size);
            let what = format!("WAL is missing from {} to {}, and no hole was recorded", gap.from, gap.to);
            found.push(Note {
                key: cluster.segment_key(name, size)?,
                what,
                about: About::Wal(*timeline, gap),
            });
        }
        let known = catalog.histories.contains_key(timeline)
            || catalog.unreadable_histories.iter().any(|(unreadable, _)| unreadable == timeline);
        if !known {
            found.push(Note {
                key: cluster.history_key(*timeline)?,
                what: "it is missing, so nothing on that timeline can be reached".to_owned(),
                about: About::History(*timeline),
            });
        }
    }
    Ok(found)
}

/// Of WAL objects that went away while we looked: those that nobody expired and whose WAL no other object holds. Gaps are
/// found by [`look`], so what is left to find here lay at the end of its timeline.
pub(super) fn vanished(
    cluster: &Cluster,
    catalog: &Catalog,
    objects: &[WalObject],
) -> Result<Vec<Note>, Error> {
    let size = catalog.segment_size();
    let mut found = Vec::new();
    for object in objects {
        let timeline = object.name.timeline;
        let bounds = catalog.coverage.timelines.get(&timeline).and_then(|covered| covered.bounds());
        if let Some(bounds) = bounds
            && bounds.from <= object.range.from
            && bounds.to < object.range.to
        {
            let range = Range { from: bounds.to.max(object.range.from), to: object.range.to };
            found.push(Note {
                key: cluster.wal_key(object, size)?,
                what: "it was there a moment ago and is missing".to_owned(),
                about: About::Tail(timeline, range),
            });
        }
    }
    Ok(found)
}
