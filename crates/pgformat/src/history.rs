//! Timeline history files: which timelines led to this one, and where each was left.

use crate::{Lsn, TimelineId};

/// The ancestry of one timeline.
///
/// Switch points normally grow along the file. After a restore to a point *before* an ancestor's fork they do not:
/// PostgreSQL still lists that ancestor, though none of its WAL leads here. All answers below are about the WAL that
/// does lead here, so such an ancestor appears with nothing in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    /// The timeline this is the history of.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first, as the file has them.
    pub entries: Vec<HistoryEntry>,
}

/// One ancestor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// The ancestor.
    pub timeline: TimelineId,
    /// Where the next timeline began; the first byte that is not the ancestor's.
    pub end: Lsn,
    /// What PostgreSQL noted, such as `no recovery target specified`.
    pub reason: String,
}

/// The bytes are not a history PostgreSQL would accept either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line that is not `timeline switch-point reason`.
    #[error(
        "line {line} of the history of timeline {timeline} is not a timeline and a switch point: \"{text}\""
    )]
    Syntax {
        /// Whose history.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// Timelines must grow down the file and stay below the one it is about.
    #[error(
        "line {line} of the history of timeline {timeline} names timeline {found}, which cannot stand there"
    )]
    Order {
        /// Whose history.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
        /// The timeline out of order.
        found: TimelineId,
    },
}

impl History {
    /// The history of timeline 1, which has no file.
    pub fn first() -> History {
        History { timeline: TimelineId::FIRST, entries: Vec::new() }
    }

    /// Reads `<timeline>.history` by the rules of PostgreSQL's `readTimeLineHistory`.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<History, HistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (index, raw) in bytes.split(|&byte| byte == b'\n').enumerate() {
            // The reason may be in any encoding; nothing depends on it.
            let text = String::from_utf8_lossy(raw);
            let (line, text) = (index + 1, text.trim_ascii());
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let entry = parse_entry(text).ok_or_else(|| syntax_error(timeline, line, text))?;
            let grows = entries.last().is_none_or(|previous| previous.timeline < entry.timeline);
            if !grows || entry.timeline >= timeline {
                return Err(HistoryError::Order { timeline, line, found: entry.timeline });
            }
            entries.push(entry);
        }
        Ok(History { timeline, entries })
    }

    /// Where this history left `parent` for good; `None` when `parent` is not an ancestor.
    pub fn fork_from(&self, parent: TimelineId) -> Option<Lsn> {
        self.path().into_iter().find(|(timeline, _)| *timeline == parent).and_then(|(_, end)| end)
    }

    /// The timelines to replay, oldest first, each with the first byte that is no longer its own; `None` for the last.
    pub fn path(&self) -> Vec<(TimelineId, Option<Lsn>)> {
        let mut path = vec![(self.timeline, None)];
        let mut earliest_end = Lsn(u64::MAX);
        for entry in self.entries.iter().rev() {
            earliest_end = earliest_end.min(entry.end);
            path.push((entry.timeline, Some(earliest_end)));
        }
        path.reverse();
        path
    }

    /// The timeline whose WAL leads here at `lsn`.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.path()
            .into_iter()
            .find(|(_, end)| end.is_none_or(|end| lsn < end))
            .map_or(self.timeline, |(timeline, _)| timeline)
    }
}

fn parse_entry(text: &str) -> Option<HistoryEntry> {
    let (timeline, rest) = text.split_once(|c: char| c.is_ascii_whitespace())?;
    let rest = rest.trim_ascii_start();
    let (end, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    Some(HistoryEntry {
        timeline: timeline.parse().ok()?,
        end: end.parse().ok()?,
        reason: reason.trim_ascii().to_owned(),
    })
}

fn syntax_error(timeline: TimelineId, line: usize, text: &str) -> HistoryError {
    /// Enough to recognise the line by; the file may be anything.
    const TEXT_CHARS_MAX: usize = 80;
    HistoryError::Syntax { timeline, line, text: text.chars().take(TEXT_CHARS_MAX).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn parse(number: u32, text: &str) -> Result<History, HistoryError> {
        History::parse(timeline(number), text.as_bytes())
    }

    #[test]
    fn answers_along_a_path() {
        let text = "# a comment\n\n1\t0/3000000\tno recovery target specified\n\n  3\t0/5000060\tbefore 2026-01-01\r\n";
        let history = parse(4, text).unwrap();
        assert_eq!(history.entries[1].reason, "before 2026-01-01");
        assert_eq!(
            history.path(),
            [(timeline(1), Some(Lsn(0x300_0000))), (timeline(3), Some(Lsn(0x500_0060))), (timeline(4), None)]
        );
        assert_eq!(history.timeline_at(Lsn(0)), timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x2FF_FFFF)), timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x300_0000)), timeline(3));
        assert_eq!(history.timeline_at(Lsn(0x500_0060)), timeline(4));
        assert_eq!(history.fork_from(timeline(3)), Some(Lsn(0x500_0060)));
        assert_eq!(history.fork_from(timeline(2)), None);
        assert_eq!(history.fork_from(timeline(4)), None);
    }

    #[test]
    fn the_first_timeline_has_no_ancestors() {
        assert_eq!(History::first().path(), [(TimelineId::FIRST, None)]);
        assert_eq!(History::first().timeline_at(Lsn(7)), TimelineId::FIRST);
    }

    #[test]
    fn an_ancestor_left_before_it_began_holds_nothing() {
        // Restored to 0/50 with timeline 3 as the target: 2 and 3 are named, though neither was entered.
        let history = parse(4, "1\t0/100\tx\n2\t0/200\tx\n3\t0/50\tx\n").unwrap();
        assert_eq!(history.timeline_at(Lsn(0x4F)), timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x50)), timeline(4));
        assert_eq!(history.timeline_at(Lsn(0x150)), timeline(4));
        assert_eq!(history.fork_from(timeline(1)), Some(Lsn(0x50)));
    }

    #[test]
    fn refuses_what_postgresql_refuses() {
        for text in ["one\t0/1\tx", "1\n", "1\t0\tx", "0\t0/1\tx"] {
            assert!(matches!(parse(9, text), Err(HistoryError::Syntax { line: 1, .. })), "{text:?}");
        }
        for text in
            ["1\t0/1\tx\n1\t0/2\tx", "2\t0/1\tx\n1\t0/2\tx", "1\t0/1\tx\n9\t0/2\tx", "1\t0/1\n10\t0/2\tx"]
        {
            assert!(matches!(parse(9, text), Err(HistoryError::Order { line: 2, .. })), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(number in 1u32.., bytes: Vec<u8>) {
            drop(History::parse(timeline(number), &bytes));
        }

        #[test]
        fn damage_never_panics(at in 0usize..40, byte: u8) {
            let mut bytes = b"1\t0/3000000\tno recovery target\n2\t0/5\tx\n".to_vec();
            bytes[at.min(38)] = byte;
            if let Ok(history) = History::parse(timeline(3), &bytes) {
                prop_assert_eq!(history.path().pop(), Some((timeline(3), None)));
            }
        }

        #[test]
        fn every_byte_is_on_the_timeline_whose_end_comes_next(ends in prop::collection::vec(0u64..100, 0..6), lsn in 0u64..110) {
            let text: String =
                ends.iter().zip(1..).map(|(end, number)| format!("{number}\t0/{end:X}\tx\n")).collect();
            let history = parse(10, &text).unwrap();
            // The rule of PostgreSQL's tliOfPointInHistory: newest first, the first range that holds the point.
            let newest_first = (0..=ends.len()).rev().find(|&index| {
                let begin = if index == 0 { 0 } else { ends[index - 1] };
                begin <= lsn && ends.get(index).is_none_or(|&end| lsn < end)
            });
            let expected = newest_first.filter(|&index| index < ends.len()).map_or(10, |index| index + 1);
            prop_assert_eq!(history.timeline_at(Lsn(lsn)).get() as usize, expected);
        }
    }
}
