//! WAL as servers wrote it, read by the decoder and by `pg_waldump`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, helpers included"
)]

mod support;

use chrono::NaiveDateTime;
use pgformat::wal::{
    Decoder, Expect, Progress, TransactionEnd, WalError, WalEvent, scan_segment, timestamp_to_unix_micros,
};
use pgformat::{ControlFile, History, Lsn, Major, SegmentName, TimelineId, WalLevel};
use proptest::prelude::*;
use support::{fixture, majors, segments, text};

/// A run of WAL and where it starts.
struct Run {
    expect: Expect,
    start: Lsn,
    bytes: Vec<u8>,
}

/// What came of decoding a run.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<WalEvent>,
    result: Result<Progress, WalError>,
    last_record_end: Lsn,
}

impl Run {
    fn of(major: Major, directory: &str) -> Run {
        let control = ControlFile::parse(&fixture(major, "pg_control")).unwrap();
        let segments = segments(major, directory);
        let first = SegmentName::parse(&segments[0].0, control.segment_size).unwrap();
        let expect = Expect {
            system_identifier: control.system_identifier,
            timeline: first.timeline,
            major,
            segment_size: control.segment_size,
        };
        let bytes = segments.into_iter().flat_map(|(_, bytes)| bytes).collect();
        Run { expect, start: first.start(control.segment_size), bytes }
    }

    fn decode(&self) -> Outcome {
        self.decode_in(|_| self.bytes.len())
    }

    /// `piece` says how long the next push is, given how much went before.
    fn decode_in(&self, mut piece: impl FnMut(usize) -> usize) -> Outcome {
        let mut decoder = Decoder::new(self.expect, self.start);
        let (mut events, mut result, mut done) = (Vec::new(), Ok(Progress::More), 0);
        while done < self.bytes.len() && result.is_ok() {
            let end = (done + piece(done).max(1)).min(self.bytes.len());
            result = decoder.push(&self.bytes[done..end], &mut |event| events.push(event));
            done = end;
            assert_eq!(decoder.position(), self.start.advance(done as u64));
        }
        Outcome { events, result, last_record_end: decoder.last_record_end() }
    }

    fn offset(&self, lsn: Lsn) -> usize {
        usize::try_from(lsn.since(self.start)).unwrap()
    }
}

/// A line of `pg_waldump`, taken apart.
struct Dumped<'a> {
    manager: &'a str,
    bytes: u64,
    transaction: u32,
    lsn: Lsn,
    what: &'a str,
}

fn dumped(line: &str) -> Dumped<'_> {
    let between = |from: &str, to: &str| {
        let rest = line.split_once(from).unwrap().1;
        rest.split_once(to).unwrap().0.trim()
    };
    Dumped {
        manager: between("rmgr: ", "len "),
        bytes: between("(rec/tot):", ", tx").rsplit('/').next().unwrap().trim().parse().unwrap(),
        transaction: between("tx:", ",").parse().unwrap(),
        lsn: between("lsn: ", ",").parse().unwrap(),
        what: line.split_once("desc: ").unwrap().1.trim(),
    }
}

/// The same words for an event of ours and for a line of the dump; `None` for a record that is no event.
fn told(dumped: &Dumped<'_>) -> Option<String> {
    let (verb, rest) = dumped.what.split_once(' ').unwrap_or((dumped.what, ""));
    let words = rest.split("; ").next().unwrap_or_default();
    let lsn = dumped.lsn;
    Some(match (dumped.manager, verb) {
        ("Transaction", "COMMIT" | "ABORT") => {
            format!("{lsn} {verb} {} {}", dumped.transaction, micros(words))
        }
        ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") => {
            let (transaction, time) = words.split_once(": ").unwrap();
            format!("{lsn} {verb} {transaction} {}", micros(time))
        }
        ("XLOG", "RESTORE_POINT" | "BACKUP_END") => format!("{lsn} {verb} {rest}"),
        ("XLOG", "SWITCH") => verb.to_owned(),
        ("XLOG", "CHECKPOINT_ONLINE" | "CHECKPOINT_SHUTDOWN") => {
            let timeline = rest.split("; ").nth(1).unwrap();
            format!("{lsn} {verb} {words} {timeline}")
        }
        ("XLOG", "PARAMETER_CHANGE") => {
            let level = rest.split(' ').find(|word| word.starts_with("wal_level=")).unwrap();
            format!("{lsn} {verb} {level}")
        }
        _ => return None,
    })
}

fn tell(event: &WalEvent) -> String {
    match event {
        WalEvent::Transaction(TransactionEnd { lsn, xid, time_micros, committed, prepared, .. }) => {
            let verb = if *committed { "COMMIT" } else { "ABORT" };
            let suffix = if *prepared { "_PREPARED" } else { "" };
            format!("{lsn} {verb}{suffix} {xid} {}", timestamp_to_unix_micros(*time_micros))
        }
        WalEvent::RestorePoint { lsn, name, .. } => format!("{lsn} RESTORE_POINT {name}"),
        WalEvent::BackupEnd { lsn, start, .. } => format!("{lsn} BACKUP_END {start}"),
        WalEvent::Switch { .. } => "SWITCH".to_owned(),
        WalEvent::ParameterChange { lsn, wal_level, .. } => {
            let level = match wal_level {
                WalLevel::Minimal => "minimal",
                WalLevel::Replica => "replica",
                WalLevel::Logical => "logical",
            };
            format!("{lsn} PARAMETER_CHANGE wal_level={level}")
        }
        WalEvent::Checkpoint { lsn, redo, timeline, shutdown, .. } => {
            let kind = if *shutdown { "SHUTDOWN" } else { "ONLINE" };
            format!("{lsn} CHECKPOINT_{kind} redo {redo} tli {timeline}")
        }
    }
}

fn micros(text: &str) -> i64 {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f UTC").unwrap().and_utc().timestamp_micros()
}

#[test]
fn events_are_those_of_pg_waldump() {
    for major in majors() {
        let run = Run::of(major, "wal");
        let outcome = run.decode();
        let dump = text(major, "waldump.txt");
        let records: Vec<_> = dump.lines().map(dumped).collect();
        let expected: Vec<String> = records.iter().filter_map(told).collect();
        assert!(expected.len() > 20, "{} events", expected.len());
        assert_eq!(outcome.events.iter().map(tell).collect::<Vec<_>>(), expected, "of {major}");
        let last = records.last().unwrap();
        assert_eq!(outcome.last_record_end, Lsn(last.lsn.advance(last.bytes).0.next_multiple_of(8)));
        assert_eq!(outcome.result, Ok(Progress::EndOfWal(outcome.last_record_end)));
    }
}

#[test]
fn a_scan_of_a_whole_run_is_a_decoding_of_it() {
    let run = Run::of(Major::new(17).unwrap(), "wal");
    let mut events = Vec::new();
    let scan = scan_segment(run.expect, run.start, &run.bytes, &mut |event| events.push(event)).unwrap();
    let outcome = run.decode();
    assert_eq!(
        (events, Ok(scan.progress), scan.last_record_end),
        (outcome.events, outcome.result, outcome.last_record_end)
    );
}

#[test]
fn a_segment_may_begin_within_a_record() {
    for major in majors() {
        let whole = Run::of(major, "wal");
        let segment = whole.expect.segment_size;
        let outcome = whole.decode();
        for skipped in 1..whole.bytes.len() / segment.len() {
            let start = whole.start.advance(segment.bytes() * skipped as u64);
            let run = Run { start, bytes: whole.bytes[whole.offset(start)..].to_vec(), ..whole };
            let later = run.decode();
            assert_eq!(later.result, outcome.result);
            assert!(outcome.events.ends_with(&later.events));
        }
    }
}

#[test]
fn a_fork_segment_begins_with_pages_of_the_parent() {
    for major in majors() {
        let run = Run::of(major, "fork");
        assert_eq!(run.expect.timeline.get(), 2);
        let outcome = run.decode();
        assert_eq!(outcome.result, Ok(Progress::EndOfWal(outcome.last_record_end)));
        let history = History::parse(run.expect.timeline, &fixture(major, "00000002.history")).unwrap();
        let fork = history.fork_from(TimelineId::FIRST).unwrap();
        let commits = |after: bool| {
            let wanted =
                |event: &&WalEvent| matches!(event, WalEvent::Transaction(end) if (end.lsn >= fork) == after);
            outcome.events.iter().filter(wanted).count()
        };
        assert!(commits(false) > 0 && commits(true) > 0, "{} and {}", commits(false), commits(true));

        let parent = Run { expect: Expect { timeline: TimelineId::FIRST, ..run.expect }, ..run };
        let refused = parent.decode();
        assert!(
            matches!(refused.result, Err(WalError::Timeline { at_most: 1, found: 2, .. })),
            "{refused:?}"
        );
        // The page that holds the fork keeps the parent's number, though its last records are the child's.
        assert!(refused.last_record_end.since(fork) < 8192);
    }
}

#[test]
fn a_record_that_a_crash_cut_off_is_overwritten() {
    for major in majors() {
        let run = Run::of(major, "overwrite");
        let outcome = run.decode();
        assert_eq!(outcome.result, Ok(Progress::EndOfWal(outcome.last_record_end)), "of {major}");
        let last = outcome.events.iter().rev().find_map(|event| match event {
            WalEvent::Transaction(end) => Some(*end),
            _ => None,
        });
        let segment = run.expect.segment_size;
        assert!(last.unwrap().lsn > run.start.advance(segment.bytes()), "the crash is passed");

        // Seen from the second segment alone, nobody knows which record was cut off.
        let start = run.start.advance(segment.bytes());
        let second = Run { start, bytes: run.bytes[run.offset(start)..].to_vec(), ..run };
        assert_eq!(second.decode().result, outcome.result);
    }
}

#[test]
fn wal_of_others_is_refused() {
    let run = Run::of(Major::new(15).unwrap(), "wal");
    let refused =
        |expect: Expect| Run { expect, bytes: run.bytes.clone(), ..run }.decode().result.unwrap_err();
    let expect = run.expect;
    assert!(matches!(refused(Expect { system_identifier: 1, ..expect }), WalError::SystemIdentifier { .. }));
    assert!(matches!(
        refused(Expect { major: Major::new(16).unwrap(), ..expect }),
        WalError::Magic { expected: 0xD113, found: 0xD110, .. }
    ));
    let size = pgformat::SegmentSize::new(2 << 20).unwrap();
    assert!(matches!(refused(Expect { segment_size: size, ..expect }), WalError::SegmentSize { .. }));
    let elsewhere = Run { start: Lsn(0), bytes: run.bytes.clone(), ..run };
    assert!(matches!(elsewhere.decode().result, Err(WalError::Address { .. })));
    let within = Run { start: Lsn(8192), bytes: run.bytes.clone(), ..run };
    assert_eq!(within.decode().result, Err(WalError::NotSegmentStart { lsn: Lsn(8192) }));
}

#[test]
fn a_run_that_is_cut_and_filled_with_zeroes_ends_or_is_cut_off() {
    let run = Run::of(Major::new(18).unwrap(), "wal");
    let whole = run.decode();
    for cut in (0..run.bytes.len()).step_by(4096 + 8) {
        let mut bytes = run.bytes.clone();
        bytes[cut..].fill(0);
        let outcome = Run { bytes, ..run }.decode();
        assert!(outcome.last_record_end <= run.start.advance(cut as u64 + 7));
        assert!(whole.events.starts_with(&outcome.events));
        match outcome.result {
            Ok(Progress::EndOfWal(end)) => {
                assert!(end <= run.expect.segment_size.ceil(run.start.advance(cut as u64)))
            }
            Ok(Progress::More) => panic!("the cut at {cut} went unnoticed"),
            Err(error) => assert!(error.lsn() < run.start.advance(cut as u64 + 8192)),
        }
    }
}

#[test]
fn after_the_end_further_pushes_are_ignored_and_errors_stay() {
    let run = Run::of(Major::new(15).unwrap(), "wal");
    let mut decoder = Decoder::new(run.expect, run.start);
    assert_eq!(decoder.push(&[0; 64], &mut |_| {}), Ok(Progress::EndOfWal(run.start)));
    assert_eq!(decoder.push(&run.bytes, &mut |_| {}), Ok(Progress::EndOfWal(run.start)));
    assert_eq!(decoder.last_record_end(), run.start);
    let mut decoder = Decoder::new(run.expect, run.start);
    let error = decoder.push(&[1; 64], &mut |_| {}).unwrap_err();
    assert_eq!(decoder.push(&run.bytes, &mut |_| {}), Err(error));
}

fn runs() -> impl Strategy<Value = Run> {
    (
        prop::sample::select(majors().collect::<Vec<_>>()),
        prop::sample::select(vec!["wal", "fork", "overwrite"]),
    )
        .prop_map(|(major, directory)| Run::of(major, directory))
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} from {}", self.expect, self.start)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pieces_do_not_matter(run in runs(), lengths in prop::collection::vec(1usize..20_000, 1..50)) {
        let mut lengths = lengths.iter().cycle();
        prop_assert_eq!(run.decode_in(|_| *lengths.next().unwrap()), run.decode());
    }

    #[test]
    fn short_pieces_do_not_matter(run in runs(), lengths in prop::collection::vec(1usize..9, 1..50)) {
        let mut lengths = lengths.iter().cycle();
        prop_assert_eq!(run.decode_in(|_| *lengths.next().unwrap()), run.decode());
    }

    #[test]
    fn damage_is_noticed_or_harmless(run in runs(), at: prop::sample::Index, bit in 0u8..8, piece in 1usize..9000) {
        let whole = run.decode();
        let used = run.offset(whole.last_record_end);
        let mut run = run;
        run.bytes[at.index(used)] ^= 1 << bit;
        let damaged = run.decode();
        prop_assert_eq!(run.decode_in(|_| piece), run.decode());
        match damaged.result {
            // A length that became zero looks like the end; what follows it then says otherwise to whoever looks.
            Err(_) | Ok(Progress::EndOfWal(_)) => prop_assert!(whole.events.starts_with(&damaged.events)),
            Ok(Progress::More) => prop_assert_eq!(damaged.events, whole.events),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, segment in 0u64..1 << 40) {
        let run = Run::of(Major::new(15).unwrap(), "overwrite");
        let start = run.expect.segment_size.start(segment);
        let mut decoder = Decoder::new(run.expect, start);
        drop(decoder.push(&bytes, &mut |_| {}));
        let mut decoder = Decoder::new(run.expect, Lsn(u64::MAX - 0xF_FFFF));
        drop(decoder.push(&bytes, &mut |_| {}));
    }

    #[test]
    fn arbitrary_bytes_within_a_page_never_panic(bytes: Vec<u8>, at in 0usize..20_000) {
        let mut run = Run::of(Major::new(15).unwrap(), "wal");
        let end = (at + bytes.len()).min(run.bytes.len());
        run.bytes[at..end].copy_from_slice(&bytes[..end - at]);
        prop_assert_eq!(run.decode_in(|done| done % 97 + 1), run.decode());
    }
}
