//! WAL that no server wrote: records of every shape, laid through pages by [`Writer`].

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise, helpers included")]

#[path = "support/writer.rs"]
mod writer;

use pgformat::wal::{Decoder, Progress, TransactionEnd, WalError, WalEvent};
use pgformat::{Lsn, Major, TimelineId, WalLevel};
use proptest::prelude::*;
use writer::{Writer, main_data};

type Outcome = (Vec<WalEvent>, Result<Progress, WalError>, Lsn);

fn decode(writer: &Writer, piece: usize) -> Outcome {
    let mut decoder = Decoder::new(writer.expect, writer.start);
    let mut events = Vec::new();
    let mut result = Ok(Progress::More);
    for bytes in writer.bytes.chunks(piece) {
        result = decoder.push(bytes, &mut |event| events.push(event));
    }
    (events, result, decoder.last_record_end())
}

/// A record to write.
#[derive(Clone, Debug)]
enum Made {
    Other { manager: u8, body: Vec<u8> },
    Commit { xid: u32, time_micros: i64, padding: usize },
    AbortPrepared { xid: u32, time_micros: i64, subtransactions: Vec<u32>, statistics: u8 },
    RestorePoint { name: String },
    ParameterChange { wal_level: u32 },
    Switch,
}

fn made() -> impl Strategy<Value = Made> {
    let body = prop_oneof![0usize..200, 0usize..40_000, 8_000usize..8_200];
    prop_oneof![
        4 => (2u8..=21, body, any::<u8>())
            .prop_map(|(manager, length, byte)| Made::Other { manager, body: vec![byte; length] }),
        2 => (any::<u32>(), any::<i64>(), 0usize..9_000)
            .prop_map(|(xid, time_micros, padding)| Made::Commit { xid, time_micros, padding }),
        1 => (any::<u32>(), any::<i64>(), prop::collection::vec(any::<u32>(), 0..3_000), 0u8..4).prop_map(
            |(xid, time_micros, subtransactions, statistics)| Made::AbortPrepared { xid, time_micros, subtransactions, statistics }
        ),
        1 => "[a-z ]{0,63}".prop_map(|name| Made::RestorePoint { name }),
        1 => (0u32..3).prop_map(|wal_level| Made::ParameterChange { wal_level }),
        1 => Just(Made::Switch),
    ]
}

/// Writes the record and says which event it must be.
fn write(writer: &mut Writer, made: &Made) -> Option<WalEvent> {
    match made {
        Made::Other { manager, body } => {
            writer.record(*manager, 0, 1, body);
            None
        }
        Made::Commit { xid, time_micros, padding } => {
            let mut data = time_micros.to_le_bytes().to_vec();
            data.resize(8 + padding, 1);
            let (lsn, end) = writer.record(1, 0x00, *xid, &main_data(&data));
            let (xid, time_micros) = (*xid, *time_micros);
            let end = TransactionEnd { lsn, end, xid, time_micros, committed: true, prepared: false };
            Some(WalEvent::Transaction(end))
        }
        Made::AbortPrepared { xid, time_micros, subtransactions, statistics } => {
            let data = abort_prepared(writer.expect.major, *xid, *time_micros, subtransactions, *statistics);
            let (lsn, end) = writer.record(1, 0x40 | 0x80, 0, &main_data(&data));
            let (xid, time_micros) = (*xid, *time_micros);
            let end = TransactionEnd { lsn, end, xid, time_micros, committed: false, prepared: true };
            Some(WalEvent::Transaction(end))
        }
        Made::RestorePoint { name } => {
            let mut data = [&9i64.to_le_bytes()[..], name.as_bytes()].concat();
            data.resize(72, 0);
            let (lsn, end) = writer.record(0, 0x70, 0, &main_data(&data));
            Some(WalEvent::RestorePoint { lsn, end, time_micros: 9, name: name.clone() })
        }
        Made::ParameterChange { wal_level } => {
            let data = [&[0; 20][..], &wal_level.to_le_bytes(), &[0, 0]].concat();
            let (lsn, end) = writer.record(0, 0x60, 0, &main_data(&data));
            let wal_level = [WalLevel::Minimal, WalLevel::Replica, WalLevel::Logical][*wal_level as usize];
            Some(WalEvent::ParameterChange { lsn, end, wal_level })
        }
        Made::Switch => {
            writer.record(0, 0x40, 0, &[]);
            writer.fill_segment();
            Some(WalEvent::Switch { end: writer.position() })
        }
    }
}

fn abort_prepared(
    major: Major,
    xid: u32,
    time_micros: i64,
    subtransactions: &[u32],
    statistics: u8,
) -> Vec<u8> {
    let item_bytes = match major.number() {
        14 => None,
        18 => Some(16),
        _ => Some(12),
    };
    let details = 0b1_0111 | u32::from(item_bytes.is_some()) << 8;
    let mut data = time_micros.to_le_bytes().to_vec();
    data.extend(details.to_le_bytes());
    data.extend([0; 8]);
    data.extend(u32::try_from(subtransactions.len()).unwrap().to_le_bytes());
    data.extend(subtransactions.iter().flat_map(|xid| xid.to_le_bytes()));
    data.extend(1u32.to_le_bytes());
    data.extend([3; 12]);
    if let Some(item_bytes) = item_bytes {
        data.extend(u32::from(statistics).to_le_bytes());
        data.extend(vec![4; item_bytes * usize::from(statistics)]);
    }
    data.extend(xid.to_le_bytes());
    data
}

fn majors() -> impl Strategy<Value = Major> {
    prop::sample::select(Major::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(major in majors(), records in prop::collection::vec(made(), 0..40), piece in 1usize..40_000) {
        let mut writer = Writer::new(major);
        let expected: Vec<_> = records.iter().filter_map(|made| write(&mut writer, made)).collect();
        let (events, result, _) = decode(&writer, piece);
        prop_assert_eq!(&events, &expected);
        prop_assert_eq!(result, Ok(Progress::More));
        let end = writer.position();
        writer.bytes.resize(writer.bytes.len() + 100, 0);
        let (events, result, last_record_end) = decode(&writer, piece);
        prop_assert_eq!(events, expected);
        prop_assert_eq!(result, Ok(Progress::EndOfWal(end)));
        prop_assert!(last_record_end <= end);
    }

    #[test]
    fn records_that_only_claim_to_be_events_never_panic(
        major in majors(),
        records in prop::collection::vec((0u8..3, any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 1..20),
    ) {
        for with_header in [false, true] {
            let mut writer = Writer::new(major);
            for (manager, info, data) in &records {
                let body = if with_header { main_data(data) } else { data.clone() };
                writer.record(*manager, *info, 5, &body);
            }
            let whole = decode(&writer, usize::MAX);
            prop_assert_eq!(decode(&writer, 5), whole);
        }
    }
}

#[test]
fn a_long_length_is_not_believed_before_it_arrives() {
    let mut writer = Writer::new(Major::ALL[4]);
    let (start, _) = writer.record(1, 0, 1, &main_data(&[1; 16]));
    let at = usize::try_from(start.since(writer.start)).unwrap();
    writer.bytes[at..at + 4].copy_from_slice(&(1020u32 << 20).to_le_bytes());
    // Waits for more, and holds no more than came: the test would not fit in memory otherwise on a small machine.
    assert_eq!(decode(&writer, 8).1, Ok(Progress::More));
    writer.bytes[at..at + 4].copy_from_slice(&((1020u32 << 20) + 1).to_le_bytes());
    assert_eq!(decode(&writer, 8).1, Err(WalError::Length { record: start, found: (1020 << 20) + 1 }));
}

#[test]
fn resource_managers_of_extensions_are_known_from_15_on() {
    for major in Major::ALL {
        for (manager, known) in
            [(21, true), (22, false), (127, false), (128, major.number() > 14), (255, major.number() > 14)]
        {
            let mut writer = Writer::new(major);
            writer.record(manager, 0, 1, &[]);
            assert_eq!(decode(&writer, 99).1.is_ok(), known, "{manager} of {major}");
        }
    }
}

#[test]
fn a_chain_that_skips_a_record_is_refused() {
    let mut writer = Writer::new(Major::ALL[1]);
    let (first, _) = writer.record(10, 0, 1, &[]);
    let mut other = Writer::new(Major::ALL[1]);
    other.record(10, 0, 1, &[]);
    let (second, _) = other.record(10, 0, 1, &[]);
    let (third, _) = other.record(10, 0, 1, &[]);
    // The third record of the other is put where the second belongs.
    let third_bytes = other.bytes.split_off(usize::try_from(third.since(other.start)).unwrap());
    writer.bytes.extend(third_bytes);
    assert_eq!(
        decode(&writer, 7).1,
        Err(WalError::Previous { record: second, expected: first, found: second })
    );
}

#[test]
fn a_timeline_never_goes_back() {
    let mut writer = Writer::new(Major::ALL[2]);
    writer.record(10, 0, 1, &[0; 3 * writer::BLOCK]);
    let set = |writer: &mut Writer, page: usize, timeline: u32| {
        writer.bytes[page * writer::BLOCK + 4..][..4].copy_from_slice(&timeline.to_le_bytes());
    };
    for timelines in [[1, 1, 3, 3], [1, 2, 3, 3], [2, 2, 2, 2]] {
        timelines.iter().enumerate().for_each(|(page, &timeline)| set(&mut writer, page, timeline));
        assert_eq!(decode(&writer, 1000).1, Ok(Progress::More), "{timelines:?}");
    }
    for timelines in [[0, 1, 3, 3], [2, 1, 3, 3], [3, 3, 3, 4], [3, 3, 2, 3]] {
        timelines.iter().enumerate().for_each(|(page, &timeline)| set(&mut writer, page, timeline));
        assert!(matches!(decode(&writer, 1000).1, Err(WalError::Timeline { .. })), "{timelines:?}");
    }
    assert_eq!(writer.expect.timeline, TimelineId::new(3).unwrap());
}
