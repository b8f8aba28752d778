//! Bytes that may be WAL: the pieces they arrive in make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::wal::{Decoder, Expect};
use pgformat::{Lsn, Major, SegmentSize, TimelineId};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    // The cluster and place the bytes themselves name, so that their first page is believed.
    let at = |offset: usize| bytes.get(offset..offset + 8).and_then(|bytes| bytes.first_chunk().copied());
    let number = |offset| u64::from_le_bytes(at(offset).unwrap_or_default());
    let segment_size = SegmentSize::new(number(32) & 0xFFFF_FFFF).unwrap_or(SegmentSize::DEFAULT);
    let magic = number(0) & 0xFFFF;
    let major = Major::ALL.into_iter().find(|major| u64::from(major.wal_magic()) == magic);
    let expect = Expect {
        system_identifier: number(24),
        timeline: TimelineId::FIRST,
        major: major.unwrap_or(Major::ALL[1]),
        segment_size,
    };
    let decode = |piece: usize| {
        let mut events = Vec::new();
        let mut decoder = Decoder::new(expect, segment_size.floor(Lsn(number(8))));
        let mut last = None;
        for bytes in bytes.chunks(piece) {
            last = Some(decoder.push(bytes, &mut |event| events.push(event)));
        }
        (events, last, decoder.last_record_end(), decoder.position())
    };
    assert_eq!(decode(usize::from(piece) + 1), decode(usize::MAX));
});
