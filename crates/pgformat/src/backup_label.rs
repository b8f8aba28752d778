//! `backup_label`: where recovery of a base backup must begin.

use crate::{Lsn, TimelineId};

/// The contents of `backup_label`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// The redo point of the backup's checkpoint: replay begins here.
    pub start_lsn: Lsn,
    /// File name of the segment that holds `start_lsn`.
    pub start_segment: String,
    /// The backup's checkpoint record.
    pub checkpoint: Lsn,
    /// `streamed` for every backup a supported server makes.
    pub method: String,
    /// Whether the backup was taken from a standby. Such a backup has no end record in the WAL: its end is the
    /// `minRecoveryPoint` of the `pg_control` copied last.
    pub from_standby: bool,
    /// Start time as the server printed it, in its own time zone.
    pub start_time: String,
    /// The label given to the backup.
    pub label: String,
    /// The timeline the backup began on.
    pub timeline: TimelineId,
}

/// The bytes are not a `backup_label`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line without which no restore can begin is not there.
    #[error("backup_label has no line \"{0}\"")]
    Missing(&'static str),
    /// The line is there, its value is not understood.
    #[error("backup_label has \"{value}\" as its \"{line}\"")]
    Value {
        /// The line.
        line: &'static str,
        /// What stands there.
        value: String,
    },
    /// The two places that name the timeline disagree.
    #[error("backup_label starts in segment {segment} and yet names timeline {timeline}")]
    Timeline {
        /// Segment file name.
        segment: String,
        /// `START TIMELINE`.
        timeline: TimelineId,
    },
}

const START: &str = "START WAL LOCATION";
const CHECKPOINT: &str = "CHECKPOINT LOCATION";
const METHOD: &str = "BACKUP METHOD";
const FROM: &str = "BACKUP FROM";
const TIME: &str = "START TIME";
const LABEL: &str = "LABEL";
const TIMELINE: &str = "START TIMELINE";

impl BackupLabel {
    /// Reads the file. Lines of later versions, such as those of incremental backups, are passed over.
    pub fn parse(bytes: &[u8]) -> Result<BackupLabel, BackupLabelError> {
        // The label may be in any encoding; nothing depends on it.
        let text = String::from_utf8_lossy(bytes);
        let (start_lsn, start_segment) = parse_start(value(&text, START)?)?;
        let timeline = parse_timeline(&text, &start_segment)?;
        Ok(BackupLabel {
            start_lsn,
            start_segment,
            checkpoint: parse_value(CHECKPOINT, value(&text, CHECKPOINT)?)?,
            method: value(&text, METHOD)?.to_owned(),
            from_standby: match value(&text, FROM)? {
                "primary" | "master" => false,
                "standby" => true,
                other => return Err(value_error(FROM, other)),
            },
            start_time: value(&text, TIME)?.to_owned(),
            label: value(&text, LABEL)?.to_owned(),
            timeline,
        })
    }
}

/// The value of the first line of this name: a label with line breaks may seem to repeat one further down.
fn value<'a>(text: &'a str, line: &'static str) -> Result<&'a str, BackupLabelError> {
    values(text, line).next().ok_or(BackupLabelError::Missing(line))
}

fn values<'a>(text: &'a str, line: &'static str) -> impl Iterator<Item = &'a str> {
    text.split('\n').filter_map(move |entry| {
        let value = entry.strip_prefix(line)?.strip_prefix(':')?;
        Some(value.strip_prefix(' ').unwrap_or(value))
    })
}

/// `0/2000028 (file 000000010000000000000002)`
fn parse_start(value: &str) -> Result<(Lsn, String), BackupLabelError> {
    let (lsn, rest) = value.split_once(" (file ").ok_or_else(|| value_error(START, value))?;
    let segment = rest.strip_suffix(')').ok_or_else(|| value_error(START, value))?;
    let plain = segment.len() == 24 && segment.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if !plain {
        return Err(value_error(START, value));
    }
    Ok((parse_value(START, lsn)?, segment.to_owned()))
}

/// The label stands before the timeline, so with line breaks in the label the last such line is the server's.
fn parse_timeline(text: &str, segment: &str) -> Result<TimelineId, BackupLabelError> {
    let value = values(text, TIMELINE).last().ok_or(BackupLabelError::Missing(TIMELINE))?;
    let timeline: TimelineId = parse_value(TIMELINE, value)?;
    let digits = segment.get(..8).unwrap_or_default();
    if u32::from_str_radix(digits, 16) == Ok(timeline.get()) {
        Ok(timeline)
    } else {
        Err(BackupLabelError::Timeline { segment: segment.to_owned(), timeline })
    }
}

fn parse_value<T: std::str::FromStr>(line: &'static str, value: &str) -> Result<T, BackupLabelError> {
    value.parse().ok().ok_or_else(|| value_error(line, value))
}

fn value_error(line: &'static str, value: &str) -> BackupLabelError {
    /// Enough to recognise the value by; the file may be anything.
    const VALUE_CHARS_MAX: usize = 80;
    BackupLabelError::Value { line, value: value.chars().take(VALUE_CHARS_MAX).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "START WAL LOCATION: 0/2000028 (file 000000030000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
        START TIME: 2026-01-02 03:04:05 UTC\nLABEL: nightly: one\nSTART TIMELINE: 3\n";

    #[test]
    fn reads_every_line() {
        let expected = BackupLabel {
            start_lsn: Lsn(0x200_0028),
            start_segment: "000000030000000000000002".into(),
            checkpoint: Lsn(0x200_0060),
            method: "streamed".into(),
            from_standby: true,
            start_time: "2026-01-02 03:04:05 UTC".into(),
            label: "nightly: one".into(),
            timeline: TimelineId::new(3).unwrap(),
        };
        assert_eq!(BackupLabel::parse(TEXT.as_bytes()), Ok(expected));
    }

    #[test]
    fn a_label_cannot_pose_as_the_lines_of_the_server() {
        let text = TEXT.replace("nightly: one", "x\nSTART TIMELINE: 9\nBACKUP FROM: primary");
        let label = BackupLabel::parse(text.as_bytes()).unwrap();
        assert!(label.from_standby);
        assert_eq!((label.label.as_str(), label.timeline.get()), ("x", 3));
    }

    #[test]
    fn names_what_is_wrong() {
        for line in [START, CHECKPOINT, METHOD, FROM, TIME, LABEL, TIMELINE] {
            let text: String =
                TEXT.split_inclusive('\n').filter(|entry| !entry.starts_with(&format!("{line}:"))).collect();
            assert_eq!(BackupLabel::parse(text.as_bytes()), Err(BackupLabelError::Missing(line)));
        }
        let wrong = TEXT.replace("TIMELINE: 3", "TIMELINE: 4");
        assert!(matches!(BackupLabel::parse(wrong.as_bytes()), Err(BackupLabelError::Timeline { .. })));
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            drop(BackupLabel::parse(&bytes));
        }

        #[test]
        fn damage_never_panics(at in 0..TEXT.len(), byte: u8) {
            let mut bytes = TEXT.as_bytes().to_vec();
            bytes[at] = byte;
            drop(BackupLabel::parse(&bytes));
        }
    }
}
