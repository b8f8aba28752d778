//! `tablespace_map`: what is read is written back so that it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::tablespace_map;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = tablespace_map::parse(bytes) {
        assert_eq!(tablespace_map::parse(&tablespace_map::format(&entries)), Ok(entries));
    }
});
