//! Pages of relations.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::Lsn;
use pgformat::page::{self, PageState};

fuzz_target!(|input: (u32, u64, &[u8])| {
    let (block, start, bytes) = input;
    let state = page::verify(bytes, block, Lsn(start));
    if let PageState::Torn { lsn } = state {
        assert!(lsn >= Lsn(start));
    }
    // A page that is given the checksum it should have is valid.
    let mut page = bytes.to_vec();
    if page.len() >= 24 && state != PageState::New {
        let checksum = page::checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(page::verify(&page, block, Lsn(start)), PageState::Valid);
    }
});
