//! `pg_control`, as it is and with its version and checksum made to fit, so that the fields are reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::{ControlFile, Major};

fuzz_target!(|bytes: &[u8]| {
    drop(ControlFile::parse(bytes));
    for major in Major::ALL {
        let covered = if major.number() == 18 { 292 } else { 288 };
        let mut bytes = bytes.to_vec();
        bytes.resize(covered + 4, 0);
        bytes[8..12].copy_from_slice(&major.control_version().to_le_bytes());
        bytes[12..16].copy_from_slice(&major.catalog_version().to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..covered]);
        bytes[covered..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(control) = ControlFile::parse(&bytes) {
            assert_eq!(control.major, major);
        }
    }
});
