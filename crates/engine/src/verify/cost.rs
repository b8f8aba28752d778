//! What a finding costs: which backups, and which points of recovery. Pure.

use pgformat::{Lsn, TimelineId};
use repository::wal::Range;
use repository::{BackupId, Record};

use super::notes::About;
use crate::catalog::{Catalog, Step};

/// What something found costs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Backups that cannot be restored.
    pub(super) backups: Vec<BackupId>,
    /// What recovery cannot reach.
    pub(super) lost: Vec<Lost>,
}

/// A range of a timeline that recovery cannot reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) timeline: TimelineId,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    /// The backup that leads to `to`; `None` where that is the end of the WAL.
    pub(super) until: Option<BackupId>,
}

/// What something found costs.
pub(super) fn of(catalog: &Catalog, about: &About) -> Cost {
    match about {
        About::Nothing => Cost::default(),
        About::Backups(backups) => Cost { backups: backups.clone(), lost: without_backups(catalog, backups) },
        About::Wal(timeline, range) => without_wal(catalog, *timeline, *range),
        About::Tail(timeline, Range { from, to }) => {
            let lost = Lost { timeline: *timeline, from: *from, to: *to, until: None };
            Cost { backups: Vec::new(), lost: vec![lost] }
        }
        About::History(timeline) => without_history(catalog, *timeline),
    }
}

/// A path through timelines, and the backups on it in the order in which recovery along it passes them.
struct Way<'a> {
    path: Vec<Step>,
    backups: Vec<(usize, &'a Record)>,
}

impl<'a> Way<'a> {
    /// The way to a timeline; `None` where its history is not known.
    fn to(catalog: &'a Catalog, timeline: TimelineId) -> Option<Way<'a>> {
        let path = catalog.path(timeline)?;
        let place = |record: &'a Record| {
            let at = path.iter().position(|step| step.timeline == record.timeline)?;
            path[at].end.is_none_or(|end| record.stop_lsn <= end).then_some((at, record))
        };
        let mut backups: Vec<_> = catalog.backups.records.iter().filter_map(place).collect();
        backups.sort_by_key(|(at, record)| (*at, record.start_lsn));
        Some(Way { path, backups })
    }
}

/// Where WAL is missing or damaged, recovery from every earlier backup ends, until a later backup leads on behind it.
fn without_wal(catalog: &Catalog, timeline: TimelineId, range: Range) -> Cost {
    let size = catalog.segment_size();
    let needs = |record: &&Record| {
        record.timeline == timeline && size.floor(record.start_lsn) < range.to && range.from < record.stop_lsn
    };
    let backups = catalog.backups.records.iter().filter(needs).map(|record| record.id.clone()).collect();
    let timelines = catalog.coverage.timelines.keys();
    let lost = timelines.filter_map(|goal| lost_on(catalog, *goal, timeline, range)).collect();
    Cost { backups, lost }
}

/// What cannot be reached on the timeline `goal` without this WAL of `timeline`.
fn lost_on(catalog: &Catalog, goal: TimelineId, timeline: TimelineId, range: Range) -> Option<Lost> {
    let size = catalog.segment_size();
    let way = Way::to(catalog, goal)?;
    let at = way.path.iter().position(|step| step.timeline == timeline)?;
    // From the segment of the fork on, the next timeline's copy is read.
    if way.path[at].end.is_some_and(|fork| size.floor(fork) <= range.from) {
        return None;
    }
    let is_behind = |(place, record): &(usize, &Record)| {
        *place > at || *place == at && size.floor(record.start_lsn) >= range.to
    };
    let behind = way.backups.iter().position(is_behind);
    if way.backups.is_empty() || behind == Some(0) {
        // No backup leads here anyway.
        return None;
    }
    let next = behind.map(|position| way.backups[position]);
    let last = way.path.len() - 1;
    let from = match last == at {
        true => range.from,
        // Another timeline: nothing is lost of it if a backup behind the damage leads there.
        false if next.is_some_and(|(place, _)| place < last) => return None,
        false => way.path[last - 1].end?,
    };
    until(catalog, goal, from, next.map(|(_, record)| record))
}

fn until(catalog: &Catalog, timeline: TimelineId, from: Lsn, next: Option<&Record>) -> Option<Lost> {
    let end = catalog.coverage.timelines.get(&timeline)?.bounds()?.to;
    let to = next.map_or(end, |record| record.stop_lsn);
    let until = next.map(|record| record.id.clone());
    (from < to).then_some(Lost { timeline, from, to, until })
}

/// Behind a backup that cannot be restored lies what no earlier one leads to, until the next one.
fn without_backups(catalog: &Catalog, backups: &[BackupId]) -> Vec<Lost> {
    let mut lost: Vec<Lost> = Vec::new();
    for timeline in catalog.coverage.timelines.keys() {
        let Some(way) = Way::to(catalog, *timeline) else { continue };
        for (at, record) in &way.backups {
            if !backups.contains(&record.id) || record.timeline != *timeline {
                continue;
            }
            let good = || way.backups.iter().filter(|(_, other)| !backups.contains(&other.id));
            let leads_here = |(_, other): &&(usize, &Record)| {
                let reach = catalog.reach(&way.path, other.timeline, other.start_lsn);
                other.start_lsn < record.start_lsn && reach.complete && reach.lsn >= record.stop_lsn
            };
            if good().any(|other| leads_here(&other)) {
                continue;
            }
            let next = good().find(|(place, other)| (*place, other.start_lsn) > (*at, record.start_lsn));
            let next = next.map(|(_, record)| *record);
            // Two lost backups in a row lose one range.
            let range = until(catalog, *timeline, record.stop_lsn, next);
            lost.extend(range.filter(|range| lost.last().is_none_or(|last| last.to != range.to)));
        }
    }
    lost
}

/// Without its history a timeline cannot be the target. What a later timeline has of it is reached along that one's history.
fn without_history(catalog: &Catalog, timeline: TimelineId) -> Cost {
    let end_of = |record: &Record| {
        let later = catalog.histories.values().filter(|history| history.timeline > timeline);
        later.filter_map(|history| history.fork_from(timeline)).any(|fork| record.stop_lsn <= fork)
    };
    let own = catalog.backups.records.iter().filter(|record| record.timeline == timeline);
    let backups = own.filter(|record| !end_of(record)).map(|record| record.id.clone()).collect();
    let bounds = catalog.coverage.timelines.get(&timeline).and_then(|covered| covered.bounds());
    let lost = bounds.map(|bounds| Lost { timeline, from: bounds.from, to: bounds.to, until: None });
    Cost { backups, lost: lost.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;
    use pgformat::History;
    use repository::Identity;
    use repository::backup::Backups;
    use repository::wal::{Coverage, TimelineCoverage};

    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Positions are in segments.
    fn at(segments: u64) -> Lsn {
        Lsn(segments * SEGMENT)
    }

    /// A backup that takes a tenth of a segment.
    fn backup(timeline: u32, segments: u64) -> Record {
        let at = DateTime::from_timestamp(
            1_700_000_000 + i64::from(timeline) * 10_000 + i64::try_from(segments).unwrap(),
            0,
        )
        .unwrap();
        let (start, stop) = (segments * SEGMENT + 100, segments * SEGMENT + SEGMENT / 10);
        crate::testing::record(at, tli(timeline), Lsn(start), Lsn(stop))
    }

    /// Timeline 1 has WAL of the segments 1 to 20; timeline 2 forks off in the middle of segment 10 and has them up to 30.
    fn catalog(backups: &[(u32, u64)]) -> Catalog {
        let covered = |timeline, from, to| TimelineCoverage {
            timeline: tli(timeline),
            ranges: vec![Range { from: at(from), to: at(to) }],
            holes: vec![],
            expired: vec![],
            segments: 0,
            pieces: 0,
            stored_bytes: 0,
            superseded: vec![],
        };
        let timelines = [(tli(1), covered(1, 1, 20)), (tli(2), covered(2, 10, 30))];
        let fork = Lsn(10 * SEGMENT + SEGMENT / 2);
        let second = History::parse(tli(2), format!("1\t{fork}\tx\n").as_bytes()).unwrap();
        Catalog {
            identity: Identity {
                system_identifier: 1,
                postgresql_major: 15,
                segment_size: SEGMENT,
                block_size: 8192,
                created_at: DateTime::UNIX_EPOCH,
            },
            backups: Backups {
                records: backups.iter().map(|(timeline, at)| backup(*timeline, *at)).collect(),
                unreadable: vec![],
            },
            coverage: Coverage { timelines: timelines.into() },
            histories: BTreeMap::from([(tli(1), History::first()), (tli(2), second)]),
            unacknowledged: vec![],
            unreadable_histories: vec![],
        }
    }

    /// Which backups, and which ranges (timeline, from, to in tenths of a segment).
    fn shown(catalog: &Catalog, about: &About) -> (Vec<String>, Vec<(u32, u64, u64)>) {
        let cost = of(catalog, about);
        let name = |id: &BackupId| {
            let record = catalog.backups.records.iter().find(|record| record.id == *id).unwrap();
            format!("{}@{}", record.timeline, record.start_lsn.0 / SEGMENT)
        };
        let tenths = |lsn: Lsn| (lsn.0 * 10).div_ceil(SEGMENT);
        let range = |lost: &Lost| (lost.timeline.get(), tenths(lost.from), tenths(lost.to));
        (cost.backups.iter().map(name).collect(), cost.lost.iter().map(range).collect())
    }

    fn segment(timeline: u32, number: u64) -> About {
        About::Wal(tli(timeline), Range { from: at(number), to: at(number + 1) })
    }

    fn lost_backups(catalog: &Catalog, numbers: &[usize]) -> About {
        About::Backups(numbers.iter().map(|number| catalog.backups.records[*number].id.clone()).collect())
    }

    #[test]
    fn damaged_wal_loses_what_follows_until_the_next_backup() {
        let catalog = catalog(&[(1, 2), (1, 6), (2, 20)]);
        assert_eq!(shown(&catalog, &segment(1, 3)), (vec![], vec![(1, 30, 61)]), "between two backups");
        assert_eq!(shown(&catalog, &segment(1, 2)), (vec!["1@2".into()], vec![(1, 20, 61)]), "within one");
        assert_eq!(
            shown(&catalog, &segment(1, 8)),
            (vec![], vec![(1, 80, 200), (2, 105, 201)]),
            "before the fork, so the next timeline is cut off too"
        );
        assert_eq!(shown(&catalog, &segment(1, 15)), (vec![], vec![(1, 150, 200)]), "behind the fork");
        assert_eq!(shown(&catalog, &segment(2, 10)), (vec![], vec![(2, 100, 201)]), "the fork's own segment");
        assert_eq!(shown(&catalog, &segment(2, 25)), (vec![], vec![(2, 250, 300)]), "to the end");
    }

    #[test]
    fn wal_that_no_backup_needs_costs_nothing() {
        let catalog = catalog(&[(1, 6)]);
        assert_eq!(shown(&catalog, &segment(1, 3)), (vec![], vec![]));
        assert_eq!(shown(&catalog, &About::Nothing), (vec![], vec![]));
    }

    #[test]
    fn a_lost_backup_costs_points_only_where_no_earlier_one_leads() {
        let catalog = catalog(&[(1, 2), (1, 6), (2, 20)]);
        let lost = |numbers: &[usize]| shown(&catalog, &lost_backups(&catalog, numbers)).1;
        assert_eq!(lost(&[0]), [(1, 21, 61)], "the oldest");
        assert_eq!(lost(&[1]), []);
        assert_eq!(lost(&[2]), [], "the one before the fork leads here");
        assert_eq!(lost(&[0, 1]), [(1, 21, 200)], "all of a timeline");
        assert_eq!(lost(&[0, 1, 2]), [(1, 21, 200), (2, 201, 300)], "all");
    }

    #[test]
    fn without_a_history_its_timeline_cannot_be_reached() {
        let mut catalog = catalog(&[(1, 2), (2, 20)]);
        let expected = (vec!["2@20".to_owned()], vec![(2, 100, 300)]);
        assert_eq!(shown(&catalog, &About::History(tli(2))), expected);
        catalog.histories.remove(&tli(2));
        assert_eq!(shown(&catalog, &About::History(tli(2))), expected);
    }
}
