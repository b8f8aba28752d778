//! WAL segments: the files a cluster's WAL is cut into.

use std::fmt;

use crate::{Lsn, TimelineId};

/// The size of a WAL segment: a power of two from 1 MiB to 1 GiB, fixed at initdb.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// 16 MiB, what initdb chooses when it is not told otherwise.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// `None` unless `bytes` is a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Option<SegmentSize> {
        let valid = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        valid.then(|| u32::try_from(bytes).ok().map(SegmentSize)).flatten()
    }

    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// Size in bytes, as an index.
    #[allow(clippy::len_without_is_empty, reason = "a size is not a container")]
    pub fn len(self) -> usize {
        self.0 as usize
    }

    /// Segments in one "log", the 4 GiB that share the middle part of a segment's name.
    pub fn per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }

    /// The number of the segment that holds the byte at `lsn`.
    pub fn number(self, lsn: Lsn) -> u64 {
        lsn.0 / self.bytes()
    }

    /// Where segment `number` starts. Saturates for numbers no LSN can reach.
    pub fn start(self, number: u64) -> Lsn {
        Lsn(number.saturating_mul(self.bytes()))
    }

    /// Where the segment that holds `lsn` starts.
    pub fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - self.offset(lsn))
    }

    /// The first segment start at or after `lsn`.
    pub fn ceil(self, lsn: Lsn) -> Lsn {
        match self.offset(lsn) {
            0 => lsn,
            offset => lsn.advance(self.bytes() - offset),
        }
    }

    /// Offset of `lsn` in its segment.
    pub fn offset(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }
}

/// The name of a WAL segment: its timeline and its number.
///
/// Printed as the 24 hexadecimal digits of PostgreSQL's `XLogFileName`. The digits depend on the segment size, which
/// is why printing and parsing take it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentName {
    /// The timeline.
    pub timeline: TimelineId,
    /// Position in the WAL, counted in segments.
    pub number: u64,
}

impl SegmentName {
    /// The segment of `timeline` that holds the byte at `lsn`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> SegmentName {
        SegmentName { timeline, number: size.number(lsn) }
    }

    /// First byte of the segment.
    pub fn start(self, size: SegmentSize) -> Lsn {
        size.start(self.number)
    }

    /// First byte after the segment.
    pub fn end(self, size: SegmentSize) -> Lsn {
        size.start(self.number.saturating_add(1))
    }

    /// The segment that follows on the same timeline.
    pub fn next(self) -> SegmentName {
        SegmentName { number: self.number.saturating_add(1), ..self }
    }

    /// The 24 digits of the file name.
    pub fn file_name(self, size: SegmentSize) -> String {
        let (log, part) = (self.number / size.per_log(), self.number % size.per_log());
        format!("{:08X}{:08X}{:08X}", self.timeline.get(), log, part)
    }

    /// `None` unless `name` is 24 upper-case hexadecimal digits that name a segment of this size.
    pub fn parse(name: &str, size: SegmentSize) -> Option<SegmentName> {
        let plain = name.len() == 24 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        if !plain {
            return None;
        }
        let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
        let (timeline, log, part) = (part(0..8)?, part(8..16)?, part(16..24)?);
        if u64::from(part) >= size.per_log() {
            return None;
        }
        let number = u64::from(log) * size.per_log() + u64::from(part);
        Some(SegmentName { timeline: TimelineId::new(timeline)?, number })
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.bytes() >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes() -> impl Strategy<Value = SegmentSize> {
        (20u32..=30).prop_map(|bits| SegmentSize::new(1 << bits).unwrap())
    }

    #[test]
    fn names_match_postgresql() {
        let name = |lsn, mb: u64| {
            let size = SegmentSize::new(mb << 20).unwrap();
            SegmentName::containing(TimelineId::new(2).unwrap(), Lsn(lsn), size).file_name(size)
        };
        // select pg_walfile_name('16/B374D848') on servers with these segment sizes.
        assert_eq!(name(0x16_B374_D848, 16), "0000000200000016000000B3");
        assert_eq!(name(0x16_B374_D848, 1), "000000020000001600000B37");
        assert_eq!(name(0x16_B374_D848, 64), "00000002000000160000002C");
    }

    #[test]
    fn refuses_wrong_names() {
        let size = SegmentSize::DEFAULT;
        for name in [
            "",
            "00000001000000000000000",
            "000000000000000000000001",
            "0000000100000000000001FF",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "000000010000000000000001.partial",
        ] {
            assert_eq!(SegmentName::parse(name, size), None, "{name}");
        }
        for bytes in [0, 1, 3 << 20, 512 << 10, 2 << 30] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(timeline in 1u32.., lsn: u64, size in sizes()) {
            let name = SegmentName::containing(TimelineId::new(timeline).unwrap(), Lsn(lsn), size);
            prop_assert_eq!(SegmentName::parse(&name.file_name(size), size), Some(name));
            prop_assert!(name.start(size) <= Lsn(lsn));
        }

        #[test]
        fn never_panics(text: String, size in sizes()) {
            if let Some(name) = SegmentName::parse(&text, size) {
                prop_assert_eq!(name.file_name(size), text);
            }
        }
    }
}
