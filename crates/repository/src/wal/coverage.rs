//! Which WAL there is, from names alone.

use std::collections::BTreeMap;

use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};
use store::{Directory, Entry};

use super::{Durable, Frontier, Hole};
use crate::{Cluster, Error, layout};

/// WAL bytes `[from, to)` that are there without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First byte.
    pub from: Lsn,
    /// First byte that is not there.
    pub to: Lsn,
}

/// One WAL object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalObject {
    /// The segment.
    pub name: SegmentName,
    /// What of it.
    pub range: Range,
    /// A whole segment, not a piece.
    pub whole: bool,
    /// Bytes stored.
    pub stored_bytes: u64,
}

/// Which WAL of one timeline there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineCoverage {
    /// The timeline.
    pub timeline: TimelineId,
    /// In order, apart from each other.
    pub ranges: Vec<Range>,
    /// What is recorded as missing.
    pub holes: Vec<Hole>,
    /// What was removed on purpose, in order. Some of it may still be there.
    pub expired: Vec<Range>,
    /// Whole segments.
    pub segments: u64,
    /// Pieces of segments that are not whole.
    pub pieces: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Whole segments whose pieces are still there.
    pub superseded: Vec<SegmentName>,
}

/// Which WAL there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// By timeline.
    pub timelines: BTreeMap<TimelineId, TimelineCoverage>,
}

impl TimelineCoverage {
    fn new(timeline: TimelineId, holes: Vec<Hole>) -> TimelineCoverage {
        TimelineCoverage {
            timeline,
            ranges: Vec::new(),
            holes,
            expired: Vec::new(),
            segments: 0,
            pieces: 0,
            stored_bytes: 0,
            superseded: Vec::new(),
        }
    }

    /// The first and the last byte there is, whatever lies between.
    pub fn bounds(&self) -> Option<Range> {
        Some(Range { from: self.ranges.first()?.from, to: self.ranges.last()?.to })
    }

    /// The end of the run of WAL that holds the byte before or at `lsn`; `None` when it is not there.
    pub fn end_from(&self, lsn: Lsn) -> Option<Lsn> {
        self.ranges.iter().find(|range| range.from <= lsn && lsn <= range.to).map(|range| range.to)
    }

    /// Missing ranges between the first and the last byte, without what holes explain of them, or that it was removed.
    pub fn unexplained_gaps(&self) -> Vec<Range> {
        let gaps = self
            .ranges
            .windows(2)
            .map(|pair| Range { from: self.behind_holes(pair[0].to), to: pair[1].from });
        gaps.filter(|gap| gap.from < gap.to).collect()
    }

    /// The first byte at or after `lsn` whose lack neither a hole explains nor that it was removed.
    fn behind_holes(&self, lsn: Lsn) -> Lsn {
        let holes = || self.holes.iter().map(|hole| Range { from: hole.from, to: hole.to });
        let next = |at: &Lsn| {
            let mut explained = holes().chain(self.expired.iter().copied());
            explained.find(|range| range.from <= *at && *at < range.to).map(|range| range.to)
        };
        std::iter::successors(Some(lsn), next).last().unwrap_or(lsn)
    }

    /// Takes out what lies behind the first unexplained gap, and gives its range: WAL that was written side by side with WAL
    /// that never got there, and that nobody was told of.
    pub fn cut_at_gap(&mut self) -> Option<Range> {
        let gap = *self.unexplained_gaps().first()?;
        let end = self.bounds()?.to;
        self.ranges.retain(|range| range.to <= gap.from);
        Some(Range { from: gap.to, to: end })
    }

    /// Where archiving goes on: the end of the WAL that is there without a gap, or with none but recorded holes.
    /// `None` when there is neither WAL nor hole.
    pub fn resume_at(&self) -> Option<Lsn> {
        if let Some(gap) = self.unexplained_gaps().first() {
            return Some(gap.from);
        }
        // A hole is recorded before the WAL behind it comes, so the archive may end in one, or be nothing else.
        let end = self.bounds().map(|bounds| bounds.to).or_else(|| self.holes.first().map(|hole| hole.from));
        end.map(|end| self.behind_holes(end))
    }

    /// The frontier that starts at [`TimelineCoverage::resume_at`].
    pub fn frontier(&self) -> Option<Frontier> {
        Some(Frontier::new(self.timeline, self.resume_at()?))
    }

    fn set_ranges(&mut self, mut ranges: Vec<Range>) {
        ranges.sort_by_key(|range| range.from);
        for range in ranges {
            match self.ranges.last_mut() {
                Some(last) if range.from <= last.to => last.to = last.to.max(range.to),
                _ => self.ranges.push(range),
            }
        }
    }
}

impl Cluster {
    /// Where archiving of a timeline begins when nothing of it is there: nothing before `lsn` is promised.
    pub fn begin_frontier(&self, timeline: TimelineId, lsn: Lsn) -> Frontier {
        Frontier::new(timeline, lsn)
    }

    /// Which WAL there is. Reads names only, so it costs a listing per 4 GiB of WAL.
    pub async fn coverage(&self, size: SegmentSize) -> Result<Coverage, Error> {
        let mut coverage = Coverage::default();
        for timeline in self.wal_timelines().await? {
            let timeline_coverage = self.timeline_coverage(timeline, size).await?;
            if !(timeline_coverage.ranges.is_empty() && timeline_coverage.holes.is_empty()) {
                coverage.timelines.insert(timeline, timeline_coverage);
            }
        }
        Ok(coverage)
    }

    async fn wal_timelines(&self) -> Result<Vec<TimelineId>, Error> {
        let entries = self.store.list(&self.layout.wal()?).await?;
        let timeline = |entry: &Entry| match entry {
            Entry::Directory { name } if name.len() == 8 => {
                TimelineId::new(u32::from_str_radix(name, 16).ok()?)
            }
            _ => None,
        };
        Ok(entries.iter().filter_map(timeline).collect())
    }

    /// As [`Cluster::coverage`], of one timeline.
    pub async fn timeline_coverage(
        &self,
        timeline: TimelineId,
        size: SegmentSize,
    ) -> Result<TimelineCoverage, Error> {
        let mut coverage = TimelineCoverage::new(timeline, self.holes(timeline).await?);
        let mut ranges = Vec::new();
        let directory = self.layout.timeline(timeline)?;
        for log in self.store.list(&directory).await? {
            if log.name() == layout::EXPIRED {
                coverage.expired = self.expired(timeline).await?;
            }
            if log.name().len() != 8 {
                continue;
            }
            let log = directory.directory(log.name()).map_err(|invalid| Error::ClusterName(invalid.0))?;
            self.cover_log(&mut coverage, &mut ranges, &log, size).await?;
        }
        let whole = |name: &SegmentName| {
            let segment = Range { from: name.start(size), to: name.end(size) };
            ranges.contains(&segment)
        };
        coverage.superseded.retain(whole);
        coverage.set_ranges(ranges);
        Ok(coverage)
    }

    /// Every WAL object of a timeline: its segment, its range, and the bytes it takes in the repository.
    pub async fn wal_objects(
        &self,
        timeline: TimelineId,
        size: SegmentSize,
    ) -> Result<Vec<WalObject>, Error> {
        let mut objects = Vec::new();
        let directory = self.layout.timeline(timeline)?;
        for log in self.store.list(&directory).await?.iter().filter(|log| log.name().len() == 8) {
            let log = directory.directory(log.name()).map_err(|invalid| Error::ClusterName(invalid.0))?;
            for entry in self.store.list(&log).await? {
                let text = entry.name().strip_suffix(".zst").unwrap_or(entry.name());
                let Some(name) = SegmentName::parse(text, size) else { continue };
                match entry {
                    Entry::Object { size: stored_bytes, .. } => {
                        let range = Range { from: name.start(size), to: name.end(size) };
                        objects.push(WalObject { name, range, whole: true, stored_bytes });
                    }
                    Entry::Directory { .. } => {
                        objects.extend(self.pieces(name, size).await?.into_iter().map(
                            |(range, stored_bytes)| WalObject { name, range, whole: false, stored_bytes },
                        ))
                    }
                }
            }
        }
        Ok(objects)
    }

    /// How far WAL from `start` on is durable without a gap; `None` when not even the byte at `start` is there. Lists only
    /// what lies behind `start`.
    pub async fn durable_from(
        &self,
        timeline: TimelineId,
        start: Lsn,
        size: SegmentSize,
    ) -> Result<Option<Durable>, Error> {
        let mut coverage = TimelineCoverage::new(timeline, Vec::new());
        let mut ranges = Vec::new();
        let directory = self.layout.timeline(timeline)?;
        let first_log = size.number(start) / size.per_log();
        for log in self.store.list(&directory).await? {
            if !u64::from_str_radix(log.name(), 16)
                .is_ok_and(|number| log.name().len() == 8 && number >= first_log)
            {
                continue;
            }
            let log = directory.directory(log.name()).map_err(|invalid| Error::ClusterName(invalid.0))?;
            self.cover_log(&mut coverage, &mut ranges, &log, size).await?;
        }
        coverage.set_ranges(ranges);
        Ok(coverage.end_from(start).filter(|end| *end > start).map(|end| Durable::new(timeline, end)))
    }

    /// How far a timeline is durable, as [`TimelineCoverage::resume_at`] has it; `None` when nothing of it is there.
    pub async fn durable_end(
        &self,
        timeline: TimelineId,
        size: SegmentSize,
    ) -> Result<Option<Durable>, Error> {
        let coverage = self.timeline_coverage(timeline, size).await?;
        Ok(coverage.resume_at().map(|end| Durable::new(timeline, end)))
    }

    /// Takes in a directory of segments. A segment is whole before its pieces go, so names are listed once more after the
    /// pieces: a segment that became whole in between has none left, and is seen then.
    async fn cover_log(
        &self,
        coverage: &mut TimelineCoverage,
        ranges: &mut Vec<Range>,
        log: &Directory,
        size: SegmentSize,
    ) -> Result<(), Error> {
        let entries = self.store.list(log).await?;
        for entry in &entries {
            self.cover(coverage, ranges, entry, size).await?;
        }
        if !entries.iter().any(|entry| matches!(entry, Entry::Directory { .. })) {
            return Ok(());
        }
        for entry in self.store.list(log).await?.iter().filter(|entry| !entries.contains(entry)) {
            self.cover(coverage, ranges, entry, size).await?;
        }
        Ok(())
    }

    async fn cover(
        &self,
        coverage: &mut TimelineCoverage,
        ranges: &mut Vec<Range>,
        entry: &Entry,
        segment_size: SegmentSize,
    ) -> Result<(), Error> {
        let text = entry.name();
        let Some(name) = SegmentName::parse(text.strip_suffix(".zst").unwrap_or(text), segment_size) else {
            return Ok(());
        };
        match entry {
            Entry::Object { size, .. } => {
                coverage.segments += 1;
                coverage.stored_bytes += size;
                ranges.push(Range { from: name.start(segment_size), to: name.end(segment_size) });
            }
            Entry::Directory { .. } => {
                coverage.superseded.push(name);
                for (range, size) in self.pieces(name, segment_size).await? {
                    coverage.pieces += 1;
                    coverage.stored_bytes += size;
                    ranges.push(range);
                }
            }
        }
        Ok(())
    }

    /// The pieces there are of a segment, in order, with the bytes each takes in the repository.
    pub async fn pieces(&self, name: SegmentName, size: SegmentSize) -> Result<Vec<(Range, u64)>, Error> {
        let entries = self.store.list(&self.layout.pieces(name, size)?).await?;
        let piece = |entry: &Entry| match entry {
            Entry::Object { name, size } => {
                layout::parse_range(name, ".zst").map(|(from, to)| (Range { from, to }, *size))
            }
            Entry::Directory { .. } => None,
        };
        Ok(entries.iter().filter_map(piece).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn covered(ranges: &[(u64, u64)], holes: &[(u64, u64)]) -> TimelineCoverage {
        let hole = |(from, to): &(u64, u64)| Hole {
            timeline: TimelineId::FIRST,
            from: Lsn(*from),
            to: Lsn(*to),
            cause: String::new(),
            since: DateTime::UNIX_EPOCH,
        };
        let mut covered = TimelineCoverage::new(TimelineId::FIRST, holes.iter().map(hole).collect());
        covered
            .set_ranges(ranges.iter().map(|(from, to)| Range { from: Lsn(*from), to: Lsn(*to) }).collect());
        covered
    }

    fn gaps(ranges: &[(u64, u64)], holes: &[(u64, u64)]) -> Vec<(u64, u64)> {
        covered(ranges, holes).unexplained_gaps().iter().map(|gap| (gap.from.0, gap.to.0)).collect()
    }

    fn resume_at(ranges: &[(u64, u64)], holes: &[(u64, u64)]) -> Option<u64> {
        covered(ranges, holes).resume_at().map(|lsn| lsn.0)
    }

    #[test]
    fn archiving_goes_on_at_the_first_byte_that_is_missing_without_a_reason() {
        assert_eq!(resume_at(&[], &[]), None);
        assert_eq!(resume_at(&[(10, 20)], &[]), Some(20));
        assert_eq!(resume_at(&[(10, 20), (30, 40)], &[]), Some(20));
        assert_eq!(resume_at(&[(10, 20), (30, 40)], &[(20, 30)]), Some(40));
        assert_eq!(resume_at(&[(10, 20)], &[(20, 30)]), Some(30), "a hole, and nothing behind it yet");
        assert_eq!(resume_at(&[(10, 20)], &[(20, 30), (30, 50)]), Some(50));
        assert_eq!(resume_at(&[], &[(20, 30)]), Some(30), "nothing but a hole");
    }

    #[test]
    fn what_a_crash_left_behind_a_hole_is_no_reason_to_record_the_hole_again() {
        // The segment at 30 was on its way beside the one at 40, and never came.
        assert_eq!(gaps(&[(10, 20), (40, 50)], &[(20, 30)]), [(30, 40)]);
        assert_eq!(resume_at(&[(10, 20), (40, 50)], &[(20, 30)]), Some(30));
        assert_eq!(gaps(&[(10, 20), (30, 40)], &[(20, 30)]), []);
        assert_eq!(gaps(&[(10, 20), (30, 40)], &[(15, 40)]), []);
    }
}
