//! Paths of relation files: what is recognised is recognised whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::RelationFile;

fuzz_target!(|path: &str| {
    if let Some(file) = RelationFile::parse(path) {
        assert!(path.contains(&file.relfilenode.to_string()));
        let longer = format!("{path}x");
        assert_eq!(RelationFile::parse(&longer), None);
    }
});
