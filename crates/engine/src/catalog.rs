//! What the repository has of a cluster, read once so that plans can be pure.

use std::collections::BTreeMap;

use pgformat::{History, Lsn, SegmentSize, TimelineId};
use repository::backup::Backups;
use repository::wal::{Coverage, Range};
use repository::{Cluster, Identity, Record};

use crate::Error;

/// What the repository has of a cluster.
#[derive(Debug)]
pub struct Catalog {
    /// Which cluster it is.
    pub identity: Identity,
    /// The backups.
    pub backups: Backups,
    /// The WAL.
    pub coverage: Coverage,
    /// The history of each timeline; timeline 1 is always among them.
    pub histories: BTreeMap<TimelineId, History>,
    /// WAL behind a gap that a crash left, by timeline: written side by side with WAL that never got there. Nobody was told of it, and
    /// it is not in `coverage`.
    pub unacknowledged: Vec<(TimelineId, Range)>,
    /// History files that cannot be read, each with what is wrong.
    pub unreadable_histories: Vec<(TimelineId, String)>,
}

/// A stretch of a path through timelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where the next timeline forks off; `None` for the last.
    pub end: Option<Lsn>,
}

impl Catalog {
    /// Reads everything but the bytes of backups and WAL.
    pub async fn load(cluster: &Cluster) -> Result<Catalog, Error> {
        let identity = cluster.require_identity().await?;
        // A backup is published once its WAL is there, so WAL that is listed after it has all it needs.
        let backups = cluster.backups().await?;
        let coverage = cluster.coverage(identity.segment_size()).await?;
        let mut catalog = Catalog {
            identity,
            backups,
            coverage,
            histories: BTreeMap::from([(TimelineId::FIRST, History::first())]),
            unacknowledged: Vec::new(),
            unreadable_histories: Vec::new(),
        };
        catalog.cut_unacknowledged(cluster).await?;
        for timeline in cluster.histories().await? {
            let Some(content) = cluster.history(timeline).await? else { continue };
            match History::parse(timeline, &content) {
                Ok(history) => drop(catalog.histories.insert(timeline, history)),
                Err(error) => catalog.unreadable_histories.push((timeline, error.to_string())),
            }
        }
        Ok(catalog)
    }

    /// Tells gaps that a crash left from losses: the newest object says how far all was durable when it was begun.
    async fn cut_unacknowledged(&mut self, cluster: &Cluster) -> Result<(), Error> {
        let size = self.identity.segment_size();
        for (timeline, covered) in &mut self.coverage.timelines {
            let Some(gap) = covered.unexplained_gaps().first().copied() else { continue };
            let newest =
                cluster.wal_objects(*timeline, size).await?.into_iter().max_by_key(|object| object.range.to);
            let Some(newest) = newest else { continue };
            // A damaged header says nothing, so the gap stays what it looks like: a loss.
            let Some(durable) = cluster.durable_before(&newest, size).await.ok().flatten() else { continue };
            if durable <= gap.from {
                self.unacknowledged.extend(covered.cut_at_gap().map(|range| (*timeline, range)));
            }
        }
        Ok(())
    }

    /// The cluster's segment size.
    pub fn segment_size(&self) -> SegmentSize {
        self.identity.segment_size()
    }

    /// The path that ends on a timeline, oldest first; `None` when its history is not known.
    pub fn path(&self, timeline: TimelineId) -> Option<Vec<Step>> {
        let history = self.histories.get(&timeline)?;
        Some(history.path().into_iter().map(|(timeline, end)| Step { timeline, end }).collect())
    }

    /// The newest timeline there is WAL of, or a history.
    pub fn newest_timeline(&self) -> TimelineId {
        let with_wal = self.coverage.timelines.keys().next_back();
        let with_history = self.histories.keys().next_back();
        with_wal.max(with_history).copied().unwrap_or(TimelineId::FIRST)
    }

    /// How far WAL leads along a path from `start`, which lies on its timeline `from`, without a gap.
    ///
    /// A timeline's first segment repeats its parent's WAL up to the fork, so the path goes over to a timeline at the start of
    /// the segment that holds the fork, as PostgreSQL does.
    pub fn reach(&self, path: &[Step], from: TimelineId, start: Lsn) -> Reach {
        let size = self.segment_size();
        let mut at = start;
        for step in path.iter().skip_while(|step| step.timeline != from) {
            let until = step.end.map(|end| size.floor(end));
            if until.is_some_and(|until| until <= at) {
                // The fork lies in this very segment, and the next timeline's copy of it counts.
                continue;
            }
            let covered = self.coverage.timelines.get(&step.timeline);
            let end = covered.and_then(|covered| covered.end_from(size.floor(at))).filter(|end| *end > at);
            match (end, until) {
                (None, _) => return Reach { timeline: step.timeline, lsn: at, complete: false },
                (Some(end), None) => return Reach { timeline: step.timeline, lsn: end, complete: true },
                (Some(end), Some(until)) if end < until => {
                    return Reach { timeline: step.timeline, lsn: end, complete: false };
                }
                (Some(_), Some(until)) => at = until,
            }
        }
        Reach { timeline: from, lsn: at, complete: false }
    }
}

/// Whether the path goes through the backup.
pub(crate) fn is_on(record: &Record, path: &[Step]) -> bool {
    let step = path.iter().find(|step| step.timeline == record.timeline);
    step.is_some_and(|step| step.end.is_none_or(|end| record.stop_lsn <= end))
}

/// How far a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The timeline on which it ends.
    pub timeline: TimelineId,
    /// First byte that is not there.
    pub lsn: Lsn,
    /// Whether that is on the path's last timeline.
    pub complete: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use repository::wal::TimelineCoverage;

    const MB: u64 = 1 << 20;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Segments of 16 MB; timeline 2 left timeline 1 at 40 MB.
    fn catalog(ranges: &[(u32, &[(u64, u64)])]) -> Catalog {
        let covered = |(number, ranges): &(u32, &[(u64, u64)])| {
            let range = |(from, to): &(u64, u64)| Range { from: Lsn(from * MB), to: Lsn(to * MB) };
            let covered = TimelineCoverage {
                timeline: timeline(*number),
                ranges: ranges.iter().map(range).collect(),
                holes: Vec::new(),
                expired: Vec::new(),
                segments: 0,
                pieces: 0,
                stored_bytes: 0,
                superseded: Vec::new(),
            };
            (timeline(*number), covered)
        };
        let second = History::parse(timeline(2), format!("1\t{}\tx\n", Lsn(40 * MB)).as_bytes()).unwrap();
        Catalog {
            identity: Identity {
                system_identifier: 1,
                postgresql_major: 15,
                segment_size: 16 * MB,
                block_size: 8192,
                created_at: DateTime::UNIX_EPOCH,
            },
            backups: Backups::default(),
            coverage: Coverage { timelines: ranges.iter().map(covered).collect() },
            histories: BTreeMap::from([(timeline(1), History::first()), (timeline(2), second)]),
            unacknowledged: Vec::new(),
            unreadable_histories: Vec::new(),
        }
    }

    fn reach(ranges: &[(u32, &[(u64, u64)])], to: u32, from: u32, start: u64) -> (u32, u64, bool) {
        let catalog = catalog(ranges);
        let reach = catalog.reach(&catalog.path(timeline(to)).unwrap(), timeline(from), Lsn(start * MB));
        (reach.timeline.get(), reach.lsn.0 / MB, reach.complete)
    }

    #[test]
    fn a_path_leads_as_far_as_wal_does() {
        let one: &[(u32, &[(u64, u64)])] = &[(1, &[(16, 44)])];
        assert_eq!(reach(one, 1, 1, 20), (1, 44, true));
        assert_eq!(reach(one, 1, 1, 50), (1, 50, false), "not even its start is there");
        assert_eq!(reach(&[(1, &[(16, 32), (48, 64)])], 1, 1, 20), (1, 32, true), "up to the hole");
    }

    #[test]
    fn a_path_goes_over_at_the_segment_that_holds_the_fork() {
        // What timeline 1 has beyond 32 MB does not matter: timeline 2 has its own copy of that segment.
        for first in [(16, 32), (16, 40), (16, 90)] {
            assert_eq!(reach(&[(1, &[first]), (2, &[(32, 70)])], 2, 1, 20), (2, 70, true), "{first:?}");
        }
        assert_eq!(
            reach(&[(1, &[(16, 30)]), (2, &[(32, 70)])], 2, 1, 20),
            (1, 30, false),
            "a hole before the fork"
        );
    }

    #[test]
    fn without_the_fork_segment_nothing_of_the_new_timeline_is_reached() {
        assert_eq!(reach(&[(1, &[(16, 90)]), (2, &[(48, 70)])], 2, 1, 20), (2, 32, false));
        assert_eq!(reach(&[(1, &[(16, 90)])], 2, 1, 20), (2, 32, false));
    }

    #[test]
    fn a_start_in_the_fork_segment_reads_the_new_timelines_copy_of_it() {
        assert_eq!(reach(&[(1, &[(16, 90)]), (2, &[(32, 70)])], 2, 1, 35), (2, 70, true));
        assert_eq!(reach(&[(1, &[(16, 90)])], 2, 1, 35), (2, 35, false));
    }
}
