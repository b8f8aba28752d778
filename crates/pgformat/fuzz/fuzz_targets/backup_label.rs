//! `backup_label`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::BackupLabel;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(label) = BackupLabel::parse(bytes) {
        assert_eq!(label.start_segment.len(), 24);
    }
});
