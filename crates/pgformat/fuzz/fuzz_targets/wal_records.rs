//! Records whose checksums hold, with anything in them.
#![no_main]

#[path = "../../tests/support/writer.rs"]
mod writer;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pgformat::Major;
use pgformat::wal::{Decoder, Progress, WalError};
use writer::{Writer, main_data};

#[derive(Arbitrary, Debug)]
struct Input {
    major: u8,
    piece: u16,
    records: Vec<Record>,
}

#[derive(Arbitrary, Debug)]
struct Record {
    manager: u8,
    info: u8,
    transaction: u32,
    /// Puts the header of main data before the data.
    whole: bool,
    /// Makes records straddle pages without the fuzzer having to find so many bytes.
    repeat: u8,
    data: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let mut writer = Writer::new(Major::ALL[usize::from(input.major) % Major::ALL.len()]);
    for record in &input.records {
        let data = record.data.repeat(1 + usize::from(record.repeat));
        let body = if record.whole { main_data(&data) } else { data };
        writer.record(record.manager, record.info, record.transaction, &body);
    }
    let decode = |piece: usize| {
        let mut events = Vec::new();
        let mut result = Ok(Progress::More);
        let mut decoder = Decoder::new(writer.expect, writer.start);
        for bytes in writer.bytes.chunks(piece) {
            result = decoder.push(bytes, &mut |event| events.push(event));
        }
        (events, result, decoder.last_record_end())
    };
    let whole = decode(usize::MAX);
    // After a switch the rest of the segment is skipped, and what follows is wrong in any way.
    let switched = input.records.iter().any(|record| record.manager == 0 && record.info & 0xF0 == 0x40);
    let expected =
        matches!(whole.1, Ok(_) | Err(WalError::Malformed { .. } | WalError::ResourceManager { .. }));
    assert!(expected || switched, "{:?}", whole.1);
    assert_eq!(decode(usize::from(input.piece) + 1), whole);
});
