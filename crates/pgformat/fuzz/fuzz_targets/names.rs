//! LSNs, timelines and segment names: what is read is printed as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};

fuzz_target!(|text: &str| {
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Ok(timeline) = text.parse::<TimelineId>() {
        assert_eq!(timeline.to_string().parse(), Ok(timeline));
    }
    for bits in 20..=30 {
        let Some(size) = SegmentSize::new(1 << bits) else { continue };
        if let Some(name) = SegmentName::parse(text, size) {
            assert_eq!(name.file_name(size), text);
            assert!(name.start(size) <= name.end(size));
        }
    }
});
