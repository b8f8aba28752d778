//! Which WAL there is, from names alone.

use std::collections::BTreeMap;

use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};
use store::Entry;

use super::{Durable, Frontier, Hole};
use crate::{Cluster, Error, layout};

/// WAL bytes `[from, to)` that are there without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// Missing ranges between the first and the last byte that no hole explains.
    pub fn unexplained_gaps(&self) -> Vec<Range> {
        let gaps = self.ranges.windows(2).map(|pair| Range { from: pair[0].to, to: pair[1].from });
        gaps.filter(|gap| !self.holes.iter().any(|hole| hole.from <= gap.from && gap.to <= hole.to)).collect()
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
        let gap = self.unexplained_gaps().first().map(|gap| gap.from);
        let end = gap.or_else(|| self.bounds().map(|bounds| bounds.to));
        // A hole is recorded before the WAL behind it comes, so the archive may end in one.
        let behind_hole =
            self.holes.iter().filter(|hole| end.is_none_or(|end| hole.from <= end)).map(|hole| hole.to).max();
        end.max(behind_hole.filter(|_| gap.is_none()))
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
            if log.name().len() != 8 {
                continue;
            }
            let log = directory.directory(log.name()).map_err(|invalid| Error::ClusterName(invalid.0))?;
            for entry in self.store.list(&log).await? {
                self.cover(&mut coverage, &mut ranges, &entry, size).await?;
            }
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
            for entry in self.store.list(&log).await? {
                self.cover(&mut coverage, &mut ranges, &entry, size).await?;
            }
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
